from dataclasses import replace

import pytest
import torch

from minclip import CLIP, PRESETS, Tokenizer, evaluate, naming
from minclip.data import Emoji, Pairs

CONFIG = replace(PRESETS["smoke"], embed_dim=16, context_length=12, vocab_size=520)
CODES = {
    "1F408": "cat",
    "1F415": "dog",
    "1F34E": "red apple",
    "1F44B-1F3FB": "waving hand light",
    "1F1E9-1F1EA": "Germany",
}


@pytest.fixture(scope="module")
def model() -> CLIP:
    torch.manual_seed(0)
    return CLIP(CONFIG).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["red heart red heart"], CONFIG.vocab_size)


def drawn(seed: int, codes=CODES) -> Pairs:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (len(codes), 3, 24, 24), dtype=torch.uint8, generator=generator)
    return Pairs(images, [Emoji(code) for code in codes], list(codes.values()), torch.arange(len(codes)))


def noisy(pairs: Pairs, seed: int = 0) -> Pairs:
    noise = torch.randint(-9, 10, pairs.images.shape, generator=torch.Generator().manual_seed(seed))
    return replace(pairs, images=(pairs.images[:] + noise).clamp(0, 255).to(torch.uint8))


def test_sets_and_groups_have_their_pictures_and_names(model, tokenizer):
    unseen = {"1F3C3-1F3FB": "person running light skin tone"}
    scores = naming.name_artist(model, tokenizer, drawn(0, CODES | unseen), drawn(1))
    sizes = {name: (score.pictures, score.names) for name, score in scores.items()}
    assert sizes == {
        "all names": (6, 6),
        "basic": (3, 3),
        "Animals & Nature": (2, 3),
        "Food & Drink": (1, 3),
        "unseen compositions": (1, 1),
    }


def test_the_scores_are_those_of_sorting_by_hand(model, tokenizer):
    pairs = drawn(0)
    cosine, _ = evaluate.classify(model, tokenizer, pairs.images, pairs.captions)
    first = cosine.argsort(dim=1, descending=True)[:, 0] == torch.arange(5)
    scores = naming.name_artist(model, tokenizer, pairs, drawn(1))["all names"]
    assert scores.top1 == pytest.approx(first.double().mean().item())
    assert scores.top5 == scores.chance5 == 1
    assert scores.chance1 == pytest.approx(1 / 5)


def test_pixels_find_what_was_drawn_nearly_alike(model, tokenizer):
    scores = naming.name_artist(model, tokenizer, noisy(drawn(0)), drawn(0))
    assert scores["all names"].pixels1 == 1
    renamed = replace(drawn(0), captions=drawn(0).captions[::-1])
    assert naming.name_artist(model, tokenizer, noisy(drawn(0)), renamed)["all names"].pixels1 == 1 / 5


def test_pixel_similarity_is_brute_force():
    """A name counts by its nearest picture, and one without a picture is infinitely far."""
    trained = Pairs.join([drawn(1), noisy(drawn(1), 5)])
    names = ["dog", "unheard of", "cat"]
    found = naming.pixel_similarity(drawn(0).images[:], trained, names)
    for picture, row in zip(drawn(0).images, found, strict=True):
        for name, value in zip(names, row.tolist(), strict=True):
            distances = [
                (picture.double() - trained.images[i].double()).norm().item()
                for i, caption in enumerate(trained.captions)
                if caption == name
            ]
            assert value == pytest.approx(-min(distances, default=float("inf")), rel=1e-4)


def test_a_match_is_where_as_many_are_accepted_as_refused():
    """In brute force: every picture with its own name, and with five others drawn with replacement."""
    generator = torch.Generator().manual_seed(0)
    cosine, is_right = torch.rand(7, 9, generator=generator), torch.zeros(7, 9, dtype=torch.bool)
    is_right[range(7), range(7)] = True
    is_right[0, 8] = True
    cosine[is_right] += 0.2
    rates = []
    for lowest in torch.cat([cosine[is_right], torch.tensor([0.5])]).tolist():
        own = [any(cosine[p, t] >= lowest for t in range(9) if is_right[p, t]) for p in range(7)]
        below = [[cosine[p, t].item() < lowest for t in range(9) if not is_right[p, t]] for p in range(7)]
        refused = [(sum(row) / len(row)) ** naming.LABELS for row in below]
        measured = naming.choose_match(cosine, is_right, lowest)
        assert measured.accepted == pytest.approx(sum(own) / 7)
        assert measured.refused == pytest.approx(sum(refused) / 7)
        rates.append(abs(measured.accepted - measured.refused))
    chosen = naming.choose_match(cosine, is_right)
    assert abs(chosen.accepted - chosen.refused) <= min(rates[:-1]) + 1e-9


def test_equal_pictures_are_right_under_all_of_their_names(model, tokenizer):
    """A name cannot be told from the drawing if the artist draws two emoji alike."""
    pairs = drawn(0)
    same = replace(pairs, images=pairs.images[[0, 0, 2, 3, 4]])
    scores = naming.name_artist(model, tokenizer, same, drawn(0))["all names"]
    assert (scores.pictures, scores.names) == (4, 5)
    assert scores.chance1 == pytest.approx((2 / 5 + 3 * 1 / 5) / 4)
    assert scores.pixels1 == 1
