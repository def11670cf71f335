"""A run folder: `model.safetensors`, `config.json` and `merges.txt.gz`, each written beside and renamed."""

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
    with replacing(run / MODEL) as temporary:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        temporary.write_bytes(save(state, metadata={"config": json.dumps(asdict(model.config))}))


def newest_run() -> Path:
    """The folder under runs/ whose weights were written last. Raises FileNotFoundError when there is none."""
    runs = [path.parent for path in RUNS.glob(f"*/{MODEL}")]
    if not runs:
        raise FileNotFoundError(
            f"no trained model under {RUNS.absolute()}: `minclip train` makes one in minutes, or name one with --run"
        )
    return max(runs, key=lambda run: (run / MODEL).stat().st_mtime_ns)


def read_config(run: str | Path) -> tuple[CLIPConfig, dict[str, Any]]:
    """The model's configuration and the options it was trained with. Raises ValueError when config.json is damaged."""
    path = Path(run) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{run} is not a run folder: it has no {CONFIG}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        training = {name: content["training"][name] for name in TRAINED_ON} | content["training"]
        return CLIPConfig(**content["model"]), training
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged or of another version of minclip: {error!r}") from error


def load(path: str | Path, device: str = "cpu") -> tuple[CLIP, Callable[[Image.Image], torch.Tensor], Tokenizer]:
    """A trained run as `(model, preprocess, tokenizer)`; the model is in evaluation mode, on `device`.

    `preprocess(picture)` makes a (3, R, R) float32 tensor of a PIL picture of any mode, as the command line
    does. Raises FileNotFoundError when a file is missing, ValueError when one is damaged or does not fit the others.
    """
    run = Path(path)
    config, _ = read_config(run)
    if not (run / MODEL).is_file() or not (run / MERGES).is_file():
        missing = MERGES if (run / MODEL).is_file() else MODEL
        raise FileNotFoundError(f"{run} is not a complete run folder: it has no {missing}")
    tokenizer = Tokenizer.load(run / MERGES)
    if tokenizer.vocab_size != config.vocab_size:
        sizes = f"{tokenizer.vocab_size} tokens, {CONFIG} says {config.vocab_size}"
        raise ValueError(f"{run / MERGES} is of another run: it makes {sizes}")
    try:
        with safe_open(run / MODEL, framework="pt") as file:
            if json.loads(file.metadata()["config"]) != asdict(config):
                raise ValueError("its weights are of another configuration")
            model = CLIP(config)
            model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{run / MODEL} is damaged, or does not fit {CONFIG}: {reason}") from error

    def preprocess(picture: Image.Image) -> torch.Tensor:
        return normalize(to_tensor(to_rgb(picture), config.image_resolution))

    return model.to(device).eval(), preprocess, tokenizer
