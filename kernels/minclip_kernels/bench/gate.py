"""Check a contender's loss and gradients against the float64 reference before anything is timed.

A gradient that is a constant multiple of the textbook's passes and is named, because optimizers
such as Adam hardly notice a constant. A missing gradient for the scale is named too.
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from minclip_kernels import testing
from minclip_kernels.bench.peers import Contender, Setting

COUNT = 1100  # pairs: several tiles of every kernel, the last one ragged
SCALE, BIAS = 1 / 0.07, -10.0
# The largest |error| / |gradient|, and the same for the loss. 16-bit logits, as in plain PyTorch,
# stay within it.
TOLERANCES = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 4e-3}
TF32_TOLERANCE = 5e-3


class Failed(str):
    """What is wrong, in the place of an answer."""


def make_inputs(setting: Setting) -> list[Tensor]:
    """Features (N, D) of resembling images and texts, of length about 1; scale; for siglip bias."""
    generator = torch.Generator().manual_seed(0)
    image, noise = torch.randn(2, setting.N, setting.D, generator=generator) / setting.D**0.5
    pairs = torch.stack([image, noise + 0.3 * image])
    features = pairs.to(setting.device, getattr(torch, setting.dtype))
    values = [SCALE] if setting.loss == "clip" else [SCALE, BIAS]
    scalars = [torch.tensor(value, device=setting.device) for value in values]
    return [tensor.requires_grad_() for tensor in (*features, *scalars)]


@cache
def check(contender: Contender, setting: Setting) -> str:
    """Judge the loss and its gradients: "exact", what is unusual, or Failed."""
    if contender.is_floor:
        return "not a loss"
    inputs = make_inputs(setting)
    loss = contender.make()(*inputs)
    gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
    image, text, *scalars = (tensor.detach().cpu() for tensor in inputs)
    wanted = testing.expected(image, text, *map(float, scalars)).wanted
    rounds = contender.tf32 and setting.dtype == "float32" and setting.device != "cpu"
    tolerance = TF32_TOLERANCE if rounds else TOLERANCES[setting.dtype]
    return compare(loss.item(), gradients, wanted, tolerance)


def compare(
    loss: float, gradients: Sequence[Tensor | None], wanted: testing.Result, tolerance: float
) -> str:
    """Judge the gradients for image, text, scale (and bias); None where there is none."""
    if not abs(loss / wanted.loss.item() - 1) <= tolerance:  # NaN fails as well.
        return Failed(f"the loss is {loss:.6g}, not {wanted.loss.item():.6g}")
    if gradients[0] is None or gradients[1] is None:
        return Failed("no gradient for a tower")
    factor = ((gradients[0].cpu() * wanted.image).sum() / wanted.image.square().sum()).item()
    notes = [] if abs(factor - 1) <= tolerance else [f"gradient × {factor:.4g}"]
    for gradient, (name, want) in zip(gradients, list(wanted._asdict().items())[1:], strict=False):
        if gradient is None:
            notes.append(f"no gradient for the {name}")
            continue
        error = ((gradient.cpu() - factor * want).norm() / (factor * want).norm()).item()
        if not error <= tolerance:
            return Failed(f"the gradient for {name} is wrong by {error:.2g} of its length")
    return "; ".join(notes) or "exact"
