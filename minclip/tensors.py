"""Tensors in a safetensors file that carries a checksum of itself: one that was cut or changed is refused by name."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from minclip.files import replacing

CHECKSUM = "sha256"  # its name in the metadata; files of an older version have none


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write tensors and metadata beside `path`, and rename the file to it."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(tensors, metadata=metadata | {CHECKSUM: checksum(tensors, metadata)})
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors, on the CPU, and the metadata of a file. Raises ValueError, with its name, if it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    stored = metadata.pop(CHECKSUM, None)
    if stored is not None and stored != checksum(tensors, metadata):
        raise ValueError(f"{path} is damaged: its checksum does not fit its content")
    return tensors, metadata


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a file, without its tensors. Raises ValueError if it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def checksum(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> str:
    """SHA-256 of everything in a file: names, dtypes, shapes, numbers, metadata."""
    layout = [(name, str(tensor.dtype), list(tensor.shape)) for name, tensor in sorted(tensors.items())]
    digest = hashlib.sha256(json.dumps([layout, sorted(metadata.items())]).encode())
    for _, tensor in sorted(tensors.items()):
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
