"""`minclip classify`: pictures compared with any labels."""

import argparse
from pathlib import Path
from typing import Any

from ftfy.formatting import display_ljust

from minclip import evaluate
from minclip.commands.common import (
    add_device,
    add_json,
    add_reject,
    add_run,
    add_templates,
    announce,
    choose_device,
    chosen_templates,
    figure_path,
    lowest_match,
    print_json,
    read_run,
    readable,
    typed_or_read,
)
from minclip.images import PictureFile, Source

DESCRIPTION = """Compare pictures with any labels that you type; the best one is marked.

  minclip classify cat.png --labels cat dog horse other

The cosine says how near a label is. The probabilities add up to 1 over *your* labels, whatever is in the picture; a
label such as "other" gives them somewhere else to go, but it is only one more word, without a special meaning. With
--reject the answer is "none of these" where no cosine reaches the lowest one that counts as a match.

That cosine is calibrated on drawings. A model that learned from drawings has never seen a photograph: it may put one
near any label, and the cosine does not show it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="picture files of any format that Pillow reads")
    labels = "labels to choose from, or a .txt file with one to a line"
    parser.add_argument("--labels", nargs="+", required=True, metavar="LABEL", help=labels)
    parser.add_argument("--plot", action="store_true", help="the bars as a figure, classify.png in the run folder")
    add_reject(parser)
    add_run(parser)
    add_templates(parser)
    add_json(parser)
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    path, saved = read_run(arguments)
    labels = list(typed_or_read(arguments.labels))
    lowest = lowest_match(arguments, saved)
    model = saved.build(choose_device(arguments.device))
    origins: list[Source] = []
    pixels = readable([PictureFile(Path(path)) for path in arguments.pictures], saved.preprocess, origins)
    cosine, probability = evaluate.classify(model, saved.tokenizer, pixels, labels, chosen_templates(arguments))
    answers = [
        describe(str(origin), labels, cosines, probabilities, lowest)
        for origin, cosines, probabilities in zip(origins, cosine.tolist(), probability.tolist(), strict=True)
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


def describe(
    picture: str, labels: list[str], cosines: list[float], probabilities: list[float], lowest: float
) -> dict[str, Any]:
    """The answer for one picture; the best label is None if no cosine reaches `lowest`."""
    rows = [
        {"label": label, "cosine": c, "probability": p}
        for label, c, p in zip(labels, cosines, probabilities, strict=True)
    ]
    best = max(rows, key=lambda row: row["cosine"])
    return {"picture": picture, "best": best["label"] if best["cosine"] >= lowest else None, "labels": rows}


def to_text(answer: dict[str, Any]) -> str:
    """The answer as lines for a terminal, the best label or "none of these" marked with an asterisk."""
    lines = [answer["picture"]]
    for row in answer["labels"]:
        mark, p = "*" if row["label"] == answer["best"] else " ", row["probability"]
        bar = "█" * round(40 * p)
        lines.append(
            f"{mark} {display_ljust(row['label'], 20)} cos {row['cosine']:5.2f}  {100 * p:5.1f} %  {bar}".rstrip()
        )
    if answer["best"] is None:
        lines.append("* none of these")
    return "\n".join(lines)
