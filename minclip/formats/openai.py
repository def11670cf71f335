"""OpenAI's and OpenCLIP's weights. Their parameter names are minclip's own; sizes and vocabulary must be looked up.

Sizes are read off the shapes, as openai/CLIP does. The activation and the number of heads have no shape: OpenAI's
archives are recognised by three numbers that they hold, and OpenCLIP publishes `open_clip_config.json` with weights.
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from minclip.files import new_folder
from minclip.formats.archive import State, read_archive
from minclip.formats.saved import Saved, count_blocks, flatten, nest, own_part, read_json, read_preprocess, write_json
from minclip.images import Preprocess
from minclip.model import PRESETS, CLIPConfig
from minclip.tensors import read_tensors
from minclip.tokenizer import Tokenizer

CONFIG, MERGES, VOCABULARY = "open_clip_config.json", "merges.txt.gz", "bpe_simple_vocab_16e6.txt.gz"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
PACKAGES = ("open_clip", "clip")  # packages that bring OpenAI's vocabulary
OPENAI_NUMBERS = {"input_resolution", "context_length", "vocab_size"}
HEAD_WIDTH, MAX_WIDTH = 64, 1024  # up to this width, the models of both projects have heads of width 64
OTHERS = {
    "visual.layer1.": "a ResNet as its image tower",
    "visual.trunk.": "an image tower of timm",
    "visual.attn_pool": "an image tower that pools by attention",
    "text_decoder.": "a text decoder (CoCa)",
    "text.": "another text tower than OpenAI's",
    "vision_model.": "the parameter names of Hugging Face, which are read from a folder with their config.json",
}
# What open_clip_config.json calls the sizes; the number of heads of the image tower follows from `head_width`.
FIELDS = {
    "embed_dim": "embed_dim",
    "quick_gelu": "quick_gelu",
    "vision_cfg.image_size": "image_resolution",
    "vision_cfg.layers": "vision_layers",
    "vision_cfg.width": "vision_width",
    "vision_cfg.patch_size": "vision_patch_size",
    "text_cfg.context_length": "context_length",
    "text_cfg.vocab_size": "vocab_size",
    "text_cfg.width": "transformer_width",
    "text_cfg.heads": "transformer_heads",
    "text_cfg.layers": "transformer_layers",
}
DEFAULTS = asdict(PRESETS["ViT-B/16"]) | {"quick_gelu": False}  # the defaults of OpenCLIP
PREPARED = {"interpolation": "bicubic", "resize_mode": "shortest"}
FIXED = PREPARED | {
    "vision_cfg.mlp_ratio": 4.0,
    "vision_cfg.pool_type": "tok",
    "vision_cfg.pos_embed_type": "learnable",
    "text_cfg.mlp_ratio": 4.0,
    "text_cfg.pool_type": "argmax",
    "text_cfg.proj_type": "linear",
}
IGNORED = ("init_logit_scale", "init_logit_bias", "vision_cfg.patch_dropout")  # they matter only in training


# --- reading ----------------------------------------------------------------------------------------------------------


def read_openai(path: Path, bpe: str | Path | None = None, quick_gelu: bool | None = None) -> Saved:
    """Read a file of weights, or a folder of OpenCLIP's that holds one beside `open_clip_config.json`.

    `bpe` names the vocabulary: by default the one beside the file, or OpenAI's in an installed package. `quick_gelu`
    tells the activation where no file does. Raises ValueError for another architecture.
    """
    file = _weights_in(path) if path.is_dir() else path
    state, is_openai = _read_state(file)
    described = file.parent / CONFIG
    if described.is_file():
        config, preprocess = _parse(read_json(described), described, "logit_bias" in state)
    else:
        config = _guess(state, True if is_openai else quick_gelu, file)
        preprocess = Preprocess(config.image_resolution)
    if quick_gelu not in (None, config.quick_gelu):
        raise ValueError(f"quick_gelu is {quick_gelu}; {file} was trained with {config.quick_gelu}")
    return Saved(config, state, read_vocabulary(file, bpe, config.vocab_size), preprocess, {})


def _weights_in(folder: Path) -> Path:
    files = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not files:
        raise FileNotFoundError(f"{folder} has {CONFIG} and no weights beside it, such as {WEIGHTS[0]}")
    return files[0]


def _read_state(file: Path) -> tuple[State, bool]:
    """The parameters, and whether the file has OpenAI's three numbers."""
    state = read_tensors(file)[0] if file.suffix == ".safetensors" else read_archive(file)
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    for start, other in OTHERS.items():
        if any(name.startswith(start) for name in state):
            raise ValueError(f"{file} cannot be represented here: it has {other}")
    is_openai = state.keys() >= OPENAI_NUMBERS
    # Some versions store the causal mask.
    unused = {name for name in state if name in OPENAI_NUMBERS or name.endswith("attn_mask")}
    return {name: tensor for name, tensor in state.items() if name not in unused}, is_openai


def _guess(state: State, quick_gelu: bool | None, file: Path) -> CLIPConfig:
    """The configuration by the shapes of the weights."""
    try:
        sizes: dict[str, Any] = _sizes(state)
    except (LookupError, ValueError) as error:
        raise ValueError(f"{file} has no weights of a CLIP with a ViT: {error!r}") from error
    if quick_gelu is None or sizes["vision_width"] > MAX_WIDTH:
        missing = "the number of heads" if quick_gelu is not None else "the activation (QuickGELU or GELU)"
        raise ValueError(
            f"{file} does not say {missing}: put the {CONFIG} of its model beside it"
            + (", or name it: quick_gelu=True or False (--quick-gelu yes or no)" if quick_gelu is None else "")
        )
    heads: dict[str, Any] = {
        f"{tower}_heads": max(1, sizes[f"{tower}_width"] // HEAD_WIDTH) for tower in ("vision", "transformer")
    }
    return CLIPConfig(**sizes, **heads, quick_gelu=quick_gelu, logit_bias="logit_bias" in state)


def _sizes(state: State) -> dict[str, int]:
    width, _, patch, _ = state["visual.conv1.weight"].shape
    grid = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
    vocab_size, text_width = state["token_embedding.weight"].shape
    return {
        "embed_dim": state["text_projection"].shape[-1],
        "image_resolution": patch * grid,
        "vision_layers": count_blocks(state, "visual.transformer.resblocks."),
        "vision_width": width,
        "vision_patch_size": patch,
        "context_length": len(state["positional_embedding"]),
        "vocab_size": vocab_size,
        "transformer_width": text_width,
        "transformer_layers": count_blocks(state, "transformer.resblocks."),
    }


def _parse(content: dict[str, Any], source: Path, logit_bias: bool) -> tuple[CLIPConfig, Preprocess]:
    """Read open_clip_config.json. Raises ValueError that names an entry which minclip cannot represent."""
    try:
        # An entry that is None or False is an option that is not used.
        told = {name: value for name, value in flatten(content["model_cfg"]).items() if value not in (None, False)}
        fields = {field: told.pop(name, DEFAULTS[field]) for name, field in FIELDS.items()}
        heads = fields["vision_width"] // told.pop("vision_cfg.head_width", HEAD_WIDTH)
        config = CLIPConfig(**fields, vision_heads=heads, logit_bias=logit_bias)
        prepared = content.get("preprocess_cfg", {})
        told |= {name: prepared[name] for name in ("interpolation", "resize_mode") if name in prepared}
        preprocess = read_preprocess(config.image_resolution, prepared.get("mean"), prepared.get("std"), content)
    except (LookupError, ArithmeticError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{source} is damaged: {error!r}") from error
    for name, value in told.items():
        if name not in IGNORED and FIXED.get(name) != value:
            raise ValueError(f"{source}: {name} is {value!r}, which cannot be represented here")
    return config, preprocess


def read_vocabulary(file: Path, bpe: str | Path | None, vocab_size: int) -> Tokenizer:
    """The tokenizer for weights that come without one. Raises ValueError if its size is not `vocab_size`."""
    vocabulary = Path(bpe) if bpe else next((path for path in _vocabularies(file.parent) if path.is_file()), None)
    if vocabulary is None:
        raise FileNotFoundError(
            f"{file} has no vocabulary: put {VOCABULARY} of github.com/openai/CLIP beside it, or pip install "
            "open_clip_torch, which has it, or name a file of merges: bpe=FILE (--bpe FILE)"
        )
    tokenizer = Tokenizer.load(vocabulary)
    if tokenizer.vocab_size != vocab_size:
        raise ValueError(f"{vocabulary} does not fit {file}: {tokenizer.vocab_size} tokens, not {vocab_size}")
    return tokenizer


def _vocabularies(folder: Path) -> Iterator[Path]:
    """Where the vocabulary may be. Packages are found and not imported."""
    yield from (folder / VOCABULARY, folder / MERGES)
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for place in (spec and spec.submodule_search_locations) or ():
            yield Path(place) / VOCABULARY


# --- writing ----------------------------------------------------------------------------------------------------------


def write_openai(saved: Saved, path: str | Path) -> None:
    """Write a new folder that OpenCLIP reads as `local-dir:PATH`, in float32.

    With QuickGELU, openai/CLIP's `clip.load` and OpenCLIP's `load_openai_model` also read its `.bin`. Neither trims
    pictures. Raises FileExistsError if `path` exists, ValueError for a frozen image tower.
    """
    saved.check_image_tower("the format of OpenAI")
    with new_folder(path) as folder:
        saved.tokenizer.save(folder / MERGES)
        write_json(folder / CONFIG, _describe(saved))
        torch.save(saved.build().state_dict(), folder / WEIGHTS[-1])


def _describe(saved: Saved) -> dict[str, Any]:
    """The content of open_clip_config.json."""
    config = saved.config
    told = {name: getattr(config, field) for name, field in FIELDS.items()}
    told["vision_cfg.head_width"] = config.vision_width // config.vision_heads
    if config.logit_bias:
        told["init_logit_bias"] = saved.state["logit_bias"].item()
    prepared = {"mean": saved.preprocess.mean, "std": saved.preprocess.std}
    return {"model_cfg": nest(told), "preprocess_cfg": prepared | PREPARED, **own_part(saved.preprocess)}
