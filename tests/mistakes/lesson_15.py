"""Wrong answers to the exercises of lesson 15, Never build the matrix."""

import torch
import torch.nn.functional as F

import minclip
from mistakes import Hinted

MISTAKES = {
    "online_logsumexp": [
        lambda parts: torch.stack([part.exp().sum(dim=1) for part in parts]).sum(dim=0).log(),  # overflows
        lambda parts: torch.cat(list(parts), dim=1).logsumexp(dim=1),  # keeps everything
        lambda parts: torch.stack([part.logsumexp(dim=1) for part in parts]).sum(dim=0),
        lambda parts: torch.stack([part.amax(dim=1) for part in parts]).amax(dim=0),
        Hinted(
            lambda parts: torch.stack([part.double().exp().sum(dim=1) for part in parts]).sum(dim=0).log().float(),
            "no format holds exp(900)",
        ),  # a larger format
        Hinted(
            lambda parts: 150 + torch.stack([(part - 150).exp().sum(dim=1) for part in parts]).sum(dim=0).log(),
            "the row's largest so far",
        ),  # a fixed maximum
        lambda parts: 900 + torch.stack([(part.double() - 900).exp().sum(1) for part in parts]).sum(0).log().float(),
        Hinted(("total * (largest - new).exp() + ", "total + "), "into one from the new"),  # not corrected
        Hinted(("(largest - new).exp()", "(new - largest).exp()"), "0 · ∞"),  # at the first part
        Hinted(("(largest - new).exp()", "(new - largest).nan_to_num(posinf=0.0).exp()"), "at most 1"),
        ("torch.maximum(largest, part.amax(dim=1))", "part.amax(dim=1)"),  # the largest of this part
        ("part.amax(dim=1))", "part.amax())"),  # of all rows: where they lie far apart, one is lost
    ],
    "chunked_loss": [
        lambda image, text, scale, chunk: minclip.clip_loss(image, text, scale),  # the whole matrix
        lambda image, text, scale, chunk: torch.cat(  # one direction only
            [
                F.cross_entropy(
                    scale * F.normalize(part) @ F.normalize(text).T,
                    torch.arange(k * chunk, k * chunk + len(part)),
                    reduction="none",
                )
                for k, part in enumerate(image.split(chunk))
            ]
        ).mean(),
        Hinted(
            lambda image, text, scale, chunk: (
                sum(  # a chunk is no batch
                    minclip.clip_loss(*pieces, scale) * len(pieces[0])
                    for pieces in zip(image.split(chunk), text.split(chunk), strict=True)
                )
                / len(image)
            ),
            "*all* N texts",
        ),
        Hinted(
            (
                "image, text = F.normalize(image_features, dim=1), F.normalize(text_features, dim=1)",
                "image, text = image_features, text_features",
            ),
            "not normalised",
        ),
        ("for start in range(0, N, chunk)", "chunk = N - 1\n    for start in range(0, N, chunk)"),  # ignores it
        ("for start in range(0, N, chunk)", "chunk = 4\n    for start in range(0, N, chunk)"),
        (".mean() / 2", ".mean().item() / 2"),  # without a gradient
        Hinted(
            (
                "row_lse.append(logits.logsumexp(dim=1))",
                "strips = [logits] if start == 0 else [*strips, logits]\n"
                "        row_lse.append(logits.logsumexp(dim=1))",
            ),
            "what keeps it?",
        ),
        (
            "row_lse.append(logits.logsumexp(dim=1))  # finished",
            "row_lse.append(logits)\n    row_lse = [strip.logsumexp(dim=1) for strip in row_lse]\n    for _ in ():",
        ),
        Hinted(("- 2 * pairs", "- pairs"), "each pair counts twice"),
        Hinted((".mean() / 2", ".mean()"), "half the sum"),
    ],
}
