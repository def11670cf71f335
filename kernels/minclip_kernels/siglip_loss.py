"""The sigmoid loss of SigLIP on the same tiles, in one pass with three products.

Its coefficients need no sum over the others, so loss and gradients come from the same tile.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from minclip_kernels.clip_loss import as_scalar, check_arguments, choose_tiles, needed_gradients, register, sweep


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
    check_arguments(image_features, text_features, backend, chunk_size)
    scale = as_scalar("logit_scale", logit_scale, image_features)
    bias = as_scalar("logit_bias", logit_bias, image_features)
    needs = needed_gradients(image_features, text_features)
    return _siglip_loss(image_features, text_features, scale, bias, normalize, backend, chunk_size, needs)[0]


@torch.library.custom_op("minclip_kernels::siglip_loss", mutates_args=())
def _siglip_loss(
    image: Tensor, text: Tensor, logit_scale: Tensor, logit_bias: Tensor, normalize: bool, backend: str,
    chunk_size: int | None, needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The loss (); its gradients for both features, (N, D), or empty where none is needed; for scale and bias, ()."""
    with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
        tiles, count = choose_tiles(backend, image), len(image)
        steps = tiles.tile_shape(image, chunk_size)
        x, y = tiles.prepare(image, normalize), tiles.prepare(text, normalize)
        image_gradient, text_gradient, loss, of_scale, of_bias = sweep(
            tiles, lambda tile: tiles.sigmoid_coefficients(tile, logit_scale, logit_bias), x, y, steps,
            tiles.memory(x, steps, keep=False), normalize, logit_scale / count, needs,
        )  # fmt: skip
        loss = loss + 0 * of_scale  # an infinite feature gives NaN, also where the textbook's loss is infinite or 0
        return (loss / count).float(), image_gradient, text_gradient, of_scale / count, of_bias / count


register(_siglip_loss, tensors=4)
