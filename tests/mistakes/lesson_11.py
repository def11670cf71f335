"""Wrong answers to the exercises of lesson 11, None of these."""

from mistakes import Hinted


def by_counts(inside, outside):
    """The most pictures right, whichever heap they belong to."""
    return max(inside.tolist() + outside.tolist(), key=lambda t: ((inside >= t).sum() + (outside < t).sum()).item())


def strictly(inside, outside):
    """A picture at the threshold counted on the wrong side."""
    shares = {t: ((inside > t).double().mean() + (outside <= t).double().mean()).item() for t in inside.tolist()}
    shares |= {t: ((inside > t).double().mean() + (outside <= t).double().mean()).item() for t in outside.tolist()}
    return max(shares, key=shares.__getitem__)


def on_a_grid(inside, outside):
    """The best of two hundred thresholds that do not depend on the pictures."""
    grid = [step / 100 for step in range(-100, 101)]
    return max(grid, key=lambda t: ((inside >= t).double().mean() + (outside < t).double().mean()).item())


def best_balance(inside, outside):
    """The score in place of the threshold."""
    return max(((inside >= t).double().mean() + (outside < t).double().mean()).item() / 2 for t in inside.tolist())


DIVIDED = "return -F.logsigmoid(sign * logits).sum() / len(logits)"

MISTAKES = {
    "rejection_threshold": [
        Hinted(lambda inside, outside: (inside.mean() + outside.mean()).item() / 2, "the middle between the two means"),
        Hinted(lambda inside, outside: inside.min().item(), "looks at the right ones only"),
        Hinted(lambda inside, outside: outside.max().item(), "turns every outsider away"),
        Hinted(by_counts, "take shares of each"),
        Hinted(strictly, "is accepted (>=)"),
        Hinted(on_a_grid, "try every cosine"),
        lambda inside, outside: inside.quantile(0.1).item(),
        lambda inside, outside: 0.25,
        best_balance,
        ("return max(", "return min("),
        lambda inside, outside: inside,  # many thresholds
    ],
    "sigmoid_loss": [
        Hinted((DIVIDED, "return -F.logsigmoid(sign * logits).mean()"), "not by N²"),
        Hinted(("sign * logits", "-sign * logits"), "there the sign is +1"),
        Hinted((DIVIDED, "return -F.logsigmoid(logits.diagonal()).mean()"), "off the diagonal are questions"),
        Hinted((" + bias", ""), "the bias is added"),
        Hinted(
            ("scale * image_features @ text_features.T + bias", "scale * (image_features @ text_features.T + bias)"),
            "does not multiply the bias",
        ),
        Hinted(
            (
                ("    image_features = F.normalize(image_features, dim=1)\n", ""),
                ("    text_features = F.normalize(text_features, dim=1)\n", ""),
            ),
            "normalise them first",
        ),
        Hinted(((" + bias", ""), ("sign * logits", "sign * logits + bias")), "the bias included"),
        Hinted(("F.logsigmoid(sign * logits)", "torch.sigmoid(sign * logits).log()"), "logsigmoid"),
        Hinted((DIVIDED, "return F.cross_entropy(logits, torch.arange(len(logits)))"), "asked by itself"),
        Hinted((DIVIDED, DIVIDED.replace("return ", "return torch.tensor((") + ").item())"), "no .item()"),
        (DIVIDED, DIVIDED.removesuffix(" / len(logits)")),
    ],
}
