"""Wrong answers to the exercises of lesson 18, each with words of the hint that fits it."""

from mistakes import Hinted


def blocks(size, block):
    return -(-size // block)


def by_rows(rows, columns, capacity):
    return [(i, j) for i in range(rows) for j in range(columns)]


def grouped(size, inner=lambda group, columns: [(i, j) for j in range(columns) for i in group]):
    """An order in groups of rows; size(capacity) says how many."""

    def attempt(rows, columns, capacity):
        step = size(capacity)
        groups = [range(first, min(first + step, rows)) for first in range(0, rows, step)]
        return [place for group in groups for place in inner(group, columns)]

    return attempt


def only_full_groups(rows, columns, capacity):
    size = capacity - 2
    return [(k * size + i, j) for k in range(rows // size) for j in range(columns) for i in range(size)]


def beyond_the_edge(rows, columns, capacity):
    size = capacity - 2
    return [(first + i, j) for first in range(0, rows, size) for j in range(columns) for i in range(size)]


def to_and_fro(rows, columns, capacity):
    return [(i, j if i % 2 == 0 else columns - 1 - j) for i in range(rows) for j in range(columns)]


def first_in_first_out(lines, capacity):
    cache, misses = [], 0
    for line in lines:
        if line not in cache:
            misses += 1
            cache = [*cache, line][-capacity:]
    return misses


MISTAKES = {
    "tiling_bytes": [
        Hinted(lambda N, M, D, n, m, size: (N + M) * D * size, "every element once"),
        Hinted(lambda N, M, D, n, m, size: (N * blocks(N, n) + M * blocks(M, m)) * D * size, "blocks of columns for x"),
        Hinted(lambda N, M, D, n, m, size: (N * (M // m) + M * (N // n)) * D * size, "round up"),
        Hinted(lambda N, M, D, n, m, size: blocks(N, n) * blocks(M, m) * (n + m) * D * size, "the mask says no"),
        Hinted(
            lambda N, M, D, n, m, size: ((N * blocks(M, m) + M * blocks(N, n)) * D + N * M) * size, "the product too"
        ),
        Hinted(lambda N, M, D, n, m, size: (N * blocks(M, m) + M * blocks(N, n)) * D, "`itemsize` bytes"),
        lambda N, M, D, n, m, size: 2 * N * M * D * size,  # every multiplication reads both factors
    ],
    "lru_misses": [
        Hinted(first_in_first_out, "a hit is a use"),
        Hinted(("del cache[line]\n", "pass\n"), "a hit is a use"),
        Hinted(lambda lines, capacity: len(set(lines)), "first uses only"),
        Hinted(("next(iter(cache))", "list(cache)[-1]"), "not the newest"),
        Hinted(("len(cache) == capacity", "len(cache) > capacity"), "at no time"),
        Hinted(("len(cache) == capacity", "len(cache) == max(capacity - 1, 1)"), "not sooner"),
        Hinted(("return misses", "return len(lines) - misses"), "count the others"),
        ("del cache[next(iter(cache))]", "cache.clear()"),
    ],
    "program_order": [
        Hinted(by_rows, "one row of tiles after the other"),
        Hinted(to_and_fro, "one row of tiles after the other"),
        Hinted(lambda rows, columns, capacity: [(i, j) for j in range(columns) for i in range(rows)], "whole columns"),
        Hinted(grouped(lambda capacity: capacity), "two places"),
        Hinted(grouped(lambda capacity: 2), "idle"),
        Hinted(
            grouped(
                lambda capacity: capacity - 2, lambda group, columns: [(i, j) for i in group for j in range(columns)]
            ),
            "one row of tiles after the other",
        ),
        Hinted(only_full_groups, "fewer rows"),
        Hinted(beyond_the_edge, "fewer rows"),
    ],
    "blocks_per_sm": [
        Hinted(("-(-registers // 8) * 8", "registers"), "in eights"),
        Hinted(("-(-registers // 8) * 8", "registers // 8 * 8"), "cannot live with"),
        Hinted(("rounded * 32 * warps", "rounded * warps"), "one *thread*"),
        Hinted(("rounded * 32 * warps", "rounded * 32"), "each of them takes registers"),
        Hinted(("(shared + 1024)", "max(shared, 1)"), "1,024 bytes"),
        Hinted(('sm["registers"] // (rounded * 32 * warps),', ""), "registers are a limit"),
        Hinted(('sm["warps"] // warps,', ""), "sm['warps'] warps at a time"),
        Hinted(('sm["shared"] // (shared + 1024),', ""), "shared memory is a limit"),
        Hinted(('sm["blocks"],', ""), "never more than sm['blocks']"),
    ],
}
