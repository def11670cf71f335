"""What was measured: a CSV of rows, and the environment beside it as JSON.

Two rows stand for the same measurement if they agree in KEY; it is then not repeated. The version
of our own rows is a checksum of the sources, so that a changed kernel is measured again, but not a
changed README.
"""

import ast
import csv
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch

from minclip_kernels.bench.peers import OURS, Contender, Setting

KEY = ["loss", "dtype", "N", "D", "contender", "version", "device", "threads", "torch", "triton"]
TIMES = ["both_ms", "lowest_ms", "highest_ms", "rounds"]
NUMBERS = [*TIMES, "memory_mb", "flops", "tflops", "of_floor"]
COLUMNS = [*KEY, *NUMBERS, "gate", "result", "commit", "date"]
MEASURED = "measured"  # the result of a row, or else why it was not measured
LEAST_ROUNDS = 3  # a row with fewer was interrupted

Row = dict[str, Any]  # by COLUMNS
PACKAGE = Path(__file__).parents[1]


class Results:
    """The rows of one CSV file: read once, and written after every setting."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[tuple[str | int, ...], Row] = {}
        self._keep(read(path))

    def find(self, setting: Setting, contender: Contender) -> Row | None:
        return self.rows.get(key(identify(setting, contender)))

    def add(self, rows: Iterable[Row]) -> None:
        """Keep the rows that are finished and new, and write the file."""
        self._keep(rows)
        with replacing(self.path) as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows.values())

    def _keep(self, rows: Iterable[Row]) -> None:
        for row in rows:
            if row["result"] != MEASURED or (row.get("rounds") or 0) >= LEAST_ROUNDS:
                self.rows.setdefault(key(row), row)


def key(row: Row) -> tuple[str | int, ...]:
    return tuple(row[name] for name in KEY)


def identify(setting: Setting, contender: Contender) -> Row:
    """The part of a row that is known before anything is measured."""
    return {
        **asdict(setting),
        **environment(setting.device),
        "contender": contender.name,
        "version": our_version() if contender.package == OURS else version(contender.package),
        "flops": round(contender.flops(setting), 4),
    }


def read(path: Path) -> list[Row]:
    """The rows of a CSV file, or none if it does not exist. Raises ValueError for other tables."""
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [_parse(line) for line in csv.DictReader(file)]
    except (KeyError, SyntaxError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a table of this benchmark: {error!r}") from error


def _parse(line: dict[str, str]) -> Row:
    """Texts, and numbers or None; columns that are no longer used are ignored."""
    numbers = {
        name: ast.literal_eval(line[name] or "None") for name in (*NUMBERS, "N", "D", "threads")
    }
    return {name: line[name] for name in COLUMNS} | numbers


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that replaces `path` once everything is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@cache
def environment(device: str) -> Row:
    """Device, threads and versions, as every row states them."""
    model = system_field("cpuinfo", "model name") or platform.processor() or platform.machine()
    cpu = f"{model} ({os.cpu_count()} cores)"
    return {
        "device": cpu if device == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "triton": version("triton"),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
    }


def describe(device: str, packages: Iterable[str]) -> dict[str, Any]:
    """The environment at length: also Python, the system, the driver and the peers' versions."""
    return {
        **environment(device),
        "python": platform.python_version(),
        "system": platform.platform(),
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "packages": {package: version(package) for package in sorted(set(packages))},
    }


def system_field(file: str, name: str) -> str | None:
    """A field of a file in Linux's /proc, such as VmHWM of self/status; None where it is absent."""
    try:
        match = re.search(rf"^{name}\s*:\s*(.+)$", Path("/proc", file).read_text(), re.MULTILINE)
    except OSError:
        return None
    return match and match[1]


@cache
def version(package: str) -> str:
    """The installed version of a package, or "" where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


@cache
def our_version() -> str:
    """A checksum of the kernels' sources."""
    sources = b"".join(source.read_bytes() for source in sorted(PACKAGE.glob("*.py")))
    return hashlib.sha256(sources).hexdigest()[:8]


@cache
def commit() -> str:
    """The last commit of the sources, "+" if they have changed; "" for an installed package."""
    git = "git", "-C", str(PACKAGE)
    changed = _output(*git, "status", "--porcelain", "--", ".")
    return _output(*git, "log", "-1", "--format=%h", "--", ".") + ("+" if changed else "")


def _output(*command: str) -> str:
    """What a command prints, or "" where it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
