"""The contenders take turns at every setting, so that a busy minute affects all of them."""

import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from minclip_kernels.bench import records, report
from minclip_kernels.bench.gate import Failed
from minclip_kernels.bench.peers import Contender, Setting
from minclip_kernels.bench.records import MEASURED, Row
from minclip_kernels.bench.worker import RemoteWorker, Worker

LEAST_ROUNDS, MOST_ROUNDS = 3, 15  # Fewer than the least mean that it was interrupted.
NEEDS_NO_WARMING = 1000  # milliseconds: where all first runs take longer, they count as a round

Workers = Mapping[Contender, Worker | RemoteWorker]


def sweep(
    settings: Sequence[Setting], workers: Workers, path: Path, seconds: float, end: float = math.inf
) -> list[Row]:
    """Measure what the CSV lacks, each setting for about `seconds`; print and return its rows.

    end: the time (of time.monotonic) after which nothing new is begun.
    """
    rows, shown = records.read(path), []
    for setting in settings:
        missing = [c for c in workers if not (c.is_floor or records.find(rows, setting, c))]
        if missing and time.monotonic() < end:
            print(f"measuring {setting}", file=sys.stderr)
            taken = {c: Taken() for c in workers if c.is_floor or c in missing}
            try:
                take_turns(setting, workers, taken, seconds)
            finally:  # An interruption keeps the rows that have enough rounds.
                floor = next((of for c, of in taken.items() if c.is_floor), Taken())
                finished = ((c, of) for c, of in taken.items() if of.is_finished)
                new = [summarize(setting, c, of, floor) for c, of in finished]
                rows = records.add(path, rows, new)
        found = [row for c in workers if (row := records.find(rows, setting, c))]
        print(report.losses(setting, found), end="\n\n")
        shown += found
    return shown


@dataclass
class Taken:
    """What has been measured of one contender at one setting so far."""

    gate: str = ""
    memory: float | None = None  # MB
    times: list[float] = field(default_factory=list)  # milliseconds, one for each round
    result: str = MEASURED  # or what went wrong

    @property
    def is_finished(self) -> bool:
        return self.result != MEASURED or len(self.times) >= LEAST_ROUNDS


def take_turns(
    setting: Setting, workers: Workers, taken: dict[Contender, Taken], seconds: float
) -> None:
    """Check and prepare all contenders, then let them take turns for about `seconds`."""
    for contender, of in taken.items():
        answer = workers[contender].ask("prepare", setting)
        if isinstance(answer, Failed):
            of.result = answer
        else:
            of.gate, of.memory, first = answer
            of.times.append(first)
    if any(of.times[0] < NEEDS_NO_WARMING for of in taken.values() if of.times):
        for of in taken.values():
            of.times.clear()
    start = last = time.monotonic()
    for _ in range(MOST_ROUNDS):
        for contender, of in taken.items():
            if of.result == MEASURED:
                answer = workers[contender].ask("turn")
                if isinstance(answer, Failed):
                    of.result = answer
                else:
                    of.times.append(answer)
        before, last = last, time.monotonic()
        if all(of.is_finished for of in taken.values()) and 2 * last - before > start + seconds:
            break


def summarize(setting: Setting, contender: Contender, taken: Taken, floor: Taken) -> Row:
    """The median and range of all rounds; the share of the floor is taken round by round."""
    row = records.identify(setting, contender) | {"gate": taken.gate, "result": taken.result}
    if taken.result != MEASURED:
        return row
    median = statistics.median(taken.times)
    shares = [least / own for least, own in zip(floor.times, taken.times, strict=False)]
    numbers = {
        "both_ms": median,
        "lowest_ms": min(taken.times),
        "highest_ms": max(taken.times),
        "memory_mb": taken.memory,
        "tflops": contender.flops(setting) * setting.N**2 * setting.D / median / 1e9,
        "of_floor": statistics.median(shares) if shares else None,
    }
    row |= {name: value and float(f"{value:.6g}") for name, value in numbers.items()}
    return row | {"rounds": len(taken.times)}
