"""Wrong answers to the exercises of lesson 03, Is my loss stuck?."""

import math

from mistakes import Hinted

MISTAKES = {
    "batch_floor": [
        lambda captions: math.log(len(captions) / len(set(captions))),
        lambda captions: math.log(max(captions.count(caption) for caption in captions)),
        # over the different captions instead of the pairs
        lambda captions: sum(math.log(captions.count(c)) for c in set(captions)) / len(set(captions)),
        lambda captions: sum(math.log(captions.count(c)) for c in captions),  # no mean
        lambda captions: math.log(sum(captions.count(c) for c in captions) / len(captions)),  # the logarithm last
        lambda captions: sum(math.log2(captions.count(c)) for c in captions) / len(captions),  # bits
        lambda captions: math.log(len(captions)),
    ],
    "expected_floor": [
        lambda B, C: max(0.0, math.log(B / C)),
        Hinted(lambda B, C: math.log(B / C), "the short form"),
        lambda B, C: math.log(1 + (B - 1) / C),  # the logarithm of the mean
        lambda B, C: sum(math.comb(B, k) * C**-k * (1 - 1 / C) ** (B - k) * math.log(1 + k) for k in range(B + 1)),
        lambda B, C: math.log(max(1, B // C)),
        lambda B, C: sum(math.comb(B - 1, k) * C**-k * math.log(1 + k) for k in range(B)),  # the others may be equal
        Hinted(  # ln of the others, without one's own
            lambda B, C: sum(
                math.comb(B - 1, k) * C**-k * (1 - 1 / C) ** (B - 1 - k) * math.log(max(1, k)) for k in range(B)
            ),
            "counts your own pair",
        ),
        Hinted(  # up to B − 2
            lambda B, C: sum(
                math.comb(B - 1, k) * C**-k * (1 - 1 / C) ** (B - 1 - k) * math.log(1 + k) for k in range(B - 1)
            ),
            "range(B)",
        ),
    ],
}
