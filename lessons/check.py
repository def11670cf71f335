"""The exercises of the lessons, and their verdicts: `function = check.name(function)`.

A check tries your function on random cases and prints one line: solved; not yet, on an untouched stub; or the smallest
case that it gets wrong, with what was expected and a hint. It returns your function once that is solved, and until then
the one from solutions/, so that the lesson always runs to its end.
"""

import importlib
import os
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

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
