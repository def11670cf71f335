import numpy as np
import torch
from torch import Tensor


def nearest_names(images: Tensor, known: Tensor, names: list[str]) -> list[str]:
    distance = torch.cdist(images.flatten(1).float(), known.flatten(1).float())  # (P, K)
    return [names[place] for place in distance.argmin(dim=1).tolist()]


def effective_robustness(x: Tensor, y: Tensor, home: float, away: float) -> float:
    slope, intercept = np.polyfit(torch.logit(x).numpy(), torch.logit(y).numpy(), 1)
    promise = torch.sigmoid(slope * torch.logit(torch.tensor(home)) + intercept)
    return away - promise.item()
