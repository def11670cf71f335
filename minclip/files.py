"""Writing files so that nothing is lost: each is written beside its target, then renamed over it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


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
    """Remove what a process that was killed while writing has left under `folder`."""
    for path in folder.rglob(".*.*"):
        if path.name.split(".")[1].isdigit():
            path.unlink()


def _flush(path: Path) -> None:
    """Flush a file to the disk, so that a power cut after the renaming cannot leave it empty."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def check_new(path: str | Path) -> None:
    """Raise FileExistsError if there is something at `path`, FileNotFoundError if it has no folder to be in."""
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} already exists, and nothing is overwritten: choose another name")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: there is no folder {path.absolute().parent}")


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; it is renamed to `path` on success and removed on an error.

    Raises what `check_new` raises.
    """
    check_new(path)
    path = Path(path).absolute()
    with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as temporary:
        folder = Path(temporary) / path.name
        folder.mkdir()
        yield folder
        os.rename(folder, path)
