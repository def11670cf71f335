"""A batch in parts that fit into memory, with exactly the gradients of the whole batch.

The loss compares every picture with every text of a batch, so adding up the losses of its parts would be another loss.
Instead: encode every part without a graph, take one loss of all features and its gradients by them, then encode every
part again, with a graph, and send its features' gradients through it. Memory holds the graph of one part at a time.
Source: Gao et al. 2021 (GradCache, arXiv:2101.06983).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

Part = tuple[torch.Tensor, torch.Tensor]  # pictures and token ids, or features of both


def backward(
    encode: Callable[[torch.Tensor, torch.Tensor], Part],
    parts: Sequence[Part],
    loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Add the gradients of `loss_of(image_features, text_features)` to the parameters; returns the loss, detached.

    parts: pictures (b, 3, R, R) and tokens (b, T) of each, which may be made when they are asked for. With a single
    part the graph of its first encoding is kept, and this is the plain step.
    """
    states, encoded = [], []
    with torch.set_grad_enabled(len(parts) == 1):
        for images, tokens in parts:
            states.append(RandomState(images.device))
            encoded.append(encode(images, tokens))
    wholes = [torch.cat(tower).detach().requires_grad_() for tower in zip(*encoded, strict=True)]  # (B, E) each
    loss = loss_of(*wholes)
    loss.backward()
    sizes = [len(image_features) for image_features, _ in encoded]
    gradients = zip(*(whole.grad.split(sizes) for whole in wholes if whole.grad is not None), strict=True)
    for i, gradient in enumerate(gradients):
        features = encoded[i]
        if len(parts) > 1:
            with states[i].replayed():
                features = encode(*parts[i])
        # A tower that does not learn has features without a graph.
        learning = [(x, g) for x, g in zip(features, gradient, strict=True) if x.requires_grad]
        torch.autograd.backward([x for x, _ in learning], [g for _, g in learning])
    return loss.detach()


class RandomState:
    """The states of torch's generators when it was made, so that a part is encoded twice with the same numbers."""

    def __init__(self, device: torch.device) -> None:
        self._devices = [device] if device.type == "cuda" else []
        self._cpu, self._cuda = torch.get_rng_state(), [torch.cuda.get_rng_state(d) for d in self._devices]

    @contextmanager
    def replayed(self) -> Iterator[None]:
        with torch.random.fork_rng(self._devices):
            torch.set_rng_state(self._cpu)
            for device, state in zip(self._devices, self._cuda, strict=True):
                torch.cuda.set_rng_state(state, device)
            yield
