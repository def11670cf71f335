import pytest
import torch

from minclip.teacher import TEMPERATURE, resemblance_loss, teacher_features


def test_resemblance_is_the_divergence_of_the_teachers_view():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(6, d, generator=generator, dtype=torch.float64) for d in (4, 9))
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(6):
        others = [j for j in range(6) if j != i]
        rows = []
        for features in (ours, theirs):
            cosines = torch.cosine_similarity(features[i][None], features[others], dim=1)
            rows.append((cosines / TEMPERATURE).softmax(0))
        expected += (rows[1] * (rows[1] / rows[0]).log()).sum() / 6
    torch.testing.assert_close(resemblance_loss(ours, theirs), expected.float(), rtol=1e-4, atol=1e-6)


def test_resemblance_is_zero_for_the_same_view_at_any_length_and_in_any_rotation():
    seen = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(2)))
    assert abs(resemblance_loss(3 * seen @ rotation, seen).item()) < 1e-5
    assert resemblance_loss(seen.flip(0), seen).item() > 0.1


def test_the_teacher_sees_each_picture_by_itself_and_standardised():
    pytest.importorskip("efficientnet_lite_pytorch")
    images = torch.randint(0, 256, (6, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen = teacher_features(images, torch.device("cpu"), batch_size=4)
    assert seen.shape == (6, 1280)
    torch.testing.assert_close(seen.mean(0), torch.zeros(1280), rtol=0, atol=1e-4)
    torch.testing.assert_close(seen, teacher_features(images, torch.device("cpu"), batch_size=3), rtol=1e-3, atol=1e-3)
