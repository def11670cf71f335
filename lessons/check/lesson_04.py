"""The checks of lesson 04, Temperature."""

import math

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from check.cases import expect, given
from check.verdict import Wrong, exercise


def _halves(cosines: Tensor, scale: float) -> list[float]:
    """The derivatives of the loss of the rows and of that of the columns for the scale, by autograd in float64."""
    labels, slopes = torch.arange(len(cosines)), []
    for turned in (cosines.double(), cosines.double().T):
        parameter = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
        F.cross_entropy(parameter * turned, labels).backward()
        assert parameter.grad is not None
        slopes.append(parameter.grad.item())
    return slopes


@exercise(
    "along which dim does the softmax run in each half? is your answer one number, or N of them? and how large is e to "
    "the power of 100 in float32?",
)
def scale_gradient(attempt, draw):
    size, scale = draw(st.integers(2, 5)), draw(st.sampled_from([1.0, 5.0, 14.0, 100.0]))
    dtype = draw(st.sampled_from([torch.float64, torch.float32]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    cosines, rows, columns = torch.zeros(size, size), 0.0, 0.0
    while min(abs(slope) for slope in (rows, columns, rows - columns, rows + columns)) < 0.03:  # both halves count
        cosines = torch.randint(-10, 11, (size, size), generator=generator, dtype=dtype) / 10
        rows, columns = _halves(cosines, scale)
    got = attempt(cosines, scale)
    got = torch.tensor(got) if isinstance(got, float) else got
    expect(got, torch.tensor((rows + columns) / 2), 1e-4, cosines=cosines, scale=scale, dtype=dtype)


@exercise(
    "what does t have to do with the derivative that you were given? which way is down? can your t still be above "
    "ln 100 when you return it?",
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
    expect(got, wanted, **case)
