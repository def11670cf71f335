"""What checks compare with, and the random cases that they try."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from check.verdict import Wrong

Suspects = Mapping[str, Any]  # hint -> what comes out of the mistake that it is for


def expect(
    got: Any,
    wanted: Any,
    tolerance: float = 1e-5,
    hint: str = "",
    suspects: Suspects | None = None,
    subject: str = "it returned",
    **case: Any,
) -> None:
    """Raises Wrong unless `got` is `wanted`: a tensor or number up to tolerance × (1 + size), anything else exactly.

    A result that is one of the suspects gets that one's hint, and any other one gets `hint`. The problem begins with
    the subject.
    """
    if got is None:
        no_return = "is there a `return` on every path?"
        raise Wrong(f"{subject} None{given(case)}", no_return if subject == "it returned" else hint)
    if isinstance(wanted, Tensor):
        if not isinstance(got, Tensor):
            raise Wrong(f"it returned a {type(got).__name__}, expected a tensor{given(case)}")
        if got.shape != wanted.shape:
            problem = f"it returned shape {tuple(got.shape)}, expected {tuple(wanted.shape)}{given(case)}"
            raise Wrong(problem, _hint_for(got, suspects) or hint)
        right = torch.allclose(got.double(), wanted.double(), rtol=tolerance, atol=tolerance, equal_nan=True)
    elif isinstance(wanted, float):
        if not isinstance(got, int | float) and not (isinstance(got, Tensor) and got.numel() == 1):
            raise Wrong(f"it returned {show(got)}, expected one number, {show(wanted)}{given(case)}")
        right = abs(float(got) - wanted) <= tolerance * (1 + abs(wanted))
    else:
        if type(got) is not type(wanted):
            kinds = [
                f"an {kind}" if kind == "int" else f"a {kind}" for kind in (type(x).__name__ for x in (got, wanted))
            ]
            raise Wrong(f"it returned {kinds[0]}, expected {kinds[1]}, {show(wanted)}{given(case)}")
        right = got == wanted
    if not right:
        decimals = next((d for d in (4, 6, 8) if show(got, d) != show(wanted, d)), 12)
        problem = f"{subject} {show(got, decimals)}, expected {show(wanted, decimals)}{given(case)}"
        raise Wrong(problem, _hint_for(got, suspects) or hint)


def _hint_for(got: Any, suspects: Suspects | None) -> str:
    """The hint of the first suspect that the result equals, or an empty string."""
    return next((words for words, wrong in (suspects or {}).items() if _is_near(got, wrong)), "")


def _is_near(got: Any, suspect: Any) -> bool:
    if isinstance(suspect, int | float | Tensor) and not isinstance(suspect, bool):
        got, suspect = torch.as_tensor(got), torch.as_tensor(suspect)
        return got.shape == suspect.shape and torch.allclose(got.double(), suspect.double(), rtol=1e-4, atol=1e-5)
    return got == suspect


def expect_and_differentiate(
    attempt: Callable[..., Any],
    reference: Callable[..., Tensor],
    tensors: list[Tensor],
    *others: Any,
    suspects: Suspects | None = None,
    of_gradient: str = "",
    **case: Any,
) -> None:
    """`expect` of attempt(*tensors, *others), and of the gradients that it leads back to the tensors.

    `of_gradient` completes the hint for a right number with a wrong gradient.
    """
    tensors = [tensor.detach().requires_grad_() for tensor in tensors]
    got, wanted = attempt(*tensors, *others), reference(*tensors, *others)
    expect(got, wanted, 1e-4, suspects=suspects, **case)
    if not got.requires_grad:
        raise Wrong(
            "its result has no gradient", "no .item(), no .detach(), no torch.tensor(…): training goes through it"
        )
    hint = f"the number is right, its gradient is not{of_gradient}"
    gradients = _gradients(got, tensors), torch.autograd.grad(wanted.sum(), tensors)
    for mine, right in zip(*gradients, strict=True):
        expect(mine, right, 1e-3, hint=hint, subject="its gradient is", **case)


def _gradients(value: Tensor, tensors: list[Tensor]) -> tuple[Tensor | None, ...]:
    try:
        return torch.autograd.grad(value.sum(), tensors, allow_unused=True)
    except RuntimeError as error:
        problem = f"its number is right, but the gradient raised RuntimeError: {str(error).partition(':')[0]}"
        hint = "fill_diagonal_, += and x[…] = … overwrite what autograd still needs: masked_fill makes a new tensor"
        raise Wrong(problem, hint) from None


def given(case: dict[str, Any]) -> str:
    return ", for " + ", ".join(f"{name} = {show(value)}" for name, value in case.items()) if case else ""


def show(value: Any, decimals: int = 4) -> str:
    if isinstance(value, Tensor):
        value = value.detach()
        shown = value if value.dtype == torch.bool else torch.round(value.double(), decimals=decimals)
        return " ".join(f"{shown.tolist()}".replace(".0,", ",").replace(".0]", "]").split())
    return f"{value:.{decimals + 1}g}" if isinstance(value, float) else repr(value)


@st.composite
def features(draw: st.DrawFn, rows: int | None = None, width: int | None = None, largest: int = 6) -> Tensor:
    """Random features (rows, width) of every length but zero; small ones and few of them come first."""
    rows = rows or draw(st.integers(1, largest))
    width = width or draw(st.integers(1, largest))
    values = st.integers(-4, 4).filter(bool)
    return torch.tensor([[float(draw(values)) for _ in range(width)] for _ in range(rows)])


def pairs_of_features(draw: Callable[..., Any], largest: int = 6) -> tuple[Tensor, Tensor]:
    """Features of N images and N texts, (N, D) each."""
    rows, width = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    return draw(features(rows, width)), draw(features(rows, width))


def cross_entropy(logits: Tensor) -> Tensor:
    """PyTorch's, where the right column of a row is on the diagonal."""
    return F.cross_entropy(logits, torch.arange(len(logits)))
