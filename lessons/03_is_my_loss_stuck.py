# %% [markdown]
# # 03 · Is my loss stuck?
#
# **The question.** "It's been running for a while now […] and the loss hasn't changed at all. It isn't a constant
# number, but its constantly at 4.8xxx", wrote a user of open_clip
# ([#17](https://github.com/mlfoundations/open_clip/issues/17)). Is 4.8 bad? Is 2.5? Is 0 good? The contrastive loss
# has a few special values, and if you know them you can read a curve: what do $\ln B$, $\ln(B/C)$ and 0 mean?
#
# **You need** the loss (lesson 02), and the idea of a mean over random draws.
#
# **Afterwards you can** say what loss a model has that knows nothing, below which value the loss can never go, and,
# when it stands still, whether the model is broken or finished.
#
# **Place.** Part I, *The idea and its loss*; after lesson 02. About 35 minutes.

# %%
import math
from statistics import mean, stdev

import check
import matplotlib.pyplot as plt
import torch

import minclip
from minclip.data import OPENMOJI, Preprocess, load_emoji, normalize
from minclip.train import State, TrainConfig, learning_rate, make_optimizer, train_step

plt.style.use("lesson.mplstyle")
torch.set_num_threads(1)  # networks as small as these train faster on one thread

# %% [markdown]
# ## Knowing nothing: ln B
#
# A model that gives the same feature to everything tells nothing apart. Then all B cosines in a row are equal, the
# softmax gives each of the B texts the probability $1/B$, and the loss is $-\ln \frac1B = \ln B$. B is the batch size,
# the N of lessons 01 and 02. The scale does not matter: equal is equal at every scale. Here the features are *nearly*
# the same:

# %%
batch_size = 128
generator = torch.Generator().manual_seed(0)
nearly_equal = [torch.ones(batch_size, 64) + 0.01 * torch.randn(batch_size, 64, generator=generator) for _ in range(2)]
for scale in (1.0, 14.3, 100.0):
    print(f"scale {scale:5}: loss {minclip.clip_loss(*nearly_equal, scale):.4f}")
print(f"ln {batch_size}:           {math.log(batch_size):.4f}")

# %% [markdown]
# So 4.85 is the loss of a model that cannot tell 128 pairs apart at all. The user's batch size *was* 128: in 15 epochs
# that model had very probably learned nothing. It also follows that losses of different batch sizes cannot be compared.
# Cut the batch in half, and the loss of such a model falls by $\ln 2$, although it has learned nothing:

# %%
print("batch size   loss of a model that knows nothing")
for size in (1, 2, 64, 128, 4096, 32768):
    print(f"{size:10} {math.log(size):8.3f}")

# %% [markdown]
# The first row is worth a look: in a batch of one pair there is nothing to tell apart. Its loss is 0, and so is its
# gradient, whatever the model does.
#
# ## The end: 0, unless captions repeat
#
# If every caption in the batch is different, a perfect model at a high scale comes as near to 0 as you like. But
# suppose your collection has only C different captions: five skin tones, ten kinds of weather, two kinds of tissue.
# In a batch of B pairs, a caption then occurs several times. A picture whose caption occurs $k$ times has $k$ *equal*
# texts to choose from. No model can tell equal things apart; the best it can do is to give each of them $1/k$:
#
# $$\text{the least that this picture can pay} = -\ln \tfrac1k = \ln k$$
#
# That is the row half of the loss. In the columns, $k$ equal texts give the same probabilities to the $k$ pictures, but
# each has another picture as its right one. One of them may pay less, but the *mean* of the $k$ is again at least
# $\ln k$. The identity matrix of lesson 02 calls one of the $k$ right and the others wrong. That is a mistake in the
# labels, and it has a price: the *floor*, the least loss that any model can have.
#
# **Exercise 1.** Compute the floor of one batch from its captions: the mean of $\ln k$ over its B pairs.


# %%
def batch_floor(captions):
    """captions: list of B strings -> mean over the pairs of ln k, k = how often the pair's caption is in the batch."""
    raise NotImplementedError


# %%
batch_floor = check.batch_floor(batch_floor)

# %%
for captions in (["cat", "dog", "horse", "bird"], ["cat", "cat", "dog", "horse"], ["cat", "cat", "dog", "dog"]):
    print(f"{batch_floor(captions):.3f}  {', '.join(captions)}")

# %% [markdown]
# ## The floor before you have the batches
#
# You want that number *before* training, from B and C alone. Let the C captions be equally likely, and look at one
# pair of the batch. Each of the other B − 1 pairs has its caption with probability $1/C$. With B = 3 and C = 2, by
# hand: both of the other two share the caption, or one of them, or neither, with probabilities ¼, ½, ¼. Counting the
# pair itself, that costs $\ln 3$, $\ln 2$ or $\ln 1$, on average $\frac14 \ln 3 + \frac12 \ln 2$. In general, $m$
# others share it. The *binomial distribution* says how likely each $m$ is, and $\binom{B-1}{m}$ counts in how many
# ways $m$ of the B − 1 can be chosen:
#
# $$\text{floor}(B, C)
#   = \sum_{m=0}^{B-1} \binom{B-1}{m} \Bigl(\tfrac1C\Bigr)^m \Bigl(1 - \tfrac1C\Bigr)^{B-1-m} \ln(1 + m)$$
#
# In words: for every number $m$ of other pairs that could share the caption, multiply how likely it is by what it
# costs, and add up. Books write this as $\mathbb{E} \ln(1 + M)$ with $M \sim \mathrm{Bin}(B - 1, 1/C)$; $\mathbb{E}$
# is the mean over all batches.
#
# The short form that people quote is $\ln(B/C)$: on average a caption occurs $B/C$ times in a batch. But the mean of
# a logarithm is not the logarithm of the mean, and the pair itself is always there.
#
# **Exercise 2.** Write the exact floor. (`math.comb(n, k)` is the binomial coefficient.)


# %%
def expected_floor(batch_size, n_captions):
    """The mean over random batches of the least loss: E ln(1 + Bin(batch_size − 1, 1 / n_captions)), a float."""
    raise NotImplementedError


# %%
expected_floor = check.expected_floor(expected_floor)

# %%
B = 64
numbers = [2**i for i in range(11)]  # of captions
exact = [expected_floor(B, C) for C in numbers]
figure, axes = plt.subplots(figsize=(6.4, 3.6))
axes.plot(numbers, exact, "o-", label="exact: E ln(1 + Bin(B − 1, 1/C))")
axes.plot(numbers, [math.log(B / C) for C in numbers], "s--", color="tab:orange", label="short form: ln(B / C)")
axes.axhline(0, color="0.7", linewidth=0.8)
axes.set_xscale("log", base=2)
axes.set(xlabel="C, number of different captions", ylabel="least possible loss", title=f"batch size B = {B}")
axes.legend()
off = {C: math.log(B / C) - value for C, value in zip(numbers, exact, strict=True)}
for C in (2, 16, 64, 1024):
    print(f"C = {C:4}: exact {expected_floor(B, C):.3f}, ln(B/C) {math.log(B / C):6.3f}, off by {off[C]:+.3f}")

# %% [markdown]
# At the left end there is one caption for all, and the floor *is* ln B: nothing can be learned. The short form is
# good when each caption occurs many times in a batch. It is clearly wrong around C = B, where it claims 0, and beyond
# that it goes below zero, which no loss can. minclip has the exact form as `minclip.loss_floor`.
#
# ## Predict, then run
#
# Now a real model, on real pictures. Many emoji exist in several skin tones. Take those in one of three tones, and
# let the caption be *only the tone*: "dark skin tone" and so on. That makes hundreds of different pictures (the next
# cell counts them), but only three captions.

# %%
TONES = ("light", "medium", "dark")
EXAMPLES = ("waving hand", "man singer", "boy")
everything, _ = load_emoji(Preprocess(24), artists=[OPENMOJI])
tone_of = {}  # picture -> place of its tone in TONES
for picture, caption in enumerate(everything.captions):
    found = [place for place, tone in enumerate(TONES) if f" {tone} skin tone" in caption]
    if found and caption.count("skin tone") == 1:  # not two people, each with a tone
        tone_of[picture] = found[0]
pictures = normalize(everything.images[list(tone_of)])  # (P, 3, 24, 24)
tone = torch.tensor(list(tone_of.values()))  # (P,)
counts = torch.bincount(tone)
print(f"{len(tone)} pictures:", ", ".join(f"{n} {name}" for name, n in zip(TONES, counts.tolist(), strict=True)))

figure, panels = plt.subplots(1, len(TONES), figsize=(5.4, 2.2))
figure.supxlabel(OPENMOJI.credit, fontsize=7, color="0.35")
for place, axes in enumerate(panels):
    example = everything.captions.index(f"{EXAMPLES[place]} {TONES[place]} skin tone")
    axes.imshow(everything.images[example].permute(1, 2, 0))
    axes.set_title(f"{TONES[place]} skin tone", fontsize=9)
    axes.set_axis_off()

# %% [markdown]
# To make the captions equally likely, we first draw a tone for each pair of a batch, then a picture of that tone. With
# a batch of 64 and three captions, what is the loss of knowing nothing, and at what loss will the training end?
# Exercise 2 gives the answer. **Make your prediction first**: put the loss at the end, with two decimals, in place of
# `None`.

# %%
check.predict("03: loss at the end of the training", None)

# %% [markdown]
# A second training, for comparison, has a bug that is found in the wild: pictures and texts are *shuffled apart*, so
# that each picture is paired with a random tone, another one each time (as with two data loaders, each with its own
# shuffling). A *fixed* wrong pairing looks different: it can be learned by heart, so the loss falls, and only the
# score on unseen pictures does not rise.
#
# `train_step` is one step of training: the towers, the loss, the gradient, the update. Lesson 08 opens it; here it is
# a black box that returns the loss.

# %%
B, C = 64, len(TONES)
start, floor = math.log(B), expected_floor(B, C)
print(f"knowing nothing: {start:.3f}; the training will end at {floor:.3f}; with the bug it stays near {start:.3f}")

tokenizer = minclip.Tokenizer.train([f"{tone} skin tone" for tone in TONES], 600)
tokens = tokenizer([f"{tone} skin tone" for tone in TONES], 16)  # (C, T)
pictures_of = [(tone == place).nonzero()[:, 0] for place in range(C)]


def draw_batch(generator):
    """A tone for each of B pairs, and a picture of that tone: both (B,)."""
    tones = torch.randint(C, (B,), generator=generator)
    draws = torch.rand(B, generator=generator)
    chosen = [pictures_of[t][int(u * len(pictures_of[t]))] for t, u in zip(tones.tolist(), draws, strict=True)]
    return tones, torch.stack(chosen)


def run(steps, shuffled_apart=False):
    """Trains a small CLIP on tones; returns it with its losses and the floors of its batches."""
    torch.manual_seed(0)
    sizes = minclip.CLIPConfig(
        embed_dim=32, image_resolution=24, vision_layers=1, vision_width=32, vision_heads=2, vision_patch_size=8,
        context_length=16, vocab_size=tokenizer.vocab_size, transformer_width=32, transformer_heads=2,
        transformer_layers=1, quick_gelu=False,
    )  # fmt: skip
    model = minclip.CLIP(sizes)
    config = TrainConfig(batch_size=B, lr=3e-3)
    state = State(model, make_optimizer(model, config))
    schedule = torch.optim.lr_scheduler.LambdaLR(state.optimizer, lambda step: learning_rate(step, steps, config))
    generator = torch.Generator().manual_seed(0)
    losses, floors = [], []
    for _ in range(steps):
        tones, chosen = draw_batch(generator)
        floors.append(batch_floor(tones.tolist()))
        if shuffled_apart:
            tones = tones[torch.randperm(B, generator=generator)]
        losses.append(train_step(state, pictures[chosen], tokens[tones], config).loss.item())
        schedule.step()
    return model, losses, floors


# %%
STEPS = check.pick(900, 12)
model, losses, floors = run(STEPS)
_, buggy, _ = run(STEPS // 2, shuffled_apart=True)

figure, axes = plt.subplots(figsize=(7, 4))
axes.plot(losses, color="tab:blue", linewidth=0.9, label="right pairs")
axes.plot(buggy, color="crimson", linewidth=2, label="shuffled apart (a bug), half as long")
for value, words, style, up in ((start, f"ln {B}", ":", 4), (floor, f"floor of B = {B}, C = {C}", "--", -13)):
    axes.axhline(value, color="black", linestyle=style, linewidth=1.2, zorder=0)
    axes.annotate(f"{words}: {value:.3f}", (0.99, value), xycoords=("axes fraction", "data"),
                  xytext=(0, up), textcoords="offset points", ha="right", fontsize=9)  # fmt: skip
axes.axhline(0, color="black", linewidth=0.8)
axes.set(xlabel="step", ylabel="loss", ylim=(0, None))
axes.legend(loc="lower left")
print(f"first loss {losses[0]:.3f}; ln {B} = {start:.3f}")

# %% [markdown]
# The first loss is *above* ln B, as it usually is: random weights do not give exactly the same feature to every text,
# and the scale (it starts at 1/0.07) magnifies small differences, all of them unfounded. So ln B is a value that a
# training *passes* in its first steps, once the model has learned to be undecided.
#
# Then the curve falls below ln B, flattens, and runs on as a noisy band: stuck, you might say. Each batch has its own
# floor (exercise 1), which is one source of the noise: subtract it, and the spread is smaller. So compare means over
# the last quarter of the steps:

# %%
last = STEPS // 4
print(f"predicted floor            {floor:.3f}")
print(f"mean floor of the batches  {mean(floors[-last:]):.3f}")
print(f"mean loss                  {mean(losses[-last:]):.3f}")
check.reveal("03: loss at the end of the training", mean(losses[-last:]), within=0.03)
gap = mean(losses[-last:]) - floor
print(f"the loss ended {gap:+.3f} from the prediction:", "within 0.03" if abs(gap) < 0.03 else "not within 0.03")
over = [loss - least for loss, least in zip(losses[-last:], floors[-last:], strict=True)]
print(f"spread (standard deviation) of the losses {stdev(losses[-last:]):.3f}, of loss minus floor {stdev(over):.3f}")
print(f"with the bug: {mean(buggy[-len(buggy) // 4 :]):.3f}, and ln {B} is {start:.3f}")

# %% [markdown]
# What does this "stuck" model know? Ask it for the tone of every picture. (It was trained on these pictures. The
# question is only how well it does what it was trained for.)

# %%
model.eval()
with torch.no_grad():
    answers = model(pictures, tokens)[0].argmax(dim=1)  # (P,)
print(
    f"right tone: {100 * (answers == tone).float().mean():.1f} % of {len(tone)} pictures,",
    f"at a mean loss of {mean(losses[-last:]):.2f}",
)

# %% [markdown]
# So a loss far from 0 can belong to a model that is finished. The loss alone does not say whether training is stuck;
# where it lies between *its* ln B and *its* floor does.
#
# ## Reading a curve that stands still
#
# - **At ln B**: nothing is told apart. Check the pairing of pictures and texts, as above. Check the learning rate: if
#   it is too high, everything may collapse into one feature; if it is too low, the model has hardly moved. Check that
#   the gradient reaches the towers at all.
# - **At the floor for your B and C**: everything is told apart that can be. If the floor is above 0, your captions
#   repeat: write richer ones, or be content.
# - **Between the two**: some things are told apart. The model is still learning, or the task is hard. Can it learn 100
#   pairs by heart? If not, something is broken.
# - **At 0 from the start**: there is nothing to tell apart. Is the batch size 1? Is there one pair on each device?
# - **Above ln B, and staying there**: the model is confident, and wrong. Check the scale (lesson 04), and the pairing
#   again. (Above ln B in the first steps is usual.)
#
# `minclip train` prints the start and the floor of your data with every loss.
#
# ## The plain answer
#
# ln B is the loss of a model that tells nothing apart. ln(B/C) is about the loss of one that tells C repeating captions
# apart, which is all that can be done. 0 means that everything is told apart, or that there is nothing to tell apart. A
# loss is stuck if it stands still above *its* floor.
#
# **What this lesson does not show.** Captions that are *nearly* the same ("a cat", "one cat") cost something too, and
# no formula counts them. Captions that are not equally likely have a higher floor than C equally likely ones;
# exercise 1, averaged over batches, gives it. And a loss at its floor says nothing about pictures that were never
# trained on (lesson 08).
#
# ## What you take away
#
# - Telling nothing apart costs ln B, and B is your batch size: a training begins there or somewhat above. Never
#   compare losses of different batch sizes.
# - A caption that occurs k times in a batch costs each of its k pairs at least ln k. With C equally likely captions the
#   floor is E ln(1 + Bin(B − 1, 1/C)), about ln(B/C) when B is many times C.
# - To call a loss stuck, you need two numbers: ln B and the floor. Know both before you train.
#
# **Harder, without a solution.**
#
# 1. Half of all pairs have one caption; the others are all different. What is the expected floor of a batch of B?
# 2. Two captions differ, but their two *pictures* are equal. Is the floor still that of exercise 1? Which direction
#    pays?
# 3. Draw the batches so that no caption occurs twice in one. What becomes of the floor? And can an epoch still show
#    every pair exactly once?
#
# Stuck? `check.hint("batch_floor")`, `from solutions.lesson_03 import batch_floor`, or read
# [solutions/lesson_03.py](solutions/lesson_03.py).
