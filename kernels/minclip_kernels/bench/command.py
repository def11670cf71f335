"""What `python -m minclip_kernels.bench` and `minclip bench loss` do."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from minclip_kernels.bench import plots, records, report
from minclip_kernels.bench.floors import DATA_SHEETS
from minclip_kernels.bench.gate import TOLERANCES
from minclip_kernels.bench.measure import Setting
from minclip_kernels.bench.peers import CONTENDERS, Contender, contenders
from minclip_kernels.bench.sweep import Outcome, sweep

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in TOLERANCES}
DESCRIPTION = """Time and peak memory of the contrastive loss and its gradients, beside every peer that is installed.

  minclip bench loss                                     CLIP's loss on this machine
  minclip bench loss --n 1024 65536 --dtype bfloat16     other sizes, another dtype
  minclip bench loss --loss siglip
  minclip bench loss --compare before.csv after.csv      two runs side by side

First every contender passes a gate: value and gradients against float64. Then they take turns. Each finished size is
written to the CSV at once; the same command again measures only what is missing there."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--n", nargs="+", type=int, default=[1024, 4096, 8192, 16384], metavar="N", help="pairs in the batch")
    add("--d", nargs="+", type=int, default=[512], metavar="D", help="width of the features (default: 512)")
    add("--dtype", nargs="+", choices=DTYPES, default=["float32"], help="of the features (default: float32)")
    add("--loss", choices=["clip", "siglip"], default="clip")
    names = ", ".join(dict.fromkeys(repr(contender.name) for contender in CONTENDERS))
    add("--contenders", nargs="+", metavar="NAME", help=f"only these, and the floor; of {names}")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto")
    add("--minutes", type=float, default=7.0, help="to be done in, about (default: 7)")
    add("--out", type=Path, default=Path("bench/loss.csv"), metavar="FILE.csv", help="(default: bench/loss.csv)")
    add(
        "--predict", choices=DATA_SHEETS, metavar="GPU", help=f"its floor from the data sheet: {', '.join(DATA_SHEETS)}"
    )
    add("--compare", nargs=2, type=Path, metavar=("A.csv", "B.csv"), help="measure nothing, show two runs")


def run(arguments: argparse.Namespace) -> int:
    """Exit status: 0, or 1 when our own loss does not pass the gate. Raises ValueError for what cannot be measured."""
    if arguments.compare:
        print(report.compare(*arguments.compare))
        return 0
    check(arguments)
    device = choose_device(arguments.device)
    chosen = choose_contenders(arguments.loss, arguments.contenders)
    settings = [
        Setting(arguments.loss, dtype, width, count, device)
        for count in sorted(arguments.n) for dtype in arguments.dtype for width in arguments.d
    ]  # fmt: skip
    return measure_and_show(settings, chosen, arguments.out, arguments.minutes, arguments.predict)


def measure_and_show(
    settings: Sequence[Setting], chosen: Sequence[Contender], path: Path, minutes: float, predict: str | None = None,
    in_process: bool = False, gate_count: int | None = None,
) -> int:  # fmt: skip
    """Sweeps, and leaves table, CSV, JSON and pictures, also where the user interrupts."""
    outcome = Outcome()
    options = {} if gate_count is None else {"gate_count": gate_count}
    try:
        sweep(settings, chosen, path, minutes, outcome, in_process=in_process, **options)
    except KeyboardInterrupt:
        print(f"interrupted: what was measured is in {path}; the same command again goes on there", file=sys.stderr)
        raise
    finally:
        show(settings, chosen, path, outcome, predict)
    return int(outcome.ours_is_red)


def show(
    settings: Sequence[Setting], chosen: Sequence[Contender], path: Path, outcome: Outcome, predict: str | None
) -> None:
    wanted = {records.key(setting.identify(contender)) for setting in settings for contender in chosen}
    rows = [row for row in records.read(path) if records.key(row) in wanted]
    for setting in settings:
        if predict or any(setting.names().items() <= row.items() for row in rows):
            print(report.table(rows, setting, chosen, predict), end="\n\n")
    for setting in outcome.not_reached:
        print(f"no time left for {setting}: the same command again, or more --minutes")
    if not rows:
        return
    environment = records.describe(settings[0].device, [contender.package for contender in chosen])
    records.write_json(path.with_suffix(".json"), {"environment": environment, **asdict(outcome), "rows": rows})
    pictures = plots.draw(rows, path)
    print(f"{path}, {path.with_suffix('.json').name}, {', '.join(picture.name for picture in pictures)}")


def check(arguments: argparse.Namespace) -> None:
    for option, values in (("--n", arguments.n), ("--d", arguments.d)):
        for value in values:
            if value < 1:
                raise ValueError(f"{option} is {value}; it must be at least 1")
    if not arguments.minutes > 0:
        raise ValueError(f"--minutes is {arguments.minutes}; it must be more than 0")
    if arguments.out.suffix != ".csv":
        raise ValueError(f"--out is {arguments.out}; its name must end in .csv")
    records.read(arguments.out)  # a file of another kind is found before anything is measured


def choose_device(name: str) -> str:
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError(f"--device cuda: torch {torch.__version__} finds no GPU here; take cpu")
    return "cuda" if available and name != "cpu" else "cpu"


def choose_contenders(loss: str, names: Sequence[str] | None) -> list[Contender]:
    everyone = contenders(loss)
    for name in names or ():
        if name not in {contender.name for contender in everyone}:
            known = ", ".join(contender.name for contender in everyone)
            raise ValueError(f"--contenders has {name!r}, which does not compute the {loss} loss; there are: {known}")
    return [contender for contender in everyone if not names or contender.name in names or contender.is_floor]


def main(
    description: str, add: Callable[[argparse.ArgumentParser], None], command: Callable[[argparse.Namespace], int]
) -> int:
    """A command without minclip: parses the arguments, and says in one line what was wrong with them."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add(parser)
    try:
        return command(parser.parse_args())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
