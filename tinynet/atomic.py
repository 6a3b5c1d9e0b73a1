"""Files that are written whole or not at all: under a temporary name first, then renamed into place."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path


@contextmanager
def naming(path: str | PathLike[str]) -> Iterator[None]:
    """Inside, an OSError that names no file gets ``path``: that of a write to a full disk, for one."""
    try:
        yield
    except OSError as e:
        if e.errno and e.filename is None:
            raise OSError(e.errno, e.strerror, str(path)) from e
        raise


@contextmanager
def replacing(path: str | PathLike[str]) -> Iterator[Path]:
    """An empty temporary file that replaces ``path``, flushed to disk, when the block ends.

    A reader of ``path`` finds the old file or the new one, never a part. The mode follows the umask, as for any new file;
    a symbolic link stays, and what it points to is replaced. An exception leaves the old file, and no temporary one.
    Raises OSError, which names ``path``, if that cannot be written or is not a regular file.
    """
    path = Path(path)
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():  # a device, say, whose place must not be taken
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    # not by `mkstemp`: its mode is another, and the umask, which is the process's, cannot be read without being set
    new = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        new.touch(exist_ok=False)
    except OSError as e:
        raise OSError(e.errno, e.strerror, str(path)) from None
    try:
        yield new
        with open(new, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(new, path)
    except BaseException as e:
        new.unlink(missing_ok=True)
        if isinstance(e, OSError) and e.errno and (e.filename is None or os.fspath(e.filename) == str(new)):
            raise OSError(e.errno, e.strerror, str(path)) from e
        raise
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_atomically(path: str | PathLike[str], content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all."""
    with replacing(path) as new:
        new.write_bytes(content)
