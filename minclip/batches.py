"""Which pairs are in a batch, and what the model sees of them.

Order and augmentation are functions of (seed, epoch, step, index), not of a generator's history: there is nothing to
save, and a part of a batch is the same whether or not the rest of it is made. The idea is `jax.random.fold_in`'s; here
the numbers are hashed into the seed of a fresh generator.

All batches have one size: what is left of an epoch begins a batch that the next epoch fills. A smaller last batch would
have fewer negatives, and so another initial loss and another floor, and several processes might not be able to share
it.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch

from minclip.augmentation import augment, draw_augmentation
from minclip.data import Pairs, Streamed, digests
from minclip.images import Preprocess, to_device
from minclip.loss import batch_floor, floor_with_ids

# The purpose of a generator, so that equal counters give different numbers for different purposes.
ORDER, AUGMENTATION, PHRASING = 0, 1, 2
KEEP = 4  # epoch orders in memory: that of this epoch, and those of the next ones for reading ahead


def counter_generator(*counters: int) -> torch.Generator:
    """A generator on the CPU that depends on the given numbers, which are not negative, and on nothing else."""
    (seed,) = np.random.SeedSequence(counters).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(seed))


class Order:
    """All pairs, shuffled anew in every epoch, as one sequence that is cut into batches.

    No pair occurs twice in a batch: pairs that one epoch leaves at the beginning of a batch have to wait in the next
    epoch until this batch is full. So an epoch depends on the one before, and a first look at a late epoch takes one
    shuffle for each epoch up to it.
    """

    def __init__(self, pairs: int, batch_size: int, seed: int) -> None:
        self.pairs, self.batch_size, self.seed = pairs, batch_size, seed
        self._forget()

    def batch(self, step: int) -> torch.Tensor:
        """The pairs (B,) int64 of a step, which counts from 0."""
        epoch, place = divmod(step * self.batch_size, self.pairs)
        rows = self.epoch(epoch)[place : place + self.batch_size]
        missing = self.batch_size - len(rows)
        return torch.cat([rows, self.epoch(epoch + 1)[:missing]]) if missing else rows

    def epoch(self, epoch: int) -> torch.Tensor:
        """The order (n,) int64 in which an epoch goes through the pairs."""
        if epoch not in self._orders and epoch < max(self._orders):
            self._forget()
        for number in range(max(self._orders) + 1, epoch + 1):
            self._orders[number] = self._after(self._orders[number - 1], number)
            self._orders.pop(number - KEEP, None)
        return self._orders[epoch]

    def _forget(self) -> None:
        self._orders = {-1: torch.empty(0, dtype=torch.int64)}  # epoch -> its order, for the newest KEEP epochs

    def _after(self, before: torch.Tensor, epoch: int) -> torch.Tensor:
        """The order of an epoch, given that of the epoch before it."""
        begun = epoch * self.pairs % self.batch_size  # the number of pairs that are already in its first batch
        shuffled = torch.randperm(self.pairs, generator=counter_generator(self.seed, ORDER, epoch))
        first = self._without(before[self.pairs - begun :], shuffled)[: self.batch_size - begun]
        return torch.cat([first, self._without(first, shuffled)])

    def _without(self, left_out: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        stays = torch.ones(self.pairs, dtype=torch.bool)
        stays[left_out] = False
        return order[stays[order]]


class Batches:
    """The batches of a training: step -> rows -> pictures and tokens.

    Steps count from 0, across all epochs. `tokens` (N, T) int64 are those of all captions, or (V, N, T)
    those of V phrasings of each; a share `rephrase` of them is not read in the first phrasing. Raises ValueError if the
    captions do not fill one batch.
    """

    def __init__(
        self,
        pairs: Pairs,
        tokens: torch.Tensor,
        preprocess: Preprocess,
        *,
        batch_size: int,
        seed: int,
        augmentation: str = "gentle",
        rephrase: float = 0.5,
    ) -> None:
        if batch_size > len(pairs):
            raise ValueError(
                f"batch_size is {batch_size}; it must be at most {len(pairs)}, the number of training captions"
            )
        self.pairs, self.preprocess = pairs, preprocess
        self.tokens = tokens if tokens.ndim == 3 else tokens[None]  # (V, N, T)
        self.batch_size, self.seed, self.augmentation, self.rephrase = batch_size, seed, augmentation, rephrase
        self.order = Order(len(pairs), batch_size, seed)
        ids = self.tokens.flatten(0, 1).unique(dim=0, return_inverse=True)[1]  # equal words have equal ids
        self._caption_ids = ids.view(len(self.tokens), -1)  # (V, N)
        self.digests = digests(pairs.images)
        index = {digest: i for i, digest in enumerate(dict.fromkeys(self.digests))}
        picture_ids = torch.tensor([index[digest] for digest in self.digests])
        self.picture_ids = picture_ids[pairs.image_of_caption]  # (N,): pictures with equal pixels have equal ids
        self._ahead: Iterator[tuple[int, torch.Tensor]] = iter(())  # pictures of streamed pairs, with their numbers

    def steps(self, epochs: int) -> int:
        """The number of steps in which every caption is read `epochs` times; the last one may begin a further epoch."""
        return math.ceil(epochs * len(self.pairs) / self.batch_size)

    def rows(self, step: int) -> torch.Tensor:
        """The captions (B,) of a step, as indices into the pairs."""
        return self.order.batch(step)

    def pictures(self, step: int) -> torch.Tensor:
        """The pictures (B,) of a step, as indices into those of the pairs."""
        return self.pairs.image_of_caption[self.rows(step)]

    def phrasings(self, step: int) -> torch.Tensor:
        """Which of the V phrasings of its caption each row (B,) of a step reads."""
        ways, generator = len(self.tokens), counter_generator(self.seed, PHRASING, step)
        other = torch.randint(min(1, ways - 1), ways, (self.batch_size,), generator=generator)
        return torch.where(torch.rand(self.batch_size, generator=generator) < self.rephrase, other, 0)

    def caption_ids(self, step: int) -> torch.Tensor:
        """Ids (B,) int64 of the captions of a step, as they are read there: equal words have equal ids."""
        return self._caption_ids[self.phrasings(step), self.rows(step)]

    def make(
        self,
        step: int,
        device: torch.device | str,
        part: slice = slice(None),
        pixels: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The pictures of a step, augmented and normalised, (B, 3, R, R) on the device, and its tokens (B, T).

        `part` makes only these rows of the batch, with the same bits: a batch can be made one micro-batch at a time.
        Tokens stay on the CPU, where their lengths can be looked at without waiting for the device. `pixels`
        (b, 3, R, R) uint8 are the pictures of the part, if they have been read already.
        """
        images = to_device(self.pairs.images[self.pictures(step)[part]] if pixels is None else pixels, device)
        if self.augmentation != "none":
            # The changes are drawn for the whole batch, so that a row gets the same ones in any part.
            generator = counter_generator(self.seed, AUGMENTATION, step)
            images = augment(images, draw_augmentation(self.batch_size, generator, self.augmentation)[part])
        return self.preprocess.normalize(images), self.tokens[self.phrasings(step)[part], self.rows(step)[part]]

    def parts(self, step: int, device: torch.device | str, shard: slice, size: int | None) -> "MicroBatches":
        """The rows `shard` of the batch of a step, `size` at a time or at once; made when they are asked for."""
        starts = range(shard.start, shard.stop, size or shard.stop - shard.start)
        slices = [slice(start, min(start + starts.step, shard.stop)) for start in starts]
        return MicroBatches(self, step, device, slices, self._read_shard(step, shard))

    def _read_shard(self, step: int, shard: slice) -> torch.Tensor | None:
        """The streamed pictures (b, 3, R, R) uint8 of the rows `shard` of a step; None if all are in memory.

        The next steps are expected to follow, and are read ahead. Where something else follows, reading starts anew.
        """
        images, wanted = self.pairs.images, self.pictures(step)[shard].tolist()
        if not isinstance(images, Streamed):
            return None
        read = list(islice(self._ahead, len(wanted)))
        if [picture for picture, _ in read] != wanted:
            self._ahead = self._read_ahead(images, step, shard)
            read = list(islice(self._ahead, len(wanted)))
        return torch.stack([pixels for _, pixels in read])

    def _read_ahead(self, images: Streamed, step: int, shard: slice) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the pictures of the rows `shard` of a step and of all later ones."""

        def order() -> Iterator[int]:
            for later in count(step):
                yield from self.pictures(later)[shard].tolist()

        return zip(order(), images.read_ahead(order()), strict=False)

    def fingerprint(self) -> str:
        """A checksum of the pictures, the tokens, and which belong together; it must not change in a run."""
        digest = hashlib.sha256()
        digest.update(repr(tuple(self.pairs.images.shape)).encode() + b"".join(self.digests))
        for tensor in (self.tokens, self.pairs.image_of_caption):
            digest.update(repr(tensor.shape).encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def floor(self, step: int, loss: str, equal_captions: str = "negatives") -> float:
        """The loss of a perfect model on the batch of a step; see `batch_floor` and `floor_with_ids`.

        Where equal captions are not negatives it is a lower bound: equal pictures with unequal captions cost more.
        """
        captions = self.caption_ids(step)
        if equal_captions != "negatives":
            return floor_with_ids(captions, equal_captions)
        return batch_floor(captions, self.picture_ids[self.rows(step)], loss)


@dataclass(frozen=True)
class MicroBatches(Sequence):
    """Parts of the batch of a step: pictures (b, 3, R, R) and tokens (b, T), as `Batches.make` makes them.

    A part is made anew, with the same bits, whenever it is asked for, so that no more than one needs to be in memory.
    Only streamed `pixels` are held for all parts, as uint8, because reading them is what takes time.
    """

    batches: Batches
    step: int
    device: torch.device | str
    slices: list[slice]
    pixels: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        part, first = self.slices[i], self.slices[0].start
        pixels = None if self.pixels is None else self.pixels[part.start - first : part.stop - first]
        return self.batches.make(self.step, self.device, part, pixels)
