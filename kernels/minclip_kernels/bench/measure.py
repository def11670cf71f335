"""The contenders take turns at every setting, so that a busy minute affects all of them."""

import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from minclip_kernels.bench.gate import Failed
from minclip_kernels.bench.peers import Contender, Setting
from minclip_kernels.bench.records import LEAST_ROUNDS, MEASURED, Results, Row, identify
from minclip_kernels.bench.worker import RemoteWorker, Worker

MOST_ROUNDS = 15
SHORT_ROUND = 0.5  # seconds: all MOST_ROUNDS are made, whatever the time
NEEDS_NO_WARMING = 1000  # milliseconds: where all first runs take longer, they count as a round

Workers = dict[Contender, Worker | RemoteWorker]


def sweep(settings: Sequence[Setting], workers: Workers, results: Results, seconds: float) -> None:
    """Measure what the results lack, each setting for about `seconds`."""
    for setting in settings:
        missing = [c for c in workers if not (c.is_floor or results.find(setting, c))]
        if not missing:
            continue
        print(f"measuring {setting}", file=sys.stderr)
        turns = Turns(setting, {c: workers[c] for c in workers if c.is_floor or c in missing})
        try:
            turns.take(seconds)
        finally:  # an interruption keeps the rows that have enough rounds
            results.add(map(turns.row, turns.workers))


class Turns:
    """What has been measured at one setting so far."""

    def __init__(self, setting: Setting, workers: Workers) -> None:
        self.setting, self.workers = setting, workers
        self.gate: dict[Contender, str] = {}
        self.memory: dict[Contender, float | None] = {}
        self.rounds: list[dict[Contender, float]] = []  # milliseconds
        self.errors: dict[Contender, str] = {}

    def take(self, seconds: float) -> None:
        """Take turns for about `seconds`: LEAST_ROUNDS, and more where rounds are short."""
        end = time.monotonic() + seconds
        self.prepare()
        while len(self.rounds) < MOST_ROUNDS:
            begin = time.monotonic()
            self.rounds.append({})
            for contender in self.workers:
                if taken := self.ask(contender, "turn"):
                    self.rounds[-1][contender] = taken
            last = time.monotonic() - begin
            in_time = last < SHORT_ROUND or time.monotonic() + last < end
            if len(self.rounds) >= LEAST_ROUNDS and not in_time:
                break

    def prepare(self) -> None:
        """Check everything, load, compile and warm it up, and measure its peak memory."""
        warm = {}
        for contender in self.workers:
            self.gate[contender] = self.ask(contender, "check", self.setting) or ""
            if answer := self.ask(contender, "prepare", self.setting):
                self.memory[contender], warm[contender] = answer
        if min(warm.values(), default=0) > NEEDS_NO_WARMING:
            self.rounds.append(warm)

    def ask(self, contender: Contender, request: str, *arguments: Any) -> Any:
        """The answer, or None after a failure."""
        if contender in self.errors:
            return None
        answer = self.workers[contender].ask(request, *arguments)
        if isinstance(answer, Failed):
            self.errors[contender] = answer
            return None
        return answer

    def row(self, contender: Contender) -> Row:
        """The median and range of all rounds; the share of the floor is taken round by round."""
        row = identify(self.setting, contender)
        row |= {"gate": self.gate.get(contender), "result": self.errors.get(contender, MEASURED)}
        rounds = [times for times in self.rounds if contender in times]
        taken = [times[contender] for times in rounds]
        if contender in self.errors or not taken:
            return row
        median, flops = statistics.median(taken), row["flops"] * self.setting.N**2 * self.setting.D
        floor = next((other for other in self.workers if other.is_floor), contender)
        shares = [times[floor] / times[contender] for times in rounds if floor in times]
        numbers = {
            "both_ms": median,
            "lowest_ms": min(taken),
            "highest_ms": max(taken),
            "memory_mb": self.memory[contender],
            "tflops": flops / median / 1e9,
            "of_floor": statistics.median(shares) if shares else None,
        }
        row |= {name: value and float(f"{value:.6g}") for name, value in numbers.items()}
        return row | {"rounds": len(taken)}
