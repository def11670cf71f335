"""Draw the tables of both READMEs from what was measured: python kernels/results/tables.py

A table stands between <!-- table: NAME --> and <!-- end -->. Nothing in it is typed by hand.
"""

import json
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from minclip_kernels.bench.records import MEASURED, read
from minclip_kernels.bench.report import cell

RESULTS = Path(__file__).parent
READMES = [RESULTS.parents[1] / "README.md", RESULTS.parent / "README.md"]
PLACE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
TRAINING = "contender", "images/s", "lowest", "highest", "MB above model and optimizer"
TOKENIZERS = "contender", "texts", "number", "tokens/s, first time", "tokens/s, again", "same ids"


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]], source: dict[str, Any]) -> str:
    """A table, and below it where it comes from: device, versions, commit and date."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    table = "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *lines))
    is_gpu = "cores" not in source["device"]
    versions = "torch {torch}, triton {triton}" if is_gpu else "{threads} threads, torch {torch}"
    where = "{device}, " + versions + "; commit {commit}, {date}"
    return f"{table}\n({where.format(**source)}.)\n"


def of_losses(file: str, column: str, dtype: str = "float32", width: int = 512) -> str:
    """A row for each N, a column for each contender that was measured at some N."""
    rows = [r for r in read(RESULTS / file) if (r["dtype"], r["D"]) == (dtype, width)]
    names = list(dict.fromkeys(row["contender"] for row in rows if row["result"] == MEASURED))
    cells = {(row["N"], row["contender"]): cell(row[column]) or row["result"] for row in rows}
    counts = sorted({row["N"] for row in rows})
    lines = [[f"{N:,}", *(cells.get((N, name), "") for name in names)] for N in counts]
    return markdown(["N", *names], lines, rows[-1])


def before_after(file: str, ours: str, count: int) -> str:
    """One row: open_clip's loss, which builds the matrix, and the fused one, at D = 512."""
    places = [row for row in read(RESULTS / file) if (row["N"], row["D"]) == (count, 512)]
    rows = {row["contender"]: row for row in places}
    before, after = rows["open_clip"], rows[ours]
    columns = [(row, column) for column in ("both_ms", "memory_mb") for row in (before, after)]
    head = ["N", "BEFORE: ms", "AFTER: ms", "BEFORE: MB", "AFTER: MB"]
    return markdown(head, [[f"{count:,}", *(cell(row[column]) for row, column in columns)]], after)


def of_options(file: str) -> str:
    """One row for each value of an option of the fused loss."""
    rows = read(RESULTS / file)
    columns = "contender", "both_ms", "lowest_ms", "highest_ms", "memory_mb"
    lines = [[cell(row[column]) for column in columns] for row in rows]
    return markdown(["option", "ms", "lowest", "highest", "MB"], lines, rows[-1])


def of_json(name: str, columns: Sequence[str] = ()) -> str:
    """The named columns of a file, or all of them."""
    content = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    columns = columns or list(content["rows"][0])
    lines = [[cell(row[column]) for column in columns] for row in content["rows"]]
    return markdown(columns, lines, content.get("environment", content))


OF_H200 = partial(of_losses, "h200-loss.csv", dtype="bfloat16")
TABLES = {
    "before-after": partial(before_after, "cpu-loss.csv", "fused, torch", 8192),
    "before-after-gpu": partial(before_after, "h200-loss.csv", "fused, triton", 65536),
    "loss-times": partial(of_losses, "cpu-loss.csv", "both_ms"),
    "loss-memory": partial(of_losses, "cpu-loss.csv", "memory_mb"),
    "gpu-times": partial(OF_H200, "both_ms"),
    "gpu-times-768": partial(OF_H200, "both_ms", width=768),
    "gpu-memory": partial(OF_H200, "memory_mb"),
    "gpu-kernels": partial(of_json, "h200-kernels.json"),
    "gpu-options": partial(of_options, "h200-options.csv"),
    "gpu-tiles": partial(of_json, "h200-tiles.json"),
    "training": partial(of_json, "cpu-train.json", TRAINING),
    "tokenizers": partial(of_json, "cpu-tokenizer.json", TOKENIZERS),
}


def draw(text: str) -> str:
    """`text` with its tables drawn again. Raises ValueError for an unknown table."""

    def table(match: re.Match[str]) -> str:
        if match[2] not in TABLES:
            raise ValueError(f"there is no table {match[2]!r}; there are: {', '.join(TABLES)}")
        return match[1] + TABLES[match[2]]() + match[3]

    return PLACE.sub(table, text)


def main() -> int:
    for readme in READMES:
        readme.write_text(draw(readme.read_text(encoding="utf-8")), encoding="utf-8")
        print(readme)
    return 0


if __name__ == "__main__":
    sys.exit(main())
