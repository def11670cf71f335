"""The checks of lesson 18, What would a GPU do?: counts of bytes, misses and blocks, by brute force."""

from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from check.cases import expect, given, show
from check.verdict import Attempt, Wrong, exercise

SM = dict[str, int]  # what a multiprocessor has of everything


def blocks_of(size: int, block: int) -> Iterable[int]:
    """The sizes of the blocks that cut `size` elements."""
    return (min(block, size - first) for first in range(0, size, block))


def likely(got: Any, mistakes: list[tuple[Any, str]]) -> str:
    """The hint of the first mistake that would have given this result."""
    return next((hint for result, hint in mistakes if type(result) is type(got) and result == got), "")


@exercise(
    "how many programs read row 0 of x? As many as there are tiles in its row of the product.",
    steps=(
        "look at one row of x. Which programs need it?",
        "all tiles in one row of the product read the same rows of x: how many tiles is that, for M columns?",
        "N · D · ⌈M / block_m⌉ elements of x, and for y the same with the roles exchanged; then bytes.",
    ),
)
def tiling_bytes(attempt, draw):
    N, M, D = draw(st.sampled_from([5, 7, 12])), draw(st.sampled_from([6, 11, 8])), draw(st.integers(3, 5))
    block_n, block_m = draw(st.sampled_from([2, 4, 16])), draw(st.sampled_from([4, 2, 16]))
    itemsize = draw(st.sampled_from([4, 2]))
    heights, widths = list(blocks_of(N, block_n)), list(blocks_of(M, block_m))
    by_log = sum(rows + columns for rows in heights for columns in widths) * D * itemsize
    case = {"N": N, "M": M, "D": D, "block_n": block_n, "block_m": block_m, "itemsize": itemsize}
    got = attempt(*case.values())
    row_blocks, column_blocks, row_bytes = len(heights), len(widths), D * itemsize
    mistakes = [
        ((N + M) * row_bytes, "that is every element once; but each program reads its rows anew"),
        (
            (N * row_blocks + M * column_blocks) * row_bytes,
            "a row of x is read by the tiles beside each other in *its* row: count the blocks of columns for x",
        ),
        (
            (N * (M // block_m) + M * (N // block_n)) * row_bytes,
            "the last block is not full, but its program reads its rows all the same: round up",
        ),
        (
            row_blocks * column_blocks * (block_n + block_m) * row_bytes,
            "at the edges the mask says no: nothing is read beyond N and M",
        ),
        (by_log + N * M * itemsize, "that counts the product too; only what is read is asked for"),
        (by_log // itemsize, "these are elements; an element has `itemsize` bytes"),
    ]
    expect(got, by_log, hint=likely(got, mistakes), **case)


@exercise(
    "at a hit, the line becomes the newest; at a miss with a full cache, the oldest goes.",
    steps=(
        "which two things must the cache know: what is in it, and in which order it was … what?",
        "a dict keeps the order of insertion: taking a key out and putting it in again makes it the newest.",
        "if line in cache: take it out; else: misses += 1, and if the cache is full, remove its first key "
        "(next(iter(cache))). In both cases put the line in.",
    ),
)
def lru_misses(attempt, draw):
    # In this case, each of the mistakes below gives another number.
    _compare_misses(attempt, [2, 0, 1, 0, 3, 1, 3, 1, 0, 2], 2)
    lines = draw(st.lists(st.integers(0, 5), min_size=1, max_size=12))
    _compare_misses(attempt, lines, draw(st.integers(1, 4)))


def _compare_misses(attempt: Attempt, lines: list[int], capacity: int) -> None:
    wanted = sum(_distance(lines[:k], line) >= capacity for k, line in enumerate(lines))
    got = attempt(list(lines), capacity)
    used = "the line that has not been *used* for longest is evicted, and a hit is a use"
    mistakes = [
        (_misses(lines, capacity, 0, refresh=False), used),
        (_misses(lines, capacity, -1, refresh=True), "the oldest line is evicted, not the newest"),
        (_misses(lines, capacity + 1, 0, True), "at no time are there more than `capacity` lines in the cache"),
        (
            _misses(lines, max(capacity - 1, 1), 0, True),
            "a line is evicted when `capacity` others are in the cache, not sooner",
        ),
        (len(set(lines)), "that counts first uses only: a line that was evicted misses again"),
        (len(lines) - wanted, "these are the hits; count the others"),
    ]
    expect(got, wanted, hint=likely(got, mistakes), lines=lines, capacity=capacity)


def _distance(before: list[int], line: int) -> float:
    """How many different lines were used since the last use of a line; infinity before its first."""
    if line not in before:
        return float("inf")
    last = len(before) - 1 - before[::-1].index(line)
    return len(set(before[last + 1 :]))


def _misses(lines: list[int], capacity: int, evicted: int, refresh: bool) -> int:
    """What a cache with another rule misses: `evicted` is a place in the order of its lines."""
    cache, misses = [], 0
    for line in lines:
        if line not in cache:
            misses += 1
            if len(cache) == capacity:
                cache.pop(evicted)
            cache.append(line)
        elif refresh:
            cache.append(cache.pop(cache.index(line)))
    return misses


def most_misses(rows: int, columns: int, capacity: int) -> int:
    """What an order in groups of rows misses, which leaves two places of the cache to the blocks of y."""
    groups = -(-rows // (capacity - 2))
    return rows + groups * columns


SIZES = [(9, 9, 5), (10, 30, 6), (16, 16, 8), (7, 12, 3), (13, 40, 9), (5, 4, 12)]


@exercise(
    "take a few rows of tiles at a time, and go through the columns once for all of them.",
    cases=len(SIZES),
    steps=(
        "going along one row of tiles, what is used again at once, and what only a whole row later?",
        "if three rows of tiles take turns in each column, how often is each block of y fetched in all?",
        "for each group of G rows: for each column: for each row of the group: (row, column). "
        "How large may G be? Count what is used between two uses of the same block of x.",
    ),
)
def program_order(attempt, draw):
    rows, columns, capacity = draw(st.sampled_from(SIZES))
    case = {"rows": rows, "columns": columns, "capacity": capacity}
    order = attempt(rows, columns, capacity)
    if not isinstance(order, list) or not all(isinstance(place, tuple) and len(place) == 2 for place in order):
        raise Wrong(f"it returned {_short(order)}, expected a list of pairs (row, column){given(case)}")
    everything = [(i, j) for i in range(rows) for j in range(columns)]
    if sorted(order) != everything:
        missing = sorted(set(everything) - set(order))
        what = f"{len(missing)} programs are missing, the first {missing[0]}" if missing else "some occur twice"
        problem = f"it returned {len(order)} programs, expected each of {len(everything)} once: {what}{given(case)}"
        raise Wrong(problem, "each program runs exactly once; the last group may have fewer rows")
    lines = [line for i, j in order for line in (("x", i), ("y", j))]
    misses = sum(_distance_of(lines, k) >= capacity for k in range(len(lines)))
    allowed = most_misses(rows, columns, capacity)
    if misses > allowed:
        raise Wrong(f"its order misses {misses} times, at most {allowed} allowed{given(case)}", _why(order, case))


def _distance_of(lines: list[tuple[str, int]], place: int) -> float:
    since = set()
    for line in reversed(lines[:place]):
        if line == lines[place]:
            return len(since)
        since.add(line)
    return float("inf")


def _why(order: list[tuple[int, int]], case: dict[str, int]) -> str:
    """What an order that misses too often looks like."""
    rows, columns = case["rows"], case["columns"]
    if [i for i, _ in order[:columns]] == [0] * columns:
        return (
            "it goes through one row of tiles after the other: when it needs a block of y again, that has been evicted"
        )
    if [j for _, j in order[:rows]] == [0] * rows and rows > case["capacity"]:
        return "it goes through whole columns: when a block of x is needed again, all the others have been used"
    return (
        "how many blocks of x can wait while a block of y goes by? With LRU, two places of the cache hold blocks of y: "
        "the one in use and the next; all others are for the rows of a group, and none should be idle"
    )


def _short(value: Any) -> str:
    text = show(value)
    return text if len(text) < 60 else f"{text[:60]}…"


@exercise(
    "four limits: registers, warps, shared memory, blocks. The tightest one decides.",
    steps=(
        "what does each block need of the multiprocessor, and how much of that is there?",
        "a warp is 32 threads. How many registers does a block of `warps` warps take?",
        "min(sm['registers'] // (rounded · 32 · warps), sm['warps'] // warps, "
        "sm['shared'] // (shared + 1024), sm['blocks']), with `registers` rounded up to a multiple of 8.",
    ),
)
def blocks_per_sm(attempt, draw):
    for case in TELLING:
        _compare_blocks(attempt, *case)
    registers = draw(st.sampled_from([253, 168, 131, 100, 65, 40, 33, 16]))
    warps, shared = draw(st.sampled_from([4, 8, 2, 1])), draw(st.sampled_from([48, 0, 16, 18, 24, 75, 99])) * 1024
    _compare_blocks(attempt, registers, warps, shared, draw(st.sampled_from([SM_80, SM_86])))


SM_80 = {"registers": 65536, "warps": 64, "blocks": 32, "shared": 164 * 1024}
SM_86 = {"registers": 65536, "warps": 48, "blocks": 16, "shared": 100 * 1024}
FEW_REGISTERS = {"registers": 65536, "warps": 16384, "blocks": 4096, "shared": 65536 * 1024}
# Each limit binds in one of these cases, and mistakes about it give other numbers than any other mistake.
TELLING = [(65, 2, 16384, FEW_REGISTERS), (40, 4, 16384, SM_86), (16, 8, 0, SM_80), (16, 1, 0, SM_86)]


def _compare_blocks(attempt: Attempt, registers: int, warps: int, shared: int, sm: SM) -> None:
    case = {"registers": registers, "warps": warps, "shared": shared, "sm": sm}
    got = attempt(registers, warps, shared, dict(sm))
    up, down = -(-registers // 8) * 8, registers // 8 * 8

    def fit(registers: int = up * 32 * warps, warps: int = warps, shared: int = shared + 1024, **other: int) -> int:
        return _fit(sm | other, registers, warps, shared)

    mistakes = [
        (fit(registers * 32 * warps), "registers are handed out in eights: round up"),
        (fit(down * 32 * warps), "a thread that needs 65 registers cannot live with 64: round *up* to a multiple of 8"),
        (fit(up * warps), "`registers` is what one *thread* takes, and a warp has 32 threads"),
        (fit(up * 32), "a block has `warps` warps, and each of them takes registers"),
        (fit(shared=max(shared, 1)), "each block takes another 1,024 bytes of shared memory for itself"),
        (fit(registers=0), "registers are a limit as well"),
        (fit(shared=0), "shared memory is a limit as well"),
        (fit(warps=0), "the multiprocessor holds only sm['warps'] warps at a time"),
        (fit(blocks=10**6), "there are never more than sm['blocks']"),
    ]
    expect(got, fit(), hint=likely(got, mistakes), **case)


def _fit(sm: SM, registers: int, warps: int, shared: int) -> int:
    """How many blocks fit: one more is put in until something is used up."""
    count = 0
    while count < sm["blocks"] and all(
        (count + 1) * need <= sm[name]
        for name, need in (("registers", registers), ("warps", warps), ("shared", shared))
    ):
        count += 1
    return count
