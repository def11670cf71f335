"""Draw the tables of both READMEs from what was measured: python kernels/results/tables.py

A table stands between <!-- table: NAME --> and <!-- end -->. Nothing in it is typed by hand.
"""

import json
import re
import sys
from collections.abc import Sequence
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
    """A table, and below it where it comes from: device, threads, version, commit and date."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    table = "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *lines))
    where = "{device}, {threads} threads, torch {torch}; commit {commit}, {date}"
    return f"{table}\n({where.format(**source)}.)\n"


def of_losses(column: str) -> str:
    """A row for each N, a column for each contender that was measured at some N."""
    rows = read(RESULTS / "cpu-loss.csv")
    names = list(dict.fromkeys(row["contender"] for row in rows if row["result"] == MEASURED))
    cells = {(row["N"], row["contender"]): cell(row[column]) or row["result"] for row in rows}
    counts = sorted({row["N"] for row in rows})
    lines = [[f"{N:,}", *(cells.get((N, name), "") for name in names)] for N in counts]
    return markdown(["N", *names], lines, rows[-1])


def of_json(name: str, columns: Sequence[str]) -> str:
    content = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    lines = [[cell(row[column]) for column in columns] for row in content["rows"]]
    return markdown(columns, lines, content["environment"])


TABLES = {
    "loss-times": lambda: of_losses("both_ms"),
    "loss-memory": lambda: of_losses("memory_mb"),
    "training": lambda: of_json("cpu-train.json", TRAINING),
    "tokenizers": lambda: of_json("cpu-tokenizer.json", TOKENIZERS),
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
