"""Class folders, class lists, and OpenAI's templates."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from minclip import cli, data, formats
from minclip.data.folder import CLASS_TEMPLATES
from minclip.prompts import IMAGENET, fill_templates, read_lines
from minclip.zero_shot import read_class_names, score_classes

SHIPPED = str(formats.packaged("en"))
CLASSES = {"cat": ["1F408", "1F431"], "red_heart": ["2764"], "pizza": ["1F355"]}


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "classes"
    for name, pictures in CLASSES.items():
        (folder / name).mkdir(parents=True)
        for codes in pictures:
            data.OPENMOJI.draw(codes, 96).save(folder / name / f"{codes}.png")
    return folder


def test_openais_templates_are_eighty_and_the_seven_are_among_them():
    templates = read_lines(IMAGENET)
    assert len(templates) == len(set(templates)) == 80
    assert len(fill_templates(["cat"], templates)) == 80
    assert set(CLASS_TEMPLATES) - {"{}"} <= set(templates)
    assert {"a photo of a {}.", "itap of my {}.", "the {} in a video game."} <= set(templates)


def test_class_folders_are_scored(folder, capsys):
    assert cli.main(["eval", "--data", str(folder), "--run", SHIPPED, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores["pictures"], scores["classes"], scores["top5"]) == (4, 3, 1.0)
    assert [row["name"] for row in scores["per class"]] == ["cat", "pizza", "red heart"]
    assert [row["pictures"] for row in scores["per class"]] == [2, 1, 1]
    assert scores["top1"] >= 0.75
    options = ["--templates", "imagenet"]
    assert cli.main(["eval", "--data", str(folder), "--run", SHIPPED, *options]) == 0
    said = capsys.readouterr().out
    assert "4 pictures of 3 classes" in said
    assert "(chance 33.33 %)" in said
    assert "class      pictures  top-1 in %  top-5 in %  mistaken for" in said


def test_a_class_list_names_the_folders(folder, tmp_path, capsys):
    for name in CLASSES:
        (folder / name).rename(folder / f"n{len(name):03}")
    names = tmp_path / "names.txt"
    names.write_text("# wordnet\nn003\tcat\nn005\tpizza\nn009\tred heart\n")
    assert cli.main(["eval", "--data", str(folder), "--run", SHIPPED, "--classes", str(names), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] >= 0.75
    assert read_class_names(names, ["n003", "n009"]) == {"n003": "cat", "n009": "red heart"}
    names.write_text("red_heart\tlove\n")
    assert read_class_names(names, ["red heart"]) == {"red heart": "love"}
    names.write_text("cat\n\npizza\nred heart\n")
    in_order = {"n003": "cat", "n005": "pizza", "n009": "red heart"}
    assert read_class_names(names, ["n009", "n003", "n005"]) == in_order
    for content, message in {
        "cat\npizza\n": "has 2 names for 3 folders",
        "n003\tcat\n": "no name for the folder n005",
        "\n# nothing\n": "has no lines",
    }.items():
        names.write_text(content)
        assert cli.main(["eval", "--data", str(folder), "--run", SHIPPED, "--classes", str(names)]) == 1
        assert message in capsys.readouterr().err


def test_labels_and_templates_are_read_from_files(folder, tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("cat\npizza\n")
    (tmp_path / "templates.txt").write_text("{}\nthe {}\n")
    picture = str(folder / "cat" / "1F408.png")
    asked = ["classify", picture, "--run", SHIPPED, "--json"]
    assert cli.main([*asked, "--labels", "cat", "pizza", "--templates", "{}", "the {}"]) == 0
    typed = json.loads(capsys.readouterr().out)
    files = ["--labels", str(tmp_path / "labels.txt"), "--templates", str(tmp_path / "templates.txt")]
    assert cli.main([*asked, *files]) == 0
    assert json.loads(capsys.readouterr().out) == typed
    (tmp_path / "templates.txt").write_bytes(b"caf\xe9 {}")
    assert cli.main([*asked, *files]) == 1
    assert "templates.txt is not UTF-8" in capsys.readouterr().err
    assert cli.main([*asked, "--labels", "gone.txt"]) == 1
    assert "gone.txt" in capsys.readouterr().err


def test_class_names_need_class_folders_and_every_picture_is_read(folder, tmp_path, capsys):
    assert cli.main(["eval", "--run", SHIPPED, "--classes", "x.txt"]) == 1
    assert "--classes x.txt needs --data with class folders" in capsys.readouterr().err
    (folder / "cat" / "bad.png").touch()
    assert cli.main(["eval", "--data", str(folder), "--run", SHIPPED]) == 1
    assert "bad.png: cannot be read as a picture" in capsys.readouterr().err


@given(st.integers(1, 40), st.integers(1, 7), st.integers(0, 999))
def test_scores_against_counting_one_by_one(pictures, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    images, labels = (F.normalize(torch.randn(n, 4, generator=generator), dim=1) for n in (pictures, classes))
    right = torch.randint(classes, (pictures,), generator=generator)
    names = [f"class {c}" for c in range(classes)]
    scores = {score.name: score for score in score_classes(images, labels, right, names)}
    assert sum(score.pictures for score in scores.values()) == pictures
    order = (images @ labels.T).argsort(dim=1, descending=True)
    for c, name in enumerate(names):
        own = order[right == c].tolist()
        assert (name in scores) == bool(own)
        if own:
            assert scores[name].top1 == pytest.approx(sum(row[0] == c for row in own) / len(own))
            assert scores[name].top5 == pytest.approx(sum(c in row[:5] for row in own) / len(own))
            wrong = [row[0] for row in own if row[0] != c]
            assert (scores[name].mistaken_for is None) == (not wrong)
            if wrong:
                counts = [wrong.count(other) for other in range(classes)]
                assert counts[names.index(str(scores[name].mistaken_for))] == max(counts)
