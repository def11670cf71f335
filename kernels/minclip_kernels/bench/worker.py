"""One contender at work: the gate, its peak memory, and one timed turn after another."""

import contextlib
import ctypes
import signal
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minclip_kernels.bench import gate
from minclip_kernels.bench.gate import Failed
from minclip_kernels.bench.peers import Contender, Loss, Setting
from minclip_kernels.bench.records import system_field

OUT_OF_MEMORY, KILLED = "out of memory", "killed, probably for lack of memory"
NEEDS_GPU = "needs a GPU; Triton's interpreter is not timed"
SMALL = 64  # pairs of the first run, which loads libraries
# Short runs are repeated for this long: the threads of the contender before go on spinning for some
# milliseconds, and the caches are full of its data.
TURN_SECONDS = 0.03


class Worker:
    """A contender in this process."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self.compute: Loss
        self.inputs: list[Tensor] = []

    def ask(self, request: str, *arguments: Any) -> Any:
        """What the method `request` returns, or Failed, whatever the contender raises."""
        try:
            return getattr(self, request)(*arguments)
        except Exception as error:  # A peer may raise anything.
            self.inputs = []
            torch.cuda.empty_cache()
            text = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
            no_memory = "OutOfMemory" in text or "allocate memory" in text
            return Failed(OUT_OF_MEMORY if no_memory else text)

    def prepare(self, setting: Setting) -> tuple[str, float | None, float] | Failed:
        """Check, load and compile, then run once: what the gate says, peak MB, and milliseconds.

        The peak counts what is above the features: the gradients and what the loss needs.
        """
        verdict = gate.check(self.contender, replace(setting, N=gate.COUNT))
        if isinstance(verdict, Failed):
            return verdict
        self.compute = self.contender.make()
        first = setting if self.contender.is_compiled else replace(setting, N=SMALL)
        self.inputs = gate.make_inputs(first)
        self.once()
        self.inputs = gate.make_inputs(setting)
        before, taken, after = reset_peak(setting.device), self.once(), peak(setting.device)
        memory = None if before is None or after is None else after - before
        return verdict, memory, taken

    def turn(self) -> float:
        """The median milliseconds of as many runs as fill TURN_SECONDS, at least one."""
        end, runs = time.perf_counter() + TURN_SECONDS, [self.once()]
        while time.perf_counter() < end:
            runs.append(self.once())
        return statistics.median(runs)

    def once(self) -> float:
        """The milliseconds of the loss and all its gradients.

        They are not timed apart, because some losses compute their gradients with the loss.
        """
        wait = torch.cuda.synchronize if self.inputs[0].is_cuda else lambda: None
        wait()
        start = time.perf_counter()
        loss = self.compute(*self.inputs)
        if loss.requires_grad:
            torch.autograd.grad(loss, self.inputs, allow_unused=True)
        wait()
        return 1e3 * (time.perf_counter() - start)


class RemoteWorker(Worker):
    """A contender on a CPU, in a process of its own.

    So its peak memory is measured alone, and being killed for lack of memory is a result.
    """

    pool: ProcessPoolExecutor | None = None

    def ask(self, request: str, *arguments: Any) -> Any:
        if self.contender.needs_gpu:
            return Failed(NEEDS_GPU)
        if self.pool is None:
            self.pool = ProcessPoolExecutor(1, get_context("spawn"), _begin, (self.contender,))
        try:
            return self.pool.submit(_ask, request, *arguments).result()
        except BrokenProcessPool:
            self.pool = None
            return Failed(KILLED)


def _begin(contender: Contender) -> None:
    global worker
    worker = Worker(contender)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process as well, silently.
    with contextlib.suppress(OSError):  # The first to be killed when memory runs out.
        Path("/proc/self/oom_score_adj").write_text("1000")


def _ask(request: str, *arguments: Any) -> Any:
    return worker.ask(request, *arguments)


def reset_peak(device: str) -> float | None:
    """Forget the peak so far and return the memory in use in MB, or None where it is unknown."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # Return freed memory, so that its reuse counts.
            Path("/proc/self/clear_refs").write_text("5")
    return peak(device)


def peak(device: str) -> float | None:
    """The most memory in use since `reset_peak` in MB, or None where it is unknown."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 1e6
    # Not getrusage: in a new process it starts from the peak of its parent. psutil has no peak.
    kilobytes = system_field("self/status", "VmHWM")
    return 1024e-6 * float(kilobytes.removesuffix("kB")) if kilobytes else None
