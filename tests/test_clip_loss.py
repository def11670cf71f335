import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

checks = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("loss_checks.py"))))

from minclip_kernels import clip_loss, fused_clip_loss, fused_siglip_loss, tiles_torch  # noqa: E402

KINDS, make_features, run, check = checks.KINDS, checks.make_features, checks.run, checks.check
every_backend = pytest.mark.parametrize("where", checks.BACKENDS)


def on(where, *tensors):
    return tuple(tensor.to(where[1]) for tensor in tensors)


shapes = st.tuples(st.integers(1, 200), st.integers(1, 200))
scales = st.floats(-2, 2).map(lambda power: 10**power)


tile_rows, tile_columns = st.integers(1, 210), st.integers(20, 210)


@settings(max_examples=150)
@given(shapes, scales, st.sampled_from(KINDS), st.sampled_from([0.0, 4.0]), tile_rows, tile_columns, st.integers(0, 9))
def test_float32_equals_the_reference(shape, scale, kind, spread, rows, columns, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles_torch, "TILE_COLUMNS", columns)
        check(*make_features(kind, *shape, seed=seed, spread=spread), scale, backend="torch", chunk_size=rows)


@settings(max_examples=60)
@given(shapes, scales, st.sampled_from(KINDS), st.sampled_from([torch.bfloat16, torch.float16, torch.float64]),
       tile_rows, tile_columns)  # fmt: skip
def test_other_dtypes_equal_the_reference(shape, scale, kind, dtype, rows, columns):
    if dtype == torch.float16 and kind == "zero":
        return  # 1 / 1e-12 is beyond float16, in plain PyTorch too
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles_torch, "TILE_COLUMNS", columns)
        check(*make_features(kind, *shape, spread=1.0, dtype=dtype), scale, backend="torch", chunk_size=rows)


def test_many_blocks_are_combined_on_the_way(monkeypatch):
    monkeypatch.setattr(clip_loss, "MOST_PARTS", 3)
    monkeypatch.setattr(tiles_torch, "TILE_COLUMNS", 9)
    check(*make_features("cones", 100, 30), 100.0, backend="torch", chunk_size=11)


@every_backend
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_features(where, kind):
    image, text = on(where, *make_features(kind, 100, 70, seed=1, spread=4.0))
    check(image, text, 100.0, backend=where[0])
    check(image, text, 1.0, backend=where[0], chunk_size=70)


@every_backend
@settings(max_examples=12)
@given(shapes, scales, st.sampled_from(KINDS), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_any_shape_equals_the_reference(where, shape, scale, kind, dtype):
    spread = 1.0 if dtype == torch.float16 else 4.0
    if dtype == torch.float16 and kind == "zero":
        return
    check(*on(where, *make_features(kind, *shape, spread=spread, dtype=dtype)), scale, backend=where[0])


@every_backend
@pytest.mark.parametrize("chunk_size", [1, 3, 10, 11])
def test_chunk_size_changes_only_rounding(where, chunk_size):
    check(*on(where, *make_features("random", 10, 7)), 10.0, backend=where[0], chunk_size=chunk_size)


@every_backend
def test_a_loss_of_a_millionth_is_right(where):
    image, text = on(where, *make_features("tiny", 150, 200))
    actual = check(image, text, 100.0, backend=where[0])
    assert 1e-7 < actual.loss < 1e-4
    plain = torch.nn.functional.normalize(image, dim=1)
    logits = 100 * plain @ plain.T
    naive = torch.nn.functional.cross_entropy(logits, torch.arange(150, device=image.device))
    assert abs(naive - actual.loss) > 0.01 * actual.loss  # what the usual formula makes of it


@checks.INTERPRETED
@pytest.mark.parametrize("width", [512, 1024])
@pytest.mark.parametrize("kind", ["random", "aligned", "cones", "tiny"])
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


@every_backend
@pytest.mark.parametrize("distance", [0.08, 0.03, 0.003])
def test_bfloat16_gradients_of_aligned_pairs(where, distance):
    image, noise = make_features("random", 128, 64)
    text = image + distance * 8 * noise
    image, text = on(where, image.bfloat16(), text.bfloat16())
    actual = run(fused_clip_loss, image, text, 14.0, backend=where[0])
    wanted = checks.expected(image, text, 14.0)
    for got, want in ((actual.image, wanted.image), (actual.text, wanted.text)):
        assert (got.double().cpu() - want).norm() <= 4e-3 * want.norm()


@every_backend
def test_float16_keeps_the_gradient_of_many_negatives(where, monkeypatch):
    if where == ("triton", "cpu"):  # few large blocks: the interpreter's time goes by their number
        from minclip_kernels import tiles_triton

        large = tiles_triton.Blocking(block_m=512, block_n=512, block_k=16)
        monkeypatch.setattr(tiles_triton, "INTERPRETER_BLOCKING", large)
    image, text = on(where, *make_features("random", 4096, 8, spread=1.0, dtype=torch.float16))
    actual = run(lambda *a, **k: 1024 * fused_clip_loss(*a, **k), image, text, 1.0, backend=where[0])
    wanted = checks.expected(image, text, 1.0)
    for got, want in ((actual.image, 1024 * wanted.image), (actual.text, 1024 * wanted.text)):
        error = (got.double().cpu() - want).norm(dim=1)
        assert (error / want.norm(dim=1)).median() <= 1e-2
        assert error.norm() <= 1e-2 * want.norm()


def test_where_duplicates_cancel_plain_pytorch_errs_as_much():
    """Why `check` allows more than a millionth of the absolute sum in float32 at scale 100."""

    def plain(image, text, scale):
        unit = [torch.nn.functional.normalize(tower, dim=1) for tower in (image, text)]
        logits, labels = scale * unit[0] @ unit[1].T, torch.arange(len(image))
        return sum(torch.nn.functional.cross_entropy(z, labels) for z in (logits, logits.T)) / 2

    worst = {}
    for seed in range(100):
        image, text = make_features("duplicated", 17, 5, seed=seed, spread=4.0)
        wanted = checks.expected(image, text, 100.0)
        for loss in (plain, fused_clip_loss):
            actual = run(loss, image, text, 100.0)
            for got, want, absolute in (
                (actual.image, wanted.image, wanted.image_absolute),
                (actual.text, wanted.text, wanted.text_absolute),
            ):
                shares = (got - want).norm(dim=1) / (1e-4 * want.norm(dim=1) + 1e-6 * absolute)
                worst[loss] = max(worst.get(loss, 0.0), shares.max().item())
    assert worst[plain] > 1
    assert worst[fused_clip_loss] < 3 * worst[plain]


@every_backend
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


@every_backend
def test_without_normalising(where):
    image, text = on(where, *(0.2 * features for features in make_features("random", 70, 20)))
    check(image, text, 3.0, normalize=False, backend=where[0])


@every_backend
def test_common_permutation(where):
    image, text = on(where, *make_features("random", 90, 16))
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    plain = run(fused_clip_loss, image, text, 20.0, backend=where[0])
    permuted = run(fused_clip_loss, image[order], text[order], 20.0, backend=where[0])
    torch.testing.assert_close(permuted.loss, plain.loss)
    torch.testing.assert_close(permuted.image, plain.image[order], rtol=1e-4, atol=1e-6)


@every_backend
def test_swapping_the_towers_swaps_the_gradients(where):
    image, text = on(where, *make_features("random", 70, 16))
    plain = run(fused_clip_loss, image, text, 20.0, backend=where[0])
    swapped = run(fused_clip_loss, text, image, 20.0, backend=where[0])
    torch.testing.assert_close(swapped.loss, plain.loss)
    torch.testing.assert_close(swapped.text, plain.image, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(swapped.image, plain.text, rtol=1e-4, atol=1e-6)


@every_backend
def test_longer_features_have_the_same_loss_and_shorter_gradients(where):
    image, text = on(where, *make_features("random", 70, 16))
    lengths = torch.logspace(-3, 3, 70, device=where[1])[:, None]
    plain = run(fused_clip_loss, image, text, 20.0, backend=where[0])
    longer = run(fused_clip_loss, image * lengths, text, 20.0, backend=where[0])
    torch.testing.assert_close(longer.loss, plain.loss)
    torch.testing.assert_close(longer.image * lengths, plain.image, rtol=1e-4, atol=1e-6)


@every_backend
def test_gradients_are_orthogonal_to_normalised_features(where):
    image, text = on(where, *make_features("random", 70, 16, spread=2.0))
    actual = run(fused_clip_loss, image, text, 20.0, backend=where[0])
    along = (actual.image * image).sum(dim=1).abs()
    assert bool((along <= 1e-5 * actual.image.norm(dim=1) * image.norm(dim=1)).all())


@every_backend
def test_copies_of_one_pair_give_ln_n(where):
    image, text = on(where, *make_features("random", 1, 16))
    loss = fused_clip_loss(image.repeat(75, 1), text.repeat(75, 1), 20.0, backend=where[0])
    torch.testing.assert_close(loss.cpu(), torch.tensor(75.0).log())


@every_backend
def test_a_far_away_pair_changes_little(where):
    image, text = make_features("aligned", 30, 16)
    far = torch.nn.functional.pad(image, (0, 1)), torch.nn.functional.pad(text, (0, 1))
    alone = torch.nn.functional.one_hot(torch.tensor([16]), 17).float()
    image, text, more_image, more_text = on(where, *far, *(torch.cat([tower, -alone]) for tower in far))
    plain = 30 * fused_clip_loss(image, text, 100.0, backend=where[0])
    more = 31 * fused_clip_loss(more_image, more_text, 100.0, backend=where[0])
    torch.testing.assert_close(more, plain, rtol=1e-4, atol=1e-6)


@every_backend
def test_two_runs_give_the_same_bits_and_inputs_stay(where):
    image, text = on(where, *make_features("random", 130, 33))
    before = image.clone(), text.clone()
    first, second = (run(fused_clip_loss, image, text, 14.0, backend=where[0]) for _ in range(2))
    assert first.loss.equal(second.loss)
    assert first.image.equal(second.image)
    assert first.text.equal(second.text)
    assert first.scalars[0].equal(second.scalars[0])
    assert image.equal(before[0])
    assert text.equal(before[1])


@every_backend
@pytest.mark.parametrize("chunk_size", [None, 30])
@pytest.mark.parametrize("loss", ["clip", "siglip"])
@pytest.mark.filterwarnings("ignore:Deterministic behavior was enabled")  # cuBLAS asks for a setting
def test_nothing_is_read_that_was_not_written(where, loss, chunk_size, monkeypatch):
    monkeypatch.setattr(tiles_torch, "TILE_COLUMNS", 50)
    loss, scalars = (fused_clip_loss, [14.0]) if loss == "clip" else (fused_siglip_loss, [14.0, -10.0])
    image, text = on(where, *make_features("random", 70, 9))
    wanted = run(loss, image, text, *scalars, backend=where[0], chunk_size=chunk_size)
    behind = [torch.cat([tower, torch.full((64, 9), float("nan"), device=where[1])])[:70] for tower in (image, text)]
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills torch.empty and new_empty with NaN
    try:
        assert torch.empty(3, device=where[1]).isnan().all()
        actual = run(loss, *behind, *scalars, backend=where[0], chunk_size=chunk_size)
    finally:
        torch.use_deterministic_algorithms(False)
    assert actual.loss.equal(wanted.loss)
    assert actual.image.equal(wanted.image)
    assert actual.text.equal(wanted.text)
    assert actual.scalars == wanted.scalars


@every_backend
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, in the interpreter
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_bad_numbers_give_nan(where, bad, normalize):
    for tower in (0, 1):
        features = make_features("random", 5, 3)
        features[tower][2, 1] = bad
        actual = run(fused_clip_loss, *on(where, *features), 14.0, normalize=normalize, backend=where[0])
        assert actual.loss.isnan()
        assert (actual.image, actual.text)[tower].isnan().any()
    for kind, count in (("random", 5), ("aligned", 1)):
        image, text = on(where, *make_features(kind, count, 3))
        assert fused_clip_loss(image, text, bad, backend=where[0]).isnan()


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
    ],
)
def test_wrong_arguments_are_named(change, error, words):
    arguments = {"image_features": torch.ones(3, 2), "text_features": torch.ones(3, 2), "logit_scale": 1.0}
    with pytest.raises(error, match=words):
        fused_clip_loss(**(arguments | change))


def test_triton_says_why_not(monkeypatch):
    features = torch.ones(3, 2)
    with pytest.raises(ValueError, match="float64"):
        fused_clip_loss(features.double(), features.double(), 1.0, backend="triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1"):
        fused_clip_loss(features, features, 1.0, backend="triton")
    monkeypatch.setattr(clip_loss, "HAS_TRITON", False)
    with pytest.raises(ValueError, match="not installed"):
        fused_clip_loss(features, features, 1.0, backend="triton")


def test_importing_the_package_does_not_need_triton():
    code = "import sys; sys.modules['triton'] = None; import minclip_kernels, torch; x = torch.ones(2, 2);"
    code += "print(minclip_kernels.fused_clip_loss(x, x, 1.0, backend='torch').item())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(0.6931472)


def operator_arguments(needs=True):
    image, text = make_features("random", 5, 3)
    scale = torch.tensor(3.0, requires_grad=needs)
    return image.requires_grad_(needs), text.requires_grad_(needs), scale, True, "torch", None, [needs] * 3


# opcheck of torch 2.15 looks at gradients of tensors that are no leaves, and warns of itself
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("needs", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_operator_is_registered_rightly(needs, transposed):
    image, *others = operator_arguments(needs)
    if transposed:
        image = image.detach().T.contiguous().T.requires_grad_(needs)
    torch.library.opcheck(torch.ops.minclip_kernels.clip_loss.default, (image, *others))


@every_backend
def test_inside_torch_compile(where):
    compiled = torch.compile(fused_clip_loss, fullgraph=True, backend="aot_eager")
    image, text = on(where, *make_features("random", 30, 8))
    plain = run(fused_clip_loss, image, text, 9.0, backend=where[0])
    traced = run(compiled, image, text, 9.0, backend=where[0])
    assert traced.loss.equal(plain.loss)
    assert traced.image.equal(plain.image)
    assert traced.scalars[0].equal(plain.scalars[0])


def test_on_meta_tensors():
    image = torch.ones(5, 3, device="meta", requires_grad=True)
    loss = fused_clip_loss(image, torch.ones(5, 3, device="meta"), 1.0)
    loss.backward()
    assert (loss.shape, loss.dtype, loss.device.type) == ((), torch.float32, "meta")
    assert image.grad is not None
    assert image.grad.shape == (5, 3)


@every_backend
def test_autocast_changes_nothing(where):
    image, text = on(where, *make_features("random", 30, 8))
    plain = run(fused_clip_loss, image, text, 9.0, backend=where[0])
    with torch.autocast(where[1], dtype=torch.bfloat16):
        cast = run(fused_clip_loss, image, text, 9.0, backend=where[0])
    assert cast.loss.equal(plain.loss)
    assert cast.image.equal(plain.image)


def test_without_gradients():
    image, text = make_features("random", 9, 5)
    with torch.no_grad():
        loss = fused_clip_loss(image.requires_grad_(), text, 3.0)
    assert not loss.requires_grad
    assert loss.equal(fused_clip_loss(image, text, 3.0).detach())


def test_backward_twice_and_upstream_gradients():
    image, text = make_features("random", 9, 5)
    image.requires_grad_()
    loss = fused_clip_loss(image, text, 3.0)
    (once,) = torch.autograd.grad(loss, image, retain_graph=True)
    (twice,) = torch.autograd.grad(2 * loss, image)
    assert twice.equal(2 * once)


def test_second_derivatives_are_refused():
    image, text = make_features("random", 9, 5)
    image.requires_grad_()
    (gradient,) = torch.autograd.grad(fused_clip_loss(image, text, 3.0), image, create_graph=True)
    with pytest.raises(NotImplementedError, match="once"):
        gradient.square().sum().backward()


@pytest.mark.parametrize(
    ("image_needs", "text_needs", "scale_needs", "products"),
    [
        (True, True, True, 4),
        (True, False, True, 3),
        (False, True, False, 3),
        (False, False, True, 2),
        (False,) * 3 + (1,),
    ],
)
# Rows whose cosines fit into the memory of the features, 2·N·D numbers, or one tile, are kept for the second pass.
@pytest.mark.parametrize(
    ("width", "chunk_size", "kept"), [(2, 7, 0), (6, 7, 7), (15, 7, 28), (18, 7, 40), (30, 7, 40), (6, None, 40)]
)
def test_no_product_is_computed_for_nobody(
    image_needs, text_needs, scale_needs, products, width, chunk_size, kept, monkeypatch
):
    count = 40
    image, text = make_features("random", count, width)
    image.requires_grad_(image_needs)
    text.requires_grad_(text_needs)
    scale = torch.tensor(3.0, requires_grad=scale_needs)
    counter = checks.count_products()
    operator = clip_loss._clip_loss._init_fn  # inside the operator a mode sees nothing
    monkeypatch.setattr(clip_loss, "_clip_loss", operator)
    with counter:
        fused_clip_loss(image, text, scale, chunk_size=chunk_size)
    saved = kept if products > 1 else 0
    assert counter.get_total_flops() == 2 * count * width * (products * count - saved)


@checks.INTERPRETED
def test_triton_multiplies_only_in_the_kernels_and_for_the_gradients(monkeypatch):
    launches = []
    from minclip_kernels import tiles_triton

    launch = tiles_triton._launch
    monkeypatch.setattr(tiles_triton, "_launch", lambda *a: (launches.append(a[0].__name__), launch(*a))[1])
    image, text = make_features("random", 40, 6)
    counter = checks.count_products()
    monkeypatch.setattr(clip_loss, "_clip_loss", clip_loss._clip_loss._init_fn)
    with counter:
        fused_clip_loss(image.requires_grad_(), text.requires_grad_(), 3.0, backend="triton")
    assert launches == ["log_sum_exp_kernel", "coefficients_kernel"]  # one product each
    assert counter.get_total_flops() == 2 * 2 * 40**2 * 6


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
    assert 250 < megabytes_above_the_inputs(65536) < 2000
