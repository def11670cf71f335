import torch
import torch.nn.functional as F
from torch import Tensor


def grouped_loss(image_features: Tensor, text_features: Tensor, scale: Tensor | float, group: int) -> Tensor:
    image = F.normalize(image_features, dim=1).unflatten(0, (-1, group))  # (B / group, group, E)
    text = F.normalize(text_features, dim=1).unflatten(0, (-1, group))
    logits = scale * image @ text.transpose(1, 2)  # (B / group, group, group)
    labels = torch.arange(group).expand(len(logits), group)  # in every group 0, 1, …
    of_texts = F.cross_entropy(logits, labels)  # the classes of cross_entropy stand in axis 1: the pictures
    of_pictures = F.cross_entropy(logits.transpose(1, 2), labels)
    return (of_pictures + of_texts) / 2
