"""Lesson 20: its mutants, and the bugs of its exhibits, are killed by the tests of this project as well."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from minclip_kernels.testing import assert_equals_reference, make_features

from minclip import data, evaluate

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "lessons"), str(ROOT / "tests")]

import check  # noqa: E402
import test_distributed_loss  # noqa: E402
import test_evaluate  # noqa: E402
import test_mutants  # noqa: E402
import test_pairs  # noqa: E402
from check import exhibits, mutants  # noqa: E402
from solutions import lesson_20  # noqa: E402

ROOMS = {
    "loss_properties": mutants.LOSSES,
    "split_properties": mutants.SPLITS,
    "score_properties": mutants.SCORES,
}


@pytest.mark.parametrize("name", ROOMS)
def test_the_solution_spares_what_is_right_and_kills_every_mutant(name):
    properties, room = getattr(lesson_20, name)(), ROOMS[name]
    assert all(mutants.holds(property_, one) for property_ in properties for one in room.right.values())
    assert not list(mutants.survivors(properties, room))


# --- the project's own tests, with a mutant in the place of its code --------------------------------------------------


def battery_of_losses(loss):
    """What `assert_equals_reference` asks of everybody's loss, where float32 logits are exact enough."""
    for scale in (1.0, 10.0, 60.0):
        assert_equals_reference(loss, *make_features("random", 40, 8, spread=0.5), scale)
    image = torch.eye(3)
    assert_equals_reference(loss, image, image * torch.tensor([[1.0], [1.0], [-1.0]]), 200.0)


def with_split(split, monkeypatch):
    """`hold_out` by another split, under the tests of test_pairs.py."""

    def hold_out(pairs):
        train, test = split(pairs.images)
        return (pairs.select(train), pairs.select(test)) if train and test else (pairs, None)

    monkeypatch.setattr(data, "hold_out", hold_out)
    test_pairs.test_a_held_out_picture_stays_held_out_whatever_comes_and_goes()
    test_pairs.test_equal_pictures_are_on_one_side_and_none_is_lost()


def with_score(top1, monkeypatch):
    """`recall` with another top-1, under the tests of test_evaluate.py."""
    recall = evaluate.recall

    def mutated(images, texts, picture, text):
        found = recall(images, texts, picture, text)
        assert torch.equal(picture, text)  # picture i and caption i
        found["image_to_text"][1] = top1(images @ texts.T)
        found["text_to_image"][1] = top1(texts @ images.T)
        return found

    monkeypatch.setattr(evaluate, "recall", mutated)
    for value in (1.0, 0.0, float("nan")):
        test_evaluate.test_a_model_that_tells_nothing_apart_finds_nothing(value)
    test_evaluate.test_recall_goes_on_beyond_one_batch_of_queries()
    brute_force: Any = test_evaluate.test_recall_equals_brute_force_with_several_captions_per_picture
    for seed in range(20):
        brute_force.hypothesis.inner_test(11, 0, seed)


BATTERIES = {"loss_properties": battery_of_losses, "split_properties": with_split, "score_properties": with_score}


def run_battery(room, implementation, monkeypatch):
    battery = BATTERIES[room]
    battery(implementation) if battery is battery_of_losses else battery(implementation, monkeypatch)


@pytest.mark.parametrize(("room", "name"), [(room, name) for room in ROOMS for name in ROOMS[room].right])
def test_what_is_right_passes_the_projects_own_tests(room, name, monkeypatch):
    run_battery(room, ROOMS[room].right[name], monkeypatch)


@pytest.mark.parametrize(("room", "name"), [(room, name) for room in ROOMS for name in ROOMS[room].mutants])
def test_a_mutant_is_killed_by_the_projects_own_tests(room, name, monkeypatch):
    with pytest.raises((AssertionError, RuntimeError)):
        run_battery(room, ROOMS[room].mutants[name].wrong, monkeypatch)


# Exhibit -> a file of the project, a text in it, what the bug makes of it, and a test that notices.
BUGS = {
    "sure of itself": (
        "minclip/model.py",
        "self.logit_scale.clamp_(max=MAX_LOGIT_SCALE)",
        "pass",
        "test_model.py::test_logit_scale_starts_at_the_papers_value_and_is_clamped_to_a_hundred",
    ),
    "a high floor": (
        "minclip/train.py",
        "scale = model.logit_scale.exp()",
        "scale = model.logit_scale",
        "test_train.py::test_a_step_clips_the_gradient_and_clamps_the_scale",
    ),
    "a slow start": (
        "minclip/model.py",
        "math.log(10 if config.logit_bias else 1 / 0.07)",
        "1.0",
        "test_model.py::test_logit_scale_starts_at_the_papers_value_and_is_clamped_to_a_hundred",
    ),
    "flat at ln N": (
        "minclip/loss.py",
        "target = torch.arange(len(logits), device=logits.device)",
        "target = logits.detach().softmax(dim=1)",
        "test_loss.py::test_the_identity_matrix_and_arange_are_the_same_loss",
    ),
    "two equal losses": (
        "minclip/loss.py",
        "F.cross_entropy(logits.T, target)",
        "F.cross_entropy(logits, target)",
        "test_loss.py::test_the_identity_matrix_and_arange_are_the_same_loss",
    ),
    "an easy start": (
        "minclip/gradient_cache.py",
        "loss = loss_of(*leaves)",
        "loss = torch.stack([loss_of(*part) for part in zip(*(leaf.split(8) for leaf in leaves))]).mean()",
        "test_gradient_cache.py::test_every_split_of_64_pairs_gives_the_gradients_of_the_whole",
    ),
    "whose neighbour": (
        "minclip/text.py",
        "pooled=text.argmax(dim=-1)",
        "pooled=T - 1",
        "test_model.py::test_cutting_at_the_longest_text_changes_nothing",
    ),
    "twice as good": (
        "minclip/data/pairs.py",
        "is_held_out = [belongs_to_test(digest) for digest in digests(pairs.images)]",
        "is_held_out = [i % 10 == 0 for i in range(len(pairs.origins))]",
        "test_pairs.py::test_equal_pictures_are_on_one_side_and_none_is_lost",
    ),
    "old prompts": (
        "minclip/evaluate.py",
        "    prompts = text_features(",
        "    prompts = KEPT.setdefault((*labels, *templates), None)\n"
        "    if prompts is None:\n"
        "        prompts = KEPT[*labels, *templates] = text_features(",
        "test_evaluate.py::test_classes_are_encoded_by_the_model_as_it_is_now",
    ),
    "perfect": (
        "minclip/evaluate.py",
        "(~(similarity < best_right) & ~is_right)",
        "((similarity > best_right) & ~is_right)",
        "test_evaluate.py::test_a_model_that_tells_nothing_apart_finds_nothing",
    ),
}
# Exhibit -> a list of mutants, each of which a test of that file kills, and the name of the bug in it.
LISTED = {
    "suddenly nan": (test_mutants.TORCH, "no maximum"),
    "bright columns": (test_distributed_loss.SHARDS, "pairs without the rank's offset"),
    "stairs": (test_mutants.TORCH, "pair from the softmax, rounded"),
    "a second machine": (test_distributed_loss.SHARDS, "texts gathered without gradient"),
}
UNTESTABLE = {"a lucky line"}  # A test does not see which pictures a person has looked at.


def test_every_exhibit_has_its_bug_here():
    assert {*BUGS, *LISTED} | UNTESTABLE == {*exhibits.EXHIBITS}
    assert all(name in listed for listed, name in LISTED.values())
    for file, old, _, test in BUGS.values():
        assert old in (ROOT / file).read_text(encoding="utf-8")
        module, _, function = test.partition("::")
        assert callable(getattr(importlib.import_module(module.removesuffix(".py")), function))


@pytest.mark.slow
@pytest.mark.parametrize("name", BUGS)
def test_the_bug_of_an_exhibit_is_noticed_by_the_projects_own_tests(name, tmp_path):
    file, old, new, test = BUGS[name]
    for folder in ("minclip", "kernels", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    text = (tmp_path / file).read_text(encoding="utf-8").replace(old, new)
    (tmp_path / file).write_text(text + ("\nKEPT = {}\n" if "KEPT" in new else ""), encoding="utf-8")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"tests/{test}"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (tmp_path, tmp_path / "kernels")))}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr  # 1: a test failed; not that none was found
    assert "1 failed" in done.stdout


# --- diagnoses --------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def mine(tmp_path, monkeypatch):
    monkeypatch.setenv("MINCLIP_MINE", str(tmp_path / "mine"))


@pytest.mark.parametrize("name", exhibits.EXHIBITS)
def test_a_diagnosis_tells_the_cause_or_what_the_choice_does_not_explain(name, capsys):
    exhibit = exhibits.EXHIBITS[name]
    choices = exhibit.choices()
    assert len(choices) == len(exhibit.why) + 1 >= 4
    for letter, text in choices.items():
        check.diagnose(name, letter)
        said = " ".join(capsys.readouterr().out.split())
        told = exhibit.story if text == exhibit.cause else exhibit.why[text]
        assert " ".join(told.split()) in said
        assert said.startswith("✔" if text == exhibit.cause else "✘")
        assert (exhibit.source in said) == (text == exhibit.cause)


def test_without_a_choice_the_choices_are_listed_and_nothing_is_told(capsys):
    for choice in (None, "z"):
        check.diagnose("perfect", choice)
        said = capsys.readouterr().out
        assert all(text in said for text in exhibits.EXHIBITS["perfect"].choices().values())
        assert exhibits.EXHIBITS["perfect"].story[:30] not in said
    check.diagnose("no such exhibit", "a")
    assert "there are suddenly nan, " in capsys.readouterr().out
    check.progress()
    assert "predictions: none yet" in capsys.readouterr().out


def test_the_first_diagnosis_counts(capsys):
    check.diagnose("perfect", "a")
    check.diagnose("perfect", "d")
    assert "(0 of 1 so far)" in capsys.readouterr().out
    check.progress()
    assert "predictions: 0 of 1 right" in capsys.readouterr().out


def test_the_causes_are_not_always_at_the_same_place():
    places = [exhibit.place for exhibit in exhibits.EXHIBITS.values()]
    assert max(places.count(place) for place in range(4)) <= 5
