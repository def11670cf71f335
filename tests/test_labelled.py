import pytest
import torch
from PIL import Image

from minclip.data import OPENMOJI, TWEMOJI, Preprocess, load_emoji_groups, load_labelled

PREPARED = Preprocess(24)


def save(path, colour):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (20, 30), colour).save(path)


@pytest.fixture
def folders(tmp_path):
    for name, channel in (("red", 0), ("green", 1), ("blue", 2)):
        for i in range(3):
            colour = [0, 0, 0]
            colour[channel] = 100 + 40 * i
            save(tmp_path / name / f"{i}.png", tuple(colour))
    return tmp_path


def test_folders_are_classes(folders):
    labelled = load_labelled(folders, PREPARED)
    assert labelled.classes == ["blue", "green", "red"]
    assert labelled.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert labelled.things.unique().numel() == 9
    assert labelled.images.amax(dim=(2, 3)).argmax(dim=1).tolist() == [2] * 3 + [1] * 3 + [0] * 3  # the channel


def test_a_table_has_the_same_classes(folders):
    rows = [f"{path.relative_to(folders)},{path.parent.name}" for path in sorted(folders.rglob("*.png"))]
    (folders / "classes.csv").write_text("\n".join(["image,caption", *rows]))
    labelled = load_labelled(folders, PREPARED)
    assert labelled.classes == ["blue", "green", "red"]
    assert labelled.labels.bincount().tolist() == [3, 3, 3]


def test_equal_pictures_count_once_and_contradictions_are_left_out(folders):
    save(folders / "red" / "copy.png", (100, 0, 0))  # of red/0.png
    save(folders / "green" / "wrong.png", (0, 0, 140))  # blue/1.png
    with pytest.warns(UserWarning, match="pictures with more than one class are left out: 1, such as .*blue/1.png"):
        labelled = load_labelled(folders, PREPARED)
    assert labelled.labels.bincount().tolist() == [2, 3, 3]
    assert labelled.images.flatten(1).unique(dim=0).shape[0] == 8


def test_a_class_of_one_picture_is_left_out(folders):
    save(folders / "grey" / "0.png", (9, 9, 9))
    with pytest.warns(UserWarning, match="classes with only one picture are left out, such as grey"):
        assert load_labelled(folders, PREPARED).classes == ["blue", "green", "red"]


def test_bad_folders(tmp_path):
    save(tmp_path / "red" / "0.png", (9, 9, 9))
    save(tmp_path / "red" / "1.png", (8, 9, 9))
    with pytest.raises(ValueError, match="at least two classes with two different pictures each are needed, found 1"):
        load_labelled(tmp_path, PREPARED)
    (tmp_path / "red" / "2.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"2.png: cannot be read as a picture: .*; fix it"):
        load_labelled(tmp_path, PREPARED)


def test_one_emoji_is_one_thing_whoever_draws_it():
    both, one = load_emoji_groups([OPENMOJI, TWEMOJI], PREPARED), load_emoji_groups([OPENMOJI], PREPARED)
    assert len(one.classes) == 9
    assert one.classes == both.classes
    assert len(one.labels) < len(both.labels)
    assert both.things.unique().numel() <= 1556
    for thing in both.things[:50]:
        assert both.labels[both.things == thing].unique().numel() == 1
    assert (both.things.bincount() == 2).sum() > 1400
    assert torch.equal(both.labels.unique(), torch.arange(9))
