import torch.nn.functional as F
from torch import Tensor


def prompt_ensemble(prompts: Tensor) -> Tensor:
    prompts = F.normalize(prompts, dim=-1)  # (C, T, D): every prompt counts the same
    return F.normalize(prompts.mean(dim=1), dim=-1)  # (C, D)


def recall_at(similarity: Tensor, is_right: Tensor, k: int) -> float:
    best = similarity.topk(k, dim=1).indices  # (Q, k)
    hit = is_right.gather(1, best).any(dim=1)  # (Q,)
    return hit.double().mean().item()
