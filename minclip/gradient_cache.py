"""A batch in parts that fit into memory, with exactly the gradients of the whole batch.

The loss compares every picture with every text of a batch, so adding up the losses of its parts would give another
loss. Instead: encode every part without a graph, compute one loss over all features and its gradients with respect to
them, then encode every part again, with a graph, and send its features' gradients through it. Memory holds the graph of
one part at a time. Source: Gao et al. 2021 (GradCache, arXiv:2101.06983).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

Part = tuple[torch.Tensor, torch.Tensor]  # pictures and token ids, or features of both
Encode = Callable[[torch.Tensor, torch.Tensor], Part]


def backward(
    encode: Encode, parts: Sequence[Part], loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Add the gradients of `loss_of(image_features, text_features)` to the parameters; returns the loss, detached.

    parts: pictures (b, 3, R, R) and tokens (b, T) of each, which may be made when they are asked for. With a single
    part the graph of its first encoding is kept, and this is the plain step.
    """
    if len(parts) == 1:
        encoded = encode(*parts[0])
        loss, gradients = _gradients(encoded, loss_of)
        _send_through(encoded, gradients)
        return loss
    features, states = _encode_without_graph(encode, parts)
    loss, gradients = _gradients(features, loss_of)
    del features  # They are not needed again, and the memory is.
    start = 0
    for i in range(len(parts)):
        with states.replayed(i):
            encoded = encode(*parts[i])
        rows = slice(start, start + len(encoded[0]))
        _send_through(encoded, [gradient[rows] for gradient in gradients])
        start = rows.stop
    return loss


def _encode_without_graph(encode: Encode, parts: Sequence[Part]) -> tuple[list[torch.Tensor], "RandomStates"]:
    """The features of all parts, (B, E) of each tower, and torch's random states in front of each part.

    What is kept of the parts lies in buffers that exist from the start. Small tensors between the large ones that come
    and go would keep the allocator from reusing memory: with each random state in a tensor of its own, this took 105 MB
    instead of 40 for the emoji model and 4,096 pairs in parts of 64.
    """
    features: list[torch.Tensor] = []
    states, count = RandomStates(len(parts)), 0
    with torch.no_grad():
        for i, (images, tokens) in enumerate(parts):
            states.keep(i, images.device)
            encoded = encode(images, tokens)
            if not features:  # No part is larger than the first.
                features = [tower.new_empty(len(parts) * len(tower), *tower.shape[1:]) for tower in encoded]
            for whole, tower in zip(features, encoded, strict=True):
                whole[count : count + len(tower)] = tower
            count += len(images)
    return [whole[:count] for whole in features], states


def _gradients(features: Sequence[torch.Tensor], loss_of: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, list]:
    """The loss of features, and its gradients with respect to them; other parameters accumulate theirs in `grad`."""
    leaves = [tower.detach().requires_grad_() for tower in features]
    loss = loss_of(*leaves)
    loss.backward()
    return loss.detach(), [leaf.grad for leaf in leaves]


def _send_through(features: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]) -> None:
    """Continue backward from the gradients of the features. The features of a locked tower have no graph."""
    learning = [(x, gradient) for x, gradient in zip(features, gradients, strict=True) if x.requires_grad]
    torch.autograd.backward([x for x, _ in learning], [gradient for _, gradient in learning])


class RandomStates:
    """The states of torch's generators in front of each part, so that it is encoded twice with the same numbers."""

    def __init__(self, parts: int) -> None:
        self._cpu = torch.get_rng_state().repeat(parts, 1)
        self._cuda: dict[torch.device, list[torch.Tensor]] = {}

    def keep(self, part: int, device: torch.device) -> None:
        """Keep the states as they are now; parts come in their order, and on one device."""
        self._cpu[part] = torch.get_rng_state()
        if device.type == "cuda":
            self._cuda.setdefault(device, []).append(torch.cuda.get_rng_state(device))

    @contextmanager
    def replayed(self, part: int) -> Iterator[None]:
        with torch.random.fork_rng(list(self._cuda)):
            torch.set_rng_state(self._cpu[part].clone())  # It reads from the start of the tensor's storage.
            for device, states in self._cuda.items():
                torch.cuda.set_rng_state(states[part], device)
            yield
