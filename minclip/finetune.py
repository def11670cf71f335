"""Training that starts from a trained model: which weights it takes over, which stay, how fast each layer learns.

Sources: Zhai et al. 2022 (LiT, arXiv:2111.07991), which locks the image tower; Clark et al. 2020 (ELECTRA,
arXiv:2003.10555), appendix, for a learning rate that decays from the last layer to the first.
"""

import hashlib
import re
import sys
from dataclasses import replace

import torch
from torch import nn
from tqdm import tqdm

from minclip.data import Pairs, digests
from minclip.data.cache import cached
from minclip.formats import Saved
from minclip.frozen import FrozenTower, load_extractor
from minclip.images import in_groups
from minclip.model import CLIP
from minclip.tokenizer import Tokenizer

TOWERS = ("image", "text")
SEEN_AT_A_TIME = 128
AFTER_THE_BLOCKS = ("ln_post", "proj", "ln_final", "text_projection", "logit_scale", "logit_bias")


def start_from(saved: Saved, model: CLIP, tokenizer: Tokenizer) -> None:
    """Copy the weights of `saved` into a new model of the same sizes.

    Tokens of another vocabulary keep their new, random embeddings, and so does a bias that `saved` does not have.
    """
    own = model.state_dict()
    kept = {name: tensor for name, tensor in saved.state.items() if name in own}
    if tokenizer.merges != saved.tokenizer.merges:
        del kept["token_embedding.weight"]
    model.load_state_dict(own | kept)


def as_seen(pairs: Pairs, model: CLIP) -> Pairs:
    """The pairs with what the frozen image tower of `model` sees, (P, C) float32, instead of the pictures.

    It sees each picture once, as it is, and the user's cache folder keeps that for the next training.
    """
    tower = model.visual
    assert isinstance(tower, FrozenTower)

    def look() -> torch.Tensor:
        hidden, name = not sys.stderr.isatty(), f"{tower.name} looks at the pictures (once)"
        pictures = tqdm(pairs.images, name, len(pairs.images), leave=False, disable=hidden)
        batches = map(torch.stack, in_groups(pictures, SEEN_AT_A_TIME))
        return torch.cat([tower.extract(model.preprocess.normalize(part.to(model.device))).cpu() for part in batches])

    parts = load_extractor(tower.name).identity, model.preprocess, list(digests(pairs.images))
    name = f"seen-{hashlib.sha256(repr(parts).encode()).hexdigest()[:24]}"
    return replace(pairs, images=cached(name, (len(pairs.images), model.config.vision_width), look))


def depth(name: str, model: CLIP) -> int:
    """How many layers lie above a parameter, in its tower: 0 after the blocks, 1 in the last one, one more at each."""
    config = model.config
    layers = config.vision_layers if name.startswith("visual.") else config.transformer_layers
    block = re.search(r"resblocks\.(\d+)\.", name)
    if block:
        return layers - int(block[1])
    return 0 if name.removeprefix("visual.").startswith(AFTER_THE_BLOCKS) else layers + 1


def lock(model: CLIP, tower: str | None, unlock_last: int = 0) -> None:
    """Let a tower, "image" or "text", keep its weights, except the last blocks and what comes after them.

    Without `unlock_last` nothing in the tower learns. The logit scale always does.
    """
    for name, parameter in model.named_parameters():
        is_in = name.startswith("visual.") if tower == "image" else not name.startswith(("visual.", "logit_"))
        stays = tower is not None and is_in and not (unlock_last and depth(name, model) <= unlock_last)
        parameter.requires_grad_(not stays)


def learning_rates(model: nn.Module, layer_decay: float) -> dict[str, float]:
    """For each parameter that learns, its share of the learning rate: `layer_decay` to the power of its depth.

    With a `layer_decay` of 1 the share is 1 for all, also in models that are not a CLIP.
    """
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if layer_decay == 1:
        return dict.fromkeys(learning, 1.0)
    assert isinstance(model, CLIP)  # depths are those of its towers
    return {name: layer_decay ** depth(name, model) for name in learning}
