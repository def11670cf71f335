"""The checks of lesson 04, Temperature."""

import math

import torch
from hypothesis import strategies as st

from check.cases import expect, given
from check.verdict import Wrong, exercise


@exercise(
    "which derivative does t need? Which way is down? Can your t still be above ln 100 when you return it?",
    steps=(
        "you have ∂L/∂s. What is ∂L/∂t, if s = exp(t)?",
        "∂L/∂t = s · ∂L/∂s, with s = math.exp(log_scale). Descent goes against it",
        "step first, then min(…, math.log(100))",
    ),
)
def step_log_scale(attempt, draw):
    scale, gradient = float(draw(st.integers(1, 100))), draw(st.integers(-20, 20)) / 10
    rate = draw(st.sampled_from([0.01, 0.1]))
    parameter = torch.tensor(math.log(scale), dtype=torch.float64, requires_grad=True)
    (gradient * parameter.exp()).backward()  # a loss whose derivative for the scale is `gradient`
    torch.optim.SGD([parameter], lr=rate).step()
    wanted = parameter.clamp(max=math.log(100)).item()
    case = {"log_scale": math.log(scale), "gradient_of_scale": gradient, "learning_rate": rate}
    got = attempt(*case.values())
    if isinstance(got, int | float) and got > math.log(100) + 1e-6:
        raise Wrong(f"it returned {got:.5g}, more than ln 100{given(case)}", "clamp last, and clamp t: at ln 100")
    t, top = math.log(scale), math.log(100)
    suspects = {
        "that is a step with the derivative for s: t needs its own, by the chain rule": min(t - rate * gradient, top),
        "∂s/∂t is s, and s is exp(t), not t": min(t - rate * t * gradient, top),
        "that is a step of s, or divided by s: the step is taken in t, and ∂L/∂t is s times ∂L/∂s": min(
            math.log(max(scale - rate * gradient, 1e-9)), top
        ),
        "that goes uphill": min(t + rate * scale * gradient, top),
        "that is s: return t": math.exp(wanted),
    }
    expect(got, wanted, suspects=suspects, **case)
