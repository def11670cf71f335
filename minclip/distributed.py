"""Several processes that train one model, as torchrun starts them; one process is the case of size 1.

Each process encodes its shard of every batch, the loss sees all of them (`minclip_kernels`), and one all-reduce
averages the gradients. It is written out, without the DistributedDataParallel wrapper, which averages at the wrong time
with gradient caching, and silently.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes of a training. `control` is their group for messages on the CPU, for which no GPU has to wait."""

    rank: int = 0
    size: int = 1
    control: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes, prints and evaluates."""
        return self.rank == 0

    @property
    def group(self) -> dist.ProcessGroup | None:
        """The group of the loss and the gradients; None for a single process."""
        return dist.group.WORLD if self.size > 1 else None

    def shards(self, batch_size: int) -> list[slice]:
        """The rows of a batch for each process; their numbers differ by one at most."""
        ends = [batch_size * i // self.size for i in range(self.size + 1)]
        return [slice(start, end) for start, end in pairwise(ends)]

    def average(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace tensors by their means over the processes, in one all-reduce."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        parts = flat.div_(self.size).split([tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, parts, strict=True):
            tensor.copy_(mean.view_as(tensor))

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set in any of the processes. They wait for each other here."""
        if self.size == 1:
            return list(flags)
        numbers = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(numbers, dist.ReduceOp.MAX, self.control)
        return numbers.bool().tolist()

    def share(self, make: Callable[[], T]) -> T:
        """What `make` returns in the main process, which alone calls it."""
        if self.size == 1:
            return make()
        values: list[Any] = [make() if self.is_main else None]
        dist.broadcast_object_list(values, src=0, group=self.control)
        return values[0]

    def copy_from_main(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace tensors by those of the main process."""
        for tensor in tensors if self.size > 1 else ():
            dist.broadcast(tensor.detach(), src=0)

    @contextmanager
    def naming_losses(self) -> Iterator[None]:
        """Turn the error of a connection that broke, because another process has died, into a ConnectionError."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise
            lost = f"process {self.rank} of {self.size} has lost another one, which must have ended; this one ends too"
            raise ConnectionError(f"{lost} ({str(error).splitlines()[0]})") from error


ONE_PROCESS = World()


@contextmanager
def processes(device: str) -> Iterator[World]:
    """The processes that torchrun has started, each on a GPU of its own if `device` is "cuda"; or a world of one."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield ONE_PROCESS
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    control = dist.new_group(backend="gloo")
    assert isinstance(control, dist.ProcessGroup)
    yield World(dist.get_rank(), dist.get_world_size(), control)
    dist.destroy_process_group()  # After an error the others may be gone, and the process ends anyway.


def command_to_resume(run: object) -> str:
    """The command that resumes a run, in as many processes of this machine as now."""
    count = os.environ.get("LOCAL_WORLD_SIZE")
    launcher = f"torchrun --nproc-per-node {count} -m minclip" if "TORCHELASTIC_RUN_ID" in os.environ else "minclip"
    return f"{launcher} train --resume {run}"
