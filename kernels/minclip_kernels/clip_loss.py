# pyright: strict, reportUnnecessaryIsInstance=false
"""CLIP's loss and its exact gradients in O(N) memory.

With unit features x_i, y_j and logits z_ij = s⟨x_i, y_j⟩, the loss is ½ mean_i (LSE_j z_ij − z_ii)
over the images plus the same over the texts. A first pass over the tiles of z gives the log-sum-exp
of every row and every column, a second one the gradients. The sums leave the pair out, so that

    LSE_j z_ij − z_ii = softplus(lse_others_i − z_ii)

loses no digit when a pair is already well aligned. The gradient at the pair,
−σ(lse_others_i − z_ii) for either side, is formed the same way. The README beside this package
derives all of it.

Both passes run in the forward, the second only if a gradient will be asked for. Backward multiplies
the stored gradients by the gradient of the loss.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup

from minclip_kernels.custom_op import (
    as_scalar,
    check_features,
    check_group,
    check_options,
    differentiable,
    differentiable_in_group,
    make_tiles,
    needed_gradients,
)
from minclip_kernels.distributed import Shards
from minclip_kernels.tiles import LN_2, Equals, Problem, Softmax, Sums

POSITIVES = ("drop", "all")


def fused_clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    *,
    offset: int | None = None,
    normalize: bool = True,
    ids: Tensor | None = None,
    positives: str = "drop",
    backend: str = "auto",
    chunk_size: int | None = None,
    memory: int | None = None,
    group: ProcessGroup | None = None,
    shard_sizes: Sequence[int] | None = None,
) -> Tensor:
    """Return the symmetric contrastive loss of CLIP without building its matrix of logits.

    Radford et al. 2021, figure 3; with positives="all", the loss of Khosla et al. 2020, equation 2,
    between the towers.

    image_features: (N, D), float32, bfloat16, float16 or float64, any strides.
    text_features: (N, D), or (M, D) with an offset; the same dtype and device.
    logit_scale: the factor itself, not its logarithm; a Python number, or a scalar tensor in
        float32 or the features' dtype.
    offset: image i matches text i + offset. The other texts are negatives of every image and have
        no loss of their own. None: as many texts as images.
    normalize: divide each feature by its length first (by at least 1e-12, as F.normalize does).
    ids: (M,) int64, one for each text and its image. Pairs with the same id are not negatives of
        each other.
    positives: "drop" leaves pairs with the same id out of each other's sums; "all" makes all of
        them positives of equal weight.
    backend: "torch" (any device), "triton" (CUDA with compute capability 8.0 or later, ROCm; CPU
        tensors under TRITON_INTERPRET=1), or "auto": triton where it can, torch elsewhere and for
        float64.
    chunk_size: rows in a chunk of logits. Affects speed and memory; the result changes only by
        rounding.
    memory: bytes in which to keep part of the first pass for the second. By default the larger of
        the features' size and 128 MiB on a CPU. On a GPU nothing is kept: there it gains nothing.

    group: processes of torch.distributed that each call this with their own pairs of one batch.
        Every pair is a negative of every other; ids are those of the own pairs.
    shard_sizes: the number of pairs of each process. None: they ask each other, and a GPU waits.

    Returns a float32 scalar, differentiable once by both features and the scale. In a group the
    mean over its processes is the loss of the whole batch, and so is the mean of the gradients of
    whatever made the features.
    Raises TypeError and ValueError that name what came and what was expected.
    """
    if group is not None:
        check_group(group, offset)
    offset = check_features(image_features, text_features, offset)
    check_options(backend, chunk_size, memory)
    _check_ids(ids, positives, text_features)
    scale = as_scalar("logit_scale", logit_scale, image_features)
    needs = needed_gradients(image_features, text_features, scale)
    if group is not None:
        shards = Shards(group, image_features, shard_sizes)
        return _clip_loss_of_shards(
            image_features, text_features, scale, ids, positives, shards, normalize, backend,
            chunk_size, memory, needs,
        )  # fmt: skip
    return _clip_loss(
        image_features, text_features, scale, ids, positives, offset, normalize, backend,
        chunk_size, memory, needs,
    )  # fmt: skip


@differentiable("clip_loss", tensors=3)
def _clip_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    ids: Tensor | None,
    positives: str,
    offset: int,
    normalize: bool,
    backend: str,
    chunk_size: int | None,
    memory: int | None,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the loss () and its gradients for image (n, D), text (M, D) and scale ()."""
    dtype = logit_scale.dtype
    equals = None if ids is None else equal_ids(ids, positives, offset, len(image), dtype)
    problem = Problem(image, text, offset, normalize, equals, chunk_size, memory, any(needs))
    tiles = make_tiles(backend, problem)
    scale = logit_scale / LN_2
    sums = tiles.log_sum_exps(scale)
    pairs = sums.cosines * scale
    # A text without an image gets an infinite pair, which makes its softmax vanish everywhere.
    padding = offset, len(text) - len(image) - offset
    column_pairs = F.pad(pairs, padding, value=torch.inf) if any(padding) else pairs
    loss, softmax = between_passes(problem, scale, sums, pairs, column_pairs, sums.cosines.mean())
    if not any(needs):
        no_image, no_text = logit_scale.new_empty(0), logit_scale.new_empty(0)
        return loss, no_image, no_text, torch.zeros_like(logit_scale)
    gradients = tiles.softmax_gradients(softmax, 1 / (2 * len(image)), list(needs))
    return loss, gradients.image, gradients.text, gradients.scale


@differentiable_in_group
def _clip_loss_of_shards(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    ids: Tensor | None,
    positives: str,
    shards: Shards,
    normalize: bool,
    backend: str,
    chunk_size: int | None,
    memory: int | None,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return this process's share of the loss () and its gradients for image and text (n, D) and
    scale (): their means over the processes are those of the whole batch."""
    texts = shards.gather(text)  # (N, D)
    equals = None
    if ids is not None:
        ids = shards.gather(ids)  # (N,)
        equals = equal_ids(ids, positives, shards.offset, shards.count, logit_scale.dtype)
        if equals.column_shares is not None:  # Every column has a loss, and its positives anywhere.
            shares = 1 / _occurrences(ids, ids).to(logit_scale.dtype)
            equals = equals._replace(column_shares=shares)
    problem = Problem(
        image, texts, shards.offset, normalize, equals, chunk_size, memory, any(needs)
    )
    tiles = make_tiles(backend, problem)
    scale = logit_scale / LN_2
    sums = tiles.log_sum_exps(scale)
    columns, cosines = shards.combine(sums.columns, sums.cosines)  # (N,) each
    loss, softmax = between_passes(
        problem, scale, sums._replace(columns=columns), sums.cosines * scale, cosines * scale,
        cosines.mean(),
    )  # fmt: skip
    loss = loss * (shards.count * shards.world / shards.total)
    if not any(needs):
        nothing = logit_scale.new_empty(0)
        return loss, nothing, nothing, torch.zeros_like(logit_scale)
    weight = shards.world / (2 * shards.total)
    gradients = tiles.softmax_gradients(softmax, weight, list(needs))
    of_text = shards.add_and_scatter(gradients.text) if needs[1] else gradients.text
    return loss, gradients.image, of_text, gradients.scale


def between_passes(
    problem: Problem, scale: Tensor, sums: Sums, pairs: Tensor, column_pairs: Tensor,
    center: Tensor,
) -> tuple[Tensor, Softmax]:  # fmt: skip
    """Return the loss () and what the second pass needs.

    pairs: (n,), the logits of the pairs. column_pairs: (M,), the logit of each column's pair,
    whichever process holds its row. center: (), the mean cosine of all pairs. Logits and sums are
    in units of ln 2.
    """
    own = slice(problem.offset, problem.offset + pairs.shape[0])
    # The log-sum-exp of the others minus the pair's logit, in each row and each column with a loss.
    odds = torch.stack([sums.rows, sums.columns[own]]).sub_(pairs).mul_(LN_2)  # (2, n)
    # Each pair's loss. Adding 0 · pairs makes it NaN for an infinite pair, as the plain formula is.
    losses = F.softplus(odds).add_(pairs, alpha=0)  # (2, n)
    # The pair's target of 1 minus its probability, added up over both directions.
    missing = torch.sigmoid(odds).sum(dim=0)  # (n,)
    equals = problem.equals
    if equals is not None and equals.row_shares is not None and equals.column_shares is not None:
        assert sums.pulls is not None
        # The pair's target falls from 2 to its shares, and the other positives pull as well.
        rest = 2 - equals.row_shares - equals.column_shares[own]  # (n,)
        losses += (rest * pairs - sums.pulls).mul_(LN_2 / 2)
        missing -= rest
    # With the pairs, the sums are the denominators of both softmaxes.
    row_lse = torch.logaddexp2(sums.rows, pairs)  # (n,)
    column_lse = torch.logaddexp2(sums.columns, column_pairs)  # (M,)
    return losses.mean().float(), Softmax(scale, row_lse, column_lse, missing, center)


def equal_ids(ids: Tensor, positives: str, offset: int, count: int, dtype: torch.dtype) -> Equals:
    """Return the ids of M texts, and of `count` images whose texts start at `offset`, as Equals."""
    ids = ids.contiguous()  # torch.searchsorted warns of anything else.
    row_ids = ids[offset : offset + count]
    if positives == "drop":
        return Equals(row_ids, ids)
    row_shares = 1 / _occurrences(row_ids, ids).to(dtype)
    column_shares = torch.zeros_like(ids, dtype=dtype)
    column_shares[offset : offset + count] = 1 / _occurrences(row_ids, row_ids).to(dtype)
    return Equals(row_ids, ids, row_shares, column_shares)


def _occurrences(of: Tensor, among: Tensor) -> Tensor:
    """Return how often each number of `of` occurs in `among`."""
    sorted_ids = among.sort().values
    return torch.searchsorted(sorted_ids, of, right=True) - torch.searchsorted(sorted_ids, of)


def _check_ids(ids: Tensor | None, positives: str, text_features: Tensor) -> None:
    if positives not in POSITIVES:
        raise ValueError(f"positives is {positives!r}, expected 'drop' or 'all'")
    if ids is None:
        return
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64:
        what = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise TypeError(f"ids is {what}, expected an int64 tensor")
    if ids.shape != text_features.shape[:1]:
        count = text_features.shape[0]
        raise ValueError(
            f"ids has shape {tuple(ids.shape)}, expected ({count},), one for each text"
        )
    if ids.device != text_features.device:
        raise ValueError(
            f"ids is on {ids.device}, expected the features' device, {text_features.device}"
        )
