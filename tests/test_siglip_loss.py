import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from minclip_kernels import fused_siglip_loss, tiles_torch
from minclip_kernels.testing import KINDS, assert_equals_reference, count_products, evaluate, make_features

shapes = st.tuples(st.integers(1, 200), st.integers(1, 200))
scales = st.floats(-2, 2).map(lambda power: 10**power)
biases = st.sampled_from([-10.0, 0.0, 3.0, -60.0])
tile_rows, tile_columns = st.integers(1, 210), st.integers(20, 210)

check = functools.partial(assert_equals_reference, fused_siglip_loss)
run = functools.partial(evaluate, fused_siglip_loss)


def on(where, image, text):
    return image.to(where[1]), text.to(where[1])


def assert_same_bits(actual, wanted):
    assert all(torch.equal(*pair) for pair in zip(actual, wanted, strict=True))


@settings(max_examples=40)
@given(shapes, scales, biases, st.sampled_from(list(KINDS)), st.sampled_from([0.0, 4.0]), tile_rows, tile_columns)
def test_float32_equals_the_reference(shape, scale, bias, kind, spread, rows, columns):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles_torch, "TILE_COLUMNS", columns)
        check(*make_features(kind, *shape, spread=spread), scale, bias, backend="torch", chunk_size=rows)


@settings(max_examples=60)
@given(st.integers(0, 60), st.integers(1, 90), st.integers(0, 60), st.integers(1, 100), scales, biases,
       st.booleans(), tile_rows, tile_columns)  # fmt: skip
def test_rectangles_equal_the_reference(before, count, after, width, scale, bias, is_double, rows, columns):
    dtype = torch.float64 if is_double else torch.float32
    image, text = make_features("random", before + count + after, width, spread=1.0, dtype=dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles_torch, "TILE_COLUMNS", columns)
        image = image[before : before + count]
        check(image, text, scale, bias, offset=before, backend="torch", chunk_size=rows)


@settings(max_examples=8)
@given(shapes, scales, biases, st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_any_shape_equals_the_reference(where, shape, scale, bias, dtype):
    actual = check(*on(where, *make_features("random", *shape, spread=1.0, dtype=dtype)), scale, bias, backend=where[0])
    assert actual.loss.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_features(where, kind):
    image, text = on(where, *make_features(kind, 100, 70, seed=1, spread=4.0))
    check(image, text, 100.0, -10.0, backend=where[0])
    check(image, text, 10.0, -10.0, backend=where[0], chunk_size=70)
    check(image[9:60], text, 10.0, -10.0, offset=9, backend=where[0])
    image, text = (tower / tower.norm(dim=1, keepdim=True).clamp_min(1e-9) for tower in (image, text))
    check(image, text, 10.0, -10.0, normalize=False, backend=where[0])


def test_shards_sum_to_the_whole():
    """Each logit is in one shard only, so losses, text gradients and scalar gradients are sums."""
    image, text = make_features("random", 60, 20, dtype=torch.float64)
    whole = run(image, text, 10.0, -10.0)
    shards = [(0, 13), (13, 14), (14, 60)]
    parts = [run(image[slice(*rows)], text, 10.0, -10.0, offset=rows[0]) for rows in shards]
    shares = [(end - start) / 60 for start, end in shards]
    images = torch.cat([share * part.image for share, part in zip(shares, parts, strict=True)])
    torch.testing.assert_close(images, whole.image, rtol=1e-12, atol=1e-15)
    for name in ("loss", "text", "scale", "bias"):
        total = sum(share * getattr(part, name) for share, part in zip(shares, parts, strict=True))
        rtol = 1e-6 if name == "loss" else 1e-12
        torch.testing.assert_close(total, getattr(whole, name), rtol=rtol, atol=1e-15)


def test_bits_compile_and_autocast(where):
    image, text = on(where, *make_features("random", 70, 20))
    plain = run(image, text, 10.0, -10.0, backend=where[0])
    again = run(image, text, 10.0, -10.0, backend=where[0])
    compiled = torch.compile(fused_siglip_loss, fullgraph=True, backend="aot_eager")
    traced = evaluate(compiled, image, text, 10.0, -10.0, backend=where[0])
    with torch.autocast(where[1], dtype=torch.bfloat16):
        cast = run(image, text, 10.0, -10.0, backend=where[0])
    for other in (again, traced, cast):
        assert_same_bits(other, plain)


# opcheck of torch 2.15 looks at gradients of tensors that are no leaves, and warns of itself
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("needs", [True, False])
@pytest.mark.parametrize("layout", ["transposed", "rectangle"])
def test_operator_is_registered_rightly(needs, layout):
    image, text = make_features("random", 5, 3)
    image = image.T.contiguous().T if layout == "transposed" else image[1:4]
    offset = int(layout == "rectangle")
    tensors = image, text, torch.tensor(3.0), torch.tensor(-2.0)
    inputs = [tensor.detach().requires_grad_(needs) for tensor in tensors]
    arguments = (*inputs, offset, True, "torch", None, [needs] * 3)
    torch.library.opcheck(torch.ops.minclip_kernels.siglip_loss.default, arguments)


def test_on_meta_tensors():
    image = torch.ones(3, 3, device="meta", requires_grad=True)
    loss = fused_siglip_loss(image, torch.ones(5, 3, device="meta"), 1.0, 0.0, offset=1)
    (gradient,) = torch.autograd.grad(loss, image)
    assert (loss.shape, loss.dtype, loss.device.type) == ((), torch.float32, "meta")
    assert gradient.shape == (3, 3)


@pytest.mark.parametrize(
    ("image_needs", "text_needs", "scale_needs", "products"),
    [
        (True, True, True, 3),
        (True, False, False, 2),
        (False, True, True, 2),
        (False, False, True, 2),
        (False, False, False, 1),
    ],
)
def test_products_are_counted(image_needs, text_needs, scale_needs, products):
    image, text = make_features("random", 40, 6)
    image.requires_grad_(image_needs)
    text.requires_grad_(text_needs)
    with count_products() as counter:
        fused_siglip_loss(image, text, torch.tensor(3.0, requires_grad=scale_needs), -2.0, chunk_size=7)
    assert counter.get_total_flops() == products * 2 * 40**2 * 6


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, in the interpreter
def test_bad_numbers_give_nan(where, bad, normalize):
    for tower in (0, 1):
        features = make_features("random", 5, 3)
        features[tower][2, 1] = bad
        actual = run(*on(where, *features), 10.0, -10.0, normalize=normalize, backend=where[0])
        assert actual.loss.isnan()
        assert not (actual.image.isfinite().all() and actual.text.isfinite().all())


@pytest.mark.parametrize("way", ["direct", "compiled"])
def test_second_derivatives_are_refused(way):
    image, text = make_features("random", 9, 5)
    compiled = torch.compile(fused_siglip_loss, fullgraph=True, backend="aot_eager")
    loss = (compiled if way == "compiled" else fused_siglip_loss)(image.requires_grad_(), text, 3.0, -2.0)
    words = "support double backward|requires create_graph=False" if way == "compiled" else "once"
    with pytest.raises(RuntimeError, match=words):  # NotImplementedError is one.
        torch.autograd.grad(loss, image, create_graph=True)[0].square().sum().backward()


def test_wrong_arguments_are_named():
    features = torch.ones(3, 2)
    with pytest.raises(ValueError, match=r"logit_bias.*\(1,\)"):
        fused_siglip_loss(features, features, 1.0, torch.ones(1))
    with pytest.raises(ValueError, match=r"2.*from 0 to 1"):
        fused_siglip_loss(features, torch.ones(4, 2), 1.0, 0.0, offset=2)
    with pytest.raises(ValueError, match="shape"):
        fused_siglip_loss(features, torch.ones(4, 2), 1.0, 0.0)
