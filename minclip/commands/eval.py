"""`minclip eval`: recall on pictures that a model has never seen."""

import argparse
from typing import Any

from minclip import data, evaluate
from minclip.commands.common import (
    add_artists,
    add_device,
    add_json,
    add_run,
    add_templates,
    choose_device,
    load_tested,
    print_json,
    print_unseen,
    read_run,
)

DESCRIPTION = """Score a model on the pictures that were held out of its training.

recall@k is how often the right answer is among the first k, from picture to caption and from caption to picture."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data", metavar="FOLDER", help="other pictures to score on: a folder with a table")
    add_artists(source, "those of the run")
    add_run(parser)
    add_templates(parser)
    add_json(parser)
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    path, saved = read_run(arguments)
    if arguments.data:
        tested, _ = data.load_folder(arguments.data, saved.preprocess)
    elif arguments.artists:
        artists = [data.ARTISTS[name] for name in arguments.artists]
        _, tested = data.load_emoji(saved.preprocess, saved.training["language"], artists)
    else:
        tested = load_tested(saved, path)
    model = saved.build(choose_device(arguments.device))
    found = evaluate.recall_of_pairs(model, saved.tokenizer, tested, arguments.templates)
    scores = describe(str(path), tested, found)
    if arguments.json:
        print_json(scores)
        return 0
    print_scores(scores)
    if not arguments.data:
        print_unseen(found["image_to_text"][1], found["image_to_text"][5])
    return 0


def describe(run: str, tested: data.Pairs, found: evaluate.Recall) -> dict[str, Any]:
    """The scores with what is needed to read them; `chance` is that of recall@1, in either direction."""
    n_pictures, n_texts = len(tested.origins), len(set(tested.captions))
    chance = len(tested) / (n_pictures * n_texts)  # right pairs among all pairs
    return {"run": run, "pictures": n_pictures, "captions": n_texts, "chance": chance, **found}


def print_scores(scores: dict[str, Any]) -> None:
    chance = f"chance at recall@1: {100 * scores['chance']:.2f} %"
    print(f"{scores['run']}: {scores['pictures']} pictures, {scores['captions']} captions ({chance})")
    for way, name in (("image_to_text", "picture -> caption"), ("text_to_image", "caption -> picture")):
        print(f"{name}  " + "  ".join(f"recall@{k} {100 * value:5.1f} %" for k, value in scores[way].items()))
