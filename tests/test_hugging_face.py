"""Folders of Hugging Face's CLIPModel, made and read by transformers' own code with random weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import CLIPConfig as TheirConfig
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

import minclip
from minclip import CLIP, PRESETS, Tokenizer, formats
from minclip.formats import hugging_face
from minclip.formats.saved import Saved
from minclip.images import Preprocess

CONFIG = replace(PRESETS["smoke"], context_length=12, vocab_size=520, quick_gelu=True)
TEXTS = ["Red heart", "a red, red heart", "é"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["red heart red heart"], 520)


def random_saved(config: minclip.CLIPConfig, tokenizer: Tokenizer) -> Saved:
    torch.manual_seed(0)
    preprocess = Preprocess(config.image_resolution, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    return Saved(config, CLIP(config).state_dict(), tokenizer, preprocess, {})


@pytest.fixture
def folder(tokenizer, tmp_path) -> Path:
    formats.write_hugging_face(random_saved(CONFIG, tokenizer), tmp_path / "hf")
    return tmp_path / "hf"


def edit(path: Path, **changes) -> None:
    """Change entries of a JSON file, `a__b` being b in a; a value of ... takes the entry away."""
    content = json.loads(path.read_text())
    for name, value in changes.items():
        *outer, last = name.split("__")
        group = content[outer[0]] if outer else content
        group.pop(last, None)
        if value is not ...:
            group[last] = value
    path.write_text(json.dumps(content))


def their_features(model: CLIPModel, images: torch.Tensor, inputs) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        image = model.get_image_features(pixel_values=images)
        text = model.get_text_features(**inputs)
    return image.pooler_output, text.pooler_output  # type: ignore[union-attr]


def assert_same_answers(theirs: CLIPModel, ours: CLIP, tolerance: float = 1e-5) -> None:
    """Features and logits of random pictures and texts, the texts padded as each of the two pads them."""
    config, generator = ours.config, torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, config.image_resolution, config.image_resolution, generator=generator)
    texts = torch.randint(1, config.vocab_size - 2, (2, config.context_length), generator=generator)
    texts[0, 5:], texts[1, -1] = config.vocab_size - 1, config.vocab_size - 1
    found = their_features(theirs, images, {"input_ids": texts})
    padded = texts.clone()
    padded[0, 6:] = 0
    with torch.no_grad():
        features = ours.encode_image(images), ours.encode_text(padded)
        logits = theirs(input_ids=texts, pixel_values=images).logits_per_image
        torch.testing.assert_close(features, found, rtol=0, atol=tolerance)
        torch.testing.assert_close(ours(images, padded)[0], logits, rtol=0, atol=tolerance)


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_transformers_answers_the_same_from_what_is_written(tokenizer, tmp_path, quick_gelu):
    saved = random_saved(replace(CONFIG, quick_gelu=quick_gelu), tokenizer)
    formats.write_hugging_face(saved, tmp_path / "hf")
    theirs = CLIPModel.from_pretrained(tmp_path / "hf").eval()
    assert_same_answers(theirs, saved.build())
    ids = CLIPTokenizer.from_pretrained(tmp_path / "hf")(TEXTS)["input_ids"]
    assert ids == [[tokenizer.start_id, *tokenizer.encode(text), tokenizer.end_id] for text in TEXTS]
    picture = Image.effect_noise((40, 30), 50).convert("RGB")
    pixels = CLIPImageProcessorPil.from_pretrained(tmp_path / "hf")(picture, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(saved.preprocess(picture), pixels, rtol=0, atol=1 / 255)
    with pytest.raises(FileExistsError, match="already exists"):
        formats.write_hugging_face(saved, tmp_path / "hf")


@pytest.mark.parametrize("old", [False, True])
def test_what_transformers_writes_is_read(folder, tmp_path, old):
    """transformers 5 writes tokenizer.json only; before version 4.30 the weights were a pickle."""
    theirs, again = CLIPModel.from_pretrained(folder).eval(), tmp_path / "again"
    theirs.save_pretrained(again)
    CLIPTokenizer.from_pretrained(folder).save_pretrained(again)
    CLIPImageProcessorPil.from_pretrained(folder).save_pretrained(again)
    assert not (again / hugging_face.MERGES).exists()
    if old:
        (again / hugging_face.MODEL).unlink()
        numbers = {"text_model.embeddings.position_ids": torch.arange(12)[None]}
        torch.save(theirs.state_dict() | numbers, again / hugging_face.OLD_MODEL)
    model, preprocess, tokenizer = minclip.load(again)
    assert (model.config, preprocess) == (CONFIG, Preprocess(24, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0)))
    assert tokenizer.merges == formats.read(folder).tokenizer.merges
    assert_same_answers(theirs, model)


def test_reading_what_is_written_gives_the_same_bits(folder, tokenizer):
    saved = random_saved(CONFIG, tokenizer)
    torch.testing.assert_close(formats.read(folder).state, dict(saved.state), rtol=0, atol=0)


SHAPES = ["ViT-B/32", "ViT-B/16", pytest.param("ViT-L/14", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", SHAPES)
def test_openais_shapes_both_ways(name, tokenizer, tmp_path):
    """The weights are transformers' own random ones; each library reads the folder of the other."""
    preset = replace(PRESETS[name], vocab_size=tokenizer.vocab_size)
    folder = tmp_path / "shallow"
    formats.write_hugging_face(random_saved(replace(preset, vision_layers=1, transformer_layers=1), tokenizer), folder)
    content = TheirConfig.from_pretrained(folder)
    content.vision_config.num_hidden_layers = preset.vision_layers  # type: ignore[union-attr]
    content.text_config.num_hidden_layers = preset.transformer_layers  # type: ignore[union-attr]
    torch.manual_seed(0)
    theirs = CLIPModel(content).eval()
    theirs.save_pretrained(folder)
    saved = formats.read(folder)
    assert saved.config == preset
    ours = saved.build()
    assert_same_answers(theirs, ours)
    if name == "ViT-B/32":
        assert_same_hidden_states(theirs, ours)
    formats.write_hugging_face(saved, tmp_path / "again")
    again = CLIPModel.from_pretrained(tmp_path / "again")
    torch.testing.assert_close(again.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def assert_same_hidden_states(theirs: CLIPModel, ours: CLIP) -> None:
    """What goes into the first block and comes out of every block, in both towers; of the last, one token."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 224, 224, generator=generator)
    texts = torch.randint(1, 400, (2, 77), generator=generator)
    towers: list[Any] = [
        (theirs.vision_model, ours.visual.transformer, {"pixel_values": images}, 0),
        (theirs.text_model, ours.transformer, {"input_ids": texts}, texts.argmax(1)),
    ]
    for tower, transformer, inputs, pooled in towers:
        states: list[Any] = []
        hooks = [transformer.resblocks[0].register_forward_pre_hook(lambda _, x, to=states: to.append(x[0]))]
        hooks += [b.register_forward_hook(lambda _, x, y, to=states: to.append(y)) for b in transformer.resblocks]
        with torch.no_grad():
            ours.encode_image(images) if "pixel_values" in inputs else ours.encode_text(texts)
            *expected, last = tower(**inputs, output_hidden_states=True).hidden_states
        expected.append(last[torch.arange(2), pooled])
        assert len(states) == len(expected) == 13
        for state, theirs_state in zip(states, expected, strict=True):
            torch.testing.assert_close(state, theirs_state, rtol=0, atol=1e-5)
        for hook in hooks:
            hook.remove()


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "siglip"}, "a model of type 'siglip'"),
        ({"vision_config__hidden_act": "relu"}, "'relu'"),
        ({"vision_config__hidden_act": "gelu"}, "too many values"),
        ({"vision_config__intermediate_size": 99}, r"vision_config\.intermediate_size is 99, and minclip only has 128"),
        ({"vision_config__intermediate_size": ...}, r"intermediate_size is 3072, and minclip only has 128"),
        ({"text_config__layer_norm_eps": 1e-6}, r"text_config\.layer_norm_eps is 1e-06"),
        ({"vision_config__hidden_size": "wide"}, "is damaged, or cannot be represented"),
        ({"vision_config__hidden_size": 64, "vision_config__intermediate_size": 256}, "do not fit the configuration"),
        ({"vision_config__num_hidden_layers": 10**9}, "vision_layers is 1000000000, the weights have 1"),
        ({"vision_config__image_size": 24 * 10**9}, "do not fit the configuration|says"),
        ({"projection_dim": 10**30}, "do not fit the configuration"),
        ({"text_config__vocab_size": 10**12}, "520 tokens, config.json says 1000000000000"),
        ({"vision_config": None}, "minclip resizes the short side to 224"),
    ],
)
def test_a_configuration_that_cannot_be_represented_is_refused(folder, changes, said):
    edit(folder / hugging_face.CONFIG, **changes)
    with pytest.raises(ValueError, match=said) as caught:
        minclip.load(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"resample": 2}, "'resample': 2"),
        ({"size": {"height": 24, "width": 24}}, "'height': 24"),
        ({"size": 30}, "'size': 30"),
        ({"crop_size": {"height": 24, "width": 20}}, "'width': 20"),
        ({"image_mean": [0.5]}, "three numbers"),
        ({"image_std": [0, 1, 1]}, "not 0"),
    ],
)
def test_another_preparation_is_refused(folder, changes, said):
    edit(folder / hugging_face.PREPROCESSOR, **changes)
    with pytest.raises(ValueError, match=said):
        minclip.load(folder)


def test_older_folders_say_the_size_as_a_number_or_say_nothing(folder):
    edit(folder / hugging_face.PREPROCESSOR, size=24, crop_size=24)
    expected = formats.read(folder).preprocess
    assert expected.mean == (0.1, 0.2, 0.3)
    (folder / hugging_face.PREPROCESSOR).unlink()
    assert formats.read(folder).preprocess == Preprocess(24)


def test_a_vocabulary_and_merges_that_do_not_fit_are_refused(folder, tmp_path):
    vocabulary = folder / hugging_face.VOCABULARY
    edit(vocabulary, **{"a": 64, "b": 65} | {"a</w>": 99})
    with pytest.raises(ValueError, match=r"vocab\.json does not fit its merges"):
        minclip.load(folder)
    Tokenizer([("a", "b")]).save(folder / hugging_face.MERGES)
    vocabulary.write_text(json.dumps(Tokenizer([("a", "b")]).id_of_symbol))
    with pytest.raises(ValueError, match=r"does not fit: 515 tokens, config\.json says 520"):
        minclip.load(folder)
    vocabulary.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer: neither vocab\.json and merges\.txt, nor"):
        minclip.load(folder)
    (folder / hugging_face.FAST).write_text('{"model": {"merges": [1]}}')
    with pytest.raises(ValueError, match=r"tokenizer\.json is damaged"):
        minclip.load(folder)


def test_weights_that_are_missing_or_in_pieces(folder):
    theirs = CLIPModel.from_pretrained(folder).state_dict()
    (folder / hugging_face.MODEL).unlink()
    with pytest.raises(FileNotFoundError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        minclip.load(folder)
    key = "text_model.encoder.layers.0.self_attn.k_proj.weight"
    torch.save({name: tensor for name, tensor in theirs.items() if name != key}, folder / hugging_face.OLD_MODEL)
    with pytest.raises(ValueError, match="its key and value are not of one shape"):
        minclip.load(folder)


def test_a_bias_of_siglip_has_no_place(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="--loss siglip has a bias"):
        formats.write_hugging_face(random_saved(replace(CONFIG, logit_bias=True), tokenizer), tmp_path / "hf")
    assert not (tmp_path / "hf").exists()
