"""What the fused losses must equal: every formula written out, in float64, with the whole N×N matrix in memory.

Slow and large on purpose. The losses take the arguments of the fused ones (`backend` and `chunk_size` change nothing
here) and autograd differentiates them; beside each stands a function with the gradients as formulas.
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
    _, _, cosines = _cosines(image_features, text_features, normalize)  # (N, N)
    logits = _double(logit_scale) * cosines
    onehot = torch.eye(len(logits), dtype=torch.float64, device=logits.device)
    image_loss = -(onehot * logits.log_softmax(dim=1)).sum(dim=1).mean()
    text_loss = -(onehot * logits.log_softmax(dim=0)).sum(dim=0).mean()
    return (image_loss + text_loss) / 2


def clip_coefficients(cosines: Tensor, logit_scale: Tensor | float) -> Tensor:
    """G = P^row + P^col - 2I, (N, N): the derivative of 2N × loss with respect to the logits."""
    logits = _double(logit_scale) * cosines
    return logits.softmax(dim=1) + logits.softmax(dim=0) - 2 * torch.eye(len(logits), device=logits.device)


def clip_loss_gradients(
    image_features: Tensor, text_features: Tensor, logit_scale: Tensor | float, normalize: bool = True
) -> Gradients:  # fmt: skip
    """The derivatives of `clip_loss`, as formulas, in float64."""
    _, _, cosines = _cosines(image_features, text_features, normalize)
    coefficients = clip_coefficients(cosines, logit_scale) / (2 * len(cosines))
    return _gradients(coefficients, image_features, text_features, logit_scale, normalize)


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
    _, _, cosines = _cosines(image_features, text_features, normalize)
    logits = _double(logit_scale) * cosines + _double(logit_bias)
    labels = 2 * torch.eye(len(logits), dtype=torch.float64, device=logits.device) - 1  # +1 on the diagonal, else -1
    return -F.logsigmoid(labels * logits).sum() / len(logits)


def siglip_coefficients(cosines: Tensor, logit_scale: Tensor | float, logit_bias: Tensor | float) -> Tensor:
    """G, (N, N): the derivative of N × loss with respect to the logits; σ(z) for the others, -σ(-z) for the pair."""
    logits = _double(logit_scale) * cosines + _double(logit_bias)
    labels = 2 * torch.eye(len(logits), dtype=torch.float64, device=logits.device) - 1
    return -labels * torch.sigmoid(-labels * logits)


def siglip_loss_gradients(
    image_features: Tensor, text_features: Tensor, logit_scale: Tensor | float, logit_bias: Tensor | float,
    normalize: bool = True,
) -> Gradients:  # fmt: skip
    """The derivatives of `siglip_loss`, as formulas, in float64."""
    _, _, cosines = _cosines(image_features, text_features, normalize)
    coefficients = siglip_coefficients(cosines, logit_scale, logit_bias) / len(cosines)
    return _gradients(coefficients, image_features, text_features, logit_scale, normalize)


def _double(value: Tensor | float) -> Tensor:
    return value.double() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


def _cosines(image_features: Tensor, text_features: Tensor, normalize: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The features as the product takes them, (N, D) each, and their product (N, N)."""
    image, text = image_features.double(), text_features.double()
    if normalize:
        image, text = F.normalize(image, dim=1), F.normalize(text, dim=1)
    return image, text, image @ text.T


def _gradients(
    coefficients: Tensor, image_features: Tensor, text_features: Tensor, logit_scale: Tensor | float, normalize: bool
) -> Gradients:
    """The chain rule from the logits (N, N) back to the features, the scale and the bias."""
    image, text, cosines = _cosines(image_features, text_features, normalize)
    scale = _double(logit_scale)
    image_gradient = scale * coefficients @ text  # (N, D)
    text_gradient = scale * coefficients.T @ image  # (N, D)
    if normalize:
        image_gradient = _through_normalize(image_gradient, image_features.double())
        text_gradient = _through_normalize(text_gradient, text_features.double())
    return Gradients(image_gradient, text_gradient, (coefficients * cosines).sum(), coefficients.sum())


def _through_normalize(gradient: Tensor, features: Tensor) -> Tensor:
    """The gradient for x, given the one for x / max(|x|, 1e-12): what points along x is lost, the rest shrinks by |x|.

    Below 1e-12 the divisor is a constant, so nothing is lost there.
    """
    norms = features.norm(dim=1, keepdim=True)  # (N, 1)
    direction = torch.where(norms > 1e-12, features / norms.clamp_min(1e-12), 0.0)
    gradient = gradient - direction * (gradient * direction).sum(dim=1, keepdim=True)
    return gradient / norms.clamp_min(1e-12)
