import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from minclip import CLIP, PRESETS, Tokenizer, evaluate
from minclip.data import Emoji, Pairs

CONFIG = replace(PRESETS["smoke"], embed_dim=16, context_length=12, vocab_size=520)
LABELS = ["red heart", "cat", "dog"]


@pytest.fixture(scope="module")
def model() -> CLIP:
    torch.manual_seed(0)
    return CLIP(CONFIG).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["red heart red heart"], CONFIG.vocab_size)


def brute_force(images: torch.Tensor, texts: torch.Tensor, owner: list[int], k: int) -> tuple[float, float]:
    """Sort everything, look at the first k: no ties in random float64 features."""
    similarity = (images @ texts.T).tolist()
    by_image = 0
    for picture, row in enumerate(similarity):
        best = sorted(range(len(row)), key=lambda j: -row[j])[:k]
        by_image += any(owner[j] == picture for j in best)
    by_text = 0
    for caption in range(len(texts)):
        column = [row[caption] for row in similarity]
        best = sorted(range(len(column)), key=lambda i: -column[i])[:k]
        by_text += owner[caption] in best
    return by_image / len(images), by_text / len(texts)


@given(st.integers(1, 12), st.integers(0, 20), st.integers(0, 2**31))
def test_recall_equals_brute_force_with_several_captions_per_picture(n_pictures, n_more, seed):
    generator = torch.Generator().manual_seed(seed)
    owner = list(range(n_pictures)) + torch.randint(n_pictures, (n_more,), generator=generator).tolist()
    images = F.normalize(torch.randn(n_pictures, 4, dtype=torch.float64, generator=generator), dim=1)
    texts = F.normalize(torch.randn(len(owner), 4, dtype=torch.float64, generator=generator), dim=1)
    found = evaluate.recall(images, texts, torch.tensor(owner), torch.arange(len(owner)))
    for k in (1, 5, 10):
        by_image, by_text = brute_force(images, texts, owner, k)
        assert found["image_to_text"][k] == pytest.approx(by_image)
        assert found["text_to_image"][k] == pytest.approx(by_text)


def test_recall_goes_on_beyond_one_batch_of_queries():
    N = 2 * evaluate.BATCH + 7
    features = F.normalize(torch.randn(N, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    found = evaluate.recall(features, features, torch.arange(N), torch.arange(N))
    assert found == {way: dict.fromkeys((1, 5, 10), 1.0) for way in ("image_to_text", "text_to_image")}
    shifted = evaluate.recall(features, features.roll(1, 0), torch.arange(N), torch.arange(N))
    assert shifted["image_to_text"][1] == 0


@pytest.mark.parametrize("value", [1.0, 0.0, math.nan])
def test_a_model_that_tells_nothing_apart_finds_nothing(value):
    same, each = torch.full((20, 4), value), torch.arange(20)
    found = evaluate.recall(same, same, each, each)
    assert found == {way: dict.fromkeys((1, 5, 10), 0.0) for way in ("image_to_text", "text_to_image")}


def test_pictures_that_share_a_caption_are_all_right_for_it():
    """Ten cats and ten dogs, told apart perfectly: class names for captions are nothing to be punished for."""
    captions = ["cat", "dog"] * 10
    pairs = Pairs(torch.zeros(20, 3, 1, 1), [Emoji(f"{i:X}") for i in range(20)], captions, torch.arange(20))
    texts, text = pairs.distinct_captions()
    assert texts == ["cat", "dog"]
    found = evaluate.recall(torch.eye(2)[text], torch.eye(2), pairs.image_of_caption, text)
    assert found["image_to_text"][1] == found["text_to_image"][1] == 1


def test_recall_of_pairs_asks_the_model(model, tokenizer):
    images = torch.randint(0, 256, (3, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pairs = Pairs(
        images, [Emoji(letter) for letter in "ABC"], ["red", "heart", "red", "red heart"], torch.tensor([0, 1, 2, 2])
    )
    cosine, _ = evaluate.classify(model, tokenizer, images, ["red", "heart", "red heart"])
    right = torch.tensor([[True, False, False], [False, True, False], [True, False, True]])
    found = evaluate.recall_of_pairs(model, tokenizer, pairs)
    best = cosine.argmax(1)
    assert found["image_to_text"][1] == pytest.approx(right[torch.arange(3), best].double().mean().item())
    best = cosine.argmax(0)
    assert found["text_to_image"][1] == pytest.approx(right[best, torch.arange(3)].double().mean().item())


def test_chance_is_that_of_different_guesses():
    right = torch.tensor([1, 2, 3])
    expected = [1 - 9 / 10 * 8 / 9, 1 - 8 / 10 * 7 / 9, 1 - 7 / 10 * 6 / 9]
    assert evaluate.chance(right, 10, 2).tolist() == pytest.approx(expected)
    assert evaluate.chance(right, 3, 5).tolist() == [1, 1, 1]


def test_nearest_is_sorted_and_ends_with_the_candidates():
    images = torch.eye(3)
    query = torch.tensor([[0.6, 0.8, 0.0]])
    ((first, second),) = evaluate.nearest(images, ["a", "b", "c"], query, 2)
    assert (first[0], second[0]) == ("b", "a")
    assert first[1] == pytest.approx(0.8)
    assert len(evaluate.nearest(images, ["a", "b", "c"], query, 9)[0]) == 3


def test_an_ensemble_is_normalised_averaged_and_normalised(model, tokenizer):
    templates = ["{}", "a picture of a {}", "{} face"]
    features = evaluate.class_features(model, tokenizer, LABELS, templates)
    for label, feature in zip(LABELS, features, strict=True):
        prompts = tokenizer([template.replace("{}", label) for template in templates], CONFIG.context_length)
        with torch.no_grad():
            units = [f / f.norm() for f in model.encode_text(prompts)]
        mean = torch.stack(units).mean(0)
        torch.testing.assert_close(feature, mean / mean.norm())


def test_classes_are_encoded_by_the_model_as_it_is_now(model, tokenizer):
    learning = copy.deepcopy(model)
    before = evaluate.class_features(learning, tokenizer, ["red", "heart"])
    with torch.no_grad():
        learning.text_projection.copy_(learning.text_projection.flip(1))
    after = evaluate.class_features(learning, tokenizer, ["red", "heart"])
    torch.testing.assert_close(after, before.flip(1))


def test_one_template_is_the_text_itself(model, tokenizer):
    plain = evaluate.text_features(model, tokenizer, LABELS)
    torch.testing.assert_close(evaluate.class_features(model, tokenizer, LABELS), plain)


def test_classify_gives_cosines_and_probabilities_by_the_models_temperature(model, tokenizer):
    images = torch.randint(0, 256, (4, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    cosine, probability = evaluate.classify(model, tokenizer, images, LABELS)
    torch.testing.assert_close(probability.sum(1), torch.ones(4))
    torch.testing.assert_close(probability, (cosine / 0.07).softmax(1))
    with torch.no_grad():
        logits, _ = model(model.preprocess.normalize(images), tokenizer(LABELS))
    torch.testing.assert_close(cosine / 0.07, logits, rtol=1e-4, atol=1e-4)


def test_long_lists_are_encoded_in_batches(model, tokenizer):
    texts = [f"cat {i}" for i in range(evaluate.BATCH + 3)]
    features = evaluate.text_features(model, tokenizer, texts)
    torch.testing.assert_close(features[-1:], evaluate.text_features(model, tokenizer, texts[-1:]))


def test_pictures_are_taken_from_an_iterator_one_batch_at_a_time(model, monkeypatch):
    """However many pictures there are, no more than BATCH are held; the result is that of one tensor."""
    monkeypatch.setattr(evaluate, "BATCH", 4)
    images = torch.randint(0, 256, (10, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    taken, encoded = 0, []

    def one_after_the_other():
        nonlocal taken
        for image in images:
            taken += 1
            yield image

    encode = model.encode_image
    monkeypatch.setattr(model, "encode_image", lambda batch: encoded.append((taken, len(batch))) or encode(batch))
    features = evaluate.image_features(model, one_after_the_other())
    assert encoded == [(4, 4), (8, 4), (10, 2)]
    torch.testing.assert_close(features, evaluate.image_features(model, images))
    assert evaluate.image_features(model, []).shape == (0, 16)


def test_bad_labels_and_templates(model, tokenizer):
    with pytest.raises(ValueError, match="at least one label"):
        evaluate.class_features(model, tokenizer, [])
    for empty in ("", " ", "&nbsp;"):
        with pytest.raises(ValueError, match=f"must not be empty, got {empty!r}"):
            evaluate.class_features(model, tokenizer, ["cat", empty])
    with pytest.raises(ValueError, match="'a picture'"):
        evaluate.class_features(model, tokenizer, ["cat"], ["a picture"])
