import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from minclip_kernels import fused_clip_loss
from minclip_kernels.testing import assert_equals_reference, evaluate

from minclip import clip_loss, clip_loss_onehot, loss_floor, siglip_loss
from minclip.loss import batch_floor, best_top1, floor_with_ids

shapes = st.tuples(st.integers(1, 40), st.integers(1, 30))
scales = st.floats(0.01, 100)
seeds = st.integers(0, 2**31)


def pairs(shape: tuple[int, int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    return features[0].requires_grad_(), features[1].requires_grad_()


@given(shapes, scales, seeds)
def test_the_identity_matrix_and_arange_are_the_same_loss(shape, scale, seed):
    image, text = pairs(shape, seed)
    torch.testing.assert_close(clip_loss_onehot(image, text, scale), clip_loss(image, text, scale))


@given(shapes, scales, seeds)
def test_gradient_of_the_logits_is_softmax_of_rows_and_columns_minus_twice_the_identity(shape, scale, seed):
    """∂loss/∂z = (softmax rows + softmax columns − 2I) / 2N, carried to the features by the chain rule on paper."""
    image, text = pairs(shape, seed)
    x, y = (f.detach() / f.detach().norm(dim=1, keepdim=True) for f in (image, text))
    z = scale * x @ y.T
    N = len(z)
    d_z = (z.softmax(1) + z.softmax(0) - 2 * torch.eye(N, dtype=z.dtype)) / (2 * N)
    expected = []
    for d_unit, unit, raw in ((scale * d_z @ y, x, image), (scale * d_z.T @ x, y, text)):
        tangent = d_unit - unit * (d_unit * unit).sum(1, keepdim=True)
        expected.append(tangent / raw.detach().norm(dim=1, keepdim=True))
    for loss in (clip_loss, clip_loss_onehot):
        gradients = torch.autograd.grad(loss(image, text, scale), (image, text))
        torch.testing.assert_close(gradients, tuple(expected), rtol=1e-7, atol=1e-10 * max(scale, 1))


@pytest.mark.parametrize("loss", [clip_loss, clip_loss_onehot])
def test_a_single_pair_has_no_loss_and_no_gradient(loss):
    image, text = pairs((1, 7), 0)
    value = loss(image, text, 30.0)
    assert value.item() == 0
    for gradient in torch.autograd.grad(value, (image, text)):
        assert torch.equal(gradient, torch.zeros_like(gradient))


@given(shapes, scales, seeds)
def test_a_common_permutation_changes_nothing(shape, scale, seed):
    image, text = pairs(shape, seed)
    order = torch.randperm(len(image), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(clip_loss(image[order], text[order], scale), clip_loss(image, text, scale))


@given(shapes, scales, seeds)
def test_the_length_of_a_feature_does_not_matter(shape, scale, seed):
    image, text = pairs(shape, seed)
    lengths = torch.rand(2, shape[0], 1, generator=torch.Generator().manual_seed(seed)).double() * 100 + 0.01
    torch.testing.assert_close(clip_loss(lengths[0] * image, lengths[1] * text, scale), clip_loss(image, text, scale))


def test_the_towers_may_be_exchanged_but_the_two_halves_differ():
    image, text = pairs((9, 5), 0)
    torch.testing.assert_close(clip_loss(image, text, 10.0), clip_loss(text, image, 10.0))
    logits = 10 * torch.nn.functional.normalize(image) @ torch.nn.functional.normalize(text).T
    labels = torch.arange(9)
    halves = [torch.nn.functional.cross_entropy(z, labels) for z in (logits, logits.T)]
    assert abs(halves[0] - halves[1]) > 0.01
    torch.testing.assert_close(clip_loss(image, text, 10.0), sum(halves) / 2)


@given(shapes, scales, st.floats(-20, 20), seeds)
def test_siglip_asks_every_pair_a_question_of_its_own(shape, scale, bias, seed):
    """Against binary cross-entropy with the identity matrix as its labels, and a loop over the pairs."""
    image, text = pairs(shape, seed)
    x, y = (torch.nn.functional.normalize(features.detach()) for features in (image, text))
    total = 0.0
    for i in range(shape[0]):
        for j in range(shape[0]):
            z = float(scale * (x[i] @ y[j]) + bias)
            z = z if i == j else -z
            total += max(-z, 0) + math.log1p(math.exp(-abs(z)))  # −log σ(z) without overflow
    assert siglip_loss(image, text, scale, bias).item() == pytest.approx(total / shape[0], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("image", "text"), [((3, 4), (2, 4)), ((3, 4), (3, 5)), ((0, 4), (0, 4)), ((4,), (4,))])
def test_wrong_shapes_are_named(image, text):
    for loss in (clip_loss, clip_loss_onehot, lambda image, text, scale: siglip_loss(image, text, scale, 0.0)):
        with pytest.raises(ValueError, match=r"must both be \(N, D\)"):
            loss(torch.zeros(image), torch.zeros(text), 1.0)


def test_floors():
    assert loss_floor(128) == pytest.approx(4.852, abs=1e-3)  # "my loss is stuck at 4.85"
    assert loss_floor(64, 16) == pytest.approx(1.511, abs=1e-3)  # measured once: 1.513
    assert loss_floor(1) == 0
    assert loss_floor(1, 7) == 0
    with pytest.raises(ValueError, match="0 and 3"):
        loss_floor(0, 3)


def test_an_untrained_model_pays_the_floor_of_one_caption():
    """All features equal: the model tells nothing apart, and the loss is ln B whatever the scale."""
    same = torch.ones(50, 8)
    assert clip_loss(same, same, 20.0).item() == pytest.approx(loss_floor(50), rel=1e-6)


def test_a_perfect_model_pays_the_floor_of_its_duplicate_captions():
    """Captions drawn at random, equal ones with equal features: the mean loss meets the formula."""
    generator = torch.Generator().manual_seed(0)
    captions = torch.eye(16)
    losses = []
    for _ in range(400):
        batch = captions[torch.randint(16, (64,), generator=generator)]
        losses.append(clip_loss(batch, batch, 100.0).item())
    assert sum(losses) / len(losses) == pytest.approx(loss_floor(64, 16), abs=0.01)


def draw_ids(count: int, names: int, seed: int) -> torch.Tensor:
    return torch.randint(names, (count,), generator=torch.Generator().manual_seed(seed))


@given(shapes, scales, seeds, st.sampled_from([1, 3, 20]), st.sampled_from(["drop", "all"]))
def test_equal_ids_as_in_the_fused_loss(shape, scale, seed, names, positives):
    image, text = pairs(shape, seed)
    options = {"ids": draw_ids(shape[0], names, seed), "positives": positives}
    plain = assert_equals_reference(clip_loss, image, text, scale, **options)
    fused = evaluate(fused_clip_loss, image, text, scale, **options)
    torch.testing.assert_close(plain.loss.float(), fused.loss, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(plain[1:4], fused[1:4], rtol=1e-9, atol=1e-12 * (1 + scale))


@given(shapes, scales, seeds, st.sampled_from(["drop", "all"]))
def test_ids_that_all_differ_change_nothing(shape, scale, seed, positives):
    image, text = pairs(shape, seed)
    ids = torch.randperm(shape[0], generator=torch.Generator().manual_seed(seed))
    with_ids = clip_loss(image, text, scale, ids, positives)
    torch.testing.assert_close(with_ids, clip_loss(image, text, scale))


@given(shapes, scales, seeds)
def test_pairs_that_all_have_the_same_id_have_no_negatives(shape, scale, seed):
    image, text = pairs(shape, seed)
    same = torch.zeros(shape[0], dtype=torch.int64)
    value = clip_loss(image, text, scale, same)
    assert value.item() == 0
    for gradient in torch.autograd.grad(value, (image, text)):
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_unusable_ids_are_named():
    image, text = pairs((3, 4), 0)
    with pytest.raises(ValueError, match=r"\(4,\).*\(3,\)"):
        clip_loss(image, text, 1.0, torch.arange(4))
    with pytest.raises(ValueError, match=r"'some'.*'drop' or 'all'"):
        clip_loss(image, text, 1.0, torch.arange(3), "some")


def test_floor_with_ids():
    ids = torch.tensor([5, 5, 5, -1, 5, 0])
    assert floor_with_ids(ids) == 0
    assert floor_with_ids(ids, "all") == pytest.approx(4 / 6 * math.log(4))
    assert floor_with_ids(torch.arange(7), "all") == 0


@pytest.mark.parametrize("positives", ["drop", "all"])
def test_gradient_descent_on_free_features_ends_at_the_floor(positives):
    ids = torch.tensor([0, 0, 0, 1, 1, 2])
    image, text = (features.detach().requires_grad_() for features in pairs((6, 8), 0))
    optimizer = torch.optim.Adam([image, text], lr=0.05)
    values = []
    for _ in range(400):
        loss = clip_loss(image, text, 50.0, ids, positives)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    floor = floor_with_ids(ids, positives)
    assert min(values) >= floor
    assert values[-1] == pytest.approx(floor, abs=1e-3)


def test_a_batch_of_duplicates_pays_for_them_only_where_they_are_negatives():
    """Equal captions with equal features: without ids they cost the floor, with "drop" nothing."""
    captions = torch.tensor([0, 0, 1, 2, 2, 2])
    features = torch.eye(3)[captions]
    assert clip_loss(features, features, 100.0).item() == pytest.approx(floor_with_ids(captions, "all"))
    assert clip_loss(features, features, 100.0, captions).item() == pytest.approx(0, abs=1e-6)
    assert clip_loss(features, features, 100.0, captions, "all").item() == pytest.approx(
        floor_with_ids(captions, "all")
    )


def test_the_floor_of_a_batch_counts_its_duplicates():
    different = torch.arange(4)
    assert batch_floor(different, different) == 0
    assert batch_floor(torch.tensor([5, 5, 5, 5]), different) == pytest.approx(math.log(4))
    assert batch_floor(torch.tensor([5, 5, 1, 2]), different) == pytest.approx(math.log(2) / 2)
    assert batch_floor(different, torch.tensor([0, 1, 1, 1])) == pytest.approx(3 * math.log(3) / 4)


SAME, DIFFERENT = torch.tensor([0, 0, 0, 1, 1, 2]), torch.arange(6)
DUPLICATES = {
    "captions": (SAME, DIFFERENT),
    "pictures": (DIFFERENT, SAME),
    "pairs": (SAME, SAME),
    "both": (SAME, torch.tensor([0, 1, 2, 2, 3, 3])),  # a picture with two captions that other pictures have as well
}


@pytest.mark.parametrize("loss", ["clip", "siglip"])
@pytest.mark.parametrize("which", DUPLICATES)
def test_no_model_gets_under_the_floor_of_duplicates(which, loss):
    """Gradient descent on free features, equal ones for what is equal, ends at the floor."""
    captions, pictures = DUPLICATES[which]
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(6, 8, generator=generator).requires_grad_() for _ in range(2)]
    bias = torch.zeros(()).requires_grad_()
    optimizer = torch.optim.Adam([*features, bias], lr=0.05)
    value = torch.tensor(0.0)
    for _ in range(800):
        image, text = features[0][pictures], features[1][captions]
        value = clip_loss(image, text, 50.0) if loss == "clip" else siglip_loss(image, text, 50.0, bias)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert value.item() == pytest.approx(batch_floor(captions, pictures, loss), abs=2e-3)


ids_of_a_batch = st.integers(1, 9).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 3), min_size=n, max_size=n) for _ in range(2)])
)


def perfect_logits(captions: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """The pointwise mutual information of each picture (rows) and caption (columns) of a batch, in float64."""
    of_picture, of_caption = pictures[:, None] == pictures, captions[:, None] == captions
    together = (of_picture.double() @ of_caption.double()).clamp(min=1e-300)  # (B, B): pairs with this p and this c
    return (together / (of_picture.sum(1)[:, None] * of_caption.sum(1))).log()


@given(ids_of_a_batch)
def test_the_floor_is_the_loss_of_a_perfect_model(ids):
    """The logits of a perfect model, built from counts, have this loss, and any change of them costs more."""
    captions, pictures = map(torch.tensor, ids)
    target = torch.arange(len(captions))

    def loss(logits: torch.Tensor) -> float:
        return ((F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2).item()

    perfect = perfect_logits(captions, pictures)
    floor = batch_floor(captions, pictures)
    assert loss(perfect) == pytest.approx(floor, abs=1e-9)
    generator = torch.Generator().manual_seed(0)
    score = torch.randn(4, 4, generator=generator, dtype=torch.float64)  # of a picture and a caption
    assert loss(perfect + 0.3 * score[pictures][:, captions]) >= floor - 1e-9
    assert loss(5 * score[pictures][:, captions]) >= floor - 1e-9


@given(ids_of_a_batch)
def test_the_floor_of_siglip_is_the_best_probability_of_every_cell(ids):
    captions, pictures = map(torch.tensor, ids)
    ours = 0.0
    for p in set(ids[1]):
        for c in set(ids[0]):
            cells = (pictures == p).sum() * (captions == c).sum()
            right = ((pictures == p) & (captions == c)).sum()
            share = right.double() / cells
            ours += float(cells * -(torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share)))
    assert batch_floor(captions, pictures, "siglip") == pytest.approx(ours / len(captions), abs=1e-9)


@given(ids_of_a_batch)
def test_no_answer_is_right_more_often_than_the_best(ids):
    """Against trying every caption for every picture; of equal captions one is drawn."""
    captions, pictures = map(torch.tensor, ids)
    best = 0.0
    for p in set(ids[1]):
        own = captions[pictures == p]
        best += max(float((own == c).sum() / (captions == c).sum()) for c in set(ids[0]))
    assert best_top1(captions, pictures) == pytest.approx(best / len(captions))
