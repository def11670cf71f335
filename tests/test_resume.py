"""`minclip train` killed at any moment, also while it writes a file, and resumed: it ends with the same bits.

    python tests/test_resume.py PICTURES RUN 12 14 23 0.8

trains on the folder PICTURES in the folder RUN for 12 epochs and kills the training three times: in front of its 14th
event (a step, a renaming, the middle of a file), in front of the 23rd after it was resumed, and after 0.8 seconds; then
lets it end.

    torchrun --nproc-per-node 2 tests/test_resume.py 1 14 train …

is `minclip train …` in two processes, of which process 1 kills itself in front of its 14th event.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from minclip import cli, plots, train
from minclip.checkpoints import checkpoints

NEEDS_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def options(pictures: Path, run: Path, epochs: int = 12) -> list[str]:
    return ["--smoke", "--epochs", str(epochs), "--data", str(pictures), "--out", str(run)]


def next_arguments(pictures: Path, run: Path, epochs: int) -> list[str]:
    """How a person goes on: with --resume, or from the start if the run was killed before it had begun."""
    if (run / "config.json").exists():
        return ["train", "--resume", str(run)]
    for file in run.glob("*"):
        file.unlink()
    return ["train", *options(pictures, run, epochs)]


def kill_at_event(number: int) -> None:
    """Let this process kill itself in front of an event."""
    left = iter(range(number - 1, -1, -1))

    def event() -> None:
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(function: Callable) -> Callable:
        return lambda *arguments, **options: (event(), function(*arguments, **options))[1]

    def write_bytes(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            event()
            file.write(content[len(content) // 2 :])

    Path.write_bytes = write_bytes  # type: ignore[assignment]
    os.replace, os.fsync, train.update = counted(os.replace), counted(os.fsync), counted(train.update)


def kill_and_resume(pictures: Path, run: Path, epochs: int, moments: list[str]) -> int:
    """Kill a run at each of the moments, and let it end; returns how often it was killed."""
    kills = 0
    for moment in [*moments, ""]:
        child = os.fork()
        if child == 0:
            if moment.isdigit():
                kill_at_event(int(moment))
            os._exit(cli.main(next_arguments(pictures, run, epochs)))
        if "." in moment:
            time.sleep(float(moment))
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status not in (0, -signal.SIGKILL) or (status and not moment):
            raise RuntimeError(f"the training ended with status {status}")
        kills += bool(status)
    return kills


def killed(pictures: Path, run: Path, epochs: int, *moments: str) -> int:
    """Call `kill_and_resume` in a new process, since the tests' own has threads and cannot be forked."""
    command = [sys.executable, __file__, str(pictures), str(run), str(epochs), *moments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    return int(result.stdout.split()[-1])


def assert_same_end(run: Path, untouched: Path) -> None:
    for name in ("model.safetensors", "best.safetensors"):
        torch.testing.assert_close(load_file(run / name), load_file(untouched / name), rtol=0, atol=0)
    ends = [load_file(checkpoints(folder)[0]) for folder in (run, untouched)]
    for end in ends:
        end["history"][:, 7] = 0  # seconds
    torch.testing.assert_close(*ends, rtol=0, atol=0, equal_nan=True)
    assert not list(run.rglob(".*"))


@pytest.fixture(scope="module")
def untouched(pictures, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("untouched") / "run"
    assert cli.main(["train", *options(pictures, run)]) == 0
    return run


@pytest.fixture(autouse=True, scope="module")
def one_thread_and_no_figures():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "draw_run", lambda *_: [])
        yield
    torch.set_num_threads(threads)


@NEEDS_FORK
def test_killed_and_resumed_it_ends_with_the_same_bits(pictures, untouched, tmp_path):
    assert killed(pictures, tmp_path / "run", 12, "14", "23", "31") == 3
    assert_same_end(tmp_path / "run", untouched)


@NEEDS_FORK
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_twenty_times_it_ends_with_the_same_bits(pictures, tmp_path, seed):
    """Ten times in front of an event, ten times at any moment of its first second."""
    draw, epochs = random.Random(seed), 400  # 675 steps
    moments = [str(draw.randint(1, 100)) for _ in range(10)] + [f"{draw.uniform(0.1, 1):.3f}" for _ in range(10)]
    draw.shuffle(moments)
    assert killed(pictures, tmp_path / "run", epochs, *moments) == 20
    assert killed(pictures, tmp_path / "untouched", epochs) == 0
    assert_same_end(tmp_path / "run", tmp_path / "untouched")


def in_two_processes(pictures: Path, run: Path, ranks: str = "", event: int = 0) -> subprocess.CompletedProcess:
    """Go on with a run by torchrun until the processes with these ranks kill themselves, or to its end."""
    torchrun = [sys.executable, *["-m", "torch.distributed.run", "--nproc-per-node", "2"]]
    command = [*torchrun, __file__, ranks, str(event), *next_arguments(pictures, run, epochs=200)]  # 338 steps
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.slow
def test_two_processes_killed_twenty_times_end_with_the_same_bits(pictures, tmp_path):
    """One of them, or both, in front of an event."""
    draw, run, untouched = random.Random(0), tmp_path / "run", tmp_path / "untouched"
    for _ in range(20):
        ended = in_two_processes(pictures, run, draw.choice(["0", "1", "01"]), draw.randint(1, 60))
        assert "Signal 9 (SIGKILL)" in ended.stderr, ended.stderr
    for path in (run, untouched):
        ended = in_two_processes(pictures, path)
        assert ended.returncode == 0, ended.stderr
    assert_same_end(run, untouched)


# --- the options ------------------------------------------------------------------------------------------------------


def test_an_interrupted_run_says_how_to_go_on(pictures, untouched, tmp_path, monkeypatch, capsys):
    step, run = train.update, tmp_path / "runs" / "one"
    with monkeypatch.context() as patch:
        patch.setattr(train, "update", lambda *arguments: os.kill(os.getpid(), 15) or step(*arguments))
        assert cli.main(["train", *options(pictures, run)]) == 130
    error = capsys.readouterr().err
    assert f"stopped after step 1 of 21, and saved; to resume: minclip train --resume {run}" in error
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--resume"]) == 0  # the newest
    assert_same_end(run, untouched)
    assert cli.main(["train", "--resume"]) == 0  # There is nothing left to train.
    assert_same_end(run, untouched)


def test_a_configuration_repeats_a_run(pictures, untouched, tmp_path):
    assert cli.main(["train", "--config", str(untouched / "config.json"), "--out", str(tmp_path / "run")]) == 0
    assert_same_end(tmp_path / "run", untouched)
    other = ["--config", str(untouched / "config.json"), "--seed", "1", "--epochs", "1", "--out", str(tmp_path / "two")]
    assert cli.main(["train", *other]) == 0
    assert '"seed": 1' in (tmp_path / "two" / "config.json").read_text()
    assert '"epochs": 1' in (tmp_path / "two" / "config.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "8"], "--batch-size is 8; it must be 32 to resume from"),
        (["--data", "x"], "--data and --resume exclude each other"),
        (["--out", "x"], "--out and --resume exclude each other"),
        (["--epochs", "13"], "--epochs is 13; it must be 12"),
        (["--lr", "-1"], "--lr is -1.0"),
    ],
)
def test_what_a_run_cannot_go_on_with_is_refused(untouched, arguments, message, capsys):
    before = {path: path.read_bytes() for path in untouched.rglob("*") if path.is_file()}
    assert cli.main(["train", "--resume", str(untouched), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in untouched.rglob("*") if path.is_file()} == before


def test_changed_pictures_are_refused(pictures, untouched, capsys):
    picture = (pictures / "7.png").read_bytes()
    try:
        Image.new("RGB", (20, 30), "white").save(pictures / "7.png")
        assert cli.main(["train", "--resume", str(untouched)]) == 1
    finally:
        (pictures / "7.png").write_bytes(picture)
    assert "checksum of the pictures and captions is" in capsys.readouterr().err


def test_there_is_nothing_to_resume(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--resume"]) == 1
    assert "no run under" in capsys.readouterr().err
    assert cli.main(["train", "--resume", "gone"]) == 1
    assert "gone is not a run folder: it has no config.json" in capsys.readouterr().err


def test_the_best_weights_are_a_model(untouched, capsys):
    assert cli.main(["eval", "--run", str(untouched / "best.safetensors")]) == 0
    assert "recall@1" in capsys.readouterr().out


def main(arguments: list[str]) -> int:
    plots.draw_run = lambda *_: []
    if "TORCHELASTIC_RUN_ID" in os.environ:
        ranks, event, *arguments = arguments
        if os.environ["RANK"] in ranks:
            kill_at_event(int(event))
        return cli.main(arguments)
    pictures, run, epochs, *moments = arguments
    print(kill_and_resume(Path(pictures), Path(run), int(epochs), moments))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
