"""Drawings of emoji as pixels, drawn once by several processes and then read from a cache."""

import hashlib
import multiprocessing
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from tqdm import tqdm

from minclip.data.artists import Artist
from minclip.data.cache import cached
from minclip.images import Preprocess

FEW = 200  # up to this many drawings are made before other processes would have started


def drawings(artist: Artist, codes: Sequence[str], preprocess: Preprocess) -> torch.Tensor:
    """An artist's drawings (P, 3, R, R) uint8, prepared for a model and read from the cache if it has exactly these."""

    def draw_all() -> torch.Tensor:
        drawn, name = _draw_all(artist, codes, preprocess), f"drawing {artist.name}'s emoji (once)"
        bar = tqdm(drawn, name, len(codes), unit=" emoji", leave=False, disable=not sys.stderr.isatty())
        return torch.stack(list(bar))

    wanted = hashlib.sha256("\n".join(codes).encode()).hexdigest()[:12]
    size = f"{preprocess.resolution}px{'-trimmed' if preprocess.trim else ''}"
    shape = (len(codes), 3, preprocess.resolution, preprocess.resolution)
    return cached(f"{artist.name}-{size}-{artist.version}-{wanted}", shape, draw_all)


def draw(artist: Artist, preprocess: Preprocess, codes: str) -> torch.Tensor:
    """A drawing as a model sees it: (3, R, R) uint8."""
    # A trimmed drawing is enlarged, by half and more, so it is drawn larger to stay sharp.
    size = preprocess.resolution * 3 // 2 if preprocess.trim else preprocess.resolution
    return preprocess.pixels(artist.draw(codes, size))


def _draw_all(artist: Artist, codes: Sequence[str], preprocess: Preprocess) -> Iterator[torch.Tensor]:
    """Yield the drawings in order; on Linux one process for each core draws, as resvg holds Python's global lock."""
    draw_one = partial(draw, artist, preprocess)
    if len(codes) < FEW or sys.platform != "linux":
        yield from map(draw_one, codes)
        return
    # Forked processes start at once and do not run the user's script again. They use none of torch's threads.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
        pool = multiprocessing.get_context("fork").Pool(len(os.sched_getaffinity(0)))
    with pool:
        for pixels in pool.imap(partial(_draw_array, draw_one), codes, chunksize=32):
            yield torch.from_numpy(pixels)


def _draw_array(draw_one, codes):
    # As a numpy array it is pickled; a tensor would take up a file descriptor of shared memory.
    return draw_one(codes).numpy()
