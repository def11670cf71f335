from typing import Any

import torch
from torch import Tensor

import minclip


def accumulated_gradient(model: minclip.CLIP, images: Tensor, tokens: Tensor, chunk: int) -> float:
    total = 0.0
    for some_images, some_tokens in zip(images.split(chunk), tokens.split(chunk), strict=True):
        features = model.encode_image(some_images), model.encode_text(some_tokens)
        share = len(some_images) / len(images)  # the last chunk may be smaller
        loss = share * minclip.clip_loss(*features, model.logit_scale.exp())
        loss.backward()
        total += loss.item()
    return total


def cached_gradient(model: minclip.CLIP, images: Tensor, tokens: Tensor, chunk: int) -> float:
    chunks = list(zip(images.split(chunk), tokens.split(chunk), strict=True))
    states, encoded = [], []
    with torch.no_grad():
        for some_images, some_tokens in chunks:
            states.append(torch.get_rng_state())
            encoded.append((model.encode_image(some_images), model.encode_text(some_tokens)))
    features: list[Any] = [torch.cat(tower).requires_grad_() for tower in zip(*encoded, strict=True)]  # (N, E) each
    loss = minclip.clip_loss(features[0], features[1], model.logit_scale.exp())
    loss.backward()  # as far as the features and the scale, whose gradient is complete now
    from_above = zip(*(tower.grad.split(chunk) for tower in features), strict=True)
    for (some_images, some_tokens), state, gradients in zip(chunks, states, from_above, strict=True):
        torch.set_rng_state(state)
        again = model.encode_image(some_images), model.encode_text(some_tokens)
        torch.autograd.backward(again, gradients)
    return loss.item()
