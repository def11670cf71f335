# %% [markdown]
# # 09 · Do you need 4096?
#
# **The question.** CLIP was trained with batches of 32,768 pairs, on hundreds of GPUs ([Radford et al.
# 2021](https://arxiv.org/abs/2103.00020), section 2.5). The Chinese introduction to CLIP from which this project
# started adds, from its author's own experience:
#
# > 理论上batch size越大越好,一般参考值也在4096以上。而且,如果没有较大的batch size,
# > CLIP甚至训不收敛(与训练时间无关)
#
# In English: *in theory the bigger the batch the better, and the usual value is 4096 or more. And without a fairly
# large batch CLIP does not even converge, however long it is trained.* That would rule out your laptop. Is that so? And
# what does a bigger batch buy?
#
# **You need** the loss (lessons 01 and 02), its value for an untrained model (lesson 03), and a training step (lesson
# 08).
#
# **Afterwards you can** tell apart the three things that change when the batch grows, set up comparisons that are fair
# in a stated sense, and say why short and long training runs give opposite answers.
#
# **Place.** Part III, *What it knows*; after lesson 08. About 50 minutes, plus some more for the machine.

# %%
import itertools
import math
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import check
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from splits import without_twins
from torch import nn

import minclip
from minclip.data import OPENMOJI, Preprocess, hold_out, load_emoji, normalize
from minclip.evaluate import ranks
from minclip.train import TrainConfig, learning_rate, make_optimizer

plt.style.use("lesson.mplstyle")
torch.set_num_threads(1)  # matrices as small as those below are multiplied faster without helpers

# %% [markdown]
# ## One knob, three changes
#
# Turn up the batch size B, and three things happen at once:
#
# 1. **more negatives**: each picture is told apart from B − 1 wrong texts instead of a few;
# 2. **a steadier gradient**: it is a mean over more pairs, so it jumps about less from step to step;
# 3. **fewer steps** for the same number of pairs.
#
# The first two sound good and the third bad. So "is a bigger batch better?" has no answer until you say what is kept
# equal:
#
# | kept equal | a batch 4 times as big gets | who asks this question |
# |---|---|---|
# | **samples**: pairs seen | a quarter of the steps | someone who pays for arithmetic: the bill is the same |
# | **steps**: updates of the weights | 4 times the samples | someone who has more GPUs: the wait is the same |
#
# We make both comparisons. Then we let each size train for as long as that helps, and ask where it ends. Last, we make
# the first of the three changes alone: the negatives.

# %% [markdown]
# ## The smallest CLIP
#
# The comparison needs dozens of training runs, so each may take only seconds. The task is the one of lesson 08: learn
# from emoji and their names, then find the right caption among all captions for each of the *unseen* pictures, nearly
# all of which show a known drawing in another skin tone. The pictures shrink to 12 × 12 pixels. A tenth of the training
# pictures is set aside as a **validation set**: we choose the learning rates by it, and by nothing else. It is harder
# than the unseen pictures: about half of its drawings are not known in any other tone, and many of its captions have a
# word that no training caption has. From both sets, `without_twins` removes the few pictures that the training set
# contains as well, under another name:

# %%
everything, unseen = load_emoji(Preprocess(24), artists=[OPENMOJI])
train, aside = hold_out(everything)
unseen, aside = without_twins(unseen, everything), without_twins(aside, train)
if check.FAST:
    train = train.select(range(640))
VOCABULARY, CONTEXT = check.pick(2048, 700), 20  # tokens to choose from, tokens in a text at most
tokenizer = minclip.Tokenizer.train(train.captions, VOCABULARY)


def tensors(pairs):
    """The pictures (P, 3, 12, 12) and the tokens (P, T) of pairs; emoji have one caption each."""
    return F.avg_pool2d(normalize(pairs.images), 2), tokenizer(pairs.captions, CONTEXT)


train_data, aside_data, unseen_data = tensors(train), tensors(aside), tensors(unseen)
print(f"{len(train)} pairs to train on, {len(aside)} aside, {len(unseen)} unseen: chance is {100 / len(unseen):.2f} %")

# %% [markdown]
# The towers are the simplest that can work. The picture tower has two layers on the 432 numbers of a picture. The text
# tower takes the *mean* of the tokens' vectors (PyTorch calls this `EmbeddingBag`), then has two layers. There is no
# attention, and word order does not count. The rest is as before: two features, their cosines, a learned temperature,
# the loss of lesson 02. To measure a model, `ranks` counts for each picture the wrong captions that are at least as
# near as its own. Top-1 is the share of pictures for which that count is zero.


# %%
class TwoTowers(nn.Module):
    def __init__(self, width=128, embed_dim=64):
        super().__init__()
        self.encode_image = nn.Sequential(  # (B, 3, 12, 12) -> (B, E)
            nn.Flatten(), nn.Linear(3 * 12 * 12, width), nn.GELU(), nn.Linear(width, embed_dim)
        )
        token_embedding = nn.EmbeddingBag(VOCABULARY, width, mode="mean", padding_idx=0)  # ignores the padding
        self.encode_text = nn.Sequential(  # (B, T) -> (B, E)
            token_embedding, nn.Linear(width, width), nn.GELU(), nn.Linear(width, embed_dim)
        )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))


def top1(model, pairs):
    """Percent of the pictures whose own caption is nearest among the captions of all."""
    with torch.no_grad():
        images = F.normalize(model.encode_image(pairs[0]), dim=1)  # (P, E)
        texts = F.normalize(model.encode_text(pairs[1]), dim=1)  # (P, E)
    found = ranks(images @ texts.T, torch.eye(len(images), dtype=torch.bool)) < 1
    return 100 * found.float().mean().item()


# %% [markdown]
# ## Fewer negatives, same batch
#
# The first of the three changes can be made alone. Cut a batch into groups, and let each picture choose only among the
# texts of its own group (and each text among the pictures of its group). The step still averages over the whole batch;
# only the number of negatives is smaller.
#
# **Exercise.** Write that loss. All groups count the same, and so do both directions, as in lesson 02. With one group,
# it is `minclip.clip_loss`.


# %%
def grouped_loss(image_features, text_features, scale, group):
    """(B, E), (B, E), a number, pairs in a group -> the mean of CLIP's loss over the B / group groups, shape ().

    The first `group` pairs are one group, the next are another; B is a multiple of group. Features of any length.
    """
    raise NotImplementedError


# %%
grouped_loss = check.grouped_loss(grouped_loss)

# %% [markdown]
# Here is one training run; the optimizer, warm-up and cosine schedule are minclip's own. `batch` is the number of pairs
# in a step, and `group` the number of them that compete: all of them, except in the last experiment.


# %%
def train_once(batch, epochs, lr, seed, group=None):
    """Returns what the trained model reaches, on the pictures aside and on the unseen ones, and its losses."""
    torch.manual_seed(seed)
    model = TwoTowers()
    losses = fit(model, batch, round(epochs * len(train) / batch), lr, seed, group)
    return {"lr": lr, "aside": top1(model, aside_data), "unseen": top1(model, unseen_data), "losses": losses}


def fit(model, batch, steps, lr, seed, group=None):
    """Trains a model in place; returns its losses."""
    shuffle = torch.Generator().manual_seed(seed)
    config = TrainConfig(lr=lr)
    optimizer = make_optimizer(model, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps, config))
    images, tokens = train_data
    losses = []
    for step in range(steps):
        place = step % (len(tokens) // batch) * batch
        if place == 0:  # a new epoch: every pair once, in a new order
            order = torch.randperm(len(tokens), generator=shuffle)
        chosen = order[place : place + batch]
        x, y = model.encode_image(images[chosen]), model.encode_text(tokens[chosen])  # (B, E) each
        loss = grouped_loss(x, y, model.logit_scale.exp(), group or batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        losses.append(loss.item())
    return losses


# %% [markdown]
# ## The plan
#
# There are four batch sizes and four lengths, each four times the one before. So one grid holds both comparisons: the
# cells of a *column* below have seen equally many samples, and the cells of a *diagonal*, from the upper left to the
# lower right, have taken equally many steps. Every cell is a training run of its own, with a schedule that ends there.
# (A longer run, measured on the way, would still have a high learning rate.) One cell stays empty: it would take about
# three times as long as any other.

# %%
SIZES = check.pick((16, 64, 256, 1024), (16, 64))
EPOCHS = check.pick((4, 16, 64, 256), (1, 4))
PLAN = [(size, epochs) for epochs in EPOCHS for size in SIZES if (size, epochs) != (16, 256)]
print("steps    " + "".join(f"{f'{epochs} epochs':>13}" for epochs in EPOCHS))
for size in SIZES:
    steps = [f"{round(epochs * len(train) / size):,}" if (size, epochs) in PLAN else "-" for epochs in EPOCHS]
    print(f"batch {size:4}" + "".join(f"{count:>12} " for count in steps))

# %% [markdown]
# ## The learning rate, or how to cheat without noticing
#
# Fix one learning rate for all, and you compare batch sizes *at a learning rate that suits one of them*. So every cell
# gets its own. The rule: start at 0.01, and go up or down a ladder, by a factor of about three each time, for as long
# as that improves the score on the validation set. The unseen pictures are not used. Then the rate is fixed, and two
# more runs follow with other seeds (other initial weights, a different order of the pairs). Three runs are few, but
# they give an idea of how much is luck.

# %%
LADDER = check.pick((1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1), (1e-2,))
SEEDS = check.pick((0, 1, 2), (0, 1))


def cell(batch, epochs, group=None):
    """Three trainings, at the rate of the ladder that does better than those above and below it."""
    tried, here = {}, LADDER.index(1e-2)
    while True:
        around = [place for place in (here, here - 1, here + 1) if 0 <= place < len(LADDER)]
        for place in around:
            if place not in tried:
                tried[place] = train_once(batch, epochs, LADDER[place], SEEDS[0], group)
        best = max(around, key=lambda place: tried[place]["aside"])  # of equals the first: here
        if best == here:
            return [tried[here], *(train_once(batch, epochs, LADDER[here], seed, group) for seed in SEEDS[1:])]
        here = best


def in_two_processes(jobs):
    """cell(*job) for every job, two at a time where a process can be copied."""
    if sys.platform != "linux":
        return [cell(*job) for job in jobs]
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        return [future.result() for future in [pool.submit(cell, *job) for job in jobs]]


# %% [markdown]
# ## The runs
#
# Before you look: **which batch size will be best after the shortest training, and which after the longest?** Put your
# guesses in place of None; they are compared with the results below.

# %%
check.predict(f"best batch after {EPOCHS[0]} epochs", None, options=tuple(map(str, SIZES)))
check.predict(f"best batch after {EPOCHS[-1]} epochs", None, options=tuple(map(str, SIZES)))

# %%
longest_first = sorted(PLAN, key=lambda job: -job[1] / job[0] ** 0.5)
runs = dict(zip(longest_first, in_two_processes(longest_first), strict=True))  # (size, epochs) -> three trainings


def scores(which, of="unseen"):
    return [run[of] for run in which]


rates = [cell_runs[0]["lr"] for cell_runs in runs.values()]
print("learning rates chosen:", ", ".join(f"{rate:g} ({rates.count(rate)} times)" for rate in sorted(set(rates))))
at_the_end = sum(rate in (LADDER[0], LADDER[-1]) for rate in rates)
print(f"{at_the_end} of {len(rates)} stand at an end of the ladder, where a better one could lie beyond")

# %%
STYLES = dict(zip(SIZES, ("o:", "s-.", "^--", "D-"), strict=False))
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
for size, style in STYLES.items():
    lengths = [epochs for epochs in EPOCHS if (size, epochs) in runs]
    means = [statistics.mean(scores(runs[size, epochs])) for epochs in lengths]
    around = [[min(scores(runs[size, e])) for e in lengths], [max(scores(runs[size, e])) for e in lengths]]
    for axes, places in ((left, lengths), (right, [epochs * len(train) / size for epochs in lengths])):
        (line,) = axes.plot(places, means, style, label=f"batch {size}")
        axes.fill_between(places, *around, color=line.get_color(), alpha=0.2, linewidth=0)
left.set(xscale="log", xlabel="epochs (equal samples)", ylabel="unseen top-1 (%)", ylim=(0, 100))
left.set_xticks(EPOCHS, EPOCHS)
left.minorticks_off()
right.set(xscale="log", xlabel="steps (equal steps)")
legend = left.legend(loc="lower right")

# %% [markdown]
# *Each point is the mean of three runs; the band spans the lowest and the highest. Both panels show the same points, on
# the left against the samples that they cost, on the right against the steps.*
#
# ## First comparison: equal samples
#
# When do we call a difference clear? Here: when every run with one batch size is better than every run with the other.
# If there were no difference, luck alone would produce this one time in ten, in one direction or the other.

# %%
print(f"by luck: {2 / math.comb(2 * len(SEEDS), len(SEEDS)):.0%} of the comparisons\n")


def words(better, worse):
    """Whether all scores of the first are above all of the second."""
    return "clearly" if min(better) > max(worse) else "not clearly"


def table(title, columns):
    """Prints mean, lowest and highest of each cell of {column: {row: trainings}}, and the best of each column."""
    print(title)
    for name, cells in columns.items():
        order = sorted(cells, key=lambda row: -statistics.mean(scores(cells[row])))
        for row in cells:
            values = scores(cells[row])
            spread = f"({min(values):4.1f} to {max(values):4.1f})"
            print(f"  {name:>12}, batch {row:4}: {statistics.mean(values):5.1f} %  {spread}")
        if len(order) > 1:
            sure = words(scores(cells[order[0]]), scores(cells[order[1]]))
            print(f"  {name:>12}: best is {order[0]}, {sure} ahead of {order[1]}\n")


by_length = {epochs: {size: runs[size, epochs] for size in SIZES if (size, epochs) in runs} for epochs in EPOCHS}
table("equal samples", {f"{epochs} epochs": cells for epochs, cells in by_length.items()})
for epochs in (EPOCHS[0], EPOCHS[-1]):
    best = max(by_length[epochs], key=lambda size: statistics.mean(scores(by_length[epochs][size])))
    check.reveal(f"best batch after {epochs} epochs", str(best))

# %% [markdown]
# **The curves cross.** After 4 epochs the batch of 64 is first, and the batch of 1024 has hardly begun: it has taken a
# dozen steps. The longer the training, the bigger the batch that leads: 256 has the highest mean after 16 and after 64
# epochs, and after 256 epochs the two that were last at first, 256 and 1024, are ahead, too close to each other to tell
# apart. So an experiment that stops after 4 epochs teaches the opposite of one that goes on to 256.
#
# ## Second comparison: equal steps
#
# If you have enough GPUs and only wait for steps, look at the diagonals: a batch four times as big, with four times the
# epochs.

# %%
by_steps = {}
for size, epochs in sorted(PLAN):
    by_steps.setdefault(round(epochs * len(train) / size / 10) * 10, {})[size] = runs[size, epochs]
table("equal steps", {f"{steps:,} steps": cells for steps, cells in by_steps.items() if len(cells) > 1})

# %% [markdown]
# (The numbers of steps are rounded to tens.) At equal steps the bigger batch is clearly ahead, for every number of
# steps. It has also seen four times as many pairs. And at the same number of steps, each further factor of four in the
# batch buys less than the one before.
#
# ## Third comparison: until it stops improving
#
# Both comparisons stop before the end. The third lets each batch size train for as long as that helps, and asks where
# it ends. The validation set says whether it still helps: how many points did the last quadrupling of the epochs bring?

# %%
best_of = {}
for size in SIZES:
    lengths = [epochs for epochs in EPOCHS if (size, epochs) in runs]
    by_aside = {epochs: statistics.mean(scores(runs[size, epochs], "aside")) for epochs in lengths}
    rise = by_aside[lengths[-1]] - by_aside[lengths[-2]]
    best_of[size] = runs[size, max(by_aside, key=by_aside.get)]
    steps = ", ".join(f"{by_aside[epochs]:.1f}" for epochs in lengths)
    state = "still improving: not trained to the end" if rise > 1 else "no longer improving by more than a point"
    print(f"batch {size:4}: validation top-1 {steps} %; the last fourfold brought {rise:+.1f} points: {state}")
print()
table("each at its best length", {"best": best_of})

# %% [markdown]
# **None of the four has stopped improving**, so this comparison is not finished: we do not know where each size *ends*.
# The longest runs say this: 256 and 1024 cannot be told apart, and 64 is clearly behind both. The batch of 16 had only
# 64 epochs; compare it with the others after 64, where it is clearly last. We did not test whether small batches would
# catch up in still longer runs.
#
# ## Only the negatives
#
# Steps and samples cannot both be kept equal while B changes. With your `grouped_loss` there is a fourth experiment,
# and it asks what the argument for big batches is really about: *does it help a picture to be told apart from more
# texts at once?* The batch and the number of steps stay the same, and so do the pairs; only the number of negatives
# differs (and with it the gradient, and the temperature that is learned). A group of four has three negatives; the
# triplet of lesson 01 had one.

# %%
MIDDLE, LONG = check.pick((256, 64), (64, 4))
GROUPS = check.pick((4, 16, 64), (4, 16))
groups = dict(zip(GROUPS, in_two_processes([(MIDDLE, LONG, group) for group in GROUPS]), strict=True))
groups[MIDDLE] = runs[MIDDLE, LONG]

figure, axes = plt.subplots(figsize=(5.6, 3.6))
for group, trainings in groups.items():
    axes.plot([group] * len(SEEDS), scores(trainings), "o", color="black", fillstyle="none")
axes.plot(list(groups), [statistics.mean(scores(trainings)) for trainings in groups.values()], color="C0")
axes.set(xscale="log", xlabel=f"pairs that compete in one softmax (of {MIDDLE} in a step)", ylabel="unseen top-1 (%)")
axes.set_xticks(list(groups), groups)
axes.minorticks_off()
axes.set(ylim=(0, 100), title=f"batch {MIDDLE}, {LONG} epochs")
for few, many in itertools.pairwise(groups):
    means = [statistics.mean(scores(groups[number])) for number in (few, many)]
    better, worse = sorted((groups[few], groups[many]), key=lambda cell_runs: -statistics.mean(scores(cell_runs)))
    sure = words(scores(better), scores(worse))
    print(f"{few:3} → {many:3} competitors: {means[0]:.1f} → {means[1]:.1f} %, {sure} different")

# %% [markdown]
# Four times as many competitors made a clear difference each time: more was learned from the same pairs in the same
# number of steps. So there is truth in the argument for big batches, though each factor of four bought less than the
# one before. Nothing broke with only four competitors.
#
# One more comparison can be read off now: sixteen competitors, first as a batch of 16 with its many small steps, then
# as groups of 16 in big steps. The samples are equal, and so are the negatives; only the number of steps differs, and
# how noisy each step is.

# %%
for name, trainings in (
    ("a batch of 16", runs[16, LONG]),
    (f"groups of 16, in batches of {MIDDLE}", groups[16]),
    (f"a batch of {MIDDLE}, all competing", groups[MIDDLE]),
):
    print(f"{name:32} {statistics.mean(scores(trainings)):.1f} % after {LONG} epochs")

# %% [markdown]
# Sixteen competitors give much the same result in many small steps as in a few big ones, and 256 competitors give a
# much better one. So in *this* experiment what a batch of 16 lacks, compared with one of 256, is mostly negatives.
#
# ## "Does not even converge"
#
# The article does not say that 4096 is the threshold; it says that without a *fairly large* batch CLIP does not
# converge, however long it is trained. Every batch here is below 4096, so take the smallest one. We say beforehand what
# would count, so that we can also be wrong: **it learned** if the loss on its batches falls below half of ln B, the
# loss of an untrained model, *and* it finds more than ten times as many unseen pictures as chance. One run that learns
# is enough to refute a claim about all runs. And because you may object that these towers are toys, the last line is a
# real `minclip.CLIP`, with a Transformer in each tower, on the same pictures with the same small batch: once, for three
# epochs, at a learning rate that was not tuned.

# %%
smallest, chance = min(SIZES), 100 / len(unseen)
longest = max(epochs for size, epochs in PLAN if size == smallest)
curves = torch.tensor([run["losses"] for run in runs[smallest, longest]])  # (seeds, steps)
width = max(1, curves.shape[1] // 60)
smooth = curves[:, : curves.shape[1] // width * width].view(len(curves), -1, width).mean(dim=2)  # (seeds, about 60)
figure, axes = plt.subplots(figsize=(6.4, 3.4))
for seed, curve, style in zip(SEEDS, smooth, ("-", "--", ":"), strict=False):
    axes.plot(torch.arange(len(curve)) * width * smallest / len(train), curve, style, label=f"seed {seed}")
axes.axhline(math.log(smallest), color="gray", linewidth=1)
axes.annotate(f"untrained: ln {smallest}", (0.98, math.log(smallest)), xycoords=("axes fraction", "data"),
              xytext=(0, 4), textcoords="offset points", ha="right", color="gray")  # fmt: skip
axes.set(xlabel="epochs", ylabel="loss", ylim=(0, 1.2 * math.log(smallest)), title=f"batch {smallest}")
axes.legend(loc="center right")


def did_it_learn(name, losses, score, batch):
    end = statistics.mean(losses[-(len(losses) // 10 + 1) :])  # of the last tenth of the steps
    learned = end < math.log(batch) / 2 and score > 10 * chance
    print(f"{name}, batch {batch}, {len(losses)} steps: loss {end:.2f} at the end (untrained: {math.log(batch):.2f}),")
    print(
        f"  unseen top-1 {score:.1f} %, {score / chance:.0f} times chance: {'it learned' if learned else 'not shown'}"
    )


for seed, run in zip(SEEDS, runs[smallest, longest], strict=True):
    did_it_learn(f"seed {seed}", run["losses"], run["unseen"], smallest)
config = minclip.CLIPConfig(
    embed_dim=64,
    image_resolution=12,
    vision_layers=1,
    vision_width=64,
    vision_heads=2,
    vision_patch_size=4,
    context_length=CONTEXT,
    vocab_size=VOCABULARY,
    transformer_width=64,
    transformer_heads=2,
    transformer_layers=1,
    quick_gelu=False,
)
torch.manual_seed(0)
model = minclip.CLIP(config)
losses = fit(model, smallest, check.pick(3 * len(train) // smallest, 5), lr=1e-3, seed=0)
did_it_learn("CLIP with attention", losses, top1(model, unseen_data), smallest)

# %% [markdown]
# ## What the article says, what we found
#
# - *"In theory the bigger the batch the better."* At equal steps: yes, every time. At equal samples it depends on
#   the length of the training: after 4 epochs the opposite is nearer to the truth, and after 256 the two biggest cannot
#   be told apart.
# - *"The usual value is 4096 or more."* Not tested: there are not that many pairs here.
# - *"Without a fairly large batch CLIP does not even converge, however long it is trained."* Here it does. With a batch
#   of 16 the loss falls to nearly nothing, and the model finds hundreds of times as many unseen pictures as chance. Its
#   top-1 is lower than with a bigger batch, but that is a different claim.
# - *"Because a batch does not have a wide enough field of comparison"* is the reason that the article goes on to give.
#   There is truth in it: more competitors alone, at equal samples and equal steps, made a clear difference.
#
# ## What this experiment cannot say
#
# - **It is small.** A batch of 16 out of a few thousand pairs is a larger share than 4096 out of the paper's 400
#   million. Probably what matters is how often a batch holds something *hard to tell apart*, and in a small collection
#   that happens sooner. The author of the claim spoke of training at web scale, and nothing here comes near that. At a
#   scale like the paper's, [Zhai et al. 2023](https://arxiv.org/abs/2303.15343) (SigLIP) went up to a batch of one
#   million, and found that the gain fades and that 32 thousand are enough.
# - **Long training runs see the same pairs again.** After 256 epochs every pair has been seen 256 times. In web-scale
#   training nearly all pairs are new, and a bigger batch may gain more or less from that.
# - **Nothing was trained to the end**: in the third comparison all four sizes were still improving, and the smallest
#   had the shortest runs.
# - **The learning rates are tuned coarsely**: in steps of about three, with one seed, on a few hundred pictures.
#   Warm-up, weight decay and the optimizer's averages were not tuned for each size at all.
# - **Three seeds are few.** They vary the start and the order of the pairs, not the choice of the test pictures, which
#   all runs share.
# - **It counts samples and steps, not minutes.** On a GPU a batch of 16 leaves most of the machine idle, so counted in
#   minutes a bigger batch does better than at equal samples. That is a good reason for big batches on big machines.
#
# ## What you take away
#
# - The curves of different batch sizes cross. Short training runs favour small batches, long ones big batches: a
#   ranking says nothing without the length of the training.
# - "Does a bigger batch help?" is not a question until you say what is kept equal: equal samples and equal steps give
#   different answers.
# - The number of negatives is only one of the things that a bigger batch brings. It can be varied alone, and it counts.
# - A claim that *nothing* below some size can learn is refuted by one run that does. How well it learns is another
#   question.
# - Tune the learning rate for each size on a validation set; repeat with other seeds; check that the curves have
#   stopped rising before you compare where they end.
# - How to fit a big batch into a small memory is a question of its own: lesson 14 computes the exact gradient in parts,
#   and lesson 15 the loss without its matrix.
#
# ## The plain answer
#
# No. At this scale even a batch of 16 learns. After long training runs, bigger batches scored higher, up to 256 (1024
# could not be told apart from it); in short ones the biggest have too few steps to lead.
#
# **Harder, without a solution.**
#
# 1. Fill each batch of 16 with emoji of *one* group (faces, or animals), so that its few negatives are hard. What does
#    that buy, and what does it cost?
# 2. Accumulate the gradients of 64 batches of 16 (lesson 14). Is the result nearer to batch 16 or to batch 1,024?
# 3. Plot accuracy against the number of *pairs compared* (steps × B²). Do the curves of the four sizes coincide?
#
# Stuck? `check.hint("grouped_loss")`, `from solutions.lesson_09 import grouped_loss`, or read
# [solutions/lesson_09.py](solutions/lesson_09.py).
