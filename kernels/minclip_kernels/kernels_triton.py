"""The Triton kernels: matrix products whose tiles never leave the chip.

x (n, D) and y (M, D) are the features as `prepare_kernel` left them: every row scaled by a power of
two to a length in [1, 2), padded with zeros to whole tiles. r and q are their inverse lengths, in
(½, 1], so that cos_ij = r_i q_j ⟨x_i, y_j⟩; the features themselves are never rounded again.
Without NORMALIZE the features are only padded, and r and q are ones.

A launch covers a chunk of the matrix, and each program a tile of it. TILE is a
`tiles_triton.Blocking`, image and text are an `Axis` each. Vectors and chunk-sized outputs are
padded to whole tiles; where they are not, a mask says so. Nothing is added by atomics: every
program writes its sums to a place of its own, and they are added in a fixed order. Row i matches
column i + offset. Logits are in units of ln 2.
"""

# Triton gives tl.constexpr and tl.static_range no types that pyright could use.
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
from typing import Any, NamedTuple

import triton
import triton.language as tl
from triton.language import constexpr

SMALLEST_SUM = tl.constexpr(2.0**-60)  # A tile with a smaller sum is computed again exactly.
WIDEST_SPREAD = tl.constexpr(120.0)  # Log-sum-exps further apart have no common exponential.
WEIGHT = tl.constexpr(4096.0)  # Coefficients times this use the range of float16 best.
LOWEST = tl.constexpr(-3.0e38)  # For an empty row or column, because −inf − (−inf) would be NaN.
LN_2 = tl.constexpr(0.6931471805599453)


class Tower(NamedTuple):
    """The features of images or of texts as the kernels use them, padded to whole tiles."""

    features: Any  # (N, D), rows scaled to a length in [1, 2) if normalised
    inverse_norms: Any  # (N,), of the scaled rows; ones if not normalised
    shrinks: Any  # (N,), the power of two that every row was multiplied by
    size: int  # rows without padding


class Axis(NamedTuple):
    """The images, which are the rows of the matrix, or the texts, which are its columns."""

    inverse_norms: Any  # r or q
    ids: Any  # None without ids
    shares: Any  # of positives="all", None without
    size: int  # in the whole matrix, without padding
    first: int  # row or column of the chunk
    blocks: int  # rows or columns of tiles in the chunk


@triton.jit
def prepare_kernel(
    raw_image, raw_text, image, text, width, padded_width, image_programs,
    NORMALIZE: constexpr, BLOCK: constexpr, WIDTH: constexpr,
):  # fmt: skip
    """Write the features of both towers as the other kernels use them."""
    program = tl.program_id(0)
    if program < image_programs:
        _prepare(raw_image, image, program, width, padded_width, NORMALIZE, BLOCK, WIDTH)
    else:
        program -= image_programs
        _prepare(raw_text, text, program, width, padded_width, NORMALIZE, BLOCK, WIDTH)


@triton.jit
def _prepare(
    raw, tower, block, width, padded_width, NORMALIZE: constexpr, BLOCK: constexpr, WIDTH: constexpr
):
    rows, steps = block * BLOCK + tl.arange(0, BLOCK), tl.arange(0, WIDTH)
    mask = (rows < tower.size)[:, None] & (steps < width)[None, :]
    x = tl.load(raw + rows.to(tl.int64)[:, None] * width + steps[None, :], mask=mask, other=0.0)
    x = x.to(tl.float32)
    shrink = tl.full((BLOCK,), 1.0, tl.float32)
    inverse = shrink
    if NORMALIZE:
        # The length of each row, at least 1e-12, is 2^exponent times a number in [1, 2).
        lengths = tl.sqrt(tl.sum(x * x, 1))
        lengths = tl.where(lengths < 1e-12, 1e-12, lengths)
        exponents = ((lengths.to(tl.int32, bitcast=True) >> 23) & 255) - 127
        shrink = ((127 - tl.minimum(exponents, 126)) << 23).to(tl.float32, bitcast=True)
        inverse = 1.0 / (lengths * shrink)
    tl.store(tower.shrinks + rows, shrink)
    tl.store(tower.inverse_norms + rows, inverse)
    target = tower.features + rows.to(tl.int64)[:, None] * padded_width + steps[None, :]
    x = (x * shrink[:, None]).to(tower.features.dtype.element_ty)
    tl.store(target, x, mask=(steps < padded_width)[None, :])


@triton.jit
def _place(program, image, text, GROUP: constexpr):
    """Return the block of rows and the block of columns of a program.

    GROUP blocks of rows take turns, so that programs that run together share features in the
    level-2 cache.
    """
    group = program // (GROUP * text.blocks)
    rows_in_group = tl.minimum(image.blocks - group * GROUP, GROUP)
    place = program % (GROUP * text.blocks)
    return group * GROUP + place % rows_in_group, place // rows_in_group


@triton.jit
def _sum_places(row_block, column_block, image, text, TILE: constexpr):
    """Return where the sums over the rows and over the columns of a tile belong."""
    row_length, column_length = image.blocks * TILE.block_m, text.blocks * TILE.block_n
    row_place = column_block.to(tl.int64) * row_length + row_block * TILE.block_m
    column_place = row_block.to(tl.int64) * column_length + column_block * TILE.block_n
    return row_place + tl.arange(0, TILE.block_m), column_place + tl.arange(0, TILE.block_n)


@triton.jit
def _product(x, y, row, column, width, TILE: constexpr, PRECISION: constexpr):
    """Return the products of a tile's rows, from `row` on, with its columns, from `column` on."""
    ROWS: constexpr = TILE.block_m
    COLUMNS: constexpr = TILE.block_n
    product = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    if TILE.descriptors:
        for start in range(0, width, TILE.block_k):
            x_tile, y_tile = x.load([row, start]), y.load([column, start])
            product = tl.dot(x_tile, y_tile.T, product, input_precision=PRECISION)
    else:
        steps = tl.arange(0, TILE.block_k)
        x_rows = (row + tl.arange(0, TILE.block_m)).to(tl.int64)
        y_rows = (column + tl.arange(0, TILE.block_n)).to(tl.int64)
        x_place = x + x_rows[:, None] * width + steps[None, :]
        y_place = y + y_rows[None, :] * width + steps[:, None]
        for _ in range(0, width, TILE.block_k):
            product = tl.dot(tl.load(x_place), tl.load(y_place), product, input_precision=PRECISION)
            x_place += TILE.block_k
            y_place += TILE.block_k
    return product


@triton.jit
def _counted(rows, columns, image, text, offset):
    """Whether entries lie within the matrix and are no pairs."""
    is_inside = (rows < image.size)[:, None] & (columns < text.size)[None, :]
    return is_inside & (columns[None, :] != rows[:, None] + offset)


@triton.jit
def _equal_ids(rows, columns, image, text):
    row_ids = tl.load(image.ids + rows, mask=rows < image.size)
    column_ids = tl.load(text.ids + columns, mask=columns < text.size)
    return row_ids[:, None] == column_ids[None, :]


@triton.jit
def _others(logits, rows, columns, image, text, offset):
    """Return the logits with −inf for pairs, for what is dropped and beyond the edge."""
    is_other = _counted(rows, columns, image, text, offset)
    if image.ids is not None and image.shares is None:
        is_other &= ~_equal_ids(rows, columns, image, text)
    return tl.where(is_other, logits, -float("inf"))


@triton.jit
def _targets(rows, columns, image, text, offset):
    """Return the targets outside the pairs: the shares of row and column where ids are equal."""
    share = tl.load(image.shares + rows, mask=rows < image.size, other=0.0)[:, None]
    share += tl.load(text.shares + columns, mask=columns < text.size, other=0.0)[None, :]
    is_positive = _counted(rows, columns, image, text, offset)
    is_positive &= _equal_ids(rows, columns, image, text)
    return tl.where(is_positive, share, 0.0)


@triton.jit
def log_sum_exp_kernel(
    x, y, width, image, text, offset, scale, cosines, row_sums, column_sums, tops, pulls,
    TILE: constexpr, GROUP: constexpr, PRECISION: constexpr,
):  # fmt: skip
    """Write the sums of exp2(logit − top) over the rows and the columns of each tile.

    top: the tile's largest logit, so that one exponential per logit serves both; or +inf, where
    that leaves a sum so small that digits are lost. Also written are the cosines of the pairs, and
    with shares the pulls Σ_j target · logit of each row in each tile.
    """
    program = tl.program_id(0)
    row_block, column_block = _place(program, image, text, GROUP)
    row_place, column_place = _sum_places(row_block, column_block, image, text, TILE)
    row = image.first + row_block * TILE.block_m
    column = text.first + column_block * TILE.block_n
    rows, columns = row + tl.arange(0, TILE.block_m), column + tl.arange(0, TILE.block_n)
    product = _product(x, y, row, column, width, TILE, PRECISION)
    r, q = tl.load(image.inverse_norms + rows), tl.load(text.inverse_norms + columns)

    # Most tiles hold no pair and lie within the matrix; without ids their logits need no mask.
    first_pair, last_pair = row + offset, row + offset + TILE.block_m - 1
    has_pair = (first_pair < column + TILE.block_n) & (last_pair >= column)
    needs_mask = has_pair | (row + TILE.block_m > image.size) | (column + TILE.block_n > text.size)
    if image.ids is not None:
        needs_mask = True
    if has_pair:
        is_pair = columns[None, :] == rows[:, None] + offset
        is_here = (rows + offset >= column) & (rows + offset < column + TILE.block_n)
        is_here &= rows < image.size
        cosine = tl.sum(tl.where(is_pair, product, 0.0), 1) * r
        cosine *= tl.load(text.inverse_norms + rows + offset, mask=is_here)
        tl.store(cosines + rows, cosine, mask=is_here)
    logits = product * ((r * tl.load(scale))[:, None] * q[None, :])
    if needs_mask:
        logits = _others(logits, rows, columns, image, text, offset)
    if image.shares is not None:
        targets = _targets(rows, columns, image, text, offset)
        pull = tl.sum(tl.where(targets != 0.0, targets * logits, 0.0), 1)
        tl.store(pulls + row_place, pull)

    top = tl.max(logits)
    top = tl.where(top == -float("inf"), 0.0, top)
    exponentials = tl.exp2(logits - top)
    row_sum, column_sum = tl.sum(exponentials, 1), tl.sum(exponentials, 0)
    tl.store(row_sums + row_place, row_sum)
    tl.store(column_sums + column_place, column_sum)
    least = tl.min(tl.where(rows < image.size, row_sum, 1.0))
    least = tl.minimum(least, tl.min(tl.where(columns < text.size, column_sum, 1.0)))
    top = tl.where(least < SMALLEST_SUM, float("inf"), top)
    tl.store(tops + row_block * text.blocks + column_block, top)


@triton.jit
def _log_sum_exp(logits, axis: constexpr):
    """Return log2 Σ exp2 over one axis with the true maximum; −inf where every logit is −inf."""
    largest = tl.max(logits, axis)
    largest = tl.where(largest == -float("inf"), 0.0, largest)
    return largest + tl.log2(tl.sum(tl.exp2(logits - tl.expand_dims(largest, axis)), axis))


@triton.jit
def exact_log_sum_exp_kernel(
    x, y, width, image, text, offset, scale, row_sums, column_sums, tops,
    TILE: constexpr, PRECISION: constexpr, STEP: constexpr,
):  # fmt: skip
    """Write log-sum-exps with the true maxima in place of the sums of tiles whose top is +inf.

    A program looks at STEP tiles, because most often there is nothing to do.
    """
    first, tiles = tl.program_id(0) * STEP, image.blocks * text.blocks
    steps = first + tl.arange(0, STEP)
    highest = tl.max(tl.load(tops + steps, mask=steps < tiles, other=0.0))
    last = tl.where(highest == float("inf"), tl.minimum(first + STEP, tiles), first)
    for tile in range(first, last):
        if tl.load(tops + tile) == float("inf"):
            row_block, column_block = tile // text.blocks, tile % text.blocks
            row_place, column_place = _sum_places(row_block, column_block, image, text, TILE)
            row = image.first + row_block * TILE.block_m
            column = text.first + column_block * TILE.block_n
            rows, columns = row + tl.arange(0, TILE.block_m), column + tl.arange(0, TILE.block_n)
            product = _product(x, y, row, column, width, TILE, PRECISION)
            r, q = tl.load(image.inverse_norms + rows), tl.load(text.inverse_norms + columns)
            logits = product * ((r * tl.load(scale))[:, None] * q[None, :])
            logits = _others(logits, rows, columns, image, text, offset)
            tl.store(row_sums + row_place, _log_sum_exp(logits, tl.constexpr(1)))
            tl.store(column_sums + column_place, _log_sum_exp(logits, tl.constexpr(0)))


@triton.jit
def combine_kernel(
    row_sums, column_sums, tops, row_lse, column_lse, image, text,
    TILE: constexpr, BLOCK: constexpr, STEP: constexpr,
):  # fmt: skip
    """Add the tiles of a chunk to the log-sum-exps of its rows (n,) and columns (M,)."""
    program, row_programs = tl.program_id(0), tl.cdiv(image.blocks * TILE.block_m, BLOCK)
    if program < row_programs:
        strides = text.blocks, 1
        _combine(row_sums, tops, strides, row_lse, image, text, program, TILE.block_m, BLOCK, STEP)
    else:
        strides, program = (1, text.blocks), program - row_programs
        _combine(
            column_sums, tops, strides, column_lse, text, image, program, TILE.block_n, BLOCK, STEP
        )


@triton.jit
def _combine(
    sums, tops, strides, lse, axis, other, block, SIZE: constexpr, BLOCK: constexpr, STEP: constexpr
):
    """Add the tiles' sums of some rows or columns in a fixed order, online in one pass.

    strides: of the tops, along this axis and along the other, on which the sums are added up. The
    result so far is total · exp2(largest): chunks after the first go on from what is in `lse`.
    """
    local = block * BLOCK + tl.arange(0, BLOCK)
    places = axis.first + local
    inside = (local < axis.blocks * SIZE) & (places < axis.size)
    top_places = tops + (local // SIZE)[None, :] * strides[0]
    largest = tl.full((BLOCK,), LOWEST, tl.float32)
    if other.first > 0:
        largest = tl.load(lse + places, mask=inside, other=LOWEST)
    total = tl.full((BLOCK,), 1.0, tl.float32)
    for start in range(0, other.blocks, STEP):
        tile = start + tl.arange(0, STEP)[:, None]
        mask = (tile < other.blocks) & inside[None, :]
        place = tile.to(tl.int64) * (axis.blocks * SIZE) + local[None, :]
        value = tl.load(sums + place, mask=mask, other=0.0)
        top = tl.load(top_places + tile * strides[1], mask=mask, other=0.0)
        # Where the top is +inf, the value is a logarithm already.
        value = tl.where(top == float("inf"), value, top + tl.log2(value))
        new = tl.maximum(largest, tl.max(value, 0))
        total = total * tl.exp2(largest - new) + tl.sum(tl.exp2(value - new[None, :]), 0)
        largest = new
    tl.store(lse + places, largest + tl.log2(total), mask=inside)


@triton.jit
def _halves(product):
    """Return the left and the right half of the columns."""
    halves = tl.reshape(product, (product.shape[0], 2, product.shape[1] // 2))
    left, right = tl.split(tl.permute(halves, (0, 2, 1)))
    return left, right


@triton.jit
def _split(product, PARTS: constexpr):
    """Return 1, 2, 4 or 8 groups of columns, which take turns in the registers."""
    parts = (product,)
    if PARTS >= 2:
        parts = _halves(product)
    if PARTS >= 4:
        parts = _halves(parts[0]) + _halves(parts[1])
    if PARTS == 8:
        left, right = _halves(parts[0]) + _halves(parts[1]), _halves(parts[2]) + _halves(parts[3])
        parts = left + right
    return parts


@triton.jit
def coefficients_kernel(
    x, y, width, image, text, offset, scale, center, row_lse, column_lse, missing, out, sums,
    weight, TILE: constexpr, GROUP: constexpr, PRECISION: constexpr,
):  # fmt: skip
    """Write G_ij r_i q_j WEIGHT to out, and to sums weight · Σ G (cos − center) of each tile.

    G is P^row + P^col, minus the targets of equal ids, and −missing at the pairs, all in float32
    before it is rounded. One exponential per logit, relative to the middle of the tile's
    log-sum-exps, serves both directions, unless they lie so far apart that each takes its own.
    """
    program = tl.program_id(0)
    row_block, column_block = _place(program, image, text, GROUP)
    row = image.first + row_block * TILE.block_m
    column = text.first + column_block * TILE.block_n
    rows, all_columns = row + tl.arange(0, TILE.block_m), column + tl.arange(0, TILE.block_n)
    product = _product(x, y, row, column, width, TILE, PRECISION)

    # A column without a loss of its own, or beyond the edge, has a log-sum-exp of +inf.
    row_inside, infinity = rows < image.size, float("inf")
    lse = tl.load(row_lse + rows, mask=row_inside, other=infinity)
    all_lse = tl.load(column_lse + all_columns, mask=all_columns < text.size, other=infinity)
    lowest = tl.minimum(tl.min(lse), tl.min(all_lse))
    highest = tl.max(tl.where(lse == infinity, -infinity, lse))
    highest = tl.maximum(highest, tl.max(tl.where(all_lse == infinity, -infinity, all_lse)))
    middle, is_wide = (lowest + highest) / 2, highest - lowest > WIDEST_SPREAD
    row_factors = tl.exp2(middle - lse)

    r = tl.load(image.inverse_norms + rows) * WEIGHT
    pairs = tl.load(missing + rows, mask=row_inside, other=0.0)
    is_inside = (row + TILE.block_m <= image.size) & (column + TILE.block_n <= text.size)
    stride = text.blocks * TILE.block_n
    out += (row_block * TILE.block_m).to(tl.int64) * stride + column_block * TILE.block_n
    out += tl.arange(0, TILE.block_m).to(tl.int64)[:, None] * stride
    factor, middle_cosine = tl.load(scale) / WEIGHT, tl.load(center) * WEIGHT
    total = tl.zeros_like(row_factors)
    PARTS: tl.constexpr = TILE.parts
    WIDTH: tl.constexpr = TILE.block_n // TILE.parts
    parts = _split(product, PARTS)
    for part in tl.static_range(PARTS):
        local = part * WIDTH + tl.arange(0, WIDTH)
        columns = column + local
        norms = r[:, None] * tl.load(text.inverse_norms + columns)[None, :]
        cosines = parts[part] * norms  # WEIGHT · cos
        logits = cosines * factor
        part_lse = tl.load(column_lse + columns, mask=columns < text.size, other=infinity)
        if is_wide:
            g = tl.exp2(logits - lse[:, None]) + tl.exp2(logits - part_lse[None, :])
        else:
            g = tl.exp2(logits - middle)
            g *= row_factors[:, None] + tl.exp2(middle - part_lse)[None, :]
        if image.shares is not None:
            g -= _targets(rows, columns, image, text, offset)
        elif image.ids is not None:
            g = tl.where(_equal_ids(rows, columns, image, text), 0.0, g)
        g = tl.where(columns[None, :] == rows[:, None] + offset, -pairs[:, None], g)
        if not is_inside:
            g = tl.where(row_inside[:, None] & (columns < text.size)[None, :], g, 0.0)
        # Before the store, which then reuses the registers.
        total += tl.sum(g * (cosines - middle_cosine), 1)
        tl.store(out + local[None, :], (g * norms).to(out.dtype.element_ty))
    tl.store(sums + program, tl.sum(total) * (weight / WEIGHT))


@triton.jit
def sigmoid_kernel(
    x, y, width, image, text, offset, scale, bias, out, sums, weight,
    TILE: constexpr, GROUP: constexpr, PRECISION: constexpr,
):  # fmt: skip
    """Write G_ij r_i q_j WEIGHT of the sigmoid loss to out.

    With t the logit, or minus the logit of a pair, G = σ(t), or −σ(t) for a pair. sums: for each
    tile weight times Σ softplus(t), Σ G cos and Σ G. scale and bias are in units of ln 2.
    """
    program = tl.program_id(0)
    row_block, column_block = _place(program, image, text, GROUP)
    row = image.first + row_block * TILE.block_m
    column = text.first + column_block * TILE.block_n
    rows = row + tl.arange(0, TILE.block_m)
    product = _product(x, y, row, column, width, TILE, PRECISION)
    r = tl.load(image.inverse_norms + rows) * WEIGHT
    stride = text.blocks * TILE.block_n
    out += (row_block * TILE.block_m).to(tl.int64) * stride + column_block * TILE.block_n
    out += tl.arange(0, TILE.block_m).to(tl.int64)[:, None] * stride
    PARTS: tl.constexpr = TILE.parts
    WIDTH: tl.constexpr = TILE.block_n // TILE.parts
    parts = _split(product, PARTS)
    losses = tl.zeros_like(parts[0])
    moments, totals = losses, losses
    for part in tl.static_range(PARTS):
        local = part * WIDTH + tl.arange(0, WIDTH)
        columns = column + local
        # −inf empties the columns beyond the edge. Rows beyond it have features of zeros, their
        # gradients are cut off, and their sums are left out at the end.
        shift = tl.where(columns < text.size, tl.load(bias), -float("inf"))
        norms = r[:, None] * tl.load(text.inverse_norms + columns)[None, :]
        cosines = parts[part] * norms  # WEIGHT · cos
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
        losses += tl.maximum(t, 0.0) + v * series
        g = tl.where(is_pair, -g, g)
        moments += g * cosines
        totals += g
        tl.store(out + local[None, :], (g * norms).to(out.dtype.element_ty))
    inside = (rows < image.size)[:, None]
    place = sums + program.to(tl.int64) * 3
    tl.store(place, tl.sum(tl.where(inside, losses, 0.0)) * (LN_2 * weight))
    tl.store(place + 1, tl.sum(tl.where(inside, moments, 0.0)) * (weight / WEIGHT))
    tl.store(place + 2, tl.sum(tl.where(inside, totals, 0.0)) * weight)


@triton.jit
def finish_kernel(
    image_gradient, text_gradient, image, text, scale, weight, width, image_programs,
    NORMALIZE: constexpr, BLOCK: constexpr, WIDTH: constexpr,
):  # fmt: skip
    """Turn the gradients of prepared features into those of raw features, in place."""
    program = tl.program_id(0)
    factor = tl.load(scale) * (LN_2 * weight / WEIGHT)
    if program < image_programs:
        _finish(image_gradient, image, program, factor, width, NORMALIZE, BLOCK, WIDTH)
    else:
        program -= image_programs
        _finish(text_gradient, text, program, factor, width, NORMALIZE, BLOCK, WIDTH)


@triton.jit
def _finish(
    gradient, tower, block, factor, width, NORMALIZE: constexpr, BLOCK: constexpr, WIDTH: constexpr
):
    """Scale some rows; remove the component along the feature, if that is longer than 1e-12."""
    rows, steps = block * BLOCK + tl.arange(0, BLOCK), tl.arange(0, WIDTH)
    place, mask = rows.to(tl.int64)[:, None] * width + steps[None, :], (steps < width)[None, :]
    g = tl.load(gradient + place, mask=mask, other=0.0)
    shrink = tl.load(tower.shrinks + rows)
    if NORMALIZE:
        x = tl.load(tower.features + place, mask=mask, other=0.0).to(tl.float32)
        inverse = tl.load(tower.inverse_norms + rows)
        is_longer = inverse * shrink < (1 - 1e-6) / 1e-12
        along = tl.where(is_longer, tl.sum(g * x, 1) * inverse * inverse, 0.0)
        g -= along[:, None] * x
    tl.store(gradient + place, g * (shrink * factor)[:, None], mask=mask)
