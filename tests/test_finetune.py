"""Training that starts from a trained model."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from minclip import CLIP, PRESETS, Tokenizer, augmentation, cli, data, finetune, formats
from minclip.formats.saved import Saved
from minclip.images import Preprocess
from minclip.train import State, TrainConfig, make_optimizer, train_step

CONFIG = replace(PRESETS["smoke"], vision_layers=3, transformer_layers=2, vocab_size=520, context_length=12)


def random_model(seed: int = 0, **changes) -> CLIP:
    torch.manual_seed(seed)
    return CLIP(replace(CONFIG, **changes))


def changed_by_a_step(config: TrainConfig) -> set[str]:
    """The parameters that one training step changes."""
    model = random_model()
    finetune.lock(model, config.lock, config.unlock_last)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tokens = torch.randint(1, 518, (4, 12))
    tokens[:, -1] = 519
    train_step(State(model, make_optimizer(model, config)), torch.randn(4, 3, 24, 24), tokens, config)
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


NAMES = set(random_model().state_dict())
IMAGE = {name for name in NAMES if name.startswith("visual.")}
TEXT = NAMES - IMAGE - {"logit_scale"}


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_a_locked_tower_stays_and_the_rest_learns(micro_batch):
    assert changed_by_a_step(TrainConfig(micro_batch=micro_batch)) == NAMES
    assert changed_by_a_step(TrainConfig(lock="image", micro_batch=micro_batch)) == NAMES - IMAGE
    assert changed_by_a_step(TrainConfig(lock="text", micro_batch=micro_batch)) == NAMES - TEXT


def test_the_last_blocks_and_what_follows_them_can_learn():
    last = {name for name in IMAGE if name.startswith(("visual.ln_post", "visual.proj"))}
    for blocks in (1, 2, 3):
        last |= {name for name in IMAGE if f"resblocks.{3 - blocks}." in name}
        assert changed_by_a_step(TrainConfig(lock="image", unlock_last=blocks)) == NAMES - IMAGE | last
    text = {name for name in TEXT if name.startswith(("ln_final", "text_projection", "transformer.resblocks.1."))}
    assert changed_by_a_step(TrainConfig(lock="text", unlock_last=1)) == NAMES - TEXT | text


def test_each_layer_learns_at_a_share_of_the_rate_of_the_one_above():
    shares = finetune.learning_rates(random_model(), 0.5)
    assert shares.keys() == NAMES
    by_hand = {
        "visual.proj": 1, "visual.ln_post.bias": 1, "visual.transformer.resblocks.2.ln_1.weight": 0.5,
        "visual.transformer.resblocks.0.mlp.c_fc.bias": 0.125, "visual.conv1.weight": 0.0625,
        "visual.positional_embedding": 0.0625, "visual.ln_pre.weight": 0.0625, "logit_scale": 1, "text_projection": 1,
        "transformer.resblocks.1.attn.in_proj_weight": 0.5, "token_embedding.weight": 0.125,
    }  # fmt: skip
    assert {name: shares[name] for name in by_hand} == by_hand


def test_the_first_step_of_adam_is_the_rate_of_each_layer():
    """Adam's first update is the learning rate times the sign of the gradient, whatever the gradient's size."""
    model, config = random_model(), TrainConfig(lr=1e-3, layer_decay=0.5, weight_decay=0.0, max_grad_norm=1e9)
    optimizer = make_optimizer(model, config)
    for group in optimizer.param_groups:
        group["lr"] = config.lr * group["lr_scale"]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, share in finetune.learning_rates(model, 0.5).items():
        moved = (before[name] - model.state_dict()[name]).abs().mean().item()
        assert moved == pytest.approx(1e-3 * share, rel=0.01)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"lock": "both"}, "lock is 'both'; it must be one of image, text"),
        ({"unlock_last": -1, "lock": "image"}, "unlock_last is -1"),
        ({"unlock_last": 1}, "unlock_last is 1; it needs lock"),
        ({"layer_decay": 0.0}, "layer_decay is 0.0"),
        ({"layer_decay": 1.5}, "layer_decay is 1.5"),
    ],
)
def test_bad_settings(setting, said):
    with pytest.raises(ValueError, match=said):
        TrainConfig(**setting)


# --- weights to start from --------------------------------------------------------------------------------------------


def saved_model(seed: int, tokenizer: Tokenizer, **changes) -> Saved:
    model = random_model(seed, vocab_size=tokenizer.vocab_size, **changes)
    return Saved(model.config, model.state_dict(), tokenizer, Preprocess(24), {})


def test_weights_are_taken_over_except_words_and_biases_that_are_new():
    known, new = Tokenizer.train(["red heart red heart"], 520), Tokenizer.train(["blue cat blue cat"], 519)
    saved = saved_model(1, known)
    model = random_model(2, vocab_size=known.vocab_size)
    finetune.start_from(saved, model, known)
    torch.testing.assert_close(model.state_dict(), saved.state, rtol=0, atol=0)

    model = random_model(2, vocab_size=new.vocab_size, logit_bias=True)
    embedding = model.token_embedding.weight.clone()
    finetune.start_from(saved, model, new)
    state = model.state_dict()
    assert torch.equal(state.pop("token_embedding.weight"), embedding)
    assert state.pop("logit_bias") == -10
    torch.testing.assert_close(state, {name: saved.state[name] for name in state}, rtol=0, atol=0)


@pytest.fixture
def folder(tmp_path) -> Path:
    rows = ["image,caption"]
    for i in range(16):
        Image.new("RGB", (20, 30), (8 * i, 100, 0)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,red heart number {i}")
    (tmp_path / "captions.csv").write_text("\n".join(rows))
    return tmp_path


@pytest.mark.parametrize("to", [formats.write_export, formats.write_hugging_face])
def test_train_starts_from_any_format(folder, tmp_path, capsys, to):
    saved = saved_model(1, Tokenizer.train(["red heart red heart"], 520), quick_gelu=True)
    saved = replace(saved, training={"data": None, "language": "en", "skip_bad": False})
    to(saved, tmp_path / "start.safetensors")
    options = ["--data", str(folder), "--init", str(tmp_path / "start.safetensors"), "--epochs", "1", "--lr", "1e-9"]
    assert cli.main(["train", *options, "--out", str(tmp_path / "run"), "--lock", "image"]) == 0
    run = formats.read(tmp_path / "run")
    assert (run.config, run.preprocess, run.tokenizer.merges) == (
        saved.config,
        saved.preprocess,
        saved.tokenizer.merges,
    )
    stored = formats.read(tmp_path / "start.safetensors").build().state_dict()
    torch.testing.assert_close(run.state, dict(stored), rtol=0, atol=1e-7)
    stored = json.loads((tmp_path / "run" / "config.json").read_text())["training"]
    assert (stored["augmentation"], stored["lock"], stored["tokenizer"]) == ("crop", "image", "keep")
    assert cli.main(["train", "--resume", str(tmp_path / "run")]) == 0


def test_a_vocabulary_of_ones_own(folder, tmp_path, capsys):
    formats.write_hugging_face(saved_model(1, Tokenizer.train(["blue cat blue cat"], 519)), tmp_path / "start")
    options = ["train", "--data", str(folder), "--init", str(tmp_path / "start"), "--epochs", "1"]
    assert cli.main([*options, "--tokenizer", "train", "--out", str(tmp_path / "run")]) == 0
    merges = formats.read(tmp_path / "run").tokenizer.merges
    assert merges != formats.read(tmp_path / "start").tokenizer.merges
    for bad, said in (
        (["--tokenizer", "train", "--lock", "text"], "would not let it learn"),
        (["--init", str(tmp_path / "gone")], "gone: no such run folder"),
    ):
        assert cli.main([*options, *bad, "--out", str(tmp_path / "other")]) == 1
        assert said in capsys.readouterr().err
    assert cli.main(["train", "--tokenizer", "keep", "--out", str(tmp_path / "other")]) == 1
    assert "--tokenizer keep needs --init" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


# --- another artist ---------------------------------------------------------------------------------------------------

NOTO = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")


def write_noto(folder: Path) -> tuple[Path, Path]:
    """Two folders with tables: 200 of Noto's basic emoji, and all others that are not drawn like one before them."""
    noto, drawn = data.FontArtist(NOTO), set()
    captions = {codes: name for codes, name in data.emoji_captions(artist=noto).items() if data.is_basic(codes)}
    order = torch.randperm(len(captions), generator=torch.Generator().manual_seed(0)).tolist()
    codes = [list(captions)[i] for i in order]
    for name, part in (("few", codes[:200]), ("others", codes[200:])):
        (folder / name).mkdir()
        rows = ["image,caption"]
        for code in part:
            picture = noto.draw(code, 96)
            if picture.tobytes() not in drawn:
                drawn.add(picture.tobytes())
                picture.save(folder / name / f"{code}.png")
                rows.append(f'{code}.png,"{captions[code]}"')
        (folder / name / "captions.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder / "few", folder / "others"


@pytest.mark.slow
@pytest.mark.skipif(not NOTO.exists(), reason="no Noto Color Emoji here")
def test_a_few_pictures_of_another_artist_help_a_trained_model_and_teach_a_new_one_nothing(tmp_path, capsys):
    """The rows "image locked" and "from nothing" of the README's table."""
    few, others = write_noto(tmp_path)
    shipped = str(formats.packaged("en"))

    def top5(run: str) -> float:
        capsys.readouterr()
        assert cli.main(["eval", "--run", run, "--data", str(others), "--json"]) == 0
        return json.loads(capsys.readouterr().out)["image_to_text"]["5"]

    def trained(name: str, *options: str) -> float:
        common = ["--data", str(few), "--batch-size", "64", "--epochs", "40", "--augmentation", "moderate"]
        assert cli.main(["train", *common, *options, "--out", str(tmp_path / name)]) == 0
        return top5(str(tmp_path / name))

    before = top5(shipped)
    assert trained("locked", "--init", shipped, "--lr", "1e-4", "--lock", "image") > before + 0.01
    assert trained("new", "--model", "emoji-wide") < 0.05


# --- photographs ------------------------------------------------------------------------------------------------------


def test_a_random_crop_stays_inside_and_shows_nine_tenths():
    changes = augmentation.draw_augmentation(1000, torch.Generator().manual_seed(0), "crop")
    width, _, shift_x, _, height, shift_y = changes[:, :6].T
    assert (width + shift_x.abs() <= 1 + 1e-6).all()
    assert (height + shift_y.abs() <= 1 + 1e-6).all()
    area = width * height
    assert 0.9 - 1e-6 < area.min() < 0.91
    assert 0.99 < area.max() <= 1
    for side in (width, height):
        assert side.min() < 0.92
        assert side.max() > 0.99


def test_a_random_crop_moves_pixels_and_leaves_their_colours():
    picture = torch.randint(0, 256, (1, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain = torch.tensor([10, 100, 200], dtype=torch.uint8).view(1, 3, 1, 1).expand(50, 3, 24, 24)
    changes = augmentation.draw_augmentation(50, torch.Generator().manual_seed(0), "crop")
    torch.testing.assert_close(augmentation.augment(plain, changes), plain.float(), rtol=0, atol=1e-3)
    cropped = augmentation.augment(picture.expand(50, 3, 24, 24), changes)
    assert (cropped - picture).abs().mean((1, 2, 3)).min() > 1
