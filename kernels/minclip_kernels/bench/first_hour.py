"""`minclip bench first-hour`: what to run first on a new GPU."""

import argparse
from itertools import product
from pathlib import Path

import torch

from minclip_kernels import clip_loss
from minclip_kernels.bench.command import choose_device, measure
from minclip_kernels.bench.peers import CONTENDERS, Setting
from minclip_kernels.bench.worker import Worker

DESCRIPTION = """The first hour with a new GPU: the sweep over sizes, then the best tiles.

Run pytest -m cuda before it. Leaves loss.csv, loss.json, loss.png and tiles.txt. The same command
again measures only what is missing in the CSV."""

# torch.compile compiles anew for every size, and our torch back-end has small tiles.
TOO_SLOW = "arange, torch.compile", "fused, torch"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, out = parser.add_argument, Path("bench/first-hour")
    add("--out", type=Path, default=out, metavar="FOLDER", help="results (default: %(default)s)")
    dry_run = "every step at tiny sizes on the CPU, which needs TRITON_INTERPRET=1"
    add("--dry-run", action="store_true", help=dry_run)


def run(arguments: argparse.Namespace) -> int:
    """Return 1 if our loss fails the gate, else 0. Raises ValueError where there is no GPU."""
    dry = arguments.dry_run
    device = choose_device("cpu" if dry else "cuda")
    clip_loss.choose_tiles("triton", torch.empty(1, 1, device=device))  # says why not
    from minclip_kernels.bench.tune import (
        CANDIDATES,
        tune,
    )  # imported here because Triton may be missing

    counts, widths = ((16, 40), (16,)) if dry else ([2**k for k in range(10, 19)], (512, 768))
    settings = [
        Setting("clip", dtype, count, width, device)
        for count, dtype, width in product(counts, ("bfloat16", "float32"), widths)
    ]
    contenders = [c for c in CONTENDERS if c.loss == "clip" and c.name not in TOO_SLOW]
    if dry:
        contenders = [c for c in contenders if c.name in ("bare products, 4", "arange")]
    path = arguments.out / "loss.csv"
    status = measure(settings, {c: Worker(c) for c in contenders}, path, 0.0 if dry else 10.0)
    tuned = [
        Setting("clip", dtype, 8 if dry else 16384, widths[0], device)
        for dtype in ("bfloat16", "float32")
    ]
    lines = [line for setting in tuned for line in tune(setting, CANDIDATES[: 1 if dry else None])]
    (arguments.out / "tiles.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(*lines, sep="\n")
    return status
