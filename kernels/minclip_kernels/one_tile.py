# pyright: strict
"""CLIP's loss and its gradients where all logits fit one tile: the plain case in one piece.

`clip_loss` and the back-ends do the same tile by tile, with exp2 in place of exp. In a small batch
on a CPU starting the operations takes much of the time, and here are less than half as many.
"""

from typing import cast

import torch
from torch import Tensor

from minclip_kernels.tiles import EPSILON, SMALLEST_SUM

MOST_PAIRS = 256  # At 512 the tiles are as fast.


def is_small(image: Tensor, text: Tensor) -> bool:
    """Whether features (N, D) and (M, D) are a small batch on a CPU with N = M."""
    return len(image) == len(text) <= MOST_PAIRS and image.device.type == "cpu"


def loss_of_one_tile(
    image: Tensor, text: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Return the loss () and its gradients for image (N, D), text (N, D) and scale ().

    The features are those before normalising; the gradients have the scale's dtype. None where a
    sum is so small beside the largest exponential that digits are lost; so for N = 1, where nothing
    is added up.
    """
    features = torch.cat([image, text]).to(scale.dtype)  # (2N, D)
    norms = torch.linalg.vector_norm(features, dim=1, keepdim=True)  # pyright: ignore
    norms = cast(Tensor, norms).clamp_min_(EPSILON)  # (2N, 1)
    unit = features / norms
    x, y = unit.chunk(2)
    cosines = torch.mm(x, y.T)  # (N, N)
    # Subtracting the mean cosine of the pairs shifts all logits alike, which changes nothing. But
    # the scale's gradient has fewer digits to lose where all cosines are nearly equal.
    cosines -= cosines.diagonal().mean()
    exponentials = cosines * scale
    exponentials.sub_(exponentials.max()).exp_()
    diagonal = exponentials.diagonal()  # a view
    pairs = diagonal.clone()  # (N,)
    diagonal.zero_()
    # The sums leave the pair out: 1 − p would lose the digits of a pair that is well aligned.
    others = torch.stack([exponentials.sum(dim=1), exponentials.sum(dim=0)])  # (2, N)
    if torch.minimum(others, pairs).min().item() < SMALLEST_SUM:  # NaN passes.
        return None
    loss = torch.log1p(others / pairs).mean()
    # Each exponential times these is a probability over 2N, in its row or its column.
    weights = others.add(pairs).mul_(2 * len(image)).reciprocal_()  # (2, N)
    by_row, by_column = weights.unbind()
    # G, the gradient by the logits. At a pair, a probability minus 1 is −others / (others + pair).
    g = (by_row[:, None] + by_column).mul_(exponentials)
    torch.neg(others.mul_(weights).sum(dim=0), out=g.diagonal())
    of_scale = cosines.mul_(g).sum()
    gradient = torch.empty_like(unit)  # (2N, D), of which the next two are the halves
    of_image, of_text = gradient.chunk(2)
    torch.mm(g, y, out=of_image)
    torch.mm(g.T, x, out=of_text)
    # Through the normalisation. The loss does not depend on a feature's length, so the part along
    # the feature goes, unless it is so short that its divisor is constant.
    along = gradient.mul(unit).sum(dim=1, keepdim=True)  # (2N, 1)
    along *= norms > EPSILON
    gradient.addcmul_(unit, along, value=-1).mul_(scale / norms)
    # Cloned, because the outputs of an operator must not share memory.
    return loss.float(), of_image, of_text.clone(), of_scale
