# %% [markdown]
# # 09 · Do you need 4096?
#
# **The question.** CLIP was trained with batches of 32,768 pairs, on hundreds of GPUs ([Radford et al.
# 2021](https://arxiv.org/abs/2103.00020), section 2.5). An introduction to CLIP in Chinese, from which this project
# started, adds from its author's own experience: the bigger the better, usually 4096 or more, and *if the batch is
# smaller, CLIP does not even converge, however long you train*. That would rule out your laptop. Is it so? And what
# does a bigger batch buy?
#
# **You need** the loss (lessons 01 and 02), what the loss of an untrained model is (lesson 03), and a training step
# (lesson 08).
#
# **Afterwards you can** tell apart the three things that change when the batch grows, set up a comparison that is
# fair in a stated sense, and say in numbers, with their spread, what a bigger batch bought — and what you do not
# know.

# %%
import itertools
import math
import statistics

import check
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import minclip
from minclip.data import OPENMOJI, Preprocess, hold_out, load_emoji, normalize
from minclip.evaluate import ranks
from minclip.train import TrainConfig, learning_rate, make_optimizer

plt.style.use("lesson.mplstyle")
# %% [markdown]
# ## One knob, three changes
#
# Turn the batch size B up, and three things happen at once:
#
# 1. **more negatives**: each picture is told apart from B − 1 wrong texts instead of a few;
# 2. **a steadier gradient**: it is a mean over more pairs, so it jumps about less from step to step;
# 3. **fewer steps** for the same number of pairs.
#
# The first two sound good and the third bad. So "is a bigger batch better?" has no answer before you say what is kept
# equal:
#
# | kept equal | a batch 4 times as big gets | who asks so |
# |---|---|---|
# | **samples**: pairs looked at | a quarter of the steps | who pays for arithmetic: the bill is the same |
# | **steps**: updates of the weights | 4 times the samples | who has more GPUs: the waiting time is the same |
#
# We do both, and then turn the first of the three alone.
#
# ## The smallest CLIP
#
# The comparison needs dozens of trainings, so one training may take only seconds. The task is that of lesson 08:
# learn from emoji and their names, then find the right one of 400 captions for each of 400 *unseen* pictures, nearly
# all of them another skin tone of a drawing that it knows (chance: one in 400). The pictures shrink to 12 × 12
# pixels:

# %%
everything, unseen = load_emoji(Preprocess(24), artists=[OPENMOJI])
train, aside = hold_out(everything)  # a tenth of the training pictures, to choose learning rates by
VOCABULARY, CONTEXT = check.pick(2048, 700), 20  # tokens to choose from, tokens in a text at most
tokenizer = minclip.Tokenizer.train(train.captions, VOCABULARY)


def tensors(pairs):
    """The pictures (P, 3, 12, 12) and the tokens (P, T) of pairs; emoji have one caption each."""
    return F.avg_pool2d(normalize(pairs.images), 2), tokenizer(pairs.captions, CONTEXT)


train_data, aside_data, unseen_data = tensors(train), tensors(aside), tensors(unseen)
print(f"{len(train)} pairs to train on, {len(aside)} aside, {len(unseen)} unseen")

# %% [markdown]
# The towers are the simplest that can work. Pictures: two layers on the 432 numbers of a picture. Texts: the *mean*
# of the vectors of the tokens (PyTorch calls this `EmbeddingBag`), then two layers. No attention, no order of words.
# The rest is as ever: two features, their cosines, a learned temperature, the loss of lesson 02.


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
# And one training: optimizer, warm-up and cosine schedule are minclip's own. Two arguments deserve a word. `batch` is
# how many pairs a step sees. `group` is how many of them compete in one softmax: all of them, except in the last
# experiment.

# %%
torch.set_num_threads(1)  # matrices as small as these are multiplied faster without helpers


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
        scale = model.logit_scale.exp()
        if group:  # the batch in groups, each with a loss of its own
            x, y = x.view(-1, group, x.shape[1]), y.view(-1, group, y.shape[1])  # (B / group, group, E)
            loss = torch.vmap(minclip.clip_loss, in_dims=(0, 0, None))(x, y, scale).mean()
        else:
            loss = minclip.clip_loss(x, y, scale)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        losses.append(loss.item())
    return losses


def new_model(seed):
    torch.manual_seed(seed)
    return TwoTowers()


# %% [markdown]
# ## The plan
#
# Four batch sizes, each four times the one before, all of them below 4096 (there are not so many pairs). One of them,
# 256, belongs to both comparisons; the others get its number of samples, or its number of steps.

# %%
everyone = len(train)
SIZES = check.pick((16, 64, 256, 1024), (16, 256))
MIDDLE = 256
STEPS = check.pick(round(6 * everyone / MIDDLE), 4)  # of batch 256: 6 epochs
SAMPLES, UPDATES, NEGATIVES = "equal samples", "equal steps", "only the negatives"

plan = {}  # (what is kept equal, size) -> steps
for size in SIZES:
    plan[SAMPLES, size] = round(STEPS * MIDDLE / size)
    plan[UPDATES, size] = STEPS
print("batch       equal samples             equal steps")
for size in SIZES:
    cells = [
        f"{plan[kind, size]:5} steps, {plan[kind, size] * size / everyone:5.1f} epochs" for kind in (SAMPLES, UPDATES)
    ]
    print(f"{size:5}  {cells[0]}   {cells[1]}")

# %% [markdown]
# ## The learning rate, or how to cheat without noticing
#
# Fix one learning rate for all, and you compare batch sizes *at a learning rate that suits one of them*. There are
# rules of thumb (multiply it by k, or by √k, when the batch grows k times), and a rule of thumb may be wrong here. So
# every cell of the plan gets its own. The rule: start at 0.01, and go up or down a ladder in steps of about three for
# as long as that is better *on the pictures that were put aside*. This is done with a seed that is then never used
# again, and the unseen pictures are not looked at.

# %%
LADDER = check.pick((1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1), (1e-2,))


def tune(batch, steps, group=None):
    """The learning rate of the ladder that does better, on the pictures aside, than the ones above and below it."""
    found, here = {}, LADDER.index(1e-2)
    while True:
        around = [place for place in (here, here - 1, here + 1) if 0 <= place < len(LADDER)]
        for place in around:
            if place not in found:
                model = new_model(seed=1000)
                fit(model, batch, steps, LADDER[place], seed=1000, group=group)
                found[place] = top1(model, aside_data)
        best = max(around, key=found.get)  # of equals the first: here
        if best == here:
            return LADDER[here]
        here = best


GROUPS = check.pick((4, 16, 64), (2, 16))  # for the last experiment
best_rate = {}
for (kind, size), steps in plan.items():
    middle_again = kind == UPDATES and size == MIDDLE
    best_rate[kind, size] = best_rate[SAMPLES, size] if middle_again else tune(size, steps)
for group in GROUPS:
    best_rate[NEGATIVES, group] = tune(MIDDLE, STEPS, group)

for kind in (SAMPLES, UPDATES, NEGATIVES):
    print(f"{kind:18}", "   ".join(f"{size}: {rate:g}" for (k, size), rate in best_rate.items() if k == kind))
at_the_end = sum(rate in (LADDER[0], LADDER[-1]) for rate in best_rate.values())
print(f"\n{at_the_end} of {len(best_rate)} stand at an end of the ladder, where a better one could lie beyond")

# %% [markdown]
# ## The runs
#
# Now the real thing: every cell with fresh seeds. A seed decides the initial weights and the order of the pairs. One
# seed is an anecdote; with three we can at least see how far luck reaches.
#
# Before you look: **which batch size will be best?** Put your guess here; it is compared with the result below.

# %%
EXPECT = {SAMPLES: 1024, UPDATES: 1024}  # the bigger the better, as the introduction says

# %%
SEEDS = check.pick((0, 1, 2), (0, 1))
rows = []  # the table: (what is kept equal, batch, seed, unseen top-1 in percent)
small_batch_losses = []
for (kind, size), steps in plan.items():
    if kind == UPDATES and size == MIDDLE:  # the same runs again
        rows += [(UPDATES, size, seed, score) for k, s, seed, score in rows if (k, s) == (SAMPLES, size)]
        continue
    for seed in SEEDS:
        model = new_model(seed)
        losses = fit(model, size, steps, best_rate[kind, size], seed)
        rows.append((kind, size, seed, top1(model, unseen_data)))
        if kind == SAMPLES and size == min(SIZES):
            small_batch_losses.append(losses)


# %%
def scores(kind, size):
    return [score for k, s, _, score in rows if (k, s) == (kind, size)]


def draw(axes, kind, sizes, marker, xlabel):
    for size in sizes:
        label = "one training" if size == sizes[0] else None
        marks = scores(kind, size)
        axes.plot([size] * len(marks), marks, marker, color="black", fillstyle="none", alpha=0.7, label=label)
    means = [statistics.mean(scores(kind, size)) for size in sizes]
    axes.plot(sizes, means, color="tab:blue", label="mean")
    for size, mean in zip(sizes, means, strict=True):
        axes.annotate(
            f"{mean:.0f}", (size, max(scores(kind, size))), xytext=(0, 7), textcoords="offset points", ha="center"
        )
    axes.axhline(100 / len(unseen), color="gray", linestyle=":")
    axes.annotate("chance", (sizes[0], 0), xytext=(0, -2), textcoords="offset points", color="gray", va="top")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel=xlabel, ylim=(-9, 100), title=kind)


figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
left.set_ylabel("unseen top-1 (%)")
draw(left, SAMPLES, SIZES, "o", "batch size (pairs)")
draw(right, UPDATES, SIZES, "s", "batch size (pairs)")
_ = right.legend(loc="upper left")

# %% [markdown]
# *Numbers: the mean over the seeds. Dotted: guessing.*

# %%
for kind in (SAMPLES, UPDATES):
    means = {size: statistics.mean(scores(kind, size)) for size in SIZES}
    best, worst = max(means, key=means.get), min(means, key=means.get)
    print(
        f"{kind}: highest mean with batch {best} ({means[best]:.1f} %), lowest with {worst} ({means[worst]:.1f} %);",
        end=" ",
    )
    print(f"you expected {EXPECT[kind]}")

# %% [markdown]
# The same batches, judged twice. At equal samples a batch of 1024 gets few steps. Probably that is what it lacks: in
# the picture on the right, where it gets more of them (and with them more pairs), it does better.
#
# ## A gain, and how sure we are
#
# "Better" should be a number with a spread. The fair way to compare two batch sizes is *by pairs*: for every seed,
# the score of the larger batch minus that of the smaller one with the same seed (they started from the same weights,
# so luck that both share cancels). With the differences $d_1 \dots d_n$:
#
# $$\bar d = \frac{1}{n} \sum_i d_i \qquad
#   e = \frac{1}{\sqrt{n}} \sqrt{\frac{\sum_i (d_i - \bar d)^2}{n - 1}}$$
#
# In words: the mean difference, and its *standard error*, which is how far that mean would wander if the whole
# experiment were repeated with other seeds.
#
# **Exercise 1.** Compute both from a table of runs.


# %%
def gain(rows, kind, small, large):
    """rows: list of (kind, batch, seed, score), in any order -> (mean, standard error) of large minus small, by seed.

    Only the rows of this kind count. The same seeds stand there for both batch sizes, at least two of them.
    """
    raise NotImplementedError


# %%
gain = check.gain(gain)

# %% [markdown]
# How many standard errors make a difference believable? With hundreds of runs, about two. With three runs the
# standard error itself is a guess, and Student's table asks for more: chance alone stays inside this many of them, 19
# times of 20.

# %%
STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # number of seeds -> standard errors (two-sided, 95 %)


def verdict(mean, error, seeds):
    if abs(mean) <= STUDENT[seeds] * error:
        return "cannot say"
    return "better" if mean > 0 else "worse"


# %% [markdown]
# ## The table
#
# This is the answer to the question, for this task, from this run. *Points* are points of percent; "a
# doubling" is their share for each doubling of the batch, two of which lie between neighbours of the plan.

# %%
print("unseen top-1 in percent: mean over the seeds, and the lowest and highest\n")
print(f"{'batch':>6}   {'equal samples':24}{'equal steps':24}")
for size in SIZES:
    cells = [scores(kind, size) for kind in (SAMPLES, UPDATES)]
    texts = [f"{statistics.mean(cell):5.1f}  ({min(cell):4.1f} to {max(cell):4.1f})" for cell in cells]
    print(f"{size:6}   {texts[0]:24}{texts[1]:24}".rstrip())


def report(kind, sizes):
    """Prints what each step of sizes bought, and whether a doubling is worth less at the end than at the start."""
    worth = []  # rows again: (kind, which step, seed, points for each doubling)
    for step, (small, large) in enumerate(itertools.pairwise(sizes)):
        mean, error = gain(rows, kind, small, large)
        doublings = math.log2(large / small)
        words = verdict(mean, error, len(SEEDS))
        print(
            f"{kind}, {small:4} → {large:4}: {mean:+6.1f} ± {error:3.1f} points "
            f"({mean / doublings:+5.1f} a doubling)   {words}"
        )
        pairs = zip(SEEDS, scores(kind, small), scores(kind, large), strict=True)
        worth += [(kind, step, seed, (after - before) / doublings) for seed, before, after in pairs]
    mean, error = gain(worth, kind, 0, step)
    words = {"better": "more", "worse": "less", "cannot say": "cannot say"}[verdict(mean, error, len(SEEDS))]
    print(f"is a doubling worth more or less in the last line than in the first? {words} ({mean:+.1f} ± {error:.1f})\n")


print("\nwhat the bigger batch bought: mean ± standard error\n")
report(SAMPLES, SIZES)
print("with as many times the pairs:\n")
report(UPDATES, SIZES)

# %% [markdown]
# The highest mean is not yet the best size: another one may be so near that the runs cannot tell the two apart.
#
# **Exercise 2.** State the conclusion that the numbers allow: which sizes *may* be the best, and by how much the best
# mean beats the smallest batch? Your function is tried on invented tables and on the table of this run.


# %%
def conclusion(rows, kind):
    """rows as in exercise 1 -> (sizes that may be the best, points).

    sizes: a sorted list of the batch size with the highest mean score and all those from which it cannot be told.
    points: the highest mean minus the mean of the smallest batch size. Other kinds do not count.
    """
    raise NotImplementedError


# %%
check.run_table[:] = rows
conclusion = check.conclusion(conclusion)

# %%
for kind in (SAMPLES, UPDATES):
    may_be_best, points = conclusion(rows, kind)
    print(f"At {kind} the best of these sizes is {' or '.join(map(str, may_be_best))}", end="")
    print(f" (which of them, {len(SEEDS)} seeds cannot say)" if len(may_be_best) > 1 else "", end=",")
    print(f" and the highest mean is {points:.1f} points above that of batch {min(SIZES)}.")

# %% [markdown]
# ## Only the negatives
#
# Steps and samples cannot both be kept equal while B changes. But there is a third experiment, and it asks what the
# argument for big batches is really about: *does it help to be told apart from more at once?* Keep the batch of the
# middle size, and its number of steps. Change only who competes: cut the batch into groups, and let each picture
# choose among the texts of its own group. Same pairs, same number of updates; only the number of negatives differs
# (and with it the gradient, and the temperature that is learned). A group of four has three negatives; the triplet of
# lesson 01 had one.

# %%
for group in GROUPS:
    for seed in SEEDS:
        model = new_model(seed)
        fit(model, MIDDLE, STEPS, best_rate[NEGATIVES, group], seed, group)
        rows.append((NEGATIVES, group, seed, top1(model, unseen_data)))
rows += [(NEGATIVES, size, seed, score) for kind, size, seed, score in rows if (kind, size) == (SAMPLES, MIDDLE)]

figure, axes = plt.subplots(figsize=(5.6, 3.6))
draw(axes, NEGATIVES, (*GROUPS, MIDDLE), "^", f"pairs that compete in one softmax (of {MIDDLE} in a step)")
axes.set_ylabel("unseen top-1 (%)")
axes.legend(loc="upper left")
report(NEGATIVES, (*GROUPS, MIDDLE))
may_be_best, points = conclusion(rows, NEGATIVES)
print(f"The best number of competitors is {' or '.join(map(str, may_be_best))},", end=" ")
print(f"and the highest mean is {points:.1f} points above that of groups of {GROUPS[0]}.")

# %% [markdown]
# Where these lines say *better*, the argument for big batches has a true core: more competitors taught more, from the
# same pairs in the same steps. Where they stop saying so, the runs are too few, or the core has a limit. And nothing
# broke where there were few competitors.
#
# One more comparison can be read off now. Sixteen competitors, once as a batch of 16 with its many small steps, once
# as groups of 16 in big steps: equal samples, equal negatives, and only the number (and noise) of the steps differs.
# Set beside it what the same samples give when all of the batch compete:

# %%
alone, grouped, full = (
    statistics.mean(scores(*which)) for which in ((SAMPLES, 16), (NEGATIVES, 16), (SAMPLES, MIDDLE))
)
print(f"a batch of 16:                      {alone:.1f} %")
print(f"groups of 16, in batches of {MIDDLE}:    {grouped:.1f} %")
print(f"a batch of {MIDDLE}, all competing:      {full:.1f} %")
pairs = [("16 each", 0, *row[2:]) for row in rows if row[:2] == (NEGATIVES, 16)]
pairs += [("16 each", 1, *row[2:]) for row in rows if row[:2] == (SAMPLES, 16)]
mean, error = gain(pairs, "16 each", 0, 1)
words = verdict(mean, error, len(SEEDS))
print(f"many small steps instead of few big ones, 16 competitors each: {mean:+.1f} ± {error:.1f}   {words}")

# %% [markdown]
# ## "Below 4096 it does not converge"
#
# Every batch here was below 4096. Take the smallest one. To be able to lose, we say beforehand what counts: **it
# learned** if the loss on its batches falls below half of ln B, the loss of an untrained model, *and* it finds more
# than ten times as many unseen pictures as chance. The claim is about every training with a small batch, however
# long; so one that learns is enough against it.

# %%
smallest = min(SIZES)
curves = torch.tensor(small_batch_losses)  # (seeds, steps)
width = max(1, curves.shape[1] // 60)
smooth = curves[:, : curves.shape[1] // width * width].view(len(SEEDS), -1, width).mean(dim=2)  # (seeds, about 60)
figure, axes = plt.subplots(figsize=(6.4, 3.4))
for seed, curve, style in zip(SEEDS, smooth, ("-", "--", ":"), strict=False):
    axes.plot(torch.arange(len(curve)) * width * smallest / everyone, curve, style, label=f"seed {seed}")
axes.axhline(math.log(smallest), color="gray", linewidth=1)
axes.annotate(f"untrained: ln {smallest}", (0.98, math.log(smallest)), xycoords=("axes fraction", "data"),
              xytext=(0, 4), textcoords="offset points", ha="right", color="gray")  # fmt: skip
axes.set(xlabel="epochs", ylabel="loss", ylim=(0, 1.2 * math.log(smallest)), title=f"batch {smallest}")
axes.legend(loc="center right")

chance = 100 / len(unseen)


def did_it_learn(name, losses, score, batch):
    end = statistics.mean(losses[-(len(losses) // 10 + 1) :])  # of the last tenth of the steps
    learned = end < math.log(batch) / 2 and score > 10 * chance
    print(f"{name}, batch {batch}, {len(losses)} steps: loss {end:.2f} at the end (untrained: {math.log(batch):.2f}),")
    print(
        f"  unseen top-1 {score:.1f} %, {score / chance:.0f} times chance: {'it learned' if learned else 'not shown'}"
    )


for seed, losses, score in zip(SEEDS, small_batch_losses, scores(SAMPLES, smallest), strict=True):
    did_it_learn(f"seed {seed}", losses, score, smallest)

# %% [markdown]
# If another size does better in the table at equal samples, it is not because this one failed to converge. How far
# the loss falls on the training pairs, and how many unseen pictures are found, are two questions.
#
# You may object that these towers are toys. So here is a real `minclip.CLIP`, with a Transformer in each tower, on
# the same pictures with the same small batch: once, for three epochs, at a learning rate that nobody tuned.

# %%
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
losses = fit(model, smallest, check.pick(3 * everyone // smallest, 5), lr=1e-3, seed=0)
did_it_learn("CLIP with attention", losses, top1(model, unseen_data), smallest)

# %% [markdown]
# ## How often would luck say "better"?

# %%
comparisons = 2 * (len(SIZES) - 1) + len(GROUPS) + 4  # the lines of the three reports, and one
print(f"{comparisons} comparisons, each wrong once in twenty if nothing differs: were they independent,", end=" ")
print(f"{1 - 0.95**comparisons:.0%} of all repetitions would hold at least one false better or worse")

# %% [markdown]
# ## What this experiment cannot say
#
# - **It is small.** A batch of 16 out of a few thousand pairs is a larger share than 4096 out of the 400 million of
#   the paper. Probably what matters is how often a batch holds something *hard to tell apart*, and in a small
#   collection that happens sooner. The author of the claim spoke of training at web scale, and nothing here was. A
#   result at a scale like that of the paper: [Zhai et al. 2023](https://arxiv.org/abs/2303.15343) (SigLIP) went to a
#   batch of one million, and found that the gain fades and that 32 thousand are enough.
# - **The trainings are short.** With more epochs, a big batch at equal samples would have more steps, and the best
#   size could be another one.
# - **Equal steps means more epochs here.** With few pairs, a bigger batch at equal steps sees the same pairs again
#   and again. In web-scale training it would see new ones, and might gain more.
# - **The learning rates are tuned coarsely**: in steps of about three, with one seed, on a few hundred pictures.
#   Warm-up, weight decay and the optimizer's averages were not tuned for each size at all.
# - **Three seeds are few.** They vary the start and the order of the pairs, not the choice of the 400 test pictures;
#   all the runs share those. The standard error itself comes from three numbers, Student's table supposes that they
#   spread like a bell, and there are many comparisons (the cell above). Where the table says "cannot say", it means
#   that.
# - **It counts samples and steps, not minutes.** On a GPU a batch of 16 leaves most of the machine idle, so in
#   minutes a bigger batch looks better than at equal samples. That is an honest reason for big batches on big
#   machines.
#
# ## What you take away
#
# - "Does a bigger batch help?" is not a question until you say what is kept equal: equal samples and equal steps give
#   different answers, and the cell after exercise 2 says which ones.
# - The number of negatives is only one of the things that a bigger batch brings, and it can be varied alone.
# - A claim that *nothing* below some size can learn falls with one training that does. How well it learns is another
#   question.
# - Tune the learning rate for each size, on data that you do not report; repeat with other seeds; compare by pairs;
#   and say "cannot say" where the numbers say so.
# - To have a big batch in a small memory is a question of its own: lesson 15 computes the loss without its matrix.
#
# Stuck? `from solutions.lesson_09 import gain, conclusion`, or read
# [solutions/lesson_09.py](solutions/lesson_09.py).
