"""The contrastive loss without the N×N matrix (torch and triton only; never imports minclip)."""
