"""The checks of lesson 10, What does 0.25 mean?"""

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from check.cases import expect, features
from check.verdict import exercise


@exercise(
    "does a long prompt pull the mean towards itself? And how long is the mean of two directions?",
    steps=(
        "where would the mean of two prompts lie if one were a hundred times as long as the other?",
        "three things, in this order: every prompt to length 1; the mean over the T prompts; the mean to length 1.",
        "F.normalize(x, dim=-1) brings the last axis to length 1, and T is axis 1.",
    ),
)
def prompt_ensemble(attempt, draw):
    C, T, D = (draw(st.integers(1, 3)) for _ in range(3))
    prompts = draw(features(C * T, D)).abs().view(C, T, D)  # positive: then no mean is zero
    wanted = torch.zeros(C, D)
    for label in range(C):
        for prompt in range(T):
            wanted[label] += prompts[label, prompt] / prompts[label, prompt].norm() / T
        wanted[label] /= wanted[label].norm()
    unit = F.normalize(prompts, dim=-1)
    suspects = {
        "without dim=-1, F.normalize works along axis 1: here that is the T prompts": F.normalize(prompts).mean(dim=1),
        "a long prompt counts more than a short one: bring each to length 1 first": prompts.mean(dim=1),
        "the mean goes over the prompts (axis 1), never over the labels": unit.mean(dim=(0, 1)).expand(C, -1),
        "that is one of the prompts: all of them count": unit[:, 0],
    }
    suspects = {hint: F.normalize(cause, dim=-1) for hint, cause in suspects.items()}
    suspects["the mean of directions is shorter than 1: normalise once more, at the end"] = unit.mean(dim=1)
    expect(attempt(prompts), wanted, suspects=suspects, prompts=prompts)


@exercise(
    "is any right candidate among the k most similar of the row? Then the mean of yes (1) and no (0).",
    steps=(
        "for one query: which are its k nearest candidates, and is one of them right?",
        "similarity.topk(k, dim=1).indices are the k nearest of each row; is_right.gather(1, …) looks them up.",
        "then .any(dim=1) for each query, and the mean over the queries, as a float.",
    ),
)
def recall_at(attempt, draw):
    Q, C = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    similarity = torch.tensor([draw(st.permutations([c / 10 for c in range(C)])) for _ in range(Q)])
    is_right = torch.zeros(Q, C, dtype=torch.bool)
    for query in range(Q):
        is_right[query, list(draw(st.sets(st.integers(0, C - 1), min_size=1)))] = True
    k = draw(st.integers(1, C))
    hits = torch.zeros(Q, k)
    for query in range(Q):
        best = sorted(range(C), key=lambda c: -similarity[query, c].item())[:k]
        hits[query] = is_right[query, best].float()
    suspects = {
        "a share of the queries lies between 0 and 1: take the mean, not the sum": hits.amax(dim=1).sum().item(),
        "that counts right answers; recall@k asks of each query only whether there is one": hits.mean().item(),
        "answers found divided by all right ones is another recall; here one right answer is enough": (
            hits.sum() / is_right.sum()
        ).item(),
        "one right answer among the k is enough: any, not all": hits.amin(dim=1).mean().item(),
        "those are the k smallest similarities: the nearest have the largest": _share(is_right, -similarity, k, dim=1),
        "a query is a row: its candidates stand along dim=1": _share(is_right, similarity, min(k, Q), dim=0),
        "the right answers are where is_right says, not always on the diagonal": _share(
            torch.eye(Q, C, dtype=torch.bool), similarity, k, dim=1
        ),
    }
    case = {"similarity": similarity, "is_right": is_right, "k": k}
    expect(attempt(similarity, is_right, k), hits.amax(dim=1).mean().item(), suspects=suspects, **case)


def _share(is_right: Tensor, similarity: Tensor, k: int, dim: int) -> float:
    """The share of rows (dim=1) or columns (dim=0) with a right one among their k largest."""
    return is_right.gather(dim, similarity.topk(k, dim=dim).indices).any(dim=dim).double().mean().item()
