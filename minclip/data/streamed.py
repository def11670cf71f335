"""Pictures that stay in their files: worker processes decode them a little before they are needed.

`Streamed` stands wherever pictures in memory are a tensor (P, 3, R, R) uint8, and gives the same bits. What must be
known about all of them before a training (which cannot be read, which are equal) is found by decoding each picture
once, and is kept in the user's cache.
"""

import hashlib
import os
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from minclip.data.remembered import remembered
from minclip.images import Preprocess, Source, read_picture, read_pictures

GROUP = 32  # pictures that a worker decodes at a time: small enough for a container's 64 MiB of shared memory
SIGNATURE = 8  # pixels in each direction of the thumbnails that pictures are compared by
DIGEST = 32  # bytes of a SHA-256

Decoded = torch.Tensor | Exception


@dataclass(frozen=True)
class Streamed:
    """P pictures in their files, and the SHA-256 of the pixels of each; `workers` processes decode them."""

    sources: Sequence[Source]
    digests: Sequence[bytes]
    preprocess: Preprocess
    workers: int = 2

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self), 3, self.preprocess.resolution, self.preprocess.resolution

    def __getitem__(self, pictures: Any) -> torch.Tensor:
        """The pictures (b, 3, R, R) uint8 at a slice or sequence of indices, as of a tensor.

        Raises ValueError for one that cannot be read any more.
        """
        indices = torch.arange(len(self))[pictures].tolist()
        decoded = read_pictures((self.sources[i] for i in indices), self.preprocess)
        return stack(map(_unchanged, decoded), len(indices), self.preprocess)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self.read_ahead(range(len(self)))

    def read_ahead(self, order: Iterable[int]) -> Iterator[torch.Tensor]:
        """Yield the pictures (3, R, R) in an order, which may have no end, while workers decode the next ones."""
        return map(_unchanged, decode_ahead(self.sources, self.preprocess, order, self.workers))

    def select(self, pictures: Sequence[int]) -> "Streamed":
        """Some of the pictures, still streamed."""
        sources, digests = [self.sources[i] for i in pictures], [self.digests[i] for i in pictures]
        return Streamed(sources, digests, self.preprocess, self.workers)


def stack(images: Iterable[torch.Tensor], count: int, preprocess: Preprocess) -> torch.Tensor:
    """Pictures (3, R, R) as one tensor (count, 3, R, R), without holding all of them twice."""
    stacked = torch.empty(count, 3, preprocess.resolution, preprocess.resolution, dtype=torch.uint8)
    for place, image in zip(stacked, images, strict=True):
        place.copy_(image)
    return stacked


def digest(image: torch.Tensor) -> bytes:
    """The SHA-256 of a picture's pixels (3, R, R) uint8."""
    return hashlib.sha256(image.contiguous().numpy().data).digest()


def signature(image: torch.Tensor) -> torch.Tensor:
    """A picture (3, R, R) uint8 as a thumbnail of 8 × 8 pixels: (192,) uint8."""
    small = F.interpolate(image[None].float(), size=(SIGNATURE, SIGNATURE), mode="area")
    return small.round().to(torch.uint8).flatten()


def _unchanged(decoded: Decoded) -> torch.Tensor:
    if isinstance(decoded, Exception):
        raise ValueError(f"{decoded} (it could be when the training began)") from decoded
    return decoded


# --- worker processes -------------------------------------------------------------------------------------------------

Group = tuple[torch.Tensor, list[Exception | None]]  # pixels (b, 3, R, R), and what is wrong with each


@dataclass(frozen=True)
class _Pictures(Dataset[Decoded]):
    sources: Sequence[Source]
    preprocess: Preprocess

    def __getitem__(self, i: int) -> Decoded:
        return read_picture(self.sources[i], self.preprocess)

    def collate(self, decoded: list[Decoded]) -> Group:
        nothing = torch.zeros(3, self.preprocess.resolution, self.preprocess.resolution, dtype=torch.uint8)
        pixels = torch.stack([nothing if isinstance(one, Exception) else one for one in decoded])
        return pixels, [ValueError(str(one)) if isinstance(one, Exception) else None for one in decoded]


def decode_ahead(
    sources: Sequence[Source], preprocess: Preprocess, order: Iterable[int], workers: int
) -> Iterator[Decoded]:
    """Yield pictures in an order, or what is wrong with them; worker processes decode the next few groups."""
    pictures = _Pictures(sources, preprocess)
    # Without a generator of its own, the loader would draw from torch's and so change the training.
    loader = DataLoader(
        pictures,
        batch_size=GROUP,
        sampler=order,
        num_workers=workers,
        collate_fn=pictures.collate,
        worker_init_fn=_leave_signals_to_the_main_process if workers else None,
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        generator=torch.Generator(),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
        groups = iter(loader)
    for pixels, errors in groups:
        for image, error in zip(pixels, errors, strict=True):
            yield error or image


def _leave_signals_to_the_main_process(_: int) -> None:
    """Ctrl-C reaches all processes of a terminal, but only the main one should finish its step and save.

    SIGTERM comes from the loader, for a worker that is slow to end; it takes any other exit for an error.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


# --- before a training ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Survey:
    """What is known of pictures that were all decoded once: the readable ones, and what is wrong with the others.

    pictures (P') are the indices of the readable ones; digests (P') the SHA-256 of their pixels; signatures (P', 192)
    their thumbnails, uint8.
    """

    pictures: list[int]
    digests: list[bytes]
    signatures: torch.Tensor
    problems: list[str] = field(default_factory=list)


def survey(sources: Sequence[Source], preprocess: Preprocess, workers: int) -> Survey:
    """Decode every picture once, unless that has been done before."""
    problems: list[str] = []

    def look(missing: list[int]) -> tuple[list[int], torch.Tensor]:
        found: list[int] = []
        # In one buffer from the start: small tensors between the large ones that made them would fragment the memory,
        # by gigabytes for 20,000 pictures.
        rows = torch.empty(len(missing), DIGEST + 3 * SIGNATURE**2, dtype=torch.uint8)
        decoded = decode_ahead(sources, preprocess, missing, workers)
        bar = tqdm(decoded, "checking pictures (once)", len(missing), leave=False, disable=not sys.stderr.isatty())
        for i, image in zip(missing, bar, strict=True):
            if isinstance(image, Exception):
                problems.append(str(image))
                continue
            rows[len(found), :DIGEST] = torch.frombuffer(bytearray(digest(image)), dtype=torch.uint8)
            rows[len(found), DIGEST:] = signature(image)
            found.append(i)
        return found, rows[: len(found)]

    pictures, rows = remembered(f"survey {preprocess}", sources, look)
    return Survey(pictures, [bytes(row[:DIGEST].tolist()) for row in rows], rows[:, DIGEST:], problems)
