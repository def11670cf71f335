"""The contenders take turns, again and again, so that a busy minute of the machine hits all of them."""

import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from minclip_kernels.bench.peers import Contender
from minclip_kernels.bench.records import TIMES, Row, environment, version_of
from minclip_kernels.bench.worker import OUT_OF_MEMORY, Remote, Worker

MOST_ROUNDS = 15
SHORT_ROUND = 0.5  # seconds: all of these are made, whatever their share of the time
NEEDS_NO_WARMING = 1000  # ms: where every first turn takes longer than this, it counts


@dataclass(frozen=True)
class Setting:
    loss: str
    dtype: str
    width: int
    count: int
    device: str

    @property
    def cost(self) -> float:
        """Roughly in proportion to the time that one round takes."""
        slow = 8 if self.dtype == "float32" and self.device != "cpu" else 1
        return slow * (self.count**2 * self.width + 2**20 * 512)  # a small one is more than its products

    def __str__(self) -> str:
        return f"{self.loss}, {self.dtype}, N = {self.count:,}, D = {self.width}"

    def names(self) -> Row:
        return {"loss": self.loss, "dtype": self.dtype, "N": str(self.count), "D": str(self.width)}

    def identify(self, contender: Contender) -> Row:
        row = {
            **self.names(),
            "contender": contender.name,
            "version": version_of(contender),
            **environment(self.device),
        }
        return row | {"flops": f"{contender.flops(self.count, self.width):.3g}"}


class Crew:
    """The workers of one loss: on a CPU each in a process of its own, on a GPU all in this one."""

    def __init__(self, device: str, in_process: bool = False) -> None:
        self.device, self.in_process = device, in_process or device != "cpu"
        self.workers: dict[Contender, Remote | Worker] = {}

    def ask(self, contender: Contender, request: str, **arguments: Any) -> dict[str, Any]:
        if contender not in self.workers:
            self.workers[contender] = Worker(contender, self.device) if self.in_process else Remote(contender)
        answer = self.workers[contender].ask(request, **arguments)
        if "error" in answer:  # what failed may have left anything behind: the next request starts afresh
            self.dismiss(contender)
        return answer

    def dismiss(self, contender: Contender) -> None:
        self.workers.pop(contender).close()

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_) -> None:
        for contender in list(self.workers):
            self.dismiss(contender)


def free_memory() -> float | None:
    """Bytes that a program may still take on this machine, or None where nobody can say."""
    try:
        match = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None


def too_large(contender: Contender, setting: Setting) -> str | None:
    """Out of memory without trying: on a CPU the system might end another program for it."""
    free = free_memory() if setting.device == "cpu" else None
    values = contender.work.matrices * setting.count**2 + 6 * setting.count * setting.width
    needed = values * getattr(torch, setting.dtype).itemsize
    return f"{OUT_OF_MEMORY} (needs about {needed / 1e9:.0f} GB)" if free and needed > 0.9 * free else None


@contextmanager
def progress(what: str, total: int) -> Iterator[tqdm]:
    with tqdm(
        desc=what, total=total, leave=False, disable=not sys.stderr.isatty(), bar_format="{desc} |{bar}| {postfix}"
    ) as bar:
        yield bar


def measure(
    setting: Setting, contenders: list[Contender], crew: Crew, gates: dict[Contender, str], seconds: float,
    keep: Callable[[list[Row]], None],
) -> float:  # fmt: skip
    """Measures all contenders in about `seconds`, at least once and more often where that is short.

    Returns the seconds that one run of each takes. Hands the rows to `keep`, also where the user interrupts: then those
    that have had a turn.
    """
    start, done = time.monotonic(), 0
    answers: dict[Contender, dict[str, Any]] = {}
    turns: dict[Contender, list[dict[str, float]]] = {contender: [] for contender in contenders}
    shape = {"dtype": setting.dtype, "width": setting.width, "count": setting.count}
    try:
        with progress(str(setting), len(contenders)) as bar:
            for contender in contenders:
                bar.set_postfix_str(f"{contender.name}: warming up, memory")
                too_big = too_large(contender, setting)
                answers[contender] = {"error": too_big} if too_big else crew.ask(contender, "prepare", **shape)
                bar.update()
        running = [contender for contender in contenders if "error" not in answers[contender]]
        if min((answers[contender]["both"] for contender in running), default=0) > NEEDS_NO_WARMING:
            for contender in running:
                turns[contender].append(answers[contender])
        last = sum(answers[contender]["both"] for contender in running) / 1e3  # seconds of a round
        with progress(str(setting), MOST_ROUNDS * len(running)) as bar:
            while done < MOST_ROUNDS and (
                not any(turns.values()) or last < SHORT_ROUND or time.monotonic() - start + last < seconds
            ):
                began, done = time.monotonic(), done + 1
                for contender in list(running):
                    bar.set_postfix_str(f"{contender.name}: round {done}")
                    turn = crew.ask(contender, "turn")
                    if "error" in turn:
                        answers[contender] = turn
                        running.remove(contender)
                    else:
                        turns[contender].append(turn)
                    bar.update()
                last = time.monotonic() - began
    finally:
        keep(rows(setting, answers, turns, gates))
    return sum(statistics.median(turn["both"] for turn in some) for some in turns.values() if some) / 1e3


def rows(
    setting: Setting, answers: dict[Contender, dict[str, Any]], turns: dict[Contender, list[dict[str, float]]],
    gates: dict[Contender, str],
) -> list[Row]:  # fmt: skip
    """A row for each contender that has had a turn, or has failed."""
    floor = next((turns[contender] for contender in turns if contender.is_floor), [])
    result = []
    for contender, answer in answers.items():
        row = dict.fromkeys((*TIMES, "memory_mb", "tflops", "of_floor"), "")
        row |= {"gate": gates[contender], "result": "measured"}
        if "error" in answer:
            row["result"] = answer["error"]
        elif turns[contender]:
            row |= summarize(setting, contender, turns[contender], floor)
            row["memory_mb"] = "" if answer["memory_mb"] is None else f"{answer['memory_mb']:.1f}"
        else:
            continue
        result.append(setting.identify(contender) | row)
    return result


def summarize(
    setting: Setting, contender: Contender, turns: list[dict[str, float]], floor: list[dict[str, float]]
) -> Row:
    """Medians, and the share of the floor as the median over rounds."""
    both = [turn["both"] for turn in turns]
    median = statistics.median(both)
    flops = contender.flops(setting.count, setting.width) * setting.count**2 * setting.width
    row = {
        "forward_ms": f"{statistics.median(turn['forward'] for turn in turns):.3f}",
        "backward_ms": f"{statistics.median(turn['both'] - turn['forward'] for turn in turns):.3f}",
        "both_ms": f"{median:.3f}",
        "lowest_ms": f"{min(both):.3f}",
        "highest_ms": f"{max(both):.3f}",
        "rounds": str(len(both)),
        "tflops": f"{flops / median / 1e9:.3g}",
    }
    if floor:  # an interrupted last round may have reached only some
        shares = [least["both"] / own for least, own in zip(floor, both, strict=False)]
        row["of_floor"] = f"{statistics.median(shares):.3f}"
    return row
