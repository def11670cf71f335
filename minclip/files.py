"""Writing files so that nothing is lost: each is written beside its target, then renamed over it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it is renamed to `path` on success and removed on an error.

    A reader, or a run that is killed, therefore sees the old file or the new one and never half of one.
    """
    path = Path(path)
    # The process id in the name lets two processes write the same file. The suffix stays, because writers look at it.
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
