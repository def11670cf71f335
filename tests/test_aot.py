import itertools
import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="Triton is for Linux"
)


def compile_in_another_process(*arguments, **environment):
    """Triton decides at import whether to compile or to interpret, and the other tests interpret."""
    return run_without_interpreter("-m", "minclip_kernels.aot", *arguments, **environment)


def run_without_interpreter(*arguments, **environment):
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=clean | environment)


FIRST_PASS = ["log_sum_exp", "exact_log_sum_exp"]
MAIN = ["log_sum_exp", "coefficients", "sigmoid"]


@pytest.mark.parametrize(("architecture", "dtype", "product"), [("sm_90", "bf16", "HGMMA"), ("sm_86", "fp32", "FFMA")])
def test_kernels_compile_within_their_budgets(architecture, dtype, product):
    done = compile_in_another_process("--architecture", architecture, "--dtype", dtype, "--kernel", *MAIN)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(architecture)]
    assert [row[2] for row in rows] == MAIN
    assert {row[8] for row in rows} == {product}
    # One exponential per logit and pass. The second pass has two more, for sums that lie far apart, and those of lines.
    assert [float(row[10]) // 1 for row in rows] == [1.0, 3.0, 1.0]


def test_both_kernels_of_the_first_pass_have_the_same_tiles():
    """The exact kernel finds its tiles where the other one left them."""
    from minclip_kernels import aot, tiles_triton

    for choice in itertools.product(aot.ARCHITECTURES, aot.DTYPES.values(), (False, True)):
        first, exact = (tiles_triton.choose_blocking(kernel, *choice) for kernel in FIRST_PASS)
        assert (first.block_m, first.block_n) == (exact.block_m, exact.block_n), choice


@pytest.mark.slow
def test_every_kernel_architecture_and_dtype():
    done = compile_in_another_process()
    assert done.returncode == 0, done.stdout + done.stderr


OTHERS = """
from minclip_kernels import aot
# Widths and the origins of chunks are padded to multiples of 64.
ragged = ("image.blocks", "text.blocks", "image.size", "text.size", "offset")
for kernel in ("log_sum_exp", "coefficients"):
    for options in ({"unaligned": ragged}, {"ones": ("image.size", "image.blocks")}, {"precision": "tf32"}):
        dtype = "fp32" if "precision" in options else "bf16"
        report = aot.compile_variant(aot.VARIANTS[kernel], "sm_80", dtype, **options)
        assert report.spills == 0, (kernel, options, report)
        assert report.instruction == "HMMA", (kernel, options, report)
"""


@pytest.mark.slow
def test_kernels_with_ragged_sizes_and_tf32():
    done = run_without_interpreter("-c", OTHERS)
    assert done.returncode == 0, done.stderr


BROKEN = """
import dataclasses, sys
from minclip_kernels import aot
{change}
sys.argv = ["aot", "--architecture", "sm_90", "--dtype", "bf16", "--kernel", "coefficients"]
sys.exit(aot.main())
"""


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            "aot.ARCHITECTURES['sm_90'] = dataclasses.replace(aot.ARCHITECTURES['sm_90'], shared_kib=90)",
            "shared memory",
        ),
        (
            "aot.VARIANTS['coefficients'] = dataclasses.replace(aot.VARIANTS['coefficients'], instructions=10)",
            "instructions",
        ),
        ("aot.FLOPS_PER_BYTE = 65", "level-2 traffic"),
    ],
)
def test_a_broken_budget_fails(change, what):
    done = run_without_interpreter("-c", BROKEN.format(change=change))
    assert done.returncode == 1, done.stderr
    assert f"BROKEN: {what}" in done.stdout


def test_the_interpreter_is_refused():
    done = compile_in_another_process(TRITON_INTERPRET="1")
    assert done.returncode == 2
    assert "TRITON_INTERPRET" in done.stderr
