"""Prompts around a label, such as "a picture of a {}".

Source: Radford et al. 2021 (arXiv:2103.00020), section 3.1.4.
"""

from collections.abc import Sequence
from pathlib import Path

PLAIN = ("{}",)
IMAGENET = Path(__file__).parent / "data" / "imagenet_templates.txt"  # the 80 of OpenAI


def read_lines(path: str | Path) -> list[str]:
    """The lines of a text file, such as a list of classes or templates, without empty ones and those that begin with #.

    Raises OSError, or ValueError if it is not UTF-8 or has none.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}): save it as UTF-8") from error
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise ValueError(f"{path} has no lines")
    return found


def fill_templates(labels: Sequence[str], templates: Sequence[str] = PLAIN) -> list[str]:
    """All prompts of the first label, then all of the second, and so on: C × templates texts.

    Raises ValueError without labels or templates, and for a template that does not have {} exactly once.
    """
    if not labels or not templates:
        raise ValueError("at least one label and one template are needed")
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"a template must have {{}} for the label exactly once, this one does not: {template!r}")
    return [template.replace("{}", label) for label in labels for template in templates]
