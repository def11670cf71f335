"""Who takes part: every way to compute the loss, what it costs, and where it cannot run.

Each contender gets the same raw features (N, D) and normalises them itself where its loss does not. Features that one
of them would need normalised in advance would be half of the work undone.
"""

import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from minclip_kernels import fused_clip_loss, fused_siglip_loss, tiles_torch
from minclip_kernels.bench.floors import Work

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # image and text (N, D), scale, bias (), -> loss ()
# Of the N×N matrix that the bare products hold at once. On a CPU the fastest of 4 to 256 MiB: what is larger comes as
# fresh pages from the system every time.
FLOOR_BYTES = {"cpu": 31 * 2**20, "cuda": 512 * 2**20}


@dataclass(frozen=True)
class Contender:
    name: str
    loss: str  # "clip" or "siglip"
    make: Callable[[], Loss]  # raises ImportError where the package is not installed
    work: Work
    package: str = "torch"  # whose version counts
    needs_gpu: bool = False
    tf32: bool = False  # rounds float32 features to TF32 on a GPU, whatever torch is told
    width_step: int = 1  # D must be a multiple
    compiled: bool = False  # by torch.compile: the first turn takes long
    kept: Callable[[int, int], float] = lambda count, width: 0.0  # the share of the logits that is not computed again

    @property
    def is_floor(self) -> bool:
        return self.name.startswith("bare products")

    @property
    def is_ours(self) -> bool:
        return self.package == "minclip_kernels"

    def flops(self, count: int, width: int) -> float:
        """N²D floating-point operations for the loss and its gradients."""
        return self.work.flops - 2 * self.kept(count, width)

    def obstacle(self, device: str, width: int) -> str | None:
        """Why it cannot run here, or None."""
        if self.needs_gpu and device == "cpu":
            return "needs a GPU; the interpreter of Triton is not timed"
        if width % self.width_step:
            return f"needs D in multiples of {self.width_step}, this is {width}"
        try:
            self.make()
        except Exception as error:  # one of them asks for a driver while it is imported
            return f"cannot be imported: {(str(error).splitlines() or [type(error).__name__])[0]}"
        return None


# --- plain PyTorch ----------------------------------------------------------------------------------------------------


def cosine_logits(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    return scale.to(image.dtype) * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T  # (N, N)


def onehot_loss(image: Tensor, text: Tensor, scale: Tensor, _: Tensor) -> Tensor:
    """The target is the identity matrix, as a beginner writes it."""
    logits = cosine_logits(image, text, scale)
    target = torch.eye(len(logits), dtype=logits.dtype, device=logits.device)
    by_image = (target * logits.log_softmax(dim=1)).sum(dim=1)
    by_text = (target * logits.log_softmax(dim=0)).sum(dim=0)
    return -(by_image + by_text).mean() / 2


def arange_loss(image: Tensor, text: Tensor, scale: Tensor, _: Tensor) -> Tensor:
    """Both cross-entropies over the whole matrix and its transpose, as the paper writes it (figure 3)."""
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


# --- the floor --------------------------------------------------------------------------------------------------------


class BareProducts(torch.autograd.Function):
    """Nothing but the products, by the vendor's library; the result means nothing."""

    @staticmethod
    def forward(ctx, image: Tensor, text: Tensor, recompute: bool) -> Tensor:
        ctx.save_for_backward(image, text)
        ctx.recompute = recompute
        if recompute:  # a whole pass has to end before any gradient begins
            for rows, logits in _row_chunks(image):
                torch.mm(image[rows], text.T, out=logits)
        return image.new_zeros(())

    @staticmethod
    def backward(ctx, *_):
        image, text = ctx.saved_tensors
        image_gradient, text_gradient = torch.empty_like(image), torch.zeros_like(text)
        for rows, logits in _row_chunks(image):
            torch.mm(image[rows], text.T, out=logits)
            torch.mm(logits, text, out=image_gradient[rows])
            text_gradient.addmm_(logits.T, image[rows])
        return image_gradient, text_gradient, None


def _row_chunks(image: Tensor):
    """Chunks of rows, each with the memory for its products, which all of them use."""
    count = len(image)
    step = max(1, min(count, FLOOR_BYTES[image.device.type] // (count * image.element_size())))
    memory = image.new_empty(step, count)
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        yield rows, memory[: rows.stop - rows.start]


def four_products(image: Tensor, text: Tensor, _: Tensor, __: Tensor) -> Tensor:
    return BareProducts.apply(image, text, True)


def three_products(image: Tensor, text: Tensor, _: Tensor, __: Tensor) -> Tensor:
    return BareProducts.apply(image, text, False)


# --- ours and the peers -----------------------------------------------------------------------------------------------


def ours(backend: str) -> Loss:
    return lambda image, text, scale, _: fused_clip_loss(image, text, scale, backend=backend)


def kept_by_ours(count: int, width: int) -> float:
    """The share of tiles; of logits it is that only where N is a multiple of a tile's sides."""
    kept, tiles = tiles_torch.kept_tiles(count, width, (tiles_torch.TILE_ROWS, tiles_torch.TILE_COLUMNS))
    return kept / tiles


def our_siglip(backend: str) -> Loss:
    return lambda image, text, scale, bias: fused_siglip_loss(image, text, scale, bias, backend=backend)


def open_clip_loss() -> Loss:
    from open_clip.loss import ClipLoss  # pyright: ignore[reportMissingImports]

    loss = ClipLoss()
    return lambda x, y, scale, _: loss(F.normalize(x, dim=1), F.normalize(y, dim=1), scale.to(x.dtype))


def inf_cl_loss() -> Loss:
    from inf_cl import cal_flash_loss  # pyright: ignore[reportMissingImports]

    def loss(image: Tensor, text: Tensor, scale: Tensor, _: Tensor) -> Tensor:
        image, text = F.normalize(image, dim=1), F.normalize(text, dim=1)
        scale = scale.to(image.dtype)
        by_image = cal_flash_loss(image, text, scale=scale).mean()
        return (by_image + cal_flash_loss(text, image, scale=scale).mean()) / 2

    return loss


def memeff_loss() -> Loss:
    from memeff import MemoryEfficientCLIPLoss  # pyright: ignore[reportMissingImports]

    # The temperature is a Python number there: reading the scale makes a GPU wait, as its user would have to.
    return lambda x, y, scale, _: MemoryEfficientCLIPLoss(temperature=1 / scale.item())(x, y)


def siglip_kernel_loss() -> Loss:
    from siglip_kernel import fused_siglip_loss as loss  # pyright: ignore[reportMissingImports]

    def normalized(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        image, text = F.normalize(image, dim=1), F.normalize(text, dim=1)
        return loss(image, text, scale.log(), bias, backend="chunked_bf16")  # its "primary path", for any dtype

    return normalized


OUR_WORK, OUR_SIGLIP_WORK = Work(8, 3, 4, 0), Work(6, 3, 1, 0)
CONTENDERS = [
    Contender("bare products, 4", "clip", lambda: four_products, Work(8, 0, 0, 0)),
    Contender("fused, torch", "clip", lambda: ours("torch"), OUR_WORK, "minclip_kernels", kept=kept_by_ours),
    Contender("fused, triton", "clip", lambda: ours("triton"), OUR_WORK, "minclip_kernels", needs_gpu=True),
    Contender("arange, torch.compile", "clip", lambda: compiled(arange_loss), Work(6, 6, 4, 2), compiled=True),
    Contender("arange", "clip", lambda: arange_loss, Work(6, 18, 4, 4)),
    Contender("one-hot", "clip", lambda: onehot_loss, Work(6, 29, 4, 5)),
    Contender("open_clip", "clip", open_clip_loss, Work(12, 18, 4, 4), "open_clip_torch"),
    Contender("memeff", "clip", memeff_loss, Work(10, 0, 3, 0), "memeff", needs_gpu=True, tf32=True),
    Contender("inf_cl", "clip", inf_cl_loss, Work(20, 0, 6, 0), "inf-cl", needs_gpu=True, tf32=True, width_step=256),
    Contender("bare products, 3", "siglip", lambda: three_products, Work(6, 0, 0, 0)),
    Contender("fused, torch", "siglip", lambda: our_siglip("torch"), OUR_SIGLIP_WORK, "minclip_kernels"),
    Contender(
        "fused, triton", "siglip", lambda: our_siglip("triton"), OUR_SIGLIP_WORK, "minclip_kernels", needs_gpu=True
    ),
    Contender("sigmoid, torch.compile", "siglip", lambda: compiled(sigmoid_loss), Work(6, 6, 2, 2), compiled=True),
    Contender("sigmoid", "siglip", lambda: sigmoid_loss, Work(6, 21, 2, 4)),
    Contender("siglip-kernel", "siglip", siglip_kernel_loss, Work(6, 5, 1, 0), "siglip-kernel", needs_gpu=True),
]


def contenders(loss: str) -> list[Contender]:
    return [contender for contender in CONTENDERS if contender.loss == loss]


def find(loss: str, name: str) -> Contender:
    return next(contender for contender in contenders(loss) if contender.name == name)


def version(package: str) -> str:
    """The installed version of a peer, or "" where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
