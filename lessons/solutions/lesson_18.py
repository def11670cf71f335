"""Solutions to the exercises of lesson 18, What would a GPU do?"""


def tiling_bytes(N, M, D, block_n, block_m, itemsize):
    row_blocks, column_blocks = -(-N // block_n), -(-M // block_m)
    return (N * column_blocks + M * row_blocks) * D * itemsize


def lru_misses(lines, capacity):
    cache, misses = {}, 0  # a dict keeps the order in which its keys came
    for line in lines:
        if line in cache:
            del cache[line]
        else:
            misses += 1
            if len(cache) == capacity:
                del cache[next(iter(cache))]
        cache[line] = True
    return misses


def program_order(rows, columns, capacity):
    size = capacity - 2  # two places are for the block of y in use and the one before it
    return [
        (i, j) for first in range(0, rows, size) for j in range(columns) for i in range(first, min(first + size, rows))
    ]


def blocks_per_sm(registers, warps, shared, sm):
    rounded = -(-registers // 8) * 8
    return min(
        sm["registers"] // (rounded * 32 * warps),
        sm["warps"] // warps,
        sm["shared"] // (shared + 1024),
        sm["blocks"],
    )
