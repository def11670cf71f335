"""What frozen features know of classes: a linear probe and nearest neighbours, from few pictures to all.

Sources: Radford et al. 2021 (CLIP, arXiv:2103.00020), section 3.2 and appendix A.3, for logistic regression with L2 by
L-BFGS and the search of its strength, though on features before the projection, where ours are those that zero-shot
classification compares; Wu et al. 2018 (arXiv:1805.01978), section 3.4, for the votes of the neighbours.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, pstdev
from typing import Any

import torch
import torch.nn.functional as F

from minclip.batches import counter_generator
from minclip.data import Labelled

TEST_PARTS = 3  # one of this many parts is the test side
FOLDS = 4
ITERATIONS, TOLERANCE = 1000, 1e-5  # limits of L-BFGS; the tolerance is on the gradient of the mean loss
DECADES, FIRST_STEP, LAST_STEP = 4, 2, 1 / 8  # the search for the L2 strength around 1, in powers of ten
NEIGHBOURS = (1, 2, 4, 8, 16, 32)
VOTE_TEMPERATURE = 0.07

TEST_SEED, DRAW_SEED, FOLD_SEED = 100, 101, 102  # distinct first numbers, so that no two generators are equal

Scores = Callable[[float, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Method:
    """The results of a method, one for each draw: its accuracies in [0, 1], and the settings that were chosen."""

    accuracy: list[float]
    setting: list[float]

    @property
    def mean(self) -> float:
        return fmean(self.accuracy)

    @property
    def deviation(self) -> float:
        return pstdev(self.accuracy)


@dataclass(frozen=True)
class Row:
    """A point of the few-shot curve. `shots` is the largest number of pictures per class, None for all of them."""

    shots: int | None
    pictures: int
    linear: Method
    neighbours: Method


# --- the two classifiers ----------------------------------------------------------------------------------------------


def fit_logistic(
    features: torch.Tensor, labels: torch.Tensor, classes: int, strength: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights (D, C) and biases (C,), float64, that minimise Σ cross-entropy + strength/2 · |weights|².

    features: (n, D); labels: (n,) int64 below `classes`. The minimum is the only one, so L-BFGS starts at 0.
    """
    x = features.double()
    weight = torch.zeros(x.shape[1], classes, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    options: dict[str, Any] = {"max_iter": ITERATIONS, "tolerance_grad": TOLERANCE, "tolerance_change": 1e-9}
    optimizer = torch.optim.LBFGS([weight, bias], line_search_fn="strong_wolfe", **options)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight + bias, labels) + strength / (2 * len(x)) * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return weight.detach(), bias.detach()


def linear_scores(
    classes: int, strength: float, known: torch.Tensor, labels: torch.Tensor, asked: torch.Tensor
) -> torch.Tensor:
    """Logits (Q, C) of features (Q, D) by logistic regression on known ones (n, D) with labels (n,)."""
    weight, bias = fit_logistic(known, labels, classes, strength)
    return asked.double() @ weight + bias


def neighbour_scores(
    classes: int, k: float, known: torch.Tensor, labels: torch.Tensor, asked: torch.Tensor
) -> torch.Tensor:
    """Votes (Q, C) for unit vectors (Q, D): the k nearest of the known ones (n, D) vote with exp(cosine / 0.07)."""
    cosine, nearest = (asked.double() @ known.double().T).topk(min(int(k), len(known)))  # (Q, k)
    votes = torch.zeros(len(asked), classes, dtype=torch.float64)
    return votes.scatter_add(1, labels[nearest], (cosine / VOTE_TEMPERATURE).exp())


# --- how good they are ------------------------------------------------------------------------------------------------


def accuracy_by_class(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """The mean over the classes that occur of the share of right answers; an answer that never varies gets 1/C.

    scores: (Q, C); labels: (Q,).
    """
    is_right = (scores.argmax(dim=1) == labels).double()
    return torch.stack([is_right[labels == one].mean() for one in labels.unique()]).mean().item()


def spread(labels: torch.Tensor, things: torch.Tensor, parts: int, generator: torch.Generator) -> torch.Tensor:
    """Deal the things of each class to `parts` in turn, in a random order: (P,) int64, the part of each picture."""
    part = torch.zeros_like(labels)
    for one in labels.unique():
        here = (labels == one).nonzero().squeeze(1)
        shown, thing = things[here].unique(return_inverse=True)
        part[here] = (torch.randperm(len(shown), generator=generator) % parts)[thing]
    return part


def choose(
    setting_of: Callable[[Callable[[float], float]], float],
    scores_of: Scores,
    features: torch.Tensor,
    labels: torch.Tensor,
    part: torch.Tensor,
) -> float:
    """The setting with the best accuracy on each part of the known pictures by the others; 1 if there is one part."""
    if part.unique().numel() == 1:
        return 1.0

    def accuracy(setting: float) -> float:
        found = 0.0
        for one in part.unique():
            held, rest = part == one, part != one
            found += accuracy_by_class(scores_of(setting, features[rest], labels[rest], features[held]), labels[held])
        return found

    return setting_of(accuracy)


def best_strength(accuracy: Callable[[float], float]) -> float:
    """The strength of L2, from 1e-4 to 1e4, with the best accuracy; among equals, the one nearest to 1.

    Every second decade first, then half of the step around the best, down to eight steps in a decade.
    """
    found = {float(x): accuracy(10.0**x) for x in range(-DECADES, DECADES + 1, FIRST_STEP)}
    step = float(FIRST_STEP)
    while step > LAST_STEP:
        step /= 2
        best = _best(found)
        found |= {x: accuracy(10.0**x) for x in (best - step, best + step) if abs(x) <= DECADES}
    return 10.0 ** _best(found)


def _best(found: dict[float, float]) -> float:
    return max(found, key=lambda x: (found[x], -abs(x)))


def best_neighbours(accuracy: Callable[[float], float]) -> float:
    """The number of neighbours with the best accuracy; among equals, the lowest."""
    return max(NEIGHBOURS, key=accuracy)


# --- the curve --------------------------------------------------------------------------------------------------------


def test_side(labelled: Labelled) -> torch.Tensor:
    """Which pictures are for the test, (P,) bool: a third of the things of each class, always the same ones."""
    return spread(labelled.labels, labelled.things, TEST_PARTS, counter_generator(TEST_SEED)) == 0


def few(labels: torch.Tensor, shots: int | None, draw: int) -> torch.Tensor:
    """Draw up to `shots` pictures of each class: their indices. A draw of more shots contains that of fewer."""
    order = torch.randperm(len(labels), generator=counter_generator(DRAW_SEED, draw))
    if shots is None:
        return order
    return torch.cat([order[labels[order] == one][:shots] for one in labels.unique()])


def probe(features: torch.Tensor, labelled: Labelled, shots: Sequence[int], draws: int) -> Iterator[Row]:
    """Yield the few-shot curve of unit features (P, D): a row for each of `shots`, and one for all known pictures.

    Settings are chosen by cross-validation among the pictures that were drawn; the test side is only scored.
    """
    tested = test_side(labelled)
    known = (~tested).nonzero().squeeze(1)
    largest = labelled.labels[known].bincount().max().item()
    for k in (*(k for k in sorted(set(shots)) if k < largest), None):
        drawn = [known[few(labelled.labels[known], k, draw)] for draw in range(draws if k else 1)]
        found = [_measure(features, labelled, chosen, tested, draw) for draw, chosen in enumerate(drawn)]
        linear, neighbours = ([list(column) for column in zip(*rows, strict=True)] for rows in zip(*found, strict=True))
        yield Row(k, len(drawn[0]), Method(*linear), Method(*neighbours))


def _measure(
    features: torch.Tensor, labelled: Labelled, chosen: torch.Tensor, tested: torch.Tensor, draw: int
) -> list[tuple[float, float]]:
    """For both methods, the accuracy on the test side and the setting, learned from the chosen pictures alone."""
    known, labels = features[chosen], labelled.labels[chosen]
    part = spread(labels, labelled.things[chosen], FOLDS, counter_generator(FOLD_SEED, draw))
    found = []
    for setting_of, scores in ((best_strength, linear_scores), (best_neighbours, neighbour_scores)):
        scores_of = partial(scores, len(labelled.classes))
        setting = choose(setting_of, scores_of, known, labels, part)
        answers = scores_of(setting, known, labels, features[tested])
        found.append((accuracy_by_class(answers, labelled.labels[tested]), setting))
    return found
