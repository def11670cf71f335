# %% [markdown] id="question"
# # 17 · The fused loss
#
# **The question.** The loss needs sums over the rows *and* the columns of the N×N matrix, and its gradient needs every
# element of it. How do both directions come out of one product, and how do the gradients come back without the matrix?
#
# **You need** lesson 15 (sums of exponentials in parts), lesson 16 (programs, tiles, masks) and the gradient from
# lesson 02: softmax of the rows + softmax of the columns − 2I, over 2N.
#
# **Afterwards you can** write CLIP's loss as two kernels of your own that pass the tests of this project, keep the
# digits of a loss of a millionth, explain why a probability must not be rounded before 1 is subtracted from it, and
# count what all this costs.
#
# **Place.** Part IV, *Large and fast*; after lesson 16. Two sittings, about 50 minutes each, exercises included: the
# loss, and after a resting point the gradient. Lesson 18 then asks what a GPU would do with it.
#
# The kernels run in Triton's interpreter on the CPU. Where Triton is not available (macOS, Windows), the cells that
# begin with `# needs Triton` say that they are skipped; all the steps are there in plain PyTorch, too.

# %%
import os

os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: it decides then

import csv
import math
import warnings
from pathlib import Path

import check
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.patches import Rectangle
from minclip_kernels import fused_clip_loss, reference
from minclip_kernels.testing import KINDS, count_products

import minclip

LN_2 = math.log(2)
BACKEND = "torch"  # of the fused loss where there is no Triton
generator = torch.Generator().manual_seed(0)
plt.style.use("lesson.mplstyle")
check.skip_cells_without_triton()
# %%
# needs Triton
import triton
import triton.language as tl
from solutions.lesson_16 import product_tile  # noqa: F401, the heart of product_kernel, from lesson 16

BACKEND = "triton"
warnings.filterwarnings("ignore", category=RuntimeWarning)  # the interpreter's, when an exponential is 0 or infinite

# %% [markdown] id="idea"
# ## The whole idea
#
# The loss makes two passes over the matrix, which is never in memory as a whole. Read the figure from 1 to 6. Each
# square is a tile of the N×N logits, pictures downwards and texts to the right; the strips beside the matrix are the
# features.

# %% jupyter={"source_hidden": true}
TILES, AT = 4, (1, 2)  # the tile that is being worked on: block of rows, block of columns


def strip(axes, corner, size, place, dark, label=""):
    """A vector or the features of a tower, in blocks; the block `place` is the one in use."""
    vertical = size[1] == TILES
    for k in range(TILES):
        x, y = (corner[0], k) if vertical else (k, corner[1])
        width, height = (size[0], 1) if vertical else (1, size[1])
        shade = dark if k == place else "white" if label == "empty" and k > place else "0.85"
        axes.add_patch(Rectangle((x, y), width, height, facecolor=shade, edgecolor="0.4", linewidth=0.7))


def matrix(axes, tile, past, hatch=""):
    """The tiles: the present one, those that were seen and forgotten, those that have never been."""
    for i in range(TILES):
        for j in range(TILES):
            here, before = (i, j) == AT, i * TILES + j < AT[0] * TILES + AT[1]
            shade = tile if here else "0.93" if before or past else "white"
            look = {"hatch": hatch} if here else {}
            axes.add_patch(Rectangle((j, i), 1, 1, facecolor=shade, edgecolor="0.7", linewidth=0.7, **look))


def arrow(axes, start, end):
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "tab:red", "linewidth": 2.2})


figure, all_axes = plt.subplots(2, 3, figsize=(9.5, 6.9))
row, column = AT[0] + 0.5, AT[1] + 0.5
words = ["1  a product makes a tile", "2  sums: right and down", "3  the tile is forgotten"]
words += ["4  the same product, again", "5  two vectors turn it into G", "6  two products, forgotten"]
for number, (axes, title) in enumerate(zip(all_axes.flat, words, strict=True), 1):
    second = number > 3
    tile = {3: "0.93", 5: "0.6", 6: "0.6"}.get(number, "0.3")
    matrix(axes, tile, past=second, hatch="////" if number > 4 else "")
    strip(axes, (-0.8, 0), (0.6, TILES), AT[0], "0.3" if number in (1, 4, 6) else "0.85")  # x
    strip(axes, (0, -0.8), (TILES, 0.6), AT[1], "0.3" if number in (1, 4, 6) else "0.85")  # y
    vector = "0.3" if number in (2, 5) else "0.85"
    strip(axes, (4.25, 0), (0.3, TILES), AT[0], vector, "" if second else "empty")
    strip(axes, (0, 4.25), (TILES, 0.3), AT[1], vector)
    axes.text(-0.5, -0.5, "x, y", ha="center", va="center", fontsize=9)
    if number in (1, 4):
        arrow(axes, (-0.2, row), (AT[1] + 0.1, row))
        arrow(axes, (column, -0.2), (column, AT[0] + 0.1))
    if number == 2:
        arrow(axes, (AT[1] + 0.8, row), (4.25, row))
        arrow(axes, (column, AT[0] + 0.8), (column, 4.25))
    if number == 5:
        arrow(axes, (4.25, row), (AT[1] + 0.9, row))
        arrow(axes, (column, 4.25), (column, AT[0] + 0.9))
    if number == 6:
        strip(axes, (-1.7, 0), (0.6, TILES), AT[0], "tab:red")
        strip(axes, (0, -1.7), (TILES, 0.6), AT[1], "tab:red")
        arrow(axes, (AT[1] + 0.1, row), (-1.1, row))
        arrow(axes, (column, AT[0] + 0.1), (column, -1.1))
        axes.text(0.9, row - 0.15, "G y", ha="center", va="bottom", fontsize=10)
        axes.text(column + 0.15, 0.6, "Gᵀx", fontsize=10)
        axes.text(-1.4, 4.3, "gradient\nfor x", ha="center", va="top", fontsize=8)
        axes.text(4.1, -1.4, "for y", va="center", fontsize=8)
    axes.set(title=title, xlim=(-2, 5), ylim=(5, -2), aspect="equal")
    axes.set_axis_off()
    axes.text(4.4, 4.4, "LSE" if number in (2, 5) else "", fontsize=9, va="center")
all_axes[0, 0].text(-1.9, 2, "first pass", rotation=90, va="center", fontsize=11)
all_axes[1, 0].text(-1.9, 2, "second pass", rotation=90, va="center", fontsize=11)
print("dark: in use; light grey: seen, or kept from before; hatched: the tile of G; red: the gradients")

# %% [markdown] id="one-product"
# All that is kept between the passes is two vectors of N numbers. The rest of the lesson explains why that is enough,
# and how not to lose digits on the way. First, one guess. The loss of a pair that is 17 ahead of the log-sum-exp of all
# other logits is about $4 \cdot 10^{-8}$. How does it come out in float32 if it is computed as log-sum-exp minus logit,
# as in most code?

# %%
check.predict("a loss of 4e-8", None, options=("with 5 digits", "with 1 digit", "as 0"))

# %% [markdown] id="both-directions"
# # First sitting: the loss
#
# ## One product, both directions
#
# Take a tile of the logits, some pictures with some texts. What does the loss need from it? A log-sum-exp for each of
# its rows, and another one for each of its columns. These few numbers are all that is needed, and the tile can be
# forgotten. Below is a matrix in four tiles; what is kept of each tile is put together as in lesson 15. Tile (i, j)
# writes the parts of its rows to line j of `row_parts`, and those of its columns to line i of `column_parts`.

# %%
N, HALF = 6, 3
logits = 5 * torch.randn(N, N, generator=generator)  # (N, N), to compare with
row_parts, column_parts = torch.empty(2, N), torch.empty(2, N)
for i in range(2):
    for j in range(2):
        rows, columns = slice(HALF * i, HALF * (i + 1)), slice(HALF * j, HALF * (j + 1))
        tile = logits[rows, columns]  # in a kernel: made here, never stored
        row_parts[j, rows] = tile.logsumexp(dim=1)
        column_parts[i, columns] = tile.logsumexp(dim=0)
print("rows:   ", row_parts.logsumexp(dim=0).allclose(logits.logsumexp(dim=1)))
print("columns:", column_parts.logsumexp(dim=0).allclose(logits.logsumexp(dim=0)))

# %% [markdown] id="what-follows-product"
# The work that follows the product in a kernel, on the tile that is still in registers, is called its **epilogue**.
# This one turns a tile of BLOCK×BLOCK numbers into 2·BLOCK.
#
# ## A loss of a millionth
#
# With sums over whole rows, the loss of picture i is $\mathrm{LSE}_j z_{ij} - z_{ii}$. Late in training, most pairs are
# far ahead of all others; then both terms are nearly equal, and about the size of the logit scale. Just below 100, one
# float32 is $2^{-17}$ from the next, about a hundred-thousandth. A loss much smaller than that disappears.
#
# The remedy is never to let the pair into the sum. Let $o_i$ be the log-sum-exp over the **others** in row i. Then
#
# $$\mathrm{LSE}_j z_{ij} - z_{ii} = \ln\left(e^{o_i} + e^{z_{ii}}\right) - z_{ii}
# = \ln\left(1 + e^{o_i - z_{ii}}\right).$$
#
# In words: the loss depends only on how far the pair is ahead of the others. Nothing large is subtracted from
# something large any more; when the pair is far ahead, the loss is about $e^{o_i - z_{ii}}$ and has all its digits.
#
# **Exercise 1.** Write it. Every loss must be right in its first five digits, whether it is $10^{-30}$ or 100. As it
# stands, the formula overflows for a pair that is far behind, and gives 0 for one that is far ahead. Which PyTorch
# function does neither?


# %%
def loss_from_others(others, pairs):
    """log-sum-exp over the other logits of a row (N,), the pairs' own logits (N,) -> the loss of each row (N,)."""
    raise NotImplementedError


# %%
loss_from_others = check.loss_from_others(loss_from_others)

# %%
others = torch.full((4,), 80.0)
pairs = others + torch.tensor([0.0, 5.0, 11.0, 17.0])
print("  ahead    float64         from the others   LSE − logit")
for o, z in zip(others, pairs, strict=True):
    true = torch.log1p((o - z).double().exp())
    kept, usual = loss_from_others(o[None], z[None]).item(), (torch.logaddexp(o, z) - z).item()
    print(f"{z - o:7.0f}    {true.item():.6e}    {kept:.6e}      {usual:.6e}")
right = abs(usual / true.item() - 1)  # of the last pair
check.reveal("a loss of 4e-8", "as 0" if usual == 0 else "with 5 digits" if right < 1e-5 else "with 1 digit")

# %% [markdown] id="function-ln-e"
# The function $\ln(1 + e^t)$ is called **softplus**.
#
# ## The first kernel
#
# So the epilogue leaves the diagonal out: where row number and column number are equal, the logit becomes $-\infty$, as
# it does beyond the edges, and $e^{-\infty} = 0$ adds nothing. One thing can go wrong: in a tile at the corner,
# *nothing* may be left of a row. The row's maximum is then $-\infty$, and $-\infty - (-\infty)$ is not a number.

# %%
nothing = torch.full((2,), -torch.inf)
largest = nothing.max()
print("taken off carelessly:", (nothing - largest).exp2().sum().log2().item())
largest = torch.where(largest == -torch.inf, 0.0, largest)
print("with 0 in its place: ", (nothing - largest).exp2().sum().log2().item())

# %% [markdown] id="another-detail-gpu"
# Another detail: a GPU has an instruction for $2^x$ but none for $e^x$. As $e^z = 2^{z / \ln 2}$, we divide the scale
# by $\ln 2$ once, and then use `tl.exp2` and `tl.log2` everywhere. All the log-sum-exps are then "in units of $\ln
# 2$".
#
# **Exercise 2.** Write the first kernel. The product is given: it is the loop of lesson 16 as a function, which another
# `@triton.jit` function may call. `product_tile(x, y, rows, columns, N, N, D, BLOCK_D)` returns the tile `x[rows] @
# y[columns].T`. The two arguments N say where the rows of x and those of y end; beyond them the tile is zero. You write
# the epilogue: scale, mask, and one log-sum-exp for each row and each column of the tile. Program (i, j) has rows `i *
# BLOCK …` and columns `j * BLOCK …`; it writes to line j of `row_lse` and line i of `column_lse`, so that no two
# programs write to the same place. Useful: `-float("inf")`; `tl.where`; `tl.max(tile, axis)` and `tl.sum(tile, axis)`,
# which drop the axis (`[:, None]` or `[None, :]` puts it back).

# %%
# needs Triton


@triton.jit
def sums_kernel(x, y, row_lse, column_lse, scale, N, D, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):
    """x, y (N, D) -> row_lse, column_lse (blocks, N): log2 Σ 2^(scale · x·y) over the rows and columns of each tile,

    without the pairs (row = column); -inf where nothing is left. Grid: (blocks, blocks), blocks = cdiv(N, BLOCK).
    """
    raise NotImplementedError


# %%
# needs Triton
sums_kernel = check.sums_kernel(sums_kernel)

# %% [markdown] id="rest-forward-pass"
# The rest of the forward pass is a few lines of PyTorch on vectors: put the parts together, and use exercise 1.

# %%
# needs Triton
BLOCK = 16


def sums_over_others(x, y, scale):
    """x, y (N, D) of length one, float32 -> log2 Σ 2^logit over the others, by row and by column, (2, N)."""
    blocks = triton.cdiv(len(x), BLOCK)
    parts = torch.empty(2, blocks, len(x))
    sums_kernel[blocks, blocks](x, y, parts[0], parts[1], scale / LN_2, *x.shape, BLOCK=BLOCK, BLOCK_D=BLOCK)
    return (parts * LN_2).logsumexp(dim=1) / LN_2  # (2, N)


x, y = F.normalize(torch.randn(2, 40, 24, generator=generator), dim=2)  # (N, D) each
others = sums_over_others(x, y, 20.0) * LN_2  # (2, N)
pairs = 20.0 * (x * y).sum(dim=1)  # (N,)
print(f"from the kernel: {loss_from_others(others, pairs.expand(2, -1)).mean():.6f}")
print(f"minclip:         {minclip.clip_loss(x, y, 20.0):.6f}")

# %% [markdown] id="rest"
# ## A resting point
#
# You have CLIP's loss without its matrix: one product for each tile, two vectors for the whole. If the two verdicts
# above are ✓, this half is done and kept in `lessons/mine/`. When you come back, run everything above this cell once
# (in JupyterLab: *Run*, *Run All Above Selected Cell*).
#
# # Second sitting: the gradient
#
# Make a guess before it begins. The unit is N²D operations: a product of two N×D matrices into N×N costs 2. The plain
# loss with one product and its transpose, forward and backward, costs 6 and keeps the matrix. What does the loss in the
# figure cost, which keeps nothing but two vectors?

# %%
check.predict("cost without the matrix, in N²D", None)

# %% [markdown] id="where-not-to-round"
# ## The gradient, and where not to round
#
# Lesson 02: with $P^\mathrm{row}$ and $P^\mathrm{col}$ the softmax over the rows and over the columns,
#
# $$G = P^\mathrm{row} + P^\mathrm{col} - 2I, \qquad \frac{\partial L}{\partial z} = \frac{G}{2N}.$$
#
# A probability of a row is $p_{ij} = e^{z_{ij} - \mathrm{LSE}_i}$: it takes one logit and one number of the row. So
# once the log-sum-exps are known, **any tile of G can be made from that tile of the logits alone**. That is why the
# matrix does not have to be kept: the second pass multiplies the features once more, and has G at hand, tile by tile.
#
# The diagonal holds $p_{ii} - 1$, which is small when the pair is well aligned: another difference of two nearly equal
# numbers. With the sums over the others no subtraction is left (divide numerator and denominator by $e^{o_i}$):
#
# $$p_{ii} - 1 = -\frac{e^{o_i}}{e^{o_i} + e^{z_{ii}}} = -\frac{1}{1 + e^{z_{ii} - o_i}} = -\sigma(o_i - z_{ii})
# \quad\text{with}\quad \sigma(t) = \frac{1}{1 + e^{-t}}.$$
#
# In words: the pull on a pair is the share that the others have. G has both directions on its diagonal, one such term
# for the others in the row and one for those in the column. Why this matters is easiest to see in 16 bits, the format
# in which a GPU takes the factors of its products. Round the probabilities first and then subtract 1, or vice versa:
# the figure shows the error of the result, and each point is the worst of 201 values of p close to it.

# %%
centers = torch.logspace(-0.3, -4, 38, dtype=torch.float64)  # 1 - p
missing = centers[:, None] * torch.linspace(0.88, 1.12, 201, dtype=torch.float64)  # (38, 201), the neighbours of each
figure, axes = plt.subplots(figsize=(7, 3.6))
looks = {torch.bfloat16: ("tab:orange", "o"), torch.float16: ("tab:blue", "s")}
for dtype, (colour, marker) in looks.items():
    name = str(dtype).removeprefix("torch.")
    first = (1 - missing).to(dtype).double() - 1
    last = (-missing).to(dtype).double()
    for result, line, words in ((first, "-", "rounded, then 1 taken off"), (last, ":", "1 taken off, then rounded")):
        error = ((result + missing) / missing).abs().amax(dim=1)  # (38,), the largest nearby
        axes.loglog(centers, error, line, color=colour, marker=marker, markevery=4, label=f"{name}: {words}")
axes.axhline(1, color="black", linewidth=0.8)
axes.invert_xaxis()
axes.set(xlabel="1 − p of the pair  (well aligned: to the right)", ylabel="largest relative error of p − 1")
axes.set_ylim(3e-5, 200)
axes.legend(fontsize=8, loc="upper left", ncols=2)
p = torch.tensor(0.987, dtype=torch.float64)
print(f"p = 0.987: bfloat16 makes p − 1 = {(p.bfloat16() - 1).item():.5f} instead of {p - 1:.5f}")

# %% [markdown] id="at-black-line"
# At the black line the error equals the number itself: p was rounded to 1, and the pair no longer feels any pull. The
# dotted lines do not rise. **Subtract first, in float32, and round last.** (Towards the left, where p is near one half,
# the two orders are about equally good.)
#
# ## The second kernel
#
# It writes rows of G, as many as we want to have in memory at once, for the two products that make the gradients for
# features of length one:
#
# $$\frac{\partial L}{\partial x_i} = \frac{s}{2N} \sum_j G_{ij}\, y_j, \qquad
# \frac{\partial L}{\partial y_j} = \frac{s}{2N} \sum_i G_{ij}\, x_i.$$
#
# And the scale s? As $z_{ij} = s \cos_{ij}$, its gradient is $\sum_{ij} G_{ij} \cos_{ij} / 2N$. Both factors are in the
# registers of the kernel when it makes its tile, so this is just one more sum, **for free**.
#
# **Exercise 3.** Write it. The rows of this launch are `first … last − 1`; `out` and `moments` belong to them alone.
# `row_lse` and `column_lse` are the log-sum-exps over *everything*, pairs included, in units of $\ln 2$, and `pair`
# holds the diagonal of G; all three have N elements. Which column is the pair of row `first`? Which elements of the
# tile must not count in the moment? Useful: `tl.num_programs(1)`, the number of column blocks; `tl.sum(tile)` without
# an axis, a single number, which `tl.store(moments + place, number)` writes.

# %%
# needs Triton


@triton.jit
def coefficients_kernel(
    x, y, row_lse, column_lse, pair, out, moments, scale, first, last, N, D, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr
):
    """out (last − first, N) = 2^(z − row_lse) + 2^(z − column_lse), `pair` on the diagonal, with z = scale · x·y;

    moments (programs,): Σ out · x·y over the tile of program (i, j), at place i * number of column blocks + j.
    Grid: (cdiv(last − first, BLOCK), cdiv(N, BLOCK)).
    """
    raise NotImplementedError


# %%
# needs Triton
coefficients_kernel = check.coefficients_kernel(coefficients_kernel)

# %% [markdown] id="put-together"
# ## Put together
#
# `torch.autograd.Function` is how we give PyTorch a loss whose gradient we compute ourselves. The forward pass is what
# you have seen. The backward pass goes over the rows in chunks: each takes a launch and two products, and the next one
# uses its memory again. Follow the shapes: nothing is N×N. Normalising is left to PyTorch, which knows its derivative.

# %%
# needs Triton


class OwnLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, scale):
        others = sums_over_others(x, y, scale.item())  # (2, N)
        pairs = (x * y).sum(dim=1) * scale / LN_2  # (N,)
        ahead = (others - pairs) * LN_2  # (2, N)
        everything = torch.logaddexp2(others, pairs.expand(2, -1))  # (2, N)
        ctx.save_for_backward(x, y, scale, everything, -torch.sigmoid(ahead).sum(dim=0))
        return loss_from_others(others * LN_2, (pairs * LN_2).expand(2, -1)).mean()

    @staticmethod
    def backward(ctx, loss_gradient, chunk=32):
        x, y, scale, (row_lse, column_lse), pair = ctx.saved_tensors
        N, D = x.shape
        x_gradient, y_gradient, scale_gradient = torch.empty_like(x), torch.zeros_like(y), torch.zeros(())
        memory = torch.empty(min(chunk, N), N)
        for first in range(0, N, chunk):
            last = min(first + chunk, N)
            grid = triton.cdiv(last - first, BLOCK), triton.cdiv(N, BLOCK)
            G, moments = memory[: last - first], torch.empty(grid)  # (chunk, N)
            numbers = scale.item() / LN_2, first, last, N, D
            coefficients_kernel[grid](x, y, row_lse, column_lse, pair, G, moments, *numbers, BLOCK=BLOCK, BLOCK_D=BLOCK)
            x_gradient[first:last] = G @ y  # (chunk, D)
            y_gradient += G.T @ x[first:last]  # (N, D)
            scale_gradient += moments.sum()
        factor = loss_gradient / (2 * N)
        return factor * scale * x_gradient, factor * scale * y_gradient, factor * scale_gradient


def own_clip_loss(image_features, text_features, logit_scale, normalize=True):
    x, y = image_features.float(), text_features.float()
    if normalize:
        x, y = F.normalize(x, dim=1), F.normalize(y, dim=1)
    return OwnLoss.apply(x.contiguous(), y.contiguous(), torch.as_tensor(logit_scale).float())


# %%
# needs Triton
image_features, text_features = torch.randn(2, 40, 24, generator=generator)  # (N, D) each
results = {}
for name, loss_function in (("the kernels", own_clip_loss), ("minclip.clip_loss", minclip.clip_loss)):
    inputs = [t.clone().requires_grad_() for t in (image_features, text_features, torch.tensor(20.0))]
    loss = loss_function(*inputs)
    results[name] = loss.detach(), *torch.autograd.grad(loss, inputs)
for what, mine, theirs in zip(("loss", "for pictures", "for texts", "for the scale"), *results.values(), strict=True):
    print(f"{what:14} largest difference {(mine - theirs).abs().max():.0e}, largest value {theirs.abs().max():.0e}")

# %% [markdown] id="tests-project-on"
# ## The tests of the project, on your kernels
#
# Ordinary features are the easy case. The project's tests use `minclip_kernels.testing`, which compares a loss and all
# its gradients with formulas in float64, on features that are nearly parallel, in opposite cones, duplicated, perfectly
# aligned, both at once, aligned up to a loss of a millionth, or zero; of lengths between $10^{-4}$ and $10^4$; in any
# shape; at the highest scale. The tolerance is stated for each dtype: in float32, it is one ten-thousandth of each row,
# plus the rounding of what cancels in it. It can judge any loss, and here it judges yours. (Where an exercise is not
# solved yet, our solution is compared.)

# %%
# needs Triton
shapes = check.pick([(1, 3), (16, 16), (17, 5), (33, 40), (40, 33)], [(17, 20)])
cases = [
    {"kind": kind, "count": N, "width": D, "spread": spread, "scale": scale}
    for kind in check.pick(KINDS, ["cones", "tiny_loss"])
    for N, D in shapes
    for scale, spread in ((1.0, 0.0), (100.0, 4.0))
]
for dtype in (torch.bfloat16, torch.float16):
    cases.append({"kind": "random", "count": 33, "width": 20, "spread": 1.0, "dtype": dtype, "scale": 20.0})
for seed, case in enumerate(cases):
    case["seed"] = seed
yours = all(f.__module__ == "__main__" for f in (loss_from_others, sums_kernel.fn, coefficients_kernel.fn))
check.lesson_17.project_tests(
    own_clip_loss, "your kernels" if yours else "the kernels, not all of them yours yet", cases
)

# %% [markdown] id="the-project"
# The verdict is one line: ✔, or ✘ with the first case that fails and by how much.
#
# ## Reading the project's kernels
#
# `log_sum_exp_kernel` and `coefficients_kernel` in `kernels/minclip_kernels/kernels_triton.py` are your two kernels,
# plus what makes them fast on a GPU and correct for features of any length:
#
# - **Features in 16 bits go into the product as they are.** `prepare_kernel` only multiplies each row by a power of
#   two, which rounds nothing, and pads everything to whole tiles; the float32 result is then multiplied by the inverse
#   lengths. `finish_kernel` turns the gradients into those of the raw features, which you left to PyTorch.
# - **One exponential for each logit and pass.** You take two, one measured from the row's maximum and one from the
#   column's. The project's kernel measures every logit from the largest one of the *tile*; row sums and column sums
#   leave the kernel as they are, and `combine_kernel` takes logarithms when it adds the tiles up. Where a row is so far
#   below the tile's maximum that its sum would lose digits, the tile is computed again by `exact_log_sum_exp_kernel`,
#   which is the one that you wrote. In the second pass both exponentials become one by subtracting a number $m$ that is
#   the same for all, $2^{z - m} \cdot (2^{m - \mathrm{LSE}_i} + 2^{m - \mathrm{LSE}_j})$, as the next cell shows.
# - **G is written in 16 bits**, one square chunk of the matrix at a time, for the vendor's products; the programs run
#   in an order that is good for the cache (lesson 18).
# - **Between the passes** (`between_passes` in `clip_loss.py`) come exercise 1 and the $-\sigma$ of the pairs. Both
#   passes run when the loss is computed, the second only if a gradient will be wanted; the gradients wait for
#   `backward()`.
# - For the gradient of the scale, the mean cosine of the pairs is subtracted from every cosine. The result changes only
#   by rounding, because the elements of G sum to zero: each row of $P^\mathrm{row}$ sums to 1, which makes N in all; so
#   does each column of $P^\mathrm{col}$; and the diagonal subtracts 2N.

# %%
z = 5 * torch.randn(4, 4, generator=generator, dtype=torch.float64)  # logits of a tile, in units of ln 2
row_lse, column_lse = (z * LN_2).logsumexp(dim=1) / LN_2, (z * LN_2).logsumexp(dim=0) / LN_2
m = (torch.cat([row_lse, column_lse]).min() + torch.cat([row_lse, column_lse]).max()) / 2
two = (z - row_lse[:, None]).exp2() + (z - column_lse).exp2()
one = (z - m).exp2() * ((m - row_lse).exp2()[:, None] + (m - column_lse).exp2())
print(f"one exponential for each logit instead of two: largest difference {(one - two).abs().max():.0e}")
of_logits = reference.gradients(*torch.randn(2, 40, 24, generator=generator), 20.0).logits  # (N, N), G / 2N
print(f"all of the gradient for the logits sums to {of_logits.sum():.0e}")

# %% [markdown] id="error-by-dtype"
# ## The error, by dtype
#
# The next figure compares the plain formula and the project's fused loss, here with its Triton kernels in the
# interpreter (without Triton, its version in PyTorch), with float64 on exactly the same, already rounded features. From
# left to right the pairs are better and better aligned. (The loss is multiplied by 4096 before its gradient is taken,
# as is usual with float16, which has no number between zero and $6 \cdot 10^{-8}$.)

# %%
common, own, noise = (F.normalize(torch.randn(n, 64, generator=generator), dim=1) for n in (1, 64, 64))
image_features = 2 * common + own  # (N, D), in a cone, as CLIP's features are (lesson 10)
GROWN, scale, levels = 4096, 100.0, torch.linspace(4, 0.25, check.pick(14, 5)).tolist()
losses = []
errors = {(name, dtype): [] for dtype in (torch.bfloat16, torch.float16, torch.float32) for name in ("plain", "fused")}
for level in levels:
    for (name, dtype), row in errors.items():
        image = image_features.to(dtype, copy=True).requires_grad_()  # (N, D)
        text = (image_features + level * noise).to(dtype)  # (N, D)
        if name == "plain":
            loss = minclip.clip_loss(image, text, scale)
        else:
            loss = fused_clip_loss(image, text, scale, backend=BACKEND)
        (gradient,) = torch.autograd.grad(GROWN * loss, image)
        exact = image.detach().double().requires_grad_()
        (wanted,) = torch.autograd.grad(reference.clip_loss(exact, text, scale), exact)
        row.append(((gradient.double() / GROWN - wanted).norm() / wanted.norm()).item())
    losses.append(reference.clip_loss(image_features, image_features + level * noise, scale).item())

figure, axes = plt.subplots(figsize=(7, 4))
colours = {torch.bfloat16: ("tab:orange", "o"), torch.float16: ("tab:blue", "s"), torch.float32: ("black", "^")}
for (name, dtype), row in errors.items():
    colour, marker = colours[dtype]
    label = f"{name}, {str(dtype).removeprefix('torch.')}"
    look = {"linestyle": "-"} if name == "fused" else {"linestyle": "--", "markerfacecolor": "white"}
    axes.loglog(losses, row, color=colour, marker=marker, label=label, **look)
axes.invert_xaxis()
axes.set(xlabel="the loss in float64  (well aligned: to the right)", ylabel="relative error of the gradient")
axes.set_title(f"N = 64, scale {scale:.0f}, fused: {BACKEND}")
axes.legend(fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
print(f"at the smallest loss, {losses[-1]:.0e}:")
for (name, dtype), row in errors.items():
    print(f"  {name} {dtype}: {row[-1]:.0e}  (rounding a number costs up to {torch.finfo(dtype).eps / 2:.0e})")

# %% [markdown] id="three-pairs-lines"
# The figure has three pairs of lines. In 16 bits the plain formula is far off: normalised features, logits up to the
# scale of 100, and the results of the softmax are all rounded to 16 bits. (The figure does not say which of them
# matters most.) The fused loss computes in float32 everything that it does not store. Only the elements of G, for the
# two products, and the finished gradient are in 16 bits, so the error stays at the level of one such rounding. In
# float32 the plain formula is good until the loss gets small; there $-\sigma(o - z)$ instead of $p - 1$ makes the
# difference. (For the value of the loss, exercise 1 does.)
#
# ## What does it cost?
#
# A product of two N×D matrices into N×N takes $2N^2D$ floating-point operations: a multiplication and an addition for
# each element and feature. The gradients of a product cost two more such products. So let us count the products that
# really run, forward and backward (for the fused loss, in its PyTorch version: torch does not see into kernels). *Two
# products* is how [open_clip's loss](https://github.com/mlfoundations/open_clip/blob/main/src/open_clip/loss.py) works:
# one product makes the logits of the pictures, and a second one makes those of the texts. *minclip* transposes the
# first. With `memory=0` the fused loss keeps no tile.


# %%
def two_products(image_features, text_features, logit_scale):
    image, text = F.normalize(image_features, dim=1), F.normalize(text_features, dim=1)
    labels = torch.arange(len(image))
    per_image, per_text = logit_scale * image @ text.T, logit_scale * text @ image.T  # (N, N) twice
    return (F.cross_entropy(per_image, labels) + F.cross_entropy(per_text, labels)) / 2


def count_operations(loss_function, N, D):
    """Operations of all matrix products, forward and backward, in units of N²D."""
    inputs = [torch.randn(N, D, requires_grad=True) for _ in range(2)] + [torch.tensor(20.0, requires_grad=True)]
    with count_products() as products:
        loss_function(*inputs).backward()
    return products.get_total_flops() / (N * N * D)


ways = {  # and the memory of each
    "plain, two products": (two_products, "N²"),
    "plain, one product": (minclip.clip_loss, "N²"),
    "fused, nothing kept": (lambda *inputs: fused_clip_loss(*inputs, backend="torch", memory=0), "O(N)"),
    "fused, small batch": (lambda *inputs: fused_clip_loss(*inputs, backend="torch"), "up to 128 MiB"),
}
operations = {name: count_operations(way, 400, 32) for name, (way, _) in ways.items()}
for name, number in operations.items():
    print(f"{name:20} {number:5.1f} N²D")
check.reveal("cost without the matrix, in N²D", operations["fused, nothing kept"], within=0.5)

# %% jupyter={"source_hidden": true}
figure, axes = plt.subplots(figsize=(7, 2.8))
colours = ["0.75", "0.75", "tab:blue", "tab:blue"]
bars = axes.barh(list(operations), list(operations.values()), color=colours, edgecolor="black")
axes.bar_label(bars, [f"{operations[name]:.0f} N²D, memory {memory}" for name, (_, memory) in ways.items()], padding=4)
axes.set(xlabel="floating-point operations of all products / (N²D)", xlim=(0, 17))
axes.invert_yaxis()

# %% [markdown] id="price"
# Without the matrix it takes four products this way: one for the sums, one to make the tiles again (no element of G is
# known before a whole pass has been made over its column), and two for the gradients: $4 \cdot 2N^2D$. With the matrix,
# three are enough: the fourth product is the price of the memory saved. On a CPU the project's loss therefore keeps the
# exponentials of as many tiles as fit into 128 MiB (or into as much as the features take, if that is more), and makes
# only the others again. On a GPU it keeps none. The effect was measured on a CPU, and the results are stored beside the
# kernels. (*bare products, 4* are the four products and nothing else.)

# %%
with Path("../kernels/results/cpu-loss.csv").open(newline="") as file:
    rows = [row for row in csv.DictReader(file) if row["loss"] == "clip" and row["D"] == "512"]
contenders = ["bare products, 4", "fused, torch", "arange, torch.compile", "arange"]
print("loss and gradients, D = 512, float32, milliseconds")
print("     N  " + "  ".join(f"{name:>21}" for name in contenders))
for N in ("256", "1024", "4096", "16384"):
    times = {row["contender"]: float(row["both_ms"]) for row in rows if row["N"] == N and row["both_ms"]}
    print(f"{int(N):6,}  " + "  ".join(f"{times[name]:21.4g}" for name in contenders))
print(f"({rows[0]['device']}, {rows[0]['threads']} threads, {rows[0]['date']})")

# %% [markdown] id="answer"
# For the smallest of these batches the compiled plain loss is faster; from 1,024 on, the fused loss is, and the larger
# the matrix, the further it is ahead.
#
# ## The answer
#
# One product makes a tile, and its epilogue sends one log-sum-exp for each row to the right and one for each column
# downwards; that is both directions. A second pass makes each tile again, and the two vectors turn it into its part of
# G, from which two products make the gradients; then the tile is forgotten for good.
#
# ## What this lesson does not show
#
# Time on a GPU: lesson 18 is about that. Counting operations says what must be done, not how fast it is, and the
# interpreter shows that the kernels are right, not that they are fast; it also adds in a different order from a GPU.
# Nor does it show the loss over several GPUs (lesson 19).
#
# ## What you take away
#
# - One product serves both directions: its epilogue turns each tile into one log-sum-exp for each row and column.
# - Leave the pair out of its own sum: the loss is softplus(others − pair) and keeps its digits, and the pull on the
#   pair is −σ(others − pair), without subtracting 1 from a number near 1.
# - Subtract first, round last.
# - The second pass makes each tile of G again, from the logits and two vectors; two products make the gradients, and
#   the gradient of the scale is one more sum.
# - 8 N²D operations and O(N) memory: between the 6 of the loss with one stored matrix and the 12 of the loss as it is
#   often written.
#
# ## Harder, without a solution
#
# - Write the first kernel with *one* exponential for each logit, measured from the tile's largest logit. For which
#   features does it lose digits, and how would the kernel notice?
# - SigLIP's loss needs no sum over the others. Write it, and its gradient, in *one* pass, and let `project_tests` judge
#   it (`assert_equals_reference` takes a `logit_bias`).
# - Let captions repeat: pairs with equal ids are not negatives of each other. Where do both kernels need the ids?
#
# Stuck? `check.hint("sums_kernel")`, or read [solutions/lesson_17.py](solutions/lesson_17.py).
