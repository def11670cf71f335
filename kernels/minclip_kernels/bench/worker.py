"""One contender at work: gate, memory, one timed turn after another.

On a CPU every contender works in a process of its own, started here as python -m minclip_kernels.bench.worker: its peak
memory is then its own, and where the system kills it for want of memory, that is a result and not the end.
"""

import ctypes
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minclip_kernels.bench import gate
from minclip_kernels.bench.peers import Contender, find

STATUS, PEAK_RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
OUT_OF_MEMORY = "out of memory"
SMALL = 64  # pairs of the turn that only loads libraries
# The threads of the one before go on spinning for some milliseconds, and caches are full of its data.
TURN_SECONDS = 0.03


class Worker:
    def __init__(self, contender: Contender, device: str) -> None:
        self.contender, self.device = contender, device
        self.inputs: list[Tensor] = []
        self.loss = None

    def ask(self, request: str, **arguments: Any) -> dict[str, Any]:
        """The answer of the method `request`, or {"error": why there is none}."""
        try:
            return getattr(self, request)(**arguments)
        except torch.OutOfMemoryError:
            self.inputs = []
            torch.cuda.empty_cache()
            return {"error": OUT_OF_MEMORY}
        except Exception as error:  # other people's code: whatever it raises is a result
            text = (str(error).strip().splitlines() or [""])[0]
            return {"error": OUT_OF_MEMORY if "allocate memory" in text else f"{type(error).__name__}: {text}"}

    def close(self) -> None:
        self.inputs = []

    def check(self, dtype: str, width: int, count: int) -> dict[str, Any]:
        verdict = gate.check(self.contender, self.device, getattr(torch, dtype), width, count)
        return {"passed": verdict.passed, "note": verdict.note}

    def prepare(self, dtype: str, width: int, count: int) -> dict[str, Any]:
        """Makes the features, loads and compiles everything; then once more, for its peak of memory.

        The peak, in MB, is what lies above the features: the gradients, and what the loss needs on its way. The times
        come with it.
        """
        torch.compiler.reset()
        self.loss = self.contender.make()
        self.inputs = gate.make_inputs(
            count if self.contender.compiled else SMALL, width, getattr(torch, dtype), self.device
        )
        self._run(lambda: None)
        self.inputs = gate.make_inputs(count, width, getattr(torch, dtype), self.device)
        before = reset_peak(self.device)
        times = self.once()
        after = peak(self.device)
        return {"memory_mb": None if before is None or after is None else after - before, **times}

    def turn(self) -> dict[str, float]:
        """Forward and backward, small ones many times: the medians {"forward": ms, "both": ms}."""
        end, times = time.perf_counter() + TURN_SECONDS, [self.once()]
        while time.perf_counter() < end:
            times.append(self.once())
        return {name: statistics.median(each[name] for each in times) for name in times[0]}

    def once(self) -> dict[str, float]:
        """One forward and one backward: {"forward": ms, "both": ms}."""
        if self.device == "cpu":
            first, middle, last = self._run(time.perf_counter)
            return {"forward": 1e3 * (middle - first), "both": 1e3 * (last - first)}
        first, middle, last = self._run(_event)
        torch.cuda.synchronize()
        return {"forward": first.elapsed_time(middle), "both": first.elapsed_time(last)}

    def _run(self, now: Callable[[], Any]) -> tuple[Any, Any, Any]:
        assert self.loss is not None
        first = now()
        loss = self.loss(*self.inputs)
        middle = now()
        torch.autograd.grad(loss, self.inputs, allow_unused=True)
        return first, middle, now()


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def reset_peak(device: str) -> float | None:
    """Forgets the peak of memory until now; returns what is in use, in MB, or None where nobody can say."""
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 1e6
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system, so that using it again is seen
        PEAK_RESET.write_text("5")
    except (OSError, AttributeError):
        return None
    return peak(device)


def peak(device: str) -> float | None:
    """The most memory in use since `reset_peak`, in MB. VmHWM: getrusage begins with the peak of the parent process."""
    if device != "cpu":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() / 1e6
    try:
        match = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
    except OSError:
        return None
    return int(match[1]) * 1024 / 1e6 if match else None


class Remote:
    """The same in another process."""

    def __init__(self, contender: Contender) -> None:
        command = [sys.executable, "-m", "minclip_kernels.bench.worker", contender.loss, contender.name]
        # A session of its own: Ctrl-C in the terminal is for the parent, which then ends its workers.
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, text=True, start_new_session=True, **pipes)

    def ask(self, request: str, **arguments: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps([request, arguments]) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self.process.stdout.readline()
        if answer:
            return json.loads(answer)
        status = self.process.wait()
        return {"error": OUT_OF_MEMORY + " (killed by the system)" if status == -9 else f"ended with status {status}"}

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    worker = Worker(find(*sys.argv[1:]), "cpu")
    for line in sys.stdin:
        request, arguments = json.loads(line)
        answers.write(json.dumps(worker.ask(request, **arguments)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
