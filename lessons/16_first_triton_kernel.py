# %% [markdown] id="question"
# # 16 · A first Triton kernel
#
# **The question.** A GPU runs thousands of copies of the same small program at once. What is such a *program*, what
# is a *tile*, and why does everything that touches memory carry a *mask*?
#
# **You need** a little NumPy or PyTorch indexing, and the log-sum-exp of lesson 15. You do not need a GPU: the kernels
# of this lesson run on the CPU, in Triton's interpreter, which executes them with NumPy, one program after another.
# That is slow, but it makes everything visible.
#
# **Afterwards you can** read and write a kernel in Triton, say which program touches which element, cut matrices of any
# size into tiles, and find out when a kernel reads memory that does not belong to it.
#
# **Place.** Part IV, *Large and fast*; after lesson 15. About 75 minutes, exercises included: eight small puzzles,
# each a few lines long. Lesson 17 builds CLIP's loss from the last ones.
#
# **Where Triton is not available** (macOS, Windows), the cells that begin with `# needs Triton` say that they are
# skipped, and the rest of the lesson goes on; the notebook as shipped contains all of their outputs.

# %%
import os

os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: it decides then

import check
import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Rectangle

generator = torch.Generator().manual_seed(0)
plt.style.use("lesson.mplstyle")
check.skip_cells_without_triton()
# %%
# needs Triton
import triton
import triton.language as tl

# %% [markdown] id="program-run-many"
# ## A program, run many times
#
# [Triton](https://triton-lang.org) is a language for GPU kernels inside Python ([Tillet, Kung and Cox
# 2019](https://doi.org/10.1145/3315508.3329973)). A *kernel* is a function under `@triton.jit`. One launch runs it
# many times; each run is called a **program**, and all that distinguishes the programs is a number,
# `tl.program_id(0)`. Each program works on a **tile**, a block of elements, all at once.
#
# A kernel does not see tensors. Where we pass one, it receives a *pointer*: the address of the first element. Adding a
# tile of whole numbers to it makes a tile of addresses, which `tl.load` reads and `tl.store` writes.

# %%
# needs Triton


@triton.jit
def double_kernel(x, out, BLOCK: tl.constexpr):
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    values = tl.load(x + places)  # (BLOCK,)
    tl.store(out + places, 2 * values)


x, out = torch.arange(12.0), torch.empty(12)
double_kernel[(3,)](x, out, BLOCK=4)  # three programs with four elements each
print(out.tolist())

# %% [markdown] id="grid-how-many"
# `[(3,)]` is the *grid*: how many programs there are. `BLOCK` is a `tl.constexpr`, a number that is fixed when the
# kernel is compiled; the sizes of a tile must be known at that time, and must be powers of two.
#
# On a GPU the programs run at the same time and in any order. So no program may rely on what another one has done: what
# it does may depend on its number and on the inputs, never on what another program has written.
#
# ## Ten is not a multiple of four
#
# Now take ten elements. Three programs are still needed, and the last one reaches for elements 10 and 11, which do not
# exist. What does it find there? To see that, we put our ten elements in the middle of memory that is full of NaN, "not
# a number". `check.fenced` makes such a copy.

# %%
# needs Triton
x, out = check.fenced(torch.arange(10.0)), torch.empty(12)
double_kernel[(3,)](x, out, BLOCK=4)
print(out.tolist())

# %% [markdown] id="program-took-whatever"
# The program took whatever lay behind the tensor. Without the fence this would be some other data; on a GPU, such a
# read may also end the whole process with an *illegal memory access*, which is reported later and somewhere else.
# Writing there is worse: it changes the other data.
#
# In the interpreter every address can be checked before it is used. `check.launch` does so, and stops at the first one
# that is wrong; it also judges your kernels below. (For kernels on a GPU, NVIDIA has a tool with the same purpose,
# `compute-sanitizer`.)

# %%
# needs Triton
x, out = check.fenced(torch.arange(10.0)), check.fenced(torch.empty(10))
try:
    check.launch(double_kernel, (3,), x, out, BLOCK=4)
except check.Wrong as wrong:
    print(wrong)

# %% [markdown] id="mask"
# ## The mask
#
# The remedy is a **mask**: a tile of yes-or-no values with the same shape as the tile of addresses. Where it says no, a
# load reads nothing and returns the value `other`, and a store writes nothing. Always give `other`: without it the
# interpreter fills in a zero, but Triton does not guarantee that, so `check.launch` refuses the load.

# %%
# needs Triton


@triton.jit
def masked_double_kernel(x, out, N, BLOCK: tl.constexpr):
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    values = tl.load(x + places, mask=places < N, other=0.0)  # (BLOCK,)
    tl.store(out + places, 2 * values, mask=places < N)


check.launch(masked_double_kernel, (triton.cdiv(10, 4),), x, out, 10, BLOCK=4)
print(out.tolist())

# %% [markdown] id="triton-cdiv-rounded"
# `triton.cdiv(10, 4)` is 10/4 rounded up: enough programs to cover everything, the last one partly idle.
#
# **Puzzle 1: a sum.** The check tries *ragged* sizes, which are not multiples of the tile size, and watches every
# address.

# %%
# needs Triton


@triton.jit
def add_kernel(x, y, out, N, BLOCK: tl.constexpr):
    """x, y (N,) -> out (N,), their sum. Grid: (cdiv(N, BLOCK),)."""
    raise NotImplementedError


# %%
# needs Triton
add_kernel = check.add_kernel(add_kernel)

# %% [markdown] id="two-dimensions"
# ## Two dimensions
#
# A matrix lies in memory row after row: element $[i, j]$ of a matrix with $D$ columns is at place $i \cdot D + j$. So
# a tile of addresses comes from a column of row numbers and a row of column numbers: `rows[:, None] * D +
# columns[None, :]`, the same trick as in NumPy. The grid may have two dimensions, too.
#
# This kernel writes into each element the number of the program that owns it.

# %%
# needs Triton


@triton.jit
def who_kernel(out, N, D, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)  # (BLOCK_N,)
    columns = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)  # (BLOCK_D,)
    inside = (rows < N)[:, None] & (columns < D)[None, :]  # (BLOCK_N, BLOCK_D)
    number = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    tl.store(out + rows[:, None] * D + columns[None, :], number, mask=inside)


N, D, BLOCK_N, BLOCK_D = 10, 13, 4, 8
grid = triton.cdiv(N, BLOCK_N), triton.cdiv(D, BLOCK_D)
out = torch.full((N, D), -1, dtype=torch.int32)
who_kernel[grid](out, N, D, BLOCK_N=BLOCK_N, BLOCK_D=BLOCK_D)

figure, axes = plt.subplots(figsize=(7, 4.2))
axes.imshow((out // grid[1] + out % grid[1]) % 2, cmap="Greys", vmin=0, vmax=5)  # two shades, like a chess board
for i in range(N):
    for j in range(D):
        axes.text(j, i, int(out[i, j]), ha="center", va="center", fontsize=8)
beyond = {"facecolor": "0.92", "edgecolor": "0.6", "hatch": "//", "linewidth": 0}
axes.add_patch(Rectangle((D - 0.5, -0.5), 3, 12, **beyond))
axes.add_patch(Rectangle((-0.5, N - 0.5), D, 2, **beyond))
for i in range(grid[0]):
    for j in range(grid[1]):
        corner = j * BLOCK_D - 0.5, i * BLOCK_N - 0.5
        axes.add_patch(Rectangle(corner, BLOCK_D, BLOCK_N, fill=False, linewidth=2))
axes.text(7.5, 10.5, "no memory of ours: the mask says no", ha="center", va="center", backgroundcolor="white")
axes.set(xlabel="column", ylabel="row", xlim=(-0.6, 15.6), ylim=(11.6, -0.6))
axes.set_title(f"{N}×{D} elements, tiles of {BLOCK_N}×{BLOCK_D}: which program writes what")
print("untouched elements:", int((out == -1).sum()))

# %% [markdown] id="every-element-has"
# Each element is written by exactly one program, and the hatched parts of the tiles at the edges are masked.
#
# **Puzzle 2: transpose a matrix.** Load a tile from one pattern of addresses and store the same tile to another.

# %%
# needs Triton


@triton.jit
def transpose_kernel(x, out, N, D, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    """x (N, D) -> out (D, N), its transpose. Grid: (cdiv(N, BLOCK_N), cdiv(D, BLOCK_D))."""
    raise NotImplementedError


# %%
# needs Triton
transpose_kernel = check.transpose_kernel(transpose_kernel)

# %% [markdown] id="stepper"
# `check.launch` returns what it saw, and `check.step_through` shows it: every load and store of *one* program. Here is
# the last program of your kernel, (1, 1), in the lower right corner. Above is the tensor in memory: dark elements are
# touched in this step, grey ones were touched in earlier steps. Below is the tile of addresses, given as element
# numbers, with "no" where the mask says no. Follow one corner of the tile from the load to the store. (With `pip
# install ipywidgets` you get a slider.)

# %%
# needs Triton
N, D = 6, 7
x, out = check.fenced(torch.arange(float(N * D)).view(N, D)), check.fenced(torch.empty(D, N))
touches = check.launch(transpose_kernel, (2, 2), x, out, N, D, BLOCK_N=4, BLOCK_D=4)
check.step_through(touches, (1, 1), x=x, out=out)

# %% [markdown] id="next-row"
# ## A column too many is the next row
#
# There is a trap in two dimensions. A wrong *row* leaves the tensor. A wrong *column* usually does not: behind the last
# element of row 0 lies the first element of row 1. Such a read is legal, nothing crashes, and the number is wrong.
# Below, a tile of 8 × 8 reads a matrix of 5 × 5 without a mask. 39 of its 64 elements are outside the matrix's rows or
# columns. How many of these silently receive some other number of the matrix?

# %%
check.predict("silently wrong elements of 39", None)

# %% [markdown] id="where-from"
# Each element of the matrix holds its own place, written *row.column*, so you can see where a number was taken from.

# %%
# needs Triton


@triton.jit
def read_kernel(x, out, D, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    rows, columns = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    tile = tl.load(x + rows[:, None] * D + columns[None, :])  # (BLOCK_N, BLOCK_D), no mask
    tl.store(out + rows[:, None] * BLOCK_D + columns[None, :], tile)


N, D = 5, 5
x = check.fenced(torch.arange(N)[:, None] + torch.arange(D) / 10)  # (5, 5)
tile = torch.empty(8, 8)
read_kernel[(1,)](x, tile, D, BLOCK_N=8, BLOCK_D=8)

kinds = torch.full((8, 8), 1.0)  # 0: right, 1: another row's, 2: behind the matrix
kinds[:N, :D] = 0
kinds[tile.isnan()] = 2
figure, axes = plt.subplots(figsize=(5.2, 4.2))
axes.imshow(kinds, cmap="Greys", vmin=0, vmax=2.6)
for i in range(8):
    for j in range(8):
        colour = "white" if kinds[i, j] == 2 else "black"
        axes.text(j, i, f"{tile[i, j]:.1f}", ha="center", va="center", fontsize=9, color=colour)
axes.add_patch(Rectangle((-0.5, -0.5), D, N, fill=False, linewidth=2))
axes.set(xlabel="column of the tile", ylabel="row of the tile", title="What was read, as row.column")
for kind, words in enumerate(("inside the matrix (white)", "silently another row's (grey)", "behind it (dark)")):
    print(f"{int((kinds == kind).sum()):2} elements {words}")
check.reveal("silently wrong elements of 39", int((kinds == 1).sum()), within=2)

# %% [markdown] id="grey-elements-are"
# The grey elements are the dangerous ones. So a mask needs both conditions: `(rows < N)[:, None] & (columns < D)[None,
# :]`.
#
# **Puzzle 3: squared lengths.** CLIP needs this kernel before it can normalise its features: it computes the squared
# length of each row. Each program takes `BLOCK_N` whole rows: `BLOCK_D` is at least D. `tile * tile` multiplies element
# by element, and `tl.sum(tile, axis=1)` adds up each row of a tile. Choose `other` so that the sum stays right. N and D
# may be any numbers.

# %%
# needs Triton


@triton.jit
def squared_lengths_kernel(x, out, N, D, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    """x (N, D) -> out (N,), the sum of the squares of each row. Grid: (cdiv(N, BLOCK_N),)."""
    raise NotImplementedError


# %%
# needs Triton
squared_lengths_kernel = check.squared_lengths_kernel(squared_lengths_kernel)

# %% [markdown] id="nothing"
# ## What is nothing?
#
# A zero does not change a sum. Other reductions need another `other`: a value that does not change their result.
#
# **Puzzle 4: the largest number of a row.** Now the row is longer than the tile, so one program walks along it in
# pieces of `BLOCK`: `for start in range(0, D, BLOCK)`. Each program has one row, `tl.program_id(0)`. `tl.max(piece,
# axis=0)` is the largest number of a piece, `tl.maximum(a, b)` the larger of two, `float("inf")` is infinity; a single
# number is stored without a mask. The rows in the check contain only negative numbers.

# %%
# needs Triton


@triton.jit
def row_maximum_kernel(x, out, D, BLOCK: tl.constexpr):
    """x (N, D), any D -> out (N,), the largest number of each row. Grid: (N,)."""
    raise NotImplementedError


# %%
# needs Triton
row_maximum_kernel = check.row_maximum_kernel(row_maximum_kernel)

# %% [markdown] id="row-lse"
# **Puzzle 5: the log-sum-exp of a row**, $\ln \sum_j e^{x_j}$, as in lesson 15. Each program takes whole rows again:
# `BLOCK_D` is at least D. The numbers may be around 200 or −200. Useful: `tl.exp`, `tl.log`.

# %%
# needs Triton


@triton.jit
def row_lse_kernel(x, out, N, D, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    """x (N, D) -> out (N,), the log-sum-exp of each row. Grid: (cdiv(N, BLOCK_N),), BLOCK_D >= D."""
    raise NotImplementedError


# %%
# needs Triton
row_lse_kernel = check.row_lse_kernel(row_lse_kernel)

# %% [markdown] id="tile-lse"
# **Puzzle 6: both axes of one tile.** CLIP needs the rows *and* the columns, but each program has only one tile. So it
# computes its tile's part of the log-sum-exp for each of its rows and each of its columns. Lesson 15 puts such parts
# together; here they are only stored. No two programs may write to the same place: program (i, j) writes to *line* j of
# `row_lse` and to line i of `column_lse`. (One `@triton.jit` function may call another, if you want to write the
# log-sum-exp once.)

# %%
# needs Triton


@triton.jit
def tile_lse_kernel(x, row_lse, column_lse, N, M, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    """x (N, M) -> row_lse (blocks of columns, N), column_lse (blocks of rows, M): those of each tile.

    Grid: (cdiv(N, BLOCK_N), cdiv(M, BLOCK_M)).
    """
    raise NotImplementedError


# %%
# needs Triton
tile_lse_kernel = check.tile_lse_kernel(tile_lse_kernel)

# %%
# needs Triton
logits = check.fenced(torch.randn(10, 13, generator=generator))
row_parts, column_parts = check.fenced(torch.empty(2, 10)), check.fenced(torch.empty(3, 13))
check.launch(tile_lse_kernel, (3, 2), logits, row_parts, column_parts, 10, 13, BLOCK_N=4, BLOCK_M=8)
print("parts put together, rows:   ", torch.allclose(row_parts.logsumexp(dim=0), logits.logsumexp(dim=1)))
print("parts put together, columns:", torch.allclose(column_parts.logsumexp(dim=0), logits.logsumexp(dim=0)))

# %% [markdown] id="diagonal"
# **Puzzle 7: the diagonal.** The pairs of CLIP are the elements [i, i]. In memory they would be easy to find, but in
# lesson 17 the matrix will exist only tile by tile. So load the whole tile, and pick the elements of the diagonal out
# of it by comparing row numbers with column numbers, both counted in the *matrix*. `tl.where(condition, tile, 0.0)`
# keeps the elements where the condition holds. Tiles may be wider than tall here, or taller than wide. Most of them
# contain no part of the diagonal, and must write nothing.

# %%
# needs Triton


@triton.jit
def diagonal_kernel(x, out, N, M, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    """x (N, M), M >= N -> out (N,), x[i, i]. Grid: (cdiv(N, BLOCK_N), cdiv(M, BLOCK_M))."""
    raise NotImplementedError


# %%
# needs Triton
diagonal_kernel = check.diagonal_kernel(diagonal_kernel)

# %% [markdown] id="product"
# ## A product in tiles
#
# The matrix of cosines is a product: picture i with text j, over all D features. A program that wants one tile of it
# needs `BLOCK_N` rows of x and `BLOCK_M` rows of y, at full width. The width may be large, so it is processed in steps:
#
# $$\text{tile} = \sum_{\text{steps}} x[\text{rows}, \text{step}] \cdot y[\text{columns}, \text{step}]^\top$$
#
# In words: load a narrow piece of each, multiply them with `tl.dot`, add the result to the tile so far, and move on to
# the right. The tile stays where it is all the time (on a GPU in *registers*, the smallest and fastest memory, in the
# processor itself), and is written once.
#
# **Puzzle 8: the product.** Write it. Useful: `tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)` to begin with, `for
# start in range(0, D, BLOCK_D)`, and `tile = tl.dot(a, b, tile, input_precision="ieee")`, which adds a @ b to the tile
# in full float32 precision. `b` is (BLOCK_D, BLOCK_M), but nothing has to be transposed: feature k of text c is at
# place c · D + k, so make the tile of addresses with the features downwards and the texts to the right. Now N, M and D
# are all ragged, and the store needs a mask just as the loads do.

# %%
# needs Triton


@triton.jit
def product_kernel(x, y, out, N, M, D, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr):
    """x (N, D), y (M, D) -> out (N, M) = x @ y.T. Grid: (cdiv(N, BLOCK_N), cdiv(M, BLOCK_M))."""
    raise NotImplementedError


# %%
# needs Triton
product_kernel = check.product_kernel(product_kernel)

# %% [markdown] id="product-steps"
# Here is one of its programs, step by step. In each step, look at the second tile: its addresses run down where those
# of x run to the right, and that is all the transposing there is.

# %%
# needs Triton
N, M, D = 7, 11, 6
x, y = check.fenced(torch.randn(N, D, generator=generator)), check.fenced(torch.randn(M, D, generator=generator))
out = check.fenced(torch.empty(N, M))
touches = check.launch(product_kernel, (2, 3), x, y, out, N, M, D, BLOCK_N=4, BLOCK_M=4, BLOCK_D=4)
check.step_through(touches, (1, 2), x=x, y=y, out=out)

# %% [markdown] id="product-in-all"
# And here is a larger product, with all steps together: program (1, 2) touches the dark elements, and the lines are the
# edges of the tiles.

# %% jupyter={"source_hidden": true}
# needs Triton
N, M, D, BLOCK = 40, 56, 24, 16
x, y = check.fenced(torch.randn(N, D, generator=generator)), check.fenced(torch.randn(M, D, generator=generator))
out = check.fenced(torch.empty(N, M))
grid = triton.cdiv(N, BLOCK), triton.cdiv(M, BLOCK)
touches = check.launch(product_kernel, grid, x, y, out, N, M, D, BLOCK_N=BLOCK, BLOCK_M=BLOCK, BLOCK_D=BLOCK)

figure, all_axes = plt.subplots(1, 3, figsize=(9, 3.6), gridspec_kw={"width_ratios": [D, D, M]})
for axes, name, matrix, labels in zip(
    all_axes,
    ("x", "y", "out"),
    (x, y, out),
    (("feature", "picture"), ("feature", "text"), ("text", "picture")),
    strict=True,
):
    counts = torch.zeros(matrix.numel())
    for touch in touches:
        if touch.program == (1, 2) and touch.name == name:
            counts[touch.places] += 1
    axes.imshow(counts.view(matrix.shape), cmap="Greys", vmin=0, vmax=1.3)
    for place in range(BLOCK, max(matrix.shape), BLOCK):
        if place < len(matrix):
            axes.axhline(place - 0.5, color="0.6", linewidth=0.8)
        if place < matrix.shape[1]:
            axes.axvline(place - 0.5, color="0.6", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(True)
    verb = "writes" if name == "out" else "reads"
    axes.set(title=f"{name}: {verb} {int((counts > 0).sum())}", xlabel=labels[0], ylabel=labels[1])
reads = sum(len(touch.places) for touch in touches if touch.verb == "reads")
print(f"all {grid[0] * grid[1]} programs: {reads:,} elements read, the two matrices have {x.numel() + y.numel():,}")
print(f"each row of x is read {grid[1]} times, by the {grid[1]} tiles in its row of out,")
print(f"each row of y {grid[0]} times, by the {grid[0]} tiles in its column")
print("largest difference from torch:", f"{(out - x @ y.T).abs().max():.0e}")

# %% [markdown] id="larger-tiles-mean"
# Larger tiles mean fewer reads: that is what tiles are for (lesson 18 counts them). And the tile of the result is not
# in memory until it is stored. A kernel may just as well reduce it to a few sums and never store it: lesson 17.
#
# ## The interpreter is not a GPU
#
# A few things are different, and two of them are worth seeing once. `bfloat16` is the 16-bit format in which most
# models are trained on GPUs; it keeps two to three decimal digits.

# %%
# needs Triton


@triton.jit
def to_bfloat16_kernel(x, out, BLOCK: tl.constexpr):
    places = tl.arange(0, BLOCK)
    tl.store(out + places, tl.load(x + places).to(tl.bfloat16))


numbers = torch.tensor([1.0, 1.003, 1.005, 1.007])
cut = torch.empty(4, dtype=torch.bfloat16)
to_bfloat16_kernel[(1,)](numbers, cut, BLOCK=4)
print("to bfloat16, torch:      ", [f"{v:.4f}" for v in numbers.bfloat16().tolist()])
print("to bfloat16, interpreter:", [f"{v:.4f}" for v in cut.tolist()])
same = "right" if cut.equal(numbers.bfloat16()) else "wrong: it cuts the digits off where torch and GPUs round"
print(f"-> {same}\n")

ones, product = torch.ones(16, 16, dtype=torch.bfloat16), torch.empty(16, 16)
product_kernel[(1, 1)](ones, ones, product, 16, 16, 16, BLOCK_N=16, BLOCK_M=16, BLOCK_D=16)
print(f"sixteen times 1·1 in bfloat16, interpreter: {product[0, 0]:.6g}")
same = "right" if product[0, 0] == 16 else "wrong: it multiplies the bit patterns, as if they were whole numbers"
print(f"-> {same}")

# %% [markdown] id="where-lines-above"
# Where the lines above say *wrong*, feed the interpreter float32, and round to bfloat16 in torch. The code that
# launches this project's kernels does both. Two more differences do not show here:
#
# - NVIDIA's exponential ([`ex2.approx.ftz`](https://docs.nvidia.com/cuda/parallel-thread-execution/), where *ftz*
#   stands for *flush to zero*) turns results below about $10^{-38}$ into zero; the interpreter keeps them.
# - On an NVIDIA GPU, `tl.dot` requires at least 16 features at a time in 16 bits, and 8 in float32 (older versions of
#   Triton: tiles of at least 16 by 16); the interpreter takes any power of two.
#
# ## The answer
#
# A program is one run of the kernel, identified by its number; a tile is what it works on at once; and the mask is
# there because sizes are ragged and tiles are not: an address beyond the edge belongs to other data, or to the next
# row.
#
# ## What this lesson does not show
#
# Speed. The interpreter says nothing about it: what makes a kernel fast (how many programs fit on a chip, what stays in
# its caches, how loads and products overlap) does not exist here; lesson 18 finds out what can be known about it. Nor
# does it show errors that come from programs running at the same time.
#
# ## What you take away
#
# - A kernel is run once for each program; a program has a number and works on a tile.
# - Addresses are pointers plus whole numbers: row times width plus column. One column too many belongs to the next row.
# - Sizes are ragged, tiles are not. Every load and store has a mask, with one condition for each dimension.
# - A kernel that passes on a full tile has proved nothing: test sizes that are not multiples of it, with NaN around
#   them.
#
# ## Harder, without a solution
#
# - Solve puzzle 5 for rows that are longer than a tile: the maximum of the pieces so far changes on the way (lesson
#   15).
# - Compute a softmax of each row in place: the same tensor is read and written. What must be true of the grid?
# - Transpose a matrix *within* its own memory, N × N. Which programs must not run at the same time, and how do you
#   avoid that?
#
# Stuck? `check.hint("product_kernel")`, or read [solutions/lesson_16.py](solutions/lesson_16.py).
