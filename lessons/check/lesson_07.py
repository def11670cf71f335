"""The checks of lesson 07, Patches."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from check.cases import expect, features
from check.modules import expect_same, with_random_weights
from check.verdict import exercise
from minclip.vision import VisionTransformer


def numbered_pictures(draw: Callable[..., Any]) -> tuple[Tensor, int]:
    """Pictures (B, 3, H, W) whose values are all different, and a patch size."""
    size, rows, columns = (draw(st.integers(1, 3)) for _ in range(3))
    shape = draw(st.integers(1, 2)), 3, rows * size, columns * size
    return torch.arange(float(math.prod(shape))).view(shape), size


@exercise(
    "six axes: B, 3, patch row, pixel row, patch column, pixel column. Which of them belong side by side at the end?",
    steps=(
        "which pixels of the first row of a picture belong to its first patch? Where do they lie in memory?",
        "images.reshape(B, 3, H // size, size, W // size, size) splits both axes of the picture in two",
        "permute(0, 2, 4, 1, 3, 5): the two that number the patches first, then channel, row and column in the patch",
    ),
)
def patchify(attempt, draw):
    images, size = numbered_pictures(draw)
    wanted = F.unfold(images, size, stride=size).transpose(1, 2)
    expect(attempt(images.clone(), size), wanted, images=images, size=size)


@exercise(
    "the weights of one output, flattened, are in the order of a patch's values; those of all outputs form one matrix.",
    steps=(
        "for one output of the convolution at one place, which numbers are multiplied by which, and summed?",
        "weight.flatten(1) is (D, 3·size·size), in the order of patchify's values",
        "patchify(images, size) @ weight.flatten(1).T",
    ),
)
def embed_patches(attempt, draw):
    images, size = numbered_pictures(draw)
    width = draw(st.integers(1, 3))
    weight = draw(features(width, 3 * size**2)).view(width, 3, size, size)
    wanted = F.conv2d(images, weight, stride=size).flatten(2).transpose(1, 2)
    expect(attempt(images.clone(), weight.clone()), wanted, images=images, weight=weight)


@exercise(
    "patches, class token in front, positions, ln_pre, blocks, the class token's vector, ln_post, projection.",
    cases=20,
    steps=(
        "at which position is the feature read, and what is there before the first block?",
        "torch.cat([self.class_embedding.expand(B, 1, -1), patches], dim=1), then + self.positional_embedding",
        "self.transformer(self.ln_pre(x)), where no block is causal; then self.ln_post(x[:, 0]) @ self.proj",
    ),
)
def ImageTower(attempt, draw):
    patch_size, side, heads, layers = draw(st.integers(1, 2)), draw(st.integers(1, 3)), 1, draw(st.integers(1, 2))
    width = 4 * heads
    sizes = side * patch_size, patch_size, width, layers, heads, draw(st.sampled_from([width, 3]))
    reference = with_random_weights(VisionTransformer(*sizes, quick_gelu=False))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    images = torch.randn(draw(st.integers(1, 2)), 3, sizes[0], sizes[0], generator=generator)
    case = {"resolution": sizes[0], "patch_size": patch_size, "width": width, "layers": layers, "images": images}
    expect_same(attempt(*sizes), reference, (images,), _mistakes_of_image_tower(reference, images), **case)


def _mistakes_of_image_tower(tower: Any, images: Tensor) -> dict[str, Callable[[], Tensor]]:
    grid = tower.conv1(images)  # (B, D, side, side)
    B, patches = len(images), grid.flatten(2).mT  # (B, P, D)
    token, positions = tower.class_embedding.expand(B, 1, -1), tower.positional_embedding
    x = torch.cat([token, patches], dim=1) + positions  # (B, 1 + P, D)
    x_from_behind = torch.cat([patches, token], dim=1) + positions
    no_position_for_token = torch.cat([token, patches + positions[1:]], dim=1)

    def finish(x: Tensor) -> Tensor:
        return tower.ln_post(x) @ tower.proj

    def read(x: Tensor) -> Tensor:
        return tower.transformer(tower.ln_pre(x))  # (B, 1 + P, D)

    def read_causally(x: Tensor) -> Tensor:
        x = tower.ln_pre(x)
        for block in tower.transformer.resblocks:
            x = x + block.attn(block.ln_1(x), True)
            x = x + block.mlp(block.ln_2(x))
        return x

    in_front = "the class token comes in front of the patches, at place 0"
    added = "positions are added: row 0 of positional_embedding to the class token, the others to the patches"
    at_token = "the feature is read at the class token: x[:, 0]"
    return {
        in_front: lambda: finish(read(x_from_behind)[:, -1]),
        in_front + ", and is read there": lambda: finish(read(x_from_behind)[:, 0]),
        added: lambda: finish(read(torch.cat([token, patches], dim=1))[:, 0]),
        added + ", at place 0 as well": lambda: finish(read(no_position_for_token)[:, 0]),
        "ln_pre comes in front of the first block": lambda: finish(tower.transformer(x)[:, 0]),
        "ln_pre comes after the sum of patches and positions": lambda: finish(
            tower.transformer(tower.ln_pre(x - positions) + positions)[:, 0]
        ),
        "causal=False in every block: otherwise the class token sees only itself": lambda: finish(
            read_causally(x)[:, 0]
        ),
        at_token: lambda: finish(read(x)[:, -1]),
        at_token + ", not at the mean": lambda: finish(read(x).mean(dim=1)),
        at_token + ", not at the mean of the patches": lambda: finish(read(x)[:, 1:].mean(dim=1)),
        "ln_post comes before the projection": lambda: read(x)[:, 0] @ tower.proj,
        "the last step is the projection: @ self.proj": lambda: tower.ln_post(read(x)[:, 0]),
        "not normalised: bringing the features to length 1 is the loss's business": lambda: F.normalize(
            finish(read(x)[:, 0]), dim=-1
        ),
        "patches in reading order, row by row: flatten(2).transpose(1, 2), or patchify": lambda: finish(
            read(torch.cat([token, grid.mT.flatten(2).mT], dim=1) + positions)[:, 0]
        ),
    }
