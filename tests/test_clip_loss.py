import functools
import itertools
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from minclip_kernels import clip_loss, custom_op, fused_clip_loss, fused_siglip_loss, tiles_torch
from minclip_kernels.testing import (
    KINDS,
    Result,
    assert_equals_reference,
    count_products,
    evaluate,
    expected,
    make_features,
)
from minclip_kernels.tiles import LN_2, Problem
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

check = functools.partial(assert_equals_reference, fused_clip_loss)
run = functools.partial(evaluate, fused_clip_loss)


def on(where, image, text):
    return image.to(where[1]), text.to(where[1])


def draw_ids(count, names, seed=0):
    return torch.randint(-names, names, (count,), generator=torch.Generator().manual_seed(seed))


def assert_same_bits(actual, wanted):
    assert all(torch.equal(*pair) for pair in zip(actual, wanted, strict=True) if pair[0] is not None)


def made_tiles(monkeypatch):
    """Return a list to which every call of the loss appends the tiles that it works with."""
    made = []

    def make(*arguments):
        made.append(custom_op.make_tiles(*arguments))
        return made[-1]

    monkeypatch.setattr(clip_loss, "make_tiles", make)
    return made


def kept(tiles):
    return sum(tile.is_kept for tile in tiles.tiles)


shapes = st.tuples(st.integers(1, 200), st.integers(1, 200))
scales = st.floats(-2, 2).map(lambda power: 10**power)
tile_rows, tile_columns = st.integers(1, 210), st.integers(20, 210)
memories = st.sampled_from([None, 0, 10_000, 100_000])


# --- equality with the reference ----------------------------------------------------------------------------


@settings(max_examples=100)
@given(shapes, scales, st.sampled_from(list(KINDS)), st.sampled_from([0.0, 4.0]), tile_rows, tile_columns, memories,
       st.integers(0, 9))  # fmt: skip
def test_float32_equals_the_reference(shape, scale, kind, spread, rows, columns, memory, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles_torch, "TILE_COLUMNS", columns)
        features = make_features(kind, *shape, seed=seed, spread=spread)
        check(*features, scale, backend="torch", chunk_size=rows, memory=memory)


@settings(max_examples=60)
@given(shapes, scales, st.sampled_from(list(KINDS)), st.sampled_from([torch.bfloat16, torch.float16, torch.float64]),
       tile_rows, tile_columns, memories)  # fmt: skip
def test_other_dtypes_equal_the_reference(shape, scale, kind, dtype, rows, columns, memory):
    if dtype == torch.float16 and kind == "zero_row":
        return  # 1 / 1e-12 is beyond float16, in plain PyTorch too
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles_torch, "TILE_COLUMNS", columns)
        features = make_features(kind, *shape, spread=1.0, dtype=dtype)
        check(*features, scale, backend="torch", chunk_size=rows, memory=memory)


@settings(max_examples=60)
@given(shapes, scales, st.sampled_from(list(KINDS)), st.sampled_from([0.0, 1.0]),
       st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))  # fmt: skip
def test_one_tile_equals_the_reference(shape, scale, kind, spread, dtype):
    if dtype == torch.float16 and kind == "zero_row":
        return
    check(*make_features(kind, *shape, spread=spread, dtype=dtype), scale, backend="torch")


def test_small_batches_take_the_short_way(monkeypatch):
    made = made_tiles(monkeypatch)
    features = make_features("random", 256, 8)
    run(*features, 20.0)
    assert not made
    run(*make_features("random", 257, 8), 20.0)  # too many
    run(*features, 20.0, chunk_size=256)
    run(*features, 20.0, normalize=False)
    run(*features, 20.0, ids=torch.arange(256))
    run(*features, 20.0, offset=0)  # as without it
    fused_clip_loss(*features, 20.0)  # no gradients
    assert len(made) == 5
    run(*make_features("aligned", 70, 3), 300.0)  # exponentials that lose digits
    assert len(made) == 6


@st.composite
def rectangles(draw):
    """The place of some images beside more texts, and ids that occur often or seldom."""
    before, count, after = draw(st.integers(0, 60)), draw(st.integers(1, 90)), draw(st.integers(0, 60))
    options = {"offset": before, "chunk_size": draw(st.integers(1, 100)), "memory": draw(memories)}
    positives = draw(st.sampled_from([None, "drop", "all"]))
    if positives:
        ids = draw_ids(before + count + after, draw(st.sampled_from([1, 5, 50])), draw(st.integers(0, 9)))
        options |= {"ids": ids, "positives": positives}
    return before + count + after, slice(before, before + count), options


@settings(max_examples=100)
@given(rectangles(), st.integers(1, 100), scales, st.sampled_from(list(KINDS)), st.booleans(), tile_columns)
def test_rectangles_and_equal_ids_equal_the_reference(rectangle, width, scale, kind, is_double, columns):
    count, rows, options = rectangle
    image, text = make_features(kind, count, width, spread=1.0, dtype=torch.float64 if is_double else torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles_torch, "TILE_COLUMNS", columns)
        check(image[rows], text, scale, backend="torch", **options)


@pytest.mark.parametrize("names", [0, 9, 40])
@pytest.mark.parametrize("positives", ["drop", "all"])
@pytest.mark.parametrize("offset", [None, 7])
def test_rectangles_and_equal_ids_on_every_backend(where, names, positives, offset):
    ids = draw_ids(85, names).to(where[1]) if names else None
    for kind, dtype in (("random", torch.float32), ("twins", torch.float32), ("random", torch.bfloat16)):
        image, text = on(where, *make_features(kind, 85, 20, spread=1.0, dtype=dtype))
        image = image if offset is None else image[7:77]
        check(image, text, 20.0, offset=offset, ids=ids, positives=positives, backend=where[0])


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_features(where, kind):
    image, text = on(where, *make_features(kind, 100, 70, seed=1, spread=4.0))
    check(image, text, 100.0, backend=where[0])
    check(image, text, 1.0, backend=where[0], chunk_size=70)


@settings(max_examples=10)
@given(shapes, scales, st.sampled_from(list(KINDS)), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_any_shape_equals_the_reference(where, shape, scale, kind, dtype):
    spread = 1.0 if dtype == torch.float16 else 4.0
    if dtype == torch.float16 and kind == "zero_row":
        return
    actual = check(*on(where, *make_features(kind, *shape, spread=spread, dtype=dtype)), scale, backend=where[0])
    assert actual.loss.dtype == torch.float32


def test_the_loss_of_float64_is_float32():
    features = make_features("random", 5, 3, dtype=torch.float64)
    assert fused_clip_loss(*features, 1.0).dtype == torch.float32


@pytest.mark.parametrize("chunk_size", [1, 3, 10, 11])
def test_chunk_size_changes_only_rounding(where, chunk_size):
    check(*on(where, *make_features("random", 10, 7)), 10.0, backend=where[0], chunk_size=chunk_size)


def test_many_tiles_round_no_more_than_one(monkeypatch):
    """The totals of 3,600 tiles are as near to float64 as those of one. In float32 they would err 2.6 times."""
    image, text = make_features("cones", 120, 20)
    wanted = expected(image, text, 100.0).wanted
    errors = []
    for rows, columns in ((120, 120), (2, 2)):
        monkeypatch.setattr(tiles_torch, "TILE_COLUMNS", columns)
        actual = check(image, text, 100.0, backend="torch", chunk_size=rows)
        errors.append((actual.image.double() - wanted.image).norm())
    assert errors[1] < 1.5 * errors[0]


def test_a_loss_of_a_millionth_is_right(where):
    image, text = on(where, *make_features("tiny_loss", 150, 200))
    actual = check(image, text, 100.0, backend=where[0])
    assert 1e-7 < actual.loss < 1e-4
    plain = F.normalize(image, dim=1)
    naive = F.cross_entropy(100 * plain @ plain.T, torch.arange(150, device=image.device))
    assert abs(naive - actual.loss) > 0.01 * actual.loss  # what the usual formula makes of it


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("width", [512, 1024])
@pytest.mark.parametrize("kind", ["random", "aligned", "cones", "tiny_loss"])
def test_exp2_that_flushes_as_a_gpu_does(kind, width, monkeypatch):
    from triton.runtime.interpreter import InterpreterBuilder

    exact, flushed = InterpreterBuilder.create_exp2, []

    def flushing(self, argument):
        result = exact(self, argument)
        small = (result.data != 0) & (result.data < 2.0**-126)
        flushed.append(small.any())
        result.data[small] = 0
        return result

    monkeypatch.setattr(InterpreterBuilder, "create_exp2", flushing)
    check(*make_features(kind, 128, width), 100.0, backend="triton")
    assert any(flushed) == (kind == "aligned")  # nowhere else does a logit lie 126 below the largest


@pytest.mark.parametrize("distance", [0.08, 0.03, 0.003])
def test_bfloat16_gradients_of_aligned_pairs(where, distance):
    image, noise = make_features("random", 128, 64)
    text = image + distance * 8 * noise
    image, text = image.bfloat16(), text.bfloat16()
    actual = run(*on(where, image, text), 14.0, backend=where[0])
    wanted = expected(image, text, 14.0).wanted
    for got, want in ((actual.image, wanted.image), (actual.text, wanted.text)):
        assert (got.double().cpu() - want).norm() <= 4e-3 * want.norm()


def test_float16_keeps_the_gradient_of_many_negatives(where, monkeypatch):
    count = 4096
    if where == ("triton", "cpu"):  # Few large blocks: the interpreter's time grows with their number.
        count = 2048
        from minclip_kernels import tiles_triton

        large = tiles_triton.Blocking(block_m=512, block_n=512, block_k=16, parts=2)
        monkeypatch.setattr(tiles_triton, "choose_blocking", lambda *_: large)
    image, text = make_features("random", count, 8, spread=1.0, dtype=torch.float16)
    larger = functools.partial(evaluate, lambda *inputs, **options: 1024 * fused_clip_loss(*inputs, **options))
    actual = larger(*on(where, image, text), 1.0, backend=where[0])
    wanted = expected(image, text, 1.0).wanted
    for got, want in ((actual.image, 1024 * wanted.image), (actual.text, 1024 * wanted.text)):
        error = (got.double().cpu() - want).norm(dim=1)
        assert (error / want.norm(dim=1)).median() <= 1e-2
        assert error.norm() <= 1e-2 * want.norm()


def test_where_duplicates_cancel_plain_pytorch_errs_as_much():
    """Why more than a millionth of the absolute sum is allowed in float32 at scale 100."""

    def plain(image, text, scale):
        unit = [F.normalize(tower, dim=1) for tower in (image, text)]
        logits, labels = scale * unit[0] @ unit[1].T, torch.arange(len(image))
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2

    worst = {}
    for seed in range(50):
        image, text = make_features("duplicated", 17, 5, seed=seed, spread=4.0)
        wanted, terms, _ = expected(image, text, 100.0)
        for loss in (plain, fused_clip_loss):
            actual = evaluate(loss, image, text, 100.0)
            for got, want, size in (
                (actual.image, wanted.image, terms.image),
                (actual.text, wanted.text, terms.text),
            ):
                shares = (got - want).norm(dim=1) / (1e-4 * want.norm(dim=1) + 1e-6 * size)
                worst[loss] = max(worst.get(loss, 0.0), shares.max().item())
    assert worst[plain] > 1
    assert worst[fused_clip_loss] < 3 * worst[plain]


@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded"])
def test_any_strides(where, layout):
    image, text = on(where, *make_features("random", 20, 12))
    changed = {
        "transposed": image.T.contiguous().T,
        "strided": torch.stack([image, image * float("nan")], dim=2)[:, :, 0],
        "expanded": image[:1].expand(20, 12),
    }[layout]
    assert not changed.is_contiguous()
    check(changed, text, 10.0, backend=where[0])
    check(text, changed, 10.0, backend=where[0])


def test_ids_of_any_strides():
    ids = torch.stack([draw_ids(20, 4), draw_ids(20, 9, seed=1)], dim=1)[:, 0]
    check(*make_features("random", 20, 12), 10.0, ids=ids, positives="all", chunk_size=7)


def test_without_normalising(where):
    image, text = (0.2 * tower.to(where[1]) for tower in make_features("random", 70, 20))
    check(image, text, 3.0, normalize=False, backend=where[0])
    check(image[9:40], text, 3.0, normalize=False, offset=9, backend=where[0])


# --- tiles that are kept, and tiles that are computed exactly -----------------------------------------------


def test_tiles_that_are_kept_change_no_bit(monkeypatch):
    monkeypatch.setattr(tiles_torch, "TILE_COLUMNS", 32)
    made = made_tiles(monkeypatch)
    features = make_features("random", 100, 30)
    tile = 4 * 30 * 32
    results = [run(*features, 9.0, chunk_size=30, memory=memory) for memory in (None, 0, tile - 1, 5 * tile, 16 * tile)]
    assert [kept(tiles) for tiles in made] == [16, 0, 0, 5, 16]
    for result in results:
        assert_same_bits(result, results[0])


def test_memory_that_is_given_bounds_what_is_kept(monkeypatch):
    made = made_tiles(monkeypatch)
    monkeypatch.setattr(tiles_torch, "TILE_COLUMNS", 32)
    for memory in (0, 3839, 3840, 100_000):
        run(*make_features("random", 100, 30), 9.0, chunk_size=30, memory=memory)
        tiles = made.pop()
        assert sum(tile.logits.nbytes for tile in tiles.tiles if tile.is_kept) <= memory
    monkeypatch.setattr(tiles_torch, "KEPT_BYTES", 0)
    run(*make_features("random", 100, 30), 9.0, chunk_size=30)  # by default, as much as the features take
    assert kept(made[0]) == 2 * 4 * 100 * 30 // 3840


def aligned_and_far_apart(count, width):
    """Features whose logits at a high scale lie far apart in some tiles, and close together in others."""
    image, text = make_features("aligned", count, width)
    close = make_features("parallel", count, width, seed=1)
    half = count // 2
    return torch.cat([image[:half], close[0][half:]]), torch.cat([text[:half], close[1][half:]])


@pytest.mark.parametrize("memory", [0, 4 * 16 * 16 * 3, None])
@pytest.mark.parametrize("kind", ["plain", "drop", "all", "rectangle"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tiles_with_small_sums_are_computed_exactly(kind, memory, dtype, monkeypatch):
    monkeypatch.setattr(tiles_torch, "TILE_COLUMNS", 16)
    made = made_tiles(monkeypatch)
    rows, options = slice(0, 64), {}
    if kind == "rectangle":
        rows, options = slice(5, 60), {"offset": 5}
    if kind in ("drop", "all"):
        options = {"ids": draw_ids(64, 6), "positives": kind}
    for features, kinds in ((make_features("aligned", 64, 3), {True}), (aligned_and_far_apart(64, 3), {True, False})):
        image, text = (tower.to(dtype) for tower in features)
        check(image[rows], text, 300.0, backend="torch", chunk_size=16, memory=memory, **options)
        tiles = made.pop().tiles
        assert len(tiles) == 16
        assert {tile.top is None for tile in tiles} >= kinds


def test_ordinary_tiles_are_not_computed_twice(monkeypatch):
    made = made_tiles(monkeypatch)
    run(*make_features("random", 100, 64), 100.0, chunk_size=20)
    assert all(tile.top is not None for tile in made[0].tiles)


# --- shards -------------------------------------------------------------------------------------------------


def sharded(backend, image, text, logit_scale, sizes, ids=None, positives="drop", **options):
    """The loss of one matrix as several processes would compute it, one shard of images after the other."""
    count, dtype = len(image), torch.promote_types(image.dtype, torch.float32)
    scale = torch.tensor(logit_scale, dtype=dtype, device=image.device) / LN_2
    shards = []
    for end, size in zip(itertools.accumulate(sizes), sizes, strict=True):
        rows = slice(end - size, end)
        if ids is not None:
            options["ids"] = ids[rows], ids
            if positives == "all":
                options["shares"] = clip_loss.target_shares(ids[rows], ids, slice(None), dtype)
        problem = Problem(image[rows], text, rows.start, normalize=True, **options)
        tiles = custom_op.make_tiles(backend, problem)
        shards.append((problem, tiles, tiles.log_sum_exps(scale)))
    columns = functools.reduce(torch.logaddexp2, [sums.columns for *_, sums in shards])
    cosines = torch.cat([sums.cosines for *_, sums in shards])
    losses, gradients = [], []
    for problem, tiles, sums in shards:
        sums = sums._replace(columns=columns)
        mean, softmax = clip_loss.between_passes(problem, scale, sums, cosines * scale, cosines.mean())
        losses.append(mean.double() * len(sums.cosines) / count)
        gradients.append(tiles.softmax_gradients(softmax, 1 / (2 * count)))
    images, texts, moments = zip(*gradients, strict=True)
    loss, text_gradient, moment = (torch.stack(parts).sum(dim=0) for parts in (losses, texts, moments))
    return Result(loss, torch.cat(images), text_gradient, moment)


@settings(max_examples=60)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 40), st.floats(0.1, 100),
       st.sampled_from([None, "drop", "all"]), st.sampled_from(list(KINDS)), tile_rows, memories)  # fmt: skip
def test_ragged_shards_equal_the_whole(sizes, width, scale, positives, kind, rows, memory):
    count = sum(sizes)
    image, text = make_features(kind, count, width, dtype=torch.float64)
    options = {"ids": draw_ids(count, 8), "positives": positives} if positives else {}
    whole = run(image, text, scale, **options)
    parts = sharded("torch", image, text, scale, sizes, **options, chunk_size=rows, memory=memory)
    torch.testing.assert_close(parts.loss.float(), whole.loss, rtol=1e-6, atol=1e-12)  # each shard's is in float32
    for name in ("image", "text", "scale"):
        got, want = getattr(parts, name), getattr(whole, name)
        assert (got - want).norm() <= 1e-12 * want.norm() + 1e-14 * scale


@pytest.mark.parametrize("positives", [None, "drop", "all"])
def test_shards_on_every_backend(where, positives):
    image, text = on(where, *make_features("random", 80, 20))
    options = {"ids": draw_ids(80, 8).to(where[1]), "positives": positives} if positives else {}
    whole = run(image, text, 20.0, backend=where[0], **options)
    parts = sharded(where[0], image, text, 20.0, [10, 1, 69], **options)
    torch.testing.assert_close(parts.loss.float(), whole.loss)
    for name in ("image", "text", "scale"):
        got, want = getattr(parts, name), getattr(whole, name)
        assert (got - want).norm() <= 1e-5 * want.norm()


# --- metamorphic relations ----------------------------------------------------------------------------------


def test_common_permutation(where):
    image, text = on(where, *make_features("random", 90, 16))
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    plain = run(image, text, 20.0, backend=where[0])
    permuted = run(image[order], text[order], 20.0, backend=where[0])
    torch.testing.assert_close(permuted.loss, plain.loss)
    torch.testing.assert_close(permuted.image, plain.image[order], rtol=1e-4, atol=1e-6)


def test_swapping_the_towers_swaps_the_gradients(where):
    image, text = on(where, *make_features("random", 70, 16))
    for options in ({}, {"ids": draw_ids(70, 9).to(where[1])}):
        plain = run(image, text, 20.0, backend=where[0], **options)
        swapped = run(text, image, 20.0, backend=where[0], **options)
        torch.testing.assert_close(swapped.loss, plain.loss)
        torch.testing.assert_close(swapped.text, plain.image, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(swapped.image, plain.text, rtol=1e-4, atol=1e-6)


def test_longer_features_have_the_same_loss_and_shorter_gradients(where):
    image, text = on(where, *make_features("random", 70, 16))
    lengths = torch.logspace(-3, 3, 70, device=where[1])[:, None]
    plain = run(image, text, 20.0, backend=where[0])
    longer = run(image * lengths, text, 20.0, backend=where[0])
    torch.testing.assert_close(longer.loss, plain.loss)
    torch.testing.assert_close(longer.image * lengths, plain.image, rtol=1e-4, atol=1e-6)


def test_gradients_are_orthogonal_to_normalised_features(where):
    image, text = on(where, *make_features("random", 70, 16, spread=2.0))
    actual = run(image, text, 20.0, backend=where[0])
    along = (actual.image * image).sum(dim=1).abs()
    assert bool((along <= 1e-5 * actual.image.norm(dim=1) * image.norm(dim=1)).all())


def test_copies_of_one_pair_give_ln_n(where):
    image, text = (tower.to(where[1]).repeat(75, 1) for tower in make_features("random", 1, 16))
    wanted = torch.tensor(75.0).log()
    torch.testing.assert_close(fused_clip_loss(image, text, 20.0, backend=where[0]).cpu(), wanted)
    same = torch.zeros(75, dtype=torch.int64, device=where[1])
    shared = fused_clip_loss(image, text, 20.0, ids=same, positives="all", backend=where[0])
    torch.testing.assert_close(shared.cpu(), wanted)


def test_a_far_away_pair_changes_little(where):
    image, text = make_features("aligned", 30, 16)
    image, text = on(where, F.pad(image, (0, 1)), F.pad(text, (0, 1)))
    alone = F.one_hot(torch.tensor([16], device=where[1]), 17).float()
    plain = 30 * fused_clip_loss(image, text, 100.0, backend=where[0])
    more = torch.cat([image, -alone]), torch.cat([text, -alone])
    more = 31 * fused_clip_loss(*more, 100.0, backend=where[0])
    torch.testing.assert_close(more, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("positives", ["drop", "all"])
def test_ids_that_all_differ_change_nothing(where, positives):
    image, text = on(where, *make_features("random", 70, 16))
    ids = torch.randperm(70, generator=torch.Generator().manual_seed(0)).to(where[1])
    options = {"backend": where[0], "chunk_size": 70}
    plain = run(image, text, 20.0, **options)
    with_ids = run(image, text, 20.0, ids=ids, positives=positives, **options)
    if where[1] == "cpu":
        assert_same_bits(with_ids, plain)
    # On a GPU the kernels that compare ids have smaller tiles, and sums are rounded in another order.
    torch.testing.assert_close(with_ids[:3], plain[:3])


@pytest.mark.parametrize("positives", ["drop", "all"])
def test_names_of_ids_do_not_matter(where, positives):
    image, text = on(where, *make_features("random", 70, 16))
    ids = draw_ids(70, 10)
    names = torch.randint(-(2**62), 2**62, (20,), generator=torch.Generator().manual_seed(1))
    options = {"positives": positives, "backend": where[0], "offset": 9}
    plain, renamed = (run(image[9:60], text, 20.0, ids=x.to(where[1]), **options) for x in (ids, names[ids + 10]))
    assert_same_bits(renamed, plain)


def test_ids_that_are_all_equal(where):
    image, text = on(where, *make_features("random", 70, 16))
    same = torch.full((70,), 5, device=where[1])
    check(image, text, 20.0, ids=same, positives="all", backend=where[0])
    alone = run(image, text, 20.0, ids=same, backend=where[0])  # each pair has no negatives
    for tensor in alone[:4]:
        assert torch.equal(tensor, torch.zeros_like(tensor))


def test_a_text_without_an_image_is_a_negative_and_nothing_else(where):
    image, text = on(where, *make_features("random", 40, 16))
    far = run(image, torch.cat([text, text[:1] * 0]), 0.0, offset=0, backend=where[0])  # one more choice for images
    wanted = (torch.tensor(41.0).log() + torch.tensor(40.0).log()) / 2
    torch.testing.assert_close(far.loss.cpu(), wanted)
    assert far.text[40].abs().max() == 0


# --- contracts ----------------------------------------------------------------------------------------------


def test_two_runs_give_the_same_bits_and_inputs_stay(where):
    image, text = on(where, *make_features("random", 130, 33))
    before = image.clone(), text.clone()
    for options in ({}, {"ids": draw_ids(130, 9).to(where[1]), "positives": "all"}):
        first, second = (run(image, text, 14.0, backend=where[0], **options) for _ in range(2))
        assert_same_bits(first, second)
    assert image.equal(before[0])
    assert text.equal(before[1])


@pytest.mark.parametrize("loss", ["clip", "siglip", "drop", "all", "rectangle", "nothing kept"])
@pytest.mark.parametrize("chunk_size", [None, 30])
@pytest.mark.filterwarnings("ignore:Deterministic behavior was enabled")  # cuBLAS asks for a setting
def test_nothing_is_read_that_was_not_written(where, loss, chunk_size, monkeypatch):
    monkeypatch.setattr(tiles_torch, "TILE_COLUMNS", 50)
    image, text = on(where, *make_features("random", 70, 9))
    function, scalars = (fused_siglip_loss, [14.0, -10.0]) if loss == "siglip" else (fused_clip_loss, [14.0])
    options = {"backend": where[0], "chunk_size": chunk_size}
    if loss in ("drop", "all"):
        options |= {"ids": draw_ids(70, 9).to(where[1]), "positives": loss}
    if loss == "rectangle":
        image, options = image[3:60], options | {"offset": 3}
    if loss == "nothing kept":
        options |= {"memory": 0}
    wanted = evaluate(function, image, text, *scalars, **options)
    padding = torch.full((64, 9), float("nan"), device=where[1])
    image, text = (torch.cat([tower, padding])[: len(tower)] for tower in (image, text))
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills torch.empty and new_empty with NaN
    try:
        assert torch.empty(3, device=where[1]).isnan().all()
        actual = evaluate(function, image, text, *scalars, **options)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same_bits(actual, wanted)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, in the interpreter
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_bad_numbers_give_nan(where, bad, normalize):
    for tower in (0, 1):
        features = make_features("random", 5, 3)
        features[tower][2, 1] = bad
        image, text = on(where, *features)
        ids = torch.tensor([1, 2, 2, 4, 1], device=where[1])
        for options in ({}, {"ids": ids}, {"ids": ids, "positives": "all"}):
            actual = run(image, text, 14.0, normalize=normalize, backend=where[0], **options)
            assert actual.loss.isnan()
            assert (actual.image, actual.text)[tower].isnan().any()
    for kind, count in (("random", 5), ("aligned", 1)):
        image, text = on(where, *make_features(kind, count, 3))
        assert fused_clip_loss(image, text, bad, backend=where[0]).isnan()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_bad_text_without_an_image_gives_nan(where):
    image, text = make_features("random", 5, 3)
    text[4, 1] = float("nan")
    assert fused_clip_loss(*on(where, image[:3], text), 14.0, offset=0, backend=where[0]).isnan()


def test_the_scale_may_be_a_number_a_float32_or_have_the_dtype_of_the_features():
    image, text = make_features("random", 9, 5, dtype=torch.bfloat16)
    number = fused_clip_loss(image, text, 8)
    for dtype in (torch.float32, torch.bfloat16):
        scale = torch.tensor(8.0, dtype=dtype, requires_grad=True)
        loss = fused_clip_loss(image, text, scale)
        loss.backward()
        assert loss.equal(number)
        assert scale.grad is not None
        assert scale.grad.dtype == dtype


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"text_features": torch.ones(4, 2)}, ValueError, r"\[3, 2\].*\[4, 2\]"),
        ({"text_features": torch.ones(3, 5)}, ValueError, r"\[3, 2\].*\[3, 5\]"),
        ({"image_features": torch.ones(3)}, ValueError, r"\(3,\).*\(N, D\)"),
        ({"image_features": torch.ones(0, 2), "text_features": torch.ones(0, 2)}, ValueError, r"\(0, 2\)"),
        ({"text_features": torch.ones(3, 2, dtype=torch.bfloat16)}, TypeError, "float32.*bfloat16"),
        ({"text_features": torch.ones(3, 2, device="meta")}, ValueError, "cpu.*meta"),
        ({"image_features": torch.ones(3, 2, dtype=torch.int64)}, TypeError, "int64"),
        ({"image_features": [[1.0]]}, TypeError, "list"),
        ({"logit_scale": torch.ones(1)}, ValueError, r"\(1,\)"),
        ({"logit_scale": torch.ones((), dtype=torch.float64)}, TypeError, "float64"),
        ({"logit_scale": torch.ones((), device="meta")}, ValueError, "meta.*cpu"),
        ({"logit_scale": "large"}, TypeError, "str"),
        ({"backend": "cuda"}, ValueError, "'cuda'.*'torch'"),
        ({"chunk_size": 0}, ValueError, "0"),
        ({"chunk_size": 2.0}, ValueError, "2.0"),
        ({"memory": -1}, ValueError, "-1.*at least 0"),
        ({"memory": 1.5}, ValueError, "1.5.*at least 0"),
        ({"text_features": torch.ones(5, 2), "offset": 3}, ValueError, "3.*from 0 to 2.*3 images and 5 texts"),
        ({"text_features": torch.ones(5, 2), "offset": -1}, ValueError, "-1.*from 0 to 2"),
        ({"text_features": torch.ones(5, 2), "offset": 1.0}, ValueError, "1.0.*from 0 to 2"),
        ({"text_features": torch.ones(5, 3), "offset": 0}, ValueError, "width 2.*3"),
        ({"text_features": torch.ones(2, 2), "offset": 0}, ValueError, "2 rows.*at least 3"),
        ({"ids": [1, 2, 3]}, TypeError, "list.*int64"),
        ({"ids": torch.ones(3)}, TypeError, "float32.*int64"),
        ({"ids": torch.ones(3, dtype=torch.int32)}, TypeError, "int32.*int64"),
        ({"ids": torch.arange(4)}, ValueError, r"\(4,\).*\(3,\)"),
        ({"ids": torch.ones(3, 1, dtype=torch.int64)}, ValueError, r"\(3, 1\).*\(3,\)"),
        ({"ids": torch.ones(3, dtype=torch.int64, device="meta")}, ValueError, "meta.*cpu"),
        ({"positives": "some"}, ValueError, "'some'.*'drop' or 'all'"),
    ],
)
def test_wrong_arguments_are_named(change, error, words):
    arguments = {"image_features": torch.ones(3, 2), "text_features": torch.ones(3, 2), "logit_scale": 1.0}
    with pytest.raises(error, match=words):
        fused_clip_loss(**(arguments | change))


@pytest.mark.usefixtures("interpreter")
def test_triton_says_why_not(monkeypatch):
    features = torch.ones(3, 2)
    with pytest.raises(ValueError, match="float64"):
        fused_clip_loss(features.double(), features.double(), 1.0, backend="triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1"):
        fused_clip_loss(features, features, 1.0, backend="triton")
    monkeypatch.setattr(custom_op, "HAS_TRITON", False)
    with pytest.raises(ValueError, match="not installed"):
        fused_clip_loss(features, features, 1.0, backend="triton")


def test_importing_the_package_does_not_need_triton():
    code = "import sys; sys.modules['triton'] = None; import minclip_kernels, torch; x = torch.ones(2, 2);"
    code += "print(minclip_kernels.fused_clip_loss(x, x, 1.0, backend='torch').item())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(0.6931472)


# opcheck of torch 2.15 looks at gradients of tensors that are no leaves, and warns of itself
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("needs", [True, False])
@pytest.mark.parametrize("layout", ["transposed", "rectangle", "drop", "all"])
def test_operator_is_registered_rightly(needs, layout):
    image, text = make_features("random", 5, 3)
    image = image[1:4] if layout == "rectangle" else image
    image = image.T.contiguous().T if layout == "transposed" else image
    ids = torch.tensor([1, 2, 2, 4, 1]) if layout in ("drop", "all") else None
    positives, offset = "all" if layout == "all" else "drop", int(layout == "rectangle")
    inputs = [tensor.detach().requires_grad_(needs) for tensor in (image, text, torch.tensor(3.0))]
    arguments = (*inputs, ids, positives, offset, True, "torch", None, None, [needs] * 3)
    torch.library.opcheck(torch.ops.minclip_kernels.clip_loss.default, arguments)


def test_inside_torch_compile(where):
    image, text = on(where, *make_features("random", 30, 8))
    ids = draw_ids(30, 5).to(where[1])
    for options in ({}, {"ids": ids, "positives": "all"}, {"ids": ids, "offset": 4, "memory": 0}):
        images = image[4:20] if "offset" in options else image
        compiled = torch.compile(fused_clip_loss, fullgraph=True, backend="aot_eager")
        plain = run(images, text, 9.0, backend=where[0], **options)
        assert_same_bits(evaluate(compiled, images, text, 9.0, backend=where[0], **options), plain)


def test_on_meta_tensors():
    image = torch.ones(3, 3, device="meta", requires_grad=True)
    text = torch.ones(5, 3, device="meta")
    for ids in (None, torch.ones(5, dtype=torch.int64, device="meta")):
        loss = fused_clip_loss(image, text, 1.0, offset=1, ids=ids)
        (gradient,) = torch.autograd.grad(loss, image)
        assert (loss.shape, loss.dtype, loss.device.type) == ((), torch.float32, "meta")
        assert gradient.shape == (3, 3)


def test_on_fake_tensors():
    with FakeTensorMode():
        image, text = torch.ones(5, 3, requires_grad=True), torch.ones(5, 3)
        loss = fused_clip_loss(image, text, torch.ones(()), ids=torch.arange(5))
        loss.backward()
        assert (loss.shape, loss.dtype) == ((), torch.float32)
        assert image.grad is not None
        assert image.grad.shape == (5, 3)


def test_autocast_changes_nothing(where):
    image, text = on(where, *make_features("random", 30, 8))
    plain = run(image, text, 9.0, backend=where[0])
    with torch.autocast(where[1], dtype=torch.bfloat16):
        cast = run(image, text, 9.0, backend=where[0])
    assert_same_bits(cast, plain)


def test_without_gradients():
    image, text = make_features("random", 9, 5)
    with torch.no_grad():
        loss = fused_clip_loss(image.requires_grad_(), text, 3.0)
    assert not loss.requires_grad
    assert loss.equal(fused_clip_loss(image, text, 3.0).detach())


def test_only_what_is_needed_gets_a_gradient():
    image, text = make_features("random", 9, 5)
    whole = run(image, text, 3.0)
    for needed in range(1, 8):
        inputs = [image.clone(), text.clone(), torch.tensor(3.0)]
        chosen = [x.requires_grad_() for i, x in enumerate(inputs) if needed >> i & 1]
        gradients = torch.autograd.grad(fused_clip_loss(*inputs), chosen)
        wanted = [gradient for i, gradient in enumerate(whole[1:4]) if needed >> i & 1]
        torch.testing.assert_close(list(gradients), wanted)


def test_backward_twice_and_upstream_gradients():
    image, text = make_features("random", 9, 5)
    image.requires_grad_()
    loss = fused_clip_loss(image, text, 3.0)
    (once,) = torch.autograd.grad(loss, image, retain_graph=True)
    (twice,) = torch.autograd.grad(2 * loss, image)
    assert twice.equal(2 * once)


@pytest.mark.parametrize("way", ["direct", "operator", "compiled"])
def test_second_derivatives_are_refused(way):
    image, text = make_features("random", 9, 5)
    image.requires_grad_()

    def operator(image, text, scale):
        arguments = (None, "drop", 0, True, "torch", None, None, [True, False, False])
        return torch.ops.minclip_kernels.clip_loss(image, text, torch.tensor(scale), *arguments)[0]

    compiled = torch.compile(fused_clip_loss, fullgraph=True, backend="aot_eager")
    loss = {"direct": fused_clip_loss, "operator": operator, "compiled": compiled}[way]
    # What is compiled is refused by torch itself, in the second backward or already in the first.
    words = "support double backward|requires create_graph=False" if way == "compiled" else "once"
    value = loss(image, text, 3.0)
    with pytest.raises(RuntimeError, match=words):  # NotImplementedError is one.
        torch.autograd.grad(value, image, create_graph=True)[0].square().sum().backward()


@pytest.mark.parametrize(
    ("image_needs", "text_needs", "scale_needs", "products"),
    [
        (True, True, True, 4),
        (True, False, True, 3),
        (False, True, False, 3),
        (False, False, True, 3),  # One more for the scale alone, which takes its gradient from the images' product.
        (False,) * 3 + (1,),
    ],
)
@pytest.mark.parametrize(("memory", "kept"), [(0, 0), (447, 0), (448, 112), (7 * 448, 672), (None, 1600)])
def test_no_product_is_computed_for_nobody(
    image_needs, text_needs, scale_needs, products, memory, kept, monkeypatch
):  # fmt: skip
    """Tiles of 7 × 16 out of 40 × 40: of those in the memory, 448 bytes each, one product is enough."""
    monkeypatch.setattr(tiles_torch, "TILE_COLUMNS", 16)
    image, text = make_features("random", 40, 6)
    image.requires_grad_(image_needs)
    text.requires_grad_(text_needs)
    scale = torch.tensor(3.0, requires_grad=scale_needs)
    with count_products() as counter:
        fused_clip_loss(image, text, scale, chunk_size=7, memory=memory)
    saved = kept if products > 1 else 0
    assert counter.get_total_flops() == 2 * 6 * (products * 40**2 - saved)


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("exact", [False, True])
def test_triton_multiplies_only_in_the_kernels_and_for_the_gradients(exact, monkeypatch):
    """One product in each of two kernels, another where they are computed again exactly, and two outside."""
    from triton.runtime.interpreter import InterpreterBuilder

    dot, inside = InterpreterBuilder.create_dot, []

    def counted(self, a, b, *arguments):
        inside.append(2 * a.data.shape[0] * a.data.shape[1] * b.data.shape[1])
        return dot(self, a, b, *arguments)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", counted)
    image, text = make_features("parallel" if exact else "random", 128, 128)  # Smaller ones are padded to this.
    if exact:
        image[5] *= -1  # All logits of this row lie far below those of the others.
    with count_products() as counter:
        fused_clip_loss(image.requires_grad_(), text.requires_grad_(), 100.0, backend="triton")
    product = 2 * 128**3
    assert counter.get_total_flops() == 2 * product
    if exact:
        assert sum(inside) > 2 * product
    else:
        assert sum(inside) == 2 * product


@pytest.mark.usefixtures("interpreter")
def test_every_kernel_is_launched_with_its_own_arguments(monkeypatch):
    """A GPU refuses unknown arguments, which the interpreter ignores."""
    from minclip_kernels import tiles_triton

    launch, launched = tiles_triton._launch, set()
    options = {"num_warps", "num_stages"}

    def checked(kernel, programs, **arguments):
        launched.add(kernel.__name__)
        assert arguments.keys() - options == set(kernel.arg_names), kernel.__name__
        launch(kernel, programs, **arguments)

    monkeypatch.setattr(tiles_triton, "_launch", checked)
    image, text = make_features("random", 9, 5, dtype=torch.bfloat16)
    image.requires_grad_()
    for ids, positives in ((None, "drop"), (torch.zeros(9).long(), "all")):
        fused_clip_loss(image, text, 3.0, ids=ids, positives=positives, backend="triton")
    fused_siglip_loss(image, text, 3.0, -2.0, backend="triton")
    kernels = {name for name in vars(tiles_triton.kernels) if name.endswith("_kernel")}
    assert launched == kernels


# VmHWM and not getrusage: the latter's maximum begins with that of the process that started this one
MEMORY = """
import re, sys, torch
from minclip_kernels import fused_clip_loss
count = int(sys.argv[1])
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1e3
def step(count):
    image, text = (torch.randn(count, 512, requires_grad=True) for _ in range(2))
    start = peak()
    fused_clip_loss(image, text, torch.tensor(14.0, requires_grad=True)).backward()
    return peak() - start
step(8)  # load the libraries
print(step(count))
"""


def megabytes_above_the_inputs(count):
    done = subprocess.run([sys.executable, "-c", MEMORY, str(count)], capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_memory_at_16384():
    assert 60 < megabytes_above_the_inputs(16384) < 350


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_memory_at_65536():
    assert 250 < megabytes_above_the_inputs(65536) < 1000
