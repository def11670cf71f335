"""Is my loss stuck? What the numbers of a run say in words, and what has helped others.

The loss of a contrastive training has two fixed values, that of guessing (ln B for CLIP's loss) and the floor that
duplicates leave. Where the loss is between them, where it goes, and what the score on held-out pictures does meanwhile,
tells the usual situations apart.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minclip.metrics import METRICS, Row

NEEDED = ("step", "loss", "untrained", "floor")
FEW = 10  # steps; nothing can be said about fewer
AT = 0.1  # share of the loss of guessing: a loss this near to it, or to the floor, is "at" it
BACK = 0.25  # share of the way from guessing to the floor: a training that loses this much again diverges
KNOWN = 0.5  # share of the held-out pictures: a model at its floor that finds fewer knows little but its own pairs
LESS = 0.8  # share of the best score: below it, the model has unlearned pictures that it does not train on


@dataclass(frozen=True)
class Diagnosis:
    """What has happened to a run: a name, what is seen, and what helps."""

    kind: str
    seen: str
    remedies: Sequence[str] = ()


def read_metrics(run: Path) -> list[Row]:
    """The rows of metrics.csv of a run folder, or of the file itself. Raises OSError or ValueError."""
    path = run / METRICS if run.is_dir() else run
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or ()
            rows = [{name: float(cell) for name, cell in row.items() if cell} for row in reader]
    except (ValueError, TypeError, AttributeError, csv.Error) as error:
        raise ValueError(f"{path} is not a file of `minclip train`: {error}") from error
    missing = [name for name in NEEDED if name not in names or any(name not in row for row in rows)]
    if missing:
        raise ValueError(f"{path} is not a file of `minclip train`: it lacks {', '.join(missing)}, or some of it")
    return rows


@dataclass(frozen=True)
class Curve:
    """The numbers that a diagnosis is made of; `end` and `best` are means over a tenth of the steps."""

    steps: int
    untrained: float
    floor: float
    end: float
    before: float  # the mean of the tenth before the last one
    best: float
    best_step: int
    scores: Sequence[tuple[int, float]]

    @property
    def way(self) -> float:
        """How far it is from guessing to the floor."""
        return self.untrained - self.floor

    @property
    def done(self) -> float:
        """The share of the way that has been made: 0 is guessing, 1 the floor."""
        return (self.untrained - self.end) / self.way


def measure(rows: Sequence[Row]) -> Curve:
    losses, width = [row["loss"] for row in rows], max(1, len(rows) // 10)
    means = [sum(losses[i : i + width]) / width for i in range(len(losses) - width + 1)]
    best = min(range(len(means)), key=means.__getitem__)
    floor = sum(row["floor"] for row in rows) / len(rows)
    scores = [(int(row["step"]), row["unseen_top1"]) for row in rows if "unseen_top1" in row]
    return Curve(
        steps=int(rows[-1]["step"]),
        untrained=rows[-1]["untrained"],
        floor=floor,
        end=means[-1],
        before=means[max(0, len(means) - 1 - width)],
        best=means[best],
        best_step=int(rows[min(best + width, len(rows)) - 1]["step"]),
        scores=scores,
    )


def diagnose(rows: Sequence[Row]) -> Diagnosis:
    """Say what has happened to a run, given the rows of its metrics."""
    if len(rows) < FEW:
        return Diagnosis("too early", f"{len(rows)} steps are too few to say anything", ["let it run longer"])
    if not all(math.isfinite(row["loss"]) for row in rows):
        step = next(int(row["step"]) for row in rows if not math.isfinite(row["loss"]))
        return _diverging(f"the loss is not a number from step {step} on")
    curve = measure(rows)
    for look in (_nothing_to_learn, _diverged, _at_the_start, _over_fitted, _at_the_floor):
        if found := look(curve):
            return found
    return _on_the_way(curve)


def _nothing_to_learn(curve: Curve) -> Diagnosis | None:
    if curve.way > AT * curve.untrained:
        return None
    seen = f"the floor {curve.floor:.2f} is hardly below the loss of guessing {curve.untrained:.2f}"
    seen += ": nearly all captions, or nearly all pictures, of a batch are equal"
    remedies = ["captions that tell the pictures apart; `minclip inspect DATA` counts them"]
    return Diagnosis("nothing to learn", seen, remedies)


def _diverging(seen: str) -> Diagnosis:
    remedies = [
        "a learning rate that is ten times lower, and a longer warm-up",
        "a logit scale that is clamped at 100, if you train with code of your own (openai/CLIP #46)",
    ]
    return Diagnosis("diverging", seen, remedies)


def _diverged(curve: Curve) -> Diagnosis | None:
    if curve.end - curve.best <= BACK * curve.way:
        return None
    return _diverging(f"the loss was {curve.best:.2f} at step {curve.best_step} and has risen again to {curve.end:.2f}")


def _at_the_start(curve: Curve) -> Diagnosis | None:
    if curve.untrained - curve.end > AT * curve.untrained:
        return None
    seen = f"the loss {curve.end:.2f} is no better than guessing, {curve.untrained:.2f} (as in open_clip #17)"
    remedies = [
        "a training on a few hundred of the pairs first: if the loss falls there, the code is right (advice in #17)",
        "another learning rate: a tenth if the loss has jumped about, ten times as much if it has not moved at all",
        "a look at the pairs: a caption that does not belong to its picture teaches nothing (`minclip inspect DATA`)",
        "more time: from scratch, tens of thousands of varied pairs need many epochs before the loss leaves this value",
    ]
    return Diagnosis("at ln B", seen, remedies)


def _over_fitted(curve: Curve) -> Diagnosis | None:
    if len(curve.scores) < 2 or curve.done < 0.5:
        return None
    (_, first), (_, last) = curve.scores[0], curve.scores[-1]
    step, best = max(curve.scores, key=lambda score: score[1])
    is_by_heart = curve.done >= 1 - AT and last < KNOWN
    if not is_by_heart and last >= LESS * best and (last > first or last >= 1 - AT):
        return None
    at_best = f"after {100 * first:.1f} % at the first report and {100 * best:.1f} % at step {step}"
    seen = (
        f"the loss has fallen to {curve.end:.2f}, but {100 * last:.1f} % of the held-out pictures are right, {at_best}"
    )
    seen += ": the model learns its pairs by heart (as in openai/CLIP #150)"
    remedies = [
        "the weights with the best score, in best.safetensors, and --early-stopping 3",
        "a much lower learning rate when you start from a trained model (1e-6 or less helped in openai/CLIP #150)",
        "--lock image, perhaps with --unlock-last 1: fewer weights that learn (openai/CLIP #150)",
        "more pairs, or stronger changes: --augmentation moderate",
    ]
    return Diagnosis("over-fitting", seen, remedies)


def _at_the_floor(curve: Curve) -> Diagnosis | None:
    if curve.end - curve.floor > AT * curve.untrained:
        return None
    seen = (
        f"the loss {curve.end:.2f} is at its floor {curve.floor:.2f}: the model tells apart all that can be told apart"
    )
    if curve.floor <= AT * curve.untrained:
        return Diagnosis("at its floor", seen, ["nothing; more epochs only help if the held-out score still rises"])
    seen += "; the floor is that high because captions or pictures of a batch are equal (as in open_clip #821)"
    remedies = [
        "captions that tell the pictures apart: no training gets below the floor of these",
        "with CLIP's loss `--equal-captions drop`: pairs with equal captions then are not negatives and cost nothing",
        "no larger batches: they hold more equal captions, and their floor is higher",
        "for a few fixed classes, the held-out score instead of the loss: it counts every right caption",
    ]
    return Diagnosis("at its floor", seen, remedies)


def _on_the_way(curve: Curve) -> Diagnosis:
    where = f"the loss is {curve.end:.2f}, {100 * curve.done:.0f} % of the way from guessing to its floor"
    if curve.before - curve.end > 0.01 * curve.way:
        return Diagnosis("learning", f"{where}, and still falls", ["more epochs (`--epochs`)"])
    remedies = ["a larger --model, a higher --lr, or more varied pairs, if the held-out score is not good enough"]
    return Diagnosis("levelled off", f"{where}, and no longer falls", remedies)
