# %% [markdown]
# # 03 · Is my loss stuck?
#
# **The question.** "It's been running for a while now, and the loss hasn't changed at all: it is constantly at 4.8." So
# wrote a user of open_clip, training with a batch of 128 ([#17](https://github.com/mlfoundations/open_clip/issues/17)).
# Is 4.8 bad? Is 2.5? Is 0 good? The contrastive loss has a few values of its own, and whoever knows them can read a
# curve: what do $\ln B$, $\ln(B/C)$ and 0 mean?
#
# **You need** the loss (lesson 02).
#
# **Afterwards you can** say before a training at which value its loss will start, under which value it can never go,
# and, when it stands still, whether the model is broken or finished.

# %%
import math
from statistics import mean

import check
import matplotlib.pyplot as plt
import torch

import minclip
from minclip.data import EMOJI_CREDIT, load_emoji, normalize
from minclip.train import TrainConfig, make_optimizer, train_step

plt.style.use("lesson.mplstyle")
# %% [markdown]
# ## The start: ln B
#
# An untrained model gives nearly the same feature to everything. Then all B cosines in a row are equal, the softmax
# gives each of the B texts the probability $1/B$, and the loss is $-\ln \frac1B = \ln B$. B is the batch size. The
# temperature does not matter: equal is equal at every scale.

# %%
batch_size = 128
generator = torch.Generator().manual_seed(0)
nearly_equal = [torch.ones(batch_size, 64) + 0.01 * torch.randn(batch_size, 64, generator=generator) for _ in range(2)]
for scale in (1.0, 14.3, 100.0):
    print(f"scale {scale:5}: loss {minclip.clip_loss(*nearly_equal, scale):.4f}")
print(f"ln {batch_size}:           {math.log(batch_size):.4f}")

# %% [markdown]
# So the user's model was where every model begins: it told nothing apart. And losses of different batch sizes cannot
# be compared. Cut the batch in half, and the loss of the very same model falls by about $\ln 2$, for nothing:

# %%
print("batch size   loss of a model that knows nothing")
for size in (1, 2, 32, 128, 4096, 32768):
    print(f"{size:10} {minclip.loss_floor(size):8.3f}")

# %% [markdown]
# The first row is worth a look: a batch of one pair has nothing to be told apart from. Its loss is 0, and so is its
# gradient, whatever the model does.
#
# ## The end: 0, unless captions repeat
#
# If every caption in the batch is different, a perfect model at a high scale reaches 0. But suppose your collection has
# only C different captions: five skin tones, ten weathers, two kinds of tissue. In a batch of B pairs, each caption then
# stands several times. A picture whose caption stands there k times has k *equal* texts to choose from. No model can
# tell equal things apart; the best it can do is to give each of them $1/k$:
#
# $$\text{the least that this pair can pay} = -\ln \tfrac1k = \ln k$$
#
# The identity matrix of lesson 02 calls one of the k right and the others wrong. That is a mistake of the labels, and
# every pair pays for it.
#
# **Exercise 1.** The floor of one batch, from its captions.


# %%
def batch_floor(captions):
    """captions: list of B strings -> the mean over the pairs of ln k, where k counts the pair's caption in the batch."""
    raise NotImplementedError


# %%
batch_floor = check.batch_floor(batch_floor)

# %%
for captions in (["cat", "dog", "horse", "bird"], ["cat", "cat", "dog", "horse"], ["cat", "cat", "dog", "dog"]):
    print(f"{batch_floor(captions):.3f}  {', '.join(captions)}")

# %% [markdown]
# ## The floor before you have the batches
#
# You want that number *before* training, from B and C alone. Let C captions be equally likely. Each of the other
# B − 1 pairs has my caption with probability $1/C$, so their number is binomial, and with my own
#
# $$\text{floor}(B, C) = \mathbb{E}\,\ln\bigl(1 + K\bigr), \qquad K \sim \mathrm{Bin}\bigl(B - 1, \tfrac1C\bigr)
#   = \sum_{k=0}^{B-1} \binom{B-1}{k} \Bigl(\tfrac1C\Bigr)^k \Bigl(1 - \tfrac1C\Bigr)^{B-1-k} \ln(1 + k)$$
#
# In words: for every number k of other pairs that could share my caption, how likely it is, times what it costs.
#
# The short form that people quote is $\ln(B/C)$: on average a caption stands $B/C$ times in a batch. But the mean of a
# logarithm is not the logarithm of the mean, and your own pair is always there.
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
# At the left end there is one caption for all, and the floor *is* ln B: nothing can be learned. The short form is good
# when each caption stands often in a batch. It is wrong by more than a little around C = B, where it claims 0, and it
# goes below zero after that, where no loss can be. minclip has the exact one as `minclip.loss_floor`.
#
# ## Predict, then run
#
# Now a real model, on real pictures. Many emoji exist in five skin tones. Take those with one, and let the caption be
# *only the tone*: "dark skin tone" and so on. Hundreds of different pictures, five captions.

# %%
TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
everything, _ = load_emoji(24)
tone_of = {}  # picture -> which of the tones
for picture, caption in enumerate(everything.captions):
    *_, last = caption.split(": ")
    if last in [f"{tone} skin tone" for tone in TONES]:
        tone_of[picture] = TONES.index(last.removesuffix(" skin tone"))
pictures = normalize(everything.images[list(tone_of)])  # (P, 3, 24, 24)
tone = torch.tensor(list(tone_of.values()))  # (P,)
counts = torch.bincount(tone)
print(f"{len(tone)} pictures:", ", ".join(f"{n} {name}" for name, n in zip(TONES, counts.tolist(), strict=True)))

figure, panels = plt.subplots(1, len(TONES), figsize=(8, 2.1))
for place, axes in enumerate(panels):
    example = list(tone_of)[(tone == place).nonzero()[3].item()]
    axes.imshow(everything.images[example].permute(1, 2, 0))
    axes.set_title(f"{TONES[place]}\nskin tone", fontsize=9)
    axes.set_axis_off()
figure.supxlabel(EMOJI_CREDIT, fontsize=7, color="0.35")

# %% [markdown]
# With a batch of 64 and five captions: at which loss will training start, and at which will it end? Exercise 2 tells.
# To make the captions equally likely, each pair of a batch first draws a tone, then a picture of that tone.
#
# A second training beside it has a bug that is found in the wild: pictures and texts are *shuffled apart*, so that each
# picture stands beside some random tone. (One sorts the files in one way and the captions in another.)

# %%
B, C = 64, len(TONES)
start, floor = math.log(B), expected_floor(B, C)
print(f"prediction: from {start:.3f} down to {floor:.3f}; with the bug it stays near {start:.3f}, or worse")

tokenizer = minclip.Tokenizer.train([f"{tone} skin tone" for tone in TONES], 300)
tokens = tokenizer([f"{tone} skin tone" for tone in TONES], 16)  # (C, T)
pictures_of = [(tone == place).nonzero()[:, 0] for place in range(C)]


def draw_batch(generator):
    """A tone for each of B pairs, and a picture of that tone: both (B,)."""
    tones = torch.randint(C, (B,), generator=generator)
    numbers = torch.rand(B, generator=generator)
    chosen = [pictures_of[t][int(u * len(pictures_of[t]))] for t, u in zip(tones.tolist(), numbers, strict=True)]
    return tones, torch.stack(chosen)


def run(steps, shuffled_apart=False):
    """Trains a small CLIP on tones; returns it with its losses and the floors of its batches."""
    torch.manual_seed(0)
    model = minclip.CLIP(minclip.CLIPConfig(32, 24, 1, 32, 2, 8, 16, len(tokenizer), 32, 2, 1))
    config = TrainConfig(batch_size=B, lr=1e-3)
    optimizer = make_optimizer(model, config)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    losses, floors = [], []
    for _ in range(steps):
        tones, chosen = draw_batch(generator)
        floors.append(batch_floor(tones.tolist()))
        if shuffled_apart:
            tones = tones[torch.randperm(B, generator=generator)]
        losses.append(train_step(model, optimizer, pictures[chosen], tokens[tones], config))
        schedule.step()
    return model, losses, floors


# %%
STEPS = check.pick(800, 20)
model, losses, floors = run(STEPS)
_, buggy, _ = run(STEPS // 2, shuffled_apart=True)

figure, axes = plt.subplots(figsize=(7, 4))
axes.plot(buggy, color="0.55", linewidth=0.9, label="shuffled apart (a bug)")
axes.plot(losses, color="tab:blue", linewidth=0.9, label="right pairs")
for value, words, style in ((start, f"ln {B}", ":"), (floor, f"floor of B = {B}, C = {C}", "--")):
    axes.axhline(value, color="black", linestyle=style, linewidth=1.2)
    axes.annotate(f"{words}: {value:.3f}", (0.99, value), xycoords=("axes fraction", "data"),
                  xytext=(0, 4), textcoords="offset points", ha="right", fontsize=9)  # fmt: skip
axes.axhline(0, color="black", linewidth=0.8)
axes.set(xlabel="step", ylabel="loss", ylim=(0, None))
axes.legend(loc="lower left")

# %% [markdown]
# The curve falls, flattens, and runs on as a thin noisy band: stuck, one might say. The noise is that of the batches:
# each has its own floor (exercise 1). So compare means over the last quarter of the steps:

# %%
last = STEPS // 4
print(f"predicted floor            {floor:.3f}")
print(f"mean floor of the batches  {mean(floors[-last:]):.3f}")
print(f"mean loss                  {mean(losses[-last:]):.3f}")
gap = mean(losses[-last:]) - floor
print(f"the loss ended {gap:+.3f} from the prediction:", "within 0.03" if abs(gap) < 0.03 else "not within 0.03")
print(f"with the bug: {mean(buggy[-len(buggy) // 4 :]):.3f}, and ln {B} is {start:.3f}")

# %% [markdown]
# What does this "stuck" model know? Ask it for the tone of every picture (these pictures were trained on: the question
# is only what the loss says about the task it was given):

# %%
model.eval()
with torch.no_grad():
    answers = model(pictures, tokens)[0].argmax(dim=1)  # (P,)
print(
    f"right tone: {100 * (answers == tone).float().mean():.1f} % of {len(tone)} pictures, at a loss of {losses[-1]:.2f}"
)

# %% [markdown]
# So a loss far from 0 can belong to a model that is finished. A number alone does not say whether training is stuck;
# the number between *its* start and *its* floor does.
#
# ## Reading a curve that stands still
#
# | it stands at | which means | look at |
# |---|---|---|
# | ln B | nothing is told apart | the pairing of pictures and texts; the learning rate (too high: everything collapses into one feature; too low: still there); whether the loss reaches the towers at all |
# | the floor for your B and C | everything is told apart that can be | your captions: they repeat. Write richer ones, or be content |
# | between the two | some is told apart; still learning, or the task is hard | an easy subset: can it overfit 100 pairs? |
# | 0, from the start | there is nothing to tell apart | the batch size: is it 1? Is there only one pair on each device? |
# | far above ln B | the model is sure, and wrong | the scale (lesson 04); pictures paired with wrong texts |
#
# `minclip train` prints the start and the floor of your data with every loss.
#
# ## What this lesson does not show
#
# Captions that are *nearly* the same ("a cat", "one cat") cost something too, and no formula counts them. Captions that
# are not equally likely have a higher floor than C equally likely ones; exercise 1, averaged over batches, gives it.
# And a loss at its floor says nothing about pictures that were never trained on (lesson 08).
#
# ## What you take away
#
# - A contrastive loss starts at ln B, and B is your batch size. Never compare losses of different batch sizes.
# - Equal captions in a batch cost ln k each. With C equally likely captions the floor is E ln(1 + Bin(B − 1, 1/C)),
#   about ln(B/C) when B is many times C.
# - Stuck is a statement about two numbers, the start and the floor. Know both before you train.
#
# Stuck? `from solutions.lesson_03 import batch_floor`, or read [solutions/lesson_03.py](solutions/lesson_03.py).
