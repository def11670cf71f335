"""What the fused losses must equal: every formula written out, in float64, with the whole N×N matrix in memory.

Slow and large on purpose. The losses take the arguments of the fused ones (`backend` and `chunk_size` change nothing
here) and autograd differentiates them; `gradients` has their derivatives as formulas.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Gradients(NamedTuple):
    image_features: Tensor  # (N, D)
    text_features: Tensor  # (N, D)
    logit_scale: Tensor  # ()
    logit_bias: Tensor  # (), zero for the softmax loss
    logits: Tensor  # (N, N)


def clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    *,
    normalize: bool = True,
    backend: str = "auto",
    chunk_size: int | None = None,
) -> Tensor:
    """The symmetric cross-entropy of CLIP (Radford et al. 2021, figure 3) with one-hot labels, as a float64 scalar."""
    logits = _double(logit_scale) * _cosines(image_features, text_features, normalize)  # (N, N)
    onehot = torch.eye(len(logits), dtype=torch.float64, device=logits.device)
    image_loss = -(onehot * logits.log_softmax(dim=1)).sum(dim=1).mean()
    text_loss = -(onehot * logits.log_softmax(dim=0)).sum(dim=0).mean()
    return (image_loss + text_loss) / 2


def siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    *,
    normalize: bool = True,
    backend: str = "auto",
    chunk_size: int | None = None,
) -> Tensor:
    """The sigmoid loss (Zhai et al. 2023, equation 1): every pair is a yes/no question. A float64 scalar."""
    logits = _double(logit_scale) * _cosines(image_features, text_features, normalize) + _double(logit_bias)
    labels = 2 * torch.eye(len(logits), dtype=torch.float64, device=logits.device) - 1  # +1 on the diagonal, else -1
    return -F.logsigmoid(labels * logits).sum() / len(logits)


def gradients(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float | None = None,
    normalize: bool = True,
) -> Gradients:
    """The derivatives of `clip_loss`, or with a bias of `siglip_loss`, as formulas, in float64."""
    scale, cosines = _double(logit_scale), _cosines(image_features, text_features, normalize)
    onehot = torch.eye(len(cosines), dtype=torch.float64, device=cosines.device)
    if logit_bias is None:
        logits = scale * cosines
        of_logits = (logits.softmax(dim=1) + logits.softmax(dim=0) - 2 * onehot) / (2 * len(logits))
    else:
        logits = scale * cosines + _double(logit_bias)
        of_logits = ((1 - onehot) * torch.sigmoid(logits) - onehot * torch.sigmoid(-logits)) / len(logits)
    return Gradients(
        _through_normalize(scale * of_logits @ _features(text_features, normalize), image_features, normalize),
        _through_normalize(scale * of_logits.T @ _features(image_features, normalize), text_features, normalize),
        (of_logits * cosines).sum(),
        of_logits.sum(),
        of_logits,
    )


def _double(value: Tensor | float) -> Tensor:
    return value.double() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


def _features(features: Tensor, normalize: bool) -> Tensor:
    return F.normalize(features.double(), dim=1) if normalize else features.double()


def _cosines(image_features: Tensor, text_features: Tensor, normalize: bool) -> Tensor:
    return _features(image_features, normalize) @ _features(text_features, normalize).T


def _through_normalize(gradient: Tensor, features: Tensor, normalize: bool) -> Tensor:
    """The gradient for x, given the one for x / max(|x|, 1e-12): what points along x is lost, the rest shrinks by |x|.

    Below 1e-12 the divisor is a constant, so nothing is lost there.
    """
    if not normalize:
        return gradient
    norms = features.double().norm(dim=1, keepdim=True)  # (N, 1)
    direction = torch.where(norms > 1e-12, features.double() / norms.clamp_min(1e-12), 0.0)
    gradient = gradient - direction * (gradient * direction).sum(dim=1, keepdim=True)
    return gradient / norms.clamp_min(1e-12)
