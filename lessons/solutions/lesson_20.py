import math

import torch
import torch.nn.functional as F


def loss_properties():
    def features(count, width, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(2, count, width, generator=generator)

    def value_and_gradients(loss, x, y, scale):
        inputs = [x.clone().requires_grad_(), y.clone().requires_grad_(), torch.tensor(scale, dtype=x.dtype)]
        value = loss(inputs[0], inputs[1], inputs[2].requires_grad_())
        return [value.detach(), *torch.autograd.grad(value, inputs)]

    def reference(x, y, scale):
        z, labels = scale * F.normalize(x, dim=1) @ F.normalize(y, dim=1).T, torch.arange(len(x))
        return (F.cross_entropy(z, labels) + F.cross_entropy(z.T, labels)) / 2

    def equals_float64(loss):
        x, y = features(40, 8)
        for scale in (1.0, 10.0, 60.0):
            got = value_and_gradients(loss, x, y, scale)
            wanted = value_and_gradients(reference, x.double(), y.double(), scale)
            for mine, right in zip(got, wanted, strict=True):
                assert (mine - right).norm() <= 1e-4 * right.norm()
        return True

    def guessing_costs_ln_n(loss):
        x = torch.ones(40, 8)
        return abs(loss(x, x, 10.0) - math.log(40)) < 1e-4

    def towers_may_change_places(loss):
        x, y = features(20, 4)
        return torch.isclose(loss(x, y, 10.0), loss(y, x, 10.0), rtol=1e-4)

    def length_does_not_matter(loss):
        x, y = features(20, 4)
        return torch.isclose(loss(x, y, 10.0), loss(3 * x, y / 5, 10.0), rtol=1e-4)

    def is_finite_at_any_scale(loss):
        x = torch.eye(3)
        y = torch.stack([x[0], x[1], -x[2]])
        return math.isclose(loss(x, y, 200.0), (200 + math.log(2)) / 3, rel_tol=1e-4)

    return [
        equals_float64,
        guessing_costs_ln_n,
        towers_may_change_places,
        length_does_not_matter,
        is_finite_at_any_scale,
    ]


def split_properties():
    def pictures(count=1000):
        some = torch.randint(0, 256, (count, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        some[:, :16] = 255  # a white border
        return some

    def every_row_is_on_one_side(split):
        twice = torch.cat([pictures(50), pictures(50)])
        train, test = split(twice)
        return sorted([*train, *test]) == list(range(100))

    def equal_pictures_stay_together(split):
        _, test = split(pictures().repeat_interleave(2, dim=0))
        return all(i ^ 1 in test for i in test)  # rows 0 and 1 are equal, 2 and 3, …

    def about_a_tenth(split):
        return 50 < len(split(pictures())[1]) < 200

    def others_do_not_matter(split):
        _, test = split(pictures())
        _, part = split(pictures()[:500])
        return [i for i in test if i < 500] == list(part)

    def order_does_not_matter(split):
        _, test = split(pictures())
        _, backwards = split(pictures().flip(0))
        return sorted(999 - i for i in backwards) == list(test)

    return [
        every_row_is_on_one_side,
        equal_pictures_stay_together,
        about_a_tenth,
        others_do_not_matter,
        order_does_not_matter,
    ]


def score_properties():
    def perfect_is_one(top1):
        return top1(torch.eye(20)) == 1

    def sameness_finds_nothing(top1):
        return top1(torch.full((20, 20), 0.5)) == 0

    def nothing_finds_nothing(top1):
        return top1(torch.full((20, 20), math.nan)) == 0

    def counted_by_hand(top1):
        cosines = torch.eye(3)
        cosines[0, 1] = 2  # picture 0 prefers caption 1; of the captions, 1 prefers picture 0
        cosines[2, 1] = 2
        return math.isclose(top1(cosines), 1 / 3)

    def rivals_may_be_far_away(top1):
        cosines = torch.eye(20)
        cosines[0, 19] = cosines[19, 3] = 2
        return math.isclose(top1(cosines), 18 / 20)

    def minus_one_is_the_worst(top1):
        return top1(torch.eye(4) / 2 - (1 - torch.eye(4))) == 1

    return [
        perfect_is_one,
        sameness_finds_nothing,
        nothing_finds_nothing,
        counted_by_hand,
        rivals_may_be_far_away,
        minus_one_is_the_worst,
    ]
