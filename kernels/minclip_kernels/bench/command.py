"""`minclip bench loss`: the contrastive losses beside every installed peer."""

import argparse
from itertools import product
from pathlib import Path

import torch

from minclip_kernels.bench.gate import TOLERANCES
from minclip_kernels.bench.measure import sweep
from minclip_kernels.bench.peers import CONTENDERS, Setting
from minclip_kernels.bench.worker import RemoteWorker, Worker

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
    counts, widths = "batch sizes (default: 1024 4096 8192 16384)", "feature widths (default: 512)"
    add("--n", nargs="+", type=int, default=sizes, metavar="N", help=counts)
    add("--d", nargs="+", type=int, default=[512], metavar="D", help=widths)
    dtypes = "dtypes of the features (default: float32)"
    add("--dtype", nargs="+", choices=TOLERANCES, default=["float32"], help=dtypes)
    add("--loss", choices=["clip", "siglip"], default="clip", help="loss to measure" + default)
    add("--contenders", nargs="+", metavar="NAME", help=f"contenders beside the floor, of: {names}")
    devices = ["auto", "cpu", "cuda"]
    add("--device", choices=devices, default="auto", help="device to measure on" + default)
    add("--seconds", type=float, default=60.0, help="approximate time for each size" + default)
    add("--out", type=Path, default=out, metavar="FILE.csv", help="table of results" + default)


def run(arguments: argparse.Namespace) -> int:
    """Return 1 if our own loss fails the gate, else 0. Raises ValueError for wrong arguments."""
    numbers = {"--n": min(arguments.n), "--d": min(arguments.d), "--seconds": arguments.seconds}
    for option, value in numbers.items():
        if not value > 0:
            raise ValueError(f"{option} is {value}; it must be more than 0")
    if arguments.out.suffix != ".csv":
        raise ValueError(f"--out is {arguments.out}; its name must end in .csv")
    device, loss, names = choose_device(arguments.device), arguments.loss, arguments.contenders
    known = {contender.name: contender for contender in CONTENDERS if contender.loss == loss}
    for name in set(names or ()) - known.keys():
        raise ValueError(f"--contenders has {name!r}; for {loss} there are: {', '.join(known)}")
    chosen = [c for name, c in known.items() if not names or name in names or c.is_floor]
    workers = [RemoteWorker(c) if device == "cpu" else Worker(c) for c in chosen]
    places = product(sorted(arguments.n), arguments.dtype, arguments.d)
    settings = [Setting(loss, dtype, N, D, device) for N, dtype, D in places]
    return sweep(settings, workers, arguments.out, arguments.seconds)


def choose_device(name: str) -> str:
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError(f"--device is cuda, but torch {torch.__version__} finds no GPU; use cpu")
    return "cuda" if available and name != "cpu" else "cpu"
