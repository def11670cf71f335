"""Writing files so that nothing is lost: each is written beside its target, then renamed over it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it is renamed to `path` on success and removed on an error.

    A reader, or a run that is killed, therefore sees the old file or the new one and never half of one. An OSError
    names `path`.
    """
    path = Path(path)
    # The process id in the name lets two processes write the same file. The suffix stays, because writers look at it.
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}; nothing was changed", str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_halves(folder: Path) -> None:
    """Remove what a process that was killed while it wrote has left under `folder`."""
    for path in folder.rglob(".*.*"):
        if path.name.split(".")[1].isdigit():
            path.unlink()


def _flush(path: Path) -> None:
    """Bring a file to the disk, so that a power cut after the renaming cannot leave it empty."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
