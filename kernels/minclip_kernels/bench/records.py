"""What was measured, in a CSV that is added to line by line, with the environment beside it as JSON.

A measurement is the same as another one if KEY agrees: then it is not made again. The version of our own rows is a
checksum of the sources, so that a changed kernel is measured anew and a changed README is not.
"""

import csv
import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from minclip_kernels.bench.peers import Contender, version

KEY = ["loss", "dtype", "N", "D", "contender", "version", "device", "threads", "torch", "triton"]
TIMES = ["forward_ms", "backward_ms", "both_ms", "lowest_ms", "highest_ms", "rounds"]
COLUMNS = [*KEY, *TIMES, "memory_mb", "flops", "tflops", "of_floor", "gate", "result", "commit", "date"]

Row = dict[str, str]
PACKAGE = Path(__file__).parents[1]


def key(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in KEY)


def read(path: Path) -> list[Row]:
    """The rows of a CSV file; a last line that was cut off is left out. No file, no rows.

    Raises ValueError when it has other columns than COLUMNS.
    """
    lines = _whole_lines(path).decode().splitlines()
    if lines and lines[0].split(",") != COLUMNS:
        raise ValueError(f"{path} is no table of this benchmark, its columns differ: choose another file with --out")
    return list(csv.DictReader(lines))


def append(path: Path, rows: Iterable[Row]) -> None:
    """Adds rows at the end, so that whatever happens later they are there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = _whole_lines(path)
    with path.open("r+" if path.exists() else "w", newline="", encoding="utf-8") as file:
        file.truncate(len(whole))
        file.seek(0, os.SEEK_END)
        writer = csv.DictWriter(file, COLUMNS)
        if not whole:
            writer.writeheader()
        writer.writerows(rows)


def _whole_lines(path: Path) -> bytes:
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Written beside and renamed: an old file or a new one, never half of one."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


# --- environment ------------------------------------------------------------------------------------------------------


@cache
def environment(device: str) -> Row:
    """Device, threads and versions as they stand in every row."""
    return {
        "device": device_name(device),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "triton": version("triton"),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
    }


def describe(device: str, packages: Iterable[str]) -> dict[str, Any]:
    """The environment at length: also Python, the system, the driver and each peer's version."""
    driver = {}
    if device != "cpu":
        total = torch.cuda.get_device_properties(device).total_memory
        driver = {"driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")}
        driver |= {"cuda": torch.version.cuda, "hip": torch.version.hip, "memory_gb": round(total / 1e9, 1)}
    versions = {package: version(package) for package in sorted(set(packages)) if version(package)}
    system = {"python": platform.python_version(), "system": platform.platform()}
    return {**environment(device), **driver, **system, "packages": versions}


def device_name(device: str) -> str:
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model} ({os.cpu_count()} cores)"


@cache
def commit() -> str:
    """The commit of the sources, with "+" where they were changed since; "" for an installed package."""
    if not _output("git", "-C", str(PACKAGE), "ls-files", "__init__.py"):
        return ""
    changed = _output("git", "-C", str(PACKAGE), "status", "--porcelain", "--", str(PACKAGE))
    return _output("git", "-C", str(PACKAGE), "rev-parse", "--short", "HEAD") + ("+" if changed else "")


@cache
def our_version() -> str:
    """A checksum of the sources of the kernels."""
    sources = sorted(PACKAGE.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:8]


def version_of(contender: Contender) -> str:
    return our_version() if contender.is_ours else version(contender.package)


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
