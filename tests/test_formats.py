import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import minclip
from minclip import CLIP, PRESETS, Tokenizer, formats, images
from minclip.files import replacing
from minclip.formats.saved import Saved

TRAINING = {"data": None, "language": "zh", "skip_bad": False}
CONFIG = replace(PRESETS["smoke"], embed_dim=16, context_length=12, vocab_size=520)


@pytest.fixture
def run(tmp_path) -> Path:
    torch.manual_seed(0)
    folder = tmp_path / "runs" / "first"
    folder.mkdir(parents=True)
    tokenizer = Tokenizer.train(["red heart red heart"], CONFIG.vocab_size)
    model = CLIP(CONFIG)
    formats.save_setup(folder, model, tokenizer, TRAINING)
    formats.save_weights(folder, model)
    return folder


def test_what_is_saved_is_loaded(run):
    model, preprocess, tokenizer = minclip.load(run)
    torch.manual_seed(0)
    torch.testing.assert_close(model.state_dict(), CLIP(CONFIG).state_dict(), rtol=0, atol=0)
    assert not model.training
    assert tokenizer.decode(tokenizer.encode("Red heart")) == "red heart"
    assert preprocess(Image.new("RGB", (50, 30))).shape == (3, 24, 24)
    assert model.encode_image(preprocess(Image.new("L", (9, 9)))[None]).shape == (1, 16)
    saved = formats.read(run)
    assert (saved.config, saved.preprocess, saved.training) == (CONFIG, images.Preprocess(24), TRAINING)
    assert sorted(path.name for path in run.iterdir()) == ["config.json", "merges.txt.gz", "model.safetensors"]


def odd_pictures(folder: Path) -> list[Path]:
    """Transparent, turned by EXIF, 16 bits."""
    half = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    half.paste((255, 0, 0, 255), (0, 0, 20, 40))
    half.save(folder / "alpha.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    half.convert("RGB").save(folder / "turned.png", exif=exif)
    Image.fromarray(np.linspace(0, 65535, 1600).astype(np.uint16).reshape(40, 40)).save(folder / "deep.png")
    return sorted(folder.glob("*.png"))


def test_preprocess_does_what_the_command_line_does(run, tmp_path):
    _, preprocess, _ = minclip.load(run)
    files = odd_pictures(tmp_path)
    assert len(files) == 3
    for file in files:
        with Image.open(file) as picture:
            ours = preprocess(picture)
        torch.testing.assert_close(ours, images.normalize(images.to_tensor(images.load_image(file), 24)[None])[0])


@pytest.mark.parametrize("name", ["config.json", "merges.txt.gz", "model.safetensors"])
def test_missing_files_are_named(run, name):
    (run / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {name}"):
        minclip.load(run)


@pytest.mark.parametrize("name", ["config.json", "merges.txt.gz", "model.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "empty", "noise"])
def test_damaged_files_are_named(run, name, damage):
    content = (run / name).read_bytes()
    (run / name).write_bytes({"cut": content[: len(content) // 2], "empty": b"", "noise": bytes(range(256))}[damage])
    with pytest.raises(ValueError, match=name):
        minclip.load(run)


@pytest.mark.parametrize(
    "change",
    [
        {"vision_layers": 2},
        {"embed_dim": 8},
        {"width": 3},
        {"vision_heads": 0},
        {"vision_heads": 4},
        {"vision_width": "wide"},
        {"embed_dim": 10**30},
    ],
)
def test_another_configuration_is_refused(run, change):
    content = json.loads((run / "config.json").read_text())
    content["model"] |= change
    (run / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"config\.json"):
        minclip.load(run)


def test_what_it_was_trained_on_must_be_said(run):
    content = json.loads((run / "config.json").read_text())
    del content["training"]["data"]
    (run / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"config\.json is damaged.*data"):
        formats.read(run)


def test_weights_are_readable_by_whom_the_other_files_are(run):
    modes = {(run / name).stat().st_mode for name in ("config.json", "merges.txt.gz", "model.safetensors")}
    assert len(modes) == 1


def test_merges_of_another_run_are_refused(run):
    Tokenizer.train(["red heart red heart"], 516).save(run / "merges.txt.gz")
    with pytest.raises(ValueError, match=r"belongs to another run: it makes 516 tokens, config\.json says 520"):
        minclip.load(run)


def saved_by_an_older_version(saved: Saved, run: Path) -> None:
    """Rewrite a run as if the configuration had had no fields with a default, and preprocess had not been stored."""
    old = {name: value for name, value in asdict(saved.config).items() if name not in ("quick_gelu", "logit_bias")}
    (run / "config.json").write_text(json.dumps({"model": old, "training": saved.training}))
    save_file(saved.state, run / "model.safetensors", {"config": json.dumps(old)})


def test_a_run_of_a_version_that_knew_fewer_fields_is_read(run):
    new = replace(formats.read(run), config=replace(CONFIG, quick_gelu=True))
    saved_by_an_older_version(new, run)
    old = formats.read(run)
    assert (old.config, old.preprocess, old.training) == (new.config, new.preprocess, new.training)
    torch.testing.assert_close(old.build().state_dict(), new.build().state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_without_a_path_the_model_that_ships_with_minclip_is_loaded(language):
    model, preprocess, tokenizer = minclip.load(language=language)
    assert model.config == replace(PRESETS["emoji-wide"], vocab_size=tokenizer.vocab_size)
    assert preprocess.resolution == 48
    path = formats.packaged(language)
    assert formats.read(path).training["language"] == language
    assert {tensor.dtype for tensor in formats.read(path).state.values()} == {torch.float16}
    assert path.stat().st_size <= 6e6
    assert (path.parent / "MODEL_CARD.md").exists()


def test_a_language_without_a_shipped_model_is_refused_by_name():
    with pytest.raises(ValueError, match="no model for language 'fr' ships with minclip; there are: en, zh"):
        minclip.load(language="fr")


def test_an_export_of_an_older_version_is_read(exported):
    """It was written when neither the preparation of pictures nor a checksum was stored."""
    with safe_open(exported, framework="pt") as file:
        weights, said = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    save_file(weights, exported, {name: said[name] for name in ("config", "training", "merges")})
    saved = formats.read(exported)
    assert saved.preprocess == images.Preprocess(24)
    saved.build()


def test_another_mean_and_spread_and_the_cut_come_with_the_model(run, tmp_path):
    own = images.Preprocess(24, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), trim=True)
    saved = formats.read(run)
    formats.save_setup(run, CLIP(CONFIG, own), saved.tokenizer, TRAINING)
    formats.write_export(formats.read(run), tmp_path / "one.safetensors")
    for path in (run, tmp_path / "one.safetensors"):
        model, preprocess, _ = minclip.load(path)
        assert model.preprocess == preprocess == own
        assert preprocess(Image.new("RGB", (9, 9), "white")).unique().tolist() == [2.0]


@pytest.fixture
def exported(run, tmp_path) -> Path:
    path = tmp_path / "one.safetensors"
    formats.write_export(formats.read(run), path)
    return path


def test_one_file_holds_what_the_folder_holds_in_half_precision(run, exported):
    model, preprocess, tokenizer = minclip.load(exported)
    ours, _, folder_tokenizer = minclip.load(run)
    half = {name: tensor.half().float() for name, tensor in ours.state_dict().items()}
    torch.testing.assert_close(model.state_dict(), half, rtol=0, atol=0)
    assert not model.training
    assert model.logit_scale.dtype == torch.float32
    assert tokenizer.merges == folder_tokenizer.merges
    assert preprocess(Image.new("RGB", (50, 30))).shape == (3, 24, 24)
    saved = formats.read(exported)
    assert (saved.config, saved.preprocess, saved.training) == (CONFIG, images.Preprocess(24), TRAINING)
    assert exported.stat().st_size < 0.6 * (run / "model.safetensors").stat().st_size


def test_an_export_of_an_export_holds_the_same(exported, tmp_path):
    formats.write_export(formats.read(exported), tmp_path / "two.safetensors")
    with safe_open(exported, framework="pt") as one, safe_open(tmp_path / "two.safetensors", framework="pt") as two:
        assert two.metadata() == one.metadata()
        for name in one.keys():  # noqa: SIM118
            assert torch.equal(two.get_tensor(name), one.get_tensor(name))


def test_an_export_writes_over_nothing_and_makes_no_folder(run, exported, tmp_path):
    content = exported.read_bytes()
    for there in (exported, tmp_path):
        with pytest.raises(FileExistsError, match="already exists"):
            formats.write_export(formats.read(run), there)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        formats.write_export(formats.read(run), tmp_path / "nowhere" / "one.safetensors")
    assert exported.read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.safetensors", "runs"]


def test_weights_too_large_for_float16_are_refused(run, tmp_path):
    model, _, _ = minclip.load(run)
    with torch.no_grad():
        model.text_projection[0, 0] = 1e5
    formats.save_weights(run, model)
    with pytest.raises(ValueError, match=r"has a weight of 1e\+05, and float16 ends at 65504"):
        formats.write_export(formats.read(run), tmp_path / "one.safetensors")
    assert not (tmp_path / "one.safetensors").exists()


def test_the_lowest_cosine_of_a_match_is_stored_with_an_export(run, tmp_path):
    assert formats.read(run).match is None
    formats.write_export(replace(formats.read(run), match=0.25), tmp_path / "one.safetensors")
    assert formats.read(tmp_path / "one.safetensors").match == 0.25
    with pytest.raises(ValueError, match=r"match is 7; it must be from -1 to 1"):
        replace(formats.read(run), match=7)


@pytest.mark.parametrize("damage", ["cut", "empty", "noise"])
def test_a_damaged_export_is_named(exported, damage):
    content = exported.read_bytes()
    exported.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "noise": bytes(range(256))}[damage])
    with pytest.raises(ValueError, match=r"one\.safetensors is damaged"):
        minclip.load(exported)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": "{}"}, "is damaged or of another version"),
        ({"training": "{"}, "is damaged or of another version"),
        ({"training": "{}"}, "is damaged or of another version.*data"),
        ({"match": "high"}, "is damaged or of another version"),
        ({"merges": "a b"}, "is not a merges file"),
        ({"merges": "#version: 0.2\na b\n"}, "belongs to another run: it makes 515 tokens, its metadata says 520"),
    ],
)
def test_an_export_that_says_something_else_is_refused(exported, change, message):
    with safe_open(exported, framework="pt") as file:
        weights, said = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    del said["sha256"]  # Without a checksum, as older versions wrote it.
    save_file(weights, exported, said | change)
    with pytest.raises(ValueError, match=rf"one\.safetensors.* {message}"):
        minclip.load(exported)


def test_an_export_with_a_weight_missing_is_refused(exported):
    with safe_open(exported, framework="pt") as file:
        weights, said = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    del said["sha256"]  # Without a checksum, as older versions wrote it.
    del weights["ln_final.bias"]
    save_file(weights, exported, said)
    with pytest.raises(ValueError, match=r"one\.safetensors is damaged: the weights do not fit"):
        minclip.load(exported)


def test_the_weights_of_a_run_alone_are_no_export(run):
    with pytest.raises(ValueError, match="is not a file of `minclip export`; for a run, name its folder"):
        minclip.load(run / "model.safetensors")
    with pytest.raises(FileNotFoundError, match=r"gone: no such run folder, nor file of `minclip export`"):
        minclip.load(run / "gone")


def test_the_newest_run_is_the_one_whose_weights_were_written_last(run, monkeypatch):
    monkeypatch.chdir(run.parent.parent)
    second = run.parent / "second"
    second.mkdir()
    (second / "model.safetensors").touch()
    os.utime(run / "model.safetensors", (2e9, 2e9))
    assert formats.newest_run() == Path("runs/first")
    os.utime(second / "model.safetensors", (2.1e9, 2.1e9))
    assert formats.newest_run() == Path("runs/second")


def test_without_a_run_there_is_no_newest_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert formats.newest_run() is None


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", [0.0, 0.02, 0.3, 0.6, 0.9, 1.0])
def test_a_flipped_byte_is_noticed_anywhere(run, exported, place):
    for path in (run / "model.safetensors", exported):
        content = bytearray(path.read_bytes())
        content[int(place * (len(content) - 1))] ^= 0x40
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{path.name} is damaged"):
            formats.read(path if path == exported else run)
