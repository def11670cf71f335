"""`minclip eval`: recall on pictures that a model has never seen, and the names of an artist's drawings."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from minclip import data, evaluate, naming, queries, zero_shot
from minclip.commands.common import (
    add_artists,
    add_columns,
    add_device,
    add_json,
    add_run,
    add_templates,
    check_has_pictures,
    choose_device,
    chosen_artists,
    chosen_templates,
    columns,
    load_drawings,
    load_pairs,
    load_tested,
    print_json,
    print_unseen,
    read_run,
    trained_on,
)
from minclip.data.folder import CLASSES
from minclip.features import picture_features
from minclip.formats import Saved
from minclip.model import CLIP

DESCRIPTION = """Score a model on the pictures that were held out of its training.

recall@k is how often the right answer is among the first k, from picture to caption and from caption to picture.

  minclip eval                                   the emoji that the run was never trained on
  minclip eval --data photos --templates imagenet   your own: recall, or zero-shot accuracy over class folders
  minclip eval --emoji-font NotoColorEmoji.ttf   every emoji of an artist that the run was never trained on

For such an artist a table says how often the right name is the first, or among the first five: of all names, of the
basic emoji (no skin tone, no flag of a country, none of the 400 unseen compositions), of each group of the basic
emoji, and of the unseen compositions. "chance" is guessing, "pixels" the name of the training picture whose pixels are
the nearest."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    others = "other pictures to score on, in any layout; the classes of class folders are told apart without captions"
    parser.add_argument("--data", metavar="PATH", help=others)
    add_columns(parser)
    names = "a .txt file with the names of class folders: folder, tab, name; or names alone, in the folders' order"
    parser.add_argument("--classes", metavar="FILE", help=names)
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
    found_data = data.find_pairs(arguments.data, columns(arguments)) if arguments.data else None
    if found_data and found_data.layout == CLASSES:
        return run_classes(arguments, str(path), saved, found_data)
    if arguments.classes:
        raise ValueError(f"--classes {arguments.classes} needs --data with class folders, which it names")
    if found_data:
        tested, _ = data.load_found(found_data, saved.preprocess, skip_bad=False, reading=data.Reading())
    elif artists:
        _, tested = data.load_emoji(saved.preprocess, saved.training["language"], artists)
    else:
        tested = load_tested(saved, path)
    model = saved.build(choose_device(arguments.device))
    found = evaluate.recall_of_pairs(model, saved.tokenizer, tested, chosen_templates(arguments))
    scores = describe(str(path), tested, found)
    if arguments.json:
        print_json(scores)
        return 0
    print_scores(scores)
    if not arguments.data:
        print_unseen(found["image_to_text"][1], found["image_to_text"][5])
    return 0


def run_classes(arguments: argparse.Namespace, run: str, saved: Saved, found: data.Found) -> int:
    """Score how often the folder of a picture has the name that is nearest to it."""
    names = sorted(set(found.captions))
    named = (
        zero_shot.read_class_names(arguments.classes, names) if arguments.classes else {name: name for name in names}
    )
    model = saved.build(choose_device(arguments.device))
    labels = list(dict.fromkeys(named.values()))
    classes = evaluate.class_features(model, saved.tokenizer, labels, chosen_templates(arguments))
    pictures, features, problems = picture_features(model, found.sources)
    if problems:
        raise ValueError(data.describe_problems(problems, found.place))
    right = torch.tensor([labels.index(named[found.captions[i]]) for i in pictures])
    scores = zero_shot.score_classes(features, classes, right, labels)
    overall = {
        "pictures": len(right),
        "classes": len(labels),
        "top1": sum(score.top1 * score.pictures for score in scores) / len(right),
        "top5": sum(score.top5 * score.pictures for score in scores) / len(right),
        "mean of classes": sum(score.top1 for score in scores) / len(scores),
    }
    if arguments.json:
        print_json({"run": run, **overall, "per class": [asdict(score) for score in scores]})
    else:
        print_classes(run, overall, scores)
    return 0


def print_classes(run: str, overall: dict[str, Any], scores: Sequence[zero_shot.ClassScore]) -> None:
    print(f"{run}: {overall['pictures']} pictures of {overall['classes']} classes")
    print(f"top-1 {100 * overall['top1']:.1f} %  (chance {100 / overall['classes']:.2f} %)")
    print(f"top-5 {100 * overall['top5']:.1f} %")
    print(f"mean of the classes' top-1 {100 * overall['mean of classes']:.1f} %\n")
    width = max(len(score.name) for score in scores)
    print(f"{'class':{width}}  pictures  top-1 in %  top-5 in %  mistaken for")
    for score in scores:
        share1, share5 = 100 * score.top1, 100 * score.top5
        row = f"{score.name:{width}}  {score.pictures:8}  {share1:10.1f}  {share5:10.1f}  {score.mistaken_for or ''}"
        print(row.rstrip())


def run_queries(arguments: argparse.Namespace) -> int:
    """Score searches among the pictures that a run was trained and tested on."""
    asked = queries.read_queries(arguments.queries)
    path, saved = read_run(arguments)
    check_has_pictures(saved, path)
    if saved.training["data"] is not None:
        raise ValueError(f"{path} was not trained on emoji, and --queries asks for emoji")
    pairs = load_drawings(saved)
    model = saved.build(choose_device(arguments.device))
    found = queries.answer_queries(model, saved.tokenizer, pairs, asked, chosen_templates(arguments))
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
    scores = naming.name_artist(model, saved.tokenizer, drawn, trained, chosen_templates(arguments))
    match = None
    if "basic" in scores:
        match = naming.measure_match(model, saved.tokenizer, drawn, saved.match, chosen_templates(arguments))
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
