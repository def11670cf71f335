"""The exercises of the lessons, and their verdicts: `function = check.name(function)`.

A check tries your function on random cases and prints one line: solved; not yet, on an untouched stub; or the smallest
case that it gets wrong, with what was expected and a hint. It returns your function once that is solved, and until then
the one from solutions/, so that the lesson always runs to its end.
"""

import importlib
import itertools
import math
import os
import signal
import statistics
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from minclip_kernels.testing import count_products
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import minclip
from minclip.tokenizer import Tokenizer, clean, learn_merges, merge_pair, split_words, to_symbols

LN_2 = math.log(2)

FAST = os.environ.get("MINCLIP_FAST") == "1"  # everything smaller: for the tests


def pick(full: Any, fast: Any) -> Any:
    """`full` for a reader, `fast` where MINCLIP_FAST=1."""
    return fast if FAST else full


class Wrong(Exception):
    """What an attempt got wrong, in words for its author; with a hint where one fits better than the exercise's own."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.hint = hint


class Endless(BaseException):
    """The attempt used up its time. (Hypothesis would try an Exception again and again, to find a smaller case.)"""


Body = Callable[[Callable[..., Any], Callable[..., Any]], None]


def exercise(lesson: str, hint: str, cases: int = 50) -> Callable[[Body], Callable[[Callable[..., Any]], Any]]:
    """Makes a check of a function (attempt, draw) that raises Wrong; `draw` makes random values from strategies.

    The solution has the same name, in solutions/lesson_<lesson>.py.
    """

    def decorate(body: Body) -> Callable[[Callable[..., Any]], Any]:
        name = body.__name__

        @wraps(body)
        def check(attempt: Callable[..., Any]) -> Callable[..., Any]:
            try:
                wrong = first_wrong(body, attempt, cases)
            except NotImplementedError:
                print(f"… {name}: not yet; the lesson goes on with our solution")
            else:
                if wrong is None:
                    print(f"✓ {name}: solved")
                    return attempt
                print(f"✗ {name}: {wrong}\n  Hint: {wrong.hint or hint}")
            return getattr(importlib.import_module(f"solutions.lesson_{lesson}"), name)

        return check

    return decorate


def first_wrong(body: Body, attempt: Callable[..., Any], cases: int) -> Wrong | None:
    """None if every case passes, else the smallest failure. Raises NotImplementedError for an untouched stub."""
    guarded = attempt if hasattr(attempt, "fn") else unchanging(attempt)  # a kernel writes into what it is given

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
        with time_limit(CPU_SECONDS):
            body(guarded, data.draw)

    try:
        run()
    except Wrong as wrong:
        return wrong
    except Endless as error:
        return Wrong(f"it had not ended after {CPU_SECONDS} seconds{_line_of(error, attempt)}", "what ends each loop?")
    except (Exception, SystemExit) as error:
        if _is_of_stub(error, attempt):
            raise NotImplementedError from None
        return Wrong(f"it raised {type(error).__name__}: {error}{_line_of(error, attempt)}")
    return None


def unchanging(attempt: Callable[..., Any]) -> Callable[..., Any]:
    """The attempt, which raises Wrong if it changes a tensor that it was given: the lesson goes on to use that."""

    def guarded(*arguments: Any) -> Any:
        tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
        before = [tensor.detach().clone() for tensor in tensors]
        got = attempt(*arguments)
        if not all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, before, strict=True)):
            hint = "+=, x[…] = … and functions that end in _ change the tensor itself: work on x.clone()"
            raise Wrong("it changed a tensor that it was given", hint)
        return got

    return guarded


CPU_SECONDS = 10  # for one case


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raises Endless after so many seconds of computing. (Windows has no such signal, and waits.)"""
    if not hasattr(signal, "SIGPROF") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise Endless

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _is_of_stub(error: BaseException, attempt: Callable[..., Any]) -> bool:
    """Whether the line `raise NotImplementedError` of the attempt itself was reached. PyTorch's own has a message."""
    innermost = traceback.extract_tb(error.__traceback__)[-1].name
    return type(error) is NotImplementedError and not error.args and innermost == getattr(attempt, "__name__", "")


def _line_of(error: BaseException, attempt: Callable[..., Any]) -> str:
    """The last line of the file, or of the notebook's cell, of the attempt that the error came through."""
    code = getattr(getattr(attempt, "fn", attempt), "__code__", None)
    lines = [
        frame.line for frame in traceback.extract_tb(error.__traceback__) if code and frame.filename == code.co_filename
    ]
    return f", in your line `{lines[-1]}`" if lines and lines[-1] else ""


def expect(got: Any, wanted: Any, tolerance: float = 1e-5, hint: str = "", **case: Any) -> None:
    """Raises Wrong unless `got` is `wanted`: a tensor or number up to tolerance × (1 + size), anything else exactly."""
    if got is None:
        raise Wrong(f"it returned None{_given(case)}", "is there a `return` on every way through?")
    if isinstance(wanted, Tensor):
        if not isinstance(got, Tensor):
            raise Wrong(f"it returned a {type(got).__name__}, expected a tensor{_given(case)}")
        if got.shape != wanted.shape:
            raise Wrong(f"it returned shape {tuple(got.shape)}, expected {tuple(wanted.shape)}{_given(case)}")
        right = torch.allclose(got.double(), wanted.double(), rtol=tolerance, atol=tolerance, equal_nan=True)
    elif isinstance(wanted, float):
        if not isinstance(got, int | float) and not (isinstance(got, Tensor) and got.numel() == 1):
            raise Wrong(f"it returned {_show(got)}, expected one number, {_show(wanted)}{_given(case)}")
        right = abs(float(got) - wanted) <= tolerance * (1 + abs(wanted))
    else:
        if type(got) is not type(wanted):
            kinds = type(got).__name__, type(wanted).__name__
            raise Wrong(f"it returned a {kinds[0]}, expected a {kinds[1]}, {_show(wanted)}{_given(case)}")
        right = got == wanted
    if not right:
        decimals = next((d for d in (4, 6, 8) if _show(got, d) != _show(wanted, d)), 12)
        raise Wrong(f"it returned {_show(got, decimals)}, expected {_show(wanted, decimals)}{_given(case)}", hint)


def expect_and_differentiate(
    attempt: Callable[..., Any], reference: Callable[..., Tensor], tensors: list[Tensor], *others: Any, **case: Any
) -> None:
    """`expect` of attempt(*tensors, *others), and of the gradients that it leads back to the tensors."""
    tensors = [tensor.detach().requires_grad_() for tensor in tensors]
    got, wanted = attempt(*tensors, *others), reference(*tensors, *others)
    expect(got, wanted, 1e-4, **case)
    if not got.requires_grad:
        raise Wrong(
            "its result has no gradient", "no .item(), no .detach(), no torch.tensor(…): training goes through it"
        )
    gradients = (torch.autograd.grad(value.sum(), tensors, allow_unused=True) for value in (got, wanted))
    for mine, right in zip(*gradients, strict=True):
        expect(mine, right, 1e-3, hint="the number is right, its gradient is not", **case)


def _given(case: dict[str, Any]) -> str:
    return ", for " + ", ".join(f"{name} = {_show(value)}" for name, value in case.items()) if case else ""


def _show(value: Any, decimals: int = 4) -> str:
    if isinstance(value, Tensor):
        value = value.detach()
        shown = value if value.dtype == torch.bool else torch.round(value.double(), decimals=decimals)
        return " ".join(f"{shown.tolist()}".replace(".0,", ",").replace(".0]", "]").split())
    return f"{value:.{decimals + 1}g}" if isinstance(value, float) else repr(value)


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


@exercise(
    "00", "a long feature must not win by its length: which rows of which tensors have to be brought to length 1?"
)
def nearest_label(attempt, draw):
    width = draw(st.integers(1, 3))
    images, labels = draw(features(width=width)), draw(features(width=width))
    cosine = F.normalize(images, dim=1) @ F.normalize(labels, dim=1).T  # (P, C)
    best = cosine.argmax(dim=1)  # (P,)
    got = attempt(images, labels)
    if isinstance(got, Tensor) and got.shape == best.shape and got.dtype == torch.int64:
        inside = got.clamp(0, len(labels) - 1)
        if torch.equal(got, inside) and (cosine.gather(1, got[:, None])[:, 0] > cosine.amax(dim=1) - 1e-5).all():
            return  # of labels that are equally near, either is right
    expect(got, best, image_features=images, label_features=labels)


# --- 01 Pull and push -------------------------------------------------------------------------------------------------


@exercise("01", "give every row of both length 1 (F.normalize with dim=1), then one matrix product with .T.")
def cosine_matrix(attempt, draw):
    width = draw(st.integers(1, 6))
    image, text = draw(features(width=width)), draw(features(width=width))
    got = attempt(image, text)
    by_hand = torch.tensor([[float(x @ y / ((x @ x) * (y @ y)).sqrt()) for y in text] for x in image])
    if isinstance(got, Tensor) and got.shape == by_hand.shape:
        if got.abs().max() > 1 + 1e-4:
            raise Wrong(f"{_show(got)} leaves [−1, 1]{_given({'image_features': image, 'text_features': text})}")
        expect(attempt(image, image).diagonal(), torch.ones(len(image)), image_features=image, text_features=image)
        longer = draw(st.sampled_from([2.0, 10.0, 0.1]))
        if not torch.allclose(attempt(longer * image, text), got, atol=1e-4):
            case = _given({"image_features": image, "text_features": text})
            raise Wrong(f"it changes when the image features become {longer:g} times as long{case}")
    expect(got, by_hand, image_features=image, text_features=text)

    def reference(x, y):
        return F.normalize(x) @ F.normalize(y).T

    expect_and_differentiate(attempt, reference, [image, text], image_features=image, text_features=text)


def cross_entropy(logits: Tensor) -> Tensor:
    """PyTorch's, where the right column of a row is on the diagonal."""
    return F.cross_entropy(logits, torch.arange(len(logits)))


@exercise("01", "from row i its own z_ii is subtracted, not z_jj from column j; and the right text is not in the sum.")
def n_pair_loss(attempt, draw):
    image, text = pairs_of_features(draw)
    logits = 3 * F.normalize(image) @ F.normalize(text).T
    expect_and_differentiate(attempt, cross_entropy, [logits], logits=logits)


# --- 02 arange or identity? -------------------------------------------------------------------------------------------


@exercise(
    "02",
    "multiply entry by entry, not as matrices; the softmax runs along a row; the mean is over N rows, not N² entries.",
)
def onehot_loss(attempt, draw):
    image, text = pairs_of_features(draw)
    logits = image @ text.T
    expect_and_differentiate(attempt, cross_entropy, [logits], logits=logits)


@exercise("02", "a label is the place of the one in its row, so the labels of the identity are 0, 1, … N-1.")
def arange_loss(attempt, draw):
    image, text = pairs_of_features(draw)
    logits = image @ text.T
    expect_and_differentiate(attempt, lambda z: -z.log_softmax(dim=1).diagonal().mean(), [logits], logits=logits)


@exercise("02", "each half is softmax minus one-hot; then think of the mean over N and of the half.")
def logit_gradient(attempt, draw):
    image, text = pairs_of_features(draw)
    logits = (image @ text.T).requires_grad_()
    labels = torch.arange(len(logits))
    ((F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2).backward()
    expect(attempt(logits.detach()), logits.grad, logits=logits)


# --- 03 Is my loss stuck? ---------------------------------------------------------------------------------------------


@exercise(
    "03", "count each caption (collections.Counter), take ln of the count for every pair, then the mean of all B."
)
def batch_floor(attempt, draw):
    captions = draw(st.lists(st.sampled_from(["cat", "dog", "horse"]), min_size=1, max_size=8))
    # the loss itself, of a model that gives each caption an own direction and is very sure
    alphabet = sorted(set(captions))
    image = F.one_hot(torch.tensor([alphabet.index(caption) for caption in captions]), len(alphabet)).double()
    expect(attempt(captions), minclip.clip_loss(image, image, 1e4).item(), captions=captions)


@exercise("03", "a sum over m = 0 … B − 1: the probability of m others times ln(1 + m); your own pair is always there.")
def expected_floor(attempt, draw):
    batch_size, n_captions = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    if draw(st.booleans()):
        batch_size, n_captions = draw(st.sampled_from([(64, 16), (128, 1), (32, 1000)]))
        wanted = minclip.loss_floor(batch_size, n_captions)
    else:  # every batch that there is
        others = itertools.product(range(n_captions), repeat=batch_size - 1)
        wanted = statistics.mean(math.log(1 + other.count(0)) for other in others)
    expect(attempt(batch_size, n_captions), wanted, batch_size=batch_size, n_captions=n_captions)


# --- 04 Temperature ---------------------------------------------------------------------------------------------------


def _halves(cosines: Tensor, scale: float) -> list[float]:
    """The derivatives of the loss of the rows and of that of the columns for the scale, by autograd in float64."""
    labels, slopes = torch.arange(len(cosines)), []
    for turned in (cosines.double(), cosines.double().T):
        parameter = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
        F.cross_entropy(parameter * turned, labels).backward()
        assert parameter.grad is not None
        slopes.append(parameter.grad.item())
    return slopes


@exercise(
    "04",
    "along which dim does the softmax run in each half? is your answer one number, or N of them? and how large is e to "
    "the power of 100 in float32?",
)
def scale_gradient(attempt, draw):
    size, scale = draw(st.integers(2, 5)), draw(st.sampled_from([1.0, 5.0, 14.0, 100.0]))
    dtype = draw(st.sampled_from([torch.float64, torch.float32]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    cosines, rows, columns = torch.zeros(size, size), 0.0, 0.0
    while min(abs(slope) for slope in (rows, columns, rows - columns, rows + columns)) < 0.03:  # both halves count
        cosines = torch.randint(-10, 11, (size, size), generator=generator, dtype=dtype) / 10
        rows, columns = _halves(cosines, scale)
    got = attempt(cosines, scale)
    got = torch.tensor(got) if isinstance(got, float) else got
    expect(got, torch.tensor((rows + columns) / 2), 1e-4, cosines=cosines, scale=scale, dtype=dtype)


@exercise(
    "04",
    "what does t have to do with the derivative that you were given? which way is down? can your t still be above "
    "ln 100 when you return it?",
)
def step_log_scale(attempt, draw):
    scale, gradient = float(draw(st.integers(1, 100))), draw(st.integers(-20, 20)) / 10
    rate = draw(st.sampled_from([0.01, 0.1]))
    parameter = torch.tensor(math.log(scale), dtype=torch.float64, requires_grad=True)
    (gradient * parameter.exp()).backward()  # a loss whose derivative for the scale is `gradient`
    torch.optim.SGD([parameter], lr=rate).step()
    wanted = parameter.clamp(max=math.log(100)).item()
    case = {"log_scale": math.log(scale), "gradient_of_scale": gradient, "learning_rate": rate}
    got = attempt(*case.values())
    if isinstance(got, int | float) and got > math.log(100) + 1e-6:
        raise Wrong(f"it returned {got:.5g}, more than ln 100{_given(case)}", "clamp last, and clamp t: at ln 100")
    expect(got, wanted, **case)


# --- 05 From bytes to tokens ------------------------------------------------------------------------------------------


@exercise("05", "walk from the left; where you glue, step over both symbols.")
def glue(attempt, draw):
    symbols = tuple(draw(st.lists(st.sampled_from("ab"), max_size=8)))
    pair = draw(st.sampled_from("ab")), draw(st.sampled_from("ab"))
    got = attempt(symbols, pair)
    if not isinstance(got, tuple):
        raise Wrong(f"it returned a {type(got).__name__}, expected a tuple{_given({'symbols': symbols, 'pair': pair})}")
    expect(got, merge_pair(symbols, pair), symbols=symbols, pair=pair)


@exercise(
    "05", "max() breaks ties in the wrong way: sort by (−count, pair). And a pair counts as often as its word occurs."
)
def learn_bpe(attempt, draw):
    words = draw(st.dictionaries(st.text("abc", min_size=1, max_size=8), st.integers(1, 3), min_size=1, max_size=3))
    n_merges = draw(st.integers(0, 6))
    in_symbols = {to_symbols(word): count for word, count in words.items()}
    wanted = learn_merges(words, n_merges)
    expect(attempt(dict(in_symbols), n_merges), wanted, words=in_symbols, n_merges=n_merges)
    by_hand = [("a", "a"), ("a", "b"), ("aa", "ab")]
    expect(attempt({to_symbols("aaabdaaabac"): 1}, 10), by_hand, word="aaabdaaabac")


@exercise(
    "05",
    "decode once, the bytes of *all* symbols: a character may be spread over several. A blank is not in CHAR_TO_BYTE.",
    cases=25,
)
def symbols_to_text(attempt, draw):
    text = draw(st.text(st.sampled_from("ab1 .éß猫🐈"), max_size=6) | st.text(max_size=6))
    symbols = [symbol for word in split_words(text) for symbol in to_symbols(word)]
    if draw(st.booleans()):  # some merges, and blanks between words
        tokenizer = Tokenizer.train([text, text], 514 + 3)
        symbols = [tokenizer.symbol_of_id[i] for i in tokenizer.encode(text)]
    got = attempt(list(symbols))
    if not isinstance(got, str) or "".join(got.split()) != "".join(clean(text).split()):
        raise Wrong(f"it returned {got!r}, expected {' '.join(split_words(text))!r}, for symbols = {symbols}")
    if len(got.split()) != len(split_words(text)):
        raise Wrong(f"it returned {got!r}; expected a blank behind every word, for symbols = {symbols}")


@exercise("05", "two places belong to start and end; the text gets the others; zeros fill what is left.")
def fit_to_context(attempt, draw):
    tokenizer, text, length = Tokenizer([]), draw(st.text("ab!", max_size=8)), draw(st.integers(2, 10))
    ids, start_id, end_id = tokenizer.encode(text), tokenizer.start_id, tokenizer.end_id
    wanted = tokenizer(text, length)[0].tolist()
    wanted += [0] * (length - len(wanted))
    got = attempt(list(ids), start_id, end_id, length)
    expect(got, wanted, ids=ids, start_id=start_id, end_id=end_id, length=length)


# --- 06 Reading a sentence --------------------------------------------------------------------------------------------


@exercise("06", "row i is True in columns 0 to i, itself included, and nowhere else.")
def causal_mask(attempt, draw):
    length = draw(st.integers(1, 6))
    wanted = torch.tensor([[column <= row for column in range(length)] for row in range(length)])
    got = attempt(length)
    expect(got, wanted, length=length)
    expect(got.dtype, torch.bool, length=length)


@exercise("06", "put −infinity wherever causal_mask is False, and that before the softmax.")
def causal_weights(attempt, draw):
    query, key = pairs_of_features(draw)
    T, D = query.shape
    scores = query @ key.T / D**0.5  # (T, T)
    values = torch.eye(T)  # so that what attention hands over are its weights
    wanted = F.scaled_dot_product_attention(query[None], key[None], values[None], is_causal=True)[0]
    expect(attempt(scores.clone()), wanted, scores=scores)
    expect(attempt(torch.stack([scores, scores - 3])), torch.stack([wanted, wanted]), scores="a batch of two")
    low = scores - 100  # moves no weight, and leaves every score far below any modest number for the future
    finite = "a finite number in the future keeps a share there if all scores are lower: only -torch.inf keeps none"
    expect(attempt(low.clone()), wanted, hint=finite, scores=low)


@exercise(
    "06",
    "argmax of True and False (as integers) is the first True's place; index x with a row and a place for each text.",
)
def pool_at_end(attempt, draw):
    T, end_id = draw(st.integers(2, 5)), draw(st.sampled_from([9, 5]))
    padding = draw(st.sampled_from([0, end_id]))
    others = st.sampled_from([0, 1, 2, 3, 4, 6, 7])  # 0 is a real token, and EOT may have any number
    bodies = draw(st.lists(st.lists(others, max_size=T - 2), min_size=1, max_size=3))
    tokens = torch.tensor([[8, *body, end_id] + [padding] * (T - 2 - len(body)) for body in bodies])  # (B, T)
    x = draw(features(len(bodies) * T, 2)).view(len(bodies), T, 2)
    wanted = torch.stack([x[i, 1 + len(body)] for i, body in enumerate(bodies)])
    higher = "here other tokens have higher ids than end_id: compare with end_id first" if end_id == 5 else ""
    expect(attempt(x.clone(), tokens.clone(), end_id), wanted, hint=higher, x=x, tokens=tokens, end_id=end_id)


# --- 07 Patches -------------------------------------------------------------------------------------------------------


def numbered_pictures(draw: Callable[..., Any], square: bool = False) -> tuple[Tensor, int]:
    """Pictures (B, 3, H, W) whose values are all different, and a patch size."""
    size, rows = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    columns = rows if square else draw(st.integers(1, 3))
    shape = draw(st.integers(1, 2)), 3, rows * size, columns * size
    return torch.arange(float(math.prod(shape))).view(shape), size


@exercise(
    "07",
    "six axes: B, 3, patch row, pixel row, patch column, pixel column. Which of them belong side by side at the end?",
)
def patchify(attempt, draw):
    images, size = numbered_pictures(draw)
    wanted = F.unfold(images, size, stride=size).transpose(1, 2)
    expect(attempt(images.clone(), size), wanted, images=images, size=size)


@exercise("07", "the six axes of patchify, the other way round: which of them make a row of the picture together?")
def unpatchify(attempt, draw):
    images, size = numbered_pictures(draw, square=True)
    patches = F.unfold(images, size, stride=size).transpose(1, 2)
    expect(attempt(patches.clone(), size), images, patches=patches, size=size)


@exercise(
    "07", "the weights of one output, flattened, lie in the order of a patch's values: together they are one matrix."
)
def embed_patches(attempt, draw):
    images, size = numbered_pictures(draw)
    width = draw(st.integers(1, 3))
    weight = draw(features(width, 3 * size**2)).view(width, 3, size, size)
    wanted = F.conv2d(images, weight, stride=size).flatten(2).transpose(1, 2)
    expect(attempt(images.clone(), weight.clone()), wanted, images=images, weight=weight)


# --- 08 Train it ------------------------------------------------------------------------------------------------------


@exercise("08", "all six, in their order, zero_grad too; the loss wants the scale itself, not its logarithm.", 6)
def training_step(attempt, draw):
    from minclip.train import State, TrainConfig, train_step

    B, scale = draw(st.integers(2, 3)), draw(st.sampled_from([1 / 0.07, 150.0]))
    mine, twin = _tiny_clip(scale), _tiny_clip(scale)
    my_optimizer, twin_optimizer = (torch.optim.SGD(model.parameters(), lr=0.1) for model in (mine, twin))
    state, config = State(twin, twin_optimizer), TrainConfig(max_grad_norm=1e9, backend="naive")
    for step in (1, 2):
        images = torch.randn(B, 3, 8, 8, generator=torch.Generator().manual_seed(step))  # (B, 3, R, R)
        tokens = torch.tensor([[512, 10 * step + i, 513, 0] for i in range(B)])  # (B, T): start, a letter, end, padding
        wanted = train_step(state, images, tokens, config).loss.item()
        got = attempt(mine, my_optimizer, images, tokens)
        _compare_step(got, wanted, mine, twin, f"in step {step} on {B} pairs, from a scale of {scale:.4g},")


def _tiny_clip(scale: float) -> Any:
    """A CLIP that is always the same, with that logit scale."""
    from minclip import CLIP, CLIPConfig

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        sizes = CLIPConfig(
            embed_dim=4,
            image_resolution=8, vision_layers=1, vision_width=8, vision_heads=1, vision_patch_size=4,
            context_length=4, vocab_size=514, transformer_width=8, transformer_heads=1, transformer_layers=1,
        )  # fmt: skip
        model = CLIP(sizes)
        model.logit_scale.fill_(math.log(scale))
    return model


def _compare_step(got: Any, wanted: float, mine: Any, twin: Any, where: str) -> None:
    if not isinstance(got, float):
        raise Wrong(f"{where} it returned a {type(got).__name__}, expected the loss as a float: loss.item()")
    if abs(got - wanted) > 1e-4 * (1 + abs(wanted)):
        raise Wrong(f"{where} the loss is {wanted:.4f}, it returned {got:.4f}")
    after = mine.logit_scale.exp().item()
    if after > 100.01:
        raise Wrong(f"{where} the step left a scale of {after:.4g}; it must be 100 at most")
    expected = dict(twin.named_parameters())
    for name, parameter in mine.named_parameters():
        difference = (parameter - expected[name]).abs().max().item()
        if difference > 1e-4 * (1 + expected[name].abs().max().item()):
            raise Wrong(f"{where} {name} is off by up to {difference:.2g} from what one step makes of it")


# --- 09 Do you need 4096? ---------------------------------------------------------------------------------------------


@exercise("09", "each softmax runs over the pairs of one group alone, in both directions; all groups count the same.")
def grouped_loss(attempt, draw):
    group, groups, width = (draw(st.integers(1, 3)) for _ in range(3))
    image, text = draw(features(group * groups, width)), draw(features(group * groups, width))
    scale = draw(st.sampled_from([1.0, 3.0, 100.0]))

    def reference(image, text, scale, group):
        each = zip(image.split(group), text.split(group), strict=True)
        return torch.stack([minclip.clip_loss(*one, scale) for one in each]).mean()

    case: dict[str, Any] = {"image_features": image, "text_features": text, "scale": scale, "group": group}
    expect_and_differentiate(attempt, reference, [image, text], scale, group, **case)


# --- 10 Zero-shot, search, "other" ------------------------------------------------------------------------------------


@exercise("10", "does a long prompt pull the mean to its side? And how long is the mean of two directions?")
def prompt_ensemble(attempt, draw):
    C, T, D = (draw(st.integers(1, 3)) for _ in range(3))
    prompts = draw(features(C * T, D)).abs().view(C, T, D)  # positive: then no mean is zero
    wanted = torch.zeros(C, D)
    for label in range(C):
        for prompt in range(T):
            wanted[label] += prompts[label, prompt] / prompts[label, prompt].norm() / T
        wanted[label] /= wanted[label].norm()
    expect(attempt(prompts), wanted, prompts=prompts)


@exercise("10", "is any right candidate among the k most similar of the row? Then the mean of yes (1) and no (0).")
def recall_at(attempt, draw):
    Q, C = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    similarity = torch.tensor([draw(st.permutations([c / 10 for c in range(C)])) for _ in range(Q)])
    is_right = torch.zeros(Q, C, dtype=torch.bool)
    for query in range(Q):
        is_right[query, list(draw(st.sets(st.integers(0, C - 1), min_size=1)))] = True
    k = draw(st.integers(1, C))
    found = 0
    for query in range(Q):
        best = sorted(range(C), key=lambda c: -similarity[query, c].item())[:k]
        found += any(is_right[query, c].item() for c in best)
    expect(attempt(similarity, is_right, k), found / Q, similarity=similarity, is_right=is_right, k=k)


# --- 12 Never build the matrix ----------------------------------------------------------------------------------------


@exercise(
    "15", "of the parts seen so far, one or two numbers for each row are enough: how does a new part change them?", 25
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
            lent.fill_(torch.nan)  # its memory is used again

    far = "no format holds exp(900), and exp(-900) is 0: what you take off before exp must be the row's largest so far"
    got = attempt(parts())
    overflows = size > 1 or (isinstance(got, Tensor) and not got.isfinite().all())
    expect(got, matrix.logsumexp(dim=1), hint=far if overflows else "", parts=list(matrix.split(widths, dim=1)))


@exercise(
    "15",
    "the rows of a strip are finished with it; of each column, keep the log-sum-exp of what came so far.",
    cases=30,
)
def chunked_loss(attempt, draw):
    rows, width = draw(st.integers(5, 6)), draw(st.integers(1, 2))
    image, text = draw(features(rows, width)), draw(features(rows, width))
    scale, chunk = draw(st.sampled_from([1.0, 3.0, 100.0])), draw(st.integers(1, rows - 1))
    with Tensors() as tensors:
        loss = attempt(image, text, scale, chunk)
    case = {"image_features": image, "text_features": text, "logit_scale": scale, "chunk": chunk}
    expect(loss, minclip.clip_loss(image, text, scale), 1e-4, **case)
    if math.prod(tensors.largest) > max(chunk, 2 * width) * rows:  # the features of both towers may be one tensor
        made = "×".join(map(str, tensors.largest))
        raise Wrong(f"it made a tensor of {made} numbers, more than chunk = {chunk} rows of N = {rows} logits")
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


# --- 13 A first Triton kernel -----------------------------------------------------------------------------------------


class Touch(NamedTuple):
    """What one program read or wrote at once."""

    program: tuple[int, ...]
    verb: str  # "reads" or "writes"
    name: str  # of the tensor, as the kernel calls it
    places: Tensor  # (n,) int64: 0 is the first element of the tensor, row after row


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> list[Touch]:
    """kernel[grid](...) in Triton's interpreter, where every address is looked at before it is used.

    Returns what each program touched. Raises Wrong at an element outside of all tensors, at a load whose mask says no
    somewhere without `other` (the interpreter reads zero there, Triton promises nothing), and at a product of float32
    that a GPU would round.
    """
    from triton.runtime.interpreter import InterpreterBuilder

    named = zip(kernel.arg_names, arguments, strict=False)
    tensors = {name: argument for name, argument in named if isinstance(argument, Tensor)}
    touches = []

    def watched(verb: str, place_of_mask: int, original: Callable[..., Any]) -> Callable[..., Any]:
        def access(builder: Any, pointers: Any, *others: Any, **options: Any) -> Any:
            mask = others[place_of_mask].data
            chosen = pointers.data[mask]
            touches.append(
                _touch(builder.grid_idx[: len(grid)], verb, torch.from_numpy(chosen.astype("int64")), tensors)
            )
            if verb == "reads" and others[1] is None and not mask.all():
                raise Wrong(
                    f"a load from {touches[-1].name} has a mask but no `other`: what is it where the mask says no?"
                )
            return original(builder, pointers, *others, **options)

        return access

    def exact_dot(builder: Any, a: Any, b: Any, tile: Any, precision: Any, *others: Any) -> Any:
        if precision.name != "IEEE" and a.data.dtype.itemsize == 4:
            raise Wrong(
                f"a tl.dot of float32 rounds its inputs to {precision.name} on a GPU (not in the interpreter)",
                'tl.dot(…, input_precision="ieee") keeps all digits of float32',
            )
        return dot(builder, a, b, tile, precision, *others)

    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store
    dot = InterpreterBuilder.create_dot
    with (
        warnings.catch_warnings(),
        patch.object(InterpreterBuilder, "create_dot", exact_dot),
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


@exercise("16", "the load ends at N and at D, the store at N; what can stand elsewhere and add nothing?", cases=20)
def squared_lengths_kernel(attempt, draw):
    rows, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    x, out = numbers(draw, rows, width), fenced(torch.full((rows,), torch.nan))
    launch(attempt, (-(-rows // 4),), x, out, rows, width, BLOCK_N=4, BLOCK_D=16)
    expect(out, (x * x).sum(dim=1), N=rows, D=width, BLOCK_N=4, BLOCK_D=16, x=x)


@exercise(
    "16", "the rows of x end at N, the rows of y at M, the features of both at D; the store has N and M.", cases=15
)
def product_kernel(attempt, draw):
    rows, columns, width = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    x, y, out = (
        numbers(draw, rows, width),
        numbers(draw, columns, width),
        fenced(torch.full((rows, columns), torch.nan)),
    )
    blocks: dict[str, Any] = {"BLOCK_N": 4, "BLOCK_M": 8, "BLOCK_D": 4}
    launch(attempt, (-(-rows // 4), -(-columns // 8)), x, y, out, rows, columns, width, **blocks)
    expect(out, x @ y.T, N=rows, M=columns, D=width, **blocks, x=x, y=y)


# --- 14 The fused loss ------------------------------------------------------------------------------------------------


@exercise("17", "log(1 + exp(t)) has a name of its own: look among the activations in torch.nn.functional.")
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


def unit_features(draw: Callable[..., Any], rows: int = 0) -> tuple[Tensor, Tensor, float]:
    """Features (N, D) of length one, in fenced memory, and a scale; at the highest scale in opposite cones.

    There every logit is far below zero, and what stands beyond the edge, zero, would be the largest by far.
    """
    rows, width = rows or draw(st.integers(1, 9)), draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    x, y = F.normalize(torch.randn(2, rows, width, generator=generator), dim=2)
    scale = draw(st.sampled_from([1.0, 20.0, 300.0]))
    return (fenced(x.abs()), fenced(-y.abs()), scale) if scale == 300 else (fenced(x), fenced(y), scale)


def unwritten(*shape: int) -> Tensor:
    return fenced(torch.full(shape, torch.nan))


@exercise("17", "which elements must not count? And what is the largest of a row where none is left?", 12)
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


@exercise("17", "the first row of a launch is number `first`; beyond last and N nothing counts, in the moment too.", 2)
def coefficients_kernel(attempt, draw):
    for N, first, last in ((1, 0, 1), (3, 0, 3), (5, 0, 5), (5, 3, 4), (9, 4, 9), (9, 1, 8), (13, 2, 7)):
        _check_coefficients(attempt, *unit_features(draw, N), first, last)


def _check_coefficients(attempt: Any, x: Tensor, y: Tensor, scale: float, first: int, last: int) -> None:
    N, D = x.shape
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
    hint = "moments has a row for each block of rows, and a place in it for each block of *columns*; G times the cosine"
    _compare("moments", moments, torch.stack(sums).view(grid), case, hint)


def _compare(name: str, got: Tensor, wanted: Tensor, case: dict[str, Any], hint: str = "") -> None:
    """Raises Wrong with the first element that differs."""
    wrong = ~torch.isclose(got.double(), wanted, rtol=1e-3, atol=1e-4)
    if wrong.any():
        index = tuple(wrong.nonzero()[0].tolist())
        values = f"{got[index].item():.5g}, expected {wanted[index].item():.5g}"
        raise Wrong(f"{name}{list(index)} is {values}{_given(case)}", hint)


# --- 19 Many workers --------------------------------------------------------------------------------------------------

OF_SUMS = {  # what a wrong answer adds up for the pairs of a worker -> the hint that fits
    "one direction, images": "these are your images among all texts only: your texts have to find their images, too",
    "one direction, texts": "these are your texts among all images only: your images have to find their texts, too",
    "labels from 0": "column i holds the pair of your row i only if your rank is 0: how many pairs have lower ranks?",
    "rank * n": "the shards differ in size, so lower ranks do not hold rank * n pairs: add up their sizes",
    "own block": "your pairs compete with your own only: what must come from the other workers?",
}
OF_WEIGHTS = {  # what a wrong answer multiplies a right sum with -> the hint that fits
    "1/n": "the mean of the workers' means is not the mean of all pairs where shards differ in size: weigh them",
    "1/N": "the sum of your losses is the batch's; but gradients are *averaged* over W workers: you lose a factor W",
    "1": "these are sums over pairs, and the loss is a mean over all N; then think of the mean over the workers",
    "2W/N": "the loss is half of the sum of its two directions",
}
TIMES_W = (
    "this is W times the loss of the batch. If that is to mend the gradient of features that came as constants: the "
    "gradient of logit_scale lacked nothing, and is now W times too large"
)
CONSTANTS = (
    "the value is right: the rows that you gathered came as constants. What do the *other* workers' losses ask of your "
    "features, and how does that come back to you?"
)


@exercise(
    "19",
    "two strips of logits, your images among all texts and your texts among all images; where is your first pair in "
    "them? The mean of what the workers return must be the loss of the batch, in value and in gradient.",
    40,
)
def sharded_loss(attempt, draw):
    from workers import simulate

    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4).filter(lambda sizes: sum(sizes) > 2))
    scale = torch.tensor(draw(st.sampled_from([1.0, 5.0])), dtype=torch.float64, requires_grad=True)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    both = F.normalize(torch.randn(2, sum(sizes), 2, generator=generator, dtype=torch.float64), dim=2)
    image, text = both.requires_grad_()  # (N, D) each
    case = _given({"sizes": sizes, "image": image, "text": text, "logit_scale": scale.item()})
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
        raise Wrong(f"it raised IndexError: {error}{case}", OF_SUMS["rank * n"]) from error
    for loss in losses:
        if not isinstance(loss, Tensor) or loss.shape != () or not loss.requires_grad:
            raise Wrong(f"it returned {_show(loss)}, expected a loss of shape () with a gradient{case}")
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
    raise Wrong(f"{problem} (they returned {_show(losses)}){case}", hint)


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
        problem = f"the loss is right, the gradient of the features is not: {share:.2g} of the batch's in its direction"
        raise Wrong(f"{problem}{case}", CONSTANTS)
    if not torch.allclose(got_scale, wanted_scale, rtol=1e-5, atol=1e-7):
        problem = f"the gradient of the scale is {got_scale:.5g}, expected {wanted_scale:.5g}, as the batch's"
        hint = "each worker's copy of logit_scale gets a gradient, and they are averaged as all others: is it cut off?"
        raise Wrong(f"{problem}{case}", hint)


# --- 14 A bigger batch than memory: the checks have a file of their own -----------------------------------------------

from check_14 import accumulated_gradient, cached_gradient  # noqa: E402, F401 - it needs the names above
