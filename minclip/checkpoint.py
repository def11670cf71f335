"""A run folder: `model.safetensors`, `config.json` and `merges.txt.gz`, each written beside and renamed.

Or an export: one file with the weights in float16, and what the other two say in its metadata.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from minclip.data import normalize, to_rgb, to_tensor
from minclip.files import replacing
from minclip.model import CLIP, CLIPConfig
from minclip.tokenizer import Tokenizer

MODEL, CONFIG, MERGES = "model.safetensors", "config.json", "merges.txt.gz"
RUNS = Path("runs")
TRAINED_ON = ("data", "language", "skip_bad")  # what `training` in config.json must say, for eval and search


def save_setup(run: Path, config: CLIPConfig, tokenizer: Tokenizer, training: dict[str, Any]) -> None:
    """What a run starts with: the configuration (`training` says how it was trained) and the merges."""
    tokenizer.save(run / MERGES)
    with replacing(run / CONFIG) as temporary:
        content = json.dumps({"model": asdict(config), "training": training}, indent=2, ensure_ascii=False)
        temporary.write_text(content + "\n", encoding="utf-8")


def save_weights(run: Path, model: CLIP) -> None:
    _write_weights(run / MODEL, model, torch.float32, {})


def export(run: str | Path, path: str | Path) -> None:
    """Write a run (a folder, or an earlier export) into one new file for `load`, with the weights in float16.

    Raises FileExistsError when `path` is there already, FileNotFoundError when its folder is not, ValueError when a
    weight is too large for float16; and what `load` raises.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} is there already, and nothing is written over: choose another name")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: there is no folder {path.absolute().parent}")
    model, _, tokenizer = load(run)
    largest = max(parameter.abs().max().item() for parameter in model.parameters())
    if largest > torch.finfo(torch.float16).max:
        raise ValueError(f"{run} has a weight of {largest:.3g}, and float16 ends at {torch.finfo(torch.float16).max:g}")
    _, training = read_config(run)
    said = {"training": json.dumps(training, ensure_ascii=False), "merges": tokenizer.to_text()}
    _write_weights(path, model, torch.float16, said)


def _write_weights(path: Path, model: CLIP, dtype: torch.dtype, said: dict[str, str]) -> None:
    state = {name: tensor.detach().cpu().to(dtype).contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path) as temporary:
        temporary.write_bytes(save(state, metadata={"config": json.dumps(asdict(model.config)), **said}))


def newest_run() -> Path:
    """The folder under runs/ whose weights were written last. Raises FileNotFoundError when there is none."""
    runs = [path.parent for path in RUNS.glob(f"*/{MODEL}")]
    if not runs:
        raise FileNotFoundError(
            f"no trained model under {RUNS.absolute()}: `minclip train` makes one in minutes, or name one with --run"
        )
    return max(runs, key=lambda run: (run / MODEL).stat().st_mtime_ns)


def _file_of(path: Path, name: str) -> Path:
    """The file `name` of a run folder, or the exported file itself, which has the contents of all of them."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such run folder, nor file of `minclip export`")
    file = path if path.is_file() else path / name
    if not file.is_file():
        raise FileNotFoundError(f"{path} is not a run folder: it has no {name}")
    return file


def _metadata(path: Path) -> dict[str, str]:
    """What an exported file says beside its weights. Raises ValueError when it is none."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not metadata.keys() >= {"config", "training", "merges"}:
        raise ValueError(f"{path} is not a file of `minclip export`; of a run, name the folder")
    return metadata


def read_config(path: str | Path) -> tuple[CLIPConfig, dict[str, Any]]:
    """The model's configuration and the options it was trained with, of a run folder or an exported file.

    Raises FileNotFoundError when it is neither, ValueError when it is damaged.
    """
    path = Path(path)
    source = _file_of(path, CONFIG)
    said = _metadata(path) if path.is_file() else None
    try:
        if said:
            content = {"model": json.loads(said["config"]), "training": json.loads(said["training"])}
        else:
            content = json.loads(source.read_text(encoding="utf-8"))
        training = {name: content["training"][name] for name in TRAINED_ON} | content["training"]
        return CLIPConfig(**content["model"]), training
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{source} is damaged or of another version of minclip: {error!r}") from error


def load(path: str | Path, device: str = "cpu") -> tuple[CLIP, Callable[[Image.Image], torch.Tensor], Tokenizer]:
    """A run folder, or a file of `export`, as `(model, preprocess, tokenizer)`.

    The model is in float32 and evaluation mode, on `device`. `preprocess(picture)` makes a (3, R, R) float32 tensor of
    a PIL picture of any mode, as the command line does. Raises FileNotFoundError when a file is missing, ValueError
    when one is damaged or does not fit the others.
    """
    path = Path(path)
    config, _ = read_config(path)
    config_name = "its metadata" if path.is_file() else CONFIG
    weights, merges = _file_of(path, MODEL), _file_of(path, MERGES)
    tokenizer = Tokenizer.from_text(_metadata(path)["merges"], path) if path.is_file() else Tokenizer.load(merges)
    if tokenizer.vocab_size != config.vocab_size:
        sizes = f"{tokenizer.vocab_size} tokens, {config_name} says {config.vocab_size}"
        raise ValueError(f"{merges} is of another run: it makes {sizes}")
    try:
        with safe_open(weights, framework="pt") as file:
            if json.loads(file.metadata()["config"]) != asdict(config):
                raise ValueError("its weights are of another configuration")
            model = CLIP(config)
            model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{weights} is damaged, or does not fit {config_name}: {reason}") from error

    def preprocess(picture: Image.Image) -> torch.Tensor:
        return normalize(to_tensor(to_rgb(picture), config.image_resolution))

    return model.to(device).eval(), preprocess, tokenizer
