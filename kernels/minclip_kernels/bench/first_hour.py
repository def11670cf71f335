"""`minclip bench first-hour`: what to measure on a new GPU, in the order that decides most."""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch.utils.benchmark import Timer

from minclip_kernels import custom_op
from minclip_kernels.bench import floors, records, report
from minclip_kernels.bench.command import choose_device, measure
from minclip_kernels.bench.peers import CONTENDERS, Setting
from minclip_kernels.bench.records import Row
from minclip_kernels.bench.worker import Worker, peak, reset_peak

DESCRIPTION = """The first minutes with a new GPU: kernels, options, a sweep and tiles.

Run pytest -m cuda first. Each step leaves its results in a file; the same command again measures
only what is missing there."""

# torch.compile compiles anew for every size, and our torch back-end has small tiles.
TOO_SLOW = "arange, torch.compile", "fused, torch"
KEEP_ALL = 2**31  # bytes, 2 N² at N = 32,768


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, out, default = parser.add_argument, Path("bench/first-hour"), " (default: %(default)s)"
    add("--minutes", type=float, default=10.0, help="approximate time of all steps" + default)
    add("--out", type=Path, default=out, metavar="FOLDER", help="folder of the results" + default)
    dry_run = "every step at tiny sizes on the CPU, which needs TRITON_INTERPRET=1"
    add("--dry-run", action="store_true", help=dry_run)


def run(arguments: argparse.Namespace) -> int:
    """Return 1 if our loss fails the gate, else 0. Raises ValueError where there is no GPU."""
    if not arguments.minutes > 0:
        raise ValueError(f"--minutes is {arguments.minutes}; it must be more than 0")
    dry, end = arguments.dry_run, time.monotonic() + 60 * arguments.minutes
    device = choose_device("cpu" if dry else "cuda")
    custom_op.choose_backend("triton", torch.empty(1, 1, device=device))  # says why not
    from minclip_kernels.bench import tune  # imported here because Triton may be missing

    step = partial(take_step, arguments.out, device, end)
    setting = Setting("clip", "bfloat16", *((160, 64) if dry else (2**15, 512)), device)
    print("The step before this one: pytest -m cuda")
    step("kernels", lambda: kernels(setting))
    sizes = (128, setting.N) if dry else (2**12, 2**13, 2**14, setting.N)
    step("chunks", lambda: options(setting, "chunk_size", sizes))
    step("memory", lambda: options(setting, "memory", (0, KEEP_ALL)))
    status = sweep(arguments.out / "loss.csv", device, dry, end)
    for loss, dtype in product(tune.KERNELS, ("bfloat16", "float32")):
        setting = Setting(loss, dtype, *((8, 64) if dry else (2**14, 512)), device)
        candidates = tune.CANDIDATES[: 1 if dry else None]
        if rows := step(f"tiles-{loss}-{dtype}", partial(tune.trials, setting, candidates)):
            print(*tune.source(setting, rows), sep="\n")
    return status


def take_step(
    folder: Path, device: str, end: float, name: str, measure: Callable[[], list[Row]]
) -> list[Row]:
    """Print and return the rows of a step, measured now or in an earlier run."""
    path = folder / f"{name}.json"
    content: Row = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    here = records.environment(device) | {"version": records.our_version()}
    if any(content.get(key) != here[key] for key in ("device", "torch", "triton", "version")):
        if time.monotonic() > end:
            print(f"{name}: no time is left; the same command again goes on here")
            return []
        content = here | {"rows": measure()}
        records.write_json(path, content)
    print(f"\n{name}, on {here['device']}", report.table(content["rows"]), sep="\n")
    return content["rows"]


def kernels(setting: Setting) -> list[Row]:
    """Each kernel and each product by itself, the slowest first, beside its prediction."""
    from minclip_kernels.bench import tune

    blockings = [tune.choose(kernel, setting) for kernel in floors.KERNELS]
    tiles = [(blocking.block_m, blocking.block_n) for blocking in blockings]
    gpu = floors.find(records.environment(setting.device)["device"])
    predicted = floors.predict(gpu, setting.N, setting.D, tiles) if gpu else {}
    siglip = tune.kernel_times(tune.gradients(replace(setting, loss="siglip")))
    times = siglip | tune.kernel_times(tune.gradients(setting))
    return [
        {"": name, "ms": ms, **floors.compare(predicted.get(name, {}), ms)}
        for name, ms in sorted(times.items(), key=lambda item: -item[1])
    ]


def options(setting: Setting, name: str, values: Sequence[int]) -> list[Row]:
    """Time and memory of our loss and its gradients with each value of one option."""
    from minclip_kernels.bench import tune

    rows = []
    for value in values:
        run = tune.gradients(setting, **{name: value})
        run()
        before, _, after = reset_peak(setting.device), run(), peak(setting.device)
        memory = None if before is None or after is None else after - before
        rows.append({name: f"{value:,}", "ms": milliseconds(run), "MB above features": memory})
    return rows


def milliseconds(run: Callable[[], object]) -> float:
    """The median time of a run."""
    return 1e3 * Timer("run()", globals={"run": run}).blocked_autorange(min_run_time=0.2).median


def sweep(path: Path, device: str, dry: bool, end: float) -> int:
    """Measure the losses in most of the time that is left; see `command.measure`."""
    counts, widths = ((16, 40), (16,)) if dry else ([2**k for k in range(10, 17)], (512, 768))
    settings = [
        Setting("clip", dtype, count, width, device)
        for dtype, width, count in product(("bfloat16", "float32"), widths, counts)
    ]
    contenders = [c for c in CONTENDERS if c.loss == "clip" and c.name not in TOO_SLOW]
    if dry:
        contenders = [c for c in contenders if c.is_floor or c.name == "arange"]
    left = max(0.0, end - time.monotonic())
    seconds = 0.0 if dry else 0.7 * left / len(settings)
    return measure(settings, {c: Worker(c) for c in contenders}, path, seconds, end - 0.3 * left)
