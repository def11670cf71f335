"""A pretrained image tower that says which training pictures resemble each other.

The tower is the EfficientNet-Lite0 of `frozen.py`.
"""

import torch
import torch.nn.functional as F

from minclip.frozen import EFFICIENTNET, MEAN, RESOLUTION, STD, load_extractor
from minclip.images import normalize

TEMPERATURE = 0.1


@torch.no_grad()
def teacher_features(images: torch.Tensor, device: torch.device, batch_size: int = 128) -> torch.Tensor:
    """What the teacher sees in pictures (P, 3, R, R) uint8: (P, 1280) float32, each column standardised."""
    net = load_extractor(EFFICIENTNET).to(device)
    parts = []
    for part in images.split(batch_size):
        large = F.interpolate(part.to(device).float(), RESOLUTION, mode="bilinear")
        parts.append(net(normalize(large, MEAN, STD)))
    features = torch.cat(parts)
    return (features - features.mean(0)) / (features.std(0) + 1e-3)


def resemblance_loss(image_features: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """How far the similarities of pictures in a batch are from those that the teacher sees: a mean of KL divergences.

    image_features: (B, E); seen: the teacher's features (B, C) of the same pictures. Each row of cosines, the teacher's
    and ours, becomes probabilities over the other pictures (Fang et al. 2021, SEED, arXiv:2101.04731).
    """
    ours, theirs = (_log_resemblance(features) for features in (image_features, seen))
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def _log_resemblance(features: torch.Tensor) -> torch.Tensor:
    unit = F.normalize(features.float(), dim=1)
    cosines = unit @ unit.T  # (B, B)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    return (cosines / TEMPERATURE).masked_fill(itself, -1e4).log_softmax(1)
