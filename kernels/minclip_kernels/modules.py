# pyright: strict
"""The losses as modules with open_clip's signatures: a user of open_clip changes one import.

In a program that averages gradients over its processes, as DistributedDataParallel does, the
gradients are those of the whole batch: what open_clip computes with gather_with_grad=True. Each
logit is computed once in the world, so what open_clip's flags choose between makes no difference:
local_loss, gather_with_grad and cache_labels are accepted and have no effect. In a group the value
that a process returns is its share, as with local_loss=True; the mean over them is the loss.
"""

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from minclip_kernels.clip_loss import fused_clip_loss
from minclip_kernels.siglip_loss import fused_siglip_loss


class _Loss(nn.Module):
    """The call that both losses share; the features have length one already."""

    function: Callable[..., Tensor]

    def __init__(self, world_size: int) -> None:
        super().__init__()
        self.world_size = world_size

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        options = {"normalize": False, "group": _group(self.world_size)}
        scalars = _scalar(logit_scale), _scalar(logit_bias)
        loss = self.function(image_features, text_features, *scalars, **options)
        return {"contrastive_loss": loss} if output_dict else loss


def _without_bias(image: Tensor, text: Tensor, scale: Any, _: Any, **options: Any) -> Tensor:
    """Return CLIP's loss: softmax does not see a bias."""
    return fused_clip_loss(image, text, scale, **options)


class ClipLoss(_Loss):
    """open_clip's ClipLoss by `fused_clip_loss`. A logit_bias is accepted and has no effect."""

    function = staticmethod(_without_bias)

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
    ) -> None:
        super().__init__(world_size)
        if use_horovod:
            raise ValueError("use_horovod is True, expected False: this uses torch.distributed")


class SigLipLoss(_Loss):
    """open_clip's SigLipLoss by `fused_siglip_loss`.

    dist_impl, which chooses how open_clip's processes exchange texts, has no effect.
    """

    function = staticmethod(fused_siglip_loss)

    def __init__(
        self,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        dist_impl: str | None = None,
    ) -> None:
        super().__init__(world_size)


def _group(world_size: int) -> Any:
    """All processes, or None if there is one. Raises ValueError if there are not world_size."""
    if world_size == 1:
        return None
    started = dist.get_world_size() if dist.is_initialized() else 1
    if started != world_size:
        raise ValueError(
            f"world_size is {world_size}, expected {started}, the number of processes in "
            "torch.distributed"
        )
    return dist.group.WORLD


def _scalar(value: Tensor | float | None) -> Tensor | float | None:
    """open_clip can store its scale and bias as tensors of shape (1,)."""
    return value.reshape(()) if isinstance(value, Tensor) else value
