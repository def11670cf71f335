"""Pictures that are streamed from four tar shards: the same bits as from memory, and each of them once."""

import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from minclip import cli, data, plots
from minclip.batches import Batches
from minclip.data import Pairs, Reading, Streamed, memory, streamed
from minclip.data.streamed import decode_ahead, survey
from minclip.images import PictureFile, Preprocess

N, SHARDS, R = 60, 4, 24
NEEDS_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Four shards of fifteen samples; picture i has the shade 4i everywhere."""
    folder, files = tmp_path_factory.mktemp("shards"), tmp_path_factory.mktemp("files")
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for i in range(shard * N // SHARDS, (shard + 1) * N // SHARDS):
                Image.new("RGB", (10, 10), (4 * i, 0, 0)).save(files / f"{i:05}.png")
                (files / f"{i:05}.txt").write_text(f"shade number {i}")
                for name in (f"{i:05}.png", f"{i:05}.txt"):
                    archive.add(files / name, name)
    return folder


def load(shards: Path, memory: int | None, workers: int = 2) -> Pairs:
    return data.load_folder(shards, Preprocess(R), reading=Reading(memory, workers))[0]


def batches(pairs: Pairs, batch_size: int = 12) -> Batches:
    tokens = torch.stack([torch.arange(N), torch.full((N,), 100)], dim=1)
    return Batches(pairs, tokens, Preprocess(R), batch_size=batch_size, seed=0)


Asked = tuple[int, int, int, int]  # step, first row, last row, size of a part


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 5), st.integers(6, 12), st.integers(1, 7)), max_size=5))
def test_batches_have_the_same_bits_in_whatever_order_they_are_asked_for(shards, asked: list[Asked]):
    kept, made = batches(load(shards, None)), batches(load(shards, 0, workers=0))
    for step, first, last, size in asked:
        ours, wanted = (one.parts(step, "cpu", slice(first, last), size) for one in (made, kept))
        assert len(ours) == len(wanted)
        for i in [*range(len(ours)), 0]:  # in gradient caching every part is asked for twice
            assert all(map(torch.equal, ours[i], wanted[i]))
    assert all(map(torch.equal, made.make(3, "cpu"), kept.make(3, "cpu")))


def test_no_sample_twice_and_none_missing_in_two_processes_that_begin_again(shards):
    """Each process has two workers, and everything is read anew after a step."""
    half = [slice(0, 6), slice(6, 12)]
    seen = []
    for steps in ([0, 1], [2, 3, 4]):
        ranks = [batches(load(shards, 0)) for _ in half]
        for step in steps:
            for rank, rows in zip(ranks, half, strict=True):
                parts = rank.parts(step, "cpu", rows, None)
                assert parts.pixels is not None
                seen += [int(shade) // 4 for shade in parts.pixels[:, 0, 0, 0]]
    assert sorted(seen) == list(range(N))


def test_steps_that_follow_each_other_are_read_by_the_same_workers(shards, monkeypatch):
    started = []
    monkeypatch.setattr(Streamed, "read_ahead", lambda self, order: started.append(1) or (self[[i]][0] for i in order))
    made = batches(load(shards, 0, workers=0))
    for step in [0, 1, 2, 3, 7, 8]:
        made.parts(step, "cpu", slice(0, 12), 4)
    assert len(started) == 2


def test_the_loader_draws_none_of_torchs_random_numbers(shards):
    pairs = load(shards, 0)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert len(list(pairs.images)) == N
    assert torch.equal(torch.get_rng_state(), before)


def test_both_ways_hold_out_the_same_pictures_and_may_follow_each_other(shards):
    kept, lazy = load(shards, None), load(shards, 0, workers=0)
    assert batches(kept).fingerprint() == batches(lazy).fingerprint()
    (train, held), (train_too, held_too) = data.hold_out(kept), data.hold_out(lazy)
    assert train.captions == train_too.captions
    assert held is not None
    assert held_too is not None
    assert held.captions == held_too.captions
    assert torch.equal(held.images[:], torch.stack(list(held_too.images)))


def test_pictures_are_checked_once(shards, monkeypatch, tmp_path):
    for i in range(3):
        Image.new("RGB", (9, 9), (i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "bad.png").touch()
    sources = [PictureFile(path) for path in sorted(tmp_path.glob("*.png"))]
    first = survey(sources, Preprocess(R), workers=0)
    asked = []
    monkeypatch.setattr(streamed, "decode_ahead", lambda *given: asked.append(list(given[2])) or decode_ahead(*given))
    again = survey(sources, Preprocess(R), workers=0)
    assert asked == [[3]], "only what could not be read is read again"
    assert again.digests == first.digests
    assert torch.equal(again.signatures, first.signatures)
    assert again.pictures == [0, 1, 2]
    assert len(again.problems) == 1
    Image.new("RGB", (9, 9), "white").save(tmp_path / "1.png")
    assert survey(sources, Preprocess(R), workers=0).digests[1] != first.digests[1]
    assert asked[1:] == [[1, 3]]
    survey(sources, Preprocess(R, trim=True), workers=0)
    assert asked[2:] == [[0, 1, 2, 3]]


def test_a_picture_that_disappears_is_named(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (9, 9)).save(path)
    (tmp_path / "c.csv").write_text("image,caption\na.png,a\n")
    pairs = load(tmp_path, 0, workers=1)
    path.unlink()
    for read in (lambda: pairs.images[:], lambda: list(pairs.images)):
        with pytest.raises(ValueError, match=r"a\.png: no such picture \(it could be when the training began\)"):
            read()


# --- which way --------------------------------------------------------------------------------------------------------


def test_what_is_needed_and_allowed_decides(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 8 * 10**9)
    needed = memory.memory_needed(20_000, Preprocess(224))
    assert needed == 20_000 * 3 * 224 * 224
    line = Reading(workers=2).describe(20_000, Preprocess(224))
    assert line == ("20,000 pictures of 224 pixels need 3.0 GB of memory; 4.0 GB may be used, so all are kept there")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    line = Reading(workers=2).describe(20_000, Preprocess(224))
    assert "2.0 GB may be used, so they are streamed from disk (2 workers)" in line
    assert Reading(needed).keeps_in_memory(needed)
    assert not Reading(needed - 1).keeps_in_memory(needed)


def test_the_limit_of_a_container_counts(tmp_path):
    assert 0 < memory.available_memory() < 2**50
    files = {"memory.max": "1000", "memory.current": "700", "memory.stat": "anon 1\ninactive_file 50"}
    for name, content in files.items():
        (tmp_path / name).write_text(content + "\n")
    assert memory._free_in_container(tmp_path) == 350
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._free_in_container(tmp_path) is None
    assert memory._free_in_container(tmp_path / "nowhere") is None


# --- minclip train ----------------------------------------------------------------------------------------------------


def options(shards: Path, run: Path, *more: str) -> list[str]:
    return ["train", "--smoke", "--epochs", "6", "--data", str(shards), "--out", str(run), *more]


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    monkeypatch.setattr(plots, "draw_run", lambda *_: [])


def test_a_streamed_run_ends_with_the_bits_of_one_in_memory(shards, tmp_path, capsys):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    more = ["--memory", "0", "--workers", "2", "--micro-batch", "20"]
    assert cli.main(options(shards, tmp_path / "streamed", *more)) == 0
    assert "60 pictures of 24 pixels need 0.1 MB of memory; 0.0 MB may be used, so they are" in capsys.readouterr().err
    assert cli.main(options(shards, tmp_path / "parts", "--micro-batch", "20")) == 0
    assert "may be used, so all are kept there" in capsys.readouterr().err
    torch.set_num_threads(threads)
    ours, wanted = (load_file(tmp_path / name / "model.safetensors") for name in ("streamed", "parts"))
    torch.testing.assert_close(ours, wanted, rtol=0, atol=0)
    assert json.loads((tmp_path / "streamed" / "config.json").read_text())["training"]["columns"] == [None, None]
    capsys.readouterr()
    assert cli.main(["search", "shade number 3", "--run", str(tmp_path / "streamed"), "-k", "2"]) == 0
    assert "0.tar:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--memory", "-1"], "--memory is -1000000000; it must be at least 0"),
        (["--workers", "-1"], "--workers is -1; it must be at least 0"),
        (["--image-column", "x"], "has no table whose columns could be named"),
        (["--memory", "0", "--distill", "1"], "--distill is 1.0; it must be 0 for pictures that are streamed"),
    ],
)
def test_bad_options_are_named(shards, tmp_path, more, message, capsys):
    assert cli.main(options(shards, tmp_path / "run", *more)) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def start(*options: str) -> subprocess.Popen:
    """Start a training in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "minclip", *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def descendants(number: int) -> list[int]:
    """The numbers of all processes that a process has started."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(number)], capture_output=True, text=True, check=False)
    children = [int(child) for child in found.stdout.split()]
    return children + [one for child in children for one in descendants(child)]


@NEEDS_FORK
def test_four_shards_in_two_processes_of_two_workers_killed_and_resumed(shards, tmp_path):
    more = ["--memory", "0", "--workers", "2"]
    process = start(*options(shards, tmp_path / "untouched", *more))
    assert "Error" not in process.communicate()[1]
    run, draw = tmp_path / "run", random.Random(0)
    process = start(*options(shards, run, *more))
    while not list(run.glob("checkpoints/step-*")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    time.sleep(draw.uniform(0, 0.3))
    workers = descendants(process.pid)
    for number in [*descendants(process.pid), process.pid]:
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.communicate()
    assert len(workers) >= 2, "the run was over before it was killed"
    process = start("train", "--resume", str(run), *more)
    assert "Error" not in process.communicate()[1]
    for name in ("model.safetensors", "best.safetensors"):
        ours, wanted = (load_file(folder / name) for folder in (run, tmp_path / "untouched"))
        torch.testing.assert_close(ours, wanted, rtol=0, atol=0)
