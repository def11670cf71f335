"""Wrong answers to the exercises of lesson 07, Patches."""

import torch
import torch.nn.functional as F

from mistakes import Hinted

MISTAKES = {
    "patchify": [
        lambda images, size: images.reshape(len(images), -1, 3 * size**2),
        lambda images, size: F.unfold(images.mT, size, stride=size).transpose(1, 2),  # down the columns
        lambda images, size: (
            F.unfold(images, size, stride=size)  # the channel last
            .transpose(1, 2)
            .unflatten(2, (3, -1))
            .transpose(2, 3)
            .flatten(2)
        ),
        lambda images, size: F.unfold(images, size, stride=size),  # (B, 3·size·size, P)
        lambda images, size: F.unfold(images, size).transpose(1, 2),  # stride 1
        lambda images, size: images.unfold(2, size, size).unfold(3, size, size).flatten(1, 3).flatten(2),
        lambda images, size: torch.cat([F.unfold(c, size, stride=size).mT for c in images.split(1, 1)], dim=1),
    ],
    "embed_patches": [
        lambda images, weight: F.conv2d(images, weight, stride=weight.shape[-1]).flatten(2),  # (B, D, P)
        lambda images, weight: F.conv2d(images, weight).flatten(2).transpose(1, 2),  # stride 1
        lambda images, weight: (
            F.unfold(images, weight.shape[-1], stride=weight.shape[-1]).transpose(1, 2)
            @ weight.reshape(-1, len(weight))  # not the transpose
        ),
        ("patches @ weight.flatten(1).T", "patches @ weight.flatten(1)"),
        ("patches @ weight.flatten(1).T", "patches @ weight.transpose(2, 3).flatten(1).T"),  # down the columns
        ("patches @ weight.flatten(1).T", "F.normalize(patches, dim=-1) @ weight.flatten(1).T"),
        ("patches @ weight.flatten(1).T", "patches @ weight.permute(0, 2, 3, 1).flatten(1).T"),  # the channel last
    ],
    "ImageTower": [
        Hinted(
            (("torch.cat([token, patches], dim=1)", "torch.cat([patches, token], dim=1)"), ("x[:, 0]", "x[:, -1]")),
            "comes in front",
        ),
        Hinted(("torch.cat([token, patches], dim=1)", "torch.cat([patches, token], dim=1)"), "is read there"),
        Hinted((" + self.positional_embedding  #", "  #"), "positions are added"),
        Hinted(
            (
                "torch.cat([token, patches], dim=1) + self.positional_embedding",
                "torch.cat([token, patches + self.positional_embedding[1:]], dim=1)",
            ),
            "at place 0 as well",
        ),
        Hinted(("self.transformer(self.ln_pre(x))", "self.transformer(x)"), "in front of the first block"),
        Hinted(
            (
                ("torch.cat([token, patches], dim=1) +", "self.ln_pre(torch.cat([token, patches], dim=1)) +"),
                ("self.transformer(self.ln_pre(x))", "self.transformer(x)"),
            ),
            "after the sum",
        ),
        Hinted(("x[:, 0]", "x[:, -1]"), "read at the class token"),
        Hinted(("x[:, 0]", "x.mean(dim=1)"), "not at the mean"),
        Hinted(("x[:, 0]", "x[:, 1:].mean(dim=1)"), "read at the class token"),
        Hinted(("self.ln_post(x[:, 0])", "x[:, 0]"), "before the projection"),
        Hinted((" @ self.proj  #", "  #"), "@ self.proj"),
        Hinted(
            (
                "return self.ln_post(x[:, 0]) @ self.proj",
                "return nn.functional.normalize(self.ln_post(x[:, 0]) @ self.proj)",
            ),
            "the loss's business",
        ),
        Hinted(("embed_patches(images, self.conv1.weight)", "self.conv1(images).mT.flatten(2).mT"), "reading order"),
        Hinted(("bias=False", "bias=True"), "names in the text"),
        Hinted(("1 + (resolution", "(resolution"), "names in the text"),  # no place for the class token
        ("embed_patches(images, self.conv1.weight)", "self.conv1(images).flatten(2)"),  # (B, D, P)
        Hinted(("causal=False) for", "causal=True) for"), "sees only itself"),
    ],
}
