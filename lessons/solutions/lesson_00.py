import torch.nn.functional as F
from torch import Tensor


def nearest_label(image_features: Tensor, label_features: Tensor) -> Tensor:
    cosine = F.normalize(image_features, dim=-1) @ F.normalize(label_features, dim=-1).T  # (P, C)
    return cosine.argmax(dim=1)  # (P,)
