"""ONNX: each tower as a graph of its own with a batch of any size, to be run without PyTorch. Written, never read."""

import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from minclip.files import new_folder
from minclip.formats.saved import Saved, describe, write_json
from minclip.model import CLIP

PACKAGES = ("onnx", "onnxscript")  # what torch's exporter needs


class ImageTower(nn.Module):
    """`encode_image` as a module: pictures (B, 3, R, R), normalised, to features (B, E)."""

    def __init__(self, model: CLIP) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.model.encode_image(image)


class TextTower(nn.Module):
    """`encode_text` as a module: token ids (B, T) int64 to features (B, E)."""

    def __init__(self, model: CLIP) -> None:
        super().__init__()
        self.model = model

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        return self.model.encode_text(text)


def write_onnx(saved: Saved, path: str | Path) -> None:
    """Write a new folder with image.onnx and text.onnx, and the configuration and merges of a run folder.

    Features are float32 and not normalised; texts are padded with zeros to the context length. Raises FileExistsError
    if `path` exists, ValueError for a frozen image tower, ModuleNotFoundError without the packages of the extra
    `onnx`.
    """
    saved.check_image_tower("the format ONNX")
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"ONNX needs the packages {', '.join(missing)}: pip install 'minclip[onnx]'")
    model = saved.build()
    size, length = saved.config.image_resolution, saved.config.context_length
    with new_folder(path) as folder:
        _export(ImageTower(model), torch.zeros(2, 3, size, size), "image", folder)
        _export(TextTower(model), torch.zeros(2, length, dtype=torch.int64), "text", folder)
        write_json(folder / "config.json", describe(saved.config, saved.preprocess, saved.training))
        saved.tokenizer.save(folder / "merges.txt.gz")


def _export(tower: nn.Module, example: torch.Tensor, name: str, folder: Path) -> None:
    with warnings.catch_warnings():
        # torch warns about its own use of its pytree module.
        warnings.simplefilter("ignore", FutureWarning)
        torch.onnx.export(
            tower.eval(),
            (example,),
            folder / f"{name}.onnx",
            input_names=[name],
            output_names=["features"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
