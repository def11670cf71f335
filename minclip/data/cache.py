"""Tensors that take long to compute, in files of the user's cache folder."""

import warnings
from collections.abc import Callable
from pathlib import Path

import platformdirs
import torch

from minclip.tensors import read_tensors, write_tensors


def cached(name: str, shape: tuple[int, ...], compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    """What `compute` returns, a tensor of this shape, from the cache if it has it under this name."""
    stored = read(name)
    if "images" in stored and stored["images"].shape == shape:
        return stored["images"]
    content = compute()
    write(name, {"images": content})
    return content


def read(name: str) -> dict[str, torch.Tensor]:
    """The tensors under this name; none if there is no such file, or if it is damaged."""
    try:
        return read_tensors(_path(name))[0]
    except (OSError, ValueError):
        return {}


def write(name: str, tensors: dict[str, torch.Tensor]) -> None:
    """Keep tensors under this name; a folder that cannot be written to gives a warning."""
    path = _path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, tensors, {})
    except OSError as error:
        message = f"the result will be computed again next time: {path} cannot be written ({error})"
        warnings.warn(message, stacklevel=3)


def _path(name: str) -> Path:
    return Path(platformdirs.user_cache_dir("minclip")) / f"{name}.safetensors"
