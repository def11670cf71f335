"""The contrastive losses without the N×N matrix (torch and triton only; never imports minclip)."""

from minclip_kernels.clip_loss import fused_clip_loss
from minclip_kernels.modules import ClipLoss, SigLipLoss
from minclip_kernels.siglip_loss import fused_siglip_loss

__all__ = ["ClipLoss", "SigLipLoss", "fused_clip_loss", "fused_siglip_loss"]
