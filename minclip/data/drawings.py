"""Drawings of emoji as pixels, drawn once by several processes and then read from a cache."""

import hashlib
import multiprocessing
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import platformdirs
import safetensors
import torch
from safetensors.torch import save
from tqdm import tqdm

from minclip.data.artists import Artist
from minclip.files import replacing
from minclip.images import Preprocess

FEW = 200  # so many drawings are made sooner than other processes are started


def drawings(artist: Artist, codes: Sequence[str], preprocess: Preprocess) -> torch.Tensor:
    """An artist's drawings (P, 3, R, R) uint8, prepared for a model and read from the cache if it has exactly these."""
    path = _cache_file(artist, codes, preprocess)
    images = _read_cache(path, (len(codes), 3, preprocess.resolution, preprocess.resolution))
    if images is None:
        name = f"drawing {artist.name}'s emoji (once)"
        drawn = _draw_all(artist, codes, preprocess)
        bar = tqdm(drawn, name, len(codes), unit=" emoji", leave=False, disable=not sys.stderr.isatty())
        images = torch.stack(list(bar))
        _write_cache(path, images)
    return images


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


# --- the cache --------------------------------------------------------------------------------------------------------


def _cache_file(artist: Artist, codes: Sequence[str], preprocess: Preprocess) -> Path:
    wanted = hashlib.sha256("\n".join(codes).encode()).hexdigest()[:12]
    shape = f"{preprocess.resolution}px{'-trimmed' if preprocess.trim else ''}"
    folder = Path(platformdirs.user_cache_dir("minclip"))
    return folder / f"{artist.name}-{shape}-{artist.version}-{wanted}.safetensors"


def _checksum(images: torch.Tensor) -> str:
    return hashlib.sha256(images.numpy().data).hexdigest()


def _read_cache(path: Path, shape: tuple[int, ...]) -> torch.Tensor | None:
    """The cached drawings, or None if there is no such file or it is damaged; they are then drawn again."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            images, checksum = file.get_tensor("images"), file.metadata()["sha256"]
    except Exception:
        # Whatever is wrong with the file, it is only a cache.
        return None
    return images if images.shape == shape and _checksum(images) == checksum else None


def _write_cache(path: Path, images: torch.Tensor) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(save({"images": images}, metadata={"sha256": _checksum(images)}))
    except OSError as error:
        warnings.warn(f"the emoji will be drawn again next time: {path} cannot be written ({error})", stacklevel=2)
