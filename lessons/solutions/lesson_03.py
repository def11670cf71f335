import math
from collections import Counter
from collections.abc import Hashable, Sequence


def batch_floor(captions: Sequence[Hashable]) -> float:
    count = Counter(captions)
    return sum(math.log(count[caption]) for caption in captions) / len(captions)


def expected_floor(batch_size: int, n_captions: int) -> float:
    others, p = batch_size - 1, 1 / n_captions
    return sum(math.comb(others, k) * p**k * (1 - p) ** (others - k) * math.log(1 + k) for k in range(batch_size))
