"""CLIP's loss and its exact gradients with one product of the towers forward and three backward, in O(N) memory.

With unit features x_i, y_j and logits z_ij = s⟨x_i, y_j⟩, the loss is ½ mean_i (LSE_j z_ij - z_ii) over the images plus
the same over the texts. Only tiles of z ever exist. The sums leave the matching pair out, so that

    LSE_j z_ij - z_ii = softplus(lse_others_i - z_ii)

loses no digit when a pair is already well aligned; the gradient at the pair is -σ(lse_others_i - z_ii) for either side,
formed the same way. The README beside this package derives all of it. Logits are in units of log 2 (tiles_torch.py).
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from minclip_kernels import tiles_torch
from minclip_kernels.tiles_torch import LN_2, Side, log2_sum_exp2

EPSILON = 1e-12  # the shortest length that a feature is divided by, as in F.normalize
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
    check_features(image_features, text_features)
    check_options(backend, chunk_size)
    scale = as_scalar("logit_scale", logit_scale, image_features)
    return _clip_loss(image_features, text_features, scale, normalize, backend, chunk_size)[0]


def check_features(image_features: Tensor, text_features: Tensor) -> None:
    for name, features in (("image_features", image_features), ("text_features", text_features)):
        if not isinstance(features, Tensor):
            raise TypeError(f"{name} is a {type(features).__name__}, expected a tensor")
        if features.dtype not in FEATURE_DTYPES:
            raise TypeError(f"{name} is {features.dtype}, expected float32, bfloat16, float16 or float64")
        if features.ndim != 2:
            raise ValueError(f"{name} has shape {tuple(features.shape)}, expected two dimensions (N, D)")
    if image_features.shape != text_features.shape:
        shapes = f"{tuple(image_features.shape)} and {tuple(text_features.shape)}"
        raise ValueError(f"image_features and text_features have shapes {shapes}, expected the same (N, D)")
    if image_features.dtype != text_features.dtype:
        dtypes = f"{image_features.dtype} and {text_features.dtype}"
        raise TypeError(f"image_features and text_features are {dtypes}, expected the same dtype")
    if image_features.device != text_features.device:
        devices = f"{image_features.device} and {text_features.device}"
        raise ValueError(f"image_features and text_features are on {devices}, expected the same device")
    if image_features.shape[0] == 0 or image_features.shape[1] == 0:
        raise ValueError(f"the features have shape {tuple(image_features.shape)}, expected at least (1, 1)")


def check_options(backend: str, chunk_size: int | None) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}, expected one of {', '.join(map(repr, BACKENDS))}")
    if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
        raise ValueError(f"chunk_size is {chunk_size!r}, expected None or a whole number of rows, at least 1")


def as_scalar(name: str, value: Tensor | float, features: Tensor) -> Tensor:
    """A scale or bias as a tensor on the features' device."""
    if isinstance(value, int | float):
        dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
        return torch.full((), float(value), dtype=dtype, device=features.device)
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}, expected a number or a scalar tensor")
    if value.ndim != 0:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected a scalar, of shape ()")
    if value.dtype not in (torch.float32, features.dtype):
        raise TypeError(f"{name} is {value.dtype}, expected float32 or the features' dtype, {features.dtype}")
    if value.device != features.device:
        raise ValueError(f"{name} is on {value.device}, expected the features' device, {features.device}")
    return value


def choose_tiles(backend: str, features: Tensor) -> ModuleType:
    """The module with the tile functions."""
    on_gpu = features.device.type == "cuda"  # ROCm too
    has_triton = importlib.util.find_spec("triton") is not None
    if backend == "torch" or (backend == "auto" and (not on_gpu or not has_triton or features.dtype == torch.float64)):
        return tiles_torch
    if not has_triton:
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


def inverse_norms(features: Tensor, normalize: bool) -> Tensor:
    """1 / max(|x|, 1e-12) or ones, (N,), in the dtype that the loss is computed in: float32, or float64 for float64."""
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    if not normalize:
        return features.new_ones(len(features), dtype=dtype)
    return torch.linalg.vector_norm(features, dim=1, dtype=dtype).clamp_min_(EPSILON).reciprocal_()


def unit_features(features: Tensor, inverse_norms: Tensor) -> Tensor:
    return features.to(inverse_norms.dtype) * inverse_norms[:, None]


def pair_cosines(image: Tensor, text: Tensor, image_norms: Tensor, text_norms: Tensor, step: int) -> Tensor:
    """⟨x_i, y_i⟩ of the matching pairs, (N,), a block of rows at a time."""
    cosines = torch.empty_like(image_norms)
    for rows in blocks(len(image), step):
        unit_image = unit_features(image[rows], image_norms[rows])
        cosines[rows] = unit_image.mul_(unit_features(text[rows], text_norms[rows])).sum(dim=1)
    return cosines


def through_normalize(gradient: Tensor, features: Tensor, inverse_norms: Tensor, normalize: bool) -> Tensor:
    """Removes from the gradient (n, D), in place, what points along its feature: normalising made it unreachable.

    Not where the length was below 1e-12: there the divisor is a constant.
    """
    if not normalize:
        return gradient
    unit = unit_features(features, inverse_norms)
    shortest = torch.full_like(inverse_norms, EPSILON).reciprocal_()
    unit.masked_fill_((inverse_norms >= shortest)[:, None], 0.0)
    along = torch.linalg.vecdot(gradient, unit)[:, None]  # (n, 1)
    return gradient.addcmul_(unit, along, value=-1)


@torch.library.custom_op("minclip_kernels::clip_loss", mutates_args=())
def _clip_loss(
    image: Tensor, text: Tensor, scale: Tensor, normalize: bool, backend: str, chunk_size: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss (); for its gradient, log-sum-exps over the others by row and by column and the pairs' cosines, (N,)."""
    with torch.autocast(image.device.type, enabled=False):
        return forward(choose_tiles(backend, image), image, text, scale, normalize, chunk_size)


def forward(
    tiles: ModuleType, image: Tensor, text: Tensor, scale: Tensor, normalize: bool, chunk_size: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    count = len(image)
    image_norms, text_norms = inverse_norms(image, normalize), inverse_norms(text, normalize)
    x, y = tiles.prepare(image, image_norms), tiles.prepare(text, text_norms)
    scale_2 = scale.to(image_norms.dtype) / LN_2
    row_step, column_step = tiles.tile_shape(image, chunk_size)

    row_lse, column_parts = [], []
    for rows in blocks(count, row_step):
        tile_lses = [
            tiles.log_sum_exps(x.block(rows), y.block(columns), scale_2, rows.start - columns.start)
            for columns in blocks(count, column_step)
        ]
        row_lse.append(log2_sum_exp2(torch.stack([lse for lse, _ in tile_lses])))
        column_parts.append(torch.cat([lse for _, lse in tile_lses]))
    row_others, column_others = torch.cat(row_lse), log2_sum_exp2(torch.stack(column_parts))

    cosines = pair_cosines(image, text, image_norms, text_norms, row_step)
    pairs = cosines * scale_2
    losses = F.softplus((row_others - pairs) * LN_2) + F.softplus((column_others - pairs) * LN_2)
    losses += pairs * 0  # an infinite feature gives NaN, as in the textbook formula, and not softplus(-inf) = 0
    return (losses.mean() / 2).float(), row_others, column_others, cosines


@_clip_loss.register_fake
def _(image, text, scale, normalize, backend, chunk_size):
    vector = inverse_norms(image, normalize=False)
    return image.new_empty((), dtype=torch.float32), vector, torch.empty_like(vector), torch.empty_like(vector)


@torch.library.custom_op("minclip_kernels::clip_loss_backward", mutates_args=())
def _clip_loss_backward(
    loss_gradient: Tensor, image: Tensor, text: Tensor, scale: Tensor,
    row_others: Tensor, column_others: Tensor, cosines: Tensor,
    normalize: bool, backend: str, chunk_size: int | None, needs_image: bool, needs_text: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients for both features, (N, D), or empty where none is needed, and for the scale, ()."""
    with torch.autocast(image.device.type, enabled=False):
        statistics = (row_others, column_others, cosines)
        options = (normalize, chunk_size, needs_image, needs_text)
        return backward(choose_tiles(backend, image), loss_gradient, image, text, scale, statistics, *options)


def backward(
    tiles: ModuleType, loss_gradient: Tensor, image: Tensor, text: Tensor, scale: Tensor,
    statistics: tuple[Tensor, Tensor, Tensor], normalize: bool, chunk_size: int | None,
    needs_image: bool, needs_text: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    row_others, column_others, cosines = statistics
    scale_2 = scale.to(cosines.dtype) / LN_2
    pairs = cosines * scale_2
    row_lse, column_lse = torch.logaddexp2(row_others, pairs), torch.logaddexp2(column_others, pairs)
    pair = -torch.sigmoid((row_others - pairs) * LN_2) - torch.sigmoid((column_others - pairs) * LN_2)
    center = cosines.mean()  # Σ G = 0, so any constant may be taken off the cosines; this one leaves small numbers

    def tile(x: Side, y: Side, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        lses = row_lse[rows], column_lse[columns]
        return tiles.coefficients(x, y, scale_2, rows.start - columns.start, *lses, pair[rows], center)

    image_gradient, text_gradient, (moment,) = sweep(
        tiles, tile, image, text, normalize, chunk_size, needs_image, needs_text
    )
    per_logit = loss_gradient / (2 * len(image))
    for gradient in (image_gradient, text_gradient):
        gradient.mul_(per_logit * scale)
    gradients = image_gradient.to(image.dtype), text_gradient.to(text.dtype)
    return *gradients, (per_logit * moment).to(scale.dtype)


def sweep(
    tiles: ModuleType, tile: Callable[..., tuple[Tensor, ...]], image: Tensor, text: Tensor, normalize: bool,
    chunk_size: int | None, needs_image: bool, needs_text: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Goes once over the coefficients G of all tiles.

    tile: (image block, text block, rows, columns) to the coefficients (R, C) and any scalars.
    Returns Σ_j G_ij y_j and Σ_i G_ij x_i, taken back through the normalisation, (N, D) each in float32 or float64
    (empty where not needed); and the sums of the scalars.
    """
    image_norms, text_norms = inverse_norms(image, normalize), inverse_norms(text, normalize)
    x, y = tiles.prepare(image, image_norms), tiles.prepare(text, text_norms)
    row_step, column_step = tiles.tile_shape(image, chunk_size)
    image_gradient = image_norms.new_zeros(image.shape if needs_image else 0)
    text_gradient = text_norms.new_zeros(text.shape if needs_text else 0)
    scalars = []
    for rows in blocks(len(image), row_step):
        x_block = x.block(rows)
        for columns in blocks(len(text), column_step):
            y_block = y.block(columns)
            coefficients, *sums = tile(x_block, y_block, rows, columns)
            scalars.append(torch.stack(sums))
            if needs_image:
                tiles.accumulate(image_gradient[rows], coefficients, y_block.features)
            if needs_text:
                tiles.accumulate(text_gradient[columns], coefficients.T, x_block.features)
        if needs_image:
            through_normalize(image_gradient[rows], image[rows], image_norms[rows], normalize)
            image_gradient[rows] *= tiles.restore(x_block, y)
    if needs_text:
        for columns in blocks(len(text), row_step):
            through_normalize(text_gradient[columns], text[columns], text_norms[columns], normalize)
            text_gradient[columns] *= tiles.restore(y.block(columns), x)
    return image_gradient, text_gradient, torch.stack(scalars).sum(dim=0)


@_clip_loss_backward.register_fake
def _(loss_gradient, image, text, scale, row_others, column_others, cosines,
      normalize, backend, chunk_size, needs_image, needs_text):  # fmt: skip
    image_gradient = image.new_empty(image.shape if needs_image else 0)
    text_gradient = text.new_empty(text.shape if needs_text else 0)
    return image_gradient, text_gradient, scale.new_empty(())


def _save(ctx, inputs, output) -> None:
    image, text, scale, *ctx.options = inputs
    ctx.save_for_backward(image, text, scale, *output[1:])


def _autograd(ctx, loss_gradient: Tensor, *_):
    needs_image, needs_text, needs_scale = ctx.needs_input_grad[:3]
    image_gradient, text_gradient, scale_gradient = _clip_loss_backward(
        loss_gradient, *ctx.saved_tensors, *ctx.options, needs_image, needs_text
    )
    return (
        image_gradient if needs_image else None,
        text_gradient if needs_text else None,
        scale_gradient if needs_scale else None,
        None, None, None,
    )  # fmt: skip


def refuse_second_derivative(ctx, *_):
    raise NotImplementedError("the fused losses can be differentiated once; the plain formulas give second derivatives")


_clip_loss.register_autograd(_autograd, setup_context=_save)
_clip_loss_backward.register_autograd(refuse_second_derivative)
