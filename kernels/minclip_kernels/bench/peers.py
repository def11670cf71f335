"""Every contender: how to compute the loss, what that costs, and where it cannot run.

All of them get the same raw features (N, D). Where a loss expects normalised features, normalising
them is part of its time, because it is part of the work.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from minclip_kernels import fused_clip_loss, fused_siglip_loss, tiles_torch

# Image and text features (N, D), logit scale (), logit bias () -> loss ().
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
# The side of the square that the bare products hold at once. On two CPU cores 2,048 was the fastest
# of 1,024 … 4,096, and faster than whole rows, for N = 4,096 and 8,192.
FLOOR_SIDE = {"cpu": 2048, "cuda": 16384}


@dataclass(frozen=True)
class Setting:
    """What all contenders are measured at."""

    loss: str  # "clip" or "siglip"
    dtype: str
    N: int
    D: int
    device: str

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    def __str__(self) -> str:
        return f"{self.loss}, {self.dtype}, N = {self.N:,}, D = {self.D}"


@dataclass(frozen=True)
class Contender:
    """One way to compute a loss; its cost is counted in its source."""

    name: str
    loss: str  # "clip" or "siglip"
    make: Callable[[], Loss]  # raises an exception where its package is missing
    products: int  # N²D floating-point operations of loss and gradients: 2 per product
    matrices: int = 0  # N×N matrices of the features' dtype that are alive at once, at least
    package: str = "torch"  # the package whose version identifies it
    needs_gpu: bool = False
    tf32: bool = False  # rounds float32 features to TF32 on a GPU, whatever torch is set to
    kept: Callable[[Setting], float] = lambda _: 0.0  # the share of the logits computed once

    @property
    def is_floor(self) -> bool:
        return self.name.startswith("bare products")

    def flops(self, setting: Setting) -> float:
        """N²D operations: logits that are kept save the product that would repeat them."""
        return self.products - 2 * self.kept(setting)


def normalized(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    return F.normalize(image, dim=1), F.normalize(text, dim=1)


def cosine_logits(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    image, text = normalized(image, text)
    return scale.to(image.dtype) * image @ text.T  # (N, N)


def onehot_loss(image: Tensor, text: Tensor, scale: Tensor, _: Tensor) -> Tensor:
    """The identity matrix as the target, as a beginner writes it."""
    logits = cosine_logits(image, text, scale)
    target = torch.eye(len(logits), dtype=logits.dtype, device=logits.device)
    by_image = (target * logits.log_softmax(dim=1)).sum(dim=1)
    by_text = (target * logits.log_softmax(dim=0)).sum(dim=0)
    return -(by_image + by_text).mean() / 2


def arange_loss(image: Tensor, text: Tensor, scale: Tensor, _: Tensor) -> Tensor:
    """Both cross-entropies over the whole matrix (Radford et al. 2021, figure 3)."""
    logits = cosine_logits(image, text, scale)
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def sigmoid_loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Zhai et al. 2023, algorithm 1."""
    logits = cosine_logits(image, text, scale) + bias.to(image.dtype)
    sign = 2 * torch.eye(len(logits), dtype=logits.dtype, device=logits.device) - 1
    return -F.logsigmoid(sign * logits).sum() / len(logits)


def compiled(loss: Loss) -> Loss:
    return torch.compile(loss, dynamic=False)


def linear_cross_entropy_loss() -> Loss:
    """PyTorch's own loss in O(N) memory (2.13 or later), once for each direction."""
    options = torch.nn.LinearCrossEntropyOptions()

    def loss(image: Tensor, text: Tensor, scale: Tensor, _: Tensor) -> Tensor:
        image, text = normalized(image, text)
        image = scale.to(image.dtype) * image
        labels = torch.arange(len(image), device=image.device)
        by_image = F.linear_cross_entropy(image, text, labels, options=options)
        return (by_image + F.linear_cross_entropy(text, image, labels, options=options)) / 2

    return loss


class BareProducts(torch.autograd.Function):
    """Only the products that a loss in O(N) memory cannot avoid; the result means nothing."""

    @staticmethod
    def forward(ctx, image: Tensor, text: Tensor, two_passes: bool) -> Tensor:
        ctx.save_for_backward(image, text)
        if two_passes:  # CLIP's coefficients are known only after a pass over all logits
            for rows, columns, logits in _squares(image):
                torch.mm(image[rows], text[columns].T, out=logits)
        return image.new_zeros(())

    @staticmethod
    def backward(ctx, *_):
        image, text = ctx.saved_tensors
        image_gradient, text_gradient = torch.empty_like(image), torch.empty_like(text)
        for rows, columns, logits in _squares(image):
            torch.mm(image[rows], text[columns].T, out=logits)
            image_gradient[rows].addmm_(logits, text[columns], beta=int(columns.start > 0))
            text_gradient[columns].addmm_(logits.T, image[rows], beta=int(rows.start > 0))
        return image_gradient, text_gradient, None


def _squares(image: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows, columns and reused memory of each square of the (N, N) matrix."""
    side = min(len(image), FLOOR_SIDE[image.device.type])
    memory = image.new_empty(side * side)
    chunks = [slice(i, min(i + side, len(image))) for i in range(0, len(image), side)]
    for rows, columns in product(chunks, chunks):
        shape = rows.stop - rows.start, columns.stop - columns.start
        yield rows, columns, memory[: shape[0] * shape[1]].view(shape)


def bare_products(two_passes: bool) -> Loss:
    return lambda image, text, scale, bias: BareProducts.apply(image, text, two_passes)


def ours(backend: str) -> Loss:
    return lambda *inputs: fused_clip_loss(*inputs[:3], backend=backend)


def our_siglip(backend: str) -> Loss:
    return lambda *inputs: fused_siglip_loss(*inputs, backend=backend)


def kept_by_ours(setting: Setting) -> float:
    """The share of tiles that keep their cosines between the two passes of `backend="torch"`."""
    shape = tiles_torch.TILE_ROWS, tiles_torch.TILE_COLUMNS
    kept, tiles = tiles_torch.kept_tiles(setting.N, setting.D, shape)
    return kept / tiles


def open_clip_loss() -> Loss:
    from open_clip.loss import ClipLoss  # pyright: ignore[reportMissingImports]

    return lambda x, y, scale, _: ClipLoss()(*normalized(x, y), scale.to(x.dtype))


def inf_cl_loss() -> Loss:
    from inf_cl import cal_flash_loss  # pyright: ignore[reportMissingImports]

    def loss(image: Tensor, text: Tensor, scale: Tensor, _: Tensor) -> Tensor:
        image, text = normalized(image, text)
        scale = scale.to(image.dtype)
        by_image = cal_flash_loss(image, text, scale=scale).mean()
        return (by_image + cal_flash_loss(text, image, scale=scale).mean()) / 2

    return loss


def memeff_loss() -> Loss:
    from memeff import MemoryEfficientCLIPLoss as Loss  # pyright: ignore[reportMissingImports]

    # Its temperature is a Python number, so its user too has to wait for the GPU to read the scale.
    return lambda image, text, scale, _: Loss(temperature=1 / scale.item())(image, text)


def siglip_kernel_loss() -> Loss:
    from siglip_kernel import fused_siglip_loss as loss  # pyright: ignore[reportMissingImports]

    def positive(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        image, text = normalized(image, text)
        # Its documentation calls this back-end the primary path, for features of any dtype.
        return loss(image, text, scale.log(), bias, backend="chunked_bf16")

    return positive


OURS = "minclip_kernels"
CONTENDERS = (
    Contender("bare products, 4", "clip", lambda: bare_products(True), 8),
    Contender("fused, torch", "clip", lambda: ours("torch"), 8, 0, OURS, kept=kept_by_ours),
    Contender("fused, triton", "clip", lambda: ours("triton"), 8, 0, OURS, needs_gpu=True),
    Contender("arange, torch.compile", "clip", lambda: compiled(arange_loss), 6, 2),
    Contender("arange", "clip", lambda: arange_loss, 6, 4),
    Contender("one-hot", "clip", lambda: onehot_loss, 6, 5),
    Contender("linear_cross_entropy", "clip", linear_cross_entropy_loss, 12),
    Contender("open_clip", "clip", open_clip_loss, 12, 4, "open_clip_torch"),
    Contender("memeff", "clip", memeff_loss, 10, 0, "memeff", needs_gpu=True, tf32=True),
    Contender("inf_cl", "clip", inf_cl_loss, 20, 0, "inf-cl", needs_gpu=True, tf32=True),
    Contender("bare products, 3", "siglip", lambda: bare_products(False), 6),
    Contender("fused, torch", "siglip", lambda: our_siglip("torch"), 6, 0, OURS),
    Contender("fused, triton", "siglip", lambda: our_siglip("triton"), 6, 0, OURS, needs_gpu=True),
    Contender("sigmoid, torch.compile", "siglip", lambda: compiled(sigmoid_loss), 6, 2),
    Contender("sigmoid", "siglip", lambda: sigmoid_loss, 6, 4),
    Contender("siglip-kernel", "siglip", siglip_kernel_loss, 6, 0, "siglip-kernel", needs_gpu=True),
)
