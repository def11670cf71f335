"""Pictures with one class each: folders named after their classes, a table, or the emoji by their groups."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from minclip.data.artists import Artist
from minclip.data.emoji import emoji_group, is_basic, load_artist
from minclip.data.folder import load_folder
from minclip.data.pairs import Pairs
from minclip.images import Preprocess


@dataclass(frozen=True)
class Labelled:
    """P different pictures (P, 3, R, R) uint8 of C classes.

    labels (P,) int64 are indices of `classes`. things (P,) int64 number what the pictures show: those of one thing,
    such as an emoji by two artists, belong on one side of a split.
    """

    images: torch.Tensor
    classes: list[str]
    labels: torch.Tensor
    things: torch.Tensor


def load_labelled(path: str | Path, preprocess: Preprocess) -> Labelled:
    """Read data in any of the layouts of `load_folder`: the caption, or the name of the folder, is the class.

    Raises ValueError, or OSError, for what cannot be read.
    """
    pairs, _ = load_folder(path, preprocess)
    return label(pairs, [str(origin) for origin in pairs.origins])


def load_emoji_groups(artists: Sequence[Artist], preprocess: Preprocess) -> Labelled:
    """The basic emoji of some artists, by Unicode's groups, such as "Animals & Nature"."""
    pairs = Pairs.join([load_artist(artist, preprocess) for artist in artists])
    codes = [origin.codes for origin in pairs.origins]  # type: ignore[attr-defined]
    chosen = [i for i, own in enumerate(codes) if is_basic(own) and emoji_group(own)]
    groups = [emoji_group(codes[i]) or "" for i in chosen]
    part = pairs.select(chosen)
    grouped = Pairs(part.images, part.origins, groups, torch.arange(len(chosen)))
    return label(grouped, [codes[i] for i in chosen])


def label(pairs: Pairs, things: Sequence[str]) -> Labelled:
    """Make the caption of each picture its class; `things` names what each picture shows.

    Equal pictures count once. Left out, with a warning, are pictures of several classes, and classes of which only one
    thing is shown. Raises ValueError if fewer than two classes remain.
    """
    thing_of = dict(zip(pairs.origins, things, strict=True))
    merged = pairs.merge_equal_pictures()
    classes: list[set[str]] = [set() for _ in merged.origins]
    for picture, caption in zip(merged.image_of_caption.tolist(), merged.captions, strict=True):
        classes[picture].add(caption)
    kept = [i for i, own in enumerate(classes) if len(own) == 1]
    _warn_of_several_classes([str(merged.origins[i]) for i, own in enumerate(classes) if len(own) > 1])

    shown = {(min(classes[i]), thing_of[merged.origins[i]]) for i in kept}
    counts = Counter(name for name, _ in shown)
    names = sorted(name for name, count in counts.items() if count > 1)
    if len(names) < 2:
        raise ValueError(f"at least two classes with two different pictures each are needed, found {len(names)}")
    if len(names) < len(counts):
        alone = ", ".join(sorted(counts.keys() - set(names))[:5])
        warnings.warn(f"classes with only one picture are left out, such as {alone}", stacklevel=2)
    kept = [i for i in kept if min(classes[i]) in names]
    return Labelled(
        merged.images[kept],
        names,
        torch.tensor([names.index(min(classes[i])) for i in kept]),
        _number([thing_of[merged.origins[i]] for i in kept]),
    )


def _warn_of_several_classes(pictures: list[str]) -> None:
    if pictures:
        message = f"pictures with more than one class are left out: {len(pictures)}, such as {pictures[0]}"
        warnings.warn(message, stacklevel=3)


def _number(things: Sequence[str]) -> torch.Tensor:
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(thing, len(numbers)) for thing in things])
