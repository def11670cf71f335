"""Time whole tile shapes, from a list of complete candidates, beside the chosen one."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest.mock import patch

import torch
from torch.utils.benchmark import Timer

from minclip_kernels import fused_clip_loss, fused_siglip_loss, tiles_triton
from minclip_kernels.bench.gate import make_inputs
from minclip_kernels.bench.peers import Setting
from minclip_kernels.tiles_triton import Blocking

CANDIDATES = [  # rows, columns, width, group, warps, stages
    Blocking(64, 64, 32, 8, 4, 3),
    Blocking(64, 128, 64, 8, 4, 4),
    Blocking(128, 128, 32, 8, 4, 4),
    Blocking(128, 128, 32, 8, 8, 3),
    Blocking(128, 128, 64, 8, 4, 3),
    Blocking(128, 256, 64, 8, 8, 3),
]
LOSSES = {
    tiles_triton.log_sum_exp_kernel: (fused_clip_loss, 3),
    tiles_triton.coefficients_kernel: (fused_clip_loss, 3),
    tiles_triton.sigmoid_kernel: (fused_siglip_loss, 4),
}


def tune(setting: Setting, candidates: Sequence[Blocking]) -> Iterator[str]:
    """For each kernel, lines for the head of `tiles_triton.choose_blocking`."""
    usual = tiles_triton.choose_blocking
    architecture = tiles_triton.architecture(torch.device(setting.device))
    for kernel, (loss, arguments) in LOSSES.items():
        inputs = make_inputs(setting)[:arguments]
        chosen = usual(kernel, architecture, setting.torch_dtype)
        times = {tile: milliseconds(kernel, tile, loss, inputs) for tile in [chosen, *candidates]}
        best = min(times, key=times.__getitem__)
        yield f"    if kernel is {kernel.__name__} and dtype == {setting.torch_dtype}:"
        yield f"        # {times[best]:.3f} ms, {times[chosen]:.3f} before, at {setting}"
        yield f"        return {best}"


def milliseconds(kernel: Any, tile: Blocking, loss: Callable, inputs: list[torch.Tensor]) -> float:
    """The median time of loss and gradients; infinity where the tile does not fit the GPU."""
    usual = tiles_triton.choose_blocking

    def choose(other: Any, *rest: Any) -> Blocking:
        return tile if other is kernel else usual(other, *rest)

    def run() -> None:
        torch.autograd.grad(loss(*inputs, backend="triton"), inputs)

    with patch.object(tiles_triton, "choose_blocking", choose):
        try:
            timer = Timer("run()", globals={"run": run})
            return 1e3 * timer.blocked_autorange(min_run_time=0.1).median
        except Exception:  # the compiler raises what it likes for too much shared memory
            return float("inf")
