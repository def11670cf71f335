from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor


def online_logsumexp(parts: Iterable[Tensor]) -> Tensor:
    largest, total = torch.tensor(-torch.inf), torch.tensor(0.0)
    for part in parts:
        new = torch.maximum(largest, part.amax(dim=1))  # (n,)
        total = total * (largest - new).exp() + (part - new[:, None]).exp().sum(dim=1)
        largest = new
    return largest + total.log()


def chunked_loss(image_features: Tensor, text_features: Tensor, logit_scale: Tensor | float, chunk: int) -> Tensor:
    image, text = F.normalize(image_features, dim=1), F.normalize(text_features, dim=1)  # (N, D)
    N = len(image)
    row_lse, column_lse = [], torch.full((N,), -torch.inf)
    for start in range(0, N, chunk):
        logits = logit_scale * image[start : start + chunk] @ text.T  # (chunk, N)
        row_lse.append(logits.logsumexp(dim=1))  # finished
        column_lse = torch.logaddexp(column_lse, logits.logsumexp(dim=0))  # a part more
    pairs = logit_scale * (image * text).sum(dim=1)  # (N,), the diagonal
    return (torch.cat(row_lse) + column_lse - 2 * pairs).mean() / 2
