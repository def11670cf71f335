"""What a data sheet says a loss must take at least: predicted, not measured.

The largest of three times: the products at the peak rate, the N×N values that go through memory at its full bandwidth,
the exponentials at the rate of the special function units. Real kernels reach 60 to 80 % of such peaks.
"""

from dataclasses import dataclass

import torch

EXPONENTIALS_PER_CLOCK = 16  # of one SM: CUDA C++ Programming Guide, throughput of arithmetic instructions, 8.0 to 12.0


@dataclass(frozen=True)
class Work:
    """What a loss does with its gradients, for each of the N² pairs, from its source; tests count the products."""

    flops: int  # N²D floating-point operations: 2 for each product
    values: float  # numbers of the features' size that are written to memory or read from it
    exponentials: float
    matrices: float  # N×N matrices of the features' dtype that live at once, at least


@dataclass(frozen=True)
class GPU:
    """Peak rates from a data sheet, without sparsity."""

    tensor_tflops: float  # bfloat16 and float16 with float32 sums
    float32_tflops: float  # without tensor cores
    gigabytes_per_second: float
    multiprocessors: int | None = None  # None: no exponentials are predicted
    megahertz: float = 0.0  # boost clock


DATA_SHEETS = {
    # NVIDIA A100 Tensor Core GPU Datasheet; SMs and clock: A100 whitepaper, table 4
    "A100-SXM4-80GB": GPU(312, 19.5, 2039, 108, 1410),
    # NVIDIA Ampere GA102 GPU Architecture whitepaper, appendix A
    "RTX 3090": GPU(71, 35.6, 936, 82, 1695),
    # NVIDIA Ada GPU Architecture whitepaper, appendix A
    "RTX 4090": GPU(165.2, 82.6, 1008, 128, 2520),
    # NVIDIA L40S Datasheet; SMs and clock: NVIDIA Ada GPU Architecture whitepaper (AD102)
    "L40S": GPU(362, 91.6, 864, 142, 2520),
    # NVIDIA H100 Tensor Core GPU Datasheet (SXM); SMs and clock: H100 whitepaper (tensor cores at 1830 MHz)
    "H100 80GB HBM3": GPU(989.4, 66.9, 3350, 132, 1830),
    # NVIDIA H200 Tensor Core GPU Datasheet (SXM): the H100's chip with faster memory
    "H200": GPU(989.4, 66.9, 4800, 132, 1830),
    # NVIDIA DGX B200 Datasheet, an eighth; it names no clock
    "B200": GPU(2250, 75, 8000),
    # NVIDIA RTX Blackwell GPU Architecture whitepaper, appendix A
    "RTX 5090": GPU(209.5, 104.8, 1792, 170, 2407),
    # AMD Instinct MI300X Accelerator Data Sheet; it names no rate for exponentials
    "MI300X": GPU(1307.4, 163.4, 5300),
}


def data_sheet(device: str) -> GPU | None:
    """The data sheet of a device by the name that torch gives it, such as "NVIDIA GeForce RTX 4090"."""
    return next((gpu for name, gpu in DATA_SHEETS.items() if name in device), None)


def predicted_ms(gpu: GPU, work: Work, count: int, width: int, dtype: torch.dtype) -> float:
    """The least time in milliseconds for loss and gradients of N = `count` pairs of features of width D."""
    pairs = count**2
    tflops = gpu.float32_tflops if dtype == torch.float32 else gpu.tensor_tflops
    seconds = [
        work.flops * pairs * width / (tflops * 1e12),
        work.values * pairs * dtype.itemsize / (gpu.gigabytes_per_second * 1e9),
    ]
    if gpu.multiprocessors:
        rate = EXPONENTIALS_PER_CLOCK * gpu.multiprocessors * gpu.megahertz * 1e6
        seconds.append(work.exponentials * pairs / rate)
    return 1e3 * max(seconds)
