"""Wrong answers to the exercises of the lessons, as people write them: each check must refuse every one of them.

MISTAKES of lesson_NN.py: exercise -> answers. An answer is a function, or a change of our solution: a pair (old text,
new text), or a tuple of such pairs. Hinted(answer, words) also says which words of the verdict's hint fit that mistake.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

LESSONS = Path(__file__).resolve().parent.parent.parent / "lessons"
if str(LESSONS) not in sys.path:
    sys.path.insert(0, str(LESSONS))  # as in a notebook: `from solutions.…`

Answer = Callable[..., Any] | tuple[Any, ...]


class Hinted(NamedTuple):
    answer: Answer
    words: str  # of the hint


def all_mistakes() -> dict[str, tuple[str, list[Hinted]]]:
    """Exercise -> its lesson, and its wrong answers; words are empty where any hint will do."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("lesson_*.py")):
        for name, answers in importlib.import_module(f"mistakes.{path.stem}").MISTAKES.items():
            hinted = [answer if isinstance(answer, Hinted) else Hinted(answer, "") for answer in answers]
            found[name] = (path.stem.removeprefix("lesson_"), hinted)
    return found


def mistake(name: str, k: int, folder: Path) -> Callable[..., Any]:
    """The k-th wrong answer to an exercise; `folder` gets the file of one that changes our solution."""
    lesson, answers = all_mistakes()[name]
    answer = answers[k].answer
    if not isinstance(answer, tuple):
        return answer
    text = (LESSONS / "solutions" / f"lesson_{lesson}.py").read_text(encoding="utf-8")
    for old, new in [answer] if isinstance(answer[0], str) else answer:
        assert old in text, f"{old!r} is not in the solutions of lesson {lesson}"
        text = text.replace(old, new)
    return getattr(load(text, folder / f"{name}_{k}.py"), name)


def load(text: str, path: Path) -> Any:
    """A module of this text; a file, since Triton reads the source of its kernels from there."""
    path.write_text(text, encoding="utf-8")
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
