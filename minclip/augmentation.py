"""Augmentation: how pictures are changed, so that a model learns neither single pixels nor one artist by heart."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from minclip.images import to_device


@dataclass(frozen=True)
class Augmentation:
    """How much pictures are changed: brightness in [0, 255], contrast and the mixing of colours as deviations from 1,
    and the shares of grey and of blurred or sharpened pictures."""

    brightness: float
    contrast: float
    mixing: float = 0.0
    grey: float = 0.0
    blur: float = 0.0


# With "gentle", a colour keeps its name. The others are for models that should know other artists' drawings. They were
# chosen by training on one of two artists and testing on the other: "strong" leads to the most right names on these,
# "moderate" to nearly as many, at a smaller cost in unseen compositions.
AUGMENTATIONS: dict[str, Augmentation | None] = {
    "none": None,  # for features that were computed once
    "crop": None,  # of photographs, whose objects may be anywhere; see `draw_crop`
    "gentle": Augmentation(brightness=12, contrast=0.1),
    "moderate": Augmentation(brightness=20, contrast=0.2, mixing=0.12, blur=0.33),
    "strong": Augmentation(brightness=20, contrast=0.2, mixing=0.25, grey=0.2, blur=0.66),
}


def draw_crop(n: int, generator: torch.Generator) -> torch.Tensor:
    """Draw how to change n photographs, (n, 19) as `draw_augmentation`: a random crop, resized, and nothing else.

    The crop has 0.9 to 1 of the area, as in OpenCLIP's training, and any ratio of its sides with which it fits.
    """

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.empty(n).uniform_(low, high, generator=generator)

    area = uniform(0.9, 1)
    width = area ** uniform(0, 1)
    height = area / width
    shift_x, shift_y = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
    zero = torch.zeros(n)
    move = torch.stack([width, zero, shift_x, zero, height, shift_y], dim=1)
    same_colour = torch.eye(3, 4).flatten().expand(n, 12)
    return torch.cat([move, same_colour, zero[:, None]], dim=1)


def draw_augmentation(n: int, generator: torch.Generator, strength: str = "gentle") -> torch.Tensor:
    """Draw how to change n pictures: (n, 19), a movement (2×3), a change of colours (3×4), and blur or sharpness.

    No mirror images: "facing right" is a caption. Small movements: drawings are trimmed, and learning where else they
    might be costs accuracy on unseen ones.
    """
    amount = AUGMENTATIONS[strength]
    if amount is None:
        assert strength == "crop"  # "none" needs no draw
        return draw_crop(n, generator)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.empty(n, *shape).uniform_(low, high, generator=generator)

    angle, zoom = uniform(-0.1, 0.1), uniform(0.92, 1.08)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    shift_x, shift_y = uniform(-0.06, 0.06), uniform(-0.06, 0.06)
    move = torch.stack([cos, -sin, shift_x, sin, cos, shift_y], dim=1)

    mixing = amount.mixing * torch.randn(n, 3, 3, generator=generator)
    mixing = torch.eye(3) + mixing - mixing.mean(dim=2, keepdim=True)  # Rows sum to 1, so grey stays grey.
    is_grey = uniform(0, 1, 1, 1) < amount.grey
    mixing = torch.where(is_grey, torch.full((3, 3), 1 / 3), mixing)
    contrast = uniform(1 - amount.contrast, 1 + amount.contrast, 1, 1)
    brightness = uniform(-amount.brightness, amount.brightness, 1, 1)
    colour = torch.cat([contrast * mixing, brightness.expand(n, 3, 1)], dim=2)

    which = uniform(0, 1)
    blur = (which < amount.blur / 2).float() - (which > 1 - amount.blur / 2).float()  # 1, 0 or -1
    return torch.cat([move, colour.flatten(1), blur[:, None]], dim=1)


def augment(images: torch.Tensor, changes: torch.Tensor) -> torch.Tensor:
    """Move, recolour, and blur or sharpen pictures (B, 3, R, R) uint8 by `draw_augmentation`'s (B, 19).

    Works on the pictures' device. Returns float32 in [0, 255], not normalised.
    """
    move, colour, blur = to_device(changes, images.device).split([6, 12, 1], dim=1)
    grid = F.affine_grid(move.view(-1, 2, 3), list(images.shape), align_corners=False)  # (B, R, R, 2)
    # Clamping to the centre of the outermost pixel makes what lies beyond the edge repeat it.
    edge = 1 - 1 / images.shape[-1]
    moved = F.grid_sample(images.float(), grid.clamp(-edge, edge), align_corners=False)  # (B, 3, R, R)
    matrix, offset = colour.view(-1, 3, 4).split([3, 1], dim=2)
    coloured = (matrix @ moved.flatten(2) + offset).view_as(moved)
    difference = _blur(coloured) - coloured
    return (coloured + blur[:, :, None, None] * difference).clamp(0, 255)


def _blur(images: torch.Tensor) -> torch.Tensor:
    """Average each pixel of (B, 3, R, R) with its neighbours, with weights 1, 2, 1 in each direction."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]) / 4
    return (across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]) / 4
