"""Data sheets of the GPUs that the README predicts times for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GPU:
    """Peak rates, without sparsity."""

    tensor_tflops: float  # bfloat16 and float16 with float32 sums
    float32_tflops: float  # without tensor cores
    gigabytes_per_second: float
    multiprocessors: int
    megahertz: int  # boost clock


DATA_SHEETS = {
    # NVIDIA A100 Tensor Core GPU Datasheet; A100 whitepaper, table 4
    "A100-SXM4-80GB": GPU(312, 19.5, 2039, 108, 1410),
    # NVIDIA Ada GPU Architecture whitepaper, appendix A
    "RTX 4090": GPU(165.2, 82.6, 1008, 128, 2520),
    # NVIDIA RTX Blackwell GPU Architecture whitepaper, appendix A
    "RTX 5090": GPU(209.5, 104.8, 1792, 170, 2407),
    # NVIDIA H100 Tensor Core GPU Datasheet (SXM); H100 whitepaper (tensor cores at 1830 MHz)
    "H100 80GB HBM3": GPU(989.4, 66.9, 3350, 132, 1830),
    # NVIDIA H200 Tensor Core GPU Datasheet (SXM): the chip of the H100 with faster memory
    "H200": GPU(989.4, 66.9, 4800, 132, 1830),
}


def data_sheet(device: str) -> GPU | None:
    """The data sheet of a device that torch calls, for example, "NVIDIA GeForce RTX 4090"."""
    return next((gpu for name, gpu in DATA_SHEETS.items() if name in device), None)
