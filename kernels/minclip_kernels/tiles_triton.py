"""The tiles as Triton kernels (kernels_triton.py): buffers, launches, and the loop over chunks.

Both passes go over the matrix in square chunks. In a chunk the first pass leaves two vectors for
each tile. The second leaves G'_ij = 4096 · G_ij r_i q_j for the whole chunk (kernels_triton.py
defines r and q), which the vendor's matrix product multiplies with the features, adding up in
float32. The features go into every product as they came, but for a power of two in each row: no
normalised copy is ever rounded.

Under TRITON_INTERPRET=1 the kernels run on CPU tensors. The interpreter computes bfloat16 products
incorrectly and truncates casts to bfloat16, so there features and G' are float32 inside the
kernels, and torch rounds G'.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from triton import knobs
from triton.tools.tensor_descriptor import TensorDescriptor

from minclip_kernels import kernels_triton as kernels
from minclip_kernels.tiles import Gradients, Problem, Softmax, Sums

INTERPRETED: bool = knobs.runtime.interpret  # Read once: @triton.jit decides at import as well.
LARGEST_CHUNK = 512 * 2**20  # Bytes of coefficients in memory at once.
ROWS, STEP = 32, 128  # The block of kernels that walk along the features of some rows.
COMBINED = 128  # The block of the kernel that combines tiles.
HAS_ADDMM_OUT_DTYPE = "dtype_out" in torch.ops.aten.addmm.overloads()  # since torch 2.10
PADDING = 128  # Rows are padded to whole tiles,
WIDTH_STEP = 64  # and features to whole steps of a product.


@dataclass(frozen=True)
class Blocking:
    """How a kernel cuts the matrix into tiles, and what works on one tile."""

    block_m: int = 128
    block_n: int = 128
    block_k: int = 64
    num_warps: int = 4
    num_stages: int = 3
    parts: int = 4  # groups of columns that take turns in the registers of the second pass
    descriptors: bool = False  # asynchronous copies of whole tiles (TMA)


@dataclass(frozen=True)
class Tower:
    """The features of images or of texts as the kernels use them, padded to whole tiles."""

    features: Tensor  # (N, D), rows scaled to a length in [1, 2) if normalised
    inverse_norms: Tensor  # (N,), of the scaled rows; ones if not normalised
    shrinks: Tensor  # (N,), the power of two that every row was multiplied by
    count: int  # rows without padding


@dataclass(frozen=True)
class Chunk:
    """A part of the matrix, without padding."""

    index: int
    first_row: int
    first_column: int
    row_count: int
    column_count: int


@dataclass(frozen=True)
class Grid:
    """The tiles of a kernel in a chunk."""

    blocking: Blocking
    row_blocks: int
    column_blocks: int

    @property
    def programs(self) -> int:
        return self.row_blocks * self.column_blocks

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns in whole tiles."""
        return self.row_blocks * self.blocking.block_m, self.column_blocks * self.blocking.block_n


class TritonTiles:
    """See `tiles.Tiles`."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.dtype = problem.image.dtype
        self.device = problem.image.device
        self.image, self.text = _prepare(problem)
        side = math.isqrt(LARGEST_CHUNK // self.dtype.itemsize) // PADDING * PADDING
        if problem.chunk_size is not None:
            side = _round_up(problem.chunk_size, PADDING)
        self.chunks = list(_chunks(self.image.count, self.text.count, side))
        self.kept: dict[int, Tensor] = {}  # chunk index -> cosines as int16
        # The error of int16 is below that of bfloat16 coefficients, but not of finer dtypes.
        # A chunk counts as a full square, even where the matrix is smaller.
        can_keep = problem.second_pass and problem.normalize and self.dtype == torch.bfloat16
        self.chunks_to_keep = (problem.memory or 0) // (2 * side**2) if can_keep else 0

    def pair_cosines(self) -> Tensor:
        """See `tiles.Tiles`."""
        image, text = self.image, self.text
        cosines = image.inverse_norms.new_empty(image.count)
        _launch(
            kernels.pair_kernel, triton.cdiv(image.count, ROWS), x=image.features,
            y=text.features, r=image.inverse_norms, q=text.inverse_norms, cosines=cosines,
            count=image.count, width=image.features.shape[1], offset=self.problem.offset,
            BLOCK=ROWS, STEP=STEP,
        )  # fmt: skip
        return cosines

    def log_sum_exps(self, scale: Tensor) -> Sums:
        """See `tiles.Tiles`."""
        rows, columns = scale.new_empty(self.image.count), scale.new_empty(self.text.count)
        equals = self.problem.equals
        has_pulls = equals is not None and equals.row_shares is not None
        pulls = torch.zeros_like(rows) if has_pulls else None
        for chunk in self.chunks:
            grid = self._grid(chunk, "log_sum_exp")
            row_sums = scale.new_empty(grid.column_blocks, grid.shape[0])
            column_sums = scale.new_empty(grid.row_blocks, grid.shape[1])
            parts = torch.empty_like(row_sums) if has_pulls else row_sums
            self._sum_tiles(chunk, grid, scale, row_sums, column_sums, parts, rows, columns)
            if pulls is not None:
                total = parts.sum(dim=0)[: chunk.row_count]
                pulls[chunk.first_row : chunk.first_row + chunk.row_count] += total
        return Sums(rows, columns, pulls)

    def _sum_tiles(
        self, chunk: Chunk, grid: Grid, scale: Tensor, row_sums: Tensor, column_sums: Tensor,
        pulls: Tensor, rows: Tensor, columns: Tensor,
    ) -> None:  # fmt: skip
        """Launch a chunk's first pass: sum all tiles, repeat the flagged ones exactly, combine."""
        tops, flags = scale.new_empty(2, grid.programs).unbind()
        keep = chunk.index < self.chunks_to_keep
        kept = tops.new_empty(grid.shape, dtype=torch.int16) if keep else tops
        if keep:
            self.kept[chunk.index] = kept
        sums = {"row_sums": row_sums, "column_sums": column_sums, "tops": tops}
        inputs = self._ids() | sums | {"scale": scale, "flags": flags}
        _launch(
            kernels.log_sum_exp_kernel, grid.programs, **self._arguments(chunk, grid), **inputs,
            GROUP=group_size(self.device),
            **self._shares(), pulls=pulls, kept=kept, KEEP=keep,
        )  # fmt: skip
        exact = self._grid(chunk, "exact_log_sum_exp")  # The same tiles, more threads.
        programs = min(grid.programs, 2 * processors(self.device))
        _launch(
            kernels.exact_log_sum_exp_kernel, programs, **self._arguments(chunk, exact), **inputs
        )
        programs = sum(triton.cdiv(length, COMBINED) for length in grid.shape)
        _launch(
            kernels.combine_kernel, programs, **sums, **_place(chunk, grid), rows=rows,
            columns=columns, row_count=self.image.count, column_count=self.text.count,
            BLOCK_M=grid.blocking.block_m, BLOCK_N=grid.blocking.block_n, BLOCK=COMBINED,
            STEP=16, FIRST_ROWS=chunk.first_column == 0, FIRST_COLUMNS=chunk.first_row == 0,
        )  # fmt: skip

    def softmax_gradients(self, softmax: Softmax, weight: float, needs: list[bool]) -> Gradients:
        """See `tiles.Tiles`."""
        scale, row_lse, column_lse, missing, center = softmax
        row_factors = torch.empty_like(self.image.inverse_norms)
        column_factors = torch.empty_like(self.text.inverse_norms)
        scalars = scale.new_empty(2)
        _launch(
            kernels.factors_kernel, 1, row_lse=row_lse, column_lse=column_lse,
            row_factors=row_factors, column_factors=column_factors, scalars=scalars,
            row_count=len(row_lse), column_count=len(column_lse),
            padded_rows=len(row_factors), padded_columns=len(column_factors), BLOCK=1024,
        )  # fmt: skip

        def coefficients(chunk: Chunk, grid: Grid, out: Tensor) -> Tensor:
            moments = scale.new_empty(grid.programs)
            kept = self.kept.get(chunk.index)
            if kept is not None:
                grid = self._grid(chunk, "kept_coefficients")
                assert kept.shape == grid.shape == out.shape, "kernels must cut chunks alike"
            arguments = self._arguments(chunk, grid) | self._ids() | self._shares()
            arguments["GROUP"] = group_size(self.device)
            # Both variants are launched; the one that the spread rules out returns at once.
            terms = {False: (row_factors, column_factors), True: (row_lse, column_lse)}
            for is_exact, (row_terms, column_terms) in terms.items():
                _launch(
                    kernels.coefficients_kernel, grid.programs, **arguments, scale=scale,
                    center=center, scalars=scalars, row_terms=row_terms,
                    column_terms=column_terms, missing=missing,
                    kept=moments if kept is None else kept, out=out, moments=moments, weight=weight,
                    PARTS=grid.blocking.parts, EXACT=is_exact, KEPT=kept is not None,
                )  # fmt: skip
            return moments

        image, text, moments = self._gradients("coefficients", coefficients, scale, weight, needs)
        return Gradients(image, text, moments.sum())

    def sigmoid_gradients(
        self, scale: Tensor, bias: Tensor, weight: float, needs: list[bool]
    ) -> tuple[Gradients, Tensor, Tensor]:
        """See `tiles.Tiles`."""

        def coefficients(chunk: Chunk, grid: Grid, out: Tensor) -> Tensor:
            sums = scale.new_empty(grid.programs, 3)
            _launch(
                kernels.sigmoid_kernel, grid.programs, **self._arguments(chunk, grid),
                GROUP=group_size(self.device),
                scale=scale, bias=bias, out=out, sums=sums, weight=weight,
                PARTS=grid.blocking.parts,
            )  # fmt: skip
            return sums

        image, text, sums = self._gradients("sigmoid", coefficients, scale, weight, needs)
        losses, moment, total = (value.clone() for value in sums.sum(dim=0))
        # Adding 0 · moment turns an infinite feature into NaN, where the loss may be 0.
        return Gradients(image, text, moment), losses.add_(moment, alpha=0), total

    def _gradients(
        self, kernel: str, coefficients: Callable[[Chunk, Grid, Tensor], Tensor],
        scale: Tensor, weight: float, needs: list[bool],
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Return the gradients of both towers, empty where not needed, and the sums of all tiles.

        `coefficients` launches a kernel that writes G' of a chunk, and returns its tiles' sums.
        """
        image, text = (
            torch.empty_like(tower.features, dtype=torch.float32) if needed else scale.new_empty(0)
            for tower, needed in zip((self.image, self.text), needs, strict=False)
        )
        sums = []
        for chunk in self.chunks:
            grid = self._grid(chunk, kernel)
            out_dtype = torch.float32 if INTERPRETED else self.dtype
            g = self.image.features.new_empty(grid.shape, dtype=out_dtype)
            sums.append(coefficients(chunk, grid, g))
            g = g.to(self.dtype)
            rows, columns = _spans(chunk, grid)
            if needs[0]:
                features = self.text.features[columns]
                _accumulate(image[rows], g, features, chunk.first_column == 0)
            if needs[1]:
                features = self.image.features[rows]
                _accumulate(text[columns], g.T, features, chunk.first_row == 0)
        self._finish(image, text, scale, weight)
        image, text = (
            gradient[: len(features), : features.shape[1]].contiguous() if needed else gradient
            for gradient, features, needed in (
                (image, self.problem.image, needs[0]), (text, self.problem.text, needs[1]),
            )
        )  # fmt: skip
        return image, text, sums[0] if len(sums) == 1 else torch.cat(sums)

    def _finish(self, image: Tensor, text: Tensor, scale: Tensor, weight: float) -> None:
        """Turn gradients of prepared features into those of raw features, in place."""
        image_programs, text_programs = len(image) // ROWS, len(text) // ROWS
        if image_programs + text_programs == 0:
            return
        _launch(
            kernels.finish_kernel, image_programs + text_programs,
            image_gradient=image, image=self.image.features,
            image_inverse_norms=self.image.inverse_norms, image_shrinks=self.image.shrinks,
            image_programs=image_programs, text_gradient=text, text=self.text.features,
            text_inverse_norms=self.text.inverse_norms, text_shrinks=self.text.shrinks,
            scale=scale, weight=weight, width=self.image.features.shape[1],
            NORMALIZE=self.problem.normalize, BLOCK=ROWS, STEP=STEP,
        )  # fmt: skip

    def _grid(self, chunk: Chunk, kernel: str) -> Grid:
        has_ids = self.problem.equals is not None
        blocking = choose_blocking(kernel, architecture(self.device), self.dtype, has_ids)
        rows = triton.cdiv(chunk.row_count, blocking.block_m)
        return Grid(blocking, rows, triton.cdiv(chunk.column_count, blocking.block_n))

    def _arguments(self, chunk: Chunk, grid: Grid) -> dict[str, Any]:
        """Return what every kernel that works on tiles is told."""
        blocking = grid.blocking
        x, y = self.image.features, self.text.features
        if blocking.descriptors:
            x = TensorDescriptor.from_tensor(x, [blocking.block_m, blocking.block_k])
            y = TensorDescriptor.from_tensor(y, [blocking.block_n, blocking.block_k])
        return _place(chunk, grid) | {
            "x": x, "y": y, "r": self.image.inverse_norms, "q": self.text.inverse_norms,
            "row_count": self.image.count, "column_count": self.text.count,
            "width": self.image.features.shape[1], "offset": self.problem.offset,
            "BLOCK_M": blocking.block_m, "BLOCK_N": blocking.block_n, "BLOCK_K": blocking.block_k,
            "DESCRIPTORS": blocking.descriptors,
            "PRECISION": "tf32" if self.dtype == torch.float32 and allows_tf32() else "ieee",
            "num_warps": blocking.num_warps, "num_stages": blocking.num_stages,
        }  # fmt: skip

    def _ids(self) -> dict[str, Any]:
        equals, unused = self.problem.equals, self.image.inverse_norms
        if equals is None:
            return {"row_ids": unused, "column_ids": unused, "IDS": 0}
        mode = kernels.DROP if equals.row_shares is None else kernels.ALL
        return {"row_ids": equals.row_ids, "column_ids": equals.column_ids, "IDS": mode.value}

    def _shares(self) -> dict[str, Tensor]:
        equals, unused = self.problem.equals, self.image.inverse_norms
        if equals is None or equals.row_shares is None or equals.column_shares is None:
            return {"row_shares": unused, "column_shares": unused}
        return {"row_shares": equals.row_shares, "column_shares": equals.column_shares}


def _place(chunk: Chunk, grid: Grid) -> dict[str, int]:
    return {
        "first_row": chunk.first_row, "first_column": chunk.first_column,
        "row_blocks": grid.row_blocks, "column_blocks": grid.column_blocks,
    }  # fmt: skip


def _spans(chunk: Chunk, grid: Grid) -> tuple[slice, slice]:
    """Return the rows and the columns of a chunk, padding included."""
    rows, columns = grid.shape
    return (
        slice(chunk.first_row, chunk.first_row + rows),
        slice(chunk.first_column, chunk.first_column + columns),
    )


def _chunks(row_count: int, column_count: int, side: int) -> Iterator[Chunk]:
    places = itertools.product(range(0, row_count, side), range(0, column_count, side))
    for index, (row, column) in enumerate(places):
        rows, columns = min(side, row_count - row), min(side, column_count - column)
        yield Chunk(index, row, column, rows, columns)


def _prepare(problem: Problem) -> tuple[Tower, Tower]:
    """Return both towers as the kernels use them."""
    raw = [problem.image, problem.text]
    if INTERPRETED:
        raw = [features.float() for features in raw]
    image, text = (_new_tower(features) for features in raw)
    image_programs, text_programs = len(image.features) // ROWS, len(text.features) // ROWS
    _launch(
        kernels.prepare_kernel, image_programs + text_programs,
        image=raw[0], image_features=image.features, image_inverse_norms=image.inverse_norms,
        image_shrinks=image.shrinks, image_count=image.count, image_row_stride=raw[0].stride(0),
        image_column_stride=raw[0].stride(1), image_programs=image_programs,
        text=raw[1], text_features=text.features, text_inverse_norms=text.inverse_norms,
        text_shrinks=text.shrinks, text_count=text.count, text_row_stride=raw[1].stride(0),
        text_column_stride=raw[1].stride(1), width=raw[0].shape[1],
        padded_width=image.features.shape[1], NORMALIZE=problem.normalize, BLOCK=ROWS, STEP=STEP,
    )  # fmt: skip
    return image, text


def _new_tower(features: Tensor) -> Tower:
    """Return a tower with nothing in it yet."""
    rows, width = _round_up(len(features), PADDING), _round_up(features.shape[1], WIDTH_STEP)
    inverse_norms, shrinks = features.new_empty(2, rows, dtype=torch.float32).unbind()
    return Tower(features.new_empty(rows, width), inverse_norms, shrinks, len(features))


def _accumulate(total: Tensor, coefficients: Tensor, features: Tensor, is_first: bool) -> None:
    """total += coefficients @ features with sums in float32; at first total holds nothing."""
    beta = 0 if is_first else 1
    is_half = features.is_cuda and features.dtype.itemsize == 2
    if is_half and _has_float32_products():
        torch.addmm(total, coefficients, features, beta=beta, out_dtype=torch.float32, out=total)
    elif is_half and features.dtype == torch.bfloat16:
        # Rounding each chunk's sum is cheaper than upcasting its factors; float16 could overflow.
        product = torch.mm(coefficients, features)
        total.copy_(product) if is_first else total.add_(product)
    else:
        total.addmm_(coefficients.float(), features.float(), beta=beta)


def _has_float32_products() -> bool:
    """Whether torch multiplies 16-bit factors into float32 in place: not on AMD, nor tuned."""
    is_tuned = torch.cuda.tunable.is_enabled()
    return HAS_ADDMM_OUT_DTYPE and torch.version.hip is None and not is_tuned


def _launch(kernel: Any, programs: int, **arguments: Any) -> None:
    tensors = (value for value in arguments.values() if isinstance(value, Tensor))
    with torch.cuda.device_of(next(tensors)):  # Triton launches on the current device.
        kernel[(programs,)](**arguments, enable_fp_fusion=True)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def choose_blocking(kernel: str, architecture: str, dtype: torch.dtype, ids: bool) -> Blocking:
    """Return the tiles of a kernel; `aot.py` checks each choice.

    kernel: "log_sum_exp", "exact_log_sum_exp", "coefficients", "kept_coefficients" or "sigmoid".
    architecture: "sm_90" or "gfx942", say. ids: whether the kernel compares ids.
    """
    if architecture == "interpreter":
        return Blocking(block_m=64, block_n=64, block_k=32, parts=2)
    is_sigmoid = kernel == "sigmoid"  # It has the longest epilogue.
    if dtype == torch.float32:  # Without tensor cores, twice the threads hold the product.
        rows = 64 if is_sigmoid else 128
        return Blocking(block_m=rows, block_k=32, num_warps=8, num_stages=2, parts=1)
    if architecture.startswith("gfx"):  # 64 KiB of shared memory, wavefronts of 64 threads
        return Blocking(block_k=32, num_warps=8, num_stages=2, parts=1)
    is_long = is_sigmoid or ids or kernel in ("exact_log_sum_exp", "kept_coefficients")
    parts = 1 if kernel == "kept_coefficients" else 8
    if architecture == "sm_90":
        if is_sigmoid:
            return Blocking(block_m=64, num_stages=4, parts=8, descriptors=True)
        return Blocking(num_warps=8 if is_long else 4, parts=min(parts, 4), descriptors=True)
    if architecture == "sm_100":
        warps = 16 if kernel == "exact_log_sum_exp" else 4 if kernel == "coefficients" else 8
        return Blocking(num_warps=warps, parts=parts, descriptors=True)
    parts, warps = 4 if is_sigmoid else parts, 8 if is_long else 4
    if architecture == "sm_120":
        return Blocking(num_warps=warps, parts=min(parts, 4), descriptors=True)
    stages = 4 if architecture == "sm_80" else 3  # 163 and 99 KiB of shared memory
    return Blocking(block_k=32, num_warps=warps, num_stages=stages, parts=parts)


@functools.cache
def architecture(device: torch.device) -> str:
    """Return "sm_90" or "gfx942", for instance; "interpreter" where nothing is compiled."""
    if INTERPRETED:
        return "interpreter"
    if torch.version.hip is not None:
        return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


@functools.cache
def processors(device: torch.device) -> int:
    """Return the number of streaming multiprocessors (compute units) of a device."""
    return 2 if INTERPRETED else torch.cuda.get_device_properties(device).multi_processor_count


def group_size(device: torch.device) -> int:
    """Return how many blocks of rows make the tiles of a wave, two for each SM, about a square."""
    return round(math.sqrt(2 * processors(device)))


def allows_tf32() -> bool:
    """Whether the user lets float32 products round their factors to TF32.

    Only the newer switch is read where it is set: once it is, torch refuses to read the older one.
    """
    for switches in (torch.backends.cuda.matmul, torch.backends):
        precision = getattr(switches, "fp32_precision", "none")
        if precision != "none":
            return precision == "tf32"
    return torch.get_float32_matmul_precision() != "highest"
