"""Wrong answers to the exercises of lesson 08, Train it."""

import torch
import torch.nn.functional as F

import minclip


def _step_with(mistake: str, model, optimizer, images, tokens):
    features = model.encode_image(images), model.encode_text(tokens)
    scale = model.logit_scale if mistake == "scale without exp" else model.logit_scale.exp()
    loss = minclip.clip_loss(*features, scale)
    if mistake == "one direction":
        logits = scale * F.normalize(features[0], dim=1) @ F.normalize(features[1], dim=1).T
        loss = F.cross_entropy(logits, torch.arange(len(logits)))
    if mistake not in ("no zero_grad", "zero_grad after backward"):
        optimizer.zero_grad()
    loss.backward()
    if mistake == "zero_grad after backward":
        optimizer.zero_grad()
    if mistake != "no step":
        optimizer.step()
    if mistake != "no clamp":
        model.clamp_logit_scale()
    return loss if mistake == "a tensor" else loss.item()


MISTAKES = {
    "training_step": [
        lambda *case: _step_with("no zero_grad", *case),
        lambda *case: _step_with("zero_grad after backward", *case),
        lambda *case: _step_with("no clamp", *case),
        lambda *case: _step_with("no step", *case),
        lambda *case: _step_with("scale without exp", *case),
        lambda *case: _step_with("one direction", *case),
        lambda *case: _step_with("a tensor", *case),
    ],
}
