"""The contenders take turns at every setting, so that a busy minute affects all of them."""

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from minclip_kernels.bench import records, report
from minclip_kernels.bench.gate import Failed
from minclip_kernels.bench.peers import Setting
from minclip_kernels.bench.records import MEASURED, Row
from minclip_kernels.bench.worker import KILLED, NEEDS_GPU, OUT_OF_MEMORY, Worker

LEAST_ROUNDS, MOST_ROUNDS = 3, 15  # Fewer than the least mean that it was interrupted.
NEEDS_NO_WARMING = 1000  # milliseconds: where all first runs take longer, they count as a round
EXCUSED = MEASURED, OUT_OF_MEMORY, KILLED, NEEDS_GPU  # results of a loss that is not wrong


@dataclass
class Entry:
    """One contender at one setting, and what has been measured of it so far."""

    worker: Worker
    row: Row  # without the numbers that `summarize` adds
    memory: float | None = None  # MB
    times: list[float] = field(default_factory=list)  # milliseconds, one for each round

    @property
    def is_floor(self) -> bool:
        return self.worker.contender.is_floor

    @property
    def is_finished(self) -> bool:
        return self.row["result"] != MEASURED or len(self.times) >= LEAST_ROUNDS

    def summarize(self, floor: Sequence[float]) -> Row:
        """The row with median and range; the share of the floor is taken round by round."""
        if self.row["result"] != MEASURED:
            return self.row
        median = statistics.median(self.times)
        shares = [least / own for least, own in zip(floor, self.times, strict=False)]
        numbers = {
            "both_ms": median,
            "lowest_ms": min(self.times),
            "highest_ms": max(self.times),
            "memory_mb": self.memory,
            "tflops": self.row["flops"] * self.row["N"] ** 2 * self.row["D"] / median / 1e9,
            "of_floor": statistics.median(shares) if shares else None,
        }
        rounded = {name: value and float(f"{value:.6g}") for name, value in numbers.items()}
        return self.row | rounded | {"rounds": len(self.times)}


def sweep(
    settings: list[Setting], workers: list[Worker], path: Path, seconds: float, end: float = inf
) -> int:
    """Measure what the CSV lacks, each setting for about `seconds`, and print its rows.

    Leaves the environment as JSON beside the CSV.
    end: the time (of time.monotonic) after which nothing new is begun.
    Returns 1 if our own loss fails the gate, else 0.
    """
    packages = tuple(worker.contender.package for worker in workers)
    environment = records.environment(settings[0].device, packages)
    records.write_json(path.with_suffix(".json"), {"environment": environment})
    table, results = {records.key(row): row for row in records.read(path)}, []
    for setting in settings:
        entries = [Entry(w, records.new_row(setting, w.contender)) for w in workers]
        needed = [e for e in entries if e.is_floor or records.key(e.row) not in table]
        if not all(e.is_floor for e in needed) and time.monotonic() < end:
            print(f"measuring {setting}", file=sys.stderr)
            try:
                take_turns(needed, setting, seconds)
            finally:  # An interruption keeps the rows that have enough rounds.
                floor = next((e.times for e in needed if e.is_floor), [])
                new = {records.key(e.row): e.summarize(floor) for e in needed if e.is_finished}
                table = table | new | table  # A floor that was there stays as it was.
                records.write(path, table.values())
        found = [table[key] for e in entries if (key := records.key(e.row)) in table]
        print(report.losses(setting, found), end="\n\n")
        results += [r["result"] for r in found if r["version"] == records.our_version()]
    print(f"{path} holds all rows; python kernels/results/figures.py {path} draws them")
    return int(not all(result.startswith(EXCUSED) for result in results))


def take_turns(entries: Sequence[Entry], setting: Setting, seconds: float) -> None:
    """Check and prepare all contenders, then let them take turns for about `seconds`."""
    for entry in entries:
        answer = entry.worker.ask("prepare", setting)
        if isinstance(answer, Failed):
            entry.row["result"] = answer
        else:
            entry.row["gate"], entry.memory, first = answer
            entry.times.append(first)
    if any(entry.times[0] < NEEDS_NO_WARMING for entry in entries if entry.times):
        for entry in entries:
            entry.times.clear()
    start = last = time.monotonic()
    for _ in range(MOST_ROUNDS):
        for entry in entries:
            if entry.row["result"] == MEASURED:
                answer = entry.worker.ask("turn")
                if isinstance(answer, Failed):
                    entry.row["result"] = answer
                else:
                    entry.times.append(answer)
        before, last = last, time.monotonic()
        if all(entry.is_finished for entry in entries) and 2 * last - before > start + seconds:
            break
