# pyright: strict
"""CLIP's loss and its gradients where all logits fit one tile: the mathematics in one piece.

`clip_loss` and the back-ends do the same tile by tile. In a small batch on a CPU each operation
takes longer than its arithmetic, so this is the same in half as many.
"""

from typing import cast

import torch
from torch import Tensor

from minclip_kernels.tiles import EPSILON, SMALLEST_SUM

MOST_PAIRS = 256


def is_small(image: Tensor, text: Tensor) -> bool:
    """Whether features (N, D) and (M, D) are a small batch of pairs on a CPU."""
    return len(image) == len(text) <= MOST_PAIRS and image.device.type == "cpu"


def loss_of_one_tile(
    image: Tensor, text: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Return the loss () and its gradients for image (N, D), text (N, D) and scale ().

    None where exponentials relative to the largest logit lose digits.
    """
    unit = torch.cat([image, text]).to(scale.dtype)  # (2N, D)
    norms = torch.linalg.vector_norm(unit, dim=1, keepdim=True)  # pyright: ignore
    norms = cast(Tensor, norms).clamp_min_(EPSILON)  # (2N, 1)
    unit = unit / norms
    x, y = unit.chunk(2)
    cosines = torch.mm(x, y.T)  # (N, N)
    # Less the mean of the pairs: no gradient changes, and that of the scale has fewer digits to
    # lose where all cosines are nearly equal.
    cosines -= cosines.diagonal().mean()
    exponentials = cosines * scale
    exponentials.sub_(exponentials.max()).exp_()
    diagonal = exponentials.diagonal()
    pairs = diagonal.clone()  # (N,)
    diagonal.zero_()
    # The sums leave the pair out: 1 − p would lose the digits of a pair that is well aligned.
    others = torch.stack([exponentials.sum(dim=1), exponentials.sum(dim=0)])  # (2, N)
    if torch.minimum(others, pairs).min().item() < SMALLEST_SUM:
        return None
    loss = torch.log1p(others / pairs).mean()
    inverse_sums = others.add(pairs).mul_(2 * len(image)).reciprocal_()  # (2, N), pairs included
    # The gradient by the logits: the probabilities of row and column, less 2 at the pairs, over 2N.
    rows, columns = inverse_sums.unbind()
    g = (rows[:, None] + columns).mul_(exponentials)
    torch.neg(others.mul_(inverse_sums).sum(dim=0), out=g.diagonal())
    of_scale = cosines.mul_(g).sum()
    gradient = torch.empty_like(unit)  # (2N, D), by the unit features, but for the scale
    of_image, of_text = gradient.chunk(2)
    torch.mm(g, y, out=of_image)
    torch.mm(g.T, x, out=of_text)
    along = gradient.mul(unit).sum(dim=1, keepdim=True)  # (2N, 1)
    # A feature's length changes nothing, unless it is so short that its divisor is constant.
    along *= norms > EPSILON
    gradient.addcmul_(unit, along, value=-1).mul_(scale / norms)
    # Cloned, because the outputs of an operator must not share memory.
    return loss.float(), of_image, of_text.clone(), of_scale
