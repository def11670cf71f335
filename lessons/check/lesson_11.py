"""The checks of lesson 11, None of these."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

import minclip
from check.cases import expect, expect_and_differentiate, given, pairs_of_features
from check.verdict import Wrong, exercise

# Some differ by only a thousandth, so thresholds from a fixed grid are not good enough.
COSINES = st.tuples(st.integers(-9, 9), st.integers(0, 3)).map(lambda digits: digits[0] / 10 + digits[1] / 1000)


@exercise(
    "try every cosine of the validation pictures as the threshold, and keep the best.",
    steps=(
        "which thresholds make a difference at all? Between two neighbouring cosines nothing changes.",
        "for each candidate t: kept = (inside >= t).double().mean(), refused = (outside < t).double().mean().",
        "candidates are the cosines of `inside` (one of them is always a best threshold); take the one with the "
        "largest kept + refused, by max(candidates, key=…).",
    ),
)
def rejection_threshold(attempt, draw):
    inside = torch.tensor(draw(st.lists(COSINES, min_size=1, max_size=4)))
    outside = torch.tensor(draw(st.lists(COSINES, min_size=1, max_size=8)))
    got = attempt(inside, outside)
    best = max(_balance(inside, outside, t) for t in inside.tolist())
    case = given({"inside": inside, "outside": outside})
    if not isinstance(got, int | float) and not (isinstance(got, Tensor) and got.numel() == 1):
        raise Wrong(f"it returned {type(got).__name__}, expected one number{case}", "one threshold, as a float")
    found = _balance(inside, outside, float(got))
    if not found >= best - 1e-6:
        said = (
            f"with its threshold {float(got):.4g} the mean of kept and refused is {found:.4g}; the best is {best:.4g}"
        )
        raise Wrong(said + case, _why_no_threshold(attempt))


def _balance(inside: Tensor, outside: Tensor, threshold: float) -> float:
    """The mean of two shares: how much of `inside` is kept, and how much of `outside` is refused."""
    limit = torch.tensor(threshold)
    return ((inside >= limit).double().mean() + (outside < limit).double().mean()).item() / 2


# Each mistake leads to a different threshold here.
INSIDE = torch.tensor([-0.6, 0.3, 0.4, 0.5])
OUTSIDE = torch.tensor([-0.5, -0.45, -0.4, -0.35, -0.3, -0.2, -0.1, -0.05, 0.0, 0.204, 0.32, 0.35])


def _why_no_threshold(attempt: Callable[..., Any]) -> str:
    """A hint for the mistake that leads to the attempt's threshold."""
    inside, outside, got = INSIDE, OUTSIDE, float(attempt(INSIDE, OUTSIDE))
    counts = {t: ((inside >= t).sum() + (outside < t).sum()).item() for t in (*inside.tolist(), *outside.tolist())}
    strict = {t: ((inside > t).double().mean() + (outside <= t).double().mean()).item() for t in counts}
    causes = {
        "the middle between the two means does not know how far either set spreads": [
            (inside.mean().item() + outside.mean().item()) / 2
        ],
        "that looks at the right ones only, and keeps all of them: what does it cost among the outsiders?": [
            inside.min().item()
        ],
        "that turns every outsider away, whatever it costs the insiders": [outside.max().item()],
        "a cosine *at* the threshold is accepted (>=), one below it is refused (<)": _best_of(strict),
        "the larger set outvotes the smaller one: take shares of each, not counts": _best_of(counts),
    }
    return next((hint for hint, values in causes.items() if any(abs(got - v) < 1e-6 for v in values)), "")


def _best_of(scores: dict[float, float]) -> list[float]:
    return [threshold for threshold, score in scores.items() if score == max(scores.values())]


@exercise(
    "each of the N² pairs is one question: −log σ of its logit on the diagonal, −log σ of minus its logit elsewhere.",
    steps=(
        'N pictures and N texts make N² questions "do these two belong together?". For which is the answer yes?',
        "logits = scale · cosines + bias, (N, N); sign is +1 on the diagonal and −1 elsewhere: 2 · eye − 1.",
        "−F.logsigmoid(sign * logits), summed over all N² pairs and divided by N.",
    ),
)
def sigmoid_loss(attempt, draw):
    image, text = pairs_of_features(draw, 4)
    scale, bias = draw(st.sampled_from([1.0, 10.0, 100.0])), draw(st.sampled_from([-1.0, -10.0, 0.0, 5.0]))
    got, wanted = attempt(image, text, scale, bias), minclip.siglip_loss(image, text, scale, bias)
    case = {"image_features": image, "text_features": text, "scale": scale, "bias": bias}
    expect(got, wanted, 1e-4, hint=_why_no_sigmoid_loss(attempt, got), **case)
    try:
        expect_and_differentiate(attempt, minclip.siglip_loss, [image, text], scale, bias, **case)
    except Wrong as wrong:
        raise Wrong(str(wrong), _why_no_sigmoid_loss(attempt, got) or wrong.hint) from None


def _why_no_sigmoid_loss(attempt: Callable[..., Any], got: object) -> str:
    """A hint for the mistake that leads to the attempt's loss, on a batch for which each gives another loss."""
    if isinstance(got, Tensor) and not got.isfinite().all():
        return "σ of a very negative logit is 0 in float32, and its logarithm −∞: F.logsigmoid computes both at once"
    image, text = (
        torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 1.0]]),
        torch.tensor([[2.0, 1.0], [1.0, 1.0], [-1.0, 3.0]]),
    )
    scale, bias, N = 2.0, -1.0, 3
    cosine, sign = F.normalize(image, dim=1) @ F.normalize(text, dim=1).T, 2 * torch.eye(N) - 1

    def loss(logits: Tensor) -> Tensor:
        return -F.logsigmoid(sign * logits).sum() / N

    right = scale * cosine + bias
    causes = {
        "the sum over all N² pairs is divided by N, not by N²": loss(right) / N,
        "yes is on the diagonal: there the sign is +1": loss(-right),
        "the N² − N pairs off the diagonal are questions as well: their answer is no": -F.logsigmoid(
            right.diagonal()
        ).mean(),
        "the bias is added to every logit": loss(scale * cosine),
        "scale · cosine + bias: the scale does not multiply the bias": loss(scale * (cosine + bias)),
        "the sign belongs to the whole logit, the bias included": loss(scale * cosine + sign * bias),
        "the features come with any length: normalise them first": loss(scale * image @ text.T + bias),
        "in a softmax the texts of a row compete; here every pair is asked by itself": F.cross_entropy(
            right, torch.arange(N)
        ),
    }
    found = attempt(image, text, scale, bias)
    if not isinstance(found, Tensor) or found.numel() != 1:
        return ""
    return next((hint for hint, cause in causes.items() if torch.isclose(found, cause, rtol=1e-4, atol=1e-5)), "")
