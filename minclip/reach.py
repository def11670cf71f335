"""What a data set allows before a model is trained on it: from captions and pixels alone.

The number of pairs that can be told apart decides which loss no training gets below, and how often the right caption
can be the nearest one; pictures that are on both sides of the split decide what a score on held-out pictures is worth.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from minclip.batches import Batches
from minclip.images import Preprocess
from minclip.loss import best_top1, cost_of_equals

BATCH_SIZES = (32, 128, 512, 2048)
MAX_BATCHES = 500  # more would change the means by less than they differ from seed to seed
NEAR = 3.0  # of 255; the thumbnails of nearly equal pictures differ by no more than this root mean square
BLOCK = 1024


@dataclass(frozen=True)
class Reach:
    """What a perfect model reaches with a batch size: means over the batches of the first epoch."""

    batch_size: int
    untrained: float
    floor: float
    top1: float


def reach(batches: Batches, loss: str = "clip") -> Reach:
    """The loss of guessing, the least loss and the best top-1 in a batch, for the batches of the first epoch."""
    steps = range(min(len(batches.pairs) // batches.batch_size, MAX_BATCHES))
    floors, best = [], []
    for step in steps:
        floors.append(batches.floor(step, loss))
        best.append(best_top1(batches.caption_ids(step), batches.picture_ids[batches.rows(step)]))
    untrained = cost_of_equals(torch.tensor(batches.batch_size), loss).item()
    return Reach(batches.batch_size, untrained, sum(floors) / len(floors), sum(best) / len(best))


def reaches(pairs, tokens: torch.Tensor, preprocess: Preprocess, loss: str = "clip") -> list[Reach]:
    """`reach` for the usual batch sizes that the pairs fill, or for one batch of all of them."""
    sizes = [size for size in BATCH_SIZES if size <= len(pairs)] or [len(pairs)]
    return [reach(Batches(pairs, tokens, preprocess, batch_size=size, seed=0), loss) for size in sizes]


def nearly_equal(ours: torch.Tensor, others: torch.Tensor) -> list[tuple[int, int]]:
    """The pictures (P, 192) that have a nearly equal one among `others` (Q, 192), with the nearest of these.

    Both are thumbnails, uint8 (`data.streamed.signature`). Every picture is compared with every other one.
    """
    found = []
    others = others.float()
    for rows in torch.arange(len(ours)).split(BLOCK):
        nearest, which = _squared_distances(ours[rows].float(), others).min(dim=1)
        is_near = nearest <= NEAR**2 * ours.shape[1]
        found += zip(rows[is_near].tolist(), which[is_near].tolist(), strict=True)
    return found


def _squared_distances(ours: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """(p, 192) and (q, 192) to (p, q), by one product: |a − b|² = |a|² − 2ab + |b|²."""
    return (ours**2).sum(1, keepdim=True) - 2 * ours @ others.T + (others**2).sum(1)


def repeated(values: Sequence[str | bytes]) -> int:
    """The number of values that repeat an earlier one."""
    return len(values) - len(set(values))


def most_frequent(captions: Sequence[str]) -> tuple[str, int]:
    """The caption that occurs most often, and how often."""
    return Counter(captions).most_common(1)[0]
