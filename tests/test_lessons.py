"""Every lesson runs, is what its .py file says, and has exercises that tell right from wrong."""

import ast
import functools
import importlib
import importlib.util
import math
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import minclip
from minclip.text import TextTransformer
from minclip.tokenizer import Tokenizer, merge_pair, split_words, to_symbols
from minclip.transformer import MLP
from minclip.vision import VisionTransformer

LESSONS = Path(__file__).resolve().parent.parent / "lessons"
sys.path[:0] = [str(LESSONS), str(Path(__file__).parent)]  # as in a notebook: `import check`, `from solutions.…`

import build  # noqa: E402
import check  # noqa: E402
from check import lesson_05, verdict  # noqa: E402
from mistakes import all_mistakes, load, mistake  # noqa: E402

MISTAKES = {name: answers for name, (_, answers) in all_mistakes().items()}

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
    imports += f"import torch\nfrom solutions.lesson_{source.name[:2]} import *\n"  # what the cells above it define
    stub = getattr(load(f"{imports}{text}\n", tmp_path / "stub.py"), name)
    judge = getattr(check, name)
    assert judge(stub) is solution(source, name), "the lesson goes on with the solution"
    assert capsys.readouterr().out.startswith(NOT_YET)
    assert judge(solution(source, name)) is solution(source, name)
    assert capsys.readouterr().out.startswith(SOLVED)


class AttentionOfPyTorch(nn.MultiheadAttention):
    def __init__(self, width, heads):
        super().__init__(width, heads, batch_first=True)

    def forward(self, x, causal):  # pyright: ignore[reportIncompatibleMethodOverride]
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1]) if causal else None
        return super().forward(x, x, x, attn_mask=mask, need_weights=False)[0]


class BlockOfPyTorch(nn.Module):
    """With a mask in a buffer, as many people keep it, and parts in another order."""

    def __init__(self, width, heads, causal):
        super().__init__()
        self.mlp = MLP(width, quick_gelu=False)
        self.attn, self.causal = AttentionOfPyTorch(width, heads), causal
        self.ln_2, self.ln_1 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.register_buffer("mask", torch.ones(9, 9))

    def forward(self, x):
        after = self.attn(self.ln_1(x), self.causal).add(x)
        return after.add(self.mlp(self.ln_2(after)))


class TextTowerByArgmax(TextTransformer):
    def __init__(self, *sizes):
        super().__init__(*sizes, quick_gelu=False)

    def forward(self, tokens):
        return self.encode_text(tokens)


class ImageTowerByConvolution(VisionTransformer):
    def __init__(self, *sizes):
        super().__init__(*sizes, quick_gelu=False)


def encode_by_replay(text, rank, ids):
    words = [to_symbols(word) for word in split_words(text)]
    for pair in sorted(rank, key=rank.get):
        words = [merge_pair(word, pair) for word in words]
    return [ids[symbol] for word in words for symbol in word]


# Right answers, other than ours: each must be accepted.
RIGHT = {
    "step_log_scale": lambda t, slope, rate: min(math.log(100), t - rate * slope * math.exp(t)),
    "n_pair_loss": lambda z: torch.stack([-torch.log_softmax(row, dim=0)[i] for i, row in enumerate(z)]).mean(),
    "Attention": AttentionOfPyTorch,
    "Block": BlockOfPyTorch,
    "TextTower": TextTowerByArgmax,
    "ImageTower": ImageTowerByConvolution,
    "encode": encode_by_replay,
    "causal_weights": lambda s: s.masked_fill(torch.ones_like(s).triu(1).bool(), torch.finfo(s.dtype).min).softmax(-1),
    "pool_at_end": lambda x, tokens, end: torch.stack([x[i, row.tolist().index(end)] for i, row in enumerate(tokens)]),
    "online_logsumexp": lambda parts: functools.reduce(torch.logaddexp, (part.logsumexp(dim=1) for part in parts)),
    "grouped_loss": lambda x, y, scale, group: torch.vmap(minclip.clip_loss, in_dims=(0, 0, None))(
        x.unflatten(0, (-1, group)), y.unflatten(0, (-1, group)), scale
    ).mean(),
}


@pytest.mark.parametrize("name", RIGHT)
def test_another_right_answer_is_accepted(name, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("MINCLIP_MINE", str(tmp_path))
    assert getattr(check, name)(RIGHT[name]) is RIGHT[name]
    assert capsys.readouterr().out.startswith(SOLVED)


def test_the_merges_of_lesson_05_are_openais():
    folder = Path(pytest.importorskip("open_clip").__file__).parent
    tokenizer = Tokenizer.load(folder / "bpe_simple_vocab_16e6.txt.gz")
    rank, ids = lesson_05.openai_vocabulary()
    assert rank.items() <= tokenizer.rank.items()
    assert ids.items() <= tokenizer.id_of_symbol.items()
    for text, wanted in lesson_05.OPENAI_IDS.items():
        assert tokenizer.encode(text) == wanted


def helper():
    raise NotImplementedError


# What is no answer at all, to any exercise -> a part of the verdict.
ODD = {
    "nothing": (lambda *case: None, "returned"),
    "no function": (None, "raised TypeError"),
    "another's stub": (lambda *case: helper(), "raised NotImplementedError"),
    "PyTorch cannot": (lambda *case: torch.ones(2, dtype=torch.int64).softmax(dim=0), "raised"),
    "too few parameters": (lambda: None, "raised TypeError"),
    "the end": (lambda *case: sys.exit(), "raised SystemExit"),
    "a word": (lambda *case: "word", "returned"),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(("source", "name"), EXERCISES, ids=lambda value: getattr(value, "stem", value))
def test_anything_is_refused_and_the_lesson_goes_on(source, name, odd, capsys):
    skip_kernels_that_cannot_be_interpreted(build.stubs(build.read(source))[name].source)
    attempt, _ = ODD[odd]
    assert getattr(check, name)(attempt) is solution(source, name)
    assert capsys.readouterr().out.startswith(WRONG)


@pytest.mark.parametrize("odd", ODD)
def test_what_is_wrong_with_it_is_said(odd, capsys):
    attempt, said = ODD[odd]
    check.n_pair_loss(attempt)
    assert said in capsys.readouterr().out


def test_what_was_given_must_not_be_changed(capsys):
    check.prompt_ensemble(
        lambda prompts: F.normalize(prompts.div_(prompts.norm(dim=-1, keepdim=True)).mean(dim=1), dim=-1)
    )
    assert "changed a tensor" in capsys.readouterr().out


def test_an_exception_is_shown_with_the_line_of_the_reader(capsys):
    def n_pair_loss(z):
        return z.no_such_thing

    check.n_pair_loss(n_pair_loss)
    assert "in your line `return z.no_such_thing`" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy, in Triton's interpreter
@pytest.mark.parametrize(("source", "name"), EXERCISES, ids=lambda value: getattr(value, "stem", value))
def test_mistakes_are_refused_with_a_counter_example(source, name, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(verdict, "CPU_SECONDS", 3)  # one of them never ends
    skip_kernels_that_cannot_be_interpreted(build.stubs(build.read(source))[name].source)
    assert len(MISTAKES[name]) >= 6
    for k, (_, words) in enumerate(MISTAKES[name]):
        assert getattr(check, name)(mistake(name, k, tmp_path)) is solution(source, name)
        said = capsys.readouterr().out
        assert said.startswith(WRONG), f"wrong answer {k}"
        assert words in said.partition("Hint: ")[2], f"wrong answer {k}"


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
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    written = build.with_badge(build.read(source), source)
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in written.cells
    ]
    nbformat.validate(notebook)


def test_the_map_names_every_lesson_with_the_minutes_that_it_states():
    readme = (LESSONS / "README.md").read_text(encoding="utf-8")
    found = dict(re.findall(r'\["(\d\d) [^"]+?(?:<br/>(\d+) min)?"\]', readme))
    assert {source.name[:2] for source in SOURCES} <= found.keys()
    for source in SOURCES:
        text = build.read(source).cells[0].source.replace("\n", " ")
        stated = re.search(r"(?i)about (\d+) minutes(?! each)", text)
        assert not stated or found[source.name[:2]] == stated[1]


def test_the_figures_of_the_readme_exist_and_are_small():
    readme = (LESSONS / "README.md").read_text(encoding="utf-8")
    shown = [LESSONS / name for name in re.findall(r"\]\((figures/\d\d\.png)\)", readme)]
    assert shown == sorted((LESSONS / "figures").glob("*.png"))
    assert sum(path.stat().st_size for path in shown) <= 300 * 1024


def test_the_badge_opens_the_lesson_and_its_cell_installs_in_colab_only(tmp_path, monkeypatch):
    badge, install = build.with_badge(build.read(SOURCES[0]), SOURCES[0]).cells[:2]
    address = f"{build.home().removeprefix('https://github.com/')}/blob/main/lessons/{SOURCES[0].stem}.ipynb"
    assert f"(https://colab.research.google.com/github/{address})" in badge.source
    commands: list[list[str]] = []
    monkeypatch.setattr("subprocess.run", lambda command, check: commands.append(command))
    monkeypatch.setattr("os.chdir", lambda path: commands.append(["cd", path]))
    monkeypatch.setattr(sys, "path", [*sys.path])
    exec(install.source, {})
    assert not commands
    monkeypatch.setitem(sys.modules, "google.colab", pytest)
    exec(install.source, {})
    assert [command[0] for command in commands] == ["git", sys.executable, "cd"]
    assert build.home() in commands[0]
    assert commands[2][1] == sys.path[0]


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
    assert verdicts == ({SOLVED if solved else NOT_YET} if build.stubs(build.read(source)) else set())


@pytest.mark.parametrize("solved", [False, True], ids=["as shipped", "solved"])
@pytest.mark.parametrize("source", [s for s in SOURCES if "# needs Triton" in s.read_text()], ids=lambda s: s.stem)
def test_a_lesson_goes_on_where_there_is_no_triton(source, solved, tmp_path, monkeypatch):
    (tmp_path / "triton.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setitem(globals(), "HAS_TRITON", False)
    assert run(source, solved, fast=True) <= {SOLVED if solved else NOT_YET}


@pytest.mark.parametrize(
    "source", [s for s in SOURCES if "# needs minclip[lit]" in s.read_text()], ids=lambda s: s.stem
)
def test_a_lesson_goes_on_where_there_is_no_pretrained_tower(source, tmp_path, monkeypatch):
    (tmp_path / "efficientnet_lite_pytorch.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    assert run(source, False, fast=True) == {NOT_YET}


def rounds():
    """(lesson, k): the k-th wrong answer to each of its exercises; a few for the ordinary run, all others slow."""
    for source in SOURCES:
        answers = [len(MISTAKES[name]) for lesson, name in EXERCISES if lesson == source]
        for k in range(max(answers, default=0)):
            sample = k == 0 and source.name[:2] in ("01", "06", "15")
            yield pytest.param(source, k, marks=[] if sample else pytest.mark.slow, id=f"{source.stem}-{k}")


@pytest.mark.parametrize(("source", "k"), list(rounds()))
def test_run_all_ends_whatever_the_reader_wrote(source, k, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    answers = {}
    for name, cell in build.stubs(build.read(source)).items():
        kernel = "# needs Triton\n" if cell.source.startswith("# needs Triton") else ""
        which = f'"{name}", {k % len(MISTAKES[name])}, Path(r"{tmp_path}")'
        answers[name] = f"{kernel}from pathlib import Path\nfrom mistakes import mistake\n{name} = mistake({which})"
    assert run(source, answers, fast=True) == {WRONG}


@pytest.mark.slow
def test_a_reader_who_solves_everything_trains_a_clip_of_their_own(tmp_path):
    """The solutions as the reader's own text: each lesson keeps them, and lesson 08 puts them together."""
    said = ""
    for source in (s for s in SOURCES if s.name[:2] in ("01", "02", "05", "06", "07", "08")):
        text = (LESSONS / "solutions" / f"lesson_{source.name[:2]}.py").read_text()
        notebook = build.read(source)
        for name, cell in build.stubs(notebook).items():
            (definition,) = (d for d in ast.parse(text).body if getattr(d, "name", "") == name)
            imports = [ast.get_source_segment(text, d) for d in ast.parse(text).body if isinstance(d, ast.ImportFrom)]
            imports = [line for line in imports if line and "solutions" not in line]
            cell.source = "\n".join([*imports, "Pair = tuple", "", ast.get_source_segment(text, definition) or ""])
        build.run(notebook, fast=True, mine=tmp_path)
        said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
        assert said.count("and kept in") == len(build.stubs(build.read(source)))
        assert ": ours (" not in said
    for part in ("encode", "TextTower", "ImageTower", "arange_loss"):
        assert f"{part}: yours" in said


@pytest.mark.slow
@pytest.mark.parametrize("solved", [False, True], ids=["as shipped", "solved"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_lesson_runs_in_full_within_its_time(source, solved):
    verdicts = run(source, solved, fast=False)
    assert verdicts == ({SOLVED if solved else NOT_YET} if build.stubs(build.read(source)) else set())


def run(source: Path, answers: bool | dict[str, str], fast: bool) -> set[str]:
    """Runs a lesson with its stubs, its solutions, or other cells; returns the first letters of its verdict lines."""
    notebook = build.read(source)
    stubs = build.stubs(notebook)
    expected = sum(HAS_TRITON or not cell.source.startswith("# needs Triton") for cell in stubs.values())
    if isinstance(answers, dict):
        for name, cell in stubs.items():
            cell.source = answers[name]
    elif answers:
        build.solve(notebook, source.name[:2])
    seconds = build.run(notebook, fast)
    assert fast or seconds <= build.BUDGET[source.name[:2]]
    texts = [
        output.text for cell in notebook.cells for output in cell.get("outputs", []) if output.get("name") == "stdout"
    ]
    verdicts = [line[0] for text in texts for line in text.splitlines() if line[:2] in ("✓ ", "… ", "✗ ")]
    assert len(verdicts) == expected, "one verdict for each exercise"
    return set(verdicts)
