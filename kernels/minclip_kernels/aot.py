"""Compile every kernel for GPUs that are not there, and check what came out.

    python -m minclip_kernels.aot

Each kernel is compiled with the tiles that the launcher would choose
(`tiles_triton.choose_blocking`), for each architecture and dtype; ptxas, cuobjdump and nvdisasm
come inside the triton package. The width D is an argument of the kernels and no constant: one
binary serves every width, which the launcher pads to whole steps.

Exit status 1 if a budget is broken: a spill, too much shared memory for the architecture, a product
in 16 bits that misses the tensor cores, and, in 16 bits on sm_90, fewer than two blocks per SM, too
many instructions per logit outside the product, or tiles that read more than a byte from the
level-2 cache for every 64 operations.
"""

import argparse
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from minclip_kernels import kernels_triton, tiles_triton
from minclip_kernels.kernels_triton import Axis
from minclip_kernels.tiles_triton import Blocking

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
WARP_REGISTERS = 65536 // 32  # 32-bit registers of an SM, for each thread of a warp
FLOPS_PER_BYTE = 64  # of traffic from the level-2 cache, at least


@dataclass(frozen=True)
class Variant:
    """A kernel as the launcher calls it in one situation."""

    kernel: str  # log_sum_exp, exact_log_sum_exp, coefficients or sigmoid
    ids: str | None = None  # "drop" or "all"
    instructions: float = math.inf  # outside the product, per logit, at most, on sm_90

    def blocking(self, architecture: str, dtype: str) -> Blocking:
        """Return the tiles that the launcher would choose."""
        has_ids = self.ids is not None
        return tiles_triton.choose_blocking(self.kernel, architecture, DTYPES[dtype], has_ids)


VARIANTS = {
    "log_sum_exp": Variant("log_sum_exp", instructions=30),
    "coefficients": Variant("coefficients", instructions=30),
    "sigmoid": Variant("sigmoid", instructions=35),
    "log_sum_exp exact": Variant("exact_log_sum_exp"),
    "log_sum_exp drop": Variant("log_sum_exp", "drop"),
    "log_sum_exp all": Variant("log_sum_exp", "all"),
    "coefficients drop": Variant("coefficients", "drop"),
    "coefficients all": Variant("coefficients", "all"),
}
MAIN = ("log_sum_exp", "coefficients", "sigmoid")


@dataclass(frozen=True)
class Architecture:
    shared_kib: int  # of one SM; a block gets 1 KiB less
    instruction: str  # what a product in 16 bits must become
    blocks_per_sm: int = 1  # in 16 bits, at least
    has_budget: bool = False  # of instructions


ARCHITECTURES = {
    "sm_80": Architecture(164, "HMMA"),
    "sm_86": Architecture(100, "HMMA"),
    "sm_89": Architecture(100, "HMMA"),
    "sm_90": Architecture(228, "HGMMA", blocks_per_sm=2, has_budget=True),
    "sm_100": Architecture(228, "UTCHMMA"),
    "sm_120": Architecture(100, "HMMA"),
    "gfx942": Architecture(65, "v_mfma"),
}


@dataclass(frozen=True)
class Report:
    """What compiling a kernel showed."""

    blocking: Blocking
    registers: int
    spills: int
    shared: int  # bytes
    blocks_per_sm: int
    instruction: str
    instructions: float  # outside the loop of the product, per logit; nan where not counted
    exponentials: float  # per logit

    def broken(self, variant: Variant, architecture: Architecture, dtype: str) -> list[str]:
        """Return the budgets that this kernel does not keep."""
        is_half = dtype != "fp32"
        intensity = self.blocking.block_m * self.blocking.block_n
        intensity /= self.blocking.block_m + self.blocking.block_n  # of 16 bits
        budgeted = is_half and architecture.has_budget and variant.instructions < math.inf
        checks = {
            "spills": self.spills > 0,
            "shared memory": self.shared > (architecture.shared_kib - 1) * 1024,
            f"no {architecture.instruction}": (
                is_half and variant.kernel in MAIN and self.instruction != architecture.instruction
            ),
            "blocks per SM": budgeted and self.blocks_per_sm < architecture.blocks_per_sm,
            "instructions": budgeted and self.instructions > variant.instructions,
            "level-2 traffic": budgeted
            and variant.kernel != "sigmoid"
            and intensity < FLOPS_PER_BYTE,
        }
        return [name for name, is_broken in checks.items() if is_broken]


def compile_variant(
    variant: Variant,
    name: str,
    dtype: str,
    blocking: Blocking | None = None,
    precision: str = "ieee",
    unaligned: Sequence[str] = (),
    ones: Sequence[str] = (),
) -> Report:
    """Compile a kernel for the architecture `name`, and read the result.

    unaligned: integer arguments that are no multiple of 16. ones: those that are 1, which Triton
    compiles for themselves.
    """
    if blocking is None:
        blocking = variant.blocking(name, dtype)
    target = (
        GPUTarget("cuda", int(name[3:]), 32)
        if name.startswith("sm")
        else GPUTarget("hip", name, 64)
    )
    options = {
        "num_warps": blocking.num_warps,
        "num_stages": blocking.num_stages,
        "enable_fp_fusion": True,
    }
    source = _source(variant, blocking, dtype, precision, unaligned, ones)
    compiled = triton.compile(source, target=target, options=options)
    threads = blocking.num_warps * target.warp_size
    read = _read_amd if target.backend == "hip" else _read_nvidia
    return read(compiled, blocking, blocking.block_m * blocking.block_n / threads, name)


def _source(
    variant: Variant,
    blocking: Blocking,
    dtype: str,
    precision: str,
    unaligned: Sequence[str],
    ones: Sequence[str],
) -> ASTSource:
    kernel = getattr(kernels_triton, f"{variant.kernel}_kernel")
    given = dict.fromkeys(ones, 1)
    given |= {"TILE": blocking, "PRECISION": precision, "GROUP": 16, "STEP": tiles_triton.TOPS}
    missing = {None: ("ids", "shares"), "drop": ("shares",), "all": ()}[variant.ids]
    given |= {f"{axis}.{name}": None for axis in ("image", "text") for name in missing}
    given |= {"pulls": None} if "shares" in missing else {}
    signature, constants, attributes = {}, {}, {}

    def type_of(name: str, path: tuple[int, ...]) -> str:
        kind = "constexpr" if name in given else _type(name, blocking, dtype)
        if name in given:
            constants[path] = given[name]
        elif kind[0] in "*i" and name not in unaligned:
            attributes[path] = [["tt.divisibility", 16]]
        return kind

    for place, name in enumerate(kernel.arg_names):
        paths = {f"{name}.{field}": (place, at) for at, field in enumerate(Axis._fields)}
        is_axis = name in ("image", "text")
        axis = Axis._make(type_of(*path) for path in paths.items()) if is_axis else None
        signature[name] = axis or type_of(name, (place,))
    return ASTSource(kernel, signature, constants, attributes)


def _type(name: str, blocking: Blocking, dtype: str) -> str:
    if name in ("width", "offset") or name.endswith((".size", ".first", ".blocks")):
        return "i32"
    if name == "weight":
        return "fp32"
    if name in ("x", "y") and blocking.descriptors:
        rows = blocking.block_m if name == "x" else blocking.block_n
        return f"tensordesc<{dtype}[{rows},{blocking.block_k}]>"
    if name.endswith(".ids"):
        return "*i64"
    return "*" + {"x": dtype, "y": dtype, "out": dtype}.get(name, "fp32")


def _read_nvidia(compiled: Any, blocking: Blocking, logits_per_thread: float, name: str) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(compiled.asm["cubin"])
        usage = _output(BINARIES / "cuobjdump", "-res-usage", path)
        assembly = _output(BINARIES / "nvdisasm", "-c", path)
    match = re.search(r"REG:(\d+)", usage)
    assert match, usage
    registers, shared = int(match[1]), compiled.metadata.shared
    by_registers = WARP_REGISTERS // (math.ceil(registers / 8) * 8 * blocking.num_warps)
    # Each block takes 1 KiB of shared memory for itself.
    by_memory = ARCHITECTURES[name].shared_kib * 1024 // (shared + 1024)
    by_tensor_memory = 512 // blocking.block_n if "UTCHMMA" in assembly else by_memory
    product = next((i for i in ("UTCHMMA", "HGMMA", "HMMA", "FFMA") if i in assembly), "none")
    return Report(
        blocking,
        registers,
        len(re.findall(r"\b(?:LDL|STL)\b", assembly)),
        shared,
        min(by_registers, by_memory, by_tensor_memory),
        product,
        _outside_the_product(assembly, product) / logits_per_thread,
        len(re.findall(r"MUFU\.EX2", assembly)) / logits_per_thread,
    )


def _outside_the_product(assembly: str, product: str) -> int:
    """Return the number of instructions outside the shortest loop with a product."""
    labels: dict[str, int] = {}
    instructions: list[str] = []
    for line in assembly.splitlines():
        if label := re.match(r"\s*(\.L_x?_?\w+):", line):
            labels[label[1]] = len(instructions)
        elif instruction := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            instructions.append(instruction[1])
    loops = []
    for end, instruction in enumerate(instructions):
        target = re.search(r"BRA.*?(\.L_x?_?\w+)", instruction)
        start = labels.get(target[1], end) if target else end
        if any(product in inside for inside in instructions[start:end]):
            loops.append(end + 1 - start)
    return len(instructions) - min(loops, default=0)


def _read_amd(compiled: Any, blocking: Blocking, logits_per_thread: float, name: str) -> Report:
    assembly, shared = compiled.asm["amdgcn"], compiled.metadata.shared

    def number(key: str) -> int:
        match = re.search(rf"\.{key}:\s+(\d+)", assembly)
        assert match, f"no {key} in the assembly"
        return int(match[1])

    registers = number("vgpr_count")
    waves_per_simd = 512 // (math.ceil(registers / 8) * 8)
    by_memory = 64 * 1024 // shared if shared else waves_per_simd
    return Report(
        blocking,
        registers,
        number("vgpr_spill_count"),
        shared,
        min(waves_per_simd * 4 // blocking.num_warps, by_memory),
        next((i for i in ("v_mfma", "v_fma") if i in assembly), "none"),
        math.nan,
        len(re.findall("v_exp_f32", assembly)) / logits_per_thread,
    )


def _output(*command: Any) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--architecture", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES)
    )
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--kernel", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    arguments = parser.parse_args()
    if tiles_triton.INTERPRETED:
        parser.error("TRITON_INTERPRET is set: kernels are interpreted, not compiled; unset it")
    print(f"triton {triton.__version__}")
    print(
        "arch    dtype  kernel              tile       registers  spills  shared KiB  blocks/SM"
        "  product  instr/logit  exp/logit"
    )
    failed = False
    for name in arguments.architecture:
        for dtype in arguments.dtype:
            for kernel in arguments.kernel:
                failed |= _show(name, dtype, kernel)
    return int(failed)


def _show(name: str, dtype: str, kernel: str) -> bool:
    """Print a line about a kernel; return whether it breaks a budget."""
    r = compile_variant(VARIANTS[kernel], name, dtype)
    broken = r.broken(VARIANTS[kernel], ARCHITECTURES[name], dtype)
    tile = f"{r.blocking.block_m}x{r.blocking.block_n}x{r.blocking.block_k}"
    line = f"{name:7} {dtype:6} {kernel:19} {tile:11} {r.registers:8} {r.spills:7}"
    line += f" {r.shared / 1024:11.1f} {r.blocks_per_sm:10} {r.instruction:>8}"
    line += f" {r.instructions:12.1f} {r.exponentials:10.2f}"
    print(line + ("  BROKEN: " + ", ".join(broken) if broken else ""), flush=True)
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
