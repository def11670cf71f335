"""Every contender: how to compute the loss, what that costs, and where it cannot run.

All of them get the same raw features (N, D); where a loss expects normalised features, normalising
them is part of its time.
"""

# pyright: reportMissingImports=false

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from minclip_kernels import fused_clip_loss, fused_siglip_loss
from minclip_kernels.tiles import Problem
from minclip_kernels.tiles_torch import TorchTiles

# Image and text features (N, D), logit scale (), and for siglip logit bias () -> loss ().
Loss = Callable[..., Tensor]
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

    def __str__(self) -> str:
        return f"{self.loss}, {self.dtype}, N = {self.N:,}, D = {self.D}"


@dataclass(frozen=True)
class Contender:
    """One way to compute a loss; its cost is counted in its source."""

    name: str
    loss: str  # "clip" or "siglip"
    compute: Loss  # raises an exception where its package is missing
    products: int  # N²D floating-point operations of loss and gradients: 2 per product
    package: str = "torch"  # the package whose version identifies it
    needs_gpu: bool = False
    tf32: bool = False  # rounds float32 features to TF32 on a GPU, whatever torch is set to
    keeps: bool = False  # keeps tiles for the second pass, as `backend="torch"` does

    @property
    def is_floor(self) -> bool:
        return self.name.startswith("bare products")

    @property
    def is_compiled(self) -> bool:
        return self.name.endswith("torch.compile")

    def make(self) -> Loss:
        if not self.is_compiled:
            return self.compute
        torch.compiler.reset()  # Every size is compiled anew.
        return torch.compile(self.compute, dynamic=False)

    def flops(self, setting: Setting) -> float:
        """N²D operations: logits that are kept save the product that would repeat them."""
        if not self.keeps:
            return self.products
        features = torch.empty((), device=setting.device).expand(setting.N, setting.D)
        tiles = TorchTiles(Problem(features, features, offset=0, normalize=False))
        logits = sum(tile.logits.numel() for tile in tiles.tiles if tile.is_kept)
        return self.products - 2 * logits / setting.N**2


def normalized(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    return F.normalize(image, dim=1), F.normalize(text, dim=1)


def cosine_logits(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    image, text = normalized(image, text)
    return scale.to(image.dtype) * image @ text.T  # (N, N)


def onehot_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """The identity matrix as the target, as a beginner writes it."""
    logits = cosine_logits(image, text, scale)
    target = torch.eye(len(logits), dtype=logits.dtype, device=logits.device)
    by_image = (target * logits.log_softmax(dim=1)).sum(dim=1)
    by_text = (target * logits.log_softmax(dim=0)).sum(dim=0)
    return -(by_image + by_text).mean() / 2


def arange_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Both cross-entropies over the whole matrix (Radford et al. 2021, figure 3)."""
    logits = cosine_logits(image, text, scale)
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def sigmoid_loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Zhai et al. 2023, algorithm 1."""
    logits = cosine_logits(image, text, scale) + bias.to(image.dtype)
    sign = 2 * torch.eye(len(logits), dtype=logits.dtype, device=logits.device) - 1
    return -F.logsigmoid(sign * logits).sum() / len(logits)


@torch.no_grad()
def bare_products(passes: int, image: Tensor, text: Tensor, *_: Tensor) -> Tensor:
    """Return what has the shape of both gradients from the products that no loss can avoid.

    passes: 2 for CLIP, whose coefficients are known only after a pass over all logits; else 1.
    """
    gradients = torch.empty_like(image), torch.empty_like(text)
    side = min(len(image), FLOOR_SIDE[image.device.type])
    memory = image.new_empty(side * side)  # reused: fresh pages cost more than arithmetic
    chunks = [slice(i, min(i + side, len(image))) for i in range(0, len(image), side)]
    for number, i, j in product(range(passes), chunks, chunks):
        shape = i.stop - i.start, j.stop - j.start
        logits = torch.mm(image[i], text[j].T, out=memory[: shape[0] * shape[1]].view(shape))
        if number == passes - 1:
            gradients[0][i].addmm_(logits, text[j], beta=int(j.start > 0))
            gradients[1][j].addmm_(logits.T, image[i], beta=int(i.start > 0))
    return torch.stack(gradients)


def linear_cross_entropy_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """PyTorch's own loss in O(N) memory (2.13 or later), once for each direction."""
    image, text = normalized(image, text)
    image = scale.to(image.dtype) * image
    labels = torch.arange(len(image), device=image.device)
    loss = partial(F.linear_cross_entropy, options=torch.nn.LinearCrossEntropyOptions())
    return (loss(image, text, labels) + loss(text, image, labels)) / 2


def open_clip_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    from open_clip.loss import ClipLoss

    return ClipLoss()(*normalized(image, text), scale.to(image.dtype))


def inf_cl_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    from inf_cl import cal_flash_loss

    image, text = normalized(image, text)
    loss = partial(cal_flash_loss, scale=scale.to(image.dtype))
    return (loss(image, text).mean() + loss(text, image).mean()) / 2


def memeff_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    from memeff import MemoryEfficientCLIPLoss

    # Its temperature is a Python number, so its user too has to wait for the GPU to read the scale.
    return MemoryEfficientCLIPLoss(temperature=1 / scale.item())(image, text)


def siglip_kernel_loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    from siglip_kernel import fused_siglip_loss

    # Its documentation calls this back-end the primary path, for features of any dtype.
    features = normalized(image, text)
    return fused_siglip_loss(*features, scale.log(), bias, backend="chunked_bf16")


OURS = "minclip_kernels"
clip_torch, clip_triton = (partial(fused_clip_loss, backend=b) for b in ("torch", "triton"))
siglip_torch, siglip_triton = (partial(fused_siglip_loss, backend=b) for b in ("torch", "triton"))
CONTENDERS = (
    Contender("bare products, 4", "clip", partial(bare_products, 2), 8),
    Contender("fused, torch", "clip", clip_torch, 8, OURS, keeps=True),
    Contender("fused, triton", "clip", clip_triton, 8, OURS, needs_gpu=True),
    Contender("arange, torch.compile", "clip", arange_loss, 6),
    Contender("arange", "clip", arange_loss, 6),
    Contender("one-hot", "clip", onehot_loss, 6),
    Contender("linear_cross_entropy", "clip", linear_cross_entropy_loss, 12),
    Contender("open_clip", "clip", open_clip_loss, 12, "open_clip_torch"),
    Contender("memeff", "clip", memeff_loss, 10, "memeff", needs_gpu=True, tf32=True),
    Contender("inf_cl", "clip", inf_cl_loss, 20, "inf-cl", needs_gpu=True, tf32=True),
    Contender("bare products, 3", "siglip", partial(bare_products, 1), 6),
    Contender("fused, torch", "siglip", siglip_torch, 6, OURS),
    Contender("fused, triton", "siglip", siglip_triton, 6, OURS, needs_gpu=True),
    Contender("sigmoid, torch.compile", "siglip", sigmoid_loss, 6),
    Contender("sigmoid", "siglip", sigmoid_loss, 6),
    Contender("siglip-kernel", "siglip", siglip_kernel_loss, 6, "siglip-kernel", needs_gpu=True),
)
