"""The sigmoid loss of SigLIP on the same tiles, in one pass: loss and gradients come from the same tile.

A pair's gradient needs no sum over the others, so whoever will call backward gets the gradients computed forward, with
three products in all (6 N²D), kept in float32 until backward multiplies them with the gradient of the loss.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from minclip_kernels.clip_loss import (
    as_scalar,
    check_features,
    check_options,
    choose_tiles,
    inverse_norms,
    pair_cosines,
    refuse_second_derivative,
    sweep,
)
from minclip_kernels.tiles_torch import LN_2, Side


def fused_siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    *,
    normalize: bool = True,
    backend: str = "auto",
    chunk_size: int | None = None,
) -> Tensor:
    """The sigmoid loss (Zhai et al. 2023, equation 1), without its N×N matrix.

    -1/N Σ_ij log σ(±(logit_scale · cosine_ij + logit_bias)), plus for the N matching pairs, minus for all others. The
    arguments, the result and the errors are those of `fused_clip_loss`; logit_bias is a scalar like logit_scale.
    """
    check_features(image_features, text_features)
    check_options(backend, chunk_size)
    scale = as_scalar("logit_scale", logit_scale, image_features)
    bias = as_scalar("logit_bias", logit_bias, image_features)
    training = torch.is_grad_enabled()
    needs_image, needs_text = training and image_features.requires_grad, training and text_features.requires_grad
    return _siglip_loss(
        image_features, text_features, scale, bias, normalize, backend, chunk_size, needs_image, needs_text
    )[0]


@torch.library.custom_op("minclip_kernels::siglip_loss", mutates_args=())
def _siglip_loss(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor,
    normalize: bool, backend: str, chunk_size: int | None, needs_image: bool, needs_text: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The loss (); its gradients for both features, (N, D) or empty, and for scale and bias, (2,), not in float16."""
    with torch.autocast(image.device.type, enabled=False):
        tiles = choose_tiles(backend, image)
        norms = inverse_norms(image, normalize), inverse_norms(text, normalize)
        scale, bias = scale.to(norms[0].dtype), bias.to(norms[0].dtype)
        pairs = pair_cosines(image, text, *norms, tiles.tile_shape(image, chunk_size)[0]) * scale + bias
        pair = -torch.sigmoid(-pairs)

        def tile(x: Side, y: Side, rows: slice, columns: slice) -> tuple[Tensor, ...]:
            diagonal = rows.start - columns.start
            return tiles.sigmoid_tile(x, y, scale / LN_2, bias / LN_2, diagonal, pair[rows])

        image_gradient, text_gradient, sums = sweep(
            tiles, tile, image, text, normalize, chunk_size, needs_image, needs_text
        )
        loss = (sums[0] + F.softplus(-pairs).sum() + (pairs * 0).sum()) / len(image)  # inf * 0: as in the CLIP loss
        for gradient in (image_gradient, text_gradient):
            gradient.mul_(scale / len(image))
        return loss.float(), image_gradient, text_gradient, sums[1:] / len(image)


@_siglip_loss.register_fake
def _(image, text, scale, bias, normalize, backend, chunk_size, needs_image, needs_text):
    vector = inverse_norms(image, normalize=False)
    image_gradient = vector.new_empty(image.shape if needs_image else 0)
    text_gradient = vector.new_empty(text.shape if needs_text else 0)
    return image.new_empty((), dtype=torch.float32), image_gradient, text_gradient, vector.new_empty(2)


@torch.library.custom_op("minclip_kernels::siglip_loss_backward", mutates_args=())
def _siglip_loss_backward(
    loss_gradient: Tensor, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor,
    image_gradient: Tensor, text_gradient: Tensor, scalar_gradients: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients times that of the loss; the inputs come along so that autograd sees what the result depends on."""
    scale_gradient, bias_gradient = loss_gradient * scalar_gradients
    return (
        (loss_gradient * image_gradient).to(image.dtype),
        (loss_gradient * text_gradient).to(text.dtype),
        scale_gradient.to(scale.dtype, copy=True),  # an operator's results must not share memory
        bias_gradient.to(bias.dtype, copy=True),
    )


@_siglip_loss_backward.register_fake
def _(loss_gradient, image, text, scale, bias, image_gradient, text_gradient, scalar_gradients):
    gradients = torch.empty_like(image_gradient, dtype=image.dtype), torch.empty_like(text_gradient, dtype=text.dtype)
    return *gradients, scale.new_empty(()), bias.new_empty(())


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:4], *output[1:])


def _autograd(ctx, loss_gradient: Tensor, *_):
    gradients = _siglip_loss_backward(loss_gradient, *ctx.saved_tensors)
    wanted = [gradient if needed else None for gradient, needed in zip(gradients, ctx.needs_input_grad, strict=False)]
    return *wanted, None, None, None, None, None


_siglip_loss.register_autograd(_autograd, setup_context=_save)
_siglip_loss_backward.register_autograd(refuse_second_derivative)
