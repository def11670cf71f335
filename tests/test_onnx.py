"""ONNX graphs, run by onnxruntime."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from minclip import CLIP, PRESETS, Tokenizer
from minclip.formats import onnx
from minclip.formats.saved import Saved
from minclip.images import Preprocess

CONFIG = replace(PRESETS["smoke"], vision_layers=2, context_length=12, vocab_size=520)


@pytest.fixture(scope="module")
def saved() -> Saved:
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(["red heart red heart"], 520)
    return Saved(CONFIG, CLIP(CONFIG).state_dict(), tokenizer, Preprocess(24), {"data": None})


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("quick_gelu", [True, False])
def test_onnxruntime_answers_the_same_for_batches_of_any_size(saved, tmp_path, quick_gelu):
    runtime = pytest.importorskip("onnxruntime", reason="needs minclip[onnx]")
    pytest.importorskip("onnxscript", reason="needs minclip[onnx]")
    saved = replace(saved, config=replace(CONFIG, quick_gelu=quick_gelu))
    onnx.write_onnx(saved, tmp_path / "out")
    names = {"image.onnx", "text.onnx", "config.json", "merges.txt.gz"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert Tokenizer.load(tmp_path / "out" / "merges.txt.gz").merges == saved.tokenizer.merges
    model = saved.build()
    image_tower, text_tower = (
        runtime.InferenceSession(tmp_path / "out" / f"{name}.onnx") for name in ("image", "text")
    )
    for size in (1, 2, 5):
        images = torch.randn(size, 3, 24, 24, generator=torch.Generator().manual_seed(size))
        texts = torch.zeros(size, 12, dtype=torch.int64)
        tokens = saved.tokenizer(["red heart", "a", "a red heart"] * 2)[:size]
        texts[:, : tokens.shape[1]] = tokens
        (image_features,) = image_tower.run(None, {"image": images.numpy()})
        (text_features,) = text_tower.run(None, {"text": texts.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(image_features, model.encode_image(images), rtol=0, atol=1e-4)
            np.testing.assert_allclose(text_features, model.encode_text(texts), rtol=0, atol=1e-4)


def test_without_the_extra_it_says_what_to_install(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "PACKAGES", ("no_such_package",))
    with pytest.raises(ModuleNotFoundError, match=r"no_such_package: pip install 'minclip\[onnx\]'"):
        onnx.write_onnx(saved, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(saved, tmp_path):
    pytest.importorskip("onnxscript", reason="needs minclip[onnx]")
    with pytest.raises(FileExistsError, match="already exists"):
        onnx.write_onnx(saved, tmp_path)
