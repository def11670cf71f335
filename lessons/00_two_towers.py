# %% [markdown]
# # 00 · Two towers in a minute
#
# **The question.** What does a trained CLIP do? Not how it is built, nor how it learned: what goes in, what comes
# out, and what one can ask of it.
#
# **You need** Python, and to have seen a PyTorch tensor.
#
# **Afterwards you can** load a CLIP, compare any pictures with any texts, make a classifier out of words that you
# type, and say what its answer means and what it does not mean.

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
from minclip import data

plt.style.use("lesson.mplstyle")
model, preprocess, tokenizer = minclip.load()

# %% [markdown]
# ## Two towers
#
# CLIP ([Radford et al. 2021](https://arxiv.org/abs/2103.00020)) is two networks that stand side by side, its
# *towers*. One reads a picture, the other a text. Each ends in a list of numbers of the same length, called
# *features* (or an embedding). The two towers never look at each other; all that they share is the room in which
# their features live.
#
# This one is small: it learned from the emoji of two artists, with their English names and some keywords
# ([how](../minclip/weights/MODEL_CARD.md)). Here are a picture and two texts on their way through it. `preprocess` cuts
# the picture to what is drawn on it, brings it to R × R pixels, and shifts its colours; a text becomes a row of whole
# numbers, one for each *token* (a word or a piece of one: lesson 05), with zeros behind the shorter text.

# %%
drawing = data.OPENMOJI.draw("1F415", 144)  # 1F415 is the number of the dog in Unicode
image = preprocess(drawing)[None]  # (1, 3, R, R): one picture, three colours
text = tokenizer(["dog", "a horse, of course"])  # (2, T): two texts, one number for each token

with torch.no_grad():  # we only use the model, so PyTorch need not prepare for gradients
    image_features = model.encode_image(image)  # (1, E)
    text_features = model.encode_text(text)  # (2, E)

print("picture ", tuple(image.shape), "->", tuple(image_features.shape))
print("texts   ", tuple(text.shape), "      ->", tuple(text_features.shape))
print(f"the model has {sum(parameter.numel() for parameter in model.parameters()):,} parameters")

# %% [markdown]
# *Letters in comments like `(1, 3, R, R)` are the sizes of the tensor's axes: R the side of a picture in pixels, T
# the places of a text, E the numbers in a feature; later P pictures, N texts, C classes.*
#
# How alike are two features $x$ and $y$? CLIP looks only at their directions: the *cosine* of the angle between them,
#
# $$\cos(x, y) = \frac{\sum_d x_d y_d}{\lvert x \rvert \, \lvert y \rvert}$$
#
# in words: divide each by its length, multiply number by number, and add up. It is 1 for the same direction, 0 for a
# right angle, −1 for the opposite. `F.normalize` does the dividing, and a product of matrices does the rest for all
# pairs at once.

# %%
cosine = F.normalize(image_features, dim=-1) @ F.normalize(text_features, dim=-1).T  # (1, 2)
for label, value in zip(("dog", "a horse, of course"), cosine[0].tolist(), strict=True):
    print(f"cosine of the drawing of a dog with {label!r}: {value:5.2f}")

# %% [markdown]
# ## Before and after training
#
# Now several pictures and their captions. They come from 400 emoji that were **held out**: the model was never
# trained on these pictures, nor on these captions. Every *word* of the captions it has met, in other company. (A few
# of the 400 have the same drawing as an emoji of the training, under another name. `without_twins` leaves them out.)
# The next two cells compute the cosines of all pairs and draw them: the rows are pictures, the columns are texts, and
# a square is their cosine. On the left the same network *before* training, with random numbers for parameters; on the
# right the trained one.

# %%
train, unseen = data.load_emoji(preprocess, artists=[data.OPENMOJI])  # draws all of them the first time: a few seconds
unseen = without_twins(unseen, train)
met = {word for caption in train.captions for word in caption.split()}
print(
    f"{len(unseen)} held out; every word of their captions was met:", met.issuperset(" ".join(unseen.captions).split())
)
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
    return F.normalize(image_features, dim=-1), F.normalize(text_features, dim=-1)


torch.manual_seed(0)
untrained = minclip.CLIP(model.config).eval()
matrices = []
for network in (untrained, model):
    pictures, texts = features(network, unseen.images[chosen], CAPTIONS)
    matrices.append(pictures @ texts.T)  # (P, P)

# %%
figure, both = plt.subplots(1, 2, figsize=(10.5, 5.6))
for axes, matrix, title in zip(both, matrices, ("before training", "after training"), strict=True):
    squares = axes.imshow(matrix, vmin=-1, vmax=1)
    for row, column in [(row, column) for row in range(len(matrix)) for column in range(len(matrix))]:
        value = matrix[row, column].item()
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7.5, color="wk"[value > 0.3])
    axes.set_xticks(range(len(CAPTIONS)), CAPTIONS, rotation=40, ha="right", fontsize=8)
    axes.set(title=title, yticks=[], xlabel="text")
    axes.set_ylabel("picture", labelpad=34)
    for row, place in enumerate(chosen):
        thumbnail = axes.inset_axes((-0.115, 1 - (row + 1) / len(matrix), 0.11, 1 / len(matrix)))
        thumbnail.imshow(unseen.origins[place].open(144))
        thumbnail.axis("off")
figure.colorbar(squares, ax=both, label="cosine", shrink=0.7)
figure.supxlabel(data.OPENMOJI.credit, fontsize=7)

for matrix, when in zip(matrices, ("before", "after"), strict=True):
    wrong = {CAPTIONS[row]: CAPTIONS[best] for row, best in enumerate(matrix.argmax(dim=1).tolist()) if best != row}
    print(
        f"{when:6} training the nearest text is the right one for {len(matrix) - len(wrong)} of {len(matrix)} pictures"
    )
for caption, nearest in wrong.items():
    print(f"after training the picture of {caption!r} is nearest to {nearest!r}")
own = matrix.diagonal().tolist()
print(f"after training a right pair has a cosine of {min(own):.2f} to {max(own):.2f};", end=" ")
row, column = divmod(matrix.masked_fill(torch.eye(len(matrix), dtype=torch.bool), -1).argmax().item(), len(matrix))
print(f"the brightest wrong one is {CAPTIONS[row]!r} with {CAPTIONS[column]!r}, {matrix[row, column]:.2f}")

# %% [markdown]
# Before, all rows are much the same: the network gives every picture nearly the same features. After, the diagonal
# stands out, where a picture meets its own text. A bright diagonal is all that CLIP is trained for, and lessons 01 to
# 04 are about it. Off the diagonal not everything is dark: two men on surfboards *are* alike, and so are their
# captions. The black cat stood in no training: it has to be put together from cats and from black things. And look
# at the numbers in the last line: no right pair comes near 1. It does not have to, as long as the wrong ones have
# less. Lesson 10 explains why.
#
# ## A classifier out of words
#
# An ordinary classifier has its classes built in. Here a class is a text, so you write the classes down and the text
# tower does the rest: the nearest text wins. This is called *zero-shot* classification, because the classifier was
# shown no examples.
#
# To turn cosines into shares that add up to 1, CLIP multiplies them by a number that it learned, the *logit scale*
# $s$ (the model stores $\ln s$, hence the `.exp()`; why, is lesson 04), and takes the *softmax*:
#
# $$p_j = \frac{e^{s \cos(x, y_j)}}{\sum_k e^{s \cos(x, y_k)}}$$
#
# in words: raise $e$ to each scaled cosine, and divide by the sum over all texts that you typed.
#
# The drawings of the first row are among those that the model was trained on. The second row is by another artist,
# *Noto*, of whom it has seen nothing. Before you look: will it know the same animals again?
#
# **Type your own words** into `LABELS` and run the cell again. Three to begin with: will the banana be called
# "fruit", if you add that? The broccoli is none of the four, and goes to one of them: which word takes it away from
# there, its own name or another? And this model knows only the words that emoji are described with: type "submarine",
# which is not among them, and see how sure the answers look.

# %%
LABELS = ["cat", "dog", "horse", "other"]
NOTO = Path("noto")  # sixty drawings of the other artist
KNOWN = {"cat": "1F408", "dog": "1F415", "horse": "1F40E", "cat face": "1F431", "banana": "1F34C"}
NEW = ["cat", "dog", "horse", "cat face", "broccoli"]

drawings = [data.OPENMOJI.draw(codes, 144) for codes in KNOWN.values()]
drawings += [data.load_image(NOTO / f"{name.replace(' ', '_')}.png") for name in NEW]
with torch.no_grad():
    images = model.encode_image(torch.stack([preprocess(drawing) for drawing in drawings]))  # (P, E)
    labels = model.encode_text(tokenizer(LABELS))  # (C, E)
    cosines = F.normalize(images, dim=-1) @ F.normalize(labels, dim=-1).T  # (P, C)
    shares = (model.logit_scale.exp() * cosines).softmax(dim=-1)  # (P, C)

figure, grid = plt.subplots(2, 10, figsize=(12, 1.3 + 0.5 * len(LABELS)), width_ratios=[1, 1.5] * 5)
for i, name in enumerate([*KNOWN, *NEW]):
    picture, bars = grid[i // 5][i % 5 * 2 : i % 5 * 2 + 2]
    picture.imshow(drawings[i])
    picture.axis("off")
    picture.set_title(name if i < 5 else f"{name}\nby Noto", fontsize=9)
    bars.barh(range(len(LABELS)), shares[i], color="0.55")
    for j in range(len(LABELS)):
        bars.text(shares[i, j] + 0.03, j, f"{shares[i, j]:.2f}", va="center", fontsize=8)
    named = [f"{label}\ncos {c:.2f}" for label, c in zip(LABELS, cosines[i].tolist(), strict=True)]
    bars.set_yticks(range(len(LABELS)), named, fontsize=7)
    bars.set(xlim=(0, 1.35), xticks=[0, 1])
    bars.invert_yaxis()
    if i >= 5:
        bars.set_xlabel("share", fontsize=8)
figure.supxlabel(f"{data.OPENMOJI.credit}; Noto Color Emoji, SIL OFL 1.1", fontsize=7)
print(f"logit scale of this model: {model.logit_scale.exp():.1f}")
answers = [LABELS[best] for best in shares.argmax(dim=1).tolist()]
for artist, part, names in (("OpenMoji", range(5), KNOWN), ("Noto", range(5, 10), NEW)):
    said = [f"{name} → {answers[i]} {shares[i].max():.2f}" for i, name in zip(part, names, strict=True)]
    highest = ", ".join(f"{cosines[i].max():.2f}" for i in part)
    print(f"{artist + ':':9} {', '.join(said)}\n{'':9} highest cosines: {highest}")

# %% [markdown]
# Three things to see.
#
# - In the first row every animal gets its name. That is no test: these are *training* pictures.
# - In the second row some do, and some do not. Compare the two rows by their cosines: with the animals that it was
#   trained on, the highest is clearly higher than with another artist's. The shares do not show that. A share near 1
#   is no promise: look at the broccoli.
# - The shares always add up to 1, *whatever is in the picture*. A broccoli has to go somewhere. "other" does not mean
#   "none of these": it is one more word, and it wins where its cosine happens to be the largest. That may be right for
#   the banana and wrong for the broccoli. Lesson 10 measures how well it works.
#
# ## Exercise
#
# Write the classifier: for each picture the place of the nearest label, the one with the largest *cosine*. The
# features come as the towers give them, so they have any length.


# %%
def nearest_label(image_features, label_features):
    """Features (P, E) of pictures and (C, E) of labels -> index of the nearest label of each picture, (P,) int64."""
    raise NotImplementedError


# %%
nearest_label = check.nearest_label(nearest_label)

# %% [markdown]
# ## Twenty pictures that it never saw
#
# Your classifier, with twenty classes: twenty of the emoji that were held out, drawn at random, and their twenty
# captions. A guess is right once in twenty times. Change the seed and run it again.

# %%
SEED = 1
drawn = torch.randperm(len(unseen), generator=torch.Generator().manual_seed(SEED))[:20].tolist()
captions = [unseen.captions[i] for i in drawn]
nearest = nearest_label(*features(model, unseen.images[drawn], captions)).tolist()

figure, grid = plt.subplots(4, 5, figsize=(10.5, 9))
for i, axes in enumerate(grid.flat):
    right = nearest[i] == i
    axes.imshow(unseen.origins[drawn[i]].open(144))
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set(visible=True, linewidth=1 if right else 3, color="0.6" if right else "black")
    said = f"{'✓' if right else '✗'} {captions[nearest[i]]}" + ("" if right else f" — is: {captions[i]}")
    axes.set_title(textwrap.fill(said, 26), fontsize=8, weight="normal" if right else "bold")
figure.supxlabel(data.OPENMOJI.credit, fontsize=7)
correct = sum(answer == i for i, answer in enumerate(nearest))
print(f"top-1 among twenty captions: {correct} of 20 right, {100 * correct / 20:.0f} %")

# %% [markdown]
# Where it errs (try some other seeds), look twice: some of these drawings differ by a hair.
#
# "Top-1" is the share of pictures whose nearest text is the right one. Twenty pictures are few, and twenty classes
# make it easy. Here are all that were held out, each against all of their captions:

# %%
count = check.pick(len(unseen), 100)
nearest = nearest_label(*features(model, unseen.images[:count], unseen.captions[:count]))  # (count,)
top1 = (nearest == torch.arange(count)).double().mean()
print(f"top-1 among {count} captions: {100 * top1:.1f} %, by chance {100 / count:.2f} %")

# %% [markdown]
# ## Another hand
#
# All of these are by an artist whose other drawings it knows. Now the animals by Noto: how often does {cat, dog, horse,
# other} say what they are? ("other" is right for every animal that is none of the three.)

# %%
CLASSES = ["cat", "dog", "horse", "other"]
with (NOTO / "noto.csv").open() as lines:
    animals = [row for row in csv.DictReader(lines) if row["class"]]
with torch.no_grad():
    images = model.encode_image(torch.stack([preprocess(data.load_image(NOTO / row["image"])) for row in animals]))
    labels = model.encode_text(tokenizer(CLASSES))  # (C, E)
said = [CLASSES[place] for place in nearest_label(images, labels)]
is_class = [row["class"] if row["class"] in CLASSES else "other" for row in animals]
for name in CLASSES:
    answers = Counter(answer for answer, truth in zip(said, is_class, strict=True) if truth == name)
    named = ", ".join(f"{count} × {answer}" for answer, count in answers.most_common())
    print(f"{name:5} {answers[name]:2} of {answers.total():2} right; it says {named}")
correct = sum(answer == truth for answer, truth in zip(said, is_class, strict=True))
print(
    f'together {correct} of {len(said)}; a guess has {len(said) / 4:.0f}, and "other" every time',
    is_class.count("other"),
)
for name in CLASSES[:3]:
    right = sum(answer == truth == name for answer, truth in zip(said, is_class, strict=True))
    print(f"it calls {said.count(name)} animals a {name}, and is right about {right} of them")

# %% [markdown]
# That is better than guessing, one of four, and much worse than always saying "other". And where it says "cat", most of
# the animals are none. So it does not know what a cat is: it knows the few cats that two artists drew. It is not blind
# to Noto either. The [model card](../minclip/weights/MODEL_CARD.md) tells how often it finds the right one among *all*
# of Noto's names, and how often the nearest training picture, pixel by pixel, would.

# %% [markdown]
# ## What this lesson does not show
#
# - That it works on photographs: the model has seen drawings by two artists, and nothing else. A third artist
#   is often too much for it already.
# - That it understands. It has seen every word of those captions, and compositions of the same kind; lesson 08 looks
#   at that more closely.
# - That a share is a probability of being right. It is a share among the texts that you happened to type.
#
# ## What you take away
#
# - Two towers, one room: pictures and texts become features that can be compared by their cosine.
# - A class set is a list of texts. Change the list, and you have another classifier, without training.
# - The softmax compares your texts with each other. It never says "none of these".
#
# Stuck? `from solutions.lesson_00 import nearest_label`, or read
# [solutions/lesson_00.py](solutions/lesson_00.py).
