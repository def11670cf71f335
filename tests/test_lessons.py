"""Every lesson runs, is what its .py file says, and has exercises that tell right from wrong."""

import importlib
import importlib.util
import math
import os
import sys
from pathlib import Path

import nbformat
import pytest
import torch
import torch.nn.functional as F

import minclip

LESSONS = Path(__file__).resolve().parent.parent / "lessons"
sys.path[:0] = [str(LESSONS), str(Path(__file__).parent)]  # as in a notebook: `import check`, `from solutions.…`

import build  # noqa: E402
import caching_mistakes  # noqa: E402
import check  # noqa: E402
import sharded_mistakes  # noqa: E402

from minclip.tokenizer import CHAR_TO_BYTE, learn_merges  # noqa: E402

SOURCES = build.sources()
EXERCISES = [(source, name) for source in SOURCES for name in build.stubs(build.read(source))]
SOLVED, NOT_YET, WRONG = "✓", "…", "✗"
HAS_TRITON = importlib.util.find_spec("triton") is not None


def scale_of(cosines, scale):
    return importlib.import_module("solutions.lesson_04").scale_gradient(cosines, scale)


def text(symbols: tuple[str, ...]) -> str:
    return "".join(symbols).removesuffix("</w>")


# Wrong answers that someone would give: each must be refused. Solutions take what the exercise takes.
MISTAKES = {
    # --- 00
    "nearest_label": [
        lambda images, labels: (images @ labels.T).argmax(dim=1),  # long features win
        lambda images, labels: (F.normalize(images, dim=1) @ F.normalize(labels, dim=1).T).argmax(dim=0),
        lambda images, labels: (F.normalize(images, dim=0) @ F.normalize(labels, dim=0).T).argmax(dim=1),
        lambda images, labels: torch.cdist(images, labels).argmin(dim=1),
    ],
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
    "scale_gradient": [
        lambda c, s: (((s * c).softmax(dim=1) * c).sum(dim=1) - c.diagonal()).mean(),  # rows only
        lambda c, s: (((s * c).softmax(dim=0) * c).sum(dim=0) - c.diagonal()).mean(),  # columns only
        lambda c, s: ((s * c).flatten().softmax(dim=0) * c.flatten()).sum() - c.diagonal().mean(),  # over everything
        lambda c, s: (
            sum(  # exp without a maximum: nan in float32
                ((e := (s * half).exp()) / e.sum(dim=1, keepdim=True) * half).sum(dim=1).mean() - c.diagonal().mean()
                for half in (c, c.T)
            )
            / 2
        ),
        lambda c, s: (((s * c).softmax(dim=1) + (s * c).softmax(dim=0)) * c).sum(dim=1) / 2 - c.diagonal(),  # N numbers
        lambda c, s: 2 * scale_of(c, s),  # the sum of the halves
        lambda c, s: len(c) * scale_of(c, s),
        lambda c, s: -scale_of(c, s),
        lambda c, s: s * scale_of(c, s),  # that of the logarithm
        lambda c, s: scale_of(c, s) / s,
        lambda c, s: scale_of(c, 1.0),
        lambda c, s: None,
    ],
    "step_log_scale": [
        ("learning_rate * gradient,", "learning_rate * gradient_of_scale,"),
        ("learning_rate * gradient,", "learning_rate * log_scale * gradient_of_scale,"),  # t taken for s
        ("log_scale - learning_rate", "log_scale + learning_rate"),  # uphill
        ("math.log(100))", "math.inf)"),  # no clamp
        ("math.log(100))", "100.0)"),
        (
            "min(log_scale - learning_rate * gradient, math.log(100))",
            "min(log_scale, math.log(100)) - learning_rate * gradient",  # the clamp before the step
        ),
        ("return min", "return math.e ** min"),  # s
        ("return min", "min"),
    ],
    # --- 05
    "glue": [
        lambda symbols, pair: tuple("".join(symbols).replace("".join(pair), f" {''.join(pair)} ").split()),
        lambda symbols, pair: tuple(  # glues without stepping over: a a a -> aa aa a
            "".join(pair) if symbols[i : i + 2] == pair else symbols[i] for i in range(len(symbols))
        ),
    ],
    "learn_bpe": [
        lambda words, n: learn_merges({text(word): 1 for word in words}, n),  # every word once
        lambda words, n: learn_merges({text(word): 2 * count for word, count in words.items()}, n),  # stops too late
        lambda words, n: learn_merges({text(word): count for word, count in words.items()}, n + 1),
    ],
    "symbols_to_text": [
        lambda symbols: "".join(  # each symbol on its own
            bytes(CHAR_TO_BYTE[char] for char in symbol.removesuffix("</w>")).decode(errors="replace")
            + " " * symbol.endswith("</w>")
            for symbol in symbols
        ),
        lambda symbols: "".join(symbols).replace("</w>", " "),  # the printable characters taken for letters
        lambda symbols: bytes(CHAR_TO_BYTE[c] for c in "".join(symbols).replace("</w>", "")).decode(),  # no blanks
    ],
    "fit_to_context": [
        lambda ids, start, end, length: ([start, *ids, end] + [0] * length)[:length],  # cuts EOT off
        lambda ids, start, end, length: [start, *ids[: length - 2], end],  # no padding
        lambda ids, start, end, length: [start, *(ids + [0] * length)[: length - 2], end],  # EOT behind the padding
    ],
    # --- 06
    "causal_mask": [
        lambda length: torch.ones(length, length).triu().bool(),  # looks forward
        lambda length: torch.ones(length, length).tril(-1).bool(),  # does not see itself
        lambda length: torch.zeros(length, length).masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf),
    ],
    "causal_weights": [
        lambda scores: scores.softmax(dim=-1).tril(),  # masked after the softmax
        lambda scores: scores.tril().softmax(dim=-1),  # a score of zero is a score
        lambda scores: scores.masked_fill(torch.ones_like(scores).tril(-1).bool(), -torch.inf).softmax(dim=-1),
        lambda scores: scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf).softmax(dim=-2),
    ],
    "pool_at_end": [
        lambda x, tokens, end_id: x[:, -1],
        lambda x, tokens, end_id: x[:, 0],
        lambda x, tokens, end_id: x[torch.arange(len(x)), (tokens != 0).sum(dim=1) - 1],  # a real 0, or padding by EOT
        lambda x, tokens, end_id: x[tokens == end_id],
    ],
    # --- 07
    "patchify": [
        lambda images, size: images.reshape(len(images), -1, 3 * size**2),
        lambda images, size: F.unfold(images.mT, size, stride=size).transpose(1, 2),  # down the columns
        lambda images, size: (
            F.unfold(images, size, stride=size)  # the channel last
            .transpose(1, 2)
            .unflatten(2, (3, -1))
            .transpose(2, 3)
            .flatten(2)
        ),
    ],
    "unpatchify": [
        lambda patches, size: patches.reshape(len(patches), 3, round(patches.shape[1] ** 0.5) * size, -1),
        lambda patches, size: (
            F.fold(patches.transpose(1, 2), round(patches.shape[1] ** 0.5) * size, size, stride=size).mT
        ),
    ],
    "embed_patches": [
        lambda images, weight: F.conv2d(images, weight, stride=weight.shape[-1]).flatten(2),  # (B, D, P)
        lambda images, weight: F.conv2d(images, weight).flatten(2).transpose(1, 2),  # stride 1
        lambda images, weight: (
            F.unfold(images, weight.shape[-1], stride=weight.shape[-1]).transpose(1, 2)
            @ weight.reshape(-1, len(weight))  # not the transpose
        ),
    ],
    # --- 08
    "training_step": [
        lambda *case: _step_with("no zero_grad", *case),
        lambda *case: _step_with("zero_grad after backward", *case),
        lambda *case: _step_with("no clamp", *case),
        lambda *case: _step_with("no step", *case),
        lambda *case: _step_with("scale without exp", *case),
        lambda *case: _step_with("one direction", *case),
        lambda *case: _step_with("a tensor", *case),
    ],
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
    "conclusion": [
        ('== "cannot say"]', '== "cannot say" and size == best]'),  # only the highest mean
        ('== "cannot say"]', '!= "worse" or mean[size] > mean[best] - 15]'),  # near means near enough
        ("gain(rows, kind, size, best), seeds)", "gain(rows, kind, size, best), 2)"),  # another line of the table
        ("mean[best] - mean[sizes[0]]", "mean[best] - min(mean.values())"),  # the worst is not the smallest
        ("may_be, mean[best] - mean[sizes[0]]", "may_be, mean[best]"),
        ("row[:2] == (kind, size)", "row[1] == size"),  # of any kind
    ],
    # --- 10
    "prompt_ensemble": [
        lambda prompts: F.normalize(prompts.mean(dim=1), dim=-1),  # long prompts count more
        lambda prompts: F.normalize(prompts, dim=-1).mean(dim=1),  # shorter than 1
        lambda prompts: F.normalize(F.normalize(prompts, dim=-1).mean(dim=0), dim=-1),  # over labels
        lambda prompts: F.normalize(F.normalize(prompts, dim=1).mean(dim=1), dim=-1),
    ],
    "recall_at": [
        lambda s, right, k: (  # the share of right answers that were found
            right.gather(1, s.topk(k).indices).sum() / right.sum()
        ).item(),
        lambda s, right, k: right.gather(1, s.topk(k).indices).float().mean().item(),  # precision
        lambda s, right, k: (s.topk(k).indices == right.int().argmax(dim=1, keepdim=True)).any(dim=1).float().mean(),
        lambda s, right, k: right.gather(1, s.topk(k, largest=False).indices).any(dim=1).double().mean().item(),
    ],
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
        ("for start in range(0, N, chunk)", "chunk = N - 1\n    for start in range(0, N, chunk)"),  # ignores it
        ("for start in range(0, N, chunk)", "chunk = 4\n    for start in range(0, N, chunk)"),
        (".mean() / 2", ".mean().item() / 2"),  # without a gradient
    ],
    # --- 13
    "squared_lengths_kernel": [
        ("mask=inside", "mask=(rows < N)[:, None]"),  # the next row's columns
        ("mask=inside", "mask=(columns < D)[None, :]"),  # rows behind the matrix
        (", axis=1), mask=rows < N)", ", axis=1))"),  # writes behind the vector
        ("rows[:, None] * D", "rows[:, None] * BLOCK_D"),
        ("tl.sum(tile * tile", "tl.sum(tile"),
        ("mask=inside, other=0.0", "mask=inside"),  # right in the interpreter alone
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
    # --- 19
    "sharded_loss": sharded_mistakes.functions(),
}

MISTAKES |= {name: [wrong for wrong, _ in mistakes] for name, mistakes in caching_mistakes.MISTAKES.items()}


def differences(rows, kind, small, large, sort=True):
    """Of lesson 09: the scores of `large` minus those of `small`, seed by seed, or in the order of the table."""
    rows = [row for row in (sorted(rows) if sort else rows) if row[0] == kind]
    return torch.tensor([[row[3] for row in rows if row[1] == size] for size in (large, small)]).diff(dim=0)[0].neg()


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


def _step_with(mistake: str, model, optimizer, images, tokens):
    features = model.encode_image(images), model.encode_text(tokens)
    scale = model.logit_scale if mistake == "scale without exp" else model.logit_scale.exp()
    loss = minclip.clip_loss(*features, scale)
    if mistake == "one direction":
        logits = scale * F.normalize(features[0], dim=1) @ F.normalize(features[1], dim=1).T
        loss = F.cross_entropy(logits, torch.arange(len(logits)))
    if mistake not in ("no zero_grad", "zero_grad after backward"):
        optimizer.zero_grad()
    loss.backward()
    if mistake == "zero_grad after backward":
        optimizer.zero_grad()
    if mistake != "no step":
        optimizer.step()
    if mistake != "no clamp":
        model.clamp_logit_scale()
    return loss if mistake == "a tensor" else loss.item()
