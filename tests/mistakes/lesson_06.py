"""Wrong answers to the exercises of lesson 06, Reading a sentence."""

import torch

from mistakes import Hinted

MISTAKES = {
    "causal_mask": [
        lambda length: torch.ones(length, length).triu().bool(),  # looks forward
        lambda length: torch.ones(length, length).tril(-1).bool(),  # does not see itself
        lambda length: torch.zeros(length, length).masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf),
        lambda length: torch.ones(length, length).tril(),  # numbers
        lambda length: torch.ones(length, length).triu(1).bool(),  # True where it is forbidden
        lambda length: torch.ones(length, dtype=torch.bool).diag(),  # itself alone
        lambda length: torch.ones(length, length, dtype=torch.bool),
        lambda length: torch.ones(length, length).tril(1).bool(),  # one too far
    ],
    "causal_weights": [
        lambda scores: scores.softmax(dim=-1).tril(),  # masked after the softmax
        lambda scores: scores.tril().softmax(dim=-1),  # a score of zero is a score
        lambda scores: scores.masked_fill(torch.ones_like(scores).tril(-1).bool(), -torch.inf).softmax(dim=-1),
        lambda scores: scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf).softmax(dim=-2),
        Hinted(
            lambda scores: scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -30.0).softmax(dim=-1),
            "only -torch.inf keeps none",
        ),
        lambda scores: scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -100.0).softmax(dim=-1),
        lambda scores: scores.masked_fill(torch.ones_like(scores).triu().bool(), -torch.inf).softmax(dim=-1),  # nan
        lambda scores: (scores - torch.ones_like(scores).triu(1)).softmax(dim=-1),
        lambda scores: (scores.tril().exp() / scores.exp().sum(dim=-1, keepdim=True)).tril(),
    ],
    "pool_at_end": [
        lambda x, tokens, end_id: x[:, -1],
        lambda x, tokens, end_id: x[:, 0],
        lambda x, tokens, end_id: x[torch.arange(len(x)), (tokens != 0).sum(dim=1) - 1],  # a real 0, or padding by EOT
        lambda x, tokens, end_id: x[tokens == end_id],
        Hinted(
            lambda x, tokens, end_id: x[torch.arange(len(x)), tokens.argmax(dim=1)], "compare with end_id first"
        ),  # the highest id
        lambda x, tokens, end_id: x[:, (tokens == end_id).int().argmax(dim=1)],  # every text at every place
        lambda x, tokens, end_id: x.mean(dim=1),
        lambda x, tokens, end_id: x[torch.arange(len(x)), (tokens == end_id).int().argmax(dim=1) - 1],  # before it
        lambda x, tokens, end_id: x[torch.arange(len(x)), (tokens == end_id).int().argmax(dim=0)[: len(x)]],
        lambda x, tokens, end_id: x[
            torch.arange(len(x)), tokens.shape[1] - 1 - (tokens.flip(1) == end_id).int().argmax(1)
        ],
    ],
}
