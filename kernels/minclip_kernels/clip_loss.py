"""CLIP's loss and its exact gradients with four products of N×N×D in O(N) memory.

With unit features x_i, y_j and logits z_ij = s⟨x_i, y_j⟩, the loss is ½ mean_i (LSE_j z_ij - z_ii) over the images plus
the same over the texts. Only tiles of z ever exist: a first pass over them gives the sums of every row and column, a
second one the gradients. The sums leave the matching pair out, so that

    LSE_j z_ij - z_ii = softplus(lse_others_i - z_ii)

loses no digit when a pair is already well aligned; the gradient at the pair is -σ(lse_others_i - z_ii) for either side,
formed the same way. The README beside this package derives all of it. Logits are in units of log 2 (tiles_torch.py).

Both passes run forward (the second only if a gradient will be asked for), and the gradients wait in float32 until
backward multiplies them with the gradient of the loss.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minclip_kernels import tiles_torch
from minclip_kernels.tiles_torch import LN_2, Side, log2_sum_exp2

EPSILON = 1e-12  # the shortest length that a feature is divided by, as in F.normalize
HAS_TRITON = importlib.util.find_spec("triton") is not None
BACKENDS = ("auto", "torch", "triton")
FEATURE_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def fused_clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    *,
    normalize: bool = True,
    backend: str = "auto",
    chunk_size: int | None = None,
) -> Tensor:
    """The symmetric contrastive loss of CLIP (Radford et al. 2021, figure 3), without its N×N matrix.

    image_features, text_features: (N, D), row i of one matches row i of the other; the same dtype (float32, bfloat16,
        float16 or float64) and device, any strides.
    logit_scale: the factor itself, not its logarithm; a Python number, or a scalar tensor in float32 or the features'
        dtype.
    normalize: divide each feature by its length first (by at least 1e-12, as F.normalize does).
    backend: "torch" (any device), "triton" (CUDA and ROCm; CPU tensors under TRITON_INTERPRET=1), or "auto": triton
        on a GPU, torch elsewhere and for float64.
    chunk_size: rows of the logits in memory at once; the default suits the cache or the memory of the device. It
        changes nothing but rounding.

    Returns a float32 scalar. Differentiable once with respect to both features and the scale.
    Raises TypeError and ValueError that name what came and what was expected.
    """
    check_arguments(image_features, text_features, backend, chunk_size)
    scalars = as_vector(image_features, logit_scale=logit_scale)
    needs = needed_gradients(image_features, text_features, scalars)
    return _clip_loss(image_features, text_features, scalars, normalize, backend, chunk_size, *needs)[0]


def check_arguments(image_features: Tensor, text_features: Tensor, backend: str, chunk_size: int | None) -> None:
    for name, features in (("image_features", image_features), ("text_features", text_features)):
        if not isinstance(features, Tensor):
            raise TypeError(f"{name} is a {type(features).__name__}, expected a tensor")
        if features.dtype not in FEATURE_DTYPES:
            raise TypeError(f"{name} is {features.dtype}, expected float32, bfloat16, float16 or float64")
        if features.ndim != 2 or 0 in features.shape:
            raise ValueError(f"{name} has shape {tuple(features.shape)}, expected (N, D), both at least 1")
    for what, error in (("shape", ValueError), ("dtype", TypeError), ("device", ValueError)):
        image, text = getattr(image_features, what), getattr(text_features, what)
        if image != text:
            raise error(f"image_features have {what} {image}, text_features {text}; expected the same {what}")
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}, expected one of {', '.join(map(repr, BACKENDS))}")
    if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
        raise ValueError(f"chunk_size is {chunk_size!r}, expected None or a whole number of rows, at least 1")


def as_vector(features: Tensor, **scalars: Tensor | float) -> Tensor:
    """The scale, or the scale and the bias, as one vector in the dtype that the loss is computed in."""
    values = []
    for name, value in scalars.items():
        if isinstance(value, int | float):
            value = torch.full((), float(value), dtype=computing_dtype(features), device=features.device)
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is a {type(value).__name__}, expected a number or a scalar tensor")
        if value.ndim != 0:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, expected a scalar, of shape ()")
        if value.dtype not in (torch.float32, features.dtype):
            raise TypeError(f"{name} is {value.dtype}, expected float32 or the features' dtype, {features.dtype}")
        if value.device != features.device:
            raise ValueError(f"{name} is on {value.device}, expected the features' device, {features.device}")
        values.append(value.to(computing_dtype(features)))
    return torch.stack(values)


def needed_gradients(*inputs: Tensor) -> list[bool]:
    return [torch.is_grad_enabled() and tensor.requires_grad for tensor in inputs]


def choose_tiles(backend: str, features: Tensor) -> ModuleType:
    """The module with the tile functions."""
    on_gpu = features.device.type == "cuda"  # ROCm too
    if backend == "torch" or (backend == "auto" and (not on_gpu or not HAS_TRITON or features.dtype == torch.float64)):
        return tiles_torch
    if not HAS_TRITON:
        raise ValueError("backend='triton' needs the package triton, which is not installed; expected 'torch' here")
    if features.dtype == torch.float64:
        raise ValueError("backend='triton' has no float64; expected backend='torch' for float64 features")
    if not on_gpu and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"backend='triton' needs features on a GPU, these are on {features.device}; expected backend='torch', or "
            "TRITON_INTERPRET=1 in the environment from the start of the process"
        )
    from minclip_kernels import tiles_triton  # only now: triton does not exist on every system

    return tiles_triton


def blocks(length: int, step: int) -> Iterator[slice]:
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def computing_dtype(features: Tensor) -> torch.dtype:
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def inverse_norms(features: Tensor, normalize: bool) -> Tensor:
    """1 / max(|x|, 1e-12), or ones, (N,)."""
    if not normalize:
        return features.new_ones(len(features), dtype=computing_dtype(features))
    norms = torch.linalg.vector_norm(features, dim=1, dtype=computing_dtype(features))
    return norms.clamp_min_(EPSILON).reciprocal_()


def prepare(tiles: ModuleType, image: Tensor, text: Tensor, normalize: bool) -> tuple[Side, Side]:
    """Both towers as the tiles use them."""
    return tuple(tiles.prepare(features, inverse_norms(features, normalize)) for features in (image, text))


def pair_cosines(image: Tensor, text: Tensor, x: Side, y: Side, step: int) -> Tensor:
    """The cosines of the matching pairs, (N,), a block of rows at a time."""
    cosines = torch.empty_like(x.inverse_norms)
    for rows in blocks(len(image), step):
        unit_image = image[rows] * x.inverse_norms[rows, None]
        cosines[rows] = unit_image.mul_(text[rows] * y.inverse_norms[rows, None]).sum(dim=1)
    return cosines


def sum_others(tiles: ModuleType, x: Side, y: Side, scale: Tensor, steps: tuple[int, int]) -> Tensor:
    """The first pass: log2 Σ exp2 over each row and each column of the logits without the matching pairs, (2, N)."""
    row_lses, column_lses = [], []
    scratch = tiles.scratch(x, y, steps, coefficients=False)
    for rows in blocks(len(x.features), steps[0]):
        x_block = x.block(rows)
        of_rows, of_columns = zip(
            *(
                tiles.log_sum_exps(x_block, y.block(columns), scale, rows.start - columns.start, scratch)
                for columns in blocks(len(y.features), steps[1])
            ),
            strict=True,
        )
        row_lses.append(log2_sum_exp2(torch.stack(of_rows)))
        column_lses.append(torch.cat(of_columns))
    return torch.stack([torch.cat(row_lses), log2_sum_exp2(torch.stack(column_lses))])


def sweep(
    tiles: ModuleType, tile: Callable[..., tuple[Tensor, ...]], image: Tensor, text: Tensor, x: Side, y: Side,
    steps: tuple[int, int], normalize: bool, needs_image: bool, needs_text: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """One pass over the coefficients G of all tiles.

    tile: (image block, text block, rows, columns, scratch) to the coefficients (R, C) and any scalars.
    Returns Σ_j G_ij y_j and Σ_i G_ij x_i, taken back through the normalisation, (N, D) each in float32 or float64
    (empty where not needed); and the sums of the scalars.
    """
    image_gradient = x.inverse_norms.new_zeros(image.shape if needs_image else 0)
    text_gradient = y.inverse_norms.new_zeros(text.shape if needs_text else 0)
    scalars = []
    scratch = tiles.scratch(x, y, steps, coefficients=True)
    for rows in blocks(len(image), steps[0]):
        x_block = x.block(rows)
        for columns in blocks(len(text), steps[1]):
            y_block = y.block(columns)
            coefficients, *sums = tile(x_block, y_block, rows, columns, scratch)
            scalars.append(torch.stack(sums))
            if needs_image:
                tiles.accumulate(image_gradient[rows], coefficients, y_block.features)
            if needs_text:
                tiles.accumulate(text_gradient[columns], coefficients.T, x_block.features)
    for gradient, features, this, other in ((image_gradient, image, x, y), (text_gradient, text, y, x)):
        for rows in blocks(len(gradient), steps[0]):
            if normalize:
                remove_parallel(gradient[rows], features[rows], this.inverse_norms[rows])
            gradient[rows] *= tiles.restore(this.block(rows), other)
    return image_gradient, text_gradient, torch.stack(scalars).sum(dim=0)


def remove_parallel(gradient: Tensor, features: Tensor, inverse_norms: Tensor) -> None:
    """Takes from the gradient (n, D), in place, what points along its feature: normalising made that unreachable.

    Not where the length was below 1e-12: there the divisor is a constant.
    """
    unit = features * inverse_norms[:, None]
    along = torch.linalg.vecdot(gradient, unit)
    shortest = torch.full_like(inverse_norms, EPSILON).reciprocal_()
    along.masked_fill_(inverse_norms >= shortest, 0.0)
    gradient.addcmul_(unit, along[:, None], value=-1)


@torch.library.custom_op("minclip_kernels::clip_loss", mutates_args=())
def _clip_loss(
    image: Tensor, text: Tensor, scalars: Tensor, normalize: bool, backend: str, chunk_size: int | None,
    needs_image: bool, needs_text: bool, needs_scale: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The loss (); its gradients for both features, (N, D), or empty where none is needed; and for the scale, (1,)."""
    with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
        tiles, scale = choose_tiles(backend, image), scalars[0] / LN_2
        steps = tiles.tile_shape(image, chunk_size)
        x, y = prepare(tiles, image, text, normalize)
        others = sum_others(tiles, x, y, scale, steps)  # (2, N): by image and by text
        cosines = pair_cosines(image, text, x, y, steps[0])
        pairs = cosines * scale
        odds = (others - pairs) * LN_2
        # + pairs * 0: an infinite feature gives NaN, as in the textbook, and not softplus(-inf) = 0
        loss = (F.softplus(odds) + pairs * 0).mean().float()
        if not (needs_image or needs_text or needs_scale):
            return loss, scalars.new_empty(0), scalars.new_empty(0), torch.zeros_like(scalars)

        row_lse, column_lse = torch.logaddexp2(others, pairs)
        pair = -torch.sigmoid(odds).sum(dim=0)
        center = cosines.mean()  # Σ G = 0, so any constant may be taken off the cosines; this leaves small numbers

        def tile(x_block: Side, y_block: Side, rows: slice, columns: slice, scratch: Tensor) -> tuple[Tensor, Tensor]:
            sums = row_lse[rows], column_lse[columns], pair[rows], center
            return tiles.coefficients(x_block, y_block, scale, rows.start - columns.start, *sums, scratch)

        image_gradient, text_gradient, moment = sweep(
            tiles, tile, image, text, x, y, steps, normalize, needs_image, needs_text
        )
        factor = scalars[0] / (2 * len(image))
        return loss, image_gradient.mul_(factor), text_gradient.mul_(factor), moment / (2 * len(image))


@torch.library.custom_op("minclip_kernels::backward", mutates_args=())
def _backward(
    loss_gradient: Tensor, image: Tensor, text: Tensor, scalars: Tensor,
    image_gradient: Tensor, text_gradient: Tensor, scalars_gradient: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients times that of the loss; the inputs come along so that autograd sees what the result depends on."""
    return (
        (loss_gradient * image_gradient).to(image.dtype),
        (loss_gradient * text_gradient).to(text.dtype),
        loss_gradient * scalars_gradient,
    )


def _fake_loss(image, text, scalars, normalize, backend, chunk_size, needs_image, needs_text, needs_scalars):
    image_gradient = scalars.new_empty(image.shape if needs_image else 0)
    text_gradient = scalars.new_empty(text.shape if needs_text else 0)
    return image.new_empty((), dtype=torch.float32), image_gradient, text_gradient, torch.empty_like(scalars)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:3], *output[1:])


def _differentiate(ctx, loss_gradient: Tensor, *_):
    gradients = _backward(loss_gradient, *ctx.saved_tensors)
    wanted = (g if needed else None for g, needed in zip(gradients, ctx.needs_input_grad[:3], strict=True))
    return *wanted, None, None, None, None, None, None


def _refuse(ctx, *_):
    raise NotImplementedError("the fused losses can be differentiated once; the plain formulas give second derivatives")


def register(loss: Any) -> None:
    """Tells torch what a loss operator returns, and how to differentiate it."""
    loss.register_fake(_fake_loss)
    loss.register_autograd(_differentiate, setup_context=_save)


register(_clip_loss)
_backward.register_autograd(_refuse)


@_backward.register_fake
def _(_, image, text, scalars, *gradients):
    inputs = zip(gradients, (image, text, scalars), strict=True)
    return tuple(torch.empty_like(gradient, dtype=like.dtype) for gradient, like in inputs)
