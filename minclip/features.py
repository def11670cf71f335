"""Features of the user's pictures, computed once for each picture and model and then read from the user's cache."""

import hashlib
import sys
from collections.abc import Iterator, Sequence

import torch
from tqdm import tqdm

from minclip.data.memory import Reading
from minclip.data.remembered import remembered
from minclip.data.streamed import decode_ahead
from minclip.evaluate import image_features
from minclip.images import Source
from minclip.model import CLIP

FEW = 200  # up to this many pictures are decoded before other processes would have started


def picture_features(
    model: CLIP, sources: Sequence[Source], workers: int | None = None
) -> tuple[list[int], torch.Tensor, list[str]]:
    """The indices of the pictures that can be read, their unit vectors (P', E), and what is wrong with the others.

    A picture is encoded again if its name, size or time, or a weight of the model, has changed.
    """
    workers = Reading().workers if workers is None else workers
    problems: list[str] = []

    def encode(missing: list[int]) -> tuple[list[int], torch.Tensor]:
        readable: list[int] = []

        def pixels() -> Iterator[torch.Tensor]:
            decoded = decode_ahead(sources, model.preprocess, missing, workers if len(missing) > FEW else 0)
            hidden = len(missing) < FEW or not sys.stderr.isatty()
            bar = tqdm(decoded, "reading", len(missing), leave=False, disable=hidden)
            for i, image in zip(missing, bar, strict=True):
                if isinstance(image, Exception):
                    problems.append(str(image))
                else:
                    readable.append(i)
                    yield image

        features = image_features(model, pixels())
        return readable, features

    pictures, features = remembered(f"features {fingerprint(model)}", sources, encode)
    return pictures, features, problems


def fingerprint(model: CLIP) -> str:
    """A checksum of what a model makes of a picture: the weights of its picture tower, and the preprocessing."""
    digest = hashlib.sha256(repr((model.config, model.preprocess)).encode())
    for name, tensor in sorted(model.visual.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
