# %% [markdown]
# # 15 · Never build the matrix
#
# **The question.** A batch of N pairs has N² similarities. The loss is one number, and all that it needs from the
# matrix is a few sums of exponentials. Can a sum of exponentials be *streamed*: read piece by piece, each piece
# forgotten before the next one comes?
#
# **You need** CLIP's loss as lesson 02 writes it: the log-sum-exp of every row and every column, minus the diagonal.
#
# **Afterwards you can** add up exponentials that no float can hold, in pieces of any size; compute the loss of a
# batch whose matrix would be far larger than the memory that you use; measure the peak memory of a piece of code; and
# say why streaming the loss is only half of the work.
#
# **Place.** Part IV, *Large and fast*; after lesson 02. About 50 minutes.

# %%
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import check
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F  # noqa: F401, for exercise 2

import minclip

generator = torch.Generator().manual_seed(0)
plt.style.use("lesson.mplstyle")

# %% [markdown]
# ## What the matrix costs
#
# The features of a batch are N·D numbers for the pictures and as many for the texts; the matrix has N². Watch which of
# the two columns explodes. The last line is the batch size of the paper ([Radford et al.
# 2021](https://arxiv.org/abs/2103.00020), section 2.5).

# %%
D = 512
print("      N   all features   one N×N matrix, float32")
for N in (256, 2048, 32768):
    print(f"{N:7,} {2 * N * D * 4 / 2**20:9.0f} MiB {N * N * 4 / 2**20:12,.2f} MiB")

# %% [markdown]
# And it is never just one matrix: the logits, the logarithms of the softmax and their gradients are all N×N. At the
# end we measure how many of them there are at once.
#
# ## A sum that no float can hold
#
# Lesson 04 clamps the logit scale at 100. A cosine of 0.95 then makes the logit 95. Here is a row of four logits and
# its log-sum-exp, $\mathrm{LSE}(z) = \ln \sum_j e^{z_j}$, once computed as it is written, and once with the usual
# trick: subtract the largest logit $m$ first and add it back at the end.
#
# $$\ln \sum_j e^{z_j} = m + \ln \sum_j e^{z_j - m}$$
#
# In words: measured from the largest, every exponential is at most 1, and one of them *is* 1. So nothing overflows,
# and the sum cannot vanish.

# %%
row = 100 * torch.tensor([0.95, 0.20, 0.93, -0.10])  # (4,)
largest = row.max()
print(f"as written:       {row.exp().sum().log():.4f}")
print(f"from the maximum: {largest + (row - largest).exp().sum().log():.4f}")
print(f"float32 overflows above exp({math.log(torch.finfo(torch.float32).max):.1f})")

# %% [markdown]
# That happens to real programs: in [scae-pytorch #4](https://github.com/mlberkeley/scae-pytorch/pull/4) a loss became
# NaN after some epochs because of such an exponential, and `logsumexp` fixed it. A CLIP loss that falls quickly and
# then is NaN, as in [DALLE2-pytorch #310](https://github.com/lucidrains/DALLE2-pytorch/issues/310), looks like the
# same problem, but the report does not say whether it was.
#
# ## The maximum is not known yet
#
# Now stream the row: logits arrive one by one, and only two numbers may be kept. The trouble is the maximum, which
# depends on logits that have not come yet. The answer is to use the largest *so far*, and to correct the sum whenever
# that changes. Say that we hold $m$ and $s = \sum_j e^{z_j - m}$ over what we have seen, and a new logit $z$ arrives:
#
# $$m' = \max(m, z), \qquad s' = s \cdot e^{m - m'} + e^{z - m'}.$$
#
# Each term of $s$ carries the factor $e^{-m}$; the product with $e^{m - m'}$ turns it into $e^{-m'}$. If $m$ did not
# change, that factor is 1. Milakov and Gimelshein described this for the softmax in 2018
# ([arXiv:1805.02867](https://arxiv.org/abs/1805.02867)); FlashAttention is built on it ([Dao et al.
# 2022](https://arxiv.org/abs/2205.14135)).
#
# In the figure, look at the steps of the dashed line: at each of them the sum s, in the lower panel, is rescaled to the
# new maximum, and usually falls. The solid line, the log-sum-exp, never falls.

# %%
stream = 6 * torch.rand(40, generator=generator) + torch.linspace(0, 4, 40)  # (40,)
m, s, history = -math.inf, 0.0, []  # the largest of nothing, and the empty sum
for z in stream.tolist():
    new = max(m, z)
    s = s * math.exp(m - new) + math.exp(z - new)
    m = new
    history.append((m, s, m + math.log(s)))

figure, (axes, below) = plt.subplots(2, figsize=(8.5, 4.2), sharex=True, height_ratios=[3, 1])
places, (largest_so_far, sums, lses) = range(1, len(stream) + 1), zip(*history, strict=True)
axes.plot(places, stream, ".", color="0.6", label="logits, as they come")
axes.plot(places, largest_so_far, "--", color="tab:orange", drawstyle="steps-post", label="largest so far, m")
axes.plot(places, lses, color="tab:blue", drawstyle="steps-post", label="log-sum-exp so far, m + ln s")
axes.axhline(stream.logsumexp(dim=0).item(), color="black", linewidth=0.8, linestyle=":", label="of the whole row")
axes.set(ylabel="value", title="One pass, two numbers in memory")
axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
below.plot(places, sums, color="black", drawstyle="steps-post")
below.set(xlabel="logits read", ylabel="sum s", ylim=(0, None))
print(f"streamed: {lses[-1]:.6f}   all at once: {stream.logsumexp(dim=0):.6f}")

# %% [markdown]
# Nothing changes when the pieces are larger than one logit. Two parts of a row, of any sizes, with log-sum-exps $a$ and
# $b$, together have the log-sum-exp $\ln(e^a + e^b)$: **the log-sum-exp of the log-sum-exps**. `torch.logaddexp(a, b)`
# computes just this, with the maximum subtracted first.
#
# **Exercise 1.** Write the log-sum-exp of n rows whose logits come in parts. There is one catch, and it is the point:
# the memory of a part is overwritten before the next one comes. If you keep the parts for later, their numbers are
# gone. Where to begin? With the log-sum-exp of nothing, $-\infty$.


# %%
def online_logsumexp(parts):
    """parts: yields tensors (n, c), any c ≥ 1; side by side they are a matrix -> log-sum-exp of each row, (n,).

    The numbers of a part are gone when the next one comes.
    """
    raise NotImplementedError


# %%
online_logsumexp = check.online_logsumexp(online_logsumexp)

# %% [markdown]
# ## Rows and columns in one sweep
#
# CLIP needs the log-sum-exp of every row *and* of every column. That does not take two passes over the matrix. Compute
# the logits of a few pictures at a time against all texts: the rows of this strip are complete and can be finished at
# once. Its columns are not, but each of them has a part here, and parts can be combined. So one running number for each
# column is enough.
#
# **Exercise 2.** Write CLIP's loss so that no more than `chunk` rows of logits exist at any time. The check compares it
# with the loss of lesson 02, and it counts the numbers in all the tensors that you hold at any one time.


# %%
def chunked_loss(image_features, text_features, logit_scale, chunk):
    """(N, D), (N, D), a number, rows at a time -> CLIP's loss, a tensor of shape ().

    No tensor has more than `chunk` rows of logits. The features have any length but zero: not normalised yet.
    """
    raise NotImplementedError


# %%
chunked_loss = check.chunked_loss(chunked_loss)

# %%
image_features, text_features = torch.randn(2, 1000, 64, generator=generator)  # (N, D) each
onehot = minclip.clip_loss_onehot(image_features, text_features, 20.0)
print(f"one-hot, as in lesson 02: {onehot:.6f}")
for chunk in (1, 64, 999):
    loss = chunked_loss(image_features, text_features, 20.0, chunk)
    print(f"{chunk:3} rows at a time:       {loss:.6f}")

# %% [markdown]
# ## Tiles light up
#
# Strips are still N wide. Cut the columns as well, and what is in memory is a *tile*, whose size does not depend on N.
# Below is such a sweep over a matrix of four by four tiles. The dark tile is in memory, grey ones have been seen and
# forgotten, white ones do not exist yet. The fractions say how much of its log-sum-exp each block of rows (right) and
# each block of columns (below) already has.

# %%
TILES, moments = 4, (1, 2, 4, 7, 13, 16)
figure, all_axes = plt.subplots(1, len(moments), figsize=(10, 2.5))
for axes, moment in zip(all_axes, moments, strict=True):
    seen = torch.arange(TILES * TILES).reshape(TILES, TILES) < moment  # row by row
    shade = 0.25 * seen  # (TILES, TILES)
    shade.view(-1)[moment - 1] = 0.9
    axes.imshow(shade, cmap="Greys", vmin=0, vmax=1)
    for k in range(TILES):
        axes.text(TILES - 0.35, k, f"{seen[k].sum()}/{TILES}", va="center", fontsize=8)
        axes.text(k, TILES - 0.1, f"{seen[:, k].sum()}/{TILES}", ha="center", va="center", fontsize=8)
        axes.axhline(k - 0.5, color="0.7", linewidth=0.6)
        axes.axvline(k - 0.5, color="0.7", linewidth=0.6)
    axes.set(title=f"tile {moment} of {TILES**2}", xticks=[], yticks=[])
    axes.spines[["top", "right"]].set_visible(True)
all_axes[0].set(ylabel="pictures")
all_axes[0].set_xlabel("texts", labelpad=14)  # below the fractions
print("the share of its log-sum-exp that a block has: rows right of the matrix, columns below it")
# %% [markdown]
# The rows are finished one block after another, the columns only in the last row of tiles. That is why no *gradient*
# can be written in this sweep: a gradient needs the finished sums of its row and of its column, and until the last
# row of tiles no column has one.
#
# ## Peak memory, measured
#
# How much memory does a loss really take? On Linux, the file `/proc/self/status` has a line `VmHWM`, "high water mark":
# the most memory that the process has ever held. It never falls, so every measurement needs its own process. The script
# below loads torch once and then forks, that is, it makes a copy of its process for each measurement. We note the high
# water mark with the features in place, and again after the loss. One more precaution: memory that was freed goes back
# to the system at once (`MALLOC_MMAP_THRESHOLD_`), so that we see tensors and not the reserve that the C library keeps.
#
# We measure two versions of the loss in chunks (our solution, since the script does not know yours): the loss alone,
# and the loss with `backward()`. *fused* is the loss that you will write in lesson 17. (`memory=0`: on a CPU it
# would otherwise keep up to 128 MiB of tiles, to save time.)
#
# Before you look: the loss in chunks never makes an N×N tensor. When N doubles, from 2,048 to 4,096, by what factor
# will its peak grow, `backward()` included? By about two, as the features do, or by about four, as the matrix does?

# %%
check.predict("growth of the loss in chunks", None, options=("about 2", "about 4"))

# %%
MEASURE = r"""
import json, os, re, sys
import torch
import minclip
from minclip_kernels import fused_clip_loss
from solutions.lesson_15 import chunked_loss

def loss_only(image, text, scale):
    with torch.no_grad():
        chunked_loss(image, text, scale, 128)

WAYS = {
    "one-hot": lambda *batch: minclip.clip_loss_onehot(*batch).backward(),
    "arange": lambda *batch: minclip.clip_loss(*batch).backward(),
    "in chunks": lambda *batch: chunked_loss(*batch, 128).backward(),
    "in chunks, loss only": loss_only,
    "fused": lambda *batch: fused_clip_loss(*batch, memory=0).backward(),
}

def high_water():
    return int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) / 1024

def batch(N):
    return *(torch.randn(N, 64, requires_grad=True) for _ in range(2)), torch.tensor(20.0)

torch.set_num_threads(1)  # a process with several threads must not be copied
for name, N in json.loads(sys.argv[1]):
    if os.fork() == 0:
        WAYS[name](*batch(8))  # load what a first call loads
        inputs = batch(N)
        before = high_water()
        WAYS[name](*inputs)
        print(json.dumps([name, N, high_water() - before]), flush=True)
        os._exit(0)
    os.wait()
"""
names = check.pick(["one-hot", "arange", "in chunks", "in chunks, loss only", "fused"], ["arange", "fused"])
sizes = check.pick([512, 1024, 2048, 4096], [256, 512])
LARGE = ("in chunks, loss only", check.pick(8192, 1024))
peaks = {}
if Path("/proc/self/status").exists():
    command = [sys.executable, "-c", MEASURE, json.dumps([(name, N) for name in names for N in sizes] + [LARGE])]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    peaks = {(name, N): MiB for name, N, MiB in map(json.loads, done.stdout.splitlines())}
else:
    print("There is no /proc/self/status on this system: the figure below shows arithmetic only.")

# %%
figure, axes = plt.subplots(figsize=(7, 4.2))
line = torch.tensor([sizes[0], 32768.0])
axes.plot(line, line**2 * 4 / 2**20, color="0.6", linewidth=5, alpha=0.5, label="one N×N matrix (computed)")
axes.plot(line, 2 * line * 64 * 4 / 2**20, color="0.6", linestyle=":", label="the features (computed)")
looks = {"one-hot": "o-", "arange": "s--", "in chunks": "^-.", "in chunks, loss only": "v:", "fused": "D-"}
for name in names if peaks else []:
    axes.plot(*zip(*((N, MiB) for (of, N), MiB in peaks.items() if of == name), strict=True), looks[name], label=name)
axes.set(xlabel="batch size N", ylabel="peak memory above the inputs [MiB]", title="D = 64, float32, one process each")
axes.set_xscale("log", base=2)
axes.set_yscale("log")
axes.set_xticks([2**k for k in range(sizes[0].bit_length() - 1, 16)])
axes.xaxis.set_major_formatter(lambda N, _: f"{N:,.0f}")
axes.legend(fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
axes.grid(alpha=0.3)
# %% [markdown]
# Here are the numbers: the peak at the largest N of the curves, as a multiple of one N×N matrix, and the factor by
# which it grew when N doubled. What grows with N² grows fourfold, what grows with N twofold, and the sum of both lies
# in between. (The fused loss grows by less: most of what it takes here is its tiles, which have the same size for every
# N.) The last line is the loss in chunks for a batch whose matrix is huge.

# %%
for name in names if peaks else []:
    last, one_before = peaks[name, sizes[-1]], peaks[name, sizes[-2]]
    matrices = last / (sizes[-1] ** 2 * 4 / 2**20)
    print(f"{name:22} {last:7.1f} MiB = {matrices:5.2f} matrices,  {last / one_before:4.1f} times that of N/2")
if peaks:
    matrices = peaks["arange", sizes[-1]] / (sizes[-1] ** 2 * 4 / 2**20)
    print(f"\narange at N = 32,768 would need about {matrices * 32768**2 * 4 / 2**30:.0f} GiB.")
    print(f"{LARGE[0]}, N = {LARGE[1]:,}: {peaks[LARGE]:.0f} MiB; its matrix: {LARGE[1] ** 2 * 4 / 2**20:,.0f} MiB")
if ("in chunks", sizes[-1]) in peaks:
    growth = peaks["in chunks", sizes[-1]] / peaks["in chunks", sizes[-2]]
    check.reveal("growth of the loss in chunks", "about 4" if growth > 3 else "about 2")

# %% [markdown]
# The surprise is *in chunks*, with gradients: it never makes an N×N tensor, and yet its memory grows almost as if it
# did. We never told autograd to forget. We can ask it what it keeps for the backward pass.


# %%
def kept_for_backward(loss_function, N=512, D=2):
    """Numbers that autograd keeps, in N×N matrices; with so small a D, features hardly count."""
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
        loss = loss_function(*torch.randn(2, N, D, requires_grad=True), 20.0)
    return sum(t.numel() for t in kept.values() if loss.requires_grad) / N**2


for name, way in (
    ("one-hot", minclip.clip_loss_onehot),
    ("arange", minclip.clip_loss),
    ("in chunks", lambda *batch: chunked_loss(*batch, 64)),
):
    print(f"{name:10} keeps {kept_for_backward(way):.2f} matrices")

# %% [markdown]
# *arange* keeps the logarithms of both softmaxes; what it holds beyond these two at its peak are gradients, of them and
# of the logits. *One-hot* keeps the identity matrix as well. And *in chunks* keeps the logits of every strip, which
# together are the matrix again. **Streaming the loss is half of the work; the gradient has to be streamed as well.**
# The fused loss does that: it computes every tile a second time instead of keeping it. Lesson 17 shows how.
#
# ## The plain answer
#
# Yes: a row's sum of exponentials needs two numbers that are corrected as the parts go by, and one sweep serves rows
# and columns alike. But autograd keeps what it needs, so the gradient has to be streamed as well (lesson 17).
#
# **What this lesson does not show.** Time: pieces that are too small make a loss slow, and computing the tiles twice
# costs one more product; lesson 17 counts it. Memory on a GPU: the curves should have the same slopes there, but what
# lies below them (caches of the allocator, the working memory of the libraries) differs. And for the whole training,
# the encoders usually need far more memory than the loss, until the batch is very large; lesson 14 deals with theirs.
#
# ## What you take away
#
# - A sum of exponentials can be streamed: keep the largest exponent and the sum measured from it, correct the sum
#   whenever the largest changes. Parts of any size are combined by the log-sum-exp of their log-sum-exps.
# - One sweep over strips or tiles serves the rows and the columns. Memory: O(N) for the sums, plus one tile.
# - Autograd keeps what it will need. A loss without the matrix needs a gradient without the matrix.
# - `VmHWM`, in a process of its own that gives freed memory back, is a peak that you can trust.
#
# **Harder, without a solution.**
#
# 1. Stream the mean and the variance of the numbers in one pass, in parts of any size, without losing digits.
# 2. `torch.utils.checkpoint` around a strip: how many matrices does autograd keep then, and how many products are
#    computed?
# 3. Which numbers of a row could be left out of the sum without changing the float32 result? When does that help?
#
# Stuck? `check.hint("chunked_loss")`, `from solutions.lesson_15 import chunked_loss`, or read
# [solutions/lesson_15.py](solutions/lesson_15.py).
