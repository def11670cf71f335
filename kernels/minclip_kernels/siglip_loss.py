"""The sigmoid loss of SigLIP on the same tiles, in one pass with three products.

Its coefficients need no sum over the others, so loss and gradients come from the same tile.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from minclip_kernels.clip_loss import (
    as_vector,
    check_arguments,
    choose_tiles,
    needed_gradients,
    pair_cosines,
    prepare,
    register,
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
    check_arguments(image_features, text_features, backend, chunk_size)
    scalars = as_vector(image_features, logit_scale=logit_scale, logit_bias=logit_bias)
    needs = needed_gradients(image_features, text_features, scalars)
    return _siglip_loss(image_features, text_features, scalars, normalize, backend, chunk_size, *needs)[0]


@torch.library.custom_op("minclip_kernels::siglip_loss", mutates_args=())
def _siglip_loss(
    image: Tensor, text: Tensor, scalars: Tensor, normalize: bool, backend: str, chunk_size: int | None,
    needs_image: bool, needs_text: bool, needs_scalars: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The loss (); its gradients for both features, (N, D), or empty where none is needed; for scale and bias, (2,)."""
    with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
        tiles = choose_tiles(backend, image)
        scale, bias = scalars
        steps = tiles.tile_shape(image, chunk_size)
        x, y = prepare(tiles, image, text, normalize)
        pairs = pair_cosines(image, text, x, y, steps[0]) * scale + bias
        pair = -torch.sigmoid(-pairs)

        def tile(x_block: Side, y_block: Side, rows: slice, columns: slice, scratch: Tensor) -> tuple[Tensor, ...]:
            diagonal = rows.start - columns.start
            return tiles.sigmoid_tile(x_block, y_block, scale / LN_2, bias / LN_2, diagonal, pair[rows], scratch)

        image_gradient, text_gradient, (others, *moments) = sweep(
            tiles, tile, image, text, x, y, steps, normalize, needs_image, needs_text
        )
        loss = (others + (F.softplus(-pairs) + pairs * 0).sum()) / len(image)  # pairs * 0: see clip_loss
        factor = scale / len(image)
        return loss.float(), image_gradient.mul_(factor), text_gradient.mul_(factor), torch.stack(moments) / len(image)


register(_siglip_loss)
