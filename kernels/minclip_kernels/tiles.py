# pyright: strict
"""What a loss asks of a back-end, and what both back-ends agree on.

A back-end sees the matrix of cosines only in tiles. `TorchTiles` and `TritonTiles` each hold their
own buffers and their own loop over the tiles. Logits of the softmax loss are in units of ln 2
throughout, because exp2 is faster than exp on CPUs and on GPUs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

LN_2 = math.log(2)
EPSILON = 1e-12  # Features are divided by at least this length, as in F.normalize.
SMALLEST_SUM = 2.0**-60  # A tile with a smaller sum of exponentials is computed again exactly.


@dataclass(frozen=True)
class Problem:
    """Two towers of features, and what is asked about them: row i matches column i + offset."""

    image: Tensor  # (n, D)
    text: Tensor  # (M, D), M >= n + offset
    offset: int
    normalize: bool
    # (n,) and (M,) int64. Entries with equal ids, besides the pairs, are left out, or with shares
    # have the target row_shares[i] + column_shares[j].
    ids: tuple[Tensor, Tensor] | None = None
    shares: tuple[Tensor, Tensor] | None = None  # (n,) and (M,)
    chunk_size: int | None = None
    memory: int | None = None  # Bytes in which to keep tiles for the second pass.
    needs: Sequence[bool] = (True, True, True)  # whether image, text and scale want a gradient


class Sums(NamedTuple):
    """What the first pass makes of the logits z (n, M), in units of ln 2 and without the pairs."""

    rows: Tensor  # (n,) log2 Σ_j exp2 z_ij
    columns: Tensor  # (M,) log2 Σ_i exp2 z_ij
    cosines: Tensor  # (n,) of the pairs
    pulls: Tensor | None  # (n,) Σ_j target_ij z_ij; None without shares


class Softmax(NamedTuple):
    """What the second pass needs to form the coefficients G (n, M) of the softmax loss.

    G_ij = exp2(z_ij − row_lse_i) + exp2(z_ij − column_lse_j), minus the targets of equal ids, and
    −missing_i at the pairs. A column_lse of +inf marks a column without a loss of its own.
    """

    scale: Tensor  # () logit scale / ln 2
    row_lse: Tensor  # (n,) log-sum-exps with the pairs included
    column_lse: Tensor  # (M,)
    missing: Tensor  # (n,) targets minus probabilities of the pairs, of both directions
    # () The mean cosine of all pairs. G sums to zero, so Σ G cos = Σ G (cos − center), which has
    # fewer digits to lose where all cosines are nearly equal.
    center: Tensor


class Gradients(NamedTuple):
    """The gradients of weight · (a loss whose derivative by the logits is G)."""

    image: Tensor  # (n, D) float32 or float64; empty where it is not needed
    text: Tensor  # (M, D) likewise
    scale: Tensor  # () weight · Σ G_ij (cos_ij − center); no center in the sigmoid loss


class Tiles(Protocol):
    """A back-end at work on one `Problem`."""

    def log_sum_exps(self, scale: Tensor) -> Sums:
        """The first pass. scale: (), the logit scale / ln 2."""
        ...

    def softmax_gradients(self, softmax: Softmax, weight: float) -> Gradients:
        """The second pass of the softmax loss."""
        ...

    def sigmoid_gradients(
        self, scale: Tensor, bias: Tensor, weight: float
    ) -> tuple[Gradients, Tensor, Tensor]:
        """The only pass of the sigmoid loss. scale and bias: (), in units of ln 2.

        With t the logit, or minus the logit of a pair, G = σ(t), or −σ(t) for a pair.
        Returns the gradients, weight · Σ softplus(t) () and weight · Σ G ().
        """
        ...


def computing_dtype(features: Tensor) -> torch.dtype:
    """Return float64 for float64 features, and float32 for all others."""
    return torch.float64 if features.dtype == torch.float64 else torch.float32
