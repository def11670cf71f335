import torch
import torch.nn.functional as F
from torch import Tensor
from workers import Worker


def sharded_loss(image: Tensor, text: Tensor, logit_scale: Tensor, worker: Worker) -> Tensor:
    all_images, all_texts = worker.all_gather_with_grad(image), worker.all_gather_with_grad(text)
    offset = sum(len(rows) for rows in all_images[: worker.rank])
    N = sum(len(rows) for rows in all_images)
    labels = offset + torch.arange(len(image))  # (n,)
    per_image = logit_scale * image @ torch.cat(all_texts).T  # (n, N)
    per_text = logit_scale * text @ torch.cat(all_images).T  # (n, N)
    loss = F.cross_entropy(per_image, labels, reduction="sum") + F.cross_entropy(per_text, labels, reduction="sum")
    return worker.world_size / N * loss / 2
