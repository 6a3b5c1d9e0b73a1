"""A data set whose arrays are mapped from a file, and what its readers share: scratch files and errors."""

from __future__ import annotations

import errno
import shutil
import stat
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinynet_backends.errors import first_line

from tinynet.data.arrays import Arrays
from tinynet.data.columns import Columns
from tinynet.errors import DataFileError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a disk, a quota, or the largest file that is allowed


class MappedFile(Arrays):
    """`Arrays` mapped from the file ``path``, or from files in ``scratch``, a folder that is deleted with the data set.

    Errors are `DataFileError` and name the file. A pickle has its path and how it was read, which is done again.
    """

    request: Any  # how it was read: see `tables.Request`
    _error = DataFileError

    def __init__(
        self,
        path: Path,
        x: Any,
        y: Any,
        weight: Any = None,
        scratch: Path | None = None,
        columns: Columns | None = None,
    ) -> None:
        self.path, self.columns = path, columns
        if scratch is not None:
            weakref.finalize(self, shutil.rmtree, scratch, ignore_errors=True)
        try:
            super().__init__(x, y, weight)
            if self.classes is not None:
                self._check_all(self.y, lambda y: y >= 0, "y has a negative label, and classes are numbered from 0")
        except (ValueError, TypeError) as e:
            raise DataFileError(f"{path}: {e}") from None
        if self._float32_error:
            self._float32_error = f"{path}: {self._float32_error}"
        if columns is not None and columns.classes:
            self.classes = len(columns.classes)  # also classes of which it has no sample

    def __reduce__(self) -> tuple[Any, ...]:
        from tinynet.data.reading import read_again

        # labels are numbered as here, perhaps by the classes of several files
        request = self.request._replace(columns=self.columns)
        if self.columns is None and request.target is not None:  # which is a file, too
            request = request._replace(target=Path(request.target).absolute())
        return read_again, (self.path.absolute(), request, self.fingerprint())

    def __repr__(self) -> str:
        return f"{str(self.path)!r} (X {tuple(self.x.shape)}, y {tuple(self.y.shape)})"


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Within the block any error of a parser becomes a `DataFileError` of one line that names the file."""
    try:
        yield
    except (DataFileError, KeyboardInterrupt):
        raise
    except ImportError as e:
        raise DataFileError(f"{path}: {e.name} is needed for this kind of file: install the extra files") from None
    except Exception as e:  # the parsers of five libraries raise a dozen types
        if isinstance(e, OSError) and e.filename is not None:
            raise
        raise DataFileError(f"{path}: cannot be read: {first_line(e)}") from None


def check_regular_file(path: Path) -> None:
    """DataFileError for a folder, or a pipe or device, of which reading might not end; OSError if there is nothing."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise DataFileError(f"{path}: not a regular file")


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder to decode a file into, deleted if that fails; else it is the data set's (`MappedFile`)."""
    folder = Path(tempfile.mkdtemp(prefix="tinynet-"))
    try:
        yield folder
    except BaseException as e:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(e, OSError) and e.errno in _FULL:
            raise OSError(
                e.errno, f"{e.strerror}: set TMPDIR to a folder on a larger disk", str(folder.parent)
            ) from None
        raise


def check_disk_space(path: Path, size: int, folder: Path) -> None:
    """DataFileError unless the disk has room for ``size`` bytes: a small compressed file may decode to any size."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise DataFileError(
            f"{path}: decoded it takes {size} bytes, and {folder.parent} has room for {free}: set TMPDIR to a folder "
            "on a larger disk"
        )
