import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

checks = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("loss_checks.py"))))

from minclip_kernels import fused_siglip_loss, siglip_loss, tiles_torch  # noqa: E402

make_features, run, check = checks.make_features, checks.run, checks.check
every_backend = pytest.mark.parametrize("where", checks.BACKENDS)
shapes = st.tuples(st.integers(1, 200), st.integers(1, 200))
scales = st.floats(-2, 2).map(lambda power: 10**power)
biases = st.sampled_from([-10.0, 0.0, 3.0, -60.0])


def on(where, *tensors):
    return tuple(tensor.to(where[1]) for tensor in tensors)


@settings(max_examples=60)
@given(shapes, scales, biases, st.sampled_from(checks.KINDS), st.sampled_from([0.0, 4.0]), st.integers(1, 210),
       st.integers(20, 210))  # fmt: skip
def test_float32_equals_the_reference(shape, scale, bias, kind, spread, rows, columns):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles_torch, "TILE_COLUMNS", columns)
        check(*make_features(kind, *shape, spread=spread), scale, bias, backend="torch", chunk_size=rows)


@every_backend
@settings(max_examples=8)
@given(shapes, scales, biases, st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_any_shape_equals_the_reference(where, shape, scale, bias, dtype):
    check(*on(where, *make_features("random", *shape, spread=1.0, dtype=dtype)), scale, bias, backend=where[0])


@every_backend
@pytest.mark.parametrize("kind", checks.KINDS)
def test_kinds_of_features(where, kind):
    image, text = on(where, *make_features(kind, 100, 70, seed=1, spread=4.0))
    check(image, text, 100.0, -10.0, backend=where[0])
    check(image, text, 10.0, -10.0, backend=where[0], chunk_size=70)
    short = (tower / tower.norm(dim=1, keepdim=True).clamp_min(1e-9) for tower in (image, text))
    check(*short, 10.0, -10.0, normalize=False, backend=where[0])


@every_backend
def test_bits_compile_and_autocast(where):
    image, text = on(where, *make_features("random", 70, 20))
    plain = run(fused_siglip_loss, image, text, 10.0, -10.0, backend=where[0])
    again = run(fused_siglip_loss, image, text, 10.0, -10.0, backend=where[0])
    compiled = torch.compile(fused_siglip_loss, fullgraph=True, backend="aot_eager")
    traced = run(compiled, image, text, 10.0, -10.0, backend=where[0])
    with torch.autocast(where[1], dtype=torch.bfloat16):
        cast = run(fused_siglip_loss, image, text, 10.0, -10.0, backend=where[0])
    for other in (again, traced, cast):
        assert other.loss.equal(plain.loss)
        assert other.image.equal(plain.image)
        assert other.text.equal(plain.text)
        assert other.scalars == plain.scalars


# opcheck of torch 2.15 looks at gradients of tensors that are no leaves, and warns of itself
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("needs", [True, False])
def test_operator_is_registered_rightly(needs):
    image, text = (tower.requires_grad_(needs) for tower in make_features("random", 5, 3))
    scale, bias = (torch.tensor(value, requires_grad=needs) for value in (3.0, -2.0))
    arguments = (image, text, scale, bias, True, "torch", None, [needs, needs])
    torch.library.opcheck(torch.ops.minclip_kernels.siglip_loss.default, arguments)


@pytest.mark.parametrize(
    ("image_needs", "text_needs", "products"), [(True, True, 3), (False, True, 2), (False, False, 1)]
)
def test_products_are_counted(image_needs, text_needs, products, monkeypatch):
    image, text = make_features("random", 40, 6)
    counter = checks.count_products()
    monkeypatch.setattr(siglip_loss, "_siglip_loss", siglip_loss._siglip_loss._init_fn)
    with counter:
        fused_siglip_loss(
            image.requires_grad_(image_needs), text.requires_grad_(text_needs), 3.0, -2.0, chunk_size=7
        )  # fmt: skip
    assert counter.get_total_flops() == products * 2 * 40**2 * 6


@every_backend
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, in the interpreter
def test_bad_numbers_give_nan(where, bad, normalize):
    for tower in (0, 1):
        features = make_features("random", 5, 3)
        features[tower][2, 1] = bad
        actual = run(fused_siglip_loss, *on(where, *features), 10.0, -10.0, normalize=normalize, backend=where[0])
        assert actual.loss.isnan()
        assert not (actual.image.isfinite().all() and actual.text.isfinite().all())


def test_second_derivatives_are_refused():
    image, text = make_features("random", 9, 5)
    image.requires_grad_()
    (gradient,) = torch.autograd.grad(fused_siglip_loss(image, text, 3.0, -2.0), image, create_graph=True)
    with pytest.raises(NotImplementedError, match="once"):
        gradient.square().sum().backward()


def test_wrong_bias_is_named():
    features = torch.ones(3, 2)
    with pytest.raises(ValueError, match=r"logit_bias.*\(1,\)"):
        fused_siglip_loss(features, features, 1.0, torch.ones(1))
