"""Pictures: any file to upright RGB, RGB to uint8 pixels, pixels to what the model reads; and their augmentation.

`Preprocess` belongs to a model. Training, evaluation and the command line all prepare their pictures with it.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

# Mean and standard deviation of OpenAI's preprocessing, for red, green and blue in [0, 1].
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
MAX_ASPECT = 100  # the ends of longer pictures are cut off first, so that a line of pixels does not become gigabytes
TOLERANCE = 16  # of 255: a plain ground may differ from itself by so much, as it does in a JPEG
READ_AHEAD = 256  # pictures that the reading threads may decode before they are asked for

T = TypeVar("T")


# --- where a picture comes from ---------------------------------------------------------------------------------------


class Origin(Protocol):
    """Where a picture comes from. `str(origin)` is its name in a terminal; equal origins are the same picture."""

    @property
    def credit(self) -> str | None:
        """The line that must stand under a figure which shows the picture, or None."""
        ...

    def open(self, size: int) -> Image.Image:
        """The picture as RGB, at most `size` pixels wide and high, for showing to people."""
        ...


@dataclass(frozen=True)
class PictureFile:
    """A picture in a file of the user's."""

    path: Path
    credit: str | None = None

    def __str__(self) -> str:
        return str(self.path)

    def open(self, size: int) -> Image.Image:
        image = load_image(self.path)
        image.thumbnail((size, size))
        return image


# --- from a file to pixels --------------------------------------------------------------------------------------------


def load_image(path: str | Path) -> Image.Image:
    """Read any picture as upright RGB: EXIF rotation applied, transparency on white, the first frame of an animation.

    Raises FileNotFoundError, or ValueError with the reason if the file cannot be read to its end.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such picture")
    try:
        if not path.stat().st_size:
            raise ValueError("the file is empty (0 bytes)")
        with Image.open(path) as image:
            return to_rgb(image)
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, struct.error and others on damaged files.
        raise ValueError(f"{path}: cannot be read as a picture: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture of any mode to upright RGB on white."""
    image = _to_eight_bits(ImageOps.exif_transpose(image))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit values from 65535 and floats from 1 (or 255); Pillow's own conversion clips them at 255."""
    if not (image.mode.startswith("I") or image.mode == "F"):
        return image
    values = np.asarray(image, dtype=np.float64)
    brightest = values.max(initial=0)
    if image.mode.startswith("I;16") or (image.mode == "I" and brightest > 255):
        values = values / 257
    elif image.mode == "F" and brightest <= 1:
        values = values * 255
    return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))


def trim(image: Image.Image, margin: float = 0.04) -> Image.Image:
    """Cut an RGB drawing on a plain ground to a square around its ink; other pictures, such as photographs, stay.

    The ground is plain if more than half of the outermost pixels (a drawing may touch the edge) differ from their
    median by no more than `TOLERANCE` in any colour; ink is what differs by more. `margin` is the ground on each side,
    as a share of the ink's longer side.
    """
    pixels = np.asarray(image).astype(np.int16)  # (H, W, 3)
    frame = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])  # (2W + 2H, 3)
    ground = np.median(frame, axis=0)
    is_ink = np.abs(pixels - ground).max(axis=2) > TOLERANCE  # (H, W)
    if (np.abs(frame - ground).max(axis=1) > TOLERANCE).mean() >= 0.5 or not is_ink.any():
        return image
    (top, bottom), (left, right) = (np.flatnonzero(is_ink.any(axis=axis))[[0, -1]] for axis in (1, 0))
    ink = image.crop((left, top, right + 1, bottom + 1))
    side = round((1 + 2 * margin) * max(ink.size))
    square = Image.new("RGB", (side, side), tuple(ground.astype(int)))
    square.paste(ink, ((side - ink.width) // 2, (side - ink.height) // 2))
    return square


def to_tensor(image: Image.Image, resolution: int) -> torch.Tensor:
    """Resize the short side of an RGB picture and crop the centre, as OpenAI's preprocessing does: (3, R, R) uint8.

    Bicubic with antialiasing, and rounded as torchvision rounds. The whole picture is resized, because resizing only
    the part that remains differs by up to 23 of 255: Pillow then chooses another order for its two passes.
    """
    short = min(image.size)
    if max(image.size) > MAX_ASPECT * short:
        image = crop_center(image, *(min(side, MAX_ASPECT * short) for side in image.size))
    width, height = (int(resolution * side / min(image.size)) for side in image.size)
    square = crop_center(image.resize((width, height), Image.Resampling.BICUBIC), resolution, resolution)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def crop_center(image: Image.Image, width: int, height: int) -> Image.Image:
    left, upper = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, upper, left + width, upper + height))


def read_pictures(paths: Iterable[str | Path], preprocess: "Preprocess") -> Iterator[torch.Tensor | Exception]:
    """Yield the pixels (3, R, R) uint8 of each file, or the error that names what is wrong with it.

    Several threads decode, since Pillow does so outside Python's global lock. A few hundred pictures are in memory at a
    time, however many there are.
    """

    def read(path: str | Path) -> torch.Tensor | Exception:
        try:
            return preprocess.pixels(load_image(path))
        except (OSError, ValueError) as error:
            return error

    with ThreadPoolExecutor() as pool:
        for some in in_groups(paths, READ_AHEAD):
            yield from pool.map(read, some)


def in_groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items each; the last one may be shorter."""
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group


def picture_files(folder: str | Path) -> Sequence[Path]:
    """All files under `folder` that have an ending known to Pillow, sorted. Raises NotADirectoryError."""
    if not Path(folder).is_dir():
        raise NotADirectoryError(f"{folder}: no such folder")
    known = Image.registered_extensions()
    return sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in known and p.is_file())


# --- from pixels to what the model reads ------------------------------------------------------------------------------


def to_device(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Copy a tensor of the CPU to a device, without waiting for what a GPU has yet to do."""
    if torch.device(device).type == "cuda":
        tensor = tensor.pin_memory()  # Only from pinned memory does a copy to the GPU not wait for the GPU.
    return tensor.to(device, non_blocking=True)


def normalize(
    images: torch.Tensor, mean: Sequence[float] = IMAGE_MEAN, std: Sequence[float] = IMAGE_STD
) -> torch.Tensor:
    """Pictures (B, 3, R, R), uint8 or float in [0, 255], as float32 with the given mean and standard deviation."""
    center, spread = (to_device(torch.tensor(values), images.device)[:, None, None] for values in (mean, std))
    return (images.float() / 255 - center) / spread


@dataclass(frozen=True)
class Preprocess:
    """How the pictures of one model are prepared: size in pixels, and mean and standard deviation for each colour.

    With `trim`, drawings on a plain ground are cut to their ink. Called with a PIL picture of any mode, it returns what
    `encode_image` takes: (3, R, R) float32.
    """

    resolution: int
    mean: tuple[float, float, float] = IMAGE_MEAN
    std: tuple[float, float, float] = IMAGE_STD
    trim: bool = False

    def __call__(self, picture: Image.Image) -> torch.Tensor:
        return self.normalize(self.pixels(picture))

    def pixels(self, picture: Image.Image) -> torch.Tensor:
        """A PIL picture of any mode, cut and resized: (3, R, R) uint8."""
        picture = to_rgb(picture)
        return to_tensor(trim(picture) if self.trim else picture, self.resolution)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, R, R), uint8 or float in [0, 255], as float32 for the model.

        What a frozen image tower saw in them, (B, C), stays as it is.
        """
        return images if images.ndim == 2 else normalize(images, self.mean, self.std)


# --- augmentation -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Augmentation:
    """How much pictures are changed: brightness in [0, 255], contrast and the mixing of colours as deviations from 1,
    and the shares of grey and of blurred or sharpened pictures."""

    brightness: float
    contrast: float
    mixing: float = 0.0
    grey: float = 0.0
    blur: float = 0.0


# With "gentle", a colour stays what it is called. The others are for models that shall know other artists' drawings.
# They were chosen by training on one of two artists and testing on the other: "strong" names most of these, "moderate"
# nearly as many, at a smaller cost in unseen compositions.
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
