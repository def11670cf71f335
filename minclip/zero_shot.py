"""Zero-shot accuracy: which of the classes a picture is nearest to, for pictures in folders named after their class.

Source: Radford et al. 2021 (arXiv:2103.00020), section 3.1.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from minclip.evaluate import BATCH, ranks
from minclip.prompts import read_lines


@dataclass(frozen=True)
class ClassScore:
    """How often the right class is the first, or among the first five, for the pictures of one class; in [0, 1].

    `mistaken_for` is the class that its wrongly classified pictures are nearest to most often.
    """

    name: str
    pictures: int
    top1: float
    top5: float
    mistaken_for: str | None


def score_classes(
    images: torch.Tensor, classes: torch.Tensor, right: torch.Tensor, names: Sequence[str]
) -> list[ClassScore]:
    """The scores of all classes that have pictures.

    images (P, E) and classes (C, E): unit vectors; right (P,) int64: the class of each picture; names (C).
    """
    rank, nearest = [], []
    for rows in torch.arange(len(images)).split(BATCH):
        cosine = images[rows] @ classes.T  # (b, C)
        is_right = torch.nn.functional.one_hot(right[rows], len(classes)).bool()
        rank.append(ranks(cosine, is_right))
        nearest.append(cosine.argmax(dim=1))
    all_ranks, all_nearest = torch.cat(rank), torch.cat(nearest)
    return [
        _score(name, all_ranks[right == c], all_nearest[right == c], c, names)
        for c, name in enumerate(names)
        if (right == c).any()
    ]


def _score(name: str, rank: torch.Tensor, nearest: torch.Tensor, right: int, names: Sequence[str]) -> ClassScore:
    wrong = Counter(nearest[(rank > 0) & (nearest != right)].tolist()).most_common(1)
    mistaken_for = str(names[wrong[0][0]]) if wrong else None
    top1, top5 = ((rank < k).double().mean().item() for k in (1, 5))
    return ClassScore(name, len(rank), top1, top5, mistaken_for)


def read_class_names(path: str | Path, folders: Sequence[str]) -> dict[str, str]:
    """The name of the class of each folder, from a text file.

    A line is a folder, a tab and its name, where `folders` have spaces for underscores; or all lines are names alone,
    in the alphabetical order of the folders.
    Raises ValueError if the file does not fit the folders.
    """
    lines = read_lines(path)
    cells = [line.split("\t", 1) for line in lines if "\t" in line]
    named = {folder.replace("_", " "): name for folder, name in cells}
    if not named and len(lines) == len(folders):
        named = dict(zip(sorted(folders), lines, strict=True))
    return _check_names(path, lines, {folder: name.strip() for folder, name in named.items()}, folders)


def _check_names(
    path: str | Path, lines: Sequence[str], named: Mapping[str, str], folders: Sequence[str]
) -> dict[str, str]:
    if not named:
        raise ValueError(f"{path} has {len(lines)} names for {len(folders)} folders: a line for each is needed")
    missing = [folder for folder in folders if not named.get(folder)]
    if missing:
        raise ValueError(f"{path} has no name for the folder {missing[0]}: add the line {missing[0]}<TAB>its name")
    return {folder: named[folder] for folder in folders}
