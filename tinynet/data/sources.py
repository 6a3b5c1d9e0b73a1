"""Data in any form as a data set; files are read and written by modules that are imported when one is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

from tinynet_backends import Backend, get_backend, use_backend

from tinynet import checks
from tinynet.data.arrays import Arrays
from tinynet.data.columns import Columns, check_order
from tinynet.data.dataset import Dataset


def as_dataset(data: Any, ops: Backend | None = None, columns: Columns | None = None) -> Dataset:
    """A data set from any of the forms that `fit` takes.

    A `Dataset` is returned unchanged, (X, y) or (X, y, weight) become `Arrays`, and a path or a list of paths is read with
    `read`. Arrays are NumPy's, or of the library of ``ops``, by default the current backend. ``columns`` are those of a
    model: a file is then read with its features and classes in their order; ValueError if other data have theirs in
    another order. TypeError for anything else.

    Examples
    --------
    >>> tn.data.as_dataset(([[0.0], [1.0]], [0, 1]))
    Arrays(X (2, 1), y (2,), on numpy)
    """
    if isinstance(data, Dataset):
        if type(data).batch is not Dataset.batch:
            raise TypeError(
                f"{type(data).__name__}.batch is not what training calls: write it as rows(index, ops, dtype)"
            )
        check_order(data.columns, columns)
        if not isinstance(getattr(data, "shape", None), tuple):
            found = checks.short_repr(getattr(data, "shape", None))
            raise TypeError(f"{type(data).__name__}.shape {found} is not the shape of a sample: set a tuple, as (3,)")
        return data
    parts = data if isinstance(data, (tuple, list)) else [data]
    if parts and all(isinstance(part, (str, PathLike)) for part in parts):
        return read(data, columns=columns)
    if isinstance(data, (tuple, list)) and len(data) in (2, 3):
        if columns:
            columns.check_frame(data[0])
        with use_backend(ops if ops is not None and ops.owns(data[0]) else get_backend()):
            arrays = Arrays(*data)
        check_order(arrays.columns, columns)
        return arrays
    batches = ", or Batches(…) of what yields them" if hasattr(data, "__iter__") and not hasattr(data, "shape") else ""
    raise TypeError(
        f"data {type(data).__name__} is not understood: give a data set, a path, or a tuple (X, y) or (X, y, weight)"
        f"{batches}"
    )


def read(
    path: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    target: str | PathLike[str] | None = None,
    task: str | None = None,
    columns: Columns | None = None,
    features: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
) -> Dataset:
    """The data set in a file, or in several files that are its shards, in that order.

    - ``.npz``: arrays ``X`` and ``y``, optionally ``weight``. ``.h5`` and ``.hdf5``: data sets of these names.
    - ``.npy``: a table whose last column is the target (labels if the dtype is integer); or X alone, if ``target`` is the
      path of y.
    - ``.parquet``, ``.csv`` and ``.tsv``: columns of numbers. ``target`` names the target column, by default ``y``,
      ``target``, or all of ``y0``, ``y1``, …. A column ``weight`` has sample weights. All other columns are features, in
      their order, except those in ``exclude`` and an index of pandas, which has no name or "Unnamed: 0"; or ``features``
      lists them. Further shards have the same features, in any order.

    Integer targets are labels. Text in the target column of a table is classes, numbered in the order of their names.
    With ``task="regression"`` targets are numbers. With "classification" the distinct values of a table's target are its
    classes, and whole numbers of any dtype in another file are labels. With "auto" a table is treated as with
    "classification" unless its target is floating-point. ``columns`` are those of a model: the table is then read with the
    features and classes of that model, in its order. ``data.columns`` has the names that were found.

    The file is mapped into memory: of all files together, at most about a quarter of the machine's memory, or 512 MiB if
    that is more, is resident, however large they are. `DataFileError`, which names the file and what is wrong with it;
    OSError if the file does not exist.
    """
    from tinynet.data.reading import read_files

    return read_files(path, target, task, columns, features, exclude)


def write(data: Dataset, path: str | PathLike[str], *, progress: Callable[[int], object] = lambda done: None) -> None:
    """Write ``data`` to a file that `read` reads, in pieces; ``progress(done)`` is called with the number of samples written.

    The suffix of ``path`` decides the format: ``.npz`` (X, y), ``.npy`` (a table in float32, the target last, of which
    labels are read with ``task="classification"``), ``.h5`` (X, y), ``.parquet`` or ``.csv`` (with the names of columns and
    classes, else x0, x1, … and y, or y0, y1, …). Features and numeric targets are written in float32, labels in int64.

    ValueError for sample weights, for several targets in an ``.npy``, for samples that are not vectors except in ``.npz`` and
    ``.h5``, for another suffix, and for a feature whose name `read` would take for something else, such as "weight"; OSError
    if the disk has too little space. After an error or Ctrl-C the file is as it was before.

    Examples
    --------
    >>> tn.data.write(tn.data.Friedman1(1000), "friedman.npz")
    >>> len(tn.data.read("friedman.npz"))
    1000
    """
    from tinynet.data.writing import write_file

    write_file(data, path, progress)
