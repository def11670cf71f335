"""What every loss needs around its mathematics.

Argument checks, the choice of a back-end, and an operator that torch can differentiate, trace and
compile. No check reads the value of a tensor: that would make a GPU wait.
"""

import functools
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from minclip_kernels.tiles import Problem, Tiles, computing_dtype
from minclip_kernels.tiles_torch import TorchTiles

HAS_TRITON = importlib.util.find_spec("triton") is not None
BACKENDS = ("auto", "torch", "triton")
Compute = Callable[..., tuple[Tensor, ...]]  # Returns a loss and its gradients.
FEATURE_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_features(image_features: Tensor, text_features: Tensor, offset: int | None) -> int:
    """Return the offset of the pairs. Raises TypeError and ValueError for unusable features."""
    for name, features in (("image_features", image_features), ("text_features", text_features)):
        if not isinstance(features, Tensor):
            raise TypeError(f"{name} is a {type(features).__name__}, expected a tensor")
        if features.dtype not in FEATURE_DTYPES:
            raise TypeError(
                f"{name} is {features.dtype}, expected float32, bfloat16, float16 or float64"
            )
        if features.ndim != 2 or 0 in features.shape:
            raise ValueError(
                f"{name} has shape {tuple(features.shape)}, expected (N, D), both at least 1"
            )
    _check_same("dtype", TypeError, image_features.dtype, text_features.dtype)
    _check_same("device", ValueError, image_features.device, text_features.device)
    if offset is None:
        _check_same("shape", ValueError, image_features.shape, text_features.shape)
        return 0
    _check_same("width", ValueError, image_features.shape[1], text_features.shape[1])
    most = text_features.shape[0] - image_features.shape[0]
    if most < 0:
        raise ValueError(
            f"text_features have {text_features.shape[0]} rows, expected at least "
            f"{image_features.shape[0]}, one for each image"
        )
    if not isinstance(offset, int) or not 0 <= offset <= most:
        raise ValueError(
            f"offset is {offset!r}, expected a whole number from 0 to {most}: image i matches text "
            f"i + offset, of {image_features.shape[0]} images and {text_features.shape[0]} texts"
        )
    return offset


def _check_same(what: str, error: type[Exception], image: Any, text: Any) -> None:
    if image != text:
        raise error(
            f"image_features have {what} {image}, text_features {text}; expected the same {what}"
        )


def check_options(backend: str, chunk_size: int | None, memory: int | None) -> None:
    """Raise ValueError for an option that no back-end understands."""
    if backend not in BACKENDS:
        names = ", ".join(map(repr, BACKENDS))
        raise ValueError(f"backend is {backend!r}, expected one of {names}")
    if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
        raise ValueError(
            f"chunk_size is {chunk_size!r}, expected None or a whole number of rows, at least 1"
        )
    if memory is not None and (not isinstance(memory, int) or memory < 0):
        raise ValueError(
            f"memory is {memory!r}, expected None or a whole number of bytes, at least 0"
        )


def check_group(group: Any, offset: int | None) -> None:
    """Raise TypeError and ValueError for a group that the loss cannot be computed in."""
    if not isinstance(group, torch.distributed.ProcessGroup):
        raise TypeError(
            f"group is a {type(group).__name__}, expected a process group, such as "
            "torch.distributed.group.WORLD"
        )
    if offset is not None:
        raise ValueError(f"offset is {offset}, expected None with a group: each image has its text")


def as_scalar(name: str, value: Tensor | float, features: Tensor) -> Tensor:
    """Return the scale or the bias, (), in the dtype that the loss is computed in."""
    dtype = computing_dtype(features)
    if isinstance(value, (int, float)):  # Dynamo in torch 2.8 cannot trace int | float.
        return torch.full((), float(value), dtype=dtype, device=features.device)
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}, expected a number or a scalar tensor")
    if value.ndim != 0:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected a scalar, of shape ()")
    if value.dtype not in (torch.float32, features.dtype):
        raise TypeError(
            f"{name} is {value.dtype}, expected float32 or the features' dtype, {features.dtype}"
        )
    if value.device != features.device:
        raise ValueError(
            f"{name} is on {value.device}, expected the features' device, {features.device}"
        )
    return value.to(dtype)


def needed_gradients(*inputs: Tensor) -> list[bool]:
    """Return which inputs will be asked for a gradient."""
    enabled = torch.is_grad_enabled()
    return [enabled and tensor.requires_grad for tensor in inputs]


def make_tiles(backend: str, problem: Problem) -> Tiles:
    """Return the back-end at work on the problem. Raises ValueError for Triton where it cannot."""
    if choose_backend(backend, problem.image) == "torch":
        return TorchTiles(problem)
    from minclip_kernels.tiles_triton import TritonTiles  # Triton does not exist on every system.

    return TritonTiles(problem)


def choose_backend(backend: str, features: Tensor) -> str:
    """Return "torch" or "triton". Raises ValueError where "triton" was asked for and cannot be."""
    is_double = features.dtype == torch.float64
    if backend == "auto":
        return "triton" if not is_double and _has_tensor_cores(features.device) else "torch"
    if backend == "torch":
        return "torch"
    if not HAS_TRITON:
        raise ValueError(
            "backend='triton' needs the package triton, which is not installed; "
            "expected backend='torch' here"
        )
    if is_double:
        raise ValueError(
            "backend='triton' has no float64; expected backend='torch' for float64 features"
        )
    if features.device.type != "cuda" and not _is_interpreted():
        raise ValueError(
            f"backend='triton' needs features on a GPU, these are on {features.device}; expected "
            "backend='torch', or TRITON_INTERPRET=1 in the environment before triton is imported"
        )
    return "triton"


def _has_tensor_cores(device: torch.device) -> bool:
    """Whether Triton's products use the tensor cores of this device."""
    if device.type != "cuda" or not HAS_TRITON:  # ROCm devices are of type "cuda" as well.
        return False
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


def _is_interpreted() -> bool:
    from triton import knobs

    return knobs.runtime.interpret


def differentiable(name: str, tensors: int) -> Callable[[Compute], Callable[..., Tensor]]:
    """Make a function that returns a loss and its gradients into one that returns the loss.

    Its first argument is the shards of a group or None. The next `tensors` arguments are those to
    differentiate by, image and text features first; the third of them is a scalar. The last says
    whether image and text need a gradient. It returns the loss and one gradient for each of these
    arguments, empty where none is needed.
    """

    def decorate(compute: Compute) -> Callable[..., Tensor]:
        alone = _in_context(functools.partial(compute, None))
        operator = torch.library.custom_op(f"minclip_kernels::{name}", alone, mutates_args=())
        operator.register_fake(lambda *inputs: _fake(inputs, tensors))
        operator.register_autograd(_differentiate, setup_context=_save)

        def call(shards: Any, *inputs: Any) -> Any:
            if shards is not None:
                return _in_group(functools.partial(compute, shards), *inputs)
            # A registered operator costs twice as much as calling autograd directly.
            return operator(*inputs)[0] if _is_traced(inputs[0]) else _Direct.apply(alone, *inputs)

        return call

    return decorate


@torch.compiler.disable
def _in_group(compute: Compute, *inputs: Any) -> Any:
    """Compute where processes talk to each other, which torch.compile leaves as it is."""
    return _Direct.apply(_in_context(compute), *inputs)


def _in_context(compute: Compute) -> Compute:
    """Compute on the device of the features, and without autocast."""

    @functools.wraps(compute)
    def wrapped(image: Tensor, *others: Any) -> tuple[Tensor, ...]:
        device = image.device.type
        with torch.cuda.device_of(image):  # Triton launches on the current device.
            if not torch.is_autocast_enabled(device):
                return compute(image, *others)
            with torch.autocast(device, enabled=False):
                return compute(image, *others)

    return wrapped


def _is_traced(features: Tensor) -> bool:
    """Whether torch compiles this call, or the features are fake or of another tensor class."""
    is_plain = type(features) in (Tensor, torch.nn.Parameter) and not features.is_meta
    return torch.compiler.is_compiling() or not is_plain


def _fake(inputs: Sequence[Any], tensors: int) -> tuple[Tensor, ...]:
    """The shapes and dtypes of what the operator returns."""
    image, text, scale = inputs[:3]
    needs = inputs[-1]
    features = [
        tower.new_empty(tower.shape if needed else 0, dtype=scale.dtype)
        for tower, needed in zip((image, text), needs, strict=False)
    ]
    scalars = [scale.new_empty(()) for _ in range(tensors - 2)]
    return image.new_empty((), dtype=torch.float32), *features, *scalars


def _save(ctx: Any, inputs: Sequence[Any], output: Sequence[Tensor]) -> None:
    ctx.set_materialize_grads(False)  # The gradients are outputs that nothing flows into.
    ctx.inputs = len(inputs)
    ctx.save_for_backward(*inputs[: len(output) - 1], *output[1:])


def _differentiate(ctx: Any, loss_gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    multiply = _MultiplyOnce.apply if torch.is_grad_enabled() else _multiply
    gradients = multiply(loss_gradient, *ctx.saved_tensors)
    return *gradients, *[None] * (ctx.inputs - len(gradients))


def _multiply(loss_gradient: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradient for each input: its saved gradient times that of the loss."""
    half = len(saved) // 2
    return tuple(
        gradient.mul(loss_gradient).to(of.dtype) if gradient.shape == of.shape else None
        for of, gradient in zip(saved[:half], saved[half:], strict=True)
    )


class _MultiplyOnce(torch.autograd.Function):
    """`_multiply` under create_graph=True.

    The outputs depend on every input, so a second backward raises instead of treating the gradient
    as a constant.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> tuple[Tensor | None, ...]:
        return _multiply(*arguments)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> None:
        raise NotImplementedError(
            "the fused losses can be differentiated once; the plain formulas more often"
        )


class _Direct(torch.autograd.Function):
    """The operator outside of tracing; it returns the loss alone, which is cheaper."""

    @staticmethod
    def forward(ctx: Any, compute: Compute, *inputs: Any) -> Tensor:
        output = compute(*inputs)
        _save(ctx, inputs, output)
        return output[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        return None, *_differentiate(ctx, *gradients)
