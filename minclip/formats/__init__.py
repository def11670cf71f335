"""Models in files: `Saved` is one of them in memory, and each format has one reader and one writer."""

from pathlib import Path

from minclip.formats.hugging_face import is_hugging_face, read_hugging_face, write_hugging_face
from minclip.formats.openai import CONFIG as OPEN_CLIP_CONFIG
from minclip.formats.openai import read_openai, write_openai
from minclip.formats.run import (
    BEST,
    CONFIG,
    PACKAGED,
    is_own,
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
    "packaged",
    "read",
    "save_setup",
    "save_weights",
    "write_export",
    "write_hugging_face",
    "write_openai",
]


def read(path: str | Path, bpe: str | Path | None = None, quick_gelu: bool | None = None) -> Saved:
    """Read a run folder or `best.safetensors` in it, a file of `minclip export`, or weights of other projects.

    `bpe`, a file of merges, and `quick_gelu` are for weights of OpenAI and OpenCLIP that do not state them; see
    `read_openai`. Raises FileNotFoundError if a file is missing, ValueError if one is damaged, does not fit the others
    or cannot be represented.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such run folder, nor file of `minclip export`, nor other weights")
    saved = _read(path, bpe, quick_gelu)
    try:
        saved.check()
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return saved


def packaged(language: str) -> Path:
    """The model that ships with minclip for a language. Raises ValueError if there is none."""
    if language not in PACKAGED:
        raise ValueError(f"no model for language {language!r} ships with minclip; there are: {', '.join(PACKAGED)}")
    return PACKAGED[language]


def _read(path: Path, bpe: str | Path | None, quick_gelu: bool | None) -> Saved:
    if path.name == BEST and (path.parent / CONFIG).is_file():
        return read_folder(path.parent, BEST)
    if path.is_dir() and is_hugging_face(path):
        return read_hugging_face(path)
    if path.is_dir() and not (path / OPEN_CLIP_CONFIG).is_file():
        return read_folder(path)
    if path.is_file() and is_own(path):
        return read_export(path)
    return read_openai(path, bpe, quick_gelu)


def load(
    path: str | Path | None = None,
    device: str = "cpu",
    *,
    language: str = "en",
    bpe: str | Path | None = None,
    quick_gelu: bool | None = None,
) -> tuple[CLIP, Preprocess, Tokenizer]:
    """Load anything that `read` reads as `(model, preprocess, tokenizer)`.

    Without a path, load the model that ships with minclip for a language, "en" or "zh";
    minclip/weights/MODEL_CARD.md says what these can do.
    The model is in float32 and evaluation mode, on `device`. `preprocess(picture)` turns a PIL picture of any mode into
    a (3, R, R) float32 tensor, as the command line does. Raises what `read` raises.
    """
    saved = read(path or packaged(language), bpe, quick_gelu)
    return saved.build(device), saved.preprocess, saved.tokenizer
