# %% [markdown]
# # 04 · Temperature
#
# **The question.** CLIP multiplies every cosine with one number before the softmax, the *logit scale*. The number is
# learned, stored as a logarithm, starts at $\ln(1/0.07)$ and is never allowed beyond 100. Why is it there, why the
# logarithm, why 0.07, and why 100?
#
# **You need** the loss of lesson 02: logits $z$, and the softmax that turns a row of them into probabilities.
#
# **Afterwards you can** say what a scale does to the probabilities and to the gradient, derive the gradient of the
# scale itself, and recognise three ways to get it wrong by the curves that they leave.

# %%
import math

import check
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import minclip

torch.manual_seed(0)
plt.style.use("lesson.mplstyle")

# %% [markdown]
# ## A cosine is too small a number
#
# A cosine lies between −1 and 1, whatever the model does. Take the best that a model can do: its picture has a cosine
# of 1 with its own text and of 0 with all others. What probability does the softmax give to the right text, and what
# loss is left, if the cosines go in as they are?

# %%
N = 128
for scale in (1.0, 1 / 0.07, 100.0):
    perfect = torch.tensor([1.0] + [0.0] * (N - 1))  # (N,) the right text first
    probability = (scale * perfect).softmax(dim=0)[0].item()
    print(
        f"scale {scale:5.1f}: the right one of {N} texts gets {probability:8.2%}, loss {abs(math.log(probability)):.4f}"
    )

# %% [markdown]
# So without a scale a perfect model looks nearly as bad as one that guesses, and its loss cannot fall any further.
# The scale $s$ stretches the cosines, $z_{ij} = s \cos_{ij}$. Its inverse $\tau = 1/s$ is called the *temperature*,
# after physics: hot is even, cold is decided.
#
# The same row of cosines under four scales. The right text is number 0; number 1 is a *hard negative*, a wrong text
# that is nearly as close.

# %%
cosines = torch.tensor([0.60, 0.55, 0.30, 0.10, 0.00, -0.20])  # (6,) of one picture with six texts
figure, panels = plt.subplots(1, 4, figsize=(10, 2.8), sharey=True)
for axes, scale in zip(panels, (1.0, 5.0, 1 / 0.07, 100.0), strict=True):
    probabilities = (scale * cosines).softmax(dim=0)
    axes.bar(range(len(cosines)), probabilities, color=["C0"] + ["0.6"] * 5, edgecolor="black", linewidth=0.5)
    for text, probability in enumerate(probabilities.tolist()):
        axes.text(text, probability + 0.02, f"{probability:.2f}", ha="center", fontsize=8)
    axes.set(title=f"scale {scale:.1f}", xlabel="text (0 is right)", xticks=range(6), ylim=(0, 1.12))
_ = panels[0].set_ylabel("probability")

# %% [markdown]
# ## What the scale does to the gradient
#
# For one picture, a step of training pushes each wrong text away by its probability $p_j$, times $s$, since the
# logits are $s$ times the cosines (lesson 02: softmax minus one-hot). Two things change with $s$: how hard the pushes
# are altogether, and whom they meet. We draw both for the row above: the sum of the pushes, $s \sum_{j \ne 0} p_j$,
# and the part of it that the hardest negative gets.

# %%
scales = torch.logspace(-1, 3, 200)  # (200,)
p = (scales[:, None] * cosines).softmax(dim=1)  # (200, 6)
push = scales * (1 - p[:, 0])  # (200,)
hardest = (scales[:, None] * cosines[1:]).softmax(dim=1)[:, 0]  # (200,) among the five wrong texts
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
left.plot(scales, push, color="C0")
left.set(xscale="log", xlabel="scale", ylabel="sum of the pushes", title="how hard a step pushes")
right.plot(scales, hardest, color="C0")
right.axhline(1 / 5, color="0.4", linestyle=":", label="an equal part for each")
right.set(
    xscale="log", xlabel="scale", ylabel="part of the push", title="what the hardest negative gets", ylim=(0, 1.05)
)
right.legend()
for axes in (left, right):
    axes.axvline(1 / 0.07, color="0.4", linestyle="--", linewidth=1)
    axes.axvline(100, color="0.4", linestyle="-.", linewidth=1)
left.text(1 / 0.07, push.max() * 0.05, " 1/0.07", fontsize=8)
left.text(100, push.max() * 0.05, " 100", fontsize=8)
print(f"the sum of the pushes is largest at a scale of about {scales[push.argmax()]:.0f}, for this row")

# %% [markdown]
# A small scale pushes weakly and everybody alike; a large one cares for the hardest negative only, and once that is
# beaten the gradient is gone. Which scale is best depends on how far apart the cosines are, and that changes during
# training. So CLIP lets the optimiser find it: the scale is a parameter.
#
# ## The gradient of the scale
#
# For one row with the right text $i$, the loss is $\ln \sum_j e^{s \cos_{ij}} - s \cos_{ii}$. Its derivative for $s$
# is
#
# $$\sum_j p_{ij} \cos_{ij} - \cos_{ii},$$
#
# in words: *the cosine that the model expects, minus the cosine of the right one*. While right pairs stand out, that
# is negative, and a step makes the scale larger.
#
# **Exercise 1.** Write it for CLIP's whole loss: the mean over the rows, the mean over the columns (with the softmax
# over columns), and half of either.


# %%
def scale_gradient(cosines, scale):
    """cosines (N, N), row = picture, column = text; scale, a number -> the derivative of the loss for the scale, ()."""
    raise NotImplementedError


# %%
scale_gradient = check.scale_gradient(scale_gradient)

# %% [markdown]
# *Finite differences* are how one tests such a formula without trusting autograd: move the scale a little either way,
# and divide the change of the loss by the distance. In float64, since the difference of two nearly equal numbers
# loses digits.

# %%
image, text = torch.randn(2, 8, 5, dtype=torch.float64)  # (8, 5) each: features of 8 pairs
table = F.normalize(image, dim=1) @ F.normalize(text, dim=1).T  # (8, 8)
for step in (1e-1, 1e-3, 1e-5, 1e-12):
    above, below = (minclip.clip_loss(image, text, 10.0 + sign * step) for sign in (1, -1))
    difference = (above - below) / (2 * step)
    print(f"step {step:.0e}: {difference:.9f}   formula {scale_gradient(table, 10.0):.9f}")

# %% [markdown]
# The two agree best at a middling step: a large one cuts the corner of the curve, a tiny one divides rounding errors.
#
# ## Why a logarithm
#
# A scale must be positive, and what counts is its *ratio*: from 5 to 10 is as far as from 50 to 100. So CLIP keeps $t
# = \ln s$ as its parameter and uses $s = e^t$: any $t$ is allowed, and a step in $t$ multiplies $s$. By the chain
# rule $\partial L / \partial t = s \, \partial L / \partial s$.
#
# **Why 0.07?** The paper takes the start over from earlier work on contrastive learning (Wu et al. 2018,
# [arXiv:1805.01978](https://arxiv.org/abs/1805.01978)) and says so in a sentence of its section 2.5 ([Radford et al.
# 2021](https://arxiv.org/abs/2103.00020)). The same sentence has the **100**: the scale is clipped there, because
# training was unstable without it. The clip is not in OpenAI's released code, which does not train ([openai/CLIP
# #46](https://github.com/openai/CLIP/issues/46)), and many who copied the model forgot it.
#
# **Exercise 2.** One step of gradient descent on the log-scale, with the clamp after the step. You get the derivative
# for $s$, not for $t$.


# %%
def step_log_scale(log_scale, gradient_of_scale, learning_rate):
    """log_scale t, a number; the derivative of the loss for the scale s = exp(t) -> the new t, at most ln 100."""
    raise NotImplementedError


# %%
step_log_scale = check.step_log_scale(step_log_scale)

# %% [markdown]
# ## Three ways to get it wrong
#
# A training in miniature: 64 pairs whose features are themselves the parameters, with no towers in between, so that
# nothing but the loss shapes them. Three versions, which differ in the scale alone:
#
# - *as in the paper*: $s = e^t$, from $t = \ln(1/0.07)$, clamped at 100;
# - *no exp*: the parameter starts at $\ln(1/0.07)$ and is used as the scale itself, as one gets by forgetting
#   `.exp()`;
# - *from 1*: $s = e^t$ from $t = 0$, as one gets from `torch.zeros`.

# %%
PAIRS, WIDTH, STEPS = 64, 16, check.pick(400, 60)
START, LARGEST = math.log(1 / 0.07), math.log(100)


def train_scale(image, text, parameter, as_scale, largest, train_features=True, rate=0.03):
    """Losses and scales of STEPS steps with Adam; `as_scale` makes the scale of the parameter."""
    image, text = image.clone().requires_grad_(train_features), text.clone().requires_grad_(train_features)
    parameter = torch.tensor(parameter, requires_grad=True)
    optimizer = torch.optim.Adam([image, text, parameter] if train_features else [parameter], lr=rate)
    losses, scales = [], []
    for _ in range(STEPS):
        loss = minclip.clip_loss(image, text, as_scale(parameter))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            parameter.clamp_(max=largest)
        losses.append(loss.item())
        scales.append(as_scale(parameter).item())
    return losses, scales


def draw_runs(runs):
    _, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.4))
    for (name, (losses, scales)), style in zip(runs.items(), ("-", "--", "-."), strict=True):
        left.plot(losses, style, label=name)
        right.plot(scales, style, label=name)
        print(f"{name:20} loss {losses[-1]:.1e} after {STEPS} steps, scale from {scales[0]:.1f} to {scales[-1]:.1f}")
    left.set(xlabel="step", ylabel="loss (nats)", title="loss", yscale="log")
    right.set(xlabel="step", ylabel="scale", title="scale", yscale="log")
    right.legend(fontsize=8)
    return left, right


image, text = torch.randn(2, PAIRS, WIDTH)  # (64, 16) each
runs = {
    "as in the paper": train_scale(image, text, START, torch.exp, LARGEST),
    "no exp": train_scale(image, text, START, lambda t: t, math.inf),
    "from 1": train_scale(image, text, 0.0, torch.exp, LARGEST),
}
left, _ = draw_runs(runs)
left.axhline(math.log(PAIRS), color="0.5", linewidth=1)
_ = left.text(STEPS, math.log(PAIRS), f"ln {PAIRS}, guessing", fontsize=8, ha="right", va="bottom")

# %% [markdown]
# Read from the scale to the loss. *No exp* starts far too small, and the optimiser adds about the same to its
# parameter in every step, whatever the parameter means: the scale crawls, and the loss waits for it. *From 1* starts
# smaller still, but its steps multiply, so it catches up; what it costs is the beginning. (The paper's version begins
# above $\ln 64$: with a large scale, wrong features are wrong with confidence.)
#
# The third way is *no clamp*. Take features that stand still, every pair already nearest to its own text, and train
# the scale alone. And once more with one text exchanged for its neighbour's, so that two pairs are wrong.

# %%
torch.manual_seed(2)
image = torch.randn(PAIRS, WIDTH)  # (64, 16)
text = image + 0.4 * torch.randn(PAIRS, WIDTH)  # (64, 16) each text close to its picture
swapped = text[[1, 0, *range(2, PAIRS)]]  # (64, 16) the first two exchanged
still = {"train_features": False, "rate": 0.1}
runs = {
    "no clamp": train_scale(image, text, START, torch.exp, math.inf, **still),
    "clamp at 100": train_scale(image, text, START, torch.exp, LARGEST, **still),
    "no clamp, two wrong": train_scale(image, swapped, START, torch.exp, math.inf, **still),
}
_, right = draw_runs(runs)
right.axhline(100, color="0.5", linewidth=1)
cosines = F.normalize(image, dim=1) @ F.normalize(text, dim=1).T  # (64, 64)
print("pictures whose own text is nearest:", int((cosines.argmax(dim=1) == torch.arange(PAIRS)).sum()), "of", PAIRS)

# %% [markdown]
# With a mistake in the batch there is a best scale: a larger one would make the mistake dearer than it makes the
# others cheaper. When every pair is right there is none. Every larger scale is a little better, and nothing but the
# clamp stops it. So the clamp is for a model that has learned its batch.
#
# ## What this lesson does not show
#
# That training falls apart without the clamp. Here it does not: features without towers, in float32, forgive a large
# scale. The paper reports it for large models; a large scale multiplies every error of the cosines by the same
# number, and in 16-bit formats these errors are large (lesson 14 measures them). Nor that 0.07 is the best start: it
# is what others had.
#
# ## What you take away
#
# - Cosines end at 1, so a softmax over them cannot decide; the scale stretches them.
# - A small scale pushes all negatives alike, a large one only the hardest.
# - The gradient of the scale is the expected cosine minus the right one.
# - The parameter is a logarithm: positive for free, and steps are ratios. Use `.exp()`, start at $\ln(1/0.07)$, clamp
#   at $\ln 100$ after every step (`CLIP.clamp_logit_scale`).
#
# Stuck? `from solutions.lesson_04 import scale_gradient`, or read [solutions/lesson_04.py](solutions/lesson_04.py).
