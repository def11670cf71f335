"""CLIP from scratch, small enough to read in an afternoon."""

__version__ = "0.1.0"

from minclip.checkpoint import load
from minclip.loss import clip_loss, clip_loss_onehot, loss_floor, siglip_loss
from minclip.model import CLIP, PRESETS, CLIPConfig
from minclip.tokenizer import Tokenizer

__all__ = [
    "CLIP",
    "PRESETS",
    "CLIPConfig",
    "Tokenizer",
    "__version__",
    "clip_loss",
    "clip_loss_onehot",
    "load",
    "loss_floor",
    "siglip_loss",
]
