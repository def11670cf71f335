"""`minclip train`: a model from scratch, and the folder that it leaves."""

import argparse
import os
import time
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from minclip import __version__, data, distributed, finetune, plots
from minclip.augmentation import AUGMENTATIONS
from minclip.batches import Batches
from minclip.commands.common import (
    add_artists,
    add_columns,
    add_device,
    add_foreign,
    add_reading,
    choose_device,
    chosen_reading,
    load_pairs,
    named_as_options,
    print_unseen,
    read_any,
)
from minclip.distributed import World
from minclip.files import remove_halves
from minclip.finetune import TOWERS
from minclip.formats.run import CONFIG, RUNS, newest_setup, read_setup, save_setup
from minclip.frozen import EFFICIENTNET, describe_extractor
from minclip.images import Preprocess
from minclip.model import CLIP, NOT_FROZEN, PRESETS, CLIPConfig
from minclip.tokenizer import Tokenizer
from minclip.train import train
from minclip.train_config import BACKENDS, EQUAL_CAPTIONS, LOGS, LOSSES, PRECISIONS, TrainConfig

SMOKE_PICTURES = 256
PHRASINGS = 8  # phrasings of an emoji's name, counting the name itself
SMOKE = TrainConfig(epochs=2, batch_size=32)
EMOJI = TrainConfig(epochs=30, augmentation="moderate", rephrase=0.25)
OWN = TrainConfig(augmentation="crop")
OF_THE_IMAGE_TOWER = ("augmentation", "distill", "lock")  # options that a frozen image tower rules out
TOKENIZERS = ("keep", "train")
EMOJI_OPTIONS, COLUMNS = ("artists", "further", "emoji_font"), ("image_column", "caption_column")
# What config.json says besides the settings of the training.
SOURCE = ("data", "columns", "language", "artists", "further", "skip_bad", "smoke", "init", "tokenizer")
# Options that a resumed run already has.
FIXED = (*COLUMNS, *EMOJI_OPTIONS, "data", "language", "skip_bad", "out", "tokenizer", "image_tower")
DESCRIPTION = f"""Train a CLIP from scratch, by default on all emoji and their names.

  minclip train                           English captions
  minclip train --artists openmoji        the emoji of one artist (the artists: {" ".join(data.ARTISTS)})
  minclip train --language zh             Chinese captions (the languages: {" ".join(data.LANGUAGES)})
  minclip train --data my_pictures        your own pictures, with a table, .txt files, class folders or tar shards
  minclip train --init RUN --lock image   from a trained model, one tower of which stays as it is
  minclip train --image-tower efficientnet-lite0    a text tower beside a pretrained image tower that stays as it is
  minclip train --smoke                   a few seconds, only to see that everything works
  minclip train --resume                  the newest run, from its last checkpoint on
  minclip train --config RUN/config.json  a run like another one
  torchrun --nproc-per-node 2 -m minclip train    in several processes, on as many GPUs

Ctrl-C finishes the step, saves, and says how to resume.
The loss starts near ln(batch size), the loss of guessing, and falls towards the floor that duplicate captions leave.
Weights, metrics and figures go to runs/; eval, classify and search use the newest run."""


@dataclass(frozen=True)
class Plan:
    """What a run is made of: sizes, preparation of pictures, settings, data, folder, and whether it resumes."""

    sizes: CLIPConfig
    preprocess: Preprocess
    config: TrainConfig
    training: dict[str, Any]
    folder: Path
    resume: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default, add = TrainConfig(), parser.add_argument
    add("--data", metavar="PATH", help="your own pictures: a folder, a table or a tar shard")
    add_columns(parser)
    add_reading(parser)
    add("--skip-bad", action="store_true", help="training without the entries that cannot be read, instead of an error")
    add_artists(parser, "all of them")
    further = "drawings that are only trained on: OpenMoji's without outlines (flat), icons by several hands (icons)"
    add("--further", nargs="+", choices=data.FURTHER, metavar="DRAWINGS", help=further)
    add("--language", help="language of the emoji captions (default: en)")
    add("--out", metavar="FOLDER", help="the run folder (default: runs/<data>-<time>)")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--model", choices=sorted(PRESETS), help="sizes of the towers (default: emoji)")
    start.add_argument("--smoke", action="store_true", help="a tiny model on a few pictures, in seconds")
    init = "weights to start from: a run, an export, or weights of OpenAI, OpenCLIP or Hugging Face"
    start.add_argument("--init", metavar="PATH", help=init)
    start.add_argument("--config", metavar="FILE", help="config.json of a run to repeat; other options override it")
    newest = "run folder to resume from its last checkpoint (default: the newest)"
    start.add_argument("--resume", metavar="RUN", nargs="?", const="", help=newest)
    epochs = f"passes over the data (default: {EMOJI.epochs} for emoji, {default.epochs} for your own)"
    add("--epochs", type=int, help=epochs)
    add("--batch-size", type=int, help=f"pairs per training step (default: {default.batch_size})")
    micro = "pairs encoded at a time; fewer need less memory and more time (default: the whole batch)"
    add("--micro-batch", type=int, metavar="N", help=micro)
    recompute = "recomputation of the blocks' activations for the gradient: less memory, more time"
    add("--grad-checkpoint", action="store_true", default=None, help=recompute)
    add("--precision", choices=PRECISIONS, help=f"number format of the towers' products (default: {default.precision})")
    add("--compile", action="store_true", default=None, help="torch.compile for the towers, which takes minutes")
    add("--lr", type=float, help=f"peak learning rate (default: {default.lr})")
    losses = "clip: softmax over the batch; siglip: one sigmoid per pair"
    add("--loss", choices=LOSSES, help=f"{losses} (default: {default.loss})")
    backends = "fused: the kernels; naive: the readable formula"
    add("--backend", choices=BACKENDS, help=f"{backends} (default: {default.backend})")
    seed = "seed of the initial weights, the data order and the augmentation"
    add("--seed", type=int, help=f"{seed} (default: {default.seed})")
    early = "number of reports, of ten in a run, without a better held-out score that ends training (default: never)"
    add("--early-stopping", type=int, metavar="N", help=early)
    add("--log", choices=LOGS, help="a further log of the metrics, beside metrics.csv")
    augmentation = "changes of the pictures (default: moderate for emoji, crop for your own)"
    add("--augmentation", choices=AUGMENTATIONS, help=augmentation)
    rephrase = (
        f"share of captions that are rephrased (default: {EMOJI.rephrase} for emoji, {default.rephrase} for your own)"
    )
    add("--rephrase", type=float, metavar="SHARE", help=rephrase)
    equal = "treatment of a batch's pairs with equal captions: as negatives, left out (drop), or all as right answers"
    add("--equal-captions", choices=EQUAL_CAPTIONS, help=f"{equal} (default: {default.equal_captions})")
    distill = "weight of the similarities that a pretrained image tower sees (needs minclip[lit])"
    add("--distill", type=float, metavar="WEIGHT", help=f"{distill} (default: {default.distill:g})")
    tower = f"pretrained image tower that stays as it is: {EFFICIENTNET} (needs minclip[lit]), or an ONNX file"
    add("--image-tower", metavar="NAME_OR_PATH", help=tower)
    add_finetuning(parser)
    add_device(parser)


def add_finetuning(parser: argparse.ArgumentParser) -> None:
    """How much of a trained model stays as it is."""
    add, default = parser.add_argument, TrainConfig()
    add("--tokenizer", choices=TOKENIZERS, help="with --init: its vocabulary or one from your captions (default: keep)")
    add("--lock", choices=TOWERS, help="tower that does not learn")
    add("--unlock-last", type=int, metavar="K", help="number of last blocks of the locked tower that still learn")
    decay = "learning rate of each layer as a share of that of the layer above it"
    add("--layer-decay", type=float, metavar="SHARE", help=f"{decay} (default: {default.layer_decay:g})")
    add_foreign(parser)


def run(arguments: argparse.Namespace) -> int:
    device = choose_device(arguments.device)
    with distributed.processes(device) as world:
        plan = world.share(lambda: new_plan(arguments) if arguments.resume is None else resumed_plan(arguments))
        return carry_out(plan, arguments, device, world)


def carry_out(plan: Plan, arguments: argparse.Namespace, device: str, world: World) -> int:
    """Train as planned; returns the exit code. Only the main process writes and prints."""
    pairs, held_out = load_pairs(plan.training, plan.preprocess, chosen_reading(arguments))
    if plan.training["smoke"]:
        pairs = pairs.select(range(min(SMOKE_PICTURES, len(pairs.origins))))
    config = plan.config
    if arguments.batch_size is None:
        config = replace(config, batch_size=min(config.batch_size, max(2, len(pairs))))

    said = ways_to_say(pairs, held_out, plan.training)
    init = read_any(plan.training["init"], arguments) if plan.training.get("init") else None
    if init and plan.training["tokenizer"] == "keep":
        tokenizer = init.tokenizer
    else:
        tokenizer = Tokenizer.train([*pairs.captions, *said[-1]], plan.sizes.vocab_size)
    tokens = tokenizer(list(chain(*said)), plan.sizes.context_length).unflatten(0, (len(said), -1))
    torch.manual_seed(config.seed)
    sizes = replace(plan.sizes, vocab_size=tokenizer.vocab_size, logit_bias=config.loss == "siglip")
    model = CLIP(sizes, plan.preprocess)
    if init:
        finetune.start_from(init, model, tokenizer)
    model = model.to(device)
    if sizes.image_tower:
        pairs, held_out = finetune.as_seen(pairs, model), held_out and finetune.as_seen(held_out, model)
    with named_as_options(TrainConfig):
        names = ("batch_size", "seed", "augmentation", "rephrase")
        batches = Batches(pairs, tokens, plan.preprocess, **{name: getattr(config, name) for name in names})
    if world.is_main and not plan.resume:
        plan.folder.mkdir(parents=True, exist_ok=True)
        training = {**plan.training, **asdict(config), "minclip": __version__}
        save_setup(plan.folder, model, tokenizer, training)
    shown = held_out or pairs
    before = plots.similarity_sample(model, tokenizer, shown)
    if world.is_main:
        print(describe_start(model, batches, held_out, config, plan.folder))
    try:
        with named_as_options(TrainConfig):
            rows = train(model, tokenizer, batches, held_out, config, plan.folder, plan.resume, world)
    except KeyboardInterrupt as stopped:
        if not world.is_main:
            return 130
        raise KeyboardInterrupt(f"{stopped}; to resume: {distributed.command_to_resume(plan.folder)}") from stopped
    if not world.is_main:
        return 0
    figures = plots.draw_run(model, tokenizer, shown, before, rows, plan.folder)
    print(f"{plan.folder}: model.safetensors, metrics.csv, {', '.join(figures)}")
    if held_out is not None:
        print_unseen(rows[-1]["unseen_top1"], rows[-1]["unseen_top5"])
    return 0


def ways_to_say(pairs: data.Pairs, held_out: data.Pairs | None, training: dict[str, Any]) -> list[list[str]]:
    """The captions, and other phrasings of them: of emoji with their bare names, and of the names of class folders."""
    if training["data"] is not None:
        return [[template.replace("{}", caption) for caption in pairs.captions] for template in pairs.templates]
    codes = [pairs.origins[i].codes for i in pairs.image_of_caption.tolist()]  # type: ignore[attr-defined]
    never = held_out.captions if held_out else ()
    return data.phrasings(pairs.captions, codes, training["language"], PHRASINGS, never)


def new_plan(arguments: argparse.Namespace) -> Plan:
    """The run that the options describe, or that --config describes, with the options overriding it.

    Raises ValueError, in terms of the options, for a bad one, and OSError if the folder cannot take a run.
    """
    check_image_tower(arguments)
    if arguments.config:
        sizes, preprocess, stored = read_setup(Path(arguments.config))
        base, source = settings(stored), stored_source(stored)
        if any(getattr(arguments, name) for name in ("data", "language", *EMOJI_OPTIONS)):
            source = chosen_source(arguments) | {"smoke": source["smoke"]}
    else:
        sizes, preprocess = chosen_sizes(arguments)
        source = chosen_source(arguments) | chosen_start(arguments)
        base = SMOKE if arguments.smoke else OWN if source["data"] else EMOJI
    folder = Path(arguments.out or default_folder(source))
    config = configure(arguments, replace(base, augmentation="none") if sizes.image_tower else base)
    check_folder(folder)
    return Plan(sizes, preprocess, config, source, folder)


def chosen_sizes(arguments: argparse.Namespace) -> tuple[CLIPConfig, Preprocess]:
    """Sizes and preparation of pictures of a new model, or of the one to start from."""
    if arguments.init:
        saved = read_any(arguments.init, arguments)
        return saved.config, saved.preprocess
    sizes = PRESETS["smoke" if arguments.smoke else arguments.model or "emoji"]
    if not arguments.image_tower:
        return sizes, Preprocess(sizes.image_resolution, trim=True)
    name = arguments.image_tower
    name = name if name == EFFICIENTNET else str(Path(name).absolute())
    width, preprocess = describe_extractor(name)
    tower = {"image_tower": name, "image_resolution": preprocess.resolution, "vision_width": width}
    return replace(sizes, **tower, **dict.fromkeys(NOT_FROZEN, 0)), preprocess


def check_image_tower(arguments: argparse.Namespace) -> None:
    """Raise ValueError for an option that a frozen image tower, which sees each picture once, rules out."""
    if not arguments.image_tower:
        return
    for name in ("init", "config"):
        if getattr(arguments, name):
            raise ValueError(f"--{name} and --image-tower exclude each other: both bring an image tower")
    for name in OF_THE_IMAGE_TOWER:
        if getattr(arguments, name):
            raise ValueError(f"--{name} is {getattr(arguments, name)}; with --image-tower it must be left out")


def chosen_start(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a model starts from, as config.json keeps it."""
    if not arguments.init:
        if arguments.tokenizer:
            raise ValueError(f"--tokenizer {arguments.tokenizer} needs --init, the model whose tokenizer is meant")
        return {}
    if arguments.tokenizer == "train" and arguments.lock == "text":
        raise ValueError("--tokenizer train gives the text tower new words, which --lock text would not let it learn")
    return {"init": str(Path(arguments.init).absolute()), "tokenizer": arguments.tokenizer or TOKENIZERS[0]}


def resumed_plan(arguments: argparse.Namespace) -> Plan:
    """The run that --resume names, as it began; `train` refuses options that a resumed run cannot take."""
    for name in FIXED:
        if getattr(arguments, name):
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} and --resume exclude each other: a resumed run keeps its own data and folder")
    folder = Path(arguments.resume or newest_setup())
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} is not a run folder: it has no {CONFIG}")
    sizes, preprocess, stored = read_setup(folder / CONFIG)
    config = configure(arguments, settings(stored))
    remove_halves(folder)
    return Plan(sizes, preprocess, config, stored_source(stored), folder, resume=True)


def stored_source(stored: dict[str, Any]) -> dict[str, Any]:
    """What config.json says of the pictures. An older version did not write all of it."""
    return {"smoke": False} | {name: stored[name] for name in SOURCE if name in stored}


def settings(stored: dict[str, Any]) -> TrainConfig:
    """The configuration in config.json. Fields that an older version did not write take their defaults."""
    return TrainConfig(**{field.name: stored[field.name] for field in fields(TrainConfig) if field.name in stored})


def configure(arguments: argparse.Namespace, base: TrainConfig) -> TrainConfig:
    """`base` with the options that were given. Raises ValueError, in terms of the options, for a bad one."""
    named = {field.name: getattr(arguments, field.name, None) for field in fields(TrainConfig)}
    given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    with named_as_options(TrainConfig):
        return replace(base, **given)


def chosen_source(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the model is trained on, as config.json keeps it for `load_pairs`."""
    columns = [getattr(arguments, name) for name in COLUMNS]
    if any(columns) and not arguments.data:
        raise ValueError("--image-column and --caption-column need --data, whose table they are about")
    if arguments.data and arguments.language:
        raise ValueError(f"--language {arguments.language} chooses emoji captions, and --data brings its own: give one")
    for name in EMOJI_OPTIONS:
        if arguments.data and getattr(arguments, name):
            option = name.replace("_", "-")
            raise ValueError(f"--{option} chooses emoji, and --data brings its own pictures: give one")
    folder = arguments.data and str(Path(arguments.data).absolute())
    font = [str(Path(arguments.emoji_font).absolute())] if arguments.emoji_font else []
    artists = (arguments.artists or list(data.ARTISTS)) + font
    emoji = {} if folder else {"artists": artists, "further": arguments.further or []}
    own = {"data": folder, "columns": columns, "skip_bad": arguments.skip_bad}
    return own | emoji | {"language": arguments.language or "en", "smoke": arguments.smoke}


def default_folder(training: dict[str, Any]) -> Path:
    name = Path(training["data"]).stem if training["data"] else f"emoji-{training['language']}"
    return RUNS / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def check_folder(folder: Path) -> None:
    """Raise OSError, before anything is computed, if the folder is not empty or cannot be made."""
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty, and nothing is overwritten: choose another folder with --out")
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} cannot be written: {there} is not a folder that you may write to")


def describe_start(model: CLIP, batches: Batches, held_out: data.Pairs | None, config: TrainConfig, run: Path) -> str:
    pairs, context = batches.pairs, model.config.context_length
    n_full = int((batches.tokens[0, :, context - 1 :] != 0).sum())
    cut = f"; {n_full} captions reach {context} tokens, and longer ones are cut there" if n_full else ""
    tested = f"{len(held_out.origins)} unseen pictures" if held_out else "nothing: too few pictures"
    return (
        f"{len(pairs.origins)} pictures, {len(pairs)} captions; tested on {tested}\n"
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {model.config.vocab_size} tokens{cut}\n"
        f"{config.epochs} epochs in batches of {config.batch_size} on {model.device} -> {run}"
    )
