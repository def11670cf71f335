"""A folder of Hugging Face's CLIPModel: config.json, weights, tokenizer and image processor.

The same architecture under other names: query, key and value are three matrices, and the projections are transposed.
"""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from minclip.files import new_folder
from minclip.formats.archive import State, read_archive
from minclip.formats.saved import Saved, flatten, nest, own_part, read_json, read_preprocess, write_json
from minclip.images import Preprocess
from minclip.model import PRESETS, CLIPConfig
from minclip.tensors import read_tensors
from minclip.tokenizer import END, START, Tokenizer

CONFIG, MODEL, OLD_MODEL = "config.json", "model.safetensors", "pytorch_model.bin"
VOCABULARY, MERGES, FAST = "vocab.json", "merges.txt", "tokenizer.json"
PREPROCESSOR = "preprocessor_config.json"
# What config.json calls the sizes.
FIELDS = {
    "projection_dim": "embed_dim",
    "vision_config.image_size": "image_resolution",
    "vision_config.num_hidden_layers": "vision_layers",
    "vision_config.hidden_size": "vision_width",
    "vision_config.num_attention_heads": "vision_heads",
    "vision_config.patch_size": "vision_patch_size",
    "text_config.max_position_embeddings": "context_length",
    "text_config.vocab_size": "vocab_size",
    "text_config.hidden_size": "transformer_width",
    "text_config.num_attention_heads": "transformer_heads",
    "text_config.num_hidden_layers": "transformer_layers",
}
DEFAULTS = asdict(PRESETS["ViT-B/32"])  # the defaults of transformers' CLIPConfig
ACTIVATIONS = {"quick_gelu": True, "gelu": False}
TOWERS = {"vision_config": "vision_width", "text_config": "transformer_width"}
# Beginnings and parts of parameter names, ours and theirs; the first beginning that fits counts.
STARTS = {
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.": "vision_model.embeddings.patch_embedding.",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.": "vision_model.pre_layrnorm.",
    "visual.ln_post.": "vision_model.post_layernorm.",
    "visual.proj": "visual_projection.weight",
    "transformer.resblocks.": "text_model.encoder.layers.",
    "token_embedding.": "text_model.embeddings.token_embedding.",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.": "text_model.final_layer_norm.",
    "text_projection": "text_projection.weight",
}
PARTS = {
    ".attn.": ".self_attn.",
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
}
TRANSPOSED = ("visual.proj", "text_projection")


# --- reading ----------------------------------------------------------------------------------------------------------


def is_hugging_face(folder: Path) -> bool:
    """Whether the config.json of a folder is one of transformers."""
    return (folder / CONFIG).is_file() and "model_type" in read_json(folder / CONFIG)


def read_hugging_face(folder: Path) -> Saved:
    """Read a folder. Raises FileNotFoundError if a file is missing, ValueError if one is damaged or does not fit."""
    config = _parse(read_json(folder / CONFIG), folder / CONFIG)
    tokenizer = _read_tokenizer(folder)
    if tokenizer.vocab_size != config.vocab_size:
        sizes = f"{tokenizer.vocab_size} tokens, {CONFIG} says {config.vocab_size}"
        raise ValueError(f"the tokenizer in {folder} does not fit: {sizes}")
    preprocess = _read_preprocessor(folder, config.image_resolution)
    return Saved(config, _read_state(folder), tokenizer, preprocess, {})


def _parse(content: dict[str, Any], source: Path) -> CLIPConfig:
    if content["model_type"] != "clip":
        raise ValueError(f"{source} describes a model of type {content['model_type']!r}; only 'clip' is read")
    try:
        told = flatten(content)
        fields = {field: told.get(name, DEFAULTS[field]) for name, field in FIELDS.items()}
        (quick_gelu,) = {ACTIVATIONS[told.get(f"{tower}.hidden_act", "quick_gelu")] for tower in TOWERS}
        config = CLIPConfig(**fields, quick_gelu=quick_gelu)
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{source} is damaged, or cannot be represented here: {error!r}") from error
    for tower, width in TOWERS.items():
        # The default of transformers is the size of ViT-B/32, whatever the width.
        fixed = {"intermediate_size": (4 * fields[width], 4 * DEFAULTS[width]), "layer_norm_eps": (1e-5, 1e-5)}
        for name, (needed, default) in fixed.items():
            value = told.get(f"{tower}.{name}", default)
            if value != needed:
                raise ValueError(f"{source}: {tower}.{name} is {value!r}, and minclip only has {needed}")
    return config


def _read_state(folder: Path) -> State:
    """The parameters under OpenAI's names."""
    if (folder / MODEL).is_file():
        theirs, _ = read_tensors(folder / MODEL)
    elif (folder / OLD_MODEL).is_file():
        theirs = read_archive(folder / OLD_MODEL)
    else:
        raise FileNotFoundError(f"{folder} has neither {MODEL} nor {OLD_MODEL}")
    # Older versions of transformers also store the position ids.
    state = {_our_name(name): tensor for name, tensor in theirs.items() if not name.endswith("position_ids")}
    for name in [name for name in state if ".q_proj." in name]:
        parts = [state.pop(name.replace(".q_proj.", f".{part}_proj."), torch.empty(0)) for part in "qkv"]
        if len({part.shape for part in parts}) > 1:
            raise ValueError(f"{folder} is damaged: {name} and its key and value are not of one shape")
        state[name.replace(".q_proj.", ".in_proj_")] = torch.cat(parts)
    return {name: tensor.T.contiguous() if name in TRANSPOSED else tensor for name, tensor in state.items()}


def _our_name(name: str) -> str:
    return _renamed(name, {theirs: ours for ours, theirs in STARTS.items()}, {b: a for a, b in PARTS.items()})


def _renamed(name: str, starts: dict[str, str], parts: dict[str, str]) -> str:
    start = next((start for start in starts if name.startswith(start)), "")
    name = starts.get(start, "") + name[len(start) :]
    for part, replacement in parts.items():
        name = name.replace(part, replacement)
    return name


def _read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer. Raises ValueError if the ids of its vocabulary are not those of CLIP's order."""
    if (folder / MERGES).is_file() and (folder / VOCABULARY).is_file():
        source, tokenizer, vocabulary = VOCABULARY, Tokenizer.load(folder / MERGES), read_json(folder / VOCABULARY)
    elif (folder / FAST).is_file():
        source, (tokenizer, vocabulary) = FAST, _parse_fast(read_json(folder / FAST), folder / FAST)
    else:
        raise FileNotFoundError(f"{folder} has no tokenizer: neither {VOCABULARY} and {MERGES}, nor {FAST}")
    if vocabulary != tokenizer.id_of_symbol:
        raise ValueError(f"{folder / source} does not fit its merges, or is not in the order of CLIP's vocabulary")
    return tokenizer


def _parse_fast(content: dict[str, Any], source: Path) -> tuple[Tokenizer, Any]:
    try:
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in content["model"]["merges"]]
        return Tokenizer.from_text("\n".join(["#version: 0.2", *merges]), source), content["model"]["vocab"]
    except (LookupError, TypeError) as error:
        raise ValueError(f"{source} is damaged: {error!r}") from error


def _read_preprocessor(folder: Path, resolution: int) -> Preprocess:
    """OpenAI's preparation, with the mean and standard deviation of the file. Raises ValueError if it says another."""
    path = folder / PREPROCESSOR
    content = read_json(path) if path.is_file() else {}
    size, crop = content.get("size", resolution), content.get("crop_size", resolution)
    size = size.get("shortest_edge") if isinstance(size, dict) else size
    crop = set(crop.values()) if isinstance(crop, dict) else {crop}
    if size != resolution or crop != {resolution} or content.get("resample", 3) != 3:
        told = {name: content[name] for name in ("size", "crop_size", "resample") if name in content}
        raise ValueError(f"{path} says {told}; minclip resizes the short side to {resolution}, bicubic (3), and crops")
    mean, std = content.get("image_mean"), content.get("image_std")
    try:
        return read_preprocess(resolution, mean, std, read_json(folder / CONFIG))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


# --- writing ----------------------------------------------------------------------------------------------------------


def write_hugging_face(saved: Saved, path: str | Path) -> None:
    """Write a new folder for `CLIPModel.from_pretrained`, `CLIPTokenizer` and `CLIPImageProcessor`, in float32.

    CLIPImageProcessor does not trim pictures. Raises FileExistsError if `path` exists, ValueError for what CLIPModel
    does not have: a logit bias, and a frozen image tower.
    """
    saved.check_image_tower("the format of Hugging Face")
    if saved.config.logit_bias:
        raise ValueError("a model trained with --loss siglip has a bias, and Hugging Face's CLIPModel has none")
    with new_folder(path) as folder:
        state = dict(_their_state(saved.build().state_dict()))
        save_file(state, folder / MODEL, {"format": "pt"})
        write_json(folder / CONFIG, _describe(saved))
        write_json(folder / PREPROCESSOR, _describe_preprocess(saved.preprocess))
        write_json(folder / VOCABULARY, dict(saved.tokenizer.id_of_symbol))
        saved.tokenizer.save(folder / MERGES)
        write_json(folder / "tokenizer_config.json", _describe_tokenizer(saved.config.context_length))


def _their_state(state: State) -> Iterable[tuple[str, torch.Tensor]]:
    for name, tensor in state.items():
        theirs = _renamed(name, STARTS, PARTS)
        if ".in_proj_" in name:
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                yield theirs.replace(".in_proj_", f".{part}_proj."), rows.contiguous()
        else:
            yield theirs, tensor.T.contiguous() if name in TRANSPOSED else tensor


def _describe(saved: Saved) -> dict[str, Any]:
    """The content of config.json."""
    config, tokenizer = saved.config, saved.tokenizer
    told = {name: getattr(config, field) for name, field in FIELDS.items()}
    for tower, width in TOWERS.items():
        told[f"{tower}.hidden_act"] = "quick_gelu" if config.quick_gelu else "gelu"
        told[f"{tower}.intermediate_size"] = 4 * getattr(config, width)
        told[f"{tower}.projection_dim"] = config.embed_dim
    ends = {"bos_token_id": tokenizer.start_id, "eos_token_id": tokenizer.end_id, "pad_token_id": tokenizer.end_id}
    told |= {f"text_config.{name}": value for name, value in ends.items()}
    return {"model_type": "clip", "architectures": ["CLIPModel"], **nest(told), **own_part(saved.preprocess)}


def _describe_tokenizer(context_length: int) -> dict[str, Any]:
    tokens = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    return {"tokenizer_class": "CLIPTokenizer", "model_max_length": context_length, **tokens}


def _describe_preprocess(preprocess: Preprocess) -> dict[str, Any]:
    size = preprocess.resolution
    return {
        "image_processor_type": "CLIPImageProcessor",
        **{f"do_{step}": True for step in ("resize", "center_crop", "rescale", "normalize", "convert_rgb")},
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": preprocess.mean,
        "image_std": preprocess.std,
    }
