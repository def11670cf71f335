"""One value for everything that is known about a trained model, whatever file it came from."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import torch

from minclip.images import Preprocess
from minclip.model import CLIP, CLIPConfig
from minclip.tokenizer import Tokenizer

TRAINED_ON = ("data", "language", "skip_bad")  # what `training` must have, for eval and search


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

    def build(self, device: str = "cpu") -> CLIP:
        """The model in float32 and evaluation mode. Raises ValueError if the weights do not fit the configuration."""
        try:
            model = CLIP(self.config, self.preprocess)
            model.load_state_dict(self.state)
        except (RuntimeError, ValueError, TypeError) as error:
            raise ValueError(f"the weights do not fit the configuration: {str(error).splitlines()[0]}") from error
        return model.to(device).eval()


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
