from collections import Counter
from dataclasses import replace

import pytest
import torch

from minclip import data
from minclip.data import OPENMOJI, TWEMOJI, Preprocess
from minclip.tokenizer import clean

SIZE = 24


def words(caption: str) -> list[str]:
    return caption.lower().split()


# --- the split --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def split() -> tuple[data.Pairs, data.Pairs]:
    return data.load_emoji(Preprocess(SIZE), artists=[OPENMOJI])


@pytest.fixture(scope="module")
def both() -> tuple[data.Pairs, data.Pairs]:
    return data.load_emoji(Preprocess(SIZE, trim=True))


def test_the_sets_have_their_sizes_and_nothing_in_common(split):
    train, unseen = split
    assert len(unseen) == len(data.unseen_emoji()) == 400
    assert len(train) == len(data.emoji_captions()) - 400 > 3000
    assert not set(train.origins) & set(unseen.origins)
    assert train.images.shape == (len(train), 3, SIZE, SIZE)
    assert train.images.dtype == torch.uint8


def test_unseen_words_stand_in_eight_training_captions_and_never_together(split):
    train, unseen = split
    times = Counter(word for caption in train.captions for word in set(words(caption)))
    assert min(times[word] for caption in unseen.captions for word in words(caption)) >= 8
    assert min(len(words(caption)) for caption in unseen.captions) >= 2
    combinations = Counter(tuple(sorted(words(caption))) for caption in train.captions + unseen.captions)
    assert {combinations[tuple(sorted(words(caption)))] for caption in unseen.captions} == {1}


@pytest.mark.parametrize("language", data.LANGUAGES)
def test_no_unseen_caption_is_trained_on_in_any_language(language):
    captions = data.emoji_captions(language)
    assert len(captions) == len(data.emoji_captions("en"))
    times = Counter(clean(caption) for caption in captions.values())
    assert {times[clean(captions[codes])] for codes in data.unseen_emoji()} == {1}


def test_two_artists_name_the_same_emoji_alike_and_leave_the_same_ones_out(both):
    train, unseen = both
    assert {origin.artist for origin in train.origins} == {OPENMOJI, TWEMOJI} == set(data.ARTISTS.values())
    assert {origin.codes for origin in unseen.origins} == data.unseen_emoji()
    assert not {origin.codes for origin in train.origins} & data.unseen_emoji()
    captions = data.emoji_captions() | data.emoji_captions(artist=TWEMOJI)
    assert len(train) > 7000
    for pairs in both:
        assert pairs.captions == [captions[origin.codes] for origin in pairs.origins]
        assert pairs.image_of_caption.tolist() == list(range(len(pairs)))


@pytest.mark.parametrize("further", data.FURTHER)
def test_further_drawings_are_trained_on_and_not_tested(split, further):
    train, unseen = split
    more, still_unseen = data.load_emoji(Preprocess(SIZE), artists=[OPENMOJI], further=[further])
    assert still_unseen.origins == unseen.origins
    assert torch.equal(more.images[: len(train)], train.images)
    added = more.select(range(len(train), len(more)))
    origins = [origin for origin in added.origins if isinstance(origin, data.Emoji)]
    assert added.captions == [data.emoji_captions(artist=origin.artist)[origin.codes] for origin in origins]
    assert {origin.artist for origin in origins} == set(data.FURTHER[further])
    assert not {origin.codes for origin in origins} & data.unseen_emoji()
    assert len(added) == len(train) if further == "flat" else 900 < len(added) < 1100


def test_a_drawing_of_a_trained_name_as_well_is_not_tested(both):
    """Twemoji draws all families of two parents and two children alike, whoever they are."""
    train, unseen = both
    family = "1F468-200D-1F468-200D-1F466-200D-1F466"
    assert family in data.unseen_emoji()
    assert data.Emoji(family, OPENMOJI) in unseen.origins
    assert data.Emoji(family, TWEMOJI) not in unseen.origins
    assert 790 < len(unseen) < 800
    assert not pixels(train) & pixels(unseen)


def pixels(pairs: data.Pairs) -> set[bytes]:
    return {image.numpy().tobytes() for image in pairs.images}


@pytest.mark.parametrize("size", [SIZE, 48, 72])
def test_no_unseen_picture_stands_under_another_name(size):
    train, unseen = data.load_emoji(Preprocess(size), artists=[OPENMOJI])
    assert len(pixels(unseen)) == 400
    assert not pixels(train) & pixels(unseen)


def test_captions_and_pictures_belong_together(split):
    train, _ = split
    captions = dict(zip(train.origins, train.captions, strict=True))
    assert captions[data.Emoji("2764-FE0F")] == "red heart"
    assert captions[data.Emoji("1F408")] == "cat"
    heart = train.images[train.origins.index(data.Emoji("2764-FE0F"))].float().mean(dim=(1, 2))
    assert heart[0] > heart[1] + 30  # red on white
    assert heart[0] > heart[2] + 30
    assert data.emoji_captions("zh")["2764-FE0F"] == "红心"


def test_groups_and_basic_emoji():
    assert data.emoji_group("1F408") == "Animals & Nature"
    assert data.emoji_group("2764-FE0F") == data.emoji_group("2764") == "Smileys & Emotion"
    assert data.emoji_group("0041") is None
    assert data.is_basic("1F408")
    assert data.is_basic("1F170-FE0F")  # the letter A on a button, beside the letters of flags
    assert not data.is_basic("1F44B-1F3FB")  # light skin tone
    assert not data.is_basic("1F1E9-1F1EA")  # Germany
    assert not any(map(data.is_basic, data.unseen_emoji()))
    assert sum(map(data.is_basic, data.emoji_captions())) == 1571


def test_an_unknown_language_lists_those_there_are():
    with pytest.raises(ValueError, match=r"'xx'.*de, en, es"):
        data.emoji_captions("xx")


def test_an_emoji_opens_names_and_credits_its_picture():
    heart = data.Emoji("2764-FE0F")
    assert str(heart) == "❤️"
    assert heart.open(40).size == (40, 40)
    assert heart.open(40).tobytes() == OPENMOJI.draw("2764-FE0F", 40).tobytes()
    assert heart.credit == "Pictures: OpenMoji, CC BY-SA 4.0"
    assert replace(heart, artist=TWEMOJI).credit == "Pictures: Twemoji, CC BY 4.0"
    assert heart == data.Emoji("2764-FE0F") != data.Emoji("1F408")
    assert heart != replace(heart, artist=TWEMOJI)
