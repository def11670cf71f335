"""Wrong answers to the exercises of lesson 01, Pull and push."""

import torch
import torch.nn.functional as F

from mistakes import Hinted

MISTAKES = {
    "cosine_matrix": [
        lambda image, text: image @ text.T,
        lambda image, text: F.normalize(image, dim=0) @ F.normalize(text, dim=0).T,  # along the wrong dimension
        lambda image, text: F.normalize(image) @ text.T,  # one side only
        lambda image, text: F.normalize(text) @ F.normalize(image).T,  # rows and columns exchanged
        Hinted(lambda image, text: F.cosine_similarity(image, text), "row i with row i"),
        Hinted(lambda image, text: (image @ text.T) / (image.norm() * text.norm()), "length of the whole matrix"),
        Hinted(lambda image, text: (image @ text.T) / (image.norm(dim=1) * text.norm(dim=1)), "has to be a column"),
        lambda image, text: (image @ text.T) / (image.norm(dim=1)[:, None] * text.norm(dim=1)[:, None]),
        lambda image, text: F.normalize(image, p=1) @ F.normalize(text, p=1).T,
        lambda image, text: F.normalize(image @ text.T, dim=1),
    ],
    "n_pair_loss": [
        lambda z: (z - z.diagonal()[:, None]).exp().sum(dim=1).log1p().mean(),  # the right one counted twice
        lambda z: F.softplus(z - z.diagonal()[:, None]).fill_diagonal_(0).sum(dim=1).mean(),  # a sum of logarithms
        lambda z: F.cross_entropy(z.T, torch.arange(len(z))),
        lambda z: F.cross_entropy(z, torch.arange(len(z)), reduction="sum"),
        lambda z: ((z - z.diagonal()).exp().sum(dim=1) - 1).log1p().mean(),  # z_jj of the column
        lambda z: (z - z.diagonal()[:, None]).fill_diagonal_(-torch.inf).logsumexp(dim=1).mean(),  # without the 1
        Hinted(lambda z: (z - z.diagonal()[:, None]).exp().fill_diagonal_(0).sum(dim=1).log1p().mean(), "masked_fill"),
        Hinted(
            lambda z: ((z - z.diagonal()[:, None]).exp().sum(dim=1) - 1).mean().log1p(),
            "take the logarithm of every row first",
        ),
        lambda z: (z.diagonal()[:, None] - z).exp().fill_diagonal_(0).sum(dim=1).log1p().mean(),  # the sign
    ],
}
