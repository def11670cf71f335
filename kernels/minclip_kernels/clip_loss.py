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
the stored gradients by the gradient of the loss. `one_tile.py` has the plain case in one piece.
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
    choose_backend,
    differentiable,
    make_tiles,
    needed_gradients,
)
from minclip_kernels.distributed import Shards
from minclip_kernels.one_tile import is_small, loss_of_one_tile
from minclip_kernels.tiles import LN_2, Problem, Softmax, Sums

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
    shards = None if group is None else Shards(group, image_features, shard_sizes)
    inputs = image_features, text_features, scale, ids, positives, offset
    return _clip_loss(shards, *inputs, normalize, backend, chunk_size, memory, needs)


@differentiable("clip_loss", tensors=3)
def _clip_loss(
    shards: Shards | None,
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
    """Return the loss () and its gradients for image (n, D), text (M, D) and scale ().

    With shards these are the parts of this process, as `Shards` defines them, and text and ids its
    own.
    """
    plain = shards is None and ids is None and normalize and chunk_size is None and all(needs)
    if plain and is_small(image, text) and choose_backend(backend, image) == "torch":
        output = loss_of_one_tile(image, text, logit_scale)
        if output is not None:
            return output
    ratio = 1.0
    if shards is not None:
        text, offset, ratio = shards.gather(text), shards.offset, shards.ratio  # (N, D)
        ids = None if ids is None else shards.gather(ids)  # (N,)
    rows = slice(offset, offset + len(image))  # the texts of this process's images
    equal, shares = None, None
    if ids is not None:
        equal = ids[rows].contiguous(), ids.contiguous()
        if positives == "all":
            paired = rows if shards is None else slice(None)
            shares = target_shares(*equal, paired, logit_scale.dtype)
    problem = Problem(image, text, offset, normalize, equal, shares, chunk_size, memory, needs)
    tiles = make_tiles(backend, problem)
    scale = logit_scale / LN_2
    sums = tiles.log_sum_exps(scale)
    cosines = sums.cosines
    if shards is not None:
        columns, cosines = shards.combine(sums.columns, cosines)  # (N,) each
        sums = sums._replace(columns=columns)
    pairs = cosines * scale
    if len(pairs) < len(text):
        # A text without an image gets an infinite pair: its softmax vanishes everywhere.
        pairs = F.pad(pairs, (offset, len(text) - rows.stop), value=torch.inf)
    loss, softmax = between_passes(problem, scale, sums, pairs, cosines.mean())
    loss = loss if shards is None else loss * ratio
    if not any(needs):
        nothing = logit_scale.new_empty(0)
        return loss, nothing, nothing.clone(), torch.zeros_like(logit_scale)
    gradients = tiles.softmax_gradients(softmax, ratio / (2 * len(image)))
    of_text = gradients.text
    if shards is not None and needs[1]:
        of_text = shards.add_and_scatter(of_text)
    return loss, gradients.image, of_text, gradients.scale


def between_passes(
    problem: Problem, scale: Tensor, sums: Sums, column_pairs: Tensor, center: Tensor
) -> tuple[Tensor, Softmax]:
    """Return the loss () and what the second pass needs.

    column_pairs: (M,), the logit of each column's pair, whichever process holds its row. center:
    (), the mean cosine of all pairs. Logits and sums are in units of ln 2.
    """
    own = slice(problem.offset, problem.offset + len(problem.image))
    pairs = column_pairs[own]  # (n,)
    # The log-sum-exp of the others minus the pair's logit, in each row and each column with a loss.
    odds = torch.stack([sums.rows, sums.columns[own]]).sub_(pairs).mul_(LN_2)  # (2, n)
    # Each pair's loss. Adding 0 · pairs makes it NaN for an infinite pair, as the plain formula is.
    losses = F.softplus(odds).add_(pairs, alpha=0)  # (2, n)
    # The pair's target of 1 minus its probability, added up over both directions.
    missing = torch.sigmoid(odds).sum(dim=0)  # (n,)
    if problem.shares is not None:
        row_shares, column_shares = problem.shares
        assert sums.pulls is not None
        # The pair's target falls from 2 to its shares, and the other positives pull as well.
        rest = 2 - row_shares - column_shares[own]  # (n,)
        losses += (rest * pairs - sums.pulls).mul_(LN_2 / 2)
        missing -= rest
    # With the pairs, the sums are the denominators of both softmaxes.
    row_lse = torch.logaddexp2(sums.rows, pairs)  # (n,)
    column_lse = torch.logaddexp2(sums.columns, column_pairs)  # (M,)
    return losses.mean().float(), Softmax(scale, row_lse, column_lse, missing, center)


def target_shares(
    row_ids: Tensor, ids: Tensor, paired: slice, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return what makes all entries with equal ids positives: shares of rows (n,), columns (M,).

    row_ids: (n,). ids: (M,), of the columns. paired: the columns with an image, and so a loss, in
    any process.
    """
    row_shares = 1 / _occurrences(row_ids, ids).to(dtype)
    column_shares = torch.zeros_like(ids, dtype=dtype)
    column_shares[paired] = 1 / _occurrences(ids[paired], ids[paired]).to(dtype)
    return row_shares, column_shares


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
