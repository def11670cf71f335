"""The fastest tile of each Triton kernel on this GPU, by changing one thing at a time, as lines of source."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from minclip_kernels import fused_clip_loss, fused_siglip_loss, tiles_triton
from minclip_kernels.bench.gate import make_inputs
from minclip_kernels.tiles_triton import Blocking

OPTIONS = {
    "num_warps": (4, 8),
    "num_stages": (2, 3, 4, 5),
    "block_m": (64, 128),
    "block_n": (64, 128, 256),
    "block_k": (32, 64, 128),
    "group_m": (4, 8, 16),
}
REPEATS = 3


@contextmanager
def using(kernel, tile: Blocking) -> Iterator[None]:
    """Inside, `kernel` is launched with this tile."""
    usual = tiles_triton.choose_blocking
    tiles_triton.choose_blocking = lambda other, *rest: (
        tile if other is kernel else usual(other, *rest)
    )
    try:
        yield
    finally:
        tiles_triton.choose_blocking = usual


def losses(dtype: torch.dtype, width: int, count: int, device: str) -> dict[Any, Callable[[], Any]]:
    """For each kernel something that runs it."""
    inputs = make_inputs(count, width, dtype, device)

    def gradients(loss, *arguments) -> None:
        torch.autograd.grad(loss(*arguments, backend="triton"), arguments)

    @torch.no_grad()
    def forward_only() -> None:
        fused_clip_loss(*inputs[:3], backend="triton")

    return {
        tiles_triton.log_sum_exp_kernel: forward_only,
        tiles_triton.coefficients_kernel: lambda: gradients(fused_clip_loss, *inputs[:3]),
        tiles_triton.sigmoid_kernel: lambda: gradients(fused_siglip_loss, *inputs),
    }


def milliseconds(function: Callable[[], Any], device: str) -> float:
    """The median of a few runs after one that compiles; infinity where a tile does not fit."""
    try:
        times = []
        for _ in range(1 + REPEATS):
            start = time.perf_counter()
            function()
            if device != "cpu":
                torch.cuda.synchronize()
            times.append(1e3 * (time.perf_counter() - start))
        return statistics.median(times[1:])
    except Exception:  # too much shared memory, too many registers: whatever the compiler raises, it is no candidate
        return float("inf")


def best_tile(
    kernel, function: Callable[[], Any], start: Blocking, device: str, end: float
) -> tuple[Blocking, float, float]:
    """The tile found until the time `end` (of time.monotonic), its milliseconds, and those of `start`."""

    def measure(tile: Blocking) -> float:
        with using(kernel, tile):
            return milliseconds(function, device)

    best, first = start, measure(start)
    shortest = first
    for name, values in OPTIONS.items():
        for value in values:
            tile = replace(best, **{name: value})
            if tile == best or time.monotonic() > end:
                continue
            taken = measure(tile)
            if taken < shortest:
                best, shortest = tile, taken
    return best, shortest, first


def tune(
    dtypes: tuple[str, ...], width: int, count: int, device: str, seconds: float
) -> Iterator[str]:
    """For each dtype and kernel lines for the head of `tiles_triton.choose_blocking`; the last get less time."""
    end = time.monotonic() + seconds
    architecture = tiles_triton.architecture(torch.device(device))
    for dtype in dtypes:
        for kernel, function in losses(getattr(torch, dtype), width, count, device).items():
            start = tiles_triton.choose_blocking(kernel, architecture, getattr(torch, dtype))
            tile, taken, before = best_tile(kernel, function, start, device, end)
            condition = f'kernel is {kernel.__name__} and architecture == "{architecture}" and dtype == torch.{dtype}'
            yield f"    if {condition}:"
            yield f"        # {taken:.3f} ms at N = {count}, D = {width}; {before:.3f} ms before"
            yield f"        return {tile}"
