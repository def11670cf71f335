"""Tables for the terminal: one run, or two side by side."""

from collections.abc import Sequence
from pathlib import Path

import torch

from minclip_kernels.bench import records
from minclip_kernels.bench.floors import data_sheet, predicted_ms
from minclip_kernels.bench.measure import Setting
from minclip_kernels.bench.peers import Contender
from minclip_kernels.bench.records import Row

SAME = ("loss", "dtype", "N", "D", "contender")  # rows of two runs that are compared


def align(lines: Sequence[Sequence[str]]) -> str:
    """Columns under each other; the first one to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def milliseconds(text: str) -> str:
    """`"1234.567"` -> `"1,235"`; three digits at least."""
    if not text:
        return ""
    value = float(text)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(rows: Sequence[Row], setting: Setting, contenders: Sequence[Contender], predict: str | None) -> str:
    """The contenders of one setting, the fastest first; the failed ones last. `predict`: a device of a data sheet."""
    here = [row for row in rows if setting.names().items() <= row.items()]
    here.sort(key=lambda row: (row["result"] != "measured", float(row["both_ms"] or 0)))
    gpu = data_sheet(predict or (here[0]["device"] if here else ""))
    head = ["", "forward ms", "backward", "both", "from–to", "rounds", "memory MB", "N²D flops", "TFLOP/s"]
    head += ["of floor", *(["predicted ms"] if gpu else []), "gradient"]
    lines = [head]
    work = {contender.name: contender.work for contender in contenders}
    predicted = {
        name: f"{predicted_ms(gpu, cost, setting.count, setting.width, getattr(torch, setting.dtype)):.3g}"
        for name, cost in work.items() if gpu
    }  # fmt: skip
    for row in here:
        spread = f"{milliseconds(row['lowest_ms'])}–{milliseconds(row['highest_ms'])}" if row["both_ms"] else ""
        line = [row["contender"], *(milliseconds(row[name]) for name in ("forward_ms", "backward_ms", "both_ms"))]
        line += [spread, row["rounds"], row["memory_mb"] or ("unknown" if row["both_ms"] else ""), row["flops"]]
        line += [row["tflops"], row["of_floor"], *([predicted[row["contender"]]] if gpu else [])]
        lines.append([*line, row["gate"] if row["result"] == "measured" else row["result"]])
    for name in predicted.keys() - {row["contender"] for row in here}:
        lines.append([name, *[""] * (len(head) - 3), predicted[name], "not measured"])
    return f"{setting}\n{align(lines)}"


def compare(first: Path, second: Path) -> str:
    """Both tables' times and memory, row by row, for what stands in both; of repeated rows the last one counts.

    Raises FileNotFoundError when one is not there, ValueError when nothing stands in both.
    """
    tables = []
    for path in (first, second):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such table; expected two CSV files of this benchmark")
        tables.append({tuple(row[name] for name in SAME): row for row in records.read(path)})
    shared = [key for key in tables[0] if key in tables[1]]
    if not shared:
        raise ValueError(f"{first} and {second} have no loss, dtype, N, D and contender in common: nothing to compare")
    lines = [["loss dtype N D contender", "A ms", "B ms", "B/A", "A MB", "B MB", "B/A"]]
    for key in shared:
        cells = []
        for name, shown in (("both_ms", milliseconds), ("memory_mb", str)):
            a, b = (table[key][name] for table in tables)
            cells += [shown(a), shown(b), f"{float(b) / float(a):.2f}" if a and b and float(a) else ""]
        lines.append([" ".join(key), *cells])
    return f"A: {first}\nB: {second}\n{align(lines)}"
