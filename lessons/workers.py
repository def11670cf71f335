"""Workers that share a batch, for lesson 19: simulated ones, in turns in this process, and real processes.

Both call work(worker), and a worker has a rank, the world_size and two ways to gather. Run as a script, this file is
one of the real processes: python workers.py RANK WORLD_SIZE FOLDER.
"""

import importlib
import inspect
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import FunctionType
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

IMPORTS = """import math

import torch
import torch.nn.functional as F
from torch import Tensor
from workers import Worker


"""


class Worker(Protocol):
    """One of `world_size` workers. Each must gather as often as the others, and in the same order."""

    rank: int
    world_size: int

    def all_gather(self, own: Tensor) -> list[Tensor]:
        """The rows of every worker, in the order of their ranks, as constants: no gradient flows back."""
        ...

    def all_gather_with_grad(self, own: Tensor) -> list[Tensor]:
        """The same rows; the gradient of a row, added up over the workers, goes back to the owner of the row."""
        ...


# --- simulated --------------------------------------------------------------------------------------------------------


class Waiting(BaseException):
    """A simulated worker needs rows that another worker has not given yet."""


class SimulatedWorker:
    """A worker that finds the rows of the others on a board: for each gathering, the rows by rank."""

    def __init__(self, rank: int, world_size: int, board: list[dict[int, Tensor]]) -> None:
        self.rank, self.world_size, self.board, self.gatherings = rank, world_size, board, 0

    def all_gather_with_grad(self, own: Tensor) -> list[Tensor]:
        if self.gatherings == len(self.board):
            self.board.append({})
        given = self.board[self.gatherings]
        self.gatherings += 1
        given[self.rank] = own
        if len(given) < self.world_size:
            raise Waiting
        return [given[rank] for rank in range(self.world_size)]

    def all_gather(self, own: Tensor) -> list[Tensor]:
        return [rows.detach() for rows in self.all_gather_with_grad(own)]


class Deadlock(RuntimeError):
    """Some workers wait at a gathering to which another one never comes."""


def simulate(work: Callable[[SimulatedWorker], Any], world_size: int) -> list[Any]:
    """Returns [work(worker 0), work(worker 1), …]. A worker that has to wait starts again when others have come as far.

    Raises Deadlock where some wait for ever, because another one has ended without that gathering.
    """
    board: list[dict[int, Tensor]] = []
    results: dict[int, Any] = {}
    progress = -1
    while len(results) < world_size:
        before, progress = progress, len(results) + sum(map(len, board))
        if progress == before:
            waiting = sorted(set(range(world_size)) - set(results))
            raise Deadlock(f"workers {waiting} wait for ever: the others have ended without that gathering")
        for rank in set(range(world_size)) - set(results):
            with suppress(Waiting):
                results[rank] = work(SimulatedWorker(rank, world_size, board))
    return [results[rank] for rank in range(world_size)]


# --- real -------------------------------------------------------------------------------------------------------------


class ProcessWorker:
    """The worker of this process, in a group of torch.distributed. Shards are padded: gloo wants equal sizes."""

    def __init__(self) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()

    def all_gather(self, own: Tensor) -> list[Tensor]:
        return list(self._gather(own.detach()))

    def all_gather_with_grad(self, own: Tensor) -> list[Tensor]:
        return list(GatherWithGrad.apply(own, self))

    def _gather(self, own: Tensor) -> tuple[Tensor, ...]:
        sizes = [torch.zeros((), dtype=torch.int64) for _ in range(self.world_size)]
        dist.all_gather(sizes, torch.tensor(len(own)))
        padded = own.new_zeros(int(max(sizes)), *own.shape[1:])
        padded[: len(own)] = own
        everyone = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(everyone, padded)
        return tuple(rows[:size] for rows, size in zip(everyone, sizes, strict=True))


class GatherWithGrad(torch.autograd.Function):
    """Forward: gather. Backward: add up what all workers ask of a row, and give the sum to its owner."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, worker: ProcessWorker) -> tuple[Tensor, ...]:
        ctx.rank = worker.rank
        return worker._gather(own)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = torch.cat(gradients)  # (N, …), of this worker's loss for the rows of all
        dist.all_reduce(total)  # the sum over the workers
        return total.split([len(rows) for rows in gradients])[ctx.rank], None


def in_processes(
    sharded_loss: FunctionType, images: list[Tensor], texts: list[Tensor], scale: float
) -> list[dict[str, Tensor]]:
    """Starts a process for each shard; returns the "loss" of each, and its gradients: "image", "text" and "scale".

    images, texts: for each process its rows, (n, D). The function's source is written to a file that the processes
    import, so it may use torch, F and math, and nothing else from outside. Raises RuntimeError with what a process
    said if one of them fails.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "attempt.py").write_text(IMPORTS + inspect.getsource(sharded_loss), encoding="utf-8")
        torch.save({"name": sharded_loss.__name__, "images": images, "texts": texts, "scale": scale}, folder / "in.pt")
        commands = [[sys.executable, __file__, str(rank), str(len(images)), name] for rank in range(len(images))]
        processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
        errors = [process.communicate()[1].strip() for process in processes]
        failed = [error for process, error in zip(processes, errors, strict=True) if process.returncode]
        if failed:
            raise RuntimeError("; ".join(error.splitlines()[-1] if error else "no message" for error in failed))
        return [torch.load(folder / f"{rank}.pt") for rank in range(len(images))]


def work(rank: int, folder: Path) -> dict[str, Tensor]:
    """What one process does: a loss of its own rows, and its gradients."""
    given = torch.load(folder / "in.pt")
    sys.path.insert(0, str(folder))
    sharded_loss = getattr(importlib.import_module("attempt"), given["name"])
    image, text = given["images"][rank].requires_grad_(), given["texts"][rank].requires_grad_()
    scale = torch.tensor(given["scale"], dtype=image.dtype, requires_grad=True)
    loss = sharded_loss(image, text, scale, ProcessWorker())
    gradients = torch.autograd.grad(loss, [image, text, scale])
    return dict(zip(("loss", "image", "text", "scale"), (loss.detach(), *gradients), strict=True))


def main() -> None:
    rank, world_size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    meeting = (folder / "meeting").as_uri()
    dist.init_process_group("gloo", meeting, timedelta(seconds=60), rank=rank, world_size=world_size)
    torch.save(work(rank, folder), folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
