"""Training in 1 to 4 gloo processes equals training in one.

Run as a script, this file starts the processes and saves what each of them computes.
"""

import copy
import functools
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from minclip_kernels.testing import in_processes, load_mutant

from minclip import CLIP, PRESETS, distributed, train
from minclip.batches import Batches
from minclip.data import Emoji, Pairs
from minclip.distributed import ONE_PROCESS, World
from minclip.images import Preprocess
from minclip.train import State, TrainConfig
from minclip.train_config import EQUAL_CAPTIONS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
CONFIG = replace(PRESETS["smoke"], embed_dim=16, context_length=12, vocab_size=300, vision_width=16)
PAIRS = 31  # of the trainings by the loop
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
Weights = dict[str, torch.Tensor]


def model_and_batch(loss: str, dtype: torch.dtype, batch_size: int) -> tuple[CLIP, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = CLIP(replace(CONFIG, logit_bias=loss == "siglip")).to(dtype)
    tokens = torch.randint(1, 299, (batch_size, 12))
    tokens[torch.arange(batch_size), torch.randint(1, 12, (batch_size,))] = 299
    return model, torch.randn(batch_size, 3, 24, 24).to(dtype), tokens


def shard(world: World, size: int | None, *tensors: torch.Tensor) -> tuple[list, list[int]]:
    """The micro-batches of a process, and the sizes of all shards."""
    shards = world.shards(len(tensors[0]))
    own = [tensor[shards[world.rank]] for tensor in tensors]
    parts = zip(*(tensor.split(size or len(tensor)) for tensor in own), strict=True)
    return list(parts), [rows.stop - rows.start for rows in shards]


def gradients(world: World, loss: str, dtype: torch.dtype, size: int | None, batch_size: int = 64) -> Weights:
    """With the loss "drop" or "all", equal captions are that to each other."""
    model, images, tokens = model_and_batch(loss, dtype, batch_size)
    ids, config = None, TrainConfig(micro_batch=size, max_grad_norm=math.inf)
    if loss in EQUAL_CAPTIONS:
        ids = (torch.arange(batch_size) % 23)[world.shards(batch_size)[world.rank]]
        config = replace(config, equal_captions=loss)
    else:
        config = replace(config, loss=loss)
    state = State(model, torch.optim.SGD(model.parameters(), lr=0.0), world=world)
    parts, sizes = shard(world, size, images, tokens)
    measured = train.update(state, parts, config, shard_sizes=sizes, ids=ids)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None} | {"loss": measured.loss}


def weights_after_20_steps(world: World, loss: str, dtype: torch.dtype, size: int | None) -> Weights:
    """Of batches of 13, so that no number of processes but one divides them."""
    model, images, tokens = model_and_batch(loss, dtype, 13 * 20)
    config = TrainConfig(loss=loss, micro_batch=size)
    state = State(model, train.make_optimizer(model, config), world=world)
    for batch in zip(images.split(13), tokens.split(13), strict=True):
        parts, sizes = shard(world, size, *batch)
        train.update(state, parts, config, shard_sizes=sizes)
    return model.state_dict()


def train_by_the_loop(
    world: World, run: Path, stop_after: int = 0, resume: bool = False
) -> tuple[list[float], Weights, list[list[int]]]:
    """Two epochs by `train.train`: the losses, the weights, and the captions that this process has seen in each step.

    With `stop_after`, SIGTERM comes in this step, and there are no losses.
    """
    images = torch.randint(0, 256, (PAIRS, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    names = [f"{i:04X}" for i in range(PAIRS)]
    pairs = Pairs(images, [Emoji(name) for name in names], names, torch.arange(PAIRS))
    tokens = torch.stack([torch.arange(PAIRS) + 1, torch.full((PAIRS,), 299)], dim=1)
    torch.manual_seed(0)
    model = CLIP(CONFIG)
    seen, update, losses = [], train.update, []

    def spy(state, parts, *rest):
        seen.append([row - 1 for _, part in parts for row in part[:, 0].tolist()])
        if len(seen) == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(state, parts, *rest)

    train.update = spy
    batches = Batches(pairs, tokens, Preprocess(24), batch_size=10, seed=0)
    config = TrainConfig(epochs=2, batch_size=10, micro_batch=3)
    run.mkdir(exist_ok=True)
    try:
        rows = train.train(model, None, batches, None, config, run, resume, world)  # type: ignore[arg-type]
        losses = [row["loss"] for row in rows]
    except KeyboardInterrupt:
        assert stop_after
    train.update = update
    return losses, model.state_dict(), seen


# In float64 every split of a shard of 32, with two processes, and one split with others; in float32 one split.
SPLITS = {1: [5], 2: list(range(1, 33)), 3: [5], 4: [5]}
GRADIENTS = {
    size: [("clip", torch.float64, None), ("clip", torch.float32, 5), ("siglip", torch.float32, 5)]
    + [("drop", torch.float64, 5), ("all", torch.float64, 5)]
    + [(loss, torch.float64, split) for loss in ("clip", "siglip") for split in splits]
    for size, splits in SPLITS.items()
}
TRAININGS = [("clip", torch.float64, 2), ("clip", torch.float32, 2), ("siglip", torch.float64, None)]
# Deliberate errors: the old text of a source, and what it becomes.
WORLD_MUTANTS = {"gradients added up": ("flat.div_(self.size)", "flat")}
UPDATE_MUTANTS = {
    "the scale's gradient is not averaged": ("if parameter.grad is not None)]", "if parameter.grad.ndim)]"),
    "only the scale's gradient is averaged": ("if parameter.grad is not None)]", "if not parameter.grad.ndim)]"),
    "the loss is not averaged": ("world.average([loss, *(", "world.average([*("),
    "each process has a loss of its own": ("if world.group else {}", "if False else {}"),
    "clipped before the average": (
        "world.average(",
        "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n    world.average(",
    ),
}
MUTANTS = [*WORLD_MUTANTS, *UPDATE_MUTANTS]


# --- in the processes -------------------------------------------------------------------------------------------------


def compute(rank: int, count: int, folder: str) -> dict:
    world = World(rank, count, dist.group.WORLD)
    results: dict = {("gradients", *case): gradients(world, *case) for case in GRADIENTS[count]}
    results |= {("training", *case): weights_after_20_steps(world, *case) for case in TRAININGS}
    results["loop"] = train_by_the_loop(world, Path(folder) / f"loop-{count}")
    train_by_the_loop(world, Path(folder) / f"stopped-{count}", stop_after=4)
    results["flags"] = world.any(False, rank == count - 1, True)
    results["shared"] = world.share(lambda: f"from {rank}")
    tensors = [torch.full((2,), float(rank)), torch.tensor(1.0 - rank)]
    world.copy_from_main(tensors)
    results["copied"] = copy.deepcopy(tensors)
    mine = [torch.full((2,), float(rank)), torch.tensor(1.0 - rank)]
    world.average(mine)
    results["averaged"] = mine
    return results


def go_on(rank: int, count: int, folder: str) -> list[tuple]:
    """Finish the trainings that as many processes, and one less (or four, for one), have left after four steps."""
    results = []
    for before in (count, count - 1 or 4):
        run = Path(folder) / f"{before}-{count}"
        if rank == 0:
            shutil.copytree(Path(folder) / f"stopped-{before}", run)
        dist.barrier()
        results.append(train_by_the_loop(World(rank, count, dist.group.WORLD), run, resume=True))
    return results


def compute_mutated(rank: int, count: int, name: str, folder: str) -> dict:
    """A gradient and a training with a deliberate error."""
    world = World(rank, count, dist.group.WORLD)
    if name in WORLD_MUTANTS:
        mutant = load_mutant(distributed, WORLD_MUTANTS[name], Path(folder))
        world = mutant.World(rank, count, dist.group.WORLD)
    else:
        train.update = load_mutant(train, UPDATE_MUTANTS[name], Path(folder)).update
    results: dict = {("gradients", *case): gradients(world, *case) for case in GRADIENTS[count][-1:]}
    return results | {("training", *case): weights_after_20_steps(world, *case) for case in TRAININGS[:1]}


def main(target: str) -> None:
    torch.set_num_threads(1)
    folder = str(Path(target).parent)
    work = [[functools.partial(do, count=n, folder=folder) for n in (1, 2, 3, 4)] for do in (compute, go_on)]
    computed, gone_on = ([in_processes(n, do) for n, do in enumerate(each, 1)] for each in work)
    mutated = {name: functools.partial(compute_mutated, count=2, name=name, folder=folder) for name in MUTANTS}
    mutants = {name: in_processes(2, do) for name, do in mutated.items()}
    torch.save({"computed": computed, "gone on": gone_on, "mutants": mutants}, target)


# --- in the tests -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    """What each process returned, of 1, 2, 3 and 4: of `compute` and of `go_on`; and with each of the mutants."""
    target = str(tmp_path_factory.mktemp("computed") / "computed.pt")
    result = subprocess.run([sys.executable, __file__, target], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return torch.load(target)


@pytest.fixture(scope="module")
def computed(results) -> list[list[dict]]:
    return results["computed"]


WORLD = pytest.mark.parametrize("size", [1, 2, 3, 4])


def assert_close(ours: Weights, wanted: Weights, tolerance: float) -> None:
    for name, value in wanted.items():
        error = (ours[name].double() - value.double()).norm() / (value.double().norm() + 1e-6)
        assert error < (1e-6 if name == "loss" and tolerance < 1e-6 else tolerance), f"{name}: {error}"


@functools.lru_cache
def plain_gradients(loss: str) -> Weights:
    return gradients(ONE_PROCESS, loss, torch.float64, None)


@functools.lru_cache
def plain_training(loss: str, dtype: torch.dtype) -> Weights:
    return weights_after_20_steps(ONE_PROCESS, loss, dtype, None)


def assert_that_of_one_process(results: list[dict], what: str, case: tuple) -> None:
    """Compare gradients, or weights after 20 steps, in every process."""
    for result in results:
        if what == "gradients":
            assert_close(result[(what, *case)], plain_gradients(case[0]), TOLERANCE[case[1]])
        else:
            torch.testing.assert_close(
                result[(what, *case)], plain_training(*case[:2]), rtol=0, atol=TOLERANCE[case[1]]
            )


@WORLD
def test_gradients_are_those_of_one_process(computed, size):
    for case in GRADIENTS[size]:
        assert_that_of_one_process(computed[size - 1], "gradients", case)


@WORLD
@pytest.mark.parametrize("case", TRAININGS, ids=str)
def test_weights_after_20_steps_are_those_of_one_process(computed, size, case):
    assert_that_of_one_process(computed[size - 1], "training", case)
    for result in computed[size - 1]:
        torch.testing.assert_close(
            result[("training", *case)], computed[size - 1][0][("training", *case)], rtol=0, atol=0
        )


def assert_all_of_one_process(results: list[dict]) -> None:
    for what, *case in results[0]:
        assert_that_of_one_process(results, what, tuple(case))


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_killed(results, name):
    with pytest.raises(AssertionError):
        assert_all_of_one_process(results["mutants"][name])


def in_order(seen: list[list[list[int]]]) -> list[int]:
    """The captions in the order of the batches, given those that each process has seen in each step."""
    return [caption for shards in zip(*seen, strict=True) for shard in shards for caption in shard]


@WORLD
def test_every_picture_is_seen_once_an_epoch_in_all(computed, size):
    """In seven batches of ten; the fourth one spans both epochs, and the last one has eight pairs of a third."""
    seen = in_order([result["loop"][2] for result in computed[size - 1]])
    assert len(seen) == 70
    for epoch in range(2):
        assert sorted(seen[epoch * PAIRS : (epoch + 1) * PAIRS]) == list(range(PAIRS))


@WORLD
def test_the_loop_gives_the_curve_of_one_process(computed, size):
    wanted = computed[0][0]["loop"][0]
    for result in computed[size - 1]:
        assert result["loop"][0] == pytest.approx(wanted, rel=1e-4)


@WORLD
def test_a_run_goes_on_in_as_many_processes_with_the_same_bits(results, size):
    (curve, weights, _), _ = results["gone on"][size - 1][0]
    wanted_curve, wanted, _ = results["computed"][size - 1][0]["loop"]
    assert curve == wanted_curve
    torch.testing.assert_close(weights, wanted, rtol=0, atol=0)


@WORLD
def test_a_run_goes_on_in_another_number_of_processes_up_to_rounding(results, size):
    """And the rest of the pairs is seen, each by one of the processes."""
    others = results["computed"][(size - 1 or 4) - 1][0]["loop"]
    for _, (curve, weights, _) in results["gone on"][size - 1]:
        assert curve == pytest.approx(others[0], rel=1e-5)
        torch.testing.assert_close(weights, others[1], rtol=0, atol=TOLERANCE[torch.float32])
    seen = in_order([ours[1][2] for ours in results["gone on"][size - 1]])
    assert seen == in_order([results["computed"][0][0]["loop"][2][4:]])


@WORLD
def test_what_processes_tell_each_other(computed, size):
    for result in computed[size - 1]:
        assert result["flags"] == [False, True, True]
        assert result["shared"] == "from 0"
        assert [tensor.tolist() for tensor in result["copied"]] == [[0.0, 0.0], 1.0]
        mean = (size - 1) / 2
        assert [tensor.tolist() for tensor in result["averaged"]] == [[mean, mean], 1 - mean]


@pytest.mark.parametrize(("batch_size", "size"), [(13, 4), (4, 4), (64, 3), (5, 1)])
def test_shards_are_the_batch_in_parts_of_nearly_one_size(batch_size, size):
    shards = World(0, size).shards(batch_size)
    assert [row for rows in shards for row in range(batch_size)[rows]] == list(range(batch_size))
    sizes = [rows.stop - rows.start for rows in shards]
    assert len(sizes) == size
    assert 1 <= min(sizes) <= max(sizes) <= min(sizes) + 1


if __name__ == "__main__":
    main(sys.argv[1])
