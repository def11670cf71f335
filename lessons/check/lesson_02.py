"""The checks of lesson 02, arange or identity?."""

import torch
import torch.nn.functional as F
from torch import Tensor

from check.cases import cross_entropy, expect, expect_and_differentiate, pairs_of_features
from check.verdict import exercise


@exercise(
    "multiply entry by entry, not as matrices; the softmax runs along a row; the mean is over N rows, not N² entries.",
    steps=(
        "what does a row of the identity select from a row of numbers, if you multiply entry by entry and add up?",
        "torch.eye(len(logits)) * logits.log_softmax(dim=1): what is left in row i?",
        "the sum over dim=1, the mean over the rows, and a minus in front",
    ),
)
def onehot_loss(attempt, draw):
    image, text = pairs_of_features(draw)
    logits = image @ text.T
    entries = "is the mean over the rows missing? Or is it @, a product of matrices, where * goes entry by entry?"
    suspects = {entries: -logits.log_softmax(dim=1).sum(dim=1).mean()}
    suspects |= _of_all(logits)
    suspects["the logarithm of the softmax is missing"] = -logits.softmax(dim=1).diagonal().mean()
    expect_and_differentiate(attempt, cross_entropy, [logits], suspects=suspects, logits=logits)


def _of_all(logits: Tensor) -> dict[str, Tensor]:
    """Hints for mistakes with any form of the loss of the rows, and what comes out of each."""
    right = cross_entropy(logits)
    return {
        "the softmax runs down the columns: these are the texts' choices": cross_entropy(logits.T),
        "the mean was over all N² entries: it is over the N rows": right / len(logits),
        "the mean over the rows is missing": right * len(logits),
        "the sign: a loss is positive": -right,
        "that is the mean of both directions: here only the pictures choose": (right + cross_entropy(logits.T)) / 2,
    }


@exercise(
    "a label is the column of the one in its row, so the labels of the identity are 0, 1, …, N − 1.",
    steps=(
        "in which column of the identity is the one of row 0, of row 1, of row i?",
        "F.cross_entropy(logits, labels) wants the logits as they are, and the columns as integers, (N,)",
    ),
)
def arange_loss(attempt, draw):
    image, text = pairs_of_features(draw)
    logits = image @ text.T
    labels = torch.arange(len(logits))
    suspects = _of_all(logits)
    suspects["F.cross_entropy takes logits, and does the softmax itself"] = F.cross_entropy(logits.softmax(1), labels)
    suspects["every row has its own label: with zeros, all pictures have text 0"] = F.cross_entropy(logits, 0 * labels)
    suspects["F.nll_loss does no softmax"] = F.nll_loss(logits, labels)
    twice = ": does every row have its own label? Was there a softmax before F.cross_entropy, which does it itself?"
    expect_and_differentiate(attempt, cross_entropy, [logits], suspects=suspects, of_gradient=twice, logits=logits)


@exercise(
    "each half is softmax minus one-hot; then there are the mean over N and the factor ½.",
    steps=(
        "the gradient of the rows' loss is (softmax of every row − I) / N. What is that of the columns' loss?",
        "logits.softmax(dim=0) is the softmax of every column, with nothing to transpose",
        "(rows + columns − 2I) / 2N",
    ),
)
def logit_gradient(attempt, draw):
    image, text = pairs_of_features(draw)
    logits = (image @ text.T).requires_grad_()
    labels = torch.arange(len(logits))
    ((F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2).backward()
    z = logits.detach()
    rows, columns, eye = z.softmax(dim=1), z.softmax(dim=0), torch.eye(len(z))
    suspects = {
        "each of the two directions has its one-hot: 2I": (rows + columns - eye) / (2 * len(z)),
        "that is the gradient of the rows' loss: add the columns', and halve": (rows - eye) / len(z),
        "too large: the factor ½ is missing (or the mean over N, if N is 2)": (rows + columns - 2 * eye) / len(z),
        "the mean over N is missing": (rows + columns - 2 * eye) / 2,
        "the sign: the gradient points uphill, so the diagonal is negative": (2 * eye - rows - columns) / (2 * len(z)),
        "transpose the softmax of logits.T back, or take dim=0 of logits": (rows + z.T.softmax(dim=1) - 2 * eye)
        / (2 * len(z)),
    }
    expect(attempt(z), logits.grad, suspects=suspects, logits=logits)
