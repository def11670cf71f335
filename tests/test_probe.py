"""The probe against independent calculations, and on features of which the answer is known."""

import json
from statistics import fmean

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minclip import cli, probe
from minclip.data import Labelled

# Probabilities of scikit-learn 1.9.1: LogisticRegression(C=2, tol=1e-10, max_iter=10000).fit(POINTS, CLASSES).
POINTS = [[0.9, 0.1], [0.8, -0.3], [-0.2, 1.0], [0.1, 0.7], [-0.9, -0.4], [-0.6, -0.8], [0.5, 0.6]]
CLASSES = [0, 0, 1, 1, 2, 2, 1]
GOLDEN = [
    [0.607487, 0.314885, 0.077628], [0.684672, 0.187719, 0.127609], [0.066713, 0.853316, 0.079971],
    [0.154625, 0.742717, 0.102658], [0.074884, 0.164669, 0.760446], [0.133117, 0.090663, 0.776220],
    [0.278500, 0.646031, 0.075469],
]  # fmt: skip


def blobs(classes: int, each: int, noise: float, seed: int = 0, width: int = 8) -> tuple[torch.Tensor, Labelled]:
    """Unit features of `each` pictures per class around a centre of the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(each)
    centres = torch.eye(width)[:classes]
    features = F.normalize(centres[labels] + noise * torch.randn(len(labels), width, generator=generator), dim=1)
    names = [f"class {i}" for i in range(classes)]
    return features, Labelled(torch.empty(len(labels), 0), names, labels, torch.arange(len(labels)))


# --- the two classifiers ----------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.integers(2, 5), st.integers(6, 30), st.integers(1, 9), st.floats(-2, 3), st.integers(0, 99))
def test_the_weights_are_the_minimum(classes, n, width, exponent, seed):
    """The loss is convex, so its minimum is where the gradient, here written out by hand in numpy, is zero."""
    generator = torch.Generator().manual_seed(seed)
    x = F.normalize(torch.randn(n, width, generator=generator), dim=1)
    y = torch.randint(classes, (n,), generator=generator)
    y[:classes] = torch.arange(classes)
    strength = 10.0**exponent
    weight, bias = (tensor.numpy() for tensor in probe.fit_logistic(x, y, classes, strength))
    features, onehot = x.double().numpy(), np.eye(classes)[y.numpy()]
    logits = features @ weight + bias
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    gradient = (features.T @ (p - onehot) + strength * weight) / n
    assert np.abs(gradient).max() < 1e-4
    assert np.abs((p - onehot).mean(axis=0)).max() < 1e-4


def test_the_weights_are_those_of_scikit_learn():
    x = torch.tensor(POINTS, dtype=torch.float64)
    weight, bias = probe.fit_logistic(x, torch.tensor(CLASSES), 3, 0.5)
    found = (x @ weight + bias).softmax(dim=1)
    torch.testing.assert_close(found, torch.tensor(GOLDEN, dtype=torch.float64), rtol=0, atol=1e-4)


def test_one_picture_per_class_and_a_strong_penalty_are_the_nearest_neighbour():
    features, labelled = blobs(5, 12, noise=0.6)
    first = torch.arange(0, 60, 12)
    known, labels = features[first], labelled.labels[first]
    linear = probe.linear_scores(5, 1e3, known, labels, features).argmax(dim=1)
    assert torch.equal(linear, (features @ known.T).argmax(dim=1))
    assert torch.equal(linear, probe.neighbour_scores(5, 1, known, labels, features).argmax(dim=1))


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 99))
def test_votes_against_a_loop(k, n, seed):
    generator = torch.Generator().manual_seed(seed)
    known = F.normalize(torch.randn(n, 3, generator=generator), dim=1)
    asked = F.normalize(torch.randn(4, 3, generator=generator), dim=1)
    labels = torch.randint(3, (n,), generator=generator)
    expected = torch.zeros(4, 3, dtype=torch.float64)
    for i in range(4):
        cosines = [float(asked[i].double() @ known[j].double()) for j in range(n)]
        for j in sorted(range(n), key=lambda j: -cosines[j])[:k]:
            expected[i, labels[j]] += np.exp(cosines[j] / 0.07)
    torch.testing.assert_close(probe.neighbour_scores(3, k, known, labels, asked), expected)


# --- splits and settings ----------------------------------------------------------------------------------------------


def test_accuracy_is_the_mean_over_classes():
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    always_zero = F.one_hot(torch.zeros(6, dtype=torch.int64), 2).double()
    assert probe.accuracy_by_class(always_zero, labels) == 0.5
    assert probe.accuracy_by_class(F.one_hot(torch.tensor([0, 0, 0, 1, 1, 1]), 2).double(), labels) == 0.875


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=40), st.integers(2, 5))
def test_a_thing_is_in_one_part_and_a_class_in_as_many_as_it_can(pairs, parts):
    labels = torch.tensor([one for one, _ in pairs])
    things = torch.tensor([10 * one + thing for one, thing in pairs])  # a thing has one class
    part = probe.spread(labels, things, parts, torch.Generator().manual_seed(0))
    for thing in things.unique():
        assert len(part[things == thing].unique()) == 1
    for one in labels.unique():
        shown = len(things[labels == one].unique())
        assert len(part[labels == one].unique()) == min(parts, shown)
        assert 0 in part[labels == one]


def test_more_shots_contain_fewer_and_draws_differ():
    labels = torch.arange(4).repeat_interleave(20)
    for k in (1, 2, 5):
        drawn = probe.few(labels, k, draw=0)
        assert labels[drawn].bincount().tolist() == [k] * 4
        assert set(drawn.tolist()) <= set(probe.few(labels, k + 1, draw=0).tolist())
        assert set(drawn.tolist()) != set(probe.few(labels, k, draw=1).tolist())
    assert sorted(probe.few(labels, None, 0).tolist()) == list(range(80))


def test_the_strength_with_the_best_accuracy_is_found_and_of_equals_the_one_nearest_to_one():
    assert probe.best_strength(lambda s: -abs(np.log10(s) - 1.625)) == pytest.approx(10**1.625)
    assert probe.best_strength(lambda s: -abs(np.log10(s) + 4)) == pytest.approx(1e-4)
    assert probe.best_strength(lambda s: 0.3) == 1
    assert probe.best_strength(lambda s: float(s >= 50)) == pytest.approx(10**1.75)
    assert probe.best_neighbours(lambda k: 0.3) == 1


def test_nothing_is_chosen_on_the_test_side():
    """Settings stay when the test pictures' features become noise, and the accuracy falls to chance."""
    features, labelled = blobs(4, 60, noise=0.25)
    tested = probe.test_side(labelled)
    noisy = features.clone()
    noisy[tested] = F.normalize(torch.randn(int(tested.sum()), 8, generator=torch.Generator().manual_seed(3)), dim=1)
    shots = [2, 8]
    for row, other in zip(
        probe.probe(features, labelled, shots, 2), probe.probe(noisy, labelled, shots, 2), strict=True
    ):
        for method, without in ((row.linear, other.linear), (row.neighbours, other.neighbours)):
            assert method.setting == without.setting
            assert method.mean > 0.5
            assert abs(without.mean - 0.25) < 0.15


def test_the_curve_rises_and_ends_with_all_pictures():
    features, labelled = blobs(4, 60, noise=0.25)
    rows = list(probe.probe(features, labelled, [16, 1, 4, 400], 3))
    assert [row.shots for row in rows] == [1, 4, 16, None]
    assert [row.pictures for row in rows] == [4, 16, 64, 160]
    assert [len(row.linear.accuracy) for row in rows] == [3, 3, 3, 1]
    for name in ("linear", "neighbours"):
        means = [getattr(row, name).mean for row in rows]
        assert means[0] < means[2]
        assert means[-1] > 0.75
    assert list(probe.probe(features, labelled, [1, 4, 16], 3)) == rows


def test_without_a_relation_to_the_classes_features_give_chance():
    features, labelled = blobs(4, 90, noise=0.0)
    shuffled = features[torch.randperm(len(features), generator=torch.Generator().manual_seed(1))]
    *_, row = probe.probe(shuffled, labelled, [1], 1)
    assert abs(row.linear.mean - 0.25) < 0.12
    assert abs(row.neighbours.mean - 0.25) < 0.12


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Twelve shades each of two colours, in a folder for each colour."""
    folder = tmp_path_factory.mktemp("colours")
    for name, channel in (("red", 0), ("blue", 2)):
        (folder / name).mkdir()
        for i in range(12):
            colour = [20, 20, 20]
            colour[channel] = 140 + 9 * i
            Image.new("RGB", (30, 24), tuple(colour)).save(folder / name / f"{i}.png")
    return folder


def test_the_command_prints_a_table_and_the_same_as_json_and_a_figure(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["probe", "--data", str(folders), "--shots", "1", "2", "--draws", "2"]
    assert cli.main(options) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].endswith("2 classes, tested on 8 pictures; accuracy in %")
    assert [line.split()[:2] for line in table[2:5]] == [["1", "2"], ["2", "4"], ["all", "16"]]
    assert table[-1].endswith("chance 50.0")
    assert cli.main([*options, "--json", "--plot"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["classes"] == ["blue", "red"]
    assert content["rows"][-1]["linear"]["accuracy"] == [1.0]
    assert f"{100 * fmean(content['rows'][0]['linear']['accuracy']):.1f} ±" in table[2]
    with Image.open("minclip-probe.png") as figure:
        assert np.asarray(figure.convert("L")).std() > 5


def test_the_emoji_are_told_apart_by_their_groups(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["probe", "--artists", "openmoji", "--shots", "1", "--draws", "1", "--json"]
    assert cli.main(options) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["chance"] == pytest.approx(1 / 9)
    assert "Food & Drink" in content["classes"]
    few, every = content["rows"]
    assert few["linear"]["accuracy"][0] > content["chance"]
    assert every["linear"]["accuracy"][0] > 0.4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--shots", "0"], "--shots is [0]"),
        (["--draws", "0"], "--draws 0"),
        (["--data", "gone"], "gone: no such folder or file"),
        (["--data", ".", "--artists", "openmoji"], "give one"),
        (["--data", "."], "each named after what they show"),
    ],
)
def test_bad_input(options, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["probe", *options]) == 1
    assert said in capsys.readouterr().err
