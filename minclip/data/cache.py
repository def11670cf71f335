"""Tensors that take long to compute, in files of the user's cache folder."""

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path

import platformdirs
import safetensors
import torch
from safetensors.torch import save

from minclip.files import replacing


def cached(name: str, shape: tuple[int, ...], compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    """What `compute` returns, a tensor of this shape, from the cache if it has it under this name."""
    path = Path(platformdirs.user_cache_dir("minclip")) / f"{name}.safetensors"
    content = _read(path, shape)
    if content is None:
        content = compute()
        _write(path, content)
    return content


def checksum(*tensors: torch.Tensor) -> str:
    """SHA-256 of the shapes and numbers."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(repr(tuple(tensor.shape)).encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path, shape: tuple[int, ...]) -> torch.Tensor | None:
    """The tensor in a file, or None if there is no such file or it is damaged; it is then computed again."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            content, stored = file.get_tensor("images"), file.metadata()["sha256"]
    except Exception:
        # Whatever is wrong with the file, it is only a cache.
        return None
    return content if content.shape == shape and checksum(content) == stored else None


def _write(path: Path, content: torch.Tensor) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(save({"images": content}, metadata={"sha256": checksum(content)}))
    except OSError as error:
        message = f"the same is computed again next time: {path} cannot be written ({error})"
        warnings.warn(message, stacklevel=2)
