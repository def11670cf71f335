"""Score a model on pictures from further afield: python tests/afield.py [--run PATH] [--root FOLDER]

They come with Debian's packages ruby-gemojione (EmojiOne 2, CC BY-SA 4.0), openclipart-svg (Open Clip Art, public
domain, many artists) and tuxpaint-stamps-default (photographs and some drawings, under several free licences), under
`--root` if they were unpacked there. A set that is not installed is skipped.

afield.csv names the files of the last two whose title is the name of a basic emoji, without pictures that resvg cannot
read, that equal another one, or that show something else. It was made before any model was asked.
"""

import argparse
import csv
import io
from collections.abc import Callable
from pathlib import Path

import resvg_py
import torch
from PIL import Image

from minclip import data, evaluate, formats, naming
from minclip.commands.common import load_pairs
from minclip.formats import Saved
from minclip.images import load_image, to_rgb
from minclip.model import CLIP

TABLE = Path(__file__).with_suffix(".csv")
GEMS = "usr/share/rubygems-integration/all/gems"
Labelled = list[tuple[Path, str]]


def open_picture(path: Path) -> Image.Image:
    if path.suffix != ".svg":
        return load_image(path)
    png = resvg_py.svg_to_bytes(svg_path=str(path), width=192, background="#ffffff", skip_system_fonts=True)
    return to_rgb(Image.open(io.BytesIO(png)))


def emoji_one(root: Path) -> Labelled:
    """The basic emoji of EmojiOne, with their names."""
    captions = {
        codes.replace("-FE0F", ""): name for codes, name in data.emoji_captions().items() if data.is_basic(codes)
    }
    files = {path.stem.upper(): path for path in root.glob(f"{GEMS}/gemojione-*/assets/png/*.png")}
    return [(files[codes], captions[codes]) for codes in sorted(captions.keys() & files.keys())]


def listed(name: str) -> Callable[[Path], Labelled]:
    def rows(root: Path) -> Labelled:
        with TABLE.open(encoding="utf-8", newline="") as lines:
            files = [
                (root / row["file"].lstrip("/"), row["label"]) for row in csv.DictReader(lines) if row["set"] == name
            ]
        return [row for row in files if row[0].exists()]

    return rows


SETS = {"EmojiOne": emoji_one, "Open Clip Art": listed("openclipart"), "Tux Paint": listed("tuxpaint")}


def score(saved: Saved, model: CLIP, trained: data.Pairs, rows: Labelled) -> list[tuple[float, float]]:
    """Top-1 and top-5 in percent among the labels of the set: of the model, by chance, and by pixels."""
    files, captions = zip(*rows, strict=True)
    images = torch.stack([saved.preprocess.pixels(open_picture(path)) for path in files])
    names = sorted(set(captions))
    is_right = torch.tensor([[name == caption for name in names] for caption in captions])
    cosine, _ = evaluate.classify(model, saved.tokenizer, images, names)
    of_model, of_pixels = (
        evaluate.ranks(similarity, is_right) for similarity in (cosine, naming.pixel_similarity(images, trained, names))
    )
    shares = [[(rank < k).double().mean().item() for k in (1, 5)] for rank in (of_model, of_pixels)]
    shares.insert(1, [1 / len(names), 5 / len(names)])
    return [(100 * top1, 100 * top5) for top1, top5 in shares]


def main() -> None:
    parser = argparse.ArgumentParser(description="Score a model on pictures from further afield.")
    parser.add_argument("--run", default=formats.packaged("en"), help="a model (default: the one that ships)")
    parser.add_argument(
        "--root", type=Path, default=Path("/"), help="folder the packages are installed under (default: /)"
    )
    arguments = parser.parse_args()
    saved = formats.read(arguments.run)
    model = saved.build("cpu")
    trained, _ = load_pairs(saved.training, saved.preprocess)
    print(f"{'top-1 / top-5 in %':20} pictures  labels         model        chance        pixels")
    for name, find in SETS.items():
        rows = find(arguments.root)
        if not rows:
            print(f"{name:20} not installed")
            continue
        scores = score(saved, model, trained, rows)
        columns = "".join(f"   {top1:5.1f} /{top5:5.1f}" for top1, top5 in scores)
        print(f"{name:20} {len(rows):8} {len({label for _, label in rows}):7}{columns}")


if __name__ == "__main__":
    main()
