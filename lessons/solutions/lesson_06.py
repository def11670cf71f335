import torch
from torch import Tensor


def causal_mask(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()


def causal_weights(scores: Tensor) -> Tensor:
    T = scores.shape[-1]
    future = torch.ones(T, T, dtype=torch.bool).triu(diagonal=1)
    return scores.masked_fill(future, -torch.inf).softmax(dim=-1)


def pool_at_end(x: Tensor, tokens: Tensor, end_id: int) -> Tensor:
    end = (tokens == end_id).int().argmax(dim=1)  # (B,), the first of several
    return x[torch.arange(len(x)), end]  # (B, D)
