"""The benchmark of the losses: the gate, the turns, what is kept when it is interrupted; no timing is a test."""

import importlib.util
import itertools
import json
import math
import os
import runpy
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from minclip_kernels import clip_loss, tiles_torch
from minclip_kernels.bench import command, floors, gate, measure, peers, records, report, sweep, worker

from minclip import cli

checks = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("loss_checks.py"))))
FLOOR, OURS, ARANGE = (peers.find("clip", name) for name in ("bare products, 4", "fused, torch", "arange"))
EAGER = ["fused, torch", "arange", "one-hot", "sigmoid"]


@pytest.fixture(autouse=True)
def no_repetitions(monkeypatch):
    monkeypatch.setattr(worker, "TURN_SECONDS", 0.0)


def settings(*counts, width=16, dtype="float32"):
    return [measure.Setting("clip", dtype, width, count, "cpu") for count in counts]


def run_sweep(path, *counts, contenders=(FLOOR, OURS, ARANGE), minutes=1.0):
    outcome = sweep.Outcome()
    sweep.sweep(settings(*counts), contenders, path, minutes, outcome, in_process=True, gate_count=20)
    return outcome


# --- who takes part ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("contender", [c for c in peers.CONTENDERS if c.name in EAGER], ids=lambda c: c.name + c.loss)
def test_ours_and_plain_pytorch_pass_the_gate(contender, dtype):
    assert gate.check(contender, "cpu", dtype, 24, 50) == gate.Verdict(True, "exact")


@pytest.mark.parametrize("contender", [c for c in peers.CONTENDERS if c.package == "torch" and not c.compiled],
                         ids=lambda c: c.name)  # fmt: skip
def test_the_products_that_are_claimed_are_made(contender):
    N, D = 40, 16
    image, text, scale, bias = gate.make_inputs(N, D, torch.float32, "cpu")
    with checks.count_products() as counter:
        torch.autograd.grad(contender.make()(image, text, scale, bias), (image, text))
    assert counter.get_total_flops() == contender.work.flops * N**2 * D


def test_the_bare_products_are_the_same_in_chunks(monkeypatch):
    inputs = gate.make_inputs(37, 8, torch.float32, "cpu")[:2]
    whole = torch.autograd.grad(peers.BareProducts.apply(*inputs, True), inputs)
    monkeypatch.setattr(peers, "FLOOR_BYTES", {"cpu": 5 * 37 * 4})
    for a, b in zip(whole, torch.autograd.grad(peers.BareProducts.apply(*inputs, True), inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_who_cannot_run_here_says_why():
    assert "needs a GPU" in str(peers.find("clip", "fused, triton").obstacle("cpu", 512))
    assert "multiples of 256, this is 128" in str(peers.find("clip", "inf_cl").obstacle("cuda", 128))

    def not_there():
        raise ModuleNotFoundError("No module named 'peer'")

    assert "No module named 'peer'" in str(replace(ARANGE, make=not_there).obstacle("cpu", 512))
    assert OURS.obstacle("cpu", 512) is None


# --- the gate ---------------------------------------------------------------------------------------------------------


class ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, factor):
        ctx.factor = factor
        return features.clone()

    @staticmethod
    def backward(ctx, *gradients):
        return gradients[0] * ctx.factor, None


def spoiled(image_factor=1.0, text_factor=1.0, loss_factor=1.0, scale_gradient=True):
    def loss(image, text, scale, bias):
        image, text = ScaledGradient.apply(image, image_factor), ScaledGradient.apply(text, text_factor)
        value = peers.arange_loss(image, text, scale if scale_gradient else scale.detach(), bias)
        return value + (loss_factor - 1) * value.detach()

    return replace(ARANGE, make=lambda: loss)


@pytest.mark.parametrize(
    ("arguments", "passed", "note"),
    [
        ({"image_factor": 3.0, "text_factor": 3.0, "scale_gradient": False}, True, "gradient × 3; no gradient for"),
        ({"image_factor": 3.0, "text_factor": 3.0}, False, "gradient for scale is wrong"),
        ({"scale_gradient": False}, True, "no gradient for the scale"),
        ({"text_factor": 1.01}, False, "gradient for text is wrong by 0.01"),
        ({"loss_factor": 1.01}, False, "the loss is"),
        ({"loss_factor": math.nan}, False, "the loss is nan"),
    ],
)  # fmt: skip
def test_the_gate_tells_factors_from_errors(arguments, passed, note):
    verdict = gate.check(spoiled(**arguments), "cpu", torch.float32, 16, 30)
    assert verdict.passed == passed
    assert note in verdict.note


def test_an_exception_is_a_red_gate():
    def broken(*_):
        raise AssertionError

    verdict = gate.check(replace(ARANGE, make=lambda: broken), "cpu", torch.float32, 16, 30)
    assert verdict == gate.Verdict(False, "AssertionError: ")


def test_nothing_is_reported_of_a_red_contender(tmp_path):
    red = replace(spoiled(text_factor=2.0), name="red")
    outcome = run_sweep(tmp_path / "a.csv", 30, contenders=(FLOOR, red, ARANGE))
    assert {row["contender"] for row in records.read(tmp_path / "a.csv")} == {FLOOR.name, "arange"}
    assert "the gate is red in float32 with D = 16" in outcome.left_out["red"]
    assert not outcome.ours_is_red
    red = replace(red, package="minclip_kernels")
    assert run_sweep(tmp_path / "b.csv", 30, contenders=(FLOOR, red)).ours_is_red


# -O takes away that inf_cl asserts its tensors to be on a GPU; tables of tiles ask for a device. The interpreter has
# no inline assembly: inf_cl's rounds to TF32, and here nothing does.
INTERPRETED = """
import torch
from triton.runtime.interpreter import InterpreterBuilder
torch.cuda.get_device_capability = lambda *_: (9, 0)
class Unrounded:
    def __init__(self, value):
        self.value = value
    def get_result(self, _):
        return self.value
InterpreterBuilder.create_inline_asm = lambda self, asm, constraints, values, *_: Unrounded(values[0])
from minclip_kernels.bench import gate, peers
if {name!r} == "memeff":
    import memeff.clip_loss
    memeff.clip_loss._validate_features = lambda *_: None
verdict = gate.check(peers.find({loss!r}, {name!r}), "cpu", torch.float32, {width}, 40)
print(verdict.passed, verdict.note)
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter works on CPU tensors")
@pytest.mark.parametrize(
    ("module", "loss", "name", "width", "expected"),
    [
        ("open_clip", "clip", "open_clip", 256, "True exact"),
        ("memeff", "clip", "memeff", 256, f"True gradient × {math.sqrt(40 * 0.07):.4g}; no gradient for the scale"),
        ("inf_cl", "clip", "inf_cl", 256, "True exact"),
        (
            "inf_cl",
            "clip",
            "inf_cl",
            128,
            "False RuntimeError: shape '[40, -1, 256]' is invalid for input of size 5120",
        ),
        ("siglip_kernel", "siglip", "siglip-kernel", 256, "True exact"),
    ],
)
def test_peers_at_small_size_under_the_interpreter(module, loss, name, width, expected):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    code = INTERPRETED.format(loss=loss, name=name, width=width)
    environment = os.environ | {"TRITON_INTERPRET": "1", "MEMEFF_INPUT_PRECISION": "ieee"}
    done = subprocess.run(
        [sys.executable, "-O", "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.splitlines()[-1] == expected


# --- turns and rows ---------------------------------------------------------------------------------------------------


def test_a_sweep_measures_each_contender_at_each_size(tmp_path):
    run_sweep(tmp_path / "a.csv", 8, 40)
    rows = records.read(tmp_path / "a.csv")
    assert [(row["N"], row["contender"]) for row in rows] == [
        (count, contender.name) for count in ("8", "40") for contender in (FLOOR, OURS, ARANGE)
    ]
    for row in rows:
        low, both, high = (float(row[name]) for name in ("lowest_ms", "both_ms", "highest_ms"))
        assert 0 < low <= both <= high
        assert row["result"] == "measured"
        assert 1 <= int(row["rounds"]) <= measure.MOST_ROUNDS
        assert row["contender"] != FLOOR.name or float(row["of_floor"]) == 1
        flops = float(row["flops"]) * int(row["N"]) ** 2 * 16
        assert float(row["tflops"]) == pytest.approx(flops / both / 1e9, rel=0.01)


def test_what_is_in_the_table_is_not_measured_again(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    run_sweep(path, 8, contenders=(FLOOR, ARANGE))
    first = path.read_text()
    run_sweep(path, 8, 16)
    assert path.read_text().startswith(first)
    added = [(row["N"], row["contender"]) for row in records.read(path)[2:]]
    assert added == [("8", "fused, torch"), ("16", FLOOR.name), ("16", "fused, torch"), ("16", "arange")]
    monkeypatch.setattr(records, "our_version", lambda: "changed")
    run_sweep(path, 8)
    assert [row["contender"] for row in records.read(path)[6:]] == ["fused, torch"]


def test_an_interruption_keeps_the_rounds_that_were_made(tmp_path):
    calls = []

    def interrupting():
        def loss(*inputs):
            calls.append(0)
            if len(calls) == 6:  # gate, small, memory, two rounds, and in the third
                raise KeyboardInterrupt
            return peers.arange_loss(*inputs)

        return loss

    contenders = (FLOOR, replace(ARANGE, make=interrupting, name="slow"))
    with pytest.raises(KeyboardInterrupt):
        run_sweep(tmp_path / "a.csv", 8, contenders=contenders)
    assert [(row["contender"], row["rounds"]) for row in records.read(tmp_path / "a.csv")] == [
        (FLOOR.name, "3"),
        ("slow", "2"),
    ]


def test_a_row_that_was_cut_off_is_dropped_and_written_over(tmp_path):
    path = tmp_path / "a.csv"
    run_sweep(path, 8)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    assert len(records.read(path)) == 2
    run_sweep(path, 8)
    assert [row["contender"] for row in records.read(path)] == [FLOOR.name, OURS.name, "arange"]
    path.write_bytes(whole[:20])  # not even the columns
    run_sweep(path, 8)
    assert len(records.read(path)) == 3
    path.write_text("N,D\n1,2\n")
    with pytest.raises(ValueError, match="its columns differ"):
        records.read(path)


def test_settings_that_do_not_fit_in_the_time_are_named(tmp_path):
    outcome = run_sweep(tmp_path / "a.csv", 8, 4096, minutes=1e-5)
    assert {row["N"] for row in records.read(tmp_path / "a.csv")} == {"8"}
    assert outcome.not_reached == ["clip, float32, N = 4,096, D = 16"]


def test_out_of_memory_is_a_result(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "free_memory", lambda: 1e4)
    run_sweep(tmp_path / "a.csv", 64)
    results = {row["contender"]: row["result"] for row in records.read(tmp_path / "a.csv")}
    assert results["arange"].startswith("out of memory (needs about")
    assert peers.find("clip", "arange").work.matrices >= 1

    def too_much():
        def loss(image, *_):
            if len(image) > 64:
                raise torch.OutOfMemoryError
            return peers.arange_loss(image, *_)

        return loss

    monkeypatch.setattr(measure, "free_memory", lambda: None)
    run_sweep(tmp_path / "b.csv", 65, contenders=(FLOOR, replace(ARANGE, make=too_much)))
    assert [row["result"] for row in records.read(tmp_path / "b.csv")] == ["measured", "out of memory"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_a_worker_in_a_process_of_its_own_knows_its_memory():
    with measure.Crew("cpu") as crew:
        answer = crew.ask(ARANGE, "prepare", dtype="float32", width=16, count=2000)
        matrix = 2000**2 * 4 / 1e6
        assert 3 * matrix < answer["memory_mb"] < 7 * matrix
        remote = crew.workers[ARANGE]
        assert isinstance(remote, worker.Remote)
        os.kill(remote.process.pid, signal.SIGKILL)
        assert crew.ask(ARANGE, "turn") == {"error": "out of memory (killed by the system)"}
        assert "both" in crew.ask(ARANGE, "prepare", dtype="float32", width=16, count=8)  # a new one


def test_a_turn_of_something_small_is_the_median_of_many_runs(monkeypatch):
    monkeypatch.setattr(worker, "TURN_SECONDS", 0.05)
    small, times = worker.Worker(OURS, "cpu"), itertools.chain([9.0, 1.0], itertools.repeat(2.0))
    monkeypatch.setattr(small, "once", lambda: {"forward": 0.0, "both": next(times)})
    assert small.turn() == {"forward": 0.0, "both": 2.0}


def test_the_products_of_ours_are_counted_with_what_is_kept(monkeypatch):
    monkeypatch.setattr(tiles_torch, "TILE_ROWS", 8)
    monkeypatch.setattr(tiles_torch, "TILE_COLUMNS", 16)
    monkeypatch.setattr(clip_loss, "_clip_loss", clip_loss._clip_loss._init_fn)  # inside the operator nobody counts
    for count, width in ((32, 4), (32, 14), (32, 16), (64, 8), (8, 2)):
        inputs = gate.make_inputs(count, width, torch.float32, "cpu")
        with checks.count_products() as counter:
            OURS.make()(*inputs)
        assert counter.get_total_flops() == OURS.flops(count, width) * count**2 * width


# --- floors, report, pictures -----------------------------------------------------------------------------------------


def test_the_predicted_floor_is_the_longest_of_three_times():
    gpu = floors.GPU(100, 10, 1000, 100, 1000)  # 100 TFLOP/s, 1 TB/s, 1.6 T exponentials/s
    work = floors.Work(flops=8, values=3, exponentials=4, matrices=0)
    predict = floors.predicted_ms
    assert predict(gpu, work, 1000, 1000, torch.bfloat16) == pytest.approx(8e9 / 100e12 * 1e3)
    assert predict(gpu, work, 1000, 1000, torch.float32) == pytest.approx(8e9 / 10e12 * 1e3)
    assert predict(gpu, work, 1000, 10, torch.bfloat16) == pytest.approx(6e6 / 1e12 * 1e3)
    assert predict(gpu, replace(work, values=1), 1000, 10, torch.bfloat16) == pytest.approx(4e6 / 1.6e12 * 1e3)
    assert floors.data_sheet("NVIDIA GeForce RTX 4090") == floors.DATA_SHEETS["RTX 4090"]
    assert floors.data_sheet("AMD EPYC") is None


def test_the_command_leaves_table_csv_json_and_pictures(tmp_path, capsys, monkeypatch):
    out = tmp_path / "loss.csv"
    arguments = ["--n", "8", "--d", "16", "--contenders", "arange", "fused, torch", "--out", str(out)]
    monkeypatch.setattr(measure, "Remote", lambda contender: worker.Worker(contender, "cpu"))
    assert cli.main(["bench", "loss", *arguments, "--device", "cpu", "--predict", "H200"]) == 0
    printed = capsys.readouterr().out
    assert "clip, float32, N = 8, D = 16" in printed
    assert "predicted ms" in printed
    assert {line.split("  ")[0] for line in printed.splitlines()} >= {"bare products, 4", "fused, torch", "arange"}
    content = json.loads((tmp_path / "loss.json").read_text())
    assert len(content["rows"]) == 3
    assert content["environment"]["torch"] == torch.__version__
    for name in ("time", "memory", "floor"):
        assert (tmp_path / f"loss-{name}.png").stat().st_size > 10_000
    assert cli.main(["bench", "loss", "--compare", str(out), str(out)]) == 0
    assert "clip float32 8 16 arange" in capsys.readouterr().out


def test_two_runs_side_by_side(tmp_path):
    run_sweep(tmp_path / "a.csv", 8)
    rows = records.read(tmp_path / "a.csv")
    records.append(tmp_path / "b.csv", [row | {"both_ms": str(2 * float(row["both_ms"]))} for row in rows])
    lines = report.compare(tmp_path / "a.csv", tmp_path / "b.csv").splitlines()
    assert len(lines) == 2 + 1 + 3
    assert all("2.00" in line.split() for line in lines[3:])
    with pytest.raises(FileNotFoundError, match="no such table"):
        report.compare(tmp_path / "a.csv", tmp_path / "gone.csv")
    records.append(tmp_path / "c.csv", [row | {"N": "9"} for row in rows])
    with pytest.raises(ValueError, match="nothing to compare"):
        report.compare(tmp_path / "a.csv", tmp_path / "c.csv")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n", "0"], "--n is 0"),
        (["--minutes", "0"], "--minutes is 0"),
        (["--out", "a.txt"], "must end in .csv"),
        (["--contenders", "memeff", "--loss", "siglip"], "there are: bare products, 3"),
    ],
)
def test_what_cannot_be_measured_is_said_before(arguments, message, capsys, monkeypatch):
    assert cli.main(["bench", "loss", *arguments]) == 1
    assert message in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["bench", *arguments])
    assert command.main(command.DESCRIPTION, command.add_arguments, command.run) == 1
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="the dry run needs the interpreter")
def test_dry_run_of_the_first_hour(tmp_path, capsys):
    assert cli.main(["bench", "first-hour", "--dry-run", "--out", str(tmp_path)]) == 0
    tiles = (tmp_path / "tiles.txt").read_text()
    assert tiles.count("        return Blocking(block_m=") == 6  # three kernels in two dtypes
    from minclip_kernels import tiles_triton

    scope = dict(vars(tiles_triton))
    exec("def choose_blocking(kernel, architecture, dtype):\n" + tiles, scope)  # they are lines of source
    for kernel in (tiles_triton.log_sum_exp_kernel, tiles_triton.coefficients_kernel, tiles_triton.sigmoid_kernel):
        for dtype in (torch.bfloat16, torch.float32):
            assert isinstance(scope["choose_blocking"](kernel, "interpreter", dtype), tiles_triton.Blocking)
    assert {path.name for path in tmp_path.iterdir()} >= {"loss.csv", "loss.json", "loss-time.png", "loss-floor.png"}
    assert "minutes in all" in capsys.readouterr().out
    assert cli.main(["bench", "first-hour", "--out", str(tmp_path)]) == 1
    assert "finds no GPU" in capsys.readouterr().err
