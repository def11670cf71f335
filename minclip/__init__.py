"""CLIP from scratch, small enough to read in an afternoon.

The names below are imported when they are first used, so that `minclip --help` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from minclip.formats import load
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

_MODULES = {
    "minclip.formats": ("load",),
    "minclip.loss": ("clip_loss", "clip_loss_onehot", "loss_floor", "siglip_loss"),
    "minclip.model": ("CLIP", "PRESETS", "CLIPConfig"),
    "minclip.tokenizer": ("Tokenizer",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
