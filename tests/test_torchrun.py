"""`torchrun -m minclip train`: processes that die, and that are stopped by a signal."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minclip import train

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs gloo, signals and ps")


def start(*options: str) -> subprocess.Popen:
    """Start a training in two processes; a test ends it with `finish`."""
    command = [
        sys.executable,
        *["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "minclip", "train"],
        *options,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen, seconds: float | None = None) -> str:
    """What the processes print on standard error until they end; fails if that takes more seconds."""
    try:
        return process.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        for number in [*processes_of(process), process.pid]:
            os.kill(number, signal.SIGKILL)
        process.communicate()
        raise


def wait_for_checkpoint(run: Path, process: subprocess.Popen) -> None:
    while not list(run.glob("checkpoints/step-*")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)


def processes_of(process: subprocess.Popen) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True)
    return [int(number) for number in found.stdout.split()]


def long_run(pictures: Path, run: Path, *options: str) -> list[str]:
    return ["--smoke", "--epochs", "600", "--data", str(pictures), "--out", str(run), *options]


def test_a_process_that_dies_ends_the_others_with_a_message(pictures, tmp_path):
    run = tmp_path / "run"
    process = start(*long_run(pictures, run))
    wait_for_checkpoint(run, process)
    os.kill(processes_of(process)[-1], signal.SIGKILL)
    error = finish(process, 60)
    assert process.returncode != 0
    assert "has lost another one, which must have ended; this one ends too" in error


def test_torchrun_stopped_by_a_signal_saves_and_says_how_to_go_on(pictures, tmp_path):
    run = tmp_path / "run"
    process = start(*long_run(pictures, run, "--micro-batch", "5"))
    wait_for_checkpoint(run, process)
    process.send_signal(signal.SIGTERM)
    error = finish(process, 60)
    said = re.search(r"stopped after step (\d+) of (\d+), and saved; to resume: torchrun --nproc-per-node 2 -m", error)
    assert said, error
    step, steps = map(int, said.groups())
    assert max(run.glob("checkpoints/step-*")).name[5:13] == f"{step:08d}"
    assert step not in {round(steps * i / train.REPORTS) for i in range(train.REPORTS + 1)}, "that of a report"
