"""The contrastive losses, written to be read, and the floors under them. `minclip_kernels` has the fast ones.

Everywhere: image_features (N, D), text_features (N, D), row i of the one belonging to row i of the other, of any norm;
logit_scale already exponentiated; the loss comes back as a scalar.
"""

import math

import torch
import torch.nn.functional as F


def _logits(
    image_features: torch.Tensor, text_features: torch.Tensor, logit_scale: torch.Tensor | float
) -> torch.Tensor:
    if image_features.ndim != 2 or image_features.shape != text_features.shape or not len(image_features):
        shapes = f"{tuple(image_features.shape)} and {tuple(text_features.shape)}"
        raise ValueError(f"image and text features must both be (N, D) with N at least 1, they are {shapes}")
    image_features = F.normalize(image_features, dim=-1)
    text_features = F.normalize(text_features, dim=-1)
    return logit_scale * image_features @ text_features.T  # (N, N)


def clip_loss_onehot(
    image_features: torch.Tensor, text_features: torch.Tensor, logit_scale: torch.Tensor | float
) -> torch.Tensor:
    """The loss as a beginner writes it: the target is the identity matrix, every picture with its own text.

    −½ mean_i Σ_j 1[i=j] (log softmax over row i + log softmax over column i); Radford et al. 2021, figure 3.
    """
    logits = _logits(image_features, text_features, logit_scale)
    target = torch.eye(len(logits), dtype=logits.dtype, device=logits.device)
    loss_per_image = -(target * logits.log_softmax(dim=1)).sum(dim=1)  # (N,)
    loss_per_text = -(target * logits.log_softmax(dim=0)).sum(dim=0)  # (N,)
    return (loss_per_image + loss_per_text).mean() / 2


def clip_loss(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    logit_scale: torch.Tensor | float,
    ids: torch.Tensor | None = None,
    positives: str = "drop",
) -> torch.Tensor:
    """The same number with the column of every one in the identity matrix for a label: 0, 1, … N−1.

    ids: (N,) integers. Pairs with the same id, two pictures with one caption, say, are not negatives of each other:
    with positives="drop" they are left out of each other's sums; with "all" every one of them is a right answer, and
    the target is the same for each of them (Khosla et al. 2020, equation 2).
    """
    logits = _logits(image_features, text_features, logit_scale)
    target = torch.arange(len(logits), device=logits.device)
    if ids is not None:
        equal = _equal(ids, logits)
        if positives == "drop":
            pairs = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
            logits = logits.masked_fill(equal & ~pairs, -torch.inf)
        elif positives == "all":
            target = equal.to(logits.dtype) / equal.sum(dim=1)  # (N, N), symmetric; rows and columns sum to 1
        else:
            raise ValueError(f"positives is {positives!r}, expected 'drop' or 'all'")
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _equal(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Where a row and a column have the same id: (N, N), true for the pairs themselves."""
    if ids.shape != logits.shape[:1]:
        raise ValueError(f"ids has shape {tuple(ids.shape)}, expected ({len(logits)},), one for each pair")
    return ids[:, None] == ids


def siglip_loss(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    logit_scale: torch.Tensor | float,
    logit_bias: torch.Tensor | float,
) -> torch.Tensor:
    """Every one of the N² pairs is a yes-or-no question: −(1/N) Σ_ij log σ(±(z_ij + bias)), + on the diagonal.

    Source: Zhai et al. 2023 (SigLIP, arXiv:2303.15343), algorithm 1.
    """
    logits = _logits(image_features, text_features, logit_scale) + logit_bias
    sign = 2 * torch.eye(len(logits), dtype=logits.dtype, device=logits.device) - 1
    return -F.logsigmoid(sign * logits).sum() / len(logits)


def cost_of_equals(count: torch.Tensor, loss: str = "clip") -> torch.Tensor:
    """What each of `count` pairs pays at least when they cannot be told apart from one another; any shape, float64.

    "clip": k equal columns to choose from cost ln k. "siglip": the best answer to k equal questions, one of them a yes,
    is "yes with probability 1/k": ln k + (k − 1) ln(k / (k − 1)).
    """
    count = count.double()
    cost = count.log()
    return cost + torch.xlogy(count - 1, count / (count - 1)) if loss == "siglip" else cost


def floor_with_ids(ids: torch.Tensor, positives: str = "drop") -> float:
    """The least `clip_loss` of a batch with these ids (N).

    With "drop", duplicates cost nothing. With "all", each of k pairs with the same id must share its probability among
    k right answers, which costs ln k.
    """
    if positives == "drop":
        return 0.0
    _, group, counts = ids.unique(return_inverse=True, return_counts=True)
    return cost_of_equals(counts)[group].mean().item()


def loss_floor(batch_size: int, n_captions: int = 1) -> float:
    """The least contrastive loss of a model that tells `n_captions` equally likely captions apart, and no more.

    With k pairs of the same caption in a batch, each of them has k equal columns to choose from and pays ln k. On
    average that is E ln(1 + Bin(batch_size − 1, 1 / n_captions)). One caption (the default) is the model that tells
    nothing apart: ln(batch_size), near which every training starts. "My loss is stuck at 4.85" means ln 128.
    """
    if batch_size < 1 or n_captions < 1:
        raise ValueError(f"batch_size and n_captions must be at least 1, they are {batch_size} and {n_captions}")
    if n_captions == 1:
        return math.log(batch_size)
    others = torch.arange(batch_size, dtype=torch.float64)  # how many of the other pairs have my caption
    binomial = torch.distributions.Binomial(batch_size - 1, torch.tensor(1 / n_captions, dtype=torch.float64))
    return float((binomial.log_prob(others).exp() * torch.log1p(others)).sum())
