"""Every lesson runs, is what its .py file says, and has exercises that tell right from wrong."""

import importlib
import math
import sys
from pathlib import Path

import nbformat
import pytest
import torch
import torch.nn.functional as F

LESSONS = Path(__file__).resolve().parent.parent / "lessons"
sys.path.insert(0, str(LESSONS))  # as in a notebook: `import check`, `from solutions.lesson_02 import …`

import build  # noqa: E402
import check  # noqa: E402

SOURCES = build.sources()
EXERCISES = [(source, name) for source in SOURCES for name in build.stubs(build.read(source))]
SOLVED, NOT_YET, WRONG = "✓", "…", "✗"

# Wrong answers that someone would give: each must be refused. Solutions take what the exercise takes.
MISTAKES = {
    # --- 00
    # --- 01
    "cosine_matrix": [
        lambda image, text: image @ text.T,
        lambda image, text: F.normalize(image, dim=0) @ F.normalize(text, dim=0).T,  # along the wrong dimension
        lambda image, text: F.normalize(image) @ text.T,  # one side only
        lambda image, text: F.normalize(text) @ F.normalize(image).T,  # rows and columns exchanged
    ],
    "n_pair_loss": [
        lambda z: (z - z.diagonal()[:, None]).exp().sum(dim=1).log1p().mean(),  # the right one counted twice
        lambda z: F.softplus(z - z.diagonal()[:, None]).fill_diagonal_(0).sum(dim=1).mean(),  # a sum of logarithms
        lambda z: F.cross_entropy(z.T, torch.arange(len(z))),
    ],
    # --- 02
    "onehot_loss": [
        lambda logits: -(torch.eye(len(logits)) * logits.log_softmax(dim=0)).sum(dim=1).mean(),  # columns
        lambda logits: -(torch.eye(len(logits)) * logits.log_softmax(dim=1)).mean(),  # over N² instead of N
    ],
    "arange_loss": [lambda logits: F.cross_entropy(logits.T, torch.arange(len(logits)))],
    "logit_gradient": [
        lambda z: (z.softmax(dim=1) + z.softmax(dim=0) - torch.eye(len(z))) / (2 * len(z)),
        lambda z: (z.softmax(dim=1) - torch.eye(len(z))) / len(z),  # one direction only
    ],
    # --- 03
    "batch_floor": [
        lambda captions: math.log(len(captions) / len(set(captions))),
        lambda captions: math.log(max(captions.count(caption) for caption in captions)),
        # over the different captions instead of the pairs
        lambda captions: sum(math.log(captions.count(c)) for c in set(captions)) / len(set(captions)),
    ],
    "expected_floor": [
        lambda B, C: max(0.0, math.log(B / C)),
        lambda B, C: math.log(1 + (B - 1) / C),  # the logarithm of the mean
        lambda B, C: sum(math.comb(B, k) * C**-k * (1 - 1 / C) ** (B - k) * math.log(1 + k) for k in range(B + 1)),
    ],
    # --- 04
    # --- 05
    # --- 06
    # --- 07
    # --- 08
    # --- 09
    "gain": [
        lambda *case: ((d := differences(*case)).mean().item(), d.std().item()),  # spread of one run, not of the mean
        lambda *case: ((d := differences(*case)).mean().item(), d.std(correction=0).item() / len(d) ** 0.5),
        lambda *case: ((d := -differences(*case)).mean().item(), d.std().item() / len(d) ** 0.5),
        lambda *case: ((d := differences(*case, sort=False)).mean().item(), d.std().item() / len(d) ** 0.5),
        lambda rows, kind, *sizes: (
            (d := differences([(kind, *row[1:]) for row in rows], kind, *sizes)).mean().item(),  # of any kind
            d.std().item() / len(d) ** 0.5,
        ),
    ],
    "verdict": [
        lambda mean, error, seeds: "better" if mean > 0 else "worse",
        lambda mean, error, seeds: "cannot say" if abs(mean) < 2 * error else "better" if mean > 0 else "worse",
        lambda mean, error, seeds: (
            "better" if mean > {2: 12.71, 3: 4.3, 4: 3.18, 5: 2.78}[seeds] * error else "cannot say"
        ),
    ],
    # --- 10
    # --- 12
    # --- 13
    # --- 14
}


def differences(rows, kind, small, large, sort=True):
    """Of lesson 09: the scores of `large` minus those of `small`, seed by seed, or in the order of the table."""
    rows = [row for row in (sorted(rows) if sort else rows) if row[0] == kind]
    return torch.tensor([[row[3] for row in rows if row[1] == size] for size in (large, small)]).diff(dim=0)[0].neg()


def solution(source: Path, name: str):
    return getattr(importlib.import_module(f"solutions.lesson_{source.name[:2]}"), name)


@pytest.mark.parametrize(("source", "name"), EXERCISES, ids=lambda value: getattr(value, "stem", value))
def test_a_stub_is_not_yet_solved_and_the_solution_is(source, name, capsys):
    namespace = {}
    exec(
        "import torch\nimport triton\nimport triton.language as tl\n" + build.stubs(build.read(source))[name].source,
        namespace,
    )
    judge = getattr(check, name)
    assert judge(namespace[name]) is solution(source, name), "the lesson goes on with the solution"
    assert capsys.readouterr().out.startswith(NOT_YET)
    assert judge(solution(source, name)) is solution(source, name)
    assert capsys.readouterr().out.startswith(SOLVED)


@pytest.mark.parametrize(("source", "name"), EXERCISES, ids=lambda value: getattr(value, "stem", value))
def test_mistakes_are_refused_with_a_counter_example(source, name, capsys):
    for mistake in MISTAKES[name]:
        assert getattr(check, name)(mistake) is solution(source, name)
        assert capsys.readouterr().out.startswith(WRONG)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_the_notebook_has_the_cells_of_the_source(source):
    notebook, written = nbformat.read(source.with_suffix(".ipynb"), as_version=4), build.read(source)
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in written.cells
    ]
    nbformat.validate(notebook)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_the_committed_notebook_ran_to_its_end_without_an_error(source):
    cells = [
        cell for cell in nbformat.read(source.with_suffix(".ipynb"), as_version=4).cells if cell.cell_type == "code"
    ]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs), "a lesson has a picture"


@pytest.mark.parametrize("solved", [False, True], ids=["as shipped", "solved"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_lesson_runs_from_a_clean_kernel(source, solved):
    verdicts = run(source, solved, fast=True)
    assert verdicts == {SOLVED if solved else NOT_YET}


@pytest.mark.slow
@pytest.mark.parametrize("solved", [False, True], ids=["as shipped", "solved"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_lesson_runs_in_full_within_its_time(source, solved):
    assert run(source, solved, fast=False) == {SOLVED if solved else NOT_YET}


def run(source: Path, solved: bool, fast: bool) -> set[str]:
    """Runs a lesson; returns the first letters of its verdict lines."""
    notebook = build.read(source)
    expected = len(build.stubs(notebook))
    if solved:
        build.solve(notebook, source.name[:2])
    seconds = build.run(notebook, fast)
    assert fast or seconds <= build.BUDGET[source.name[:2]]
    texts = [
        output.text for cell in notebook.cells for output in cell.get("outputs", []) if output.get("name") == "stdout"
    ]
    verdicts = [line[0] for text in texts for line in text.splitlines() if line[:2] in ("✓ ", "… ", "✗ ")]
    assert len(verdicts) == expected, "one verdict for each exercise"
    return set(verdicts)
