"""The checks of lesson 06, Reading a sentence."""

import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from check.cases import expect, features, pairs_of_features
from check.verdict import exercise


@exercise("row i is True in columns 0 to i, itself included, and nowhere else.")
def causal_mask(attempt, draw):
    length = draw(st.integers(1, 6))
    wanted = torch.tensor([[column <= row for column in range(length)] for row in range(length)])
    got = attempt(length)
    expect(got, wanted, length=length)
    expect(got.dtype, torch.bool, length=length)


@exercise("put −infinity wherever causal_mask is False, and that before the softmax.")
def causal_weights(attempt, draw):
    query, key = pairs_of_features(draw)
    T, D = query.shape
    scores = query @ key.T / D**0.5  # (T, T)
    values = torch.eye(T)  # so that what attention hands over are its weights
    wanted = F.scaled_dot_product_attention(query[None], key[None], values[None], is_causal=True)[0]
    expect(attempt(scores.clone()), wanted, scores=scores)
    expect(attempt(torch.stack([scores, scores - 3])), torch.stack([wanted, wanted]), scores="a batch of two")
    low = scores - 100  # moves no weight, and leaves every score far below any modest number for the future
    finite = "a finite number in the future keeps a share there if all scores are lower: only -torch.inf keeps none"
    expect(attempt(low.clone()), wanted, hint=finite, scores=low)


@exercise(
    "argmax of True and False (as integers) is the first True's place; index x with a row and a place for each text.",
)
def pool_at_end(attempt, draw):
    T, end_id = draw(st.integers(2, 5)), draw(st.sampled_from([9, 5]))
    padding = draw(st.sampled_from([0, end_id]))
    others = st.sampled_from([0, 1, 2, 3, 4, 6, 7])  # 0 is a real token, and EOT may have any number
    bodies = draw(st.lists(st.lists(others, max_size=T - 2), min_size=1, max_size=3))
    tokens = torch.tensor([[8, *body, end_id] + [padding] * (T - 2 - len(body)) for body in bodies])  # (B, T)
    x = draw(features(len(bodies) * T, 2)).view(len(bodies), T, 2)
    wanted = torch.stack([x[i, 1 + len(body)] for i, body in enumerate(bodies)])
    higher = "here other tokens have higher ids than end_id: compare with end_id first" if end_id == 5 else ""
    expect(attempt(x.clone(), tokens.clone(), end_id), wanted, hint=higher, x=x, tokens=tokens, end_id=end_id)
