"""Other right answers to lesson 14 are accepted, and what its experiments rely on holds."""

import itertools
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minclip import clip_loss, gradient_cache

LESSONS = Path(__file__).resolve().parent.parent / "lessons"
sys.path[:0] = [str(LESSONS), str(Path(__file__).parent)]

import build  # noqa: E402
import check  # noqa: E402
from mistakes.lesson_14 import chunks_of  # noqa: E402


def through_autograd_grad(model, images, tokens, chunk):
    """Accumulation without `backward`."""
    total, parameters = 0.0, list(model.parameters())
    for x, y in chunks_of(images, tokens, chunk):
        loss = clip_loss(model.encode_image(x), model.encode_text(y), model.logit_scale.exp()) * len(x) / len(images)
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        total += loss.item()
    return total


def by_the_library(model, images, tokens, chunk):
    def encode(x, y):
        return model.encode_image(x), model.encode_text(y)

    def loss_of(x, y):
        return clip_loss(x, y, model.logit_scale.exp())

    return gradient_cache.backward(encode, chunks_of(images, tokens, chunk), loss_of).item()


def tower_by_tower(model, images, tokens, chunk):
    """All pictures before all texts, one random state for each tower, and a surrogate loss."""
    towers = [(model.encode_image, images), (model.encode_text, tokens)]
    leaves, states = [], []
    for encode, rows in towers:
        states.append(torch.get_rng_state())
        with torch.no_grad():
            leaves.append(torch.cat([encode(part) for part in rows.split(chunk)]).requires_grad_())
    image, text = leaves
    loss = clip_loss(image, text, model.logit_scale.exp())
    loss.backward()
    for (encode, rows), leaf, state in zip(towers, leaves, states, strict=True):
        torch.set_rng_state(state)
        for part, gradient in zip(rows.split(chunk), leaf.grad.split(chunk), strict=True):
            (encode(part) * gradient).sum().backward()
    return loss.item()


@pytest.mark.parametrize(
    ("name", "attempt"),
    [
        ("accumulated_gradient", through_autograd_grad),
        ("cached_gradient", by_the_library),
        ("cached_gradient", tower_by_tower),
    ],
)
def test_other_right_answers_are_accepted(name, attempt, capsys):
    assert getattr(check, name)(attempt) is attempt, capsys.readouterr().out


@pytest.fixture(scope="module")
def live_bytes():
    """The class of that name, from the lesson's own cell."""
    cells = build.read(LESSONS / "14_a_bigger_batch_than_memory.py").cells
    (source,) = (cell.source for cell in cells if "class LiveBytes" in cell.source)
    module = {
        "torch": torch,
        "tree_leaves": tree_leaves,
        "StorageWeakRef": StorageWeakRef,
        "TorchDispatchMode": TorchDispatchMode,
    }
    exec(source, module)
    return module["LiveBytes"]


def work(x: torch.Tensor, rows: int) -> None:
    """Something whose peak lies in the middle: views, results that are kept for backward, and others that are not."""
    for part in x.split(rows):
        kept = (part.view(-1, 64) @ part.new_ones(64, 256)).tanh()
        (kept * 2).exp().sum().backward()


@pytest.mark.parametrize("rows", [1, 5, 32])
def test_live_bytes_are_those_of_the_profiler(rows, live_bytes):
    x = torch.randn(32, 640, requires_grad=True)
    work(x, rows)  # x.grad exists from here on
    with live_bytes() as live:
        work(x, rows)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work(x, rows)
    events: list[Any] = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    peak = max(itertools.accumulate(change for _, change in changes))
    assert live.peak == pytest.approx(peak, rel=1e-3)
