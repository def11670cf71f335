"""Wrong answers to the exercises of lesson 13, Borrowed eyes."""

from mistakes import Hinted

CENTRED = "x, y = features - features.mean(dim=0), targets - targets.mean(dim=0)"
SOLVED = "torch.linalg.solve(x.T @ x + strength * torch.eye(x.shape[1]), x.T @ y)"
COPY = "            copy = image.clone()\n"
FIRST = "    covered = []\n"

MISTAKES = {
    "linear_probe": [
        Hinted((SOLVED, "torch.linalg.pinv(x) @ y"), "the strength is missing"),
        Hinted((CENTRED, "x, y = features, targets"), "there is no bias"),
        Hinted(("strength *", "strength * len(x) *"), "a sum over the pictures"),
        Hinted(("strength *", "strength**2 *"), "not its square"),
        Hinted(
            ("bias = targets.mean(dim=0) - features.mean(dim=0) @ weights", "bias = targets.mean(dim=0)"),
            "the bias makes",
        ),
        Hinted(
            ("bias = targets.mean(dim=0) - features.mean(dim=0) @ weights", "bias = torch.zeros(classes)"),
            "the bias makes",
        ),
        Hinted(("return weights, bias", "return weights"), "return weights, bias"),
        Hinted(
            ("F.one_hot(labels, classes).to(features.dtype)", "labels[:, None].expand(-1, classes).to(features.dtype)"),
            "one-hot",
        ),
        (SOLVED, "torch.linalg.solve(x.T @ x + strength, x.T @ y)"),
        ("return weights, bias", "return weights.T, bias"),
        Hinted(("F.one_hot(labels, classes)", "F.one_hot(labels)"), "has no picture"),
    ],
    "occlusion_map": [
        Hinted(
            ("score(image[None]) - score(torch.stack(covered))", "score(torch.stack(covered))"),
            "of the covered pictures",
        ),
        Hinted(
            (
                "score(image[None]) - score(torch.stack(covered))",
                "score(torch.stack(covered)) - score(image[None])",
            ),
            "minus that of the covered",
        ),
        Hinted(
            ((COPY, ""), (FIRST, FIRST + "    copy = image.clone()\n"), ("append(copy)", "append(copy.clone())")),
            "a fresh copy",
        ),
        Hinted(("view(squares, squares)", "view(squares, squares).T"), "exchanged"),
        Hinted((" = fill", " = 0"), "is not always 0"),
        ("copy[:, ", "copy[0, "),  # one colour only
        Hinted(("return drop.view(squares, squares)", "return drop"), "one number for each square"),
        (COPY, "            copy = image\n"),  # the given picture changes
        ("(row + 1) * size", "row * size + 1"),
    ],
}
