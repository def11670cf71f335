# pyright: strict
"""The sigmoid loss of SigLIP on the same tiles, in one pass with three products.

Its coefficients need no sum over the others, so loss and gradients come from the same tile.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.distributed import ProcessGroup

from minclip_kernels.custom_op import (
    as_scalar,
    check_features,
    check_group,
    check_options,
    differentiable,
    make_tiles,
    needed_gradients,
)
from minclip_kernels.distributed import Shards
from minclip_kernels.tiles import LN_2, Problem


def fused_siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    *,
    offset: int | None = None,
    normalize: bool = True,
    backend: str = "auto",
    chunk_size: int | None = None,
    group: ProcessGroup | None = None,
    shard_sizes: Sequence[int] | None = None,
) -> Tensor:
    """Return the sigmoid loss (Zhai et al. 2023, equation 1) without building its matrix.

    −1/N Σ_ij log σ(±(logit_scale · cosine_ij + logit_bias)), plus for the N pairs, minus for all
    others. logit_bias is a scalar like logit_scale; the other arguments, the result and the errors
    are those of `fused_clip_loss`.
    """
    if group is not None:
        check_group(group, offset)
    offset = check_features(image_features, text_features, offset)
    check_options(backend, chunk_size, memory=None)
    scale = as_scalar("logit_scale", logit_scale, image_features)
    bias = as_scalar("logit_bias", logit_bias, image_features)
    needs = needed_gradients(image_features, text_features, scale)
    shards = None if group is None else Shards(group, image_features, shard_sizes)
    inputs = image_features, text_features, scale, bias, offset
    return _siglip_loss(shards, *inputs, normalize, backend, chunk_size, needs)


@differentiable("siglip_loss", tensors=4)
def _siglip_loss(
    shards: Shards | None,
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    offset: int,
    normalize: bool,
    backend: str,
    chunk_size: int | None,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the loss () and its gradients for image (n, D), text (M, D), scale () and bias ().

    With shards these are the parts of this process, as `Shards` defines them, and text its own.
    """
    ratio = 1.0
    if shards is not None:
        text, offset, ratio = shards.gather(text), shards.offset, shards.ratio
    problem = Problem(image, text, offset, normalize, chunk_size=chunk_size, memory=0, needs=needs)
    gradients, loss, of_bias = make_tiles(backend, problem).sigmoid_gradients(
        logit_scale / LN_2, logit_bias / LN_2, ratio / len(image)
    )
    of_text = gradients.text
    if shards is not None and needs[1]:
        of_text = shards.add_and_scatter(of_text)
    return loss.float(), gradients.image, of_text, gradients.scale, of_bias
