"""The checks of lesson 20, Museum of bugs: properties must hold for what is right, and kill every mutant."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from check.cases import show
from check.mutants import LOSSES, SCORES, SPLITS, Property, Room, holds, survivors
from check.verdict import Wrong, exercise

MANY = 20  # properties


def _judge(attempt: Callable[[], Any], room: Room) -> None:
    """Raise Wrong unless the returned properties hold for every correct implementation, and kill every mutant."""
    properties = attempt()
    if not isinstance(properties, list | tuple) or not all(map(callable, properties)):
        shown = type(properties).__name__
        hint = "define functions inside, and return them in a list: return [first, second]"
        raise Wrong(f"it returned {shown}, expected a list of functions", hint)
    if not properties or len(properties) > MANY:
        raise Wrong(f"it returned {len(properties)} properties, expected 1 to {MANY}", "one function for each property")
    for name, implementation in room.right.items():
        for property_ in properties:
            if not holds(property_, implementation):
                why, hint = _why(property_, implementation)
                if not hint:
                    more = "And how exact is a number in float32?" if room is LOSSES else "What else may be correct?"
                    hint = f"is it true of what the task describes? {more}"
                raise Wrong(f"{_name(property_)} does not hold for {name!r}, which is correct: {why}", hint)
    alive = list(survivors(properties, room))
    if not alive:
        return
    known, hidden = [name for name in alive if name[0] != "?"], [name for name in alive if name[0] == "?"]
    mutant = room.mutants[alive[0]]
    lives = f"the mutant {known[0]!r} lives" if known else "the known mutants are dead, but a hidden one lives"
    raise Wrong(f"{lives} (alive: {len(known)} known, {len(hidden)} hidden, of {len(room.mutants)})", mutant.hint)


def _name(property_: Property) -> str:
    return getattr(property_, "__name__", "a property")


def _why(property_: Property, implementation: Callable[..., Any]) -> tuple[str, str]:
    """What a property that does not hold returns or raises, and a hint if that shows a slip in the property itself."""
    try:
        with torch.random.fork_rng():
            result = property_(implementation)
    except AssertionError as error:
        return f"it raised AssertionError: {error}".rstrip(": "), ""
    except Exception as error:
        hint = "the property stopped before it could compare: does it call what it gets as the task describes?"
        return f"it raised {type(error).__name__}: {error}".rstrip(": "), hint
    hint = "a property returns True or False, or asserts and then returns True: is a return missing?"
    return f"it returned {show(result)}", hint if result is None else ""


STEPS: Sequence[str] = (
    "how do you notice that a function is wrong if you do not know what it should return?",
    "change the input in a way that must not change the result, or must change it in a way that you can predict; or "
    "take an input for which you know the result",
)


@exercise(
    "one property for the values, one for the gradients, and then inputs at the limits of floating-point numbers",
    1,
    (
        *STEPS,
        "def known(loss): x = torch.ones(40, 8); return abs(loss(x, x, 10.0) - math.log(40)) < 1e-4; and a comparison "
        "of value and gradients with F.cross_entropy in float64, for several scales",
    ),
)
def loss_properties(attempt, draw):
    _judge(attempt, LOSSES)


@exercise(
    "what must never happen to a test set? Write one function for each answer",
    1,
    (*STEPS, "pictures = torch.cat([some, some]); which rows are where? And where is a picture if it comes alone?"),
)
def split_properties(attempt, draw):
    _judge(attempt, SPLITS)


@exercise(
    "a perfect model, one that says the same of everything, one that says nothing (NaN), and a matrix counted by hand",
    1,
    (
        *STEPS,
        "def constant(top1): return top1(torch.zeros(5, 5)) == 0; def perfect(top1): return top1(torch.eye(5)) == 1",
    ),
)
def score_properties(attempt, draw):
    _judge(attempt, SCORES)
