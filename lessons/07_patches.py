# %% [markdown]
# # 07 · Patches
#
# **The question.** A Transformer reads a row of vectors, and a picture is not a row. What does a Vision Transformer
# (**ViT**), CLIP's image tower, really see?
#
# **You need** tensors with several axes; attention and the block (lesson 06); the unseen emoji and how a picture gets
# the nearest caption (lesson 00).
#
# **Afterwards you can** cut a picture into patches, say why every ViT does that with a convolution, and write the whole
# image tower, equal to minclip's with the same weights. You can prove that without positions it sees a bag of patches,
# build a task on which that matters, and measure how much a trained model depends on the positions.
#
# **Place.** Part II, *A CLIP of your own*; after lesson 06. About 80 minutes, 45 of them for the three exercises. This
# tower uses your block of lesson 06; lesson 08 trains it with your text tower.

# %%
import textwrap

import check
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from splits import without_twins
from torch import nn

import minclip
from minclip.data import OPENMOJI, Pairs, load_artist, load_emoji

plt.style.use("lesson.mplstyle")
torch.set_grad_enabled(False)
model, preprocess, tokenizer = minclip.load()  # trained on emoji, their names and keywords
size, resolution = model.config.vision_patch_size, model.config.image_resolution

# %% [markdown]
# ## The grid
#
# The recipe ([Dosovitskiy et al. 2020](https://arxiv.org/abs/2010.11929), "An image is worth 16×16 words"): cut the
# picture into equal squares, the **patches**, and read them like a page, row by row. A patch plays the role of a token.
# Here is an emoji as our model gets it: cropped to the drawing, and at the model's resolution. (Letters in comments: B
# or N pictures, R pixels per side, P patches, D numbers for each of them in the Transformer, E in a feature.)

# %%
woman_firefighter = "1F469-200D-1F692"
picture = preprocess.pixels(OPENMOJI.draw(woman_firefighter, 144))  # (3, R, R)
side = resolution // size

# %% jupyter={"source_hidden": true}
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
# (The last column counts one vector more than there are patches: the class token, below.)
#
# **Exercise 1.** Cut each picture of a batch into a row of patches. The danger: `images.reshape(B, P, -1)` has the
# right shape but is quite wrong, since it cuts the memory into equal stretches, not the picture into squares. First
# split *both* picture axes in two (which patch, which pixel in it), then put the axes in order.


# %%
def patchify(images, size):
    """images (B, 3, H, W) -> (B, P, 3·size·size) with P = H/size · W/size.

    The patches are in reading order, and the values in each are ordered by channel, then row, then column.
    """
    raise NotImplementedError


# %%
patchify = check.patchify(patchify)

# %%
rows = patchify(picture[None], size)  # (1, P, 3·size·size)
print("patches:", tuple(rows.shape))
wrong = picture[None].reshape(1, side**2, -1)  # the line that Exercise 1 warns of

# %% jupyter={"source_hidden": true}
figure, (left, right) = plt.subplots(1, 2, figsize=(6, 3))
for axes, title, content in ((left, "patchify", rows), (right, "a plain reshape", wrong)):
    axes.imshow(content[0, 6].view(3, size, size).permute(1, 2, 0))
    axes.set(title=f"patch 6 by {title}", xticks=[], yticks=[])
    axes.spines[["top", "right"]].set_visible(True)
credit = figure.supxlabel(OPENMOJI.credit, fontsize=7, color="0.35")

# %% [markdown]
# On the right are nine rows of the *green* channel, across the whole width of the picture, mistaken for the red, green
# and blue of one square.
#
# ## Patchify equals the strided convolution
#
# The pixels of a patch are now multiplied by a matrix, the same for every patch, which gives a vector as wide as the
# Transformer: the patch's **embedding**. In the code of every ViT, you will find a convolution instead:
# `nn.Conv2d(3, width, kernel_size=size, stride=size)`. It is the same thing. A convolution slides a small window over
# the picture and multiplies what it sees by its weights; if it moves by exactly its own size (the **stride**), the
# windows are the patches.
#
# **Exercise 2.** Do what the convolution does, with your `patchify` and one matrix product.


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
# So a ViT does not see a picture. It sees a row of vectors, each a blend of one patch's pixels. Inside a patch, the
# weights know which pixels are neighbours; across the edge between two patches nothing says so.
#
# ## The tower
#
# In front of the patches a ViT puts one more vector, the **class token**: it belongs to no patch, and the picture's
# feature is read there, as a text's is read at EOT. To each of these 1 + P vectors it adds the learned vector of its
# place, the **positional embedding**. The rest you know from lesson 06, without the causal mask: a patch may look at
# all the others. (CLIP has one LayerNorm more than other ViTs, `ln_pre`, in front of the first block.)
#
# **Exercise 3.** Write the image tower. These are its parts, in the order in which a picture meets them. The check
# gives them minclip's weights by these names, and expects the same features, to 1e-5, and the same gradients:
#
# | name | what it is | shape |
# |---|---|---|
# | `conv1` | `nn.Conv2d` as above, no bias (call it, or use its `weight` in `embed_patches`) | (D, 3, patch, patch) |
# | `class_embedding` | the class token, an `nn.Parameter` | (D,) |
# | `positional_embedding` | place 0 is the class token's; an `nn.Parameter` | (1 + P, D) |
# | `ln_pre` | a LayerNorm | |
# | `transformer.resblocks` | the blocks, as in your `TextTower`, but not causal | |
# | `ln_post` | a LayerNorm, for the vector that is read | |
# | `proj` | into the space that pictures and texts share; an `nn.Parameter` | (D, E) |
#
# Their initial values do not matter here; lesson 08 says how they are chosen. (If you want an `OrderedDict` again,
# import it from `collections`.)

# %%
Block, TextTower = check.yours("Block", "TextTower")


# %%
class ImageTower(nn.Module):
    def __init__(self, resolution, patch_size, width, layers, heads, embed_dim):
        super().__init__()
        raise NotImplementedError

    def forward(self, images):
        """Pictures (B, 3, R, R) -> features (B, E), not normalised."""
        raise NotImplementedError


# %%
ImageTower = check.ImageTower(ImageTower)

# %%
sizes = model.config
tower = ImageTower(resolution, size, sizes.vision_width, sizes.vision_layers, sizes.vision_heads, sizes.embed_dim)
tower.load_state_dict(model.visual.state_dict(), strict=False)
difference = (tower(image) - model.encode_image(image)).abs().max()
print(f"{sum(p.numel() for p in tower.parameters()):,} parameters with the trained model's values")
print(f"largest difference from minclip's feature: {difference:.0e}; its size: {tower(image).abs().mean():.1f}")

# %% [markdown]
# ## Without positions: a bag of patches
#
# Attention is a weighted mean, and a mean does not know the order of the things that it averages. The other parts of a
# block work on each position alone (lesson 06). So if no positions were added, every patch would get the same vector
# wherever it stands in the row: shuffle the inputs, and the outputs are shuffled in the same way. The class token,
# which stays where it is, gets exactly the same vector. That is a proof; here is the experiment. A *jigsaw* is the same
# patches in a different order. We try it first with the positional embeddings of all patches set to zero, then as
# trained.


# %%
def jigsaw(images, seed):
    """The same patches, in an order drawn by the seed."""
    order = torch.randperm(side**2, generator=torch.Generator().manual_seed(seed))
    shuffled = patchify(images.float(), size)[:, order].mT  # (B, 3·size·size, P)
    return F.fold(shuffled, resolution, size, stride=size).to(images.dtype)


def relative_change(tower):
    before, after = tower(image), tower(jigsaw(image, seed=0))
    return ((after - before).norm() / before.norm()).item()


blind, *_ = minclip.load()
blind.visual.positional_embedding[1:] = 0  # place 0 is the class token's
print(f"without positions, the jigsaw changes the feature by {relative_change(blind.visual):.0e} of its length")
print(f"with positions, by                                   {relative_change(model.visual):.0e}")

# %% [markdown]
# Without positions the change is rounding: the model *cannot* see the arrangement. With them it can.
#
# ## A task that needs positions: "cat left of dog"
#
# To see what a tower without positions gives up, we need a task in which only the arrangement counts. We take twelve
# animals and put two of them side by side in each picture; the caption says who is on the left. Each animal covers
# whole patches (2 × 2), so "cat left of dog" and "dog left of cat" are made of the very same patches. Some pairs of
# animals are set aside (**held out**): the training shows them in neither order.

# %%
ANIMALS = ["cat", "dog", "horse", "cow", "pig", "bear", "fox", "lion", "frog", "owl", "duck", "mouse"]
half = resolution // 2
drawn = load_artist(OPENMOJI, minclip.data.Preprocess(half))
animals = drawn.images[[drawn.captions.index(name) for name in ANIMALS]]  # (12, 3, R/2, R/2)


def scene(left, right, row, row_of_right):
    """Two animals on white, side by side, each in its row of patches: (3, R, R) uint8."""
    canvas = torch.full((3, resolution, resolution), 255, dtype=torch.uint8)
    canvas[:, row * size : row * size + half, :half] = animals[left]
    canvas[:, row_of_right * size : row_of_right * size + half, half:] = animals[right]
    return canvas


def scenes(couples):
    """Every pair of animals at all heights, as pictures and captions."""
    all_rows = [(a, b) for a in range(3) for b in range(3)]
    images = torch.stack([scene(*couple, *rows) for couple in couples for rows in all_rows])
    texts = [f"{ANIMALS[a]} left of {ANIMALS[b]}" for a, b in couples for _ in all_rows]
    return Pairs(images, texts, texts, torch.arange(len(texts)))


couples = [(a, b) for a in range(12) for b in range(12) if a != b]
taught = scenes([(a, b) for a, b in couples if (a + b) % 4])
aside = scenes([(a, b) for a, b in couples if (a + b) % 4 == 0])
print(f"{len(taught)} scenes to train on, {len(aside)} held out, for example: {aside.captions[0]}")

# %% [markdown]
# Now we train two small CLIPs, made of your two towers. (Training begins with random numbers, not with zeros: we take
# those of a new minclip model, by their names. Lesson 08 takes the training apart.) They see the same batches in the
# same order. One of them has no positions in its image tower, and cannot learn any.

# %%
small = minclip.Tokenizer.train(taught.captions, 600)
WIDTH, LAYERS, HEADS, WORDS = 64, 2, 4, 8
fresh_config = minclip.CLIPConfig(
    **vars(minclip.PRESETS["emoji"])
    | {"embed_dim": WIDTH, "vision_width": WIDTH, "transformer_width": WIDTH, "vision_layers": LAYERS}
    | {"context_length": WORDS, "vocab_size": small.vocab_size, "image_resolution": resolution}
)
STEPS = check.pick(400, 30)


def train(with_positions, seed=0):
    """Two towers, trained on the scenes: (image tower, text tower)."""
    torch.manual_seed(seed)
    fresh = minclip.CLIP(fresh_config).state_dict()
    images = ImageTower(resolution, size, WIDTH, LAYERS, HEADS, WIDTH)
    texts = TextTower(WORDS, small.vocab_size, WIDTH, LAYERS, HEADS, WIDTH)
    images.load_state_dict({name: fresh[f"visual.{name}"] for name, _ in images.named_parameters()}, strict=False)
    texts.load_state_dict({name: fresh[name] for name, _ in texts.named_parameters()}, strict=False)
    if not with_positions:
        images.positional_embedding[1:] = 0
        images.positional_embedding.requires_grad_(False)
    parameters = [p for tower in (images, texts) for p in tower.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=STEPS, pct_start=0.1)
    pixels, tokens = preprocess.normalize(taught.images), small(taught.captions)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        one_of_each = torch.arange(0, len(taught), 9) + torch.randint(9, (len(taught) // 9,), generator=generator)
        batch = one_of_each[torch.randperm(len(one_of_each), generator=generator)[:64]]  # no caption twice
        with torch.enable_grad():
            loss = minclip.clip_loss(images(pixels[batch]), texts(tokens[batch]), torch.tensor(1 / 0.07))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    print(f"{'with' if with_positions else 'without'} positions: loss {loss:.2f} in the last step")
    return images, texts


# %% [markdown]
# We ask each of them two questions about the held-out scenes. *Which animals?* Of all 132 captions, is the nearest one
# about these two, in either order? *Which is on the left?* Of the two captions about them, is the
# correct one nearer? In what percentage of the scenes will the model without positions answer the second question
# correctly?

# %%
check.predict("which is on the left, without positions (%)", None)

# %%
every_text = [f"{ANIMALS[a]} left of {ANIMALS[b]}" for a, b in couples]
own = torch.tensor([every_text.index(text) for text in aside.captions])  # (N,)
other_way = torch.tensor([couples.index(couples[i][::-1]) for i in own.tolist()])  # (N,)


def answers(towers, images):
    """Of each scene: are the animals right (N,), and is the correct one on the left (N,)?"""
    image_tower, text_tower = towers
    cosine = (
        F.normalize(image_tower(preprocess.normalize(images)), dim=1)
        @ F.normalize(text_tower(small(every_text)), dim=1).T
    )
    best, places = cosine.argmax(dim=1), torch.arange(len(own))
    return (best == own) | (best == other_way), cosine[places, own] > cosine[places, other_way]


trained = {"with positions": train(True), "without positions": train(False)}
results = {}
for name, towers in trained.items():
    whole, puzzle = answers(towers, aside.images), answers(towers, jigsaw(aside.images, seed=0))
    results[name] = [100 * whole[0].float().mean(), 100 * whole[1].float().mean(), 100 * puzzle[1].float().mean()]
    same = (whole[1] == puzzle[1]).float().mean()
    print(f"{name:18} which animals {results[name][0]:5.1f} %", end="   ")
    print(f"which is on the left {results[name][1]:5.1f} %", end="   ")
    print(f"as a jigsaw {results[name][2]:5.1f} %, {100 * same:.0f} % of the answers unchanged")
check.reveal("which is on the left, without positions (%)", results["without positions"][1].item(), within=3)

# %% jupyter={"source_hidden": true}
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10.5, 3.1), width_ratios=[1, 1, 2.4])
shown = aside.images[:1]
for axes, title, content in (
    (left, aside.captions[0], shown),
    (middle, "the same patches", jigsaw(shown, seed=0)),
):
    axes.imshow(content[0].permute(1, 2, 0))
    axes.set(xticks=[], yticks=[], title=title)
    axes.spines[["top", "right"]].set_visible(True)
questions = ["which animals?", "which is on the left?", "which is on the left,\nas a jigsaw"]
for k, (name, values) in enumerate(results.items()):
    places = [place + 0.4 * k - 0.2 for place in range(3)]
    bars = right.bar(places, values, 0.38, label=name, color=("0.35", "0.85")[k], edgecolor="black")
    right.bar_label(bars, fmt="%.0f", fontsize=9)
right.plot([0.55, 2.45], [50, 50], color="black", linestyle="--", linewidth=1)
right.text(2.47, 50, "a coin", va="center", fontsize=9)
right.set(xticks=range(3), ylabel="right (%)", ylim=(0, 112), xlim=(-0.5, 2.8))
right.set_xticklabels(questions)
figure.legend(*right.get_legend_handles_labels(), loc="outside upper right", ncols=2)
credit = figure.supxlabel(OPENMOJI.credit, fontsize=7, color="0.35")

# %% [markdown]
# The model without positions is not a bad model: it names the two animals. But who is on the left is beyond it, by the
# argument above: it must give "cat left of dog" and "dog left of cat" the same feature, so it is right about one of
# them and wrong about the other, whatever it has learned. A jigsaw changes none of its answers. The model with
# positions learned who is on the left, and could tell this for pairs that it had never seen in either order; the jigsaw
# takes that away from it. (There it does even worse than a coin: the same shuffle moves the same patches in every
# scene, so it can mislead the model in the same way again and again.)
#
# ## Does it look at the arrangement?
#
# Back to the model that was trained on emoji, whose names say *what* is drawn and hardly ever *where*. It could use the
# arrangement. Does it? It names most of the unseen pictures correctly. What percentage of all unseen pictures does it
# still name correctly if each comes as a jigsaw?

# %%
check.predict("unseen jigsaws named right (%)", None)

# %%
emoji, held_out = load_emoji(preprocess, artists=[OPENMOJI])
held_out = without_twins(held_out, emoji)
pixels, texts = held_out.images[:: check.pick(1, 4)], held_out.captions[:: check.pick(1, 4)]
unseen = preprocess.normalize(pixels)  # (N, 3, R, R)

# %%
text_features = F.normalize(model.encode_text(tokenizer(texts)), dim=1)  # (N, E)


def nearest_caption(model, images):
    return (F.normalize(model.encode_image(images), dim=1) @ text_features.T).argmax(dim=1)  # (N,)


def top1(model, images):
    return (nearest_caption(model, images) == torch.arange(len(images))).double().mean().item()


jigsaws = [jigsaw(unseen, seed) for seed in range(check.pick(4, 1))]
scores = {
    "whole pictures": [top1(model, unseen)],
    "jigsaws": [top1(model, images) for images in jigsaws],
    "whole, positions set to zero": [top1(blind, unseen)],
}
print(f"the right one of {len(texts)} captions, by chance {1 / len(texts):.1%}:")
for name, values in scores.items():
    spread = f"  (from {min(values):.1%} to {max(values):.1%} over {len(values)} orders)" if len(values) > 1 else ""
    print(f"  {name:29} {sum(values) / len(values):.1%}{spread}")
in_pieces = sum(scores["jigsaws"]) / len(jigsaws)
check.reveal("unseen jigsaws named right (%)", 100 * in_pieces, within=5)

# %% [markdown]
# Most of the right answers are lost, and how many depends on the order. Without any positions, as the last of the three
# rows shows, most are lost as well. (A caution about that row: the model was trained with something added to every
# patch, and now nothing is.)
#
# Look at some of the jigsaws. On the left are pictures that get the right name as a whole and a different one as a
# jigsaw (three, if there are that many); then come pictures that keep theirs.

# %% jupyter={"source_hidden": true}
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
# So this model looks at the arrangement. Still, more right answers remain than a guess would find: the contents of the
# patches (an eye, a piece of a blue sleeve, a skin tone) say something by themselves.
#
# Do not generalise from this. It is one model, and how it was trained may decide whether it needs the arrangement:
# where the contents of single patches are enough to tell the captions of a batch apart, nothing in the loss asks for
# more. You can find out with `minclip train`, its `--augmentation` and this jigsaw.
#
# ## The answer
#
# A ViT sees a row of vectors, each a blend of one patch's pixels, and nothing but their positional embeddings says
# where a patch was. Without them a picture and its jigsaw are the same thing, and "which is on the left?" is a coin
# toss; with them, our emoji model has learned to use the arrangement, though its captions hardly ever mention it.
#
# ## What this lesson does not show
#
# How much the arrangement matters to another CLIP. Our scenes were made so that nothing else counts; and the emoji
# model is one small model with few, large patches, trained on drawings that are all cropped to their ink. Large models,
# trained on photographs, are known to do badly on "left of" ([Kamath et al. 2023](https://arxiv.org/abs/2310.19785)):
# that the image tower *could* tell says nothing about whether captions from the web ever made it learn that. Nor does
# the jigsaw show what the emoji model uses the places for: a finger that points left has different patches from one
# that points right.
#
# ## Harder, and without a solution
#
# - How similar are the learned vectors of two places? Plot, for every place, its cosine with all others (figure 7 of
#   the [ViT paper](https://arxiv.org/abs/2010.11929)). Then shuffle the places, many times: would chance give such a
#   plot?
# - Draw both animals half a patch lower (with rows 0 and 1 only, so that they fit). Is "which is on the left?" still a
#   coin toss without positions? And what if only the left one is drawn lower? Why?
# - Take the positions away from the *text* tower instead. Before you run it: which of the two questions suffers? (Under
#   a causal mask the answer is not the obvious one.)
#
# Stuck? `check.hint("ImageTower")` gives hints, one after the other; all solutions are in
# [solutions/lesson_07.py](solutions/lesson_07.py).
