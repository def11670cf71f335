"""What the reader solved, stays: one file for each solved exercise in lessons/mine/, a module that stands by itself.

The source of a function, or of a class, is taken from the notebook's cell, together with what it uses: imports, and the
helper functions that the reader wrote beside it. A file is only kept if the exercise's own check accepts what it holds.
"""

import ast
import builtins
import importlib.util
import inspect
import linecache
import os
import symtable
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from minclip.files import replacing


def folder() -> Path:
    """Where solved exercises are kept: lessons/mine, or the folder that MINCLIP_MINE names."""
    return Path(os.environ.get("MINCLIP_MINE") or Path(__file__).resolve().parent.parent / "mine")


def file_of(name: str) -> Path:
    return folder() / f"{name}.py"


def keep(name: str, attempt: Callable[..., Any], is_right: Callable[[Callable[..., Any]], bool]) -> str:
    """Writes a solved exercise to <name>.py; returns what to say about it, whatever happens: the lesson goes on."""
    try:
        return _keep(name, attempt, is_right)
    except LookupError as missing:
        return f" (but not kept for later lessons: {missing.args[0]})"
    except RecursionError:
        return " (but not kept for later lessons: two of its helper functions call each other)"
    except (OSError, SyntaxError) as error:
        return f" (but not kept for later lessons: {error})"


def _keep(name: str, attempt: Callable[..., Any], is_right: Callable[[Callable[..., Any]], bool]) -> str:
    text = "\n\n".join(dict.fromkeys(sources(name, attempt))) + "\n"
    with TemporaryDirectory() as trial:
        path = Path(trial) / f"{name}.py"
        path.write_text(text, encoding="utf-8")
        if not _works(name, path, is_right):
            return " (but not kept for later lessons: outside of this notebook it does something else)"
    folder().mkdir(parents=True, exist_ok=True)
    with replacing(file_of(name)) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return f", and kept in {folder().name}/{name}.py"


def _works(name: str, path: Path, is_right: Callable[[Callable[..., Any]], bool]) -> bool:
    try:
        return is_right(load(name, path))
    except Exception:
        return False


def load(name: str, path: Path) -> Callable[..., Any]:
    """The function or class of that name in a file."""
    specification = importlib.util.spec_from_file_location(f"mine_{name}", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    linecache.checkcache(str(path))
    specification.loader.exec_module(module)
    return getattr(module, name)


def is_kept(name: str) -> bool:
    return file_of(name).exists()


def sources(name: str, value: Any) -> Iterator[str]:
    """What a function or class needs, in an order that runs: imports, helpers, and its own source last.

    Raises LookupError, in words for its author, where something cannot be written down.
    """
    function = getattr(value, "fn", value)  # what a Triton kernel was made from
    module = vars(inspect.getmodule(function) or types.ModuleType("")) | _globals(function)
    text = _find(name, function)
    for used in _names(text):
        if used != name and used in module:
            yield from _source_of(used, module[used])
    yield text
    if function.__name__ != name:
        yield f"{name} = {function.__name__}"


def _source_of(name: str, value: Any) -> Iterator[str]:
    own_name, home = getattr(value, "__name__", ""), sys.modules.get(getattr(value, "__module__", None) or "")
    if isinstance(value, types.ModuleType):
        yield f"import {own_name} as {name}" if own_name != name else f"import {name}"
    elif home and home.__name__ != "__main__" and getattr(home, own_name, None) is value:
        yield f"from {home.__name__} import {own_name}" + (f" as {name}" if own_name != name else "")
    elif isinstance(value, int | float | str | bool | None):
        yield f"{name} = {value!r}"
    elif inspect.isfunction(getattr(value, "fn", value)) or inspect.isclass(value):
        yield from sources(name, value)
    else:
        raise LookupError(f"it uses {name}, which is defined elsewhere in the notebook; hand it in or define it inside")


def _globals(value: Any) -> dict[str, Any]:
    return getattr(function_of(value), "__globals__", {})


def function_of(value: Any) -> Any:
    """Returns a function itself, and of a class one of its methods, or None."""
    if inspect.isclass(value):
        methods = [member for member in vars(value).values() if inspect.isfunction(member)]
        return methods[0] if methods else None
    return value


def _find(name: str, value: Any) -> str:
    """The source of a function or class, with its decorators, in the file or cell that it comes from."""
    code = getattr(function_of(value), "__code__", None)
    lines = linecache.getlines(code.co_filename) if code else []
    # The last definition counts: an older attempt may stand above it in the same cell.
    for node in reversed(ast.parse("".join(lines)).body):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == getattr(value, "__name__", name):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            return "".join(lines[first - 1 : node.end_lineno]).rstrip()
    raise LookupError("write it as a function, with def, at the beginning of a line")


def _names(text: str) -> list[str]:
    """The global names that a definition reads."""
    tables, names = [symtable.symtable(text, "", "exec")], []
    for table in tables:
        tables += table.get_children()
        names += [
            symbol.get_name()
            for symbol in table.get_symbols()
            if symbol.is_referenced() and (symbol.is_global() or table.get_type() == "module")
        ]
    return [name for name in dict.fromkeys(names) if not hasattr(builtins, name)]
