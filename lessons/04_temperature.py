# %% [markdown]
# # 04 · Temperature
#
# **The question.** CLIP multiplies every cosine with one number before the softmax, the *logit scale* $s$. It is
# learned. What is stored is its logarithm, $t = \ln s$, which starts at $\ln(1/0.07) = 2.66$: a scale of 14.3. And
# the scale is never allowed beyond 100. Why is it there, why the logarithm, why 0.07, and why 100?
#
# **You need** the loss of lesson 02 (logits $z$, and the softmax that turns a row of them into probabilities), and
# derivatives with the chain rule.
#
# **Afterwards you can** say what a scale does to the probabilities and to the gradient, derive the gradient of the
# scale itself, and see in a log of losses and scales what was done to the scale.

# %%
import math

import check
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import minclip

plt.style.use("lesson.mplstyle")
torch.set_num_threads(1)  # matrices as small as these are multiplied faster without helpers
START, LARGEST = math.log(1 / 0.07), math.log(100)
print(f"the logarithm starts at {START:.2f}, the scale at {math.exp(START):.1f}")

# %% [markdown]
# ## Cosines lie too close together
#
# A cosine lies between −1 and 1, whatever the model does. Take a model that does very well: its picture has a cosine
# of 1 with its own text and of 0 with all others. If the cosines go into the softmax as they are, what does the right
# text get, and what loss is left? (In the third row all others are at −1. One picture can have that, not all of a
# batch.)

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
# So without a scale a model that does very well pays most of what guessing costs. The scale stretches the cosines:
# $z_{ij} = s \cos_{ij}$. The scale that is needed grows with the batch, but slowly, like $\ln N$.
#
# Its inverse $\tau = 1/s$ is called the *temperature*, after physics: high is even, low is decided. A text whose
# cosine is $\tau$ above another's gets $e$ times its probability: 0.07 at the start, 0.01 at a scale of 100.
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
# ## What the scale does to the gradient
#
# The derivative of a row's loss with respect to the cosine with a wrong text $j$ is $s \, p_j$ (lesson 02 has $p_j$
# for the logit, and the logit is $s$ times the cosine). Call it the *push* on text $j$; the mean over rows, the
# halves of the loss, and the normalisation between feature and cosine are left out. How large are all pushes
# together, and whom do they meet? We draw both for the row above, and for the same row with its two largest cosines
# exchanged: a wrong text ahead.

# %%
scales = torch.logspace(-1, 3, 400)  # (S,)
exchanged = row[[1, 0, 2, 3, 4, 5]]  # (6,)
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6))
for cosines, style, name in ((row, "-", "the right text ahead"), (exchanged, "--", "a wrong text ahead")):
    p = (scales[:, None] * cosines).softmax(dim=1)  # (S, 6)
    wrong = p[:, 1:].sum(dim=1)  # (S,) all that the wrong texts get, 1 − p_0
    left.plot(scales, scales * wrong, style, label=name)
    right.plot(scales, p[:, 1] / wrong, style, label=name)  # the share of text 1, p_1 / (1 − p_0)
right.axhline(1 / 5, color="0.4", linestyle=":", linewidth=1.2)
right.text(0.1, 0.17, "a fifth: an equal share for each", fontsize=8, va="top")
left.set_title("how hard the gradient pushes, on cosines", pad=16)
right.set_title("what the hardest wrong text gets of it", pad=16)
left.set(xscale="log", yscale="log", xlabel="scale", ylabel="sum of the pushes", ylim=(0.03, 2000))
right.set(xscale="log", xlabel="scale", ylabel="share of the push", ylim=(0, 1.05))
figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
for axes in (left, right):
    for value, words in ((1 / 0.07, "1/0.07"), (100, "100")):
        axes.axvline(value, color="0.6", linewidth=1, zorder=0)
        axes.text(value, 1.01, words, transform=axes.get_xaxis_transform(), fontsize=8, ha="center")

# %% [markdown]
# The smaller the scale, the more evenly the push is spread; the larger, the more of it meets the hardest wrong text
# ([Wang & Liu 2021](https://arxiv.org/abs/2012.09740)). How large is large depends on the row: at 1/0.07 the hardest
# of lesson 01, one among 63, got two thirds. While the hardest is ahead of the right text, the push at large scales
# is about $s$, without end. Once it is behind, a large scale soon ends the push.
#
# CLIP learns the scale, "to avoid turning [sic: tuning] as a hyper-parameter" (section 2.3 of [Radford et al.
# 2021](https://arxiv.org/abs/2103.00020)).
#
# ## The gradient of the scale
#
# For one row with cosines $c_j$ and the right text $i$, the loss is $\ln \sum_j e^{s c_j} - s \, c_i$. The derivative
# of $\ln u$ is $u'/u$, so
#
# $$\frac{d}{ds} \ln \sum_j e^{s c_j} = \frac{\sum_j c_j \, e^{s c_j}}{\sum_k e^{s c_k}} = \sum_j p_j c_j, \qquad
# \frac{dL}{ds} = \sum_j p_j c_j - c_i$$
#
# in words: the mean of the row's cosines, each weighted with its probability (the *expected* cosine), *minus the
# cosine of the right one*.
#
# - While the right cosine is above the expected one, that is negative, and a step makes the scale larger. While it is
#   below, it is positive, and a step makes the scale smaller. That needs a wrong text ahead *and* a scale large enough
#   to give it most of the probability; the cell below shows it for the row with its two largest cosines exchanged.
# - The second derivative, $\sum_j p_j c_j^2 - (\sum_j p_j c_j)^2$, is the variance of the cosines under $p$, never
#   negative. So the slope only rises as $s$ grows, it passes 0 at most once, and the loss has at most one valley.
# - As $s \to \infty$, all of $p$ goes to the largest cosine, and the derivative to $\max_j c_j - c_i$: 0 if the right
#   text is the nearest, above 0 if it is not.

# %%
for scale in (1.0, 5.0, 1 / 0.07, 100.0):
    expected, right_one = (scale * exchanged).softmax(dim=0) @ exchanged, exchanged[0]
    print(f"scale {scale:5.1f}: expected {expected:.3f} − right {right_one:.3f} = {expected - right_one:+.3f}")

# %% [markdown]
# **Exercise 1.** Write it for CLIP's whole loss: half the mean over the rows plus half the mean over the columns
# (there the softmax runs down the column). It returns one number, a tensor of shape ().


# %%
def scale_gradient(cosines, scale):
    """cosines (N, N), row = picture, column = text; scale, a number -> the derivative of the loss for the scale, ()."""
    raise NotImplementedError


# %%
scale_gradient = check.scale_gradient(scale_gradient)

# %% [markdown]
# The check asked autograd. *Finite differences* need nothing but the loss: move the scale a little either way, and
# divide the change of the loss by the distance. In float64, since the difference of two nearly equal numbers loses
# digits. Here with random features: which sign do you expect?

# %%
torch.manual_seed(0)
random_image, random_text = torch.randn(2, 8, 5, dtype=torch.float64)  # (8, 5) each: features of 8 pairs
table = F.normalize(random_image, dim=1) @ F.normalize(random_text, dim=1).T  # (8, 8)
for step in (1e-1, 1e-3, 1e-5, 1e-12):
    above, below = (minclip.clip_loss(random_image, random_text, 10.0 + sign * step) for sign in (1, -1))
    difference = (above - below) / (2 * step)
    print(f"step {step:.0e}: {difference:.9f}   formula {scale_gradient(table, 10.0):.9f}")

# %% [markdown]
# The two agree best at a middling step: a large one takes a chord for the tangent, a tiny one divides rounding
# errors. The sign is plus: among random cosines some wrong one is usually above the right one, and at this scale it
# weighs most in the expected cosine. So descent lowers the scale.
#
# ## Why a logarithm
#
# A scale must be positive, and useful ones lie far apart: only $s$ times a difference of cosines enters the softmax,
# $p_j / p_k = e^{s (c_j - c_k)}$, so if every difference becomes a tenth, the same softmax needs ten times the scale.
# A step of fixed size would be large at 5 and nothing at 100; a step of so many per cent suits both. CLIP keeps $t =
# \ln s$ (a "log-parameterized multiplicative scalar", says section 2.3; the reasons are ours) and uses $s = e^t$: any
# $t$ is allowed, and a step in $t$ multiplies $s$. By the chain rule $\partial L / \partial t = s \, \partial L /
# \partial s$.
#
# **Exercise 2.** One step of plain gradient descent on the log-scale; then cut $t$ off at $\ln 100$ (*clamp* it). All
# are plain numbers (`math.exp`, `math.log`). You get the derivative for $s$, not for $t$.


# %%
def step_log_scale(log_scale, gradient_of_scale, learning_rate):
    """log_scale t, a number; the derivative of the loss for the scale s = exp(t) -> the new t, at most ln 100."""
    raise NotImplementedError


# %%
step_log_scale = check.step_log_scale(step_log_scale)

# %% [markdown]
# ## Why 0.07, and why 100
#
# 0.07 was taken over from earlier work; for 100 the paper gives a symptom, not a reason. Both stand in one sentence
# of the paper's section 2.5: the temperature was "initialized to the equivalent of 0.07 from (Wu et al., 2018)",
# earlier work on contrastive learning ([arXiv:1805.01978](https://arxiv.org/abs/1805.01978)), "and clipped to prevent
# scaling the logits by more than 100 which we found necessary to prevent training instability". Why it is necessary,
# and why 100 and not 50 or 200, the paper does not say. Two suspects, neither tested here: the push on a row that is
# wrong grows with $s$ (the dashed curve), and $s$ multiplies the rounding errors of the cosines.
#
# OpenAI's released code has no clamp: it "was rewritten for simpler inference" (a maintainer in [openai/CLIP
# #46](https://github.com/openai/CLIP/issues/46)). Clamp the parameter after the step. A proposed change ([openai/CLIP
# #530](https://github.com/openai/CLIP/pull/530)) clamps the scale in the forward pass instead; then a parameter that
# has passed $\ln 100$ gets no gradient, and cannot come back:

# %%
for value in (99.0, 101.0):
    t = torch.tensor(math.log(value), requires_grad=True)
    t.exp().clamp(max=100).backward()
    print(f"clamped in the forward pass, at a scale of {value:.0f}: its derivative for t is {t.grad:.1f}")

# %% [markdown]
# ## The paper's scale and three variants
#
# A training in miniature: 64 pairs of random features that are themselves the parameters, with no towers. (Sizes,
# seeds, noise and learning rates, here and below, are our choice.) All runs start from the same features. Those with
# exp are clamped at 100 after every step; *no exp* is not, and stays far below.
#
# - *as in the paper*: $s = e^t$, from $t = \ln(1/0.07)$;
# - *no exp*: the parameter starts at $\ln(1/0.07)$ and is itself the scale ([M3D
#   #52](https://github.com/BAAI-DCAI/M3D/issues/52));
# - *from e*: $s = e^t$ from $t = 1$, which is `torch.ones([])`, as it once stood in OpenAI's inference code (#46) and
#   in Hugging Face's ([transformers #13430](https://github.com/huggingface/transformers/issues/13430)); it starts
#   almost as low as *no exp*, so between these two the exp is the difference;
# - *no log*: $s = e^t$ from $t = 1/0.07$, which the question in #46 proposed.
#
# The optimiser is Adam (lesson 08 trains with a relative). It divides each gradient by its recent size, so that a
# step is at most about the learning rate, 0.03. Added to $t$, that is 3 % of the scale; added to a scale of 2.66, it
# is 1 %.

# %%
PAIRS, WIDTH, STEPS = 64, 16, check.pick(400, 60)
OWN = torch.arange(PAIRS)  # the place of the right one in every row and column


def train(image, text, parameter, as_scale, largest):
    """Losses and scales of STEPS steps with Adam, and the last features; `as_scale` makes the scale of `parameter`."""
    image, text = image.clone().requires_grad_(), text.clone().requires_grad_()
    parameter = torch.tensor(parameter, requires_grad=True)
    optimizer = torch.optim.Adam([image, text, parameter], lr=0.03)
    losses, scales = [], []
    for _ in range(STEPS):
        scale = as_scale(parameter)
        loss = minclip.clip_loss(image, text, scale)
        losses.append(loss.item())
        scales.append(scale.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            parameter.clamp_(max=largest)
    return losses, scales, image.detach(), text.detach()


def table_of(image, text):
    return F.normalize(image, dim=1) @ F.normalize(text, dim=1).T  # (N, N), row = picture


def how_many_right(cosines):
    """Pictures whose own text is nearest, and texts whose own picture is nearest."""
    return " + ".join(str(int((cosines.argmax(dim=dim) == OWN).sum())) for dim in (1, 0))


torch.manual_seed(0)
image, text = torch.randn(2, PAIRS, WIDTH)  # (64, 16) each
runs = {
    "as in the paper": train(image, text, START, torch.exp, LARGEST),
    "no exp": train(image, text, START, lambda t: t, math.inf),
    "from e": train(image, text, 1.0, torch.exp, LARGEST),
    "no log": train(image, text, 1 / 0.07, torch.exp, LARGEST),
}
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4))
print(f"{'':15} scale: first  lowest   last | loss: first    last | right, of 64 + 64 | loss at scale 14.3")
for (name, (losses, scales, *last)), style in zip(runs.items(), ("-", "--", "-.", ":"), strict=True):
    for axes, values in ((left, losses), (right, scales)):
        axes.plot(values, style, label=name, linewidth=2.6 if style == ":" else 1.8)
    print(
        f"{name:15} {scales[0]:12,.2f} {min(scales):7.2f} {scales[-1]:6.2f} | {losses[0]:11,.2f} {losses[-1]:7.4f} |",
        f"{how_many_right(table_of(*last)):>17} | {minclip.clip_loss(*last, 1 / 0.07):18.4f}",
    )
for axes in (left, right):
    axes.set_xscale("symlog", linthresh=50, linscale=2)  # evenly spaced up to step 50: there most happens
    axes.set_xticks([0, 10, 20, 30, 40, 50, 100, 200, 400], ["0", "10", "20", "30", "40", "50", "100", "200", "400"])
    axes.set_xlim(0, STEPS)
left.set(xlabel="step (logarithmic from 50 on)", ylabel="loss", title="loss", yscale="log", ylim=(3e-4, 200))
right.set(xlabel="step (logarithmic from 50 on)", ylabel="scale", title="scale", yscale="log", ylim=(1.8, 140))
right.set_yticks([2, 2.7, 5, 10, 14.3, 20, 50, 100], ["2", "2.7", "5", "10", "14.3", "20", "50", "100"])
right.minorticks_off()
for axes, value, words in ((left, math.log(PAIRS), f"ln {PAIRS}: guessing"), (right, 100, "100: the clamp")):
    axes.axhline(value, color="0.6", linewidth=1, zorder=0)
    axes.text(STEPS, value * 1.02, words, fontsize=8, ha="right", va="bottom")
figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)

at_once = train(image, text, LARGEST, torch.exp, LARGEST)[0]
below = next((step for step, loss in enumerate(at_once) if loss < math.log(PAIRS)), "never")
print(f"ln {PAIRS} is {math.log(PAIRS):.2f}; started at a scale of 100, the loss is below it from step {below}")

# %% [markdown]
# - *As in the paper* begins above $\ln 64$: random features are wrong, and at this scale with confidence. So its scale
#   falls first, as the two low ones do a little, and all three rise when the pairs come right.
# - *No exp* moves the scale by about 1 % of its start in each step, at most. It climbs slowly, and the loss waits.
# - *From e* starts as low, but its steps multiply: its scale comes near the paper's. Its loss is above the paper's for
#   a while in the middle, and below it before and after.
# - *No log* begins at over a million, above the picture. After one step the clamp has it at 100; it drifts a little
#   lower, and stops, and the loss stays above $\ln 64$: a case from lesson 03's list. A scale of 100 alone is not what
#   holds it there, says the last printed line. The likely cause is Adam, which remembers the size of the enormous first
#   gradient for about a thousand steps and divides all later ones by it; we did not test that here.
#
# At *one* scale for all (last column), the two low starts are better here than the paper's. Perhaps because a small
# scale spreads its push; one seed of an easy task does not decide it. But a curve that falls late need not mean worse
# features: three of the runs have everything right.
#
# ## Does the scale stop by itself?
#
# Now the features stand still, each nearest to its own, and we ask for the loss at every scale. Then with two texts
# exchanged, a mistake in the batch. Then with the cosines of that batch squeezed, $c \to 0.9 + 0.1 c$: all features
# point nearly the same way (a *narrow cone*, lesson 10), and every difference is a tenth. Your two functions do the
# descent.

# %%
torch.manual_seed(2)
pictures = torch.randn(PAIRS, WIDTH)  # (64, 16)
captions = pictures + 0.4 * torch.randn(PAIRS, WIDTH)  # (64, 16) each close to its picture
pictures, captions = pictures.double(), captions.double()
right_table, wrong_table = table_of(pictures, captions), table_of(pictures, captions[[1, 0, *range(2, PAIRS)]])
tables = {"every pair right": right_table, "two wrong": wrong_table, "two wrong, squeezed": 0.9 + 0.1 * wrong_table}
scales = torch.logspace(0, 3, check.pick(601, 61)).tolist()
figure, axes = plt.subplots(figsize=(7, 3.8))
for (name, cosines), style in zip(tables.items(), ("-", "--", "-."), strict=True):
    losses = [sum(F.cross_entropy(s * c, OWN).item() for c in (cosines, cosines.T)) / 2 for s in scales]
    axes.plot(scales, losses, style, label=name)
    if name == "every pair right":
        some = list(zip(scales, losses, strict=True))[len(scales) // 3 : -1 : len(scales) // 6]
        words = "loss at " + ", ".join(f"{s:.0f}: {loss:.0e}" for s, loss in some)
    else:
        best = scales[losses.index(min(losses))]
        axes.plot(best, min(losses), "ko")
        t = START
        for _ in range(check.pick(200, 20)):
            t = step_log_scale(t, float(scale_gradient(cosines, math.exp(t))), 0.1)
        words = f"least loss at a scale of {best:.1f}, descent came to {math.exp(t):.1f}"
    print(f"{name}: {how_many_right(cosines)} of {PAIRS} + {PAIRS} right; {words}")
axes.axvline(100, color="0.6", linewidth=1, zorder=0)
axes.text(105, 20, "100: the clamp", fontsize=8)
axes.set(xlabel="scale", ylabel="loss", xscale="log", yscale="log", xlim=(1, 1000), ylim=(1e-6, 50))
axes.set_title("loss at each scale (a dot: the least)")
axes.set_xticks([1, 3, 10, 30, 100, 300, 1000], ["1", "3", "10", "30", "100", "300", "1000"])
axes.minorticks_off()
_ = axes.legend(loc="lower left")

# %% [markdown]
# When every pair is right, in its row and in its column, every larger scale has a lower loss, and no scale is best. But
# what is left to gain soon becomes tiny, and with it the gradient. Whether a training reaches the clamp depends on its
# length; we did not run the descent for it.
#
# With a mistake there is a best scale, beyond which the mistake costs more than the others gain. But nothing says that
# it is below 100: squeezed cosines need ten times the scale for the same softmax, and the least loss moves just beyond
# the clamp (the tenth is our choice; a milder squeeze would stay below). OpenAI's released models stand at 100 (lesson
# 10), and an open_clip maintainer writes that the scale "usually gets to the max (100) if training long enough"
# ([#214](https://github.com/mlfoundations/open_clip/issues/214)); whether for this reason, nothing here shows.
#
# ## What this lesson does not show
#
# - What training does without the clamp: of the trained runs only the first step of *no log* was above 100, and no
#   scale climbed there by itself. The curves up to 1000 are for features that stand still.
# - More than one draw (one seed each) of an easy task, and one row of six cosines, typed by hand.
# - What a push does to features: between them and the cosines is the normalisation, and Adam rescales every gradient.
#
# ## What you take away
#
# - Cosines lie between −1 and 1, so a softmax over many of them cannot decide; the scale stretches them.
# - The smaller the scale, the more evenly the wrong texts are pushed; at a large one nearly all the push meets the
#   hardest.
# - The gradient of the scale is the expected cosine minus the right one.
# - The parameter is a logarithm: positive for free, and steps are ratios. Use `.exp()`, start at $\ln(1/0.07)$, clamp
#   at $\ln 100$ after every step (`CLIP.clamp_logit_scale`).
# - Print the number that multiplies the cosines, $e^t$ (the parameter $t$ itself rightly begins at 2.66). If the
#   multiplier begins at 2.66, look for a missing exp; at 2.72, the start is $t = 1$; at 1.6 million, the logarithm is
#   missing (with the clamp: 100 from the second step on). If it ever passes 100, the clamp is missing.
#
# Stuck? `from solutions.lesson_04 import scale_gradient`, or read [solutions/lesson_04.py](solutions/lesson_04.py).
