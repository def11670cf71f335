"""Does a search in plain words find the emoji that a person means?"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from minclip import evaluate
from minclip.data import Emoji, Pairs, emoji_names, without_tone
from minclip.model import CLIP
from minclip.prompts import PLAIN
from minclip.tokenizer import Tokenizer


@dataclass(frozen=True)
class Query:
    """A text as someone types it, and the English CLDR names of the emoji that are right for it."""

    text: str
    right: frozenset[str]


def read_queries(path: str | Path) -> list[Query]:
    """Read a CSV with the columns `query` and `right`, which has names separated by `|`.

    Raises ValueError for a table without these columns or rows, and for a name that no emoji has.
    """
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"query", "right"} <= rows[0].keys():
        raise ValueError(f"{path}: expected the columns query and right, and at least one row")
    queries = [Query(row["query"], frozenset((row["right"] or "").split("|"))) for row in rows]
    unknown = sorted(set().union(*(query.right for query in queries)) - set(emoji_names().values()))
    if unknown:
        raise ValueError(f"{path}: no emoji has the English name {unknown[0]!r}")
    return queries


@dataclass(frozen=True)
class Answered:
    """Share of queries with a right picture first or among the first five; `chance` is that of drawing pictures.

    `first` has, for each query, the English name of the picture that was found first.
    """

    queries: int
    pictures: int
    top1: float
    top5: float
    chance1: float
    chance5: float
    first: list[str]


def answer_queries(
    model: CLIP, tokenizer: Tokenizer, pairs: Pairs, queries: Sequence[Query], templates: Sequence[str] = PLAIN
) -> Answered:
    """Search the pictures of emoji for every query. A right emoji counts in any skin tone and by any artist."""
    names = [_name(origin) for origin in pairs.origins]  # type: ignore[arg-type]
    is_right = torch.tensor([[name in query.right for name in names] for query in queries])  # (Q, P)
    texts = evaluate.class_features(model, tokenizer, [query.text for query in queries], templates)
    cosine = texts @ evaluate.image_features(model, pairs.images).T
    rank = evaluate.ranks(cosine, is_right)
    right = is_right.sum(dim=1)
    return Answered(
        queries=len(queries),
        pictures=len(names),
        top1=(rank < 1).double().mean().item(),
        top5=(rank < 5).double().mean().item(),
        chance1=evaluate.chance(right, len(names), 1).mean().item(),
        chance5=evaluate.chance(right, len(names), 5).mean().item(),
        first=[names[i] for i in cosine.argmax(dim=1)],
    )


def _name(origin: Emoji) -> str:
    return emoji_names().get(without_tone(origin.codes), "")
