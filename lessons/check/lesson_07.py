"""The checks of lesson 07, Patches."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from check.cases import expect, features
from check.verdict import exercise


def numbered_pictures(draw: Callable[..., Any], square: bool = False) -> tuple[Tensor, int]:
    """Pictures (B, 3, H, W) whose values are all different, and a patch size."""
    size, rows = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    columns = rows if square else draw(st.integers(1, 3))
    shape = draw(st.integers(1, 2)), 3, rows * size, columns * size
    return torch.arange(float(math.prod(shape))).view(shape), size


@exercise(
    "six axes: B, 3, patch row, pixel row, patch column, pixel column. Which of them belong side by side at the end?",
)
def patchify(attempt, draw):
    images, size = numbered_pictures(draw)
    wanted = F.unfold(images, size, stride=size).transpose(1, 2)
    expect(attempt(images.clone(), size), wanted, images=images, size=size)


@exercise("the six axes of patchify, the other way round: which of them make a row of the picture together?")
def unpatchify(attempt, draw):
    images, size = numbered_pictures(draw, square=True)
    patches = F.unfold(images, size, stride=size).transpose(1, 2)
    expect(attempt(patches.clone(), size), images, patches=patches, size=size)


@exercise("the weights of one output, flattened, lie in the order of a patch's values: together they are one matrix.")
def embed_patches(attempt, draw):
    images, size = numbered_pictures(draw)
    width = draw(st.integers(1, 3))
    weight = draw(features(width, 3 * size**2)).view(width, 3, size, size)
    wanted = F.conv2d(images, weight, stride=size).flatten(2).transpose(1, 2)
    expect(attempt(images.clone(), weight.clone()), wanted, images=images, weight=weight)
