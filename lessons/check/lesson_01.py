"""The checks of lesson 01, Pull and push."""

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from check.cases import cross_entropy, expect, expect_and_differentiate, features, given, pairs_of_features, show
from check.verdict import Wrong, exercise


@exercise(
    "give every row of both length 1 (F.normalize with dim=1), then one matrix product with .T.",
    steps=(
        "what is the cosine of x and y, if both have length 1?",
        "F.normalize(…, dim=1) brings each row to length 1; do it to both",
        "the product of (N, D) and (D, M) is (N, M): turn the second one with .T",
    ),
)
def cosine_matrix(attempt, draw):
    width = draw(st.integers(1, 6))
    image, text = draw(features(width=width)), draw(features(width=width))
    got = attempt(image, text)
    by_hand = torch.tensor([[float(x @ y / ((x @ x) * (y @ y)).sqrt()) for y in text] for x in image])
    if isinstance(got, Tensor) and got.shape == by_hand.shape:
        if got.abs().max() > 1 + 1e-4:
            raise Wrong(f"{show(got)} leaves [−1, 1]{given({'image_features': image, 'text_features': text})}")
        expect(attempt(image, image).diagonal(), torch.ones(len(image)), image_features=image, text_features=image)
        longer = draw(st.sampled_from([2.0, 10.0, 0.1]))
        if not torch.allclose(attempt(longer * image, text), got, atol=1e-4):
            case = given({"image_features": image, "text_features": text})
            raise Wrong(f"it changes when the image features become {longer:g} times as long{case}")
    suspects = {
        "these are products of features with their lengths: divide by both": image @ text.T,
        "one of the two still has its length": F.normalize(image) @ text.T,
        "the other one still has its length": image @ F.normalize(text).T,
        "rows are pictures and columns are texts: yours is turned": by_hand.T,
        "dim=0 is a column, one number of all features: a feature is a row": F.normalize(image, dim=0)
        @ F.normalize(text, dim=0).T,
        "that divides by the length of the whole matrix: every row has a length of its own": (image @ text.T)
        / (image.norm() * text.norm()),
        "p=1 adds up absolute values: a length is the root of the sum of squares": F.normalize(image, p=1)
        @ F.normalize(text, p=1).T,
    }
    expect(got, by_hand, suspects=suspects, image_features=image, text_features=text)

    def reference(x, y):
        return F.normalize(x) @ F.normalize(y).T

    expect_and_differentiate(attempt, reference, [image, text], image_features=image, text_features=text)


@exercise(
    "from row i its own z_ii is subtracted, not z_jj from column j; and the right text is not in the sum.",
    steps=(
        "z_ii of every row is logits.diagonal(), (N,). How do you subtract it from its own row?",
        "(N,) - as a column: logits.diagonal()[:, None]. The sum of a row then has N − 1 terms and the 1",
        "exp of the differences, sum over dim=1, minus 1 for j = i, then log1p, then the mean",
    ),
)
def n_pair_loss(attempt, draw):
    image, text = pairs_of_features(draw)
    logits = 3 * F.normalize(image) @ F.normalize(text).T
    behind = logits - logits.diagonal()[:, None]  # (N, N)
    others = behind.clone().fill_diagonal_(-torch.inf)
    suspects = {
        "the right text is in the sum, too: without j = i, and the 1 stands for it": behind.logsumexp(dim=1)
        .exp()
        .log1p()
        .mean(),
        "the 1 is missing: without it a row that is right pays less than nothing": others.logsumexp(dim=1).mean(),
        "these are the texts that look for their pictures: sum over the texts of a row": cross_entropy(logits.T),
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
        "one logarithm of the sum, and not a sum of logarithms": F.softplus(others).sum(dim=1).mean(),
    }
    expect_and_differentiate(attempt, cross_entropy, [logits], suspects=suspects, logits=logits)
