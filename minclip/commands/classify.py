"""`minclip classify`: pictures compared with any labels."""

import argparse
from typing import Any

from ftfy.formatting import display_ljust

from minclip import evaluate
from minclip.commands.common import (
    add_device,
    add_json,
    add_run,
    add_templates,
    announce,
    choose_device,
    figure_path,
    print_json,
    read_run,
    readable,
)
from minclip.images import PictureFile

DESCRIPTION = """Compare pictures with any labels that you type; the best one is marked.

  minclip classify cat.png --labels cat dog horse other

The cosine says how near a label is. The probabilities add up to 1 over *your* labels, whatever is in the picture; a
label such as "other" gives them somewhere else to go."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="picture files of any format that Pillow reads")
    parser.add_argument("--labels", nargs="+", required=True, metavar="LABEL", help="labels to choose from")
    parser.add_argument("--plot", action="store_true", help="the bars as a figure, classify.png in the run folder")
    add_run(parser)
    add_templates(parser)
    add_json(parser)
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    path, saved = read_run(arguments)
    labels = arguments.labels
    model = saved.build(choose_device(arguments.device))
    origins: list[PictureFile] = []
    pixels = readable(arguments.pictures, saved.preprocess, origins)
    cosine, probability = evaluate.classify(model, saved.tokenizer, pixels, labels, arguments.templates)
    answers = [
        describe(str(origin), labels, *values)
        for origin, *values in zip(origins, cosine.tolist(), probability.tolist(), strict=True)
    ]
    if arguments.json:
        print_json(answers)
    else:
        for answer in answers:
            print(to_text(answer))
    if arguments.plot and origins:
        # matplotlib is slow to import, and only wanted here.
        from minclip import plots

        figure = figure_path(path, "classify.png")
        plots.plot_classes(origins, labels, cosine, probability, figure)
        announce(figure, arguments)
    return 0 if len(origins) == len(arguments.pictures) else 1


def describe(picture: str, labels: list[str], cosines: list[float], probabilities: list[float]) -> dict[str, Any]:
    """The answer for one picture."""
    rows = [
        {"label": label, "cosine": c, "probability": p}
        for label, c, p in zip(labels, cosines, probabilities, strict=True)
    ]
    return {"picture": picture, "best": max(rows, key=lambda row: row["cosine"])["label"], "labels": rows}


def to_text(answer: dict[str, Any]) -> str:
    """The answer as lines for a terminal, the best label marked with an asterisk."""
    lines = [answer["picture"]]
    for row in answer["labels"]:
        mark, p = "*" if row["label"] == answer["best"] else " ", row["probability"]
        bar = "█" * round(40 * p)
        lines.append(
            f"{mark} {display_ljust(row['label'], 20)} cos {row['cosine']:5.2f}  {100 * p:5.1f} %  {bar}".rstrip()
        )
    return "\n".join(lines)
