import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import functional_call
from transformers import CLIPConfig as HFConfig
from transformers import CLIPModel

from minclip import CLIP, PRESETS, CLIPConfig

SMALL = CLIPConfig(
    embed_dim=16,
    image_resolution=24, vision_layers=2, vision_width=32, vision_heads=4, vision_patch_size=8,
    context_length=12, vocab_size=600, transformer_width=24, transformer_heads=3, transformer_layers=2,
)  # fmt: skip
TINY = CLIPConfig(
    embed_dim=2,
    image_resolution=4, vision_layers=1, vision_width=4, vision_heads=2, vision_patch_size=2,
    context_length=4, vocab_size=6, transformer_width=4, transformer_heads=2, transformer_layers=1,
)  # fmt: skip


def openai_shapes(width: int, layers: int, prefix: str) -> dict[str, tuple[int, ...]]:
    block = {
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "ln_1.weight": (width,),
        "ln_1.bias": (width,),
        "mlp.c_fc.weight": (4 * width, width),
        "mlp.c_fc.bias": (4 * width,),
        "mlp.c_proj.weight": (width, 4 * width),
        "mlp.c_proj.bias": (width,),
        "ln_2.weight": (width,),
        "ln_2.bias": (width,),
    }
    return {f"{prefix}transformer.resblocks.{i}.{name}": shape for i in range(layers) for name, shape in block.items()}


def test_names_and_shapes_of_vit_b_32_are_openais():
    """Golden values: the state dict of openai/CLIP's ViT-B/32 (151,277,313 parameters)."""
    expected = {
        "positional_embedding": (77, 512),
        "text_projection": (512, 512),
        "logit_scale": (),
        "token_embedding.weight": (49408, 512),
        "ln_final.weight": (512,),
        "ln_final.bias": (512,),
        "visual.class_embedding": (768,),
        "visual.positional_embedding": (50, 768),
        "visual.proj": (768, 512),
        "visual.conv1.weight": (768, 3, 32, 32),
        "visual.ln_pre.weight": (768,),
        "visual.ln_pre.bias": (768,),
        "visual.ln_post.weight": (768,),
        "visual.ln_post.bias": (768,),
        **openai_shapes(768, 12, "visual."),
        **openai_shapes(512, 12, ""),
    }
    with torch.device("meta"):
        state = CLIP(PRESETS["ViT-B/32"]).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == expected
    assert sum(tensor.numel() for tensor in state.values()) == 151_277_313


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build(name):
    with torch.device("meta"):
        model = CLIP(PRESETS[name])
    assert model.logit_scale.shape == ()


def to_hugging_face(model: CLIP) -> CLIPModel:
    """The same weights in the layout of transformers, which has separate q, k, v and other names."""
    config = model.config
    activation = {"hidden_act": "quick_gelu" if config.quick_gelu else "gelu"}
    text = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.transformer_width,
        "intermediate_size": 4 * config.transformer_width,
        "num_hidden_layers": config.transformer_layers,
        "num_attention_heads": config.transformer_heads,
        "max_position_embeddings": config.context_length,
        "eos_token_id": config.vocab_size - 1,
        **activation,
    }
    vision = {
        "hidden_size": config.vision_width,
        "intermediate_size": 4 * config.vision_width,
        "num_hidden_layers": config.vision_layers,
        "num_attention_heads": config.vision_heads,
        "image_size": config.image_resolution,
        "patch_size": config.vision_patch_size,
        **activation,
    }
    theirs = CLIPModel(HFConfig(text_config=text, vision_config=vision, projection_dim=config.embed_dim)).eval()
    ours = model.state_dict()
    state = {
        "logit_scale": ours["logit_scale"],
        "text_projection.weight": ours["text_projection"].T,
        "visual_projection.weight": ours["visual.proj"].T,
        "text_model.embeddings.token_embedding.weight": ours["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": ours["positional_embedding"],
        "vision_model.embeddings.class_embedding": ours["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": ours["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": ours["visual.positional_embedding"],
    }
    for kind in ("weight", "bias"):
        state[f"text_model.final_layer_norm.{kind}"] = ours[f"ln_final.{kind}"]
        state[f"vision_model.pre_layrnorm.{kind}"] = ours[f"visual.ln_pre.{kind}"]
        state[f"vision_model.post_layernorm.{kind}"] = ours[f"visual.ln_post.{kind}"]
        for tower, prefix, layers in (
            ("text_model", "", config.transformer_layers),
            ("vision_model", "visual.", config.vision_layers),
        ):
            for i in range(layers):
                there, here = f"{tower}.encoder.layers.{i}", f"{prefix}transformer.resblocks.{i}"
                for letter, part in zip("qkv", ours[f"{here}.attn.in_proj_{kind}"].chunk(3), strict=True):
                    state[f"{there}.self_attn.{letter}_proj.{kind}"] = part
                state[f"{there}.self_attn.out_proj.{kind}"] = ours[f"{here}.attn.out_proj.{kind}"]
                state[f"{there}.layer_norm1.{kind}"] = ours[f"{here}.ln_1.{kind}"]
                state[f"{there}.layer_norm2.{kind}"] = ours[f"{here}.ln_2.{kind}"]
                state[f"{there}.mlp.fc1.{kind}"] = ours[f"{here}.mlp.c_fc.{kind}"]
                state[f"{there}.mlp.fc2.{kind}"] = ours[f"{here}.mlp.c_proj.{kind}"]
    theirs.load_state_dict(state)
    return theirs


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_features_and_logits_equal_those_of_transformers(quick_gelu):
    torch.manual_seed(0)
    model = CLIP(replace(SMALL, quick_gelu=quick_gelu)).eval()
    with torch.no_grad():  # at their initial values biases and gains would hide an exchange
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs = to_hugging_face(model)
    image, text = torch.randn(5, 3, 24, 24), random_texts([12, 2, 7, 5, 9])
    with torch.no_grad():
        expected = theirs(input_ids=text, pixel_values=image)
        image_features = theirs.visual_projection(theirs.vision_model(pixel_values=image).pooler_output)
        text_features = theirs.text_projection(theirs.text_model(input_ids=text).pooler_output)
        logits_per_image, logits_per_text = model(image, text)
        ours = model.encode_image(image), model.encode_text(text)
    torch.testing.assert_close(ours[0], image_features, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours[1], text_features, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits_per_image, expected.logits_per_image, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(logits_per_text, expected.logits_per_text, rtol=1e-5, atol=1e-4)


def random_texts(lengths: list[int], padded: int = 12) -> torch.Tensor:
    """Token ids (B, padded): start, words, end, zeros."""
    text = torch.zeros(len(lengths), padded, dtype=torch.int64)
    for row, length in enumerate(lengths):
        text[row, :length] = torch.randint(1, 598, (length,))
        text[row, 0], text[row, length - 1] = 598, 599
    return text


@pytest.fixture(scope="module")
def model() -> CLIP:
    torch.manual_seed(0)
    return CLIP(SMALL).double().eval()


@given(st.lists(st.integers(0, 11), min_size=1, max_size=4))
def test_the_pooled_token_is_that_of_blocks_which_treat_all_tokens(model, pooled):
    tokens = torch.randn(len(pooled), 12, SMALL.transformer_width, dtype=torch.float64)
    expected = model.transformer(tokens)[torch.arange(len(pooled)), pooled]
    torch.testing.assert_close(model.transformer(tokens, torch.tensor(pooled)), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(model.transformer(tokens, pooled[0])[0], expected[0], rtol=0, atol=1e-12)


@given(st.lists(st.integers(2, 12), min_size=1, max_size=4))
def test_cutting_at_the_longest_text_changes_nothing(model, lengths):
    text = random_texts(lengths)
    torch.testing.assert_close(model.encode_text(text[:, : max(lengths)]), model.encode_text(text), rtol=0, atol=1e-12)


@given(st.lists(st.integers(2, 11), min_size=1, max_size=4), st.integers(0, 2**31))
def test_what_stands_after_the_end_changes_nothing(model, lengths, seed):
    text = random_texts(lengths)
    changed = text.clone()
    after = torch.arange(12) >= torch.tensor(lengths)[:, None]
    changed[after] = torch.randint(0, 600, (int(after.sum()),), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(model.encode_text(changed), model.encode_text(text), rtol=0, atol=1e-12)


def test_every_word_before_the_end_counts(model):
    text = random_texts([12])
    for place in range(1, 11):
        changed = text.clone()
        changed[0, place] = text[0, place] % 597 + 1
        assert not torch.allclose(model.encode_text(changed), model.encode_text(text), rtol=1e-6)


def test_gradients_agree_with_finite_differences():
    torch.manual_seed(0)
    model = CLIP(TINY).double()
    image, text = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.tensor([[4, 1, 5, 0], [4, 5, 0, 0]])
    names, values = zip(*((n, p.detach().requires_grad_()) for n, p in model.named_parameters()), strict=True)

    def logits(*parameters: torch.Tensor) -> torch.Tensor:
        return functional_call(model, dict(zip(names, parameters, strict=True)), (image, text))[0]

    assert torch.autograd.gradcheck(logits, values)


def test_logit_scale_starts_at_the_papers_value_and_is_clamped_to_a_hundred():
    model = CLIP(TINY)
    assert model.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    model.logit_scale.data.fill_(7.0)
    model.clamp_logit_scale()
    assert model.logit_scale.item() == pytest.approx(math.log(100))


def test_wrong_shapes_are_named(model):
    with pytest.raises(ValueError, match=r"\(1, 3, 25, 24\).*\(B, 3, 24, 24\)"):
        model.encode_image(torch.zeros(1, 3, 25, 24, dtype=torch.float64))
    with pytest.raises(ValueError, match="texts of 13 tokens, the model reads 12"):
        model.encode_text(torch.zeros(1, 13, dtype=torch.int64))
    with pytest.raises(ValueError, match="image_resolution 24 is not a multiple of vision_patch_size 7"):
        CLIP(replace(SMALL, vision_patch_size=7))
    with pytest.raises(ValueError, match="vision_layers is 0"):
        replace(SMALL, vision_layers=0)
    with pytest.raises(ValueError, match="width 32 is not a multiple of the number of heads, 5"):
        CLIP(replace(SMALL, vision_heads=5))
