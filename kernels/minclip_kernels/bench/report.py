"""A table of every setting for the terminal, and a figure of them all."""

from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import Any

from minclip_kernels.bench.peers import Setting
from minclip_kernels.bench.records import MEASURED, NUMBERS, Row, replacing

HEAD = ["", "ms", "lowest", "highest", "rounds", "MB", "N²D flops", "TFLOP/s", "of floor", "gate"]
STYLES = ["o-", "s--", "^-.", "D:", "v--", "P-.", "X:", "*--", "<-", ">-."]
PANELS = [  # column, label, scale
    ("both_ms", "loss and gradients (ms)", "log"),
    ("memory_mb", "peak memory above the features (MB)", "log"),
    ("of_floor", "time of the bare products / time", "linear"),
]


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
    verdict = row["gate"] if row["result"] == MEASURED else row["result"]
    return [row["contender"], *(number(row.get(name)) for name in NUMBERS), verdict]


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw three panels, with a row of them for every loss, dtype and D."""
    from matplotlib.figure import Figure  # imported here because it takes a second

    rows = [row for row in rows if row["result"] == MEASURED]
    places = list(dict.fromkeys((row["loss"], row["dtype"], row["D"]) for row in rows))
    figure = Figure(figsize=(16, 4.6 * len(places)), layout="constrained", dpi=120)
    grid = figure.subplots(len(places), len(PANELS), squeeze=False)
    for place, line in zip(places, grid, strict=True):
        here = [row for row in rows if (row["loss"], row["dtype"], row["D"]) == place]
        for axes, (column, label, scale) in zip(line, PANELS, strict=True):
            _draw_lines(axes, here, column)
            axes.set(xscale="log", xlabel="N, pairs in the batch", title=label)
            axes.set_yscale(scale if any(row[column] for row in here) else "linear")
            counts = sorted({row["N"] for row in here})
            axes.set_xticks(counts, [f"{count:,}" for count in counts], rotation=30)
            axes.set_xticks([], minor=True)
        line[0].set_ylabel("{}, {}, D = {}".format(*place))
        line[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle("{device}, torch {torch}, {date}".format(**rows[0]), fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary)


def _draw_lines(axes: Any, rows: Sequence[Row], column: str) -> None:
    """One line per contender: ours are wide, and the floor is black."""
    for index, name in enumerate(dict.fromkeys(row["contender"] for row in rows)):
        points = [(r["N"], r[column] or nan) for r in rows if r["contender"] == name]
        color, width = f"C{index}" if index else "black", 2.5 if "fused" in name else 1.2
        style = STYLES[index % len(STYLES)]
        axes.plot(*zip(*points, strict=True), style, color=color, linewidth=width, label=name)
    axes.grid(alpha=0.3)
