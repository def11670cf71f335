"""The checks of lesson 15, Never build the matrix."""

import math

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import minclip
from check.cases import expect, expect_and_differentiate, features
from check.verdict import Wrong, exercise


@exercise(
    "of the parts seen so far, one or two numbers for each row are enough: how does a new part change them?",
    25,
    steps=(
        "could you add up exp() of everything? How large do these numbers get, and what is always at most 1?",
        "for each row keep the largest number so far, and the sum of exp(number − largest)",
        "a new largest makes the old sum too large: multiply it by exp(old largest − new largest). At the end: "
        "largest + log(sum)",
    ),
)
def online_logsumexp(attempt, draw):
    rows = draw(st.integers(1, 3))
    widths = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    size = draw(st.sampled_from([1.0, 50.0, 300.0]))  # exp(150) is no float32, and exp(900) is no float64
    values = st.integers(-3, 3).map(lambda value: size * value)
    matrix = torch.tensor([[draw(values) for _ in range(sum(widths))] for _ in range(rows)])

    def parts():
        for part in matrix.split(widths, dim=1):
            lent = part.clone()
            yield lent
            lent.fill_(torch.nan)  # its memory is reused

    far = "no format holds exp(900), and exp(-900) is 0: what you subtract before exp must be the row's largest so far"
    got = attempt(parts())
    if size == 1 and isinstance(got, Tensor) and got.isnan().any():
        far = (
            "do you use a part, or a view of one, after the next has come? Its memory is overwritten (here with NaN). "
            "If not: ∞ − ∞ and 0 · ∞ are also NaN"
        )
    overflows = size > 1 or (isinstance(got, Tensor) and not got.isfinite().all())
    pieces = list(matrix.split(widths, dim=1))
    suspects = {
        "the old sum is measured from the old largest: multiply it by exp(old − new), at most 1": _corrected(pieces, 1),
        "the old sum is measured from the old largest: what turns it into one from the new?": _corrected(pieces, 0),
    }
    expect(got, matrix.logsumexp(dim=1), hint=far if overflows else "", suspects=suspects, parts=pieces)


def _corrected(parts: list[Tensor], sign: int) -> Tensor:
    """The log-sum-exp of each row, but the sum so far is multiplied by exp(sign · (new largest − old largest))."""
    largest, total = parts[0].amax(dim=1), (parts[0] - parts[0].amax(dim=1, keepdim=True)).exp().sum(dim=1)
    for part in parts[1:]:
        new = torch.maximum(largest, part.amax(dim=1))
        total = total * (sign * (new - largest)).exp() + (part - new[:, None]).exp().sum(dim=1)
        largest = new
    return largest + total.log()


@exercise(
    "the rows of a strip are finished with it; of each column, keep the log-sum-exp of what came so far.",
    cases=30,
    steps=(
        "the loss needs the log-sum-exp of each row and column, and the pairs. Which of them does one strip finish?",
        "a strip of chunk rows has whole rows, and a part of every column: torch.logaddexp adds it to what came before",
        "mean(row_lse + column_lse − 2 · pairs) / 2; the pairs are a sum over D, and need no matrix",
    ),
)
def chunked_loss(attempt, draw):
    rows, width = draw(st.integers(5, 6)), draw(st.integers(1, 2))
    image, text = draw(features(rows, width)), draw(features(rows, width))
    scale, chunk = draw(st.sampled_from([1.0, 3.0, 100.0])), draw(st.integers(1, rows - 1))
    with Tensors() as tensors:
        loss = attempt(image, text, scale, chunk)
    case = {"image_features": image, "text_features": text, "logit_scale": scale, "chunk": chunk}
    expect(loss, minclip.clip_loss(image, text, scale), 1e-4, suspects=_suspects(image, text, scale, chunk), **case)
    longer = case | {"image_features": 3 * image}  # where all have length 1, normalising is not missed
    suspects = _suspects(3 * image, text, scale, chunk)
    expect(attempt(3 * image, text, scale, chunk), minclip.clip_loss(image, text, scale), 1e-4, "", suspects, **longer)
    if math.prod(tensors.largest) > max(chunk, 2 * width) * rows:  # the features of both towers may be one tensor
        made = "×".join(map(str, tensors.largest))
        raise Wrong(
            f"it made a tensor of {made} numbers, more than chunk = {chunk} rows of N = {rows} logits",
            "split the pictures into strips of `chunk` rows, and make the logits of one strip at a time",
        )
    expect_and_differentiate(
        attempt, lambda x, y, s, _: minclip.clip_loss(x, y, s), [image, text], scale, chunk, **case
    )
    N, chunk = 64, 2
    image, text = torch.randn(2, N, 1, generator=torch.Generator().manual_seed(0))
    with Tensors() as tensors:
        attempt(image, text, 1.0, chunk)
    if tensors.most_alive > N * N / 2:
        problem = f"its tensors had up to {tensors.most_alive} numbers at a time, for N = {N} and chunk = {chunk}"
        raise Wrong(problem, "a strip may go as soon as its rows are finished and its columns added: what keeps it?")


def _suspects(image: Tensor, text: Tensor, scale: float, chunk: int) -> dict[str, Tensor]:
    """The losses of likely mistakes, with a hint for each."""
    logits = scale * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T  # (N, N)
    rows, columns, pairs = logits.logsumexp(dim=1), logits.logsumexp(dim=0), logits.diagonal()
    misplaced = torch.cat([strip.diagonal() for strip in logits.split(chunk)])
    plain = scale * image @ text.T
    strips = zip(image.split(chunk), text.split(chunk), strict=True)
    alone = torch.stack([minclip.clip_loss(some, own, scale) * len(some) for some, own in strips])
    return {
        "that is the loss of the rows only: the columns have one as well": (rows - pairs).mean(),
        "that is the loss of the columns only: the rows have one as well": (columns - pairs).mean(),
        "the pairs of a later strip are not on its own diagonal: its first row is not row 0 of the matrix": (
            (rows + columns).sum() - 2 * misplaced.sum()
        )
        / (2 * len(image)),
        "the features are not normalised yet": (
            plain.logsumexp(dim=1) + plain.logsumexp(dim=0) - 2 * plain.diagonal()
        ).mean()
        / 2,
        "CLIP's loss is half the sum of both directions": (rows + columns - 2 * pairs).mean(),
        "each pair counts twice, once in its row and once in its column": (rows + columns - pairs).mean() / 2,
        "a strip holds the logits with *all* N texts, not only with its own": alone.sum() / len(image),
    }


class Tensors(TorchDispatchMode):
    """Notes the shape of the largest tensor that any operation returns, and how many numbers were alive at a time."""

    largest: tuple[int, ...] = ()
    most_alive = 0

    def __init__(self) -> None:
        super().__init__()
        self.memory: list[tuple[StorageWeakRef, int]] = []  # and how many numbers it has

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return result

    def _note(self, tensor: Tensor) -> None:
        if tensor.numel() > math.prod(self.largest):
            self.largest = tensor.shape
        storage = StorageWeakRef(tensor.untyped_storage())
        self.memory = [(seen, size) for seen, size in self.memory if not seen.expired()]
        if storage not in [seen for seen, _ in self.memory]:
            self.memory.append((storage, tensor.untyped_storage().nbytes() // tensor.element_size()))
        self.most_alive = max(self.most_alive, sum(size for _, size in self.memory))
