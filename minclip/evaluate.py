"""What a trained CLIP knows: zero-shot classification by prompts, and retrieval recall in both directions.

Sources: Radford et al. 2021 (arXiv:2103.00020), section 3.1.4 for prompts and their ensembles; recall@k with several
captions for a picture as in Karpathy & Fei-Fei 2015 (arXiv:1412.2306).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from minclip.data import Pairs, normalize
from minclip.model import CLIP
from minclip.tokenizer import Tokenizer, clean

BATCH = 256
PLAIN = ("{}",)


@torch.inference_mode()
def image_features(model: CLIP, images: torch.Tensor) -> torch.Tensor:
    """Pictures (P, 3, R, R) uint8 -> unit vectors (P, E) on the CPU."""
    device = model.logit_scale.device
    batches = [model.encode_image(normalize(batch.to(device))) for batch in images.split(BATCH)]
    return F.normalize(torch.cat(batches), dim=-1).cpu()


@torch.inference_mode()
def text_features(model: CLIP, tokenizer: Tokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Texts (N) -> unit vectors (N, E) on the CPU. Raises ValueError for a text that is empty."""
    for text in texts:
        if not clean(text):
            raise ValueError(f"a text to compare with must not be empty, got {text!r}")
    device, context_length = model.logit_scale.device, model.config.context_length
    chunks = [list(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)]
    batches = [model.encode_text(tokenizer(chunk, context_length).to(device)) for chunk in chunks]
    return F.normalize(torch.cat(batches), dim=-1).cpu()


def class_features(
    model: CLIP, tokenizer: Tokenizer, labels: Sequence[str], templates: Sequence[str] = PLAIN
) -> torch.Tensor:
    """A unit vector (C, E) for each label: the mean over prompts such as "a picture of a {}", normalised again."""
    if not labels or not templates:
        raise ValueError("at least one label and one template are needed")
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(
                f"a template has the place {{}} for the label exactly once, this one does not: {template!r}"
            )
    prompts = [template.replace("{}", label) for label in labels for template in templates]
    features = text_features(model, tokenizer, prompts)  # (C · templates, E)
    return F.normalize(features.view(len(labels), len(templates), -1).mean(dim=1), dim=-1)


def classify(
    model: CLIP, tokenizer: Tokenizer, images: torch.Tensor, labels: Sequence[str], templates: Sequence[str] = PLAIN
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (P, 3, R, R) uint8 against labels -> cosines (P, C), and probabilities (P, C) that add up to 1 over C.

    The probabilities answer "which of these labels?", never "any of these at all?": one label alone always gets 1.
    """
    cosine = image_features(model, images) @ class_features(model, tokenizer, labels, templates).T
    return cosine, (model.logit_scale.exp().item() * cosine).softmax(dim=-1)


def ranks(similarity: torch.Tensor, is_right: torch.Tensor) -> torch.Tensor:
    """For each row of (Q, C) similarities: how many wrong columns are not behind the best right one.

    A wrong column that is level, or cannot be compared (NaN), counts against the model: one that gives everything the
    same similarity finds nothing.
    """
    best_right = similarity.masked_fill(~is_right, -torch.inf).amax(dim=1, keepdim=True)  # (Q, 1)
    return (~(similarity < best_right) & ~is_right).sum(dim=1)  # (Q,)


def _recall_one_way(
    queries: torch.Tensor, candidates: torch.Tensor, query: torch.Tensor, answer: torch.Tensor, ks: Sequence[int]
) -> dict[int, float]:
    """Candidate `answer[i]` is right for `query[i]`; in blocks of queries, so that Q × C never stands in memory."""
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
) -> dict[str, dict[int, float]]:
    """Share of queries with a right answer among the first k, for unit vectors (P, E) and (T, E).

    Text `text[i]` is right for picture `picture[i]`, and the other way round; there may be several of either.
    """
    return {
        "image_to_text": _recall_one_way(image_features, text_features, picture, text, ks),
        "text_to_image": _recall_one_way(text_features, image_features, text, picture, ks),
    }


def recall_of_pairs(
    model: CLIP, tokenizer: Tokenizer, pairs: Pairs, templates: Sequence[str] = PLAIN
) -> dict[str, dict[int, float]]:
    """Recall both ways over pictures and *different* captions: two pictures of a "cat" are both right for "cat".

    With one caption for each picture, `["image_to_text"][1]` is zero-shot top-1 among all captions.
    """
    texts, text = pairs.distinct_captions()
    images = image_features(model, pairs.images)
    return recall(images, class_features(model, tokenizer, texts, templates), pairs.image_of_caption, text)


def nearest(images: torch.Tensor, names: list[str], queries: torch.Tensor, k: int) -> list[list[tuple[str, float]]]:
    """The k pictures (P, E) nearest to each query (Q, E), as (name, cosine), nearest first."""
    cosine, picture = (queries @ images.T).topk(min(k, len(names)))
    return [
        [(names[i], c) for i, c in zip(row_i, row_c, strict=True)]
        for row_i, row_c in zip(picture.tolist(), cosine.tolist(), strict=True)
    ]
