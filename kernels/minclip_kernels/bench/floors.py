"""Predicted times of the kernels on GPUs, from a few assumptions that a measurement can refute.

A kernel takes as long as the busiest of four parts of the GPU: its tensor cores, the way from the
level-2 cache to the multiprocessors, the slots in which instructions are issued, and memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    # Instructions per logit outside of the product in log_sum_exp, coefficients and sigmoid, as
    # `python -m minclip_kernels.aot` counts them (triton 3.8.0).
    instructions: tuple[float, float, float]

    def rates(self) -> Parts:
        """What each part does in a millisecond: operations, bytes, instructions of a thread."""
        issued = 4 * 32 * self.multiprocessors * self.gigahertz * 1e6  # four warps in each clock
        work = {TENSOR_CORES: self.tensor, CACHE: self.cache, MEMORY: self.memory}
        return {part: 1e9 * rate for part, rate in work.items()} | {ISSUE: issued}


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


def find(device: str) -> GPU | None:
    """The GPU that torch calls, for example, "NVIDIA GeForce RTX 4090"."""
    return next((gpu for name, gpu in GPUS.items() if name in device), None)


def predict(gpu: GPU, N: int, D: int, tiles: Sequence[tuple[int, int]]) -> dict[str, Parts]:
    """Return the milliseconds for which each kernel and product keeps each part busy, in 16 bits.

    tiles: rows and columns of the tiles of log_sum_exp, coefficients and sigmoid.
    """
    product, matrix, towers = 2 * N**2 * D, 2 * N**2, 2 * N * D
    work: dict[str, Parts] = {
        "product for images": {TENSOR_CORES: product, MEMORY: matrix},
        "product for texts": {TENSOR_CORES: product, MEMORY: matrix},
        "prepare_kernel": {MEMORY: (2 + 2) * towers},
        "pair_kernel": {MEMORY: 2 * towers},
        "finish_kernel": {MEMORY: (4 + 2 + 4) * towers},
    }
    edges = [N**2 / rows + N**2 / columns for rows, columns in tiles]  # of all tiles
    work["combine_kernel"] = {MEMORY: 4 * edges[0]}
    written = 4 * edges[0], matrix, matrix
    for name, edge, out, count in zip(KERNELS, edges, written, gpu.instructions, strict=True):
        cached, issued = 2 * D * edge, count * N**2
        parts = {TENSOR_CORES: product, CACHE: cached, ISSUE: issued, MEMORY: out}
        work[f"{name}_kernel"] = parts
    rates = gpu.rates()
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
