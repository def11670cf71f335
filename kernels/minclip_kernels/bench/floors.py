"""Predicted times of the kernels on GPUs, from a few assumptions that a measurement can refute.

A kernel takes as long as the busiest of four parts of the GPU: its tensor cores, the way from the
level-2 cache to the multiprocessors, the slots in which instructions are issued, and memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from minclip_kernels.bench.peers import Setting

TENSOR_CORES, CACHE, ISSUE, MEMORY = "tensor cores", "level-2 cache", "issue slots", "memory"
MARGIN = 0.2  # A prediction that is further off has lost one of its assumptions.
KERNELS = "log_sum_exp", "coefficients", "sigmoid"
Parts = dict[str, float]


@dataclass(frozen=True)
class GPU:
    """What is assumed of a GPU, in 16 bits."""

    tensor: float  # TFLOP/s of the vendor's products at widths of 512 to 1,024
    cache: float  # TB/s from the level-2 cache to all multiprocessors
    memory: float  # TB/s, from the data sheet
    multiprocessors: int
    gigahertz: float  # boost clock
    # Instructions per logit outside of the product in each of KERNELS, as
    # `python -m minclip_kernels.aot` counts them (triton 3.8.0).
    instructions: tuple[float, float, float]


H100 = GPU(640, 8.5, 3.35, 132, 1.83, (17.3, 19.2, 34.5))
GPUS = {
    "H100 80GB HBM3": H100,
    "H200": replace(H100, memory=4.8),
    # The cache as on the H100: nine tenths of 5,120 bytes per clock (A100 whitepaper).
    "A100-SXM4-80GB": GPU(259, 6.5, 2.04, 108, 1.41, (16.6, 24.3, 33.9)),
    # The rates of these two caches are guesses. At two thirds of them they still limit nothing.
    "RTX 4090": GPU(154, 5, 1.01, 128, 2.52, (16.4, 24.2, 33.8)),
    "RTX 5090": GPU(200, 6, 1.79, 170, 2.41, (16.8, 23.4, 34.4)),
}


def predict(device: str, setting: Setting, tiles: Sequence[tuple[int, int]]) -> dict[str, Parts]:
    """Return the milliseconds for which each kernel and product keeps each part busy, in 16 bits.

    device: for example, "NVIDIA GeForce RTX 4090"; nothing is predicted for others than GPUS.
    tiles: rows and columns of the tiles of KERNELS.
    """
    gpu = next((gpu for name, gpu in GPUS.items() if name in device), None)
    if gpu is None:
        return {}
    rates = {TENSOR_CORES: 1e9 * gpu.tensor, CACHE: 1e9 * gpu.cache, MEMORY: 1e9 * gpu.memory}
    # Each multiprocessor issues instructions of four warps in a clock.
    rates[ISSUE] = 4 * 32 * gpu.multiprocessors * gpu.gigahertz * 1e6
    logits, towers = setting.N**2, 2 * setting.N * setting.D
    edges = [logits / rows + logits / columns for rows, columns in tiles]  # of all tiles
    product: Parts = {TENSOR_CORES: 2 * logits * setting.D}
    written: Parts = {MEMORY: 2 * logits}
    work: dict[str, Parts] = {
        "product for images": product | written,
        "product for texts": product | written,
        "prepare_kernel": {MEMORY: (2 + 2) * towers},
        "combine_kernel": {MEMORY: 4 * edges[0]},
        "finish_kernel": {MEMORY: (4 + 2 + 4) * towers},
    }
    for name, edge, count in zip(KERNELS, edges, gpu.instructions, strict=True):
        cached: Parts = {CACHE: 2 * setting.D * edge, ISSUE: count * logits}
        out = work["combine_kernel"] if name == "log_sum_exp" else written
        work[f"{name}_kernel"] = product | out | cached
    return {
        name: {part: amount / rates[part] for part, amount in parts.items()}
        for name, parts in work.items()
    }


def compare(parts: Parts, measured: float) -> dict[str, float | str | None]:
    """A prediction, and the assumption that explains why it is off by more than MARGIN."""
    busiest = max(parts, key=parts.__getitem__, default="")
    predicted, fallen = parts.get(busiest), ""
    if predicted and abs(measured / predicted - 1) > MARGIN:
        fallen = f"{busiest}: {predicted / measured:.2g} of the assumed rate"
        if predicted < measured <= (1 + MARGIN) * (predicted + parts.get(ISSUE, 0)):
            fallen = "other instructions hide behind the product"
    return {"predicted ms": predicted, "limited by": busiest, "fallen assumption": fallen}
