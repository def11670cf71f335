"""Pictures: any file to upright RGB, RGB to uint8 pixels, and pixels to what the model reads.

`Preprocess` belongs to a model. Training, evaluation and the command line all prepare their pictures with it.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, repeat
from pathlib import Path
from typing import IO, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

# Mean and standard deviation of OpenAI's preprocessing, for red, green and blue in [0, 1].
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
MAX_ASPECT = 100  # the ends of longer pictures are cut off first, so that a line of pixels does not become gigabytes
TOLERANCE = 16  # of 255; a plain ground may vary by this much, as it does in a JPEG
READ_AHEAD = 256  # pictures that the reading threads may decode before they are asked for
REFUSED = ("EPS",)  # Pillow hands these to another program, Ghostscript, whatever the file is called

T = TypeVar("T")


# --- where a picture comes from ---------------------------------------------------------------------------------------


class Origin(Protocol):
    """Where a picture comes from. `str(origin)` is its name in a terminal; equal origins are the same picture."""

    @property
    def credit(self) -> str | None:
        """The line that must stand under a figure that shows the picture, or None."""
        ...

    def open(self, size: int) -> Image.Image:
        """The picture as RGB, at most `size` pixels wide and high, for display."""
        ...


class Source(Origin, Protocol):
    """A picture of the user's, which is decoded whenever it is needed."""

    def load(self) -> Image.Image:
        """The whole picture as upright RGB. Raises OSError or ValueError that names it."""
        ...

    def identity(self) -> tuple[str | int, ...]:
        """Name, size and time of change: equal for a picture that has not changed. Raises OSError if it is missing."""
        ...


@dataclass(frozen=True)
class PictureFile:
    """A picture in a file of the user's."""

    path: Path
    credit: str | None = None

    def __str__(self) -> str:
        return str(self.path)

    def open(self, size: int) -> Image.Image:
        image = self.load()
        image.thumbnail((size, size))
        return image

    def load(self) -> Image.Image:
        return load_image(self.path)

    def identity(self) -> tuple[str | int, ...]:
        status = self.path.stat()
        return str(self.path.absolute()), status.st_size, status.st_mtime_ns


# --- from a file to pixels --------------------------------------------------------------------------------------------


def load_image(path: str | Path) -> Image.Image:
    """Read any picture as upright RGB: EXIF rotation applied, transparency on white, the first frame of an animation.

    Raises FileNotFoundError, or ValueError with the reason if the file cannot be read to its end.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such picture")
    try:
        file = path.open("rb")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as a picture: {error}") from error
    with file:
        return decode(file, path)


def decode(file: IO[bytes], name: object) -> Image.Image:
    """Decode an open file as `load_image` does. Raises ValueError that begins with `name`.

    The format is recognised by the content. No other program is started for it, and Pillow refuses a picture of more
    than 179 million pixels before it allocates memory for them.
    """
    try:
        if not file.read(1):
            raise ValueError("the file is empty (0 bytes)")
        file.seek(0)
        with Image.open(file, formats=_formats()) as image:
            return to_rgb(image)
    except UnidentifiedImageError as error:
        raise ValueError(f"{name}: cannot be read as a picture: cannot identify its format") from error
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, struct.error and others on damaged files.
        raise ValueError(f"{name}: cannot be read as a picture: {error}") from error


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """The formats that Pillow decodes by itself."""
    Image.init()
    return tuple(name for name in Image.ID if name not in REFUSED)


@lru_cache(maxsize=1)
def picture_endings() -> frozenset[str]:
    """The file extensions of these formats, such as ".png"."""
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in _formats())


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


def read_picture(source: Source, preprocess: "Preprocess") -> torch.Tensor | Exception:
    """The pixels (3, R, R) uint8 of a picture, or the error that names what is wrong with it."""
    try:
        return preprocess.pixels(source.load())
    except (OSError, ValueError) as error:
        return error


def read_pictures(sources: Iterable[Source], preprocess: "Preprocess") -> Iterator[torch.Tensor | Exception]:
    """Yield what `read_picture` returns for each picture, in order.

    Several threads decode, since Pillow does so outside Python's global lock. A few hundred pictures are in memory at a
    time, however many there are.
    """
    with ThreadPoolExecutor() as pool:
        for some in in_groups(sources, READ_AHEAD):
            yield from pool.map(read_picture, some, repeat(preprocess))


def in_groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items each; the last one may be shorter."""
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group


def picture_files(folder: str | Path) -> Sequence[Path]:
    """All files under `folder` that have the extension of a picture, sorted. Raises NotADirectoryError."""
    if not Path(folder).is_dir():
        raise NotADirectoryError(f"{folder}: no such folder")
    return sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in picture_endings() and p.is_file())


# --- from pixels to what the model reads ------------------------------------------------------------------------------


def to_device(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Copy a tensor from the CPU to a device, without waiting for a GPU's pending work."""
    if torch.device(device).type == "cuda":
        tensor = tensor.pin_memory()  # A copy to the GPU is asynchronous only from pinned memory.
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
