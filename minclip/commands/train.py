"""`minclip train`: a model from scratch, and the folder that it leaves."""

import argparse
import os
import time
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from minclip import __version__, data, plots
from minclip.batches import Batches
from minclip.commands.common import (
    add_artists,
    add_device,
    choose_device,
    load_pairs,
    named_as_options,
    print_unseen,
)
from minclip.formats.run import RUNS, save_setup
from minclip.images import Preprocess
from minclip.model import CLIP, PRESETS
from minclip.tokenizer import Tokenizer
from minclip.train import BACKENDS, LOSSES, TrainConfig, train

SMOKE_PICTURES = 256
SMOKE = TrainConfig(epochs=2, batch_size=32)
DESCRIPTION = f"""Train a CLIP from scratch, by default on all emoji and their names.

  minclip train                           English captions
  minclip train --artists openmoji        the emoji of one artist (the artists: {" ".join(data.ARTISTS)})
  minclip train --language zh             Chinese captions (the languages: {" ".join(data.LANGUAGES)})
  minclip train --data my_pictures        a folder with one .csv or .tsv file that has the columns image and caption
  minclip train --smoke                   seconds, only to see that everything works

The loss starts near ln(batch size), which guessing costs, and falls towards the floor that duplicate captions leave.
Weights, metrics and figures go to runs/; eval, classify and search use the newest run."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default, add = TrainConfig(), parser.add_argument
    add("--data", metavar="FOLDER", help="folder of your own pictures with a table, or the table itself")
    add("--skip-bad", action="store_true", help="training without the entries that cannot be read, instead of an error")
    add_artists(parser, "all of them")
    add("--language", help="language of the emoji captions (default: en)")
    add("--out", metavar="FOLDER", help="the run folder (default: runs/<data>-<time>)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--model", choices=sorted(PRESETS), default="emoji", help="sizes of the towers (default: emoji)")
    size.add_argument("--smoke", action="store_true", help="a tiny model on a few pictures, in seconds")
    add("--epochs", type=int, help=f"passes over the data (default: {default.epochs})")
    add("--batch-size", type=int, help=f"pairs per training step (default: {default.batch_size})")
    add("--lr", type=float, help=f"peak learning rate (default: {default.lr})")
    losses = "clip: softmax over the batch; siglip: one sigmoid per pair"
    add("--loss", choices=LOSSES, help=f"{losses} (default: {default.loss})")
    backends = "fused: the kernels; naive: the formula as one reads it"
    add("--backend", choices=BACKENDS, help=f"{backends} (default: {default.backend})")
    seed = "seed of the initial weights, the data order and the augmentation"
    add("--seed", type=int, help=f"{seed} (default: {default.seed})")
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    preset = PRESETS["smoke" if arguments.smoke else arguments.model]
    config, training, device = configure(arguments), source(arguments), choose_device(arguments.device)
    folder = Path(arguments.out or default_folder(arguments))
    check_folder(folder)
    preprocess = Preprocess(preset.image_resolution, trim=True)
    pairs, held_out = load_pairs(training, preprocess)
    if arguments.smoke:
        pairs = pairs.select(range(min(SMOKE_PICTURES, len(pairs.origins))))
    if arguments.batch_size is None:
        config = replace(config, batch_size=min(config.batch_size, max(2, len(pairs))))

    tokenizer = Tokenizer.train(pairs.captions, preset.vocab_size)
    tokens = tokenizer(pairs.captions, preset.context_length)
    torch.manual_seed(config.seed)
    sizes = replace(preset, vocab_size=tokenizer.vocab_size, logit_bias=config.loss == "siglip")
    model = CLIP(sizes, preprocess).to(device)
    with named_as_options(TrainConfig):
        batches = Batches(pairs, tokens, preprocess, batch_size=config.batch_size, seed=config.seed)
    folder.mkdir(parents=True, exist_ok=True)
    save_setup(folder, model, tokenizer, {**training, **asdict(config), "minclip": __version__})
    shown = held_out or pairs
    before = plots.similarity_sample(model, tokenizer, shown)
    print(describe_start(model, batches, held_out, config, folder))
    rows = train(model, tokenizer, batches, held_out, config, folder)
    plots.draw_run(model, tokenizer, shown, before, rows, folder)
    print(f"{folder}: model.safetensors, metrics.csv, loss.png, similarity.png, retrieval.png, positions.png")
    if held_out is not None:
        print_unseen(rows[-1]["unseen_top1"], rows[-1]["unseen_top5"])
    return 0


def configure(arguments: argparse.Namespace) -> TrainConfig:
    """The configuration that the options give. Raises ValueError, in terms of the options, for a bad one."""
    named = {field.name: getattr(arguments, field.name, None) for field in fields(TrainConfig)}
    given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    with named_as_options(TrainConfig):
        return replace(SMOKE if arguments.smoke else TrainConfig(), **given)


def source(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the model is trained on, as config.json keeps it for `load_pairs`."""
    if arguments.data and arguments.language:
        raise ValueError(f"--language {arguments.language} chooses emoji captions, and --data brings its own: give one")
    if arguments.data and (arguments.artists or arguments.emoji_font):
        raise ValueError("--artists and --emoji-font choose emoji, and --data brings its own pictures: give one")
    folder = arguments.data and str(Path(arguments.data).absolute())
    font = [str(Path(arguments.emoji_font).absolute())] if arguments.emoji_font else []
    emoji = {} if folder else {"artists": (arguments.artists or list(data.ARTISTS)) + font}
    return {"data": folder, "language": arguments.language or "en", **emoji, "skip_bad": arguments.skip_bad}


def default_folder(arguments: argparse.Namespace) -> Path:
    name = Path(arguments.data).absolute().stem if arguments.data else f"emoji-{arguments.language or 'en'}"
    return RUNS / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def check_folder(folder: Path) -> None:
    """Raise OSError, before anything is computed, if the folder is not empty or cannot be made."""
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty, and nothing is written over: choose another folder with --out")
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} cannot be written: {there} is not a folder that you may write to")


def describe_start(model: CLIP, batches: Batches, held_out: data.Pairs | None, config: TrainConfig, run: Path) -> str:
    pairs, context = batches.pairs, model.config.context_length
    n_full = int((batches.tokens[:, context - 1 :] != 0).sum())
    cut = f"; {n_full} captions reach {context} tokens, and longer ones are cut there" if n_full else ""
    tested = f"{len(held_out.origins)} unseen pictures" if held_out else "nothing: too few pictures"
    return (
        f"{len(pairs.origins)} pictures, {len(pairs)} captions; tested on {tested}\n"
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {model.config.vocab_size} tokens{cut}\n"
        f"{config.epochs} epochs in batches of {config.batch_size} on {model.device} -> {run}"
    )
