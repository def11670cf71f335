"""Test sets that share no picture with their training set, not even nearly."""

import torch
import torch.nn.functional as F

from minclip.data import Pairs

BLOCKS = 12  # along each side of a picture
# Of 255: drawings of the course are either below 9 (the same drawing) or above 12 (another colour or form).
VISIBLE = 10.0
NEARLY = 2.55  # of 255, one percent, for the root of the mean square difference: two faces that differ in their mouths


def without_twins(test: Pairs, train: Pairs) -> Pairs:
    """The test pictures that no training picture repeats, with their captions.

    Artists draw some emoji once for several names, or a second time with a pixel's difference. Two pictures (3, R, R)
    count as the same drawing if none of their 12 × 12 blocks differs visibly, on average over its pixels, or if the
    whole pictures differ by less than one percent.
    """
    both = _pixels(test), _pixels(train)  # (P, 3, R, R) each
    block = both[0].shape[-1] // BLOCKS
    coarse = [F.avg_pool2d(images, block).flatten(1) for images in both]  # (P, 432) each
    # A block's mean differs at most by the mean difference of its pixels, so all others are no twins.
    candidates = torch.cdist(*coarse, p=torch.inf) < VISIBLE  # (test, train)
    differences = {(i, j): (both[0][i] - both[1][j]).abs() for i, j in candidates.nonzero().tolist()}
    twins = {i for (i, _), difference in differences.items() if F.avg_pool2d(difference, block).max() < VISIBLE}
    whole = torch.cdist(both[0].flatten(1), both[1].flatten(1)) / both[0][0].numel() ** 0.5  # (test, train)
    twins |= set((whole < NEARLY).any(dim=1).nonzero().flatten().tolist())
    return test.select([i for i in range(len(test.origins)) if i not in twins])


def _pixels(pairs: Pairs) -> torch.Tensor:
    assert isinstance(pairs.images, torch.Tensor), "emoji are in memory"
    return pairs.images.float()
