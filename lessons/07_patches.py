# %% [markdown]
# # 07 · Patches
#
# **The question.** A Transformer reads a row of vectors. A picture is no row. What does a Vision Transformer
# (**ViT**), CLIP's picture tower, really see?
#
# **You need** tensors with several axes; what attention and a block are (lesson 06); the unseen emoji and how a
# picture gets the nearest caption (lesson 00).
#
# **Afterwards you can** cut a picture into patches and put it together again, say why every ViT does that with a
# convolution, show that without positions a Transformer cannot tell a picture from its jigsaw puzzle, and measure how
# much a trained model minds.

# %%
import textwrap

import check
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from splits import without_twins

import minclip
from minclip.data import OPENMOJI, load_emoji

plt.style.use("lesson.mplstyle")
torch.set_grad_enabled(False)
model, preprocess, tokenizer = minclip.load()  # trained on emoji, their names and keywords
size, resolution = model.config.vision_patch_size, model.config.image_resolution

# %% [markdown]
# ## The grid
#
# The recipe ([Dosovitskiy et al. 2020](https://arxiv.org/abs/2010.11929), "An image is worth 16×16 words"): cut the
# picture into equal squares, the **patches**, and read them like a page, row by row. A patch takes the part that a
# token has in a text. Here is an emoji as our model gets it: cut to what is drawn, and at its resolution. (Letters in
# comments: B or N pictures, R pixels a side, P patches, D numbers for each of them in the Transformer, E in a feature.)

# %%
woman_firefighter = "1F469-200D-1F692"
picture = preprocess.pixels(OPENMOJI.draw(woman_firefighter, 144))  # (3, R, R)
side = resolution // size

figure = plt.figure(figsize=(9, 4.6))
left, right = figure.subfigures(1, 2, width_ratios=[1.1, 1])
axes = left.subplots()
axes.imshow(picture.permute(1, 2, 0))
for edge in range(1, side):
    axes.axhline(edge * size - 0.5, color="black", linewidth=1)
    axes.axvline(edge * size - 0.5, color="black", linewidth=1)
axes.set(title="the picture and its grid", xlabel="pixels", ylabel="pixels")
axes.set(xticks=range(0, resolution + 1, size), yticks=range(0, resolution + 1, size))
for number, axes in enumerate(right.subplots(side, side).flat):
    row, column = divmod(number, side)
    axes.imshow(picture[:, row * size : (row + 1) * size, column * size : (column + 1) * size].permute(1, 2, 0))
    axes.set(xticks=[], yticks=[])
    axes.set_title(number, fontsize=9, pad=2)
    axes.spines[["top", "right"]].set_visible(True)
right.suptitle("its patches, numbered in reading order")
credit = figure.supxlabel(OPENMOJI.credit, fontsize=7, color="0.35")

# %% [markdown]
# Each patch becomes one long vector: all its red values row by row, then the green ones, then the blue ones. A bigger
# picture or a smaller patch makes a longer row, and attention compares every patch with every other:

# %%
print("model     pixels  patch  patches  values in a patch  comparisons in each head")
for name in ("emoji", "ViT-B/32", "ViT-B/16", "ViT-L/14"):
    config = minclip.PRESETS[name]
    pixels, width = config.image_resolution, config.vision_patch_size
    patches = (pixels // width) ** 2
    print(f"{name:9} {pixels:6} {width:6} {patches:8} {3 * width**2:18,} {(patches + 1) ** 2:25,}")

# %% [markdown]
# (Plus one: the class token, below.)
#
# **Exercise 1.** Cut each picture of a batch into a row of patches. The danger: `images.reshape(B, P, -1)` has the
# right shape and is quite wrong, since it cuts the memory into equal stretches, not the picture into squares. First
# split *both* picture axes in two (which patch, which pixel in it), then bring the axes into order.


# %%
def patchify(images, size):
    """images (B, 3, H, W) -> (B, P, 3·size·size) with P = H/size · W/size.

    The patches stand in reading order, and the values in each: by channel, then row, then column.
    """
    raise NotImplementedError


# %%
patchify = check.patchify(patchify)

# %% [markdown]
# **Exercise 2.** And back. We shall need it to make jigsaw puzzles.


# %%
def unpatchify(patches, size):
    """patches (B, P, 3·size·size) of square pictures -> the pictures (B, 3, R, R), R = √P · size."""
    raise NotImplementedError


# %%
unpatchify = check.unpatchify(unpatchify)

# %%
rows = patchify(picture[None], size)  # (1, P, 3·size·size)
print("patches:", tuple(rows.shape), " and back unharmed:", torch.equal(unpatchify(rows, size)[0], picture))
wrong = picture[None].reshape(1, side**2, -1)  # the line that Exercise 1 warns of
figure, (left, right) = plt.subplots(1, 2, figsize=(6, 3))
for axes, title, content in ((left, "patchify", rows), (right, "a plain reshape", wrong)):
    axes.imshow(content[0, 6].view(3, size, size).permute(1, 2, 0))
    axes.set(title=f"patch 6 by {title}", xticks=[], yticks=[])
    axes.spines[["top", "right"]].set_visible(True)
credit = figure.supxlabel(OPENMOJI.credit, fontsize=7, color="0.35")

# %% [markdown]
# On the right are some rows of the *green* channel, over the whole width of the picture, taken for the red, the green
# and the blue of one square.
#
# ## Patchify equals the strided convolution
#
# The pixels of a patch are now multiplied with a matrix, the same for every patch, which gives a vector as wide as
# the Transformer: the patch's **embedding**. In the code of every ViT you find a convolution there instead:
# `nn.Conv2d(3, width, kernel_size=size, stride=size)`. It is the same thing. A convolution slides a small window
# over the picture and multiplies what it sees with its weights; if it moves by exactly its own size (the **stride**),
# the windows are the patches.
#
# **Exercise 3.** Do what the convolution does, with your `patchify` and one matrix product.


# %%
def embed_patches(images, weight):
    """images (B, 3, H, W), weight (D, 3, size, size) of the convolution -> the patches' embeddings (B, P, D)."""
    raise NotImplementedError


# %%
embed_patches = check.embed_patches(embed_patches)

# %%
image = preprocess.normalize(picture[None])  # (1, 3, R, R), with the mean and spread that the model was trained with
ours = embed_patches(image, model.visual.conv1.weight)  # (1, P, D)
theirs = model.visual.conv1(image).flatten(2).transpose(1, 2)  # (1, D, √P, √P) -> (1, P, D)
print(
    "embeddings:",
    tuple(ours.shape),
    f" largest difference from the model's convolution: {(ours - theirs).abs().max():.0e}",
)

# %% [markdown]
# So a ViT sees no picture. It sees a row of vectors, each a blend of one patch's pixels. That two pixels are
# neighbours is known inside a patch, through the weights; across the edge between two patches nothing says so.
#
# ## Without positions: a bag of patches
#
# In front of the patches a ViT puts one more vector, the **class token**: it belongs to no patch, and the picture's
# feature is read there, like a text's at EOT.
#
# Attention is a weighted mean, and a mean does not know the order of what it is taken over. The other parts of a
# block work on each position alone (lesson 06). So without a mask every patch gets the same vector wherever it stands
# in the row: shuffle the inputs, and the outputs are shuffled along. The class token, which stays where it is, gets
# exactly the same. That is why a ViT *adds* a learned vector to each patch, its **positional embedding**: one for
# place 0, one for place 1, and so on.
#
# We test it. The jigsaw: the same patches in another order. First with all positional embeddings of patches set to
# zero, then as trained.


# %%
def jigsaw(images, seed):
    """The same patches, in an order drawn by the seed."""
    order = torch.randperm(side**2, generator=torch.Generator().manual_seed(seed))
    return unpatchify(patchify(images, size)[:, order], size)


def relative_change(model):
    before, after = model.encode_image(image), model.encode_image(jigsaw(image, seed=0))
    return ((after - before).norm() / before.norm()).item()


blind, *_ = minclip.load()
blind.visual.positional_embedding[1:] = 0  # place 0 is the class token's
print(f"without positions, the jigsaw changes the feature by {relative_change(blind):.0e} of its length")
print(f"with positions, by                                   {relative_change(model):.0e}")

# %% [markdown]
# Without positions the change is rounding: the model *cannot* see the arrangement. With them it can.
#
# ## Does it look at the arrangement?
#
# That it can does not mean that it does. Before you run the next cell, guess: our model names a good part of the
# unseen pictures right. How many of them if every picture comes as a jigsaw?

# %%
train, held_out = load_emoji(preprocess, artists=[OPENMOJI])
held_out = without_twins(held_out, train)
pixels, texts = held_out.images[:: check.pick(1, 4)], held_out.captions[:: check.pick(1, 4)]
unseen = preprocess.normalize(pixels)  # (N, 3, R, R)

# %%
text_features = F.normalize(model.encode_text(tokenizer(texts)), dim=1)  # (N, E)


def nearest_caption(model, images):
    return (F.normalize(model.encode_image(images), dim=1) @ text_features.T).argmax(dim=1)  # (N,)


def top1(model, images):
    return (nearest_caption(model, images) == torch.arange(len(images))).double().mean().item()


jigsaws = [jigsaw(unseen, seed) for seed in range(check.pick(4, 1))]
results = {
    "whole pictures": [top1(model, unseen)],
    "jigsaws": [top1(model, images) for images in jigsaws],
    "whole, positions set to zero": [top1(blind, unseen)],
}
print(f"the right one of {len(texts)} captions, by chance {1 / len(texts):.1%}:")
for name, values in results.items():
    spread = f"  (from {min(values):.1%} to {max(values):.1%} over {len(values)} orders)" if len(values) > 1 else ""
    print(f"  {name:29} {sum(values) / len(values):.1%}{spread}")
lost = results["whole pictures"][0] - sum(results["jigsaws"]) / len(jigsaws)
print(f"shuffling the patches costs {100 * lost:.1f} points of {100 * results['whole pictures'][0]:.1f}")

# %% [markdown]
# It collapses, and how far depends on the order. Without any positions, as the last of the three rows says, most of the
# right answers are lost as well. (A caution about that row: the model was trained with something added to every patch,
# and now nothing is.)
#
# Look at some of the jigsaws. On the left, pictures that have the right name as a whole and another one as a jigsaw
# (three, if there are as many); then pictures that keep theirs.

# %%
whole, puzzle = nearest_caption(model, unseen), nearest_caption(model, jigsaws[0])  # (N,)
is_right = whole == torch.arange(len(texts))  # (N,)
renamed, kept = (is_right & (puzzle != whole)).nonzero()[:, 0], (is_right & (puzzle == whole)).nonzero()[:, 0]
shown = [*renamed.tolist()[:3], *kept.tolist()][:5]
pictures = pixels[shown]  # (5, 3, R, R)
figure, grid = plt.subplots(2, 5, figsize=(10, 5))
for axes_row, label, images, best in zip(
    grid, ("whole", "jigsaw"), (pictures, jigsaw(pictures, seed=0)), (whole, puzzle), strict=True
):
    axes_row[0].set_ylabel(label)
    for axes, i, content in zip(axes_row, shown, images, strict=True):
        name = texts[best[i]] + (" ✓" if best[i] == i else " ✗")
        axes.imshow(content.permute(1, 2, 0))
        axes.set_title(textwrap.fill(name, 24), fontsize=8.5)
        axes.set(xticks=[], yticks=[])
        axes.spines[["top", "right"]].set_visible(True)
figure.suptitle("above each: the nearest of the captions", fontsize=10)
credit = figure.supxlabel(OPENMOJI.credit, fontsize=7, color="0.35")
right_in_pieces = puzzle == torch.arange(len(texts))  # (N,)
gained = int((right_in_pieces & ~is_right).sum())
print(
    f"of {int(is_right.sum())} with the right name, {len(renamed)} lose it (and {gained} others gain it), for example:"
)
for i in shown[: min(3, len(renamed))]:
    print(f"  {texts[i]}  ->  {texts[puzzle[i]]}")
directed = [i for i, text in enumerate(texts) if {"left", "right", "up", "down"} & set(text.split())]
print(f"captions that say left, right, up or down: {len(directed)};", end=" ")
print(f"right whole: {int(is_right[directed].sum())}, right as a jigsaw: {int(right_in_pieces[directed].sum())}")

# %% [markdown]
# So this model looks at the arrangement, although the names of emoji say *what* is drawn and hardly ever *where*.
# Still, more right answers remain than a guess would find: the contents of the patches, an eye, a piece of a blue
# sleeve, some skin tone, say something by themselves.
#
# Do not make a law of it. That is one model, and how it was trained may decide whether it needs the arrangement: where
# the contents of single patches are enough to tell the captions of a batch apart, nothing in the loss asks for more.
# You can find out with `minclip train`, its `--augmentation` and this jigsaw.
#
# ## Similarity of learned positions
#
# In the ViT paper, figure 7 shows for each place how similar its learned vector is to those of all other places (the
# cosine), and the places had found out their own geometry: near places had near vectors, and whole rows and columns
# resembled each other. Do ours? The next cell draws that picture for our model: small map number *i* shows place *i*
# against all; the framed square is the place itself, left blank (its cosine is 1), and teal is a right angle.

# %%
trained = model.visual.positional_embedding[1:]  # (P, D), without the class token
torch.manual_seed(0)
fresh = minclip.CLIP(model.config).visual.positional_embedding[1:]  # (P, D), as before training


def cosines(positions):
    positions = F.normalize(positions, dim=1)
    return positions @ positions.T  # (P, P)


def draw_maps(panel, positions, title):
    grid = panel.subplots(side, side)
    for place, axes in enumerate(grid.flat):
        others = cosines(positions)[place].clone()  # (P,)
        others[place] = torch.nan
        image = axes.imshow(others.view(side, side), vmin=-0.5, vmax=0.5, cmap="viridis")
        row, column = divmod(place, side)
        axes.add_patch(plt.Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, linewidth=1.2, clip_on=False))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_title(place, fontsize=8, pad=2)
    panel.suptitle(title, fontsize=11)
    return grid, image


figure = plt.figure(figsize=(10, 4.4))
left, right = figure.subfigures(1, 2, width_ratios=[1, 1.2])
draw_maps(left, trained, "trained: place i against all")
grid, image = draw_maps(right, fresh, "before training")
bar = right.colorbar(image, ax=grid, label="cosine", shrink=0.8, extend="both")

# %% [markdown]
# To judge it by more than the eye: mean cosines of all pairs of neighbours, and, since the maps suggest them, of places
# on the rim of the picture, of places in its middle, and of the two ends of a row. One yardstick for all: give the
# trained vectors to the 16 places in random orders, many times. How often does the mean of a group then stand as far
# from what chance gives on average?

# %%
places = torch.cartesian_prod(torch.arange(side), torch.arange(side))  # (P, 2)
distance = torch.cdist(places.float(), places.float())  # (P, P)
rim = ((places == 0) | (places == side - 1)).any(dim=1)  # (P,)
groups = {
    "neighbours": distance == 1,
    "both on the rim": rim[:, None] & rim & (distance > 0),
    "both in the middle": ~rim[:, None] & ~rim & (distance > 0),
    "one on the rim, one in the middle": rim[:, None] & ~rim,
    "the two ends of a row": (places[:, None, 0] == places[:, 0]) & (distance == side - 1),
}
matrix, generator = cosines(trained), torch.Generator().manual_seed(0)  # (P, P)
orders = [torch.randperm(side**2, generator=generator) for _ in range(check.pick(5000, 300))]
print(f"{'mean cosine':34} before  trained  shuffled places   as far by chance")
for name, pairs in groups.items():
    now, at_start = matrix[pairs].mean(), cosines(fresh)[pairs].mean()
    shuffled = torch.stack([matrix[order][:, order][pairs].mean() for order in orders])  # (orders,)
    often = ((shuffled - shuffled.mean()).abs() >= (now - shuffled.mean()).abs()).float().mean()
    print(f"{name:34} {at_start:6.2f} {now:8.2f} {shuffled.mean():9.2f} ± {shuffled.std():.2f} {often:18.1%}")
white = (pixels == 255).all(dim=1).float().mean(dim=0)  # (R, R), in how many of the pictures
white = white.view(side, size, side, size).mean(dim=(1, 3)).flatten()  # (P,)
print(f"white pixels of the unseen pictures: rim {white[rim].mean():.0%}, middle {white[~rim].mean():.0%}")

# %% [markdown]
# Before training every place is like itself and like nothing else. Training made neighbours alike, as in the ViT paper,
# and it set the rim, which has most of the white, against the middle; neither is what chance would have. Nobody told
# the model which places lie side by side: it found that out from the drawings. The two ends of a row are far apart, and
# alike as well: look at the corners. They are mirror images of each other, and the halves of many drawings are, too;
# that this is the reason is a guess. It all fits the jigsaw: a model that uses its places has learned something about
# them.
#
# ## What this lesson does not show
#
# How much the arrangement matters to another CLIP. This is one small model with few and large patches, trained on
# drawings that are all cut to their ink; the same test on a model trained with photographs, or with captions such as
# "a cat left of a dog", is an experiment that you can do with these functions. With 4 × 4 places there is little room
# for a geometry, and we looked for rim, middle and ends only after such maps had suggested them. Nor does the jigsaw
# say what the model uses the places for: a finger that points left has other patches than one that points
# right, and perhaps it only knows which patch of a drawing to expect where.
#
# ## What you take away
#
# - A ViT sees a row of patches. Patchify and one matrix are the strided convolution, to the last digit but rounding.
# - Without positional embeddings, a picture and its jigsaw are the same thing, up to rounding.
# - With them a model *can* use the arrangement. Whether it does is a question for an experiment. Of this model ours
#   said: it does.
#
# Stuck? `from solutions.lesson_07 import patchify`, or read [solutions/lesson_07.py](solutions/lesson_07.py).
