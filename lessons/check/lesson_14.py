"""The checks of lesson 14: gradients of a batch in chunks, by towers that notice how they are used."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from check.verdict import Wrong, exercise

Gradients = dict[str, Tensor]
LARGEST_ERROR = 1e-6  # of a gradient, relative to its length
KEPT = "what sets the gradients to zero, and when? Yours are added to those already there: the caller sets them to zero"


class Tower(nn.Module):
    """Two layers with random numbers between them, as dropout has, which notes what it is given.

    The first number of every row is the place of the pair in the batch.
    """

    def __init__(self, chunk: int, noisy: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)
        self.chunk, self.noisy = chunk, noisy
        self.noise: dict[int, list[Tensor]] = {}  # place -> what was drawn for it, at each encoding
        self.learned: set[int] = set()  # places that were encoded with a graph
        self.graphs: list[tuple[StorageWeakRef, int]] = []  # the graphs, and the pairs in each

    def inside(self, rows: Tensor) -> Tensor:
        return self.first(rows / rows.new_tensor([10, 1, 1])).tanh()

    def forward(self, rows: Tensor) -> Tensor:
        """Rows (n, 3) to features (n, 3)."""
        if len(rows) > self.chunk:
            hint = "cut the batch with .split(chunk), and encode one piece at a time, in every pass"
            raise Wrong(f"{len(rows)} pairs went through a tower at once, chunk is {self.chunk}", hint)
        places = rows[:, 0].long().tolist()
        hidden = self.inside(rows)
        noise = torch.rand_like(hidden) if self.noisy and self.training else torch.ones_like(hidden)
        for place, drawn in zip(places, noise, strict=True):
            self.noise.setdefault(place, []).append(drawn)
        if torch.is_grad_enabled():
            self.learned.update(places)
            hidden = self._with_graph(hidden)
        return self.last(hidden * noise)

    def _with_graph(self, hidden: Tensor) -> Tensor:
        """Raise Wrong if graphs of more than `chunk` pairs exist now. Backward frees the memory of a graph."""
        kept = hidden.new_ones(len(hidden), 1)
        self.graphs.append((StorageWeakRef(kept.untyped_storage()), len(hidden)))
        self.graphs = [(memory, pairs) for memory, pairs in self.graphs if not memory.expired()]
        if (alive := sum(pairs for _, pairs in self.graphs)) > self.chunk:
            hint = (
                "a graph lives until backward has gone through it: send each chunk backwards, through both towers, "
                "before you encode the next one; and where you only want features, encode without a graph "
                "(torch.no_grad)"
            )
            raise Wrong(f"graphs of {alive} pairs were in memory at the same time, chunk is {self.chunk}", hint)
        return hidden * kept


class Model(nn.Module):
    """Two towers and a scale, which start from the same weights every time."""

    def __init__(self, chunk: int, noisy: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.image, self.text = Tower(chunk, noisy).double(), Tower(chunk, noisy).double()
        self.logit_scale = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def encode_image(self, images: Tensor) -> Tensor:
        """Pictures (n, 3, 1, 1) to features (n, 3)."""
        return self.image(images.flatten(1))

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Token ids (n, 3) to features (n, 3)."""
        return self.text(tokens.double())


def batch_of(size: int) -> tuple[Tensor, Tensor]:
    """Pictures (N, 3, 1, 1) and tokens (N, 3); the first number of each is its place in the batch."""
    generator = torch.Generator().manual_seed(size)
    images = torch.randn(size, 3, 1, 1, generator=generator, dtype=torch.float64)
    tokens = torch.randint(-2, 3, (size, 3), generator=generator)
    images[:, 0, 0, 0], tokens[:, 0] = torch.arange(size), torch.arange(size)
    return images, tokens


def reference(
    images: Tensor, tokens: Tensor, group: int, noise: Iterable[Tensor | float] = (1.0, 1.0)
) -> tuple[float, Gradients]:
    """The loss and the gradients of pairs that compete in groups, from one N×N matrix of which only those blocks count.

    `noise`: the random numbers of all pairs in each tower, (N, 4).
    """
    model = Model(len(images))
    inputs = (model.image, images.flatten(1)), (model.text, tokens.double())
    features = [
        F.normalize(tower.last(tower.inside(rows) * drawn), dim=1)
        for (tower, rows), drawn in zip(inputs, noise, strict=True)
    ]
    logits = model.logit_scale.exp() * features[0] @ features[1].T  # (N, N)
    block = torch.arange(len(logits)) // group
    logits = logits.masked_fill(block[:, None] != block, -torch.inf)
    loss = -(logits.log_softmax(dim=1) + logits.log_softmax(dim=0)).diagonal().mean() / 2
    loss.backward()
    return loss.item(), gradients_of(model)


def gradients_of(model: nn.Module) -> Gradients:
    """Name -> gradient, of the parameters that have one."""
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@exercise(
    "cut both tensors with .split(chunk); loss and backward for each chunk; what is the mean of all N?",
    25,
    steps=(
        "backward() adds to the gradients that are there already. What follows for a loop over chunks?",
        "for each chunk: encode both, minclip.clip_loss, .backward(), .item(). What is its share of the mean?",
        "multiply the loss of a chunk by len(chunk) / N before backward: the last one may be smaller",
    ),
)
def accumulated_gradient(attempt, draw):
    size = draw(st.integers(2, 7))
    chunk = draw(st.integers(1, size))
    images, tokens = batch_of(size)
    model = Model(chunk)
    case = f", for N = {size} pairs, chunk = {chunk}"
    got = run(attempt, model, images, tokens, chunk, case)
    loss, wanted = reference(images, tokens, chunk)
    gradients, parts = gradients_of(model), list(zip(images.split(chunk), tokens.split(chunk), strict=True))
    alone = [reference(*part, chunk)[1] for part in parts]  # the gradients of each chunk
    if not is_close(gradients, wanted):
        if is_close(gradients, {name: torch.stack([part[name] for part in alone]).mean(dim=0) for name in wanted}):
            hint = "the last chunk has fewer pairs: each chunk's share of the mean is its number of pairs, over N"
            raise Wrong(f"that is the mean over the chunks, not over the pairs{case}", hint)
        if is_close(gradients, {name: alone[-1][name] * len(parts[-1][0]) / size for name in wanted}):
            raise Wrong(f"only the last chunk is in the gradients{case}", "what sets the gradients to zero, and when?")
    compare(got, loss, gradients, wanted, -(-size // chunk), case)
    run(attempt, model, images, tokens, chunk, case)  # a second time, on top of the first
    if not is_close(gradients_of(model), {name: 2 * gradient for name, gradient in wanted.items()}):
        raise Wrong(f"it lost what was in .grad before{case}", KEPT)


@exercise(
    "the loss needs the features of all pairs, but no graph of the towers. A chunk's graph needs only the gradient of "
    "the loss with respect to the chunk's own features. Which passes follow from that, and what does each one keep?",
    25,
    steps=(
        "which part of the computation needs all N pairs at once, and how much memory does that part need?",
        "first pass without a graph: all features. Then the loss on these features as leaves (requires_grad_): its "
        "backward gives each feature's gradient, and that of the scale. What is still missing?",
        "encode each chunk again, now with a graph, and torch.autograd.backward(features, gradients of these features)",
        "dropout must draw the same numbers again: keep torch.get_rng_state() before each chunk, and set it again",
    ),
)
def cached_gradient(attempt, draw):
    size = draw(st.integers(2, 7))
    chunk = draw(st.integers(1, size))
    images, tokens = batch_of(size)
    case = f", for N = {size} pairs, chunk = {chunk}"
    with torch.random.fork_rng():
        torch.manual_seed(draw(st.integers(0, 99)))
        models = [Model(chunk, noisy=True) for _ in range(2)]  # two steps of a training, one after the other
        for parameter in models[1].parameters():
            parameter.grad = torch.ones_like(parameter)  # from an earlier call
        got, _ = (run(attempt, model, images, tokens, chunk, case) for model in models)
    noise = [random_numbers(tower, case) for tower in (models[0].image, models[0].text)]
    for first, tower in zip(noise, (models[1].image, models[1].text), strict=True):
        if len(torch.cat([first, random_numbers(tower, case)]).unique(dim=0)) < 2 * size:
            hint = "never seed the generator, and leave it where the first pass left it"
            raise Wrong(f"two pairs, or two steps, drew the same random numbers{case}", hint)
    loss, wanted = reference(images, tokens, size, noise)
    gradients = gradients_of(models[0])
    if size > chunk and is_close(gradients, reference(images, tokens, chunk, noise)[1]):
        hint = "the loss has to see the features of all N pairs before any chunk can go backwards"
        raise Wrong(f"that is the accumulated gradient of exercise 1: pairs met their own chunk only{case}", hint)
    compare(got, loss, gradients, wanted, -(-size // chunk), case)
    second = [random_numbers(tower, case) for tower in (models[1].image, models[1].text)]
    added = {name: gradient - 1 for name, gradient in gradients_of(models[1]).items()}
    if not is_close(added, reference(images, tokens, size, second)[1]):
        raise Wrong(f"it lost what was in .grad before{case}", KEPT)


def run(attempt: Callable[..., Any], model: Model, images: Tensor, tokens: Tensor, chunk: int, case: str) -> float:
    """Return what the attempt returns; raise Wrong if that is not a float, or if it left pairs out."""
    try:
        got = attempt(model, images.clone(), tokens.clone(), chunk)
    except Wrong as wrong:
        raise Wrong(f"{wrong}{case}", wrong.hint) from None
    if not isinstance(got, float):
        raise Wrong(f"it returned a {type(got).__name__}, expected the loss as a float{case}", "return loss.item()")
    for name, tower in (("image", model.image), ("text", model.text)):
        if missing := sorted(set(range(len(images))) - tower.learned):
            hint = "each pair has to be encoded once with a graph: otherwise no gradient reaches the tower through it"
            if 0 not in missing:
                hint = "the last chunk may be smaller than the others, and it counts as well"
            raise Wrong(f"pairs {missing} (from 0) never went through the {name} tower with a graph{case}", hint)
    return got


def random_numbers(tower: Tower, case: str) -> Tensor:
    """Return what was drawn for each pair, (N, 4); raise Wrong if a pair drew other numbers when encoded again."""
    for place, (first, *others) in tower.noise.items():
        if not all(torch.equal(first, other) for other in others):
            hint = (
                "the gradients belong to the features of the first pass. Note torch.get_rng_state() before a chunk is "
                "encoded, and call torch.set_rng_state(state) before it is encoded again"
            )
            if any((drawn == 1).all() for drawn in (first, *others)):
                hint = "leave the model in training mode in both passes: without dropout it is another function"
            raise Wrong(f"pair {place} drew other random numbers (dropout) when it was encoded again{case}", hint)
    return torch.stack([tower.noise[place][0] for place in sorted(tower.noise)])


def error(got: Tensor, wanted: Tensor) -> float:
    """The length of the difference, relative to that of the gradient."""
    return ((got - wanted).norm() / (wanted.norm() + 1e-6)).item()


def is_close(gradients: Gradients, wanted: Gradients) -> bool:
    return gradients.keys() == wanted.keys() and all(
        error(gradients[name], wanted[name]) < LARGEST_ERROR for name in wanted
    )


def ratio_of(gradients: Gradients, wanted: Gradients) -> float | None:
    """The factor between two sets of gradients with the same names, if there is one."""
    got, expected = (torch.cat([g[name].flatten() for name in wanted]) for g in (gradients, wanted))
    factor = (got @ expected / (expected @ expected + 1e-30)).item()
    return factor if error(got, factor * expected) < LARGEST_ERROR and abs(factor) > 1e-6 else None


def compare(got: float, loss: float, gradients: Gradients, wanted: Gradients, chunks: int, case: str) -> None:
    """Raise Wrong for the most telling difference in the gradients and the loss, with the hint that fits it."""
    for name in wanted:
        if name not in gradients:
            hint = "loss.backward() must reach the features of both towers"
            if name == "logit_scale":
                hint = (
                    "the loss depends on the scale as well: which pass gives its gradient? Once, and without a detach"
                )
            raise Wrong(f"{name} has no gradient{case}", hint)
    scale, right_scale = gradients["logit_scale"].item(), wanted["logit_scale"].item()
    towers, right_towers = ({k: v for k, v in g.items() if k != "logit_scale"} for g in (gradients, wanted))
    if not is_close(towers, right_towers):
        _compare_towers(got, loss, towers, right_towers, case)
    if not is_close(gradients, wanted):
        hint = "the gradient of the scale comes from the loss of all pairs, and from nothing else"
        if abs(scale - chunks * right_scale) < 1e-6 * (1 + abs(scale)):
            hint = "each of your losses adds to the scale's gradient: let only one of them reach it"
        raise Wrong(
            f"the towers are right, but the gradient of logit_scale is {scale:.6g}, expected {right_scale:.6g} "
            f"({scale / right_scale:.3g} times; {chunks} chunks){case}",
            hint,
        )
    if abs(got - loss) > LARGEST_ERROR * (1 + abs(loss)):
        hint = "return the loss of all pairs, not of a chunk"
        raise Wrong(f"the gradients are right, but it returned {got:.6g}, expected {loss:.6g}{case}", hint)


def _compare_towers(got: float, loss: float, towers: Gradients, wanted: Gradients, case: str) -> None:
    factor = ratio_of(towers, wanted)
    if factor is not None:
        hint = "where is a mean taken for a sum, or a sum for a mean? The loss is a mean over all N pairs"
        raise Wrong(f"the gradients of the towers are {factor:.4g} times what they should be{case}", hint)
    if abs(got - loss) > LARGEST_ERROR * (1 + abs(loss)):
        hint = "minclip.clip_loss has both directions, and wants the scale itself: model.logit_scale.exp()"
        raise Wrong(f"the loss is {loss:.6g}, it returned {got:.6g}, and its gradients are wrong as well{case}", hint)
    name = max(wanted, key=lambda name: error(towers[name], wanted[name]))
    hint = "does each chunk get the rows of its own pairs, and each tower its own gradient? Mind the smaller last chunk"
    raise Wrong(f"the gradient of {name} is off by {error(towers[name], wanted[name]):.1e} of its length{case}", hint)
