from collections import OrderedDict

import torch
from torch import Tensor, nn

from solutions.lesson_06 import Block


def patchify(images: Tensor, size: int) -> Tensor:
    B, C, H, W = images.shape
    x = images.reshape(B, C, H // size, size, W // size, size)  # (B, C, row of patches, row, column of patches, column)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(B, -1, C * size * size)  # (B, P, C·size·size)


def embed_patches(images: Tensor, weight: Tensor) -> Tensor:
    patches = patchify(images, weight.shape[-1])  # (B, P, 3·size·size)
    return patches @ weight.flatten(1).T  # (B, P, D)


class ImageTower(nn.Module):
    def __init__(self, resolution: int, patch_size: int, width: int, layers: int, heads: int, embed_dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(1 + (resolution // patch_size) ** 2, width))
        self.ln_pre = nn.LayerNorm(width)
        blocks = nn.Sequential(*[Block(width, heads, causal=False) for _ in range(layers)])
        self.transformer = nn.Sequential(OrderedDict(resblocks=blocks))
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.zeros(width, embed_dim))

    def forward(self, images: Tensor) -> Tensor:
        patches = embed_patches(images, self.conv1.weight)  # (B, P, D)
        token = self.class_embedding.expand(len(images), 1, -1)  # (B, 1, D)
        x = torch.cat([token, patches], dim=1) + self.positional_embedding  # (B, 1 + P, D)
        x = self.transformer(self.ln_pre(x))
        return self.ln_post(x[:, 0]) @ self.proj  # (B, E)
