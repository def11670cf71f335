from collections import Counter

import pytest

from minclip.data import LANGUAGES, code_points, emoji_captions, phrasings, unseen_emoji
from minclip.data.phrasing import TEMPLATES, keywords

CAT, PIZZA = code_points("🐈"), code_points("🍕")


def test_the_first_way_to_say_a_caption_is_the_caption():
    said = phrasings(["cat", "pizza"], [CAT, PIZZA], "en", 5)
    assert len(said) == 5
    assert said[0] == ["cat", "pizza"]
    assert said == phrasings(["cat", "pizza"], [CAT, PIZZA], "en", 5)
    assert phrasings(["cat"], [CAT], "en", 1) == [["cat"]]


def test_a_caption_is_said_with_its_words_its_keywords_and_templates():
    said = {texts[0] for texts in phrasings(["red heart"], [code_points("❤️")], "en", 400)}
    assert {"red heart", "heart red", "a red heart", "love"} <= said


def test_keywords_are_those_of_the_emoji():
    assert {"meow", "pet"} <= set(keywords()[CAT])
    for texts in phrasings(["cat"] * 50, [CAT] * 50, "de", 3)[1:]:
        assert all("cat" in text for text in texts)  # there are keywords in English only


@pytest.mark.parametrize("language", LANGUAGES)
def test_there_are_templates_in_every_language(language):
    captions = emoji_captions(language)
    said = phrasings(list(captions.values()), list(captions), language, 3)
    counts = Counter(len(set(texts)) for texts in zip(*said, strict=True))
    assert counts[1] < 0.1 * len(captions)
    assert all(template.count("{}") == 1 for template in TEMPLATES[language])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_nothing_that_is_said_in_training_is_an_unseen_caption(language):
    captions = emoji_captions(language)
    unseen = {captions[codes] for codes in unseen_emoji()}
    trained = {codes: caption for codes, caption in captions.items() if codes not in unseen_emoji()}
    assert not unseen & set(trained.values())
    said = phrasings(list(trained.values()), list(trained), language, 8, unseen)
    assert not unseen & {text for texts in said for text in texts}
    assert not any(f"画着{caption}" in said[1] for caption in unseen)
