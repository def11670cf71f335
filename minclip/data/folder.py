"""The user's own pictures: a folder with one CSV or TSV file that has the columns `image` and `caption`."""

import csv
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from minclip.data.pairs import Pairs
from minclip.images import PictureFile, Preprocess, read_pictures
from minclip.tokenizer import clean

Row = tuple[str, str]  # image, caption


def load_folder(path: str | Path, preprocess: Preprocess, skip_bad: bool = False) -> tuple[Pairs, list[str]]:
    """Read the pictures and captions of a table, or of the folder that holds one table.

    Paths in it are relative to the table, and a picture may stand in several rows. Everything is read before
    training starts. Raises ValueError with a list of what cannot be used; `skip_bad` leaves that out and returns it.
    """
    table = _find_table(Path(path))
    rows, problems = _read_table(table)
    images, unreadable = _read_images(table.parent, list(dict.fromkeys(name for name, _ in rows)), preprocess)
    problems += unreadable
    if problems and not skip_bad:
        raise ValueError(describe_problems(problems, table) + "\nMend them, or leave them out with --skip-bad")
    rows = [(name, caption) for name, caption in rows if name in images]
    if not rows:
        raise ValueError(f"{table} has no usable pair of a picture and a caption")
    index = {name: i for i, name in enumerate(images)}
    pairs = Pairs(
        torch.stack(list(images.values())),
        [PictureFile(table.parent / name) for name in images],
        [caption for _, caption in rows],
        torch.tensor([index[name] for name, _ in rows]),
    )
    return pairs, problems


def describe_problems(problems: list[str], table: str | Path) -> str:
    """Name the table and the first ten entries that cannot be used."""
    shown = "".join(f"\n  {problem}" for problem in problems[:10])
    more = f"\n  … and {len(problems) - 10} more" if len(problems) > 10 else ""
    return f"{table}: {len(problems)} entr{'y' if len(problems) == 1 else 'ies'} cannot be used:{shown}{more}"


def _read_images(folder: Path, names: list[str], preprocess: Preprocess) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The pixels (3, R, R) of every picture that can be read, by name, and what is wrong with the others."""
    images, problems = {}, []
    results = read_pictures((folder / name for name in names), preprocess)
    bar = tqdm(results, "reading pictures", len(names), leave=False, disable=not sys.stderr.isatty())
    for name, result in zip(names, bar, strict=True):
        if isinstance(result, Exception):
            problems.append(str(result))
        else:
            images[name] = result
    return images, problems


# --- the table --------------------------------------------------------------------------------------------------------


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


def _read_table(table: Path) -> tuple[list[Row], list[str]]:
    """The usable rows, and what is wrong with the others."""
    rows, problems = [], []
    for entry in _entries(table):
        (problems if isinstance(entry, str) else rows).append(entry)
    if not rows and not problems:
        raise ValueError(f"{table} has a header and no rows")
    return rows, problems


def _entries(table: Path) -> Iterator[Row | str]:
    """Yield each row, or what is wrong with it."""
    csv.field_size_limit(2**31 - 1)  # a caption may be longer than the default of 131,072 characters
    delimiter = "\t" if table.suffix.lower() == ".tsv" else ","
    reader = csv.DictReader(io.StringIO(_read_text(table), newline=""), delimiter=delimiter, strict=True)
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        if not {"image", "caption"} <= set(reader.fieldnames):
            found = ", ".join(reader.fieldnames) or "nothing"
            raise ValueError(f"{table}: the first line must name the columns image and caption; it has: {found}")
        for row in reader:
            yield _check_row(row, reader.line_num)
    except csv.Error as error:
        raise ValueError(f"{table}, line {reader.line_num}: {error}") from error


def _read_text(table: Path) -> str:
    try:
        return table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        reason = f"byte 0x{byte:02X} at position {error.start}"
        raise ValueError(f"{table} is not UTF-8: {reason}. Save it as UTF-8.") from error


def _check_row(row: dict[str, str | None], line: int) -> Row | str:
    name, caption = (row["image"] or "").strip(), (row["caption"] or "").strip()
    # csv collects surplus cells under the key None.
    if None in row:
        return f"line {line}: more cells than columns; put a caption with commas in quotes"
    if not name or not clean(caption):
        return f"line {line}: the {'caption' if name else 'image'} is empty"
    return os.path.normpath(name), caption
