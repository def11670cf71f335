"""Tables of pictures and captions: CSV, TSV and JSONL files with one pair to a row."""

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from minclip.tokenizer import clean

Row = tuple[str, str]  # image, caption
Columns = tuple[str, str]  # the names of the two columns
KNOWN_COLUMNS: Sequence[Columns] = (("image", "caption"), ("filepath", "title"))  # ours, and open_clip's
TABLES = (".csv", ".tsv", ".jsonl")


def read_table(table: Path, columns: tuple[str | None, str | None] = (None, None)) -> tuple[list[Row], list[str]]:
    """The usable rows of a table, as path and caption, and what is wrong with the others.

    `columns` names the two columns; a None stands for the first known name that the table has. Raises ValueError if the
    table as a whole cannot be used.
    """
    rows, problems = [], []
    entries = _json_lines(table, columns) if table.suffix.lower() == ".jsonl" else _csv_lines(table, columns)
    for entry in entries:
        (problems if isinstance(entry, str) else rows).append(entry)
    if not rows and not problems:
        raise ValueError(f"{table} has {'no rows' if table.suffix.lower() == '.jsonl' else 'a header and no rows'}")
    return rows, problems


def _csv_lines(table: Path, columns: tuple[str | None, str | None]) -> Iterator[Row | str]:
    """Yield each row of a CSV or TSV file, or what is wrong with it."""
    csv.field_size_limit(2**31 - 1)  # a caption may be longer than the default of 131,072 characters
    text = _read_text(table)
    # open_clip separates the columns of a .csv file by tabs.
    delimiter = "\t" if table.suffix.lower() == ".tsv" or "\t" in text.partition("\n")[0] else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        image, caption = _choose_columns(reader.fieldnames, columns, f"{table}: the first line")
        for row in reader:
            # csv collects surplus cells under the key None.
            if None in row:
                yield f"line {reader.line_num}: more cells than columns; put a caption with commas in quotes"
            else:
                yield _check_row(row, image, caption, reader.line_num)
    except csv.Error as error:
        raise ValueError(f"{table}, line {reader.line_num}: {error}") from error


def _json_lines(table: Path, columns: tuple[str | None, str | None]) -> Iterator[Row | str]:
    """Yield each row of a JSONL file, or what is wrong with it. The first line decides on the columns."""
    chosen: Columns | None = None
    for number, line in enumerate(_read_text(table).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield f"line {number}: not JSON: {error}"
            continue
        if not isinstance(row, dict):
            yield f'line {number}: not a JSON object, such as {{"image": …, "caption": …}}'
            continue
        chosen = chosen or _choose_columns(list(row), columns, f"{table}: line {number}")
        yield _check_row(row, *chosen, number)


def _choose_columns(names: Sequence[str], columns: tuple[str | None, str | None], where: str) -> Columns:
    for known in KNOWN_COLUMNS:
        image, caption = (given or name for given, name in zip(columns, known, strict=True))
        if image in names and caption in names:
            return image, caption
    wanted = " and ".join(given or name for given, name in zip(columns, KNOWN_COLUMNS[0], strict=True))
    raise ValueError(
        f"{where} must name the columns {wanted}; it has: {', '.join(names) or 'nothing'}. "
        "Name yours with --image-column and --caption-column"
    )


def _check_row(row: dict, image: str, caption: str, line: int) -> Row | str:
    cells = [row.get(column) for column in (image, caption)]
    for column, cell in zip((image, caption), cells, strict=True):
        if not (cell is None or isinstance(cell, str)):
            return f"line {line}: the {column} is {cell!r}, expected a text"
    name, text = ((cell or "").strip() for cell in cells)
    if not name or not clean(text):
        return f"line {line}: the {caption if name else image} is empty"
    return os.path.normpath(name), text


def _read_text(table: Path) -> str:
    try:
        return table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        reason = f"byte 0x{byte:02X} at position {error.start}"
        raise ValueError(f"{table} is not UTF-8: {reason}. Save it as UTF-8.") from error
