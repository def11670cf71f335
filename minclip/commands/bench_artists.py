"""`minclip bench artists`: what a model knows of the drawings of an artist whom it has never seen."""

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minclip import data, evaluate, formats, naming
from minclip.commands import train
from minclip.commands.bench import report
from minclip.commands.common import choose_device, load_pairs
from minclip.images import Preprocess
from minclip.model import PRESETS

DESCRIPTION = """For each artist, train on all the others and let the model name the drawings of the one left out.

"unseen" is the accuracy on the compositions held out of training, drawn by the artists that were trained on; "left out"
is the accuracy on the basic emoji of the other artist, among all of their names; "pixels" is the same for the name of
the training picture with the nearest pixels. About fifteen minutes on two CPU cores. With --emoji-font a model of all
artists is trained as well, and the font is left out."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--emoji-font", metavar="FILE", help="an emoji font whose artist is never trained on, as one more row")
    add("--model", choices=sorted(PRESETS), default="emoji", help="sizes of the towers (default: emoji)")
    add("--epochs", type=int, help="passes over the data (default: that of `minclip train`)")
    add("--seed", type=int, default=0, help="seed of each training (default: 0)")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="device to compute on (default: auto)")
    out = Path("bench/artists.json")
    add("--out", type=Path, default=out, help=f"file of the results (default: {out})")


def run(arguments: argparse.Namespace) -> int:
    options = ["--model", arguments.model, "--seed", str(arguments.seed), "--device", arguments.device]
    if arguments.epochs is not None:
        options += ["--epochs", str(arguments.epochs)]
    folds: list[tuple[list[str], data.Artist]] = [
        ([name for name in data.ARTISTS if name != artist.name], artist) for artist in data.ARTISTS.values()
    ]
    if arguments.emoji_font:
        folds.append((list(data.ARTISTS), data.FontArtist(Path(arguments.emoji_font).absolute())))
    # Everything is drawn first, beginning with the font, so that a bad one or a missing package costs no training.
    preprocess = Preprocess(PRESETS[arguments.model].image_resolution, trim=True)
    for _, left_out in reversed(folds):
        data.load_artist(left_out, preprocess)
    rows = [measure(trained, left_out, options) for trained, left_out in folds]
    report(rows, choose_device(arguments.device), arguments.out)
    return 0


def measure(artists: Sequence[str], left_out: data.Artist, options: Sequence[str]) -> dict[str, Any]:
    """Train on some artists, with options of `minclip train`, and score both kinds of unseen pictures in percent."""
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        arguments = parser.parse_args(["--artists", *artists, "--out", folder, *options])
        start = time.perf_counter()
        train.run(arguments)
        minutes = (time.perf_counter() - start) / 60
        saved = formats.read(folder)
    model = saved.build(choose_device(arguments.device))
    pairs, unseen = load_pairs(saved.training, saved.preprocess)
    assert unseen is not None
    known = evaluate.recall_of_pairs(model, saved.tokenizer, unseen)["image_to_text"]
    named = naming.name_artist(model, saved.tokenizer, data.load_artist(left_out, saved.preprocess), pairs)["basic"]
    return {
        "trained on": " + ".join(artists),
        "left out": left_out.name,
        "unseen top-1": 100 * known[1],
        "unseen top-5": 100 * known[5],
        "left out top-1": 100 * named.top1,
        "left out top-5": 100 * named.top5,
        "pixels top-1": 100 * named.pixels1,
        "pixels top-5": 100 * named.pixels5,
        "chance top-1": 100 * named.chance1,
        "epochs": saved.training["epochs"],
        "seed": saved.training["seed"],
        "minutes": minutes,
    }
