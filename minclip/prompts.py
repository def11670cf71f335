"""Prompts around a label, such as "a picture of a {}".

Source: Radford et al. 2021 (arXiv:2103.00020), section 3.1.4.
"""

from collections.abc import Sequence

PLAIN = ("{}",)


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
