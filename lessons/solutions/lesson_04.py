import math


def step_log_scale(log_scale: float, gradient_of_scale: float, learning_rate: float) -> float:
    gradient = math.exp(log_scale) * gradient_of_scale
    return min(log_scale - learning_rate * gradient, math.log(100))
