import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_matrix(image_features: Tensor, text_features: Tensor) -> Tensor:
    return F.normalize(image_features, dim=1) @ F.normalize(text_features, dim=1).T


def n_pair_loss(logits: Tensor) -> Tensor:
    behind = logits - logits.diagonal()[:, None]  # (N, N)
    wrong = ~torch.eye(len(logits), dtype=torch.bool)
    return torch.log1p((behind.exp() * wrong).sum(dim=1)).mean()
