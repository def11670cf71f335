"""CLIP: two towers, one embedding space, one temperature.

Source: Radford et al. 2021 (arXiv:2103.00020). Parameter names and shapes are those of OpenAI's release, so its weights
load with `load_state_dict`.
"""

import math
from dataclasses import asdict, dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from minclip.frozen import FrozenTower
from minclip.images import Preprocess
from minclip.text import TextTransformer
from minclip.vision import VisionTransformer

# "clipped to prevent scaling the logits by more than 100", section 2.5
MAX_LOGIT_SCALE = math.log(100)


NOT_FROZEN = ("vision_layers", "vision_heads", "vision_patch_size")  # sizes that a frozen image tower does not have


@dataclass(frozen=True, kw_only=True)
class CLIPConfig:
    """Sizes of both towers, under OpenAI's names. Raises ValueError for a size that is not a positive whole number.

    `quick_gelu` selects OpenAI's activation instead of plain GELU, `logit_bias` adds the bias of SigLIP's loss.
    `image_tower` names an extractor of `frozen.py`; `vision_width` is then the number of its features, and the other
    sizes of the image tower are 0.
    """

    embed_dim: int
    image_resolution: int
    vision_layers: int
    vision_width: int
    vision_heads: int
    vision_patch_size: int
    context_length: int
    vocab_size: int
    transformer_width: int
    transformer_heads: int
    transformer_layers: int
    quick_gelu: bool = True
    logit_bias: bool = False
    image_tower: str | None = None

    def __post_init__(self) -> None:
        absent = NOT_FROZEN if self.image_tower else ()
        for name, value in asdict(self).items():
            if name in absent:
                if value != 0:
                    raise ValueError(f"{name} is {value!r}; it must be 0 beside the image tower {self.image_tower}")
            elif name not in ("quick_gelu", "logit_bias", "image_tower") and (type(value) is not int or value < 1):
                raise ValueError(f"{name} is {value!r}; it must be a positive whole number")


# The sizes of OpenAI's models are those of Table 20 of the paper.
_VIT_B_32 = CLIPConfig(
    embed_dim=512,
    image_resolution=224, vision_layers=12, vision_width=768, vision_heads=12, vision_patch_size=32,
    context_length=77, vocab_size=49408, transformer_width=512, transformer_heads=8, transformer_layers=12,
)  # fmt: skip
PRESETS = {
    "ViT-B/32": _VIT_B_32,
    "ViT-B/16": replace(_VIT_B_32, vision_patch_size=16),
    "ViT-L/14": replace(
        _VIT_B_32, embed_dim=768,
        vision_layers=24, vision_width=1024, vision_heads=16, vision_patch_size=14,
        transformer_width=768, transformer_heads=12,
    ),
    # This size learns the emoji in minutes on two CPU cores.
    "emoji": CLIPConfig(
        embed_dim=128,
        image_resolution=48, vision_layers=4, vision_width=128, vision_heads=4, vision_patch_size=12,
        context_length=32, vocab_size=1536, transformer_width=128, transformer_heads=4, transformer_layers=2,
        quick_gelu=False,
    ),
    # This size is that of the models that ship with minclip.
    "emoji-wide": CLIPConfig(
        embed_dim=128,
        image_resolution=48, vision_layers=4, vision_width=192, vision_heads=6, vision_patch_size=12,
        context_length=32, vocab_size=1536, transformer_width=128, transformer_heads=4, transformer_layers=2,
        quick_gelu=False,
    ),
    # This size runs in seconds, only to see that everything works.
    "smoke": CLIPConfig(
        embed_dim=32,
        image_resolution=24, vision_layers=1, vision_width=32, vision_heads=2, vision_patch_size=12,
        context_length=32, vocab_size=768, transformer_width=32, transformer_heads=2, transformer_layers=1,
        quick_gelu=False,
    ),
}  # fmt: skip


class CLIP(TextTransformer):
    """Turns pictures and texts into features that are compared by their cosine.

    In OpenAI's release the parameters of the image tower begin with `visual.` and those of the text tower have no
    prefix: by these names CLIP *is* its text tower with an image tower beside it, and so is this class.
    `preprocess` prepares pictures for this model; by default with OpenAI's mean and standard deviation.
    """

    def __init__(self, config: CLIPConfig, preprocess: Preprocess | None = None) -> None:
        super().__init__(
            config.context_length,
            config.vocab_size,
            config.transformer_width,
            config.transformer_layers,
            config.transformer_heads,
            config.embed_dim,
            config.quick_gelu,
        )
        self.config = config
        self.preprocess = preprocess or Preprocess(config.image_resolution)
        if config.image_tower:
            self.visual = FrozenTower(config.image_tower, config.vision_width, config.embed_dim)
        else:
            self.visual = VisionTransformer(
                config.image_resolution,
                config.vision_patch_size,
                config.vision_width,
                config.vision_layers,
                config.vision_heads,
                config.embed_dim,
                config.quick_gelu,
            )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10 if config.logit_bias else 1 / 0.07)))
        if config.logit_bias:
            # Almost all pairs are negatives, so the model starts by predicting "no match" (SigLIP, arXiv:2303.15343,
            # section 3.2).
            self.logit_bias = nn.Parameter(torch.tensor(-10.0))

    @property
    def device(self) -> torch.device:
        return self.logit_scale.device

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, R, R), normalised by `preprocess`, to features (B, E), not normalised.

        A frozen image tower also takes its extractor's features (B, C) of the pictures.
        """
        return self.visual(image)

    def set_grad_checkpointing(self, enabled: bool) -> None:
        """Let both towers recompute the activations inside their blocks for the gradient, instead of keeping them."""
        self.transformer.grad_checkpointing = enabled
        if isinstance(self.visual, VisionTransformer):
            self.visual.transformer.grad_checkpointing = enabled

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures (B, 3, R, R) and token ids (N, T) to logits_per_image (B, N) and logits_per_text (N, B)."""
        image_features = F.normalize(self.encode_image(image), dim=-1)
        text_features = F.normalize(self.encode_text(text), dim=-1)
        logits_per_image = self.logit_scale.exp() * image_features @ text_features.T
        if self.config.logit_bias:
            logits_per_image = logits_per_image + self.logit_bias
        return logits_per_image, logits_per_image.T

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep the scale at 100 or less; call it after every optimizer step."""
        self.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
