"""Wrong answers to the exercises of lesson 07, Patches."""

import torch
import torch.nn.functional as F

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
    "unpatchify": [
        lambda patches, size: patches.reshape(len(patches), 3, round(patches.shape[1] ** 0.5) * size, -1),
        lambda patches, size: (
            F.fold(patches.transpose(1, 2), round(patches.shape[1] ** 0.5) * size, size, stride=size).mT
        ),
        lambda patches, size: F.fold(patches, round(patches.shape[1] ** 0.5) * size, size, stride=size),
        lambda patches, size: F.fold(patches.transpose(1, 2), patches.shape[1] * size, size, stride=size),
        lambda patches, size: F.fold(patches.mT, round(patches.shape[1] ** 0.5) * size, size, stride=size)[0],
        lambda patches, size: F.fold(patches.mT, round(patches.shape[1] ** 0.5) * size, size, stride=size).flip(1),
        ("permute(0, 3, 1, 4, 2, 5)", "permute(0, 3, 1, 2, 4, 5)"),
        ("permute(0, 3, 1, 4, 2, 5)", "permute(0, 3, 4, 1, 2, 5)"),
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
}
