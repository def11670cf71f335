"""A CLIP that learns in seconds, for the lessons that train several of them (11, 12 and 13)."""

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor, nn

import minclip
from minclip.batches import Batches
from minclip.data import Pairs, Preprocess
from minclip.train import TrainConfig, encode_by_length, learning_rate, make_optimizer

SEES = Preprocess(24, trim=True)  # what its image tower sees of a drawing: its ink, in 24 × 24 pixels
LossOf = Callable[[minclip.CLIP, Tensor, Tensor], Tensor]


def small_clip(tokenizer: minclip.Tokenizer, **sizes: Any) -> minclip.CLIP:
    """A CLIP with random weights, always the same ones; `sizes` replace those below, under CLIPConfig's names."""
    own = {
        "embed_dim": 64,
        "image_resolution": SEES.resolution, "vision_layers": 2, "vision_width": 64, "vision_heads": 2,
        "vision_patch_size": 6,
        "context_length": 32, "vocab_size": tokenizer.vocab_size, "transformer_width": 64, "transformer_heads": 2,
        "transformer_layers": 1, "quick_gelu": False,
    }  # fmt: skip
    torch.manual_seed(0)
    return minclip.CLIP(minclip.CLIPConfig(**{**own, **sizes}), SEES)


def softmax_loss(model: minclip.CLIP, image_features: Tensor, text_features: Tensor) -> Tensor:
    """CLIP's loss of a batch (B, E) and (B, E), with the model's own scale."""
    return minclip.clip_loss(image_features, text_features, model.logit_scale.exp())


def fit(
    model: minclip.CLIP,
    tokenizer: minclip.Tokenizer,
    pairs: Pairs,
    steps: int,
    loss_of: LossOf = softmax_loss,
    augmentation: str = "gentle",
    batch_size: int = 128,
    lr: float = 2e-3,
    reports: Callable[[int], None] | None = None,
) -> list[float]:
    """Train a model in place, as `minclip train` does; returns the loss of each step.

    `reports`, if given, is called with the number of steps made, ten times on the way, with the model in eval mode.
    """
    tokens = tokenizer(pairs.captions, model.config.context_length)
    batches = Batches(pairs, tokens, model.preprocess, batch_size=batch_size, seed=0, augmentation=augmentation)
    config = TrainConfig(lr=lr)
    optimizer = make_optimizer(model, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps, config))
    losses = []
    model.train()
    for step in range(steps):
        images, chosen = batches.make(step, "cpu")  # (B, 3, R, R), (B, T)
        text_features = encode_by_length(model.encode_text, chosen, model.device)
        loss = loss_of(model, model.encode_image(images), text_features)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        schedule.step()
        model.clamp_logit_scale()
        losses.append(loss.item())
        if reports and (step + 1) * 10 // steps > step * 10 // steps:
            model.eval()
            reports(step + 1)
            model.train()
    model.eval()
    return losses


def in_two_processes(function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> list[Any]:
    """function(*job) for every job, two at a time where a process can be copied (on Linux)."""
    if sys.platform != "linux":
        return [function(*job) for job in jobs]
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        return [future.result() for future in [pool.submit(function, *job) for job in jobs]]
