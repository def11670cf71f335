from pathlib import Path

import pytest
from PIL import Image

from minclip import data

SIZE = 24
PREPROCESS = data.Preprocess(SIZE)


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("red.png", "sub/blue.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (30, 20), "red").save(tmp_path / name)
    return tmp_path


def test_several_captions_for_a_picture(folder):
    (folder / "c.csv").write_text(
        'image,caption\nred.png,"red, then blue"\nsub/blue.png,蓝色\nred.png,again\n', encoding="utf-8-sig"
    )
    pairs, problems = data.load_folder(folder, PREPROCESS)
    assert problems == []
    assert pairs.captions == ["red, then blue", "蓝色", "again"]
    assert pairs.image_of_caption.tolist() == [0, 1, 0]
    assert [Path(str(origin)).name for origin in pairs.origins] == ["red.png", "blue.png"]
    assert pairs.images.shape == (2, 3, SIZE, SIZE)


def test_spaces_in_the_header_spellings_of_a_path_and_long_captions(folder):
    long = "word " * 100_000
    (folder / "c.csv").write_text(f"image, caption\nred.png,{long}\n./red.png,again\nsub/../red.png,once more\n")
    pairs, _ = data.load_folder(folder, PREPROCESS)
    assert pairs.captions == [long.strip(), "again", "once more"]
    assert pairs.image_of_caption.tolist() == [0, 0, 0]


def test_tsv_and_other_columns(folder):
    (folder / "c.tsv").write_text("id\tcaption\timage\n1\ta, b\tred.png\n")
    assert data.load_folder(folder / "c.tsv", PREPROCESS)[0].captions == ["a, b"]


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
        data.load_folder(folder, PREPROCESS)
    assert "c.csv" in str(caught.value)


def test_which_table_is_meant_must_be_clear(folder):
    with pytest.raises(ValueError, match="found none"):
        data.load_folder(folder, PREPROCESS)
    for name in ("a.csv", "b.tsv"):
        (folder / name).touch()
    with pytest.raises(ValueError, match=r"found a\.csv, b\.tsv"):
        data.load_folder(folder, PREPROCESS)
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder or file"):
        data.load_folder(folder / "nowhere", PREPROCESS)


def test_skip_bad_leaves_out_and_reports(folder):
    (folder / "zero.png").touch()
    rows = ["red.png,red", "zero.png,nothing", "gone.png,gone", "sub/blue.png,", "sub/blue.png,blue"]
    (folder / "c.csv").write_text("\n".join(["image,caption", *rows]))
    with pytest.raises(ValueError, match="3 entries cannot be used"):
        data.load_folder(folder, PREPROCESS)
    pairs, problems = data.load_folder(folder, PREPROCESS, skip_bad=True)
    assert pairs.captions == ["red", "blue"]
    assert len(problems) == 3


def test_nothing_left_is_an_error_even_when_skipping(folder):
    (folder / "c.csv").write_text("image,caption\ngone.png,gone\n")
    with pytest.raises(ValueError, match="no usable pair"):
        data.load_folder(folder, PREPROCESS, skip_bad=True)
