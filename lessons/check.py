"""The exercises of the lessons, and their verdicts: `function = check.name(function)`.

A check tries your function on random cases and prints one line: solved; not yet, on an untouched stub; or the smallest
case that it gets wrong, with what was expected and a hint. It returns your function once that is solved, and until then
the one from solutions/, so that the lesson always runs to its end.
"""

import importlib
import itertools
import math
import os
import statistics
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

import minclip

FAST = os.environ.get("MINCLIP_FAST") == "1"  # everything smaller: for the tests


def pick(full: Any, fast: Any) -> Any:
    """`full` for a reader, `fast` where MINCLIP_FAST=1."""
    return fast if FAST else full


class Wrong(Exception):
    """What an attempt got wrong, in words for its author."""


Body = Callable[[Callable[..., Any], Callable[..., Any]], None]


def exercise(lesson: str, hint: str, cases: int = 50) -> Callable[[Body], Callable[[Callable[..., Any]], Any]]:
    """Makes a check of a function (attempt, draw) that raises Wrong; `draw` makes random values from strategies.

    The solution has the same name, in solutions/lesson_<lesson>.py.
    """

    def decorate(body: Body) -> Callable[[Callable[..., Any]], Any]:
        name = body.__name__

        @wraps(body)
        def check(attempt: Callable[..., Any]) -> Callable[..., Any]:
            problem = first_problem(body, attempt, cases)
            if problem is None:
                print(f"✓ {name}: solved")
                return attempt
            print(f"… {name}: not yet. {hint}" if problem == "" else f"✗ {name}: {problem}\n  Hint: {hint}")
            return getattr(importlib.import_module(f"solutions.lesson_{lesson}"), name)

        return check

    return decorate


def first_problem(body: Body, attempt: Callable[..., Any], cases: int) -> str | None:
    """None if every case passes, "" for a stub, else the smallest failure in words."""

    @settings(
        max_examples=cases,
        deadline=None,
        derandomize=True,
        database=None,
        report_multiple_bugs=False,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    @given(st.data())
    def run(data: st.DataObject) -> None:
        body(attempt, data.draw)

    try:
        run()
    except NotImplementedError:
        return ""
    except Wrong as wrong:
        return str(wrong)
    except Exception as error:
        return f"it raised {type(error).__name__}: {error}"
    return None


def expect(got: Any, wanted: Any, tolerance: float = 1e-5, **case: Any) -> None:
    """Raises Wrong unless `got` is `wanted`: a tensor or number up to tolerance × (1 + size), anything else exactly."""
    if isinstance(wanted, Tensor):
        if not isinstance(got, Tensor):
            raise Wrong(f"it returned a {type(got).__name__}, expected a tensor{_given(case)}")
        if got.shape != wanted.shape:
            raise Wrong(f"it returned shape {tuple(got.shape)}, expected {tuple(wanted.shape)}{_given(case)}")
        right = torch.allclose(got.double(), wanted.double(), rtol=tolerance, atol=tolerance, equal_nan=True)
    elif isinstance(wanted, float):
        right = abs(float(got) - wanted) <= tolerance * (1 + abs(wanted))
    else:
        right = got == wanted
    if not right:
        raise Wrong(f"it returned {_show(got)}, expected {_show(wanted)}{_given(case)}")


def _given(case: dict[str, Any]) -> str:
    return ", for " + ", ".join(f"{name} = {_show(value)}" for name, value in case.items()) if case else ""


def _show(value: Any) -> str:
    if isinstance(value, Tensor):
        return " ".join(f"{torch.round(value.detach().double(), decimals=4).tolist()}".split())
    return f"{value:.5g}" if isinstance(value, float) else repr(value)


@st.composite
def features(draw: st.DrawFn, rows: int | None = None, width: int | None = None, largest: int = 6) -> Tensor:
    """Random features (rows, width) of every length but zero; small ones and few of them come first."""
    rows = rows or draw(st.integers(1, largest))
    width = width or draw(st.integers(1, largest))
    values = st.integers(-4, 4).filter(bool)
    return torch.tensor([[float(draw(values)) for _ in range(width)] for _ in range(rows)])


def pairs_of_features(draw: Callable[..., Any], largest: int = 6) -> tuple[Tensor, Tensor]:
    """Features of N images and N texts, (N, D) each."""
    rows, width = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    return draw(features(rows, width)), draw(features(rows, width))


# --- 00 Two towers in a minute ----------------------------------------------------------------------------------------


# --- 01 Pull and push -------------------------------------------------------------------------------------------------


@exercise("01", "give every row of both length 1 (F.normalize with dim=1), then one matrix product with .T.")
def cosine_matrix(attempt, draw):
    width = draw(st.integers(1, 6))
    image, text = draw(features(width=width)), draw(features(width=width))
    got = attempt(image, text)
    by_hand = torch.tensor([[float(x @ y / ((x @ x) * (y @ y)).sqrt()) for y in text] for x in image])
    if isinstance(got, Tensor) and got.shape == by_hand.shape:
        if got.abs().max() > 1 + 1e-4:
            raise Wrong(f"{_show(got)} leaves [−1, 1]{_given({'image_features': image, 'text_features': text})}")
        expect(attempt(image, image).diagonal(), torch.ones(len(image)), image_features=image, text_features=image)
        longer = draw(st.sampled_from([2.0, 10.0, 0.1]))
        if not torch.allclose(attempt(longer * image, text), got, atol=1e-4):
            case = _given({"image_features": image, "text_features": text})
            raise Wrong(f"it changes when the image features become {longer:g} times as long{case}")
    expect(got, by_hand, image_features=image, text_features=text)


@exercise("01", "subtract the diagonal from every row, exp, set the diagonal to 0, sum the row, log(1 + …), mean.")
def n_pair_loss(attempt, draw):
    image, text = pairs_of_features(draw)
    logits = 3 * F.normalize(image) @ F.normalize(text).T
    expect(attempt(logits), F.cross_entropy(logits, torch.arange(len(logits))), logits=logits)


# --- 02 arange or identity? -------------------------------------------------------------------------------------------


@exercise("02", "one minus sign, a one-hot matrix (torch.eye), log_softmax along a row; then the mean over the rows.")
def onehot_loss(attempt, draw):
    image, text = pairs_of_features(draw)
    logits = image @ text.T
    expect(attempt(logits), F.cross_entropy(logits, torch.arange(len(logits))), logits=logits)


@exercise("02", "a label is the place of the one in its row, so the labels of the identity are 0, 1, … N-1.")
def arange_loss(attempt, draw):
    image, text = pairs_of_features(draw)
    logits = image @ text.T
    expect(attempt(logits), -logits.log_softmax(dim=1).diagonal().mean(), logits=logits)


@exercise("02", "softmax over rows, plus softmax over columns, minus 2 on the diagonal; all of it over 2N.")
def logit_gradient(attempt, draw):
    image, text = pairs_of_features(draw)
    logits = (image @ text.T).requires_grad_()
    labels = torch.arange(len(logits))
    ((F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2).backward()
    expect(attempt(logits.detach()), logits.grad, logits=logits)


# --- 03 Is my loss stuck? ---------------------------------------------------------------------------------------------


@exercise("03", "count each caption (collections.Counter), take ln of the count for every pair, then the mean of all B.")
def batch_floor(attempt, draw):
    captions = draw(st.lists(st.sampled_from(["cat", "dog", "horse"]), min_size=1, max_size=8))
    # the loss itself, of a model that gives each caption an own direction and is very sure
    alphabet = sorted(set(captions))
    image = F.one_hot(torch.tensor([alphabet.index(caption) for caption in captions]), len(alphabet)).double()
    expect(attempt(captions), minclip.clip_loss(image, image, 1e4).item(), captions=captions)


@exercise("03", "sum over k = 0 … B−1 of math.comb(B−1, k) · p^k · (1−p)^(B−1−k) · math.log(1 + k), with p = 1/C.")
def expected_floor(attempt, draw):
    batch_size, n_captions = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    if draw(st.booleans()):
        batch_size, n_captions = draw(st.sampled_from([(64, 16), (128, 1), (32, 1000)]))
        wanted = minclip.loss_floor(batch_size, n_captions)
    else:  # every batch that there is
        others = itertools.product(range(n_captions), repeat=batch_size - 1)
        wanted = statistics.mean(math.log(1 + other.count(0)) for other in others)
    expect(attempt(batch_size, n_captions), wanted, batch_size=batch_size, n_captions=n_captions)


# --- 04 Temperature ---------------------------------------------------------------------------------------------------


# --- 05 From bytes to tokens ------------------------------------------------------------------------------------------


# --- 06 Reading a sentence --------------------------------------------------------------------------------------------


# --- 07 Patches -------------------------------------------------------------------------------------------------------


# --- 08 Train it ------------------------------------------------------------------------------------------------------


# --- 09 Do you need 4096? ---------------------------------------------------------------------------------------------


@exercise("09", "take the score of each seed at both sizes, subtract, then statistics.mean and statistics.stdev / √n.")
def gain(attempt, draw):
    seeds = draw(st.integers(2, 4))
    points = st.integers(0, 100)
    rows = [
        (kind, batch, seed, float(draw(points)))
        for kind in ("equal samples", "equal steps")
        for batch in (16, 64, 256)
        for seed in range(seeds)
    ]
    rows = draw(st.permutations(rows))
    small, large = draw(st.sampled_from([(16, 64), (16, 256), (64, 256)]))
    kind = draw(st.sampled_from(["equal samples", "equal steps"]))
    table = {row[:3]: row[3] for row in rows}
    differences = torch.tensor([table[kind, large, seed] - table[kind, small, seed] for seed in range(seeds)])
    wanted = differences.mean().item(), (differences.var() / seeds).sqrt().item()
    case = {"kind": kind, "small": small, "large": large, "rows": sorted(row for row in rows if row[0] == kind)}
    got = attempt(rows, kind, small, large)
    if not isinstance(got, tuple) or len(got) != 2:
        raise Wrong(f"it returned {got!r}, expected a mean and a standard error")
    for part, value, expected in zip(("mean", "standard error"), got, wanted, strict=True):
        if abs(value - expected) > 1e-4 * (1 + abs(expected)):
            raise Wrong(f"its {part} is {value:.5g}, expected {expected:.5g}{_given(case)}")


@exercise("09", "compare abs(mean) with STUDENT[seeds] * error first; only then ask for the sign.")
def verdict(attempt, draw):
    # two-sided 95 % of Student's distribution with 1, 2, 3 and 4 degrees of freedom
    seeds, factor = draw(st.sampled_from([(3, 4.30), (2, 12.71), (4, 3.18), (5, 2.78)]))
    error, ratio = draw(st.integers(1, 8)) / 2, draw(st.sampled_from([2.5, 0.5, 1.5, 0.75]))
    mean = draw(st.sampled_from([1, -1])) * ratio * factor * error
    wanted = "cannot say" if ratio < 1 else "better" if mean > 0 else "worse"
    expect(attempt(mean, error, seeds), wanted, mean=mean, error=error, seeds=seeds)


# --- 10 Zero-shot, search, "other" ------------------------------------------------------------------------------------


# --- 12 Never build the matrix ----------------------------------------------------------------------------------------


# --- 13 A first Triton kernel -----------------------------------------------------------------------------------------


# --- 14 The fused loss ------------------------------------------------------------------------------------------------
