"""What the fused losses must equal: every formula written out, in float64, with the whole matrix.

Slow and large on purpose. The losses take the arguments of the fused ones and autograd
differentiates them; `backend`, `chunk_size` and `memory` change nothing here. `gradients` has their
derivatives as formulas. Everywhere, n images meet M texts, and image i matches text i + offset.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# The logit of an entry that is left out. Not −inf, because its target times −inf would be NaN.
LOWEST = torch.finfo(torch.float64).min


class Gradients(NamedTuple):
    image_features: Tensor  # (n, D)
    text_features: Tensor  # (M, D)
    logit_scale: Tensor  # ()
    logit_bias: Tensor  # (), zero for the softmax loss
    logits: Tensor  # (n, M)


class Targets(NamedTuple):
    """What the softmax loss wants the probabilities to be."""

    pairs: Tensor  # (n, M) bool, image i with text i + offset
    dropped: Tensor  # (n, M) bool, left out of both softmaxes
    rows: Tensor  # (n, M), the texts of each image; a row sums to 1
    columns: Tensor  # (n, M), the images of each text; a column sums to 1, or 0 without a loss


def clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    *,
    offset: int | None = None,
    normalize: bool = True,
    ids: Tensor | None = None,
    positives: str = "drop",
    backend: str = "auto",
    chunk_size: int | None = None,
    memory: int | None = None,
) -> Tensor:
    """Return the symmetric cross-entropy of CLIP, a float64 scalar.

    Radford et al. 2021, figure 3, with one-hot labels; with positives="all", equation 2 of Khosla
    et al. 2020 between the towers.
    """
    logits = _double(logit_scale) * _cosines(image_features, text_features, normalize)  # (n, M)
    targets = clip_targets(logits, offset, ids, positives)
    logits = logits.masked_fill(targets.dropped, LOWEST)
    image_loss = -(targets.rows * logits.log_softmax(dim=1)).sum(dim=1)  # (n,)
    text_loss = -(targets.columns * logits.log_softmax(dim=0)).sum(dim=0)  # (M,)
    return (image_loss.sum() + text_loss.sum()) / (2 * len(logits))


def siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    *,
    offset: int | None = None,
    normalize: bool = True,
    backend: str = "auto",
    chunk_size: int | None = None,
) -> Tensor:
    """Return the sigmoid loss (Zhai et al. 2023, equation 1), a float64 scalar.

    Each entry is a yes-or-no question, and the answer is yes for the pairs alone.
    """
    cosines = _cosines(image_features, text_features, normalize)  # (n, M)
    logits = _double(logit_scale) * cosines + _double(logit_bias)
    labels = 2 * _pairs(logits, offset).double() - 1  # +1 for a pair, −1 for all others
    return -F.logsigmoid(labels * logits).sum() / len(logits)


def gradients(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float | None = None,
    *,
    offset: int | None = None,
    normalize: bool = True,
    ids: Tensor | None = None,
    positives: str = "drop",
) -> Gradients:
    """Return the derivatives of `clip_loss`, or with a bias of `siglip_loss`, from formulas."""
    scale, cosines = _double(logit_scale), _cosines(image_features, text_features, normalize)
    if logit_bias is None:
        of_logits = _clip_coefficients(scale * cosines, offset, ids, positives)
    else:
        of_logits = _siglip_coefficients(scale * cosines + _double(logit_bias), offset)
    image, text = (_unit(tower, normalize) for tower in (image_features, text_features))
    return Gradients(
        _through_normalize(scale * of_logits @ text, image_features, normalize),
        _through_normalize(scale * of_logits.T @ image, text_features, normalize),
        (of_logits * cosines).sum(),
        of_logits.sum(),
        of_logits,
    )


def clip_targets(
    logits: Tensor, offset: int | None, ids: Tensor | None = None, positives: str = "drop"
) -> Targets:
    """Return the targets of the softmax loss for logits (n, M)."""
    pairs = _pairs(logits, offset)
    first, count = offset or 0, len(logits)
    equal = pairs if ids is None else ids[first : first + count, None] == ids  # (n, M)
    dropped = equal & ~pairs if positives == "drop" else torch.zeros_like(pairs)
    rows = (equal & ~dropped).double()
    columns = rows * pairs.any(dim=0)  # A text without an image has no loss.
    rows = rows / rows.sum(dim=1, keepdim=True)
    columns = columns / columns.sum(dim=0).clamp_min(1)
    return Targets(pairs, dropped, rows, columns)


def _clip_coefficients(
    logits: Tensor, offset: int | None, ids: Tensor | None, positives: str
) -> Tensor:
    """Return the derivative of the softmax loss by each logit, (n, M): probability − target."""
    targets = clip_targets(logits, offset, ids, positives)
    logits = logits.masked_fill(targets.dropped, LOWEST)
    has_loss = targets.pairs.any(dim=0)  # (M,)
    of_rows = logits.softmax(dim=1) - targets.rows
    of_columns = logits.softmax(dim=0) * has_loss - targets.columns
    return (of_rows + of_columns) / (2 * len(logits))


def _siglip_coefficients(logits: Tensor, offset: int | None) -> Tensor:
    """Return the derivative of the sigmoid loss by each logit, (n, M)."""
    pairs = _pairs(logits, offset)
    return torch.where(pairs, -torch.sigmoid(-logits), torch.sigmoid(logits)) / len(logits)


def _pairs(logits: Tensor, offset: int | None) -> Tensor:
    """Return where row i meets column i + offset, (n, M)."""
    rows, columns = logits.shape
    if offset is None and rows != columns:
        raise ValueError(f"offset is None, expected a number for {rows} images, {columns} texts")
    matching = torch.arange(rows, device=logits.device) + (offset or 0)
    return matching[:, None] == torch.arange(columns, device=logits.device)


def _double(value: Tensor | float) -> Tensor:
    return value.double() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


def _unit(features: Tensor, normalize: bool) -> Tensor:
    return F.normalize(features.double(), dim=1) if normalize else features.double()


def _cosines(image_features: Tensor, text_features: Tensor, normalize: bool) -> Tensor:
    return _unit(image_features, normalize) @ _unit(text_features, normalize).T


def _through_normalize(gradient: Tensor, features: Tensor, normalize: bool) -> Tensor:
    """Return the gradient for x, given the one for x / max(|x|, 1e-12).

    The component along x is removed, and the rest is divided by |x|. Below 1e-12 the divisor is a
    constant, so nothing is removed there.
    """
    if not normalize:
        return gradient
    norms = features.double().norm(dim=1, keepdim=True)  # (N, 1)
    direction = torch.where(norms > 1e-12, features.double() / norms.clamp_min(1e-12), 0.0)
    gradient = gradient - direction * (gradient * direction).sum(dim=1, keepdim=True)
    return gradient / norms.clamp_min(1e-12)
