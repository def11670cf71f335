"""The losses over 1 to 4 gloo processes equal one process with the whole batch.

Run as a script, this file starts the processes and saves what each of them computes.
"""

import functools
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import minclip_kernels
import pytest
import torch
import torch.distributed as dist
from minclip_kernels import (
    ClipLoss,
    SigLipLoss,
    clip_loss,
    distributed,
    fused_clip_loss,
    fused_siglip_loss,
    reference,
    siglip_loss,
)
from minclip_kernels.custom_op import HAS_TRITON
from minclip_kernels.testing import count_products, in_processes, load_mutant, make_features

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
N, WIDTH, SCALE, BIAS = 24, 20, 10.0, -2.0
SPLITS = {1: [[24]], 2: [[12, 12], [23, 1]], 3: [[8, 8, 8], [1, 16, 7]], 4: [[6, 6, 6, 6], [7, 1, 9, 7]]}
TRITON_SPLIT = SPLITS[2][1]
COUNTED, WORLDS = 840, list(range(1, 9))  # pairs, which all of these numbers divide
IDS = torch.arange(N) // 3 % 5
LOSSES: dict[str, dict[str, Any]] = {
    "clip": {},
    "drop": {"ids": IDS},
    "all": {"ids": IDS, "positives": "all"},
    "chunks": {"chunk_size": 5, "memory": 0},
    "as they are": {"normalize": False},
    "siglip": {},
}
DTYPES = {torch.float64: 1e-9, torch.float32: 1e-5}
CASES = list(product(LOSSES, DTYPES))
MUTATED_SPLIT = SPLITS[3][1]
# Deliberate errors: the old text of a source, and what it becomes. First in `Shards`:
SHARDS = {
    "pairs without the rank's offset": (
        "self.offset, self.total = sum(self.sizes[:rank]), ",
        "self.offset, self.total = 0, ",
    ),
    "the same weight for every shard": ("self.count * self.world / self.total", "1.0"),
    "rows of the padding": ("part[:size]", "part[len(part) - size :]"),
    "column sums of one process": (
        "functools.reduce(torch.logaddexp2, parts.unbind())",
        "parts[dist.get_rank(self.group)]",
    ),
    "column sums without the first process": ("parts.unbind())", "parts[1:].unbind())"),
    "the largest of the column sums": ("torch.logaddexp2", "torch.maximum"),
    "cosines of other pairs": (
        "self._without_padding(cosines.reshape(-1))",
        "self._without_padding(cosines.reshape(-1)).roll(1)",
    ),
    "texts gathered without gradient": (
        "_reduce_scatter(own, parts, group=self.group)",
        "own.copy_(parts.split(self.largest)[dist.get_rank(self.group)])",
    ),
    "gradients of texts averaged": ("return own[: self.count]", "return own[: self.count] / self.world"),
}
CLIP = {
    "loss weighted by the own pairs": ("loss if shards is None else loss * ratio", "loss"),
    "gradient weighted by the own pairs": ("ratio / (2 * len(image))", "1 / (2 * len(image))"),
    "gradient for a sum over the processes": ("ratio / (2 * len(image))", "1 / (2 * len(text))"),
    "column sums not combined": ("sums._replace(columns=columns)", "sums"),
    "positives of columns among the own pairs": ("rows if shards is None else slice(None)", "rows"),
}
SIGLIP = {
    "weighted by the own pairs": ("ratio / len(image)", "1 / len(image)"),
    "pairs without the rank's offset, sigmoid": (
        "shards.gather(text), shards.offset, shards.ratio",
        "shards.gather(text), 0, shards.ratio",
    ),
    "texts gathered without gradient, sigmoid": (
        "shards.add_and_scatter(of_text)",
        "of_text[shards.offset :][: shards.count].clone()",
    ),
}
MUTANTS = [*SHARDS, *CLIP, *SIGLIP]


def features(dtype: torch.dtype, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    image, text = make_features("random", N, WIDTH, spread=0.0 if name == "as they are" else 1.0, dtype=torch.float64)
    return image.to(dtype), text.to(dtype)


def loss_and_gradients(
    losses: ModuleType, name: str, dtype: torch.dtype, rows: slice = slice(None), **options
) -> list[torch.Tensor]:
    """Of the pairs `rows`, by the functions of minclip_kernels or of its reference: loss, image, text, scale."""
    image, text = (tower[rows].clone().requires_grad_() for tower in features(dtype, name))
    scale = torch.tensor(SCALE if name != "as they are" else 0.1, dtype=dtype, requires_grad=True)
    options = {key: value[rows] if key == "ids" else value for key, value in LOSSES[name].items()} | options
    prefix = "fused_" if losses is minclip_kernels else ""
    if name == "siglip":
        loss = getattr(losses, f"{prefix}siglip_loss")(image, text, scale, BIAS, **options)
    else:
        loss = getattr(losses, f"{prefix}clip_loss")(image, text, scale, **options)
    return [loss.detach(), *torch.autograd.grad(loss, [image, text, scale])]


# --- in the processes -------------------------------------------------------------------------------------------------


def compute(rank: int, sizes: list[int]) -> dict:
    """All losses of a rank's shard; the shards' sizes are given, or asked for in every third case."""
    rows = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    results: dict = {}
    for i, (name, dtype) in enumerate(CASES):
        options = {"group": dist.group.WORLD, "shard_sizes": sizes if i % 3 else None}
        results[name, dtype] = loss_and_gradients(minclip_kernels, name, dtype, rows, **options)
    if HAS_TRITON and not torch.cuda.is_available() and sizes == TRITON_SPLIT:
        options = {"group": dist.group.WORLD, "backend": "triton"}
        results["triton"] = loss_and_gradients(minclip_kernels, "all", torch.float32, rows, **options)
    image, text = (torch.nn.functional.normalize(tower[rows]) for tower in features(torch.float64, "clip"))
    options: dict[str, Any] = {"rank": rank, "world_size": len(sizes)}
    results["ClipLoss"] = ClipLoss(local_loss=True, gather_with_grad=True, **options)(image, text, SCALE)
    results["SigLipLoss"] = SigLipLoss(**options)(image, text, SCALE, BIAS, output_dict=True)["contrastive_loss"]
    with torch.no_grad():
        results["no gradient"] = fused_clip_loss(image, text, SCALE, group=dist.group.WORLD)
    results["errors"] = errors(image, text)
    return results


def errors(image: torch.Tensor, text: torch.Tensor) -> list[str]:
    """What is said of arguments that fit no group; all processes give the same ones."""
    messages, world = [], dist.group.WORLD
    wrong: list[dict[str, Any]] = [{"group": 3}, {"group": world, "offset": 0}, {"group": world, "shard_sizes": []}]
    for options in wrong:
        try:
            fused_clip_loss(image, text, SCALE, **options)
        except (TypeError, ValueError) as error:
            messages.append(str(error))
    return messages


def count(rank: int, world: int) -> dict[str, tuple[int, int]]:
    """FLOPs of a process, and the bytes that it must receive or send, for each loss with memory for nothing."""
    n, counts = COUNTED // world, {}
    image, text = (torch.randn(n, WIDTH, requires_grad=True) for _ in range(2))
    scale = torch.tensor(SCALE, requires_grad=True)
    moved: list[int] = []

    def counted(collective, larger: int):
        """A collective whose larger tensor, the output or the input, has one part that stays where it is."""

        def call(*tensors, **options):
            moved.append(tensors[larger].nbytes * (world - 1) // world)
            return collective(*tensors, **options)

        return call

    distributed._all_gather = counted(distributed._all_gather, 0)
    distributed._reduce_scatter = counted(distributed._reduce_scatter, 1)
    options: dict[str, Any] = {"group": dist.group.WORLD, "shard_sizes": [n] * world}
    for name in ("clip", "siglip"):
        moved.clear()
        with count_products() as products:
            if name == "clip":
                loss = fused_clip_loss(image, text, scale, memory=0, **options)
            else:
                loss = fused_siglip_loss(image, text, scale, BIAS, **options)
            loss.backward()
        counts[name] = products.get_total_flops(), sum(moved)
    return counts


def compute_mutated(rank: int, name: str, folder: Path) -> dict[str, list[torch.Tensor]]:
    """All losses of a rank's shard, in float64, with a deliberate error."""
    if name in SHARDS:
        clip_loss.Shards = siglip_loss.Shards = load_mutant(distributed, SHARDS[name], folder).Shards
    elif name in CLIP:
        minclip_kernels.fused_clip_loss = load_mutant(clip_loss, CLIP[name], folder).fused_clip_loss
    else:
        minclip_kernels.fused_siglip_loss = load_mutant(siglip_loss, SIGLIP[name], folder).fused_siglip_loss
    rows = slice(sum(MUTATED_SPLIT[:rank]), sum(MUTATED_SPLIT[: rank + 1]))
    options = {"group": dist.group.WORLD, "shard_sizes": MUTATED_SPLIT}
    return {loss: loss_and_gradients(minclip_kernels, loss, torch.float64, rows, **options) for loss in LOSSES}


def main(target: str) -> None:
    torch.set_num_threads(1)
    computed = {
        (world, i): in_processes(world, functools.partial(compute, sizes=sizes))
        for world, splits in SPLITS.items()
        for i, sizes in enumerate(splits)
    }
    counts = [in_processes(world, functools.partial(count, world=world)) for world in WORLDS]
    mutated = {name: functools.partial(compute_mutated, name=name, folder=Path(target).parent) for name in MUTANTS}
    mutants = {name: in_processes(len(MUTATED_SPLIT), work) for name, work in mutated.items()}
    torch.save({"computed": computed, "counts": counts, "mutants": mutants}, target)


# --- in the tests -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, Any]:
    target = str(tmp_path_factory.mktemp("computed") / "computed.pt")
    result = subprocess.run([sys.executable, __file__, target], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return torch.load(target)


@pytest.fixture(scope="module")
def computed(results) -> dict[tuple[int, int], list[dict]]:
    """What each process of each split computed, by (number of processes, number of the split)."""
    return results["computed"]


@pytest.mark.parametrize("world", WORLDS)
def test_each_logit_is_computed_once_and_each_text_travels_once(results, world):
    """The formulas of kernels/README.md: 8 N²D/W and 6 N²D/W operations; texts, sums, gradients of texts."""
    own = COUNTED // world
    texts, sums = (world - 1) * own * WIDTH * 4, (world - 1) * (COUNTED + own) * 4
    for process in results["counts"][WORLDS.index(world)]:
        assert process["clip"] == (8 * COUNTED * own * WIDTH, texts + sums + texts)
        assert process["siglip"] == (6 * COUNTED * own * WIDTH, texts + texts)


SPLIT = pytest.mark.parametrize("split", [(world, i) for world, splits in SPLITS.items() for i in range(len(splits))])


def assert_whole(shards: list[list[torch.Tensor]], wanted: list[torch.Tensor], tolerance: float) -> None:
    """Compare the means over the processes with the whole batch.

    The gradient of a shard's features is W times theirs, because the gradients of parameters will be averaged.
    """
    loss, image, text, scale = wanted
    mean_loss, mean_scale = (torch.stack([shard[i] for shard in shards]).double().mean() for i in (0, 3))
    torch.testing.assert_close(mean_loss, loss, rtol=1e-6, atol=0)  # The losses are float32.
    torch.testing.assert_close(mean_scale, scale, rtol=0, atol=tolerance)
    for i, gradient in ((1, image), (2, text)):
        ours = torch.cat([shard[i] for shard in shards]).double() / len(shards)
        torch.testing.assert_close(ours, gradient, rtol=0, atol=tolerance)


@SPLIT
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LOSSES)
def test_the_mean_over_the_processes_is_the_loss_of_the_whole_batch(computed, split, name, dtype):
    wanted = loss_and_gradients(reference, name, torch.float64)
    assert_whole([result[name, dtype] for result in computed[split]], wanted, DTYPES[dtype])


def assert_all_whole(shards: list[dict[str, list[torch.Tensor]]]) -> None:
    for name in LOSSES:
        wanted = loss_and_gradients(reference, name, torch.float64)
        assert_whole([results[name] for results in shards], wanted, DTYPES[torch.float64])


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_killed(results, name):
    with pytest.raises(AssertionError):
        assert_all_whole(results["mutants"][name])


def test_without_a_mutant_nothing_is_killed(computed):
    assert_all_whole([{name: result[name, torch.float64] for name in LOSSES} for result in computed[3, 1]])


@pytest.mark.usefixtures("interpreter")
def test_the_triton_kernels_do_the_same(computed):
    shards = [result["triton"] for result in computed[2, 1]]
    assert_whole(shards, loss_and_gradients(reference, "all", torch.float64), 1e-5)


@SPLIT
def test_the_modules_equal_the_reference(computed, split):
    image, text = (torch.nn.functional.normalize(tower) for tower in features(torch.float64, "clip"))
    wanted = {
        "ClipLoss": reference.clip_loss(image, text, SCALE),
        "SigLipLoss": reference.siglip_loss(image, text, SCALE, BIAS),
        "no gradient": reference.clip_loss(image, text, SCALE),
    }
    for name, value in wanted.items():
        mean = torch.stack([result[name] for result in computed[split]]).mean()
        assert mean.item() == pytest.approx(float(value), rel=1e-6), name


@SPLIT
def test_what_fits_no_group_is_refused(computed, split):
    for rank, result in enumerate(computed[split]):
        assert result["errors"] == [
            "group is a int, expected a process group, such as torch.distributed.group.WORLD",
            "offset is 0, expected None with a group: each image has its text",
            f"shard_sizes is [], expected {split[0]} numbers, the one of rank {rank} "
            f"{SPLITS[split[0]][split[1]][rank]}, as many as it has features",
        ]


def test_the_modules_take_open_clips_arguments():
    image, text = (torch.nn.functional.normalize(tower) for tower in features(torch.float32, "clip"))
    scale, bias = torch.tensor([SCALE]), torch.tensor([BIAS])
    for flags in ({}, {"local_loss": True, "cache_labels": True}, {"gather_with_grad": True, "rank": 0}):
        loss = ClipLoss(**flags)(image, text, scale, logit_bias=bias, output_dict=True)
        assert loss["contrastive_loss"].item() == pytest.approx(
            float(reference.clip_loss(image, text, SCALE)), rel=1e-6
        )
    wanted = float(reference.siglip_loss(image, text, SCALE, BIAS))
    assert SigLipLoss(cache_labels=True, dist_impl="gather")(image, text, scale, bias).item() == pytest.approx(wanted)
    with pytest.raises(ValueError, match="use_horovod is True, expected False"):
        ClipLoss(use_horovod=True)
    with pytest.raises(ValueError, match="world_size is 2, expected 1"):
        ClipLoss(world_size=2)(image, text, scale)


if __name__ == "__main__":
    main(sys.argv[1])
