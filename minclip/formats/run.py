"""minclip's own two formats.

A run folder holds `model.safetensors`, `config.json` and `merges.txt.gz`, each written beside its target and renamed,
and `best.safetensors` if pictures were held out.
An export is one safetensors file: the weights in float16, and the content of the other two in its metadata.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from minclip.files import check_new, replacing
from minclip.formats.saved import Saved, describe, parse, to_json
from minclip.images import Preprocess
from minclip.model import CLIP, CLIPConfig
from minclip.tensors import read_metadata, read_tensors, write_tensors
from minclip.tokenizer import Tokenizer

MODEL, CONFIG, MERGES = "model.safetensors", "config.json", "merges.txt.gz"
BEST = "best.safetensors"  # the weights with the best score on held-out pictures
RUNS = Path("runs")
WEIGHTS = Path(__file__).parents[1] / "weights"
# the models that ship with minclip, by the language of their captions
PACKAGED = {"en": WEIGHTS / "emoji.safetensors", "zh": WEIGHTS / "emoji-zh.safetensors"}
IN_METADATA = {"model": "config", "preprocess": "preprocess", "training": "training"}  # config.json -> export


def newest_run() -> Path | None:
    """The folder under runs/ whose weights were written last, or None if there is none."""
    runs = [path.parent for path in RUNS.glob(f"*/{MODEL}")]
    return max(runs, key=lambda run: (run / MODEL).stat().st_mtime_ns, default=None)


def newest_setup() -> Path:
    """The folder under runs/ in which a training began last. Raises FileNotFoundError if there is none."""
    runs = [path.parent for path in RUNS.glob(f"*/{CONFIG}")]
    if not runs:
        raise FileNotFoundError(f"no run under {RUNS.absolute()} to resume: name its folder after --resume")
    return max(runs, key=lambda run: (run / CONFIG).stat().st_mtime_ns)


# --- a run folder -----------------------------------------------------------------------------------------------------


def save_setup(run: Path, model: CLIP, tokenizer: Tokenizer, training: dict[str, Any]) -> None:
    """Write what a run starts with: the configuration, the options of the training, and the merges."""
    tokenizer.save(run / MERGES)
    with replacing(run / CONFIG) as temporary:
        content = to_json(describe(model.config, model.preprocess, training), indent=2)
        temporary.write_text(content + "\n", encoding="utf-8")


def read_setup(path: Path) -> tuple[CLIPConfig, Preprocess, dict[str, Any]]:
    """What config.json says of a run. Raises ValueError if it is damaged."""
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged or of another version of minclip: {error!r}") from error


def save_weights(run: Path, model: CLIP, name: str = MODEL) -> None:
    """Write the weights of a run in float32."""
    _write_weights(run / name, model.state_dict(), torch.float32, {"config": to_json(asdict(model.config))})


def read_folder(path: Path, weights: str = MODEL) -> Saved:
    """Read a run folder, with the last weights or the BEST.

    Raises FileNotFoundError for a missing file, ValueError for one that is damaged or does not fit the others.
    """
    for name in (CONFIG, MERGES, weights):
        if not (path / name).is_file():
            raise FileNotFoundError(f"{path} is not a run folder: it has no {name}")
    config, preprocess, training = read_setup(path / CONFIG)
    tokenizer = Tokenizer.load(path / MERGES)
    _check_vocabulary(tokenizer, config, path / MERGES, CONFIG)
    state, metadata = read_tensors(path / weights)
    try:
        is_same = CLIPConfig(**json.loads(metadata["config"])) == config
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path / weights} is damaged: its metadata has no readable configuration") from error
    if not is_same:
        raise ValueError(f"{path / weights} is damaged, or does not fit {CONFIG}: it has another configuration")
    return Saved(config, state, tokenizer, preprocess, training)


# --- an export --------------------------------------------------------------------------------------------------------


def write_export(saved: Saved, path: str | Path) -> None:
    """Write a model into one new file, with the weights in float16.

    Raises FileExistsError if `path` exists, FileNotFoundError if its folder does not, ValueError if the weights do
    not fit the configuration or one is too large for float16.
    """
    check_new(path)
    largest = max(parameter.abs().max().item() for parameter in saved.build().parameters())
    if largest > torch.finfo(torch.float16).max:
        raise ValueError(f"the model has a weight of {largest:.3g}, and float16 ends at 65504")
    content = describe(saved.config, saved.preprocess, saved.training)
    metadata = {IN_METADATA[name]: to_json(part) for name, part in content.items()}
    if saved.match is not None:
        metadata["match"] = str(saved.match)
    _write_weights(Path(path), saved.state, torch.float16, metadata | {"merges": saved.tokenizer.to_text()})


def is_own(path: Path) -> bool:
    """Whether a file is an export, or the weights of a run. Raises ValueError if it is damaged."""
    return path.suffix == ".safetensors" and "config" in read_metadata(path)


def read_export(path: Path) -> Saved:
    """Read a file of `write_export`. Raises ValueError if it is another file, or damaged."""
    state, metadata = read_tensors(path)
    if not metadata.keys() >= {"config", "training", "merges"}:
        raise ValueError(f"{path} is not a file of `minclip export`; for a run, name its folder")
    try:
        content = {name: json.loads(metadata[key]) for name, key in IN_METADATA.items() if key in metadata}
        config, preprocess, training = parse(content)
        match = float(metadata["match"]) if "match" in metadata else None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged or of another version of minclip: {error!r}") from error
    tokenizer = Tokenizer.from_text(metadata["merges"], path)
    _check_vocabulary(tokenizer, config, path, "its metadata")
    return Saved(config, state, tokenizer, preprocess, training, match)


# --- shared by both ---------------------------------------------------------------------------------------------------


def _check_vocabulary(tokenizer: Tokenizer, config: CLIPConfig, merges: Path, config_name: str) -> None:
    if tokenizer.vocab_size != config.vocab_size:
        sizes = f"{tokenizer.vocab_size} tokens, {config_name} says {config.vocab_size}"
        raise ValueError(f"{merges} belongs to another run: it makes {sizes}")


def _write_weights(path: Path, state: dict[str, torch.Tensor], dtype: torch.dtype, metadata: dict[str, str]) -> None:
    write_tensors(path, {name: tensor.detach().to(dtype) for name, tensor in state.items()}, metadata)
