"""What makes a check out of a function that tries an attempt: random cases, one verdict, a hint that fits."""

import importlib
import inspect
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, NamedTuple

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from check import kept


class Wrong(Exception):
    """What an attempt got wrong, in words for its author; with a hint where one fits better than the exercise's own."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.hint = hint


class Endless(BaseException):
    """The attempt used up its time. (Hypothesis would try an Exception again and again, to find a smaller case.)"""


Attempt = Callable[..., Any]
Body = Callable[[Attempt, Callable[..., Any]], None]


class Exercise(NamedTuple):
    """What the course knows of an exercise."""

    lesson: str  # "06"
    steps: tuple[str, ...]  # hints for one who has not begun, from a question to almost the line
    check: Callable[[Attempt], Attempt]

    def solution(self, name: str) -> Attempt:
        return getattr(importlib.import_module(f"solutions.lesson_{self.lesson}"), name)


EXERCISES: dict[str, Exercise] = {}  # in the order of the course


def exercise(hint: str, cases: int = 50, steps: tuple[str, ...] = ()) -> Callable[[Body], Callable[[Attempt], Attempt]]:
    """Makes a check of a function (attempt, draw) that raises Wrong; `draw` makes random values from strategies.

    `hint` stands below a verdict that has none of its own; `steps` is what `check.hint` gives, one after the other.
    The function lies in lesson_NN.py, and the solution under the same name in solutions/lesson_NN.py.
    """

    def decorate(body: Body) -> Callable[[Attempt], Attempt]:
        name, lesson = body.__name__, body.__module__.rpartition("_")[2]

        @wraps(body)
        def check(attempt: Attempt) -> Attempt:
            solution = EXERCISES[name].solution(name)
            try:
                wrong = first_wrong(body, attempt, cases)
            except NotImplementedError:
                print(f'… {name}: not yet; the lesson goes on with our solution. check.hint("{name}") helps')
                return solution
            if wrong is None:
                kept_or_not = "" if attempt is solution else kept.keep(name, attempt, retry(body, cases))
                print(f"✓ {name}: solved{kept_or_not}")
                return attempt
            print(f"✗ {name}: {wrong}\n  Hint: {wrong.hint or hint}")
            return solution

        EXERCISES[name] = Exercise(lesson, steps or (hint,), check)
        return check

    return decorate


def retry(body: Body, cases: int) -> Callable[[Attempt], bool]:
    """A function that says whether an attempt, as it was kept, is right as well."""

    def is_right(attempt: Attempt) -> bool:
        try:
            return first_wrong(body, attempt, cases) is None
        except NotImplementedError:
            return False

    return is_right


def first_wrong(body: Body, attempt: Attempt, cases: int) -> Wrong | None:
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


def unchanging(attempt: Attempt) -> Attempt:
    """The attempt, which raises Wrong if it changes a tensor that it was given: the lesson goes on to use that.

    Of a class, the objects that it makes are guarded when they are called.
    """
    if inspect.isclass(attempt):
        return lambda *sizes: _unchanging_object(attempt(*sizes))

    def guarded(*arguments: Any) -> Any:
        tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
        before = [tensor.detach().clone() for tensor in tensors]
        got = attempt(*arguments)
        if not all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, before, strict=True)):
            hint = "+=, x[…] = … and functions that end in _ change the tensor itself: work on x.clone()"
            raise Wrong("it changed a tensor that it was given", hint)
        return got

    return guarded


def _unchanging_object(made: Any) -> Any:
    if isinstance(made, nn.Module):
        made.forward = unchanging(made.forward)
    return made


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


def _is_of_stub(error: BaseException, attempt: Attempt) -> bool:
    """Whether the line `raise NotImplementedError` of the attempt itself was reached. PyTorch's own has a message."""
    if type(error) is not NotImplementedError or error.args:
        return False
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    if inspect.isclass(attempt):
        methods = (member for member in vars(attempt).values() if inspect.isfunction(member))
        return innermost.f_code in [method.__code__ for method in methods]
    return innermost.f_code.co_name == getattr(attempt, "__name__", "")


def _line_of(error: BaseException, attempt: Attempt) -> str:
    """The last line of the file, or of the notebook's cell, of the attempt that the error came through."""
    code = getattr(kept.function_of(getattr(attempt, "fn", attempt)), "__code__", None)
    lines = [
        frame.line for frame in traceback.extract_tb(error.__traceback__) if code and frame.filename == code.co_filename
    ]
    return f", in your line `{lines[-1]}`" if lines and lines[-1] else ""
