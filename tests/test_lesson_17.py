"""The project's tests on a reader's loss end in one line, whatever that loss does."""

import sys
from pathlib import Path

import pytest

import minclip

LESSONS = Path(__file__).resolve().parent.parent / "lessons"
sys.path.insert(0, str(LESSONS))

from check.lesson_17 import project_tests  # noqa: E402

CASES = [{"kind": kind, "count": 9, "width": 5, "seed": 0, "scale": 20.0} for kind in ("random", "cones")]


def raises(image_features, text_features, logit_scale):
    raise RuntimeError("two\nlines")


def without_gradient(image_features, text_features, logit_scale):
    return minclip.clip_loss(image_features, text_features, logit_scale).detach()


def for_random_features(image_features, text_features, logit_scale):
    """A loss that is wrong where every product of features is negative."""
    loss = minclip.clip_loss(image_features, text_features, logit_scale)
    return loss if (image_features @ text_features.T > 0).any() else 2 * loss


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (minclip.clip_loss, "✔ yours: passed 2 comparisons with float64"),
        (lambda x, y, s: 1.01 * minclip.clip_loss(x, y, s), "✘ yours: passed 0 comparisons"),
        (for_random_features, "✘ yours: passed 1 comparisons"),
        (raises, "it raised RuntimeError: two"),
        (without_gradient, "it raised RuntimeError"),
        (lambda x, y: x, "it raised TypeError"),
        (lambda x, y, s: None, "it raised AttributeError"),
    ],
    ids=["right", "1 % off", "right at first", "raises", "no gradient", "too few parameters", "None"],
)
def test_one_line_whatever_the_loss_does(loss, said, capsys):
    project_tests(loss, "yours", CASES)
    out = capsys.readouterr().out
    assert said in out
    assert out.count("\n") == 1
