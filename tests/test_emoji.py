import subprocess
import sys
from collections import Counter

import pytest
import torch

from minclip import data
from minclip.data import emoji
from minclip.tokenizer import clean

SIZE = 24


def words(caption: str) -> list[str]:
    return caption.lower().split()


# --- the split --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def split() -> tuple[data.Pairs, data.Pairs]:
    return data.load_emoji(SIZE)


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


@pytest.mark.parametrize("size", [SIZE, 48, 72])
def test_no_unseen_picture_stands_under_another_name(size):
    train, unseen = data.load_emoji(size)
    trained = {image.numpy().tobytes() for image in train.images}
    tested = {image.numpy().tobytes() for image in unseen.images}
    assert len(tested) == 400
    assert not trained & tested


def test_captions_and_pictures_belong_together(split):
    train, _ = split
    captions = dict(zip(train.origins, train.captions, strict=True))
    assert captions[data.Emoji("2764-FE0F")] == "red heart"
    assert captions[data.Emoji("1F408")] == "cat"
    heart = train.images[train.origins.index(data.Emoji("2764-FE0F"))].float().mean(dim=(1, 2))
    assert heart[0] > heart[1] + 30  # red on white
    assert heart[0] > heart[2] + 30
    assert data.emoji_captions("zh")["2764-FE0F"] == "红心"


def test_an_unknown_language_lists_those_there_are():
    with pytest.raises(ValueError, match=r"'xx'.*de, en, es"):
        data.emoji_captions("xx")


def test_an_emoji_opens_names_and_credits_its_picture():
    heart = data.Emoji("2764-FE0F")
    assert str(heart) == "❤️"
    assert heart.open(40).size == (40, 40)
    assert heart.open(40).tobytes() == data.render_emoji("2764-FE0F", 40).tobytes()
    assert heart.credit == data.EMOJI_CREDIT
    assert heart == data.Emoji("2764-FE0F") != data.Emoji("1F408")


# --- drawing and its cache --------------------------------------------------------------------------------------------


def test_drawings_need_neither_fonts_nor_a_text_shaper(tmp_path):
    """A woman, a joiner and a fire engine are one drawing, in a process that finds no font and no shaping library."""
    code = (
        "import sys; sys.modules['PIL.ImageFont'] = None\n"
        "from minclip.data import render_emoji\n"
        "sys.stdout.buffer.write(render_emoji('1F469-200D-1F692', 48).tobytes())"
    )
    environment = {"PATH": "", "FONTCONFIG_FILE": "/nowhere", "PYTHONPATH": ":".join(sys.path)}
    drawn = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout
    assert drawn == data.render_emoji("1F469-200D-1F692", 48).tobytes()
    assert drawn != data.render_emoji("1F469", 48).tobytes()


def test_a_variation_selector_may_be_missing_from_the_file_name():
    with pytest.raises(ValueError, match="no drawing of 0041"):
        data.render_emoji("0041", 8)
    both = [data.render_emoji(codes, 16).tobytes() for codes in ("2764", "2764-FE0F")]
    assert both[0] == both[1]


@pytest.mark.parametrize("damage", ["truncate", "flip", "replace", "none"])
def test_a_damaged_cache_is_drawn_again(damage, tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_: str(tmp_path))
    codes = ["2764-FE0F", "1F408", "1F415"]
    first = emoji._emoji_images(codes, 16)
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    middle = len(content) - 500
    damaged = {
        "truncate": content[:middle],
        "flip": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "replace": b"not a cache",
        "none": content,
    }
    file.write_bytes(damaged[damage])
    drawn = []
    render = emoji.render_emoji
    monkeypatch.setattr(emoji, "render_emoji", lambda *arguments: drawn.append(arguments) or render(*arguments))
    assert torch.equal(emoji._emoji_images(codes, 16), first)
    assert len(drawn) == (0 if damage == "none" else 3)
    assert file.read_bytes() == content


def test_without_a_cache_folder_it_draws_every_time(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_: str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="cannot be written"):
        assert emoji._emoji_images(["1F408"], 16).shape == (1, 3, 16, 16)
