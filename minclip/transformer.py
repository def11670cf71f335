"""The Transformer of both towers: pre-norm blocks of attention and MLP, with OpenAI's parameter names.

Left out: dropout (CLIP uses none) and key-value caches (CLIP generates nothing).
Sources: Vaswani et al. 2017 (arXiv:1706.03762); the pre-norm layout of GPT-2; Radford et al. 2021 (arXiv:2103.00020).
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


class QuickGELU(nn.Module):
    """x · σ(1.702 x), the approximation of GELU that OpenAI's weights were trained with."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Multi-head self-attention, with query, key and value in one matrix as in `nn.MultiheadAttention`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of the number of heads, {heads}")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, causal: bool) -> torch.Tensor:
        B, T, D = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)  # (B, T, 3D)
        q, k, v = qkv.view(B, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)  # each (B, H, T, D/H)
        x = F.scaled_dot_product_attention(q, k, v, is_causal=causal)  # (B, H, T, D/H)
        x = x.transpose(1, 2).reshape(B, T, D)
        return self.out_proj(x)


class MLP(nn.Module):
    def __init__(self, width: int, quick_gelu: bool) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.gelu = QuickGELU() if quick_gelu else nn.GELU()
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c_proj(self.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool, quick_gelu: bool) -> None:
        super().__init__()
        self.causal = causal
        self.attn = Attention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = MLP(width, quick_gelu)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor, pooled: torch.Tensor | int | None = None) -> torch.Tensor:
        """Tokens (B, T, D) to tokens (B, T, D), or only the one at the place `pooled` of each row, (B, D)."""
        x = x + self.attn(self.ln_1(x), self.causal)
        if pooled is not None:
            x = x[torch.arange(x.shape[0], device=x.device), pooled]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of blocks on (B, T, width). If it is `causal`, token t sees the tokens up to t and none after it.

    With `pooled`, a place or (B,) places, only the token there is returned, (B, width): the last MLP skips all others.
    With `grad_checkpointing` only the blocks' inputs are kept for the gradient (Chen et al. 2016, arXiv:1604.06174).
    """

    grad_checkpointing = False

    def __init__(self, width: int, layers: int, heads: int, *, causal: bool, quick_gelu: bool) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*[Block(width, heads, causal, quick_gelu) for _ in range(layers)])
        self._initialize(width, layers)

    def _initialize(self, width: int, layers: int) -> None:
        """Follow OpenAI's scheme: what a block adds to the residual stream is scaled by 1/√(2 · layers), as GPT-2's."""
        attention_std, mlp_std = width**-0.5, (2 * width) ** -0.5
        residual_std = attention_std * (2 * layers) ** -0.5
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif name.endswith("in_proj_weight"):
                nn.init.normal_(parameter, std=attention_std)
            elif name.endswith("c_fc.weight"):
                nn.init.normal_(parameter, std=mlp_std)
            elif name.endswith(("out_proj.weight", "c_proj.weight")):
                nn.init.normal_(parameter, std=residual_std)

    def forward(self, x: torch.Tensor, pooled: torch.Tensor | int | None = None) -> torch.Tensor:
        for block in self.resblocks:
            only = pooled if block is self.resblocks[-1] else None
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, only, use_reentrant=False)
            else:
                x = block(x, only)
        return x
