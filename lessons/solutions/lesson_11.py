import torch
import torch.nn.functional as F
from torch import Tensor


def rejection_threshold(inside: Tensor, outside: Tensor) -> float:
    def balance(threshold: float) -> float:
        kept = (inside >= threshold).double().mean()
        refused = (outside < threshold).double().mean()
        return ((kept + refused) / 2).item()

    return max(inside.unique().tolist(), key=balance)


def sigmoid_loss(image_features: Tensor, text_features: Tensor, scale: Tensor | float, bias: Tensor | float) -> Tensor:
    image_features = F.normalize(image_features, dim=1)
    text_features = F.normalize(text_features, dim=1)
    logits = scale * image_features @ text_features.T + bias  # (N, N)
    sign = 2 * torch.eye(len(logits)) - 1  # +1 on the diagonal, −1 elsewhere
    return -F.logsigmoid(sign * logits).sum() / len(logits)
