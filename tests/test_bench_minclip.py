"""`minclip bench train` and `minclip bench tokenizer`, and the tables that the READMEs show."""

import itertools
import json
import runpy
import sys
from pathlib import Path

import pytest

from minclip import CLIP, Tokenizer, cli, data
from minclip.commands import bench_tokenizer, bench_train
from minclip.data import emoji
from minclip.model import PRESETS

RESULTS = Path(__file__).parents[1] / "kernels" / "results"
tables = runpy.run_path(str(RESULTS / "tables.py"))


@pytest.mark.parametrize("readme", tables["READMES"], ids=lambda path: path.parent.name)
def test_readmes_show_what_was_measured(readme):
    text = readme.read_text(encoding="utf-8")
    assert "<!-- table: " in text
    assert tables["draw"](text) == text


def test_a_changed_or_unknown_table_is_found():
    place = "<!-- table: {} -->\n| N | 1 |\n<!-- end -->"
    assert "fused, torch" in tables["draw"](place.format("loss-times"))
    with pytest.raises(ValueError, match="there is no table 'loss'"):
        tables["draw"](place.format("loss"))


def test_each_artist_is_left_out_once(tmp_path, capsys, monkeypatch):
    """With every eighth emoji, to be quick."""
    captions = emoji.emoji_captions
    some = lambda *arguments: dict(list(captions(*arguments).items())[::8])  # noqa: E731
    monkeypatch.setattr(emoji, "emoji_captions", some)
    out = tmp_path / "artists.json"
    arguments = ["bench", "artists", "--model", "smoke", "--epochs", "1", "--out", str(out), "--device", "cpu"]
    assert cli.main([*arguments]) == 0
    assert "left out top-1" in capsys.readouterr().out
    content = json.loads(out.read_text())
    rows = content["rows"]
    assert [(row["trained on"], row["left out"]) for row in rows] == [("twemoji", "openmoji"), ("openmoji", "twemoji")]
    for row in rows:
        assert 0 <= row["left out top-1"] <= row["left out top-5"] <= 100
        assert row["pixels top-1"] > 10 * row["chance top-1"]
        assert row["epochs"] == 1
    assert content["environment"]["device"]
    figures = runpy.run_path(str(RESULTS / "figures.py"))
    assert figures["main"]([str(out)]) == 0
    assert (tmp_path / "artists.png").stat().st_size > 10_000


def test_a_bad_font_is_said_before_anything_is_trained(tmp_path, capsys):
    assert cli.main(["bench", "artists", "--emoji-font", str(tmp_path / "gone.ttf")]) == 1
    assert "gone.ttf: no such font file" in capsys.readouterr().err


def test_tokenizers_take_turns_on_the_same_texts():
    ours = Tokenizer.train(["a red heart"] * 3, 600)
    clock = itertools.count()
    makers = {
        "ours": lambda: lambda lines: [ours.encode(line) for line in lines],
        "other": lambda: lambda lines: [[next(clock)] for _ in lines],
    }
    first, second = bench_tokenizer.measure_tokenizers(makers, "texts", ["red", "a red heart"], 3)
    assert first["tokens"] == second["tokens"] == len(ours.encode("red")) + len(ours.encode("a red heart"))
    assert (first["same ids"], second["same ids"]) == (2, 0)
    assert next(clock) == 2 * (1 + 3)
    assert first["tokens/s, first time"] > 0 < first["tokens/s, again"]


def test_sentences_are_english_and_always_the_same(tmp_path, monkeypatch):
    (tmp_path / "a.py").write_text(
        '"""Reads a file line by line. Too short. It gives each line\n    to a function."""\n'
    )
    (tmp_path / "b.py").write_text("def f():\n    'Nothing is read here, for nothing is there.'\n")
    (tmp_path / "broken.py").write_text("def")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "c.py").write_text("'No sentence of a test is taken.'")
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    sentences = bench_tokenizer.english_sentences()
    assert sorted(sentences) == [
        "It gives each line to a function.",
        "Nothing is read here, for nothing is there.",
        "Reads a file line by line.",
    ]
    assert bench_tokenizer.english_sentences(2) == sentences[:2]


def test_the_training_step_is_measured_in_turns(monkeypatch):
    calls = []
    steps = {name: lambda name=name: calls.append(name) for name in ("minclip", "open_clip")}
    monkeypatch.setattr(bench_train, "training_steps", lambda *_: steps)
    rows = bench_train.measure_training(PRESETS["smoke"], 8, "cpu", 1e-9)
    assert calls == ["minclip"] * 2 + ["open_clip"] * 2 + ["minclip", "open_clip"]
    assert [row["steps"] for row in rows] == [1, 1]
    assert all(row["lowest"] <= row["images/s"] <= row["highest"] for row in rows)


def test_training_beside_open_clip(tmp_path, monkeypatch, capsys):
    pytest.importorskip("open_clip")
    out = tmp_path / "train.json"
    small = [*("bench", "train", "--model", "smoke"), *("--batch-size", "4", "--seconds", "0.01", "--out", str(out))]
    assert cli.main(small) == 0
    assert "images/s" in capsys.readouterr().out
    assert [row["contender"] for row in json.loads(out.read_text())["rows"]] == ["minclip", "open_clip"]
    model = bench_train.open_clip_model(PRESETS["smoke"])
    ours = CLIP(PRESETS["smoke"])
    shapes = {name: value.shape for name, value in ours.state_dict().items() if name != "positional_embedding"}
    assert shapes.items() <= {name: value.shape for name, value in model.state_dict().items()}.items()


def test_tokenizers_of_others_give_the_same_ids(monkeypatch):
    tokenizer = pytest.importorskip("open_clip.tokenizer")
    lines = [*list(data.emoji_captions().values())[:200], "It's a test, isn't it? Café &amp; naïve façade, 3.14."]
    ours, simple, hugging_face = bench_tokenizer.measure_tokenizers(
        bench_tokenizer.tokenizers(tokenizer.default_bpe()), "texts", lines, 1
    )
    assert ours["same ids"] == simple["same ids"] == len(lines)
    assert 0 < len(lines) - hugging_face["same ids"] < 10  # it leaves ’ as it is, and the é that is escaped


@pytest.mark.parametrize("part", ["train", "tokenizer"])
def test_without_open_clip_the_remedy_is_named(part, monkeypatch, capsys):
    for module in ("open_clip", "open_clip.model", "open_clip.loss", "open_clip.tokenizer"):
        monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(["bench", part, *(["--model", "smoke", "--batch-size", "4"] if part == "train" else [])]) == 1
    assert "pip install open_clip_torch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["train", "--batch-size", "1"], "--batch-size 1"), (["tokenizer", "--rounds", "0"], "--rounds is 0")],
)
def test_bad_arguments(arguments, message, capsys):
    assert cli.main(["bench", *arguments]) == 1
    assert message in capsys.readouterr().err
