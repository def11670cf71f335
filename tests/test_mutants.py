"""Deliberate errors in the sources, one at a time: the comparison with the reference must notice each."""

import functools

import pytest
import torch
from minclip_kernels import clip_loss, custom_op, fused_clip_loss, fused_siglip_loss, one_tile, siglip_loss, tiles_torch
from minclip_kernels.testing import assert_equals_reference, expected, load_mutant, make_features

# The old text of a source, and what it becomes.
TORCH = {
    # The pairs and their offset.
    "matching pair kept among the others": ("self._pairs(tile, logits).fill_(lowest)", "pass"),
    "pairs without the tile's place": (
        "matrix.diagonal(tile.rows.start + self.problem.offset - tile.columns.start)",
        "matrix.diagonal(self.problem.offset)",
    ),
    "pairs without the offset": (
        "tile.rows.start + self.problem.offset - tile.columns.start",
        "tile.rows.start - tile.columns.start",
    ),
    "pairs of other rows": (
        "softmax.missing[first : first + len(pairs)]",
        "softmax.missing.roll(1)[first : first + len(pairs)]",
    ),
    "cosines of the pairs without the offset": (
        "self.text.unit[self.problem.offset : self.problem.offset + len(x)]",
        "self.text.unit[: len(x)]",
    ),
    "pair from the softmax, rounded": (
        "torch.neg(softmax.missing[first : first + len(pairs)],",
        "torch.neg((softmax.missing[first : first + len(pairs)] - 2).bfloat16().to(g.dtype) + 2,",
    ),
    # The first pass.
    "features rounded": (
        "Tower(features * inverse_norms, inverse_norms)",
        "Tower((features * inverse_norms).bfloat16().to(dtype), inverse_norms)",
    ),
    "nothing left is not a number": ("lowest = torch.finfo(logits.dtype).min", "lowest = -torch.inf"),
    "no maximum": ("top = logits.amax(dim=1).max()", "top = torch.zeros_like(logits.max())"),
    "e in place of 2": ("exponentials = logits.sub_(top).exp2_()", "exponentials = logits.sub_(top).exp_()"),
    "last tile only": (
        "torch.logaddexp2(rows[tile.rows], row_lse, out=rows[tile.rows])",
        "rows[tile.rows] = row_lse",
    ),
    "totals in float32": ("-torch.inf, dtype=torch.float64)", "-torch.inf, dtype=torch.float32)"),
    # The second pass.
    "no column term": ("torch.add(row_factors, column_factors, out=g)", "g.copy_(row_factors.expand_as(g))"),
    "row sums in place of column sums": (
        "(tile.top - column_lse).exp2_()",
        "(tile.top - softmax.row_lse.mean() + 0 * column_lse).exp2_()",
    ),
    "scale missing where computed again": (
        "self._logits(tile, softmax.scale).sub_(tile.top).exp2_()",
        "self._logits(tile, softmax.scale * 0.9).sub_(tile.top).exp2_()",
    ),
    "gradient not divided by the length": ("block *= inverse_norms * factor", "block *= factor"),
    "gradient along the feature": ("block.addcmul_(unit, along, value=-1)", "pass"),
    "last tile of columns only": ("int(columns.start > 0)", "0"),
    "last tile of rows only": ("int(rows.start > 0)", "0"),
    "what was in memory": ("int(rows.start > 0)", "1"),
    "the scale's gradient without its weight": (
        "(moment - softmax.center * total) * weight",
        "moment - softmax.center * total",
    ),
    "center without its weight": (
        "(moment - softmax.center * total) * weight",
        "moment * weight - softmax.center * total",
    ),
    "no center": ("(moment - softmax.center * total) * weight", "moment * weight"),
    # Tiles that are kept.
    "an old tile in place of this one": (", index < kept)", ", True)"),
    "one kept tile too many": (", index < kept)", ", index <= kept)"),
    "the tile before": ("matrices[min(index, kept)]", "matrices[max(0, min(index, kept) - 1)]"),
    "recomputed into a kept tile": ("matrices[min(index, kept)]", "matrices[min(index, max(0, kept - 1))]"),
    # Tiles that are computed exactly.
    "no fallback": ("< SMALLEST_SUM:", "< 0:"),
    "fallback for rows only": ("min(rows.min().item(), columns.min().item())", "rows.min().item()"),
    "fallback for columns only": ("min(rows.min().item(), columns.min().item())", "columns.min().item()"),
    "exact sums in units of 1": ("logits *= LN_2", "pass"),
    "exact tile without its column term": (".add_(logits.sub_(column_lse).exp2_())", ""),
    "exact sums of what is left of the first try": (
        "            logits = self._logits(tile, scale)\n        logits *= LN_2",
        "        logits *= LN_2",
    ),
    "a fallback that is forgotten": (
        "top = logits.amax(dim=1).max()",
        "top = tile.top = logits.amax(dim=1).max()",
    ),
    # Equal ids.
    "equal ids of other rows": (
        "row_ids[tile.rows, None]",
        "row_ids[: tile.rows.stop - tile.rows.start, None]",
    ),
    "equal ids of other columns": (
        "== column_ids[tile.columns]",
        "== column_ids[: tile.columns.stop - tile.columns.start]",
    ),
    "nothing dropped": ("logits.masked_fill_(self._equal_ids(tile, *self.problem.ids), lowest)", "pass"),
    "no targets beside the pair": ("                g -= targets\n", "                pass\n"),
    "targets of rows only": (
        "row_shares[tile.rows, None] + column_shares[tile.columns]",
        "row_shares[tile.rows, None] + 0 * column_shares[tile.columns]",
    ),
    "targets of columns only": (
        "row_shares[tile.rows, None] + column_shares[tile.columns]",
        "0 * row_shares[tile.rows, None] + column_shares[tile.columns]",
    ),
    "the pair's target counted with the others": ("self._pairs(tile, targets).fill_(0)", "pass"),
    "pulls of the last tile only": ("pulls[tile.rows] += row_pulls", "pulls[tile.rows] = row_pulls.double()"),
    "pulls without logits": ("targets.mul_(logits).sum(dim=1)", "targets.sum(dim=1)"),
    # The sigmoid loss.
    "sigmoid without its bias": (".add_(bias * LN_2)", ""),
    "losses without their weight": ("losses * weight", "losses"),
    "the bias's gradient without its weight": ("total * weight\n\n", "total\n\n"),
    "sigmoid of pairs as of all others": ("            self._pairs(tile, t).neg_()\n", ""),
    "sigmoid pairs pushed away": ("self._pairs(tile, torch.sigmoid(t, out=g)).neg_()", "torch.sigmoid(t, out=g)"),
}
CLIP_LOSS = {
    "column sums of other columns": ("sums.columns[own]", "sums.columns[: pairs.shape[0]]"),
    "odds upside down": (".sub_(pairs).mul_(LN_2)", ".sub_(pairs).mul_(-LN_2)"),
    "logits in units of 1": (".sub_(pairs).mul_(LN_2)", ".sub_(pairs)"),
    "pair counted in one direction": (
        "torch.sigmoid(odds).sum(dim=0)",
        "torch.sigmoid(odds)[0].clone()",
    ),
    "pair as usual": (
        "F.softplus(odds)",
        "(torch.logaddexp2(sums.rows, pairs) - pairs).mul(LN_2).expand(2, -1).clone()",
    ),
    "row sums without the pair": ("row_lse = torch.logaddexp2(sums.rows, pairs)", "row_lse = sums.rows"),
    "column sums without the pair": ("torch.logaddexp2(sums.columns, column_pairs)", "sums.columns"),
    "texts without an image have a loss": ("value=torch.inf)", "value=-torch.inf)"),
    "the pair keeps its whole target": ("        missing -= rest\n", ""),
    "the others do not pull": ("(rest * pairs - sums.pulls)", "(rest * pairs)"),
    "pulled twice": (".mul_(LN_2 / 2)", ".mul_(LN_2)"),
    "shares of columns forgotten": (
        "2 - row_shares - column_shares[own]",
        "1 - row_shares + 0 * column_shares[own]",
    ),
    "shares of other columns": ("- column_shares[own]", "- column_shares[: pairs.shape[0]]"),
    "ids of other rows": ("ids[rows].contiguous()", "ids[: len(image)].contiguous()"),
    "all treated as drop": ('if positives == "all":', "if False:"),
    "drop treated as all": ('if positives == "all":', "if True:"),
    "a row's positives counted among the images": (
        "row_shares = 1 / _occurrences(row_ids, ids)",
        "row_shares = 1 / _occurrences(row_ids, row_ids)",
    ),
    "a column's positives counted among all texts": (
        "1 / _occurrences(ids[paired], ids[paired])",
        "1 / _occurrences(ids[paired], ids)",
    ),
    "a loss of every text": (
        "paired = rows if shards is None else slice(None)",
        "paired = slice(None)",
    ),
    "shares of texts without an image": (
        "column_shares = torch.zeros_like(ids, dtype=dtype)",
        "column_shares = torch.ones_like(ids, dtype=dtype)",
    ),
    "shares at other columns": ("column_shares[paired] =", "column_shares[: len(ids[paired])] ="),
    "occurrences too many by one": (
        "right=True) - torch.searchsorted(sorted_ids, of)",
        "right=True) - torch.searchsorted(sorted_ids, of) + 1",
    ),
    "half of the gradient": ("ratio / (2 * len(image))", "ratio / len(image)"),
}
SIGLIP_LOSS = {
    "mean over the texts": ("ratio / len(image)", "ratio / len(text)"),
    "half of the gradient": ("ratio / len(image)", "ratio / (2 * len(image))"),
    "bias in other units": ("logit_bias / LN_2", "logit_bias"),
    "scale in other units": ("logit_scale / LN_2", "logit_scale"),
}


KERNELS = {
    # Features, lengths and pairs.
    "no power of two": (
        "shrink = ((127 - tl.minimum(exponents, 126)) << 23)",
        "shrink = ((127 - exponents * 0) << 23)",
    ),
    "short features divided by their length": ("lengths = tl.where(lengths < 1e-12, 1e-12, lengths)", ""),
    "cosines of the pairs without the offset": ("text.inverse_norms + rows + offset", "text.inverse_norms + rows"),
    "cosines of pairs of other tiles": (
        "is_here = (rows + offset >= column) & (rows + offset < column + TILE.block_n)",
        "is_here = rows + offset < column + TILE.block_n",
    ),
    "pair kept among the others": (
        "return is_inside & (columns[None, :] != rows[:, None] + offset)",
        "return is_inside",
    ),
    "mask without the offset": (
        "return is_inside & (columns[None, :] != rows[:, None] + offset)",
        "return is_inside & (columns[None, :] != rows[:, None])",
    ),
    "equal ids kept": ("is_other &= ~_equal_ids(rows, columns, image, text)", "pass"),
    "a pair in a tile that is taken for one without": (
        "has_pair = (first_pair < column + TILE.block_n) & (last_pair >= column)",
        "has_pair = (first_pair < column + TILE.block_n) & (last_pair >= column + TILE.block_n)",
    ),
    "no edges": (
        "is_inside = (rows < image.size)[:, None] & (columns < text.size)[None, :]\n    return",
        "is_inside = (rows == rows)[:, None] & (columns == columns)[None, :]\n    return",
    ),
    "first part of the width only": ("            y_place += TILE.block_k\n", ""),
    # The first pass.
    "no top": ("exponentials = tl.exp2(logits - top)", "exponentials = tl.exp2(logits)"),
    "small sums are taken for good ones": ("tl.where(least < SMALLEST_SUM,", "tl.where(least < -1.0,"),
    "exact sums by column taken for sums by row": (
        "tl.store(row_sums + row_place, _log_sum_exp(logits, tl.constexpr(1)))",
        "tl.store(row_sums + row_place, _log_sum_exp(logits, tl.constexpr(0)))",
    ),
    "exact sums taken for plain ones": (
        'value = tl.where(top == float("inf"), value, top + tl.log2(value))',
        'value = tl.where(top == float("inf"), 0.0, top) + tl.log2(tl.abs(value))',
    ),
    "tops of the first part": ("top_places + tile * strides[1]", "top_places + tile * 0"),
    "tops of rows taken for those of columns": (
        "strides, program = (1, text.blocks),",
        "strides, program = (text.blocks, 1),",
    ),
    "last chunk only": ("    if other.first > 0:\n", "    if False:\n"),
    "pulls with the pairs": (
        "    is_positive = _counted(rows, columns, image, text, offset)\n    is_positive &=",
        "    is_positive =",
    ),
    # The second pass.
    "never exact": ("WIDEST_SPREAD = tl.constexpr(120.0)", "WIDEST_SPREAD = tl.constexpr(1e9)"),
    "exact, rows only": (
        "g = tl.exp2(logits - lse[:, None]) + tl.exp2(logits - part_lse[None, :])",
        "g = tl.exp2(logits - lse[:, None])",
    ),
    "no column term": (
        "row_factors[:, None] + tl.exp2(middle - part_lse)[None, :]",
        "row_factors[:, None] + 0 * tl.exp2(middle - part_lse)[None, :]",
    ),
    "middle of the rows only": ("lowest = tl.minimum(tl.min(lse), tl.min(all_lse))", "lowest = tl.min(lse)"),
    "coefficients of equal ids": ("g = tl.where(_equal_ids(rows, columns, image, text), 0.0, g)", "g = g"),
    "no targets": ("            g -= _targets(", "            _targets("),
    "pairs without the offset": (
        "g = tl.where(columns[None, :] == rows[:, None] + offset, -pairs[:, None], g)",
        "g = tl.where(columns[None, :] == rows[:, None], -pairs[:, None], g)",
    ),
    "one subtracted from the probability": ("-pairs[:, None], g)", "g - 2.0, g)"),
    "coefficients without lengths": ("(g * norms).to(out.dtype.element_ty)", "(g * WEIGHT).to(out.dtype.element_ty)"),
    "second part in place of the first": (
        "cosines = parts[part] * norms  # WEIGHT · cos\n        logits = cosines * factor",
        "cosines = parts[0] * norms\n        logits = cosines * factor",
    ),
    "gradient along the feature": ("inverse * inverse, 0.0)", "0.0, 0.0)"),
    # The sigmoid loss.
    "sigmoid of pairs as of all others": ("t = tl.where(is_pair, -logits, logits)", "t = logits"),
    "sigmoid pairs pushed away": ("g = tl.where(is_pair, -g, g)", "g = g"),
    "sigmoid sums beyond the edge": (
        'tl.where(columns < text.size, tl.load(bias), -float("inf"))',
        "tl.load(bias) + 0.0 * columns",
    ),
    "short series": ("losses += tl.maximum(t, 0.0) + v * series", "losses += tl.maximum(t, 0.0) + v * 1.4427"),
}
TRITON = {
    "last chunk of a gradient only": ("beta = 0 if is_first else 1", "beta = 0"),
    "coefficients of one chunk with the features of another": (
        "self.text.features[columns]",
        "self.text.features[: columns.stop - columns.start]",
    ),
    "pulls of the last chunk only": (
        "pulls[chunk.rows] += row_pulls",
        "pulls[: len(pulls[chunk.rows])] += 2 * row_pulls",
    ),
    "all positives taken for dropped ones": (
        "row_shares, column_shares = problem.shares or (None, None)",
        "row_shares, column_shares = None, None",
    ),
    "padding not cut off": (
        "image[: self.image.size, :width].contiguous()",
        "image[: self.image.size, :width].roll(1, 0).contiguous()",
    ),
}

ONE_TILE = {
    "features rounded": ("    unit = features / norms", "    unit = (features / norms).bfloat16().to(scale.dtype)"),
    "no center": ("    cosines -= cosines.diagonal().mean()", "    pass"),
    "no maximum": (".sub_(exponentials.max())", ""),
    "pairs kept among the others": ("    diagonal.zero_()", "    pass"),
    "small sums accepted": ("< SMALLEST_SUM", "< 0"),
    "others from the probability": (
        "    loss = torch.log1p(others / pairs).mean()",
        "    loss = -(pairs / (pairs + others)).log().mean()",
    ),
    "mean over one direction": ("torch.log1p(others / pairs).mean()", "torch.log1p(others[0] / pairs).mean()"),
    "sums without the pairs": ("others.add(pairs)", "others.clone()"),
    "weight of one direction": ("mul_(2 * len(image))", "mul_(len(image))"),
    "no column term": ("(by_row[:, None] + by_column)", "(by_row[:, None] + 0 * by_column)"),
    "rows for columns": ("torch.mm(g.T, x,", "torch.mm(g, x,"),
    "probability in place of what is missing": ("others.mul_(weights)", "pairs.mul(weights)"),
    "gradient along the feature": ("addcmul_(unit, along, value=-1)", "clone()"),
    "gradient of a short feature as of a long one": ("    along *= norms > EPSILON", "    pass"),
    "gradient not divided by the length": ("scale / norms", "scale"),
}


def battery(backend, clip=fused_clip_loss, siglip=fused_siglip_loss):
    """A few of the suite's comparisons, the quickest first."""
    check = functools.partial(assert_equals_reference, clip, backend=backend)
    for kind, count, width, scale, spread, chunk_size in (
        ("random", 70, 70, 10.0, 0.0, None),
        ("random", 70, 20, 10.0, 1.0, 64),
        ("tiny_loss", 70, 200, 100.0, 0.0, None),
        ("parallel", 70, 20, 100.0, 0.0, None),
        ("duplicated", 70, 20, 100.0, 0.0, None),
        ("random", 1, 3, 10.0, 0.0, None),
    ):
        check(*make_features(kind, count, width, spread=spread), scale, chunk_size=chunk_size)
    image, text = (tower / 256 for tower in make_features("random", 70, 20, spread=1.0, dtype=torch.float16))
    check(image, text, 1.0)
    image, text = make_features("random", 70, 20)
    check_siglip = functools.partial(assert_equals_reference, siglip, backend=backend)
    check_siglip(image, text, 10.0, -2.0, chunk_size=64)
    check_siglip(image[20:50], text, 10.0, -2.0, offset=20)
    check(*make_features("twins", 40, 30), 100.0)
    check(image[20:50], text, 10.0, offset=20)
    ids = torch.arange(70) // 3 % 7
    for positives in ("drop", "all"):
        check(image, text, 10.0, ids=ids, positives=positives)
        check(image[20:50], text, 10.0, offset=20, ids=ids, positives=positives, chunk_size=16)


def battery_of_torch_tiles():
    """The battery, and tiles that are kept, that are not, that are computed exactly, and that are many."""
    battery("torch")
    check = functools.partial(assert_equals_reference, fused_clip_loss, backend="torch")
    tile = 4 * 16 * 32
    for memory in (0, 3 * tile):
        check(*make_features("random", 70, 20), 10.0, chunk_size=16, memory=memory)
        image, text = make_features("aligned", 70, 3)
        check(image, text, 300.0, chunk_size=16, memory=memory)
        check(image[:16], text, 300.0, offset=0, chunk_size=16, memory=memory)
    # One row, or one column, has a small sum, and all columns, or rows, have large ones.
    image, text = make_features("parallel", 9, 20)
    image[4] *= -1
    check(image, text, 300.0)
    check(text, image, 300.0)
    # Among copies of one pair every log-sum-exp is rounded alike, and the coefficients do not sum to zero.
    image, _ = make_features("random", 1, 20)
    check(image.expand(70, -1), image.expand(70, -1), 100.0)
    # The totals of many tiles are as near to float64 as those of few.
    image, text = make_features("cones", 120, 30)
    few, many = (check(image, text, 100.0, chunk_size=rows).text for rows in (120, 1))
    wanted = expected(image, text, 100.0).wanted.text
    assert (many - wanted).norm() < 1.5 * (few - wanted).norm()


def battery_of_one_tile():
    """The battery's small batches, and some that lose digits without the care that is taken."""
    battery("torch")
    check = functools.partial(assert_equals_reference, fused_clip_loss, backend="torch")
    check(*make_features("parallel", 70, 20), 300.0)
    check(*make_features("aligned", 70, 3), 300.0)
    image, text = make_features("random", 70, 20)
    check(1e-14 * image, text, 10.0)
    # Where all cosines are nearly equal, the gradient of the scale is as near to float64 as with tiles.
    errors = torch.zeros(2, dtype=torch.float64)
    for seed in range(8):
        features = make_features("parallel", 70, 20, seed=seed)
        wanted = expected(*features, 10.0).wanted.scale
        errors += torch.stack([(check(*features, 10.0, chunk_size=rows).scale - wanted).abs() for rows in (None, 70)])
    assert errors[0] < 1.5 * errors[1]


def battery_of_triton_tiles():
    """The battery, and several chunks, and both fallbacks."""
    battery("triton")
    check = functools.partial(assert_equals_reference, fused_clip_loss, backend="triton")
    for dtype in (torch.float32, torch.bfloat16):
        image, text = make_features("random", 150, 20, dtype=dtype)
        check(image, text, 10.0, chunk_size=128)
    check(*make_features("aligned", 70, 3), 300.0)
    image, text = make_features("parallel", 70, 20)
    image[4] *= -1
    check(image, text, 300.0)
    check(text, image, 300.0)
    # Lengths of float16 features that differ by a thousand, and one of zero.
    image, text = make_features("random", 70, 20, spread=1.5, dtype=torch.float16)
    text = text.where(torch.arange(70)[:, None] != 3, 0.0)
    loss = fused_clip_loss(image.requires_grad_(), text, 10.0, backend="triton")
    (gradient,) = torch.autograd.grad(loss, image)
    wanted = expected(image.detach(), text, 10.0).wanted.image
    assert (gradient - wanted).norm() < 2e-3 * wanted.norm()


@pytest.fixture
def narrow_tiles(monkeypatch):
    """Several columns of tiles in the battery's small batches; and torch.empty is full of NaN."""
    monkeypatch.setattr(tiles_torch, "TILE_COLUMNS", 32)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("narrow_tiles")
def test_the_batteries_pass_without_mutants():
    battery_of_torch_tiles()
    battery_of_one_tile()


@pytest.mark.usefixtures("narrow_tiles")
@pytest.mark.parametrize("name", ONE_TILE)
def test_mutant_of_the_one_tile_is_killed(name, tmp_path, monkeypatch):
    monkeypatch.setattr(clip_loss, "loss_of_one_tile", load_mutant(one_tile, ONE_TILE[name], tmp_path).loss_of_one_tile)
    with pytest.raises(AssertionError):
        battery_of_one_tile()


@pytest.mark.usefixtures("narrow_tiles")
@pytest.mark.parametrize("name", TORCH)
def test_mutant_of_the_torch_tiles_is_killed(name, tmp_path, monkeypatch):
    copy = load_mutant(tiles_torch, TORCH[name], tmp_path)
    monkeypatch.setattr(copy, "TILE_COLUMNS", 32)
    monkeypatch.setattr(custom_op, "TorchTiles", copy.TorchTiles)
    with pytest.raises(AssertionError):
        battery_of_torch_tiles()


@pytest.mark.usefixtures("narrow_tiles")
@pytest.mark.parametrize("name", CLIP_LOSS)
def test_mutant_between_the_passes_is_killed(name, tmp_path):
    copy = load_mutant(clip_loss, CLIP_LOSS[name], tmp_path)
    with pytest.raises(AssertionError):
        battery("torch", clip=copy.fused_clip_loss)


@pytest.mark.usefixtures("narrow_tiles")
@pytest.mark.parametrize("name", SIGLIP_LOSS)
def test_mutant_of_the_sigmoid_loss_is_killed(name, tmp_path):
    copy = load_mutant(siglip_loss, SIGLIP_LOSS[name], tmp_path)
    with pytest.raises(AssertionError):
        battery("torch", siglip=copy.fused_siglip_loss)


@pytest.mark.usefixtures("interpreter")
def test_the_battery_passes_without_triton_mutants():
    battery_of_triton_tiles()


@pytest.mark.usefixtures("interpreter")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", KERNELS)
def test_mutant_of_the_triton_kernels_is_killed(name, tmp_path, monkeypatch):
    from minclip_kernels import kernels_triton, tiles_triton

    monkeypatch.setattr(tiles_triton, "kernels", load_mutant(kernels_triton, KERNELS[name], tmp_path))
    with pytest.raises(AssertionError):
        battery_of_triton_tiles()


@pytest.mark.usefixtures("interpreter")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", TRITON)
def test_mutant_of_the_triton_tiles_is_killed(name, tmp_path, monkeypatch):
    from minclip_kernels import tiles_triton

    copy = load_mutant(tiles_triton, TRITON[name], tmp_path)
    monkeypatch.setattr(tiles_triton, "TritonTiles", copy.TritonTiles)
    with pytest.raises(AssertionError):
        battery_of_triton_tiles()
