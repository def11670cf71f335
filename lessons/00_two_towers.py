# %% [markdown]
# # 00 · Two towers in a minute
#
# **The question.** What does a trained CLIP do? This lesson is not about how it is built or how it learned, but about
# what goes in, what comes out, and what you can use it for.
#
# **You need** Python, and a first acquaintance with PyTorch tensors.
#
# **Afterwards you can** load a CLIP, search pictures with words, make a classifier out of words that you type, and say
# what its answer means and what it does not mean.
#
# **Place.** Part I, *The idea and its loss*; the first lesson. About 15 minutes.

# %%
import csv
import textwrap
from collections import Counter
from pathlib import Path

import check
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from splits import without_twins

import minclip
from minclip import data, evaluate

plt.style.use("lesson.mplstyle")
model, preprocess, tokenizer = minclip.load()
print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters")

# %% [markdown]
# ## Two towers
#
# CLIP ([Radford et al. 2021](https://arxiv.org/abs/2103.00020)) consists of two networks side by side, its *towers*.
# One reads a picture, the other a text. Each returns a list of numbers, called a *feature* (or an **embedding**), and
# both lists have the same length. The towers never look at each other; all they share is the space in which their
# features live. Training turns the features of a picture and of its own text towards the same direction in that space.

# %% jupyter={"source_hidden": true}
figure, axes = plt.subplots(figsize=(9.5, 3.4))
axes.set(xlim=(0, 10), ylim=(0, 3.4))
axes.axis("off")
towers = (
    (2.55, "image tower", "0.82", data.OPENMOJI.draw(data.code_points("🐕"), 144), "the picture’s feature"),
    (0.85, "text tower", "0.93", "“a dog”", "the text’s feature"),
)
generator = torch.Generator().manual_seed(0)
shared = torch.randn(1, 24, generator=generator)
for y, name, shade, given, feature_of in towers:
    axes.text(3.9, y, name, ha="center", va="center", fontsize=12, bbox={"fc": shade, "ec": "black", "pad": 14})
    if isinstance(given, str):
        axes.text(1.0, y, given, ha="center", va="center", fontsize=13)
    else:
        axes.imshow(given, extent=(0.5, 1.5, y - 0.5, y + 0.5), aspect="auto")
    for start, end in ((1.7, 2.65), (5.15, 6.1)):
        axes.annotate("", (end, y), (start, y), arrowprops={"arrowstyle": "->", "lw": 1.6})
    strip = shared + 0.5 * torch.randn(1, 24, generator=generator)
    axes.imshow(strip, extent=(6.25, 8.05, y - 0.13, y + 0.13), aspect="auto", cmap="RdBu", vmin=-2.5, vmax=2.5)
    axes.text(7.15, y + 0.28, f"{feature_of}: {model.config.embed_dim} numbers", ha="center", fontsize=9)
    axes.annotate("", (9.0, 1.7 + 0.28 * (y > 1.7) - 0.14), (8.15, y), arrowprops={"arrowstyle": "->", "lw": 1.6})
axes.text(9.1, 1.7, "cosine", va="center", fontsize=12)
_ = figure.supxlabel(data.OPENMOJI.credit, fontsize=7)

# %% [markdown]
# *The stripes stand for the numbers of a feature; their colours are made up. The **cosine** is the number that compares
# the two features; it is explained below.*
#
# This model is small: it learned from the emoji of two artists, with their English names and some keywords (the
# [model card](../minclip/weights/MODEL_CARD.md) tells how). An *artist* in this course is a whole set of emoji drawn in
# one style; these two are called OpenMoji and Twemoji.
#
# ## A search box
#
# The features of all pictures can be computed in advance. A search then runs the text tower once, and finds the
# pictures whose features point most nearly in the direction of the text. It looks at pixels only, never at file names
# or captions.
#
# **Type your own words** into `QUERIES` and run that cell again.

# %%
everything = data.load_artist(data.OPENMOJI, preprocess)  # draws them the first time: a few seconds
basic = everything.select([i for i, origin in enumerate(everything.origins) if data.is_basic(origin.codes)])
with torch.no_grad():  # we only use the model, so PyTorch need not prepare for gradients
    pictures = F.normalize(evaluate.image_features(model, basic.images), dim=1)  # (P, E)
print(f"{len(pictures):,} pictures")


@torch.no_grad()
def search(query, k=6):
    """The k pictures nearest to a text: their indices and their cosines."""
    text = F.normalize(model.encode_text(tokenizer([query])), dim=1)  # (1, E)
    cosine, place = (pictures @ text.T)[:, 0].topk(k)  # (k,) each
    return place.tolist(), cosine.tolist()


# %%
QUERIES = ["insect", "a cat", "music", "someone who is laughing"]

figure, grid = plt.subplots(len(QUERIES), 7, figsize=(10, 1.4 * len(QUERIES)), squeeze=False)
for (words, *row), query in zip(grid, QUERIES, strict=True):
    words.text(1, 0.5, f"“{textwrap.fill(query, 14)}”", ha="right", va="center", fontsize=10)
    words.axis("off")
    for axes, place, cosine in zip(row, *search(query), strict=True):
        axes.imshow(basic.origins[place].open(144))
        axes.set_title(f"{cosine:.2f}", fontsize=8)
        axes.axis("off")
_ = figure.supxlabel(data.OPENMOJI.credit, fontsize=7)

# %% [markdown]
# *Above each picture: its cosine with the text.*
#
# The word "insect" is not in the name of any emoji (there are an ant, a bug, a beetle, …): the model met it among the
# keywords. We chose these four queries because they work, and even here a bagel is laughing. Others work worse; you
# will see some below.
#
# ## What the numbers are
#
# How alike are two features $x$ and $y$? CLIP looks only at their directions: the **cosine** of the angle between them,
#
# $$\cos(x, y) = \frac{\sum_d x_d y_d}{\lvert x \rvert \, \lvert y \rvert}$$
#
# in words: divide each by its length, multiply number by number, and add up. It is 1 for the same direction, 0 for a
# right angle, −1 for opposite directions. `F.normalize` does the dividing, and a matrix product does the rest for all
# pairs at once.
#
# *Letters in comments like `(P, E)` are the sizes of a tensor's axes: P pictures, N texts, C classes, E numbers in a
# feature, pictures of R × R pixels, texts of T tokens.*

# %%
drawing = data.OPENMOJI.draw(data.code_points("🐕"), 144)
image = preprocess(drawing)[None]  # (1, 3, R, R): one picture, three colours
text = tokenizer(["dog", "a horse, of course"])  # (2, T): two texts, one number for each token

with torch.no_grad():
    image_features = model.encode_image(image)  # (1, E)
    text_features = model.encode_text(text)  # (2, E)
print("picture ", tuple(image.shape), "->", tuple(image_features.shape))
print("texts   ", tuple(text.shape), "      ->", tuple(text_features.shape))
cosine = F.normalize(image_features, dim=1) @ F.normalize(text_features, dim=1).T  # (1, 2)
for label, value in zip(("dog", "a horse, of course"), cosine[0].tolist(), strict=True):
    print(f"cosine of the drawing of a dog with {label!r}: {value:5.2f}")

# %% [markdown]
# `preprocess` crops the picture to what is drawn on it, resizes it to R × R pixels, and shifts and scales its colours.
# The tokenizer turns a text into a row of integers, one for each **token** (a word or a piece of one: lesson 05), with
# zeros after the end of the shorter text.
#
# ## Before and after training
#
# Now several pictures and their captions. They come from 400 emoji that were **held out**: the model was never
# trained on these pictures or on these captions. It has met every *word* of the captions, but in other captions. (A
# few of the 400 have the same drawing as a training emoji with another name. `without_twins` leaves them out.) The
# rows are pictures, the columns are texts, and each square is their cosine. On the left is the same network *before*
# training, with random parameters; on the right is the trained one.

# %%
train, unseen = data.load_emoji(preprocess, artists=[data.OPENMOJI])
unseen = without_twins(unseen, train)
met = {word for caption in train.captions for word in caption.split()}
words = " ".join(unseen.captions).split()
print(f"{len(unseen)} held out; every word of their captions was met: {met.issuperset(words)}")
CAPTIONS = [
    *("raised hand", "police officer", "woman fairy", "woman firefighter", "down arrow", "black cat"),
    *("man surfing light skin tone", "man surfing medium-dark skin tone"),
]
chosen = [unseen.captions.index(caption) for caption in CAPTIONS]


@torch.no_grad()
def features(model, images, texts):
    """Pictures (P, 3, R, R) and N texts -> features (P, E) and (N, E), each of length 1."""
    image_features = model.encode_image(data.normalize(images))  # (P, E); normalize is the last step of preprocess
    text_features = model.encode_text(tokenizer(texts, model.config.context_length))  # (N, E)
    return F.normalize(image_features, dim=1), F.normalize(text_features, dim=1)


torch.manual_seed(0)
untrained = minclip.CLIP(model.config).eval()
matrices = []
for network in (untrained, model):
    of_pictures, of_texts = features(network, unseen.images[chosen], CAPTIONS)
    matrices.append(of_pictures @ of_texts.T)  # (P, P)

# %% jupyter={"source_hidden": true}
figure, both = plt.subplots(1, 2, figsize=(10.5, 5.6))
for axes, matrix, title in zip(both, matrices, ("before training", "after training"), strict=True):
    squares = axes.imshow(matrix, cmap="RdBu", vmin=-0.6, vmax=0.6)
    for row, column in [(row, column) for row in range(len(matrix)) for column in range(len(matrix))]:
        value = matrix[row, column].item()
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7.5, color="kw"[abs(value) > 0.4])
    axes.set_xticks(range(len(CAPTIONS)), CAPTIONS, rotation=40, ha="right", fontsize=8)
    axes.set(title=title, yticks=[], xlabel="text")
    axes.set_ylabel("picture", labelpad=34)
    for row, place in enumerate(chosen):
        thumbnail = axes.inset_axes((-0.115, 1 - (row + 1) / len(matrix), 0.11, 1 / len(matrix)))
        thumbnail.imshow(unseen.origins[place].open(144))
        thumbnail.axis("off")
figure.colorbar(squares, ax=both, label="cosine", shrink=0.7)
_ = figure.supxlabel(data.OPENMOJI.credit, fontsize=7)

# %%
for matrix, when in zip(matrices, ("before", "after"), strict=True):
    right = int((matrix.argmax(dim=1) == torch.arange(len(matrix))).sum())
    print(f"{when:6} training the nearest text is the right one for {right} of {len(matrix)} pictures")
own = matrix.diagonal().tolist()
print(f"after training a right pair has a cosine of {min(own):.2f} to {max(own):.2f}")

# %% [markdown]
# Before training, all rows are nearly equal: the network gives every picture almost the same features. After it, the
# diagonal stands out, where a picture meets its own text. A strong diagonal is all that CLIP is trained for, and
# lessons 01 to 04 are about it. Off the diagonal not everything is pale: two men on surfboards *are* alike, and so are
# their captions. The model was never trained on the black cat: it has to put it together from cats and from black
# things. And no right pair comes near 1. It does not have to, as long as the wrong ones have less (lesson 10).
#
# ## A classifier out of words
#
# An ordinary classifier has its classes built in. Here a class is a text, so you write the classes down and the text
# tower does the rest: the nearest text wins. This is called **zero-shot** classification, because the classifier was
# given no examples of its classes.
#
# To turn cosines into shares that add up to 1, CLIP multiplies them by a number that it learned, the *logit scale*
# $s$ (the model stores $\ln s$, hence the `.exp()`; lesson 04 says why), and takes the **softmax**:
#
# $$p_j = \frac{e^{s \cos(x, y_j)}}{\sum_k e^{s \cos(x, y_k)}}$$
#
# where $x$ is the picture and $y_j$ is the *j*-th text; in words: raise $e$ to each scaled cosine, and divide by the
# sum over all texts that you typed.
#
# The pictures are from *Noto Color Emoji*, Noto for short: an artist whose drawings the model has never seen, neither
# in training nor when its settings were chosen. **Type your own words** into `LABELS`; `noto/noto.csv` has the names of
# sixty pictures to choose from.

# %%
NOTO = Path("noto")
LABELS = ["cat", "dog", "horse", "other"]
PICTURES = ["cat", "dog face", "horse face", "tiger", "octopus", "broccoli"]

drawings = [data.load_image(NOTO / f"{name.replace(' ', '_')}.png") for name in PICTURES]
with torch.no_grad():
    images = model.encode_image(torch.stack([preprocess(drawing) for drawing in drawings]))  # (P, E)
    labels = model.encode_text(tokenizer(LABELS))  # (C, E)
    cosines = F.normalize(images, dim=1) @ F.normalize(labels, dim=1).T  # (P, C)
    shares = (model.logit_scale.exp() * cosines).softmax(dim=1)  # (P, C)
print(f"logit scale of this model: {model.logit_scale.exp():.1f}")

# %% jupyter={"source_hidden": true}
rows = -(-len(PICTURES) // 3)
figure, grid = plt.subplots(rows, 6, figsize=(10.5, rows * (0.9 + 0.28 * len(LABELS))), width_ratios=[1, 1.6] * 3)
for axes in grid.flat:
    axes.axis("off")
for i, name in enumerate(PICTURES):
    picture, bars = grid.flat[2 * i : 2 * i + 2]
    picture.imshow(drawings[i])
    picture.set_title(name, fontsize=9)
    bars.axis("on")
    bars.barh(range(len(LABELS)), shares[i], color="0.6")
    for j in range(len(LABELS)):
        bars.text(shares[i, j] + 0.03, j, f"{shares[i, j]:.2f}", va="center", fontsize=8)
    named = [f"{label}\ncos {c:.2f}" for label, c in zip(LABELS, cosines[i].tolist(), strict=True)]
    bars.set_yticks(range(len(LABELS)), named, fontsize=7)
    bars.set(xlim=(0, 1.35), xticks=[0, 1])
    bars.set_xlabel("share", fontsize=8)
    bars.invert_yaxis()
_ = figure.supxlabel("Noto Color Emoji, SIL OFL 1.1", fontsize=7)

# %% [markdown]
# *Beside each bar: the label and its cosine; after it, the share.* The broccoli is a dog, with a share of 1.00. Two
# things to see.
#
# - The shares always add up to 1, *whatever is in the picture*. The broccoli has to go somewhere. "other" does not mean
#   "none of these": it is one more word, and it wins only where its cosine happens to be the largest (lesson 11).
# - A share near 1 is no promise: the dog's face is a cat, with a share of 0.98. The cosines behind it may all be low.
#
# ## Exercise
#
# Write the classifier: for each picture, the index of the nearest label, which is the one with the largest *cosine*.
# The features come straight from the towers, so their lengths differ. Until you have solved it, the lesson goes on
# with our solution; what you solve is kept in `lessons/mine/`, for the lessons that need it. If you do not know how to
# begin, call `check.hint("nearest_label")`; each call gives one more hint.


# %%
def nearest_label(image_features, label_features):
    """Features (P, E) of pictures and (C, E) of labels -> index of the nearest label of each picture, (P,) int64."""
    raise NotImplementedError


# %%
nearest_label = check.nearest_label(nearest_label)

# %% [markdown]
# ## How good is it?
#
# Here is your classifier on everything that was held out, each picture against the captions of all:

# %%
count = check.pick(len(unseen), 100)  # all of them; the 100 is for the automatic tests
nearest = nearest_label(*features(model, unseen.images[:count], unseen.captions[:count]))  # (count,)
top1 = (nearest == torch.arange(count)).double().mean()
print(f"the right one of {count} captions comes first for {100 * top1:.1f} %, by chance for {100 / count:.2f} %")

# %% [markdown]
# This is called **top-1** accuracy. So it manages new combinations by an artist whose other drawings it knows. What
# about an artist whom it does not know? Of Noto's sixty pictures, 39 show animals. How many of them will the classes
# {cat, dog, horse, other} get right? ("other" is right for every animal that is none of the three.) **Make a guess
# first**: put a number in place of `None`.

# %%
check.predict("00: animals named right, of 39", None)

# %%
CLASSES = ["cat", "dog", "horse", "other"]
with (NOTO / "noto.csv").open() as lines:
    animals = [row for row in csv.DictReader(lines) if row["class"]]
with torch.no_grad():
    images = model.encode_image(torch.stack([preprocess(data.load_image(NOTO / row["image"])) for row in animals]))
    labels = model.encode_text(tokenizer(CLASSES))  # (C, E)
said = [CLASSES[place] for place in nearest_label(images, labels)]
is_class = [row["class"] if row["class"] in CLASSES else "other" for row in animals]
correct = sum(answer == truth for answer, truth in zip(said, is_class, strict=True))
check.reveal("00: animals named right, of 39", correct, within=4)
for name in CLASSES:
    answers = Counter(answer for answer, truth in zip(said, is_class, strict=True) if truth == name)
    named = ", ".join(f"{count} × {answer}" for answer, count in answers.most_common())
    print(f"{name:5} {answers[name]:2} of {answers.total():2} right; it says {named}")
print(f'guessing gets {len(said) / 4:.0f} of {len(said)} right; "other" every time gets {is_class.count("other")}')

# %% [markdown]
# That is better than guessing among four, and much worse than always saying "other". It calls both cats a cat, but also
# eight animals that are none of the three. It knows animals as two artists drew them, and little beyond (lesson 12).
# The [model card](../minclip/weights/MODEL_CARD.md) tells how often it finds the right one among *all* of Noto's names.
#
# The search box has limits as well. A sentence of a kind that it was not trained on still finds whatever is nearest,
# and the cosines hardly warn you:

# %%
for query in ("a plane that lands", "a bird with colourful feathers", "something to eat"):
    places, cosines = search(query, 3)
    found = ", ".join(f"{basic.captions[place]} {value:.2f}" for place, value in zip(places, cosines, strict=True))
    print(f"{query!r} finds {found}")

# %% [markdown]
# ## The plain answer
#
# A trained CLIP maps pictures and texts into one space, where a cosine says how well they fit. Searching pictures with
# words, and classifying with classes that you type, are two uses of that one number.
#
# **What this lesson does not show.** That it works on photographs: the model has seen drawings by two artists, and
# nothing else. That it understands: it has seen every word of those captions, and combinations of the same kind
# (lesson 08). That a share is the probability of being right: it is a share among the texts that you happened to type.
#
# **Harder, without a solution.**
#
# 1. Search with a picture instead of a text. Which pictures are nearest to Noto's cat?
# 2. Subtract and add: is there a text whose features are near "woman firefighter" − "woman" + "man"?
# 3. "dog" has a cosine of 0.18 with the broccoli, "vegetable" less than half of that. Find a text that fits and beats
#    "dog".
#
# The whole course at a glance, with what you have solved so far:

# %%
check.progress()

# %% [markdown]
# Stuck? `from solutions.lesson_00 import nearest_label`, or read
# [solutions/lesson_00.py](solutions/lesson_00.py).
