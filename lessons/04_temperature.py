# %% [markdown]
# # 04 · Temperature
#
# **The question.** CLIP multiplies every cosine by one number before the softmax, the *logit scale* $s$. It is learned.
# The model stores its logarithm, $t = \ln s$, which starts at $\ln(1/0.07) = 2.66$: a scale of 14.3. And the scale is
# never allowed above 100. Why is it there, why the logarithm, why 0.07, and why 100?
#
# **You need** the loss of lesson 02 (logits $z$, and the softmax that turns a row of them into probabilities), and
# derivatives with the chain rule.
#
# **Afterwards you can** say what a scale does to the probabilities and which way it moves, and tell from a log of
# losses and scales which mistake was made with the scale.
#
# **Place.** Part I, *The idea and its loss*; after lesson 02. About 30 minutes.

# %%
import math

import check
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import minclip

plt.style.use("lesson.mplstyle")
torch.set_num_threads(1)  # matrices as small as these are multiplied faster on one thread
START, LARGEST = math.log(1 / 0.07), math.log(100)
print(f"the logarithm starts at {START:.2f}, the scale at {math.exp(START):.1f}")

# %% [markdown]
# ## Cosines lie too close together
#
# A cosine lies between −1 and 1, whatever the model does. Take a model that does very well: its picture has a cosine
# of 1 with its own text and of 0 with all others. If the cosines go into the softmax as they are, what probability
# does the right text get, and what loss is left? (In the third row all others are at −1. That is possible for one
# picture, but not for all pictures of a batch.)

# %%
print("  texts  scale  wrong cosines  the right text gets  loss")
for N, scale, wrong, words in (
    (128, 1.0, 1.0, "all alike: guessing"),
    (128, 1.0, 0.0, ""),
    (128, 1.0, -1.0, ""),
    (128, 1 / 0.07, 0.0, ""),
    (32768, 1 / 0.07, 0.0, "the batch of the CLIP paper"),
):
    row = torch.tensor([1.0] + [wrong] * (N - 1))  # (N,) the right text first
    loss = -(scale * row).log_softmax(dim=0)[0].item()
    print(f"{N:7,} {scale:6.1f} {wrong:14.3f} {math.exp(-loss):20.2%}  {loss:.4f}  {words}")
for N in (128, 32768):
    print(f"99 % for the right one of {N:,}, the others at 0: that takes a scale of {math.log(99 * (N - 1)):.1f}")

# %% [markdown]
# So without a scale, a model that does very well still pays most of what guessing costs. The scale stretches the
# cosines: $z_{ij} = s \cos_{ij}$. The scale that is needed grows with the batch, but slowly, like $\ln N$.
#
# Its inverse $\tau = 1/s$ is called the *temperature*, a word from physics: at a high temperature the probabilities are
# nearly even, at a low one a single text gets nearly all. A text whose cosine is $\tau$ above another's gets $e$ times
# its probability. $\tau$ is 0.07 at the start, and 0.01 at a scale of 100.
#
# Here is one row of cosines under four scales. The second text is a *hard negative*, a wrong one that is nearly as
# close as the right one.

# %%
row = torch.tensor([0.60, 0.55, 0.30, 0.10, 0.00, -0.20])  # (6,) the cosines of one picture with six texts
titles = {1.0: "scale 1", 5.0: "scale 5", 1 / 0.07: "scale 1/0.07 = 14.3", 100.0: "scale 100"}
figure, panels = plt.subplots(1, 4, figsize=(10.5, 2.9), sharey=True)
for axes, (scale, title) in zip(panels, titles.items(), strict=True):
    probabilities = (scale * row).softmax(dim=0)  # (6,)
    axes.bar(range(6), probabilities, color=["C0"] + ["0.85"] * 5, edgecolor="black", linewidth=0.6)
    for place, probability in enumerate(probabilities.tolist()):
        if probability > 0.005:
            axes.text(place, probability + 0.02, f"{probability:.2f}", ha="center", fontsize=8)
    axes.set(title=title, ylim=(0, 1.12), xlabel="cosine (dark: the right text)")
    axes.set_xticks(range(6), [f"{cosine:.2f}" for cosine in row.tolist()], fontsize=7.5)
_ = panels[0].set_ylabel("probability")

# %% [markdown]
# ## Which way does the scale move?
#
# Write $z_j = s\,c_j$ for the logits of one row, with the right text at $j = i$. The loss of the row is $\ln \sum_k
# e^{s c_k} - s c_i$ (lesson 02), and its derivative with respect to $s$ is
#
# $$\frac{\partial L}{\partial s} = \sum_j p_j c_j - c_i$$
#
# This is the cosine that the model *expects*, by its own probabilities, minus that of the right text. Where the right
# text is the nearest, the derivative is below 0, and gradient descent raises the scale: the model becomes surer.
# Where a wrong text is nearer, it is above 0 once the scale is large enough, and descent lowers the scale. Here are
# the row above, and the same row with its two largest cosines exchanged:

# %%
exchanged = row[[1, 0, 2, 3, 4, 5]]  # (6,) the second text is the right one's rival, and ahead
for name, cosines in (("the right text ahead", row), ("a wrong text ahead", exchanged)):
    for value in (1.0, 1 / 0.07, 100.0):
        scale = torch.tensor(value, requires_grad=True)
        (slope,) = torch.autograd.grad(-(scale * cosines).log_softmax(dim=0)[0], scale)
        expected = (value * cosines).softmax(dim=0) @ cosines
        print(
            f"{name:20} scale {value:5.1f}: expected {expected:.3f} − right {cosines[0]:.3f}"
            f" = {expected - cosines[0]:+.3f}, autograd {slope:+.3f}"
        )

# %% [markdown]
# ## Why a logarithm
#
# A scale must be positive, and useful scales range widely. Only $s$ times a difference of cosines enters the softmax,
# $p_j / p_k = e^{s (c_j - c_k)}$, so if every difference becomes a tenth, the same softmax needs ten times the scale.
# A step of 1 would be large at a scale of 5 and small at 100; a step of one percent suits both. CLIP stores $t = \ln s$
# (the paper's section 2.3 calls the scale a "log-parameterized multiplicative scalar"; the reasons here are ours) and
# uses $s = e^t$. So any $t$ is allowed, and a step in $t$ multiplies $s$. By the chain rule, $\partial L / \partial t =
# s \, \partial L / \partial s$.
#
# **Exercise.** Take one step of plain gradient descent on the log-scale; then *clamp* $t$: if it is above $\ln 100$,
# return $\ln 100$. All arguments are plain numbers (use `math.exp` and `math.log`). You get the derivative with respect
# to $s$, not to $t$.


# %%
def step_log_scale(log_scale, gradient_of_scale, learning_rate):
    """log_scale t; the derivative of the loss with respect to the scale s = exp(t) -> the new t, at most ln 100."""
    raise NotImplementedError


# %%
step_log_scale = check.step_log_scale(step_log_scale)

# %% [markdown]
# ## Why 0.07, and why 100
#
# 0.07 was taken over from earlier work; for 100 the paper gives a symptom, not a reason. Both are in one sentence of
# the paper's section 2.5: the temperature was "initialized to the equivalent of 0.07 from (Wu et al., 2018)", earlier
# work on contrastive learning ([arXiv:1805.01978](https://arxiv.org/abs/1805.01978)), "and clipped to prevent scaling
# the logits by more than 100 which we found necessary to prevent training instability". The paper does not say why it
# is necessary, or why 100 and not 50 or 200. There are two suspects, neither tested here. The derivative with respect
# to a wrong text's cosine is $s\,p_j$ (lesson 02), so the push in a row that is wrong grows with $s$. And $s$
# multiplies the rounding errors of the cosines.
#
# OpenAI's released code has no clamp: it "was rewritten for simpler inference" (a maintainer in [openai/CLIP
# #46](https://github.com/openai/CLIP/issues/46)). Clamp the parameter after the step, as in the exercise. A proposed
# change ([openai/CLIP #530](https://github.com/openai/CLIP/pull/530)) clamps the scale in the forward pass instead.
# Then a parameter that has passed $\ln 100$ gets no gradient, and cannot come back:

# %%
for value in (99.0, 101.0):
    t = torch.tensor(math.log(value), requires_grad=True)
    t.exp().clamp(max=100).backward()
    print(f"clamped in the forward pass, at a scale of {value:.0f}: its derivative for t is {t.grad:.1f}")

# %% [markdown]
# ## Four mistakes, and how the scale shows them
#
# Here is training in miniature: 64 pairs of random features that are themselves the parameters, with no towers. (Sizes,
# seed and learning rate are our choice.) All runs start from the same features, and all except *no exp* are clamped at
# 100 after every step.
#
# - *as in the paper*: $s = e^t$, from $t = \ln(1/0.07)$;
# - *no exp*: the parameter starts at $\ln(1/0.07)$ and is itself the scale ([M3D
#   #52](https://github.com/BAAI-DCAI/M3D/issues/52));
# - *from e*: $s = e^t$ from $t = 1$, which is `torch.ones([])`, as it once was in OpenAI's inference code (#46) and in
#   Hugging Face's ([transformers #13430](https://github.com/huggingface/transformers/issues/13430));
# - *no log*: $s = e^t$ from $t = 1/0.07$, which the question in #46 proposed: the scale begins at over a million;
# - *wrong pairs*: as in the paper, but the texts of a batch are in another order at every step, so that no picture
#   keeps a text of its own.
#
# The optimiser is Adam (lesson 08 trains with a close relative). It divides each gradient by its recent size, so that a
# step is at most about the learning rate, 0.03. Where $t$ is learned, that is 3 % of the scale.
#
# **Make a guess first**: which run never gets below $\ln 64$, the loss of guessing, *although its pairs are right*? Put
# its name, one of the first four, in place of `None`.

# %%
PAIRS, WIDTH, STEPS = 64, 16, check.pick(400, 60)
OWN = torch.arange(PAIRS)  # the index of the right one in every row and column
check.predict("04: never below ln 64", None, options=("as in the paper", "no exp", "from e", "no log"))


# %%
def train(start=START, as_scale=torch.exp, largest=LARGEST, wrong_pairs=False, forget=False):
    """Losses and scales of STEPS steps with Adam, and how many pictures then find their text.

    With `forget`, Adam begins anew after the first step.
    """
    torch.manual_seed(0)
    image, text = (features.requires_grad_() for features in torch.randn(2, PAIRS, WIDTH))  # (64, 16) each
    parameter = torch.tensor(start, requires_grad=True)
    optimizer = torch.optim.Adam([image, text, parameter], lr=0.03)
    losses, scales = [], []
    for step in range(STEPS):
        scale = as_scale(parameter)
        loss = minclip.clip_loss(image, text[torch.randperm(PAIRS)] if wrong_pairs else text, scale)
        losses.append(loss.item())
        scales.append(scale.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if forget and step == 0:
            optimizer = torch.optim.Adam([image, text, parameter], lr=0.03)
        with torch.no_grad():
            parameter.clamp_(max=largest)
    cosines = F.normalize(image.detach(), dim=1) @ F.normalize(text.detach(), dim=1).T  # (64, 64)
    return losses, scales, int((cosines.argmax(dim=1) == OWN).sum())


runs = {
    "as in the paper": train(),
    "no exp": train(as_scale=lambda t: t, largest=math.inf),
    "from e": train(start=1.0),
    "no log": train(start=1 / 0.07),
    "wrong pairs": train(wrong_pairs=True),
}
for name, (losses, scales, right) in runs.items():
    print(
        f"{name:15} scale {scales[0]:12,.2f} → {scales[-1]:6.2f}   loss {losses[0]:10,.2f} → {losses[-1]:7.4f}",
        f"  {right} of {PAIRS} right",
    )
stuck = [name for name, (losses, _, _) in runs.items() if min(losses) > math.log(PAIRS) and name != "wrong pairs"]
check.reveal("04: never below ln 64", stuck[0] if len(stuck) == 1 else "several")

# %% jupyter={"source_hidden": true}
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4))
styles = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))
for (name, (losses, scales, _)), style in zip(runs.items(), styles, strict=True):
    for axes, values in ((left, losses), (right, scales)):
        axes.plot(range(1, STEPS + 1), values, linestyle=style, label=name, linewidth=2.4 if style == ":" else 1.8)
for axes, value, words in ((left, math.log(PAIRS), f"ln {PAIRS}: guessing"), (right, 100, "100: the clamp")):
    axes.axhline(value, color="0.6", linewidth=1, zorder=0)
    place, side = (value / 1.2, "top") if axes is left else (1.06 * value, "bottom")  # where no curve runs
    axes.text(STEPS, place, words, fontsize=8, ha="right", va=side)
left.set(xlabel="step", ylabel="loss", title="loss", xscale="log", yscale="log", ylim=(3e-4, 200))
right.set(xlabel="step", ylabel="scale", title="scale", xscale="log", yscale="log", ylim=(1, 200))
right.set_yticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
right.minorticks_off()
_ = figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5)

# %% [markdown]
# - *As in the paper* begins above $\ln 64$: random features are wrong, and at this scale confidently so. So its scale
#   falls first, and rises once the pairs are right.
# - *No exp* moves the scale by at most about 1 % of its start in each step. It climbs slowly, and so the loss falls
#   slowly.
# - *From e* starts at nearly the same low scale, but its steps multiply, so its scale catches up. In this easy task the
#   mistake does no lasting harm.
# - *No log* begins above the top of both plots. After one step the clamp has it at 100, and yet it hardly learns.
# - *Wrong pairs* has nothing to learn, so being less sure is all that helps: the scale sinks and sinks, and the loss
#   comes down to that of guessing and stays there. A user of open_clip saw just this
#   ([#815](https://github.com/mlfoundations/open_clip/issues/815): from 14.28 down to 1, below which open_clip's code
#   does not let it go; the loss was constant, and a lower learning rate helped). A scale that keeps falling says that
#   the right text is not the nearest: the pairs do not belong together, or the towers do not learn.
#
# ## Why does *no log* not recover?
#
# After its first step its scale is 100, which is a scale that good models reach. One suspect is that 100 is too high so
# early. Another is Adam, which divides all later gradients by the size of the enormous first one, and forgets that only
# over thousands of steps: many more than the few hundred here. You can test both: start at 100, and let Adam forget
# after the first step.

# %%
for name, tried in {
    "no log": runs["no log"],
    "100 from the start": train(start=LARGEST),
    "no log, and Adam forgets": train(start=1 / 0.07, forget=True),
}.items():
    print(f"{name:25} ends at a loss of {tried[0][-1]:8.4f}, {tried[2]} of {PAIRS} right")

# %% [markdown]
# It was Adam's memory of one enormous gradient at the start. (That memory does fade: with 5,000 steps in place of 400,
# *no log* learns after all. Try it: `STEPS`.)
#
# ## The plain answer
#
# Cosines lie between −1 and 1, too close together for a softmax over many texts; the scale stretches them. It is
# learned as a logarithm so that its steps are ratios and it cannot become negative. It starts at 1/0.07 because earlier
# work did, and is clamped at 100 because the paper's authors found training unstable otherwise.
#
# Print the number that multiplies the cosines. If it begins at 2.66, an exp is missing; at 2.72, the start is $t =
# 1$; at 1.6 million, a logarithm is missing. If it passes 100, the clamp is missing. If it keeps falling, to 1 and
# below, look at the pairs and at the towers, not at the scale.
#
# **What this lesson does not show.** What training does without the clamp: no scale climbed to 100 here. More than one
# seed of an easy task without towers. The cause in #815, where the towers were real: wrong pairs are just one way to
# get there.
#
# **Harder, without a solution.**
#
# 1. Fix the features so that every picture's nearest text is its own, and vice versa. Show that the loss falls as the
#    scale rises. What changes if one picture is nearer to a wrong text?
# 2. Squeeze all cosines, $c \to 0.9 + 0.1 c$, as in a narrow cone (lesson 10). What happens to the best scale?
# 3. Weight decay on $t$ pulls the scale towards 1. Add it to *as in the paper* (AdamW, 0.1): where does the scale end?
#
# Stuck? `check.hint("step_log_scale")`, `from solutions.lesson_04 import step_log_scale`, or read
# [solutions/lesson_04.py](solutions/lesson_04.py).
