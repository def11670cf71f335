"""The exercises of the lessons, and their verdicts: `function = check.name(function)`.

A check tries your function on random cases and prints one line: solved; not yet, on an untouched stub; or the smallest
case that it gets wrong, with what was expected and a hint. It returns your function once that is solved, and until then
the one from solutions/, so that the lesson always runs to its end. What you solved is kept in mine/ for later lessons.

    check.hint("name")        the next hint for an exercise
    check.progress()          the map of the course, with what is yours
    check.yours("name", …)    functions of earlier lessons, yours where you solved them
    check.predict, reveal     a guess, sealed before an experiment, and its result
    check.diagnose            what is wrong with an exhibit of lesson 20, and why it is not something else
"""

import importlib
import os
from pathlib import Path
from typing import Any

from check.course import hint, progress, yours
from check.exhibits import diagnose
from check.interpreter import fenced, launch, skip_cells_without, skip_cells_without_triton
from check.predictions import predict, reveal
from check.stepper import step_through
from check.verdict import EXERCISES, Wrong

__all__ = ["EXERCISES", "FAST", "fenced", "hint", "launch", "pick", "predict", "progress", "reveal", "yours"]
__all__ += ["Wrong", "diagnose", "skip_cells_without", "skip_cells_without_triton", "step_through"]

FAST = os.environ.get("MINCLIP_FAST") == "1"  # everything smaller: for the tests


def pick(full: Any, fast: Any) -> Any:
    """`full` for a reader, `fast` where MINCLIP_FAST=1."""
    return fast if FAST else full


for path in sorted(Path(__file__).parent.glob("lesson_*.py")):
    importlib.import_module(f"check.{path.stem}")


def __getattr__(name: str) -> Any:
    """The check of an exercise, by its name."""
    if name in EXERCISES:
        return EXERCISES[name].check
    raise AttributeError(f"there is no exercise {name!r}; check.progress() lists them")
