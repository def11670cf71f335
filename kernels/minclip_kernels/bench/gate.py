"""Before anything is timed: does it compute the textbook's value and gradients, here, in this dtype?

Compared with `minclip_kernels.reference` in float64 on the same features. A gradient that is a constant multiple of
the textbook's passes and is named, since an optimizer such as Adam hardly sees a constant; so is a missing gradient for
the scale. Everything else is red, and nothing is reported of it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from minclip_kernels import reference
from minclip_kernels.bench.peers import Contender

COUNT = 1100  # pairs: more than one tile of every kernel, and a ragged last one
SCALE, BIAS = 1 / 0.07, -10.0
# Largest |error| / |gradient|, and the same for the loss; logits in 16 bits, as in plain PyTorch, fit in.
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}
TF32_TOLERANCE = 5e-3


@dataclass(frozen=True)
class Verdict:
    passed: bool
    note: str  # "exact", or what is unusual, or what is wrong


def make_inputs(count: int, width: int, dtype: torch.dtype, device: str) -> list[Tensor]:
    """Image and text features (N, D) of lengths around 1 that resemble each other pair by pair, the scale, the bias."""
    generator = torch.Generator().manual_seed(0)
    image, noise = (torch.randn(count, width, generator=generator).div_(width**0.5) for _ in range(2))
    features = [part.to(device, dtype).requires_grad_() for part in (image, noise.add_(image, alpha=0.3))]
    return features + [torch.tensor(value, device=device, requires_grad=True) for value in (SCALE, BIAS)]


def check(contender: Contender, device: str, dtype: torch.dtype, width: int, count: int = COUNT) -> Verdict:
    """The verdict on loss and gradients of `count` pairs of width D; an exception of the contender is a red one."""
    image, text, scale, bias = make_inputs(count, width, dtype, device)
    try:
        loss = contender.make()(image, text, scale, bias)
        got = torch.autograd.grad(loss, (image, text, scale, bias), allow_unused=True)
    except Exception as error:  # other people's code: whatever it raises is the reason why it is left out
        return Verdict(False, f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}")
    with torch.no_grad():
        if contender.loss == "clip":
            wanted_loss = reference.clip_loss(image, text, scale)
            wanted = reference.gradients(image, text, scale)[:3]
        else:
            wanted_loss = reference.siglip_loss(image, text, scale, bias)
            wanted = reference.gradients(image, text, scale, bias)[:4]
    is_tf32 = contender.tf32 and dtype == torch.float32 and device != "cpu"
    return judge(loss.detach(), list(got), wanted_loss, list(wanted), TF32_TOLERANCE if is_tf32 else TOLERANCES[dtype])


def judge(
    loss: Tensor, got: list[Tensor | None], wanted_loss: Tensor, wanted: list[Tensor], tolerance: float
) -> Verdict:
    """got, wanted: the gradients for image, text, scale (and bias); None where there is none."""
    error = abs(loss.double() / wanted_loss - 1).item()
    if not error <= tolerance:  # also when it is not a number
        return Verdict(False, f"the loss is {loss.item():.6g}, not {wanted_loss.item():.6g}")
    features = [part.double() for part in got[:2] if part is not None]
    if len(features) < 2:
        return Verdict(False, "no gradient for a tower")
    factor = ((features[0] * wanted[0]).sum() / (wanted[0] ** 2).sum()).item()
    names = ("image", "text", "scale", "bias")
    notes = [] if abs(factor - 1) <= tolerance else [f"gradient × {factor:.4g}"]
    for name, part, want in zip(names, got, wanted, strict=False):
        if part is None:
            notes.append(f"no gradient for the {name}")
            continue
        error = ((part.double() - factor * want).norm() / (factor * want).norm()).item()
        if not error <= tolerance:
            return Verdict(False, f"the gradient for {name} is wrong by {error:.2g} of its length")
    return Verdict(True, "; ".join(notes) or "exact")
