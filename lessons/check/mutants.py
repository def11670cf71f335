"""Implementations for the properties of lesson 20: right ones, which must survive, and mutants, which must be killed.

A room has one kind of implementation: a loss, a split into training and test, a score. The mutants whose names begin
with "?" are hidden: the lesson shows whether they were killed, and not what they are.
"""

import hashlib
import math
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from minclip_kernels import fused_clip_loss
from torch import Tensor

import minclip
from minclip import evaluate
from minclip.data.pairs import belongs_to_test

Implementation = Callable[..., Any]
Property = Callable[[Implementation], Any]
Rows = tuple[list[int], list[int]]  # of the training, of the test


class Mutant(NamedTuple):
    wrong: Implementation
    hint: str  # a question that leads to inputs at which it is wrong


class Room(NamedTuple):
    right: dict[str, Implementation]
    mutants: dict[str, Mutant]

    def implementations(self) -> dict[str, Implementation]:
        return self.right | {name: mutant.wrong for name, mutant in self.mutants.items()}


def holds(property_: Property, implementation: Implementation) -> bool:
    """Whether a property holds: it neither returns a false value nor raises."""
    with torch.random.fork_rng():
        try:
            return bool(property_(implementation))
        except Exception:
            return False


def grid(properties: Sequence[Property], room: Room) -> list[list[bool]]:
    """For each property, whether it holds for each of the room's implementations."""
    return [[holds(property_, one) for one in room.implementations().values()] for property_ in properties]


def survivors(properties: Sequence[Property], room: Room) -> Iterator[str]:
    """The names of the mutants for which all properties hold."""
    for name, mutant in room.mutants.items():
        if all(holds(property_, mutant.wrong) for property_ in properties):
            yield name


# --- losses: (features (N, D), features (N, D), exponentiated scale) -> scalar ----------------------------------------


def _logits(x: Tensor, y: Tensor, scale: Tensor | float) -> Tensor:
    return scale * F.normalize(x, dim=1) @ F.normalize(y, dim=1).T  # (N, N)


def _by_logsumexp(x: Tensor, y: Tensor, scale: Tensor | float) -> Tensor:
    z = _logits(x, y, scale)
    return ((z.logsumexp(dim=1) + z.logsumexp(dim=0)) / 2 - z.diagonal()).mean()


def _fused(x: Tensor, y: Tensor, scale: Tensor | float) -> Tensor:
    return fused_clip_loss(x, y, scale, backend="torch")


def _one_direction(x: Tensor, y: Tensor, scale: Tensor | float) -> Tensor:
    return F.cross_entropy(_logits(x, y, scale), torch.arange(len(x)))


def _same_axis_twice(x: Tensor, y: Tensor, scale: Tensor | float) -> Tensor:
    z = _logits(x, y, scale)
    return -(z.log_softmax(dim=0).diagonal() + z.T.log_softmax(dim=1).diagonal()).mean() / 2


def _without_maximum(x: Tensor, y: Tensor, scale: Tensor | float) -> Tensor:
    z = _logits(x, y, scale)
    return ((z.exp().sum(dim=1).log() + z.exp().sum(dim=0).log()) / 2 - z.diagonal()).mean()


def _not_normalized(x: Tensor, y: Tensor, scale: Tensor | float) -> Tensor:
    z, labels = scale * x @ y.T / math.sqrt(x.shape[1]), torch.arange(len(x))
    return (F.cross_entropy(z, labels) + F.cross_entropy(z.T, labels)) / 2


def _log_of_scale(x: Tensor, y: Tensor, scale: Tensor | float) -> Tensor:
    return minclip.clip_loss(x, y, torch.as_tensor(scale).log())


def _in_blocks(x: Tensor, y: Tensor, scale: Tensor | float) -> Tensor:
    z, parts = _logits(x, y, scale), []
    for logits in (z, z.T):
        for start in range(0, len(x), 16):
            rows = logits[start : start + 16]
            parts.append(F.cross_entropy(rows, torch.arange(len(rows)), reduction="sum"))
    return torch.stack(parts).sum() / (2 * len(x))


def _accumulated(x: Tensor, y: Tensor, scale: Tensor | float) -> Tensor:
    parts = [minclip.clip_loss(*part, scale) * len(part[0]) for part in zip(x.split(16), y.split(16), strict=True)]
    return torch.stack(parts).sum() / len(x)


def _gathered_without_gradient(x: Tensor, y: Tensor, scale: Tensor | float) -> Tensor:
    labels = torch.arange(len(x))
    forth, back = _logits(x, y.detach(), scale), _logits(y, x.detach(), scale)
    return (F.cross_entropy(forth, labels) + F.cross_entropy(back, labels)) / 2


def _soft_targets(x: Tensor, y: Tensor, scale: Tensor | float) -> Tensor:
    targets = ((_logits(x, x, scale) + _logits(y, y, scale)) / 2).softmax(dim=1).detach()  # (N, N)
    z = _logits(x, y, scale)
    return (F.cross_entropy(z, targets) + F.cross_entropy(z.T, targets.T)) / 2


def _rounded_first(x: Tensor, y: Tensor, scale: Tensor | float) -> Tensor:
    return minclip.clip_loss(x.bfloat16().to(x.dtype), y.bfloat16().to(y.dtype), scale)


class _Rounded(torch.autograd.Function):
    """The softmax is rounded to bfloat16 before the one-hot target is subtracted."""

    @staticmethod
    def forward(context: Any, logits: Tensor) -> Tensor:
        context.save_for_backward(logits)
        return F.cross_entropy(logits, torch.arange(len(logits)))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (logits,) = context.saved_tensors
        p = logits.softmax(dim=1).bfloat16()
        return gradient * (p - torch.eye(len(p), dtype=p.dtype)).to(logits.dtype) / len(p)


def _one_hot_rounded(x: Tensor, y: Tensor, scale: Tensor | float) -> Tensor:
    z = _logits(x, y, scale)
    return (_Rounded.apply(z) + _Rounded.apply(z.T)) / 2  # type: ignore[operator]


def _scale_detached(x: Tensor, y: Tensor, scale: Tensor | float) -> Tensor:
    return minclip.clip_loss(x, y, torch.as_tensor(scale).detach() + 0 * torch.as_tensor(scale))


def _summed(x: Tensor, y: Tensor, scale: Tensor | float) -> Tensor:
    return minclip.clip_loss(x, y, scale) * len(x)


def _without_its_own(x: Tensor, y: Tensor, scale: Tensor | float) -> Tensor:
    z = _logits(x, y, scale)
    others = z.masked_fill(torch.eye(len(z), dtype=torch.bool), torch.finfo(z.dtype).min)
    return ((others.logsumexp(dim=1) + others.logsumexp(dim=0)) / 2 - z.diagonal()).mean()


def _one_maximum_for_all(x: Tensor, y: Tensor, scale: Tensor | float) -> Tensor:
    z = _logits(x, y, scale)
    shares, top = (z - z.max()).exp(), z.max()
    return ((shares.sum(dim=1).log() + shares.sum(dim=0).log()) / 2 + top - z.diagonal()).mean()


def _clamped(x: Tensor, y: Tensor, scale: Tensor | float) -> Tensor:
    return minclip.clip_loss(x, y, torch.as_tensor(scale).clamp(max=14.5))


IN_BLOCKS = "it works in blocks of 16 rows, so up to 16 pairs it is right: give it more pairs than that"
CHANGED_PLACES = "what may change if pictures and texts swap places?"
LOSSES = Room(
    {"one-hot": minclip.clip_loss_onehot, "arange": minclip.clip_loss, "log-sum-exp": _by_logsumexp, "fused": _fused},
    {
        "one direction": Mutant(_one_direction, CHANGED_PLACES),
        "one axis twice": Mutant(_same_axis_twice, CHANGED_PLACES),
        "no maximum": Mutant(_without_maximum, "for which scales does exp overflow? Try one of them"),
        "no normalize": Mutant(_not_normalized, "what may change if a feature becomes three times as long?"),
        "scale without exp": Mutant(_log_of_scale, "compare numbers: which loss do you know for a certain scale?"),
        "no offset": Mutant(_in_blocks, IN_BLOCKS),
        "accumulated": Mutant(_accumulated, IN_BLOCKS),
        "soft targets": Mutant(_soft_targets, "compare numbers: which loss do you know for certain features?"),
        "gather cuts": Mutant(
            _gathered_without_gradient, "its value is right. What else does a training take from a loss?"
        ),
        "?1": Mutant(_rounded_first, "up to which relative error do you accept a value, or a gradient?"),
        "?2": Mutant(_one_hot_rounded, "have you looked at a gradient where every pair is found already?"),
        "?3": Mutant(_scale_detached, "which inputs of the loss learn? Have you asked for the gradient of each?"),
        "?4": Mutant(_summed, "what does the loss of a model that guesses depend on, and how?"),
        "?5": Mutant(_without_its_own, "what is the lowest possible loss? And what is the loss of a single pair?"),
        "?6": Mutant(_one_maximum_for_all, "at a scale of 200, what if one pair's logits lie far below all others?"),
        "?7": Mutant(_clamped, "have you compared the loss at a small scale and at a large one?"),
    },
)


# --- splits: pictures (P, …) uint8 -> (training rows, test rows), lists of int ----------------------------------------


def _sides(is_test: Sequence[bool]) -> Rows:
    return [i for i, flag in enumerate(is_test) if not flag], [i for i, flag in enumerate(is_test) if flag]


def _contents(pictures: Tensor) -> list[bytes]:
    return [picture.numpy().tobytes() for picture in pictures]


def _split_by(number_of: Callable[[bytes], int], tenths: int = 1) -> Callable[[Tensor], Rows]:
    return lambda pictures: _sides([number_of(content) % 10 < tenths for content in _contents(pictures)])


def _as_minclip(pictures: Tensor) -> Rows:
    return _sides([belongs_to_test(hashlib.sha256(content).digest()) for content in _contents(pictures)])


_by_md5 = _split_by(lambda content: int(hashlib.md5(content).hexdigest(), 16))
_by_crc = _split_by(zlib.crc32)
_too_many = _split_by(zlib.crc32, tenths=3)


def _every_tenth(pictures: Tensor) -> Rows:
    return _sides([i % 10 == 0 for i in range(len(pictures))])


def _at_random(pictures: Tensor, seed: int | None = 0) -> Rows:
    order = random.Random(seed).sample(range(len(pictures)), len(pictures))
    return sorted(order[len(order) // 10 :]), sorted(order[: len(order) // 10])


def _test_stays(pictures: Tensor) -> Rows:
    return list(range(len(pictures))), _by_crc(pictures)[1]


def _unseeded(pictures: Tensor) -> Rows:
    return _at_random(pictures, seed=None)


def _darkest(pictures: Tensor) -> Rows:
    """Equal pictures are equally dark and stay together, but where the border lies depends on the other pictures."""
    light = pictures.flatten(1).double().mean(dim=1)
    return _sides((light <= light.quantile(0.1)).tolist())


def _by_first_pixels(pictures: Tensor) -> Rows:
    return _by_crc(pictures.flatten(1)[:, :12])


def _repeats_dropped(pictures: Tensor) -> Rows:
    train, test = _by_crc(pictures)
    first = {content: i for i, content in reversed(list(enumerate(_contents(pictures))))}.values()
    return [i for i in train if i in first], test


SPLITS = Room(
    {"as minclip": _as_minclip, "by md5": _by_md5, "by crc32": _by_crc},
    {
        "every tenth": Mutant(_every_tenth, "it goes by the row's number. Is a copy in the next row on the same side?"),
        "at random": Mutant(_at_random, "give it every picture twice: on which sides are the two?"),
        "test stays": Mutant(_test_stays, "on how many sides is a row?"),
        "?1": Mutant(_unseeded, "is the answer the same if you ask a second time, or in another order?"),
        "?2": Mutant(_darkest, "where is a picture if others are added, or taken away?"),
        "?3": Mutant(
            _by_first_pixels, "real pictures have borders. What if all of them begin with the same white rows?"
        ),
        "?4": Mutant(_repeats_dropped, "are all rows still there, including those of a picture that occurs twice?"),
        "?5": Mutant(_too_many, "how many of a thousand pictures are in the test set?"),
    },
)


# --- scores: cosines (P, P) of pictures with captions, picture i's own being caption i -> top-1 in [0, 1] -------------


def _as_minclip_scores(cosines: Tensor) -> float:
    return (evaluate.ranks(cosines, torch.eye(len(cosines), dtype=torch.bool)) == 0).double().mean().item()


def _one_by_one(cosines: Tensor) -> float:
    found = 0
    for i, row in enumerate(cosines.tolist()):
        found += all(row[i] > other for j, other in enumerate(row) if j != i) and not math.isnan(row[i])
    return found / len(cosines)


def _found(cosines: Tensor) -> Tensor:
    others = cosines.masked_fill(torch.eye(len(cosines), dtype=torch.bool), -torch.inf).amax(dim=1)  # (P,)
    return (cosines.diagonal() > others).double()


def _own_first(cosines: Tensor) -> float:
    return _found(cosines).mean().item()


def _ties_are_right(cosines: Tensor) -> float:
    return (cosines.diagonal() >= cosines.amax(dim=1)).double().mean().item()


def _first_of_ties(cosines: Tensor) -> float:
    return (cosines.argmax(dim=1) == torch.arange(len(cosines))).double().mean().item()


def _other_direction(cosines: Tensor) -> float:
    return _own_first(cosines.T)


def _nothing_is_better(cosines: Tensor) -> float:
    """NaN is not greater than anything."""
    eye = torch.eye(len(cosines), dtype=torch.bool)
    at_least = (cosines >= cosines.diagonal()[:, None]) & ~eye
    return (at_least.sum(dim=1) == 0).double().mean().item()


def _mean_of_batches(cosines: Tensor) -> float:
    return torch.stack([part.mean() for part in _found(cosines).split(8)]).mean().item()


def _within_batches(cosines: Tensor) -> float:
    found = [_own_first(cosines[part][:, part]) * len(part) for part in torch.arange(len(cosines)).split(8)]
    return sum(found) / len(cosines)


def _largest(cosines: Tensor) -> float:
    return _own_first(cosines.abs())


def _percent(cosines: Tensor) -> float:
    return 100 * _own_first(cosines)


ALL_THE_SAME = "what is the score of a model that gives everything the same cosine?"
SCORES = Room(
    {"as minclip": _as_minclip_scores, "one by one": _one_by_one, "own first": _own_first},
    {
        "ties are right": Mutant(_ties_are_right, ALL_THE_SAME),
        "first of ties": Mutant(_first_of_ties, ALL_THE_SAME),
        "captions → pictures": Mutant(
            _other_direction, "have you tried a matrix for which the two directions have different scores?"
        ),
        "?1": Mutant(_nothing_is_better, "what is the score of a model whose cosines are not a number?"),
        "?2": Mutant(_mean_of_batches, "it works in batches of 8. What if the last one is smaller?"),
        "?3": Mutant(_within_batches, "which captions must the own one beat, if there are more than 8 pairs?"),
        "?4": Mutant(_largest, "a cosine may be negative. What if one is −1?"),
        "?5": Mutant(_percent, "what is the score of a perfect model?"),
    },
)
