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


@exercise("count each caption (collections.Counter), take ln of the count for every pair, then the mean of all B.")
def batch_floor(attempt, draw):
    captions = draw(st.lists(st.sampled_from(["cat", "dog", "horse"]), min_size=1, max_size=8))
    # the loss itself, of a model that gives each caption an own direction and is very sure
    alphabet = sorted(set(captions))
    image = F.one_hot(torch.tensor([alphabet.index(caption) for caption in captions]), len(alphabet)).double()
    expect(attempt(captions), minclip.clip_loss(image, image, 1e4).item(), captions=captions)


@exercise("a sum over m = 0 … B − 1: the probability of m others times ln(1 + m); your own pair is always there.")
def expected_floor(attempt, draw):
    batch_size, n_captions = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    if draw(st.booleans()):
        batch_size, n_captions = draw(st.sampled_from([(64, 16), (128, 1), (32, 1000)]))
        wanted = minclip.loss_floor(batch_size, n_captions)
    else:  # every batch that there is
        others = itertools.product(range(n_captions), repeat=batch_size - 1)
        wanted = statistics.mean(math.log(1 + other.count(0)) for other in others)
    expect(attempt(batch_size, n_captions), wanted, batch_size=batch_size, n_captions=n_captions)
