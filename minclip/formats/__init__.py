"""Models in files: `Saved` is one of them in memory, and each format has one reader and one writer."""

from pathlib import Path

from minclip.formats.run import (
    BEST,
    CONFIG,
    PACKAGED,
    newest_run,
    read_export,
    read_folder,
    save_setup,
    save_weights,
    write_export,
)
from minclip.formats.saved import Saved
from minclip.images import Preprocess
from minclip.model import CLIP
from minclip.tokenizer import Tokenizer

__all__ = [
    "PACKAGED",
    "Saved",
    "load",
    "newest_run",
    "read",
    "save_setup",
    "save_weights",
    "write_export",
]


def read(path: str | Path) -> Saved:
    """Read a run folder, the file `best.safetensors` in one, or a file of `minclip export`.

    Raises FileNotFoundError if a file is missing, ValueError if one is damaged or does not fit the others.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such run folder, nor file of `minclip export`")
    if path.name == BEST and (path.parent / CONFIG).is_file():
        return read_folder(path.parent, BEST)
    return read_folder(path) if path.is_dir() else read_export(path)


def load(path: str | Path | None = None, device: str = "cpu") -> tuple[CLIP, Preprocess, Tokenizer]:
    """Load a run folder, or a file of `minclip export`, as `(model, preprocess, tokenizer)`.

    Without a path, load the model that ships with minclip; minclip/weights/MODEL_CARD.md says what it can do.
    The model is in float32 and evaluation mode, on `device`. `preprocess(picture)` turns a PIL picture of any mode into
    a (3, R, R) float32 tensor, as the command line does. Raises what `read` and `Saved.build` raise.
    """
    path = path or PACKAGED
    saved = read(path)
    try:
        model = saved.build(device)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return model, saved.preprocess, saved.tokenizer
