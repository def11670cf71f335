"""Tables for the terminal: all contenders at one setting."""

from collections.abc import Sequence

from minclip_kernels.bench.peers import Setting
from minclip_kernels.bench.records import MEASURED, Row

HEAD = ["", "ms", "lowest", "highest", "rounds", "memory MB", "N²D flops", "TFLOP/s"]
HEAD += ["of floor", "gradient"]


def align(lines: Sequence[Sequence[str]]) -> str:
    """Columns below each other: the first aligned to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    )


def number(value: float | None) -> str:
    """`1234.5` -> `"1,234"`, `0.12345` -> `"0.123"`, `None` -> `""`."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def table(setting: Setting, rows: Sequence[Row]) -> str:
    """The rows of one setting, the fastest first and failures last."""
    lines = [_cells(row) for row in sorted(rows, key=lambda row: row.get("both_ms") or 1e99)]
    return f"{setting}\n{align([HEAD, *lines])}"


def _cells(row: Row) -> list[str]:
    if row["result"] != MEASURED:
        return [row["contender"], *[""] * (len(HEAD) - 2), row["result"]]
    names = "both_ms", "lowest_ms", "highest_ms", "rounds", "memory_mb", "flops", "tflops"
    numbers = (number(row[name]) for name in (*names, "of_floor"))
    return [row["contender"], *numbers, row["gate"]]
