"""Inputs without targets, read in pieces from a file of any size or a pipe."""

from __future__ import annotations

import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tinynet import checks
from tinynet.data import arrow, csv_table, tables
from tinynet.data.array_files import data_sets, hdf5_array, names_in, npy_array, npz_arrays
from tinynet.data.columns import Columns
from tinynet.data.dataset import Array, Shape
from tinynet.data.mapped import check_regular_file, file_errors
from tinynet.data.reading import KINDS, TABLES
from tinynet.errors import DataFileError
from tinynet.pieces import split_range

_PIECE = 2**21  # numbers read at a time
PIPE = "-"


def read_inputs(path: str, shape: Shape, columns: Columns | None = None, dtype: str = "float64") -> Iterator[Array]:
    """The rows of a file, or of CSV on standard input for ``"-"``, as arrays (m, *shape), in constant memory.

    Of a table, the columns that ``columns`` names, in any order; without names, all but targets (``y``, ``target``,
    ``y0``, …), ``weight`` and a pandas index. An .npy file is X; .npz and .h5 have an array ``X``. ``dtype`` is the
    model's: a number that is infinite in it is an error. Raises `DataFileError`, which names the file and, for a value,
    row and column; OSError if the file does not exist.
    """
    place = Path("standard input" if path == PIPE else path)
    suffix = ".csv" if path == PIPE else place.suffix.lower()
    if suffix not in KINDS:
        raise DataFileError(f"{path}: unknown kind of file: choose from {', '.join(KINDS)}, or - for CSV on a pipe")
    if path != PIPE:
        check_regular_file(place)
    if path == PIPE and sys.stdin is None:
        raise DataFileError("standard input: is closed")
    row = 0
    with file_errors(place):
        table = suffix in TABLES
        pieces = _of_table(place, suffix, path == PIPE, shape, columns) if table else _of_arrays(place, suffix, shape)
        for x in pieces:
            _check_finite(place, x, row, "is NaN or infinite", "fill or drop it")
            with np.errstate(over="ignore"):
                numbers = np.asarray(x, dtype)
            _check_finite(place, numbers, row, f"is too large for {dtype}", "scale it")
            yield x
            row += len(x)
        if row == 0:
            raise DataFileError(f"{place}: has no rows")


def _check_finite(path: Path, x: Array, first: int, claim: str, remedy: str) -> None:
    finite = np.isfinite(x.reshape(len(x), -1)).all(axis=1)
    if not finite.all():
        row = first + int(np.argmin(finite))
        raise DataFileError(f"{path}: X has a value that {claim} in row {row}: {remedy}")


# Tables ---------------------------------------------------------------------------------------------------------------


def _of_table(path: Path, suffix: str, pipe: bool, shape: Shape, columns: Columns | None) -> Iterator[Array]:
    if len(shape) != 1:
        raise DataFileError(f"{path}: a table holds rows of features, and the model wants samples of shape {shape}")
    if suffix == ".parquet":
        with tables.open_parquet(path) as table:
            yield from _rows(table, _features(path, table.names, shape, columns))
        return
    import pyarrow as pa

    with nullcontext(sys.stdin.buffer) if pipe else open(path, "rb") as f:
        header = csv_table.read_header(path, f)
        wanted = _features(path, header.names, shape, columns)
        types = dict.fromkeys(header.names, pa.binary()) | dict.fromkeys(wanted, pa.float64())
        yield from _rows(csv_table.open_csv(path, f, header, types), wanted)


def _features(path: Path, names: Sequence[str], shape: Shape, columns: Columns | None) -> list[str]:
    tables.check_unique(path, names)
    if columns is not None:
        return tables.require(path, names, columns.features)
    try:
        target = tables.target_columns(path, names, tables.Request())
    except DataFileError:
        target = []
    found = tables.feature_columns(path, names, target, tables.Request())
    if (len(found),) != shape:
        raise DataFileError(
            f"{path}: has {len(found)} features ({checks.listed(found)}), and the model wants {shape[0]}"
        )
    return found


def _rows(table: tables.Table, wanted: list[str]) -> Iterator[Array]:
    kinds = dict(zip(table.names, table.types, strict=True))
    tables.check_all_numeric(table.path, {name: kinds[name] for name in wanted}, may_exclude=False)
    row = 0
    for batch in table.batches(wanted):
        yield arrow.stack_columns(table.path, batch, wanted, np.dtype(np.float64), row)
        row += batch.num_rows


# Arrays ---------------------------------------------------------------------------------------------------------------


def _of_arrays(path: Path, suffix: str, shape: Shape) -> Iterator[Array]:
    if suffix == ".npy":
        yield from _pieces(path, npy_array(path), shape)
        return
    # Windows does not delete a file that is still mapped: what is left of the folder is then the system's to remove
    with tempfile.TemporaryDirectory(prefix="tinynet-", ignore_cleanup_errors=True) as scratch:
        if suffix == ".npz":
            with zipfile.ZipFile(path) as z:
                yield from _pieces(path, npz_arrays(path, z, Path(scratch), ("X",))["X"], shape)
            return
        import h5py

        with h5py.File(path, "r") as f:
            found = data_sets(f)
            x = found.get("X", found.get("x"))
            if x is None:
                raise DataFileError(f"{path}: has no data set 'X', but {names_in(f)}: store rows as X")
            _check(path, x, shape)
            chunk = x.chunks[0] if x.chunks else 1
            if chunk > _PIECE // prod(shape):  # every piece would decode it anew
                x, chunk = hdf5_array(path, x, Path(scratch, "X.bin")), 1
            yield from _pieces(path, x, shape, chunk)


def _check(path: Path, x: Any, shape: Shape) -> None:
    if x.dtype.kind not in "biuf":
        raise DataFileError(f"{path}: X of dtype {x.dtype} is not numeric: store numbers")
    if x.ndim < 2 or tuple(x.shape[1:]) != shape:
        raise DataFileError(f"{path}: X {tuple(x.shape)} does not fit the model: expected {checks.batch_shape(shape)}")


def _pieces(path: Path, x: Any, shape: Shape, chunk: int = 1) -> Iterator[Array]:
    """The rows of ``x``, in pieces of whole chunks."""
    _check(path, x, shape)
    size = max(1, _PIECE // prod(shape) // chunk) * chunk
    file = x.filename if isinstance(x, np.memmap) and x.flags.c_contiguous and x.size else None
    for rows in split_range(range(x.shape[0]), size):
        if file is not None:  # a map of its own, so that the pages of a piece are released with it
            offset = x.offset + rows.start * x.strides[0]
            yield np.asarray(np.memmap(file, x.dtype, "r", offset, (len(rows), *shape)))
        else:
            yield np.asarray(x[rows.start : rows.stop])
