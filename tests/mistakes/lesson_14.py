"""Wrong answers to the exercises of lesson 14, each with words of the hint that fits it."""

import importlib

import torch
import torch.nn.functional as F

from minclip import clip_loss
from mistakes import Hinted


def chunks_of(images, tokens, chunk):
    return list(zip(images.split(chunk), tokens.split(chunk), strict=True))


def cleared_first(name):
    """The solution, after it has thrown away what is in `.grad`."""

    def attempt(model, images, tokens, chunk):
        model.zero_grad()
        return getattr(importlib.import_module("solutions.lesson_14"), name)(model, images, tokens, chunk)

    return attempt


def joined(encoded):
    """Features of chunks, (n, E) of each tower, to features (N, E) of all."""
    images, texts = zip(*encoded, strict=True)
    return torch.cat(images), torch.cat(texts)


def accumulated(weigh, keep=lambda chunks: chunks, loss_of=clip_loss, scale_of=torch.exp, clear=False):
    """The accumulated gradient, but for one thing."""

    def attempt(model, images, tokens, chunk):
        total = 0.0
        for x, y in keep(chunks_of(images, tokens, chunk)):
            if clear:
                model.zero_grad()
            loss = loss_of(model.encode_image(x), model.encode_text(y), scale_of(model.logit_scale))
            loss = weigh(loss, len(x), len(images), chunk)
            loss.backward()
            total += loss.item()
        return total

    return attempt


def share(loss, pairs, size, chunk):
    return loss * pairs / size


def one_direction(x, y, scale):
    return F.cross_entropy(scale * F.normalize(x) @ F.normalize(y).T, torch.arange(len(x)))


def whole_batch(model, images, tokens, chunk):
    loss = clip_loss(model.encode_image(images), model.encode_text(tokens), model.logit_scale.exp())
    loss.backward()
    return loss.item()


def backward_at_the_end(model, images, tokens, chunk):
    loss = torch.zeros(())
    for x, y in chunks_of(images, tokens, chunk):
        part = clip_loss(model.encode_image(x), model.encode_text(y), model.logit_scale.exp())
        loss = loss + part * len(x) / len(images)
    loss.backward()
    return loss.item()


def with_the_graph_of_all(model, images, tokens, chunk):
    """The plain step in pieces."""
    encoded = [(model.encode_image(x), model.encode_text(y)) for x, y in chunks_of(images, tokens, chunk)]
    loss = clip_loss(*joined(encoded), logit_scale=model.logit_scale.exp())
    loss.backward()
    return loss.item()


def without_detach(model, images, tokens, chunk):
    """The features of the first pass are leaves, but their graphs are still in the list."""
    encoded = [(model.encode_image(x), model.encode_text(y)) for x, y in chunks_of(images, tokens, chunk)]
    x, y = (tower.detach().requires_grad_() for tower in joined(encoded))
    loss = clip_loss(x, y, model.logit_scale.exp())
    of_x, of_y = torch.autograd.grad(loss, (x, y))
    for pair, rows in zip(encoded, chunks_of(of_x, of_y, chunk), strict=True):
        torch.autograd.backward(pair, rows)
    return loss.item()


def cached_features(model, images, tokens, chunk, states):
    with torch.no_grad():
        encoded = []
        for x, y in chunks_of(images, tokens, chunk):
            states.append(torch.get_rng_state())
            encoded.append((model.encode_image(x), model.encode_text(y)))
    return encoded


def a_loss_for_each_chunk(model, images, tokens, chunk):
    """As open_clip's --accum-freq does it."""
    states, total = [], 0.0
    encoded = cached_features(model, images, tokens, chunk, states)
    for k, (x, y) in enumerate(chunks_of(images, tokens, chunk)):
        torch.set_rng_state(states[k])
        mixed = [*encoded[:k], (model.encode_image(x), model.encode_text(y)), *encoded[k + 1 :]]
        loss = clip_loss(*joined(mixed), logit_scale=model.logit_scale.exp())
        loss.backward()
        total = loss.item()
    return total


def in_one_first_pass(model, images, tokens, chunk):
    with torch.no_grad():
        return clip_loss(model.encode_image(images), model.encode_text(tokens), model.logit_scale.exp()).item()


def evaluated(model, images, tokens, chunk):
    """Dropout is switched off for the first pass."""
    solved = importlib.import_module("solutions.lesson_14").cached_gradient
    encode, seen = model.encode_image, []

    def encode_image(x):
        seen.append(x)
        model.train(len(seen) > -(-len(images) // chunk))
        return encode(x)

    model.encode_image = encode_image
    return solved(model, images, tokens, chunk)


ANSWERS = {
    "accumulated_gradient": [
        (accumulated(lambda loss, *sizes: loss), "a sum for a mean"),
        (accumulated(lambda loss, pairs, size, chunk: loss / -(-size // chunk)), "fewer pairs"),  # mean of means
        (accumulated(lambda loss, pairs, size, chunk: loss / chunk), "The loss is a mean over all N pairs"),
        (accumulated(share, lambda chunks: chunks[:-1] or chunks), "the last chunk may be smaller"),
        (accumulated(share, lambda chunks: chunks[-1:]), "each pair has to be encoded"),
        (accumulated(share, clear=True), "what sets the gradients to zero"),
        (cleared_first("accumulated_gradient"), "the caller sets them to zero"),
        (accumulated(share, loss_of=one_direction), "both directions"),
        (accumulated(share, scale_of=lambda scale: scale), "the scale itself: model.logit_scale.exp()"),
        (accumulated(share, scale_of=lambda scale: scale.exp().detach()), "the loss depends on the scale as well"),
        (whole_batch, "encode one piece at a time"),
        (backward_at_the_end, "a graph lives until backward has gone through it"),
        (("total += loss.item()", "total = loss.item()"), "not of a chunk"),
        (("return total", "return torch.tensor(total)"), "loss.item()"),
    ],
    "cached_gradient": [
        (accumulated(share), "the loss has to see the features of all N pairs"),
        (whole_batch, "in every pass"),
        (in_one_first_pass, "in every pass"),
        (with_the_graph_of_all, "a graph lives until backward has gone through it"),
        (without_detach, "torch.no_grad"),
        (a_loss_for_each_chunk, "let only one of them reach it"),
        (evaluated, "leave the model in training mode"),
        (cleared_first("cached_gradient"), "the caller sets them to zero"),
        (("        torch.set_rng_state(state)\n", ""), "call torch.set_rng_state(state) before it is encoded again"),
        (  # the same seed for every chunk
            ("states.append(torch.get_rng_state())", "states.append(torch.manual_seed(0).get_state())"),
            "never seed the generator",
        ),
        (  # new numbers for every chunk, the same in every step
            ("states.append(torch.get_rng_state())", "states.append(torch.manual_seed(len(states)).get_state())"),
            "never seed the generator",
        ),
        (  # a surrogate loss whose gradient is the right one, but for its length
            ("torch.autograd.backward(again, gradients)",
             "sum((f * g).mean() for f, g in zip(again, gradients)).backward()"),
            "a mean taken for a sum",
        ),
        (  # the loss of a chunk counts once more for each chunk
            ("loss.backward()  # as far", "(loss * len(chunks)).backward()  # as far"),
            "a sum for a mean",
        ),
        (
            ("chunks = list(zip(images.split(chunk), tokens.split(chunk), strict=True))\n    states",
             "N = len(images) // chunk * chunk\n    images, tokens = images[:N], tokens[:N]\n"
             "    chunks = list(zip(images.split(chunk), tokens.split(chunk), strict=True))\n    states"),
            "the last chunk may be smaller",
        ),
        (
            ("zip(chunks, states, from_above, strict=True)", "zip(chunks[:-1] or chunks, states, from_above)"),
            "the last chunk may be smaller",
        ),
        (("exp())\n    loss.backward()  #", "exp().detach())\n    loss.backward()  #"), "Once, and without a detach"),
        ((".exp())\n    loss.backward()  #", ")\n    loss.backward()  #"), "the scale itself"),
        (("torch.autograd.backward(again, gradients)", "again[0].backward(gradients[0])"), "both towers"),
        (  # the rows of another chunk
            ("(tower.grad.split(chunk) for tower in features)",
             "(tower.grad.split(chunk)[::-1] for tower in features)"),
            "the rows of its own pairs",
        ),
        (  # the gradients exchanged
            ("torch.autograd.backward(again, gradients)", "torch.autograd.backward(again, gradients[::-1])"),
            "each tower its own gradient",
        ),
        (("return loss.item()", "return loss.detach()"), "loss.item()"),
    ],
}  # fmt: skip

MISTAKES = {name: [Hinted(*answer) for answer in answers] for name, answers in ANSWERS.items()}
