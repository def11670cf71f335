import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minclip import data
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
    assert not set(train.names) & set(unseen.names)
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
    captions = dict(zip(train.names, train.captions, strict=True))
    assert captions["emoji:2764-FE0F"] == "red heart"
    assert captions["emoji:1F408"] == "cat"
    heart = train.images[train.names.index("emoji:2764-FE0F")].float().mean(dim=(1, 2))
    assert heart[0] > heart[1] + 30  # red on white
    assert heart[0] > heart[2] + 30
    assert data.emoji_captions("zh")["2764-FE0F"] == "红心"
    assert data.display_name("emoji:2764-FE0F") == "❤️"


def test_an_unknown_language_lists_those_there_are():
    with pytest.raises(ValueError, match=r"'xx'.*de, en, es"):
        data.emoji_captions("xx")


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
    first = data._emoji_images(codes, 16)
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
    render = data.render_emoji
    monkeypatch.setattr(data, "render_emoji", lambda *arguments: drawn.append(arguments) or render(*arguments))
    assert torch.equal(data._emoji_images(codes, 16), first)
    assert len(drawn) == (0 if damage == "none" else 3)
    assert file.read_bytes() == content


def test_without_a_cache_folder_it_draws_every_time(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_: str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="cannot be written"):
        assert data._emoji_images(["1F408"], 16).shape == (1, 3, 16, 16)


# --- pictures ---------------------------------------------------------------------------------------------------------


def picture(width: int = 30, height: int = 20) -> Image.Image:
    """Red on the left, blue on the right."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 255
    return Image.fromarray(pixels)


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    width, height = image.size
    return [image.getpixel((2, 2)), image.getpixel((width - 3, height - 3))]  # pyright: ignore[reportReturnType]


def test_cmyk(tmp_path):
    picture().convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    left, right = corners(data.load_image(tmp_path / "a.jpg"))
    assert left[0] > 200 > 60 > left[2]
    assert right[2] > 200 > 60 > right[0]


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    grey = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, 0)
    Image.fromarray(grey).save(tmp_path / "a.png")
    values = np.asarray(data.load_image(tmp_path / "a.png"))
    assert abs(values[0, :, 0].astype(int) - np.arange(256)).max() <= 1


def test_depth_is_told_by_the_mode_and_not_by_the_brightest_pixel(tmp_path):
    Image.fromarray(np.full((4, 4), 514, dtype=np.uint16)).save(tmp_path / "dark.png")
    assert data.load_image(tmp_path / "dark.png").getpixel((0, 0)) == (2, 2, 2)
    Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)).save(tmp_path / "float.tiff")
    assert data.load_image(tmp_path / "float.tiff").getpixel((0, 0)) == (128, 128, 128)


def test_palette_with_alpha_lands_on_white(tmp_path):
    image = picture().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 15, 20))
    image.quantize(8).save(tmp_path / "a.png")
    assert corners(data.load_image(tmp_path / "a.png")) == [(255, 255, 255), (0, 0, 255)]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGBA", "P", "I", "F"])
def test_every_mode_becomes_rgb(mode, tmp_path):
    path = tmp_path / ("a.tiff" if mode in "IF" else "a.png")
    picture().convert(mode).save(path)
    assert data.load_image(path).mode == "RGB"
    assert data.load_image(path).size == (30, 20)


def test_animations_give_their_first_frame(tmp_path):
    frames = [picture(), Image.new("RGB", (30, 20), "green")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert corners(data.load_image(tmp_path / "a.gif")) == [(255, 0, 0), (0, 0, 255)]


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture().save(tmp_path / "a.png", exif=exif)
    assert corners(data.load_image(tmp_path / "a.png")) == [(0, 0, 255), (255, 0, 0)]


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 2)])
def test_tiny_and_narrow_pictures_work(size, tmp_path):
    Image.new("RGB", size, "red").save(tmp_path / "a.png")
    tensor = data.to_tensor(data.load_image(tmp_path / "a.png"), SIZE)
    assert tensor.shape == (3, SIZE, SIZE)
    assert tensor.float().mean(dim=(1, 2)).tolist() == [255, 0, 0]


def damaged_pictures(folder: Path) -> dict[str, str]:
    """File name -> part of the message it must get."""
    picture(300, 200).save(folder / "whole.jpg")
    (folder / "truncated.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:1500])
    picture(300, 200).save(folder / "whole.png")
    (folder / "truncated.png").write_bytes((folder / "whole.png").read_bytes()[:80])
    (folder / "zero.png").touch()
    (folder / "text.png").write_text("this is not a picture")
    return {
        "truncated.jpg": "truncated",
        "truncated.png": "truncated|broken|incomplete",
        "zero.png": "empty",
        "text.png": "cannot identify",
    }


def test_damaged_pictures_are_named(tmp_path):
    for name, message in damaged_pictures(tmp_path).items():
        with pytest.raises(ValueError, match=f"{name}: cannot be read as a picture: .*({message})"):
            data.load_image(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"none\.png: no such picture"):
        data.load_image(tmp_path / "none.png")


def test_to_tensor_takes_the_central_square():
    tensor = data.to_tensor(picture(300, 100), 50)  # columns 100 to 200 of 300: half red, half blue
    assert tensor[0, 25, 5] == 255
    assert tensor[2, 25, 45] == 255
    assert torch.equal(tensor[0, 25] > 128, torch.arange(50) < 25)


# --- augmentation -----------------------------------------------------------------------------------------------------


def test_augmentation_is_reproducible_and_different_for_every_picture():
    images = data.to_tensor(picture(), SIZE).expand(4, 3, SIZE, SIZE)
    first, again = (data.augment(images, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == images.shape
    assert first.dtype == torch.float32
    assert not any(torch.allclose(first[i], first[j], atol=0.05) for i in range(4) for j in range(i))


def test_augmentation_never_mirrors():
    """Red on the left stays on the left: "facing right" is a caption."""
    images = data.to_tensor(picture(), SIZE).expand(200, 3, SIZE, SIZE)
    moved = data.augment(images, torch.Generator().manual_seed(0))
    red_minus_blue = moved[:, 0] - moved[:, 2]
    half = SIZE // 2
    assert (red_minus_blue[:, :, :half].mean((1, 2)) > red_minus_blue[:, :, half:].mean((1, 2)) + 1).all()


def test_augmentation_repeats_the_edge_and_moves_little():
    """A plain picture stays plain to its corners; a dot in the middle stays near the middle."""
    plain = torch.full((50, 3, SIZE, SIZE), 200, dtype=torch.uint8)
    moved = data.augment(plain, torch.Generator().manual_seed(0))
    assert (moved.amax((2, 3)) - moved.amin((2, 3))).max() < 1e-4
    spots = torch.zeros(200, 3, 48, 48, dtype=torch.uint8)
    spots[:, :, 20:28, 20:28] = 255
    mass = data.augment(spots, torch.Generator().manual_seed(0))[:, 0] > 1
    places = torch.arange(48.0) - 23.5
    offset = torch.stack([(mass.sum(2) * places).sum(1), (mass.sum(1) * places).sum(1)]) / mass.sum((1, 2))
    assert 1 < offset.abs().max() < 3  # 6 % of half the width in either direction


def test_normalize_is_openais():
    black_and_white = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    expected = [[-0.48145466 / 0.26862954, -0.4578275 / 0.26130258, -0.40821073 / 0.27577711]]
    expected.append([(1 - 0.48145466) / 0.26862954, (1 - 0.4578275) / 0.26130258, (1 - 0.40821073) / 0.27577711])
    torch.testing.assert_close(data.normalize(black_and_white)[:, :, 0, 0], torch.tensor(expected))


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("red.png", "sub/blue.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture().save(tmp_path / name)
    return tmp_path


def test_several_captions_for_a_picture(folder):
    (folder / "c.csv").write_text(
        'image,caption\nred.png,"red, then blue"\nsub/blue.png,蓝色\nred.png,again\n', encoding="utf-8-sig"
    )
    pairs, problems = data.load_folder(folder, SIZE)
    assert problems == []
    assert pairs.captions == ["red, then blue", "蓝色", "again"]
    assert pairs.image_of_caption.tolist() == [0, 1, 0]
    assert [Path(name).name for name in pairs.names] == ["red.png", "blue.png"]
    assert pairs.images.shape == (2, 3, SIZE, SIZE)


def test_spaces_in_the_header_spellings_of_a_path_and_long_captions(folder):
    long = "word " * 100_000
    (folder / "c.csv").write_text(f"image, caption\nred.png,{long}\n./red.png,again\nsub/../red.png,once more\n")
    pairs, _ = data.load_folder(folder, SIZE)
    assert pairs.captions == [long.strip(), "again", "once more"]
    assert pairs.image_of_caption.tolist() == [0, 0, 0]


def test_tsv_and_other_columns(folder):
    (folder / "c.tsv").write_text("id\tcaption\timage\n1\ta, b\tred.png\n")
    assert data.load_folder(folder / "c.tsv", SIZE)[0].captions == ["a, b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "columns image and caption; it has: nothing"),
        (b"image,caption\nred.png,red, then blue\n", "line 2: more cells than columns; .*quotes"),
        (b'image,caption\nred.png,"red\nred.png,blue\n', "unexpected end of data"),
        (b"image,caption\nred.png,&nbsp;\n", "line 2: the caption is empty"),
        (b"image,caption\n", "a header and no rows"),
        (b"file,text\nred.png,red\n", "columns image and caption; it has: file, text"),
        (b"image,caption\nred.png,caf\xe9\n", "not UTF-8: byte 0xE9 at position 25"),
        (b"image,caption\nred.png,\n", "line 2: the caption is empty"),
        (b"image,caption\nred.png,  \n", "line 2: the caption is empty"),
        (b"image,caption\n,red\n", "line 2: the image is empty"),
        (b"image,caption\nred.png\n", "line 2: the caption is empty"),
        (b"image,caption\ngone.png,red\n", r"gone\.png: no such picture"),
        (b"image,caption\nc.csv,red\n", r"c\.csv: cannot be read as a picture"),
    ],
)
def test_bad_tables_are_explained(folder, content, message):
    (folder / "c.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        data.load_folder(folder, SIZE)
    assert "c.csv" in str(caught.value)


def test_which_table_is_meant_must_be_clear(folder):
    with pytest.raises(ValueError, match="found none"):
        data.load_folder(folder, SIZE)
    for name in ("a.csv", "b.tsv"):
        (folder / name).touch()
    with pytest.raises(ValueError, match=r"found a\.csv, b\.tsv"):
        data.load_folder(folder, SIZE)
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder or file"):
        data.load_folder(folder / "nowhere", SIZE)


def test_skip_bad_leaves_out_and_reports(folder):
    damaged_pictures(folder)
    rows = ["red.png,red", "zero.png,nothing", "gone.png,gone", "sub/blue.png,", "sub/blue.png,blue"]
    (folder / "c.csv").write_text("\n".join(["image,caption", *rows]))
    with pytest.raises(ValueError, match="3 entries cannot be used"):
        data.load_folder(folder, SIZE)
    pairs, problems = data.load_folder(folder, SIZE, skip_bad=True)
    assert pairs.captions == ["red", "blue"]
    assert len(problems) == 3


def test_nothing_left_is_an_error_even_when_skipping(folder):
    (folder / "c.csv").write_text("image,caption\ngone.png,gone\n")
    with pytest.raises(ValueError, match="no usable pair"):
        data.load_folder(folder, SIZE, skip_bad=True)


# --- choosing ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 4), max_size=12), st.lists(st.integers(0, 4), unique=True, min_size=1))
def test_select_keeps_pictures_with_their_captions(owners, chosen):
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 2, 2)
    pairs = data.Pairs(images, list("abcde"), [f"{o}-{i}" for i, o in enumerate(owners)], torch.tensor(owners).long())
    part = pairs.select(chosen)
    assert part.names == ["abcde"[p] for p in chosen]
    assert part.captions == [c for c in pairs.captions if int(c[0]) in chosen]
    for caption, picture in zip(part.captions, part.image_of_caption.tolist(), strict=True):
        assert part.images[picture, 0, 0, 0] == int(caption[0])


def test_a_held_out_picture_stays_held_out_whatever_comes_and_goes():
    images = torch.randint(0, 256, (400, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    everything = data.Pairs(images, [str(i) for i in range(400)], [str(i) for i in range(400)], torch.arange(400))
    train, aside = data.hold_out(everything)
    assert aside is not None
    assert 20 <= len(aside) <= 60  # 40 expected
    assert sorted(train.names + aside.names) == sorted(everything.names)
    part_train, part_aside = data.hold_out(everything.select(list(range(399, 0, -2))))
    assert part_aside is not None
    assert set(part_train.names) <= set(train.names)
    assert set(part_aside.names) <= set(aside.names)
    one = everything.select([0])
    assert data.hold_out(one) == (one, None)
