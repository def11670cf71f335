"""Whether pictures are kept in memory or streamed from their files."""

import os
from dataclasses import dataclass
from pathlib import Path

from minclip.images import Preprocess


@dataclass(frozen=True)
class Reading:
    """How to read pictures: in memory if they need no more than `memory` bytes, otherwise streamed by `workers`.

    Without `memory`, half of what is free now decides; the pixels are the same either way.
    """

    memory: int | None = None
    workers: int = min(4, os.cpu_count() or 1)

    def __post_init__(self) -> None:
        if self.memory is not None and self.memory < 0:
            raise ValueError(f"memory is {self.memory}; it must be at least 0")
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}; it must be at least 0")

    def keeps_in_memory(self, needed: int) -> bool:
        return needed <= self._allowed()

    def describe(self, count: int, preprocess: Preprocess) -> str:
        """A line that says how much memory `count` pictures need, and whether they are kept there or streamed."""
        needed, allowed = memory_needed(count, preprocess), self._allowed()
        way = "all are kept there" if needed <= allowed else f"they are streamed from disk ({self.workers} workers)"
        size = f"{count:,} pictures of {preprocess.resolution} pixels need {in_words(needed)} of memory"
        return f"{size}; {in_words(allowed)} may be used, so {way}"

    def _allowed(self) -> int:
        # Each process of this machine that torchrun started has pictures of its own.
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        return available_memory() // 2 // processes if self.memory is None else self.memory


def memory_needed(count: int, preprocess: Preprocess) -> int:
    """The bytes of `count` pictures in memory."""
    return count * 3 * preprocess.resolution**2


def in_words(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def available_memory() -> int:
    """The bytes that may still be used: by Linux's account and the container's; elsewhere half of all memory, or 4 GB.

    Sources: proc(5), MemAvailable; the kernel's cgroup-v2.rst, memory.max.
    """
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        except (AttributeError, ValueError, OSError):
            return 4 * 10**9
    return min(free, _free_in_container(Path("/sys/fs/cgroup")) or free)


def _free_in_container(folder: Path) -> int | None:
    """What the limit of a container leaves; None without a limit."""
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        cached = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())["inactive_file"]
        return None if limit == "max" else max(0, int(limit) - int(used) + int(cached))
    except (OSError, KeyError, ValueError):
        return None
