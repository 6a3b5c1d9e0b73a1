"""Data sets written to files in pieces, completely or not at all."""

from __future__ import annotations

import errno
import os
import zipfile
from collections.abc import Callable, Iterator
from math import prod
from os import PathLike
from pathlib import Path
from shutil import copyfileobj, disk_usage
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from tinynet_backends import get_backend

from tinynet import checks
from tinynet.atomic import replacing
from tinynet.data.array_files import write_npy_header
from tinynet.data.arrow import to_arrow
from tinynet.data.columns import Columns
from tinynet.data.concatenated import class_names
from tinynet.data.dataset import Array, Dataset
from tinynet.data.loader import sample_size
from tinynet.data.reading import TABLES
from tinynet.data.tables import check_unique, is_feature
from tinynet.pieces import split_range

ROWS = 65536  # samples written at a time
_AROUND = 2**14  # bytes, more than HDF5 writes around the numbers


def write_file(data: Dataset, path: str | PathLike[str], progress: Callable[[int], object]) -> None:
    """What `sources.write` promises."""
    if not isinstance(data, Dataset):
        raise TypeError(f"data {type(data).__name__} is not a data set: tinynet.data.as_dataset makes one")
    if not isinstance(path, (str, PathLike)):
        raise TypeError(f"path {checks.short_repr(path)} is not a path: give one that ends in {', '.join(_WRITERS)}")
    path = Path(path)
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise ValueError(f"{path}: unknown kind of file: choose from {', '.join(_WRITERS)}")
    _check_holds(path, data)
    with replacing(path) as new:
        least = 0 if path.suffix.lower() in TABLES else 4 * data.n * sample_size(data)
        if disk_usage(new.parent).free < least:  # said now, not when the disk is full
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            writer(new, data, _pieces(data, progress))
        except ImportError as e:
            raise ValueError(f"{path}: {e.name} is needed for this kind of file: install the extra files") from None


def _check_holds(path: Path, data: Dataset) -> None:
    """ValueError unless ``data`` can be read again from a file of this kind."""
    kind = path.suffix.lower()
    if kind in (*TABLES, ".npy") and len(data.shape) != 1:
        raise ValueError(
            f"{path}: a table holds rows of features, not samples of shape {data.shape}: write .npz or .h5"
        )
    if kind in TABLES:
        features, targets = _columns(data)
        check_unique(path, [*features, *targets])
        if lost := [name for name in features if not is_feature(name)]:
            raise ValueError(f"{path}: a column {lost[0]!r} would not be read as a feature: rename it")
    elif kind == ".npy" and (data.outputs or 1) > 1:  # all but the last would be read as features
        raise ValueError(f"{path}: an .npy has one target, and the data have {data.outputs}: write .npz or .h5")


def _pieces(data: Dataset, progress: Callable[[int], object]) -> Iterator[tuple[Array, Array]]:
    """Pieces of features float32 (n, *shape) and targets int64 (n,) or float32 (n, o)."""
    host = get_backend("numpy")
    for rows in split_range(range(data.n), ROWS):
        x, y, weight = data.rows(rows, host, "float32")
        if weight is not None:
            raise ValueError("sample weights are not written: numpy.savez(path, X=X, y=y, weight=weight) writes them")
        yield x, y
        progress(rows.stop)


def _columns(data: Dataset) -> tuple[list[str], list[str]]:
    """The names of features and of targets."""
    known = data.columns or Columns(tuple(f"x{j}" for j in range(data.shape[0])), ())
    usual = ["y"] if data.classes or data.outputs == 1 else [f"y{j}" for j in range(data.outputs or 1)]
    return list(known.features), list(known.target) or usual


def _npy(path: Path, data: Dataset, pieces: Iterator[tuple[Array, Array]]) -> None:
    with open(path, "wb") as f:
        write_npy_header(f, np.float32, (data.n, data.shape[0] + 1))
        for x, y in pieces:
            f.write(np.column_stack([x, y]).astype(np.float32).tobytes())


def _npz(path: Path, data: Dataset, pieces: Iterator[tuple[Array, Array]]) -> None:
    """Two uncompressed members, so that they can be mapped, one after the other: y waits in a file of its own."""
    dtype, shape = (np.int64, ()) if data.classes else (np.float32, (data.outputs or 1,))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as z, TemporaryFile(dir=path.parent) as targets:
        with z.open("X.npy", "w", force_zip64=True) as f:
            write_npy_header(f, np.float32, (data.n, *data.shape))
            for x, y in pieces:
                f.write(np.ascontiguousarray(x).tobytes())
                targets.write(np.ascontiguousarray(y).tobytes())
        targets.seek(0)
        with z.open("y.npy", "w", force_zip64=True) as f:
            write_npy_header(f, dtype, (data.n, *shape))
            copyfileobj(targets, f)


def _hdf5(path: Path, data: Dataset, pieces: Iterator[tuple[Array, Array]]) -> None:
    import h5py

    y: tuple[Any, Any] = ((), np.dtype(np.int64)) if data.classes else ((data.outputs or 1,), np.dtype(np.float32))
    rows = {"X": (data.shape, np.dtype(np.float32)), "y": y}
    size = data.n * sum(prod(shape) * dtype.itemsize for shape, dtype in rows.values())
    if hasattr(os, "posix_fallocate"):  # free space says nothing of a quota, or of a limit for files
        with open(path, "wb") as f:
            os.posix_fallocate(f.fileno(), 0, size + _AROUND)
    with h5py.File(path, "w") as h:
        places = [_allocate(h, name, (data.n, *shape), dtype) for name, (shape, dtype) in rows.items()]
    with open(path, "rb+") as f:  # not by HDF5, which does not survive a write that fails
        for piece in pieces:
            for number, a in enumerate(piece):
                f.seek(places[number])
                places[number] += f.write(np.ascontiguousarray(a).tobytes())


def _allocate(h: Any, name: str, shape: tuple[int, ...], dtype: Any) -> int:
    """Make room for a data set in an open HDF5 file, in one piece; its place there."""
    import h5py

    low: Any = h5py  # its lower level has no types
    how = low.h5p.create(low.h5p.DATASET_CREATE)
    how.set_alloc_time(low.h5d.ALLOC_TIME_EARLY)
    how.set_fill_time(low.h5d.FILL_TIME_NEVER)
    space, kind = low.h5s.create_simple(shape), low.h5t.py_create(dtype)
    place: int = low.h5d.create(h.id, name.encode(), kind, space, how).get_offset()
    return place


def _batches(data: Dataset, pieces: Iterator[tuple[Array, Array]]) -> tuple[Any, Iterator[Any]]:
    import pyarrow as pa

    features, targets = _columns(data)
    classes = class_names(data)
    names = to_arrow(np.asarray(classes)) if classes else None
    kind = pa.string() if classes else pa.int64() if data.classes else pa.float32()
    schema = pa.schema([*((name, pa.float32()) for name in features), *((name, kind) for name in targets)])

    def batches() -> Iterator[Any]:
        for x, y in pieces:
            columns = [to_arrow(c) for a in (x, y.reshape(len(y), -1)) for c in np.ascontiguousarray(a.T)]
            if names is not None:
                columns[-1] = names.take(columns[-1])
            yield pa.record_batch(columns, schema=schema)

    return schema, batches()


def _parquet(path: Path, data: Dataset, pieces: Iterator[tuple[Array, Array]]) -> None:
    import pyarrow.parquet as pq

    schema, batches = _batches(data, pieces)
    with pq.ParquetWriter(path, schema, write_page_checksum=True) as f:
        for batch in batches:
            f.write_batch(batch)


def _csv(path: Path, data: Dataset, pieces: Iterator[tuple[Array, Array]]) -> None:
    from pyarrow import csv

    schema, batches = _batches(data, pieces)
    with csv.CSVWriter(path, schema) as f:
        for batch in batches:
            f.write_batch(batch)


_WRITERS = {".npy": _npy, ".npz": _npz, ".h5": _hdf5, ".hdf5": _hdf5, ".parquet": _parquet, ".csv": _csv}
