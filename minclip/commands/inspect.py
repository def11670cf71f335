"""`minclip inspect`: what a data set allows before a training, and what the numbers of a run say after it."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from minclip import data, diagnosis, evaluate, reach
from minclip.commands.common import (
    add_columns,
    add_device,
    add_foreign,
    add_json,
    add_reading,
    choose_device,
    chosen_reading,
    columns,
    print_json,
    read_any,
)
from minclip.data.folder import Found
from minclip.data.pairs import belongs_to_test
from minclip.data.streamed import Streamed, Survey, survey
from minclip.features import picture_features
from minclip.formats import Saved
from minclip.images import Preprocess
from minclip.metrics import METRICS
from minclip.model import PRESETS
from minclip.tokenizer import Tokenizer

SHOWN = 10
DESCRIPTION = """Look at data before a training, or at a run after it.

  minclip inspect my_pictures              what the data allow: duplicates, leaks, the floor of the loss, memory
  minclip inspect my_pictures --run RUN    and the ten pairs that fit the worst, by a model
  minclip inspect runs/NAME                is the loss stuck, at its floor, diverging, or the model over-fitting?

For data, every picture is decoded once. The floor is the least mean loss that any model can have on the batches of the
first epoch, and the best top-1 is the highest possible share of pictures whose nearest caption in a batch is the right
one: equal captions, and equal pictures, cannot be told apart. For a run, only its metrics.csv is read."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="your own pictures, as for minclip train --data, or a run folder")
    models = "sizes of the model to be trained (default: emoji)"
    parser.add_argument("--model", choices=sorted(PRESETS), help=models)
    run = "a run, an export, or weights of others that judge the pairs, with their tokenizer and size of pictures"
    parser.add_argument("--run", metavar="PATH", help=run)
    add_foreign(parser)
    add_columns(parser)
    add_reading(parser)
    add_json(parser)
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    path = Path(arguments.path)
    if path.name == METRICS or (path / METRICS).is_file():
        return inspect_run(path, arguments.json)
    saved = read_any(arguments.run, arguments) if arguments.run else None
    if saved and arguments.model:
        raise ValueError("--model and --run both say which model it is about: give one")
    found = data.find_pairs(path, columns(arguments))
    sizes = saved.config if saved else PRESETS[arguments.model or "emoji"]
    preprocess = saved.preprocess if saved else Preprocess(sizes.image_resolution, trim=True)
    reading = chosen_reading(arguments)
    seen = survey(found.sources, preprocess, reading.workers)
    if not seen.pictures:
        raise ValueError(f"{found.place} has no picture that can be read: {(found.problems + seen.problems)[0]}")
    images = Streamed([found.sources[i] for i in seen.pictures], seen.digests, preprocess, reading.workers)
    pairs = found.pairs(images, seen.pictures)
    tokenizer = saved.tokenizer if saved else Tokenizer.train(pairs.captions, sizes.vocab_size)
    report = describe(found, seen, pairs, tokenizer, sizes.context_length)
    report["memory"] = reading.describe(len(pairs.origins), preprocess)
    if saved:
        report["worst"] = worst_pairs(saved, pairs, choose_device(arguments.device))
    if arguments.json:
        print_json(report)
    else:
        print_report(report)
    return 0


# --- data -------------------------------------------------------------------------------------------------------------


def describe(
    found: Found, seen: Survey, pairs: data.Pairs, tokenizer: Tokenizer, context_length: int
) -> dict[str, Any]:
    """What can be said of pairs without a model."""
    train, held_out = data.hold_out(pairs)
    tokens = tokenizer(train.captions, context_length)
    lengths = [len(ids) + 2 for ids in map(tokenizer.encode, dict.fromkeys(pairs.captions))]
    caption, count = reach.most_frequent(pairs.captions)
    return {
        "data": str(found.place),
        "layout": found.layout,
        "pictures": len(pairs.origins),
        "captions": len(pairs),
        "distinct captions": len(set(pairs.captions)),
        "most frequent caption": caption,
        "times": count,
        "equal pictures": reach.repeated(seen.digests),
        "problems": found.problems + seen.problems,
        "held out": len(held_out.origins) if held_out else 0,
        "leaks": find_leaks(seen, pairs),
        "context length": context_length,
        "cut captions": sum(length > context_length for length in lengths),
        "reach": [asdict(one) for one in reach.reaches(train, tokens, pairs.images.preprocess)],  # type: ignore[union-attr]
    }


def find_leaks(seen: Survey, pairs: data.Pairs) -> list[tuple[str, str]]:
    """The held-out pictures that are nearly equal to a training picture, with that picture."""
    is_held = torch.tensor([belongs_to_test(digest) for digest in seen.digests])
    held, train = is_held.nonzero()[:, 0].tolist(), (~is_held).nonzero()[:, 0].tolist()
    if not held or not train:
        return []
    found = reach.nearly_equal(seen.signatures[held], seen.signatures[train])
    return [(str(pairs.origins[held[i]]), str(pairs.origins[train[j]])) for i, j in found]


def worst_pairs(saved: Saved, pairs: data.Pairs, device: str) -> list[dict[str, Any]]:
    """The pairs with the lowest cosines, the lowest first."""
    model = saved.build(device)
    pictures, features, _ = picture_features(model, pairs.origins, pairs.images.workers)  # type: ignore[union-attr]
    place = {picture: i for i, picture in enumerate(pictures)}
    texts, text = pairs.distinct_captions()
    written = evaluate.text_features(model, saved.tokenizer, texts)
    owners = torch.tensor([place[picture] for picture in pairs.image_of_caption.tolist()])
    cosine = (features[owners] * written[text]).sum(dim=1)
    return [
        {
            "picture": str(pairs.origins[int(pairs.image_of_caption[i])]),
            "caption": pairs.captions[i],
            "cosine": cosine[i].item(),
        }
        for i in cosine.argsort()[:SHOWN].tolist()
    ]


def print_report(report: dict[str, Any]) -> None:
    print(f"{report['data']}: {report['layout']}, {report['pictures']:,} pictures, {report['captions']:,} captions")
    print(f"memory: {report['memory']}")
    if report["problems"]:
        print(data.describe_problems(report["problems"], "left out"))
    repeats = report["captions"] - report["distinct captions"]
    most = f" (most often {report['most frequent caption']!r}, {report['times']:,} times)" if repeats else ""
    print(f"duplicates: {repeats:,} captions and {report['equal pictures']:,} pictures equal one before them{most}")
    print_split(report["held out"], report["leaks"])
    if report["cut captions"]:
        print(f"cut: {report['cut captions']:,} captions have more than {report['context length']} tokens")
    print("batch size   untrained loss   floor   best top-1")
    for row in report["reach"]:
        print(f"{row['batch_size']:10}   {row['untrained']:14.2f}   {row['floor']:5.2f}   {100 * row['top1']:8.1f} %")
    for row in report.get("worst", ()):
        print(f"cos {row['cosine']:5.2f}  {row['picture']}  {row['caption']}")


def print_split(held_out: int, leaks: Sequence[tuple[str, str]]) -> None:
    if not held_out:
        print("split: too few pictures to hold any out")
        return
    print(f"split: {held_out:,} pictures are held out, {len(leaks):,} of them nearly equal to one of the training")
    for held, train in leaks[:SHOWN]:
        print(f"  {held} ~ {train}")
    if len(leaks) > SHOWN:
        print(f"  … and {len(leaks) - SHOWN} more")


# --- a run ------------------------------------------------------------------------------------------------------------


def inspect_run(path: Path, as_json: bool) -> int:
    """Say what has happened to a run."""
    rows = diagnosis.read_metrics(path)
    found = diagnosis.diagnose(rows)
    if as_json:
        print_json({"run": str(path), "steps": len(rows), **asdict(found)})
        return 0
    print(f"{path}: {found.kind}")
    print(f"  {found.seen}")
    for remedy in found.remedies:
        print(f"  - {remedy}")
    return 0
