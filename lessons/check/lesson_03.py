"""The checks of lesson 03, Is my loss stuck?."""

import itertools
import math
import statistics

import torch
import torch.nn.functional as F
from hypothesis import strategies as st

import minclip
from check.cases import expect
from check.verdict import exercise


@exercise(
    "count each caption (collections.Counter), take ln of the count for every pair, then the mean of all B.",
    steps=(
        "a picture whose caption is there k times can give its own text at most 1/k. What does it pay?",
        "ln k for each of the B pairs: collections.Counter(captions) gives k",
        "the mean over the pairs, so a caption that occurs three times counts three times",
    ),
)
def batch_floor(attempt, draw):
    captions = draw(st.lists(st.sampled_from(["cat", "dog", "horse"]), min_size=1, max_size=8))
    # the loss itself, of a model that gives each caption a direction of its own and is very sure
    alphabet = sorted(set(captions))
    image = F.one_hot(torch.tensor([alphabet.index(caption) for caption in captions]), len(alphabet)).double()
    counts = [captions.count(caption) for caption in captions]
    wanted = minclip.clip_loss(image, image, 1e4).item()
    suspects = {
        "the mean is over all pairs, and you took it over the different captions": statistics.mean(
            math.log(captions.count(caption)) for caption in set(captions)
        ),
        "a caption that occurs k times pays ln k for each of its k pairs": sum(
            math.log(captions.count(caption)) for caption in set(captions)
        )
        / len(captions),
        "the mean over the B pairs is missing": sum(map(math.log, counts)),
        "that is the logarithm of a mean: take the logarithms first, then the mean": math.log(statistics.mean(counts)),
        "that is right only where all captions occur equally often": math.log(len(captions) / len(set(captions))),
        "not every caption occurs as often as the commonest": math.log(max(counts)),
        "that is in bits: the loss has natural logarithms": statistics.mean(map(math.log2, counts)),
        "that is the loss of guessing, ln B": math.log(len(captions)),
    }
    expect(attempt(captions), wanted, suspects=suspects, captions=captions)


@exercise(
    "a sum over m = 0 … B − 1: the probability of m others times ln(1 + m); your own pair is always there.",
    steps=(
        "you are one pair. Of the B − 1 others, how many have your caption, and how likely is each number?",
        "m of B − 1, each with probability 1/C: the binomial distribution, with math.comb",
        "sum over m of math.comb(B − 1, m) (1/C)^m (1 − 1/C)^(B − 1 − m) · ln(1 + m)",
    ),
)
def expected_floor(attempt, draw):
    batch_size, n_captions = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    if draw(st.booleans()):
        batch_size, n_captions = draw(st.sampled_from([(64, 16), (128, 1), (32, 1000)]))
        wanted = minclip.loss_floor(batch_size, n_captions)
    else:  # every batch that there is
        others = itertools.product(range(n_captions), repeat=batch_size - 1)
        wanted = statistics.mean(math.log(1 + other.count(0)) for other in others)
    B, C = batch_size, n_captions
    suspects = {
        "that is the logarithm of the mean: first ln(1 + m), then the mean over m": math.log(1 + (B - 1) / C),
        "your own pair is always there: only the B − 1 others are drawn": _mean_log(B, C),
        "ln(B/C) is right for large B and few captions only": max(0.0, math.log(B / C)),
        "ln(B/C) is the short form: no loss is below 0, and your own pair is always there": math.log(B / C),
        "m goes up to B − 1, so range(B); and the cost is ln(1 + m), which counts your own pair": _mean_log(
            B - 1, C, largest=B - 2
        ),
    }
    expect(attempt(B, C), wanted, suspects=suspects, batch_size=B, n_captions=C)


def _mean_log(others: int, captions: int, largest: int | None = None) -> float:
    """The mean of ln(1 + m), if m of `others` have your caption; its sum ends with the largest m."""
    p = 1 / captions
    chances = [math.comb(others, m) * p**m * (1 - p) ** (others - m) for m in range(others + 1)]
    return sum(chance * math.log(1 + m) for m, chance in enumerate(chances) if largest is None or m <= largest)
