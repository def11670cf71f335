"""Every lesson runs, is what its .py file says, and has exercises that tell right from wrong."""

import importlib
import importlib.util
import os
import sys
from pathlib import Path

import nbformat
import pytest

LESSONS = Path(__file__).resolve().parent.parent / "lessons"
sys.path[:0] = [str(LESSONS), str(Path(__file__).parent)]  # as in a notebook: `import check`, `from solutions.…`

import build  # noqa: E402
import check  # noqa: E402
from lesson_mistakes import MISTAKES, load, mistake  # noqa: E402

SOURCES = build.sources()
EXERCISES = [(source, name) for source in SOURCES for name in build.stubs(build.read(source))]
SOLVED, NOT_YET, WRONG = "✓", "…", "✗"
HAS_TRITON = importlib.util.find_spec("triton") is not None


def solution(source: Path, name: str):
    return getattr(importlib.import_module(f"solutions.lesson_{source.name[:2]}"), name)


def skip_kernels_that_cannot_be_interpreted(stub: str) -> None:
    if stub.startswith("# needs Triton") and not (HAS_TRITON and os.environ.get("TRITON_INTERPRET") == "1"):
        pytest.skip("needs Triton's interpreter in this process")


@pytest.mark.parametrize(("source", "name"), EXERCISES, ids=lambda value: getattr(value, "stem", value))
def test_a_stub_is_not_yet_solved_and_the_solution_is(source, name, capsys, tmp_path):
    text = build.stubs(build.read(source))[name].source
    skip_kernels_that_cannot_be_interpreted(text)
    imports = "import triton\nimport triton.language as tl\n" if HAS_TRITON else ""
    stub = getattr(load(f"import torch\n{imports}{text}\n", tmp_path / "stub.py"), name)
    judge = getattr(check, name)
    assert judge(stub) is solution(source, name), "the lesson goes on with the solution"
    assert capsys.readouterr().out.startswith(NOT_YET)
    assert judge(solution(source, name)) is solution(source, name)
    assert capsys.readouterr().out.startswith(SOLVED)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy, in Triton's interpreter
@pytest.mark.parametrize(("source", "name"), EXERCISES, ids=lambda value: getattr(value, "stem", value))
def test_mistakes_are_refused_with_a_counter_example(source, name, capsys, tmp_path):
    skip_kernels_that_cannot_be_interpreted(build.stubs(build.read(source))[name].source)
    for k in range(len(MISTAKES[name])):
        assert getattr(check, name)(mistake(source.name[:2], name, k, tmp_path)) is solution(source, name)
        assert capsys.readouterr().out.startswith(WRONG), f"wrong answer {k}"


def test_the_table_names_every_lesson_and_its_time():
    rows = [
        line.split("|") for line in (LESSONS / "README.md").read_text().splitlines() if line[:4].strip("| ").isdigit()
    ]
    table = {row[1].strip(): (row[2].partition("(")[2].rstrip(") "), row[5].strip()) for row in rows}
    assert table == {
        source.name[:2]: (source.with_suffix(".ipynb").name, str(build.BUDGET[source.name[:2]])) for source in SOURCES
    }


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


@pytest.mark.parametrize("solved", [False, True], ids=["as shipped", "solved"])
@pytest.mark.parametrize("source", [s for s in SOURCES if "# needs Triton" in s.read_text()], ids=lambda s: s.stem)
def test_a_lesson_goes_on_where_there_is_no_triton(source, solved, tmp_path, monkeypatch):
    (tmp_path / "triton.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setitem(globals(), "HAS_TRITON", False)
    assert run(source, solved, fast=True) <= {SOLVED if solved else NOT_YET}


@pytest.mark.slow
@pytest.mark.parametrize("solved", [False, True], ids=["as shipped", "solved"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_lesson_runs_in_full_within_its_time(source, solved):
    assert run(source, solved, fast=False) == {SOLVED if solved else NOT_YET}


def run(source: Path, solved: bool, fast: bool) -> set[str]:
    """Runs a lesson; returns the first letters of its verdict lines."""
    notebook = build.read(source)
    cells = build.stubs(notebook).values()
    expected = sum(HAS_TRITON or not cell.source.startswith("# needs Triton") for cell in cells)
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
