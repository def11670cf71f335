"""The checks of lesson 13, Borrowed eyes."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from check.cases import expect, given
from check.verdict import Wrong, exercise


@exercise(
    "subtract the means of features and targets, solve (XᵀX + strength · 1) W = XᵀY, and compute the bias last.",
    steps=(
        "the targets are rows with a single 1 (F.one_hot): which W and b bring features @ W + b closest to them?",
        "the best bias makes the mean of the predictions right: b = mean(Y) − mean(X) @ W. With both means subtracted "
        "from X and Y, only W is left to find.",
        "W = torch.linalg.solve(X.T @ X + strength * torch.eye(D), X.T @ Y), with the centred X and Y.",
    ),
)
def linear_probe(attempt, draw):
    n, D, C = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(2, 3))
    values = draw(st.lists(st.integers(-4, 4), min_size=n * D, max_size=n * D))
    features = torch.tensor(values).view(n, D) / 2
    labels = torch.tensor(draw(st.lists(st.integers(0, C - 1), min_size=n, max_size=n)))
    strength = draw(st.sampled_from([0.1, 1.0, 10.0]))
    got, wanted = attempt(features, labels, C, strength), _ridge(features, labels, C, strength)
    case = {"features": features, "labels": labels, "classes": C, "strength": strength}
    if not isinstance(got, list | tuple) or len(got) != 2:
        raise Wrong(
            f"it returned a {type(got).__name__}, expected (weights, bias){given(case)}", "return weights, bias"
        )
    for mine, right, name in zip(got, wanted, ("weights", "bias"), strict=True):
        if isinstance(mine, Tensor) and mine.shape != right.shape:
            raise Wrong(
                f"{name}: it returned shape {tuple(mine.shape)}, expected {tuple(right.shape)}{given(case)}",
                "weights (D, C), bias (C,), even if a class has no picture here: F.one_hot(labels, classes)",
            )
        try:
            expect(mine, right, 1e-3, **case)
        except Wrong as wrong:
            raise Wrong(f"{name}: {wrong}", wrong.hint or _why_no_probe(attempt)) from None


def _ridge(features: Tensor, labels: Tensor, classes: int, strength: float) -> tuple[Tensor, Tensor]:
    """The same minimum by least squares in float64, with extra rows in which √strength · W should be 0."""
    n, D = features.shape
    ones = torch.ones(n, 1, dtype=torch.float64)
    penalty = torch.cat([strength**0.5 * torch.eye(D), torch.zeros(D, 1)], dim=1).double()
    rows = torch.cat([torch.cat([features.double(), ones], dim=1), penalty])  # (n + D, D + 1)
    targets = torch.cat([F.one_hot(labels, classes).double(), torch.zeros(D, classes, dtype=torch.float64)])
    found = torch.linalg.lstsq(rows, targets, driver="gelsd").solution.float()
    return found[:-1], found[-1]


def _why_no_probe(attempt: Callable[..., Any]) -> str:
    """A hint for the mistake that leads to the attempt's weights, on pictures for which each gives other weights."""
    x = torch.tensor([[1.0, 2.0], [3.0, 1.0], [4.0, 4.0], [2.0, 5.0]])
    labels, strength = torch.tensor([0, 1, 1, 2]), 2.0
    y = F.one_hot(labels, 3).float()
    centred, around = x - x.mean(dim=0), y - y.mean(dim=0)

    def solve(features: Tensor, targets: Tensor, strength: float) -> Tensor:
        return torch.linalg.solve(features.T @ features + strength * torch.eye(2), features.T @ targets)

    with_one = torch.cat([x, torch.ones(4, 1)], dim=1)
    causes = {
        "the strength is missing: nothing holds the weights back": solve(centred, around, 0.0),
        "without subtracting the means there is no bias: the line has to go through 0": solve(x, y, strength),
        "the bias is not held back: only the weights are in the penalty": torch.linalg.solve(
            with_one.T @ with_one + strength * torch.eye(3), with_one.T @ y
        )[:2],
        "the penalty joins a sum over the pictures, not a mean: do not multiply the strength by their number": solve(
            centred, around, strength * len(x)
        ),
        "the penalty is strength · |W|², not its square": solve(centred, around, strength**2),
        "each class has its own column of targets: one-hot rows, not the number of the class": solve(
            centred, (labels - labels.float().mean())[:, None].expand(-1, 3), strength
        ),
    }
    found = attempt(x, labels, 3, strength)[0]
    like = (
        hint for hint, cause in causes.items() if found.shape == cause.shape and torch.allclose(found, cause, atol=1e-4)
    )
    right = solve(centred, around, strength)
    if found.shape == right.shape and torch.allclose(found, right, atol=1e-4):
        return "the bias makes the mean of the predictions right: mean(Y) − mean(X) @ W"
    return next(like, "")


@exercise(
    "make a fresh copy of the picture for each square, and fill that square: how far is its score below the whole's?",
    steps=(
        "by how much does the score fall if one square of the picture is covered?",
        "two loops over the rows and columns of squares: covered = image.clone(), then "
        "covered[:, top : top + size, left : left + size] = fill.",
        "score takes many pictures at once: torch.stack all copies, and return (score(image[None]) − score(stack)) "
        "as (R / size, R / size).",
    ),
)
def occlusion_map(attempt, draw):
    size, squares = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    R = size * squares
    values = draw(st.lists(st.integers(0, 9), min_size=3 * R * R, max_size=3 * R * R))
    image, fill = torch.tensor(values).view(3, R, R).float(), draw(st.sampled_from([5.0, 0.0]))
    case = {"image": image, "size": size, "fill": fill}
    got = attempt(_score, image, size, fill)
    if isinstance(got, Tensor) and got.shape != (squares, squares):
        raise Wrong(
            f"it returned shape {tuple(got.shape)}, expected {(squares, squares)}{given(case)}",
            "one number for each square: the squares touch and do not overlap",
        )
    expect(got, _drops(image, size, fill), 1e-4, hint=_why_no_map(attempt), **case)


def _score(images: Tensor) -> Tensor:
    """A score to which every pixel contributes differently: (N, 3, R, R) to (N,)."""
    weights = torch.arange(1.0, images[0].numel() + 1).view(images[0].shape)
    return (images * weights).sum(dim=(1, 2, 3)) / weights.sum()


def _drops(image: Tensor, size: int, fill: float) -> Tensor:
    squares = image.shape[1] // size
    drops = torch.zeros(squares, squares)
    for row in range(squares):
        for column in range(squares):
            rest = image.clone()
            rest[:, row * size : (row + 1) * size, column * size : (column + 1) * size] = fill
            drops[row, column] = _score(image[None])[0] - _score(rest[None])[0]
    return drops


def _why_no_map(attempt: Callable[..., Any]) -> str:
    """A hint for the mistake that leads to the attempt's map, on a picture for which each gives another map."""
    image = torch.arange(48.0).view(3, 4, 4) % 7
    drops = _drops(image, 2, 2.0)
    causes = {
        "the fall is the score of the whole picture minus that of the covered one": -drops,
        "that is the score of the covered pictures: how far is it below that of the whole?": _score(image[None])
        - drops,
        "rows of squares go down, columns to the right: yours are exchanged": drops.T,
        "the squares are filled with `fill`, which is not always 0": _drops(image, 2, 0.0),
    }
    found = attempt(_score, image, 2, 2.0)
    if not isinstance(found, Tensor) or found.shape != drops.shape:
        return ""
    all_before = torch.stack([drops.flatten()[: place + 1].sum() for place in range(drops.numel())]).view(drops.shape)
    causes["each square is covered alone: begin with a fresh copy of the picture"] = all_before
    return next((hint for hint, cause in causes.items() if torch.allclose(found, cause, atol=1e-4)), "")
