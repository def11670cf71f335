"""Awkward features, and the comparison of a loss with the float64 reference.

For the tests of this package, its benchmark, and anyone's kernel:

    image_features, text_features = make_features("duplicated", count=100, width=64)
    assert_equals_reference(my_loss, image_features, text_features, 20.0)
"""

import importlib.util
import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from minclip_kernels import reference

KINDS = {
    "random": "normally distributed",
    "parallel": "all cosines about 1 − 1e-4",
    "cones": "all cosines between −1 and −0.2",
    "duplicated": "each pair up to three times",
    "twins": "duplicated, and each text equal to its image",
    "aligned": "each text equal to its image",
    "tiny_loss": "aligned, with a loss of about a millionth at scale 100 in a wide space",
    "zero_row": "one image of zeros",
}
MUTANTS = itertools.count()
MEANINGFUL = ("offset", "normalize", "ids", "positives")  # Options that change what is computed.


class Result(NamedTuple):
    """A loss and its gradients."""

    loss: Tensor  # ()
    image: Tensor  # (n, D)
    text: Tensor  # (M, D)
    scale: Tensor  # ()
    bias: Tensor | None = None  # (), of the sigmoid loss


class Expected(NamedTuple):
    """What `assert_equals_reference` compares with."""

    wanted: Result
    terms: Result  # Each gradient summed over the absolute values of its terms; rows (n,), (M,).
    lengths: Result  # What the features are divided by, (n,), (M,), and 1 elsewhere.


class Tolerance(NamedTuple):
    """How far from the reference a loss, a row of a gradient or a scalar may be."""

    share: float  # of what is wanted
    terms: float = 0.0  # a share of its terms, which may cancel each other
    step: float = 0.0


def make_features(
    kind: str,
    count: int,
    width: int,
    *,
    seed: int = 0,
    spread: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Return features of images and of texts, both (count, width), of one of the KINDS.

    Each row has a length of its own, between 10^-spread and 10^spread times what the kind makes.
    """
    generator = torch.Generator().manual_seed(seed)
    image, text = (torch.randn(count, width, generator=generator) for _ in range(2))
    common = F.normalize(torch.randn(width, generator=generator), dim=0)
    image, text = _as_kind(kind, image, text, common)
    lengths = 10 ** (spread * (2 * torch.rand(2, count, 1, generator=generator) - 1))
    return (image * lengths[0]).to(dtype), (text * lengths[1]).to(dtype)


def _as_kind(kind: str, image: Tensor, text: Tensor, common: Tensor) -> tuple[Tensor, Tensor]:
    """Turn random features into another kind. common: (D,), a direction for all of them."""
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
    count = len(image)
    if kind == "parallel":
        return common + 0.01 * F.normalize(image, dim=1), common + 0.01 * F.normalize(text, dim=1)
    if kind == "cones":
        return common + 0.5 * F.normalize(image, dim=1), 0.5 * F.normalize(text, dim=1) - common
    if kind in ("duplicated", "twins"):
        originals = torch.arange(count) % (count // 3 + 1)
        return image[originals], (text if kind == "duplicated" else image)[originals]
    if kind == "aligned":
        return image, image
    if kind == "tiny_loss":
        image = 2 * common + F.normalize(image, dim=1)
        return image, image
    if kind == "zero_row":
        image[count // 2] = 0
    return image, text


def evaluate(
    loss: Callable[..., Tensor],
    image_features: Tensor,
    text_features: Tensor,
    *scalars: float,
    **options: Any,
) -> Result:
    """Return a loss and its gradients. scalars: the logit scale, and the bias of a sigmoid loss."""
    dtype = torch.promote_types(image_features.dtype, torch.float32)
    device = image_features.device
    tensors = [torch.tensor(float(scalar), dtype=dtype, device=device) for scalar in scalars]
    inputs = [x.detach().requires_grad_() for x in (image_features, text_features, *tensors)]
    value = loss(*inputs, **options)
    return Result(value.detach(), *torch.autograd.grad(value, inputs))


def assert_equals_reference(
    loss: Callable[..., Tensor],
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: float,
    logit_bias: float | None = None,
    **options: Any,
) -> Result:
    """Compare a loss and its gradients with `reference` in float64, and return them.

    loss: called as loss(image_features, text_features, logit_scale, **options), with a logit_bias
        after the scale for a sigmoid loss. All of these are tensors that require gradients.
    options: those of `fused_clip_loss`, as far as the loss takes them.

    `_tolerances` says what may differ. Raises AssertionError that says what differs, and how much.
    """
    scalars = [logit_scale] if logit_bias is None else [logit_scale, logit_bias]
    actual = evaluate(loss, image_features, text_features, *scalars, **options)
    assert actual.loss.dtype in (torch.float32, torch.float64), f"the loss is {actual.loss.dtype}"
    meaning = {name: _on_cpu(options[name]) for name in MEANINGFUL if name in options}
    wanted = expected(_on_cpu(image_features), _on_cpu(text_features), *scalars, **meaning)
    tolerances = _tolerances(image_features, logit_scale, options.get("backend") == "triton")
    floor = 1e-14 * (1 + logit_scale)  # Float64 itself has no digit of a loss below 1e-13.
    for name, got, want, terms, length, tolerance in zip(
        Result._fields, actual, *wanted, tolerances, strict=True
    ):
        if got is not None:
            allowed = tolerance.share * _size(want) + tolerance.terms * terms + tolerance.step
            _assert_close(name, got, want, allowed + floor / length)
    return actual


def expected(
    image_features: Tensor, text_features: Tensor, *scalars: float, **meaning: Any
) -> Expected:
    """Return the reference's loss and gradients. meaning: the options in MEANINGFUL."""
    inputs = image_features, text_features, *scalars
    loss = reference.clip_loss if len(scalars) == 1 else reference.siglip_loss
    gradients = reference.gradients(*inputs, **meaning)
    wanted = Result(loss(*inputs, **meaning), *gradients[:4])

    normalize = meaning.get("normalize", True)
    x, image_lengths = _divide(image_features, normalize)  # (n, D), (n,)
    y, text_lengths = _divide(text_features, normalize)  # (M, D), (M,)
    coefficients = gradients.logits.abs() + _shared_targets(gradients.logits, **meaning)  # (n, M)
    terms = Result(
        loss=wanted.loss.abs(),
        image=scalars[0] * (coefficients @ y.norm(dim=1)) / image_lengths,
        text=scalars[0] * (coefficients.T @ x.norm(dim=1)) / text_lengths,
        scale=(coefficients * (x @ y.T)).abs().sum(),
        bias=coefficients.sum(),
    )
    one = torch.ones((), dtype=torch.float64)
    return Expected(wanted, terms, Result(one, image_lengths, text_lengths, one, one))


def _shared_targets(
    coefficients: Tensor,
    offset: int | None = None,
    ids: Tensor | None = None,
    positives: str = "drop",
    normalize: bool = True,
) -> Tensor:
    """Return what cancels in the coefficients (n, M) where a pair has other positives beside it."""
    targets = reference.clip_targets(coefficients, offset, ids, positives)
    return (2 * targets.pairs - targets.rows - targets.columns).abs() / len(coefficients)


def _tolerances(
    features: Tensor, logit_scale: float, rounds_coefficients: bool
) -> tuple[Tolerance, ...]:
    """Return what may differ in each field of `Result`.

    A cosine near 1 is rounded to 2^-24, and the scale makes that an error of each coefficient. It
    stays where duplicates cancel, and plain PyTorch errs as much there. A gradient in 16 bits is
    rounded once at the end; with Triton each coefficient is rounded as well.
    """
    dtype = features.dtype
    loss = Tolerance(max(1e-5, 1e-6 * logit_scale))
    if dtype == torch.float64:
        share, terms, step = 1e-12, max(1e-12, logit_scale * 2**-53), 0.0
    else:
        share, terms, step = 1e-4, max(1e-6, logit_scale * 2**-24), 0.0
    scalar = Tolerance(share, min(terms, 1e-6))
    if dtype.itemsize == 2:
        rounding = torch.finfo(dtype).eps / 2
        share, terms = share + rounding, terms + rounding * rounds_coefficients
    if dtype == torch.float16:  # There is nothing between the smallest float16 numbers.
        step = 2**-25 * features.shape[1] ** 0.5
    row = Tolerance(share, terms, step)
    return loss, row, row, scalar, scalar


def _divide(features: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    """Return the features as they enter the loss, and what they were divided by, (N,)."""
    features = features.double()
    if not normalize:
        return features, torch.ones(len(features), dtype=torch.float64)
    lengths = features.norm(dim=1).clamp_min(1e-12)
    return features / lengths[:, None], lengths


def _assert_close(name: str, actual: Tensor, wanted: Tensor, allowed: Tensor) -> None:
    """Compare a scalar, or each row of a gradient."""
    error = _size(actual.double().cpu() - wanted)
    if bool((error <= allowed).all()):  # False where anything is NaN.
        return
    worst = int((error / allowed).nan_to_num(torch.inf).argmax())
    what = "loss" if name == "loss" else f"gradient for the {name}"
    row = f" in row {worst}" if wanted.ndim else ""
    raise AssertionError(
        f"{what}: error {error.flatten()[worst]:.3g}{row}, at most "
        f"{allowed.flatten()[worst]:.3g} allowed, is {actual[worst] if row else actual}"
    )


def _size(of: Tensor) -> Tensor:
    """Return the length of each row, or the absolute value of a scalar."""
    return of.norm(dim=1) if of.ndim == 2 else of.abs()


def _on_cpu(option: Any) -> Any:
    return option.detach().cpu() if isinstance(option, Tensor) else option


def count_products() -> FlopCounterMode:
    """Return a counter of the floating-point operations in products, also in those in place."""
    in_place = {torch.ops.aten.addmm_: lambda total, a, b, **_: 2 * a[0] * a[1] * b[1]}
    return FlopCounterMode(display=False, custom_mapping=in_place)


def in_processes(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Return [work(0), …, work(count − 1)], each from a process of its own in one gloo group.

    The processes are forked: call this where torch has computed nothing yet, so has no threads.
    """
    with tempfile.TemporaryDirectory() as folder:
        children = [_fork(rank, count, work, Path(folder)) for rank in range(count)]
        statuses = [os.waitpid(child, 0)[1] for child in children]
        if any(statuses):
            raise RuntimeError(f"the processes ended with {statuses}, expected only zeros")
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(count)]


def _fork(rank: int, count: int, work: Callable[[int], Any], folder: Path) -> int:
    """Start a process that saves work(rank) in the folder; returns its number."""
    child = os.fork()
    if child == 0:
        meeting = f"file://{folder}/meeting"
        dist.init_process_group("gloo", meeting, rank=rank, world_size=count)
        torch.save(work(rank), folder / f"{rank}.pt")
        os._exit(0)
    return child


def load_mutant(module: ModuleType, change: tuple[str, str], folder: Path) -> ModuleType:
    """Return a copy of a module in which one text of its source has become another.

    The copy is written to the folder. It has a name of its own, and so have the operators that it
    registers.
    """
    assert module.__file__ is not None
    text, (old, new) = Path(module.__file__).read_text(encoding="utf-8"), change
    assert old in text, f"{old!r} is not in {module.__name__}: the mutant changes nothing"
    name = f"mutant_{os.getpid()}_{next(MUTANTS)}"
    path = folder / f"{name}.py"
    text = text.replace(old, new).replace('@differentiable("', f'@differentiable("{name}_')
    path.write_text(text, encoding="utf-8")
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None
    assert specification.loader is not None
    copy = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(copy)
    return copy
