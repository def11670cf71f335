"""Wrong answers to `sharded_loss` of lesson 19, as people write them, and words of the hint that fits each."""

from mistakes import Hinted

LABELS = "labels = offset + torch.arange(len(image))"
OFFSET = "offset = sum(len(rows) for rows in all_images[: worker.rank])"
GATHERS = "all_images, all_texts = worker.all_gather_with_grad(image), worker.all_gather_with_grad(text)"
CONSTANTS = "all_images, all_texts = worker.all_gather(image), worker.all_gather(text)"
OWN_ENTRY = f"{CONSTANTS}\n    all_images[worker.rank], all_texts[worker.rank] = image, text"  # as open_clip does
RESULT = "return worker.world_size / N * loss / 2"
PER_TEXT = "F.cross_entropy(per_text, labels, reduction="
STRIPS = "    per_image = logit_scale * image @ torch.cat(all_texts).T  # (n, N)\n"
WHOLE = "logits = logit_scale * torch.cat(all_images) @ torch.cat(all_texts).T\n    everyone = torch.arange(N)\n    "
WHOLE_LOSS = "(F.cross_entropy(logits, everyone) + F.cross_entropy(logits.T, everyone)) / 2"

# What to change in our solution, in pairs of an old and a new text -> words of the hint.
ANSWERS: dict[tuple[tuple[str, str], ...], str] = {
    ((LABELS, "labels = torch.arange(len(image))"),): "only if your rank is 0",
    ((OFFSET, "offset = worker.rank * len(image)"),): "shards differ in size, so lower ranks",
    ((GATHERS, CONSTANTS),): "came as constants",
    ((GATHERS, OWN_ENTRY),): "came as constants",
    (("worker.all_gather_with_grad(image)", "worker.all_gather(image)"),): "came as constants",
    ((RESULT, "return loss / 2"),): "sums over pairs",
    ((RESULT, "return loss / (2 * N)"),): "you lose a factor W",
    ((RESULT, "return loss / (2 * len(image))"),): "the mean of the workers' means",
    ((RESULT, "return worker.world_size / N * loss"),): "half of the sum of its two directions",
    ((f" + {PER_TEXT}", f" + 0 * {PER_TEXT}"), ("* loss / 2", "* loss")): "your texts have to find their images",
    (("F.cross_entropy(per_image,", "0 * F.cross_entropy(per_image,"), ("* loss / 2", "* loss")): "your images have to",
    ((GATHERS, "all_images, all_texts = [image], [text]"), (OFFSET, "offset = 0"), (RESULT, "return loss / 2 / N")): (
        "compete with your own only"
    ),
    # The whole loss, without the others' gradients, times W: right for the towers, not for the scale.
    (
        (GATHERS, OWN_ENTRY),
        (STRIPS, f"    {WHOLE}return worker.world_size * {WHOLE_LOSS}\n{STRIPS}"),
    ): "W times too large",
    ((GATHERS, OWN_ENTRY), (STRIPS, f"    {WHOLE}return {WHOLE_LOSS}\n{STRIPS}")): "came as constants",
    (("per_image = logit_scale *", "per_image = logit_scale.item() *"),): "is it cut off",
    ((GATHERS, f"if worker.rank == 0:\n        worker.all_gather(image)\n    {GATHERS}"),): "gathering is a meeting",
    ((STRIPS, f"    {WHOLE}return {WHOLE_LOSS}\n{STRIPS}"),): "must not each do all the work",
}

MISTAKES = {"sharded_loss": [Hinted(changes, words) for changes, words in ANSWERS.items()]}
