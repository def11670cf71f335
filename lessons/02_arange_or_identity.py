# %% [markdown]
# # 02 · arange or identity?
#
# **The question.** CLIP wants a matrix of similarities to become diagonal: every picture with its own text. Then why
# does everybody's code say `labels = torch.arange(N)`, and not "the target is the identity matrix"? It was asked at
# CLIP's own tracker ([openai/CLIP #301](https://github.com/openai/CLIP/issues/301)), and so was its twin: the same
# labels for pictures and texts, what for ([#83](https://github.com/openai/CLIP/issues/83))?
#
# **You need** cosines, logits and the softmax (lesson 01), and derivatives.
#
# **Afterwards you can** write CLIP's loss in three ways, say why they are one number, derive its gradient by hand,
# and show that the picture loss and the text loss are two different things.

# %%
import check
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.patches import Rectangle

import minclip

torch.manual_seed(0)
plt.style.use("lesson.mplstyle")

# %% [markdown]
# ## A batch, and its matrix
#
# Five pictures and their five texts, as features that a half-trained model might give them: each text is its picture
# plus noise. Row *i* of the logits holds the cosines of picture *i* with all texts, times a scale (lesson 04; here 5,
# a free choice like the amount of noise); the text that belongs to it is in column *i*.

# %%
N, D = 5, 16  # N pairs, D numbers in a feature
image_features = torch.randn(N, D)  # (N, D)
text_features = image_features + 1.5 * torch.randn(N, D)  # (N, D)
logit_scale = 5.0
logits = logit_scale * F.normalize(image_features, dim=1) @ F.normalize(text_features, dim=1).T  # (N, N)


def show_matrix(axes, matrix, title, number="{:.2f}", **colours):
    image = axes.imshow(matrix, **colours)
    for i in range(len(matrix)):
        for j in range(len(matrix)):
            red, green, blue, _ = image.to_rgba(matrix[i, j])
            letters = "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 0.45 else "white"
            shown = number.format(matrix[i, j])
            shown = shown if float(shown) else "0"  # no "-0.00"
            axes.text(j, i, shown, ha="center", va="center", color=letters, fontsize=8)
    axes.set(title=title, xlabel="text", ylabel="picture", xticks=range(len(matrix)), yticks=range(len(matrix)))
    return image


figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 3.4))
show_matrix(left, logits, "logits")
show_matrix(middle, logits.softmax(dim=1), "softmax of every row")
show_matrix(right, torch.eye(N), "the target: identity")
for axes in (left, middle):  # the ones of the target, laid over
    for i in range(N):
        axes.add_patch(Rectangle((i - 0.5, i - 0.5), 1, 1, fill=False, edgecolor="red", linewidth=2))

# %% [markdown]
# *Framed: where the target has its ones. Each panel has its own colours, from its smallest number to its largest:
# read the numbers.*
#
# ## What one picture pays
#
# Cross-entropy compares a target distribution $t$ with the model's $p$: $-\sum_j t_j \ln p_j$. In row *i* of the
# identity everything is zero but $t_i = 1$, so the sum has one term: $-\ln p_i$. Multiplying with such a
# row, a *one-hot* vector, *selects* a number.
#
# **Exercise 1.** Write the loss of the pictures as a beginner would. Multiply, *entry by entry*, the identity with
# the logarithm of the softmax of every row; add up each row; change the sign; take the mean over the rows. (Take
# `log_softmax`, both in one go: a softmax that is rounded to 0 has no logarithm.)


# %%
def onehot_loss(logits):
    """logits (N, N), row = picture -> the mean cross-entropy of the rows, against the identity matrix."""
    raise NotImplementedError


# %%
onehot_loss = check.onehot_loss(onehot_loss)

# %% [markdown]
# ## The same, without the zeros
#
# To *select* a number one need not multiply with N−1 zeros: its place is enough. The ones of the identity matrix
# stand in column 0 of row 0, column 1 of row 1, … so the places are 0, 1, …, N−1. That list is `torch.arange(N)`, and
# `F.cross_entropy(logits, labels)` takes places.
#
# **Exercise 2.** Write the same loss with labels.


# %%
def arange_loss(logits):
    """logits (N, N) -> the same number as onehot_loss, from labels instead of a matrix."""
    raise NotImplementedError


# %%
arange_loss = check.arange_loss(arange_loss)

# %% [markdown]
# Three formulas, one number, and one gradient. The third formula is the logarithm of the sum of a row's exponentials,
# minus the logit on the diagonal. A GPU program that never stores the matrix computes the loss in this way (lesson
# 14).


# %%
def lse_loss(logits):
    return (logits.logsumexp(dim=1) - logits.diagonal()).mean()


slopes = []
for name, formula in (("one-hot", onehot_loss), ("arange", arange_loss), ("log-sum-exp", lse_loss)):
    z = logits.clone().requires_grad_()  # (N, N)
    loss = formula(z)
    slopes += torch.autograd.grad(loss, z)
    print(f"{name:12} {loss:.6f}")
print(f"largest difference of their gradients: {max((slope - slopes[0]).abs().max() for slope in slopes):.0e}")

# %% [markdown]
# That they are equal for *every* N is the argument above; the check of exercise 2 tried small N and many logits. What
# differs is what they cost: the one-hot way reads a second N×N matrix, of which all but N entries are zero. Here are
# both, in bytes, for the batch of the paper ([Radford et al. 2021](https://arxiv.org/abs/2103.00020)).

# %%
batch = 32768
print(f"the identity matrix in float32: {4 * batch**2 / 2**30:.1f} GiB")
print(f"the labels in int64:            {8 * batch / 2**10:.0f} KiB")

# %% [markdown]
# (The logits are as large as that identity, and they remain. Lesson 15 gets rid of them, too.)
#
# ## Pictures choose texts, texts choose pictures
#
# Rows and columns have the same labels. The two losses are not the same for all that. A softmax over a *row* asks: of
# all texts, which is this picture's? A softmax over a *column* asks: of all pictures, which is this text's? The sums
# in the denominators run over different numbers.

# %%
loss_per_image, loss_per_text = arange_loss(logits), arange_loss(logits.T)
print(f"rows    {loss_per_image:.4f}")
print(f"columns {loss_per_text:.4f}")
print(f"half of both, CLIP's loss: {(loss_per_image + loss_per_text) / 2:.4f}")
print(f"minclip.clip_loss:         {minclip.clip_loss(image_features, text_features, logit_scale):.4f}")

# %% [markdown]
# How different can they be? Take two pictures of cats that look alike, so that both rows are equal, and two captions
# of which the second is far from everything, so that its column is zero:

# %%
lopsided = torch.tensor([[4.0, 0.0], [4.0, 0.0]])  # both pictures like text 0
print(f"rows    {arange_loss(lopsided):.4f}   (picture 1 chooses the wrong text, and is sure of it)")
print(f"columns {arange_loss(lopsided.T):.4f}   (each text finds both pictures equal: ln 2)")

# %% [markdown]
# ## The gradient by hand
#
# For one row, the loss is $\ln \sum_k e^{z_{ik}} - z_{ii}$. The derivative of $\ln u$ is $u' / u$, so the first term
# gives the softmax:
#
# $$\frac{\partial}{\partial z_{ij}} \ln \sum_k e^{z_{ik}} = \frac{e^{z_{ij}}}{\sum_k e^{z_{ik}}} = p_{ij}$$
#
# and the second gives $-1$ at $j = i$: *softmax minus one-hot*. So here the identity matrix is back, in the gradient,
# whichever way the loss was written.
#
# **Exercise 3.** Columns give the same with their own softmax. Put it together, with the mean over N and the half,
# and write the gradient of CLIP's loss. The check compares with autograd.


# %%
def logit_gradient(logits):
    """logits (N, N) -> the derivative of CLIP's loss (half rows, half columns) with respect to each of them, (N, N)."""
    raise NotImplementedError


# %%
logit_gradient = check.logit_gradient(logit_gradient)

# %% [markdown]
# On paper, with $P^\mathrm{row}$ (each row through the softmax) and $P^\mathrm{column}$ (each column):
#
# $$\frac{\partial L}{\partial z} = \frac{P^\mathrm{row} + P^\mathrm{column} - 2 I}{2N}$$

# %%
gradient = logit_gradient(logits)
figure, axes = plt.subplots(figsize=(5.4, 3.8))
largest = gradient.abs().max()
colours = {"cmap": "RdBu", "vmin": -largest, "vmax": largest}
image = show_matrix(axes, -gradient, "minus the gradient: + pulls, − pushes", "{:+.2f}", **colours)
bar = figure.colorbar(image, label="change of the logit, per unit of step")
print("sum over everything:", f"{gradient.sum():.1e}")

# %% [markdown]
# The diagonal is pulled up, the harder, the more of the probability it lacks; everything else is pushed down, the
# harder, the more it took. Picture 0 prefers text 2 (look at its row of the softmax), so these two are pushed apart
# hardest. The sum is zero up to rounding: raising all logits alike changes no softmax.
#
# ## What this lesson does not show
#
# Which of the forms is fastest (lesson 15 measures memory, lesson 17 counts operations), and what happens when two
# texts of a batch are the same: then the identity matrix is *wrong*, it says that an equal text is a negative (lesson
# 03).
#
# ## What you take away
#
# - The labels `arange(N)` *are* the identity matrix, written as the places of its ones. Same loss, same gradient, for
#   every N.
# - Rows and columns have the same labels and different denominators: two losses, and CLIP takes half of each.
# - The gradient is softmax over rows + softmax over columns − 2I, over 2N.
#
# Stuck? `from solutions.lesson_02 import onehot_loss`, or read [solutions/lesson_02.py](solutions/lesson_02.py).
