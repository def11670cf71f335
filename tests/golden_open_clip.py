"""Makes golden_open_clip.json: parameter names and shapes of a small model, and features, by OpenCLIP's own code.

    pip install open_clip_torch && python tests/golden_open_clip.py

The weights are a formula of their name, so that `test_openai.py` can make them without OpenCLIP. Made with
open_clip_torch 3.3.0 and torch 2.14.1.
"""

import json
import zlib
from pathlib import Path

import torch

MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 24, "layers": 2, "width": 64, "head_width": 32, "patch_size": 12},
    "text_cfg": {"context_length": 12, "vocab_size": 520, "width": 64, "heads": 2, "layers": 2},
}


def formula(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Numbers that depend on a name, of the size that weights have; gains are near 1."""
    phase, n = zlib.crc32(name.encode()) % 1000, torch.Size(shape).numel()
    waves = torch.sin(torch.arange(n, dtype=torch.float64) * 1.7 + phase).reshape(shape)
    return (waves * 0.1 + (1.0 if "ln_" in name and name.endswith("weight") else 0.0)).float()


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """Two pictures (2, 3, 24, 24) and two texts (2, 12), the end token of which has the highest id."""
    texts = torch.zeros(2, 12, dtype=torch.int64)
    texts[0, :4], texts[1] = torch.tensor([518, 7, 300, 519]), torch.tensor([518, *range(40, 50), 519])
    return formula("pictures", (2, 3, 24, 24)) * 10, texts


def by_open_clip(quick_gelu: bool) -> tuple[dict[str, list[int]], list[list[list[float]]]]:
    """Names with shapes, and the features of pictures and texts."""
    from open_clip.model import CLIP  # pyright: ignore[reportMissingImports]

    model = CLIP(**MODEL, quick_gelu=quick_gelu).eval()
    state = {name: formula(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()}
    model.load_state_dict(state)
    images, texts = inputs()
    with torch.no_grad():
        features = model.encode_image(images), model.encode_text(texts)
    return {name: list(tensor.shape) for name, tensor in state.items()}, [each.tolist() for each in features]


if __name__ == "__main__":
    names, gelu = by_open_clip(quick_gelu=False)
    _, quick_gelu = by_open_clip(quick_gelu=True)
    content = {"names": names, "gelu": gelu, "quick_gelu": quick_gelu}
    Path(__file__).with_suffix(".json").write_text(json.dumps(content) + "\n")
