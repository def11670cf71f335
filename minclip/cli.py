"""The command line: minclip train | eval | classify | search | export | bench.

Exit codes: 0 done; 1 something in the input was wrong, said on standard error; 2 the command was not understood;
130 interrupted.
"""

import argparse
import io
import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from ftfy.formatting import display_ljust
from tqdm import tqdm

from minclip import __version__, bench, checkpoint, data, evaluate, plots
from minclip.model import CLIP, PRESETS
from minclip.tokenizer import Tokenizer
from minclip.train import BACKENDS, LOSSES, TrainConfig, check_config, train

RUN_HELP = "a run folder, or a file of `minclip export` (default: the newest under runs/)"
SMOKE_PICTURES = 256
SMOKE = TrainConfig(epochs=2, batch_size=32)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal or pipe that lacks a letter shows "?", and goes on
        sys.stdout.reconfigure(errors="replace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=sys.stderr)
            return arguments.command(arguments)
    except BrokenPipeError:  # the reader of our output, say `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except torch.OutOfMemoryError as error:
        print(f"minclip: error: out of memory: try a smaller --batch-size or --model ({error})", file=sys.stderr)
        return 1
    except (ValueError, TypeError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        print(f"minclip: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("minclip: interrupted", file=sys.stderr)
        return 130


# --- train ------------------------------------------------------------------------------------------------------------


def train_command(arguments: argparse.Namespace) -> int:
    config = replace(SMOKE if arguments.smoke else TrainConfig(), **_given(arguments, TrainConfig))
    check_config(config)
    if arguments.data and arguments.language:
        raise ValueError(f"--language {arguments.language} chooses emoji captions, and --data brings its own: give one")
    device = choose_device(arguments.device)
    run = Path(arguments.out or default_run(arguments))
    check_folder(run)
    preset = PRESETS["smoke" if arguments.smoke else arguments.model]
    source = {"data": arguments.data and str(Path(arguments.data).absolute()), "language": arguments.language or "en"}
    source |= {"skip_bad": arguments.skip_bad}
    pairs, held_out = load_pairs(source, preset.image_resolution)
    if arguments.smoke:
        pairs = pairs.select(range(min(SMOKE_PICTURES, len(pairs.names))))
    if arguments.batch_size is None:
        config = replace(config, batch_size=min(config.batch_size, max(2, len(pairs))))
    check_config(config, len(pairs))

    tokenizer = Tokenizer.train(pairs.captions, preset.vocab_size)
    torch.manual_seed(config.seed)
    model = CLIP(replace(preset, vocab_size=tokenizer.vocab_size, logit_bias=config.loss == "siglip")).to(device)
    run.mkdir(parents=True, exist_ok=True)
    checkpoint.save_setup(run, model.config, tokenizer, {**source, **vars(config), "minclip": __version__})
    shown = held_out or pairs
    before = plots.similarity_sample(model, tokenizer, shown)
    print(describe_start(model, tokenizer, pairs, held_out, config, run))
    rows = train(model, tokenizer, pairs, held_out, config, run)
    plots.draw_run(model, tokenizer, shown, before, rows, run)
    print(f"{run}: model.safetensors, metrics.csv, loss.png, similarity.png, retrieval.png, positions.png")
    if held_out is not None:
        print_unseen(rows[-1]["unseen_top1"], rows[-1]["unseen_top5"])
    return 0


def default_run(arguments: argparse.Namespace) -> Path:
    source = Path(arguments.data).absolute().stem if arguments.data else f"emoji-{arguments.language or 'en'}"
    return checkpoint.RUNS / f"{source}-{time.strftime('%Y%m%d-%H%M%S')}"


def check_folder(run: Path) -> None:
    """Raise OSError, before anything is computed, when `run` cannot be made or holds something already."""
    if run.is_dir() and any(run.iterdir()):
        raise FileExistsError(f"{run} is not empty, and nothing is written over: choose another folder with --out")
    there = next(folder for folder in (run.absolute(), *run.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{run} cannot be written: {there} is no folder that you may write to")


def load_pairs(source: dict[str, Any], resolution: int) -> tuple[data.Pairs, data.Pairs | None]:
    """What a run trains on and what it is tested on: the emoji, or the user's own pictures with a tenth held out.

    `source` is what config.json keeps under "training": data, language, skip_bad.
    """
    if source["data"] is None:
        return data.load_emoji(resolution, source["language"])
    pairs, problems = data.load_folder(source["data"], resolution, source["skip_bad"])
    if problems:
        print(data.describe_problems(problems, source["data"]), "left out", sep="\n", file=sys.stderr)
    return data.hold_out(pairs)


def describe_start(
    model: CLIP, tokenizer: Tokenizer, pairs: data.Pairs, held_out: data.Pairs | None, config: TrainConfig, run: Path
) -> str:
    longest = max(len(tokenizer.encode(caption)) + 2 for caption in pairs.captions)
    context = model.config.context_length
    cut = f"; captions of up to {longest} tokens are cut at {context}" if longest > context else ""
    tested = f"{len(held_out.names)} unseen pictures" if held_out else "nothing: too few pictures"
    return (
        f"{len(pairs.names)} pictures, {len(pairs)} captions; tested on {tested}\n"
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {tokenizer.vocab_size} tokens{cut}\n"
        f"{config.epochs} epochs in batches of {config.batch_size} on {model.logit_scale.device} -> {run}"
    )


def _given(arguments: argparse.Namespace, config: type) -> dict[str, object]:
    """The options of `config` that the user set."""
    named = {field.name: getattr(arguments, field.name, None) for field in fields(config)}
    return {name: value for name, value in named.items() if value is not None}


def print_unseen(top1: float, top5: float) -> None:
    print(f"unseen top-1 {100 * top1:.1f} %")
    print(f"unseen top-5 {100 * top5:.1f} %")


# --- eval, classify, search -------------------------------------------------------------------------------------------


def eval_command(arguments: argparse.Namespace) -> int:
    run, model, tokenizer = load_run(arguments)
    _, options = checkpoint.read_config(run)
    resolution = model.config.image_resolution
    if arguments.data:
        tested, _ = data.load_folder(arguments.data, resolution)
    else:
        _, tested = load_pairs(options, resolution)
        if tested is None:
            raise ValueError(f"{run} held no pictures back (there were too few): name others with --data")
    found = evaluate.recall_of_pairs(model, tokenizer, tested, arguments.templates)
    n_texts = len(set(tested.captions))
    chance = 100 * len(tested) / (len(tested.names) * n_texts)  # right pairs among all pairs, either way
    print(f"{run}: {len(tested.names)} pictures, {n_texts} captions (chance at recall@1: {chance:.2f} %)")
    for way, name in (("image_to_text", "picture -> caption"), ("text_to_image", "caption -> picture")):
        print(f"{name}  " + "  ".join(f"recall@{k} {100 * value:5.1f} %" for k, value in found[way].items()))
    if not arguments.data:
        print_unseen(found["image_to_text"][1], found["image_to_text"][5])
    return 0


def classify_command(arguments: argparse.Namespace) -> int:
    run, model, tokenizer = load_run(arguments)
    names, images = read_pictures(arguments.pictures, model.config.image_resolution)
    if names:
        cosine, probability = evaluate.classify(model, tokenizer, images, arguments.labels, arguments.templates)
        for name, cosines, probabilities in zip(names, cosine.tolist(), probability.tolist(), strict=True):
            print(name)
            for label, c, p in zip(arguments.labels, cosines, probabilities, strict=True):
                print(f"  {display_ljust(label, 20)} cos {c:5.2f}  {100 * p:5.1f} %  {'█' * round(40 * p)}")
        if arguments.plot:
            plot = picture_of(run, "classify.png")
            plots.plot_classes([os.path.abspath(name) for name in names], arguments.labels, cosine, probability, plot)
            print(plot)
    return 0 if len(names) == len(arguments.pictures) else 1


def search_command(arguments: argparse.Namespace) -> int:
    if arguments.k < 1:
        raise ValueError(f"-k is {arguments.k}; it must be at least 1")
    run, model, tokenizer = load_run(arguments)
    resolution = model.config.image_resolution
    captions: dict[str, str] = {}
    if arguments.folder:
        files = list(data.picture_files(Path(arguments.folder).absolute()))
        names, images = read_pictures([str(file) for file in files], resolution)
        if not names:
            raise ValueError(f"{arguments.folder} has no picture that can be read")
    else:
        _, options = checkpoint.read_config(run)
        parts = load_pairs(options, resolution)
        names = [name for part in parts if part for name in part.names]
        images = torch.cat([part.images for part in parts if part])
        for part in filter(None, parts):
            for caption, picture in zip(part.captions, part.image_of_caption.tolist(), strict=True):
                captions.setdefault(part.names[picture], caption)
    query = evaluate.class_features(model, tokenizer, [arguments.query], arguments.templates)
    found = evaluate.nearest(evaluate.image_features(model, images), names, query, arguments.k)
    for rank, (name, cosine) in enumerate(found[0], start=1):
        print(f"{rank:3}.  cos {cosine:5.2f}  {data.display_name(name)}  {captions.get(name, '')}".rstrip())
    if arguments.plot:
        plot = picture_of(run, "search.png")
        plots.plot_retrieval([arguments.query], found, None, plot)
        print(plot)
    return 0


def read_pictures(paths: Sequence[str], resolution: int) -> tuple[list[str], torch.Tensor]:
    """The pictures (P, 3, R, R) that can be read, and their names; the others are said on standard error."""
    names, images = [], []
    for path in tqdm(paths, "reading", leave=False, disable=len(paths) < 100 or not sys.stderr.isatty()):
        try:
            images.append(data.to_tensor(data.load_image(path), resolution))
            names.append(path)
        except (OSError, ValueError) as error:
            print(f"minclip: error: {error}", file=sys.stderr)
    return names, torch.stack(images) if images else torch.empty(0, 3, resolution, resolution, dtype=torch.uint8)


def load_run(arguments: argparse.Namespace) -> tuple[Path, CLIP, Tokenizer]:
    run = Path(arguments.run) if arguments.run else checkpoint.newest_run()
    model, _, tokenizer = checkpoint.load(run, choose_device(arguments.device))
    return run, model, tokenizer


def picture_of(run: Path, name: str) -> Path:
    """Where a picture of a run goes: into its folder, or beside the exported file."""
    return run.with_name(f"{run.stem}-{name}") if run.is_file() else run / name


def export_command(arguments: argparse.Namespace) -> int:
    run = Path(arguments.run) if arguments.run else checkpoint.newest_run()
    checkpoint.export(run, arguments.file)
    print(f"{run} -> {arguments.file}: {Path(arguments.file).stat().st_size / 1e6:.1f} MB")
    return 0


def choose_device(name: str) -> str:
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, there in available.items() if there)
    if not available[name]:
        raise ValueError(f"--device {name}: torch {torch.__version__} finds no such device here")
    return name


# --- arguments --------------------------------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="minclip",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="CLIP from scratch: train a model that puts pictures and texts into one space, and ask it things.",
        epilog="""a first quarter of an hour:
  minclip train                                       minutes; learns from emoji and their names
  minclip eval                                        400 emoji it has never seen, 400 captions: which is whose?
  minclip search "red heart" --plot                   the nearest pictures to a text
  minclip classify cat.png --labels cat dog horse other    the nearest of your texts to a picture

Each command explains itself: minclip train --help""",
    )
    parser.add_argument("--version", action="version", version=f"minclip {__version__}")
    commands = parser.add_subparsers(required=True, metavar="train | eval | classify | search | export | bench")
    _add_train(commands)
    _add_eval(commands)
    _add_classify(commands)
    _add_search(commands)
    _add_export(commands)
    bench.add_bench(commands)
    return parser


def _add_command(commands, name: str, function, summary: str, description: str) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name, help=summary, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.set_defaults(command=function)
    command.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
    return command


def _add_train(commands) -> None:
    default = TrainConfig()
    command = _add_command(
        commands,
        "train",
        train_command,
        "train a model from nothing",
        """Train a CLIP from nothing, by default on all emoji and their names.

  minclip train                           English captions
  minclip train --language zh             Chinese ones (there are: """
        + " ".join(data.LANGUAGES)
        + """)
  minclip train --data my_pictures        a folder with one .csv or .tsv file: columns image, caption
  minclip train --smoke                   seconds: only to see that everything works

Guessing costs ln(batch size); the loss starts near it and goes down to the floor that duplicate captions leave.
Weights, metrics and pictures go to runs/; eval, classify and search take the newest run.""",
    )
    command.add_argument(
        "--data", metavar="FOLDER", help="your own pictures: a folder with a table, or the table itself"
    )
    command.add_argument("--skip-bad", action="store_true", help="leave out what cannot be read instead of stopping")
    command.add_argument("--language", help="of the emoji captions (default: en)")
    command.add_argument("--out", metavar="FOLDER", help="the run folder (default: runs/<data>-<time>)")
    size = command.add_mutually_exclusive_group()
    size.add_argument("--model", choices=sorted(PRESETS), default="emoji", help="sizes of the towers (default: emoji)")
    size.add_argument("--smoke", action="store_true", help="a tiny model on a few pictures, in seconds")
    command.add_argument("--epochs", type=int, help=f"passes over the data (default: {default.epochs})")
    command.add_argument("--batch-size", type=int, help=f"pairs told apart at a time (default: {default.batch_size})")
    command.add_argument("--lr", type=float, help=f"peak learning rate (default: {default.lr})")
    command.add_argument("--loss", choices=LOSSES, help=f"softmax, or a sigmoid a pair (default: {default.loss})")
    command.add_argument(
        "--backend", choices=BACKENDS, help=f"of the loss: kernels or formula (default: {default.backend})"
    )
    command.add_argument("--seed", type=int, help=f"of weights, order and augmentation (default: {default.seed})")


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("--run", metavar="PATH", help=RUN_HELP)
    command.add_argument(
        "--templates",
        nargs="+",
        default=evaluate.PLAIN,
        metavar="TEXT",
        help='prompts around every text, averaged: --templates "{}" "a picture of a {}" (default: the text alone)',
    )


def _add_eval(commands) -> None:
    command = _add_command(
        commands,
        "eval",
        eval_command,
        "score a model on pictures it has never seen",
        """Score a run on the pictures it was never trained on.

recall@k: how often the right answer is among the first k, from picture to caption and from caption to picture.""",
    )
    command.add_argument("--data", metavar="FOLDER", help="score on these pictures instead (a folder with a table)")
    _add_run(command)


def _add_classify(commands) -> None:
    command = _add_command(
        commands,
        "classify",
        classify_command,
        "which of these labels fits a picture best?",
        """Compare pictures with any labels you type.

  minclip classify cat.png --labels cat dog horse other

The cosine says how near a label is; the probabilities add up to 1 over *your* labels, whatever is in the picture: add
a label such as "other" to give it somewhere else to go.""",
    )
    command.add_argument("pictures", nargs="+", metavar="PICTURE")
    command.add_argument("--labels", nargs="+", required=True, metavar="LABEL")
    command.add_argument("--plot", action="store_true", help="draw the bars into classify.png in the run folder")
    _add_run(command)


def _add_search(commands) -> None:
    command = _add_command(
        commands,
        "search",
        search_command,
        "which pictures fit a text best?",
        """Find the pictures nearest to a text, among those of the run or in a folder of yours.

  minclip search "red heart"
  minclip search "a dog" --folder ~/Pictures --plot""",
    )
    command.add_argument("query", metavar="TEXT")
    command.add_argument("--folder", metavar="FOLDER", help="search the pictures in here (default: the run's own)")
    command.add_argument("-k", type=int, default=10, help="how many to show (default: 10)")
    command.add_argument("--plot", action="store_true", help="draw them into search.png in the run folder")
    _add_run(command)


def _add_export(commands) -> None:
    command = commands.add_parser(
        "export",
        help="put a model into one small file",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""Put a run into one file: weights in float16, tokenizer, and the options it was trained with.

  minclip export cat.safetensors
  minclip search "red heart" --run cat.safetensors

In Python: minclip.load("cat.safetensors"). For a run on pictures of your own the options name their folder.""",
    )
    command.set_defaults(command=export_command)
    command.add_argument("file", metavar="FILE", help="a new file; nothing is written over")
    command.add_argument("--run", metavar="PATH", help=RUN_HELP)


if __name__ == "__main__":
    sys.exit(main())
