"""`minclip search` remembers what a model made of a picture; `minclip duplicates` compares pictures."""

import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minclip import cli, data, features, formats
from minclip.commands.duplicates import close_groups
from minclip.images import PictureFile

SHIPPED = str(formats.packaged("en"))
CODES = {"cat": "1F408", "dog": "1F415", "fire": "1F525", "pizza": "1F355", "banana": "1F34C"}


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, codes in CODES.items():
        data.OPENMOJI.draw(codes, 96).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """How many pictures each call encodes."""
    counts: list[int] = []
    encode = features.image_features

    def counting(model, images):
        made = encode(model, images)
        counts.append(len(made))
        return made

    monkeypatch.setattr(features, "image_features", counting)
    return counts


def found(capsys, *arguments: str) -> list[str]:
    capsys.readouterr()
    assert cli.main(["search", *arguments, "--run", SHIPPED, "--json"]) == 0
    return [Path(row["picture"]).name for row in json.loads(capsys.readouterr().out)]


def test_a_search_remembers_what_it_has_seen(folder, encoded, capsys):
    first = found(capsys, "cat", "--folder", str(folder))
    assert first[0] == "cat.png"
    assert encoded == [5]
    assert found(capsys, "cat", "--folder", str(folder)) == first
    assert found(capsys, "pizza", "--folder", str(folder))[0] == "pizza.png"
    assert encoded == [5], "nothing is encoded again"
    shutil.copy(folder / "cat.png", folder / "another.png")
    os.utime(folder / "dog.png", (1, 1))
    (folder / "fire.png").unlink()
    assert set(found(capsys, "cat", "--folder", str(folder))[:2]) == {"cat.png", "another.png"}
    assert encoded == [5, 2]


def test_another_model_and_a_damaged_cache_encode_again(folder, encoded, tmp_path, cache_folder, monkeypatch):
    own = tmp_path / "cache"
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_: str(own))
    model = formats.read(SHIPPED).build()
    sources = [PictureFile(path) for path in sorted(folder.glob("*.png"))]
    pictures, first, problems = features.picture_features(model, sources)
    assert (pictures, problems) == ([0, 1, 2, 3, 4], [])
    with torch.no_grad():
        model.visual.proj[0, 0] += 1
    assert not torch.equal(features.picture_features(model, sources)[1], first)
    with torch.no_grad():
        model.visual.proj[0, 0] -= 1
    assert encoded == [5, 5]
    for file in own.iterdir():
        content = bytearray(file.read_bytes())
        content[-3] ^= 1
        file.write_bytes(content)
    torch.testing.assert_close(features.picture_features(model, sources)[1], first)
    assert encoded == [5, 5, 5]
    for file in own.iterdir():
        file.write_bytes(b"no tensors")
    torch.testing.assert_close(features.picture_features(model, sources)[1], first)
    assert encoded == [5, 5, 5, 5]


@pytest.mark.filterwarnings("default:the result will be computed again")
def test_without_a_place_for_a_cache_it_searches_all_the_same(folder, capsys, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_: str(tmp_path / "file" / "cache"))
    assert cli.main(["search", "pizza", "--folder", str(folder), "--run", SHIPPED]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0].endswith("pizza.png")
    assert "note: the result will be computed again next time" in captured.err


def test_bad_pictures_are_named_each_time_and_left_out(folder, capsys):
    (folder / "bad.png").touch()
    for _ in range(2):
        assert cli.main(["search", "cat", "--folder", str(folder), "--run", SHIPPED]) == 0
        captured = capsys.readouterr()
        assert "bad.png: cannot be read as a picture: the file is empty" in captured.err
        assert len(captured.out.splitlines()) == 5


def test_like_a_picture(folder, tmp_path, capsys):
    data.TWEMOJI.draw(CODES["banana"], 96).save(tmp_path / "query.png")
    assert found(capsys, "--like", str(tmp_path / "query.png"), "--folder", str(folder))[0] == "banana.png"
    assert found(capsys, "--like", str(folder / "dog.png"), "--folder", str(folder), "-k", "1") == ["dog.png"]


def test_pictures_in_tar_shards_are_searched(folder, tmp_path, capsys):
    shards = tmp_path / "shards"
    shards.mkdir()
    with tarfile.open(shards / "0.tar", "w") as archive:
        for name in CODES:
            (folder / f"{name}.txt").write_text(name)
            for ending in ("png", "txt"):
                archive.add(folder / f"{name}.{ending}", f"{name}.{ending}")
    (found_first, *_) = found(capsys, "pizza", "--folder", str(shards))
    assert found_first == "0.tar:pizza.png"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search"], "a search needs a text, or a picture with --like, and not both"),
        (["search", "cat", "--like", "x.png"], "and not both"),
        (["search", "--like", "nowhere.png"], "nowhere.png: no such picture"),
        (["duplicates", "nowhere"], "nowhere: no such folder"),
        (["duplicates", "empty"], "empty has no picture that can be read"),
        (["duplicates", "empty", "--cosine", "2"], "--cosine is 2.0; it must be from -1 to 1"),
    ],
)
def test_bad_questions_are_explained(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    assert cli.main([*arguments, "--run", SHIPPED]) == 1
    assert message in capsys.readouterr().err


def test_duplicates_are_grouped(folder, capsys):
    shutil.copy(folder / "cat.png", folder / "z.png")
    Image.open(folder / "pizza.png").resize((200, 200)).save(folder / "larger.png")
    assert cli.main(["duplicates", str(folder), "--run", SHIPPED, "--json"]) == 0
    groups = json.loads(capsys.readouterr().out)
    names = [{Path(path).name for path in group} for group in groups]
    assert names == [{"cat.png", "z.png"}, {"larger.png", "pizza.png"}]
    assert cli.main(["duplicates", str(folder), "--run", SHIPPED, "--cosine", "-1"]) == 0
    assert "1 groups of 7 pictures, of 7, with cosines from -1.0 on" in capsys.readouterr().out


@given(st.integers(1, 30), st.integers(0, 999), st.floats(-1, 1))
def test_groups_against_comparing_one_by_one(count, seed, lowest):
    vectors = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)).round()
    vectors = torch.nn.functional.normalize(vectors + torch.tensor([0.1, 0, 0]), dim=1)
    leaders: list[int] = []
    for i in range(count):
        close = [j for j in range(i) if (vectors[i] @ vectors[j]).item() >= lowest]
        leaders.append(leaders[close[0]] if close else i)
    wanted = [[i for i in range(count) if leaders[i] == leader] for leader in sorted(set(leaders))]
    cosines = vectors @ vectors.T
    if (cosines - lowest).abs().min() > 1e-5:  # else rounding decides
        assert close_groups(vectors, lowest) == [group for group in wanted if len(group) > 1]


def test_more_pictures_than_a_block(monkeypatch):
    monkeypatch.setattr("minclip.commands.duplicates.BLOCK", 4)
    vectors = torch.nn.functional.one_hot(torch.arange(11) % 5).float()
    assert close_groups(vectors, 0.9) == [[0, 5, 10], [1, 6], [2, 7], [3, 8], [4, 9]]
