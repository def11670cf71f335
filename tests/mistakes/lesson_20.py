"""Wrong answers to the exercises of lesson 20, each with words of the hint that fits it."""

import math

import torch
import torch.nn.functional as F

from mistakes import Hinted


def features(count, width):
    return torch.randn(2, count, width, generator=torch.Generator().manual_seed(0))


def reference(x, y, scale):
    z, labels = scale * F.normalize(x, dim=1) @ F.normalize(y, dim=1).T, torch.arange(len(x))
    return (F.cross_entropy(z, labels) + F.cross_entropy(z.T, labels)) / 2


def values(count=40, tolerance=1e-4, scales=(1.0, 10.0, 60.0)):
    def equal_values(loss):
        x, y = features(count, 8)
        return all(torch.isclose(loss(x, y, scale), reference(x, y, scale), rtol=tolerance) for scale in scales)

    return equal_values


def gradients(tolerance=1e-4, inputs=3, scale=10.0):
    def equal_gradients(loss):
        found = []
        for function in (loss, reference):
            tensors = [x.clone().requires_grad_() for x in (*features(40, 8), torch.tensor(scale))]
            found.append(torch.autograd.grad(function(*tensors), tensors[:inputs]))
        return all((a - b).norm() <= tolerance * b.norm() for a, b in zip(*found, strict=True))

    return equal_gradients


def finite(loss):
    x = torch.eye(3)
    return loss(x, x, 200.0).isfinite()


def exactly_ln(loss):
    x = torch.ones(40, 8)
    return loss(x, x, 10.0).item() == math.log(40)


def without_the_mean(loss):
    x = torch.ones(40, 8)
    return loss(x, x, 10.0) > 100


def symmetric(loss):
    x, y = features(20, 4)
    return torch.isclose(loss(x, y, 10.0), loss(y, x, 10.0), rtol=1e-4)


def lengths(loss):
    x, y = features(20, 4)
    return torch.isclose(loss(x, y, 10.0), loss(3 * x, y / 5, 10.0), rtol=1e-4)


def forgets_to_return(loss):
    x, y = features(20, 4)
    torch.isclose(loss(x, y, 10.0), loss(y, x, 10.0))


def twice(split, count=500):
    some = torch.randint(0, 256, (count, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return split(torch.cat([some, some]))


def together(split):
    _, test = twice(split)
    return {i for i in test if i < 500} == {i - 500 for i in test if i >= 500}


def neighbours(split):
    some = torch.randint(0, 256, (500, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    _, test = split(some.repeat_interleave(2, dim=0))
    return all(i ^ 1 in test for i in test)


def each_once(split):
    return sorted([row for side in twice(split) for row in side]) == list(range(1000))


def exactly_a_tenth(split):
    return len(twice(split)[1]) == 100


def no_row_on_both_sides(split):
    train, test = twice(split)
    return not {*train} & {*test}


def a_tenth(split):
    return 50 < len(twice(split)[1]) < 200


def like_a_list(split):
    return twice(split) == twice(split)


def perfect(top1):
    return top1(torch.eye(20)) == 1


def nothing_apart(top1):
    return top1(torch.zeros(20, 20)) == 0


def ties_are_shared(top1):
    return math.isclose(top1(torch.zeros(20, 20)), 1 / 20)


def one_direction(top1):
    cosines = torch.eye(3)
    cosines[0, 1] = cosines[2, 1] = 2
    return math.isclose(top1(cosines), 1 / 3)


def not_a_number(top1):
    return top1(torch.full((20, 20), math.nan)) == 0


def far_rivals(top1):
    cosines = torch.eye(20)
    cosines[0, 19] = cosines[19, 3] = 2
    return math.isclose(top1(cosines), 18 / 20)


MISTAKES = {
    "loss_properties": [
        Hinted(lambda: values(), "return them in a list"),
        Hinted(list, "one function for each property"),
        Hinted(lambda: [exactly_ln], "how exact is a number in float32"),
        Hinted(lambda: [without_the_mean], "is it true of what the task describes"),
        Hinted(lambda: [forgets_to_return], "is a return missing"),
        Hinted(lambda: [lengths], "swap places"),
        Hinted(lambda: [symmetric], "for which scales does exp overflow"),
        Hinted(lambda: [symmetric, finite], "three times as long"),
        Hinted(lambda: [symmetric, finite, lengths], "which loss do you know for a certain scale"),
        Hinted(lambda: [values(count=12), finite], "give it more pairs than that"),
        Hinted(lambda: [values(), finite], "What else does a training take from a loss"),
        Hinted(lambda: [values(tolerance=0.02), finite, gradients(tolerance=0.02)], "up to which relative error"),
        Hinted(lambda: [values(), finite, gradients(inputs=2)], "which inputs of the loss learn"),
        Hinted(lambda: [values(scales=(10.0,)), gradients(), finite], "far below all others"),
    ],
    "split_properties": [
        Hinted(lambda: together, "return them in a list"),
        Hinted(lambda: [exactly_a_tenth], "is it true of what the task describes"),
        Hinted(lambda: [a_tenth, like_a_list], "by the row's number"),
        Hinted(lambda: [each_once], "by the row's number"),
        Hinted(lambda: [together, a_tenth], "by the row's number"),  # every tenth: row i and row i + 500
        Hinted(lambda: [neighbours], "on how many sides is a row"),
        Hinted(lambda: [neighbours, no_row_on_both_sides], "if others are added, or taken away"),
        Hinted(lambda: [neighbours, a_tenth, each_once], "if others are added, or taken away"),
        Hinted((("return 50 < len(split(pictures())[1]) < 200", "return True"),), "same white rows"),
        Hinted((("some[:, :16] = 255  # a white border", "pass"),), "same white rows"),
    ],
    "score_properties": [
        Hinted(lambda: perfect, "return them in a list"),
        Hinted(lambda: [ties_are_shared], "is it true of what the task describes"),
        Hinted(lambda: [perfect], "gives everything the same cosine"),
        Hinted(lambda: [perfect, nothing_apart], "the two directions have different scores"),
        Hinted(lambda: [perfect, nothing_apart, one_direction], "are not a number"),
        Hinted(lambda: [perfect, nothing_apart, one_direction, not_a_number], "What if the last one is smaller"),
        Hinted(lambda: [perfect, nothing_apart, one_direction, not_a_number, far_rivals], "What if one is −1"),
        Hinted((("return top1(torch.eye(4) / 2 - (1 - torch.eye(4))) == 1", "return True"),), "What if one is −1"),
    ],
}  # fmt: skip
