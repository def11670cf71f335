"""The workers of lesson 19: simulated and real ones agree, and other right answers are accepted."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

LESSONS = Path(__file__).resolve().parent.parent / "lessons"
sys.path[:0] = [str(LESSONS), str(Path(__file__).parent)]

import check  # noqa: E402
import workers  # noqa: E402
from solutions.lesson_19 import sharded_loss  # noqa: E402

SIZES = [5, 2]


def features(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image, text = F.normalize(torch.randn(2, count, 4, generator=generator, dtype=torch.float64), dim=2)
    return image, text


def one_strip(image, text, logit_scale, worker):
    """Gathers the texts, and for each column the log-sum-exp over the rows of a worker: the first harder exercise."""
    texts = worker.all_gather_with_grad(text)
    offset, N = sum(map(len, texts[: worker.rank])), sum(map(len, texts))
    logits = logit_scale * image @ torch.cat(texts).T  # (n, N)
    columns = torch.stack(worker.all_gather_with_grad(logits.logsumexp(dim=0))).logsumexp(dim=0)  # (N,)
    own = slice(offset, offset + len(image))
    losses = logits.logsumexp(dim=1) + columns[own] - 2 * logits[:, own].diagonal()  # (n,)
    return worker.world_size * losses.sum() / (2 * N)


def weighted_mean(image, text, logit_scale, worker):
    images, texts = worker.all_gather_with_grad(image), worker.all_gather_with_grad(text)
    sizes = [len(rows) for rows in images]
    labels = torch.arange(sum(sizes)).split(sizes)[worker.rank]
    strips = image @ torch.cat(texts).T, text @ torch.cat(images).T
    halves = [F.cross_entropy(logit_scale * strip, labels) for strip in strips]
    return sum(halves) / 2 * len(image) * worker.world_size / sum(sizes)


@pytest.mark.parametrize("right", [one_strip, weighted_mean])
def test_another_right_answer_is_accepted(right, capsys):
    assert check.sharded_loss(right) is right
    assert capsys.readouterr().out.startswith("✓")


def test_simulated_workers_get_the_rows_of_all_in_the_order_of_their_ranks():
    def work(worker):
        first = worker.all_gather(torch.full((worker.rank + 1,), float(worker.rank)))
        second = worker.all_gather(first[-1] * worker.rank)  # what depends on an earlier gathering
        return first, second

    for first, second in workers.simulate(work, 3):
        assert [rows.tolist() for rows in first] == [[0], [1, 1], [2, 2, 2]]
        assert [rows.tolist() for rows in second] == [[0, 0, 0], [2, 2, 2], [4, 4, 4]]


def test_the_gradient_of_a_gathered_row_is_the_sum_over_the_workers():
    rows = [torch.ones(n, requires_grad=True) for n in (1, 2)]
    losses = workers.simulate(lambda w: (w.rank + 1) * torch.cat(w.all_gather_with_grad(rows[w.rank])).sum(), 2)
    torch.stack(losses).sum().backward()
    assert [shard.grad.tolist() for shard in rows if shard.grad is not None] == [[3], [3, 3]]
    constants = workers.simulate(lambda w: torch.cat(w.all_gather(rows[w.rank])), 2)
    assert not any(constant.requires_grad for constant in constants)


def test_workers_that_would_wait_for_ever_are_named():
    def work(worker):
        return worker.all_gather(torch.zeros(1)) if worker.rank else None

    with pytest.raises(RuntimeError, match=r"workers \[1, 2\] wait for ever"):
        workers.simulate(work, 3)


def test_real_processes_equal_the_simulation_and_the_whole_batch():
    image, text = features(sum(SIZES))
    images, texts = ([part.clone() for part in tensor.split(SIZES)] for tensor in (image, text))
    real = workers.in_processes(sharded_loss, images, texts, 10.0)
    inputs = [
        image.requires_grad_(),
        text.requires_grad_(),
        torch.tensor(10.0, dtype=torch.float64, requires_grad=True),
    ]
    shards = [tensor.split(SIZES) for tensor in inputs[:2]]
    losses = workers.simulate(lambda w: sharded_loss(shards[0][w.rank], shards[1][w.rank], inputs[2], w), len(SIZES))
    logits = inputs[2] * inputs[0] @ inputs[1].T
    labels = torch.arange(len(logits))
    whole = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    torch.testing.assert_close(torch.stack([result["loss"] for result in real]), torch.stack(losses).detach())
    torch.testing.assert_close(torch.stack(losses).mean(), whole)
    got = [torch.cat([result[name] for result in real]) / len(real) for name in ("image", "text")]
    got.append(torch.stack([result["scale"] for result in real]).mean())
    torch.testing.assert_close(got, list(torch.autograd.grad(whole, inputs)), rtol=0, atol=1e-12)


def uses_a_helper(image, text, logit_scale, worker):
    return features(len(image))[0].sum() * logit_scale


def test_what_does_not_run_in_a_process_is_told():
    images, texts = ([part.clone() for part in tensor.split(SIZES)] for tensor in features(sum(SIZES)))
    with pytest.raises(RuntimeError, match="NameError: name 'features' is not defined"):
        workers.in_processes(uses_a_helper, images, texts, 10.0)
