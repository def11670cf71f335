"""The checks of lesson 10, Zero-shot, search, "other"."""

import torch
from hypothesis import strategies as st

from check.cases import expect, features
from check.verdict import exercise


@exercise("does a long prompt pull the mean to its side? And how long is the mean of two directions?")
def prompt_ensemble(attempt, draw):
    C, T, D = (draw(st.integers(1, 3)) for _ in range(3))
    prompts = draw(features(C * T, D)).abs().view(C, T, D)  # positive: then no mean is zero
    wanted = torch.zeros(C, D)
    for label in range(C):
        for prompt in range(T):
            wanted[label] += prompts[label, prompt] / prompts[label, prompt].norm() / T
        wanted[label] /= wanted[label].norm()
    expect(attempt(prompts), wanted, prompts=prompts)


@exercise("is any right candidate among the k most similar of the row? Then the mean of yes (1) and no (0).")
def recall_at(attempt, draw):
    Q, C = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    similarity = torch.tensor([draw(st.permutations([c / 10 for c in range(C)])) for _ in range(Q)])
    is_right = torch.zeros(Q, C, dtype=torch.bool)
    for query in range(Q):
        is_right[query, list(draw(st.sets(st.integers(0, C - 1), min_size=1)))] = True
    k = draw(st.integers(1, C))
    found = 0
    for query in range(Q):
        best = sorted(range(C), key=lambda c: -similarity[query, c].item())[:k]
        found += any(is_right[query, c].item() for c in best)
    expect(attempt(similarity, is_right, k), found / Q, similarity=similarity, is_right=is_right, k=k)
