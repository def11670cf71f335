from torch import Tensor


def patchify(images: Tensor, size: int) -> Tensor:
    B, C, H, W = images.shape
    x = images.reshape(B, C, H // size, size, W // size, size)  # (B, C, row of patches, row, column of patches, column)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(B, -1, C * size * size)  # (B, P, C·size·size)


def unpatchify(patches: Tensor, size: int) -> Tensor:
    B, P, _ = patches.shape
    side = round(P**0.5)
    x = patches.reshape(B, side, side, -1, size, size)  # (B, row of patches, column of patches, C, row, column)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(B, -1, side * size, side * size)  # (B, C, R, R)


def embed_patches(images: Tensor, weight: Tensor) -> Tensor:
    patches = patchify(images, weight.shape[-1])  # (B, P, 3·size·size)
    return patches @ weight.flatten(1).T  # (B, P, D)
