"""The course as a whole: hints for a beginning, what is yours, and the map of a CLIP."""

from collections.abc import Callable
from typing import Any

from check import kept, predictions
from check.verdict import EXERCISES

PARTS = {
    "I    The idea and its loss": range(5),
    "II   A CLIP of your own": range(5, 9),
    "III  What it knows": range(9, 14),
    "IV   Large and fast": range(14, 20),
    "V    On your own": range(20, 22),
}
_given: dict[str, int] = {}  # exercise -> how many of its hints were given


def hint(name: str) -> None:
    """Prints the next hint for an exercise; after the last one it begins anew."""
    if name not in EXERCISES:
        print(f"there is no exercise {name!r}; there are {', '.join(EXERCISES)}")
        return
    steps = EXERCISES[name].steps
    place = _given.get(name, 0) % len(steps)
    _given[name] = place + 1
    print(f"{name}, hint {place + 1} of {len(steps)}: {steps[place]}")


def yours(*names: str) -> Any:
    """The functions of earlier exercises, those that you solved as you wrote them; one, or a list of several."""
    functions, whose = zip(*(_get(name) for name in names), strict=True)
    print("; ".join(whose))
    return functions[0] if len(functions) == 1 else list(functions)


def _get(name: str) -> tuple[Callable[..., Any], str]:
    """A function, and a word on whose it is."""
    lesson = EXERCISES[name].lesson
    if kept.is_kept(name):
        try:
            return kept.load(name, kept.file_of(name)), f"{name}: yours"
        except Exception as error:  # the file was changed by hand
            return EXERCISES[name].solution(name), f"{name}: ours (mine/{name}.py raised {error!r})"
    return EXERCISES[name].solution(name), f"{name}: ours (lesson {lesson})"


def progress() -> None:
    """Prints the map of the course: which exercises are solved and kept, and the score of the predictions."""
    for part, lessons in PARTS.items():
        print(part)
        for lesson in lessons:
            names = [name for name, exercise in EXERCISES.items() if exercise.lesson == f"{lesson:02}"]
            if names:
                print(f"  {lesson:02}  " + "  ".join(f"{'✓' if kept.is_kept(name) else '·'} {name}" for name in names))
    solved = sum(map(kept.is_kept, EXERCISES))
    print(f"{solved} of {len(EXERCISES)} are yours; {predictions.score()}")
