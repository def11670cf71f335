"""Every lesson runs, is what its .py file says, and has exercises that tell right from wrong."""

import importlib
import importlib.util
import os
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

import minclip  # noqa: E402

SOURCES = build.sources()
EXERCISES = [(source, name) for source in SOURCES for name in build.stubs(build.read(source))]
SOLVED, NOT_YET, WRONG = "✓", "…", "✗"
HAS_TRITON = importlib.util.find_spec("triton") is not None

# Wrong answers that someone would give: each must be refused. Solutions take what the exercise takes.
MISTAKES = {
    # --- 00
    # --- 01
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
    # --- 04
    # --- 05
    # --- 06
    # --- 07
    # --- 08
    # --- 09
    # --- 10
    # --- 12
    "online_logsumexp": [
        lambda parts: torch.stack([part.exp().sum(dim=1) for part in parts]).sum(dim=0).log(),  # overflows
        lambda parts: torch.cat(list(parts), dim=1).logsumexp(dim=1),  # keeps everything
        lambda parts: torch.stack([part.logsumexp(dim=1) for part in parts]).sum(dim=0),
        lambda parts: torch.stack([part.amax(dim=1) for part in parts]).amax(dim=0),
    ],
    "chunked_loss": [
        lambda image, text, scale, chunk: minclip.clip_loss(image, text, scale),  # the whole matrix
        lambda image, text, scale, chunk: torch.cat(  # one direction only
            [
                F.cross_entropy(
                    scale * F.normalize(part) @ F.normalize(text).T,
                    torch.arange(k * chunk, k * chunk + len(part)),
                    reduction="none",
                )
                for k, part in enumerate(image.split(chunk))
            ]
        ).mean(),
        lambda image, text, scale, chunk: (
            sum(  # a chunk is no batch
                minclip.clip_loss(*pieces, scale) * len(pieces[0])
                for pieces in zip(image.split(chunk), text.split(chunk), strict=True)
            )
            / len(image)
        ),
    ],
    # --- 13
    "squared_lengths_kernel": [
        ("mask=inside", "mask=(rows < N)[:, None]"),  # the next row's columns
        ("mask=inside", "mask=(columns < D)[None, :]"),  # rows behind the matrix
        (", axis=1), mask=rows < N)", ", axis=1))"),  # writes behind the vector
        ("rows[:, None] * D", "rows[:, None] * BLOCK_D"),
        ("tl.sum(tile * tile", "tl.sum(tile"),
    ],
    "product_kernel": [
        ("mask=(rows < N)[:, None] & (ks < D)[None, :]", "mask=(rows < N)[:, None]"),
        ("mask=(rows < N)[:, None] & (ks < D)[None, :]", "mask=(ks < D)[None, :]"),
        ("mask=(columns < M)[None, :] & (ks < D)[:, None]", "mask=(ks < D)[:, None]"),
        ("inside = (rows < N)[:, None] & (columns < M)[None, :]", "inside = (rows < N)[:, None]"),
        ("range(0, D, BLOCK_D)", "range(0, BLOCK_D, BLOCK_D)"),  # the first step only
        ("tile = tl.dot(a, b, tile,", "tile = tl.dot(a, b,"),  # the last step only
        ("rows[:, None] * M", "rows[:, None] * N"),
    ],
    # --- 14
    "loss_from_others": [
        lambda others, pairs: torch.logaddexp(others, pairs) - pairs,  # small losses are lost
        lambda others, pairs: (1 + (others - pairs).exp()).log(),  # these, and large ones overflow
        lambda others, pairs: (others - pairs).exp(),
    ],
    "sums_kernel": [
        (" & (rows[:, None] != columns[None, :])", ""),  # the pair kept
        ('tl.where(largest == -float("inf"), 0.0, largest)', "largest"),
        ("counted = (rows < N)[:, None] & (columns < N)[None, :]", "counted = (rows < N)[:, None]"),
        ("counted = (rows < N)[:, None] & (columns < N)[None, :]", "counted = (columns < N)[None, :]"),
        ("tl.constexpr(0)", "tl.constexpr(1)"),
        ("column_lse + i * N", "column_lse + j * N"),
        ("tl.constexpr(0)), mask=columns < N)", "tl.constexpr(0)))"),
        ("tl.sum(tl.exp2(logits", "tl.sum(tl.exp(logits"),
        ("largest = tl.max(logits, axis)", "largest = tl.zeros_like(tl.max(logits, axis))"),  # overflows
    ],
    "coefficients_kernel": [
        ("rows[:, None] == columns[None, :], on", "rows[:, None] - first == columns[None, :], on"),
        (" + tl.exp2(scale * cosines - of_columns[None, :])", ""),
        ("of_columns[None, :])", "of_rows[:, None])"),
        ("on_diagonal[:, None], G)", "G - 2.0, G)"),
        ("out + (rows - first)[:, None]", "out + rows[:, None]"),
        ("tl.where(inside, G * cosines, 0.0)", "G * cosines"),
        ("tl.where(inside, G * cosines, 0.0)", "tl.where(inside, G * scale * cosines, 0.0)"),
        ("mask=rows < last, other=0.0)  # (BLOCK,)", "other=0.0)  # (BLOCK,)"),
    ],
}


def solution(source: Path, name: str):
    return getattr(importlib.import_module(f"solutions.lesson_{source.name[:2]}"), name)


def load(text: str, path: Path):
    """A module of this text; a file, since Triton reads the source of its kernels from there."""
    path.write_text(text)
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


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
    for k, mistake in enumerate(MISTAKES[name]):
        if isinstance(mistake, tuple):  # what to change in the solutions of the lesson, and to what
            text = (LESSONS / "solutions" / f"lesson_{source.name[:2]}.py").read_text()
            assert mistake[0] in text
            mistake = getattr(load(text.replace(*mistake), tmp_path / f"mistake_{k}.py"), name)
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
