# %% [markdown] id="question"
# # 10 · What does 0.25 mean?
#
# **The question.** "The image is a picture of a vehicle and the texts are [vehicle, motor, Computer], the similarites
# are 0.25, 0.22, 0.19. Is this correct? I feel like the most matched pair should be close to 1"
# ([openai/CLIP #405](https://github.com/openai/CLIP/issues/405)). Why are right answers at a cosine of 0.25?
#
# **You need** cosine, softmax and the logit scale (lessons 01, 02 and 04).
#
# **Afterwards you can** say what a cosine tells you and what it does not, build the feature of a class from several
# prompts, and measure a search by something that does not depend on the level of the cosines: recall@k.
#
# **Place.** Part III, *What it knows*; after lesson 08. About 45 minutes, exercises included.

# %%
import math

import check
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from splits import without_twins

import minclip
from minclip import data, evaluate

plt.style.use("lesson.mplstyle")
torch.set_num_threads(1)  # a model as small as this one is not faster with more
model, preprocess, tokenizer = minclip.load()
train, unseen = data.load_emoji(preprocess, artists=[data.OPENMOJI])
unseen = without_twins(unseen, train)
if check.FAST:
    unseen = unseen.select(range(0, len(unseen), 4))
scale = model.logit_scale.exp().item()

pictures = evaluate.image_features(model, unseen.images)  # (P, E), each of length 1
captions = evaluate.text_features(model, tokenizer, unseen.captions)  # (P, E); caption i belongs to picture i
cosine = pictures @ captions.T  # (P, P)
own = torch.eye(len(cosine), dtype=torch.bool)  # where a picture meets its own caption
print(f"{len(unseen)} pictures that were never trained on, and their captions; logit scale {scale:.1f}")

# %% [markdown] id="three-numbers"
# ## The three numbers
#
# OpenAI's models multiply cosines by 100 before the softmax (the scale is clipped at 100, section 2.5 of [Radford et
# al. 2021](https://arxiv.org/abs/2103.00020); in the released models it sits at that limit). So a difference $d$
# between two cosines becomes a factor of $e^{100 d}$ between two **shares**, our word for the outputs of the softmax:
# they are positive and add up to 1:

# %%
asked = torch.tensor([0.25, 0.22, 0.19])
for label, c, share in zip(("vehicle", "motor", "computer"), asked, (100 * asked).softmax(dim=0), strict=True):
    print(f"{label:9} cosine {c:.2f}   share {100 * share:5.1f} %")

# %% [markdown] id="how-far-ahead"
# So 0.25 was a clear answer, because it was 0.03 *ahead*. How far ahead must a right text be in training, where it
# competes with a whole batch? Take the paper's batch of 32,768 pairs, let all wrong texts have the same cosine, and ask
# for a share of one half for the right one. Guess before you compute: with a scale of 100, how much larger must its
# cosine be? Write your guess, a difference of two cosines, in place of None.

# %%
check.predict("lead that gives a share of one half among 32,768", None)

# %% [markdown] id="lead"
# With a lead of $d$ the right text has the share $e^{sd} / (e^{sd} + N - 1)$, where $s$ is the scale. That is one half
# when $e^{sd} = N - 1$, so $d = \ln(N - 1) / s$:

# %%
for s in (1, 1 / 0.07, scale, 100):
    lead = math.log(32_767) / s
    remark = "impossible: cosines differ by 2 at most" if lead > 2 else ""
    print(f"scale {s:5.1f}: the right text must be {lead:5.2f} ahead   {remark}")
check.reveal("lead that gives a share of one half among 32,768", lead, within=0.03)

# %% [markdown] id="cramped"
# At a scale of 100 a lead of a tenth is enough for that. A model that may multiply by 100 can do all its work on a
# short piece of the range from −1 to 1. Nothing yet says *which* piece.
#
# ## Two histograms
#
# Now our own model. Where will the right pairs be, on average? (The questioner above expected 1.)

# %%
check.predict("mean cosine of the right pairs", None)

# %%
check.reveal("mean cosine of the right pairs", cosine[own].mean().item(), within=0.1)
for name, values in (("right", cosine[own]), ("wrong", cosine[~own])):
    above = (values > 0.25).double().mean()
    print(f"{name} pairs: mean cosine {values.mean():5.2f}; above 0.25 are {100 * above:.1f} % of them")

# %% jupyter={"source_hidden": true}
figure, axes = plt.subplots(figsize=(8, 3.2))
bins = torch.linspace(-1, 1, 61).tolist()
axes.hist(cosine[~own], bins, density=True, color="0.8", label="wrong pairs")
axes.hist(cosine[own], bins, density=True, histtype="step", color="black", linewidth=2, label="right pairs")
axes.axvline(0.25, color="C3", linestyle="--")
axes.text(0.25, axes.get_ylim()[1], " 0.25", color="C3", va="top")
axes.set(xlabel="cosine of picture and text", ylabel="density", xlim=(-1, 1))
legend = axes.legend(loc="upper left")

# %% [markdown] id="two-levels"
# So ours is like theirs: the right pairs stand at about a third, and 0.25 is a clear answer, because few wrong pairs
# reach it. And it *works*: a right pair does not have to be near 1; it only has to be to the right of the grey hump.
# But what decides where it stands? Here is an experiment that you can check by hand.
#
# ## The loss cannot see the level
#
# Give every picture's feature one more number, $a$, and every text's feature one more number, $-a$, and bring both back
# to length 1. This pushes all pictures to one side and all texts to the other. The two new numbers add $-a^2$ to the
# dot product, and each length becomes $\sqrt{1 + a^2}$, so a cosine $c$ becomes
#
# $$c' = \frac{c - a^2}{1 + a^2}$$
#
# All cosines are squeezed and moved down *alike*. Their order stays. With a scale that is $1 + a^2$ times as large,
# every logit is moved by the same amount, and a softmax does not notice that: it divides by the sum, and a common
# factor of the exponentials cancels. (With $+a$ in place of $-a$ everything moves up, and $+a^2$ stands in the
# numerator.)
#
# Choose $a$ so that the right pairs land where you want them:


# %%
average = cosine[own].mean().item()


def moved_to(level):
    """Features (P, E + 1) of pictures and of texts with the mean right pair near this cosine, and the scale to use."""
    sign = 1 if level > average else -1
    a = (sign * (level - average) / (1 - sign * level)) ** 0.5  # c' = (c + sign · a²) / (1 + a²), solved for a
    column = torch.full((len(pictures), 1), a)
    left, right = torch.cat([pictures, column], dim=1), torch.cat([captions, sign * column], dim=1)
    return F.normalize(left, dim=1), F.normalize(right, dim=1), scale * (1 + a * a)


LEVELS = {"as it is": average, "pushed apart": 0.1, "further": 0.0, "pulled together": 0.5, "more": 0.9}
print("                  right pairs  wrong pairs   top-1   scale    loss")
for name, level in LEVELS.items():
    left, right, its_scale = moved_to(level)
    moved = left @ right.T
    top1 = (moved.argmax(dim=1) == torch.arange(len(moved))).double().mean()
    loss = minclip.clip_loss(left, right, its_scale)
    levels = f"{moved[own].mean():12.2f} {moved[~own].mean():12.2f}"
    print(f"{name:16} {levels}  {100 * top1:4.1f} %  {its_scale:6.1f}  {loss:.4f}")


# %% [markdown] id="level-is-free"
# The answers and the loss are the same, and the right pairs stand at a level that we chose. Only the scale has a limit,
# its clamp at 100, and what that allows may surprise you: right pairs at *zero* are possible. Right pairs at 0.9 are
# not (in this way), since the wrong ones come along, all differences become tiny, and the scale would have to be far
# above 100. Training has no reason to bring right pairs to 1.
#
# The Chinese introduction to CLIP from which this project started says of the matrix of cosines
#
# > 只要使对角线的位置尽可能的接近1,而其他位置尽可能接近0,这就达到了我们优化的目的
#
# In English: *as long as the entries on the diagonal are as close as possible to 1, and the other entries as close as
# possible to 0, the aim of our optimisation is reached.* Such a model does have a low loss. But the loss asks for less:
# only that the right one is *ahead*. The row "further" has the same loss as the trained model, with its diagonal at 0.
#
# ## The gap between the towers
#
# Such a push also happens on its own. In trained models, pictures do lie in one region and texts in another: the
# **modality gap** ([Liang et al. 2022](https://arxiv.org/abs/2203.02053)). They trace it to the start: an untrained
# network sends everything into a narrow cone, each tower into its own, and the loss does not have to close the gap. Is
# the same true of ours? The figure draws all features in the plane of the two directions along which they vary most
# (principal components).

# %%
torch.manual_seed(0)
untrained = minclip.CLIP(model.config).eval()
fresh = evaluate.image_features(untrained, unseen.images), evaluate.text_features(untrained, tokenizer, unseen.captions)
for (x, y), when in ((fresh, "before"), ((pictures, captions), "after")):
    alike = {"two pictures": x @ x.T, "two texts": y @ y.T, "one of each": x @ y.T}
    means = ", ".join(f"{name} {matrix[~own].mean():5.2f}" for name, matrix in alike.items())
    apart = (x.mean(0) - y.mean(0)).norm()
    print(f"{when:6} training: mean cosine of {means}; the two centres are {apart:.2f} apart")
print(f"an average right pair is {(pictures - captions).norm(dim=1).mean():.2f} apart after training")

# %% jupyter={"source_hidden": true}
figure, both = plt.subplots(1, 2, figsize=(9.5, 3.8))
for axes, (x, y), when in zip(both, (fresh, (pictures, captions)), ("before", "after"), strict=True):
    features = torch.cat([x, y])  # (2P, E)
    features = features - features.mean(dim=0)
    plane = features @ torch.pca_lowrank(features, q=2, center=False)[2]  # (2P, 2)
    axes.scatter(*plane[: len(x)].T, s=12, marker="o", facecolors="none", edgecolors="C0", label="pictures")
    axes.scatter(*plane[len(x) :].T, s=14, marker="x", color="C1", linewidth=1, label="texts")
    axes.set(title=f"{when} training", xlabel="first direction", ylabel="second direction", aspect="equal")
    axes.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1))
legend = both[0].legend(loc="upper left")

# %% [markdown] id="gap-left"
# Before training there is a wide gap, as the paper says. The pictures lie in a very narrow cone, the texts in a much
# wider one. Training has narrowed the gap but not closed it: the centres are about half as far apart as before, and two
# pictures, or two texts, are still more alike than one of each. This lesson does not test *why* a gap is left, or
# whether another training would close it.
#
# ## The level moves with the words
#
# A class is a text, and its wording matters. The paper wraps ImageNet's labels in **prompts**, such as "A photo of a
# {label}.", which gains 1.3 points; and it averages the features of 80 prompts for each class, which gains 3.5 more
# (section 3.1.4). Such an average is called a **prompt ensemble**. It also shows what the feature of a class *is*: a
# direction, and not the feature of one particular wording.
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

# %% [markdown] id="which-prompt"
# Stuck? `check.hint("prompt_ensemble")`, more than once.
#
# Does it help our model? We try each of six wordings alone, then all six together, and print the top-1 and the mean
# cosine of the right pairs. **Guess first:** does the ensemble beat the best of its six members?

# %%
check.predict("the ensemble against its best member", None, options=("better", "equal", "worse"))

# %%
TEMPLATES = ["{}", "the {}", "a {}", "{} emoji", "a photo of a {}.", "{}!"]


@torch.no_grad()
def encode(template):
    texts = [template.replace("{}", caption) for caption in unseen.captions]
    return model.encode_text(tokenizer(texts, model.config.context_length))  # (P, E), of any length


def score(prompts):
    """Features (P, T, E) of T prompts for each caption -> unseen top-1 in percent, mean cosine of the right pairs."""
    similarity = pictures @ prompt_ensemble(prompts).T  # (P, P)
    top1 = (similarity.argmax(dim=1) == torch.arange(len(similarity))).double().mean().item()
    return 100 * top1, similarity[own].mean().item()


prompts = torch.stack([encode(template) for template in TEMPLATES], dim=1)  # (P, 6, E)
rows = {template: score(prompts[:, [t]]) for t, template in enumerate(TEMPLATES)}
best = max(top1 for top1, _ in rows.values())
rows["all six"] = score(prompts)
for name, (top1, level) in rows.items():
    print(f"{name:18} top-1 {top1:5.1f} %   right pairs at {level:.2f}")
lead = rows["all six"][0] - best
result = "better" if lead > 1e-6 else "worse" if lead < -1e-6 else "equal"
check.reveal("the ensemble against its best member", result)
members = sum(top1 for top1, _ in list(rows.values())[:-1]) / len(TEMPLATES)
print(f"by {lead:+.1f} points; against the average of the six, {rows['all six'][0] - members:+.1f} points")

# %% [markdown] id="prompts-found"
# Look at the right column first: the level of the right pairs changes with the wording, by more than the 0.03 that
# decided between *vehicle* and *motor*. So a cosine with "a photo of a dog." must not be compared with a cosine with
# "cat": within one comparison all classes need the same wording.
#
# Now the left one. The ensemble does not do here what it did for the paper: it beats the average of its members, but
# not the best of them. In this model's training many captions had "a" or "the" before them, or "emoji" after. The two
# wordings that the training did not have, the photo and the exclamation mark, are the bad ones. That fits the usual
# explanation: a prompt should make a label look like the training texts. OpenAI's were sentences from the web, whereas
# ImageNet's labels are single, often ambiguous words.
#
# ## What can be measured, then? The order
#
# A search sorts. *Recall@k* is the share of queries that have **a** right answer among their k nearest candidates. A
# push that moves all cosines alike cannot change it. If a picture has several captions, finding one of them is enough
# ([Karpathy & Fei-Fei 2015](https://arxiv.org/abs/1412.2306) report it in this way, with five captions for each
# picture).
#
# **Exercise 2.** Write it. Row *q* of both matrices belongs to query *q*. The check counts query by query.


# %%
def recall_at(similarity, is_right, k):
    """Similarities (Q, C), is_right (Q, C) of booleans -> share of queries with a right answer among the first k.

    1 <= k <= C. Every query has a right answer; no two similarities of a row are equal. Returns a Python float.
    """
    raise NotImplementedError


# %%
recall_at = check.recall_at(recall_at)

# %% [markdown] id="four-curves"
# First we check the claim that recall does not see the level:

# %%
for level in LEVELS.values():
    left, right, _ = moved_to(level)
    shares = [f"@{k} {100 * recall_at(left @ right.T, own, k):.1f} %" for k in (1, 5, 10)]
    print(f"right pairs at {(left * right).sum(dim=1).mean():.2f}: recall {', '.join(shares)}")

# %% [markdown] id="several-captions"
# Next comes the curve of recall against k, with several right answers. A whole caption has one right picture. A single
# *word* has many: for the query "surfing", all pictures with "surfing" in their caption. In the other direction a
# picture has several words, and each of them is right.

# %%
words = sorted({word for caption in unseen.captions for word in caption.split() if word.isalpha() and len(word) > 2})
word_features = evaluate.text_features(model, tokenizer, words)  # (W, E)
has_word = torch.tensor([[word in caption.split() for caption in unseen.captions] for word in words])  # (W, P)
curves = {
    "caption → picture": (cosine.T, own, "s-"),
    "picture → caption": (cosine, own, "o--"),
    "word → picture": (word_features @ pictures.T, has_word, "^:"),
    "picture → word": (pictures @ word_features.T, has_word.T, "D-."),
}
KS = [1, 2, 3, 5, 10, 20, 50]
found = {name: [100 * recall_at(matrix, right, k) for k in KS] for name, (matrix, right, _) in curves.items()}
chance = {  # that k different guesses hit one of the right answers
    name: [100 * evaluate.chance(right.sum(dim=1), right.shape[1], k).mean().item() for k in KS]
    for name, (_, right, _) in curves.items()
}
print(f"{len(unseen)} pictures and captions, {len(words)} words; in brackets what guessing reaches")
for name in curves:
    cells = zip(KS, found[name], chance[name], strict=True)
    print(f"{name:18}" + "".join(f"  @{k} {value:5.1f} ({lucky:4.1f}) %" for k, value, lucky in cells if k <= 10))
theirs = evaluate.recall_of_pairs(model, tokenizer, unseen, ["{}"])["image_to_text"]
print("minclip.evaluate says the same:", all(abs(theirs[k] - recall_at(cosine, own, k)) < 1e-9 for k in theirs))

# %% jupyter={"source_hidden": true}
figure, axes = plt.subplots(figsize=(9, 3.4))
for name, (_, _, style) in curves.items():
    (line,) = axes.plot(KS, found[name], style, label=name)
    axes.plot(KS, chance[name], style[1:], color=line.get_color(), linewidth=0.8)
axes.set(xlabel="k (logarithmic)", ylabel="recall@k (%)", xscale="log", ylim=(0, 103))
axes.set_xticks(KS, KS)
axes.minorticks_off()
legend = axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9, title="thin: guessing")

# %% [markdown] id="the-end"
# A right caption is nearly always among the first few. Single words do worse, although they have more right answers, so
# that even guessing finds more: always read a recall beside its chance level. This lesson does not test why words do
# worse.
#
# ## The answer
#
# **A cosine of 0.25 is neither good nor bad: it can be a clear answer in one model and a poor one in another.** CLIP's
# loss sees only differences between cosines, multiplied by the scale; the level at which right pairs stand is left
# free, so each model has one of its own, and only comparisons within one model and one wording count.
#
# ## What this lesson does not show
#
# - A threshold for "none of these". That does need a level, measured for one model: lesson 11.
# - That prompts are useless: only that they should sound like the captions of the training.
# - Why this model has exactly this level. Initialisation, width, data and the length of the training may all play a
#   part.
#
# ## Harder
#
# 1. Subtract the mean of all picture features from each picture, the mean of all text features from each text, and
#    normalise again. The gap is closed. What happens to the two histograms, and to recall@1? (Take the means from
#    training pairs.)
# 2. Which weights for the six prompts give the best recall on *training* pictures, and do they help on the unseen ones?
# 3. Karpathy and Fei-Fei's recall asks for one right answer. For a query with 20 right pictures that is not asking
#    much. Compute the mean average precision, and compare the four curves by it.
#
# Stuck? `check.hint("recall_at")`, `from solutions.lesson_10 import prompt_ensemble, recall_at`, or read
# [solutions/lesson_10.py](solutions/lesson_10.py).
