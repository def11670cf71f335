"""The user's own pictures, in the layouts in which people keep them: what is there, and then the pairs themselves.

A table (CSV, TSV, JSONL); pictures with a .txt beside each; folders that are named after what their pictures show; tar
shards. `find_pairs` reads names and captions only. `load_folder` decodes every picture, and keeps or streams it.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from minclip.data.memory import Reading, memory_needed
from minclip.data.pairs import Pairs
from minclip.data.shards import read_shards
from minclip.data.streamed import Streamed, survey
from minclip.data.tables import TABLES, read_table
from minclip.images import Origin, PictureFile, Preprocess, Source, picture_files, read_pictures
from minclip.prompts import PLAIN
from minclip.tokenizer import clean

# The name alone, and the seven templates of which an ensemble was as good as one of all 80 on ImageNet. Source:
# openai/CLIP, notebooks/Prompt_Engineering_for_ImageNet.ipynb.
CLASS_TEMPLATES = (
    "{}",
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
LAYOUTS = (
    "one .csv, .tsv or .jsonl file; .tar shards; pictures with a .txt beside each; or folders of pictures, each named "
    "after what they show"
)
CLASSES = "class folders"


@dataclass(frozen=True)
class Found:
    """The pictures and captions at a place, before a picture is opened: caption i is that of `sources[owners[i]]`."""

    place: Path
    layout: str
    sources: list[Source]
    captions: list[str]
    owners: list[int]
    problems: list[str]
    templates: Sequence[str] = PLAIN

    @staticmethod
    def collect(
        place: Path,
        layout: str,
        pairs: Iterable[tuple[Source, str]],
        problems: list[str],
        templates: Sequence[str] = PLAIN,
    ) -> "Found":
        """Number the pictures; one that occurs in several pairs is one picture."""
        index: dict[Source, int] = {}
        captions, owners = [], []
        for source, caption in pairs:
            captions.append(caption)
            owners.append(index.setdefault(source, len(index)))
        return Found(place, layout, list(index), captions, owners, problems, templates)

    def first_captions(self) -> dict[Origin, str]:
        """The first caption of each picture."""
        # The last of equal keys wins in a dictionary, so the first caption has to come last.
        owned = list(zip(self.owners, self.captions, strict=True))
        return {self.sources[owner]: caption for owner, caption in reversed(owned)}

    def pairs(self, images: torch.Tensor | Streamed, readable: Sequence[int]) -> Pairs:
        """The pairs of the pictures that can be read, whose pixels are `images`."""
        place = {picture: i for i, picture in enumerate(readable)}
        kept = [
            (caption, place[owner]) for caption, owner in zip(self.captions, self.owners, strict=True) if owner in place
        ]
        return Pairs(
            images,
            [self.sources[i] for i in readable],
            [caption for caption, _ in kept],
            torch.tensor([owner for _, owner in kept], dtype=torch.int64),
            self.templates,
        )


def load_folder(
    path: str | Path,
    preprocess: Preprocess,
    skip_bad: bool = False,
    columns: tuple[str | None, str | None] = (None, None),
    reading: Reading | None = None,
) -> tuple[Pairs, list[str]]:
    """Read the pictures and captions of a file or folder in any of the layouts.

    A picture may have several captions. Every picture is decoded before training starts; `reading` says whether they
    then stay in memory (by default, if there is room). Raises ValueError with a list of what cannot be used;
    `skip_bad` leaves that out and returns it. `columns` names those of a table.
    """
    return load_found(find_pairs(path, columns), preprocess, skip_bad, reading or Reading())


def load_found(found: Found, preprocess: Preprocess, skip_bad: bool, reading: Reading) -> tuple[Pairs, list[str]]:
    """`load_folder` for what `find_pairs` has found."""
    if reading.keeps_in_memory(memory_needed(len(found.sources), preprocess)):
        images, readable, unreadable = _keep(found.sources, preprocess)
    else:
        seen = survey(found.sources, preprocess, reading.workers)
        readable, unreadable = seen.pictures, seen.problems
        images = Streamed([found.sources[i] for i in readable], seen.digests, preprocess, reading.workers)
    problems = found.problems + unreadable
    if problems and not skip_bad:
        raise ValueError(describe_problems(problems, found.place) + mend_or_skip(problems))
    if not readable:
        raise ValueError(f"{found.place} has no usable pair of a picture and a caption")
    return found.pairs(images, readable), problems


def describe_problems(problems: list[str], place: str | Path) -> str:
    """Name the data and the first ten entries that cannot be used; a single one on the same line."""
    if len(problems) == 1:
        return f"{place}: 1 entry cannot be used: {problems[0]}"
    shown = "".join(f"\n  {problem}" for problem in problems[:10])
    more = f"\n  … and {len(problems) - 10} more" if len(problems) > 10 else ""
    return f"{place}: {len(problems)} entries cannot be used:{shown}{more}"


def mend_or_skip(problems: list[str]) -> str:
    """The remedy that follows `describe_problems`."""
    if len(problems) == 1:
        return "; fix it, or leave it out with --skip-bad"
    return "\nFix them, or leave them out with --skip-bad"


def _keep(sources: Sequence[Source], preprocess: Preprocess) -> tuple[torch.Tensor, list[int], list[str]]:
    """The pixels (P', 3, R, R) of the pictures that can be read, their indices, and what is wrong with the others."""
    readable, problems = [], []
    images = torch.empty(len(sources), 3, preprocess.resolution, preprocess.resolution, dtype=torch.uint8)
    results = read_pictures(sources, preprocess)
    bar = tqdm(results, "reading pictures", len(sources), leave=False, disable=not sys.stderr.isatty())
    for i, result in enumerate(bar):
        if isinstance(result, Exception):
            problems.append(str(result))
        else:
            images[len(readable)] = result
            readable.append(i)
    return images[: len(readable)], readable, problems


# --- which layout it is -----------------------------------------------------------------------------------------------


def find_pairs(path: str | Path, columns: tuple[str | None, str | None] = (None, None)) -> Found:
    """The pictures and captions of a file or folder, whichever layout it has. Opens no picture.

    Raises FileNotFoundError if there is nothing, ValueError if no layout, or more than one, fits.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such folder or file")
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
    tables = [file for file in files if file.suffix.lower() in TABLES]
    shards = [file for file in files if file.suffix.lower() == ".tar"]
    if tables[1:] or (tables and shards):
        names = ", ".join(file.name for file in tables + shards[:3])
        raise ValueError(f"{path}: expected one table, or tar shards alone, found {names}: name one file of them")
    if any(columns) and not tables:
        raise ValueError(f"{path} has no table whose columns could be named")
    if tables:
        return _find_in_table(tables[0], columns)
    if shards:
        pairs, problems = read_shards(shards)
        return _not_empty(Found.collect(path, "tar shards", pairs, problems), path)
    if path.is_file():
        raise ValueError(f"{path} is neither a table (.csv, .tsv, .jsonl) nor a .tar shard")
    return _find_files(path)


def pictures_under(folder: str | Path) -> list[Source]:
    """All pictures under a folder, and those with a caption in its tar shards. Raises NotADirectoryError."""
    sources: list[Source] = [PictureFile(path) for path in picture_files(Path(folder).absolute())]
    shards, _ = read_shards(sorted(Path(folder).absolute().rglob("*.tar")))
    return sources + [picture for picture, _ in shards]


def _find_in_table(table: Path, columns: tuple[str | None, str | None]) -> Found:
    rows, problems = read_table(table, columns)
    named = {name: PictureFile(table.parent / name) for name in dict.fromkeys(name for name, _ in rows)}
    return Found.collect(table, f"table {table.name}", ((named[name], caption) for name, caption in rows), problems)


def _find_files(folder: Path) -> Found:
    """Pictures with a .txt beside each, or in folders that are named after what they show."""
    pictures = picture_files(folder)
    with_text = [picture for picture in pictures if picture.with_suffix(".txt").is_file()]
    if with_text:
        pairs, problems = _read_texts(folder, pictures)
        return Found.collect(folder, "pictures with .txt", pairs, problems)
    if not pictures:
        raise ValueError(f"{folder}: no pictures and captions found; expected {LAYOUTS}")
    loose = [picture for picture in pictures if picture.parent == folder]
    if loose:
        raise ValueError(f"{folder}: {loose[0].name} has no caption; expected {LAYOUTS}")
    pairs = ((PictureFile(file), class_name(folder, file)) for file in pictures)
    return Found.collect(folder, CLASSES, pairs, [], CLASS_TEMPLATES)


def class_name(folder: Path, picture: Path) -> str:
    """What the folder of a picture is called, with spaces for underscores: the first one below `folder`."""
    return picture.relative_to(folder).parts[0].replace("_", " ").strip()


def _read_texts(folder: Path, pictures: Sequence[Path]) -> tuple[list[tuple[Source, str]], list[str]]:
    """Each picture with the caption in the .txt beside it, and what is wrong with the others."""
    pairs: list[tuple[Source, str]] = []
    problems = []
    for picture in pictures:
        name = os.path.relpath(picture, folder)
        try:
            caption = picture.with_suffix(".txt").read_text(encoding="utf-8-sig").strip()
        except FileNotFoundError:
            problems.append(f"{name}: no {picture.with_suffix('.txt').name} beside it")
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{name}: the caption cannot be read: {error}")
        else:
            if clean(caption):
                pairs.append((PictureFile(picture), caption))
            else:
                problems.append(f"{name}: the caption in {picture.with_suffix('.txt').name} is empty")
    return pairs, problems


def _not_empty(found: Found, path: Path) -> Found:
    if not found.sources and not found.problems:
        raise ValueError(f"{path} has no sample of a picture and a caption")
    return found
