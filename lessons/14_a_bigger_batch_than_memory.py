# %% [markdown] id="question"
# # 14 · A bigger batch than memory
#
# **The question.** Your memory holds 64 pairs, and you want a batch of 256. The usual trick is **gradient
# accumulation**: send four batches of 64 through the model one after the other, let the gradients add up, and only
# then update the weights. Is that the gradient of a batch of 256?
#
# **You need** CLIP's loss (lessons 01 and 02), the training step (lesson 08), and the fact that PyTorch's `backward()`
# *adds* to `.grad`. One comparison uses the groups of lesson 09 ("Only the negatives").
#
# **Afterwards you can** say which loss accumulated gradients belong to; compute the exact gradient of a batch that does
# not fit in memory; measure what that costs in memory and time; and say when it is not worth it.
#
# **Place.** Part IV, *Large and fast*; after lesson 09. About 60 minutes, exercises included.

# %%
import copy
import itertools
import math
import statistics
import time

import check
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.colors import ListedColormap
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import minclip
from minclip import data
from minclip.train import State, TrainConfig, learning_rate, make_optimizer, train_step

plt.style.use("lesson.mplstyle")
torch.set_num_threads(1)  # on matrices this small, one thread is the fastest

# %% [markdown] id="bet-first"
# ## Bet first
#
# The question was debated in public, in [sentence-transformers
# #1822](https://github.com/huggingface/sentence-transformers/pull/1822), a pull request that added gradient
# accumulation for a loss of this kind. Its author: "As far as I know, having a batch size of N samples performs the
# same as having batches of N/M samples with M grad acc steps." A maintainer: "Sadly not. The loss is computed with N/M
# negatives and then just averaged."
#
# Put a number on it before you read on. A gradient is a long vector, and two of them can be compared by their cosine,
# as two features are: 1 means the same direction, 0 means that they have nothing in common. What will the cosine be
# between the accumulated gradient of 4 × 64 pairs and the gradient of the same 256 pairs as one batch? Bet once for a
# model that has learned nothing yet, and once for one that has been trained: replace `None` with your numbers.

# %%
check.predict("cosine to the true gradient, untrained", None)
check.predict("cosine to the true gradient, trained", None)

# %% [markdown] id="small-clip"
# ## A small CLIP, and one batch
#
# The pairs are emoji and their names, as in lesson 08, in pictures of 24 × 24 pixels. Both towers are transformers with
# two layers.

# %%
pairs, _ = data.load_emoji(data.Preprocess(24), artists=[data.OPENMOJI])
tokenizer = minclip.Tokenizer.train(pairs.captions, check.pick(1024, 600))
all_images, all_tokens = data.normalize(pairs.images), tokenizer(pairs.captions, 24)  # (P, 3, R, R), (P, T)
config = minclip.CLIPConfig(
    embed_dim=64,
    image_resolution=24,
    vision_layers=2,
    vision_width=64,
    vision_heads=2,
    vision_patch_size=8,
    context_length=24,
    vocab_size=tokenizer.vocab_size,
    transformer_width=64,
    transformer_heads=2,
    transformer_layers=2,
    quick_gelu=False,
)
torch.manual_seed(0)
model = minclip.CLIP(config)

N, CHUNK = check.pick((256, 64), (32, 8))
generator = torch.Generator().manual_seed(0)
batch = torch.randperm(len(pairs), generator=generator)[:N]
images, tokens = all_images[batch], all_tokens[batch]  # (N, 3, R, R), (N, T)
print(f"{sum(p.numel() for p in model.parameters()):,} parameters; a batch of {N} pairs, or {N // CHUNK} of {CHUNK}")

# %% [markdown] id="where-it-is-right"
# ## Where adding up is right
#
# Gradient accumulation is exact for most models, and it helps to see why before we see where it is not. We cut the
# batch into **chunks** of equal size. The gradient of a mean is the mean of the gradients; so to see what accumulation
# leads to, we can take the mean of the chunks' losses and go backwards once. (This saves no memory yet. That will be
# exercise 1.)
#
# We try two losses: the cross-entropy of a classifier that sorts pictures into ten classes (random ones, since only
# the gradient matters here), and CLIP's loss. The number is how far the chunks' gradient is from that of the batch in
# one piece: the length of the difference, relative to the length of the latter.

# %%
to_classes, classes = torch.randn(64, 10, generator=generator), torch.randint(10, (N,), generator=generator)


def classifier_loss(rows):
    """The loss of the pairs with these places in the batch."""
    return F.cross_entropy(model.encode_image(images[rows]) @ to_classes, classes[rows])


def clip_loss(rows):
    return minclip.clip_loss(model.encode_image(images[rows]), model.encode_text(tokens[rows]), model.logit_scale.exp())


def gradient(loss_of, chunk):
    """The gradients of all parameters as one vector, for the mean of the losses of the chunks."""
    model.zero_grad()
    torch.stack([loss_of(rows) for rows in torch.arange(N).split(chunk)]).mean().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


for name, loss_of in (("classifier", classifier_loss), ("CLIP", clip_loss)):
    whole = gradient(loss_of, N)
    print(f"{name:10}  {(gradient(loss_of, CHUNK) - whole).norm() / whole.norm():.1e}")

# %% [markdown] id="why-it-differs"
# The classifier's loss is a sum with one term for each picture, and no term depends on the other pictures. So it does
# not matter how they are grouped, and the only difference left is rounding. CLIP's loss is different: every picture is
# compared with every *text of the batch*. Cut the batch, and most comparisons are never made.
#
# In the figure, a row is a picture and a column a text, 16 of each. The pairs are black; the **negatives** are blue:
# the wrong texts that a picture has to be told apart from, and the wrong pictures that a text has to be told apart
# from. White cells are never computed.

# %% jupyter={"source_hidden": true}
SHOWN, GROUP = 16, 4
block = torch.arange(SHOWN) // GROUP
figure, all_axes = plt.subplots(1, 2, figsize=(8, 4.2))
for axes, lit, title in (
    (all_axes[0], block[:, None] == block, f"{SHOWN // GROUP} batches of {GROUP}, accumulated"),
    (all_axes[1], torch.ones(SHOWN, SHOWN, dtype=torch.bool), f"one batch of {SHOWN}"),
):
    axes.imshow(lit.long().fill_diagonal_(2), cmap=ListedColormap(["white", "tab:blue", "black"]), vmin=0, vmax=2)
    axes.set_xticks([k - 0.5 for k in range(1, SHOWN)], minor=True)
    axes.set_yticks([k - 0.5 for k in range(1, SHOWN)], minor=True)
    axes.grid(which="minor", color="0.8", linewidth=0.5)
    axes.tick_params(which="both", length=0)
    axes.set(title=title, xlabel=f"texts\n{lit.sum() - SHOWN} of {SHOWN**2 - SHOWN} negatives", xticks=[], yticks=[])
    axes.spines[["top", "right"]].set_visible(True)
_ = all_axes[0].set_ylabel("pictures")

# %% [markdown] id="exercise-1"
# On the left, only the blocks on the diagonal are lit. In chunks of 64, a picture meets 63 of the 255 wrong texts of
# the batch. So the maintainer is right: the accumulated gradient is not that of the big batch. But it is the gradient
# of *some* loss, and it is worth knowing which.
#
# **Exercise 1.** Write gradient accumulation for CLIP. `chunk` may not divide the size of the batch: the last chunk is
# then smaller. Every pair of the batch counts equally. Never hold the graph of more than `chunk` pairs: that is the
# whole point. (A **graph** is the record that autograd keeps of a forward pass, so that it can go backwards.) The check
# compares the gradients that you leave in `.grad` with those of the matrix on the left.


# %%
def accumulated_gradient(model, images, tokens, chunk):
    """Pictures (N, 3, R, R), token ids (N, T): adds to `.grad` of all parameters; returns the loss, a Python float.

    Each pair competes with the pairs of its own chunk; the loss is the mean over all N pairs.
    The towers are `model.encode_image` and `model.encode_text`; the scale of the logits is `model.logit_scale.exp()`.
    """
    raise NotImplementedError


# %%
accumulated_gradient = check.accumulated_gradient(accumulated_gradient)

# %% [markdown] id="right-for-something-else"
# You have met this loss in lesson 09. There ("Only the negatives") a batch of 256 was encoded at once, and only then
# cut into groups, each with a softmax of its own. Compare your gradients with those of the groups, and with those of
# the full batch:


# %%
def in_one_piece(model, images, tokens, chunk=None):
    """The plain step of a big batch: everything is encoded at once. `chunk` is ignored."""
    loss = minclip.clip_loss(model.encode_image(images), model.encode_text(tokens), model.logit_scale.exp())
    loss.backward()
    return loss.item()


def in_groups(model, images, tokens, group):
    """The loss of lesson 09: encoded at once, but each pair competes within its group."""
    x, y = model.encode_image(images), model.encode_text(tokens)  # (N, E) each
    x, y = x.view(-1, group, x.shape[1]), y.view(-1, group, y.shape[1])  # (N / group, group, E)
    loss = torch.vmap(minclip.clip_loss, in_dims=(0, 0, None))(x, y, model.logit_scale.exp()).mean()
    loss.backward()
    return loss.item()


def gradients_by(way, chunk=None, model=model, images=images, tokens=tokens):
    """The loss, and name -> gradient of every parameter."""
    model.zero_grad()
    loss = way(model, images, tokens, chunk)
    return loss, {name: p.grad.clone() for name, p in model.named_parameters()}


def largest_error(got, wanted):
    """The parameter whose gradient is furthest off: its error, relative to the length of the right gradient."""
    return max(((got[name] - wanted[name]).norm() / wanted[name].norm()).item() for name in wanted)


whole_loss, whole = gradients_by(in_one_piece)
group_loss, grouped = gradients_by(in_groups, CHUNK)
loss, accumulated = gradients_by(accumulated_gradient, CHUNK)
print(f"loss: accumulated {loss:.4f}, in groups {group_loss:.4f}, in one piece {whole_loss:.4f}")
print(f"largest error, measured against the groups:    {largest_error(accumulated, grouped):.1e}")
print(f"largest error, measured against one big batch: {largest_error(accumulated, whole):.1e}")
loss, alone = gradients_by(accumulated_gradient, 1, model, images[:16], tokens[:16])
largest_entry = max(g.abs().max() for g in alone.values())
print(f"\n16 chunks of 1: loss {loss:.4f}, largest entry of any gradient {largest_entry:.4f}")

# %% [markdown] id="not-wrong"
# So accumulation computes the right gradient of the **grouped loss**: that of a batch of 64, only with less noise,
# because four of them are averaged. The losses also differ: telling a picture apart from 63 texts is easier than
# from 255. A model that guesses pays ln 64 ≈ 4.16 instead of ln 256 ≈ 5.55 (lesson 03); this untrained one is a
# little worse. The last line is the maintainer's best argument: "batch size of 1 with 512 grad acc steps doesn't
# work at all, as you have zero negatives in each batch".
#
# ## What does a chunk need to know about the others?
#
# The true gradient seems to need everything at once: the loss needs all features, the gradient needs the graphs
# behind all of them, and the graphs are what fills the memory. But look at what depends on what. Call the parameters
# of the towers $\theta$, and let $f_i$ be the features of pair $i$ (both vectors, concatenated). The loss
# $L(f_1, \dots, f_N)$ sees these parameters only through the features, so by the chain rule
#
# $$\frac{\partial L}{\partial \theta}
#   = \sum_{i=1}^{N} \frac{\partial L}{\partial f_i} \cdot \frac{\partial f_i}{\partial \theta}.$$
#
# In words: each pair contributes a product of two factors. The left factor depends on all other pairs, but it is small:
# it has as many numbers as the features. The right factor needs the big graph, but not the other pairs. Once the left
# factors are there, the sum over pairs is as harmless as the classifier's. And no graph of the towers is needed to
# compute the left factors. (PyTorch does the product for you: `f.backward(g)` goes backwards from features `f` whose
# gradient `g` is known.)
#
# This is **gradient caching**, published by [Gao et al. 2021](https://arxiv.org/abs/2101.06983) as GradCache; the left
# factors are what it caches.
#
# Two details decide whether it is exact.
#
# - **The scale of the logits** is a parameter of the loss and not of the towers. It is not in the sum above. Where does
#   its gradient come from, and how many times is it added?
# - **Random numbers.** A tower with dropout draws new ones every time it is called. The left factors were computed for
#   features that came from *certain* random numbers, and do not fit any others. (Somebody raised exactly this in
#   [GC-DPR #12](https://github.com/luyug/GC-DPR/issues/12), and was shown the remedy.) `torch.get_rng_state()` returns
#   the state of PyTorch's random generator; `torch.set_rng_state(state)` puts it back, and the same numbers come again.
#
# **Exercise 2.** Write it. The check works in float64, and compares each parameter's gradient with that of one big
# batch, to one part in a million. Its towers draw random numbers, and watch how many pairs pass through them and how
# many of these have a graph.


# %%
def cached_gradient(model, images, tokens, chunk):
    """Pictures (N, 3, R, R), token ids (N, T): adds to `.grad` of all parameters; returns the loss, a Python float.

    Each pair competes with all N. No more than `chunk` pairs are encoded at once, or have a graph at the same time.
    A pair draws the same random numbers whenever it is encoded.
    """
    raise NotImplementedError


# %%
cached_gradient = check.cached_gradient(cached_gradient)

# %% [markdown] id="how-exact"
# How exact is it on the real towers? In float32, two ways of adding up the same numbers differ by rounding. To see that
# nothing else differs, we also run both ways in float64, where rounding is hundreds of millions of times smaller.
# Neither 100 nor 7 divides the batch, so the last chunk is smaller there.

# %%
double = copy.deepcopy(model).double()
setups = {"float32": (model, images, tokens), "float64": (double, images.double(), tokens)}
print("             largest error of a parameter       error of logit_scale")
for name, setup in setups.items():
    _, wanted = gradients_by(in_one_piece, None, *setup)
    for chunk in check.pick((128, 100, 64, 7), (20, 8)):
        _, got = gradients_by(cached_gradient, chunk, *setup)
        scale_error = abs(got["logit_scale"] / wanted["logit_scale"] - 1)
        print(f"{name}, chunk {chunk:3}:    {largest_error(got, wanted):.1e}                  {scale_error:.1e}")

# %% [markdown] id="scale-counted-once"
# ### A scale counted four times
#
# There is another, widely used way to get the same gradients of the towers. open_clip's `--accum-freq` ([the loop that
# we read](https://github.com/mlfoundations/open_clip/blob/035dfeb/src/open_clip_train/train.py)) also encodes all
# chunks without a graph. Then, chunk by chunk, it encodes again with a graph, puts the new features among the cached
# ones of the other chunks, computes the loss of the whole batch, and goes backwards. That loss is computed once for
# each chunk. What does this mean for the scale?


# %%
def a_loss_for_each_chunk(model, images, tokens, chunk):
    """The idea of that loop, in our words."""
    chunks = list(zip(images.split(chunk), tokens.split(chunk), strict=True))
    with torch.no_grad():
        cached = [(model.encode_image(x), model.encode_text(y)) for x, y in chunks]
    for k, (x, y) in enumerate(chunks):
        mixed = [*cached[:k], (model.encode_image(x), model.encode_text(y)), *cached[k + 1 :]]
        loss = minclip.clip_loss(*map(torch.cat, zip(*mixed, strict=True)), model.logit_scale.exp())
        loss.backward()
    return loss.item()


_, got = gradients_by(a_loss_for_each_chunk, CHUNK)
of_towers = {name: gradient for name, gradient in whole.items() if name != "logit_scale"}
print(f"towers: largest error {largest_error(got, of_towers):.1e}")
print(f"logit_scale: {got['logit_scale'] / whole['logit_scale']:.4f} times the right gradient")

# %% [markdown] id="does-it-matter"
# The towers are right, and the scale's gradient is added once for each chunk. Whether that hurts is another question:
# Adam divides each gradient by its usual size, so a constant factor nearly cancels. It does not cancel in plain SGD,
# nor when gradients are clipped by their global norm. [open_clip
# #761](https://github.com/mlfoundations/open_clip/issues/761) asks whether the loss should be divided by the number
# of chunks. You can answer now: that would mend the scale and break the towers.
#
# ## What it costs
#
# First, the memory. Lesson 15 measures it from outside, as the system sees it; here we count it from inside, which
# gives the same number on every machine. PyTorch can send every operation through a function of ours (a *dispatch
# mode*). It notes the memory of each result, checks which of the earlier results still exist, and keeps the highest
# total. The batch and the weights, which were there before, are not counted; what a kernel allocates and frees within
# one operation is not seen.


# %%
class LiveBytes(TorchDispatchMode):
    """While it is active: `peak` is the most bytes that results of operations occupied at one time."""

    def __init__(self):
        super().__init__()
        self.memory, self.now, self.peak = {}, 0, 0  # memory: what was allocated -> its bytes

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.note((args, kwargs), is_new=False)
        result = func(*args, **(kwargs or {}))
        self.note(result, is_new=True)
        return result

    def note(self, values, is_new):
        for tensor in tree_leaves(values):
            if isinstance(tensor, torch.Tensor):
                reference = StorageWeakRef(tensor.untyped_storage())
                if reference not in self.memory:
                    self.memory[reference] = tensor.untyped_storage().nbytes() if is_new else 0
                    self.now += self.memory[reference]
        if self.now > self.peak:  # as far as we know: some of it may be gone
            self.memory = {memory: size for memory, size in self.memory.items() if not memory.expired()}
            self.now = sum(self.memory.values())
            self.peak = max(self.peak, self.now)


# %% [markdown] id="measure"
# For the time, we count the seconds that the processor spent on this process, so that other programs matter less. The
# variants take turns, and the median of three tries counts.
#
# What should the time be? Going backwards costs about twice as much as going forwards: for each product of the
# forward pass there are two, one for the gradient of the input and one for that of the weights. A plain step
# therefore costs 1 + 2 forward passes, and gradient caching 1 + 1 + 2, a third more.

# %%
CHUNKS = check.pick((16, 32, 64, 128, 256), (8, 32))
WAYS = {"accumulated": accumulated_gradient, "cached": cached_gradient}


def peak_of(way, chunk):
    """MiB."""
    model.zero_grad()
    with LiveBytes() as live:
        way(model, images, tokens, chunk)
    return live.peak / 2**20


def seconds_of(way, chunk):
    model.zero_grad()
    start = time.process_time()
    way(model, images, tokens, chunk)
    return time.process_time() - start


runs = [("one piece", N), *itertools.product(WAYS, CHUNKS)]
functions = WAYS | {"one piece": in_one_piece}
peaks = {(name, chunk): peak_of(functions[name], chunk) for name, chunk in runs}
tries = [{(name, chunk): seconds_of(functions[name], chunk) for name, chunk in runs} for _ in range(check.pick(3, 1))]
seconds = {run: statistics.median(one[run] for one in tries) for run in runs}

# %% jupyter={"source_hidden": true}
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
for axes, values in ((left, peaks), (right, {run: value / seconds["one piece", N] for run, value in seconds.items()})):
    axes.axhline(values["one piece", N], color="black", linestyle="--", label=f"{N} in one piece")
    axes.plot(
        CHUNKS, [values["accumulated", c] for c in CHUNKS], "s:", color="tab:orange", markersize=8, label="accumulated"
    )
    axes.plot(CHUNKS, [values["cached", c] for c in CHUNKS], "o-", color="tab:blue", label="cached")
    axes.set_xscale("log", base=2)
    axes.set_xticks(CHUNKS, [str(c) for c in CHUNKS])
    axes.minorticks_off()
    axes.set_xlabel("pairs in a chunk")
right.axhline(4 / 3, color="0.6", linewidth=1)
right.annotate("4/3", (CHUNKS[-1], 4 / 3), xytext=(0, 3), textcoords="offset points", ha="center", color="0.4")
right.set_ylim(0, None)
left.set_yscale("log", base=2)
left.yaxis.set_major_formatter(lambda MiB, _: f"{MiB:g}")
left.set(ylabel="peak memory (MiB)", title="memory")
right.set(ylabel=f"time, relative to {N} in one piece", title="time")
_ = left.legend()

# %%
print("chunk   peak, accumulated   peak, cached   time, accumulated   time, cached")
for chunk in CHUNKS:
    memory = f"{peaks['accumulated', chunk]:13.1f} MiB {peaks['cached', chunk]:10.1f} MiB"
    first, second = (seconds[name, chunk] / seconds["one piece", N] for name in WAYS)
    print(f"{chunk:5} {memory} {first:18.2f}× {second:13.2f}×")
print(f"{N} in one piece: {peaks['one piece', N]:.1f} MiB, {1000 * seconds['one piece', N]:.0f} ms")
of_cache = 2 * 2 * N * config.embed_dim * 4 / 2**20
print(f"\nwhat the cache holds, the features of both towers and their gradients: {of_cache:.2f} MiB")

# %% [markdown] id="what-memory-says"
# The memory grows with the chunk. At each size the exact gradient needs about as much as the wrong one, because the
# cache itself is small. Small chunks take longer with both methods: there are more calls, and each of them has less to
# do. So take the largest chunk that fits. (Where the chunk is the whole batch, our solution still encodes twice.
# minclip's own, `minclip/gradient_cache.py`, notices this case and takes the plain step.)
#
# ## Does the difference matter?
#
# Now for your bet. We train the model with plain steps of the big batch, and stop at three stages: before the first
# step, after a quarter of the training, and at its end. At each stage we take four batches, and compute the gradient of
# each in one piece, and accumulated over chunks of several sizes.

# %%
STAGES = ("untrained", "a quarter", "trained")
STEPS = check.pick(180, 4)
SIZES = check.pick((16, 32, 64, 128), (8, 16))  # of the chunks
probes = torch.randperm(len(pairs), generator=generator)[: 4 * N].view(4, N)  # four batches


def as_vector(way, chunk, rows):
    _, found = gradients_by(way, chunk, model, all_images[rows], all_tokens[rows])
    return torch.cat([gradient.flatten() for gradient in found.values()])


def unit_features(rows):
    """The features of pairs, (n, E) of each tower, of length 1."""
    features = model.encode_image(all_images[rows]), model.encode_text(all_tokens[rows])
    return [F.normalize(tower, dim=1) for tower in features]


def look():
    """The model at this moment: loss and negatives of `batch`, and what the gradients of the probes are like."""
    whole = [as_vector(in_one_piece, None, rows) for rows in probes]
    parts = {size: [as_vector(accumulated_gradient, size, rows) for rows in probes] for size in SIZES}

    def cosines(left, right):
        return [F.cosine_similarity(a, b, dim=0).item() for a, b in zip(left, right, strict=True)]

    with torch.no_grad():
        x, y = unit_features(batch)  # (N, E) each
        logits = model.logit_scale.exp() * x @ y.T
        loss = minclip.clip_loss(x, y, model.logit_scale.exp()).item()
        share = logits.fill_diagonal_(-torch.inf).softmax(dim=1)  # of each negative of a row, (N, N)
    return {
        "loss": loss,
        "negatives": (1 / share.square().sum(dim=1)).mean().item(),
        "cosines": {size: cosines(vectors, whole) for size, vectors in parts.items()},
        "length": statistics.mean((a.norm() / b.norm()).item() for a, b in zip(parts[CHUNK], whole, strict=True)),
        "other batch": statistics.mean(cosines(*zip(*itertools.combinations(whole, 2), strict=True))),
    }


settings = TrainConfig(lr=3e-3, batch_size=N, backend="naive")
state = State(model, make_optimizer(model, settings))
schedule = torch.optim.lr_scheduler.LambdaLR(state.optimizer, lambda step: learning_rate(step, STEPS, settings))
looks = {"untrained": look()}
for step in range(1, STEPS + 1):
    place = (step - 1) % (len(pairs) // N) * N
    if place == 0:  # a new epoch
        order = torch.randperm(len(pairs), generator=generator)
    rows = order[place : place + N]
    train_step(state, all_images[rows], all_tokens[rows], settings)
    schedule.step()
    if step in (STEPS // 4, STEPS):
        looks["trained" if step == STEPS else "a quarter"] = look()

# %% jupyter={"source_hidden": true}
figure, axes = plt.subplots(figsize=(6.4, 3.8))
for stage, style, color in zip(STAGES, ("o-", "s--", "^:"), ("0.6", "tab:orange", "tab:blue"), strict=True):
    cosines = looks[stage]["cosines"]
    axes.plot([*SIZES, N], [*(statistics.mean(cosines[size]) for size in SIZES), 1.0], style, color=color, label=stage)
    for size in SIZES:
        axes.plot([size] * len(cosines[size]), cosines[size], ".", color=color, alpha=0.5)
axes.set_xscale("log", base=2)
axes.set_xticks([*SIZES, N], [str(size) for size in (*SIZES, N)])
axes.minorticks_off()
axes.set(xlabel=f"pairs in a chunk (of {N})", ylabel="cosine to the true gradient", ylim=(None, 1.03))
_ = axes.legend(loc="lower right")

# %%
print(f"{'':12}{'loss':>6}{'cosine':>9}{'length':>9}{'other batch':>14}{'negatives that count':>23}")
for stage in STAGES:
    seen = looks[stage]
    cosine = statistics.mean(seen["cosines"][CHUNK])
    print(
        f"{stage:12}{seen['loss']:6.2f}{cosine:9.3f}{seen['length']:9.2f}{seen['other batch']:14.2f}"
        f"{seen['negatives']:15.0f} of {N - 1}"
    )
print()
for stage in ("untrained", "trained"):
    cosine = statistics.mean(looks[stage]["cosines"][CHUNK])
    check.reveal(f"cosine to the true gradient, {stage}", cosine, within=0.05)

# %% [markdown] id="reading-the-table"
# *Cosine: between the gradient accumulated over chunks of 64 and the true one. Length: of the former, relative to the
# latter. Other batch: the cosine between the true gradients of two different batches. In the figure, each dot is one
# batch.*
#
# Both sides of the argument can point to this table. In an untrained model the two gradients are nearly the same. That
# is why the error is so easily overlooked: test it on a fresh model, and the accumulated gradient looks like that of
# the big batch with a little noise. Later it turns away, and becomes too short.
#
# Why? Look at *other batch* first. Early on, even 256 *other* pairs give much the same gradient. What the model has to
# learn then is the same for all pairs, and any sample of the comparisons shows it. At the end, the gradients of two
# batches have nothing in common. What is left to learn differs from pair to pair, and lies in a few negatives. The last
# column says how few: from a picture's softmax over its negatives one can compute how many of them effectively count
# (one over the sum of their squared shares; that is 255 if the shares are equal). Those few are the **hard negatives**,
# and when chunks are drawn at random, three in four of them are in another chunk.
#
# That is an explanation, and it can be tested. If the missing hard negatives are the cause, then the cosine must rise
# when a picture finds them in its own chunk. So we sort each batch so that similar pairs become neighbours (along the
# first principal component of their features), and cut it into the same number of chunks. The true gradient does not
# depend on the order.


# %%
def sorted_by_likeness(rows):
    """The same pairs, in another order."""
    with torch.no_grad():
        x, y = unit_features(rows)  # (N, E) each
    centred = x + y - (x + y).mean(dim=0)  # (N, E)
    return rows[(centred @ torch.linalg.svd(centred).Vh[0]).argsort()]


def share_in_own_chunk(rows):
    """How much of the push of a picture's negatives comes from those in its own chunk."""
    with torch.no_grad():
        x, y = unit_features(rows)  # (N, E) each
    push = (model.logit_scale.exp() * x @ y.T).softmax(dim=1).fill_diagonal_(0)  # (N, N)
    chunk = torch.arange(N) // CHUNK
    return (push * (chunk[:, None] == chunk)).sum().item() / push.sum().item()


for name, order_of in (("at random", lambda rows: rows), ("sorted", sorted_by_likeness)):
    found = []
    for rows in map(order_of, probes):
        way = as_vector(accumulated_gradient, CHUNK, rows), as_vector(in_one_piece, None, rows)
        found.append((share_in_own_chunk(rows), F.cosine_similarity(*way, dim=0).item()))
    share, cosine = (statistics.mean(column) for column in zip(*found, strict=True))
    print(f"chunks {name:13} {share:4.0%} of the push from the own chunk, cosine to the true gradient {cosine:.3f}")

# %% [markdown] id="do-not-overrate"
# The cosine rises, as it must if the explanation is right. It stays below 1: part of the push still comes from
# other chunks.
#
# Do not overrate the difference, though. Compare the column *other batch* again: at every stage, another 256 pairs
# change the true gradient more than accumulation does. But that is noise, which averages out over the steps. What
# accumulation changes does not average out: every step follows the gradient of the grouped loss instead. Lesson 09
# measured where training with that loss leads: its experiment "Only the negatives" trains with groups.
#
# ## When caching is pointless
#
# - **When memory is not the limit.** The plain step gives the same gradient without the second encoding.
# - **When the bigger batch does not help.** Caching buys negatives. Whether they are worth anything is the question of
#   lesson 09, and at equal samples a big batch also takes fewer steps.
# - **When only a little memory is missing.** **Gradient checkpointing** (`--grad-checkpoint`) recomputes the
#   intermediate results of the layers instead of keeping them. It also costs about one more forward pass, but the batch
#   stays in one piece, so it works for towers in which the pairs of a batch see each other. The two can be combined.
# - **When there are more GPUs.** Each can keep the graph of one chunk, and nothing is encoded twice (lesson 19).
# - **When the matrix itself is too big.** Caching divides the memory of the towers, and leaves the N × N logits
#   whole. That is lesson 15.
#
# Where is that last limit? In the cached gradient, the loss and the graph of a chunk are never in memory together. So
# with many pairs the peak is that of the loss alone, which grows with N². We measure it on features that come from no
# tower, test the prediction on a larger batch, and solve for the N that fills one GiB. For the batch in one piece, the
# peaks above give a lower bound on the memory that one more pair takes.

# %%
BUDGET = 1024  # MiB
large, small = CHUNKS[-1], CHUNKS[-2]
per_pair = (peaks["accumulated", large] - peaks["accumulated", small]) / (large - small)  # MiB
fixed = peaks["accumulated", large] - large * per_pair  # MiB: the gradients of the parameters, above all
features = torch.randn(2, 1024, config.embed_dim, requires_grad=True)
with LiveBytes() as live:
    minclip.clip_loss(*features, 10.0).backward()
per_cell = live.peak / 1024**2 / 2**20  # MiB

larger = check.pick(2048, 1024)
model.zero_grad()
with LiveBytes() as live:
    cached_gradient(model, all_images[:larger], all_tokens[:larger], CHUNK)
print(f"the loss takes {per_cell * 2**20 / 4:.1f} matrices of N × N numbers")
print(
    f"cached, {larger:,} pairs: predicted {fixed + per_cell * larger**2:.1f} MiB, measured {live.peak / 2**20:.1f} MiB"
)
print(f"one more pair in one piece: {per_pair:.2f} MiB")
print(
    f"one GiB holds fewer than {(BUDGET - fixed) / per_pair:,.0f} pairs in one piece, "
    f"or about {math.sqrt((BUDGET - fixed) / per_cell):,.0f} in chunks of {CHUNK}"
)

# %% [markdown] id="the-end"
# ## The answer
#
# **No.** Accumulating four batches of 64 gives the gradient of the grouped loss, in which each pair competes with 63
# others; early in training it points almost the same way as that of a batch of 256, and later it does not. The true
# gradient of the big batch can be computed in the same memory, if the gradients of the features are computed first and
# every chunk is encoded a second time.
#
# In minclip it is one option: `minclip train --batch-size 4096 --micro-batch 128`.
#
# ## What this lesson does not show
#
# - **Which training ends better.** This lesson compares gradients, not models. All probes are training pairs, and the
#   training is short: a longer one reaches a much lower loss.
# - **Large models.** A pair takes much more memory there, so far fewer fit. The arithmetic is the same.
# - **A GPU.** Small chunks probably cost more there, because only large operations keep a GPU busy; and its allocator
#   holds more memory than the tensors in use.
# - **Towers in which pairs see each other.** Batch normalization takes its mean over the chunk, so that $f_i$ depends
#   on the other pairs of the chunk. Then the sum above no longer holds, and caching is *not* exact.
#
# ## Harder
#
# 1. Put a `torch.nn.BatchNorm1d` after the image tower, and measure how far the cached gradient is from that of the
#    batch in one piece, as a function of the chunk size. What would have to be cached to make it exact again?
# 2. SigLIP's loss (`minclip.siglip_loss`, [Zhai et al. 2023](https://arxiv.org/abs/2303.15343)) is a sum with one term
#    for each of the N² cells, without a softmax. Can its gradient be accumulated, block by block, with *two* chunks in
#    memory and nothing cached? What does it cost in encodings?
# 3. Keep the features of the last step, and use them as additional negatives without a gradient, as a memory bank
#    does ([He et al. 2020](https://arxiv.org/abs/1911.05722)). Add a fourth line to the last figure. When is it
#    nearer to the true gradient than accumulation, and when is it further away?
#
# Stuck? `check.hint("cached_gradient")`, `from solutions.lesson_14 import cached_gradient`, or read
# [solutions/lesson_14.py](solutions/lesson_14.py).
