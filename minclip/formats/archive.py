"""Tensors in the zip archives of `torch.save` and `torch.jit.save`, without running any code of the file.

An archive describes its content as a pickle, a program for a stack machine that may call any Python function. The stack
machine here calls nothing. An object becomes the dictionary of its attributes and a call becomes None, except for the
call that makes a tensor, which becomes the tensor's place in the archive. The code in a TorchScript archive is not
opened. Memory stays within the size of the file: compressed entries, and tensors that together exceed it, are refused.
"""

import math
import pickletools
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

State = dict[str, torch.Tensor]
MAX_PICKLE = 16 * 2**20  # bytes; a parameter takes about a hundred
DTYPES = {
    "torch DoubleStorage": torch.float64,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
}


def read_archive(path: Path) -> State:
    """The tensors of an archive by their dotted names, only those of `state_dict` if a training checkpoint has one.

    Raises ValueError for a file that is not such an archive, is damaged, or would need more memory than its size.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is neither safetensors nor a zip archive of torch.save; older pickles can run code and are not "
            "opened: load it with torch.load(…, weights_only=True) where you trust it, and save it again"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            folder = _check_archive(archive, path.stat().st_size)
            tree = _interpret(archive.read(f"{folder}/data.pkl"))
            return _read_tensors(archive, folder, _weights(tree), path.stat().st_size)
    except (zipfile.BadZipFile, ArithmeticError, LookupError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise ValueError(f"{path} is damaged or no archive of weights: {error}") from error


def _check_archive(archive: zipfile.ZipFile, size: int) -> str:
    """The folder inside an archive that holds its content. Raises ValueError if reading it could take more memory."""
    entries = [entry for entry in archive.infolist() if "/code/" not in entry.filename]
    compressed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if compressed or sum(entry.file_size for entry in entries) > size:
        raise ValueError(f"its entries are compressed or overlap ({', '.join(compressed[:3])}); torch.save writes none")
    (program,) = [entry for entry in entries if entry.filename.count("/") == 1 and entry.filename.endswith("/data.pkl")]
    if program.file_size > MAX_PICKLE:
        raise ValueError(f"its data.pkl has {program.file_size} bytes, at most {MAX_PICKLE} are read")
    return program.filename.split("/")[0]


# --- the stack machine ------------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """Where a tensor is: in the entry data/`key`, as numbers of `dtype`."""

    key: str
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def _place(storage: Any, offset: Any, size: Any, stride: Any) -> _Place:
    """The place by what the pickle says, where `storage` is ("storage", type, key, device, number)."""
    _, kind, key, *_ = storage
    if not isinstance(kind, str) or not isinstance(key, str) or not all(isinstance(n, int) for n in (*size, *stride)):
        raise ValueError("a tensor in its pickle is not described as torch describes them")
    return _Place(key, DTYPES[kind], offset, size, stride)


_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": _MARK, "EMPTY_TUPLE": ()}
_VALUES = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "GLOBAL")
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _interpret(program: bytes) -> Any:
    """What a pickle makes, of dictionaries, lists, tuples, numbers, texts and places of tensors only."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    for opcode, value, _ in pickletools.genops(program):
        name: str = opcode.name
        if name in _VALUES:  # a GLOBAL is the text "module name"
            stack.append(value)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[value] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[value])
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name not in ("PROTO", "STOP", "BINPERSID"):  # an identifier of a storage stands for the storage
            _OPERATIONS[name](stack)
    (result,) = stack
    return result


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    mark = next((i for i in range(len(stack) - 1, -1, -1) if stack[i] is _MARK), None)
    if mark is None:
        raise ValueError("a mark is missing in its pickle")
    items = stack[mark + 1 :]
    del stack[mark:]
    return items


def _set_items(stack: list[Any], items: list[Any]) -> None:
    if isinstance(stack[-1], dict):
        # Other keys name no parameter, and hashing a tuple that is nested a million times would end the process.
        pairs = zip(items[::2], items[1::2], strict=True)
        stack[-1].update((key, value) for key, value in pairs if isinstance(key, (str, int)))


def _append(stack: list[Any], items: list[Any]) -> None:
    if isinstance(stack[-1], list):
        stack[-1].extend(items)


def _build(stack: list[Any]) -> None:
    """Set attributes; an object is the dictionary of them."""
    attributes = stack.pop()
    if isinstance(stack[-1], dict) and isinstance(attributes, dict):
        stack[-1].update(attributes)


def _new(stack: list[Any]) -> None:
    stack[-2:] = [{}]


def _call(stack: list[Any]) -> None:
    function, arguments = stack[-2:]
    result: Any = None
    if function == "collections OrderedDict":
        result = {}
    elif function == "torch._utils _rebuild_tensor_v2":
        result = _place(*arguments[:4])
    elif function == "torch._utils _rebuild_parameter":
        result = arguments[0]
    stack[-2:] = [result]


_OPERATIONS = {
    "EMPTY_DICT": lambda stack: stack.append({}),
    "EMPTY_LIST": lambda stack: stack.append([]),
    "TUPLE": lambda stack: stack.append(tuple(_pop_to_mark(stack))),
    "SETITEM": lambda stack: _set_items(stack, [stack.pop(-2), stack.pop()]),
    "SETITEMS": lambda stack: _set_items(stack, _pop_to_mark(stack)),
    "APPEND": lambda stack: _append(stack, [stack.pop()]),
    "APPENDS": lambda stack: _append(stack, _pop_to_mark(stack)),
    "BUILD": _build,
    "NEWOBJ": _new,
    "REDUCE": _call,
}


# --- from places to tensors -------------------------------------------------------------------------------------------


def _weights(tree: Any) -> dict[str, _Place]:
    """The tensors of a model by their dotted names, without what a training checkpoint keeps beside them."""
    named, prefix = _named(tree), "state_dict."
    if any(name.startswith(prefix) for name in named):
        return {name.removeprefix(prefix): place for name, place in named.items() if name.startswith(prefix)}
    return named


def _named(tree: Any) -> dict[str, _Place]:
    """The tensors in nested dictionaries by their dotted names; every dictionary is looked into once."""
    named: dict[str, _Place] = {}
    waiting, seen = [("", tree)], set()
    while waiting:
        prefix, branch = waiting.pop()
        if isinstance(branch, _Place):
            named[prefix] = branch
        elif isinstance(branch, dict) and id(branch) not in seen:
            seen.add(id(branch))
            waiting += [(f"{prefix}.{key}" if prefix else str(key), value) for key, value in branch.items()]
    return named


def _read_tensors(archive: zipfile.ZipFile, folder: str, places: dict[str, _Place], size: int) -> State:
    wanted = sum(math.prod(place.size) * place.dtype.itemsize for place in places.values())
    if wanted > size:
        raise ValueError(f"its tensors have {wanted} bytes, more than the file")
    dtypes = {place.key: place.dtype for place in places.values()}
    storages = {
        key: torch.frombuffer(bytearray(archive.read(f"{folder}/data/{key}")), dtype=dtype)
        for key, dtype in dtypes.items()
    }
    return {
        name: torch.as_strided(storages[place.key], place.size, place.stride, place.offset)
        for name, place in places.items()
    }
