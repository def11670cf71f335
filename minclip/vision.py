"""The image tower: a Vision Transformer that turns pictures (B, 3, R, R) into features (B, E).

Source: Dosovitskiy et al. 2020 (ViT, arXiv:2010.11929), with CLIP's extra LayerNorm before the blocks.
"""

import torch
from torch import nn

from minclip.transformer import Transformer


class VisionTransformer(nn.Module):
    def __init__(
        self, resolution: int, patch_size: int, width: int, layers: int, heads: int, embed_dim: int, quick_gelu: bool
    ) -> None:
        super().__init__()
        if resolution % patch_size:
            raise ValueError(f"image_resolution {resolution} is not a multiple of vision_patch_size {patch_size}")
        self.resolution = resolution
        scale = width**-0.5
        n_patches = (resolution // patch_size) ** 2
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(n_patches + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, heads, causal=False, quick_gelu=quick_gelu)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, embed_dim))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        B = image.shape[0]
        if image.shape[1:] != (3, self.resolution, self.resolution):
            expected = f"(B, 3, {self.resolution}, {self.resolution})"
            raise ValueError(f"pictures have shape {tuple(image.shape)}, the model expects {expected}")
        x = self.conv1(image)  # (B, D, R/patch, R/patch)
        x = x.flatten(2).transpose(1, 2)  # (B, P, D)
        x = torch.cat([self.class_embedding.expand(B, 1, -1), x], dim=1)  # (B, 1 + P, D)
        x = self.transformer(self.ln_pre(x + self.positional_embedding), pooled=0)  # (B, D)
        return self.ln_post(x) @ self.proj  # (B, E)
