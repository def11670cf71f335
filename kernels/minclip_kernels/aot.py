"""Compiles every kernel for GPUs that are not there, and checks what came out: python -m minclip_kernels.aot

Each kernel is compiled with the blocks that the launcher would choose (tiles_triton.choose_blocking), in each dtype,
for each architecture; ptxas, cuobjdump and nvdisasm come inside the triton package. The width D is an argument of the
kernels and no constant: one binary serves D = 128, 512, 768, 1024 and every other multiple of 16.

Exit status 1 if a budget is broken: a spill, too much shared memory for the architecture, a product that misses the
tensor cores in bfloat16 or float16, fewer than two blocks per SM on sm_90, or more than two exponentials per element.
"""

import argparse
import math
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from minclip_kernels import tiles_triton

KERNELS = {
    "log_sum_exp": tiles_triton.log_sum_exp_kernel,
    "coefficients": tiles_triton.coefficients_kernel,
    "sigmoid": tiles_triton.sigmoid_kernel,
}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
WARP_REGISTERS = 65536 // 32  # 32-bit registers of an SM, for each thread of a warp


@dataclass(frozen=True)
class Architecture:
    shared_kib: int  # of one SM; a block gets 1 KiB less
    instruction: str  # what a bfloat16 or float16 product must become
    blocks_per_sm: int = 1  # at least, in bfloat16 and float16


ARCHITECTURES = {
    "sm_80": Architecture(164, "HMMA"),
    "sm_86": Architecture(100, "HMMA"),
    "sm_89": Architecture(100, "HMMA"),
    "sm_90": Architecture(228, "HGMMA", blocks_per_sm=2),
    "sm_100": Architecture(228, "UTCHMMA"),
    "sm_120": Architecture(100, "HMMA"),
    "gfx942": Architecture(65, "v_mfma"),
}


@dataclass(frozen=True)
class Report:
    registers: int
    spills: int
    shared: int  # bytes
    blocks_per_sm: int
    instruction: str
    exponentials: float  # per element of the product

    def broken(self, architecture: Architecture, dtype: str) -> list[str]:
        """The budgets that this kernel does not keep."""
        half = dtype != "fp32"
        checks = {
            "spills": self.spills > 0,
            "shared memory": self.shared > (architecture.shared_kib - 1) * 1024,
            "no " + architecture.instruction: half and self.instruction != architecture.instruction,
            "blocks per SM": half and self.blocks_per_sm < architecture.blocks_per_sm,
            "exponentials": self.exponentials > 2,
        }
        return [name for name, is_broken in checks.items() if is_broken]


def compile_kernel(kernel: str, name: str, dtype: str) -> Report:
    """Compiles one kernel for the architecture `name`, and reads the result."""
    blocking = tiles_triton.choose_blocking(KERNELS[kernel], name, DTYPES[dtype])
    target = GPUTarget("hip", name, 64) if name.startswith("gfx") else GPUTarget("cuda", int(name[3:]), 32)
    options = {"num_warps": blocking.num_warps, "num_stages": blocking.num_stages, "enable_fp_fusion": True}
    compiled = triton.compile(_source(KERNELS[kernel], blocking, dtype), target=target, options=options)
    elements_per_thread = blocking.block_m * blocking.block_n / (blocking.num_warps * target.warp_size)
    shared = compiled.metadata.shared
    if target.backend == "hip":
        return _read_amd(compiled.asm["amdgcn"], shared, blocking, elements_per_thread)
    return _read_nvidia(compiled.asm["cubin"], shared, blocking, elements_per_thread, ARCHITECTURES[name])


def _source(kernel, blocking: tiles_triton.Blocking, dtype: str) -> ASTSource:
    def kind(name: str) -> str:
        if name.isupper():
            return "constexpr"
        if name in ("row_count", "column_count", "width", "diagonal"):
            return "i32"
        return f"*{dtype}" if name in ("x", "y", "out") else "*fp32"

    signature = {name: kind(name) for name in kernel.arg_names}
    constants = {
        "BLOCK_M": blocking.block_m, "BLOCK_N": blocking.block_n, "BLOCK_K": blocking.block_k,
        "GROUP_M": blocking.group_m, "PRECISION": "ieee",
    }  # fmt: skip
    # what the launcher sees too: torch's memory is aligned, and sizes are multiples of 16
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(signature) if not name.isupper()}
    return ASTSource(kernel, signature, constants, aligned)


def _read_nvidia(
    cubin: bytes, shared: int, blocking: tiles_triton.Blocking, elements_per_thread: float, architecture: Architecture
) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = _output(BINARIES / "cuobjdump", "-res-usage", path)
        assembly = _output(BINARIES / "nvdisasm", "-c", path)
    match = re.search(r"REG:(\d+)", usage)
    assert match, usage
    registers = int(match[1])
    allocated = math.ceil(registers / 8) * 8
    by_registers = WARP_REGISTERS // (allocated * blocking.num_warps)
    by_memory = architecture.shared_kib * 1024 // (shared + 1024)  # each block takes 1 KiB for itself
    by_tensor_memory = 512 // blocking.block_n if "UTCHMMA" in assembly else by_memory
    return Report(
        registers=registers,
        spills=len(re.findall(r"\b(?:LDL|STL)\b", assembly)),
        shared=shared,
        blocks_per_sm=min(by_registers, by_memory, by_tensor_memory),
        instruction=_first(("UTCHMMA", "HGMMA", "HMMA", "FFMA"), assembly),
        exponentials=len(re.findall(r"MUFU\.EX2", assembly)) / elements_per_thread,
    )


def _read_amd(assembly: str, shared: int, blocking: tiles_triton.Blocking, elements_per_thread: float) -> Report:
    def field(name: str) -> int:
        match = re.search(rf"\.{name}:\s+(\d+)", assembly)
        assert match, f"no {name} in the assembly"
        return int(match[1])

    registers = field("vgpr_count")
    waves_per_simd = 512 // (math.ceil(registers / 8) * 8)
    return Report(
        registers=registers,
        spills=field("vgpr_spill_count") + field("sgpr_spill_count"),
        shared=shared,
        blocks_per_sm=min(waves_per_simd * 4 // blocking.num_warps, 64 * 1024 // shared),
        instruction=_first(("v_mfma", "v_fma"), assembly),
        exponentials=len(re.findall("v_exp_f32", assembly)) / elements_per_thread,
    )


def _first(instructions: tuple[str, ...], assembly: str) -> str:
    return next((instruction for instruction in instructions if instruction in assembly), "none")


def _output(*command) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--architecture", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    arguments = parser.parse_args()
    if tiles_triton.INTERPRETED:
        parser.error("TRITON_INTERPRET=1 is set: kernels are interpreted and cannot be compiled; unset it")

    print(f"triton {triton.__version__}")
    print("arch    dtype  kernel        registers  spills  shared KiB  blocks/SM  product  exp/element")
    failed = False
    for name in arguments.architecture:
        for dtype in arguments.dtype:
            for kernel in KERNELS:
                r = compile_kernel(kernel, name, dtype)
                broken = r.broken(ARCHITECTURES[name], dtype)
                failed = failed or bool(broken)
                line = f"{name:7} {dtype:6} {kernel:13} {r.registers:9} {r.spills:7} {r.shared / 1024:11.1f}"
                line += f" {r.blocks_per_sm:10} {r.instruction:>8} {r.exponentials:12.2f}"
                print(line + ("  BROKEN: " + ", ".join(broken) if broken else ""), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
