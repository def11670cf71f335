"""The contrastive losses, written to be read, and their floors. `minclip_kernels` has fast versions.

Everywhere: image_features (N, D) and text_features (N, D) of any norm, where row i of one belongs to row i of the
other; logit_scale already exponentiated; the loss is returned as a scalar.
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
    """The loss as a beginner writes it: the target is the identity matrix, each picture with its own text.

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
    """The same loss from labels: the 1 of row i of the identity matrix is in column i, so the labels are 0, 1, … N−1.

    `ids` (N,) integers: pairs with the same id, such as two pictures with one caption, are not negatives of each other.
    With `positives` "drop" they are left out of each other's sums; with "all" each of them is a right answer, and all
    have the same share of the target (Khosla et al. 2020, equation 2).
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
    """Whether row and column have the same id: (N, N), true for the pairs themselves."""
    if ids.shape != logits.shape[:1]:
        raise ValueError(f"ids has shape {tuple(ids.shape)}, expected ({len(logits)},), one for each pair")
    return ids[:, None] == ids


def siglip_loss(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    logit_scale: torch.Tensor | float,
    logit_bias: torch.Tensor | float,
) -> torch.Tensor:
    """One yes-or-no question for each of the N² pairs: −(1/N) Σ_ij log σ(±(z_ij + bias)), + on the diagonal.

    Source: Zhai et al. 2023 (SigLIP, arXiv:2303.15343), algorithm 1.
    """
    logits = _logits(image_features, text_features, logit_scale) + logit_bias
    sign = 2 * torch.eye(len(logits), dtype=logits.dtype, device=logits.device) - 1
    return -F.logsigmoid(sign * logits).sum() / len(logits)


def cost_of_equals(count: torch.Tensor, loss: str = "clip") -> torch.Tensor:
    """The least loss of each of `count` pairs that cannot be told apart from one another; any shape, float64.

    "clip": choosing among k equal columns costs ln k. "siglip": the best answer to k equal questions, one of them a
    yes, is "yes with probability 1/k", which costs ln k + (k − 1) ln(k / (k − 1)).
    """
    count = count.double()
    cost = count.log()
    return cost + torch.xlogy(count - 1, count / (count - 1)) if loss == "siglip" else cost


def batch_floor(captions: torch.Tensor, pictures: torch.Tensor, loss: str = "clip") -> float:
    """The loss of a perfect model on one batch, given the ids (B) of its captions and of its pictures.

    What a model sees of a pair is its caption c and its picture p. Among the m_p rows of p and the m_c columns of c are
    m_p m_c equal logits, of which n_pc, the number of such pairs, are right. So each pair has k = m_p m_c / n_pc equal
    answers, of which one is right. For "clip" the mean of ln k is ln B minus the mutual information of captions and
    pictures. No logits get below it (van den Oord et al. 2018, arXiv:1807.03748, appendix A.1), and logits of −ln k
    reach it.
    """
    pairs = torch.stack([captions, pictures], dim=1).unique(dim=0, return_inverse=True)[1]
    return cost_of_equals(_count(captions) * _count(pictures) / _count(pairs).double(), loss).mean().item()


def best_top1(captions: torch.Tensor, pictures: torch.Tensor) -> float:
    """The highest possible share of pictures whose nearest caption in a batch is their own, given the ids (B) of both.

    Of m equal captions the right one is found in one of m cases, and a picture that occurs with several captions has
    only one nearest.
    """
    _, owner = pictures.unique(return_inverse=True)
    pair = torch.stack([captions, owner], dim=1).unique(dim=0, return_inverse=True)[1]
    found = _count(pair) / _count(captions).double()  # expected hits if the pair's caption is the answer to its picture
    best = torch.zeros(int(owner.max()) + 1, dtype=torch.float64).scatter_reduce(0, owner, found, "amax")
    return best.sum().item() / len(captions)


def floor_with_ids(ids: torch.Tensor, positives: str = "drop") -> float:
    """The least `clip_loss` of a batch with these ids (N).

    With "drop", duplicates cost nothing. With "all", each of k pairs with the same id must share its probability among
    k right answers, which costs ln k.
    """
    return 0.0 if positives == "drop" else _mean_cost(ids)


def _mean_cost(ids: torch.Tensor, loss: str = "clip") -> float:
    """The mean of `cost_of_equals` over a batch in which equal ids (N) cannot be told apart."""
    return cost_of_equals(_count(ids), loss).mean().item()


def _count(ids: torch.Tensor) -> torch.Tensor:
    """How often each id of a batch occurs in it: (B,) int64."""
    _, group, counts = ids.unique(return_inverse=True, return_counts=True)
    return counts[group]


def loss_floor(batch_size: int, n_captions: int = 1) -> float:
    """The least contrastive loss of a model that tells `n_captions` equally likely captions apart, and no more.

    If k pairs of a batch have the same caption, each of them has k equal columns to choose from and pays ln k. The mean
    of that is E ln(1 + Bin(batch_size − 1, 1 / n_captions)). One caption (the default) stands for a model that tells
    nothing apart: ln(batch_size), near which every training starts. "My loss is stuck at 4.85" means ln 128.
    """
    if batch_size < 1 or n_captions < 1:
        raise ValueError(f"batch_size and n_captions must be at least 1, they are {batch_size} and {n_captions}")
    if n_captions == 1:
        return math.log(batch_size)
    others = torch.arange(batch_size, dtype=torch.float64)  # how many of the other pairs have the same caption
    binomial = torch.distributions.Binomial(batch_size - 1, torch.tensor(1 / n_captions, dtype=torch.float64))
    return float((binomial.log_prob(others).exp() * torch.log1p(others)).sum())
