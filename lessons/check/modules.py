"""Checks of modules: under the same weights they must give the same outputs as minclip's, and the same gradients."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from check.cases import expect, given
from check.verdict import Wrong

Mistakes = dict[str, Callable[[], Tensor]]  # hint -> what an attempt returns that makes this mistake


def with_random_weights(module: nn.Module) -> nn.Module:
    """The module, with numbers in every parameter that make each of them matter; gains and biases included."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return module


def with_weights_of(reference: nn.Module, made: Any) -> nn.Module:
    """What an attempt made, with the weights of the reference. Raises Wrong unless the parameters are the same."""
    if not isinstance(made, nn.Module):
        raise Wrong(f"it returned a {type(made).__name__}, expected an nn.Module", "class …(nn.Module)")
    mine, right = ({name: p.shape for name, p in m.named_parameters()} for m in (made, reference))
    problems = [f"{name} is missing" for name in right if name not in mine]
    problems += [f"minclip's has no {name}" for name in mine if name not in right]
    for name in right:
        if name in mine and mine[name] != right[name]:
            problems.append(f"{name} has shape {tuple(mine[name])}, expected {tuple(right[name])}")
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        hint = "weights go from one model to another by the names of the parameters: use the names in the text"
        raise Wrong(f"its parameters differ: {'; '.join(problems[:3])}{more}", hint)
    made.load_state_dict(reference.state_dict(), strict=False)  # it may have buffers of its own, such as a mask
    return made


def expect_same(made: Any, reference: nn.Module, inputs: tuple[Any, ...], mistakes: Mistakes, **case: Any) -> None:
    """Raises Wrong unless a module gives the reference's output and gradients, under the reference's weights.

    The hint is that of the mistake which gives what the module gave.
    """
    module = with_weights_of(reference, made)
    with torch.enable_grad():
        got, wanted = module(*inputs), reference(*inputs)
        expect(got, wanted, hint="" if _equal(got, wanted) else _diagnose(got, mistakes), **case)
        if not got.requires_grad:
            raise Wrong(f"its result has no gradient{given(case)}", "no .detach(), no torch.no_grad(): it must train")
        weights = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))  # of the outputs
        mine, right = (_gradients(m, y, weights) for m, y in ((module, got), (reference, wanted)))
    for name, gradient in right.items():
        hint = "its output is right, a gradient is not: is some part detached, or a parameter copied?"
        if mine[name] is None:
            raise Wrong(f"no gradient reaches {name}{given(case)}", hint)
        expect(mine[name], gradient, 1e-3, hint, gradient_of=name, **case)


def _gradients(module: nn.Module, output: Tensor, weights: Tensor) -> dict[str, Tensor | None]:
    names, parameters = zip(*module.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad((output * weights).sum(), parameters, allow_unused=True), strict=True))


def _equal(got: Any, wanted: Tensor) -> bool:
    return isinstance(got, Tensor) and got.shape == wanted.shape and torch.allclose(got, wanted, rtol=1e-4, atol=1e-4)


def _diagnose(got: Any, mistakes: Mistakes) -> str:
    return next((hint for hint, wrong in mistakes.items() if _equal(got, wrong())), "")
