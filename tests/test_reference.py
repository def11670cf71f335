import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from minclip_kernels import reference


def make(count, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image, text = (torch.randn(count, width, dtype=torch.float64, generator=generator) for _ in range(2))
    return image.requires_grad_(), text.requires_grad_()


@pytest.mark.parametrize("normalize", [True, False])
def test_gradcheck(normalize):
    image, text = make(4, 3)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *tensors: reference.clip_loss(*tensors, normalize=normalize), (image, text, scale)
    )
    assert torch.autograd.gradcheck(
        lambda *tensors: reference.siglip_loss(*tensors, normalize=normalize), (image, text, scale, bias)
    )


@given(st.integers(1, 20), st.integers(1, 20), st.floats(0.01, 100), st.booleans(), st.booleans())
def test_the_formulas_are_the_derivatives(count, width, scale, normalize, with_zero):
    image, text = make(count, width)
    if with_zero:
        image.data[0] = 0
    scale = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    loss = reference.clip_loss(image, text, scale, normalize=normalize)
    formulas = reference.gradients(image, text, scale, normalize=normalize)
    derivatives = torch.autograd.grad(loss, (image, text, scale))
    torch.testing.assert_close(derivatives, formulas[:3])
    loss = reference.siglip_loss(image, text, scale, bias, normalize=normalize)
    formulas = reference.gradients(image, text, scale, bias, normalize=normalize)
    derivatives = torch.autograd.grad(loss, (image, text, scale, bias))
    torch.testing.assert_close(derivatives, formulas[:4])


def test_by_hand():
    # two orthogonal pairs at scale 1: each row has logits 1 and 0, so the loss is ln(1 + 1/e)
    pairs = torch.eye(2)
    expected = torch.log1p(torch.exp(torch.tensor(-1.0, dtype=torch.float64)))
    torch.testing.assert_close(reference.clip_loss(pairs, pairs, 1.0), expected)
    # sigmoid loss at scale 0 and bias 0: each of the 4 logits costs ln 2, over N = 2
    torch.testing.assert_close(
        reference.siglip_loss(pairs, pairs, 0.0, 0.0), 2 * torch.tensor(2.0, dtype=torch.float64).log()
    )
