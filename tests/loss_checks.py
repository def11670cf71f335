"""What the tests of the fused losses share: features of many kinds, and the comparison with the float64 reference.

Tests load this file with runpy, since pytest imports each test file for itself.
"""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from minclip_kernels import fused_clip_loss, fused_siglip_loss, reference
from torch.utils.flop_counter import FlopCounterMode

ON_GPU = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")]
INTERPRETED = pytest.mark.skipif(torch.cuda.is_available(), reason="Triton compiles here instead of interpreting")
BACKENDS = [
    pytest.param(("torch", "cpu"), id="torch-cpu"),
    pytest.param(("triton", "cpu"), id="triton-interpreter", marks=INTERPRETED),
    pytest.param(("torch", "cuda"), id="torch-cuda", marks=ON_GPU),
    pytest.param(("triton", "cuda"), id="triton-cuda", marks=ON_GPU),
]
KINDS = ("random", "parallel", "cones", "duplicated", "aligned", "tiny", "zero")


def make_features(kind, count, width, seed=0, spread=0.0, dtype=torch.float32):
    """Two towers of features (N, D); lengths between 10^-spread and 10^spread, another for each row."""
    generator = torch.Generator().manual_seed(seed)
    image, text = (torch.randn(count, width, generator=generator) for _ in range(2))
    common = F.normalize(torch.randn(width, generator=generator), dim=0)
    if kind == "parallel":  # all cosines about 1 - 1e-4
        image, text = common + 0.01 * F.normalize(image, dim=1), common + 0.01 * F.normalize(text, dim=1)
    elif kind == "cones":  # all cosines between -1 and -0.2
        image, text = common + 0.5 * F.normalize(image, dim=1), 0.5 * F.normalize(text, dim=1) - common
    elif kind == "duplicated":
        image, text = image[: count // 3 + 1].repeat(3, 1)[:count], text[: count // 3 + 1].repeat(3, 1)[:count]
    elif kind == "aligned":
        text = image.clone()
    elif kind == "tiny":  # aligned, and at scale 100 in a wide space with a loss of about 1e-6
        image = text = 2.0 * common + F.normalize(image, dim=1)
    elif kind == "zero":
        image[count // 2] = 0
    lengths = 10 ** (spread * (2 * torch.rand(2, count, 1, generator=generator) - 1))
    return (image * lengths[0]).to(dtype), (text * lengths[1]).to(dtype)


def run(loss, image, text, *scalars, **options):
    """The loss and all its gradients."""
    image, text = image.detach().requires_grad_(), text.detach().requires_grad_()
    dtype = torch.float64 if image.dtype == torch.float64 else torch.float32
    scalars = [torch.tensor(float(s), dtype=dtype, device=image.device, requires_grad=True) for s in scalars]
    value = loss(image, text, *scalars, **options)
    gradients = torch.autograd.grad(value, (image, text, *scalars))
    return SimpleNamespace(loss=value.detach(), image=gradients[0], text=gradients[1], scalars=gradients[2:])


def expected(image, text, scale, bias=None, normalize=True):
    """The reference, on the CPU, and every gradient's sum taken over absolute values."""
    image, text = image.detach().cpu(), text.detach().cpu()
    if bias is None:
        loss = reference.clip_loss(image, text, scale, normalize=normalize)
    else:
        loss = reference.siglip_loss(image, text, scale, bias, normalize=normalize)
    gradients = reference.gradients(image, text, scale, bias, normalize=normalize)
    coefficients = gradients.logits.abs()
    x, y = (F.normalize(tower.double(), dim=1) if normalize else tower.double() for tower in (image, text))
    step = 2**-25 * image.shape[1] ** 0.5 if image.dtype == torch.float16 else 0.0
    one = torch.ones(len(image), dtype=torch.float64)
    image_norms = image.double().norm(dim=1).clamp_min(1e-12) if normalize else one
    text_norms = text.double().norm(dim=1).clamp_min(1e-12) if normalize else one
    return SimpleNamespace(
        loss=loss,
        image=gradients.image_features,
        text=gradients.text_features,
        scalars=(gradients.logit_scale, gradients.logit_bias)[: 1 if bias is None else 2],
        image_absolute=scale * (coefficients @ y.norm(dim=1)) / image_norms,
        text_absolute=scale * (coefficients.T @ x.norm(dim=1)) / text_norms,
        scalars_absolute=((coefficients * (x @ y.T)).abs().sum(), coefficients.sum()),
        # where a loss is below 1e-13, float64 itself has no digit of it; and float16 holds nothing between its steps
        image_floor=1e-14 * (1 + scale) / image_norms + step,
        text_floor=1e-14 * (1 + scale) / text_norms + step,
        floor=1e-14 * (1 + scale),
    )


def assert_rows(actual, wanted, absolute, floor, relative, of_absolute, what):
    """Each row's error is at most `relative` of the row, plus `of_absolute` of its sum over absolute values."""
    error = (actual.double().cpu() - wanted).norm(dim=1)
    bound = relative * wanted.norm(dim=1) + of_absolute * absolute + floor
    assert bool((error <= bound).all()), f"{what}: {(error / bound).max():.3g} times the error allowed"


def check(image, text, scale, bias=None, normalize=True, **options):
    """Loss and gradients of the fused loss against the reference, within what the dtype of the features allows."""
    arguments = (scale,) if bias is None else (scale, bias)
    loss = fused_clip_loss if bias is None else fused_siglip_loss
    actual = run(loss, image, text, *arguments, normalize=normalize, **options)
    wanted = expected(image, text, *arguments, normalize=normalize)
    # A cosine near 1 is rounded to 2^-24, and the scale makes that an error of each coefficient: it stays where
    # duplicates cancel. Plain PyTorch errs as much there.
    relative, of_absolute = 1e-4, max(1e-6, scale * 2**-24)
    if image.dtype == torch.float64:
        relative, of_absolute = 1e-12, max(1e-12, scale * 2**-53)
    of_scalars = relative, min(of_absolute, 1e-6)
    if image.dtype.itemsize == 2:  # each gradient is rounded once at the end, and with Triton each coefficient before
        relative += torch.finfo(image.dtype).eps / 2
        of_absolute += torch.finfo(image.dtype).eps / 2 if options.get("backend") == "triton" else 0.0
    assert actual.loss.dtype == torch.float32
    assert actual.image.dtype == actual.text.dtype == image.dtype
    error = abs(actual.loss.double().cpu() - wanted.loss)
    allowed = max(1e-5, 1e-6 * scale) * wanted.loss.abs() + wanted.floor
    assert error <= allowed, f"loss {actual.loss:.9g}, not {wanted.loss:.9g}"
    assert_rows(
        actual.image, wanted.image, wanted.image_absolute, wanted.image_floor, relative, of_absolute, "image gradient"
    )
    assert_rows(
        actual.text, wanted.text, wanted.text_absolute, wanted.text_floor, relative, of_absolute, "text gradient"
    )
    for got, want, absolute in zip(actual.scalars, wanted.scalars, wanted.scalars_absolute, strict=False):
        allowed = of_scalars[0] * abs(want) + of_scalars[1] * absolute + wanted.floor
        assert abs(got.double().cpu() - want) <= allowed, f"scalar gradient {got}, not {want}"
    return actual


def count_products():
    """A counter of floating-point operations; torch's own does not know the product in place."""
    in_place = {torch.ops.aten.addmm_: lambda total, a, b, **_: 2 * a[0] * a[1] * b[1]}
    return FlopCounterMode(display=False, custom_mapping=in_place)
