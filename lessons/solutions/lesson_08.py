import torch
from torch import Tensor

import minclip


def training_step(model: minclip.CLIP, optimizer: torch.optim.Optimizer, images: Tensor, tokens: Tensor) -> float:
    image_features = model.encode_image(images)  # (B, E)
    text_features = model.encode_text(tokens)  # (B, E)
    loss = minclip.clip_loss(image_features, text_features, model.logit_scale.exp())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    model.clamp_logit_scale()
    return loss.item()
