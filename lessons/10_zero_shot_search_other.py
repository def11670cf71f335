# %% [markdown]
# # 10 · Zero-shot, search, "other"
#
# **The question.** What does a score of 0.25 mean? "The image is a picture of a vehicle and the texts are vehicle,
# motor, computer; the similarities are 0.25, 0.22, 0.19. Is this correct? I feel like the most matched pair should be
# close to 1" ([openai/CLIP #405](https://github.com/openai/CLIP/issues/405)). And if the picture is none of these
# ([#44](https://github.com/openai/CLIP/issues/44)), does it help to add the class "other"?
#
# **You need** cosine, softmax and the logit scale (lessons 00, 01 and 04).
#
# **Afterwards you can** build class features from several prompts, measure a search with recall@k, and say what a
# cosine, a share and the word "other" are worth.

# %%
import check
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from splits import without_twins

import minclip
from minclip import data, evaluate

plt.style.use("lesson.mplstyle")
model, preprocess, tokenizer = minclip.load()
train, unseen = data.load_emoji(preprocess, artists=[data.OPENMOJI])
unseen = without_twins(unseen, train)
if check.FAST:
    train, unseen = train.select(range(150)), unseen.select(range(0, len(unseen), 4))
scale = model.logit_scale.exp().item()

pictures = evaluate.image_features(model, unseen.images)  # (P, E), each of length 1
captions = evaluate.text_features(model, tokenizer, unseen.captions)  # (P, E); caption i belongs to picture i
cosine = pictures @ captions.T  # (P, P)
own = torch.eye(len(cosine), dtype=torch.bool)  # where a picture meets its own caption
print(f"{len(unseen)} pictures that were never trained on, and their captions; logit scale {scale:.1f}")

# %% [markdown]
# ## What 0.25 means
#
# First the three numbers of the question. OpenAI's models multiply cosines by 100 before the softmax (the scale is
# clipped at 100, section 2.5 of [Radford et al. 2021](https://arxiv.org/abs/2103.00020); the released models stand at
# it). Small differences become large ratios: a difference $d$ between two cosines is a factor of $e^{100 d}$ between
# two shares.

# %%
asked = torch.tensor([0.25, 0.22, 0.19])
for label, c, share in zip(("vehicle", "motor", "computer"), asked, (100 * asked).softmax(dim=0), strict=True):
    print(f"{label:9} cosine {c:.2f}   share {100 * share:5.1f} %")

# %% [markdown]
# So 0.25 was a clear answer. But why is it so far from 1? Look at our own model: a histogram of the cosines of the
# right pairs, and one of all wrong pairs.

# %%
figure, axes = plt.subplots(figsize=(8, 3.2))
bins = torch.linspace(-1, 1, 61).tolist()
axes.hist(cosine[~own], bins, density=True, color="0.8", label="wrong pairs")
axes.hist(cosine[own], bins, density=True, histtype="step", color="black", linewidth=2, label="right pairs")
axes.axvline(0.25, color="C3", linestyle="--")
axes.text(0.25, axes.get_ylim()[1], " 0.25", color="C3", va="top")
axes.set(xlabel="cosine of picture and text", ylabel="density", xlim=(-1, 1))
axes.legend(loc="upper left")
for name, pairs in (("right", cosine[own]), ("wrong", cosine[~own])):
    above = (pairs > 0.25).double().mean()
    print(f"{name} pairs: mean cosine {pairs.mean():.2f}; above 0.25 are {100 * above:.1f} % of them")

# %% [markdown]
# In OpenAI's model 0.25 was a clear answer. In *this* one it lies between the two heaps: few wrong pairs reach it, and
# it would be a poor score for a right one. The number alone means nothing: each model has a level of its own. Here is
# why that is possible, as an experiment that you can check by hand.
#
# ## The loss cannot see the level
#
# Give every picture's feature one more number, $a$, and every text's feature one more number, $-a$, and bring both
# back to length 1. This pushes all pictures to one side and all texts to the other. The two new numbers add $-a^2$ to
# the product, and each length becomes $\sqrt{1 + a^2}$, so a cosine $c$ becomes
#
# $$c' = \frac{c - a^2}{1 + a^2}$$
#
# in words: all cosines are squeezed and moved down *alike*. Their order stays. With a scale that is $1 + a^2$ times
# as large, every logit is moved by the same amount, and a softmax does not notice that.


# %%
def pushed_apart(a):
    """All pictures pushed to one side and all texts to the other: (P, E + 1) each, of length 1."""
    column = torch.full((len(pictures), 1), a)
    left, right = torch.cat([pictures, column], dim=1), torch.cat([captions, -column], dim=1)
    return F.normalize(left, dim=1), F.normalize(right, dim=1)


average = cosine[own].mean()
half = (average / (2 + average)).sqrt().item()  # solves c' = c / 2 for a, with c the mean right pair
print("   a   right pairs  wrong pairs  top-1   scale    loss")
for a in (0.0, half / 2, half, 1.0):
    left, right = pushed_apart(a)
    moved = left @ right.T
    top1 = (moved.argmax(dim=1) == torch.arange(len(moved))).double().mean()
    loss = minclip.clip_loss(left, right, scale * (1 + a * a))
    levels = f"{moved[own].mean():10.2f}  {moved[~own].mean():11.2f}"
    print(f"{a:.2f}  {levels}  {100 * top1:.1f} %  {scale * (1 + a * a):6.1f}  {loss:.4f}")

# %% [markdown]
# Same answers, same loss, and right pairs at a level that we chose: at half of what it was, or below zero (as long as
# the scale that this takes has room below its clamp at 100). Training has no reason to bring them to 1. (That pairs
# should be "as near to 1 as possible, and everything else near 0" is a common way to tell the story of CLIP. The loss
# asks for less: that the right one is *ahead*.)
#
# ## The gap between pictures and texts
#
# Such a push is not only a thought. In trained models pictures do lie in one region and texts in another: the
# *modality gap* ([Liang et al. 2022](https://arxiv.org/abs/2203.02053)). They trace it to the start: an untrained
# network sends everything into a narrow cone, each tower into its own, and the loss does not have to close the gap.
# Is it so in ours? The figure draws all features in the plane of the two directions along which they vary most
# (principal components).

# %%
torch.manual_seed(0)
untrained = minclip.CLIP(model.config).eval()
fresh = evaluate.image_features(untrained, unseen.images), evaluate.text_features(untrained, tokenizer, unseen.captions)

figure, both = plt.subplots(1, 2, figsize=(9.5, 3.8))
for axes, (x, y), when in zip(both, (fresh, (pictures, captions)), ("before", "after"), strict=True):
    features = torch.cat([x, y])  # (2P, E)
    features = features - features.mean(dim=0)
    plane = features @ torch.pca_lowrank(features, q=2, center=False)[2]  # (2P, 2)
    axes.scatter(*plane[: len(x)].T, s=12, marker="o", facecolors="none", edgecolors="C0", label="pictures")
    axes.scatter(*plane[len(x) :].T, s=14, marker="x", color="C1", linewidth=1, label="texts")
    axes.set(title=f"{when} training", xlabel="first direction", ylabel="second direction", aspect="equal")
    axes.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1))
    alike = [f"{name} {(a @ b.T)[~own].mean():5.2f}" for name, a, b in (
        ("two pictures", x, x), ("two texts", y, y), ("one of each", x, y))]  # fmt: skip
    apart = (x.mean(0) - y.mean(0)).norm()
    print(f"{when:6} training: mean cosine of {', '.join(alike)}; the two centres are {apart:.2f} apart")
both[0].legend(loc="upper left")
print(f"an average right pair is {(pictures - captions).norm(dim=1).mean():.2f} apart after training")

# %% [markdown]
# Before training there is a wide gap, as the paper says. The pictures lie in a very narrow cone, the texts in a much
# wider one. Training has narrowed the gap and not closed it: two pictures are still more alike than two texts, and
# hardly any picture lies among the texts. *Why* it keeps a gap, and whether another training would close it, this
# lesson does not test.
#
# ## Prompts
#
# A class is a text, and the wording matters. The paper wraps ImageNet's labels into *prompts*, such as "A photo of a
# {label}.", which gives 1.3 points; and it averages the features of 80 prompts for each class, which gives 3.5 more
# (section 3.1.4). Such an average is called a *prompt ensemble*.
#
# **Exercise 1.** Make one feature for each label out of the features of its prompts. Every prompt should count the
# same, however long its feature is (its length means nothing: the cosine divides it out), and the result should have
# length 1.


# %%
def prompt_ensemble(prompts):
    """Features (C, T, E) of T prompts for each of C labels, of any length -> (C, E), each of length 1."""
    raise NotImplementedError


# %%
prompt_ensemble = check.prompt_ensemble(prompt_ensemble)

# %% [markdown]
# Does it help our model? Each of these prompts alone, then all of them together:

# %%
TEMPLATES = ["a photo of a {}.", "the {}", "a {}", "{} emoji", "{}!"]


@torch.no_grad()
def encode(template):
    texts = [template.replace("{}", caption) for caption in unseen.captions]
    return model.encode_text(tokenizer(texts, model.config.context_length))  # (C, E)


def top1_of(prompts):
    """Features (C, T, E) of T prompts for each caption -> unseen top-1, in percent."""
    nearest = (pictures @ prompt_ensemble(prompts).T).argmax(dim=1)  # (P,)
    return 100 * (nearest == torch.arange(len(unseen))).double().mean().item()


prompts = torch.stack([encode(template) for template in [*TEMPLATES, "{}"]], dim=1)  # (C, 6, E), the bare one last
rows = [(template, top1_of(prompts[:, [t]])) for t, template in enumerate(TEMPLATES)]
rows += [("all five together", top1_of(prompts[:, :5])), ("{}", top1_of(prompts[:, 5:])), ("all six", top1_of(prompts))]
names, values = zip(*rows, strict=True)

figure, axes = plt.subplots(figsize=(7, 2.8))
axes.barh(names, values, color=["0.75"] * 5 + ["C0", "0.75", "C0"])
for place, value in enumerate(values):
    axes.text(value + 1, place, f"{value:.1f}", va="center", fontsize=9)
axes.set(xlabel="unseen top-1 (%)", xlim=(0, 100))
axes.invert_yaxis()
*alone, five, bare, six = values
print(f"the five prompts together against their average alone:    {five - sum(alone) / 5:+.1f} points")
print(f"the five prompts together against the best of them alone: {five - max(alone):+.1f} points")
print(f"the bare caption against the five together:               {bare - five:+.1f} points")
print(f"all six against the bare caption:                         {six - bare:+.1f} points")

# %% [markdown]
# Two findings, and neither is the famous one. The ensemble stands above its average member, and below its best ones:
# two bad members pull it down, and the bare caption loses by their company, too. And *no prompt* is clearly better
# than none: "the {}", "a {}" and "{} emoji" are about as good as the bare caption (a point is four pictures). In the
# training they stood before or behind many of the names; "a photo of a {}." and "{}!" never did, and these two are
# the bad ones. So probably a prompt helps when it makes a label look like the texts of the training. OpenAI's were
# sentences from the web, and ImageNet's labels are single, often ambiguous words.
#
# ## Search
#
# The same features, asked the other way round: a text, and the nearest pictures. Among *all* pictures this time,
# those of the training too.

# %%
library = torch.cat([evaluate.image_features(model, train.images), pictures])  # (all, E)
library_origins = [*train.origins, *unseen.origins]  # where each picture comes from
QUERIES = ["red heart", "woman with red hair", "cat", "boat", "quarterly tax report"][: check.pick(5, 2)]
found = evaluate.nearest(library, library_origins, evaluate.text_features(model, tokenizer, QUERIES), 7)

figure, grid = plt.subplots(len(QUERIES), 8, figsize=(9, 6), width_ratios=[2.2, *[1] * 7])
figure.supxlabel(data.OPENMOJI.credit, fontsize=7)
for query, row, answers in zip(QUERIES, grid, found, strict=True):
    row[0].text(1, 0.5, query, ha="right", va="center")
    for axes, (origin, c) in zip(row[1:], answers, strict=True):
        axes.imshow(origin.open(144))
        axes.set_title(f"{c:.2f}", fontsize=8)
    for axes in row:
        axes.axis("off")
name_of = dict(zip(library_origins, [*train.captions, *unseen.captions], strict=True))
for query, answers in zip(QUERIES, found, strict=True):
    print(f"{query}: {', '.join(name_of[origin] for origin, _ in answers[:4])} …")
below = (cosine[~own] < found[-1][0][1]).double().mean()
print(f"the first answer to {QUERIES[-1]!r} is above {100 * below:.1f} % of the wrong pairs of above")
met = {word for caption in train.captions for word in caption.split()}
print(f"words of the last query that the training captions have: {met.intersection(QUERIES[-1].split()) or 'none'}")

# %% [markdown]
# A caption that it knows, "red heart", comes first, and other hearts follow. "woman with red hair" is *not* a caption
# (CLDR says "woman red hair"), and yet a woman with red hair comes first. But women with other hair stand between her
# and the next such woman: the search does not know which answers are right. And the last query has no word that the
# training captions have, yet it gets its pictures, with cosines above nearly all of the wrong pairs. A search, too,
# always answers.
#
# ## Recall@k
#
# How good is a search? A *query* has one or more right answers among the candidates. *Recall@k* is the share of
# queries that have **a** right answer among their k nearest candidates. For pictures with several captions it is
# counted so, too: one of them is enough ([Karpathy & Fei-Fei 2015](https://arxiv.org/abs/1412.2306) report it in this
# way, with five captions for each picture).
#
# **Exercise 2.** Write it. The check compares with counting one by one.


# %%
def recall_at(similarity, is_right, k):
    """Similarities (Q, C), is_right (Q, C) of booleans -> share of queries with a right answer among the first k.

    1 <= k <= C. Every query has a right answer; no two similarities of a row are equal. Returns a Python float.
    """
    raise NotImplementedError


# %%
recall_at = check.recall_at(recall_at)

# %% [markdown]
# The curve of recall against k, in both directions, for the unseen pairs, where every query has one right answer; and
# for single *words*, where it has many: for the query "surfing", all pictures with "surfing" in their caption.

# %%
words = sorted({word for caption in unseen.captions for word in caption.split() if word.isalpha() and len(word) > 2})
word_features = evaluate.text_features(model, tokenizer, words)  # (W, E)
has_word = torch.tensor([[word in caption.split() for caption in unseen.captions] for word in words])  # (W, P)
curves = {
    "picture → caption": (cosine, own, "o-"),
    "caption → picture": (cosine.T, own, "s--"),
    f"{len(words)} single words → picture": (word_features @ pictures.T, has_word, "^:"),
}
KS = [1, 2, 3, 5, 10, 20, 50]
figure, axes = plt.subplots(figsize=(9, 3.4))
for name, (similarity, is_right, style) in curves.items():
    recalls = [100 * recall_at(similarity, is_right, k) for k in KS]
    axes.plot(KS, recalls, style, label=name)
    print(f"{name:30}" + "".join(f"  @{k} {value:5.1f} %" for k, value in zip(KS, recalls, strict=True)))
axes.plot(KS, [100 * k / len(unseen) for k in KS], "k-", linewidth=0.8, label="guessing, one right answer")
missed = 1 - has_word.double().mean(dim=1, keepdim=True)  # (W, 1): the chance that one guess is wrong
guesses = 100 * (1 - missed ** torch.tensor(KS)).mean(dim=0)  # (len(KS),)
axes.plot(KS, guesses, "k:", linewidth=1.2, label="guessing, single words")
axes.set(xlabel="k (logarithmic)", ylabel="recall@k (%)", xscale="log", ylim=(0, 103))
axes.set_xticks(KS, KS)
axes.minorticks_off()
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
theirs = evaluate.recall_of_pairs(model, tokenizer, unseen, ["{}"])["image_to_text"]
print("minclip.evaluate says the same:", all(abs(theirs[k] - recall_at(cosine, own, k)) < 1e-9 for k in theirs))

# %% [markdown]
# A right caption is nearly always among the first few. Single words do worse although they have more right answers,
# and although guessing alone brings them far (the dotted line). Why, this lesson does not test.
#
# ## What "other" does
#
# A popular introduction to CLIP takes any class set, such as {cat, dog, horse, other}, and lets CLIP give the scores.
# What is "other" in it? For the model it is a word like any other: its feature lies somewhere, and it takes its share
# of the softmax from all the others. Look at shares and cosines of four pictures, without and with it; the broccoli is
# by an artist (Noto) of whom the model has seen nothing. The cosines of the three animals are the same in both rows;
# their shares are not.

# %%
ANIMALS = ["cat", "dog", "horse"]
SHOWN = {"dog": "1F415", "fire engine": "1F692", "banana": "1F34C"}
SHOWN = {name: data.OPENMOJI.draw(codes, 144) for name, codes in SHOWN.items()}
SHOWN["broccoli"] = data.load_image("noto/broccoli.png")
four = torch.stack([preprocess.pixels(picture) for picture in SHOWN.values()])  # (4, 3, R, R)

figure, grid = plt.subplots(3, 4, figsize=(10, 4.6), height_ratios=[1.2, 1, 1.2])
figure.supxlabel(f"{data.OPENMOJI.credit}; broccoli: Noto Color Emoji, SIL OFL 1.1", fontsize=7)
for column, (name, picture) in enumerate(SHOWN.items()):
    grid[0][column].imshow(picture)
    grid[0][column].set_title(name, fontsize=10)
    grid[0][column].axis("off")
for row, labels in ((1, ANIMALS), (2, [*ANIMALS, "other"])):
    cosines, shares = evaluate.classify(model, tokenizer, four, labels)  # (4, C) each
    for column, axes in enumerate(grid[row]):
        axes.barh(range(len(labels)), 100 * shares[column], color=["0.6"] * 3 + ["C0"] * (len(labels) - 3))
        for place, (share, c) in enumerate(zip(shares[column].tolist(), cosines[column].tolist(), strict=True)):
            axes.text(100 * share + 2, place, f"{100 * share:.0f} %  (cos {c:.2f})", va="center", fontsize=8)
        axes.set_yticks(range(len(labels)), labels, fontsize=9)
        axes.set(xlim=(0, 170), xticks=[0, 100])
        axes.invert_yaxis()
    grid[row][0].set_ylabel('with "other"' if "other" in labels else 'without "other"')
for axes in grid[2]:
    axes.set_xlabel("share (%), by the softmax")
for labels in (ANIMALS, [*ANIMALS, "other"]):
    best = [answer.max(dim=1) for answer in evaluate.classify(model, tokenizer, four, labels)]  # of cosines, of shares
    said = [
        f"{name} → {labels[place]} ({100 * share:.0f} %, cos {c:.2f})"
        for name, place, share, c in zip(SHOWN, best[1].indices, best[1].values, best[0].values, strict=True)
    ]
    print(f'{"with" if "other" in labels else "without"} "other": {", ".join(said)}')

# %% [markdown]
# Without "other" the softmax makes an animal out of a fire engine whose cosines are all near zero: a share says who is
# ahead, not by what right. With "other" each of the three that are no animal goes wherever its cosine happens to be the
# largest. Where all of them are low, a few hundredths decide. The last line says who goes to "other", and it should
# have been all three. The broccoli has more in common with an animal's *name* than with the word "other", and the
# answer looks certain.
#
# ## Knowing that it is none of these
#
# Let us measure it. Draw twenty of the unseen captions as the class set. The twenty pictures that belong to them are
# *insiders*, all others are *outsiders*, and a rule has to tell which is which. Four rules, each of them a number
# that should be larger for insiders:
#
# - **largest share** among the twenty classes;
# - **"other"**: the share that the added class "other" does *not* get;
# - **largest cosine** with one of the twenty (to be compared with a threshold: what OpenAI's
#   [answer in #44](https://github.com/openai/CLIP/issues/44) proposes first);
# - **many other words**: add all captions of the training as classes, and take the share that is left to the twenty
#   (what it proposes second).
#
# The score of a rule is the chance that it ranks an insider above an outsider, both drawn at random (the *area under
# the ROC curve*): 50 % is a coin, 100 % perfect.

# %%
other = pictures @ evaluate.text_features(model, tokenizer, ["other"]).T  # (P, 1)
many = pictures @ evaluate.text_features(model, tokenizer, train.captions).T  # (P, all)
generator = torch.Generator().manual_seed(0)
DRAWS = check.pick(100, 5)


def area(inside, outside):
    """The chance that a random insider has the larger number (a tie counts half)."""
    difference = inside[:, None] - outside
    return ((difference > 0).double() + 0.5 * (difference == 0)).mean().item()


areas, verdicts = {}, []
for _ in range(DRAWS):
    classes = torch.randperm(len(unseen), generator=generator)[:20]
    inside = torch.isin(torch.arange(len(unseen)), classes)
    twenty = cosine[:, classes]  # (P, 20)
    with_other = (scale * torch.cat([twenty, other], dim=1)).softmax(dim=1)  # (P, 21)
    numbers = {
        "largest share": (scale * twenty).softmax(dim=1).amax(dim=1),
        '"other"': 1 - with_other[:, 20].double(),
        "largest cosine": twenty.amax(dim=1),
        "many other words": (scale * torch.cat([twenty, many], dim=1)).softmax(dim=1)[:, :20].sum(dim=1),
    }
    for rule, number in numbers.items():
        areas.setdefault(rule, []).append(area(number[inside], number[~inside]))
    to_other = with_other.argmax(dim=1) == 20
    verdicts.append((to_other[inside].double().mean().item(), to_other[~inside].double().mean().item()))

figure, axes = plt.subplots(figsize=(7, 2.2))
means = {rule: 100 * sum(values) / DRAWS for rule, values in areas.items()}
axes.barh(list(means), list(means.values()), color="0.7")
for place, value in enumerate(means.values()):
    axes.text(value + 0.5, place, f"{value:.1f}", va="center", fontsize=9)
axes.axvline(50, color="0.3", linestyle="--")
axes.set(xlabel="insider ranked above outsider (%), 50 = a coin", xlim=(0, 110))
axes.invert_yaxis()
kept, caught = (100 * sum(values) / DRAWS for values in zip(*verdicts, strict=True))
print(f'"other" has the largest share for {caught:.1f} % of the outsiders, and for {kept:.1f} % of the insiders')

# %% [markdown]
# Left to decide by itself, "other" catches few outsiders. As a number to rank by it is the weakest of the four.
# The cosine does much better. Not for the level of the whole matrix, which the loss cannot see, but for that of one
# picture *compared with other pictures*. The softmax over twenty texts divides it away, and it tells a good match
# from the best of bad ones. Training has made it mean something: the loss asks every caption, too, for its picture
# among all pictures. A softmax over *many* other texts does as well, since among thousands of rivals there is
# probably one near to any outsider (the tenths of a point between the two mean nothing: all draws are from the same
# pictures). But it needs a good list of others, where the cosine needs only a threshold.
#
# That threshold must come from measured pairs of the same model. Take one from half of the pictures, so that it keeps
# nine of ten right pairs, and try it on the other half. What does it turn away?

# %%
caught, kept, thresholds = [], [], []
for _ in range(DRAWS):
    classes = torch.randperm(len(unseen), generator=generator)[:20]
    half = torch.rand(len(unseen), generator=generator) < 0.5  # these pictures only set the threshold
    threshold = cosine[own][half].quantile(0.1)  # nine of ten right pairs are above it
    thresholds.append(threshold.item())
    inside = torch.isin(torch.arange(len(unseen)), classes)
    accepted = cosine[:, classes].amax(dim=1) >= threshold
    kept.append(accepted[~half & inside].double().mean().item())
    caught.append((~accepted[~half & ~inside]).double().mean().item())
kept, caught = (100 * sum(values) / DRAWS for values in (kept, caught))
print(f"thresholds from {min(thresholds):.2f} to {max(thresholds):.2f}")
print(f"they keep {kept:.0f} % of the insiders, as they were made to, and turn {caught:.0f} % of the outsiders away")

# %% [markdown]
# ## What this lesson does not show
#
# - Thresholds for *your* model: levels differ from model to model, and with the prompts. Measure.
# - Outsiders of another kind, such as photographs. Ours are emoji as well, many of them near relatives of an insider.
# - That prompts are useless: only that they should sound like the training captions.
#
# ## What you take away
#
# - A cosine of 0.25 is neither good nor bad by itself. Only comparisons between cosines of one model count: a shift
#   of all of them is invisible to the loss.
# - Shares say which of *your* texts is ahead. "other" is one more text. For "none of these" compare the cosine with a
#   threshold that was measured on this model; it means nothing for another.
# - A prompt ensemble: to length 1, mean, to length 1. Recall@k: is a right one among the first k?
#
# Stuck? `from solutions.lesson_10 import prompt_ensemble`, or read
# [solutions/lesson_10.py](solutions/lesson_10.py).
