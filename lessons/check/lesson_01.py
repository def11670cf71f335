"""The checks of lesson 01, Pull and push."""

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from check.cases import cross_entropy, expect, expect_and_differentiate, features, given, pairs_of_features, show
from check.verdict import Wrong, exercise


@exercise(
    "bring every row of both to length 1 (F.normalize with dim=1), then take one matrix product with .T.",
    steps=(
        "what is the cosine of x and y, if both have length 1?",
        "F.normalize(…, dim=1) brings each row to length 1; do it to both",
        "the product of (N, D) and (D, M) is (N, M): transpose the second one with .T",
    ),
)
def cosine_matrix(attempt, draw):
    width = draw(st.integers(2, 6))  # with a single number in a feature, many mistakes look alike
    image, text = draw(features(width=width)), draw(features(width=width))
    got = attempt(image, text)
    by_hand = torch.tensor([[float(x @ y / ((x @ x) * (y @ y)).sqrt()) for y in text] for x in image])
    if isinstance(got, Tensor) and got.shape == by_hand.shape:
        if got.abs().max() > 1 + 1e-4:
            case = given({"image_features": image, "text_features": text})
            raise Wrong(f"it returned {show(got)}, which leaves [−1, 1]{case}", "is every row of *both* of length 1?")
        suspects = {words: wrong.diagonal() for words, wrong in _cosine_suspects(image, image).items()}
        ones = torch.ones(len(image))
        expect(attempt(image, image).diagonal(), ones, suspects=suspects, image_features=image, text_features=image)
        longer = draw(st.sampled_from([2.0, 10.0, 0.1]))
        if not torch.allclose(attempt(longer * image, text), got, atol=1e-4):
            case = given({"image_features": image, "text_features": text})
            raise Wrong(f"it changes when the image features become {longer:g} times as long{case}")
    suspects = _cosine_suspects(image, text) | _pair_by_pair(image, text)
    expect(got, by_hand, suspects=suspects, image_features=image, text_features=text)

    def reference(x, y):
        return F.normalize(x) @ F.normalize(y).T

    expect_and_differentiate(attempt, reference, [image, text], image_features=image, text_features=text)


def _cosine_suspects(image: Tensor, text: Tensor) -> dict[str, Tensor]:
    """Hints for mistakes with the cosines (N, M), and what comes out of each."""
    return {
        "these are dot products, with the lengths in them: divide by both": image @ text.T,
        "one of the two still has its length": F.normalize(image) @ text.T,
        "the other one still has its length": image @ F.normalize(text).T,
        "rows are pictures and columns are texts: yours is transposed": F.normalize(text) @ F.normalize(image).T,
        "dim=0 divides each column by its length: a feature is a row": F.normalize(image, dim=0)
        @ F.normalize(text, dim=0).T,
        "that divides by the length of the whole matrix: every row has a length of its own": (image @ text.T)
        / (image.norm() * text.norm()),
        "p=1 adds up absolute values: a length is the root of the sum of squares": F.normalize(image, p=1)
        @ F.normalize(text, p=1).T,
    }


def _pair_by_pair(image: Tensor, text: Tensor) -> dict[str, Tensor]:
    """Hints for what broadcasting allows, if the numbers of rows allow it, and what comes out of each mistake."""
    if len(image) != len(text) and 1 not in (len(image), len(text)):
        return {}
    return {
        "that compares row i with row i only: every picture is to meet every text": F.cosine_similarity(image, text),
        "divide row i by the length of picture i, column j by that of text j: one length has to be a column, (N, 1)": (
            image @ text.T
        )
        / (image.norm(dim=1) * text.norm(dim=1)),
    }


@exercise(
    "subtract z_ii from the whole row i (not z_jj from column j), and leave the right text out of the sum.",
    steps=(
        "z_ii of every row is logits.diagonal(), (N,). How do you subtract it from its own row?",
        "(N,) as a column: logits.diagonal()[:, None]. Leave the term j = i out of the sum: it is exp(0) = 1",
        "exp of the differences, their sum over dim=1 without j = i (subtract its 1), then log1p, then the mean",
    ),
)
def n_pair_loss(attempt, draw):
    image, text = pairs_of_features(draw)
    logits = 3 * F.normalize(image) @ F.normalize(text).T
    behind = logits - logits.diagonal()[:, None]  # (N, N)
    others = behind.clone().fill_diagonal_(-torch.inf)
    suspects = {
        "the right text is counted twice: the 1 is its term, so the sum leaves j = i out": behind.logsumexp(dim=1)
        .exp()
        .log1p()
        .mean(),
        "the 1 is missing: without it a row that is right pays less than nothing": others.logsumexp(dim=1).mean(),
        "there the texts choose their pictures: sum over the texts of a row": cross_entropy(logits.T),
        "that is the sum over the rows: take their mean": len(logits) * cross_entropy(logits),
        "z_jj of the column was subtracted: row i needs its own z_ii": (
            ((logits - logits.diagonal()).exp().sum(dim=1) - 1).log1p().mean()
        ),
        "the sign: a wrong text that is *ahead* has to cost much": (-others)
        .exp()
        .nan_to_num(posinf=0)
        .sum(1)
        .log1p()
        .mean(),
        "that is a sum of logarithms: take one logarithm of the sum": F.softplus(others).sum(dim=1).mean(),
        "that is the logarithm of a mean: take the logarithm of every row first": others.exp()
        .sum(dim=1)
        .mean()
        .log1p(),
    }
    sign = ": is it z_ij − z_ii, in this order?"
    expect_and_differentiate(attempt, cross_entropy, [logits], suspects=suspects, of_gradient=sign, logits=logits)
