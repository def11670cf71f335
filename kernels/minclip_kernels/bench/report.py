"""The rows of a measurement as a table for the terminal."""

from collections.abc import Sequence

from minclip_kernels.bench.peers import Setting
from minclip_kernels.bench.records import MEASURED, NUMBERS, Row

HEADS = ["ms", "lowest", "highest", "rounds", "MB", "N²D flops", "TFLOP/s", "of floor"]


def align(lines: Sequence[Sequence[str]]) -> str:
    """Columns below each other: the first aligned to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    )


def cell(value: str | float | None) -> str:
    """`1234.5` -> `"1,234"`, `0.12345` -> `"0.123"`, `None` -> `""`."""
    if value is None:
        return ""
    if isinstance(value, (str, bool)):
        return str(value)
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def table(rows: Sequence[Row]) -> str:
    """Rows with the same keys, which are the heads of the columns."""
    return align([list(rows[0]), *([cell(value) for value in row.values()] for row in rows)])


def losses(setting: Setting, rows: Sequence[Row]) -> str:
    """The rows of one setting, the fastest first and failures last."""
    shown = []
    for row in sorted(rows, key=lambda row: row.get("both_ms") or 1e99):
        numbers = {head: row.get(name) for head, name in zip(HEADS, NUMBERS, strict=True)}
        verdict = row["gate"] if row["result"] == MEASURED else row["result"]
        shown.append({"": row["contender"]} | numbers | {"gate": verdict})
    return f"{setting}\n{table(shown)}" if rows else f"{setting}: not measured"
