import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from minclip_kernels import reference
from torch.nn import functional as F


def make(count, width, seed=0, texts=None):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(count, width, dtype=torch.float64, generator=generator)
    text = torch.randn(texts or count, width, dtype=torch.float64, generator=generator)
    return image.requires_grad_(), text.requires_grad_()


def assert_same_gradients(derivatives, formulas, image, text):
    """Compare per unit of a feature's length: that of a zero row is 1e-12, and divides what remains of a sum."""
    units = [tower.detach().norm(dim=1, keepdim=True).clamp_min(1e-12) for tower in (image, text)] + [1.0, 1.0]
    for derivative, formula, unit in zip(derivatives, formulas, units, strict=False):
        torch.testing.assert_close(derivative * unit, formula * unit)


def scalars(*values):
    return tuple(torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values)


IDS = torch.tensor([7, 7, 1, 7, 1, -3])
OPTIONS = [{}, {"normalize": False}, {"offset": 1}, {"offset": 2, "ids": IDS},
           {"offset": 1, "ids": IDS, "positives": "all"}, {"offset": 0, "ids": IDS, "positives": "all"}]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradcheck(options):
    features = make(4, 3, texts=6 if "offset" in options else 4)
    assert torch.autograd.gradcheck(
        lambda *tensors: reference.clip_loss(*tensors, **options), (*features, *scalars(3.0))
    )
    options = {name: value for name, value in options.items() if name in ("offset", "normalize")}
    assert torch.autograd.gradcheck(
        lambda *tensors: reference.siglip_loss(*tensors, **options), (*features, *scalars(3.0, -2.0))
    )


@given(
    st.integers(1, 20),
    st.integers(1, 20),
    st.floats(0.01, 100),
    st.booleans(),
    st.booleans(),
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
    st.sampled_from([None, "drop", "all"]),
)
def test_the_formulas_are_the_derivatives(count, width, scale, normalize, with_zero, more, positives):
    offset, texts = more[0], count + sum(more)
    image, text = make(count, width, texts=texts)
    if with_zero:
        image.data[0] = 0
    options = {"normalize": normalize, "offset": offset if any(more) else None}
    inputs = image, text, *scalars(scale, -2.0)
    loss, formulas = (of(*inputs, **options) for of in (reference.siglip_loss, reference.gradients))
    assert_same_gradients(torch.autograd.grad(loss, inputs), formulas, image, text)
    if positives:
        generator = torch.Generator().manual_seed(count)
        options |= {"ids": torch.randint(texts // 2 + 1, (texts,), generator=generator), "positives": positives}
    loss, formulas = (of(*inputs[:3], **options) for of in (reference.clip_loss, reference.gradients))
    assert_same_gradients(torch.autograd.grad(loss, inputs[:3]), formulas, image, text)


def test_by_hand():
    # two orthogonal pairs at scale 1: each row has logits 1 and 0, so the loss is ln(1 + 1/e)
    pairs = torch.eye(2)
    expected = torch.log1p(torch.exp(torch.tensor(-1.0, dtype=torch.float64)))
    torch.testing.assert_close(reference.clip_loss(pairs, pairs, 1.0), expected)
    # sigmoid loss at scale 0 and bias 0: each of the 4 logits costs ln 2, over N = 2
    torch.testing.assert_close(
        reference.siglip_loss(pairs, pairs, 0.0, 0.0), 2 * torch.tensor(2.0, dtype=torch.float64).log()
    )


def test_rectangles_by_hand():
    # One image, (1, 0), and the texts (0, 1), (1, 0), (0, 1): its row has the logits 0, 1, 0, its own column only 1.
    image, text = torch.eye(2)[:1], torch.eye(2)[[1, 0, 1]]
    loss = reference.clip_loss(image, text, 1.0, offset=1)
    assert loss.item() == pytest.approx(math.log(1 + 2 / math.e) / 2)
    sigmoid = reference.siglip_loss(image, text, 1.0, 0.0, offset=1)
    assert sigmoid.item() == pytest.approx(math.log(1 + 1 / math.e) + 2 * math.log(2))
    with pytest.raises(ValueError, match="1 images, 3 texts"):
        reference.clip_loss(image, text, 1.0)


@pytest.mark.parametrize(("positives", "twin"), [("drop", math.log(1 + 1 / math.e)), ("all", math.log(2 + 1 / math.e))])
def test_equal_ids_by_hand(positives, twin):
    # Two equal pairs and another one, at scale 1: the twins' rows are 1, 1, 0, the third one's 0, 0, 1.
    features = torch.eye(2)[[0, 0, 1]]
    loss = reference.clip_loss(features, features, 1.0, ids=torch.tensor([5, 5, 2]), positives=positives)
    assert loss.item() == pytest.approx((2 * twin + math.log(1 + 2 / math.e)) / 3)


def test_all_positives_are_the_supervised_contrastive_loss():
    """Khosla et al. 2020, equation 2, as a loop: the mean over the positives is outside of the logarithm."""
    image, text = make(6, 3)
    logits = 4 * F.normalize(image) @ F.normalize(text).T
    total = 0.0
    for z in (logits, logits.T):
        for i in range(6):
            positives = [j for j in range(6) if IDS[j] == IDS[i]]
            total += sum(z[i].logsumexp(0) - z[i, j] for j in positives) / len(positives)
    loss = reference.clip_loss(image, text, 4.0, ids=IDS, positives="all")
    torch.testing.assert_close(loss, total / 12)


def test_dropped_entries_are_in_no_sum():
    """A loop over the rows and columns that picks what remains."""
    image, text = make(3, 3, texts=6)
    logits = 4 * F.normalize(image) @ F.normalize(text).T
    total = 0.0
    for i in range(3):
        row = [logits[i, j] for j in range(6) if j == i + 2 or IDS[j] != IDS[i + 2]]
        column = [logits[k, i + 2] for k in range(3) if k == i or IDS[k + 2] != IDS[i + 2]]
        total += torch.stack(row).logsumexp(0) + torch.stack(column).logsumexp(0) - 2 * logits[i, i + 2]
    torch.testing.assert_close(reference.clip_loss(image, text, 4.0, offset=2, ids=IDS), total / 6)
