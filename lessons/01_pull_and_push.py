# %% [markdown]
# # 01 · Pull and push
#
# **The question.** CLIP learns by *pulling* each picture towards its own text and *pushing* it away from other texts.
# Why does it measure nearness by the cosine? And why does it push from all N − 1 other texts of a *batch* (the N pairs
# of one training step) at once, and not from just one?
#
# **You need** vectors and their dot product, gradients, and the softmax (lesson 00).
#
# **Afterwards you can** compute a matrix of cosines, follow the loss through its history (triplet → N-pair → InfoNCE
# → CLIP), and say which negative pushes how hard.
#
# **Place.** Part I, *The idea and its loss*; after lesson 00. About 35 minutes.

# %%
import math

import check
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import minclip

plt.style.use("lesson.mplstyle")

# %% [markdown]
# ## Why the cosine
#
# A tower turns a picture or a text into a *feature*: a list of numbers, which you can see as an arrow in space. Here
# are three arrows in the plane, one picture and two texts. Which text fits the picture? Look at the directions, then at
# what the dot product says. (Letters in comments such as `(N, D)`: N pictures, M texts, D numbers in a feature, which
# lesson 00 called E.)

# %%
picture = torch.tensor([2.0, 1.0])  # (D,), a cat
texts = {"a cat": torch.tensor([1.0, 0.6]), "a dog": torch.tensor([0.5, 3.0])}

figure, axes = plt.subplots(figsize=(4.6, 3.6))
for name, arrow, style, (right, up) in (
    ("picture of a cat", picture, "-", (0.08, 0.05)),
    ("a cat", texts["a cat"], "--", (-0.45, 0.12)),
    ("a dog", texts["a dog"], "--", (0.1, 0.05)),
):
    axes.annotate("", xytext=(0, 0), xy=arrow.tolist(), arrowprops={"arrowstyle": "->", "linestyle": style, "lw": 1.8})
    axes.text(arrow[0] + right, arrow[1] + up, name)
axes.set(xlim=(-0.1, 3.6), ylim=(-0.1, 3.3), aspect="equal", xlabel="first number", ylabel="second number")
for name, text in texts.items():
    print(f"{name}: dot product {picture @ text:.2f}, cosine {F.cosine_similarity(picture, text, dim=0):.2f}")

# %% [markdown]
# The dot product prefers the dog, only because its arrow is *long*. With dot products, a text could win against many
# pictures just by growing, and training could lower its loss by making everything longer instead of turning anything.
# The cosine divides the lengths out and leaves the angle:
#
# $$\cos(x, y) = \frac{x \cdot y}{|x|\,|y|}$$
#
# It is 1 for the same direction, 0 for a right angle, −1 for opposite directions. If every arrow is brought to length
# 1, all features live on a sphere (here: on a circle), and the cosine is just the dot product.
#
# **Exercise 1.** Compute all cosines of a batch at once. The check tests what must hold (lengths do not matter, nothing
# leaves [−1, 1], everything has cosine 1 with itself), and compares every entry with the formula.


# %%
def cosine_matrix(image_features, text_features):
    """image_features (N, D), text_features (M, D), of any length but zero -> cosines (N, M), row = picture."""
    raise NotImplementedError


# %%
cosine_matrix = check.cosine_matrix(cosine_matrix)

# %% [markdown]
# ## Pulling alone
#
# Here are six pictures (circles) and six texts (squares) on the circle; a thin line joins each picture with its own
# text. The first idea is to make every pair's cosine 1, so $L = \frac1N \sum_i (1 - \cos(x_i, y_i))$, where $x_i$ is
# a picture and $y_i$ is its text. The arrows are the *forces*: minus the gradient of the loss, the direction in which
# each point wants to go.

# %%
N = 6
angles = torch.tensor(
    [[-16.0, 84, 33, 130, 185, 315], [106, 9, 155, 59, 228, 272]]
).deg2rad()  # (2, N): pictures, texts


def points(angles):
    return torch.stack([angles.cos(), angles.sin()], dim=-1)  # (..., N, 2)


def forces(loss, angles):
    """Minus the gradient for pictures and texts, (2, N, 2)."""
    features = points(angles).requires_grad_()
    loss(*features).backward()
    return -features.grad


def only_pull(image_features, text_features):
    return (1 - cosine_matrix(image_features, text_features).diagonal()).mean()


def show(axes, angles, title, loss=None, size=12):
    """The circle; with the forces of a loss, the longest drawn 0.4 long."""
    images, texts = points(angles)
    axes.add_patch(plt.Circle((0, 0), 1, fill=False, color="0.8"))
    for i, (x, y) in enumerate(zip(images.tolist(), texts.tolist(), strict=True)):
        axes.plot(*zip(x, y, strict=True), color="0.75", linewidth=0.8, zorder=0)
        axes.plot(*x, "o", color="lightskyblue", markersize=size + 3, markeredgecolor="black", markeredgewidth=0.6)
        axes.plot(*y, "s", color="orange", markersize=size - 3, markeredgecolor="black", markeredgewidth=0.6)
        for place in (x, y):
            axes.text(*place, str(i), ha="center", va="center_baseline", fontsize=size - 3, zorder=4)
    if loss is not None:
        arrows = forces(loss, angles).view(-1, 2)
        arrows = 0.4 * arrows / arrows.norm(dim=1).max()
        both = torch.cat([1.18 * images, 0.82 * texts])  # beside the points, not over them
        pushed = arrows.norm(dim=1) > 1e-6
        axes.quiver(
            *both[pushed].T,
            *arrows[pushed].T,
            angles="xy",
            scale_units="xy",
            scale=1,
            width=0.011,
            color="crimson",
            zorder=3,
        )
    axes.set(title=title, xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal")
    axes.set_axis_off()


figure, axes = plt.subplots(figsize=(4.8, 4.6))
show(axes, angles, "only pull", only_pull)

# %% [markdown]
# *Circles: pictures, their forces drawn outside; squares: texts, their forces inside. Equal numbers belong together.*
#
# Every arrow runs along the circle, never outwards: since lengths are divided out, no force points along the length.
# That is the second advantage of the cosine. To check it, multiply: a force and its feature are at right angles if
# their dot product is 0. (A step along the tangent makes a feature a little longer, which the cosine divides out again.
# `walk` below moves the angles instead, so the lengths stay 1.)

# %%
outward = (forces(only_pull, angles) * points(angles)).sum(dim=-1)
print(f"largest outward part of a force: {outward.abs().max():.0e}")

# %% [markdown]
# Is pulling enough? There is a lazy way to satisfy it: give *everything* the same feature. A tower that ignores its
# input does that. The loss is perfect and the model is worthless. This is called *collapse*.

# %%
same = torch.ones(N, 2)
print("loss with everything at one point:", end=" ")
print(f"only pull {only_pull(same, same):.3f}, CLIP {minclip.clip_loss(same, same, 5.0):.3f}")  # 5.0: the scale, below
print(f"ln {N} = {math.log(N):.3f}")

# %% [markdown]
# CLIP's loss, which you will meet in a moment, is not fooled: with everything at one point it is ln N, the price of
# telling nothing apart (lesson 03).
#
# ## One push: the triplet
#
# So something must push. The *triplet loss* ([Schroff et al. 2015](https://arxiv.org/abs/1503.03832), FaceNet,
# section 3.1, there with squared distances) takes three things: an *anchor*, here a picture; its *positive*, its own
# text; and one *negative*, any other text. It demands that the positive be nearer by a margin $m$:
#
# $$L = \max(0,\; m + \cos(\mathrm{anchor}, \mathrm{negative}) - \cos(\mathrm{anchor}, \mathrm{positive}))$$
#
# As soon as the positive is nearer by that margin, the loss is 0 and so is the force. Below, each picture gets the next
# text as its negative.


# %%
def triplet(image_features, text_features, margin=0.3):
    cosines = cosine_matrix(image_features, text_features)  # (N, N)
    positive, negative = cosines.diagonal(), cosines.roll(-1, dims=1).diagonal()  # (N,) each
    # the negatives are the entries (i, i + 1) of the cosines; the last picture takes text 0
    return F.relu(margin + negative - positive).mean()


# %% [markdown]
# ## All pushes: the N-pair loss
#
# The batch holds more: for each picture, there are N − 1 texts that belong to others. They are encoded already, so
# using them all as negatives costs one matrix product. [Sohn 2016](https://papers.nips.cc/paper/6200) puts them into
# one smooth expression, the *N-pair loss*. Let $z_{ij}$ be the *logits* (the name for what goes into a softmax): here
# the cosine of picture *i* and text *j*, times a scale. Then picture *i* pays
#
# $$L_i = \ln\Bigl(1 + \sum_{j \ne i} e^{z_{ij} - z_{ii}}\Bigr)$$
#
# In words: a wrong text costs little while its logit is far behind that of the right text, and much when it is ahead.
# If all of them are far behind, the sum is near 0, and so is the loss, because $\ln 1 = 0$.
#
# **Exercise 2.** Write it, as the mean of $L_i$ over the rows. The check also compares the gradient, so do not change
# tensors in place (`+=`, `fill_diagonal_`): autograd may still need their old values.


# %%
def n_pair_loss(logits):
    """logits (N, N), row = picture, its own text on the diagonal -> the mean of L_i over the rows, a scalar."""
    raise NotImplementedError


# %%
n_pair_loss = check.n_pair_loss(n_pair_loss)

# %% [markdown]
# It is a softmax in disguise. Put the terms inside the logarithm over one denominator:
#
# $$1 + \sum_{j \ne i} e^{z_{ij} - z_{ii}} = \frac{e^{z_{ii}} + \sum_{j \ne i} e^{z_{ij}}}{e^{z_{ii}}} =
# \frac{\sum_j e^{z_{ij}}}{e^{z_{ii}}} = \frac{1}{p_{ii}}$$
#
# where $p_{ij}$ is the softmax over row *i*, the probability that picture *i* gives to text *j*. So
# $L_i = -\ln p_{ii}$: minus the logarithm of the right answer's probability, which is called *cross-entropy* (lesson
# 02 takes it apart). [van den Oord et al. 2018](https://arxiv.org/abs/1807.03748) call this *InfoNCE* (equation 4).
# CLIP applies it to cosines times a learned scale $s$, once to the rows and once to the columns (pictures choose
# texts, texts choose pictures), and takes the mean of the two. [ConVIRT](https://arxiv.org/abs/2010.00747) had done
# much the same, with a scale and a weighting set by hand. Section 2.3 of the [CLIP
# paper](https://arxiv.org/abs/2103.00020) tells the lineage.

# %%
scale = 5.0
logits = scale * cosine_matrix(*points(angles))  # (N, N)
print(f"N-pair:                {n_pair_loss(logits):.6f}")
print(f"cross-entropy:         {F.cross_entropy(logits, torch.arange(N)):.6f}")
print(f"rows and columns, / 2: {(n_pair_loss(logits) + n_pair_loss(logits.T)) / 2:.6f}")
print(f"minclip.clip_loss:     {minclip.clip_loss(*points(angles), scale):.6f}")

# %% [markdown]
# Now compare the forces on the same twelve points. Which points does the triplet leave alone?


# %%
def clip(image_features, text_features):
    return minclip.clip_loss(image_features, text_features, scale)


figure, panels = plt.subplots(1, 3, figsize=(10, 3.6))
for axes, title, loss in zip(
    panels, ("only pull", "triplet: one negative", "CLIP: all negatives"), (only_pull, triplet, clip), strict=True
):
    show(axes, angles, title, loss)
    still = (forces(loss, angles).norm(dim=-1) < 1e-6).nonzero().tolist()
    names = ", ".join(f"{('picture', 'text')[kind]} {i}" for kind, i in still)
    print(f"{title}: {len(still)} points without any force{': ' * bool(still)}{names}")

# %% [markdown]
# *Compare directions, and lengths within a panel. Between panels lengths mean nothing: in each the longest arrow is
# drawn equally long. Points without an arrow feel no force.*
#
# The triplet leaves a picture alone as soon as its margin is kept. It leaves a text alone when the margins of both
# pictures that use it are kept: its own picture, and the one that has it as a negative. Picture 3 is left alone though
# it is far from its own text, because its one negative, text 4, is further away still. CLIP's forces are nowhere zero:
# small at pair 5, which is close already, and large at picture 3. Otherwise CLIP's arrows look much like those of
# pulling alone, because most pairs are still far apart. The pushing shows when they meet.
#
# So let the points go: a few hundred small steps along the forces, with pulling alone and with all negatives.

# %%
STOPS = (0, 10, 60, 600)


def walk(loss, angles, rate=0.2):
    """The angles after 0, 10, 60 and 600 steps of gradient descent."""
    angles, stops = angles.clone().requires_grad_(), []
    for step in range(max(STOPS) + 1):
        if step in STOPS:
            stops.append(angles.detach().clone())
        (slope,) = torch.autograd.grad(loss(*points(angles)), angles)
        angles = (angles - rate * slope).detach().requires_grad_()
    return stops


walks = {"only pull": walk(only_pull, angles), "CLIP": walk(clip, angles)}
figure, grid = plt.subplots(2, len(STOPS), figsize=(10, 5.2))
for row, (name, stops) in zip(grid, walks.items(), strict=True):
    for axes, step, here in zip(row, STOPS, stops, strict=True):
        show(axes, here, f"{name}, step {step}", size=11)

# %% [markdown]
# Pulling alone joins each pair wherever its two points happen to meet, and different pairs may end up side by side:
# here 2 and 3 at the top, 0 and 1 at the right. With all negatives the pairs also spread out over the circle, so that
# they can be told apart. In numbers, after the last step: the largest angle between a picture and its own text, and the
# smallest between a picture and another text.

# %%
for name, stops in walks.items():
    cosines = cosine_matrix(*points(stops[-1]))  # (N, N)
    others = cosines.masked_fill(torch.eye(N, dtype=torch.bool), -1).amax()
    pairs, rivals = (math.degrees(math.acos(min(1.0, c))) for c in (cosines.diagonal().min(), others))
    print(f"{name:9}: own text within {pairs:.1f}°, other texts from {rivals:.1f}° on (evenly spread: {360 / N:.0f}°)")

# %% [markdown]
# ## Why N − 1
#
# How hard does each negative push? For a wrong text ($j \ne i$) the derivative of $L_i$ with respect to $z_{ij}$ is
# $p_{ij}$ (lesson 02 derives it): *the probability that picture i gives to this wrong text*. Take a picture of a cat
# in a batch of 64. The right text, "a cat", has a cosine of 0.70 with it. One of the 63 negatives is "a tiger", with
# 0.50. The other 62 are unrelated, with cosines scattered around 0 (standard deviation 0.15). All these numbers are
# made up. The scale is $1/0.07$, at which CLIP starts.
#
# **Make a guess first**: how much of the push of all 63 negatives comes from the tiger, in percent? Put a number in
# place of `None`.

# %%
check.predict("01: the tiger's share of the push, in percent", None)

# %%
batch = 64
generator = torch.Generator().manual_seed(0)
others = 0.15 * torch.randn(batch - 2, generator=generator)
cosines = torch.cat([torch.tensor([0.70, 0.50]), others])  # (64,): cat, tiger, everything else
push = (cosines / 0.07).softmax(dim=0)[1:]  # (63,): of every negative; 1 / 0.07 is the scale at which CLIP starts
push, order = (push / push.sum()).sort(descending=True)
figure, axes = plt.subplots(figsize=(7, 3))
axes.bar(range(1, batch), 100 * push, color=["crimson" if i == 0 else "tab:gray" for i in order.tolist()])
axes.set(xlabel="negatives, the hardest first", ylabel="share of all the push (%)")
tiger = order.tolist().index(0)
check.reveal("01: the tiger's share of the push, in percent", 100 * push[tiger].item(), within=15)
axes.annotate("a tiger", (tiger + 1, 100 * push[tiger]), xytext=(20, -10), textcoords="offset points",
              arrowprops={"arrowstyle": "->"})  # fmt: skip
print(f'"a tiger" alone does {100 * push[tiger]:.0f} % of the pushing,')
print(f"and is met in {100 / (batch - 1):.1f} % of the triplets with a random negative;")
far = int((cosines[1:] < cosines[0] - 0.3).sum())
print(f"with a margin of 0.3, {far} of the {batch - 1} negatives would give a triplet no force at all")

# %% [markdown]
# This is the reason for many negatives. Most of the push comes from the one text that is hard to tell from the right
# one, and the softmax finds it *by itself*, with no rule for choosing. (With a smaller scale the push is spread more
# evenly: try 0.2 instead of 0.07.) A triplet with a random negative almost always draws one that is far away
# already, and learns nothing from it; that is why FaceNet had to search for hard triplets ("mining").
#
# And it is nearly free. N pairs cost 2N runs of a tower, which is the expensive part, and give N² cosines:

# %%
print("pairs   runs of a tower   negatives, both ways")
for pairs in (2, 64, 32768):
    print(f"{pairs:5} {2 * pairs:17,} {2 * pairs * (pairs - 1):22,}")

# %% [markdown]
# The last row is the batch of the CLIP paper. Do you need so many? Lesson 09 tries it out.
#
# ## The plain answer
#
# The cosine looks at directions only: no text wins by being long. And all N − 1 others push at once because the softmax
# then finds the few that are hard to tell apart, without a rule for choosing them, and nearly for free.
#
# **What this lesson does not show.** How towers learn: these points were free to go where they liked, while a tower
# must find *one* function for all pictures. Or what happens in hundreds of dimensions: there is far more room there
# than in a plane, two random arrows are nearly at right angles, and thousands of pairs fit beside one another. The
# tiger's share of the push follows from cosines that we typed. And what the scale does, which we simply chose here, is
# the question of lesson 04.
#
# ## What you take away
#
# - The cosine divides the lengths out, so no force points along a length.
# - Pulling alone allows collapse. A triplet pushes from one negative and stops at its margin. N-pair, InfoNCE and
#   each half of CLIP's loss are one formula: cross-entropy of a softmax over all N.
# - Each negative pushes by its share of the softmax, so the hardest ones push most, without any search for them. In a
#   batch they come nearly free.
#
# **Harder, without a solution.**
#
# 1. Show that the force of the loss on a feature is at a right angle to it, for any loss of cosines.
# 2. Replace the sum of exponentials by the largest of them (a hard triplet without a margin). Do the points on the
#    circle still end up apart? What is lost?
# 3. Put the N texts of a batch at equal distances on a circle. From which N on does the nearest wrong text have a
#    cosine above 0.9 with the right one, and what follows for the number of dimensions?
#
# Stuck? `check.hint("n_pair_loss")`, `from solutions.lesson_01 import cosine_matrix`, or read
# [solutions/lesson_01.py](solutions/lesson_01.py).
