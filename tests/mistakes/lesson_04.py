"""Wrong answers to the exercises of lesson 04, Temperature."""

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
        ("return min", "return math.e ** min"),  # s
        ("return min", "min"),
    ],
}
