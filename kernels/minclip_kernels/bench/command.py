"""`minclip bench loss`, which is also `python -m minclip_kernels.bench`."""

import argparse
import sys
from collections.abc import Sequence
from itertools import chain, product
from pathlib import Path

import torch

from minclip_kernels.bench import records, report
from minclip_kernels.bench.gate import TOLERANCES
from minclip_kernels.bench.measure import Workers, sweep
from minclip_kernels.bench.peers import CONTENDERS, Contender, Setting
from minclip_kernels.bench.records import MEASURED, Results, Row
from minclip_kernels.bench.worker import KILLED, NEEDS_GPU, OUT_OF_MEMORY, RemoteWorker, Worker

DESCRIPTION = """Time and peak memory of a contrastive loss and its gradients, beside every
installed peer.

  minclip bench loss                                     CLIP's loss on this machine
  minclip bench loss --n 1024 65536 --dtype bfloat16     other sizes, another dtype
  minclip bench loss --loss siglip

First every contender passes a gate: its loss and gradients against float64. Then they take turns.
Each finished size is written to the CSV at once; the same command again measures only what is
missing there."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, default = parser.add_argument, " (default: %(default)s)"
    names = ", ".join(dict.fromkeys(contender.name for contender in CONTENDERS))
    sizes, out = [1024, 4096, 8192, 16384], Path("bench/loss.csv")
    add("--n", nargs="+", type=int, default=sizes, metavar="N", help="batch sizes" + default)
    add("--d", nargs="+", type=int, default=[512], metavar="D", help="feature widths" + default)
    dtypes = "dtypes of the features" + default
    add("--dtype", nargs="+", choices=TOLERANCES, default=["float32"], help=dtypes)
    add("--loss", choices=["clip", "siglip"], default="clip", help="loss to measure" + default)
    add("--contenders", nargs="+", metavar="NAME", help=f"contenders beside the floor, of: {names}")
    devices = ["auto", "cpu", "cuda"]
    add("--device", choices=devices, default="auto", help="device to measure on" + default)
    add("--seconds", type=float, default=60.0, help="approximate time for each size" + default)
    add("--out", type=Path, default=out, metavar="FILE.csv", help="table of results" + default)


def run(arguments: argparse.Namespace) -> int:
    """Return 1 if our own loss fails the gate, else 0. Raises ValueError for wrong arguments."""
    check(arguments)
    device = choose_device(arguments.device)
    chosen = choose_contenders(arguments.loss, arguments.contenders)
    settings = [
        Setting(arguments.loss, dtype, count, width, device)
        for count, dtype, width in product(sorted(arguments.n), arguments.dtype, arguments.d)
    ]
    workers = {c: RemoteWorker(c) if device == "cpu" else Worker(c) for c in chosen}
    return measure(settings, workers, arguments.out, arguments.seconds)


def measure(settings: Sequence[Setting], workers: Workers, path: Path, seconds: float) -> int:
    """Leave tables, CSV, JSON and figures, also when the user interrupts; see `run`."""
    results = Results(path)
    try:
        sweep(settings, workers, results, seconds)
    except KeyboardInterrupt:
        print("interrupted; the same command again measures what is missing", file=sys.stderr)
        raise
    finally:
        rows = show(settings, list(workers), results)
    excused = MEASURED, OUT_OF_MEMORY, KILLED, NEEDS_GPU
    ours = (row["result"] for row in rows if row["version"] == records.our_version())
    return int(not all(result.startswith(excused) for result in ours))


def show(
    settings: Sequence[Setting], contenders: Sequence[Contender], results: Results
) -> list[Row]:
    """Print a table of every setting, draw a figure of them all, and return their rows."""
    rows = {s: [row for c in contenders if (row := results.find(s, c))] for s in settings}
    for setting, here in rows.items():
        print(report.table(setting, here) if here else f"{setting}: nothing yet", end="\n\n")
    everything = list(chain(*rows.values()))
    if any(row["result"] == MEASURED for row in everything):
        packages = [contender.package for contender in contenders]
        description = records.describe(settings[0].device, packages)
        records.write_json(results.path.with_suffix(".json"), {"environment": description})
        report.draw(everything, results.path.with_suffix(".png"))
        print(f"{results.path}, and the environment as .json and a figure as .png beside it")
    return everything


def check(arguments: argparse.Namespace) -> None:
    numbers = {"--n": min(arguments.n), "--d": min(arguments.d), "--seconds": arguments.seconds}
    for option, value in numbers.items():
        if not value > 0:
            raise ValueError(f"{option} is {value}; it must be more than 0")
    if arguments.out.suffix != ".csv":
        raise ValueError(f"--out is {arguments.out}; its name must end in .csv")


def choose_device(name: str) -> str:
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError(f"--device is cuda, but torch {torch.__version__} finds no GPU; use cpu")
    return "cuda" if available and name != "cpu" else "cpu"


def choose_contenders(loss: str, names: Sequence[str] | None) -> list[Contender]:
    known = {contender.name: contender for contender in CONTENDERS if contender.loss == loss}
    for name in set(names or ()) - known.keys():
        raise ValueError(f"--contenders has {name!r}; for {loss} there are: {', '.join(known)}")
    return [c for name, c in known.items() if not names or name in names or c.is_floor]
