"""Test sets that share no picture with their training set, not even nearly."""

import torch
import torch.nn.functional as F

from minclip.data import Pairs

BLOCKS = 12  # along each side of a picture
VISIBLE = (
    10.0  # of 255: drawings of the course are either below 9 (the same drawing) or above 12 (another colour or form)
)


def without_twins(test: Pairs, train: Pairs) -> Pairs:
    """The test pictures that no training picture repeats, with their captions.

    Artists draw some emoji once for several names, or a second time with a pixel's difference. Two pictures (3, R, R)
    count as the same drawing if none of their 12 × 12 blocks differs visibly, on average over its pixels.
    """
    coarse = [F.avg_pool2d(pairs.images.float(), _block(pairs)).flatten(1) for pairs in (test, train)]  # (P, 432) each
    # A block's mean differs at most by the mean difference of its pixels, so all others are no twins.
    candidates = torch.cdist(*coarse, p=torch.inf) < VISIBLE  # (test, train)
    twins = {i for i, j in candidates.nonzero().tolist() if _difference(test, i, train, j) < VISIBLE}
    return test.select([i for i in range(len(test.origins)) if i not in twins])


def _block(pairs: Pairs) -> int:
    return pairs.images.shape[-1] // BLOCKS


def _difference(test: Pairs, i: int, train: Pairs, j: int) -> float:
    """The mean difference of the block that differs most."""
    difference = (test.images[i].float() - train.images[j].float()).abs()  # (3, R, R)
    return F.avg_pool2d(difference, _block(test)).max().item()
