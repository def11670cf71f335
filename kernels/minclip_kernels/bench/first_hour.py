"""`minclip bench first-hour`: what to measure on a new GPU, in the order that decides most."""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import torch

from minclip_kernels import custom_op, fused_clip_loss
from minclip_kernels.bench import records, report
from minclip_kernels.bench.command import choose_device
from minclip_kernels.bench.measure import sweep
from minclip_kernels.bench.peers import CONTENDERS, OURS, Contender, Setting
from minclip_kernels.bench.records import Row
from minclip_kernels.bench.worker import Worker

DESCRIPTION = """The first minutes with a new GPU: kernels, options, a sweep, and tiles.

Run pytest -m cuda first. Each step leaves its results in a file; the same command again measures
only what is missing there. Predicted times are labelled; all others were measured."""

# torch.compile compiles anew for every size, and our torch back-end has small tiles.
TOO_SLOW = "arange, torch.compile", "fused, torch"
DTYPES = "bfloat16", "float32"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, out, default = parser.add_argument, Path("bench/first-hour"), " (default: %(default)s)"
    add("--minutes", type=float, default=10.0, help="approximate time of all steps" + default)
    add("--out", type=Path, default=out, metavar="FOLDER", help="folder of the results" + default)
    dry_run = "every step at tiny sizes on the CPU, which needs TRITON_INTERPRET=1"
    add("--dry-run", action="store_true", help=dry_run)


def run(arguments: argparse.Namespace) -> int:
    """Return 1 if our loss fails the gate, else 0. Raises ValueError where there is no GPU."""
    dry, folder = arguments.dry_run, arguments.out
    device = choose_device("cpu" if dry else "cuda")
    custom_op.choose_backend("triton", torch.empty(1, 1, device=device))  # says why not
    from minclip_kernels.bench import tune  # imported here because Triton may be missing

    end = time.monotonic() + 60 * arguments.minutes
    seconds = 0.0 if dry else 60 * arguments.minutes
    step = partial(take_step, folder, device, end)
    large = Setting("clip", "bfloat16", *((130, 64) if dry else (2**15, 512)), device)
    print("The step before this one: pytest -m cuda")
    step("kernels", partial(tune.beside_predictions, large))
    chunks = map(in_chunks, (128, 256) if dry else (2**13, 2**14, 2**15))
    status = sweep([large], list(map(Worker, chunks)), folder / "options.csv", 0.1 * seconds, end)
    counts, widths = ((16,), (16,)) if dry else ([2**k for k in range(10, 17)], (512, 768))
    settings = [Setting("clip", *place, device) for place in product(DTYPES, counts, widths)]
    peers = [c for c in CONTENDERS if c.loss == "clip" and c.name not in TOO_SLOW]
    workers = [Worker(peer) for peer in peers if not (dry and peer.needs_gpu)]
    each, last = 0.5 * seconds / len(settings), end - 0.25 * seconds
    status |= sweep(settings, workers, folder / "loss.csv", each, last)
    for loss, dtype in product(tune.KERNELS, DTYPES):
        setting = Setting(loss, dtype, *((8, 64) if dry else (2**14, 512)), device)
        candidates = tune.CANDIDATES[: 1 if dry else None]
        step(f"tiles-{loss}-{dtype}", partial(tune.trials, setting, candidates))
    return status


def in_chunks(size: int) -> Contender:
    """Our loss on the GPU with chunks of another size."""
    loss = partial(fused_clip_loss, backend="triton", chunk_size=size)
    return Contender(f"chunk_size = {size:,}", "clip", loss, 8, OURS)


def take_step(
    folder: Path, device: str, end: float, name: str, measure: Callable[[], list[Row]]
) -> None:
    """Print the rows of a step, measured now or in an earlier run."""
    path = folder / f"{name}.json"
    content: Row = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    here = records.environment(device) | {"version": records.our_version()}
    if any(content.get(key) != here[key] for key in ("device", "torch", "triton", "version")):
        if time.monotonic() > end:
            print(f"{name}: no time is left; the same command again goes on here")
            return
        content = here | {"rows": measure()}
        records.write_json(path, content)
    print(f"{name}, on {here['device']}", report.table(content["rows"]), "", sep="\n")
