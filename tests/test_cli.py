import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import minclip
from minclip import cli, data, evaluate, formats
from minclip.commands.common import load_pairs

NOTO = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
RUN_FILES = {"config.json", "merges.txt.gz", "model.safetensors", "metrics.csv"}
RUN_PICTURES = {"loss.png", "similarity.png", "retrieval.png", "positions.png"}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder with a run of `minclip train --smoke` in it, and a picture."""
    folder = tmp_path_factory.mktemp("workplace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(["train", "--smoke"]) == 0
    data.OPENMOJI.draw("1F408", 72).save(folder / "cat.png")
    data.OPENMOJI.draw("1F415", 72).save(folder / "dog.png")
    return folder


@pytest.fixture(autouse=True)
def inside(workplace, monkeypatch):
    monkeypatch.chdir(workplace)


def failure(capsys, *arguments: str) -> str:
    """Run a command that must fail with exit code 1; its message."""
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err
    assert "minclip: error: " in error
    assert "Traceback" not in error
    return error


def own_pictures(folder: Path, n: int) -> Path:
    folder.mkdir()
    rows = ["image,caption"]
    for i in range(n):
        Image.new("RGB", (20, 30), (8 * i % 256, 100, 0)).save(folder / f"{i}.png")
        rows.append(f"{i}.png,shade number {i}")
    (folder / "captions.csv").write_text("\n".join(rows))
    return folder


def test_train_leaves_a_complete_run_folder(workplace):
    (run,) = (workplace / "runs").iterdir()
    assert run.name.startswith("emoji-en-")
    assert {path.name for path in run.iterdir()} >= RUN_FILES | RUN_PICTURES
    for name in RUN_PICTURES:
        with Image.open(run / name) as picture:
            assert min(picture.size) > 300
            assert np.asarray(picture.convert("L")).std() > 5
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["loss"]) > 3
    assert float(rows[-1]["unseen_top5"]) <= 1
    model, _, tokenizer = minclip.load(run)
    assert model.config.vocab_size == tokenizer.vocab_size


@pytest.mark.filterwarnings("ignore:.*letters that no font here has")
def test_the_last_lines_are_the_scores_on_unseen_pictures(tmp_path, capsys):
    assert cli.main(["train", "--smoke", "--epochs", "1", "--language", "zh", "--out", str(tmp_path / "zh")]) == 0
    *_, top1, top5 = capsys.readouterr().out.splitlines()
    assert top1.startswith("unseen top-1 ")
    assert top5.startswith("unseen top-5 ")
    assert cli.main(["eval", "--run", str(tmp_path / "zh")]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [top1, top5]
    assert cli.main(["classify", "cat.png", "--run", str(tmp_path / "zh"), "--labels", "猫", "狗", "其他"]) == 0
    assert "狗" in capsys.readouterr().out


def test_eval_reports_recall_both_ways(capsys):
    assert cli.main(["eval"]) == 0
    out = capsys.readouterr().out
    assert "793 pictures, 400 captions (chance at recall@1: 0.25 %)" in out
    assert "picture -> caption  recall@1" in out
    assert "caption -> picture  recall@1" in out


def test_one_artist_trains_and_another_one_is_named(tmp_path, capsys):
    run = str(tmp_path / "run")
    assert cli.main(["train", "--smoke", "--artists", "twemoji", "--epochs", "1", "--out", run]) == 0
    assert "256 pictures, 256 captions; tested on 393 unseen pictures" in capsys.readouterr().out
    assert formats.read(run).training["artists"] == ["twemoji"]
    assert formats.read(run).preprocess == data.Preprocess(24, trim=True)
    assert cli.main(["eval", "--run", run]) == 0
    held_out = capsys.readouterr().out
    assert "393 pictures, 393 captions" in held_out
    assert cli.main(["eval", "--run", run, "--artists", "twemoji"]) == 0
    assert capsys.readouterr().out == held_out
    assert cli.main(["eval", "--run", run, "--artists", "openmoji"]) == 0
    out = capsys.readouterr().out
    assert "openmoji, an artist that it was not trained on\nPictures: OpenMoji, CC BY-SA 4.0\n" in out
    for row in ("all names", "basic", "Animals & Nature", "Food & Drink", "unseen compositions"):
        assert re.search(rf"^{row} +\d+ +\d+( +\d+\.\d+ / +\d+\.\d){{3}}$", out, re.MULTILINE)
    assert cli.main(["eval", "--run", run, "--artists", "openmoji", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["scores"]["unseen compositions"]["names"] == 400
    assert -1 <= scores["match"]["cosine"] <= 1
    assert "openmoji is new to the run" in failure(capsys, "eval", "--run", run, "--artists", "openmoji", "twemoji")
    assert "give one" in failure(capsys, "eval", "--run", run, "--artists", "openmoji", "--data", "x")
    assert cli.main(["search", "cat", "--run", run, "-k", "1"]) == 0


def test_further_drawings_are_trained_on_and_no_search_shows_them(tmp_path, capsys, monkeypatch):
    run, options = str(tmp_path / "run"), ["--artists", "openmoji", "--further", "flat", "--epochs", "1"]
    load_emoji, further = data.load_emoji, []
    monkeypatch.setattr(data, "load_emoji", lambda *arguments: further.append(arguments[3:]) or load_emoji(*arguments))
    assert cli.main(["train", "--smoke", *options, "--out", run]) == 0
    assert cli.main(["train", "--resume", run, "--early-stopping", "2"]) == 0
    repeated = ["train", "--config", f"{run}/config.json", "--out"]
    assert cli.main([*repeated, str(tmp_path / "again"), "--seed", "1"]) == 0
    assert cli.main([*repeated, str(tmp_path / "icons"), "--further", "icons"]) == 0
    assert further == [(["flat"],), (["flat"],), (["flat"],), (["icons"],)]
    saved = formats.read(run)
    pairs, unseen = load_pairs(saved.training, saved.preprocess)
    assert unseen is not None
    assert set(unseen.origins).isdisjoint(pairs.origins)
    assert len(pairs) == 2 * (len(data.emoji_captions()) - len(unseen))
    capsys.readouterr()
    assert cli.main(["search", "cat", "--run", run, "-k", "5000", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) == len(data.emoji_captions())


def test_searches_in_plain_words_are_scored(tmp_path, capsys):
    table = tmp_path / "queries.csv"
    table.write_text("query,right\na slice of pizza,pizza\nsomething to say hello,waving hand|raised hand\n")
    assert cli.main(["eval", "--queries", str(table)]) == 0
    assert re.search(r": 2 queries among 7\d{3} pictures of emoji\nright picture first", capsys.readouterr().out)
    assert cli.main(["eval", "--queries", str(table), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["queries"] == len(scores["first"]) == 2
    assert 0 < scores["chance1"] < scores["chance5"] < 0.05
    table.write_text("query,right\na slice of pizza,a pizza\n")
    assert "no emoji has the English name 'a pizza'" in failure(capsys, "eval", "--queries", str(table))
    assert "gone.csv" in failure(capsys, "eval", "--queries", str(tmp_path / "gone.csv"))


def test_a_bad_font_stops_before_training(tmp_path, capsys):
    (tmp_path / "bad.ttf").write_text("no font")
    for command in (["eval"], ["train", "--smoke", "--out", str(tmp_path / "run")]):
        error = failure(capsys, *command, "--emoji-font", str(tmp_path / "bad.ttf"))
        assert "bad.ttf: cannot be read as a font" in error
        assert "gone.ttf: no such font file" in failure(capsys, *command, "--emoji-font", str(tmp_path / "gone.ttf"))
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not NOTO.exists(), reason="Debian's fonts-noto-color-emoji is not installed")
def test_a_font_is_one_more_artist_to_train_on(tmp_path, capsys):
    run = str(tmp_path / "run")
    options = ["--artists", "openmoji", "--emoji-font", str(NOTO)]
    assert cli.main(["train", "--smoke", "--epochs", "1", "--out", run, *options]) == 0
    assert formats.read(run).training["artists"] == ["openmoji", str(NOTO)]
    capsys.readouterr()
    assert cli.main(["eval", "--run", run]) == 0
    both = capsys.readouterr().out
    assert "400 captions" in both
    assert cli.main(["eval", "--run", run, *options]) == 0
    assert capsys.readouterr().out == both


def test_a_run_of_a_version_that_knew_one_artist_is_evaluated_as_then(workplace, tmp_path, capsys):
    """Neither the artists nor the cut stood in its configuration."""
    (run,) = (workplace / "runs").iterdir()
    old = shutil.copytree(run, tmp_path / "old")
    content = json.loads((old / "config.json").read_text())
    del content["training"]["artists"], content["preprocess"]["trim"]
    (old / "config.json").write_text(json.dumps(content))
    assert formats.read(old).preprocess == data.Preprocess(24)
    assert cli.main(["eval", "--run", str(old)]) == 0
    assert "400 pictures, 400 captions (chance at recall@1: 0.25 %)" in capsys.readouterr().out


def test_classify_prints_what_python_computes(capsys):
    assert cli.main(["classify", "cat.png", "dog.png", "--labels", "cat", "dog", "--plot"]) == 0
    out = capsys.readouterr().out
    (run,) = Path("runs").iterdir()
    model, preprocess, tokenizer = minclip.load(run)
    images = [preprocess.pixels(data.load_image(f"{name}.png")) for name in ("cat", "dog")]
    cosine, probability = evaluate.classify(model, tokenizer, images, ["cat", "dog"])
    for p in probability.flatten().tolist():
        assert f"{100 * p:5.1f} %" in out
    marked = [line.split()[1] for line in out.splitlines() if line.startswith("* ")]
    assert marked == [["cat", "dog"][best] for best in cosine.argmax(dim=1)]
    assert (run / "classify.png").exists()


def test_scripts_get_json(capsys, tmp_path):
    def answer(*arguments: str):
        assert cli.main([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    cat, dog = answer("classify", "cat.png", "dog.png", "--labels", "cat", "dog", "--plot")
    assert (cat["picture"], dog["picture"]) == ("cat.png", "dog.png")
    for picture in (cat, dog):
        assert sum(row["probability"] for row in picture["labels"]) == pytest.approx(1)
        best = max(picture["labels"], key=lambda row: row["probability"])
        assert picture["best"] == best["label"]
    found = answer("search", "red heart", "-k", "3")
    assert len(found) == 3
    assert found[0]["cosine"] >= found[2]["cosine"]
    codes = data.code_points(found[0]["picture"])
    assert found[0]["caption"] == (data.emoji_captions() | data.emoji_captions(artist=data.TWEMOJI))[codes]
    scores = answer("eval")
    assert (scores["pictures"], scores["captions"], scores["chance"]) == (793, 400, 0.0025)
    assert set(scores["image_to_text"]) == set(scores["text_to_image"]) == {"1", "5", "10"}


def test_classify_goes_on_after_a_bad_picture_and_still_fails(capsys):
    Path("zero.png").touch()
    assert cli.main(["classify", "zero.png", "cat.png", "gone.png", "--labels", "cat", "dog"]) == 1
    captured = capsys.readouterr()
    assert "cat.png" in captured.out
    assert "zero.png: cannot be read as a picture: the file is empty" in captured.err
    assert "gone.png: no such picture" in captured.err


def test_none_of_these_is_an_answer(tmp_path, capsys):
    question = ["classify", "cat.png", "--labels", "cat", "dog", "--reject"]
    assert "no lowest cosine of a match is stored" in failure(capsys, *question)
    for lowest, marked in (("1", "none"), ("-1", "")):
        assert cli.main([*question, lowest]) == 0
        assert ("* none of these" in capsys.readouterr().out) == bool(marked)
    assert cli.main([*question, "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["best"] is None
    file = str(tmp_path / "calibrated.safetensors")
    assert "match is 2.0" in failure(capsys, "export", file, "--match", "2")
    assert cli.main(["export", file, "--match", "1"]) == 0
    assert cli.main([*question, "--run", file]) == 0
    assert "* none of these" in capsys.readouterr().out
    assert cli.main(["search", "cat", "--run", file, "--reject", "--plot"]) == 0
    assert "no picture matches" in capsys.readouterr().out
    assert cli.main(["search", "cat", "--run", file, "--reject", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert cli.main(["search", "cat", "--reject", "-1", "-k", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_search_among_the_emoji_and_in_a_folder(tmp_path, capsys):
    assert cli.main(["search", "red heart", "-k", "3", "--plot"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert (next(Path("runs").iterdir()) / "search.png").exists()
    folder = own_pictures(tmp_path / "own", 4)
    (folder / "zero.png").touch()
    assert cli.main(["search", "shade", "--folder", str(folder)]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 4
    assert "zero.png" in captured.err


def test_one_exported_file_is_as_good_as_its_run(tmp_path, capsys):
    file = tmp_path / "small.safetensors"
    assert cli.main(["export", str(file)]) == 0
    assert capsys.readouterr().out.startswith(f"{formats.newest_run()} -> {file}: 0.")
    assert cli.main(["eval", "--run", str(file)]) == 0
    assert "793 pictures, 400 captions" in capsys.readouterr().out
    assert cli.main(["classify", "cat.png", "--labels", "cat", "dog", "--plot", "--run", str(file)]) == 0
    assert cli.main(["search", "red heart", "--plot", "--run", str(file)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {file.name, "small-classify.png", "small-search.png"}
    assert "already exists" in failure(capsys, "export", str(file))
    assert "not a run folder" in failure(capsys, "export", str(tmp_path / "two"), "--run", str(tmp_path))


@pytest.mark.parametrize("to", ["hf", "openai"])
def test_weights_in_other_formats_are_as_good_as_their_run(to, tmp_path, capsys):
    """Only what the run was trained on is not in them, so that pictures must be named."""
    labels = ["classify", "cat.png", "--labels", "cat", "dog", "--json"]
    assert cli.main(labels) == 0
    expected = json.loads(capsys.readouterr().out)
    out = str(tmp_path / "out")
    assert cli.main(["export", out, "--to", to]) == 0
    capsys.readouterr()
    assert cli.main([*labels, "--run", out]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    for ours, theirs in zip(answer["labels"], expected[0]["labels"], strict=True):
        assert ours["cosine"] == pytest.approx(theirs["cosine"], abs=1e-5)
    folder = str(own_pictures(tmp_path / "own", 4))
    assert cli.main(["search", "shade", "--folder", folder, "--run", out]) == 0
    assert cli.main(["eval", "--data", folder, "--run", out]) == 0
    assert cli.main(["export", str(tmp_path / "a.safetensors"), "--run", out]) == 0
    for command in (["search", "shade"], ["eval"]):
        assert "does not say what it was trained on" in failure(capsys, *command, "--run", out)
    assert "already exists" in failure(capsys, "export", out, "--to", to)


def test_own_pictures_are_trained_on_evaluated_and_searched(tmp_path, capsys):
    folder = own_pictures(tmp_path / "own", 30)
    run = str(tmp_path / "run")
    assert cli.main(["train", "--smoke", "--data", str(folder), "--out", run]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    train, held = (int(number) for number in re.findall(r"(\d+) (?:unseen )?pictures", first))
    assert train + held == 30
    assert 1 <= held <= 9
    assert cli.main(["eval", "--run", run]) == 0
    assert f"{held} pictures, {held} captions" in capsys.readouterr().out
    assert cli.main(["eval", "--run", run, "--data", str(folder)]) == 0
    assert "30 pictures, 30 captions" in capsys.readouterr().out
    assert cli.main(["search", "shade number 3", "--run", run, "-k", "1"]) == 0
    assert "shade number" in capsys.readouterr().out


def test_a_single_picture_is_not_held_back_and_a_dollar_is_no_formula(tmp_path, capsys):
    folder = tmp_path / "own"
    folder.mkdir()
    Image.new("RGB", (20, 20), "red").save(folder / "red.png")
    (folder / "c.csv").write_text("image,caption\nred.png,price $\\foo5$ each\nred.png,red\nred.png,not blue")
    run = str(tmp_path / "run")
    assert cli.main(["train", "--smoke", "--data", str(folder), "--out", run]) == 0
    assert "unseen top-1" not in capsys.readouterr().out
    assert "held no pictures out" in failure(capsys, "eval", "--run", run)


def test_a_pipe_that_closes_is_no_error_and_letters_it_lacks_are_replaced():
    command = [sys.executable, "-m", "minclip", "search", "cat", "-k", "3000"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout
        assert process.stderr
        first = process.stdout.readline()
        process.stdout.close()
        error = process.stderr.read()
    assert first.startswith(b"  1.  cos")
    assert b"?" in first
    assert error.startswith(b"model: runs")
    assert len(error.splitlines()) == 1
    assert process.returncode == 0


def test_python_m_minclip_is_the_same_command():
    result = subprocess.run([sys.executable, "-m", "minclip", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"minclip {minclip.__version__}\n"


@pytest.mark.parametrize(
    ("command", "example"),
    [
        ([], "minclip train  "),
        (["train"], "minclip train --language zh"),
        (["eval"], "recall@k is how often"),
        (["classify"], "minclip classify cat.png --labels cat dog horse other"),
        (["search"], 'minclip search "red heart"'),
        (["export"], "minclip export cat.safetensors"),
    ],
)
def test_help_teaches_by_example(command, example, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([*command, "--help"])
    assert caught.value.code == 0
    assert example in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["classify", "cat.png"], ["classify", "cat.png", "--labels"], ["fly"], []])
def test_a_command_that_is_not_understood_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2


def test_without_a_run_the_model_that_ships_with_minclip_answers(tmp_path, monkeypatch, capsys, workplace):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["classify", str(workplace / "cat.png"), "--labels", "cat", "fire engine", "--plot"]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("model: the one that ships with minclip, as there is no run under runs/")
    assert "* cat " in captured.out
    assert cli.main(["search", "cat", "--folder", str(workplace)]) == 0
    assert "model: the one that ships with minclip" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["minclip-classify.png"]
    assert "not a run folder" in failure(capsys, "eval", "--run", str(tmp_path))


def test_language_names_a_model_that_ships_with_minclip_whatever_is_under_runs(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    assert cli.main(["classify", "cat.png", "--labels", "猫", "消防车", "--language", "zh"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "model: the one that ships with minclip\n"
    assert "* 猫 " in captured.out
    with pytest.raises(SystemExit):
        cli.main(["classify", "cat.png", "--labels", "猫", "--language", "zh", "--run", "runs"])


def test_a_run_takes_precedence_over_the_model_of_the_package_and_is_named(capsys, workplace):
    (run,) = Path("runs").iterdir()
    assert cli.main(["classify", "cat.png", "--labels", "cat"]) == 0
    assert capsys.readouterr().err == f"model: {run}\n"
    named = str(workplace / run)
    assert cli.main(["classify", "cat.png", "--labels", "cat", "--run", named]) == 0
    assert capsys.readouterr().err == f"model: {named}\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "0"], "--epochs is 0"),
        (["--batch-size", "1"], "--batch-size is 1; it must be at least 2: one pair has no negatives"),
        (["--smoke", "--batch-size", "100000"], "--batch-size is 100000; it must be at most 256"),
        (["--language", "xx"], "'xx'"),
        (["--lr", "-1"], "--lr is -1.0"),
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--data", "nowhere", "--language", "zh"], "give one"),
        (["--data", "nowhere", "--artists", "twemoji"], "give one"),
        (["--data", "nowhere", "--further", "icons"], "--further chooses emoji"),
        (["--seed", "-1"], "--seed is -1"),
    ],
)
def test_bad_training_options_leave_nothing_behind(options, message, tmp_path, capsys):
    run = tmp_path / "run"
    assert message in failure(capsys, "train", "--out", str(run), *options)
    assert not run.exists()


def test_bad_tables_stop_before_training(tmp_path, capsys):
    folder = own_pictures(tmp_path / "own", 30)
    with (folder / "captions.csv").open("a") as file:
        file.write("\ngone.png,gone\n3.png,\n")
    run = tmp_path / "run"
    error = failure(capsys, "train", "--smoke", "--data", str(folder), "--out", str(run))
    assert "gone.png: no such picture" in error
    assert "line 33: the caption is empty" in error
    assert "--skip-bad" in error
    assert not run.exists()
    arguments = ["train", "--smoke", "--data", str(folder), "--skip-bad", "--out", str(run)]
    assert cli.main(arguments) == 0
    assert "2 entries cannot be used" in capsys.readouterr().err
    assert cli.main(["eval", "--run", str(run)]) == 0


def test_a_caption_of_ten_thousand_words_is_cut_and_said(tmp_path, capsys):
    folder = own_pictures(tmp_path / "own", 9)
    long = [f"{picture}.png,{'word ' * 10_000}" for picture in range(9)]  # whichever of them the pictures show
    header, *rows = (folder / "captions.csv").read_text().splitlines()
    (folder / "captions.csv").write_text("\n".join([header, *long, *rows]))
    assert cli.main(["train", "--smoke", "--data", str(folder), "--out", str(tmp_path / "run")]) == 0
    assert re.search(r"; \d captions reach 32 tokens, and longer ones are cut there", capsys.readouterr().out)


def test_nothing_is_written_over(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert "is not empty" in failure(capsys, "train", "--smoke", "--out", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_file_in_the_way_of_the_run_folder(tmp_path, capsys):
    (tmp_path / "file").touch()
    message = failure(capsys, "train", "--smoke", "--out", str(tmp_path / "file" / "run"))
    assert "file is not a folder that you may write to" in message


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert "not a folder that you may write to" in failure(capsys, "train", "--smoke", "--out", str(tmp_path / "run"))
    tmp_path.chmod(0o700)


def test_an_empty_folder_of_the_users_stays_when_training_fails(tmp_path, capsys):
    assert "'xx'" in failure(capsys, "train", "--smoke", "--language", "xx", "--out", str(tmp_path))
    assert tmp_path.is_dir()


def test_bad_queries(capsys):
    assert "must not be empty" in failure(capsys, "search", " ")
    assert "must not be empty" in failure(capsys, "classify", "cat.png", "--labels", "cat", "")
    assert "-k is 0" in failure(capsys, "search", "cat", "-k", "0")
    assert "'a picture'" in failure(capsys, "classify", "cat.png", "--labels", "cat", "--templates", "a picture")
    assert "nowhere: no such folder" in failure(capsys, "search", "cat", "--folder", "runs/nowhere")


def test_a_device_that_is_not_there(capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert "--device is cuda; torch" in failure(capsys, "eval", "--device", "cuda")


def test_interruption_exits_with_130(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(formats, "newest_run", interrupt)
    assert cli.main(["eval"]) == 130


@pytest.mark.slow
def test_the_default_training_names_unseen_compositions(tmp_path, capsys):
    """Chance is 0.25 %. Takes minutes."""
    assert cli.main(["train", "--out", str(tmp_path / "run")]) == 0
    *_, top1, top5 = (line.split() for line in capsys.readouterr().out.splitlines())
    assert float(top1[2]) >= 70
    assert float(top5[2]) >= 96
