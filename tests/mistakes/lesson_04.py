"""Wrong answers to the exercises of lesson 04, Temperature."""

import math

from mistakes import Hinted

MISTAKES = {
    "step_log_scale": [
        ("learning_rate * gradient,", "learning_rate * gradient_of_scale,"),
        ("learning_rate * gradient,", "learning_rate * log_scale * gradient_of_scale,"),  # t taken for s
        ("log_scale - learning_rate", "log_scale + learning_rate"),  # uphill
        Hinted(("math.log(100))", "math.inf)"), "clamp last"),  # no clamp
        ("math.log(100))", "100.0)"),
        (
            "min(log_scale - learning_rate * gradient, math.log(100))",
            "min(log_scale, math.log(100)) - learning_rate * gradient",  # the clamp before the step
        ),
        Hinted(lambda t, slope, rate: min(t - rate * slope / math.exp(t), math.log(100)), "s times"),
        ("return min", "return math.e ** min"),  # s
        ("return min", "min"),
    ],
}
