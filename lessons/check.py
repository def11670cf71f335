"""The exercises of the lessons, and their verdicts: `function = check.name(function)`.

A check tries your function on random cases and prints one line: solved; not yet, on an untouched stub; or the smallest
case that it gets wrong, with what was expected and a hint. It returns your function once that is solved, and until then
the one from solutions/, so that the lesson always runs to its end.
"""

import importlib
import math
import os
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import minclip

LN_2 = math.log(2)
FAST = os.environ.get("MINCLIP_FAST") == "1"  # everything smaller: for the tests


def pick(full: Any, fast: Any) -> Any:
    """`full` for a reader, `fast` where MINCLIP_FAST=1."""
    return fast if FAST else full


class Wrong(Exception):
    """What an attempt got wrong, in words for its author."""


Body = Callable[[Callable[..., Any], Callable[..., Any]], None]


def exercise(lesson: str, hint: str, cases: int = 50) -> Callable[[Body], Callable[[Callable[..., Any]], Any]]:
    """Makes a check of a function (attempt, draw) that raises Wrong; `draw` makes random values from strategies.

    The solution has the same name, in solutions/lesson_<lesson>.py.
    """

    def decorate(body: Body) -> Callable[[Callable[..., Any]], Any]:
        name = body.__name__

        @wraps(body)
        def check(attempt: Callable[..., Any]) -> Callable[..., Any]:
            problem = first_problem(body, attempt, cases)
            if problem is None:
                print(f"✓ {name}: solved")
                return attempt
            print(f"… {name}: not yet. {hint}" if problem == "" else f"✗ {name}: {problem}\n  Hint: {hint}")
            return getattr(importlib.import_module(f"solutions.lesson_{lesson}"), name)

        return check

    return decorate


def first_problem(body: Body, attempt: Callable[..., Any], cases: int) -> str | None:
    """None if every case passes, "" for a stub, else the smallest failure in words."""

    @settings(
        max_examples=cases,
        deadline=None,
        derandomize=True,
        database=None,
        report_multiple_bugs=False,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    @given(st.data())
    def run(data: st.DataObject) -> None:
        body(attempt, data.draw)

    try:
        run()
    except NotImplementedError:
        return ""
    except Wrong as wrong:
        return str(wrong)
    except Exception as error:
        return f"it raised {type(error).__name__}: {error}"
    return None


def expect(got: Any, wanted: Any, tolerance: float = 1e-5, **case: Any) -> None:
    """Raises Wrong unless `got` is `wanted`: a tensor or number up to tolerance × (1 + size), anything else exactly."""
    if isinstance(wanted, Tensor):
        if not isinstance(got, Tensor):
            raise Wrong(f"it returned a {type(got).__name__}, expected a tensor{_given(case)}")
        if got.shape != wanted.shape:
            raise Wrong(f"it returned shape {tuple(got.shape)}, expected {tuple(wanted.shape)}{_given(case)}")
        right = torch.allclose(got.double(), wanted.double(), rtol=tolerance, atol=tolerance, equal_nan=True)
    elif isinstance(wanted, float):
        right = abs(float(got) - wanted) <= tolerance * (1 + abs(wanted))
    else:
        right = got == wanted
    if not right:
        raise Wrong(f"it returned {_show(got)}, expected {_show(wanted)}{_given(case)}")


def _given(case: dict[str, Any]) -> str:
    return ", for " + ", ".join(f"{name} = {_show(value)}" for name, value in case.items()) if case else ""


def _show(value: Any) -> str:
    if isinstance(value, Tensor):
        return " ".join(f"{torch.round(value.detach().double(), decimals=4).tolist()}".split())
    return f"{value:.5g}" if isinstance(value, float) else repr(value)


@st.composite
def features(draw: st.DrawFn, rows: int | None = None, width: int | None = None, largest: int = 6) -> Tensor:
    """Random features (rows, width) of every length but zero; small ones and few of them come first."""
    rows = rows or draw(st.integers(1, largest))
    width = width or draw(st.integers(1, largest))
    values = st.integers(-4, 4).filter(bool)
    return torch.tensor([[float(draw(values)) for _ in range(width)] for _ in range(rows)])


def pairs_of_features(draw: Callable[..., Any], largest: int = 6) -> tuple[Tensor, Tensor]:
    """Features of N images and N texts, (N, D) each."""
    rows, width = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    return draw(features(rows, width)), draw(features(rows, width))


# --- 00 Two towers in a minute ----------------------------------------------------------------------------------------


# --- 01 Pull and push -------------------------------------------------------------------------------------------------


# --- 02 arange or identity? -------------------------------------------------------------------------------------------


@exercise("02", "one minus sign, a one-hot matrix (torch.eye), log_softmax along a row; then the mean over the rows.")
def onehot_loss(attempt, draw):
    image, text = pairs_of_features(draw)
    logits = image @ text.T
    expect(attempt(logits), F.cross_entropy(logits, torch.arange(len(logits))), logits=logits)


@exercise("02", "a label is the place of the one in its row, so the labels of the identity are 0, 1, … N-1.")
def arange_loss(attempt, draw):
    image, text = pairs_of_features(draw)
    logits = image @ text.T
    expect(attempt(logits), -logits.log_softmax(dim=1).diagonal().mean(), logits=logits)


@exercise("02", "softmax over rows, plus softmax over columns, minus 2 on the diagonal; all of it over 2N.")
def logit_gradient(attempt, draw):
    image, text = pairs_of_features(draw)
    logits = (image @ text.T).requires_grad_()
    labels = torch.arange(len(logits))
    ((F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2).backward()
    expect(attempt(logits.detach()), logits.grad, logits=logits)


# --- 03 Is my loss stuck? ---------------------------------------------------------------------------------------------


# --- 04 Temperature ---------------------------------------------------------------------------------------------------


# --- 05 From bytes to tokens ------------------------------------------------------------------------------------------


# --- 06 Reading a sentence --------------------------------------------------------------------------------------------


# --- 07 Patches -------------------------------------------------------------------------------------------------------


# --- 08 Train it ------------------------------------------------------------------------------------------------------


# --- 09 Do you need 4096? ---------------------------------------------------------------------------------------------


# --- 10 Zero-shot, search, "other" ------------------------------------------------------------------------------------


# --- 12 Never build the matrix ----------------------------------------------------------------------------------------


@exercise(
    "12", "hold the largest so far and the sum measured from it, or combine log-sum-exps with torch.logaddexp.", 25
)
def online_logsumexp(attempt, draw):
    rows = draw(st.integers(1, 3))
    widths = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    values = st.integers(-3, 3).map(lambda value: 50.0 * value)  # exp(150) is no float32
    matrix = torch.tensor([[draw(values) for _ in range(sum(widths))] for _ in range(rows)])

    def parts():
        for part in matrix.split(widths, dim=1):
            lent = part.clone()
            yield lent
            lent.fill_(torch.nan)  # its memory is used again

    expect(attempt(parts()), matrix.logsumexp(dim=1), parts=list(matrix.split(widths, dim=1)))


@exercise(
    "12", "normalise; a loop over range(0, N, chunk); rows finish at once, columns need torch.logaddexp.", cases=30
)
def chunked_loss(attempt, draw):
    rows, width = draw(st.integers(5, 6)), draw(st.integers(1, 2))
    image, text = draw(features(rows, width)), draw(features(rows, width))
    scale, chunk = draw(st.sampled_from([1.0, 3.0, 100.0])), draw(st.integers(1, rows - 1))
    with LargestTensor() as largest:
        loss = attempt(image, text, scale, chunk)
    case = {"image_features": image, "text_features": text, "logit_scale": scale, "chunk": chunk}
    expect(loss, float(minclip.clip_loss(image, text, scale)), 1e-4, **case)
    if math.prod(largest.shape) >= rows * rows:
        raise Wrong(f"it made a tensor of shape {tuple(largest.shape)}, for N = {rows} and chunk = {chunk}")


class LargestTensor(TorchDispatchMode):
    """Notes the shape of the largest tensor that any operation returns."""

    shape: tuple[int, ...] = ()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.numel() > math.prod(self.shape):
                self.shape = tensor.shape
        return result


# --- 13 A first Triton kernel -----------------------------------------------------------------------------------------


class Touch(NamedTuple):
    """What one program read or wrote at once."""

    program: tuple[int, ...]
    verb: str  # "reads" or "writes"
    name: str  # of the tensor, as the kernel calls it
    places: Tensor  # (n,) int64: 0 is the first element of the tensor, row after row


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> list[Touch]:
    """kernel[grid](...) in Triton's interpreter, where every address is looked at before it is used.

    Returns what each program touched. Raises Wrong at an element outside of all tensors.
    """
    from triton.runtime.interpreter import InterpreterBuilder

    named = zip(kernel.arg_names, arguments, strict=False)
    tensors = {name: argument for name, argument in named if isinstance(argument, Tensor)}
    touches = []

    def watched(verb: str, place_of_mask: int, original: Callable[..., Any]) -> Callable[..., Any]:
        def access(builder: Any, pointers: Any, *others: Any, **options: Any) -> Any:
            chosen = pointers.data[others[place_of_mask].data]
            touches.append(
                _touch(builder.grid_idx[: len(grid)], verb, torch.from_numpy(chosen.astype("int64")), tensors)
            )
            return original(builder, pointers, *others, **options)

        return access

    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store
    with (
        warnings.catch_warnings(),
        patch.object(InterpreterBuilder, "create_masked_load", watched("reads", 0, load)),
        patch.object(InterpreterBuilder, "create_masked_store", watched("writes", 1, store)),
    ):
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, at overflows and log2(0)
        try:
            kernel[grid](*arguments, **constants)
        except Exception as error:  # Triton wraps it, once for each function that it came through
            inner: BaseException = error
            while inner.__cause__ is not None:
                inner = inner.__cause__
            raise inner from None
    return touches


def _touch(program: tuple[int, ...], verb: str, addresses: Tensor, tensors: dict[str, Tensor]) -> Touch:
    """Finds the tensor in which all the addresses lie."""
    distances = {}
    for name, tensor in tensors.items():
        places = (addresses - tensor.data_ptr()) // tensor.element_size()
        outside = (places < 0) | (places >= tensor.numel())
        if not outside.any():
            return Touch(program, verb, name, places)
        distances[name] = (addresses - tensor.data_ptr()).abs().min().item()
    name = min(distances, key=distances.__getitem__)
    tensor = tensors[name]
    places = (addresses - tensor.data_ptr()) // tensor.element_size()
    place = int(places[(places < 0) | (places >= tensor.numel())][0])
    index = [place] if tensor.ndim < 2 else list(divmod(place, tensor.shape[1]))
    number = program[0] if len(program) == 1 else program
    raise Wrong(f"program {number} {verb} {name}{index}, outside of its shape {tuple(tensor.shape)}")


def fenced(tensor: Tensor) -> Tensor:
    """A copy in the middle of memory that is full of NaN."""
    fence = 16384
    memory = torch.full((tensor.numel() + 2 * fence,), torch.nan, dtype=tensor.dtype)
    memory[fence:-fence] = tensor.flatten()
    return memory[fence:-fence].view(tensor.shape)


def skip_cells_without_triton() -> None:
    """In a notebook, where Triton cannot be imported: cells that begin with "# needs Triton" only say so."""
    from IPython.core.getipython import get_ipython

    def skip(lines: list[str]) -> list[str]:
        if lines and lines[0].strip() == "# needs Triton":
            return ["print('skipped: this cell needs Triton, which cannot be imported here')\n"]
        return lines

    try:
        importlib.import_module("triton")
    except ImportError:
        shell = get_ipython()
        if shell is not None:
            shell.input_transformers_cleanup.append(skip)


def numbers(draw: Callable[..., Any], rows: int, width: int) -> Tensor:
    """Small whole numbers (rows, width), none of them zero, in fenced memory."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    return fenced(torch.randint(1, 5, (rows, width), generator=generator).float())


@exercise("13", "rows < N for the rows, columns < D for the columns, both in the mask of the load.", cases=20)
def squared_lengths_kernel(attempt, draw):
    rows, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    x, out = numbers(draw, rows, width), fenced(torch.full((rows,), torch.nan))
    launch(attempt, (-(-rows // 4),), x, out, rows, width, BLOCK_N=4, BLOCK_D=16)
    expect(out, (x * x).sum(dim=1), N=rows, D=width, BLOCK_N=4, BLOCK_D=16, x=x)


@exercise(
    "13", "four conditions: rows < N, columns < M, and start + tl.arange(0, BLOCK_D) < D in both loads.", cases=15
)
def product_kernel(attempt, draw):
    rows, columns, width = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    x, y, out = (
        numbers(draw, rows, width),
        numbers(draw, columns, width),
        fenced(torch.full((rows, columns), torch.nan)),
    )
    blocks = {"BLOCK_N": 4, "BLOCK_M": 8, "BLOCK_D": 4}
    launch(attempt, (-(-rows // 4), -(-columns // 8)), x, y, out, rows, columns, width, **blocks)
    expect(out, x @ y.T, N=rows, M=columns, D=width, **blocks, x=x, y=y)


# --- 14 The fused loss ------------------------------------------------------------------------------------------------


@exercise("14", "log(1 + exp(t)) is called softplus; torch.nn.functional has one that keeps small results.")
def loss_from_others(attempt, draw):
    ahead = draw(st.lists(st.integers(-100, 70), min_size=1, max_size=3))
    others = torch.tensor([float(draw(st.integers(-100, 100))) for _ in ahead])
    pairs = others + torch.tensor(ahead)
    got, wanted = attempt(others, pairs), torch.log1p((others - pairs).double().exp())
    expect(got, wanted.float(), others=others, pairs=pairs)
    wrong = ((got.double() - wanted).abs() > 1e-5 * wanted).nonzero()
    if len(wrong):
        k = int(wrong[0])
        case = f"others = {others[k].item():g}, pair = {pairs[k].item():g}"
        raise Wrong(f"it returned {got[k].item():.6g}, expected {wanted[k].item():.6g}, for {case}")


def unit_features(draw: Callable[..., Any]) -> tuple[Tensor, Tensor, float]:
    """Features (N, D) of length one, in fenced memory, and a scale."""
    rows, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    x, y = F.normalize(torch.randn(2, rows, width, generator=generator), dim=2)
    return fenced(x), fenced(y), draw(st.sampled_from([1.0, 20.0, 300.0]))


def unwritten(*shape: int) -> Tensor:
    return fenced(torch.full(shape, torch.nan))


@exercise(
    "14", "tl.where(inside and no pair, logits, -inf); a maximum of -inf must become 0 before it is taken off.", 12
)
def sums_kernel(attempt, draw):
    x, y, scale = unit_features(draw)
    N, D = x.shape
    blocks = -(-N // 4)
    row_lse, column_lse = unwritten(blocks, N), unwritten(blocks, N)
    launch(attempt, (blocks, blocks), x, y, row_lse, column_lse, scale, N, D, BLOCK=4, BLOCK_D=4)
    logits = scale * (x @ y.T).double()
    logits.fill_diagonal_(-torch.inf)
    tiles = range(0, N, 4)
    by_row = torch.stack([(logits[:, k : k + 4] * LN_2).logsumexp(dim=1) for k in tiles]) / LN_2
    by_column = torch.stack([(logits[k : k + 4] * LN_2).logsumexp(dim=0) for k in tiles]) / LN_2
    for name, got, wanted in (("row_lse", row_lse, by_row), ("column_lse", column_lse, by_column)):
        _compare(name, got, wanted, {"N": N, "D": D, "BLOCK": 4, "scale": scale})


@exercise("14", "rows = first + place in this launch; the pair of a row is the column of the same number.", 12)
def coefficients_kernel(attempt, draw):
    x, y, scale = unit_features(draw)
    N, D = x.shape
    first = draw(st.integers(0, N - 1))
    last = draw(st.integers(first + 1, N))
    cosines = (x @ y.T).double()
    row_lse, column_lse = ((scale * cosines * LN_2).logsumexp(dim=k) / LN_2 for k in (1, 0))
    pair = -torch.rand(N, generator=torch.Generator().manual_seed(0))
    grid = -(-(last - first) // 4), -(-N // 4)
    out, moments = unwritten(last - first, N), unwritten(*grid)
    vectors = [fenced(vector.float()) for vector in (row_lse, column_lse, pair)]
    launch(attempt, grid, x, y, *vectors, out, moments, scale, first, last, N, D, BLOCK=4, BLOCK_D=4)
    G = (scale * cosines - row_lse[:, None]).exp2() + (scale * cosines - column_lse).exp2()
    G = torch.where(torch.eye(N, dtype=torch.bool), pair.double()[:, None], G)[first:last]
    case = {"N": N, "D": D, "BLOCK": 4, "first": first, "last": last, "scale": scale}
    _compare("out", out, G, case)
    sums = [tile.sum() for rows in (G * cosines[first:last]).split(4) for tile in rows.split(4, dim=1)]
    _compare("moments", moments, torch.stack(sums).view(grid), case)


def _compare(name: str, got: Tensor, wanted: Tensor, case: dict[str, Any]) -> None:
    """Raises Wrong with the first element that differs."""
    wrong = ~torch.isclose(got.double(), wanted, rtol=1e-3, atol=1e-4)
    if wrong.any():
        index = tuple(wrong.nonzero()[0].tolist())
        values = f"{got[index].item():.5g}, expected {wanted[index].item():.5g}"
        raise Wrong(f"{name}{list(index)} is {values}{_given(case)}")
