"""`minclip search`: the pictures nearest to a text, or to a picture."""

import argparse
import sys
from collections.abc import Sequence

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
    chosen_templates,
    figure_path,
    find_run,
    load_drawings,
    lowest_match,
    print_json,
    read_run,
)
from minclip.data import Pairs, load_image
from minclip.data.folder import pictures_under
from minclip.features import picture_features
from minclip.formats import Saved
from minclip.images import Origin, Source
from minclip.model import CLIP

DESCRIPTION = """Find the pictures nearest to a text or a picture, among those of the run or in a folder of yours.

  minclip search "red heart"
  minclip search "a dog" --folder ~/Pictures --plot
  minclip search --like cat.png --folder shards

The pictures of a folder, or of tar shards in it, are encoded once: their features are kept in your cache,
and the next search encodes only what is new or has changed.

The nearest pictures are always found, however far away they are; --reject leaves out those that do not match. The
cosine for that is calibrated on drawings, and says little about photographs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("query", metavar="TEXT", nargs="?", help="the text to search for")
    parser.add_argument("--like", metavar="PICTURE", help="a picture to search for, instead of a text")
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
    if (arguments.query is None) == (arguments.like is None):
        raise ValueError("a search needs a text, or a picture with --like, and not both")
    path, saved = read_run(arguments)
    lowest = lowest_match(arguments, saved)
    if not arguments.folder:
        check_has_pictures(saved, path)
    model = saved.build(choose_device(arguments.device))
    if arguments.like:
        query = evaluate.image_features(model, [model.preprocess.pixels(load_image(arguments.like))])
    else:
        query = evaluate.class_features(model, saved.tokenizer, [arguments.query], chosen_templates(arguments))
    search = search_folder(model, arguments.folder) if arguments.folder else search_run(model, saved)
    features, origins, captions = search
    (nearest,) = evaluate.nearest(features, origins, query, arguments.k)
    found = [(origin, cosine) for origin, cosine in nearest if cosine >= lowest]
    print_found(found, captions, arguments.json)
    if arguments.plot and found:
        # matplotlib is slow to import, and only wanted here.
        from minclip import plots

        figure = figure_path(path, "search.png")
        plots.plot_retrieval([arguments.query or f"like {arguments.like}"], [found], None, figure)
        announce(figure, arguments)
    return 0


Searched = tuple[torch.Tensor, Sequence[Origin], dict[Origin, str]]  # unit vectors (P, E), origins (P), captions


def search_folder(model: CLIP, folder: str) -> Searched:
    """The features of all pictures under a folder, and of those in its tar shards.

    Raises ValueError if none can be read.
    """
    return *search_sources(model, pictures_under(folder), folder), {}


def search_sources(model: CLIP, sources: Sequence[Source], place: object) -> tuple[torch.Tensor, list[Source]]:
    """The features (P, E) of pictures and their origins (P), without those that cannot be read, which are named."""
    pictures, features, problems = picture_features(model, sources) if sources else ([], torch.empty(0), [])
    for problem in problems:
        print(f"minclip: error: {problem}", file=sys.stderr)
    if not pictures:
        raise ValueError(f"{place} has no picture that can be read")
    return features, [sources[i] for i in pictures]


def search_run(model: CLIP, saved: Saved) -> Searched:
    """The features of all pictures that a run was trained and tested on, and the first caption of each."""
    if saved.training["data"] is not None:
        found = find_run(saved.training)
        features, origins = search_sources(model, found.sources, found.place)
        return features, origins, found.first_captions()
    pairs = load_drawings(saved)
    return evaluate.image_features(model, pairs.images), list(pairs.origins), dict(_first_captions(pairs))


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
