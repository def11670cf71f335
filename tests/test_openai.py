"""OpenAI's and OpenCLIP's weights. OpenCLIP's answers are golden values here; where it is installed, it is asked."""

import gzip
import json
import runpy
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.torch import save_file

import minclip
from minclip import CLIP, PRESETS, Tokenizer, data, formats
from minclip.formats import openai
from minclip.formats.saved import Saved
from minclip.images import Preprocess

GOLDEN = runpy.run_path(str(Path(__file__).with_name("golden_open_clip.py")))
TOLD = json.loads(Path(__file__).with_name("golden_open_clip.json").read_text())
CONFIG = replace(
    PRESETS["smoke"], embed_dim=16, context_length=12, vocab_size=520, quick_gelu=True,
    vision_layers=2, vision_width=64, vision_heads=2, transformer_layers=2, transformer_width=64, transformer_heads=2,
)  # fmt: skip
STATE = {name: GOLDEN["formula"](name, tuple(shape)) for name, shape in TOLD["names"].items()}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a vocabulary that fits the small model of the golden values."""
    Tokenizer.train(["red heart red heart"], 520).save(tmp_path / "merges.txt.gz")
    return tmp_path


def describe(folder: Path, model: dict, prepared: dict | None = None) -> None:
    content = {"model_cfg": model, **({"preprocess_cfg": prepared} if prepared else {})}
    (folder / openai.CONFIG).write_text(json.dumps(content))


def assert_golden(model: CLIP, activation: str) -> None:
    images, texts = GOLDEN["inputs"]()
    with torch.no_grad():
        features = model.encode_image(images), model.encode_text(texts)
    for ours, theirs in zip(features, TOLD[activation], strict=True):
        torch.testing.assert_close(ours, torch.tensor(theirs), rtol=0, atol=1e-5)


@pytest.mark.parametrize("quick_gelu", [True, False])
@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_a_folder_of_openclip_gives_its_features(folder, name, quick_gelu):
    save_file(STATE, folder / name) if name.endswith("safetensors") else torch.save(STATE, folder / name)
    describe(folder, {**GOLDEN["MODEL"], "quick_gelu": quick_gelu}, {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]})
    for path in (folder, folder / name):
        model, preprocess, tokenizer = minclip.load(path)
        assert model.config == replace(CONFIG, quick_gelu=quick_gelu)
        assert preprocess == Preprocess(24, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
        assert tokenizer.decode(tokenizer.encode("Red heart")) == "red heart"
        assert_golden(model, "quick_gelu" if quick_gelu else "gelu")


@pytest.mark.parametrize("wrap", ["plain", "checkpoint", "parallel"])
def test_a_state_dict_and_what_training_keeps_around_it(folder, wrap):
    """OpenCLIP's training saves the optimizer, too; DistributedDataParallel puts `module.` before the names."""
    state = {f"module.{name}": tensor for name, tensor in STATE.items()} if wrap == "parallel" else STATE
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))])
    checkpoint = {"epoch": 3, "name": "run", "state_dict": state, "optimizer": optimizer.state_dict(), "lr": 1e-3}
    torch.save(state if wrap == "plain" else checkpoint, folder / "epoch_3.pt")
    describe(folder, GOLDEN["MODEL"])
    assert_golden(minclip.load(folder / "epoch_3.pt")[0], "gelu")


def traced(folder: Path) -> Path:
    """A TorchScript archive like OpenAI's: in float16, and with the three numbers."""
    model = CLIP(replace(CONFIG, vision_heads=1, transformer_heads=1)).eval()
    model.load_state_dict(STATE)
    for name, number in zip(sorted(openai.OPENAI_NUMBERS), (12, 24, 520), strict=True):
        model.register_buffer(name, torch.tensor(number))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; OpenAI's archives stay
        archive: Any = torch.jit.trace(model, GOLDEN["inputs"]())
        archive.half().save(str(folder / "ViT.pt"))
    return folder / "ViT.pt"


def test_an_archive_of_torchscript_gives_its_tensors(folder):
    saved = formats.read(traced(folder))
    assert saved.config == replace(CONFIG, vision_heads=1, transformer_heads=1)
    half = {name: tensor.half().float() for name, tensor in STATE.items()}
    torch.testing.assert_close(saved.build().state_dict(), half, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"quick_gelu is False; .* was trained with True"):
        formats.read(folder / "ViT.pt", quick_gelu=False)


def test_the_activation_is_asked_for_and_never_guessed(folder):
    save_file(STATE, folder / "a.safetensors")
    with pytest.raises(ValueError, match=r"a\.safetensors does not say the activation .*--quick-gelu yes or no"):
        minclip.load(folder / "a.safetensors")
    for quick_gelu in (True, False):
        assert minclip.load(folder / "a.safetensors", quick_gelu=quick_gelu)[0].config.quick_gelu == quick_gelu


def test_the_number_of_heads_of_a_wide_model_is_not_guessed(folder):
    wide = CLIP(replace(CONFIG, vision_width=1280, vision_heads=16, vision_layers=1))
    save_file(wide.state_dict(), folder / "a.safetensors")
    with pytest.raises(ValueError, match="does not say the number of heads"):
        minclip.load(folder / "a.safetensors", quick_gelu=False)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("visual.layer1.0.conv1.weight", "a ResNet"),
        ("visual.trunk.cls_token", "an image tower of timm"),
        ("visual.attn_pool.query", "pools by attention"),
        ("text.transformer.embeddings.word_embeddings.weight", "another text tower"),
        ("text_decoder.ln_1.weight", "CoCa"),
        ("vision_model.post_layernorm.weight", "names of Hugging Face"),
    ],
)
def test_other_towers_are_refused_by_name(folder, name, said):
    torch.save(STATE | {name: torch.ones(3)}, folder / "a.pt")
    with pytest.raises(ValueError, match=rf"a\.pt cannot be represented here: it has .*{said}"):
        minclip.load(folder / "a.pt", quick_gelu=True)


def test_weights_that_no_clip_has(folder):
    torch.save(STATE | {"visual.ls_1.gamma": torch.ones(3)}, folder / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt is damaged: the weights do not fit .*visual\.ls_1\.gamma"):
        minclip.load(folder / "a.pt", quick_gelu=True)
    torch.save({"weight": torch.ones(3)}, folder / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt has no weights of a CLIP"):
        minclip.load(folder / "a.pt", quick_gelu=True)


@pytest.mark.parametrize(
    ("change", "prepared", "said"),
    [
        ({"custom_text": True}, {}, "custom_text is True"),
        ({"vision_cfg": {**GOLDEN["MODEL"]["vision_cfg"], "no_ln_pre": True}}, {}, r"vision_cfg\.no_ln_pre is True"),
        ({"vision_cfg": {**GOLDEN["MODEL"]["vision_cfg"], "mlp_ratio": 4.3}}, {}, r"vision_cfg\.mlp_ratio is 4\.3"),
        ({"text_cfg": {**GOLDEN["MODEL"]["text_cfg"], "hf_tokenizer_name": "x"}}, {}, "hf_tokenizer_name is 'x'"),
        ({}, {"resize_mode": "squash"}, "resize_mode is 'squash'"),
        ({}, {"std": [1, 1]}, "is damaged"),
        ({"vision_cfg": 3}, {}, r"vision_cfg is 3"),
        ({"vision_cfg": {"head_width": 0}}, {}, "is damaged"),
        ({"embed_dim": 24}, {}, "do not fit the configuration"),
        ({"vision_cfg": {**GOLDEN["MODEL"]["vision_cfg"], "layers": 10**9}}, {}, "vision_layers is 1000000000"),
    ],
)
def test_a_configuration_that_cannot_be_represented_is_refused(folder, change, prepared, said):
    save_file(STATE, folder / openai.WEIGHTS[0])
    describe(folder, GOLDEN["MODEL"] | change, prepared)
    with pytest.raises(ValueError, match=said):
        minclip.load(folder)


def test_a_configuration_without_weights(folder):
    describe(folder, GOLDEN["MODEL"])
    with pytest.raises(FileNotFoundError, match=r"no weights beside it, such as open_clip_model\.safetensors"):
        minclip.load(folder)


# --- the vocabulary ---------------------------------------------------------------------------------------------------


def test_the_vocabulary_is_named_or_found_or_asked_for(folder, tmp_path_factory, monkeypatch):
    torch.save(STATE, folder / "a.pt")
    own = folder / "merges.txt.gz"
    elsewhere = own.rename(tmp_path_factory.mktemp("elsewhere") / "own.txt.gz")
    monkeypatch.setattr(openai, "PACKAGES", ("no_such_package",))
    with pytest.raises(FileNotFoundError, match=r"a\.pt has no vocabulary: put .* pip install open_clip_torch.*--bpe"):
        minclip.load(folder / "a.pt", quick_gelu=True)
    tokenizer = minclip.load(folder / "a.pt", quick_gelu=True, bpe=elsewhere)[2]
    assert tokenizer.vocab_size == 520
    (folder / openai.VOCABULARY).write_bytes(elsewhere.read_bytes())
    assert minclip.load(folder / "a.pt", quick_gelu=True)[2].merges == tokenizer.merges
    with pytest.raises(FileNotFoundError, match="gone"):
        minclip.load(folder / "a.pt", quick_gelu=True, bpe="gone")


def test_the_vocabulary_of_an_installed_package(folder, tmp_path_factory, monkeypatch):
    """The package is found, and not imported."""
    packages = tmp_path_factory.mktemp("packages")
    (packages / "vocabulary_of_openai").mkdir()
    (packages / "vocabulary_of_openai" / "__init__.py").write_text("raise RuntimeError")
    (folder / "merges.txt.gz").rename(packages / "vocabulary_of_openai" / openai.VOCABULARY)
    torch.save(STATE, folder / "a.pt")
    monkeypatch.syspath_prepend(packages)
    monkeypatch.setattr(openai, "PACKAGES", ("no_such_package", "vocabulary_of_openai"))
    assert minclip.load(folder / "a.pt", quick_gelu=True)[2].vocab_size == 520


def test_a_vocabulary_of_another_size_is_refused(folder):
    torch.save(STATE, folder / "a.pt")
    (folder / "small.txt.gz").write_bytes(gzip.compress(b"#version: 0.2\na b\n"))
    with pytest.raises(ValueError, match=r"small\.txt\.gz does not fit .*a\.pt: 515 tokens, not 520"):
        minclip.load(folder / "a.pt", quick_gelu=True, bpe=folder / "small.txt.gz")


# --- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, quick_gelu=False, logit_bias=True)])
def test_what_is_written_is_read(folder, config):
    model, tokenizer = CLIP(config), Tokenizer.load(folder / "merges.txt.gz")
    saved = Saved(config, model.state_dict(), tokenizer, Preprocess(24, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0)), {})
    formats.write_openai(saved, folder / "out")
    again = formats.read(folder / "out")
    assert (again.config, again.preprocess, again.tokenizer.merges) == (config, saved.preprocess, tokenizer.merges)
    torch.testing.assert_close(again.build().state_dict(), model.state_dict(), rtol=0, atol=0)
    with pytest.raises(FileExistsError, match="already exists"):
        formats.write_openai(saved, folder / "out")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        formats.write_openai(saved, folder / "nowhere" / "out")
    assert {path.name for path in folder.iterdir()} == {"merges.txt.gz", "out"}


# --- where OpenCLIP is installed --------------------------------------------------------------------------------------


NAMES = "<|startoftext|>", "<|endoftext|>", "<start_of_text>", "<end_of_text>"


@pytest.mark.filterwarnings("ignore")
def test_the_ids_are_those_of_openais_tokenizer():
    """open_clip has openai/CLIP's SimpleTokenizer with other names for the start and the end of a text.

    Texts that contain one of these names have other ids there by design.
    """
    open_clip = pytest.importorskip("open_clip", reason="needs open_clip_torch, which needs torchvision")
    ours, theirs = Tokenizer.load(Path(open_clip.__file__).with_name(openai.VOCABULARY)), open_clip.SimpleTokenizer()
    assert list(theirs.encoder)[:-2] == list(ours.id_of_symbol)[:-2]
    for language in data.LANGUAGES:
        for caption in data.emoji_captions(language).values():
            assert ours.encode(caption) == theirs.encode(caption)

    @given(st.text())
    def check(text):
        assume(not any(name in text.lower() for name in NAMES))
        assert ours.encode(text) == theirs.encode(text)

    check()


SHAPES = {
    "ViT-B-32-quickgelu": "ViT-B/32",
    "ViT-B-32": "ViT-B/32",
    "ViT-B-16-quickgelu": "ViT-B/16",
    "ViT-L-14-quickgelu": "ViT-L/14",
}
CASES = [pytest.param(name, marks=pytest.mark.slow if "L-14" in name else ()) for name in SHAPES]
TEXTS = ["a photo of a cat", "Hello there, World!", "naïve café &amp; 7 crêpes"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_openclip_and_minclip_answer_the_same_from_each_others_files(name, tmp_path):
    open_clip = pytest.importorskip("open_clip", reason="needs open_clip_torch, which needs torchvision")
    theirs = open_clip.create_model(name).eval()
    torch.save(theirs.state_dict(), tmp_path / "a.pt")
    saved = formats.read(tmp_path / "a.pt", quick_gelu="quickgelu" in name)
    assert saved.config == replace(PRESETS[SHAPES[name]], quick_gelu="quickgelu" in name)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    ids = open_clip.get_tokenizer(name)(TEXTS)
    ours = saved.tokenizer(TEXTS, 77)
    assert torch.equal(ours, ids[:, : ours.shape[1]])
    with torch.no_grad():
        expected = theirs.encode_image(images), theirs.encode_text(ids)
        model = saved.build()
        torch.testing.assert_close((model.encode_image(images), model.encode_text(ours)), expected, rtol=0, atol=1e-5)
        del model, theirs
        formats.write_openai(saved, tmp_path / "out")
        again = open_clip.create_model(f"local-dir:{tmp_path / 'out'}").eval()
        torch.testing.assert_close((again.encode_image(images), again.encode_text(ids)), expected, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_what_openais_own_loader_reads(tmp_path):
    """`load_openai_model` is openai/CLIP's loader; it rounds the weights to float16."""
    open_clip = pytest.importorskip("open_clip", reason="needs open_clip_torch, which needs torchvision")
    bpe = Path(open_clip.__file__).with_name(openai.VOCABULARY)
    config = replace(CONFIG, vision_heads=1, transformer_heads=1, vocab_size=49408)
    model = CLIP(config)
    formats.write_openai(Saved(config, model.state_dict(), Tokenizer.load(bpe), Preprocess(24), {}), tmp_path / "out")
    theirs = open_clip.load_openai_model(str(tmp_path / "out" / openai.WEIGHTS[-1]), device="cpu")
    matrices = {name: tensor for name, tensor in theirs.state_dict().items() if tensor.ndim > 1}
    for name, tensor in matrices.items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=1e-3, atol=1e-4)
