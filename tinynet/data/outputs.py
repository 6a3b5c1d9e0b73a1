"""Columns written in pieces to a file, or as CSV to a pipe."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tinynet.atomic import replacing
from tinynet.data.array_files import write_npy_header
from tinynet.data.arrow import to_arrow
from tinynet.data.dataset import Array
from tinynet.data.inputs import PIPE

Write = Callable[[list[Array]], object]  # takes columns (m,), side by side


@contextmanager
def output_writer(path: str, names: Sequence[str]) -> Iterator[Write]:
    """A function that writes columns (m,) of these names to ``path``, or as CSV to standard output for ``"-"``.

    The file is .csv, .parquet or .npy. It appears complete when the block ends; an error leaves what was there before.
    An .npy has no names and one dtype: a table (n, columns), or (n,) for one column.
    """
    if path == PIPE:
        with _csv(sys.stdout.buffer, names) as write:
            yield write
        return
    opened = _WRITERS.get(Path(path).suffix.lower())
    if opened is None:
        raise ValueError(f"{path}: unknown kind of file: choose from {', '.join(_WRITERS)}, or - for CSV on a pipe")
    try:
        with replacing(path) as new, open(new, "wb") as f, opened(f, names) as write:
            yield write
    except ImportError as e:
        raise ValueError(f"{path}: {e.name} is needed for this kind of file: install the extra files") from None


@contextmanager
def _csv(f: BinaryIO, names: Sequence[str]) -> Iterator[Write]:
    begun = False

    def write(columns: list[Array]) -> None:
        nonlocal begun
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not begun:  # only now, so that an error in the input is reported before any output
            writer.writerow(names)
            begun = True
        # str of a NumPy scalar is the shortest text that reads as the same number of its type
        writer.writerows(zip(*(a.tolist() if a.dtype.kind in "Ui" else map(str, a) for a in columns), strict=True))
        left = memoryview(text.getvalue().encode())
        while left:  # with PYTHONUNBUFFERED a full disk takes a part, and only the next write is an error
            left = left[f.write(left) :]
        f.flush()

    yield write


@contextmanager
def _parquet(f: BinaryIO, names: Sequence[str]) -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: Any = None

    def write(columns: list[Array]) -> None:
        nonlocal writer
        table = pa.table([to_arrow(a) for a in columns], list(names))
        writer = writer or pq.ParquetWriter(f, table.schema)
        writer.write_table(table)

    yield write
    if writer is not None:
        writer.close()


@contextmanager
def _npy(f: BinaryIO, names: Sequence[str]) -> Iterator[Write]:
    """The header is written again when the number of rows is known."""
    n, dtype = 0, np.dtype(np.float32)

    def header() -> None:
        write_npy_header(f, dtype, (n,) if len(names) == 1 else (n, len(names)))

    def write(columns: list[Array]) -> None:
        nonlocal n, dtype
        table = np.column_stack(columns)
        if n == 0:
            dtype = table.dtype
            header()
        f.write(np.ascontiguousarray(table, dtype).tobytes())
        n += len(table)

    yield write
    f.seek(0)
    header()


_WRITERS: dict[str, Any] = {".csv": _csv, ".parquet": _parquet, ".npy": _npy}
