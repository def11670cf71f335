"""One value for everything that is known about a trained model, whatever file it came from."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from minclip.images import IMAGE_MEAN, IMAGE_STD, Preprocess
from minclip.model import CLIP, CLIPConfig
from minclip.tokenizer import Tokenizer

TRAINED_ON = ("data", "language", "skip_bad")  # keys that `training` must have for eval and search
OWN = "minclip"  # our entry in the configurations of other projects
MAX_JSON = 16 * 2**20  # bytes; the largest vocab.json of a CLIP has a million bytes


@dataclass(frozen=True)
class Saved:
    """A model as it is stored: sizes, weights, tokenizer, preparation of pictures, and the options of its training.

    `state` maps OpenAI's parameter names to tensors of any floating dtype; `training` is what config.json keeps;
    `match` is the lowest cosine of a picture and a text that match, if the model was calibrated.
    """

    config: CLIPConfig
    state: dict[str, torch.Tensor]
    tokenizer: Tokenizer
    preprocess: Preprocess
    training: dict[str, Any]
    match: float | None = None

    def __post_init__(self) -> None:
        if self.match is not None and not -1 <= self.match <= 1:
            raise ValueError(f"the lowest cosine of a match is {self.match}; it must be from -1 to 1")

    def check(self) -> None:
        """Raise ValueError if the weights do not fit the configuration. Takes no memory, whatever the sizes say."""
        try:
            _check_layers(self.config, self.state)
            state = {name: tensor.to("meta") for name, tensor in self.state.items()}
            self._empty().load_state_dict(state, assign=True)
        except (RuntimeError, ValueError, TypeError) as error:
            reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
            raise ValueError(f"the weights do not fit the configuration: {reason}") from error

    def check_image_tower(self, format: str) -> None:
        """Raise ValueError, for a format with the weights of both towers, if the image tower is frozen."""
        if self.config.image_tower:
            raise ValueError(f"{format} has no place for the image tower {self.config.image_tower}: use --to minclip")

    def build(self, device: str = "cpu") -> CLIP:
        """The model in float32 and evaluation mode. Raises ValueError if the weights do not fit the configuration."""
        self.check()
        model = self._empty()
        state = {name: tensor.to(device, torch.float32, copy=True) for name, tensor in self.state.items()}
        model.load_state_dict(state, assign=True)
        return model.eval()

    def _empty(self) -> CLIP:
        """The model without memory for its weights."""
        with torch.device("meta"):
            return CLIP(self.config, self.preprocess)


def count_blocks(names: Iterable[str], tower: str) -> int:
    """The number of blocks of a tower, whose names are `tower` + "0." …: "transformer.resblocks." is the text tower."""
    return len({name[len(tower) :].split(".")[0] for name in names if name.startswith(tower)})


def _check_layers(config: CLIPConfig, state: dict[str, torch.Tensor]) -> None:
    towers = {"vision_layers": "visual.transformer.resblocks.", "transformer_layers": "transformer.resblocks."}
    for name, tower in towers.items():
        if getattr(config, name) != count_blocks(state, tower):
            raise ValueError(f"{name} is {getattr(config, name)}, the weights have {count_blocks(state, tower)}")


def describe(config: CLIPConfig, preprocess: Preprocess, training: dict[str, Any]) -> dict[str, Any]:
    """The content of config.json."""
    return {"model": asdict(config), "preprocess": asdict(preprocess), "training": training}


def parse(content: dict[str, Any]) -> tuple[CLIPConfig, Preprocess, dict[str, Any]]:
    """The reverse of `describe`. Fields that an older version did not write take their defaults.

    Raises KeyError, TypeError or ValueError for anything else.
    """
    config = CLIPConfig(**content["model"])
    fields = content.get("preprocess", {"resolution": config.image_resolution})
    colours: dict[str, Any] = {name: tuple(fields[name]) for name in ("mean", "std") if name in fields}
    preprocess = Preprocess(**(fields | colours))
    training = {name: content["training"][name] for name in TRAINED_ON} | content["training"]
    return config, preprocess, training


def to_json(content: dict[str, Any], indent: int | None = None) -> str:
    """JSON that keeps letters of all languages readable."""
    return json.dumps(content, indent=indent, ensure_ascii=False)


# --- configurations of other projects ---------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file of at most 16 MiB. Raises ValueError that names the file."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise ValueError(f"it has {path.stat().st_size} bytes, at most {MAX_JSON} are read")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it is not a JSON object")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(to_json(content, indent=2) + "\n", encoding="utf-8")


def flatten(content: dict[str, Any]) -> dict[str, Any]:
    """`{"a": {"b": 1}, "c": 2}` as `{"a.b": 1, "c": 2}`."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= {f"{name}.{inner}": item for inner, item in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """The reverse of `flatten`."""
    content: dict[str, Any] = {}
    for name, value in flat.items():
        group, dot, inner = name.partition(".")
        if dot:
            content.setdefault(group, {})[inner] = value
        else:
            content[name] = value
    return content


def own_part(preprocess: Preprocess) -> dict[str, Any]:
    """What only minclip does with pictures, as an entry that other projects ignore in their configurations."""
    return {OWN: {"trim": True}} if preprocess.trim else {}


def read_preprocess(resolution: int, mean: Any, std: Any, content: dict[str, Any]) -> Preprocess:
    """The preparation of pictures as OpenAI's, with another mean and standard deviation where they are given.

    `content` is the configuration to which `own_part` may have been added.
    """
    mean, std = (tuple(map(float, values or standard)) for values, standard in ((mean, IMAGE_MEAN), (std, IMAGE_STD)))
    if len(mean) != 3 or len(std) != 3 or not all(std):
        raise ValueError(f"the mean {mean} and standard deviation {std} must be three numbers each, the latter not 0")
    return Preprocess(resolution, mean, std, trim=content.get(OWN) == {"trim": True})
