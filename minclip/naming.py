"""How well a model names the drawings of an artist: for each picture, the rank of its name among all names.

On an artist who is in no training set this measures whether the model knows a cat, or only the cats that it has seen
(Radford et al. 2021, arXiv:2103.00020, section 3.3, on natural distribution shift).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from minclip import evaluate
from minclip.data import Pairs, emoji_group, is_basic, unseen_emoji
from minclip.model import CLIP
from minclip.prompts import PLAIN
from minclip.tokenizer import Tokenizer

LABELS = 5  # labels that a picture is compared with to measure whether one of them matches
UNKNOWN_GROUP = "newer than the groups"


@dataclass(frozen=True)
class Named:
    """How often the right name is the first, or among the first five, of all `names`; all shares in [0, 1].

    `chance` is that of guessing, `pixels` that of the name of the training picture with the most similar pixels.
    """

    pictures: int
    names: int
    top1: float
    top5: float
    chance1: float
    chance5: float
    pixels1: float
    pixels5: float


def name_artist(
    model: CLIP, tokenizer: Tokenizer, drawn: Pairs, trained: Pairs, templates: Sequence[str] = PLAIN
) -> dict[str, Named]:
    """Score the names of an artist's emoji: all of them, the basic ones (`is_basic`), and the unseen compositions.

    The groups, such as "Animals & Nature", are parts of the basic emoji, and have all basic names to choose from.
    Pictures that are equal are one picture, for which each of their names is right.
    """
    sets = {"all names": lambda _: True, "basic": is_basic, "unseen compositions": unseen_emoji().__contains__}
    scores = {}
    for name, belongs in sets.items():
        pictures = [i for i, codes in enumerate(_codes(drawn)) if belongs(codes)]
        if not pictures:
            continue
        part = drawn.select(pictures).merge_equal_pictures()
        ranks = _Ranks(model, tokenizer, part, trained, templates)
        scores[name] = ranks.score(range(len(part.origins)))
        if name == "basic":
            scores |= {group: ranks.score(members) for group, members in _groups(_codes(part)).items()}
    return scores


@dataclass(frozen=True)
class Match:
    """The lowest cosine at which a text counts as a match, and how good it is on the pictures of an artist.

    `accepted` is the share of pictures whose own name reaches the cosine, `refused` the share of pictures for which
    none of `LABELS` names of other pictures, drawn at random, reaches it.
    """

    cosine: float
    accepted: float
    refused: float


def measure_match(
    model: CLIP, tokenizer: Tokenizer, drawn: Pairs, lowest: float | None = None, templates: Sequence[str] = PLAIN
) -> Match:
    """Measure a lowest cosine on an artist's basic emoji; without one, choose it so that both shares are equal."""
    pictures = [i for i, codes in enumerate(_codes(drawn)) if is_basic(codes)]
    part = drawn.select(pictures).merge_equal_pictures()
    names, is_right = _right_names(part)
    cosine, _ = evaluate.classify(model, tokenizer, part.images, names, templates)
    return choose_match(cosine, is_right, lowest)


def choose_match(cosine: torch.Tensor, is_right: torch.Tensor, lowest: float | None = None) -> Match:
    """`measure_match` for the cosines (P, T) of pictures and names."""
    right = cosine.masked_fill(~is_right, -torch.inf).amax(dim=1)  # (P,)
    wrong = cosine.masked_fill(is_right, torch.inf).sort(dim=1).values  # (P, T), the right ones behind all others
    candidates = right.sort().values if lowest is None else torch.tensor([lowest])  # (K,)
    accepted = (right >= candidates[:, None]).double().mean(dim=1)  # (K,)
    below = torch.searchsorted(wrong, candidates.expand(len(wrong), -1).contiguous())  # (P, K) wrong names below
    refused = ((below / (~is_right).sum(dim=1, keepdim=True)) ** LABELS).mean(dim=0)  # (K,)
    best = (accepted - refused).abs().argmin()
    return Match(candidates[best].item(), accepted[best].item(), refused[best].item())


def _right_names(pairs: Pairs) -> tuple[list[str], torch.Tensor]:
    """The distinct names (T), and which of them are right for which picture: (P, T) bool."""
    names, name = pairs.distinct_captions()
    is_right = torch.zeros(len(pairs.origins), len(names), dtype=torch.bool)
    is_right[pairs.image_of_caption, name] = True
    return names, is_right


def _codes(drawn: Pairs) -> list[str]:
    return [origin.codes for origin in drawn.origins]  # type: ignore[attr-defined]


def _groups(codes: Sequence[str]) -> dict[str, list[int]]:
    """The pictures of each group, the groups in alphabetical order."""
    group = [emoji_group(code) or UNKNOWN_GROUP for code in codes]
    return {name: [i for i, own in enumerate(group) if own == name] for name in sorted(set(group))}


class _Ranks:
    """The rank of the right name of every picture, by a model and by pixels."""

    def __init__(
        self, model: CLIP, tokenizer: Tokenizer, pairs: Pairs, trained: Pairs, templates: Sequence[str]
    ) -> None:
        names, self.is_right = _right_names(pairs)
        cosine, _ = evaluate.classify(model, tokenizer, pairs.images, names, templates)
        self.model = evaluate.ranks(cosine, self.is_right)
        self.pixels = evaluate.ranks(pixel_similarity(pairs.images[:], trained, names), self.is_right)

    def score(self, pictures: Sequence[int]) -> Named:
        """The scores of some of the pictures, among all names."""
        right, names = self.is_right[pictures].sum(dim=1), self.is_right.shape[1]
        guessed = [evaluate.chance(right, names, k).mean().item() for k in (1, 5)]
        found = [(rank[pictures] < k).double().mean().item() for rank in (self.model, self.pixels) for k in (1, 5)]
        return Named(len(pictures), names, *found[:2], *guessed, *found[2:])


def pixel_similarity(images: torch.Tensor, trained: Pairs, names: Sequence[str]) -> torch.Tensor:
    """The nearest-neighbour baseline: how similar a picture is, pixel by pixel, to the nearest one of each name.

    Pictures (P, 3, R, R) uint8 and T names to (P, T): minus the Euclidean distance to the nearest training picture with
    that caption, or minus infinity if there is none.
    """
    index = {name: i for i, name in enumerate(names)}
    kept = [i for i, caption in enumerate(trained.captions) if caption in index]
    name = torch.tensor([index[trained.captions[i]] for i in kept], dtype=torch.int64)
    known = trained.images[trained.image_of_caption[kept]].flatten(1).float()  # (K, 3·R·R)
    similarity = torch.full((len(images), len(names)), -torch.inf)
    for rows in torch.arange(len(images)).split(evaluate.BATCH):
        distance = torch.cdist(images[rows].flatten(1).float(), known)  # (b, K)
        similarity[rows] = similarity[rows].scatter_reduce(1, name.expand(len(rows), -1), -distance, "amax")
    return similarity
