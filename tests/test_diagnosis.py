"""`minclip inspect RUN`: the situations that people ask about, as real trainings and as drawn curves."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minclip import cli, diagnosis, plots
from minclip.metrics import Row

WORDS = ("red", "green", "blue", "dog", "cat", "tree", "house", "car", "sea", "sky", "old", "new", "big", "small")
Pair = tuple[np.ndarray, str]


def noise(count: int) -> list[Pair]:
    """Pictures of noise, whose captions nothing in them explains."""
    draw = np.random.default_rng(0)
    captions = [f"{' '.join(draw.choice(WORDS, 4))} {i}" for i in range(count)]
    return [(draw.integers(0, 256, (24, 24, 3), dtype=np.uint8), caption) for caption in captions]


def sequences() -> list[Pair]:
    """Twelve pictures of each of twelve scenes, as in open_clip #821: "urban, sunny, backlight"."""
    draw, pairs = np.random.default_rng(0), []
    for number in np.ndindex(3, 2, 2):
        place, weather, light = number
        scene = np.zeros((24, 24, 3))
        scene[:, :, place] = 200
        scene[:12] += 50 * weather
        scene[:, :12] += 50 * light
        names = ("urban", "rural", "highway")[place], ("sunny", "rainy")[weather], ("backlight", "front light")[light]
        for _ in range(12):
            picture = (scene + draw.normal(0, 8, scene.shape)).clip(0, 255).astype(np.uint8)
            pairs.append((picture, ", ".join(names)))
    return pairs


def trained(folder: Path, pairs: Sequence[Pair], *options: str) -> Path:
    """The run of `minclip train --smoke` on these pairs."""
    (folder / "data").mkdir()
    for i, (picture, caption) in enumerate(pairs):
        Image.fromarray(picture).save(folder / "data" / f"{i}.png")
        (folder / "data" / f"{i}.txt").write_text(caption)
    run = folder / "run"
    assert cli.main(["train", "--smoke", "--data", str(folder / "data"), "--out", str(run), *options]) == 0
    return run


# What was trained, how, and what must be said of it.
SITUATIONS: dict[str, tuple[Callable[[], list[Pair]], list[str], str, str]] = {
    "open_clip #17": (lambda: noise(200), ["--epochs", "4"], "at ln B", "no better than guessing, 3.47"),
    "open_clip #821": (sequences, ["--epochs", "60"], "at its floor", "captions or pictures of a batch are equal"),
    "openai/CLIP #150": (lambda: noise(60), ["--epochs", "120", "--lr", "0.003"], "over-fitting", "by heart"),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_what_people_ask_about_is_recognised(tmp_path, monkeypatch, capsys, situation):
    pairs, options, kind, seen = SITUATIONS[situation]
    monkeypatch.setattr(plots, "draw_run", lambda *_: [])
    run = trained(tmp_path, pairs(), *options)
    capsys.readouterr()
    assert cli.main(["inspect", str(run)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{run}: {kind}\n")
    assert seen in said
    assert situation in said
    assert "\n  - " in said
    assert cli.main(["inspect", str(run / "metrics.csv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == kind


def rows(losses: Sequence[float], untrained: float = math.log(128), floor: float = 0.0, scores=()) -> list[Row]:
    made: list[Row] = [
        {"step": i, "loss": loss, "untrained": untrained, "floor": floor} for i, loss in enumerate(losses, start=1)
    ]
    for i, score in enumerate(scores, start=1):
        made[round(len(made) * i / len(scores)) - 1]["unseen_top1"] = score
    return made


def falling(start: float, end: float, steps: int = 200) -> list[float]:
    return [end + (start - end) * math.exp(-6 * i / steps) for i in range(steps)]


@pytest.mark.parametrize(
    ("metrics", "kind"),
    [
        (rows([4.85] * 5), "too early"),
        (rows([4.9, 4.83] * 100), "at ln B"),
        (rows(falling(9, 4.86)), "at ln B"),
        (rows(falling(4.85, 0.1)), "at its floor"),
        (rows(falling(4.85, 2.2), floor=2.1), "at its floor"),
        (rows([4.85] * 50, floor=4.7), "nothing to learn"),
        (rows(falling(4.85, 1.0) + [4.9] * 50), "diverging"),
        (rows(falling(4.85, 1.0) + [math.nan] * 3), "diverging"),
        (rows([4.85 - 0.01 * i for i in range(200)]), "learning"),
        (rows(falling(4.85, 2.0)), "levelled off"),
        (rows(falling(4.85, 0.1), scores=[0.1, 0.4, 0.3, 0.2]), "over-fitting"),
        (rows(falling(4.85, 0.1), scores=[0.1, 0.1, 0.1, 0.1]), "over-fitting"),
        (rows(falling(4.85, 0.1), scores=[0.1, 0.7, 0.72, 0.71]), "at its floor"),
        (rows(falling(4.85, 0.1), scores=[0.0, 0.04, 0.08]), "over-fitting"),
        (rows(falling(4.85, 0.1), scores=[1.0, 1.0]), "at its floor"),
        (rows(falling(4.85, 4.0), scores=[0.1, 0.1]), "levelled off"),
    ],
)
def test_curves_are_told_apart(metrics, kind):
    assert diagnosis.diagnose(metrics).kind == kind


@given(st.lists(st.floats(0, 10), min_size=10, max_size=60), st.floats(0.1, 3), st.integers(2, 5))
def test_the_unit_of_the_loss_and_the_number_of_steps_do_not_matter(losses, unit, copies):
    """A curve that is stretched in either direction tells the same story."""
    kind = diagnosis.diagnose(rows(losses, 4.0, 1.0)).kind
    assert diagnosis.diagnose(rows([unit * loss for loss in losses], 4.0 * unit, unit)).kind == kind
    longer = [loss for loss in losses for _ in range(copies)]
    if len(losses) % 10 == 0:
        assert diagnosis.diagnose(rows(longer, 4.0, 1.0)).kind in {kind, "learning", "levelled off"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "lacks step, loss, untrained, floor"),
        ("step,loss\n1,2\n", "lacks untrained, floor"),
        ("step,loss,untrained,floor\n1,2,3,\n", "lacks floor"),
        ("step,loss,untrained,floor\n1,2,3,x\n", "could not convert string to float: 'x'"),
        ("step,loss,untrained,floor\n1,2,3,4,5\n", "is not a file of `minclip train`"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message, capsys):
    (tmp_path / "metrics.csv").write_text(content)
    assert cli.main(["inspect", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "metrics.csv" in error
