"""What open_clip's ClipLoss computes over several processes, by its flags, beside ours: the table in kernels/README.md.

Run as a script, this file starts the processes, saves the numbers and prints the table. It needs open_clip's files, but
none of the packages that it imports.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from minclip_kernels import ClipLoss
from minclip_kernels.testing import count_products, in_processes, make_features

W, N, D, SCALE = 4, 256, 32, 10.0
OPEN_CLIP = importlib.util.find_spec("open_clip")
pytestmark = pytest.mark.skipif(OPEN_CLIP is None or not hasattr(os, "fork"), reason="needs open_clip and os.fork")
FLAGS = [(False, False), (False, True), (True, False), (True, True)]  # local_loss, gather_with_grad


def their_loss() -> type:
    """open_clip's class, without the rest of its package."""
    assert OPEN_CLIP is not None
    assert OPEN_CLIP.submodule_search_locations is not None
    path = Path(OPEN_CLIP.submodule_search_locations[0]) / "loss.py"
    spec = importlib.util.spec_from_file_location("open_clip_loss", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ClipLoss


def step(loss: Callable, rows: slice = slice(None)) -> dict[str, Any]:
    """Loss and gradients of two linear towers and the scale on some pairs; FLOPs and numbers held by the loss alone."""
    image, text = make_features("random", N, D, dtype=torch.float64)
    towers = [torch.eye(D).add(torch.randn(D, D, generator=torch.Generator().manual_seed(i)) / 9) for i in range(2)]
    parameters = [*(tower.double().requires_grad_() for tower in towers), torch.tensor(SCALE).double().requires_grad_()]
    held: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    with count_products() as counter:
        x, y = F.normalize(image[rows] @ parameters[0], dim=1), F.normalize(text[rows] @ parameters[1], dim=1)
        of_towers = 2 * counter.get_total_flops()  # forward, and once more for the gradients
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            value = loss(x, y, parameters[2])
        value.backward()
    gradients = [parameter.grad for parameter in parameters]
    flops = counter.get_total_flops() - of_towers
    return {"loss": value.detach(), "gradients": gradients, "flops": flops, "held": sum(held.values())}


def work(rank: int) -> dict[str, Any]:
    rows, theirs = slice(rank * N // W, (rank + 1) * N // W), their_loss()
    results = {str(flags): step(theirs(*flags, rank=rank, world_size=W), rows) for flags in FLAGS}
    return results | {"ours": step(ClipLoss(rank=rank, world_size=W), rows)}


def summary() -> dict[str, dict[str, float]]:
    """Of each loss: FLOPs / nND and numbers held / nN of a process, its averaged gradients' share and distance."""
    torch.set_num_threads(1)
    results, exact = in_processes(W, work), step(ClipLoss())
    table = {}
    for name in results[0]:
        means = [torch.stack([r[name]["gradients"][i] for r in results]).mean(0) for i in range(3)]
        pairs = list(zip(means, exact["gradients"], strict=True))
        losses = torch.stack([r[name]["loss"] for r in results]).double()
        table[name] = {
            "flops": results[0][name]["flops"] / (N // W * N * D),
            "held": results[0][name]["held"] / (N // W * N),
            "spread": (losses.max() - losses.min()).item(),
            "loss": abs(losses.mean() - exact["loss"]).item(),
            "share": ((pairs[0][0] * pairs[0][1]).sum() / pairs[0][1].square().sum()).item(),
            "error": max(((mean - wanted).norm() / wanted.norm()).item() for mean, wanted in pairs[:2]),
            "scale": abs(means[2] / exact["gradients"][2] - 1).item(),
        }
    return table


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> dict[str, dict[str, float]]:
    target = tmp_path_factory.mktemp("table") / "table.pt"
    command = [sys.executable, "-W", "ignore", __file__, str(target)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return torch.load(target)


def test_all_compute_the_same_loss_and_gradient_of_the_scale(table):
    for name, row in table.items():
        assert row["loss"] < 1e-6, name
        assert row["scale"] < 1e-6, name
        assert (row["spread"] > 0.1) == (name in ("ours", "(True, False)", "(True, True)")), name


def test_without_gather_with_grad_the_gradient_is_another_one(table):
    assert table["(False, False)"]["share"] == pytest.approx(1 / W, rel=1e-6)
    assert 0.4 < table["(True, False)"]["share"] < 0.6
    for name in ("(False, True)", "(True, True)", "ours"):
        assert table[name]["error"] < 1e-9, name


def test_what_each_computes_and_holds(table):
    assert [table[str(flags)]["flops"] for flags in FLAGS] == [6 * W, 6 * W, 8, 12]
    assert table["ours"]["flops"] <= 8
    assert all(table[str(flags)]["held"] > (2 * W if not flags[0] else 2) for flags in FLAGS)
    assert table["ours"]["held"] == pytest.approx(4 * D / N, rel=0.01)


if __name__ == "__main__":
    rows = summary()
    torch.save(rows, sys.argv[1])
    for name, row in rows.items():
        print(name, {key: float(f"{value:.4g}") for key, value in row.items()})
