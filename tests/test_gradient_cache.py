import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile

from minclip import CLIP, PRESETS, gradient_cache, train
from minclip.batches import Batches
from minclip.data import Pairs
from minclip.images import Preprocess
from minclip.loss import clip_loss, siglip_loss
from minclip.train import State, TrainConfig

CONFIG = replace(PRESETS["smoke"], embed_dim=16, context_length=12, vocab_size=300, vision_width=16)
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


def model_and_batch(loss: str, dtype: torch.dtype, batch_size: int = 64):
    torch.manual_seed(0)
    model = CLIP(replace(CONFIG, logit_bias=loss == "siglip")).to(dtype)
    tokens = torch.randint(1, 299, (batch_size, 12))
    ends = torch.randint(1, 12, (batch_size, 1))
    tokens[torch.arange(12) > ends] = 0
    return model, torch.randn(batch_size, 3, 24, 24, dtype=dtype), tokens.scatter(1, ends, 299)


def plain_gradients(model: CLIP, images: torch.Tensor, tokens: torch.Tensor, loss: str) -> dict[str, torch.Tensor]:
    """Of the readable loss, by nothing but autograd."""
    features = model.encode_image(images), model.encode_text(tokens)
    scale = model.logit_scale.exp()
    value = siglip_loss(*features, scale, model.logit_bias) if loss == "siglip" else clip_loss(*features, scale)
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(value, parameters), strict=True))


def assert_close(model: CLIP, wanted: dict[str, torch.Tensor], tolerance: float) -> None:
    """Every parameter's gradient, relative to its own length."""
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        error = (parameter.grad - wanted[name]).norm() / (wanted[name].norm() + 1e-6)
        assert error < tolerance, f"{name}: {error}"


def gradients_of_update(model: CLIP, images: torch.Tensor, tokens: torch.Tensor, config: TrainConfig) -> None:
    """Leave the gradients of a training step on the model, unclipped, without a change of its weights."""
    state = State(model, torch.optim.SGD(model.parameters(), lr=0.0))
    train.train_step(state, images, tokens, replace(config, max_grad_norm=math.inf))


@pytest.mark.parametrize("loss", ["clip", "siglip"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_split_of_64_pairs_gives_the_gradients_of_the_whole(loss, dtype):
    model, images, tokens = model_and_batch(loss, dtype)
    wanted = plain_gradients(model, images, tokens, loss)
    for size in range(1, 65) if dtype == torch.float64 else (1, 7, 32, 63, 64):
        gradients_of_update(model, images, tokens, TrainConfig(batch_size=64, micro_batch=size, loss=loss))
        assert_close(model, wanted, TOLERANCE[dtype])


def test_without_a_micro_batch_it_is_the_plain_step_bit_for_bit():
    model, images, tokens = model_and_batch("clip", torch.float32)
    features = model.encode_image(images), train.encode_by_length(model.encode_text, tokens, model.device)
    parameters = list(model.parameters())
    wanted = torch.autograd.grad(train.contrastive_loss(model, *features, TrainConfig()), parameters)
    gradients_of_update(model, images, tokens, TrainConfig())
    assert all(torch.equal(p.grad, g) for p, g in zip(parameters, wanted, strict=True) if p.grad is not None)


def test_random_numbers_are_replayed():
    """Dropout in both encodings of a part drops the same features; two parts drop different ones."""
    torch.manual_seed(0)
    tower, images, tokens = nn.Linear(8, 8).double(), torch.randn(12, 8).double(), torch.randn(12, 8).double()
    seen = []

    def encode(images, tokens):
        mask = F.dropout(torch.ones_like(images), 0.5)
        seen.append(mask)
        return tower(images) * mask, tower(tokens) * mask

    parts = list(zip(images.split(4), tokens.split(4), strict=True))
    gradient_cache.backward(encode, parts, lambda x, y: clip_loss(x, y, 10.0))
    after = torch.rand(3)
    assert len(seen) == 6
    assert all(torch.equal(first, again) for first, again in zip(seen[:3], seen[3:], strict=True))
    assert not torch.equal(seen[0], seen[1])
    mask = torch.cat(seen[:3])
    (wanted,) = torch.autograd.grad(clip_loss(tower(images) * mask, tower(tokens) * mask, 10.0), tower.weight)
    torch.testing.assert_close(tower.weight.grad, wanted, rtol=1e-12, atol=1e-12)
    torch.manual_seed(0)
    nn.Linear(8, 8)
    torch.randn(24, 8)
    for _ in range(3):
        F.dropout(torch.ones(4, 8).double(), 0.5)
    assert torch.equal(torch.rand(3), after), "encoding again has moved the generator"


def test_a_tower_that_does_not_learn_is_left_alone():
    model, images, tokens = model_and_batch("clip", torch.float64)
    wanted = plain_gradients(model, images, tokens, "clip")
    model.visual.requires_grad_(False)
    for size in (16, None):
        model.zero_grad()
        gradients_of_update(model, images, tokens, TrainConfig(micro_batch=size))
        for name, parameter in model.named_parameters():
            if name.startswith("visual."):
                assert parameter.grad is None
            else:
                torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-9, atol=1e-12)


def test_a_batch_is_never_made_as_a_whole():
    """Each part is asked for twice, one after the other, and none is held meanwhile."""
    model, images, tokens = model_and_batch("clip", torch.float32, 32)
    made = []

    class Parts(list):
        def __iter__(self):
            return (self[i] for i in range(len(self)))

        def __getitem__(self, i):  # type: ignore[override]
            made.append(i)
            return images[8 * i : 8 * i + 8], tokens[8 * i : 8 * i + 8]

    state = State(model, torch.optim.SGD(model.parameters(), lr=0.0))
    train.update(state, Parts(range(4)), TrainConfig())
    assert made == [0, 1, 2, 3, 0, 1, 2, 3]


def peak_of_live_bytes(work: Callable[[], object]) -> int:
    """The most bytes of tensors that exist at once, beyond those from before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    results: Any = profiled.profiler
    events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    return max(itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


def test_memory_grows_with_the_features_only():
    """The live bytes of 256 pairs in parts of 32, beside a plain step of 32 and the features."""
    model, _, _ = model_and_batch("clip", torch.float32)
    images = torch.randint(0, 256, (256, 3, 24, 24), dtype=torch.uint8)
    pairs, tokens = Pairs(images, [], [""] * 256, torch.arange(256)), torch.randint(1, 299, (256, 11))
    peaks = {}
    for size in (32, 256):
        config = TrainConfig(batch_size=size, micro_batch=32)
        batches = Batches(pairs, F.pad(tokens, (0, 1), value=299), Preprocess(24), batch_size=size, seed=0)
        state = State(model, train.make_optimizer(model, config))
        train.update(state, batches.parts(0, "cpu", slice(0, 4), None), config)  # makes the optimizer's state
        model.zero_grad()
        work = functools.partial(train.update, state, batches.parts(0, "cpu", slice(0, size), 32), config)
        peaks[size] = peak_of_live_bytes(work)
    assert peaks[256] < 1.3 * peaks[32] + 2 * 256 * CONFIG.embed_dim * 4
