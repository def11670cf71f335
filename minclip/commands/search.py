"""`minclip search`: the pictures nearest to a text."""

import argparse
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch

from minclip import evaluate
from minclip.commands.common import (
    add_device,
    add_json,
    add_reject,
    add_run,
    add_templates,
    announce,
    check_has_pictures,
    choose_device,
    figure_path,
    load_pairs,
    lowest_match,
    print_json,
    read_run,
    readable,
)
from minclip.data import Pairs
from minclip.formats import Saved
from minclip.images import Origin, PictureFile, Source, picture_files
from minclip.model import CLIP

DESCRIPTION = """Find the pictures nearest to a text, among those of the run or in a folder of yours.

  minclip search "red heart"
  minclip search "a dog" --folder ~/Pictures --plot

The nearest pictures are always found, however far they are; --reject leaves out those that are no match. The cosine
for that is calibrated on drawings, and says little about photographs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("query", metavar="TEXT", help="the text to search for")
    parser.add_argument("--folder", metavar="FOLDER", help="folder of pictures to search (default: the run's own)")
    parser.add_argument("-k", type=int, default=10, help="number of pictures to show (default: 10)")
    parser.add_argument("--plot", action="store_true", help="the pictures as a figure, search.png in the run folder")
    add_reject(parser)
    add_run(parser)
    add_templates(parser)
    add_json(parser)
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.k < 1:
        raise ValueError(f"-k is {arguments.k}; it must be at least 1")
    path, saved = read_run(arguments)
    lowest = lowest_match(arguments, saved)
    if not arguments.folder:
        check_has_pictures(saved, path)
    model = saved.build(choose_device(arguments.device))
    query = evaluate.class_features(model, saved.tokenizer, [arguments.query], arguments.templates)
    search = search_folder(model, arguments.folder) if arguments.folder else search_run(model, saved)
    features, origins, captions = search
    (nearest,) = evaluate.nearest(features, origins, query, arguments.k)
    found = [(origin, cosine) for origin, cosine in nearest if cosine >= lowest]
    print_found(found, captions, arguments.json)
    if arguments.plot and found:
        # matplotlib is slow to import, and only wanted here.
        from minclip import plots

        figure = figure_path(path, "search.png")
        plots.plot_retrieval([arguments.query], [found], None, figure)
        announce(figure, arguments)
    return 0


Searched = tuple[torch.Tensor, Sequence[Origin], dict[Origin, str]]  # unit vectors (P, E), origins (P), captions


def search_folder(model: CLIP, folder: str) -> Searched:
    """The features of all pictures under a folder. Raises ValueError if none can be read."""
    origins: list[Source] = []
    files = [PictureFile(path) for path in picture_files(Path(folder).absolute())]
    features = evaluate.image_features(model, readable(files, model.preprocess, origins))
    if not origins:
        raise ValueError(f"{folder} has no picture that can be read")
    return features, origins, {}


def search_run(model: CLIP, saved: Saved) -> Searched:
    """The features of all pictures that a run was trained and tested on, and the first caption of each."""
    parts = [part for part in load_pairs(saved.training, saved.preprocess) if part]
    features = evaluate.image_features(model, chain.from_iterable(part.images for part in parts))
    origins = [origin for part in parts for origin in part.origins]
    return features, origins, dict(chain.from_iterable(map(_first_captions, parts)))


def _first_captions(pairs: Pairs) -> list[tuple[Origin, str]]:
    # The last of equal keys wins in a dictionary, so the first caption has to come last.
    owners = zip(pairs.image_of_caption.tolist(), pairs.captions, strict=True)
    return [(pairs.origins[picture], caption) for picture, caption in reversed(list(owners))]


def print_found(found: Sequence[tuple[Origin, float]], captions: dict[Origin, str], as_json: bool) -> None:
    if as_json:
        rows = [{"picture": str(origin), "cosine": c, "caption": captions.get(origin)} for origin, c in found]
        print_json(rows)
        return
    if not found:
        print("no picture matches")
    for rank, (origin, cosine) in enumerate(found, start=1):
        print(f"{rank:3}.  cos {cosine:5.2f}  {origin}  {captions.get(origin, '')}".rstrip())
