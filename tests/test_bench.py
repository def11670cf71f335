"""The benchmark of the losses: the gate, the turns, what an interruption leaves. No timing is a test."""

import argparse
import json
import math
import os
import runpy
import signal
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from minclip_kernels import one_tile, tiles_torch
from minclip_kernels.bench import command, floors, gate, measure, peers, records, worker
from minclip_kernels.testing import count_products

from minclip import cli

FLOOR, OURS, TRITON, ARANGE, LCE = (
    next(c for c in peers.CONTENDERS if c.name == name)
    for name in ("bare products, 4", "fused, torch", "fused, triton", "arange", "linear_cross_entropy")
)
PLAIN = [c for c in peers.CONTENDERS if c.package in ("torch", peers.OURS) and not (c.needs_gpu or c.is_compiled)]
HAS_LCE = pytest.mark.skipif(not hasattr(torch.nn, "LinearCrossEntropyOptions"), reason="needs torch 2.13")


def each(contenders):
    marks = {LCE: HAS_LCE}
    return [pytest.param(c, id=f"{c.loss}-{c.name}", marks=marks.get(c, ())) for c in contenders]


@pytest.fixture(autouse=True)
def no_repetitions(monkeypatch):
    monkeypatch.setattr(worker, "TURN_SECONDS", 0.0)


def setting(count=30, width=16, dtype="float32", loss="clip"):
    return peers.Setting(loss, dtype, count, width, "cpu")


def sweep(path, *counts, contenders=(FLOOR, OURS, ARANGE), seconds=60.0):
    """The rows after a sweep in this process."""
    settings = [setting(count) for count in counts]
    measure.sweep(settings, [worker.Worker(c) for c in contenders], path, seconds)
    return records.read(path)


# --- contenders -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("contender", each(PLAIN))
def test_ours_and_pytorch_pass_the_gate(contender, dtype):
    note = gate.check(contender, setting(50, 24, dtype, contender.loss))
    assert note == ("not a loss" if contender.is_floor else "exact")


@pytest.mark.parametrize("contender", each([c for c in PLAIN if c.package == "torch"]))
def test_the_claimed_products_are_made(contender, monkeypatch):
    if contender == LCE:  # the counter does not look inside operators
        module = import_module("torch.nn.modules.linear_cross_entropy")
        inside = torch.no_grad()(module._linear_cross_entropy_batch_chunked._init_fn)
        monkeypatch.setattr(module, "_linear_cross_entropy_batch_chunked", inside)
    inputs = gate.make_inputs(setting(40, 16, loss=contender.loss))
    with count_products() as counter:
        loss = contender.compute(*inputs)
        if not (contender.is_floor or contender == LCE):  # their gradients are computed with the loss
            torch.autograd.grad(loss, inputs, allow_unused=True)
    assert counter.get_total_flops() == contender.flops(setting(40, 16)) * 40**2 * 16


def test_our_products_are_counted_without_those_that_are_kept(monkeypatch):
    monkeypatch.setattr(one_tile, "MOST_PAIRS", 0)  # no batch is so small that it skips the tiles
    monkeypatch.setattr(tiles_torch, "TILE_ROWS", 8)
    monkeypatch.setattr(tiles_torch, "TILE_COLUMNS", 16)
    shares = set()
    for memory, count in ((0, 32), (5, 32), (5, 37), (99, 37), (1, 8)):
        monkeypatch.setattr(tiles_torch, "KEPT_BYTES", memory * 8 * 16 * 4)
        with count_products() as counter:
            OURS.compute(*gate.make_inputs(setting(count, 2)))
        assert counter.get_total_flops() == pytest.approx(OURS.flops(setting(count, 2)) * count**2 * 2)
        shares.add(OURS.flops(setting(count, 2)))
    assert min(shares) == 6
    assert len(shares) == 4


def test_the_bare_products_are_the_same_in_squares(monkeypatch):
    image, text = (features.detach() for features in gate.make_inputs(setting(37, 8))[:2])
    logits = image @ text.T
    for side in (64, 5):
        monkeypatch.setattr(peers, "FLOOR_SIDE", {"cpu": side})
        gradients = peers.bare_products(2, image, text)
        torch.testing.assert_close(gradients, torch.stack([logits @ text, logits.T @ image]))


def test_a_contender_that_cannot_run_says_why():
    assert worker.RemoteWorker(TRITON).ask("prepare", setting()) == worker.NEEDS_GPU

    def missing(*_):
        raise ModuleNotFoundError("No module named 'peer'\nand more")

    answer = worker.Worker(replace(ARANGE, compute=missing)).ask("prepare", setting())
    assert isinstance(answer, gate.Failed)
    assert answer == "ModuleNotFoundError: No module named 'peer'"


def test_a_compiled_contender_is_compiled_for_the_gate_as_well(monkeypatch):
    def compile_wrongly(loss, dynamic):
        assert (loss, dynamic) == (peers.arange_loss, False)
        return lambda *inputs: 2 * loss(*inputs)

    monkeypatch.setattr(torch, "compile", compile_wrongly)
    compiled = replace(ARANGE, name="arange, torch.compile")
    assert "the loss is" in gate.check(compiled, setting())


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
    def loss(image, text, scale):
        image, text = ScaledGradient.apply(image, image_factor), ScaledGradient.apply(text, text_factor)
        value = peers.arange_loss(image, text, scale if scale_gradient else scale.detach())
        return value + (loss_factor - 1) * value.detach()

    return replace(ARANGE, compute=loss)


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
)
def test_the_gate_tells_factors_from_errors(arguments, passed, note):
    found = gate.check(spoiled(**arguments), setting())
    assert note in found
    assert isinstance(found, gate.Failed) != passed


def test_nothing_is_measured_of_a_wrong_contender(tmp_path, capsys):
    wrong = replace(spoiled(text_factor=2.0), name="wrong")
    row = sweep(tmp_path / "a.csv", 30, contenders=(FLOOR, wrong, ARANGE))[1]
    assert row["contender"] == "wrong"
    assert "gradient for text is wrong" in row["result"]
    assert not any(row[name] for name in ("both_ms", "memory_mb", "of_floor", "rounds"))


@pytest.mark.parametrize(("package", "status"), [("torch", 0), (peers.OURS, 1)])
def test_the_exit_status_says_whether_ours_is_right(package, status, tmp_path):
    wrong = replace(spoiled(text_factor=2.0), package=package)
    assert measure.sweep([setting()], [worker.Worker(FLOOR), worker.Worker(wrong)], tmp_path / "a.csv", 0.0) == status


PEERS = [
    ("open_clip", "clip", "open_clip", 256, "exact"),
    ("memeff", "clip", "memeff", 256, f"gradient × {math.sqrt(40 * 0.07):.4g}; no gradient for the scale"),
    ("inf_cl", "clip", "inf_cl", 256, "exact"),
    ("inf_cl", "clip", "inf_cl", 128, "RuntimeError: shape '[40, -1, 256]' is invalid for input of size 5120"),
    ("siglip_kernel", "siglip", "siglip-kernel", 256, "exact"),
]
# Optimized Python (-O) skips the assertion of inf_cl that its tensors are on a GPU. Tables of tiles ask for a device.
# The interpreter has no inline assembly; that of inf_cl rounds to TF32, and here nothing does.
INTERPRETED = """
import json, sys, torch
from importlib.util import find_spec
from triton.runtime.interpreter import InterpreterBuilder
torch.cuda.get_device_capability = lambda *_: (9, 0)
class Unrounded:
    def __init__(self, value):
        self.value = value
    def get_result(self, _):
        return self.value
InterpreterBuilder.create_inline_asm = lambda self, asm, constraints, values, *_: Unrounded(values[0])
from minclip_kernels.bench import peers, worker
if find_spec("memeff"):
    import memeff.clip_loss
    memeff.clip_loss._validate_features = lambda *_: None
worker.Worker.check = lambda self, setting: worker.gate.check(self.contender, setting)
for module, loss, name, width, _ in json.loads(sys.argv[1]):
    contender = next(c for c in peers.CONTENDERS if (c.loss, c.name) == (loss, name))
    setting = peers.Setting(loss, "float32", 40, width, "cpu")
    print(name, width, worker.Worker(contender).ask("check", setting) if find_spec(module) else "", sep=",")
"""


@pytest.fixture(scope="module")
def notes():
    """What the gate says of every peer, by its name and width."""
    command = [sys.executable, "-O", "-c", INTERPRETED, json.dumps(PEERS)]
    environment = os.environ | {"TRITON_INTERPRET": "1", "MEMEFF_INPUT_PRECISION": "ieee"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found = (line.split(",", 2) for line in done.stdout.splitlines() if line.count(",") >= 2)
    return {(name, width): note for name, width, note in found}


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize(("module", "loss", "name", "width", "expected"), PEERS)
def test_peers_at_small_size_under_the_interpreter(module, loss, name, width, expected, notes):
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    assert notes[name, str(width)] == expected


# --- turns and rows ---------------------------------------------------------------------------------------------------


def test_a_sweep_measures_each_contender_at_each_size(tmp_path):
    rows = sweep(tmp_path / "a.csv", 8, 40)
    names = [contender.name for contender in (FLOOR, OURS, ARANGE)]
    assert [(row["N"], row["contender"]) for row in rows] == [(count, name) for count in (8, 40) for name in names]
    for row in rows:
        assert 0 < row["lowest_ms"] <= row["both_ms"] <= row["highest_ms"]
        assert row["result"] == "measured"
        assert measure.LEAST_ROUNDS <= row["rounds"] <= measure.MOST_ROUNDS
        assert row["contender"] != FLOOR.name or row["of_floor"] == 1
        assert row["tflops"] == pytest.approx(row["flops"] * row["N"] ** 2 * 16 / row["both_ms"] / 1e9, rel=1e-3)


def test_what_is_in_the_table_is_not_measured_again(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    first = sweep(path, 8, contenders=(FLOOR, ARANGE))
    second = sweep(path, 8, 16)
    assert second[:2] == first
    added = [(row["N"], row["contender"]) for row in second[2:]]
    assert added == [(8, "fused, torch"), (16, FLOOR.name), (16, "fused, torch"), (16, "arange")]
    with monkeypatch.context() as patch:
        patch.setattr(worker.Worker, "ask", None)  # no contender is asked anything
        assert sweep(path, 8, 16) == second
    monkeypatch.setattr(records, "our_version", lambda: "changed")
    third = sweep(path, 8)
    assert third[:6] == second
    assert [row["contender"] for row in third[6:]] == ["fused, torch"]


def test_long_rounds_stop_in_time_but_not_before_the_least_number(tmp_path):
    assert {row["rounds"] for row in sweep(tmp_path / "a.csv", 8, seconds=0.0)} == {measure.LEAST_ROUNDS}


@pytest.mark.parametrize(("rounds", "kept"), [(2, []), (4, [(FLOOR.name, 5), ("slow", 4)])])
def test_an_interruption_keeps_rows_with_enough_rounds(rounds, kept, tmp_path):
    calls = []

    def interrupting(*inputs):
        calls.append(0)
        if len(calls) == 4 + rounds:  # after the gate, a small run, that for memory, and the rounds
            raise KeyboardInterrupt
        return peers.arange_loss(*inputs)

    path, slow = tmp_path / "a.csv", replace(ARANGE, compute=interrupting, name="slow")
    with pytest.raises(KeyboardInterrupt):
        sweep(path, 8, contenders=(FLOOR, slow))
    found = [(row["contender"], row["rounds"]) for row in records.read(path)]
    assert found == (kept or [(FLOOR.name, 3)])
    assert sweep(path, 8, contenders=(FLOOR, slow))[-1]["rounds"] >= measure.LEAST_ROUNDS


def test_a_file_is_replaced_only_when_it_is_complete(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(TypeError, match="not JSON serializable"):
        records.write_json(path, {"a": 1, "b": object()})
    with pytest.raises(IsADirectoryError), records.replacing(tmp_path) as temporary:
        temporary.write_text("new")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


# The first rows of a table that the first version of the benchmark wrote.
OLD = """\
loss,dtype,N,D,contender,version,device,threads,torch,triton,forward_ms,backward_ms,both_ms,lowest_ms,highest_ms,rounds,memory_mb,flops,tflops,of_floor,gate,result,commit,date
clip,float32,1024,512,"bare products, 4",2.14.1,AMD EPYC (2 cores),2,2.14.1+cu130,3.8.0,10.826,21.414,32.087,26.317,43.602,15,10.6,8,0.134,1.000,not a loss,measured,139b16e,2026-11-24
"""  # noqa: E501


def test_other_tables_are_refused_and_older_ones_read(tmp_path):
    (tmp_path / "a.csv").write_text("N,D\n1,2\n")
    with pytest.raises(ValueError, match=r"a\.csv is not a table of this benchmark"):
        records.read(tmp_path / "a.csv")
    (tmp_path / "old.csv").write_text(OLD)
    (row,) = records.read(tmp_path / "old.csv")
    assert row["contender"] == FLOOR.name
    assert isinstance(row["N"], int)
    assert row["both_ms"] > 0


def test_out_of_memory_is_a_result(tmp_path):
    def too_much(image, *others):
        if len(image) == 65:
            raise torch.OutOfMemoryError
        return peers.arange_loss(image, *others)

    rows = sweep(tmp_path / "b.csv", 65, contenders=(FLOOR, replace(ARANGE, compute=too_much)))
    assert [row["result"] for row in rows] == ["measured", "out of memory"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_a_worker_in_a_process_of_its_own_knows_its_memory():
    remote = worker.RemoteWorker(ARANGE)
    note, memory, taken = remote.ask("prepare", setting(3000))
    matrix = 3000**2 * 4 / 1e6
    assert 3 * matrix < memory < 7 * matrix
    assert (note, taken > 0) == ("exact", True)
    assert remote.pool is not None
    os.kill(remote.pool.submit(os.getpid).result(), signal.SIGKILL)
    assert remote.ask("turn") == worker.KILLED
    assert remote.ask("prepare", setting(8))[2] > 0  # in a new process


def test_a_turn_of_something_small_is_the_median_of_many_runs(monkeypatch):
    monkeypatch.setattr(worker, "TURN_SECONDS", 0.05)
    small, times = worker.Worker(OURS), iter([9.0, 1.0])
    monkeypatch.setattr(small, "once", lambda: next(times, 2.0))
    assert small.turn() == 2.0


# --- the commands -----------------------------------------------------------------------------------------------------


def predicted(device, count):
    tiles = [(128, 128), (128, 128), (64, 128)]
    return floors.predict(device, peers.Setting("clip", "bfloat16", count, 512, "cuda"), tiles)


@pytest.mark.parametrize(
    ("device", "milliseconds"),
    [("NVIDIA H100 80GB HBM3", 34), ("NVIDIA A100-SXM4-80GB", 75), ("NVIDIA GeForce RTX 4090", 121)],
)
def test_predictions_add_up_to_those_of_the_derivation(device, milliseconds):
    parts = predicted(device, 65536)
    total = sum(max(times.values()) for name, times in parts.items() if name != "sigmoid_kernel")
    assert total == pytest.approx(milliseconds, rel=0.15)
    assert not predicted("AMD EPYC", 65536)


def test_a_wrong_prediction_names_the_assumption_that_fell():
    parts = predicted("NVIDIA H200", 32768)["log_sum_exp_kernel"]
    limit = parts[floors.CACHE]
    assert limit == max(parts.values())
    fallen = [floors.compare(parts, factor * limit)["fallen assumption"] for factor in (0.5, 0.9, 1.1, 1.3, 3)]
    assert fallen[1:3] == ["", ""]
    assert fallen[0] == "level-2 cache: 2 of the assumed rate"
    assert fallen[3] == "other instructions hide behind the product"
    assert fallen[4] == "level-2 cache: 0.33 of the assumed rate"
    assert floors.compare({}, 1.0)["predicted ms"] is None


def test_the_command_leaves_table_csv_and_json(tmp_path, capsys, monkeypatch):
    out = tmp_path / "loss.csv"
    arguments = ["--n", "8", "16", "--d", "16", "--contenders", "arange", "fused, torch", "--out", str(out)]
    monkeypatch.setattr(command, "RemoteWorker", worker.Worker)
    assert cli.main(["bench", "loss", *arguments, "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "clip, float32, N = 8, D = 16" in printed
    assert {line.split("  ")[0] for line in printed.splitlines()} >= {"bare products, 4", "fused, torch", "arange"}
    assert len(records.read(out)) == 6
    assert json.loads((tmp_path / "loss.json").read_text())["environment"]["torch"] == torch.__version__
    figures = runpy.run_path(str(Path(__file__).parents[1] / "kernels" / "results" / "figures.py"))
    assert "figures.py" in printed
    assert figures["main"]([str(out)]) == 0
    assert (tmp_path / "loss.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n", "0"], "--n is 0"),
        (["--seconds", "0"], "--seconds is 0"),
        (["--out", "a.txt"], "must end in .csv"),
        (["--contenders", "memeff", "--loss", "siglip"], "there are: bare products, 3"),
    ],
)
def test_what_cannot_be_measured_is_said_before(arguments, message, capsys):
    assert cli.main(["bench", "loss", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_the_help_shows_defaults_as_they_are_typed():
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    shown, defaults = " ".join(parser.format_help().split()), parser.parse_args([])
    for values in (defaults.n, defaults.d, defaults.dtype):
        assert f"(default: {' '.join(map(str, values))})" in shown
    assert "[1024" not in shown


@pytest.mark.usefixtures("interpreter")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy, of the interpreter: padding may overflow
def test_dry_run_of_the_first_hour(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gate, "COUNT", 8)
    monkeypatch.setattr(worker, "SMALL", 8)
    monkeypatch.setattr(measure, "LEAST_ROUNDS", 1)
    arguments = ["bench", "first-hour", "--dry-run", "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.index("pytest -m cuda") < printed.index("coefficients_kernel") < printed.index("chunk_size = ")
    assert (
        printed.index("chunk_size = ") < printed.index("clip, float32, N = 16") < printed.index("tiles-clip-bfloat16")
    )
    kernels = json.loads((tmp_path / "kernels.json").read_text())["rows"]
    assert {"product for images", "product for texts", "sigmoid_kernel"} <= {row[""] for row in kernels}
    assert all(row["ms"] > 0 and row["predicted ms"] is None for row in kernels)
    assert [row["result"] for row in records.read(tmp_path / "options.csv")] == ["measured"] * 2
    tiles = json.loads((tmp_path / "tiles-clip-float32.json").read_text())["rows"]
    assert all(0 < row[kernel] < math.inf for row in tiles for kernel in ("log_sum_exp", "coefficients"))

    monkeypatch.setattr(worker.Worker, "ask", None)  # nothing is measured again
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.usefixtures("interpreter")
def test_the_first_hour_needs_a_gpu_and_stops_in_time(tmp_path, capsys, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert cli.main(["bench", "first-hour", "--out", str(tmp_path)]) == 1
    assert "finds no GPU" in capsys.readouterr().err
    assert cli.main(["bench", "first-hour", "--dry-run", "--minutes", "-1", "--out", str(tmp_path)]) == 0
    assert "kernels: no time is left; the same command again goes on here" in capsys.readouterr().out
