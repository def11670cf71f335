import math
from typing import Any

import torch
from torch import Tensor

from solutions.lesson_01 import cosine_matrix
from solutions.lesson_02 import arange_loss


def contrastive_loss(image_features: Tensor, text_features: Tensor, scale: Tensor) -> Tensor:
    logits = scale * cosine_matrix(image_features, text_features)  # (B, B)
    return (arange_loss(logits) + arange_loss(logits.T)) / 2


def training_step(model: Any, optimizer: torch.optim.Optimizer, images: Tensor, tokens: Tensor) -> float:
    image_features = model.encode_image(images)  # (B, E)
    text_features = model.encode_text(tokens)  # (B, E)
    loss = contrastive_loss(image_features, text_features, model.logit_scale.exp())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(max=math.log(100))
    return loss.item()
