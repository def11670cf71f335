# %% [markdown] id="question"
# # 18 · What would a GPU do?
#
# **The question.** The kernels of lesson 17 are right, but the interpreter says nothing about speed. Where would the
# time go on a GPU, and how much of that can be known without one?
#
# **You need** tiles and programs (lesson 16) and the two passes of the fused loss (lesson 17). This is the last lesson
# on one GPU; lesson 19 uses many.
#
# **Afterwards you can** count the bytes that a tiling moves, simulate a cache and choose the order of programs for it,
# tell from a compiler's report how many programs fit on a multiprocessor, draw the roofline of your own GPU, and tell a
# prediction from a measurement.
#
# **Place.** Part IV, *Large and fast*; after lesson 17. About 60 minutes, exercises included. Where Triton is not
# available, the cells that begin with `# needs Triton` are skipped; the notebook as shipped contains their outputs.

# %%
import os

os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: it decides then

import csv
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import check
import matplotlib.pyplot as plt
import torch
from minclip_kernels.bench import floors

generator = torch.Generator().manual_seed(0)
plt.style.use("lesson.mplstyle")
RESULTS = Path("../kernels/results")
check.skip_cells_without_triton()

# %% [markdown] id="predictions"
# ## Bet first
#
# Make three guesses before you have seen a number. Replace `None` with yours.
#
# 1. A product of 16 × 16 tiles needs two blocks of features for each tile, a few rows of x and a few rows of y. A cache
#    has room for the 8 blocks used last; a block that is wanted but not there is a *miss*. How many times fewer misses
#    does a good order of the tiles cause than going row by row?
# 2. On one NVIDIA H200, loss and gradients of 1,024 pairs take a certain time. 2,048 pairs are four times the work. By
#    what factor does the time grow?
# 3. On the same GPU, the fused loss of 65,536 pairs needs four matrix products, and does a lot besides. How many times
#    as long does it take as the four products alone?

# %%
check.predict("times fewer misses", None)
check.predict("time of 2,048 over 1,024", None)
check.predict("fused over bare products", None)

# %% [markdown] id="machine"
# ## The machine in five lines
#
# A GPU has about a hundred **multiprocessors** (SM). Each runs a few programs at a time. The numbers that a program
# computes with are in **registers**; its tiles of x and y wait in **shared memory**, which belongs to the SM too.
# Behind them is one **level-2 cache** for all SMs, and behind that the **memory**, which is large and slow. Each step
# outwards is slower, so the question is always the same: how many bytes must take which step, and how many operations
# are done with each byte once it has arrived?
#
# ## How many bytes does a tiling read?
#
# In lesson 16, larger tiles meant fewer reads. How many exactly? Each program reads, for its tile of the product x yᵀ,
# `block_n` rows of x and `block_m` rows of y, with all their D features, and nothing beyond the edges: the mask forbids
# it.
#
# **Exercise 1.** Count the bytes that all programs read together. `itemsize` is the size of a number in bytes: 4 for
# float32, 2 for bfloat16.


# %%
def tiling_bytes(N, M, D, block_n, block_m, itemsize):
    """x (N, D), y (M, D), tiles of block_n × block_m of their product -> bytes that all programs read, an int."""
    raise NotImplementedError


# %%
tiling_bytes = check.tiling_bytes(tiling_bytes)

# %% [markdown] id="formula-and-log"
# A formula is only a claim. Here is the log of every address that your kernel from lesson 16 really touches
# (`check.launch` keeps it), for a product of 16 × 16 tiles.

# %%
# needs Triton
product_kernel = check.yours("product_kernel")
BLOCK, TILES, D = 8, 16, 32
x, y = check.fenced(torch.randn(2, TILES * BLOCK, D, generator=generator)).unbind()
out = check.fenced(torch.empty(len(x), len(y)))
blocks = {"BLOCK_N": BLOCK, "BLOCK_M": BLOCK, "BLOCK_D": D}
touches = check.launch(product_kernel, (TILES, TILES), x, y, out, len(x), len(y), D, **blocks)
reads = [touch for touch in touches if touch.verb == "reads"]
print(f"{len(touches)} touches; bytes read, by the log: {4 * sum(len(touch.places) for touch in reads):,}")
print(f"by the formula: {tiling_bytes(len(x), len(y), D, BLOCK, BLOCK, 4):,}")

# %% [markdown] id="intensity"
# So the formula can be trusted where there is no log. Take N = M = 32,768 pairs, D = 512, in 16 bits, and ask how much
# square tiles of different sizes read. The product takes 2N²D operations, whatever the tiles are; the number of
# operations per byte is the **arithmetic intensity**.

# %%
N, D, sides = 32768, 512, [16, 32, 64, 128, 256]
print("tile      read     operations per byte")
for side in sides:
    read = tiling_bytes(N, N, D, side, side, 2)
    print(f"{side:3}² {read / 1e9:8.1f} GB {2 * N * N * D / read:10.0f}")
print(f"the features themselves: {2 * N * D * 2 / 1e9:.3f} GB")

# %% [markdown] id="half-the-side"
# The intensity of a square tile is half its side: a tile of b × b takes 2b²D operations on 2bD numbers of 2 bytes each.
# The two towers' features are far smaller than what is read, because every row is read again and again. That traffic
# had better not come from memory.
#
# ## A cache
#
# The level-2 cache keeps what was read last. It works in **lines** of 128 bytes. The simplest model of it is **LRU**:
# it has room for a fixed number of lines, and to let a new one in, it evicts the line that has been unused for longest
# (*least recently used*). A line that is not in the cache when it is wanted is a **miss**; it must come from memory.
# Real caches are divided into sets and follow other rules in detail, but an order of accesses that is bad for LRU is
# usually bad for them too.
#
# **Exercise 2.** Simulate it.


# %%
def lru_misses(lines, capacity):
    """lines: list of line numbers in the order of their use; lines that fit into the cache -> number of misses.

    The cache is empty at first.
    """
    raise NotImplementedError


# %%
lru_misses = check.lru_misses(lru_misses)

# %% [markdown] id="order"
# ## The order of programs
#
# No program may depend on another one, so *any* order of the programs gives the same product, but not the same number
# of misses. Program (i, j) needs block i of x and block j of y. Row by row, block i of x is used by sixteen programs
# one after the other, and is missed once. Meanwhile all sixteen blocks of y go by, so when the next row begins, block 0
# of y has long been evicted.
#
# **Exercise 3.** Find an order with few misses, for any grid and any capacity of the cache (in blocks, at least 3, of x
# and y together). For a large cache, the check's own order misses about rows + columns · rows / capacity times; it
# accepts any order that is as good. (A small cache deserves care: which blocks does LRU evict?)


# %%
def program_order(rows, columns, capacity):
    """Tiles in a column and in a row of the product, blocks that fit into the cache -> list of all (i, j), in order."""
    raise NotImplementedError


# %%
program_order = check.program_order(program_order)


# %% jupyter={"source_hidden": true}
def interleaved(number):
    """The even and the odd bits of a number: Morton's order, a square of squares."""
    return sum((number >> 2 * k & 1) << k for k in range(8)), sum((number >> 2 * k + 1 & 1) << k for k in range(8))


def misses(order, capacity):
    """Blocks of x and y (j is told from i by its sign) that miss when programs run in this order."""
    return lru_misses([block for i, j in order for block in (i, ~j)], capacity)


SIDE, ROOM = 16, 8
orders = {
    "row by row": [(i, j) for i in range(SIDE) for j in range(SIDE)],
    "to and fro": [(i, j if i % 2 == 0 else SIDE - 1 - j) for i in range(SIDE) for j in range(SIDE)],
    "squares of squares": [interleaved(number) for number in range(SIDE * SIDE)],
    "exercise 3": program_order(SIDE, SIDE, ROOM),
}
figure, all_axes = plt.subplots(1, 5, figsize=(13, 2.9), width_ratios=[1, 1, 1, 1, 1.7])
for axes, (name, order) in zip(all_axes, orders.items(), strict=False):
    moment = torch.empty(SIDE, SIDE)
    for when, place in enumerate(order):
        moment[place] = when
    axes.imshow(moment, cmap="viridis")
    axes.plot([j for _, j in order], [i for i, _ in order], color="white", linewidth=0.5)
    axes.set(title=f"{name}:\n{misses(order, ROOM)} misses", xticks=[], yticks=[], xlabel="block of y")
all_axes[0].set_ylabel("block of x")
rooms = range(3, 25)
for (name, order), look in zip(orders.items(), ("-", "--", ":", "-."), strict=True):
    all_axes[4].plot(rooms, [misses(order, room) for room in rooms], look, label=name)
all_axes[4].axvline(ROOM, color="0.7", linewidth=0.8)
all_axes[4].axhline(2 * SIDE, color="black", linewidth=0.8)
all_axes[4].text(3, 2 * SIDE - 6, "each block once", va="top", fontsize=8)
all_axes[4].set(xlabel="blocks that fit into the cache", ylabel="misses", ylim=(0, 300))
all_axes[4].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
fewer = misses(orders["row by row"], ROOM) / misses(orders["exercise 3"], ROOM)
check.reveal("times fewer misses", fewer, within=0.5)

# %% [markdown] id="orders-seen"
# Dark programs run first. The squares of squares know nothing of the cache and do fairly well at almost any size. The
# order of exercise 3 was made for one size, the grey line; it is the best of the four there, and poor in a smaller
# cache. At the right end, where all blocks of y fit, row by row is as good as anything.
#
# Are blocks too coarse a model? The log has every address. Here are its lines, program after program, in two of the
# orders, in a cache with room for the same number of bytes.

# %%
# needs Triton
LINE = 32  # float32 numbers in 128 bytes: here one row of features
of_program = {}
for touch in reads:
    lines = dict.fromkeys((touch.places // LINE).tolist())
    of_program.setdefault(touch.program, []).extend((touch.name, line) for line in lines)
for name in ("row by row", "exercise 3"):
    stream = [line for program in orders[name] for line in of_program[program]]
    numbers = {line: number for number, line in enumerate(dict.fromkeys(stream))}
    found = lru_misses([numbers[line] for line in stream], ROOM * BLOCK)
    print(f"{name:11} {found:5} of {len(stream)} lines missed; by blocks: {misses(orders[name], ROOM) * BLOCK}")

# %% [markdown] id="waves"
# On a GPU the programs do not run one after another: as many as fit run together, a **wave**, and the next ones begin
# in the order of their numbers. What a wave needs should fit into the cache, and the less it needs, the better. On an
# H200 two programs of our first pass fit on each of the 132 SMs, as exercise 4 will show. So how many different blocks
# do 264 consecutive programs touch, for N = 32,768 with tiles of 128?

# %%
TILES, WAVE, BYTES = 32768 // 128, 2 * 132, 128 * 512 * 2
for name, order in {
    "row by row": [(i, j) for i in range(TILES) for j in range(TILES)],
    "groups of 16": [(g + i, j) for g in range(0, TILES, 16) for j in range(TILES) for i in range(16)],
}.items():
    touched = {block for i, j in order[:WAVE] for block in (i, ~j)}
    print(f"{name:12} {len(touched):4} blocks, {len(touched) * BYTES / 1e6:5.1f} MB")

# %% [markdown] id="place"
# A strip of 264 tiles has a long edge, a square of about 16 × 16 a short one. `_place` in
# `kernels/minclip_kernels/kernels_triton.py` makes use of this: it turns the number of a program into a place, in
# groups of rows, and `group_size` in `tiles_triton.py` chooses the square. (Triton's tutorial on [matrix
# multiplication](https://triton-lang.org/main/getting-started/tutorials/03-matrix-multiplication.html) calls it grouped
# ordering.)
#
# ## How many programs fit on a multiprocessor?
#
# Several, if possible: while one waits for its data, another one computes. The resources that a program takes are fixed
# when it is compiled: Triton turns it into a **block** of threads (not to be confused with a block of features), in
# **warps** of 32, and the compiler's report says how many registers each thread has. Four limits apply to what is on an
# SM at the same time ([NVIDIA's table of compute
# capabilities](https://docs.nvidia.com/cuda/cuda-c-programming-guide/#compute-capabilities)):
#
# - **registers**: 65,536 numbers of 32 bits. A thread gets them in groups of eight: one that needs 65 takes 72.
# - **warps** in all.
# - **shared memory**; each block takes 1,024 bytes for the system besides its own.
# - **blocks** in all.
#
# **Exercise 4.** Occupancy by hand: how many blocks of a kernel fit?

# %%
SM = {  # of one multiprocessor; shared memory in bytes
    "sm_80": {"registers": 65536, "warps": 64, "blocks": 32, "shared": 164 * 1024},  # A100
    "sm_86": {"registers": 65536, "warps": 48, "blocks": 16, "shared": 100 * 1024},  # RTX 3090
    "sm_90": {"registers": 65536, "warps": 64, "blocks": 32, "shared": 228 * 1024},  # H100, H200
}


# %%
def blocks_per_sm(registers, warps, shared, sm):
    """Registers of a thread, warps and shared bytes of a block, one of SM -> how many blocks fit at a time."""
    raise NotImplementedError


# %%
blocks_per_sm = check.blocks_per_sm(blocks_per_sm)

# %% [markdown] id="report"
# The compiler's report needs no GPU: Triton compiles for one that is not there. (Compiling needs a process of its own,
# because in this one Triton runs its interpreter.) Here are the project's three large kernels for an H100 or H200.
# **Spills** are registers that had to be put into memory because there were too few. (The last three columns describe
# the instructions of the compiled program, and are not needed here. The second kernel has more than one exponential per
# logit in it because its program has two branches, the usual one with one and a more careful one with two.)

# %%
# needs Triton
command = ["-m", "minclip_kernels.aot", "--architecture", "sm_90", "--dtype", "bf16"]
kernels = check.pick(["log_sum_exp", "coefficients", "sigmoid"], ["log_sum_exp"])
compiling = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
done = subprocess.run(
    [sys.executable, *command, "--kernel", *kernels], env=compiling, capture_output=True, text=True, check=False
)
print(done.stdout or done.stderr[-500:])
WARPS = 4  # of each of these kernels: num_warps in choose_blocking, tiles_triton.py
for line in done.stdout.splitlines():
    if line.startswith("sm_90"):
        _, _, kernel, _, registers, _, shared, reported, *_ = line.split()
        got = blocks_per_sm(int(registers), WARPS, int(float(shared) * 1024), SM["sm_90"])
        print(f"{kernel}: {got} blocks per SM by hand, {reported} by the report")

# %% jupyter={"source_hidden": true}
figure, axes = plt.subplots(figsize=(7, 3.2))
counts = range(24, 256)
for shared, look in ((0, "-"), (64, "--"), (96, ":")):
    fits = [blocks_per_sm(registers, 4, shared * 1024, SM["sm_90"]) for registers in counts]
    axes.plot(counts, fits, look, drawstyle="steps-post", label=f"{shared} KiB of shared memory")
axes.set(xlabel="registers of a thread", ylabel="blocks per SM", ylim=(0, 17), yticks=range(0, 17, 4))
axes.set_title("sm_90, blocks of 4 warps")
axes.legend()
print("with 255 registers, the most that a thread can have:", blocks_per_sm(255, 4, 0, SM["sm_90"]), "blocks")
print("with 168 registers:", blocks_per_sm(168, 4, 0, SM["sm_90"]), "by registers alone,", end=" ")
print(blocks_per_sm(168, 4, 96 * 1024, SM["sm_90"]), "with 96 KiB of shared memory each")

# %% [markdown] id="tile-of-registers"
# In the figure, the more registers a thread takes, the fewer blocks fit; where shared memory sets a lower limit, the
# line is flat. And here is why tiles cannot simply grow. The tile of the product lives in registers: 128 × 128 numbers
# over 128 threads are 128 registers for each thread, before anything else is computed. A tile of 256 × 256 would take
# 512, and 255 is the most that a thread can have. And an epilogue that needs more registers than are left spills, or
# halves the blocks per SM.
#
# ## The roofline
#
# Three numbers of a GPU are enough for a first judgement: how many operations it does per second, and how many bytes
# arrive per second from the level-2 cache and from memory. A piece of work with a given intensity runs at
#
# $$\min(\text{operations per second}, \; \text{intensity} \times \text{bytes per second})$$
#
# at best; plotted, that is a roof ([Williams, Waterman and Patterson 2009](https://doi.org/10.1145/1498765.1498785)).
# Enter **your own GPU**: the first and the last number are in its data sheet (*dense* TFLOP/s in bfloat16, not "with
# sparsity"; memory bandwidth). For the H200, [NVIDIA](https://www.nvidia.com/en-us/data-center/h200/) gives 1,979 with
# sparsity, which is 989 dense, and 4.8 TB/s. The cache's rate is not in any data sheet: 8.5 TB/s is this project's
# assumption.

# %%
GPU = {"name": "NVIDIA H200", "TFLOP/s": 989, "cache TB/s": 8.5, "memory TB/s": 4.8}


def attainable(intensity, source):
    """TFLOP/s at best with so many operations per byte from "cache" or "memory"."""
    return min(GPU["TFLOP/s"], intensity * GPU[f"{source} TB/s"])


print(f"{GPU['name']}: square tiles of {2 * GPU['TFLOP/s'] / GPU['cache TB/s']:.0f} would reach the flat roof")
for side in sides:
    print(f"tiles of {side:3}: at most {attainable(side / 2, 'cache'):4.0f} TFLOP/s")
print(f"one pass over a stored matrix, 1 operation per byte: {attainable(1, 'memory'):.1f} TFLOP/s")

# %% [markdown] id="measured-points"
# The figure has two kinds of points. The *predicted* ones lie on the roof. The *measured* ones come from
# `kernels/results/h200-kernels.json`: the kernels of this project, one by one, on a real GPU. (The product for the
# gradient of the pictures reads G, 2N² bytes in 16 bits, for 2N²D operations, which is 512 operations per byte.)

# %% jupyter={"source_hidden": true}
stored = json.loads((RESULTS / "h200-kernels.json").read_text())
ms = {row[""]: row["ms"] for row in stored["rows"]}
rate = {name: 2 * 32768**2 * 512 / time / 1e9 for name, time in ms.items()}  # TFLOP/s of one product of N, N and D
figure, axes = plt.subplots(figsize=(8, 4.2))
intensities = torch.logspace(-0.5, 4, 200)
for source, look in (("cache", "-"), ("memory", "--")):
    axes.loglog(intensities, [attainable(i, source) for i in intensities.tolist()], look, color="black", label=source)
for side in sides:
    axes.plot(side / 2, attainable(side / 2, "cache"), "o", color="white", markeredgecolor="black")
    axes.annotate(f"{side}²", (side / 2, attainable(side / 2, "cache")), (-12, 6), textcoords="offset points")
axes.annotate(
    "one pass over\na stored matrix", (1, attainable(1, "memory")), (0.4, 40), arrowprops={"arrowstyle": "->"}
)
axes.plot(1, attainable(1, "memory"), "o", color="white", markeredgecolor="black")
if GPU["name"] == stored["device"]:
    for name, place, marker in (
        ("log_sum_exp_kernel", 64, "^"),
        ("coefficients_kernel", 64, "v"),
        ("product for images", 512, "s"),
    ):
        axes.plot(place, rate[name], marker, color="tab:blue", label=f"{name}, measured: {rate[name]:.0f}")
axes.set(xlabel="operations per byte, of the source that the roof names", ylabel="TFLOP/s")
axes.set_title(f"{GPU['name']}; measured N = 32,768, D = 512, bfloat16, {stored['date']}")
axes.legend(loc="lower right", fontsize=9)
for name in ("log_sum_exp_kernel", "coefficients_kernel"):
    share = rate[name] / attainable(64, "cache") if GPU["name"] == stored["device"] else float("nan")
    print(f"{name}: {share:.2f} of what the roof allows for tiles of 128")

# %% [markdown] id="what-the-roof-says"
# Two things are worth seeing. Every step of a *plain* loss that goes over the stored matrix (scale it, exponentials,
# sums, gradients) sits far down on the left: it takes as long as its bytes take, and the tensor cores wait. That is
# what fusing removes. And the first pass is close to the roof of the cache, but the second is not: it makes the same
# product, so something that the roof does not include costs it time. A model with three numbers is good for saying what
# *cannot* be, and for noticing that something is missing.
#
# ## What was predicted, and what was measured
#
# The project predicted its kernels before it had a GPU (`kernels/minclip_kernels/bench/floors.py`): each kernel takes
# as long as the busiest of tensor cores, cache, memory and instruction slots. The measurements came later. Where a
# prediction is off by more than a fifth, the last column says which assumption turned out wrong.

# %%
print(f"{stored['device']}, {stored['date']}, N = 32,768, D = 512, bfloat16; milliseconds")
print(f"{'':26} measured  predicted  limited by")
for row in stored["rows"]:
    predicted = f"{row['predicted ms']:9.2f}" if row["predicted ms"] else "        —"
    print(f"{row['']:26} {row['ms']:8.2f}  {predicted}  {row['limited by']:14} {row['fallen assumption']}")

# %% [markdown] id="other-cards"
# For other cards there are only predictions. They rest on the same assumptions, some of which have just turned out
# wrong.

# %%
with (RESULTS / "h200-loss.csv").open(newline="") as file:
    rows = [row for row in csv.DictReader(file) if row["dtype"] == "bfloat16" and row["D"] == "512"]
times = {(row["contender"], int(row["N"])): float(row["both_ms"]) for row in rows if row["both_ms"]}
setting = floors.Setting("clip", "bfloat16", 65536, 512, "cuda")
print("loss and gradients, N = 65,536, D = 512, bfloat16; milliseconds")
for name in floors.GPUS:
    parts = floors.predict(name, setting, [(128, 128), (128, 128), (64, 128)])
    predicted = sum(max(part.values()) for kernel, part in parts.items() if kernel != "sigmoid_kernel")
    is_measured = name in rows[0]["device"]
    measured = f"{times['fused, triton', 65536]:.1f}, {rows[0]['date']}" if is_measured else "not yet measured"
    print(f"{name:16} predicted {predicted:5.1f}   {measured}")

# %% jupyter={"source_hidden": true}
figure, axes = plt.subplots(figsize=(7, 4))
looks = {"bare products, 4": "k:", "fused, triton": "o-", "arange": "s--", "open_clip": "^-."}
for name, look in looks.items():
    axes.loglog(*zip(*((N, time) for (of, N), time in times.items() if of == name), strict=True), look, label=name)
axes.set(xlabel="batch size N", ylabel="loss and gradients [ms]")
axes.set_title(f"{rows[0]['device']}, D = 512, bfloat16, {rows[0]['date']}")
axes.set_xticks([2**k for k in range(10, 17)], [f"{2**k:,}" for k in range(10, 17)], fontsize=8)
axes.minorticks_off()
axes.legend()
check.reveal("time of 2,048 over 1,024", times["fused, triton", 2048] / times["fused, triton", 1024], within=0.3)
check.reveal("fused over bare products", times["fused, triton", 65536] / times["bare products, 4", 65536], within=0.3)

# %% [markdown] id="flat-part"
# On the left the losses are flat, far above their products: the GPU is done long before Python has asked for the next
# kernel. There neither tiles nor their order matter. On the right time grows with N², and what this lesson counted
# decides how long it takes. The fused loss overtakes the others in between. (*arange* is `minclip.clip_loss`,
# *open_clip* that project's own loss.)
#
# ## Yours
#
# If there is a GPU in your machine, this cell measures it, in a process of its own, after comparing both losses with
# float64.

# %%
if torch.cuda.is_available():
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "minclip", "bench", "loss", "--device", "cuda", "--dtype", "bfloat16"]
        command += ["--n", "1024", "8192", "--seconds", "4", "--out", f"{folder}/loss.csv"]
        command += ["--contenders", "fused, triton", "arange"]
        compiling = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        done = subprocess.run(command, env=compiling, capture_output=True, text=True, check=False)
        print(done.stdout or done.stderr[-500:])
else:
    print("not yet measured: torch sees no GPU here")

# %% [markdown] id="answer"
# ## The answer
#
# On a large batch the time goes into four products, into moving their features from the level-2 cache to the
# multiprocessors, and, in the second pass, into other instructions that do not hide behind its product; on a small
# batch, into waiting for Python. Bytes, misses, registers and the roof can be known without a GPU; whether anything
# else costs time cannot.
#
# ## What this lesson does not show
#
# How long an instruction takes, how loads and products overlap within an SM, and how real caches are organised: an LRU
# cache over one stream of accesses is a model. The measured numbers come from one card on one day, with other programs
# on the machine; the CSV has their spread.
#
# ## Harder, without a solution
#
# - Let W programs run at once: merge their accesses line by line, and see which of the orders still helps.
# - The coefficients kernel writes G as well, 2N² bytes in 16 bits. How much does that change in your simulation if the
#   writes go through the same cache, and what would you do about it?
# - Choose a tile that is not square for sm_86, where shared memory is 100 KiB, and defend it with the four functions of
#   this lesson.
#
# Stuck? `check.hint("program_order")`, or read [solutions/lesson_18.py](solutions/lesson_18.py).
