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
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "minclip_kernels.aot", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=clean | environment)


@pytest.mark.parametrize(("architecture", "dtype", "product"), [("sm_90", "bf16", "HGMMA"), ("sm_86", "fp32", "FFMA")])
def test_kernels_compile_within_their_budgets(architecture, dtype, product):
    done = compile_in_another_process("--architecture", architecture, "--dtype", dtype)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(architecture)]
    assert [row[2] for row in rows] == ["log_sum_exp", "coefficients", "sigmoid"]
    assert {row[7] for row in rows} == {product}
    assert [float(row[8]) for row in rows] == [2.0, 2.0, 1.0]  # every exponential is seen


@pytest.mark.slow
def test_every_architecture_and_dtype():
    done = compile_in_another_process()
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_broken_budget_fails():
    code = (
        "import sys; from minclip_kernels import aot; import dataclasses;"
        "aot.ARCHITECTURES['sm_90'] = dataclasses.replace(aot.ARCHITECTURES['sm_90'], shared_kib=90);"
        "sys.argv = ['aot', '--architecture', 'sm_90', '--dtype', 'bf16']; sys.exit(aot.main())"
    )
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean)
    assert done.returncode == 1, done.stderr
    assert "BROKEN: shared memory" in done.stdout


def test_the_interpreter_is_refused():
    done = compile_in_another_process(TRITON_INTERPRET="1")
    assert done.returncode == 2
    assert "TRITON_INTERPRET" in done.stderr
