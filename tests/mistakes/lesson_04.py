"""Wrong answers to the exercises of lesson 04, Temperature."""

from solutions.lesson_04 import scale_gradient as scale_of

from mistakes import Hinted

MISTAKES = {
    "scale_gradient": [
        lambda c, s: (((s * c).softmax(dim=1) * c).sum(dim=1) - c.diagonal()).mean(),  # rows only
        lambda c, s: (((s * c).softmax(dim=0) * c).sum(dim=0) - c.diagonal()).mean(),  # columns only
        lambda c, s: ((s * c).flatten().softmax(dim=0) * c.flatten()).sum() - c.diagonal().mean(),  # over everything
        lambda c, s: (
            sum(  # exp without a maximum: nan in float32
                ((e := (s * half).exp()) / e.sum(dim=1, keepdim=True) * half).sum(dim=1).mean() - c.diagonal().mean()
                for half in (c, c.T)
            )
            / 2
        ),
        lambda c, s: (((s * c).softmax(dim=1) + (s * c).softmax(dim=0)) * c).sum(dim=1) / 2 - c.diagonal(),  # N numbers
        lambda c, s: 2 * scale_of(c, s),  # the sum of the halves
        lambda c, s: len(c) * scale_of(c, s),
        lambda c, s: -scale_of(c, s),
        lambda c, s: s * scale_of(c, s),  # that of the logarithm
        lambda c, s: scale_of(c, s) / s,
        lambda c, s: scale_of(c, 1.0),
        lambda c, s: None,
    ],
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
