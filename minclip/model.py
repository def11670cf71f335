"""CLIP: two towers, one embedding space, one temperature.

Source: Radford et al. 2021 (arXiv:2103.00020). Parameter names and shapes are those of OpenAI's release, so its weights
load with `load_state_dict`.
"""

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

from minclip.text import TextTransformer
from minclip.vision import VisionTransformer

MAX_LOGIT_SCALE = math.log(100)  # "clipped to prevent scaling the logits by more than 100", section 2.5


@dataclass(frozen=True)
class CLIPConfig:
    """Sizes of both towers, under OpenAI's names.

    `quick_gelu`: OpenAI's activation; plain GELU otherwise. `logit_bias`: a bias beside the scale, for SigLIP's loss.
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

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name not in ("quick_gelu", "logit_bias") and (type(value) is not int or value < 1):
                raise ValueError(f"{name} is {value!r}; it must be a positive whole number")


# embed_dim, resolution | vision: layers, width, heads, patch | text: context, vocabulary, width, heads, layers
PRESETS = {
    # Table 20 of the paper; 64 channels a head
    "ViT-B/32": CLIPConfig(512, 224, 12, 768, 12, 32, 77, 49408, 512, 8, 12),
    "ViT-B/16": CLIPConfig(512, 224, 12, 768, 12, 16, 77, 49408, 512, 8, 12),
    "ViT-L/14": CLIPConfig(768, 224, 24, 1024, 16, 14, 77, 49408, 768, 12, 12),
    # for the emoji, on two CPU cores: minutes, and a smoke size for seconds
    "emoji": CLIPConfig(128, 48, 4, 128, 4, 12, 32, 1536, 128, 4, 2, quick_gelu=False),
    "smoke": CLIPConfig(32, 24, 1, 32, 2, 12, 32, 768, 32, 2, 1, quick_gelu=False),
}


class CLIP(TextTransformer):
    """Pictures and texts to features that can be compared by their cosine.

    In OpenAI's release the parameters of the picture tower begin with `visual.`, and those of the text tower with
    nothing: their names say that CLIP *is* its text tower with a picture tower beside it. So does this class.
    """

    def __init__(self, config: CLIPConfig) -> None:
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
        if config.logit_bias:  # SigLIP, arXiv:2303.15343, section 3.2: nearly all pairs do not match, and it starts so
            self.logit_bias = nn.Parameter(torch.tensor(-10.0))

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, R, R), normalised by `minclip.data.normalize` -> features (B, E), not normalised."""
        return self.visual(image)

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures (B, 3, R, R), token ids (N, T) -> logits_per_image (B, N), logits_per_text (N, B)."""
        image_features = F.normalize(self.encode_image(image), dim=-1)
        text_features = F.normalize(self.encode_text(text), dim=-1)
        logits_per_image = self.logit_scale.exp() * image_features @ text_features.T
        if self.config.logit_bias:
            logits_per_image = logits_per_image + self.logit_bias
        return logits_per_image, logits_per_image.T

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep the scale at 100 or less; to be called after every optimizer step."""
        self.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
