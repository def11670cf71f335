from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def linear_probe(features: Tensor, labels: Tensor, classes: int, strength: float) -> tuple[Tensor, Tensor]:
    targets = F.one_hot(labels, classes).to(features.dtype)  # (n, C)
    x, y = features - features.mean(dim=0), targets - targets.mean(dim=0)
    weights = torch.linalg.solve(x.T @ x + strength * torch.eye(x.shape[1]), x.T @ y)  # (D, C)
    bias = targets.mean(dim=0) - features.mean(dim=0) @ weights  # (C,)
    return weights, bias


def occlusion_map(score: Callable[[Tensor], Tensor], image: Tensor, size: int, fill: float) -> Tensor:
    squares = image.shape[1] // size
    covered = []
    for row in range(squares):
        for column in range(squares):
            copy = image.clone()
            copy[:, row * size : (row + 1) * size, column * size : (column + 1) * size] = fill
            covered.append(copy)
    drop = score(image[None]) - score(torch.stack(covered))  # (squares²,)
    return drop.view(squares, squares)
