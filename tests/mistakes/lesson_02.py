"""Wrong answers to the exercises of lesson 02, arange or identity?."""

import torch
import torch.nn.functional as F

from mistakes import Hinted

MISTAKES = {
    "onehot_loss": [
        lambda logits: -(torch.eye(len(logits)) * logits.log_softmax(dim=0)).sum(dim=1).mean(),  # columns
        lambda logits: -(torch.eye(len(logits)) * logits.log_softmax(dim=1)).mean(),  # over N² instead of N
        lambda logits: (torch.eye(len(logits)) * logits.log_softmax(dim=1)).sum(dim=1).mean(),  # the sign
        lambda logits: -(torch.eye(len(logits)) @ logits.log_softmax(dim=1)).sum(dim=1).mean(),  # a matrix product
        lambda logits: -(torch.eye(len(logits)) * logits.softmax(dim=1)).sum(dim=1).mean(),  # no logarithm
        lambda logits: -(torch.eye(len(logits)) * logits.log_softmax(dim=1)).sum(),
        lambda logits: F.mse_loss(logits.softmax(dim=1), torch.eye(len(logits))),
    ],
    "arange_loss": [
        lambda logits: F.cross_entropy(logits.T, torch.arange(len(logits))),
        Hinted(lambda z: F.cross_entropy(z, torch.zeros(len(z), dtype=torch.int64)), "its own label"),
        Hinted(
            lambda z: (F.cross_entropy(z, torch.arange(len(z))) + F.cross_entropy(z.T, torch.arange(len(z)))) / 2,
            "both directions",
        ),
        lambda logits: F.cross_entropy(logits.softmax(dim=1), torch.arange(len(logits))),  # the softmax twice
        lambda logits: F.cross_entropy(logits, torch.arange(len(logits)), reduction="sum"),
        lambda logits: F.nll_loss(logits, torch.arange(len(logits))),  # no softmax
        lambda logits: F.cross_entropy(logits, torch.arange(1, len(logits) + 1)),  # counts from 1
        lambda logits: F.cross_entropy(logits, torch.arange(len(logits), dtype=torch.float32)),
    ],
    "logit_gradient": [
        lambda z: (z.softmax(dim=1) + z.softmax(dim=0) - torch.eye(len(z))) / (2 * len(z)),
        lambda z: (z.softmax(dim=1) - torch.eye(len(z))) / len(z),  # one direction only
        lambda z: (z.softmax(dim=1) + z.softmax(dim=0) - 2 * torch.eye(len(z))) / len(z),  # without the half
        Hinted(lambda z: (z.softmax(dim=1) + z.softmax(dim=0) - 2 * torch.eye(len(z))) / 2, "mean over N"),
        lambda z: (2 * torch.eye(len(z)) - z.softmax(dim=1) - z.softmax(dim=0)) / (2 * len(z)),  # uphill
        lambda z: (z.softmax(dim=1) + z.T.softmax(dim=1) - 2 * torch.eye(len(z))) / (2 * len(z)),  # not turned back
    ],
}
