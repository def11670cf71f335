"""The checks of lesson 19, Many workers."""

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from minclip_kernels.testing import count_products
from torch import Tensor

from check.cases import given, show
from check.verdict import Wrong, exercise

OF_SUMS = {  # what a wrong answer adds up for the pairs of a worker -> the hint that fits
    "one direction, images": "these are your images among all texts only: your texts have to find their images, too",
    "one direction, texts": "these are your texts among all images only: your images have to find their texts, too",
    "labels from 0": "column i holds the pair of your row i only if your rank is 0: how many pairs have lower ranks?",
    "rank * n": "the shards differ in size, so lower ranks do not hold rank * n pairs: add up their sizes",
    "own block": "your pairs compete with your own only: what must come from the other workers?",
}
OF_WEIGHTS = {  # what a wrong answer multiplies a right sum with -> the hint that fits
    "1/n": "the mean of the workers' means is not the mean of all pairs where shards differ in size: weight them",
    "1/N": "the sum of your losses is the batch's; but gradients are *averaged* over W workers: you lose a factor W",
    "1": "these are sums over pairs, and the loss is a mean over all N; then think of the mean over the workers",
    "2W/N": "the loss is half of the sum of its two directions",
}
TIMES_W = (
    "this is W times the loss of the batch. If that is meant to repair the gradient of features that came as "
    "constants: the gradient of logit_scale was already right, and is now W times too large"
)
CONSTANTS = (
    "the value is right, but the rows that you gathered came as constants. Each feature needs the gradient of *every* "
    "logit that it is in, including those that the other workers compute: how does that come back to its owner?"
)


@exercise(
    "two strips of logits, your images among all texts and your texts among all images; where is your first pair in "
    "them? The mean of what the workers return must be the loss of the batch, in value and in gradient.",
    40,
    steps=(
        "which rows of the N × N matrix are yours, and which columns? What must the others send you for them?",
        "gather both, with gradient. Your images by all texts are a strip (n, N): where in it is the pair of row 0?",
        "the labels begin behind the pairs of all lower ranks: add up the sizes of their shards",
        "sum both strips' cross entropies, and think of the averaging: W workers, N pairs, half for each direction",
    ),
)
def sharded_loss(attempt, draw):
    from workers import Deadlock, simulate

    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4).filter(lambda sizes: sum(sizes) > 2))
    scale = torch.tensor(draw(st.sampled_from([1.0, 5.0])), dtype=torch.float64, requires_grad=True)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    both = F.normalize(torch.randn(2, sum(sizes), 2, generator=generator, dtype=torch.float64), dim=2)
    image, text = both.requires_grad_()  # (N, D) each
    case = given({"sizes": sizes, "image": image, "text": text, "logit_scale": scale.item()})
    products = []

    def work(worker: Any) -> Any:
        own = slice(sum(sizes[: worker.rank]), sum(sizes[: worker.rank + 1]))
        with count_products() as counter:
            loss = attempt(image[own].clone(), text[own].clone(), scale, worker)
        products.append(counter.get_total_flops() / (2 * sizes[worker.rank] * len(image) * image.shape[1]))
        return loss

    try:
        losses = simulate(work, len(sizes))
    except IndexError as error:
        raise Wrong(f"it raised IndexError: {error}".rstrip(".") + case, OF_SUMS["rank * n"]) from error
    except Deadlock as error:
        raise Wrong(f"{error}{case}", "gathering is a meeting: every worker has to take part, equally often") from error
    for loss in losses:
        if not isinstance(loss, Tensor) or loss.shape != () or not loss.requires_grad:
            raise Wrong(f"it returned {show(loss)}, expected a loss of shape () with a gradient{case}")
    _check_value(torch.stack(losses).detach(), sizes, scale.item() * (image @ text.T).detach(), case)
    _check_gradients(torch.stack(losses).mean(), both, scale, case)
    if max(products) > 2:
        hint = "right, but W workers must not each do all the work: two strips of n × N logits are enough"
        raise Wrong(f"a worker computed {max(products):g} times n × N logits{case}", hint)


def _check_value(losses: Tensor, sizes: list[int], logits: Tensor, case: str) -> None:
    """Raises Wrong unless the mean of the workers' losses (W,) is the loss of the batch, with logits (N, N)."""
    N, W = len(logits), len(sizes)
    wanted = (F.cross_entropy(logits, torch.arange(N)) + F.cross_entropy(logits.T, torch.arange(N))) / 2
    if torch.isclose(losses.mean(), wanted, rtol=1e-5, atol=1e-7):
        return
    weights = {"W/N": [W / N] * W, "1/n": [1 / n for n in sizes], "1/N": [1 / N] * W, "1": [1.0] * W}
    weights["2W/N"] = [2 * W / N] * W
    hint = TIMES_W if torch.allclose(losses, W * wanted) else ""
    for own, sums in _sums_of_workers(sizes, logits).items():
        for weight, factors in weights.items():
            if torch.allclose(losses, torch.tensor(factors).to(sums) * sums, rtol=1e-5, atol=1e-7):
                hint = hint or OF_SUMS.get(own) or OF_WEIGHTS.get(weight, "")
    problem = f"the mean over the workers is {losses.mean():.5g}, expected the loss of the batch, {wanted:.5g}"
    raise Wrong(f"{problem} (they returned {show(losses)}){case}", hint)


def _sums_of_workers(sizes: list[int], logits: Tensor) -> dict[str, Tensor]:
    """For the right answer and for mistakes in the labels: what the loss of each worker adds up, (W,)."""
    found: dict[str, list[Tensor]] = {}
    for rank, n in enumerate(sizes):
        start = sum(sizes[:rank])
        strips = torch.stack([logits[start : start + n], logits.T[start : start + n]])  # (2, n, N)
        labels = torch.arange(n)
        images, texts = _sums(strips, start + labels)
        sums = {"both": (images + texts) / 2, "one direction, images": images, "one direction, texts": texts}
        sums["labels from 0"] = _sums(strips, labels).mean()
        sums["rank * n"] = _sums(strips, (rank * n + labels).clamp(max=len(logits) - 1)).mean()
        sums["own block"] = _sums(strips[:, :, start : start + n], labels).mean()
        for name, value in sums.items():
            found.setdefault(name, []).append(value)
    return {name: torch.stack(values) for name, values in found.items()}


def _sums(strips: Tensor, labels: Tensor) -> Tensor:
    """The cross entropy of each strip (2, n, columns), summed over its rows: (2,)."""
    return torch.stack([F.cross_entropy(strip, labels, reduction="sum") for strip in strips])


def _check_gradients(mean: Tensor, features: Tensor, scale: Tensor, case: str) -> None:
    """Raises Wrong unless the gradient of the mean over the workers is that of the batch. features: (2, N, D)."""
    logits = scale * features[0] @ features[1].T
    labels = torch.arange(len(logits))
    whole = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    wanted, wanted_scale = torch.autograd.grad(whole, [features, scale])
    got, got_scale = torch.autograd.grad(mean, [features, scale], allow_unused=True, materialize_grads=True)
    if not torch.allclose(got, wanted, rtol=1e-5, atol=1e-7):
        share = ((got * wanted).sum() / wanted.square().sum()).item()
        problem = (
            "the loss is right, the gradient of the features is not: its component along the batch's gradient is "
            f"{share:.2g} times that"
        )
        raise Wrong(f"{problem}{case}", CONSTANTS)
    if not torch.allclose(got_scale, wanted_scale, rtol=1e-5, atol=1e-7):
        problem = f"the gradient of the scale is {got_scale:.5g}, expected {wanted_scale:.5g}, as the batch's"
        hint = "each worker's copy of logit_scale gets a gradient, and they are averaged as all others: is it cut off?"
        raise Wrong(f"{problem}{case}", hint)
