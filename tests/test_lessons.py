"""Every lesson runs, is what its .py file says, and has exercises that tell right from wrong."""

import importlib
import sys
from pathlib import Path

import nbformat
import pytest
import torch
import torch.nn.functional as F

import minclip

LESSONS = Path(__file__).resolve().parent.parent / "lessons"
sys.path.insert(0, str(LESSONS))  # as in a notebook: `import check`, `from solutions.lesson_02 import …`

import build  # noqa: E402
import check  # noqa: E402

from minclip.tokenizer import CHAR_TO_BYTE, learn_merges  # noqa: E402

SOURCES = build.sources()
EXERCISES = [(source, name) for source in SOURCES for name in build.stubs(build.read(source))]
SOLVED, NOT_YET, WRONG = "✓", "…", "✗"


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
    # --- 13
    # --- 14
}


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
