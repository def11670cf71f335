"""The checks of lesson 08, Train it."""

import math
from typing import Any

import torch
from hypothesis import strategies as st

from check.verdict import Wrong, exercise


@exercise(
    "features, loss, zero_grad, backward, step, then the clamp under torch.no_grad(), in this order; the loss needs "
    "the scale, not its logarithm.",
    cases=6,
    steps=(
        "what must happen before loss.backward(), and what after it?",
        "contrastive_loss(model.encode_image(images), model.encode_text(tokens), model.logit_scale.exp()); then forget "
        "the old gradients, compute the new ones, move",
        "at the end: model.logit_scale.clamp_(max=math.log(100)), under torch.no_grad(); return loss.item()",
    ),
)
def training_step(attempt, draw):
    from minclip.train import State, TrainConfig, train_step

    B, scale = draw(st.integers(2, 3)), draw(st.sampled_from([1 / 0.07, 150.0]))
    mine, twin = _tiny_clip(scale), _tiny_clip(scale)
    my_optimizer, twin_optimizer = (torch.optim.SGD(model.parameters(), lr=0.1) for model in (mine, twin))
    state, config = State(twin, twin_optimizer), TrainConfig(max_grad_norm=1e9, backend="naive")
    for step in (1, 2):
        images = torch.randn(B, 3, 8, 8, generator=torch.Generator().manual_seed(step))  # (B, 3, R, R)
        tokens = torch.tensor([[512, 10 * step + i, 513, 0] for i in range(B)])  # (B, T): start, a letter, end, padding
        wanted = train_step(state, images, tokens, config).loss.item()
        got = attempt(_Interface(mine), my_optimizer, images, tokens)
        _compare_step(got, wanted, mine, twin, f"in step {step} on {B} pairs, from a scale of {scale:.4g},")


class _Interface:
    """A model with the attributes that the lesson promises, and nothing else."""

    def __init__(self, clip: Any) -> None:
        self.encode_image, self.encode_text, self.logit_scale = clip.encode_image, clip.encode_text, clip.logit_scale


def _tiny_clip(scale: float) -> Any:
    """A tiny CLIP that is the same at every call, with the given scale."""
    from minclip import CLIP, CLIPConfig

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        sizes = CLIPConfig(
            embed_dim=4,
            image_resolution=8, vision_layers=1, vision_width=8, vision_heads=1, vision_patch_size=4,
            context_length=4, vocab_size=514, transformer_width=8, transformer_heads=1, transformer_layers=1,
        )  # fmt: skip
        model = CLIP(sizes)
        model.logit_scale.fill_(math.log(scale))
    return model


_LOSS = "the loss takes both directions, and model.logit_scale.exp(), before anything is moved"
_UNCLAMPED = "the loss takes the scale as it is; what is clamped is model.logit_scale itself, after the move"
_ADDED = "gradients add up: optimizer.zero_grad() before loss.backward()"


def _compare_step(got: Any, wanted: float, mine: Any, twin: Any, where: str) -> None:
    if not isinstance(got, float):
        raise Wrong(f"{where} it returned a {type(got).__name__}, expected the loss as a float: loss.item()")
    if abs(got - wanted) > 1e-4 * (1 + abs(wanted)):
        hint = _UNCLAMPED if "scale of 150" in where else _LOSS
        raise Wrong(f"{where} the loss is {wanted:.4f}, it returned {got:.4f}", hint)
    after = mine.logit_scale.exp().item()
    if after > 100.01:
        hint = (
            "model.logit_scale holds the logarithm: its largest value is log(100), and the optimizer moves it past that"
        )
        raise Wrong(f"{where} the step left a scale of {after:.4g}; it must be at most 100", hint)
    expected = dict(twin.named_parameters())
    for name, parameter in mine.named_parameters():
        difference = (parameter - expected[name]).abs().max().item()
        if difference > 1e-4 * (1 + expected[name].abs().max().item()):
            hint = _ADDED if "step 2" in where else "what moves the parameters? it comes after loss.backward()"
            raise Wrong(f"{where} {name} differs by up to {difference:.2g} from its value after a correct step", hint)
