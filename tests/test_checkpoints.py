import math
import os
import resource
import signal
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from minclip import CLIP, PRESETS, Tokenizer, train
from minclip.batches import Batches
from minclip.checkpoints import checkpoints
from minclip.data import Emoji, Pairs
from minclip.files import remove_halves
from minclip.train import TrainConfig

CONFIG = replace(PRESETS["smoke"], embed_dim=16, context_length=16, vocab_size=560, vision_width=16, vision_heads=2)
TRAINING = TrainConfig(epochs=5, batch_size=8)  # 20 steps, a report at every other one


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    images = torch.randint(0, 256, (32, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Pairs(images, [Emoji(f"{i:04X}") for i in range(32)], [f"number {i}" for i in range(32)], torch.arange(32))


def run_training(pairs: Pairs, run: Path, config: TrainConfig = TRAINING, held_out: Pairs | None = None, **options):
    """Train a new model; its weights and the rows of its history without their times."""
    tokenizer = Tokenizer.train(pairs.captions, CONFIG.vocab_size)
    torch.manual_seed(config.seed)
    model = CLIP(replace(CONFIG, vocab_size=tokenizer.vocab_size))
    tokens = tokenizer(pairs.captions)
    batches = Batches(pairs, tokens, model.preprocess, batch_size=config.batch_size, seed=config.seed)
    rows = train.train(model, tokenizer, batches, held_out, config, run, **options)
    return model.state_dict(), [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


class Killed(BaseException):
    """What stands for SIGKILL: nothing in minclip catches it."""


def stop_after(monkeypatch, steps: int, how) -> None:
    """Call `how` in step number `steps` from now."""
    step, count = train.update, iter(range(1, 1000))

    def stopping(*arguments):
        measured = step(*arguments)
        if next(count) == steps:
            how()
        return measured

    monkeypatch.setattr(train, "update", stopping)


def kill():
    raise Killed


def killed_run(pairs: Pairs, run: Path, monkeypatch, steps: int, **options) -> None:
    """Leave a run that was killed in its step number `steps`."""
    with monkeypatch.context() as patch:
        stop_after(patch, steps, kill)
        with pytest.raises(Killed):
            run_training(pairs, run, **options)


def script_scores(monkeypatch, *top1: float) -> None:
    """Let the evaluations on held-out pictures find these scores, one after the other."""
    scores = iter(top1)
    monkeypatch.setattr(train, "recall_of_pairs", lambda *_: {"image_to_text": {1: next(scores), 5: 1.0}})


@pytest.fixture(scope="module")
def untouched(pairs, tmp_path_factory):
    run = tmp_path_factory.mktemp("untouched")
    return run_training(pairs, run, held_out=pairs)


@pytest.mark.parametrize("steps", [1, 7, 8, 19])
def test_a_run_that_is_killed_and_resumed_ends_with_the_same_bits(pairs, untouched, tmp_path, monkeypatch, steps):
    weights, rows = untouched
    killed_run(pairs, tmp_path, monkeypatch, steps, held_out=pairs)
    torch.rand(9)  # The state of the generator comes from the checkpoint.
    resumed = run_training(pairs, tmp_path, held_out=pairs, resume=True)
    torch.testing.assert_close(resumed[0], weights, rtol=0, atol=0)
    assert resumed[1] == rows


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_and_saves(pairs, untouched, tmp_path, monkeypatch, number, capfd):
    weights, rows = untouched
    with monkeypatch.context() as patch:
        stop_after(patch, 7, lambda: os.kill(os.getpid(), number))
        with pytest.raises(KeyboardInterrupt, match="after step 7 of 20, and saved"):
            run_training(pairs, tmp_path, held_out=pairs)
    assert "finishing the step" in capfd.readouterr().err
    assert checkpoints(tmp_path)[0].name == "step-00000007.safetensors"
    resumed = run_training(pairs, tmp_path, held_out=pairs, resume=True)
    torch.testing.assert_close(resumed[0], weights, rtol=0, atol=0)
    assert resumed[1] == rows


def test_a_second_interrupt_stops_at_once(pairs, tmp_path, monkeypatch):
    def interrupt_twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    stop_after(monkeypatch, 3, interrupt_twice)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_training(pairs, tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    assert checkpoints(tmp_path)[0].name == "step-00000002.safetensors"


def test_the_last_checkpoints_and_the_best_weights_are_kept(pairs, untouched, tmp_path, monkeypatch):
    script_scores(monkeypatch, 0.1, 0.1, 0.3, 0.4, 0.4, 0.2, 0.3, 0.3, 0.1, 0.2)
    run_training(pairs, tmp_path, held_out=pairs)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000020.safetensors", "step-00000018.safetensors"]
    last = load_file(tmp_path / "model.safetensors")
    torch.testing.assert_close(last, untouched[0], rtol=0, atol=0)
    best = load_file(tmp_path / "best.safetensors")
    assert not torch.equal(best["text_projection"], last["text_projection"])
    (tmp_path / "short").mkdir()
    killed_run(pairs, tmp_path / "short", monkeypatch, 9)  # The fourth report, the best one, is that of step 8.
    torch.testing.assert_close(best, load_file(tmp_path / "short" / "model.safetensors"), rtol=0, atol=0)


def test_long_reports_have_checkpoints_between_them(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "SAVE_EVERY", 0.0)
    stop_after(monkeypatch, 20, kill)
    with pytest.raises(Killed):
        run_training(pairs, tmp_path)
    assert checkpoints(tmp_path)[0].name == "step-00000019.safetensors"


def test_early_stopping_ends_a_run_for_good(pairs, untouched, tmp_path, monkeypatch):
    script_scores(monkeypatch, 0.1, 0.3, 0.2, 0.4, 0.4, 0.3, 1.0)
    config = replace(TRAINING, early_stopping=2)
    weights, rows = run_training(pairs, tmp_path, config, pairs)
    assert rows[-1]["step"] == 12
    again = run_training(pairs, tmp_path, config, pairs, resume=True)
    torch.testing.assert_close(again[0], weights, rtol=0, atol=0)
    assert again[1] == rows
    with pytest.raises(ValueError, match="early_stopping is 2; it needs held-out pictures"):
        run_training(pairs, tmp_path, config)


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def stopped(pairs, tmp_path, monkeypatch):
    """A run that was killed in step 9, with the checkpoints of steps 8 and 6."""
    killed_run(pairs, tmp_path, monkeypatch, 9)
    return tmp_path


def damaged(content: bytes) -> list[bytes]:
    """Cut at ten places, and with one byte flipped at twenty: in the header, in the numbers, at both ends."""
    size, header = len(content), int.from_bytes(content[:8], "little")
    cuts = [0, 1, 8, 9, header // 2, header + 8, header + 9, size // 2, size - 4, size - 1]
    flips = [0, 7, *range(8, header + 8, header // 8), *range(header + 8, size, size // 8), size - 1]
    return [content[:cut] for cut in cuts] + [
        content[:place] + bytes([content[place] ^ 0x40]) + content[place + 1 :] for place in flips
    ]


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(pairs, stopped, monkeypatch):
    loaded = []
    load = train.load_checkpoint
    monkeypatch.setattr(train, "load_checkpoint", lambda *arguments: loaded.append(load(*arguments)) or kill())
    newest, before = checkpoints(stopped)
    for content in damaged(newest.read_bytes()):
        newest.write_bytes(content)
        with pytest.raises(Killed), pytest.warns(UserWarning, match=f"{newest.name} is damaged.*{before.name}"):
            run_training(pairs, stopped, resume=True)
    assert loaded == [6] * len(loaded) != []


def test_it_names_the_files_when_no_checkpoint_is_whole(pairs, stopped):
    newest, before = checkpoints(stopped)
    before.write_bytes(before.read_bytes()[:-1])
    content = newest.read_bytes()
    for broken in damaged(content):
        newest.write_bytes(broken)
        with pytest.raises(ValueError, match=rf"{newest.name} is damaged.*{before.name} is damaged.*no checkpoint"):
            run_training(pairs, stopped, resume=True)


def test_a_run_that_went_on_from_an_older_checkpoint_ends_with_the_same_bits(pairs, untouched, tmp_path, monkeypatch):
    killed_run(pairs, tmp_path, monkeypatch, 9, held_out=pairs)
    newest, _ = checkpoints(tmp_path)
    newest.write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        resumed = run_training(pairs, tmp_path, held_out=pairs, resume=True)
    torch.testing.assert_close(resumed[0], untouched[0], rtol=0, atol=0)
    assert resumed[1] == untouched[1]


@pytest.mark.skipif(os.name == "nt", reason="needs resource.setrlimit")
def test_a_full_disk_leaves_the_old_checkpoints_whole(pairs, stopped):
    """A limit to the size of files stands for the disk: a write stops half way."""
    content = {path: path.read_bytes() for path in checkpoints(stopped)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        with pytest.raises(OSError, match=r"nothing was changed: .*model\.safetensors"):
            run_training(pairs, stopped, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path: path.read_bytes() for path in checkpoints(stopped)} == content
    assert not list(stopped.rglob(".*"))


def test_what_a_kill_left_half_written_is_removed(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in ("checkpoints/.123.step-00000010.safetensors", ".45.metrics.csv", ".mine.txt", "config.json"):
        (tmp_path / name).touch()
    remove_halves(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.txt", "checkpoints", "config.json"]
    assert not list((tmp_path / "checkpoints").iterdir())


# --- going on with something else -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 4}, "batch_size is 4; it must be 8 to resume from"),
        ({"epochs": 6}, "epochs is 6; it must be 5"),
        ({"seed": 1}, "seed is 1; it must be 0"),
        ({"lr": 0.1}, "lr is 0.1; it must be 0.001"),
    ],
)
def test_other_settings_are_refused_by_name(pairs, stopped, change, message):
    with pytest.raises(ValueError, match=message):
        run_training(pairs, stopped, replace(TRAINING, **change), resume=True)


def test_other_pictures_captions_or_pairs_are_refused(pairs, stopped):
    other = replace(pairs, images=pairs.images[:].clone())
    other.images[5, 0, 0, 0] ^= 1
    for changed in (
        other,
        replace(pairs, captions=[*pairs.captions[:-1], "number 0"]),
        pairs.select([1, 0, *range(2, 32)]),
    ):
        with pytest.raises(ValueError, match=r"checksum of the pictures and captions is \w+; it must be"):
            run_training(changed, stopped, resume=True)


def test_a_gradient_that_is_not_finite_keeps_the_last_checkpoint(pairs, tmp_path, monkeypatch):
    update, count = train.update, iter(range(1000))

    def break_at_16(state, parts, *others):
        images, tokens = parts[0]
        return update(state, [(images * math.nan if next(count) == 15 else images, tokens)], *others)

    monkeypatch.setattr(train, "update", break_at_16)
    with pytest.raises(FloatingPointError, match="step 16, batch 4 of epoch 4: the loss is nan"):
        run_training(pairs, tmp_path)
    assert checkpoints(tmp_path)[0].name == "step-00000014.safetensors"
