"""`minclip probe`: how much of a few classes can be read off frozen features."""

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from minclip import data, evaluate, probe
from minclip.commands.common import (
    add_artists,
    add_device,
    add_json,
    add_run,
    add_templates,
    announce,
    choose_device,
    chosen_artists,
    figure_path,
    print_json,
    read_run,
    trained_on,
)
from minclip.formats import Saved

SHOTS, DRAWS = (1, 2, 4, 8, 16), 5
DESCRIPTION = """Learn classes from a few labelled pictures, on the features of a model that stays as it is.

  minclip probe                              the groups of the emoji
  minclip probe --data my_pictures --plot    one folder for each class, or a table whose captions are the classes

A linear probe (logistic regression with L2) and nearest neighbours learn from 1, 2, 4, … pictures of each class, drawn
several times, and from all of them. They are tested on a third of the pictures, by which nothing is chosen: the L2
strength and the number of neighbours come from cross-validation among the pictures that were drawn. "zero-shot"
compares the same test pictures with the names of the classes; "chance" is guessing. Accuracy is the mean over the
classes, ± its standard deviation over the draws."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    own = "folder of pictures with one folder for each class, or with a table (default: the emoji by their groups)"
    parser.add_argument("--data", metavar="FOLDER", help=own)
    add_artists(parser, "those of the run, or all")
    shots = f"largest number of pictures per class, for each row (default: {' '.join(map(str, SHOTS))})"
    parser.add_argument("--shots", nargs="+", type=int, default=SHOTS, metavar="K", help=shots)
    parser.add_argument("--draws", type=int, default=DRAWS, metavar="N", help=f"draws for each row (default: {DRAWS})")
    parser.add_argument("--plot", action="store_true", help="the curve as a figure, probe.png in the run folder")
    add_run(parser)
    add_templates(parser)
    add_json(parser)
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    if min(arguments.shots) < 1 or arguments.draws < 1:
        raise ValueError(f"--shots is {arguments.shots} and --draws {arguments.draws}; all must be at least 1")
    artists = chosen_artists(arguments)
    if arguments.data and artists:
        raise ValueError("--artists and --emoji-font choose emoji, and --data brings its own pictures: give one")
    path, saved = read_run(arguments)
    labelled = load(arguments, saved, artists)
    model = saved.build(choose_device(arguments.device))
    features = evaluate.image_features(model, labelled.images)
    tested = probe.test_side(labelled)
    texts = evaluate.class_features(model, saved.tokenizer, labelled.classes, arguments.templates)
    zero_shot = probe.accuracy_by_class(features[tested] @ texts.T, labelled.labels[tested])
    chance = 1 / len(labelled.classes)

    curve = probe.probe(features, labelled, arguments.shots, arguments.draws)
    about = {"run": str(path), "classes": labelled.classes, "tested": int(tested.sum())}
    rows = list(curve) if arguments.json else list(printed(curve, about, zero_shot, chance))
    if arguments.json:
        print_json({**about, "zero_shot": zero_shot, "chance": chance, "rows": [asdict(row) for row in rows]})
    if arguments.plot:
        # matplotlib is slow to import, and only wanted here.
        from minclip import plots

        figure = figure_path(path, "probe.png")
        plots.plot_probe(rows, zero_shot, chance, figure)
        announce(figure, arguments)
    return 0


def load(arguments: argparse.Namespace, saved: Saved, artists: list[data.Artist]) -> data.Labelled:
    """The pictures with their classes: the user's own, or emoji."""
    if arguments.data:
        return data.load_labelled(arguments.data, saved.preprocess)
    is_of_emoji = saved.training and saved.training["data"] is None
    known = trained_on(saved.training) if is_of_emoji else list(data.ARTISTS.values())
    return data.load_emoji_groups(artists or known, saved.preprocess)


def printed(curve: Iterator[probe.Row], about: dict[str, Any], zero_shot: float, chance: float) -> Iterator[probe.Row]:
    """Pass on the rows of the curve, and print each as soon as it is there."""
    print(f"{about['run']}: {len(about['classes'])} classes, tested on {about['tested']} pictures; accuracy in %")
    print(f"{'per class':>9} {'pictures':>9} {'linear probe':>15} {'neighbours':>15}")
    for row in curve:
        columns = f"{described(row.linear):>15} {described(row.neighbours):>15}"
        print(f"{row.shots or 'all':>9} {row.pictures:>9} {columns.rstrip()}", flush=True)
        yield row
    print(f"zero-shot {100 * zero_shot:.1f}, chance {100 * chance:.1f}")


def described(method: probe.Method) -> str:
    """The mean accuracy in percent, and its standard deviation if there were several draws."""
    spread = f"± {100 * method.deviation:4.1f}" if len(method.accuracy) > 1 else "      "
    return f"{100 * method.mean:.1f} {spread}"
