"""The checks of lesson 01, Pull and push."""

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from check.cases import cross_entropy, expect, expect_and_differentiate, features, given, pairs_of_features, show
from check.verdict import Wrong, exercise


@exercise("give every row of both length 1 (F.normalize with dim=1), then one matrix product with .T.")
def cosine_matrix(attempt, draw):
    width = draw(st.integers(1, 6))
    image, text = draw(features(width=width)), draw(features(width=width))
    got = attempt(image, text)
    by_hand = torch.tensor([[float(x @ y / ((x @ x) * (y @ y)).sqrt()) for y in text] for x in image])
    if isinstance(got, Tensor) and got.shape == by_hand.shape:
        if got.abs().max() > 1 + 1e-4:
            raise Wrong(f"{show(got)} leaves [−1, 1]{given({'image_features': image, 'text_features': text})}")
        expect(attempt(image, image).diagonal(), torch.ones(len(image)), image_features=image, text_features=image)
        longer = draw(st.sampled_from([2.0, 10.0, 0.1]))
        if not torch.allclose(attempt(longer * image, text), got, atol=1e-4):
            case = given({"image_features": image, "text_features": text})
            raise Wrong(f"it changes when the image features become {longer:g} times as long{case}")
    expect(got, by_hand, image_features=image, text_features=text)

    def reference(x, y):
        return F.normalize(x) @ F.normalize(y).T

    expect_and_differentiate(attempt, reference, [image, text], image_features=image, text_features=text)


@exercise("from row i its own z_ii is subtracted, not z_jj from column j; and the right text is not in the sum.")
def n_pair_loss(attempt, draw):
    image, text = pairs_of_features(draw)
    logits = 3 * F.normalize(image) @ F.normalize(text).T
    expect_and_differentiate(attempt, cross_entropy, [logits], logits=logits)
