"""`minclip eval`: recall on pictures that a model has never seen, and the names of an artist's drawings."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from minclip import data, evaluate, naming, queries
from minclip.commands.common import (
    add_artists,
    add_device,
    add_json,
    add_run,
    add_templates,
    check_has_pictures,
    choose_device,
    chosen_artists,
    load_pairs,
    load_tested,
    print_json,
    print_unseen,
    read_run,
    trained_on,
)
from minclip.formats import Saved
from minclip.model import CLIP

DESCRIPTION = """Score a model on the pictures that were held out of its training.

recall@k is how often the right answer is among the first k, from picture to caption and from caption to picture.

  minclip eval                                   the emoji that the run was never trained on
  minclip eval --emoji-font NotoColorEmoji.ttf   every emoji of an artist that the run was never trained on

For such an artist a table says how often the right name is the first, or among the first five: of all names, of the
basic emoji (no tone of skin, no flag of a country, none of the 400 unseen compositions), of each group of the basic
emoji, and of the unseen compositions. "chance" is guessing, "pixels" the name of the training picture whose pixels are
the nearest."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="FOLDER", help="other pictures to score on: a folder with a table")
    add_artists(parser, "those of the run")
    searches = "searches to answer: a CSV with the columns query and right, which has English names separated by |"
    parser.add_argument("--queries", metavar="FILE", help=searches)
    add_run(parser)
    add_templates(parser)
    add_json(parser)
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    artists = chosen_artists(arguments)
    if arguments.queries:
        return run_queries(arguments)
    if arguments.data and artists:
        raise ValueError("--artists and --emoji-font choose emoji, and --data brings its own pictures: give one")
    path, saved = read_run(arguments)
    if not arguments.data:
        check_has_pictures(saved, path)
    if new := [artist for artist in artists if artist not in known_artists(saved)]:
        if len(artists) > 1:
            raise ValueError(f"{new[0].name} is new to the run and is scored alone: give no other artist with it")
        return run_new_artist(arguments, str(path), saved, new[0])
    if arguments.data:
        tested, _ = data.load_folder(arguments.data, saved.preprocess)
    elif artists:
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


def run_queries(arguments: argparse.Namespace) -> int:
    """Score searches among the pictures that a run was trained and tested on."""
    asked = queries.read_queries(arguments.queries)
    path, saved = read_run(arguments)
    check_has_pictures(saved, path)
    if saved.training["data"] is not None:
        raise ValueError(f"{path} was not trained on emoji, and --queries asks for emoji")
    pairs = data.Pairs.join([part for part in load_pairs(saved.training, saved.preprocess) if part])
    model = saved.build(choose_device(arguments.device))
    found = queries.answer_queries(model, saved.tokenizer, pairs, asked, arguments.templates)
    if arguments.json:
        print_json({"run": str(path), **asdict(found)})
        return 0
    print(f"{path}: {found.queries} queries among {found.pictures} pictures of emoji")
    print(f"right picture first {100 * found.top1:.1f} % (chance {100 * found.chance1:.2f} %)")
    print(f"among the first five {100 * found.top5:.1f} % (chance {100 * found.chance5:.2f} %)")
    return 0


def known_artists(saved: Saved) -> Sequence[data.Artist]:
    return trained_on(saved.training) if saved.training["data"] is None else []


def run_new_artist(arguments: argparse.Namespace, run: str, saved: Saved, artist: data.Artist) -> int:
    """Score the names of an artist who was not trained on."""
    drawn = data.load_artist(artist, saved.preprocess, saved.training["language"])
    trained, _ = load_pairs(saved.training, saved.preprocess)
    model: CLIP = saved.build(choose_device(arguments.device))
    scores = naming.name_artist(model, saved.tokenizer, drawn, trained, arguments.templates)
    match = None
    if "basic" in scores:
        match = naming.measure_match(model, saved.tokenizer, drawn, saved.match, arguments.templates)
    if arguments.json:
        described = {name: asdict(score) for name, score in scores.items()}
        about = {"run": run, "artist": artist.name, "credit": artist.credit}
        print_json({**about, "scores": described, "match": match and asdict(match)})
    else:
        print(f"{run}: {artist.name}, an artist that it was not trained on\n{artist.credit}")
        print_names(scores)
        if match:
            print_match(match, is_stored=saved.match is not None)
    return 0


def print_match(match: naming.Match, is_stored: bool) -> None:
    print(f"lowest cosine of a match: {match.cosine:.2f} ({'stored with the model' if is_stored else 'proposed'})")
    print(f"  {100 * match.accepted:.0f} % of the pictures reach it with their own name")
    print(f"  {100 * match.refused:.0f} % do not reach it with any of {naming.LABELS} other names, drawn at random")


def print_names(scores: dict[str, naming.Named]) -> None:
    titles = "".join(f"{title:>15}" for title in ("model", "chance", "pixels"))
    print(f"{'top-1 / top-5 in %':22} pictures  names{titles}")
    for name, score in scores.items():
        shares = [(score.top1, score.top5), (score.chance1, score.chance5), (score.pixels1, score.pixels5)]
        columns = "".join(f"   {100 * top1:5.2f} /{100 * top5:5.1f}" for top1, top5 in shares)
        print(f"{name:22} {score.pictures:8} {score.names:6}{columns}")


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
