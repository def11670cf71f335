"""What was measured: a CSV of rows, and the environment beside it as JSON.

Two rows stand for the same measurement if they agree in KEY; it is then not repeated.
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

Row = dict[str, Any]  # by COLUMNS
PACKAGE = Path(__file__).parents[1]


def key(row: Row) -> tuple[Any, ...]:
    """What two rows of the same measurement have in common."""
    return tuple(row[name] for name in KEY)


def write(path: Path, rows: Iterable[Row]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def new_row(setting: Setting, contender: Contender) -> Row:
    """The row of a measurement, with what is known before anything is measured."""
    return {
        **asdict(setting),
        **environment(setting.device),
        "contender": contender.name,
        "version": our_version() if contender.package == OURS else version(contender.package),
        "flops": round(contender.flops(setting), 4),
        "gate": "",
        "result": MEASURED,
    }


def read(path: Path) -> list[Row]:
    """The rows of a CSV file, or none if it does not exist. Raises ValueError for other tables."""
    if not path.exists():
        return []
    numbers = [*NUMBERS, "N", "D", "threads"]
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = [{name: line[name] for name in COLUMNS} for line in csv.DictReader(file)]
            parse = ast.literal_eval
            return [line | {n: parse(line[n] or "None") for n in numbers} for line in lines]
    except (KeyError, SyntaxError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a table of this benchmark: {error!r}") from error


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
def environment(device: str, packages: tuple[str, ...] = (), folder: Path = PACKAGE) -> Row:
    """Device, threads, versions (also of packages), the last commit that changed a folder, date."""
    model = system_field("cpuinfo", "model name") or platform.processor() or platform.machine()
    cpu = f"{model} ({os.cpu_count()} cores)"
    changed = _output("git", "-C", folder, "status", "--porcelain", "--", ".")
    commit = _output("git", "-C", folder, "log", "-1", "--format=%h", "--", ".")
    return {
        "device": cpu if device == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "triton": version("triton"),
        "commit": commit + "+" * bool(changed),
        "date": time.strftime("%Y-%m-%d"),
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


def _output(*command: str | Path) -> str:
    """What a command prints, or "" where it fails, as git does in an installed package."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
