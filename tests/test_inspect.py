"""`minclip inspect DATA`: what it says must be what training meets."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minclip import PRESETS, Tokenizer, cli, data, plots, reach
from minclip.batches import Batches
from minclip.data.streamed import signature
from minclip.images import Preprocess

PREPROCESS = Preprocess(24)


def picture(i: int, size: int = 32) -> Image.Image:
    """A picture that resembles no other: sixteen random colours, with soft borders between them."""
    colours = np.random.default_rng(i).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((size, size), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path) -> Path:
    """120 pictures, ten of them nearly equal to another, ten equal to another; 12 captions; two bad entries."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [["image", "caption"]]
    for i in range(120):
        shown = picture(i % 100)
        shown.save(folder / f"{i:03}.png" if i < 110 else folder / f"{i:03}.jpg", quality=95)
        rows.append([f"{i:03}.{'png' if i < 110 else 'jpg'}", f"scene {i % 12}" if i else "word " * 200])
    rows += [["gone.png", "gone"], ["000.png", ""]]
    with (folder / "c.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def report(capsys, *arguments: str) -> dict:
    capsys.readouterr()
    assert cli.main(["inspect", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_everything_is_counted(folder, capsys):
    found = report(capsys, str(folder), "--model", "smoke")
    assert (found["pictures"], found["captions"], found["distinct captions"]) == (120, 120, 13)
    assert (found["equal pictures"], len(found["problems"])) == (10, 2)
    assert (found["cut captions"], found["context length"]) == (1, PRESETS["smoke"].context_length)
    assert found["layout"] == "table c.csv"
    assert 0 < len(found["leaks"]) <= 10
    for held, train in found["leaks"]:
        assert (int(Path(held).stem) - int(Path(train).stem)) % 100 == 0
    assert cli.main(["inspect", str(folder), "--model", "smoke"]) == 0
    said = capsys.readouterr().out
    assert "120 pictures of 24 pixels need 0.2 MB of memory" in said
    assert "left out: 2 entries cannot be used" in said
    assert "107 captions and 10 pictures equal one before them (most often 'scene 1', 10 times)" in said
    assert f"{found['held out']} pictures are held out, {len(found['leaks'])} of them nearly equal" in said
    assert "1 captions have more than 32 tokens" in said


def test_the_floor_is_that_of_the_training(folder, tmp_path, monkeypatch, capsys):
    """The mean of the column `floor` in metrics.csv over the first epoch, to the last digit."""
    monkeypatch.setattr(plots, "draw_run", lambda *_: [])
    run = tmp_path / "run"
    options = ["--skip-bad", "--smoke", "--epochs", "1", "--batch-size", "32"]
    assert cli.main(["train", "--data", str(folder), "--out", str(run), *options]) == 0
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = report(capsys, str(folder), "--model", "smoke")["reach"][0]
    steps = rows[: 110 // 32]
    assert found["batch_size"] == 32
    assert found["untrained"] == pytest.approx(float(rows[0]["untrained"])) == pytest.approx(math.log(32))
    assert found["floor"] == pytest.approx(sum(float(row["floor"]) for row in steps) / len(steps), rel=1e-12)
    assert found["floor"] > 0.5


def test_a_model_finds_the_pairs_that_fit_the_worst(tmp_path, capsys):
    """One caption is swapped for another one in pictures that the model of the package knows."""
    folder = tmp_path / "data"
    folder.mkdir()
    names = {
        "1F408": "cat",
        "1F415": "dog",
        "1F525": "fire",
        "1F355": "pizza",
        "1F34C": "banana",
        "1F697": "automobile",
    }
    names |= {
        "1F332": "evergreen tree",
        "1F3E0": "house",
        "2B50": "star",
        "1F4D6": "open book",
        "1F511": "key",
        "1F41F": "fish",
    }
    for codes, name in names.items():
        data.OPENMOJI.draw(codes, 96).save(folder / f"{codes}.png")
        (folder / f"{codes}.txt").write_text("banana" if name == "automobile" else name)
    shipped = str(Path(cli.__file__).parent / "weights" / "emoji.safetensors")
    worst = report(capsys, str(folder), "--run", shipped)["worst"]
    assert len(worst) == 10
    assert Path(worst[0]["picture"]).name == "1F697.png"
    assert worst[0]["caption"] == "banana"
    assert [row["cosine"] for row in worst] == sorted(row["cosine"] for row in worst)


captions_and_pictures = st.integers(4, 24).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 5), min_size=n, max_size=n) for _ in range(2)])
)


@given(captions_and_pictures, st.integers(2, 4))
def test_the_floor_is_the_loss_of_a_perfect_model_on_the_very_batches(ids, batch_size):
    """The perfect model knows, for each batch, how often which picture stands with which caption."""
    captions, pictures = map(torch.tensor, ids)
    images = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 3, 2, 2).contiguous()
    # Pictures 6 to 11 are others with the pixels of 0 to 5: they cannot be told apart.
    owners = pictures + 6 * (torch.arange(len(pictures)) % 2)
    pairs = data.Pairs(torch.cat([images, images]), list(range(12)), [str(c) for c in ids[0]], owners)  # type: ignore[arg-type]
    tokens = torch.stack([captions + 1, torch.full_like(captions, 9)], dim=1)
    batches = Batches(pairs, tokens, Preprocess(2), batch_size=batch_size, seed=0)
    found = reach.reach(batches)
    losses = []
    for step in range(len(captions) // batch_size):
        rows = batches.rows(step)
        of_picture, of_caption = (values[rows][:, None] == values[rows] for values in (pictures, captions))
        together = of_picture.double() @ of_caption.double()
        logits = (together.clamp(min=1e-300) / (of_picture.sum(1)[:, None] * of_caption.sum(1))).log()
        target = torch.arange(batch_size)
        losses += [torch.nn.functional.cross_entropy(z, target).item() for z in (logits, logits.T)]
    assert found.floor == pytest.approx(sum(losses) / len(losses), abs=1e-9)
    assert 0 < found.top1 <= 1
    assert (found.top1 == 1) or found.floor > 0


# --- pictures on both sides of the split ------------------------------------------------------------------------------


def pixels(image: Image.Image) -> torch.Tensor:
    return PREPROCESS.pixels(image)


def variants(tmp_path: Path, i: int) -> list[Image.Image]:
    """The same picture as a JPEG, at another size, and a little brighter."""
    original = picture(i, 64)
    original.save(tmp_path / "a.jpg", quality=80)
    brighter = Image.fromarray((np.asarray(original).astype(int) + 2).clip(0, 255).astype(np.uint8))
    return [Image.open(tmp_path / "a.jpg"), original.resize((96, 96), Image.Resampling.BICUBIC), brighter]


def test_a_picture_saved_again_is_nearly_equal_and_another_one_is_not(tmp_path):
    known = torch.stack([signature(pixels(picture(i, 64))) for i in range(50)])
    for i in (3, 17):
        for variant in variants(tmp_path, i):
            assert reach.nearly_equal(signature(pixels(variant))[None], known) == [(0, i)]
    strangers = torch.stack([signature(pixels(picture(i, 64))) for i in range(50, 100)])
    assert reach.nearly_equal(strangers, known) == []


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000))
def test_the_product_gives_the_distances(ours, others, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randint(0, 256, (n, 192), generator=generator).float() for n in (ours, others))
    wanted = ((a[:, None].double() - b.double()) ** 2).sum(2)
    torch.testing.assert_close(reach._squared_distances(a, b).double(), wanted, rtol=1e-4, atol=10)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["nowhere"], "nowhere: no such folder or file"),
        ([".", "--model", "emoji", "--run", "x"], "x"),
        ([".", "--run", "nowhere"], "nowhere"),
        (["bad"], "has no picture that can be read: bad/a.png: cannot be read as a picture"),
    ],
)
def test_bad_input_is_named(tmp_path, monkeypatch, more, message, capsys):
    monkeypatch.chdir(tmp_path)
    Path("bad").mkdir()
    Path("bad/a.png").write_text("no picture")
    Path("bad/a.txt").write_text("caption")
    assert cli.main(["inspect", *more]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_the_tokenizer_of_a_training_decides_what_is_cut(folder, capsys):
    """Without a model the tokenizer is trained as `minclip train` does it."""
    captions = data.find_pairs(folder).captions
    tokenizer = Tokenizer.train(captions, PRESETS["smoke"].vocab_size)
    lengths = {len(tokenizer.encode(caption)) + 2 for caption in set(captions)}
    assert report(capsys, str(folder), "--model", "smoke")["cut captions"] == sum(length > 32 for length in lengths)
