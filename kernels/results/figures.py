"""Draw what was measured, beside its CSV: python kernels/results/figures.py FILE.csv"""

import sys
from collections import defaultdict
from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from minclip_kernels.bench.records import MEASURED, Row, read, replacing

STYLES = ["o-", "s--", "^-.", "D:", "v--", "P-.", "X:", "*--", "<-", ">-."]
PANELS = [  # column, label, scale
    ("both_ms", "loss and gradients (ms)", "log"),
    ("memory_mb", "peak memory above the features (MB)", "log"),
    ("of_floor", "time of the bare products / time", "linear"),
]


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw three panels, with a row of them for every loss, dtype and D with more than one N."""
    rows = [row for row in rows if row["result"] == MEASURED]
    counts = defaultdict(set)
    for row in rows:
        counts[row["loss"], row["dtype"], row["D"]].add(row["N"])
    places = [place for place in counts if len(counts[place]) > 1]
    figure = Figure(figsize=(16, 4.6 * len(places)), layout="constrained", dpi=120)
    grid = figure.subplots(len(places), len(PANELS), squeeze=False)
    for place, line in zip(places, grid, strict=True):
        here = [row for row in rows if (row["loss"], row["dtype"], row["D"]) == place]
        for axes, (column, label, scale) in zip(line, PANELS, strict=True):
            draw_lines(axes, here, column)
            axes.set(xscale="log", xlabel="N, pairs in the batch", title=label)
            axes.set_yscale(scale if any(row[column] for row in here) else "linear")
            ticks = sorted(counts[place])
            axes.set_xticks(ticks, [f"{count:,}" for count in ticks], rotation=90, fontsize=8)
            axes.set_xticks([], minor=True)
        line[0].set_ylabel("{}, {}, D = {}".format(*place))
        line[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle("{device}, torch {torch}, {date}".format(**rows[0]), fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary)


def draw_lines(axes: Any, rows: Sequence[Row], column: str) -> None:
    """One line for each contender: ours are wide, and the floor is black."""
    for index, name in enumerate(dict.fromkeys(row["contender"] for row in rows)):
        points = [(r["N"], r[column] or nan) for r in rows if r["contender"] == name]
        color, width = f"C{index}" if index else "black", 2.5 if "fused" in name else 1.2
        style = STYLES[index % len(STYLES)]
        axes.plot(*zip(*points, strict=True), style, color=color, linewidth=width, label=name)
    axes.grid(alpha=0.3)


def main(paths: Sequence[str]) -> int:
    for path in map(Path, paths):
        draw(read(path), path.with_suffix(".png"))
        print(path.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
