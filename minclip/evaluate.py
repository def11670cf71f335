"""What a trained CLIP knows: zero-shot classification by prompts, and retrieval recall in both directions.

Sources: Radford et al. 2021 (arXiv:2103.00020), section 3.1.4, for prompt ensembles; recall@k with several captions per
picture as in Karpathy & Fei-Fei 2015 (arXiv:1412.2306).
"""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F

from minclip.data import Pairs
from minclip.images import in_groups
from minclip.model import CLIP
from minclip.prompts import PLAIN, fill_templates
from minclip.tokenizer import Tokenizer, clean

BATCH = 256
Recall = dict[str, dict[int, float]]  # "image_to_text" or "text_to_image", then k
T = TypeVar("T")


@torch.inference_mode()
def image_features(model: CLIP, images: Iterable[torch.Tensor]) -> torch.Tensor:
    """Pictures, P times (3, R, R) uint8, to unit vectors (P, E) on the CPU.

    `images` may be a tensor (P, 3, R, R) or an iterator that reads them one after the other; 256 are held at a time.
    """

    def encode(batch: list[torch.Tensor]) -> torch.Tensor:
        pixels = torch.stack(batch).to(model.device)
        return F.normalize(model.encode_image(model.preprocess.normalize(pixels)), dim=-1)

    return _join(map(encode, in_groups(images, BATCH)), model.config.embed_dim)


@torch.inference_mode()
def text_features(model: CLIP, tokenizer: Tokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Texts (N) to unit vectors (N, E) on the CPU. Raises ValueError for a text that is empty."""
    for text in texts:
        if not clean(text):
            raise ValueError(f"a text to compare with must not be empty, got {text!r}")

    def encode(batch: list[str]) -> torch.Tensor:
        tokens = tokenizer(batch, model.config.context_length).to(model.device)
        return F.normalize(model.encode_text(tokens), dim=-1)

    return _join(map(encode, in_groups(texts, BATCH)), model.config.embed_dim)


def _join(batches: Iterable[torch.Tensor], width: int) -> torch.Tensor:
    """Join batches (b, E) on the CPU, in one buffer that doubles.

    In a list, each small result would stay between the large tensors that made it, and memory would fragment: 50,000
    pictures took 1 GB more.
    """
    joined, n = torch.empty(BATCH, width), 0
    for batch in batches:
        if n + len(batch) > len(joined):
            joined = torch.cat([joined, torch.empty_like(joined)])
        joined[n : n + len(batch)] = batch
        n += len(batch)
    return joined[:n]


def class_features(
    model: CLIP, tokenizer: Tokenizer, labels: Sequence[str], templates: Sequence[str] = PLAIN
) -> torch.Tensor:
    """A unit vector (C, E) for each label: the mean over prompts such as "a picture of a {}", normalised again."""
    prompts = text_features(model, tokenizer, fill_templates(labels, templates))  # (C · templates, E)
    return F.normalize(prompts.view(len(labels), len(templates), -1).mean(dim=1), dim=-1)


def classify(
    model: CLIP,
    tokenizer: Tokenizer,
    images: Iterable[torch.Tensor],
    labels: Sequence[str],
    templates: Sequence[str] = PLAIN,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compare pictures, P times (3, R, R) uint8, with labels: cosines (P, C), and probabilities (P, C) over C.

    The probabilities answer "which of these labels?", never "any of these at all?": a single label always gets 1.
    """
    classes = class_features(model, tokenizer, labels, templates)
    cosine = image_features(model, images) @ classes.T
    return cosine, (model.logit_scale.exp().item() * cosine).softmax(dim=-1)


def ranks(similarity: torch.Tensor, is_right: torch.Tensor) -> torch.Tensor:
    """For each row of (Q, C), the number of wrong columns that score at least as high as the best right one.

    A wrong column with an equal or incomparable (NaN) score counts against the model, so that one which gives the same
    similarity to everything finds nothing.
    """
    best_right = similarity.masked_fill(~is_right, -torch.inf).amax(dim=1, keepdim=True)  # (Q, 1)
    return (~(similarity < best_right) & ~is_right).sum(dim=1)  # (Q,)


def chance(right: torch.Tensor, candidates: int, k: int) -> torch.Tensor:
    """The probability that k different guesses hit one of `right` (Q) right candidates: (Q,) float64."""
    guesses = torch.arange(min(k, candidates))
    missed = (candidates - right.double()[:, None] - guesses) / (candidates - guesses)
    return 1 - missed.clamp(min=0).prod(dim=1)


def _recall_one_way(
    queries: torch.Tensor, candidates: torch.Tensor, query: torch.Tensor, answer: torch.Tensor, ks: Sequence[int]
) -> dict[int, float]:
    """Recall where candidate `answer[i]` is right for `query[i]`; in blocks of queries, so that Q × C never exists."""
    rank = []
    for rows in torch.arange(len(queries)).split(BATCH):
        is_right = torch.zeros(len(rows), len(candidates), dtype=torch.bool)
        here = (query >= rows[0]) & (query <= rows[-1])
        is_right[query[here] - rows[0], answer[here]] = True
        rank.append(ranks(queries[rows] @ candidates.T, is_right))
    return {k: (torch.cat(rank) < k).double().mean().item() for k in ks}


def recall(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    picture: torch.Tensor,
    text: torch.Tensor,
    ks: Sequence[int] = (1, 5, 10),
) -> Recall:
    """Share of queries with a right answer among the first k, for unit vectors (P, E) and (T, E).

    Text `text[i]` is right for picture `picture[i]` and vice versa; there may be several of either.
    """
    return {
        "image_to_text": _recall_one_way(image_features, text_features, picture, text, ks),
        "text_to_image": _recall_one_way(text_features, image_features, text, picture, ks),
    }


def recall_of_pairs(model: CLIP, tokenizer: Tokenizer, pairs: Pairs, templates: Sequence[str] = PLAIN) -> Recall:
    """Recall both ways over pictures and *distinct* captions: two pictures of a "cat" are both right for "cat".

    With one caption per picture, `["image_to_text"][1]` is zero-shot top-1 among all captions.
    """
    texts, text = pairs.distinct_captions()
    images = image_features(model, pairs.images)
    return recall(images, class_features(model, tokenizer, texts, templates), pairs.image_of_caption, text)


def nearest(images: torch.Tensor, origins: Sequence[T], queries: torch.Tensor, k: int) -> list[list[tuple[T, float]]]:
    """The k pictures (P, E) nearest to each query (Q, E), as (origin, cosine), nearest first."""
    cosine, picture = (queries @ images.T).topk(min(k, len(origins)))
    return [
        [(origins[i], c) for i, c in zip(row_i, row_c, strict=True)]
        for row_i, row_c in zip(picture.tolist(), cosine.tolist(), strict=True)
    ]
