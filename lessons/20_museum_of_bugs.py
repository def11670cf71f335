# %% [markdown] id="question"
# # 20 · Museum of bugs
#
# **The question.** A contrastive loss forgives nearly everything: it falls, the curve looks good, and the model is
# wrong. Would you have noticed? And would your tests?
#
# **You need** the loss (lesson 02), what a loss of $\ln N$ means (lesson 03) and how the scale is stored and clamped
# (lesson 04). Some exhibits use the end token (06), a threshold (11), batches in parts (14) and several workers (19);
# if you skipped those lessons, the answers explain them.
#
# **Afterwards you can** read a plot or a log as a symptom and name its cause; write tests as **properties** that hold
# for every correct implementation; and measure how good your tests are, by **mutants**.
#
# **Place.** Part V, *On your own*, begins here. Parts I to IV built a model, a loss and a kernel; from here on you
# judge such work, your own included. About 95 minutes: 45 for the fifteen exhibits, 50 for the three exercises.

# %%
import itertools
import math

import check
import matplotlib.pyplot as plt
import museum
import torch
from check.mutants import LOSSES, SCORES, SPLITS, grid

plt.style.use("lesson.mplstyle")
torch.set_num_threads(1)  # matrices as small as these are multiplied faster without helpers
STEPS = check.pick(300, 60)

# %% [markdown] id="how-it-works"
# ## How the museum works
#
# Each exhibit has one bug, and you see what its author saw. Diagnose it *before* you see any code: call
# `check.diagnose` with a letter in place of `None`. If you are wrong, it says what your choice does not explain; if you
# are right, it tells the story and where it happened to others. Your first answers count in the course's score of
# predictions. (The code is in [museum.py](museum.py). Each function there names its bug, so read it last.)
#
# So that each training run takes about a second, the towers are small and the world is made up. It has 64 concepts; the
# caption of a concept is always the same vector, and a picture of it is another vector with fresh noise. All 64 pairs
# are in one batch, so a model that guesses pays $\ln 64 = 4.16$. The top-1 is measured on pictures with different
# noise.

# %% jupyter={"source_hidden": true}
LN = math.log(museum.CONCEPTS)


def table(rows, columns, form="{:10.4f}"):
    """Prints some columns of the rows of a log."""
    print("  step", *(f"{column:>{max(10, len(column))}}" for column in columns), sep="  ")
    for row in rows:
        cells = (f"{form.format(row[column]):>{max(10, len(column))}}" for column in columns)
        print(f"{row['step']:6.0f}", *cells, sep="  ")


def some(rows, count):
    """About `count` rows of a log, the first and the last among them."""
    return [*rows[: -1 : max(1, len(rows) // count)], rows[-1]]


def guessing(axes, steps=STEPS):
    axes.axhline(LN, color="0.3", linestyle="--", linewidth=1)
    axes.annotate("ln 64", (steps, LN), xytext=(0, 2), textcoords="offset points", ha="right", color="0.3")


# %% [markdown] id="room-of-the-loss"
# ## The room of the loss
#
# **Suddenly nan.** A training run in mixed precision (the logits are float16) had been going well.

# %%
table(museum.suddenly_nan(), ("loss", "scale", "largest logit"))

# %%
check.diagnose("suddenly nan", None)

# %% [markdown] id="sure-of-itself"
# **Sure of itself.** The model is trained on the same 64 pictures again and again, as in a small data set.

# %% jupyter={"source_hidden": true}
seen = museum.sure_of_itself(STEPS)
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 2.8))
left.plot(seen.column("loss"), label="training")
left.plot(seen.column("held-out loss"), "--", label="new pictures")
left.set(title="loss", xlabel="step", ylim=(0, 4.5))
left.legend()
middle.plot(seen.column("scale"))
middle.set(title="scale of the logits", xlabel="step", ylim=(0, None))
right.plot([100 * value for value in seen.column("top-1")], "--", color="tab:orange")
right.set(title="top-1 on new pictures (%)", xlabel="step", ylim=(0, 103))
lowest = min(seen.rows, key=lambda row: row["held-out loss"])
for name, row in (("lowest held-out loss", lowest), ("last", seen.rows[-1])):
    loss, top1, scale = (row[column] for column in ("held-out loss", "top-1", "scale"))
    print(f"{name:21} step {row['step']:3}: {loss:.2f}, top-1 {top1:.0%}, scale {scale:.0f}")

# %%
check.diagnose("sure of itself", None)

# %% [markdown] id="a-high-floor"
# **A high floor.** The loss hardly falls any more, although every caption is found.

# %% jupyter={"source_hidden": true}
seen = museum.high_floor(STEPS + STEPS // 3)
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8))
left.plot(seen.column("loss"))
guessing(left, len(seen.rows))
left.set(title="loss", xlabel="step", ylim=(0, 4.6))
right.plot([100 * value for value in seen.column("top-1")], "--", color="tab:orange")
right.set(title="top-1 on new pictures (%)", xlabel="step", ylim=(0, 103))
print(f"last loss {seen.rows[-1]['loss']:.2f}, top-1 {seen.rows[-1]['top-1']:.0%}")

# %%
check.diagnose("a high floor", None)

# %% [markdown] id="a-slow-start"
# **A slow start.** The same towers are trained twice on the same pictures. The right panel shows what multiplies the
# cosines.

# %% jupyter={"source_hidden": true}
seen = museum.slow_start(STEPS + STEPS // 3)
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8))
for name, style, label in (("right", "-", "as it should be"), ("?", "--", "the exhibit")):
    left.plot(seen[name].column("loss"), style, label=label)
    right.plot(seen[name].column("scale"), style, label=label)
guessing(left, len(seen["?"].rows))
left.set(title="loss", xlabel="step", ylim=(0, 4.6))
right.set(title="scale of the logits", xlabel="step", yscale="log")
_ = right.legend(loc="lower right")

# %%
check.diagnose("a slow start", None)

# %% [markdown] id="flat"
# **Flat at ln N.** *Entropy* is the entropy of the targets, in nats; *alike* is the mean cosine of two different
# pictures.

# %%
table(some(museum.flat(STEPS), 8), ("loss", "entropy", "alike", "top-1"))

# %%
check.diagnose("flat at ln N", None)

# %% [markdown] id="two-equal-losses"
# **Two equal losses.** These are the two halves of the loss, logged separately.

# %%
table(some(museum.two_losses(check.pick(200, 40)), 5), ("picture → text", "text → picture"), "{:.5f}")

# %%
check.diagnose("two equal losses", None)

# %% [markdown] id="bright-columns"
# **Bright columns.** Four workers share the batch: each has 16 of the 64 pictures, and all texts. After training, this
# is the softmax of each new picture over all texts.

# %% jupyter={"source_hidden": true}
figure, axes = plt.subplots(figsize=(4.6, 3.9))
squares = axes.imshow(museum.bright_columns(check.pick(300, 60)), cmap="viridis", vmin=0, vmax=1)
axes.set(xlabel="text", ylabel="picture", xticks=range(0, 65, 16), yticks=range(0, 65, 16))
_ = figure.colorbar(squares, label="share of the row")

# %%
check.diagnose("bright columns", None)

# %% [markdown] id="an-easy-start"
# **An easy start.** "With batch size 64 my loss is lower than yours, from the first step on."

# %% jupyter={"source_hidden": true}
seen = museum.easy_start(check.pick(100, 40))
figure, axes = plt.subplots(figsize=(5.5, 2.8))
for name, style, label in (("right", "-", "ours"), ("?", "--", "the exhibit")):
    axes.plot(seen[name], style, label=label)
    print(f"{label:12} first loss {seen[name][0]:.3f}")
guessing(axes, len(seen["?"]))
axes.set(xlabel="step", ylabel="loss", ylim=(0, 4.6))
_ = axes.legend()

# %%
check.diagnose("an easy start", None)

# %% [markdown] id="stairs"
# **Stairs.** The figure shows how hard a pair is pulled: the gradient of its own logit, against the probability $1-p$
# that its caption still lacks. The model computes in bfloat16.

# %% jupyter={"source_hidden": true}
seen = museum.stairs()
figure, axes = plt.subplots(figsize=(5.5, 3.2))
axes.plot(seen["left"], seen["exact"], "-", color="0.6", linewidth=4, label="as it should be")
axes.plot(seen["left"], seen["?"], "--", color="black", linewidth=1.2, label="the exhibit")
axes.set(xscale="log", yscale="log", xlabel="1 − p", ylabel="size of the gradient", ylim=(1e-5, 1.5))
axes.legend()
gone = seen["left"][seen["?"] == 0].max()
print(f"the largest 1 − p whose gradient is 0: {gone:.5f}")

# %%
check.diagnose("stairs", None)

# %% [markdown] id="a-second-machine"
# **A second machine.** This is the same training run on one worker and on four. *Norm* is the length of the gradient of
# all parameters. "The first loss is the same to the last digit, so the code for several workers must be right."

# %%
for workers in (1, 4):
    print(f"{workers} worker{'s' * (workers > 1)}")
    table(some(museum.second_machine(check.pick(100, 40), workers), 4), ("loss", "norm"), "{:.6f}")

# %%
check.diagnose("a second machine", None)

# %% [markdown] id="room-of-the-data"
# ## The room of the data
#
# **Whose neighbour.** The model that ships with minclip looks at a cat by Noto and reads several texts in one batch.
# The number printed is always the cosine of the cat with the *first* text.

# %%
for texts, cosine in museum.neighbours():
    print(f"{cosine:.6f}  {texts}")

# %%
check.diagnose("whose neighbour", None)

# %% [markdown] id="twice-as-good"
# **Twice as good.** Emoji are sorted into Unicode's nine groups ("Food & Drink", …). The files were shuffled, and a
# fifth of them were used to test the simplest of all models: it answers with the group of the training picture whose
# pixels are nearest. The figure sorts the test pictures by their distance to that picture (root mean square, on the
# scale from 0 to 255).

# %% jupyter={"source_hidden": true}
leak = museum.twice_as_good()
edges = [0, 5, 10, 20, 40, 60, 255]
bins = [leak.found[(leak.distance >= low) & (leak.distance < high)] for low, high in itertools.pairwise(edges)]
figure, axes = plt.subplots(figsize=(6.5, 3))
bars = axes.bar(range(len(bins)), [100 * found.double().mean() for found in bins], color="tab:blue", edgecolor="black")
axes.bar_label(bars, [f"of {len(found)}" for found in bins], fontsize=8)
labels = [f"{low}–{high}" for low, high in itertools.pairwise(edges[:-1])]
axes.set_xticks(range(len(bins)), [*labels, f"over {edges[-2]}"])
axes.axhline(100 / leak.groups, color="0.3", linestyle="--", linewidth=1)
chance = ((1, 100 / leak.groups), ("axes fraction", "data"))
axes.annotate("chance", chance[0], xycoords=chance[1], xytext=(3, 0), textcoords="offset points", va="center")
axes.set(xlabel="distance to the nearest training picture", ylabel="right (%)", ylim=(0, 112))
print(f"reported: {leak.found.double().mean():.0%} of {len(leak.found)} test pictures. Emoji: OpenMoji, CC BY-SA 4.0")

# %%
check.diagnose("twice as good", None)

# %% [markdown] id="room-of-the-evaluation"
# ## The room of the evaluation
#
# **Old prompts.** Search and zero-shot naming are measured on the same new pictures and the same captions.

# %%
table(some(museum.old_prompts(check.pick(200, 40)), 6), ("loss", "top-1", "zero-shot"))

# %%
check.diagnose("old prompts", None)

# %% [markdown] id="perfect"
# **Perfect.** The scores are perfect from the first step on.

# %%
table(some(museum.perfect(50), 4), ("loss", "top-1", "top-5"))

# %%
check.diagnose("perfect", None)

# %% [markdown] id="a-lucky-line"
# **A lucky line.** A model says "none of these" below a threshold. For half of the 24 test pictures that is the right
# answer. On the left is the share that each threshold gets right; the dot is the threshold that went into the report.
# On the right is the same for 5,000 pictures that came later.

# %% jupyter={"source_hidden": true}
thresholds = torch.linspace(-3, 3, 300)
reported, later = (museum.accuracies(*museum.scores(count, seed), thresholds) for count, seed in ((24, 0), (5000, 1)))
best = int(reported.argmax())
figure, all_axes = plt.subplots(1, 2, figsize=(8, 2.8), sharey=True)
for axes, values, title in zip(all_axes, (reported, later), ("the 24 test pictures", "5,000 more"), strict=True):
    axes.plot(thresholds, 100 * values)
    axes.plot(thresholds[best], 100 * values[best], "o", color="black", markersize=8)
    axes.axhline(50, color="0.3", linestyle="--", linewidth=1)
    axes.set(title=title, xlabel="threshold", ylim=(35, 80))
all_axes[0].set_ylabel("right (%)")
tries = []
for seed in range(2, check.pick(402, 42)):
    values = museum.accuracies(*museum.scores(24, seed), thresholds)
    tries.append((values.max().item(), later[values.argmax()].item()))
mean = [100 * sum(column) / len(tries) for column in zip(*tries, strict=True)]
print(f"the dot: {reported[best]:.0%} on the left, {later[best]:.0%} on the right; the best there: {later.max():.0%}")
print(f"mean over {len(tries)} other test sets of 24: reported {mean[0]:.0f} %, later {mean[1]:.0f} %")

# %%
check.diagnose("a lucky line", None)

# %% [markdown] id="what-they-have-in-common"
# ## What they have in common
#
# None of these programs crashed, only one printed a nan, and in most of them the loss fell. So "it trains" is not a
# test. But nearly every one had a number that could not be right: a first loss that is not $\ln N$, two sums equal to
# the last digit, a perfect score beside the loss of guessing, or the same text with two scores. A statement that is
# true of every correct program, whatever its inputs, is called a **property**: here, "the first loss is about $\ln N$"
# or "the score of a text does not depend on its neighbours". It has an advantage over comparing with a known result:
# you do not have to know the result.
#
# And how do you know that your properties are good ones? Put a bug in on purpose, and see whether one of them fails.
# The program with the bug is a **mutant**; a property that fails for it **kills** it. This is **mutation testing**
# ([DeMillo et al. 1978](https://doi.org/10.1109/C-M.1978.218136)); the tests of minclip's fused loss are tested in this
# way with a long list of mutants, in [tests/test_mutants.py](../tests/test_mutants.py).
#
# ## Your turn: a loss
#
# **Exercise 1.** Return a list of properties. Each is a function that takes a loss and returns `True` if the property
# holds. If not, it returns `False` or raises (`assert`). Each must hold for four correct losses: with a one-hot target,
# with `arange`, by log-sum-exp, and minclip's fused one. And for each of sixteen mutants at least one property must
# fail. Nine of the mutants are named (you met most of them above); seven are **hidden**: you learn only whether they
# live, and get a hint.
#
# All losses are called as `loss(image_features, text_features, scale)`: the features are (N, D) and not normalised; the
# scale is already exponentiated, and is a float or a tensor. The correct losses compute in the features' dtype, so be
# as strict as float32 allows, but no stricter.


# %%
def loss_properties():
    """A list of functions; each takes a loss and returns whether a property holds for it."""
    raise NotImplementedError


# %%
loss_properties = check.loss_properties(loss_properties)

# %% [markdown] id="the-grid"
# Here is your list at work: a row for each property, a column for each implementation. A black cell is a killed mutant.
# The four correct ones on the left must stay white. (Until the exercise is solved, these are our properties.)


# %% jupyter={"source_hidden": true}
def show(properties, room):
    cells = grid(properties, room)
    names, right = list(room.implementations()), len(room.right)
    _, axes = plt.subplots(figsize=(0.42 * len(names) + 3, 0.35 * len(cells) + 1.6))
    axes.imshow([[not held for held in row] for row in cells], cmap="Greys", vmin=0, vmax=1.3, aspect="auto")
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(cells)), [property_.__name__.replace("_", " ") for property_ in properties])
    axes.set_xticks([k - 0.5 for k in range(1, len(names))], minor=True)
    axes.set_yticks([k - 0.5 for k in range(1, len(cells))], minor=True)
    axes.grid(which="minor", color="0.8", linewidth=0.5)
    axes.tick_params(which="both", length=0)
    axes.axvline(right - 0.5, color="black", linewidth=2)
    axes.spines[["top", "right"]].set_visible(True)
    killed = [any(not row[place] for row in cells) for place in range(right, len(names))]
    only = sum(sum(not row[place] for row in cells) == 1 for place in range(right, len(names)))
    print(f"{sum(killed)} of {len(killed)} mutants killed, {only} of them by one property alone")


show(loss_properties(), LOSSES)

# %% [markdown] id="reading-the-grid"
# Look for the row with the most black cells. In ours it is the comparison with a formula in float64, of values *and*
# gradients: an independent **reference** is the strongest property there is, if you have one. Then look for the columns
# with a single black cell: take that row away, and the mutant lives. Two columns stay white in the row of the
# reference: those mutants fail only on inputs for which floating-point numbers overflow or underflow.
#
# Let us run that: each property alone, and the list without it.

# %%
properties = loss_properties()
total = len(LOSSES.mutants)
cells = [row[len(LOSSES.right) :] for row in grid(properties, LOSSES)]
print("killed   alone   by all the others")
for k, property_ in enumerate(properties):
    others = [row for place, row in enumerate(cells) if place != k]
    without = sum(any(not row[place] for row in others) for place in range(total))
    print(f"{sum(not held for held in cells[k]):14} {without:13} of {total}   {property_.__name__}")

# %% [markdown] id="data-and-scores"
# In our list three rows can be taken away, one at a time, and all the mutants still die. Such a row is still useful: a
# reference that fails says *that* a loss is wrong, while "length does not matter" says *what* is wrong with it.
#
# ## Your turn: a split
#
# **Exercise 2.** A split takes pictures (P, …) uint8 and returns two lists of row numbers, `(train, test)`. About a
# tenth of the pictures go into the test set. A picture's own pixels decide, and nothing else, so equal pictures are on
# the same side. There are three correct splits and eight mutants, five of them hidden.


# %%
def split_properties():
    """A list of functions; each takes split(pictures) -> (train, test) and returns whether a property holds for it."""
    raise NotImplementedError


# %%
split_properties = check.split_properties(split_properties)
show(split_properties(), SPLITS)

# %% [markdown] id="scores"
# ## Your turn: a score
#
# **Exercise 3.** `top1(cosines)` takes a matrix (P, P): row $i$ holds the cosines of picture $i$ with all captions, and
# caption $i$ is its own. It returns the share of pictures whose own caption has a higher cosine than *every* other.
# There are three correct versions and eight mutants, five of them hidden.


# %%
def score_properties():
    """A list of functions; each takes top1(cosines) -> float and returns whether a property holds for it."""
    raise NotImplementedError


# %%
score_properties = check.score_properties(score_properties)
show(score_properties(), SCORES)

# %% [markdown] id="the-end"
# ## The answer
#
# **Some of them, if you know what to look at.** A falling loss reveals none of these bugs. A few statements that are
# true of every correct program, tried also at the limits of floating-point numbers, catch all the mutants that we
# thought of; and mutants show you what your statements do not catch.
#
# ## What this lesson does not show
#
# - **Bugs that we did not think of.** A list of properties that kills all mutants here is not complete: it is only as
#   good as the mutants are. Mutants written by the author of the tests are the easy ones.
# - **How common each bug is.** We chose what makes a good exhibit. The links are threads in which the bug, or a
#   relative of it, occurred; they say nothing about how often.
# - **Large training runs.** Our towers learn 64 vectors. In a real run the symptoms are the same, but hidden in noise,
#   and they take days to appear: a reason to look for them in a small one first.
#
# ## Harder, without a solution
#
# 1. Three of the four correct losses are less exact than they seem. Ask for the value at
#    `minclip_kernels.testing.make_features("tiny_loss", 70, 200)` and a scale of 100, to within one part in a hundred,
#    and only one survives. Which step costs the others their digits? (Lesson 17.)
# 2. Write a mutant that your own list does not kill, without looking at the inputs that it tries. Then kill it.
# 3. Take one exhibit and write the property that would have stopped it before the first step of the training. Which of
#    the fifteen cannot be found without training?
#
# Stuck? `check.hint("loss_properties")`, or read [solutions/lesson_20.py](solutions/lesson_20.py).
