"""What several commands share: their common options, and the model and the pictures that these name."""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from minclip import data, formats, images
from minclip.formats import Saved
from minclip.prompts import IMAGENET, PLAIN, read_lines

NO_RUN = ", as there is no run under runs/ (`minclip train` makes one)"


def add_device(parser: argparse.ArgumentParser) -> None:
    devices = ["auto", "cpu", "cuda", "mps"]
    parser.add_argument("--device", choices=devices, default="auto", help="device to compute on (default: auto)")


def add_run(parser: argparse.ArgumentParser) -> None:
    default = "the newest run under runs/, or the model that ships with minclip if there is none"
    help_text = f"a run, an export, or weights of OpenAI, OpenCLIP or Hugging Face (default: {default})"
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--run", metavar="PATH", help=help_text)
    shipped = "the model that ships with minclip for this language of texts, whatever is under runs/"
    which.add_argument("--language", choices=formats.PACKAGED, help=shipped)
    add_foreign(parser)


def add_foreign(parser: argparse.ArgumentParser) -> None:
    """What a file of OpenAI's or OpenCLIP's does not say."""
    where = "beside the weights, or in the package open_clip"
    parser.add_argument("--bpe", metavar="FILE", help=f"OpenAI's vocabulary, if it is not found {where}")
    about = "whether OpenCLIP's weights use QuickGELU, if no open_clip_config.json beside them says so"
    parser.add_argument("--quick-gelu", choices=["yes", "no"], help=about)


def add_artists(parser: argparse.ArgumentParser, default: str) -> None:
    names = f"artists who draw the emoji: {', '.join(data.ARTISTS)} (default: {default})"
    parser.add_argument("--artists", nargs="+", choices=sorted(data.ARTISTS), metavar="ARTIST", help=names)
    parser.add_argument("--emoji-font", metavar="FILE", help="an emoji font with bitmaps as a further artist")


def chosen_artists(arguments: argparse.Namespace) -> list[data.Artist]:
    """The artists that --artists and --emoji-font name, in this order."""
    artists: list[data.Artist] = [data.ARTISTS[name] for name in arguments.artists or ()]
    if arguments.emoji_font:
        artists.append(data.FontArtist(Path(arguments.emoji_font).absolute()))
    return artists


def add_templates(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--templates",
        nargs="+",
        default=PLAIN,
        metavar="TEXT",
        help='prompts around every text, averaged: --templates "{}" "a picture of a {}", or a .txt file with one to a '
        "line, or imagenet for OpenAI's 80 (default: the text alone)",
    )


def chosen_templates(arguments: argparse.Namespace) -> Sequence[str]:
    """The templates that --templates gives, names or has in a file."""
    return read_lines(IMAGENET) if list(arguments.templates) == ["imagenet"] else typed_or_read(arguments.templates)


def typed_or_read(texts: Sequence[str]) -> Sequence[str]:
    """Texts as they were typed, or the lines of a .txt file if that is the only one."""
    return read_lines(texts[0]) if len(texts) == 1 and texts[0].endswith(".txt") else texts


def add_reject(parser: argparse.ArgumentParser) -> None:
    value = "lowest cosine that counts as a match (default: the one that was stored by `minclip export --match`)"
    help_text = f"no answer where no cosine is high enough; COSINE is the {value}"
    parser.add_argument("--reject", nargs="?", type=float, const=True, default=False, metavar="COSINE", help=help_text)


def lowest_match(arguments: argparse.Namespace, saved: Saved) -> float:
    """The cosine below which nothing matches: -inf without --reject. Raises ValueError if it is not known."""
    if arguments.reject is False:
        return -math.inf
    if arguments.reject is not True:
        return arguments.reject
    if saved.match is None:
        raise ValueError("no lowest cosine of a match is stored with this model: name one, such as --reject 0.3")
    return saved.match


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="JSON on standard output, for scripts")


def print_json(content: Any) -> None:
    print(json.dumps(content, indent=2, ensure_ascii=(sys.stdout.encoding or "utf-8").lower() != "utf-8"))


def announce(figure: Path, arguments: argparse.Namespace) -> None:
    """Print where a figure is; on standard error if standard output is JSON."""
    print(figure, file=sys.stderr if arguments.json else sys.stdout)


@contextmanager
def named_as_options(config: type) -> Iterator[None]:
    """Turn the name that an error of a configuration begins with into an option: `batch_size` to `--batch-size`."""
    try:
        yield
    except ValueError as error:
        name, _, rest = str(error).partition(" ")
        if name not in {field.name for field in fields(config)}:
            raise
        raise ValueError(f"--{name.replace('_', '-')} {rest}") from error


def choose_device(name: str) -> str:
    """The device that --device names. Raises ValueError if torch does not find it."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, there in available.items() if there)
    if not available[name]:
        raise ValueError(f"--device is {name}; torch {torch.__version__} finds no such device here")
    return name


def chosen_run(arguments: argparse.Namespace) -> Path:
    """The model that --run or --language names, or the newest run, or the model that ships with minclip.

    Prints on standard error which one it is.
    """
    newest = None if arguments.language else formats.newest_run()
    path = Path(arguments.run) if arguments.run else newest or formats.packaged(arguments.language or "en")
    shipped = f"the one that ships with minclip{'' if arguments.language else NO_RUN}"
    print(f"model: {shipped if is_packaged(path) else path}", file=sys.stderr)
    return path


def is_packaged(run: Path) -> bool:
    return run in formats.PACKAGED.values()


def read_run(arguments: argparse.Namespace) -> tuple[Path, Saved]:
    """Where the chosen model is, and the model."""
    path = chosen_run(arguments)
    return path, read_any(path, arguments)


def read_any(path: str | Path, arguments: argparse.Namespace) -> Saved:
    """Read a model, with the help of the options of `add_foreign`."""
    quick_gelu = {"yes": True, "no": False, None: None}[arguments.quick_gelu]
    return formats.read(path, arguments.bpe, quick_gelu)


def figure_path(run: Path, name: str) -> Path:
    """Where a figure goes: into the run folder, or beside the exported file; here if it is that of the package."""
    if is_packaged(run):
        return Path(f"minclip-{name}")
    return run.with_name(f"{run.stem}-{name}") if run.is_file() else run / name


def add_columns(parser: argparse.ArgumentParser) -> None:
    known = "or open_clip's"
    image = f"column of a table with the paths of the pictures (default: image, {known} filepath)"
    parser.add_argument("--image-column", metavar="NAME", help=image)
    caption = f"column of a table with the captions (default: caption, {known} title)"
    parser.add_argument("--caption-column", metavar="NAME", help=caption)


def columns(arguments: argparse.Namespace) -> tuple[str | None, str | None]:
    return arguments.image_column, arguments.caption_column


def add_reading(parser: argparse.ArgumentParser) -> None:
    memory = "gigabytes of memory for pictures; larger sets are streamed from disk (default: half of what is free)"
    parser.add_argument("--memory", type=float, metavar="GB", help=memory)
    workers = f"processes that decode streamed pictures (default: {data.Reading().workers})"
    parser.add_argument("--workers", type=int, metavar="N", help=workers)


def chosen_reading(arguments: argparse.Namespace) -> data.Reading:
    """How --memory and --workers want pictures to be read. Raises ValueError, in terms of the options."""
    memory = None if arguments.memory is None else int(arguments.memory * 1e9)
    with named_as_options(data.Reading):
        workers = {} if arguments.workers is None else {"workers": arguments.workers}
        return data.Reading(memory, **workers)


def load_pairs(
    training: dict[str, Any], preprocess: images.Preprocess, reading: data.Reading | None = None
) -> tuple[data.Pairs, data.Pairs | None]:
    """The pairs that a run trains on, and those it is tested on: emoji, or the user's pictures with a tenth held out.

    `training` is that of config.json. With `reading`, a line on standard error says how much memory the user's pictures
    need and whether they are streamed.
    """
    if training["data"] is None:
        further = training.get("further", ())
        return data.load_emoji(preprocess, training["language"], trained_on(training), further)
    found = find_run(training)
    if reading:
        print(reading.describe(len(found.sources), preprocess), file=sys.stderr)
    reading = reading or data.Reading()
    pairs, problems = data.load_found(found, preprocess, training["skip_bad"], reading)
    if problems:
        print(data.describe_problems(problems, found.place), "left out", sep="\n", file=sys.stderr)
    return data.hold_out(pairs)


def find_run(training: dict[str, Any]) -> data.Found:
    """The user's pictures and captions that a run was trained and tested on; opens no picture."""
    return data.find_pairs(training["data"], training.get("columns") or (None, None))


def trained_on(training: dict[str, Any]) -> list[data.Artist]:
    """The artists of a run on emoji: names, or the path of a font. There was only one before they were stored."""
    names = training.get("artists", [data.OPENMOJI.name])
    return [data.ARTISTS[name] if name in data.ARTISTS else data.FontArtist(Path(name)) for name in names]


def check_has_pictures(saved: Saved, run: Path) -> None:
    """Raise ValueError for weights of others, which do not say what they were trained on."""
    if not saved.training:
        raise ValueError(f"{run} does not say what it was trained on: name pictures with --data or --folder")


def load_drawings(saved: Saved) -> data.Pairs:
    """All emoji of the artists that a run was trained on, each drawing once."""
    parts = data.load_emoji(saved.preprocess, saved.training["language"], trained_on(saved.training))
    return data.Pairs.join([part for part in parts if part])


def load_tested(saved: Saved, run: Path) -> data.Pairs:
    """The pairs that a run was tested on. Raises ValueError if there were none."""
    _, tested = load_pairs(saved.training, saved.preprocess)
    if tested is None:
        raise ValueError(f"{run} held no pictures out (there were too few): name others with --data")
    return tested


def readable(
    sources: Sequence[images.Source], preprocess: images.Preprocess, origins: list[images.Source]
) -> Iterator[torch.Tensor]:
    """Yield the pixels (3, R, R) of every picture that can be read, and append its origin to `origins`.

    What is wrong with the others is printed on standard error.
    """
    hidden = len(sources) < 100 or not sys.stderr.isatty()
    results = tqdm(images.read_pictures(sources, preprocess), "reading", len(sources), leave=False, disable=hidden)
    for source, result in zip(sources, results, strict=True):
        if isinstance(result, Exception):
            print(f"minclip: error: {result}", file=sys.stderr)
        else:
            origins.append(source)
            yield result


def print_unseen(top1: float, top5: float) -> None:
    print(f"unseen top-1 {100 * top1:.1f} %")
    print(f"unseen top-5 {100 * top5:.1f} %")
