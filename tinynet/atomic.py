"""Files that are written whole or not at all: under a temporary name first, then renamed into place."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path


@contextmanager
def replacing(path: str | PathLike[str]) -> Iterator[Path]:
    """An empty temporary file that replaces ``path``, flushed to disk, when the block ends.

    A reader of ``path`` finds the old file or the new one, never a part. The mode follows the umask, as for any new file.
    An exception leaves the old file, and no temporary one. Raises OSError, which names ``path``, if that cannot be
    written or is not a regular file.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():  # a device, say, whose place must not be taken
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as e:
        raise OSError(e.errno, e.strerror, str(path)) from None
    os.close(handle)
    try:
        yield Path(name)
        with open(name, "rb+") as f:
            os.fsync(f.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except BaseException as e:
        if os.path.exists(name):
            os.unlink(name)
        if isinstance(e, OSError) and e.errno and (e.filename is None or os.fspath(e.filename) == name):
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
