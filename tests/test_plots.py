import numpy as np
import pytest
import torch
from PIL import Image

from minclip import plots
from minclip.data import Emoji
from minclip.images import PictureFile

EMOJI = [Emoji("1F408"), Emoji("1F415"), Emoji("2764-FE0F")]


def pixels(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_the_loss_is_drawn_with_and_without_unseen_scores(tmp_path):
    rows = [{"epoch": i / 10, "loss": 3 / (i + 1), "untrained": 3.0, "floor": 0.1} for i in range(20)]
    plots.plot_loss(rows, tmp_path / "a.png")
    rows[-1]["unseen_top1"] = 0.5
    plots.plot_loss(rows, tmp_path / "b.png")
    assert not np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))


def test_the_right_picture_is_marked(tmp_path):
    found = [[(name, 0.5) for name in EMOJI]]
    plots.plot_retrieval(["cat"], found, [{EMOJI[0]}], tmp_path / "first.png")
    plots.plot_retrieval(["cat"], found, [{EMOJI[2]}], tmp_path / "third.png")
    difference = np.abs(pixels(tmp_path / "first.png") - pixels(tmp_path / "third.png")).sum(axis=(0, 2))
    left, right = np.split(difference, [len(difference) * 6 // 10])
    assert left.sum() > 0 < right.sum()


def test_similarity_positions_and_classes_are_drawn(tmp_path):
    identity = 2 * torch.eye(3) - 1
    plots.plot_similarity(torch.zeros(3, 3), identity, EMOJI, ["cat", "dog", "red heart"], tmp_path / "a.png")
    plots.plot_positions(torch.randn(1 + 9, 8, generator=torch.Generator().manual_seed(0)), tmp_path / "b.png")
    probability = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    plots.plot_classes(EMOJI[:2], ["cat", "dog"], probability, probability, tmp_path / "c.png")
    for name in "abc":
        assert pixels(tmp_path / f"{name}.png").std() > 5


def test_letters_that_no_font_has_are_said(tmp_path):
    with pytest.warns(UserWarning, match="letters that no font here has"):
        plots.plot_classes(EMOJI[:1], ["\U00013000"], torch.ones(1, 1), torch.ones(1, 1), tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()


def test_a_figure_credits_the_pictures_that_ask_for_it(tmp_path, monkeypatch):
    Image.new("RGB", (20, 20), "red").save(tmp_path / "red.png")
    figures, own, new_figure = [], PictureFile(tmp_path / "red.png"), plots._figure
    monkeypatch.setattr(plots, "_figure", lambda *size: figures.append(new_figure(*size)) or figures[-1])
    for origins in ([own], [own, *EMOJI]):
        plots.plot_retrieval(["cat"], [[(origin, 0.5) for origin in origins]], None, tmp_path / "a.png")
    without, with_credit = (figure.get_supxlabel() for figure in figures)
    assert (without, with_credit) == ("", EMOJI[0].credit)
