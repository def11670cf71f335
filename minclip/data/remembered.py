"""Rows of numbers that were computed from pictures, kept in the user's cache so that they are computed once."""

import hashlib
import os
from collections.abc import Callable, Sequence

import torch

from minclip.data import cache
from minclip.images import Source

Compute = Callable[[list[int]], tuple[list[int], torch.Tensor]]
KEY = 32  # bytes


def remembered(name: str, sources: Sequence[Source], compute: Compute) -> tuple[list[int], torch.Tensor]:
    """The rows (N, W) of pictures, and the index of the picture of each; pictures that cannot be read have none.

    `compute(indices)` computes rows that are not in the cache, and returns the indices that have one, and the rows.
    The cache has one file for each `name` and folder of pictures, with the rows of the last sources there: it does not
    grow beyond them. A picture whose name, size or time has changed is another picture.
    """
    wanted = hashlib.sha256(f"{name} {_folder(sources)}".encode()).hexdigest()[:24]
    keys = [_key(source) for source in sources]
    known, stored = _read(wanted)
    missing = [i for i, key in enumerate(keys) if key not in known]
    found, computed = compute(missing) if missing else ([], stored[:0])
    if not len(known):
        stored = computed[:0]
    place = {i: len(stored) + n for n, i in enumerate(found)}
    place |= {i: known[key] for i, key in enumerate(keys) if key in known}
    indices = sorted(place)
    rows = torch.cat([stored, computed])[[place[i] for i in indices]]
    if indices and (found or len(known) != len(indices)):
        flat = torch.frombuffer(bytearray(b"".join(keys[i] for i in indices)), dtype=torch.uint8).view(-1, KEY)
        cache.write(wanted, {"keys": flat, "rows": rows})
    return indices, rows


def _folder(sources: Sequence[Source]) -> str:
    """The folder that all pictures are in."""
    try:
        return os.path.commonpath([os.path.dirname(os.path.abspath(str(source))) for source in sources])
    except ValueError:
        return ""  # They are on several drives of Windows.


def _key(source: Source) -> bytes:
    try:
        return hashlib.sha256(repr(source.identity()).encode()).digest()
    except OSError:
        return b""  # It is not there, and never in the cache.


def _read(name: str) -> tuple[dict[bytes, int], torch.Tensor]:
    """The place of the row of each key, and the rows."""
    stored = cache.read(name)
    if stored.keys() != {"keys", "rows"} or len(stored["keys"]) != len(stored["rows"]):
        return {}, torch.empty(0, 0)
    content = stored["keys"].numpy().tobytes()
    return {content[start : start + KEY]: i for i, start in enumerate(range(0, len(content), KEY))}, stored["rows"]
