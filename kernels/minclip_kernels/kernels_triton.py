"""The Triton kernels: matrix products whose tiles never leave the chip.

x (n, D) and y (M, D) are the features as `prepare_kernel` left them: every row scaled by a power of
two to a length in [1, 2), padded with zeros to whole tiles. r and q are their inverse lengths, in
(½, 1], so that cos_ij = r_i q_j ⟨x_i, y_j⟩; the features themselves are never rounded again.
Without NORMALIZE the features are only padded, and r and q are ones.

A launch covers a chunk of the matrix, whose first row and column are `first_row` and
`first_column`. Vectors and chunk-sized outputs are padded to whole tiles; where they are not, a
mask says so. Nothing is added by atomics: every program writes its sums to a place of its own, and
they are added in a fixed order. Row i matches column i + offset. Logits are in units of ln 2.
"""

import triton
import triton.language as tl

SMALLEST_SUM = tl.constexpr(2.0**-60)  # A tile with a smaller sum is computed again exactly.
WIDEST_SPREAD = tl.constexpr(120.0)  # Log-sum-exps further apart have no common exponential.
WEIGHT = tl.constexpr(4096.0)  # Coefficients times this use the range of float16 best.
FROM_INT16 = tl.constexpr(1.0 / 32767)
LOWEST = tl.constexpr(-3.0e38)  # For an empty row or column, because −inf − (−inf) would be NaN.
DROP = tl.constexpr(1)  # IDS: entries with equal ids are left out.
ALL = tl.constexpr(2)  # IDS: entries with equal ids are all positives.


@triton.jit
def prepare_kernel(
    image, image_features, image_inverse_norms, image_shrinks, image_count, image_row_stride,
    image_column_stride, image_programs, text, text_features, text_inverse_norms, text_shrinks,
    text_count, text_row_stride, text_column_stride, width, padded_width,
    NORMALIZE: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Write the features of both towers as the other kernels use them."""
    program = tl.program_id(0)
    if program < image_programs:
        _prepare(
            image, image_features, image_inverse_norms, image_shrinks, image_count,
            image_row_stride, image_column_stride, program * BLOCK, width, padded_width,
            NORMALIZE, BLOCK, STEP,
        )  # fmt: skip
    else:
        _prepare(
            text, text_features, text_inverse_norms, text_shrinks, text_count, text_row_stride,
            text_column_stride, (program - image_programs) * BLOCK, width, padded_width,
            NORMALIZE, BLOCK, STEP,
        )  # fmt: skip


@triton.jit
def _prepare(
    features, scaled, inverse_norms, shrinks, count, row_stride, column_stride, first, width,
    padded_width, NORMALIZE: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Write rows times a power of two (scaled), their inverse lengths, and that power (shrinks)."""
    rows = first + tl.arange(0, BLOCK)
    source = features + rows.to(tl.int64)[:, None] * row_stride
    target = scaled + rows.to(tl.int64)[:, None] * padded_width
    steps = tl.arange(0, STEP)

    # The length of each row, at least 1e-12, is 2^exponent times a number in [1, 2).
    squares = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, width, STEP):
        columns = start + steps
        mask = (rows < count)[:, None] & (columns < width)[None, :]
        x = tl.load(source + columns.to(tl.int64)[None, :] * column_stride, mask=mask, other=0.0)
        squares += tl.sum(x.to(tl.float32) * x.to(tl.float32), 1)
    lengths = tl.sqrt(squares)
    lengths = tl.where(lengths < 1e-12, 1e-12, lengths)
    exponents = ((lengths.to(tl.int32, bitcast=True) >> 23) & 255) - 127
    shrink = ((127 - tl.minimum(exponents, 126)) << 23).to(tl.float32, bitcast=True)
    inverse = 1.0 / (lengths * shrink)
    if not NORMALIZE:
        shrink = tl.full((BLOCK,), 1.0, tl.float32)
        inverse = tl.full((BLOCK,), 1.0, tl.float32)
    tl.store(shrinks + rows, shrink)
    tl.store(inverse_norms + rows, inverse)

    for start in range(0, padded_width, STEP):
        columns = start + steps
        mask = (rows < count)[:, None] & (columns < width)[None, :]
        x = tl.load(source + columns.to(tl.int64)[None, :] * column_stride, mask=mask, other=0.0)
        x = (x.to(tl.float32) * shrink[:, None]).to(scaled.dtype.element_ty)
        tl.store(target + columns[None, :], x, mask=(columns < padded_width)[None, :])


@triton.jit
def pair_kernel(x, y, r, q, cosines, count, width, offset, BLOCK: tl.constexpr, STEP: tl.constexpr):
    """Write the cosines of the pairs, (n,)."""
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < count
    columns = tl.where(inside, rows + offset, 0)
    steps = tl.arange(0, STEP)
    products = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, width, STEP):
        mask = inside[:, None] & (start + steps < width)[None, :]
        x_place = rows.to(tl.int64)[:, None] * width + start + steps[None, :]
        y_place = columns.to(tl.int64)[:, None] * width + start + steps[None, :]
        x_part = tl.load(x + x_place, mask=mask, other=0.0).to(tl.float32)
        y_part = tl.load(y + y_place, mask=mask, other=0.0).to(tl.float32)
        products += tl.sum(x_part * y_part, 1)
    norms = tl.load(r + rows, mask=inside) * tl.load(q + columns, mask=inside)
    tl.store(cosines + rows, products * norms, mask=inside)


@triton.jit
def _place(program, row_blocks, column_blocks, GROUP: tl.constexpr):
    """Return the block of rows and the block of columns of a program.

    GROUP blocks of rows take turns, so that programs that run together share features in the
    level-2 cache.
    """
    group = program // (GROUP * column_blocks)
    rows_in_group = tl.minimum(row_blocks - group * GROUP, GROUP)
    place = program % (GROUP * column_blocks)
    return group * GROUP + place % rows_in_group, place // rows_in_group


@triton.jit
def _product(
    x, y, row, column, width,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return the products of BLOCK_M rows from `row` on with BLOCK_N columns from `column` on."""
    product = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    if DESCRIPTORS:
        for start in range(0, width, BLOCK_K):
            x_tile, y_tile = x.load([row, start]), y.load([column, start])
            product = tl.dot(x_tile, y_tile.T, product, input_precision=PRECISION)
    else:
        steps = tl.arange(0, BLOCK_K)
        x_rows = (row + tl.arange(0, BLOCK_M)).to(tl.int64)
        y_rows = (column + tl.arange(0, BLOCK_N)).to(tl.int64)
        x_place = x + x_rows[:, None] * width + steps[None, :]
        y_place = y + y_rows[None, :] * width + steps[:, None]
        for _ in range(0, width, BLOCK_K):
            product = tl.dot(tl.load(x_place), tl.load(y_place), product, input_precision=PRECISION)
            x_place += BLOCK_K
            y_place += BLOCK_K
    return product


@triton.jit
def _masked(
    logits, rows, columns, row_count, column_count, offset, row_ids, column_ids, IDS: tl.constexpr
):
    """Return the logits with −inf for pairs, for what is dropped and beyond the edge."""
    counted = (rows < row_count)[:, None] & (columns < column_count)[None, :]
    counted &= columns[None, :] != rows[:, None] + offset
    if IDS == DROP:
        counted &= row_ids[:, None] != column_ids[None, :]
    return tl.where(counted, logits, -float("inf"))


@triton.jit
def log_sum_exp_kernel(
    x, y, r, q, scale, row_ids, column_ids, row_shares, column_shares,
    row_sums, column_sums, tops, flags, pulls, kept,
    first_row, first_column, row_blocks, column_blocks, row_count, column_count, width, offset,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr, IDS: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """Write the sums of exp2(logit − top) over the rows and the columns of each tile.

    top: the tile's largest logit. Logarithms are taken once, when the tiles are combined. flags
    says which tiles have a sum so small that digits are lost.
    """
    row_block, column_block = _place(tl.program_id(0), row_blocks, column_blocks, GROUP)
    row, column = first_row + row_block * BLOCK_M, first_column + column_block * BLOCK_N
    rows, columns = row + tl.arange(0, BLOCK_M), column + tl.arange(0, BLOCK_N)
    product = _product(x, y, row, column, width, BLOCK_M, BLOCK_N, BLOCK_K, DESCRIPTORS, PRECISION)
    local_rows = row_block * BLOCK_M + tl.arange(0, BLOCK_M)
    local_columns = column_block * BLOCK_N + tl.arange(0, BLOCK_N)
    q_tile = tl.load(q + columns)
    if KEEP:
        cosines = product * (tl.load(r + rows)[:, None] * q_tile[None, :])
        place = local_rows.to(tl.int64)[:, None] * (column_blocks * BLOCK_N)
        whole = tl.floor(cosines * 32767 + 0.5).to(tl.int16)
        tl.store(kept + place + local_columns[None, :], whole)
    logits = product * ((tl.load(r + rows) * tl.load(scale))[:, None] * q_tile[None, :])

    # Most tiles lie within the matrix and hold no pair; they need no mask.
    inside = (row + BLOCK_M <= row_count) & (column + BLOCK_N <= column_count)
    before = row + offset + BLOCK_M <= column
    has_no_pair = before | (column + BLOCK_N <= row + offset)
    if IDS:
        row_id = tl.load(row_ids + rows, mask=rows < row_count)
        column_id = tl.load(column_ids + columns, mask=columns < column_count)
        if IDS == ALL:
            share = _targets(
                rows, columns, row_id, column_id, row_shares, column_shares, row_count,
                column_count, offset,
            )  # fmt: skip
            pull = tl.sum(tl.where(share != 0.0, share * logits, 0.0), 1)
            tl.store(pulls + column_block.to(tl.int64) * (row_blocks * BLOCK_M) + local_rows, pull)
        logits = _masked(
            logits, rows, columns, row_count, column_count, offset, row_id, column_id, IDS
        )
    else:
        if not (inside & has_no_pair):
            logits = _masked(
                logits, rows, columns, row_count, column_count, offset, rows, columns, IDS
            )

    top = tl.max(logits)
    top = tl.where(top == -float("inf"), 0.0, top)
    shares = tl.exp2(logits - top)
    row_sum, column_sum = tl.sum(shares, 1), tl.sum(shares, 0)
    row_place = column_block.to(tl.int64) * (row_blocks * BLOCK_M) + local_rows
    column_place = row_block.to(tl.int64) * (column_blocks * BLOCK_N) + local_columns
    tl.store(row_sums + row_place, row_sum)
    tl.store(column_sums + column_place, column_sum)
    least = tl.min(tl.where(rows < row_count, row_sum, 1.0))
    least = tl.minimum(least, tl.min(tl.where(columns < column_count, column_sum, 1.0)))
    tile = row_block * column_blocks + column_block
    tl.store(tops + tile, top)
    tl.store(flags + tile, (least < SMALLEST_SUM).to(tl.int32))


@triton.jit
def _targets(
    rows, columns, row_id, column_id, row_shares, column_shares, row_count, column_count, offset
):
    """Return the targets outside the pairs: the shares of row and column where ids are equal."""
    share = tl.load(row_shares + rows, mask=rows < row_count, other=0.0)[:, None]
    share += tl.load(column_shares + columns, mask=columns < column_count, other=0.0)[None, :]
    counted = (rows < row_count)[:, None] & (columns < column_count)[None, :]
    counted &= columns[None, :] != rows[:, None] + offset
    return tl.where(counted & (row_id[:, None] == column_id[None, :]), share, 0.0)


@triton.jit
def _log_sum_exp(logits, axis: tl.constexpr):
    """Return log2 Σ exp2 over one axis with the true maximum; −inf where every logit is −inf."""
    largest = tl.max(logits, axis)
    largest = tl.where(largest == -float("inf"), 0.0, largest)
    total = tl.sum(tl.exp2(logits - tl.expand_dims(largest, axis)), axis)
    is_empty = total == 0.0
    return tl.where(is_empty, -float("inf"), largest + tl.log2(tl.where(is_empty, 1.0, total)))


@triton.jit
def exact_log_sum_exp_kernel(
    x, y, r, q, scale, row_ids, column_ids, row_sums, column_sums, tops, flags,
    first_row, first_column, row_blocks, column_blocks, row_count, column_count, width, offset,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr, IDS: tl.constexpr,
):  # fmt: skip
    """Write log-sum-exps in place of the sums of flagged tiles, and +inf in place of their top."""
    for tile in range(tl.program_id(0), row_blocks * column_blocks, tl.num_programs(0)):
        if tl.load(flags + tile) != 0:
            row_block, column_block = tile // column_blocks, tile % column_blocks
            row, column = first_row + row_block * BLOCK_M, first_column + column_block * BLOCK_N
            rows, columns = row + tl.arange(0, BLOCK_M), column + tl.arange(0, BLOCK_N)
            product = _product(
                x, y, row, column, width, BLOCK_M, BLOCK_N, BLOCK_K, DESCRIPTORS, PRECISION
            )
            norms = (tl.load(r + rows) * tl.load(scale))[:, None] * tl.load(q + columns)[None, :]
            row_id, column_id = rows, columns
            if IDS:
                row_id = tl.load(row_ids + rows, mask=rows < row_count)
                column_id = tl.load(column_ids + columns, mask=columns < column_count)
            logits = _masked(
                product * norms, rows, columns, row_count, column_count, offset, row_id, column_id,
                IDS,
            )  # fmt: skip
            row_place = column_block.to(tl.int64) * (row_blocks * BLOCK_M) + row_block * BLOCK_M
            column_place = row_block.to(tl.int64) * (column_blocks * BLOCK_N)
            column_place += column_block * BLOCK_N
            row_lse = _log_sum_exp(logits, tl.constexpr(1))
            column_lse = _log_sum_exp(logits, tl.constexpr(0))
            tl.store(row_sums + row_place + tl.arange(0, BLOCK_M), row_lse)
            tl.store(column_sums + column_place + tl.arange(0, BLOCK_N), column_lse)
            tl.store(tops + tile, float("inf"))


@triton.jit
def combine_kernel(
    row_sums, column_sums, tops, rows, columns,
    first_row, first_column, row_blocks, column_blocks, row_count, column_count,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr,
    FIRST_ROWS: tl.constexpr, FIRST_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Add the tiles of a chunk to the log-sum-exps of its rows (n,) and columns (M,)."""
    row_programs = tl.cdiv(row_blocks * BLOCK_M, BLOCK)
    program = tl.program_id(0)
    if program < row_programs:
        _combine(
            row_sums, tops, rows, program * BLOCK, first_row, row_count, column_blocks,
            row_blocks * BLOCK_M, column_blocks, 1, BLOCK_M, BLOCK, STEP, FIRST_ROWS,
        )  # fmt: skip
    else:
        _combine(
            column_sums, tops, columns, (program - row_programs) * BLOCK, first_column,
            column_count, row_blocks, column_blocks * BLOCK_N, 1, column_blocks, BLOCK_N, BLOCK,
            STEP, FIRST_COLUMNS,
        )  # fmt: skip


@triton.jit
def _combine(
    sums, tops, out, start, first, count, parts, length, top_stride, part_stride,
    LENGTH: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    """Write log2 Σ over parts of sums[part, place] 2^top, in a fixed order, online in one pass.

    The top of a place and a part is at (place // LENGTH) · top_stride + part · part_stride. Where
    it is +inf, the sum is a logarithm already.
    """
    places = start + tl.arange(0, BLOCK)
    inside = (places < length) & (first + places < count)
    largest = tl.full((BLOCK,), -float("inf"), tl.float32)
    if not FIRST:
        largest = tl.load(out + first + places, mask=inside, other=-float("inf"))
    total = tl.where(largest == -float("inf"), 0.0, 1.0)
    for step in range(0, parts, STEP):
        part = step + tl.arange(0, STEP)
        mask = (part < parts)[:, None] & inside[None, :]
        sum_place = part.to(tl.int64)[:, None] * length + places[None, :]
        top_place = part[:, None] * part_stride + (places // LENGTH)[None, :] * top_stride
        value = tl.load(sums + sum_place, mask=mask, other=0.0)
        top = tl.load(tops + top_place, mask=mask, other=0.0)
        is_sum = (top != float("inf")) & (value != 0.0)
        logarithm = top + tl.log2(tl.where(is_sum, value, 1.0))
        value = tl.where(is_sum, logarithm, tl.where(top == float("inf"), value, -float("inf")))
        value = tl.where(mask, value, -float("inf"))
        new = tl.maximum(largest, tl.max(value, 0))
        base = tl.where(new == -float("inf"), 0.0, new)
        total = total * tl.exp2(largest - base) + tl.sum(tl.exp2(value - base[None, :]), 0)
        largest = new
    is_empty = total == 0.0
    lse = tl.where(is_empty, LOWEST, largest + tl.log2(tl.where(is_empty, 1.0, total)))
    tl.store(out + first + places, lse, mask=inside)


@triton.jit
def factors_kernel(
    row_lse, column_lse, row_factors, column_factors, scalars, row_count, column_count,
    padded_rows, padded_columns, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write exp2(middle − lse) of all rows and columns, zero in the padding.

    scalars: middle and spread of all log-sum-exps. A column_lse of +inf counts for nothing.
    """
    steps = tl.arange(0, BLOCK)
    highest = tl.full((BLOCK,), -float("inf"), tl.float32)
    lowest = tl.full((BLOCK,), float("inf"), tl.float32)
    for start in range(0, row_count, BLOCK):
        mask = start + steps < row_count
        lse = tl.load(row_lse + start + steps, mask=mask, other=float("inf"))
        lowest = tl.minimum(lowest, lse)
        highest = tl.maximum(highest, tl.where(mask, lse, -float("inf")))
    for start in range(0, column_count, BLOCK):
        mask = start + steps < column_count
        lse = tl.load(column_lse + start + steps, mask=mask, other=float("inf"))
        lowest = tl.minimum(lowest, lse)
        highest = tl.maximum(highest, tl.where(lse == float("inf"), -float("inf"), lse))
    least, most = tl.min(lowest), tl.max(highest)
    middle = (least + most) / 2  # pyright: ignore[reportOperatorIssue]
    tl.store(scalars, middle)
    tl.store(scalars + 1, most - least)  # pyright: ignore[reportOperatorIssue]
    for start in range(0, padded_rows, BLOCK):
        places = start + steps
        lse = tl.load(row_lse + places, mask=places < row_count, other=float("inf"))
        tl.store(row_factors + places, tl.exp2(middle - lse), mask=places < padded_rows)
    for start in range(0, padded_columns, BLOCK):
        places = start + steps
        lse = tl.load(column_lse + places, mask=places < column_count, other=float("inf"))
        tl.store(column_factors + places, tl.exp2(middle - lse), mask=places < padded_columns)


@triton.jit
def coefficients_kernel(
    x, y, r, q, scale, center, scalars, row_terms, column_terms, missing, row_ids, column_ids,
    row_shares, column_shares, kept, out, moments, weight,
    first_row, first_column, row_blocks, column_blocks, row_count, column_count, width, offset,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr, IDS: tl.constexpr, PARTS: tl.constexpr,
    EXACT: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """Write G_ij r_i q_j WEIGHT to out, and weight · Σ G (cos − center) of each tile.

    G is P^row + P^col, minus the targets of equal ids, and −missing at the pairs, all in float32
    before it is rounded. EXACT: row_terms and column_terms are the log-sum-exps and take an
    exponential each; otherwise they are factors of one exponential. One of the two variants works,
    the other returns at once. The spread, read from the GPU's memory, decides; no CPU waits for it.
    """
    is_wide = tl.load(scalars + 1) > WIDEST_SPREAD
    if is_wide == EXACT:
        program = tl.program_id(0)
        row_block, column_block = _place(program, row_blocks, column_blocks, GROUP)
        row, column = first_row + row_block * BLOCK_M, first_column + column_block * BLOCK_N
        rows = row + tl.arange(0, BLOCK_M)
        is_inside = (row + BLOCK_M <= row_count) & (column + BLOCK_N <= column_count)
        stride = column_blocks * BLOCK_N
        place = (row_block * BLOCK_M).to(tl.int64) * stride + column_block * BLOCK_N
        if KEPT:
            local = tl.arange(0, BLOCK_M)[:, None] * stride + tl.arange(0, BLOCK_N)[None, :]
            product = tl.load(kept + place + local).to(tl.float32)
        else:
            product = _product(
                x, y, row, column, width, BLOCK_M, BLOCK_N, BLOCK_K, DESCRIPTORS, PRECISION
            )
        total = _coefficients(
            product, tl.load(r + rows) * WEIGHT, rows, column, q, scale, center, scalars,
            row_terms, column_terms, missing, row_ids, column_ids, row_shares, column_shares,
            out + place, stride, row_count, column_count, offset, is_inside,
            BLOCK_M, BLOCK_N, PARTS, IDS, EXACT, KEPT,
        )  # fmt: skip
        tl.store(moments + program, tl.sum(total) * (weight / WEIGHT))


@triton.jit
def _coefficients(
    product, r, rows, column, q, scale, center, scalars, row_terms, column_terms, missing, row_ids,
    column_ids, row_shares, column_shares, out, stride, row_count, column_count, offset, is_inside,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PARTS: tl.constexpr, IDS: tl.constexpr,
    EXACT: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """Work on a tile in PARTS groups of columns, which take turns in the registers.

    r comes multiplied by WEIGHT. Returns WEIGHT · Σ_j G (cos − center) of each row.
    """
    if PARTS > 1:
        HALF: tl.constexpr = BLOCK_N // 2
        left, right = tl.split(tl.permute(tl.reshape(product, (BLOCK_M, 2, HALF)), (0, 2, 1)))
        total = _coefficients(
            left, r, rows, column, q, scale, center, scalars, row_terms, column_terms, missing,
            row_ids, column_ids, row_shares, column_shares, out, stride, row_count, column_count,
            offset, is_inside, BLOCK_M, HALF, PARTS // 2, IDS, EXACT, KEPT,
        )  # fmt: skip
        total += _coefficients(
            right, r, rows, column + HALF, q, scale, center, scalars, row_terms, column_terms,
            missing, row_ids, column_ids, row_shares, column_shares, out + HALF, stride,
            row_count, column_count, offset, is_inside, BLOCK_M, HALF, PARTS // 2, IDS, EXACT, KEPT,
        )  # fmt: skip
        return total
    else:
        columns = column + tl.arange(0, BLOCK_N)
        row_inside, column_inside = rows < row_count, columns < column_count
        norms = r[:, None] * tl.load(q + columns)[None, :]
        scaling = norms
        if KEPT:
            scaling = tl.full((BLOCK_M, BLOCK_N), WEIGHT * FROM_INT16, tl.float32)
        cosines = product * scaling  # WEIGHT · cos
        factor = tl.load(scale) / WEIGHT
        if EXACT:
            row_lse = tl.load(row_terms + rows, mask=row_inside, other=float("inf"))
            column_lse = tl.load(column_terms + columns, mask=column_inside, other=float("inf"))
            logits = cosines * factor
            g = tl.exp2(logits - row_lse[:, None]) + tl.exp2(logits - column_lse[None, :])
        else:
            terms = tl.load(row_terms + rows)[:, None] + tl.load(column_terms + columns)[None, :]
            g = tl.exp2(cosines * factor - tl.load(scalars)) * terms
        if IDS:
            row_id = tl.load(row_ids + rows, mask=row_inside)
            column_id = tl.load(column_ids + columns, mask=column_inside)
            if IDS == DROP:
                g = tl.where(row_id[:, None] == column_id[None, :], 0.0, g)
            else:
                g -= _targets(
                    rows, columns, row_id, column_id, row_shares, column_shares, row_count,
                    column_count, offset,
                )  # fmt: skip
        pairs = tl.load(missing + rows, mask=row_inside, other=0.0)
        g = tl.where(columns[None, :] == rows[:, None] + offset, -pairs[:, None], g)
        if not is_inside:
            g = tl.where(row_inside[:, None] & column_inside[None, :], g, 0.0)
        total = tl.sum(
            g * (cosines - tl.load(center) * WEIGHT), 1
        )  # Before the store, which then reuses the registers.
        local = (
            tl.arange(0, BLOCK_M).to(tl.int64)[:, None] * stride + tl.arange(0, BLOCK_N)[None, :]
        )
        tl.store(out + local, (g * norms).to(out.dtype.element_ty))
        return total


@triton.jit
def sigmoid_kernel(
    x, y, r, q, scale, bias, out, sums, weight,
    first_row, first_column, row_blocks, column_blocks, row_count, column_count, width, offset,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Write G_ij r_i q_j WEIGHT of the sigmoid loss to out.

    With t the logit, or minus the logit of a pair, G = σ(t), or −σ(t) for a pair. sums: for each
    tile weight times Σ softplus(t), Σ G cos and Σ G. scale and bias are in units of ln 2.
    """
    program = tl.program_id(0)
    row_block, column_block = _place(program, row_blocks, column_blocks, GROUP)
    row, column = first_row + row_block * BLOCK_M, first_column + column_block * BLOCK_N
    rows = row + tl.arange(0, BLOCK_M)
    product = _product(x, y, row, column, width, BLOCK_M, BLOCK_N, BLOCK_K, DESCRIPTORS, PRECISION)
    stride = column_blocks * BLOCK_N
    place = (row_block * BLOCK_M).to(tl.int64) * stride + column_block * BLOCK_N
    losses, moments, totals = _sigmoid(
        product, tl.load(r + rows) * WEIGHT, rows, column, q, scale, bias, out + place, stride,
        column_count, offset, BLOCK_M, BLOCK_N, PARTS,
    )  # fmt: skip
    inside = (rows < row_count)[:, None]
    place = sums + program.to(tl.int64) * 3
    tl.store(place, tl.sum(tl.where(inside, losses, 0.0)) * (0.6931471805599453 * weight))
    tl.store(place + 1, tl.sum(tl.where(inside, moments, 0.0)) * (weight / WEIGHT))
    tl.store(place + 2, tl.sum(tl.where(inside, totals, 0.0)) * weight)


@triton.jit
def _sigmoid(
    product, r, rows, column, q, scale, bias, out, stride, column_count, offset,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Work on a tile in PARTS groups of columns; return what to sum, added up over the groups.

    r comes multiplied by WEIGHT. A bias of −inf empties the columns beyond the edge. Rows beyond it
    are not masked here: their features are zeros, and their gradients are cut off.
    """
    if PARTS > 1:
        HALF: tl.constexpr = BLOCK_N // 2
        left, right = tl.split(tl.permute(tl.reshape(product, (BLOCK_M, 2, HALF)), (0, 2, 1)))
        losses, moments, totals = _sigmoid(
            left, r, rows, column, q, scale, bias, out, stride, column_count, offset, BLOCK_M,
            HALF, PARTS // 2,
        )  # fmt: skip
        more_losses, more_moments, more_totals = _sigmoid(
            right, r, rows, column + HALF, q, scale, bias, out + HALF, stride, column_count,
            offset, BLOCK_M, HALF, PARTS // 2,
        )  # fmt: skip
        return losses + more_losses, moments + more_moments, totals + more_totals
    else:
        columns = column + tl.arange(0, BLOCK_N)
        shift = tl.where(columns < column_count, tl.load(bias), -float("inf"))
        norms = r[:, None] * tl.load(q + columns)[None, :]
        cosines = product * norms  # WEIGHT · cos
        logits = cosines * (tl.load(scale) / WEIGHT) + shift[None, :]
        is_pair = columns[None, :] == rows[:, None] + offset
        t = tl.where(is_pair, -logits, logits)
        # With u = 2^(−t): σ(t) = 1 / (1 + u), σ(−t) = u / (1 + u), and the smaller of them is v.
        # The square of a reciprocal root is cheaper than a division. Where u is infinite, u · g is
        # NaN, and the minimum is g = 0.
        u = tl.exp2(-t)
        root = tl.rsqrt(1.0 + u)
        g = root * root
        v = tl.minimum(g, u * g)
        # softplus(t) = max(t, 0) − log2(1 − v), the latter as v · polynomial(v) on [0, ½], fitted
        # for the least relative error, 1e-6: it has its digits however small v is.
        series = 0.754104559 + v * (-0.92022414 + v * 1.42903957)
        series = 0.488943508 + v * (0.270566881 + v * series)
        series = 1.44269644 + v * (0.721083213 + v * series)
        losses = tl.maximum(t, 0.0) + v * series
        g = tl.where(is_pair, -g, g)
        local = (
            tl.arange(0, BLOCK_M).to(tl.int64)[:, None] * stride + tl.arange(0, BLOCK_N)[None, :]
        )
        tl.store(out + local, (g * norms).to(out.dtype.element_ty))
        return losses, g * cosines, g


@triton.jit
def finish_kernel(
    image_gradient, image, image_inverse_norms, image_shrinks, image_programs,
    text_gradient, text, text_inverse_norms, text_shrinks, scale, weight, width,
    NORMALIZE: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Turn the gradients of prepared features into those of raw features, in place."""
    program = tl.program_id(0)
    factor = tl.load(scale) * (0.6931471805599453 * weight / WEIGHT)
    if program < image_programs:
        _finish(
            image_gradient, image, image_inverse_norms, image_shrinks, program * BLOCK, factor,
            width, NORMALIZE, BLOCK, STEP,
        )  # fmt: skip
    else:
        _finish(
            text_gradient, text, text_inverse_norms, text_shrinks,
            (program - image_programs) * BLOCK, factor, width, NORMALIZE, BLOCK, STEP,
        )  # fmt: skip


@triton.jit
def _finish(
    gradient, features, inverse_norms, shrinks, first, factor, width,
    NORMALIZE: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Scale some rows; remove the component along the feature, if that is longer than 1e-12."""
    rows = first + tl.arange(0, BLOCK)
    places = rows.to(tl.int64)[:, None] * width + tl.arange(0, STEP)[None, :]
    steps = tl.arange(0, STEP)
    inverse, shrink = tl.load(inverse_norms + rows), tl.load(shrinks + rows)
    along = tl.zeros((BLOCK,), dtype=tl.float32)
    if NORMALIZE:
        for start in range(0, width, STEP):
            mask = (start + steps < width)[None, :]
            g = tl.load(gradient + places + start, mask=mask, other=0.0)
            x = tl.load(features + places + start, mask=mask, other=0.0).to(tl.float32)
            along += tl.sum(g * x, 1)
        is_longer = inverse * shrink < (1 - 1e-6) / 1e-12
        along = tl.where(is_longer, along * inverse * inverse, 0.0)
    factors = (shrink * factor)[:, None]
    for start in range(0, width, STEP):
        mask = (start + steps < width)[None, :]
        g = tl.load(gradient + places + start, mask=mask, other=0.0)
        x = tl.load(features + places + start, mask=mask, other=0.0).to(tl.float32)
        tl.store(gradient + places + start, (g - along[:, None] * x) * factors, mask=mask)
