# %% [markdown]
# # 02 · arange or identity?
#
# **The question.** CLIP wants a matrix of similarities to become diagonal: every picture with its own text. Then why
# does all the code say `labels = torch.arange(N)`, and not "the target is the identity matrix"? This was asked on
# CLIP's own issue tracker ([openai/CLIP #301](https://github.com/openai/CLIP/issues/301)), and so was a related
# question: why do pictures and texts get the same labels ([#83](https://github.com/openai/CLIP/issues/83))?
#
# **You need** cosines, logits and the softmax (lesson 01), and derivatives.
#
# **Afterwards you can** write CLIP's loss in several ways, say why they give the same number, derive its gradient by
# hand, show that the picture loss and the text loss differ, and say what happens to a model that is asked for the
# identity literally.
#
# **Place.** Part I, *The idea and its loss*; after lesson 01. About 35 minutes.

# %%
import math

import check
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.patches import Rectangle
from splits import without_twins
from torch import nn

import minclip
from minclip import data
from minclip.images import Preprocess

torch.manual_seed(0)
plt.style.use("lesson.mplstyle")
torch.set_num_threads(1)  # networks as small as these train faster on one thread

# %% [markdown]
# ## A batch, and its matrix
#
# Here are five pictures and their five texts, as features that a half-trained model might give them: each text is its
# picture plus noise. Row *i* of the logits holds the cosines of picture *i* with all texts, times a scale (lesson 04).
# The text that belongs to it is in column *i*. (The scale of 5 and the amount of noise are our choice.)

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
        axes.add_patch(Rectangle((i - 0.47, i - 0.47), 0.94, 0.94, fill=False, edgecolor="white", linewidth=4))
        axes.add_patch(Rectangle((i - 0.47, i - 0.47), 0.94, 0.94, fill=False, edgecolor="red", linewidth=2))

# %% [markdown]
# *Framed: where the target has its ones. In each panel the colours run from its own smallest number to its own largest,
# so compare the numbers, not the colours.*
#
# ## What one picture pays
#
# Cross-entropy compares a target distribution $t$ with the model's $p$: $-\sum_j t_j \ln p_j$. In row *i* of the
# identity everything is zero except $t_i = 1$, so one term of the sum is left: $-\ln p_i$. Multiplying by such a row,
# a *one-hot* vector, *selects* a number.
#
# **Exercise 1.** Write the loss of the pictures as a beginner would. Multiply, *entry by entry*, the identity by the
# logarithm of the softmax of every row; add up each row; change the sign; take the mean over the rows. (Use
# `log_softmax`, which does both in one step: a softmax that is rounded to 0 has no logarithm.)


# %%
def onehot_loss(logits):
    """logits (N, N), row = picture -> the mean cross-entropy of the rows, against the identity matrix."""
    raise NotImplementedError


# %%
onehot_loss = check.onehot_loss(onehot_loss)

# %% [markdown]
# ## The same, without the zeros
#
# You do not need N − 1 multiplications by zero to select one number; its index is enough. The ones of the identity
# matrix are in column 0 of row 0, column 1 of row 1, and so on, so the indices are 0, 1, …, N − 1. That list is
# `torch.arange(N)`, and `F.cross_entropy(logits, labels)` takes such indices, one for each row, as its *labels*.
#
# **Exercise 2.** Write the same loss with labels.


# %%
def arange_loss(logits):
    """logits (N, N) -> the same number as onehot_loss, from labels instead of a matrix."""
    raise NotImplementedError


# %%
arange_loss = check.arange_loss(arange_loss)

# %% [markdown]
# Here are four formulas that give one number and one gradient. `F.cross_entropy` also accepts a whole distribution for
# each row, so it takes the identity matrix as it is. The last formula follows from $-\ln p_{ii}$: it is the logarithm
# of the sum of a row's exponentials, the *log-sum-exp*, minus the logit on the diagonal. A GPU program that never
# stores the matrix computes the loss in this way (lesson 17).


# %%
def eye_loss(logits):
    return F.cross_entropy(logits, torch.eye(len(logits)))


def lse_loss(logits):
    return (logits.logsumexp(dim=1) - logits.diagonal()).mean()


slopes = []
formulas = {"one-hot": onehot_loss, "identity": eye_loss, "arange": arange_loss, "log-sum-exp": lse_loss}
for name, formula in formulas.items():
    z = logits.clone().requires_grad_()  # (N, N)
    loss = formula(z)
    slopes += torch.autograd.grad(loss, z)
    print(f"{name:12} {loss:.6f}")
print(f"largest difference of their gradients: {max((slope - slopes[0]).abs().max() for slope in slopes):.0e}")

# %% [markdown]
# The argument above shows that they are equal for *every* N; the checks tried small N and many logits. They differ in
# cost: the one-hot form reads a second N×N matrix, in which all but N entries are zero. Here are the identity and the
# labels, in bytes, for the batch of the paper ([Radford et al. 2021](https://arxiv.org/abs/2103.00020)).

# %%
batch = 32768
print(f"the identity matrix in float32: {4 * batch**2 / 2**30:.1f} GiB")
print(f"the labels in int64:            {8 * batch / 2**10:.0f} KiB")

# %% [markdown]
# (The logits take the same 4 GiB, and labels do not save those. Lesson 15 does.)
#
# ## Pictures choose texts, texts choose pictures
#
# Rows and columns have the same labels, because the transpose of the identity is the identity. Even so, the two losses
# differ. A softmax over a *row* asks: of all texts, which is this picture's? A softmax over a *column* asks: of all
# pictures, which is this text's? The sums in the denominators run over different numbers.

# %%
loss_per_image, loss_per_text = arange_loss(logits), arange_loss(logits.T)
print(f"rows    {loss_per_image:.4f}")
print(f"columns {loss_per_text:.4f}")
print(f"CLIP's loss, their mean:   {(loss_per_image + loss_per_text) / 2:.4f}")
print(f"minclip.clip_loss:         {minclip.clip_loss(image_features, text_features, logit_scale):.4f}")

# %% [markdown]
# How different can they be? Take two pictures of cats that look alike, so that their rows are equal, and two captions,
# of which the second fits neither picture, so that its column is zero:

# %%
lopsided = torch.tensor([[4.0, 0.0], [4.0, 0.0]])  # both pictures like text 0
print(f"rows    {arange_loss(lopsided):.4f}   (picture 1 chooses the wrong text, and is sure of it)")
print(f"columns {arange_loss(lopsided.T):.4f}   (each text fits both pictures equally: ln 2)")

# %% [markdown]
# ## The gradient by hand
#
# For one row, the loss is $\ln \sum_k e^{z_{ik}} - z_{ii}$. The derivative of $\ln u$ is $u' / u$, so the first term
# gives the softmax:
#
# $$\frac{\partial}{\partial z_{ij}} \ln \sum_k e^{z_{ik}} = \frac{e^{z_{ij}}}{\sum_k e^{z_{ik}}} = p_{ij}$$
#
# and the second gives $-1$ at $j = i$: *softmax minus one-hot*. So the identity matrix is back, in the gradient,
# whichever way the loss was written.
#
# **Exercise 3.** Columns give the same with their own softmax. Put the two together and write the gradient of CLIP's
# loss. Remember that each loss is a mean over N, and that CLIP's loss is the mean of the two. The check compares with
# autograd.


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
bar = figure.colorbar(image, label="minus the gradient")
print("sum over everything:", f"{gradient.sum():.1e}")

# %% [markdown]
# Each entry of the diagonal is pulled up by the probability that it lacks, and every other entry is pushed down by the
# probability that it took. Picture 0 prefers text 2 (look at its row of the softmax), so these two are pushed apart
# hardest. The sum is zero up to rounding, because adding one number to all logits changes no softmax.
#
# ## The paper, line by line
#
# The paper gives the whole loss as pseudocode ([Figure 3](https://arxiv.org/abs/2103.00020)). Its lines are on the
# left; on the right is where they are here.
#
# | the paper | here |
# |---|---|
# | `I_e = l2_normalize(np.dot(I_f, W_i), axis=1)` | `F.normalize(image_features, dim=1)`; `W_i` is the last layer |
# | `T_e = l2_normalize(np.dot(T_f, W_t), axis=1)` | `F.normalize(text_features, dim=1)` |
# | `logits = np.dot(I_e, T_e.T) * np.exp(t)` | `logit_scale * …`, where `logit_scale` is `exp(t)` already |
# | `labels = np.arange(n)` | the columns of the ones in the identity matrix |
# | `loss_i = cross_entropy_loss(logits, labels, axis=0)` | one direction, and |
# | `loss_t = cross_entropy_loss(logits, labels, axis=1)` | the other: `arange_loss` of `logits` and `logits.T` |
# | `loss = (loss_i + loss_t)/2` | the mean of both |
#
# The paper does not say whether `axis=0` is the axis along which the softmax runs or the one that is left. For the sum
# it does not matter.
#
# ## The target, taken literally
#
# Back to the question. "The matrix should become the identity" can also be said without any softmax: make every
# *cosine* equal to the entry of the identity, with the loss $\sum_j (\cos_{ij} - I_{ij})^2$ for every row. What does
# this *squared error* lead to?
#
# First by hand. Suppose the model knows nothing, and all cosines are one number $c$. A row then pays $(1-c)^2 +
# (N-1)\,c^2$, which is least at $c = 1/N$: N − 1 zeros against a single one. (A softmax does not depend on $c$ at all.)
# So the literal target begins by making nearly everything a right angle, and the one in each row has little weight.
#
# Then by experiment. The two towers are small, with two layers each; one reads 16 × 16 pixels, the other a list of
# words. They are trained on the emoji of one artist with their names, and tested on the held-out compositions of lesson
# 00. Both losses get the same towers, order and number of steps, and the same learning rate, 0.003, with the same
# *warm-up* (it rises from near zero over the first tenth of the steps). Of 0.001, 0.003 and 0.01, this rate is the best
# for the squared error on validation pictures. (The softmax does a little better with another; without the warm-up, the
# squared error ends far lower.)

# %%
train, unseen = data.load_emoji(Preprocess(48, trim=True), artists=[data.OPENMOJI])
unseen = without_twins(unseen, train)
place_of = {word: i for i, word in enumerate(sorted({word for name in train.captions for word in name.split()}))}


def pixels_and_words(pairs):
    """Pixels (N, 768) and, for each caption, the words that it has (N, W); every row has length 1."""
    words = torch.zeros(len(pairs), len(place_of))
    for row, caption in zip(words, pairs.captions, strict=True):
        row[[place_of[word] for word in caption.split()]] = 1
    small = F.avg_pool2d(pairs.images[pairs.image_of_caption] / 255 - 0.5, 3)  # (N, 3, 16, 16)
    return F.normalize(small.flatten(1), dim=1), F.normalize(words, dim=1)


def softmax_loss(cosines, scale):
    return (arange_loss(scale * cosines) + arange_loss(scale * cosines.T)) / 2


def squared_loss(cosines, scale):
    return (cosines - torch.eye(len(cosines))).square().sum(dim=1).mean()


(pixels, words), (new_pixels, new_words) = pixels_and_words(train), pixels_and_words(unseen)
print(f"{len(pixels):,} pairs to train on, {len(new_pixels)} unseen compositions, {len(place_of):,} words")


# %%
def tower(inputs):
    return nn.Sequential(nn.Linear(inputs, 128), nn.GELU(), nn.Linear(128, 64))


def train_with(loss_of, epochs, batch=128, rate=0.003):
    """After every fifth epoch: the epoch, top-1 in percent, and the mean cosine of a right pair, on the unseen."""
    torch.manual_seed(0)
    of_image, of_text = tower(pixels.shape[1]), tower(words.shape[1])
    log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    parameters = [*of_image.parameters(), *of_text.parameters(), log_scale]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.1, fused=True)
    steps = epochs * (len(pixels) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1, cycle_momentum=False)
    seen = []
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(len(pixels))[: len(pixels) // batch * batch].view(-1, batch):
            image, text = F.normalize(of_image(pixels[rows]), dim=1), F.normalize(of_text(words[rows]), dim=1)
            loss = loss_of(image @ text.T, log_scale.exp())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                log_scale.clamp_(max=math.log(100))
        if epoch % 5 == 0:
            with torch.no_grad():
                cosines = F.normalize(of_image(new_pixels), dim=1) @ F.normalize(of_text(new_words), dim=1).T
            right = (cosines.argmax(dim=1) == torch.arange(len(cosines))).double().mean()
            seen.append((epoch, 100 * right.item(), cosines.diagonal().mean().item()))
    return seen


EPOCHS = check.pick(60, 10)
softmax = train_with(softmax_loss, EPOCHS)
print(f"softmax: top-1 {softmax[-1][1]:.0f} %, mean cosine of a right pair {softmax[-1][2]:.2f}")

# %% [markdown]
# Now the squared error. What top-1 do you expect, in percent? **Make a guess first**: put a number in place of `None`.

# %%
check.predict("02: top-1 of the squared error, in percent", None)

# %%
squared = train_with(squared_loss, EPOCHS)
check.reveal("02: top-1 of the squared error, in percent", squared[-1][1], within=10)
print(f"mean cosine of a right pair: {squared[-1][2]:.2f}")

# %% jupyter={"source_hidden": true}
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.4))
for name, seen, style in (("softmax", softmax, "-o"), ("(cos − I)²", squared, "--s")):
    epochs, top1, cosine = zip(*seen, strict=True)
    left.plot(epochs, top1, style, label=name, markersize=4)
    right.plot(epochs, cosine, style, label=name, markersize=4)
left.set(xlabel="epochs", ylabel="%", title="unseen compositions named right", ylim=(0, 100))
right.set(xlabel="epochs", ylabel="cosine", title="mean cosine of a right pair", ylim=(0, 1))
_ = left.legend()

# %% [markdown]
# The squared error is far behind, and its right pairs never get near the cosine of 1 that they were asked for: the
# zeros outweigh them. Both curves flatten at the end, but there the learning rate sinks to nothing, which flattens any
# curve. With 160 epochs (try it: `EPOCHS`) both gain a few percent, and the gap stays.
#
# There is a remedy: give the one in each row the weight of all the zeros together (try it: exercise 1 at the end). That
# comes close to a loss that is well understood, the spectral contrastive loss ([HaoChen et al.
# 2021](https://arxiv.org/abs/2106.04156)). So the answer to "why not the identity?" has two halves. As a target of the
# *softmax*, the identity is what the labels say. As a target of the *cosines*, it asks mostly for right angles: N − 1
# of them for each pair.
#
# ## The plain answer
#
# The labels `arange(N)` *are* the identity matrix, written as the columns of its ones: same loss, same gradient, for
# every N. What must not be taken literally is the matrix of cosines: only the softmax is compared with the identity.
#
# **What this lesson does not show.** Which of the forms is fastest (lesson 15 measures memory, lesson 17 counts
# operations). What happens when two texts of a batch are equal: then the identity matrix is *wrong*, because it calls
# an equal text a negative (lesson 03). The experiment has one seed and two small towers.
#
# **Harder, without a solution.**
#
# 1. Weight the diagonal of the squared error with N − 1. How much of the gap does that close?
# 2. Give the cosines of the squared error the learned scale, or a learned bias. Which of them helps?
# 3. Show that the gradient of CLIP's loss sums to zero over the whole matrix, but not over a row. What is a row's sum?
#
# Stuck? `check.hint("onehot_loss")`, `from solutions.lesson_02 import onehot_loss`, or read
# [solutions/lesson_02.py](solutions/lesson_02.py).
