"""Wrong answers to the exercises of lesson 08, Train it."""

from mistakes import Hinted

CLAMP = "    with torch.no_grad():\n        model.logit_scale.clamp_(max=math.log(100))\n"
ZERO, STEP = "    optimizer.zero_grad()\n", "    optimizer.step()\n"
BOTH = "contrastive_loss(image_features, text_features, model.logit_scale.exp())"

MISTAKES = {
    "training_step": [
        Hinted((ZERO, ""), "gradients add up"),
        (("    loss.backward()\n", "    loss.backward()\n" + ZERO), (ZERO + "    loss", "    loss")),  # too late
        Hinted((CLAMP, ""), "holds the logarithm"),
        Hinted((("clamp_(max=math.log(100))", "clamp_(max=100)"),), "holds the logarithm"),
        ((CLAMP, ""), (STEP, CLAMP + STEP)),  # clamped before the move
        Hinted(
            ((CLAMP, ""), ("model.logit_scale.exp())", "model.logit_scale.exp().clamp(max=100))")),
            "takes the scale as it is",
        ),
        Hinted((STEP, ""), "what moves the parameters"),
        Hinted((("model.logit_scale.exp())", "model.logit_scale)"),), "model.logit_scale.exp()"),
        Hinted(
            ((BOTH, "arange_loss(model.logit_scale.exp() * cosine_matrix(image_features, text_features))"),), "both"
        ),
        Hinted(((BOTH, "arange_loss(model.logit_scale.exp() * image_features @ text_features.T)"),), "both"),
        ("return loss.item()", "return loss"),
        ("loss.backward()", "loss.detach().requires_grad_().backward()"),
        (
            "text_features = model.encode_text(tokens)",
            "text_features = model.encode_text(tokens).detach()",
        ),  # one tower
    ],
}
