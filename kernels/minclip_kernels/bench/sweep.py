"""All settings one after the other within a given time: gate, measurement, a row in the CSV at once."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minclip_kernels.bench import gate, records
from minclip_kernels.bench.measure import Crew, Setting, measure
from minclip_kernels.bench.peers import Contender

Gates = dict[tuple[str, int, Contender], dict[str, Any]]  # by dtype and D: what `Worker.check` said


@dataclass
class Outcome:
    """What a sweep leaves beside the rows in its CSV."""

    left_out: dict[str, str] = field(default_factory=dict)  # contender: why
    not_reached: list[str] = field(default_factory=list)  # settings for which there was no time
    ours_is_red: bool = False

    def leave_out(self, contender: Contender, why: str) -> None:
        if self.left_out.get(contender.name) != why:
            self.left_out[contender.name] = why
            print(f"left out: {contender.name}: {why}", file=sys.stderr)


def sweep(
    settings: Sequence[Setting], contenders: Sequence[Contender], path: Path, minutes: float, outcome: Outcome,
    in_process: bool = False, gate_count: int = gate.COUNT,
) -> None:  # fmt: skip
    """Measures `settings`, which differ in N, D or dtype, and adds what is new to the CSV `path`.

    The time that is left is shared out, more to the longer ones, but more rounds to the shorter ones; a setting that
    would not fit in what is left, going by those before it, is not begun. `outcome` is filled on the way.
    """
    end = time.monotonic() + 60 * minutes
    gates = Gates()
    seconds_per_cost = 0.0
    left = list(settings)
    with Crew(settings[0].device, in_process) as crew:
        while left:
            setting, share = left[0], left[0].cost ** 0.5 / sum(other.cost**0.5 for other in left)
            left.pop(0)
            done = {records.key(row) for row in records.read(path)}
            new = [c for c in contenders if records.key(setting.identify(c)) not in done]
            todo = [c for c in _ready(contenders, setting, crew, gates, outcome, gate_count) if c in new or c.is_floor]
            if not any(contender in new for contender in todo):
                continue
            begin = time.monotonic()
            if setting.cost * seconds_per_cost > max(0.0, end - begin):
                outcome.not_reached.append(str(setting))
                continue
            notes = {contender: gates[setting.dtype, setting.width, contender]["note"] for contender in todo}

            def keep(rows: list[records.Row], done: set[tuple[str, ...]] = done) -> None:
                records.append(path, [row for row in rows if records.key(row) not in done])

            once = measure(setting, todo, crew, notes, share * (end - begin), keep)
            seconds_per_cost = 2 * once / setting.cost  # two runs at least


def _ready(
    contenders: Sequence[Contender], setting: Setting, crew: Crew, gates: Gates, outcome: Outcome, count: int
) -> list[Contender]:
    """Those that can run in this setting and have passed the gate; the others are named once, with the reason."""
    ready = []
    for contender in contenders:
        place = setting.dtype, setting.width, contender
        why = contender.obstacle(setting.device, setting.width)
        if not why and place not in gates:
            gates[place] = {"passed": True, "note": "not a loss"} if contender.is_floor else crew.ask(
                contender, "check", dtype=setting.dtype, width=setting.width, count=count
            )  # fmt: skip
        if not why and not gates[place].get("passed"):
            what = gates[place].get("error") or gates[place]["note"]
            why = f"the gate is red in {setting.dtype} with D = {setting.width}: {what}"
            outcome.ours_is_red |= contender.is_ours
        if why:
            outcome.leave_out(contender, why)
        else:
            ready.append(contender)
    return ready
