import csv
import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from minclip import data

SIZE = 24
PREPROCESS = data.Preprocess(SIZE)


def add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


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


def test_which_layout_is_meant_must_be_clear(folder):
    with pytest.raises(ValueError, match=r"red\.png has no caption; expected one \.csv"):
        data.load_folder(folder, PREPROCESS)
    for name in ("a.csv", "b.tsv"):
        (folder / name).touch()
    with pytest.raises(ValueError, match=r"found a\.csv, b\.tsv: name one file"):
        data.load_folder(folder, PREPROCESS)
    (folder / "a.csv").unlink()
    (folder / "0.tar").touch()
    with pytest.raises(ValueError, match=r"found b\.tsv, 0\.tar"):
        data.load_folder(folder, PREPROCESS)
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder or file"):
        data.load_folder(folder / "nowhere", PREPROCESS)
    with pytest.raises(ValueError, match=r"red\.png is neither a table .* nor a \.tar shard"):
        data.load_folder(folder / "red.png", PREPROCESS)
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no pictures and captions found; expected one"):
        data.load_folder(folder / "empty", PREPROCESS)


# --- the same pairs in every layout -----------------------------------------------------------------------------------

CAPTIONS = {"a": "red, then blue", "b": "蓝色", "c": "a caption\twith a tab"}


def write_csv(folder: Path) -> None:
    rows = [[f"pictures/{name}.png", caption] for name, caption in CAPTIONS.items()]
    with (folder / "c.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["image", "caption"], *rows])


def write_open_clip(folder: Path) -> None:
    """open_clip's .csv has tabs between its columns, which its README calls filepath and title."""
    rows = [["filepath", "title"], *([f"pictures/{name}.png", caption] for name, caption in CAPTIONS.items())]
    with (folder / "c.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t").writerows(rows)


def write_jsonl(folder: Path) -> None:
    lines = [json.dumps({"id": 1, "caption": text, "image": f"pictures/{name}.png"}) for name, text in CAPTIONS.items()]
    (folder / "c.jsonl").write_text("\n".join(lines), encoding="utf-8")


def write_texts(folder: Path) -> None:
    for name, caption in CAPTIONS.items():
        (folder / "pictures" / f"{name}.txt").write_text(caption + "\n", encoding="utf-8")


def write_shards(folder: Path) -> None:
    """One shard with a .txt for each caption, and one with img2dataset's .json."""
    for shard, names in enumerate(("ab", "c")):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for name in names:
                archive.add(folder / "pictures" / f"{name}.png", f"{name}.png")
                text = CAPTIONS[name] if shard == 0 else json.dumps({"caption": CAPTIONS[name], "width": 3})
                add_bytes(archive, f"{name}.{'json' if shard else 'txt'}", text.encode())


LAYOUTS = [write_csv, write_open_clip, write_jsonl, write_texts, write_shards]


@pytest.fixture(params=LAYOUTS, ids=lambda write: write.__name__.removeprefix("write_"))
def any_layout(request, tmp_path) -> Path:
    (tmp_path / "pictures").mkdir()
    for i, name in enumerate(CAPTIONS):
        Image.new("RGB", (30, 20), (80 * i, 100, 0)).save(tmp_path / "pictures" / f"{name}.png")
    request.param(tmp_path)
    return tmp_path


def test_every_layout_gives_the_same_pairs(any_layout):
    pairs, problems = data.load_folder(any_layout, PREPROCESS)
    assert problems == []
    assert pairs.captions == list(CAPTIONS.values())
    assert [int(image[0, 0, 0]) for image in pairs.images] == [0, 80, 160]
    assert pairs.image_of_caption.tolist() == [0, 1, 2]
    assert pairs.origins[2].open(9).getpixel((0, 0)) == (160, 100, 0)


def test_every_layout_streams_the_same_bits(any_layout):
    kept, _ = data.load_folder(any_layout, PREPROCESS)
    streamed, problems = data.load_folder(any_layout, PREPROCESS, reading=data.Reading(memory=0, workers=1))
    assert isinstance(kept.images, torch.Tensor)
    assert isinstance(streamed.images, data.Streamed)
    assert problems == []
    assert torch.equal(torch.stack(list(streamed.images)), kept.images)
    assert torch.equal(streamed.images[torch.tensor([2, 0])], kept.images[[2, 0]])
    assert list(data.digests(streamed.images)) == list(data.digests(kept.images))


def test_every_layout_skips_and_counts_what_is_bad(any_layout):
    (any_layout / "pictures" / "b.png").write_bytes(b"no picture")
    if (any_layout / "0.tar").exists():
        write_shards(any_layout)
    for reading in (data.Reading(), data.Reading(memory=0, workers=1)):
        with pytest.raises(ValueError, match=r"1 entry cannot be used: .*b\.png: cannot be read.*; fix it") as caught:
            data.load_folder(any_layout, PREPROCESS, reading=reading)
        assert len(str(caught.value).splitlines()) == 1
        pairs, problems = data.load_folder(any_layout, PREPROCESS, skip_bad=True, reading=reading)
        assert len(problems) == 1
        assert [int(image[0, 0, 0]) for image in pairs.images] == [0, 160]
        assert pairs.captions == [CAPTIONS["a"], CAPTIONS["c"]]


def test_class_folders_have_their_name_as_caption_through_templates(tmp_path):
    for name in ("fire_engine/1.png", "fire_engine/more/2.png", "cat/3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), "red").save(tmp_path / name)
    pairs, _ = data.load_folder(tmp_path, PREPROCESS)
    assert pairs.captions == ["cat", "fire engine", "fire engine"]
    assert pairs.templates[0] == "{}"
    assert "a photo of the large {}." in pairs.templates


def test_columns_are_named(folder):
    (folder / "c.csv").write_text("file,words,caption\nred.png,red,no\n")
    assert data.load_folder(folder, PREPROCESS, columns=("file", "words"))[0].captions == ["red"]
    assert data.load_folder(folder, PREPROCESS, columns=("file", None))[0].captions == ["no"]
    with pytest.raises(ValueError, match=r"must name the columns file and title2; it has: file, words, caption\. Name"):
        data.load_folder(folder, PREPROCESS, columns=("file", "title2"))
    (folder / "c.csv").unlink()
    with pytest.raises(ValueError, match="no table whose columns could be named"):
        data.load_folder(folder, PREPROCESS, columns=("file", None))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ('["red.png", "red"]', "line 2: not a JSON object"),
        ('{"image": "red.png"}', "line 2: the caption is empty"),
        ('{"image": "red.png", "caption": 3}', "line 2: the caption is 3, expected a text"),
        ('{"image": null, "caption": "red"}', "line 2: the image is empty"),
    ],
)
def test_bad_lines_of_jsonl_are_explained(folder, line, message):
    (folder / "c.jsonl").write_text('{"image": "red.png", "caption": "red"}\n' + line + "\n\n")
    with pytest.raises(ValueError, match=message):
        data.load_folder(folder, PREPROCESS)
    assert data.load_folder(folder, PREPROCESS, skip_bad=True)[0].captions == ["red"]


def test_texts_that_are_missing_empty_or_not_utf8(folder):
    for name, content in {"red": b"red", "empty": b" ", "latin": b"caf\xe9"}.items():
        Image.new("RGB", (3, 3)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_bytes(content)
    pairs, problems = data.load_folder(folder, PREPROCESS, skip_bad=True)
    assert pairs.captions == ["red"]
    assert len(problems) == 3
    for reason in (
        "blue.png: no blue.txt beside it",
        "the caption in empty.txt is empty",
        "latin.png: the caption can",
    ):
        assert any(reason in problem for problem in problems)


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
