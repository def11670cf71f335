"""The checks of lesson 12, Another hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from check.cases import expect
from check.verdict import Wrong, exercise


@exercise(
    "as floats, one row for each picture: flatten(1).float(). torch.cdist gives all distances at once.",
    steps=(
        "how far apart are two pictures, if each is a list of 3·R·R numbers?",
        "flatten both sets to (P, 3·R·R) and (K, 3·R·R), as floats, and take all P × K Euclidean distances.",
        "torch.cdist(a, b).argmin(dim=1) is the place of the nearest known picture; names[place] is its name.",
    ),
)
def nearest_names(attempt, draw):
    P, K = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    values = draw(st.lists(st.sampled_from([0, 1, 100, 200, 255]), min_size=3 * (P + K), max_size=3 * (P + K)))
    images = torch.tensor(values, dtype=torch.uint8).view(P + K, 3, 1, 1)
    names = [f"name {k}" for k in range(K)]
    distance = (images[:P, None].double() - images[P:].double()).square().sum(dim=(2, 3, 4)).sqrt()  # (P, K)
    got = attempt(images[:P], images[P:], names)
    if not isinstance(got, list | tuple) or len(got) != P or not all(isinstance(name, str) for name in got):
        raise Wrong(f"it returned {got!r}, expected a list of {P} names", "[names[place] for place in places.tolist()]")
    for p, name in enumerate(got):
        if name not in names or distance[p, names.index(name)] > distance[p].min() + 1e-6:
            nearest = names[int(distance[p].argmin())]
            raise Wrong(
                f"picture {images[p].flatten().tolist()} got {name!r}, expected {nearest!r}, "
                f"of the known pictures {images[P:].flatten(1).tolist()}",
                _why_not_nearest(attempt),
            )


def _why_not_nearest(attempt: Callable[..., Any]) -> str:
    """A hint for the mistake that makes the attempt's choice, on pictures where each mistake chooses differently."""
    picture = torch.full((1, 3, 1, 1), 100, dtype=torch.uint8)
    greys = torch.tensor([101, 0, 116, 255], dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 1, 1)
    if attempt(picture, greys, ["101", "0", "116", "255"])[0] in ("0", "116"):  # no other mistake chooses these
        return "in uint8, 100 − 101 is 255: convert the pixels to floats before you subtract"
    colours = torch.tensor([[100, 50, 0], [110, 40, 10], [200, 100, 0], [255, 255, 255]], dtype=torch.uint8)
    brown, others = colours[:1, :, None, None], colours[1:, :, None, None]
    if attempt(brown, others, ["nearest", "same direction", "brightest"])[0] == "same direction":
        return "a cosine forgets how bright a picture is: the distance, not the angle"
    known = {
        "": [130, 130, 130],  # the nearest
        "the largest product belongs to the brightest picture, not to the nearest one": [160, 160, 160],
        "a mean over the pixels forgets where the colours are: compare pixel by pixel": [0, 100, 200],
        "Euclidean: the square root of the sum of the *squares* of the differences": [100, 100, 170],
        "that is the farthest one: take the smallest distance, with argmin": [0, 255, 0],
    }
    images = torch.tensor(list(known.values()), dtype=torch.uint8)[:, :, None, None]
    return attempt(picture, images, list(known))[0]


@exercise(
    "fit the line through (logit x, logit y); what does it promise for a model with `home`? Subtract that from `away`.",
    steps=(
        "which accuracy on the other hand would you expect of an ordinary model that is as good at home as this one?",
        "accuracies live between 0 and 1, so the line is fitted to their logits, ln(p / (1 − p)): torch.logit.",
        "slope and intercept by least squares (np.polyfit(logit x, logit y, 1) will do), the promise is "
        "σ(slope · logit(home) + intercept), and the answer away − promise.",
    ),
)
def effective_robustness(attempt, draw):
    shares = st.integers(1, 19).map(lambda twentieths: twentieths / 20)
    xs = draw(st.lists(shares, min_size=2, max_size=5, unique=True))
    ys = draw(st.lists(shares, min_size=len(xs), max_size=len(xs), unique=True))
    home, away = draw(shares), draw(shares)
    x, y = torch.tensor(xs, dtype=torch.float64), torch.tensor(ys, dtype=torch.float64)
    got = attempt(x, y, home, away)
    expect(got, _effective(x, y, home, away), 1e-4, hint=_why_not_robust(attempt), x=x, y=y, home=home, away=away)


def _effective(x: Tensor, y: Tensor, home: float, away: float) -> float:
    slope, intercept = np.polyfit(torch.logit(x).numpy(), torch.logit(y).numpy(), 1)
    return away - 1 / (1 + np.exp(-(slope * np.log(home / (1 - home)) + intercept)))


def _why_not_robust(attempt: Callable[..., Any]) -> str:
    """A hint for the mistake that leads to the attempt's number, where each mistake leads to a different one."""
    x, y = torch.tensor([0.2, 0.5, 0.7], dtype=torch.float64), torch.tensor([0.1, 0.3, 0.35], dtype=torch.float64)
    home, away = 0.6, 0.5
    logit_x, logit_y = torch.logit(x).numpy(), torch.logit(y).numpy()
    line = np.polyfit(x.numpy(), y.numpy(), 1)
    steep = np.polyfit(logit_x, logit_y, 1)
    at = np.log(home / (1 - home))
    through_zero = (logit_x @ logit_y) / (logit_x @ logit_x)
    swapped = np.polyfit(logit_y, logit_x, 1)
    causes = {
        "the line belongs to the logits of the accuracies, not to the accuracies": away - np.polyval(line, home),
        "the promise is still a logit: bring it back with a sigmoid": away - np.polyval(steep, at),
        "in shares, please: take the sigmoid of the promise, then the difference": np.log(away / (1 - away))
        - np.polyval(steep, at),
        "the drop from home to away is not robustness: every model drops. Compare with the line": away - home,
        "above the line is positive: away minus promise": -_effective(x, y, home, away),
        "the line also has an intercept": away - 1 / (1 + np.exp(-through_zero * at)),
        "x is at home, y away; the line predicts y from x": away - 1 / (1 + np.exp(-np.polyval(swapped, at))),
    }
    try:
        got = float(attempt(x, y, home, away))
    except Exception:
        return ""
    return next((hint for hint, cause in causes.items() if abs(got - cause) < 1e-4), "")
