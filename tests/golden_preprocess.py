"""Makes golden_preprocess.npz: OpenAI's preprocessing by torchvision, of pictures of many shapes.

    pip install torchvision && python tests/golden_preprocess.py

`test_images.py` makes the same pictures with `picture` and compares. Made with torchvision 0.29.1 and Pillow 13.0.
"""

from pathlib import Path

import numpy as np
from PIL import Image

SHAPES = [(16, 16), (17, 16), (31, 47), (48, 32), (100, 37), (9, 40), (5, 3), (400, 300), (299, 401), (64, 640), (1, 9)]
RESOLUTIONS = (16, 15)


def picture(width: int, height: int) -> Image.Image:
    """Waves of every frequency, and a corner of noise, drawn without a random generator."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    waves = [np.sin(0.3 * x + 0.1 * y), np.sin(2.9 * x * y / (height + width)), np.cos(1.7 * y - 0.01 * x**2)]
    pixels = (127.5 + 127.5 * np.stack(waves, axis=-1)).astype(np.uint8)
    corner = pixels[: height // 2, : width // 2]
    corner[:] = (y * 7919 + x * 104729 + 31)[: height // 2, : width // 2, None].astype(np.int64) ** 2 % 251
    return Image.fromarray(pixels)


def by_torchvision(image: Image.Image, resolution: int) -> np.ndarray:
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize  # pyright: ignore[reportMissingImports]

    return np.asarray(Compose([Resize(resolution, InterpolationMode.BICUBIC), CenterCrop(resolution)])(image))


if __name__ == "__main__":
    arrays = {
        f"{width}x{height} to {resolution}": by_torchvision(picture(width, height), resolution)
        for width, height in SHAPES
        for resolution in RESOLUTIONS
    }
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **arrays)  # pyright: ignore[reportArgumentType]
