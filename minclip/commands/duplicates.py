"""`minclip duplicates`: pictures that a model can hardly tell apart."""

import argparse

import torch

from minclip.commands.common import add_device, add_json, add_run, choose_device, print_json, read_run
from minclip.commands.search import search_sources
from minclip.data.folder import pictures_under

BLOCK = 1024
DESCRIPTION = """Find pictures that show nearly the same thing, by a model: groups of pictures whose features are close.

  minclip duplicates ~/Pictures
  minclip duplicates shards --cosine 0.999 --json

A picture joins the group of the first earlier picture that it is close to. How close two pictures of one motif are
depends on the model and on your pictures: lower --cosine until other motifs appear. Nothing is deleted. For equal and
nearly equal pixels, without a model, see minclip inspect."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="folder of pictures, or of tar shards")
    cosine = "lowest cosine of two pictures that counts as nearly the same (default: 0.99)"
    parser.add_argument("--cosine", type=float, default=0.99, help=cosine)
    add_run(parser)
    add_json(parser)
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    if not -1 <= arguments.cosine <= 1:
        raise ValueError(f"--cosine is {arguments.cosine}; it must be from -1 to 1")
    _, saved = read_run(arguments)
    model = saved.build(choose_device(arguments.device))
    features, origins = search_sources(model, pictures_under(arguments.folder), arguments.folder)
    groups = [[str(origins[i]) for i in group] for group in close_groups(features, arguments.cosine)]
    if arguments.json:
        print_json(groups)
        return 0
    for group in groups:
        print("\n".join(group), end="\n\n")
    pictures = sum(map(len, groups))
    print(f"{len(groups)} groups of {pictures} pictures, of {len(origins)}, with cosines from {arguments.cosine} on")
    return 0


def close_groups(features: torch.Tensor, lowest: float) -> list[list[int]]:
    """Groups of two or more pictures: each joins the group of the first earlier one with at least the cosine `lowest`.

    Unit vectors (P, E). Every picture is compared with all before it, a block at a time, so that the P × P matrix never
    exists.
    """
    groups: dict[int, list[int]] = {}
    leader: list[int] = []
    for rows in torch.arange(len(features)).split(BLOCK):
        is_close = features[rows] @ features[: rows[-1] + 1].T >= lowest  # (b, p)
        is_close[torch.arange(len(rows)), rows] = True  # also if rounding makes a cosine with itself less than 1
        first = is_close.int().argmax(dim=1)  # the first one among equal maxima
        for i, j in zip(rows.tolist(), first.tolist(), strict=True):
            leader.append(leader[j] if j < i else i)
            groups.setdefault(leader[i], []).append(i)
    return [group for group in groups.values() if len(group) > 1]
