"""CLIP's loss and its exact gradients with at most four products of N×N×D in O(N) memory.

With unit features x_i, y_j and logits z_ij = s⟨x_i, y_j⟩, the loss is ½ mean_i (LSE_j z_ij - z_ii) over the images plus
the same over the texts. They come in tiles: a first pass over them gives the sums of every row and column, a
second one the gradients. The sums leave the matching pair out, so that

    LSE_j z_ij - z_ii = softplus(lse_others_i - z_ii)

loses no digit when a pair is already well aligned; the gradient at the pair is -σ(lse_others_i - z_ii) for either side,
formed the same way. The README beside this package derives all of it. Logits are in units of log 2 (tiles_torch.py).

Both passes run forward (the second only if a gradient will be asked for), and the gradients wait in float32 until
backward multiplies them with the gradient of the loss.
"""

import importlib.util
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minclip_kernels import tiles_torch
from minclip_kernels.tiles_torch import EPSILON, LN_2, Side, Tile, computing_dtype, log2_sum_exp2, part

HAS_TRITON = importlib.util.find_spec("triton") is not None
BACKENDS = ("auto", "torch", "triton")
MOST_PARTS = 64  # log-sum-exps of blocks that wait to be combined; memory stays O(N), and few roundings are added
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
    chunk_size: rows of one block of logits; the default suits the cache or the memory of the device. It changes time
        and memory, and of the result nothing but the rounding.

    Returns a float32 scalar. Differentiable once with respect to both features and the scale.
    Raises TypeError and ValueError that name what came and what was expected.
    """
    check_arguments(image_features, text_features, backend, chunk_size)
    scale = as_scalar("logit_scale", logit_scale, image_features)
    needs = needed_gradients(image_features, text_features, scale)
    return _clip_loss(image_features, text_features, scale, normalize, backend, chunk_size, needs)[0]


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


def as_scalar(name: str, value: Tensor | float, features: Tensor) -> Tensor:
    """The scale or the bias, (), in the dtype that the loss is computed in."""
    if isinstance(value, (int, float)):  # Dynamo in torch 2.8 cannot trace int | float
        return torch.full((), float(value), dtype=computing_dtype(features), device=features.device)
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}, expected a number or a scalar tensor")
    if value.ndim != 0:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected a scalar, of shape ()")
    if value.dtype not in (torch.float32, features.dtype):
        raise TypeError(f"{name} is {value.dtype}, expected float32 or the features' dtype, {features.dtype}")
    if value.device != features.device:
        raise ValueError(f"{name} is on {value.device}, expected the features' device, {features.device}")
    return value.to(computing_dtype(features))


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


def blocks(of: Tensor, step: int) -> Iterator[slice]:
    length = of.shape[0]
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def combine(parts: list[Tensor], together: Callable[[list[Tensor]], Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else together(parts)


def pair_cosines(tiles: ModuleType, x: Side, y: Side, step: int) -> Tensor:
    """The cosines of the matching pairs, (N,), a block of rows at a time."""
    pairs = ((tiles.unit(x.block(rows)), tiles.unit(y.block(rows))) for rows in blocks(x.features, step))
    return combine([image.mul(text).sum(dim=1) for image, text in pairs], torch.cat)


def every_tile(x: Side, y: Side, steps: tuple[int, int], memory: Tensor) -> Iterator[Tile]:
    """The whole matrix, row of tiles by row of tiles."""
    places = itertools.product(blocks(x.features, steps[0]), blocks(y.features, steps[1]))
    for number, (rows, columns) in enumerate(places):
        yield Tile(x.block(rows), y.block(columns), rows, columns, number, memory)


def sum_others(tiles: ModuleType, x: Side, y: Side, scale: Tensor, steps: tuple[int, int], memory: Tensor) -> Tensor:
    """The first pass: log2 Σ exp2 over each row and each column of the logits without the matching pairs, (2, N)."""
    sides = {}, {}  # where a block of rows begins, or one of columns -> its parts
    for tile in every_tile(x, y, steps, memory):
        places = tile.rows.start, tile.columns.start
        for side, place, new in zip(sides, places, tiles.log_sum_exps(tile, scale), strict=True):
            parts = side.setdefault(place, [])
            parts.append(new)
            if len(parts) == MOST_PARTS:
                parts[:] = [log2_sum_exp2(torch.stack(parts))]
    blockwise = ([combine(parts, lambda p: log2_sum_exp2(torch.stack(p))) for parts in side.values()] for side in sides)
    return torch.stack([combine(sums, torch.cat) for sums in blockwise])


def sweep(
    tiles: ModuleType, coefficients: Callable[[Tile], tuple[Tensor, ...]], x: Side, y: Side, steps: tuple[int, int],
    memory: Tensor, normalize: bool, factor: Tensor, needs: Sequence[bool],
) -> list[Tensor]:  # fmt: skip
    """One pass over all tiles; `coefficients` makes of one its part of G, (R, C), and scalars.

    Returns Σ_j G_ij y_j and Σ_i G_ij x_i times `factor`, taken back through the normalisation, (N, D) each in float32
    or float64 (empty where not needed), and the sums of the scalars.
    """
    image_gradient = x.inverse_norms.new_empty(x.features.shape if needs[0] else 0)
    text_gradient = y.inverse_norms.new_empty(y.features.shape if needs[1] else 0)
    sums = []
    for tile in every_tile(x, y, steps, memory):
        g, *scalars = coefficients(tile)
        sums.append(scalars)
        if needs[0]:
            tiles.accumulate(part(image_gradient, tile.rows), g, tile.y.features, tile.columns.start == 0)
        if needs[1]:
            tiles.accumulate(part(text_gradient, tile.columns), g.T, tile.x.features, tile.rows.start == 0)
        del g  # before the next tile asks for as much memory
    for total, this, other in ((image_gradient, x, y), (text_gradient, y, x)):
        for rows in blocks(total, steps[0]):
            block, gradient = this.block(rows), part(total, rows)
            if normalize:
                remove_parallel(gradient, tiles.unit(block), block.inverse_norms)
            gradient.mul_(tiles.restore(block, other) * factor)
    totals = (combine(list(values), lambda v: torch.stack(v).sum()) for values in zip(*sums, strict=True))
    return [image_gradient, text_gradient, *totals]


def remove_parallel(gradient: Tensor, unit: Tensor, inverse_norms: Tensor) -> None:
    """Takes from the gradient (n, D), in place, what points along its feature: normalising made that unreachable.

    Not where the length was below 1e-12: there the divisor is a constant.
    """
    along = gradient.mul(unit).sum(dim=1, keepdim=True)
    along.mul_(inverse_norms < (1 - 1e-6) / EPSILON)  # the largest, but for its rounding in float32
    gradient.addcmul_(unit, along, value=-1)


@torch.library.custom_op("minclip_kernels::clip_loss", mutates_args=())
def _clip_loss(
    image: Tensor, text: Tensor, logit_scale: Tensor, normalize: bool, backend: str, chunk_size: int | None,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The loss (), and its gradients for both features, (N, D), or empty where none is needed, and for the scale ()."""
    with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
        tiles, scale = choose_tiles(backend, image), logit_scale / LN_2
        steps = tiles.tile_shape(image, chunk_size)
        x, y = tiles.prepare(image, normalize), tiles.prepare(text, normalize)
        memory = tiles.memory(x, steps, keep=any(needs))
        others = sum_others(tiles, x, y, scale, steps, memory)  # (2, N): by image and by text
        cosines = pair_cosines(tiles, x, y, steps[0])
        pairs = cosines * scale
        odds = (others - pairs) * LN_2
        # + 0 * pairs: something infinite gives NaN, as in the textbook, and not softplus(-inf) = 0
        loss = (F.softplus(odds) + 0 * pairs).mean().float()
        if not any(needs):
            return loss, scale.new_empty(0), scale.new_empty(0), torch.zeros_like(scale)

        row_lse, column_lse = torch.logaddexp2(others, pairs)
        pair = -torch.sigmoid(odds).sum(dim=0)
        center = cosines.mean()  # Σ G = 0, so any constant may be taken off the cosines; this leaves small numbers

        def coefficients(tile: Tile) -> tuple[Tensor, Tensor]:
            sums = part(row_lse, tile.rows), part(column_lse, tile.columns), part(pair, tile.rows)
            return tiles.coefficients(tile, scale, *sums, center)

        factor = logit_scale / (2 * len(image))
        image_gradient, text_gradient, moment = sweep(
            tiles, coefficients, x, y, steps, memory, normalize, factor, needs
        )
        return loss, image_gradient, text_gradient, moment / (2 * len(image))


def multiply(loss_gradient: Tensor, *inputs_and_gradients: Tensor) -> tuple[Tensor, ...]:
    """The gradient for each input, in its dtype: its saved gradient times that of the loss."""
    half = len(inputs_and_gradients) // 2
    pairs = zip(inputs_and_gradients[:half], inputs_and_gradients[half:], strict=True)
    return tuple(gradient.mul(loss_gradient).to(of.dtype) for of, gradient in pairs)


class _MultiplyOnce(torch.autograd.Function):
    """The same where a graph of the gradient is asked for: it depends on all inputs, and cannot be followed to them."""

    @staticmethod
    def forward(ctx, *arguments: Tensor) -> tuple[Tensor, ...]:
        return multiply(*arguments)

    @staticmethod
    def backward(ctx, *_):
        raise NotImplementedError("the fused losses can be differentiated once; the plain formulas more often")


def register(loss: Any, tensors: int) -> None:
    """Tells torch what a loss operator returns, and how to differentiate it by its first `tensors` arguments."""

    def fake(image, text, *others):
        like = (image if others[-1][0] else image[:0, 0], text if others[-1][1] else text[:0, 0])
        gradients = (
            tensor.new_empty(tensor.shape, dtype=others[0].dtype) for tensor in (*like, *others[: tensors - 2])
        )
        return image.new_empty((), dtype=torch.float32), *gradients

    def save(ctx, inputs, output) -> None:
        ctx.set_materialize_grads(False)  # nobody asks for gradients of the gradients: no zeros for them
        ctx.save_for_backward(*inputs[:tensors], *output[1:])

    def differentiate(ctx, loss_gradient: Tensor, *_):
        function = _MultiplyOnce.apply if torch.is_grad_enabled() else multiply
        gradients = function(loss_gradient, *ctx.saved_tensors)
        wanted = (g if needed else None for g, needed in zip(gradients, ctx.needs_input_grad[:tensors], strict=True))
        return *wanted, None, None, None, None

    loss.register_fake(fake)
    loss.register_autograd(differentiate, setup_context=save)


register(_clip_loss, tensors=3)
