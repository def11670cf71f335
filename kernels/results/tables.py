"""Draws the tables of both READMEs from what was measured: python kernels/results/tables.py

A table stands between <!-- table: NAME --> and <!-- end -->; nothing in there is typed by hand.
"""

import csv
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent
READMES = [RESULTS.parents[1] / "README.md", RESULTS.parent / "README.md"]
PLACE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *lines))


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"


def environment(values: dict[str, Any]) -> str:
    where = f"{values['device']}, {values['threads']} threads, torch {values['torch']}"
    return f"\n({where}; commit {values['commit']}, {values['date']}.)\n"


def of_losses(column: str) -> str:
    """A row for each N, a column for each contender that was measured: milliseconds or megabytes."""
    with (RESULTS / "cpu-loss.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = list(dict.fromkeys(row["contender"] for row in rows))
    cells = {(row["N"], row["contender"]): row for row in rows}
    lines = []
    for count in sorted({row["N"] for row in rows}, key=int):
        values = (cells[count, name] for name in names)
        lines.append(
            [
                f"{int(count):,}",
                *(number(float(row[column])) if row[column] else row["result"] for row in values),
            ]
        )
    return markdown(["N", *names], lines) + environment(rows[0])


def of_json(name: str, columns: Sequence[str]) -> str:
    content = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    lines = [
        [
            number(value) if isinstance(value, int | float) else value
            for value in (row[column] for column in columns)
        ]
        for row in content["rows"]
    ]
    return markdown(columns, lines) + environment(content["environment"])


TABLES = {
    "loss-times": lambda: of_losses("both_ms"),
    "loss-memory": lambda: of_losses("memory_mb"),
    "training": lambda: of_json(
        "cpu-train.json",
        ["contender", "images/s", "lowest", "highest", "MB above model and optimizer"],
    ),
    "tokenizers": lambda: of_json(
        "cpu-tokenizer.json",
        ["contender", "texts", "number", "tokens/s, first time", "tokens/s, again", "same ids"],
    ),
}


def draw(text: str) -> str:
    """`text` with its tables drawn anew. Raises ValueError for a table that nobody knows."""

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
