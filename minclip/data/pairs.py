"""Pictures with captions, and the part of them that is held out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from minclip.data.streamed import Streamed, digest
from minclip.images import Origin
from minclip.prompts import PLAIN


@dataclass(frozen=True)
class Pairs:
    """N captions for P pictures: caption i describes picture `image_of_caption[i]`.

    images (P, 3, R, R) uint8 in memory or streamed, or what a frozen image tower saw in them, (P, C), on the CPU;
    origins (P); captions (N); image_of_caption (N,) int64. `templates` are the phrasings of a caption in training,
    which come with some layouts.
    """

    images: torch.Tensor | Streamed
    origins: Sequence[Origin]
    captions: list[str]
    image_of_caption: torch.Tensor
    templates: Sequence[str] = PLAIN

    def __len__(self) -> int:
        return len(self.captions)

    def distinct_captions(self) -> tuple[list[str], torch.Tensor]:
        """The distinct captions (T), and for each caption its index among them: (N,) int64."""
        index = {caption: i for i, caption in enumerate(dict.fromkeys(self.captions))}
        return list(index), torch.tensor([index[caption] for caption in self.captions], dtype=torch.int64)

    @staticmethod
    def join(parts: Sequence["Pairs"]) -> "Pairs":
        """All pictures and captions of several sets, in their order; the pictures must be in memory."""
        starts = np.cumsum([0, *(len(part.origins) for part in parts)]).tolist()
        return Pairs(
            torch.cat([part.images[:] for part in parts]),
            [origin for part in parts for origin in part.origins],
            [caption for part in parts for caption in part.captions],
            torch.cat([part.image_of_caption + start for part, start in zip(parts, starts, strict=False)]),
        )

    def merge_equal_pictures(self) -> "Pairs":
        """Make pictures that are equal, pixel for pixel, one picture with the captions of all of them."""
        index: dict[bytes, int] = {}
        merged = [index.setdefault(image.numpy().tobytes(), len(index)) for image in self.images]
        first = [merged.index(i) for i in range(len(index))]
        owners = torch.tensor(merged, dtype=torch.int64)[self.image_of_caption]
        images, origins = self.images[first], [self.origins[i] for i in first]
        return replace(self, images=images, origins=origins, image_of_caption=owners)

    def select(self, pictures: Sequence[int]) -> "Pairs":
        """Keep only the given pictures, in the given order, with all of their captions, which keep their own order."""
        index = {picture: i for i, picture in enumerate(pictures)}
        kept = [(i, index[p]) for i, p in enumerate(self.image_of_caption.tolist()) if p in index]
        images = self.images.select(pictures) if isinstance(self.images, Streamed) else self.images[list(pictures)]
        return replace(
            self,
            images=images,
            origins=[self.origins[p] for p in pictures],
            captions=[self.captions[i] for i, _ in kept],
            image_of_caption=torch.tensor([p for _, p in kept], dtype=torch.int64),
        )

    def split(self, is_held_out: Sequence[bool]) -> tuple["Pairs", "Pairs"]:
        """Separate the pictures into those to train on and those held out."""
        train = [i for i, flag in enumerate(is_held_out) if not flag]
        held_out = [i for i, flag in enumerate(is_held_out) if flag]
        return self.select(train), self.select(held_out)


def digests(images: torch.Tensor | Streamed) -> Sequence[bytes]:
    """The SHA-256 of the pixels of every picture."""
    return images.digests if isinstance(images, Streamed) else [digest(image) for image in images]


def belongs_to_test(digest: bytes) -> bool:
    """Whether a picture with these pixels is held out: 26 of 256 are."""
    return digest[0] < 26


def hold_out(pairs: Pairs) -> tuple[Pairs, Pairs | None]:
    """Hold out about a tenth of the pictures; returns `(pairs, None)` if that would be none or all of them.

    A picture's own pixels decide, so it stays on its side when other pictures come and go, whatever its name.
    """
    is_held_out = [belongs_to_test(digest) for digest in digests(pairs.images)]
    if all(is_held_out) or not any(is_held_out):
        return pairs, None
    return pairs.split(is_held_out)
