from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def causal_weights(scores: Tensor) -> Tensor:
    T = scores.shape[-1]
    future = torch.ones(T, T, dtype=torch.bool).triu(diagonal=1)
    return scores.masked_fill(future, -torch.inf).softmax(dim=-1)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        B, T, D = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)  # each (B, T, D)
        q, k, v = (part.view(B, T, self.heads, -1).transpose(1, 2) for part in qkv)  # each (B, H, T, d)
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5  # (B, H, T, T)
        weights = causal_weights(scores) if causal else scores.softmax(dim=-1)
        x = (weights @ v).transpose(1, 2).reshape(B, T, D)
        return self.out_proj(x)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        layers = {"c_fc": nn.Linear(width, 4 * width), "gelu": nn.GELU(), "c_proj": nn.Linear(4 * width, width)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x), self.causal)
        return x + self.mlp(self.ln_2(x))


def pool_at_end(x: Tensor, tokens: Tensor, end_id: int) -> Tensor:
    end = (tokens == end_id).int().argmax(dim=1)  # (B,), the first of several
    return x[torch.arange(len(x)), end]  # (B, D)


class TextTower(nn.Module):
    def __init__(
        self, context_length: int, vocab_size: int, width: int, layers: int, heads: int, embed_dim: int
    ) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.zeros(context_length, width))
        blocks = nn.Sequential(*[Block(width, heads, causal=True) for _ in range(layers)])
        self.transformer = nn.Sequential(OrderedDict(resblocks=blocks))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, embed_dim))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]  # (B, T, D)
        x = self.transformer(x)
        x = pool_at_end(x, tokens, end_id=self.token_embedding.num_embeddings - 1)  # (B, D)
        return self.ln_final(x) @ self.text_projection  # (B, E)
