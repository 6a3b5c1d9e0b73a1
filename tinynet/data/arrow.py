"""Apache Arrow's columns as arrays of NumPy's, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinynet.data.dataset import Array
from tinynet.errors import DataFileError


def stack_columns(path: Path, batch: Any, names: Sequence[str], dtype: Any, first: int) -> Array:
    """Columns of a record batch side by side, (n, len(names)), contiguous; its first row is row ``first`` of the file.

    DataFileError if a value is missing, NaN or infinite.
    """
    out = np.empty((batch.num_rows, len(names)), dtype)
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    for j, name in enumerate(names):
        column = columns[name]
        if dtype.kind == "i":  # labels: large unsigned ones must not become negative
            column = column.cast("int64")
        if column.null_count:
            raise _not_finite(path, name, to_numpy(column.is_null()), first)
        out[:, j] = to_numpy(column)
    finite = np.isfinite(out)
    if not finite.all():
        j = int(np.argmin(finite.all(axis=0)))
        raise _not_finite(path, names[j], ~finite[:, j], first)
    return out


def to_numpy(column: Any) -> Array:
    """An Arrow array of numbers as one of NumPy's, with 1 for true and 0 for false; none of them may be missing.

    Arrow's `to_numpy`, like its `array`, imports pandas, where that is installed, for half a second, and what a signal raises
    there is lost.
    """
    import pyarrow as pa

    if pa.types.is_boolean(column.type):
        column = column.cast("uint8")
    if pa.types.is_decimal(column.type):
        column = column.cast("string").cast("float64")  # a cast to numbers directly is not always to the nearest
    return np.from_dlpack(column)


def to_arrow(column: Array) -> Any:
    """A vector of NumPy's numbers, bools or text as an Arrow array."""
    import pyarrow as pa

    if column.dtype.kind == "b":
        return to_arrow(column.view(np.uint8)).cast(pa.bool_())
    if column.dtype.kind == "U":
        text = [value.encode() for value in column.tolist()]
        ends, kind = np.cumsum([0, *map(len, text)], dtype=np.int32), pa.string()
        buffers = [pa.py_buffer(ends), pa.py_buffer(b"".join(text))]
    else:
        kind, buffers = pa.from_numpy_dtype(column.dtype), [pa.py_buffer(np.ascontiguousarray(column))]
    return pa.Array.from_buffers(kind, len(column), [None, *buffers])


def _not_finite(path: Path, name: str, missing: Array, first: int) -> DataFileError:
    row = first + int(np.argmax(missing))
    return DataFileError(f"{path}: column {name!r} has no finite number in row {row}: fill or drop it")
