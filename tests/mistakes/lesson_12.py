"""Wrong answers to the exercises of lesson 12, Another hand."""

import numpy as np
import torch
import torch.nn.functional as F

from mistakes import Hinted

DISTANCE = "torch.cdist(images.flatten(1).float(), known.flatten(1).float())"
FLAT = "images.flatten(1)[:, None] - known.flatten(1)"
PROMISE = "torch.sigmoid(slope * torch.logit(torch.tensor(home)) + intercept)"
FIT = "np.polyfit(torch.logit(x).numpy(), torch.logit(y).numpy(), 1)"


def by_product(images, known, names):
    product = images.flatten(1).float() @ known.flatten(1).float().T
    return [names[place] for place in product.argmax(dim=1).tolist()]


def by_cosine(images, known, names):
    cosine = F.cosine_similarity(images.flatten(1).float()[:, None], known.flatten(1).float(), dim=2).round(decimals=6)
    return [names[len(names) - 1 - place] for place in cosine.flip(1).argmax(dim=1).tolist()]


def line_through_zero(x, y, home, away):
    x, y = torch.logit(x), torch.logit(y)
    slope = (x @ y) / (x @ x)
    return away - torch.sigmoid(slope * torch.logit(torch.tensor(home))).item()


MISTAKES = {
    "nearest_names": [
        Hinted((DISTANCE, f"({FLAT}).float().square().sum(dim=2)"), "before you subtract"),
        Hinted((DISTANCE, f"({FLAT}).square().sum(dim=2).float()"), "before you subtract"),
        Hinted(by_product, "brightest"),
        Hinted(by_cosine, "how bright"),
        Hinted(
            (DISTANCE, DISTANCE.replace("(1).float()", "(1).float().mean(1, keepdim=True)")), "where the colours are"
        ),
        Hinted((DISTANCE, DISTANCE.removesuffix(")") + ", p=1)"), "*squares*"),
        Hinted(("argmin", "argmax"), "the farthest"),
        ("argmin(dim=1)", "argmin(dim=0)"),  # for each known picture
        lambda images, known, names: names[: len(images)],
        ("[names[place] for place in distance.argmin(dim=1).tolist()]", "distance.argmin(dim=1).tolist()"),
    ],
    "effective_robustness": [
        Hinted(
            lambda x, y, home, away: float(away - np.polyval(np.polyfit(x.numpy(), y.numpy(), 1), home)),
            "the logits of the accuracies",
        ),
        Hinted((PROMISE, PROMISE.replace("torch.sigmoid", "")), "bring it back"),
        Hinted(
            ("return away - promise.item()", "return torch.logit(torch.tensor(away)).item() - promise.logit().item()"),
            "in shares",
        ),
        Hinted(lambda x, y, home, away: away - home, "Compare with the line"),
        Hinted(("away - promise.item()", "promise.item() - away"), "positive"),
        Hinted(line_through_zero, "intercept"),
        Hinted((FIT, "np.polyfit(torch.logit(y).numpy(), torch.logit(x).numpy(), 1)"), "x is at home"),
        (PROMISE, PROMISE.replace("torch.logit(torch.tensor(home))", "torch.tensor(home).log()")),
        ("away - promise.item()", "away / promise.item()"),
    ],
}
