"""The text tower: a causal Transformer that turns token ids (B, T) into the features (B, E) of their end tokens.

Source: Radford et al. 2021 (CLIP, arXiv:2103.00020), section 2.4; the Transformer is GPT-2's.
"""

import torch
from torch import nn

from minclip.transformer import Transformer


class TextTransformer(nn.Module):
    def __init__(
        self,
        context_length: int,
        vocab_size: int,
        width: int,
        layers: int,
        heads: int,
        embed_dim: int,
        quick_gelu: bool,
    ) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(context_length, width))
        self.transformer = Transformer(width, layers, heads, causal=True, quick_gelu=quick_gelu)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(width**-0.5 * torch.randn(width, embed_dim))
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def encode_text(self, text: torch.Tensor) -> torch.Tensor:
        """Token ids (B, T) to features (B, E), not normalised.

        T may be anything up to the context length. Under the causal mask nothing after the end token reaches it, so a
        batch cut at its longest text gives the same features as one padded to the full context, with less work.
        """
        T = text.shape[1]
        context_length = self.positional_embedding.shape[0]
        if context_length < T:
            raise ValueError(
                f"texts of {T} tokens, the model reads {context_length}: pass context_length={context_length}"
            )
        x = self.token_embedding(text) + self.positional_embedding[:T]  # (B, T, D)
        # The end token has the highest id of the vocabulary, and argmax takes the first of equals.
        x = self.transformer(x, pooled=text.argmax(dim=-1))  # (B, D)
        return self.ln_final(x) @ self.text_projection  # (B, E)
