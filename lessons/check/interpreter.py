"""Triton's interpreter, watched: which program touched which element, and was every address inside."""

import importlib
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from hypothesis import strategies as st
from torch import Tensor

from check.verdict import Wrong


class Touch(NamedTuple):
    """What one program read or wrote at once."""

    program: tuple[int, ...]
    verb: str  # "reads" or "writes"
    name: str  # of the tensor, as the kernel calls it
    places: Tensor  # (n,) int64: 0 is the first element of the tensor, row after row
    tile: Tensor  # the places in the form of the tile, −1 where the mask says no


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> list[Touch]:
    """kernel[grid](...) in Triton's interpreter, where every address is looked at before it is used.

    Returns what each program touched. Raises Wrong at an element outside of all tensors, at a load whose mask says no
    somewhere without `other` (the interpreter reads zero there, Triton promises nothing), and at a product of float32
    that a GPU would round.
    """
    from triton.runtime.interpreter import InterpreterBuilder

    named = zip(kernel.arg_names, arguments, strict=False)
    tensors = {name: argument for name, argument in named if isinstance(argument, Tensor)}
    touches = []

    def watched(verb: str, place_of_mask: int, original: Callable[..., Any]) -> Callable[..., Any]:
        def access(builder: Any, pointers: Any, *others: Any, **options: Any) -> Any:
            mask = others[place_of_mask].data
            chosen = pointers.data[mask]
            addresses = torch.from_numpy(chosen.astype("int64"))
            touches.append(
                _touch(builder.grid_idx[: len(grid)], verb, addresses, torch.from_numpy(mask.copy()), tensors)
            )
            if verb == "reads" and others[1] is None and not mask.all():
                name = touches[-1].name
                raise Wrong(
                    f"a load from {name} has a mask but no `other`: what is it where the mask says no?",
                    "zero in the interpreter, but anything on a GPU: choose the `other` that does no harm later",
                )
            return original(builder, pointers, *others, **options)

        return access

    def exact_dot(builder: Any, a: Any, b: Any, tile: Any, precision: Any, *others: Any) -> Any:
        if precision.name != "IEEE" and a.data.dtype.itemsize == 4:
            raise Wrong(
                f"a tl.dot of float32 rounds its inputs to {precision.name} on a GPU (not in the interpreter)",
                'tl.dot(…, input_precision="ieee") keeps all digits of float32',
            )
        return dot(builder, a, b, tile, precision, *others)

    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store
    dot = InterpreterBuilder.create_dot
    with (
        warnings.catch_warnings(),
        patch.object(InterpreterBuilder, "create_dot", exact_dot),
        patch.object(InterpreterBuilder, "create_masked_load", watched("reads", 0, load)),
        patch.object(InterpreterBuilder, "create_masked_store", watched("writes", 1, store)),
    ):
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, at overflows and log2(0)
        try:
            kernel[grid](*arguments, **constants)
        except Exception as error:  # Triton wraps it, once for each function that it came through
            inner: BaseException = error
            while inner.__cause__ is not None:
                inner = inner.__cause__
            raise inner from None
    return touches


def _touch(program: tuple[int, ...], verb: str, addresses: Tensor, mask: Tensor, tensors: dict[str, Tensor]) -> Touch:
    """Finds the tensor in which all the addresses lie."""
    distances = {}
    for name, tensor in tensors.items():
        places = (addresses - tensor.data_ptr()) // tensor.element_size()
        outside = (places < 0) | (places >= tensor.numel())
        if not outside.any():
            tile = torch.full(mask.shape, -1)
            tile[mask] = places
            return Touch(program, verb, name, places, tile)
        distances[name] = (addresses - tensor.data_ptr()).abs().min().item()
    name = min(distances, key=distances.__getitem__)
    tensor = tensors[name]
    places = (addresses - tensor.data_ptr()) // tensor.element_size()
    place = int(places[(places < 0) | (places >= tensor.numel())][0])
    index = [place] if tensor.ndim < 2 else list(divmod(place, tensor.shape[1]))
    number = program[0] if len(program) == 1 else program
    problem = f"program {number} {verb} {name}{index}, outside of its shape {tuple(tensor.shape)}"
    hint = f"each size that is ragged needs a condition in the mask: where does {name} end?"
    raise Wrong(problem, f"{hint} (If it has them all: is the place right?)")


def fenced(tensor: Tensor) -> Tensor:
    """A copy in the middle of memory that is full of NaN."""
    fence = 16384
    memory = torch.full((tensor.numel() + 2 * fence,), torch.nan, dtype=tensor.dtype)
    memory[fence:-fence] = tensor.flatten()
    return memory[fence:-fence].view(tensor.shape)


def skip_cells_without_triton() -> None:
    """In a notebook, where Triton cannot be imported: cells that begin with "# needs Triton" only say so."""
    skip_cells_without("triton", "Triton")


def skip_cells_without(module: str, title: str) -> None:
    """In a notebook, where a module cannot be imported: cells that begin with "# needs <title>" only say so."""
    from IPython.core.getipython import get_ipython

    def skip(lines: list[str]) -> list[str]:
        if lines and lines[0].strip() == f"# needs {title}":
            return [f"print('skipped: this cell needs {title}, which cannot be imported here')\n"]
        return lines

    try:
        importlib.import_module(module)
    except ImportError:
        shell = get_ipython()
        if shell is not None:
            shell.input_transformers_cleanup.append(skip)


def numbers(draw: Callable[..., Any], rows: int, width: int) -> Tensor:
    """Small whole numbers (rows, width), none of them zero, in fenced memory."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    return fenced(torch.randint(1, 5, (rows, width), generator=generator).float())
