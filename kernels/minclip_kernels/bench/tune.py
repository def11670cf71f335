"""Time each kernel by itself: beside its prediction, and with tiles from a list of candidates."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch

from minclip_kernels import fused_clip_loss, fused_siglip_loss, tiles_triton
from minclip_kernels.bench import floors, records
from minclip_kernels.bench.gate import make_inputs
from minclip_kernels.bench.peers import Setting
from minclip_kernels.bench.records import Row
from minclip_kernels.tiles_triton import Blocking

KERNELS = {"clip": ("log_sum_exp", "coefficients"), "siglip": ("sigmoid",)}
# No side is longer than 128: the features are padded to a multiple of that.
CANDIDATES = [
    Blocking(128, 128, 64, num_warps=4, num_stages=3, parts=4),
    Blocking(128, 128, 64, num_warps=8, num_stages=3, parts=4),
    Blocking(128, 128, 64, num_warps=4, num_stages=3, parts=8),
    Blocking(128, 128, 32, num_warps=4, num_stages=4, parts=8),
    Blocking(128, 128, 32, num_warps=8, num_stages=3, parts=4),
    Blocking(128, 64, 64, num_warps=4, num_stages=4, parts=4),
    Blocking(64, 128, 64, num_warps=4, num_stages=4, parts=8),
    Blocking(64, 128, 32, num_warps=4, num_stages=4, parts=4),
]
RUNS = 10


def beside_predictions(setting: Setting) -> list[Row]:
    """Each kernel and each product by itself, the slowest first, beside its prediction."""
    sides = [choose(kernel, setting)[:2] for kernel in floors.KERNELS]
    predicted = floors.predict(records.environment(setting.device)["device"], setting, sides)
    times = kernel_times(replace(setting, loss="siglip")) | kernel_times(setting)
    return [
        {"": name, "ms": ms, **floors.compare(predicted.get(name, {}), ms)}
        for name, ms in sorted(times.items(), key=lambda item: -item[1])
    ]


def kernel_times(setting: Setting) -> dict[str, float]:
    """Mean milliseconds of each kernel and product in our loss and its gradients.

    On a GPU between two events, while the next launches are queued; interpreted by wall time.
    """
    loss = fused_clip_loss if setting.loss == "clip" else fused_siglip_loss
    inputs, runs = make_inputs(setting), 1 if tiles_triton.INTERPRETED else RUNS

    def run() -> None:
        torch.autograd.grad(loss(*inputs, backend="triton"), inputs)

    run()  # loads and compiles
    marks: list[tuple[str, Any, Any]] = []

    def watch(function: str, name: Callable[..., str]) -> Any:
        usual = getattr(tiles_triton, function)

        def watched(*arguments: Any, **options: Any) -> None:
            start, _, end = _now(), usual(*arguments, **options), _now()
            marks.append((name(*arguments), start, end))

        return patch.object(tiles_triton, function, watched)

    def product(_: Any, coefficients: torch.Tensor, *__: Any) -> str:
        return f"product for {'images' if coefficients.is_contiguous() else 'texts'}"

    kernels = watch("_launch", lambda kernel, *_: kernel.__name__)
    with kernels, watch("_accumulate", product):
        for _ in range(runs):
            run()
        if not tiles_triton.INTERPRETED:
            torch.cuda.synchronize()
    times: dict[str, float] = defaultdict(float)
    for name, start, end in marks:
        taken = 1e3 * (end - start) if tiles_triton.INTERPRETED else start.elapsed_time(end)
        times[name] += taken / runs
    return dict(times)


def _now() -> Any:
    if tiles_triton.INTERPRETED:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def choose(kernel: str, setting: Setting) -> Blocking:
    """The tiles that are used for features without ids."""
    architecture = tiles_triton.architecture(torch.device(setting.device))
    dtype = getattr(torch, setting.dtype)
    return tiles_triton.choose_blocking(kernel, architecture, dtype, ids=False)


def trials(setting: Setting, candidates: Sequence[Blocking]) -> list[Row]:
    """Milliseconds of each kernel with the usual tiles of the last, then with each candidate."""
    usual = choose(KERNELS[setting.loss][-1], setting)
    candidates = [c._replace(descriptors=usual.descriptors) for c in candidates]
    return [b._asdict() | _times(setting, b) for b in dict.fromkeys([usual, *candidates])]


def _times(setting: Setting, blocking: Blocking) -> dict[str, float]:
    """Milliseconds of each kernel, infinite where the tiles do not fit the GPU."""
    kernels, usual = KERNELS[setting.loss], tiles_triton.choose_blocking

    def choose_candidate(name: str, *rest: Any) -> Blocking:
        if name in kernels:
            return blocking
        return usual(name, *rest)._replace(block_m=blocking.block_m, block_n=blocking.block_n)

    with patch.object(tiles_triton, "choose_blocking", choose_candidate):
        try:
            times = kernel_times(setting)
        except Exception:  # The compiler raises anything for too much shared memory.
            return dict.fromkeys(kernels, float("inf"))
    return {kernel: times[f"{kernel}_kernel"] for kernel in kernels}
