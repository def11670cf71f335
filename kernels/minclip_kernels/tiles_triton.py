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
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton import knobs
from triton.tools.tensor_descriptor import TensorDescriptor

from minclip_kernels import kernels_triton as kernels
from minclip_kernels.kernels_triton import Axis, Tower
from minclip_kernels.tiles import Gradients, Problem, Softmax, Sums

INTERPRETED: bool = knobs.runtime.interpret  # Read once: @triton.jit decides at import as well.
LARGEST_CHUNK = 512 * 2**20  # Bytes of coefficients in memory at once.
ROW_NUMBERS = 4096  # How many numbers a program of a kernel that works on whole rows holds.
COMBINED = 32  # The block of the kernel that combines tiles.
TOPS = 16  # Tiles that a program of the exact kernel looks at.
HAS_ADDMM_OUT_DTYPE = "dtype_out" in torch.ops.aten.addmm.overloads()  # since torch 2.10
PADDING = 128  # Rows are padded to whole tiles,
WIDTH_STEP = 64  # and features to whole steps of a product.


class Blocking(NamedTuple):
    """How a kernel cuts the matrix into tiles, and what works on one tile."""

    block_m: int = 128
    block_n: int = 128
    block_k: int = 64
    num_warps: int = 4
    num_stages: int = 3
    parts: int = 4  # groups of columns that take turns in the registers of the second pass
    descriptors: bool = False  # asynchronous copies of whole tiles (TMA)


class Chunk(NamedTuple):
    """A part of the matrix in the tiles of a kernel."""

    tile: Blocking
    image: Axis
    text: Axis

    @property
    def programs(self) -> int:
        return self.image.blocks * self.text.blocks

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns in whole tiles."""
        return self.image.blocks * self.tile.block_m, self.text.blocks * self.tile.block_n

    @property
    def rows(self) -> slice:
        return slice(self.image.first, self.image.first + self.shape[0])

    @property
    def columns(self) -> slice:
        return slice(self.text.first, self.text.first + self.shape[1])


class TritonTiles:
    """See `tiles.Tiles`."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.dtype = problem.image.dtype
        self.device = problem.image.device
        self.group = group_size(self.device)
        self.image, self.text = _prepare(problem)

    def log_sum_exps(self, scale: Tensor) -> Sums:
        """See `tiles.Tiles`."""
        rows, columns = scale.new_empty(self.image.size), scale.new_empty(self.text.size)
        cosines = torch.empty_like(rows)
        pulls = None if self.problem.shares is None else torch.zeros_like(rows)
        for chunk in self._chunks("log_sum_exp"):
            row_sums = scale.new_empty(chunk.text.blocks, chunk.shape[0])
            column_sums = scale.new_empty(chunk.image.blocks, chunk.shape[1])
            tops = scale.new_empty(chunk.programs)
            sums = {"row_sums": row_sums, "column_sums": column_sums, "tops": tops}
            row_pulls = None if pulls is None else torch.empty_like(row_sums)
            self._launch(
                kernels.log_sum_exp_kernel,
                chunk,
                chunk.programs,
                **sums,
                scale=scale,
                cosines=cosines,
                pulls=row_pulls,
                GROUP=self.group,
            )
            exact = chunk._replace(tile=self._blocking("exact_log_sum_exp"))  # with more threads
            programs = triton.cdiv(chunk.programs, TOPS)
            kernel = kernels.exact_log_sum_exp_kernel
            self._launch(kernel, exact, programs, **sums, scale=scale, STEP=TOPS)
            programs = sum(triton.cdiv(length, COMBINED) for length in chunk.shape)
            _launch(
                kernels.combine_kernel,
                programs,
                **sums,
                row_lse=rows,
                column_lse=columns,
                image=chunk.image,
                text=chunk.text,
                TILE=chunk.tile,
                BLOCK=COMBINED,
                STEP=64,
            )
            if pulls is not None and row_pulls is not None:
                pulls[chunk.rows] += row_pulls.sum(dim=0)[: len(pulls[chunk.rows])]
        return Sums(rows, columns, cosines, pulls)

    def softmax_gradients(self, softmax: Softmax, weight: float) -> Gradients:
        """See `tiles.Tiles`."""
        arguments = {**softmax._asdict(), "weight": weight}
        image, text, moments = self._gradients("coefficients", arguments, sums_per_tile=1)
        return Gradients(image, text, moments.sum())

    def sigmoid_gradients(
        self, scale: Tensor, bias: Tensor, weight: float
    ) -> tuple[Gradients, Tensor, Tensor]:
        """See `tiles.Tiles`."""
        arguments = {"scale": scale, "bias": bias, "weight": weight}
        image, text, sums = self._gradients("sigmoid", arguments, sums_per_tile=3)
        losses, moment, total = (value.clone() for value in sums.sum(dim=0))
        # Adding 0 · moment turns an infinite feature into NaN, where the loss may be 0.
        return Gradients(image, text, moment), losses.add_(moment, alpha=0), total

    def _gradients(
        self, kernel: str, arguments: dict[str, Any], sums_per_tile: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of both towers, empty where not needed, and the sums of all tiles.

        The kernel writes G' of a chunk, and a few sums (tiles, sums_per_tile).
        """
        needs, scale = self.problem.needs, arguments["scale"]
        image, text = (
            torch.empty_like(tower.features, dtype=torch.float32) if needed else scale.new_empty(0)
            for tower, needed in zip((self.image, self.text), needs, strict=False)
        )
        all_sums: list[Tensor] = []
        for chunk in self._chunks(kernel):
            out_dtype = torch.float32 if INTERPRETED else self.dtype
            g = self.image.features.new_empty(chunk.shape, dtype=out_dtype)
            sums = scale.new_empty(chunk.programs, sums_per_tile)
            all_sums.append(sums)
            function = getattr(kernels, f"{kernel}_kernel")
            self._launch(
                function, chunk, chunk.programs, **arguments, out=g, sums=sums, GROUP=self.group
            )
            g, rows, columns = g.to(self.dtype), chunk.rows, chunk.columns
            if needs[0]:
                _accumulate(image[rows], g, self.text.features[columns], columns.start == 0)
            if needs[1]:
                _accumulate(text[columns], g.T, self.image.features[rows], rows.start == 0)
            del g  # The next chunk works in its memory.
        self._finish(image, text, scale, arguments["weight"])
        width = self.problem.image.shape[1]
        if needs[0]:
            image = image[: self.image.size, :width].contiguous()
        if needs[1]:
            text = text[: self.text.size, :width].contiguous()
        return image, text, torch.cat(all_sums)

    def _finish(self, image: Tensor, text: Tensor, scale: Tensor, weight: float) -> None:
        """Turn gradients of prepared features into those of raw features, in place."""
        padded_width = self.image.features.shape[1]
        arguments = _row_arguments(image, text, padded_width, self.problem.normalize)
        if len(image) + len(text):
            _launch(
                kernels.finish_kernel,
                **arguments,
                image_gradient=image,
                text_gradient=text,
                image=self.image,
                text=self.text,
                scale=scale,
                weight=weight,
                width=padded_width,
            )

    def _blocking(self, kernel: str) -> Blocking:
        has_ids = self.problem.ids is not None
        return choose_blocking(kernel, architecture(self.device), self.dtype, has_ids)

    def _chunks(self, kernel: str) -> Iterator[Chunk]:
        """The matrix in squares, row by row."""
        side = math.isqrt(LARGEST_CHUNK // self.dtype.itemsize) // PADDING * PADDING
        tile, problem = self._blocking(kernel), self.problem
        if problem.chunk_size is not None:
            side = _round_up(problem.chunk_size, PADDING)

        def axis(tower: Tower, ids: Tensor | None, shares: Tensor | None, size: int) -> list[Axis]:
            places = range(0, tower.size, side)
            blocks = [triton.cdiv(min(side, tower.size - first), size) for first in places]
            fixed = tower.inverse_norms, ids, shares, tower.size
            return [Axis(*fixed, *place) for place in zip(places, blocks, strict=True)]

        row_ids, column_ids = problem.ids or (None, None)
        row_shares, column_shares = problem.shares or (None, None)
        images = axis(self.image, row_ids, row_shares, tile.block_m)
        texts = axis(self.text, column_ids, column_shares, tile.block_n)
        return (Chunk(tile, *place) for place in itertools.product(images, texts))

    def _launch(self, kernel: Any, chunk: Chunk, programs: int, **arguments: Any) -> None:
        """Launch a kernel that works on the tiles of a chunk."""
        tile, x, y = chunk.tile, self.image.features, self.text.features
        width = x.shape[1]
        if tile.descriptors:
            x = TensorDescriptor.from_tensor(x, [tile.block_m, tile.block_k])
            y = TensorDescriptor.from_tensor(y, [tile.block_n, tile.block_k])
        _launch(
            kernel,
            programs,
            **arguments,
            x=x,
            y=y,
            width=width,
            image=chunk.image,
            text=chunk.text,
            offset=self.problem.offset,
            TILE=tile,
            PRECISION="tf32" if self.dtype == torch.float32 and allows_tf32() else "ieee",
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )


def _prepare(problem: Problem) -> tuple[Tower, Tower]:
    """Return both towers as the kernels use them."""
    raw_image, raw_text = (
        (features.float() if INTERPRETED else features).contiguous()
        for features in (problem.image, problem.text)
    )
    image, text = _new_tower(raw_image), _new_tower(raw_text)
    padded_width = image.features.shape[1]
    _launch(
        kernels.prepare_kernel,
        **_row_arguments(image.features, text.features, padded_width, problem.normalize),
        raw_image=raw_image,
        raw_text=raw_text,
        image=image,
        text=text,
        width=raw_image.shape[1],
        padded_width=padded_width,
    )
    return image, text


def _new_tower(features: Tensor) -> Tower:
    """Return a tower with nothing in it yet."""
    rows, width = _round_up(len(features), PADDING), _round_up(features.shape[1], WIDTH_STEP)
    inverse_norms, shrinks = features.new_empty(2, rows, dtype=torch.float32).unbind()
    return Tower(features.new_empty(rows, width), inverse_norms, shrinks, len(features))


def _row_arguments(image: Tensor, text: Tensor, width: int, normalize: bool) -> dict[str, Any]:
    """What kernels that work on whole rows are told: programs for the rows of both towers."""
    block = min(max(ROW_NUMBERS // triton.next_power_of_2(width), 1), PADDING)
    image_programs, text_programs = len(image) // block, len(text) // block
    return {
        "programs": image_programs + text_programs,
        "image_programs": image_programs,
        "NORMALIZE": normalize,
        "BLOCK": block,
        "WIDTH": triton.next_power_of_2(width),
    }


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
    kernel[(programs,)](**arguments, enable_fp_fusion=True)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def choose_blocking(kernel: str, architecture: str, dtype: torch.dtype, ids: bool) -> Blocking:
    """Return the tiles of a kernel; `aot.py` checks each choice.

    kernel: "log_sum_exp", "exact_log_sum_exp", "coefficients" or "sigmoid".
    architecture: "sm_90" or "gfx942", say. ids: whether the kernel compares ids.
    """
    if architecture == "interpreter":
        return Blocking(block_m=64, block_n=64, block_k=32, parts=2)
    is_sigmoid = kernel == "sigmoid"  # It has the longest epilogue.
    if dtype == torch.float32:  # Without tensor cores, twice the threads hold the product.
        is_short = not is_sigmoid and not (ids and kernel == "coefficients")
        rows, parts = (128, 4) if is_short else (64, 1)
        return Blocking(block_m=rows, block_k=32, num_warps=8, num_stages=2, parts=parts)
    if architecture.startswith("gfx"):  # 64 KiB of shared memory, wavefronts of 64 threads
        return Blocking(block_k=32, num_warps=8, num_stages=2, parts=1)
    is_long = is_sigmoid or ids or kernel == "exact_log_sum_exp"
    if architecture == "sm_90":
        if is_sigmoid:
            return Blocking(block_m=64, num_stages=4, parts=8, descriptors=True)
        return Blocking(num_warps=8 if is_long else 4, parts=4, descriptors=True)
    if architecture == "sm_100":
        warps = 16 if kernel == "exact_log_sum_exp" else 8
        # With positives="all" the registers hold no more. The exact kernel has the same tiles.
        columns = 64 if ids and kernel.endswith("log_sum_exp") else 128
        return Blocking(block_n=columns, num_warps=warps, parts=8, descriptors=True)
    parts, warps = 4 if is_sigmoid else 8, 8 if is_long else 4
    if architecture == "sm_120":
        return Blocking(num_warps=warps, parts=parts, descriptors=True)
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
def group_size(device: torch.device) -> int:
    """Return how many blocks of rows make the tiles of a wave, two for each SM, about a square."""
    if INTERPRETED:
        return 2
    return round(math.sqrt(2 * torch.cuda.get_device_properties(device).multi_processor_count))


def allows_tf32() -> bool:
    """Whether the user lets float32 products round their factors to TF32.

    Only the newer switch is read where it is set: once it is, torch refuses to read the older one.
    """
    for switches in (torch.backends.cuda.matmul, torch.backends):
        precision = getattr(switches, "fp32_precision", "none")
        if precision != "none":
            return precision == "tf32"
    return torch.get_float32_matmul_precision() != "highest"
