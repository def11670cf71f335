"""Time, memory and share of the floor against N; to be read in grey as well: marks and line styles beside colours."""

import os
from collections.abc import Sequence
from pathlib import Path

from minclip_kernels.bench.records import Row

LOOKS = [
    ("o", "-"),
    ("s", "--"),
    ("^", "-."),
    ("D", ":"),
    ("v", "--"),
    ("P", "-."),
    ("X", ":"),
    ("*", "--"),
    ("<", "-"),
]
PICTURES = {
    "time": ("both_ms", "forward and backward (ms)", "log"),
    "memory": ("memory_mb", "peak memory above the features (MB)", "log"),
    "floor": ("of_floor", "time of the bare products / time", "linear"),
}


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Three pictures beside the table `path`; a part of each for every loss, dtype and D. Returns their paths."""
    measured = [row for row in rows if row["result"] == "measured"]
    return [_picture(measured, path.with_name(f"{path.stem}-{name}.png"), *what) for name, what in PICTURES.items()]


def _picture(rows: Sequence[Row], path: Path, column: str, label: str, scale: str) -> Path:
    from matplotlib.figure import Figure  # only now: it takes a second to load
    from matplotlib.ticker import FuncFormatter

    places = list(dict.fromkeys((row["loss"], row["dtype"], row["D"]) for row in rows))
    names = sorted({row["contender"] for row in rows}, key=lambda name: (not name.startswith("fused"), name))
    figure = Figure(figsize=(1.5 + 5 * max(1, len(places)), 4.6), layout="constrained", dpi=120)
    grid = figure.subplots(1, max(1, len(places)), squeeze=False, sharey=True)[0]
    for axes, place in zip(grid, places, strict=False):
        for index, name in enumerate(names):
            points = {
                int(row["N"]): float(row[column])
                for row in rows
                if (row["loss"], row["dtype"], row["D"], row["contender"]) == (*place, name)
                and float(row[column] or 0) > 0
            }
            marker, style = LOOKS[index % len(LOOKS)]
            width = 2.5 if name.startswith("fused") else 1.2
            colour = "black" if name.startswith("bare") else f"C{index}"
            axes.plot(
                sorted(points), [points[n] for n in sorted(points)], marker=marker, linestyle=style, linewidth=width,
                markersize=5, color=colour, label=name,
            )  # fmt: skip
        axes.set(xscale="log", xlabel="N, pairs in the batch", title="{}, {}, D = {}".format(*place))
        axes.set_xticks(sorted({int(row["N"]) for row in rows}), minor=False)
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.tick_params(axis="x", rotation=30)
        axes.grid(alpha=0.3)
        if scale == "linear":
            axes.set_ylim(bottom=0)
        elif axes.dataLim.height > 0:  # there are points
            axes.set_yscale("log")
    grid[0].set_ylabel(label)
    if rows:
        grid[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.suptitle(f"{rows[0]['device']}, torch {rows[0]['torch']}, {rows[0]['date']}", fontsize=9)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    figure.savefig(temporary)
    os.replace(temporary, path)
    return path
