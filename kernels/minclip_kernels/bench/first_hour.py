"""What to run first on a new GPU: python -m minclip_kernels.bench.first_hour, or minclip bench first-hour."""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from minclip_kernels import clip_loss
from minclip_kernels.bench.command import choose_device

from minclip_kernels.bench.peers import find
from minclip_kernels.bench.records import Results, Setting
from minclip_kernels.bench.tune import tune

DESCRIPTION = """The first hour with a new GPU, in ten minutes: gate, sweep, the best tiles, pictures.

Leaves loss.csv, loss.json, three pictures and tiles.txt, whose lines belong in tiles_triton.choose_blocking.
Nothing new is begun when ten minutes are nearly over; the same command again goes on where it stopped."""


@dataclass(frozen=True)
class Plan:
    counts: tuple[int, ...]
    widths: tuple[int, ...]
    dtypes: tuple[str, ...]
    tune_count: int
    gate_count: int
    sweep_minutes: float
    all_minutes: float
    names: tuple[str, ...]  # of the contenders


# Without what would take the time: torch.compile, anew for each size, and the small tiles of our torch back-end.
PEERS = ("arange", "one-hot", "open_clip", "memeff", "inf_cl")
FULL = Plan(
    tuple(2**k for k in range(10, 19)),
    (512, 768),
    ("bfloat16", "float32"),
    16384,
    1100,
    6.5,
    9.5,
    ("bare products, 4", "fused, triton", *PEERS),
)
DRY = Plan(
    (16, 40),
    (16,),
    ("bfloat16", "float32"),
    8,
    20,
    0.1,
    0.1,
    ("bare products, 4", "fused, torch", "arange"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("bench/first-hour"),
        metavar="FOLDER",
        help="(default: bench/first-hour)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="every step at tiny sizes on the CPU; needs TRITON_INTERPRET=1",
    )


def run(arguments: argparse.Namespace) -> int:
    """Exit status 1 when our loss does not pass the gate. Raises ValueError where there is no GPU."""
    start = time.monotonic()
    plan = DRY if arguments.dry_run else FULL
    device = choose_device("cpu" if arguments.dry_run else "cuda")
    clip_loss.choose_tiles(
        "triton", torch.empty(1, 1, device=device)
    )  # says why not, before anything is measured
    chosen = [find("clip", name) for name in plan.names]
    settings = [
        Setting("clip", dtype, width, count, device)
        for count in plan.counts for dtype in plan.dtypes for width in plan.widths
    ]  # fmt: skip
    results = Results(arguments.out / "loss.csv")
    sweep = Sweep(settings, chosen, results, in_process=True, gate_count=plan.gate_count)
    status = measure_and_show(sweep, 10)
    lines = []
    seconds = 60 * plan.all_minutes - (time.monotonic() - start)
    for line in tune(plan.dtypes, plan.widths[0], plan.tune_count, device, seconds):
        print(line, flush=True)
        lines.append(line)
    (arguments.out / "tiles.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{arguments.out / 'tiles.txt'}; {(time.monotonic() - start) / 60:.1f} minutes in all")
    return status
