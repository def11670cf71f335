"""Deliberate errors in the tile functions, one at a time: the comparison with the reference must notice each."""

import importlib.util
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

checks = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("loss_checks.py"))))

from minclip_kernels import clip_loss, siglip_loss, tiles_torch  # noqa: E402

TORCH = {
    "matching pair kept among the others": (".diagonal(tile.diagonal).fill_(torch.finfo(logits.dtype).min)", ""),
    "mask without its offset": (".diagonal(tile.diagonal).fill_", ".diagonal(0).fill_"),
    "pairs without their offset": ("places = g.diagonal(tile.diagonal)", "places = g.diagonal(0)"),
    "pairs of other rows": ("first = max(0, -tile.diagonal)", "first = 0"),
    "no column term": ("    g.add_(column_part.sub_(column_lse).exp2_())\n", ""),
    "row sums in place of column sums": (
        "g.add_(column_part.sub_(column_lse)",
        "g.add_(column_part.sub_(row_lse[: column_part.shape[1]])",
    ),
    "rounded before the subtraction": (
        "places.copy_(pair[first",
        "places.copy_(((pair + 2).bfloat16() - 2)[first",
    ),
    "features rounded": ("Side(features * inverse,", "Side((features * inverse).bfloat16().float(),"),
    "gradient not divided by the length": (
        "return rows.inverse_norms",
        "return rows.inverse_norms**0",
    ),
    "no maximum": (
        "torch.sub(logits, row_max, out=other).exp2_().sum(dim=1)",
        "logits.exp2().sum(dim=1).mul_((-row_max[:, 0]).exp2())",
    ),
    "nothing left is not a number": ("torch.finfo(logits.dtype).min", "-torch.inf"),
    "e in place of 2": ("row_max, out=other).exp2_()", "row_max, out=other).exp_()"),
    "logits in place of cosines": (
        "return g, cosines.sub_(center)",
        "return g, cosines.mul_(scale).sub_(center)",
    ),
    "last tile only": ("beta=0 if first else 1", "beta=0"),
    "what was in memory": ("beta=0 if first else 1", "beta=1"),
    "an old tile in place of this one": ("if not (kept and again):", "if not again:"),
    "one kept tile too many": ("tile.memory.shape[0] - 3", "tile.memory.shape[0] - 2"),
    "sigmoid without its bias": (".add_(bias)", ""),
    "sigmoid of pairs as of all others": ("add_(bias).diagonal(tile.diagonal).neg_()", "add_(bias)"),
    "sigmoid pairs pushed away": ("out=g).diagonal(tile.diagonal).neg_()", "out=g)"),
    "sigmoid pairs without their offset": ("diagonal(tile.diagonal).neg_()", "diagonal(0).neg_()"),
}
TRITON = {
    "matching pair kept among the others": ("    counted &= columns[None, :] != rows[:, None] + diagonal\n", ""),
    "mask without its offset": ("!= rows[:, None] + diagonal", "!= rows[:, None]"),
    "columns beyond the edge": (
        "counted = (rows < row_count)[:, None] & (columns < column_count)[None, :]",
        "counted = (rows < row_count)[:, None] & (columns >= 0)[None, :]",
    ),
    "rows beyond the edge": (
        "counted = (rows < row_count)[:, None] & (columns < column_count)[None, :]",
        "counted = (rows >= 0)[:, None] & (columns < column_count)[None, :]",
    ),
    "lengths forgotten": ("tl.where(counted, product * norms *", "tl.where(counted, product *"),
    "no column term": (" + tl.exp2(logits - column_sums[None, :])", ""),
    "pairs without their offset": (
        "    g = tl.where(columns[None, :] == rows[:, None] + diagonal, pairs",
        "    g = tl.where(columns[None, :] == rows[:, None], pairs",
    ),
    "one taken off the probability": (
        "rows[:, None] + diagonal, pairs[:, None], g)",
        "rows[:, None] + diagonal, g - 2.0, g)",
    ),
    "coefficients without lengths": ("(g * (norms * tl.load(weight)))", "(g * tl.load(weight))"),
    "first part of the width only": ("        y_block += BLOCK_K\n", ""),
    "no maximum": (
        "tl.exp2(logits - tl.expand_dims(largest, axis))",
        "tl.exp2(logits) * tl.expand_dims(tl.exp2(-largest), axis)",
    ),
    "moments beyond the edge": (
        "tl.where(inside, g * (cosines - tl.load(center)), 0.0)",
        "g * (cosines - tl.load(center))",
    ),
    "last block of rows only": ("beta=0 if first else 1", "beta=0"),
    "unit of one tower only": ("rows.unit_length * columns.unit_length", "rows.unit_length * rows.unit_length"),
    "float16 coefficients in no unit": ("inverse.max() / 64", "inverse.new_ones(())"),
    "short series": ("2 * w * (1.0 + v * series)", "2 * w"),
    "sigmoid of pairs as of all others": ("tl.where(matching, -logits, logits)", "logits"),
    "sigmoid pairs pushed away": ("g = tl.where(matching, -g, g)", "g = g"),
    "sums beyond the edge": ('t = tl.where(inside, tl.where(matching, -logits, logits), -float("inf"))',
                             "t = tl.where(matching, -logits, logits)"),
}  # fmt: skip


def battery(backend):
    """A few of the suite's comparisons, the quickest first."""
    for kind, count, width, scale, spread, dtype, chunk_size in (
        ("random", 70, 70, 10.0, 0.0, torch.float32, None),
        ("random", 70, 20, 10.0, 1.0, torch.float32, 64),
        ("tiny", 70, 200, 100.0, 0.0, torch.float32, None),
        ("parallel", 70, 20, 100.0, 0.0, torch.float32, None),
        ("duplicated", 70, 20, 100.0, 0.0, torch.float32, None),
        ("random", 1, 3, 10.0, 0.0, torch.float32, None),
    ):
        features = checks.make_features(kind, count, width, spread=spread, dtype=dtype)
        checks.check(*features, scale, backend=backend, chunk_size=chunk_size)
    short = (tower / 256 for tower in checks.make_features("random", 70, 20, spread=1.0, dtype=torch.float16))
    checks.check(*short, 1.0, backend=backend)
    checks.check(*checks.make_features("random", 70, 20), 10.0, -2.0, backend=backend, chunk_size=64)


def use_mutant(source, change, folder, monkeypatch):
    """Puts a changed copy of a module of tile functions in the place of the module."""
    text = Path(source).read_text()
    old, new = change
    assert old in text, "the mutant changes nothing"
    path = folder / "mutant.py"
    path.write_text(text.replace(old, new))
    specification = importlib.util.spec_from_file_location("mutant", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    for loss in (clip_loss, siglip_loss):
        monkeypatch.setattr(loss, "choose_tiles", lambda *_: module)


@pytest.fixture
def narrow_tiles(monkeypatch):
    """Several columns of tiles in the battery's small batches; and torch.empty is full of NaN."""
    monkeypatch.setattr(tiles_torch, "TILE_COLUMNS", 32)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("narrow_tiles")
def test_the_battery_passes_without_mutants():
    battery("torch")


@pytest.mark.usefixtures("narrow_tiles")
@pytest.mark.parametrize("name", TORCH)
def test_torch_mutant_is_killed(name, tmp_path, monkeypatch):
    use_mutant(tiles_torch.__file__, TORCH[name], tmp_path, monkeypatch)
    monkeypatch.setattr(clip_loss.choose_tiles("torch", torch.ones(())), "TILE_COLUMNS", 32)
    with pytest.raises(AssertionError):
        battery("torch")


@checks.INTERPRETED
def test_the_battery_passes_without_triton_mutants():
    battery("triton")


@checks.INTERPRETED
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", TRITON)
def test_triton_mutant_is_killed(name, tmp_path, monkeypatch):
    from minclip_kernels import tiles_triton

    use_mutant(tiles_triton.__file__, TRITON[name], tmp_path, monkeypatch)
    with pytest.raises(AssertionError):
        battery("triton")
