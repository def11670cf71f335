"""A batch whose pairs are spread over the processes of a group.

Each process holds n of N pairs: the rows of its images against the columns of all texts. So every
logit is computed once in the world. What travels, for each process: the texts, gathered once; one
gathering of N column sums and the cosines of the pairs, between the two passes; and the gradients
of the texts, added up and sent to their owners.

Shards may differ in size. They are padded to the largest one for the journey, because not every
back-end of torch.distributed accepts uneven ones.
"""

import functools
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

# The first name is that of torch 2.13 and later.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class Shards:
    """The shards of a batch over the processes of a group, in the order of their ranks.

    What a loss returns in a process are its own rows' parts of loss and gradients, multiplied such
    that their means over the processes are those of the whole batch.

    sizes: how many pairs each process holds; None: they ask each other, which makes a GPU wait.
    Raises ValueError if the sizes do not fit the group, or the features of this process.
    """

    def __init__(
        self, group: dist.ProcessGroup, features: Tensor, sizes: Sequence[int] | None
    ) -> None:
        self.group, self.count = group, len(features)
        self.world, rank = dist.get_world_size(group), dist.get_rank(group)
        self.sizes = self._ask(features.device) if sizes is None else list(sizes)
        if len(self.sizes) != self.world or self.sizes[rank] != self.count:
            raise ValueError(
                f"shard_sizes is {self.sizes}, expected {self.world} numbers, the one of rank "
                f"{rank} {self.count}, as many as it has features"
            )
        self.offset, self.total = sum(self.sizes[:rank]), sum(self.sizes)
        self.largest = max(self.sizes)
        self.ratio = self.count * self.world / self.total  # of the own rows to the mean shard

    def gather(self, own: Tensor) -> Tensor:
        """Return the rows of all processes, (N, …), of the rows of this one, (n, …)."""
        everyone = own.new_empty(self.world * self.largest, *own.shape[1:])
        _all_gather(everyone, self._pad(own).contiguous(), self.group)
        return self._without_padding(everyone)

    def combine(self, columns: Tensor, cosines: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log2-sum-exps of whole columns and the cosines of all pairs, (N,) each.

        columns: (N,), over the rows of this process. cosines: (n,), of its pairs.
        """
        own = torch.cat([columns, self._pad(cosines)])
        everyone = own.new_empty(self.world * own.shape[0])
        _all_gather(everyone, own, self.group)
        parts, cosines = everyone.view(self.world, -1).split([self.total, self.largest], dim=1)
        whole = functools.reduce(torch.logaddexp2, parts.unbind())
        return whole, self._without_padding(cosines.reshape(-1))

    def add_and_scatter(self, gradient: Tensor) -> Tensor:
        """Return the rows (n, D) of this process, added up over the gradients (N, D) of all."""
        parts = torch.cat([self._pad(part) for part in gradient.split(self.sizes)])
        own = gradient.new_empty(self.largest, gradient.shape[1])
        _reduce_scatter(own, parts, group=self.group)
        return own[: self.count]

    def _ask(self, device: torch.device) -> list[int]:
        everyone = torch.empty(self.world, dtype=torch.int64, device=device)
        own = torch.tensor([self.count], device=device)
        _all_gather(everyone, own, self.group)
        return everyone.tolist()

    def _pad(self, own: Tensor) -> Tensor:
        missing = self.largest - own.shape[0]
        return torch.cat([own, own.new_zeros(missing, *own.shape[1:])]) if missing else own

    def _without_padding(self, everyone: Tensor) -> Tensor:
        if self.total == self.world * self.largest:
            return everyone
        parts = everyone.split(self.largest)
        return torch.cat([part[:size] for part, size in zip(parts, self.sizes, strict=True)])
