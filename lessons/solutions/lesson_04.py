import math

from torch import Tensor


def scale_gradient(cosines: Tensor, scale: float) -> Tensor:
    logits = scale * cosines  # (N, N)
    right = cosines.diagonal()  # (N,)
    of_rows = (logits.softmax(dim=1) * cosines).sum(dim=1) - right  # (N,)
    of_columns = (logits.softmax(dim=0) * cosines).sum(dim=0) - right  # (N,)
    return (of_rows.mean() + of_columns.mean()) / 2


def step_log_scale(log_scale: float, gradient_of_scale: float, learning_rate: float) -> float:
    gradient = math.exp(log_scale) * gradient_of_scale
    return min(log_scale - learning_rate * gradient, math.log(100))
