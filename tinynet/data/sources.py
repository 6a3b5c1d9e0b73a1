"""Data in files, and data that comes in batches.

Whatever its format, a file becomes arrays that are mapped into memory, so that a global shuffle costs the same for all:
in place if the format stores numbers contiguously, else decoded once, in pieces, to a scratch file that lives as long
as the data set.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import weakref
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from tinynet_backends import Backend

from tinynet import checks
from tinynet.data import tables
from tinynet.data.arrays import Arrays
from tinynet.data.columns import Columns
from tinynet.data.dataset import Array, Batch, Dataset, Index
from tinynet.data.tables import ROWS, TASKS, Asked, reading
from tinynet.errors import DataFileError


def as_dataset(data: Any) -> Dataset:
    """A `Dataset` unchanged; (X, y) or (X, y, weight) as `Arrays`; a path, or a list of paths, as `read` reads it.

    Examples
    --------
    >>> tn.data.as_dataset(([[0.0], [1.0]], [0, 1]))
    Arrays(X (2, 1), y (2,), on numpy)
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, (str, PathLike)):
        return read(data)
    if isinstance(data, (list, tuple)) and data and all(isinstance(part, (str, PathLike)) for part in data):
        return read(data)
    if isinstance(data, (tuple, list)) and len(data) in (2, 3):
        return Arrays(*data)
    raise TypeError(
        f"data {type(data).__name__} is not understood: give a data set, a path, or a tuple (X, y) or (X, y, weight)"
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
    """The data set in a file, or in several files that are its shards, in order.

    - ``.npz``: arrays ``X`` and ``y``, optionally ``weight``; ``.h5`` and ``.hdf5``: data sets of these names.
    - ``.npy``: a table whose last column is the target (labels if the dtype is integer), or X alone, with ``target``
      the path of y.
    - ``.parquet``, ``.csv``: columns of numbers. ``target`` names the target column (by default ``y`` or ``target``, or
      all of ``y0``, ``y1``, …), a column ``weight`` has sample weights, the others are features in their order: all but
      those in ``exclude`` and an unnamed pandas index, or only those in ``features``. Further shards have these columns
      in any order.

    Integer targets are labels, and text in a table is classes, numbered in the order of their names. With ``task``
    "regression" a target is always numeric; with "classification" the distinct values of a table's target are its
    classes (with "auto" too unless the column is floating-point), and whole numbers of any type in another file are
    labels. ``columns`` are those of a model: the table is then read with its features in its order, and its
    classes. ``data.columns`` has what was found.

    Resident memory stays below about twice `arrays.RELEASE` (256 MiB), however large the file. Raises `DataFileError`,
    which names the file and what is wrong with it; OSError if the file does not exist.
    """
    if task is not None and task not in TASKS:
        raise ValueError(f"unknown task {task!r}: choose from {', '.join(TASKS)}")
    for name, given in (("features", features), ("exclude", exclude)):
        if isinstance(given, str):
            raise TypeError(f"{name} {given!r} is one name: give a list of names")
    if features is not None and exclude:
        raise ValueError("features and exclude are two ways to say which columns are used: give one of them")
    chosen = None if features is None else tuple(dict.fromkeys(features))
    asked = Asked(target, task, columns, "model", chosen, tuple(exclude))
    if isinstance(path, (str, PathLike)):
        return _read(Path(path), asked)
    if not isinstance(path, (list, tuple)) or not path or not all(isinstance(p, (str, PathLike)) for p in path):
        raise TypeError(f"path {checks.shown(path)} is none: give a path, or a list of those of shards")
    return _shards([Path(part) for part in path], asked)


def _shards(paths: list[Path], asked: Asked) -> Dataset:
    """Files, concatenated; the classes of tables are those of all of them together."""
    if len(paths) == 1:
        return _read(paths[0], asked)
    parts = [_read(paths[0], asked)]
    known = parts[0].columns
    if known is not None and asked.columns is None:  # the same columns in the same order
        asked = asked._replace(columns=replace(known, classes=None), of=str(paths[0]), features=None)
    parts += [_read(path, asked) for path in paths[1:]]
    names = dict.fromkeys(name for part in parts for name in _class_names(part) or ())
    if known is not None and all(map(_class_names, parts)):
        of_all = tables.in_order(paths[0], known.target[0], list(names), asked.task == "classification")
        for part in parts:
            own = _class_names(part)
            if isinstance(part, _File) and part.columns and own and list(own) != of_all:
                tables.recode(part.y, own, of_all)
                part.columns, part.classes = replace(part.columns, classes=tuple(of_all)), len(of_all)
    return Concatenated(parts)


def _read(path: Path, asked: Asked) -> Dataset:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataFileError(f"{path}: unknown kind of file: choose from {', '.join(_READERS)}")
    if not stat.S_ISREG(path.stat().st_mode):
        raise DataFileError(f"{path}: not a regular file")
    if (asked.features is not None or asked.exclude) and path.suffix.lower() not in _TABLES:
        raise DataFileError(f"{path}: its columns have no names: features and exclude are for {' and '.join(_TABLES)}")
    with reading(path):
        data: Dataset = reader(path, asked)
        return data


class _File(Arrays):
    """`Arrays` mapped from a file; scratch files are deleted with the data set."""

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
        except (ValueError, TypeError) as e:
            raise DataFileError(f"{path}: {e}") from None
        if self.classes is not None:
            try:
                self._demand(self.y, lambda y: y >= 0, "y has a negative label")
                if columns and columns.classes:
                    self.classes = len(columns.classes)
            except ValueError as e:
                raise DataFileError(f"{path}: {e}") from None

    def rows(self, index: Index, ops: Backend, dtype: str) -> Batch:
        try:
            return super().rows(index, ops, dtype)
        except ValueError as e:
            raise DataFileError(f"{self.path}: {e}") from None

    def __repr__(self) -> str:
        return f"{str(self.path)!r} (X {tuple(self.x.shape)}, y {tuple(self.y.shape)})"


# Flat files -----------------------------------------------------------------------------------------------------------


def _for_task(path: Path, y: Array, task: str | None) -> Array:
    """Targets in the form that ``task`` needs: integer labels (n,), or numbers (n, o)."""
    if task == "classification" and y.ndim == 1 and y.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # NaN and infinities, which are no labels either
            whole = y.astype(np.int64)
        wrong = np.flatnonzero(whole != y)
        if len(wrong):
            raise DataFileError(f"{path}: y is {y[wrong[0]]} in row {wrong[0]}, which is no label: give whole numbers")
        y = whole
    integer = y.dtype.kind in "biu"
    if task == "classification" and not (integer and y.ndim == 1):
        raise DataFileError(f"{path}: y {y.dtype} {y.shape} is no target of a classification: give whole numbers (n,)")
    return y.reshape(-1, 1) if y.ndim == 1 and (task == "regression" or not integer) else y


def npy_array(path: str | PathLike[str]) -> Array:
    """The array in an .npy file, mapped."""
    with open(path, "rb") as f:
        if f.read(6) != b"\x93NUMPY":
            raise DataFileError(f"{path}: not an .npy file")
    with np.errstate(over="ignore"):  # a header may name any size
        return np.load(path, mmap_mode="r", allow_pickle=False)


def _npy(path: Path, asked: Asked) -> Dataset:
    table = npy_array(path)
    if asked.target is not None:
        with reading(Path(asked.target)):
            y = npy_array(asked.target)
        return _File(path, table, _for_task(path, y, asked.task))
    if table.ndim != 2 or table.shape[1] < 2:
        raise DataFileError(f"{path}: {table.shape} is not a table with a target: give two columns, or target='y.npy'")
    return _File(path, table[:, :-1], _for_task(path, table[:, -1], asked.task))


def _npz(path: Path, asked: Asked) -> Dataset:
    with scratch_folder() as scratch:
        with zipfile.ZipFile(path) as z:
            arrays = npz_arrays(path, z, scratch, ("X", "y"), ("weight",))
        y = _for_task(path, arrays["y"], asked.task)
        return _File(path, arrays["X"], y, arrays.get("weight"), scratch)


def npz_arrays(
    path: Path, z: zipfile.ZipFile, scratch: Path, required: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, Array]:
    """Arrays of an .npz by name, X also stored as x: `DataFileError` if a required one is missing."""
    members = {info.filename: info for info in z.infolist()}
    arrays = {}
    for name in (*required, *optional):
        info = members.get(f"{name}.npy", members.get("x.npy") if name == "X" else None)
        if info is not None:
            arrays[name] = _member(path, z, info, scratch / f"{name}.bin")
        elif name in required:
            raise DataFileError(f"{path}: has no array {name!r}, but {', '.join(sorted(members)) or 'nothing'}")
    return arrays


def _member(path: Path, z: zipfile.ZipFile, info: zipfile.ZipInfo, scratch: Path) -> Array:
    """An array of an .npz: mapped in place if it is stored uncompressed, else inflated to ``scratch``."""
    with z.open(info) as f:
        shape, fortran, dtype = _npy_header(path, info.filename, f)
        size = dtype.itemsize * int(np.prod(shape, dtype=object))
        header = f.tell()
        if header + size != info.file_size:
            raise DataFileError(f"{path}: {info.filename} has {info.file_size - header} bytes: expected {size}")
        if size == 0:
            return np.empty(shape, dtype)
        stored = info.compress_type == zipfile.ZIP_STORED
        if not stored:
            _demand_room(path, size, scratch.parent)
        # read to its end either way: the checksum is verified there
        with open(os.devnull if stored else scratch, "wb") as out:
            while block := f.read(2**20):
                out.write(block)
        if not stored:
            return np.memmap(scratch, dtype, "r", 0, shape, "F" if fortran else "C")
    with open(path, "rb") as f:
        f.seek(info.header_offset + 26)
        lengths = f.read(4)
    start = info.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
    return np.memmap(path, dtype, "r", start + header, shape, "F" if fortran else "C")


def _npy_header(path: Path, name: str, f: Any) -> tuple[tuple[int, ...], bool, Any]:
    version = np.lib.format.read_magic(f)
    if version not in ((1, 0), (2, 0)):
        raise DataFileError(f"{path}: {name} has version {version} of the .npy format: expected (1, 0) or (2, 0)")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(f)
    if dtype.hasobject:
        raise DataFileError(f"{path}: {name} holds Python objects, which are not read: store numbers")
    return shape, fortran, dtype


def _demand_room(path: Path, size: int, folder: Path) -> None:
    """DataFileError unless the disk has room for ``size`` bytes: a small compressed file may decode to any size."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise DataFileError(
            f"{path}: decoded it takes {size} bytes, and {folder.parent} has room for {free}: set TMPDIR to a folder "
            "on a larger disk"
        )


def _hdf5(path: Path, asked: Asked) -> Dataset:
    import h5py

    with scratch_folder() as scratch:
        with h5py.File(path, "r") as f:
            found, arrays = data_sets(f), {}
            for name, spellings in (("X", ("X", "x")), ("y", ("y",)), ("weight", ("weight",))):
                data = next((found[s] for s in spellings if s in found), None)
                if data is not None:
                    arrays[name] = _hdf5_array(path, data, scratch / f"{name}.bin")
            for name in ("X", "y"):
                if name not in arrays:
                    raise DataFileError(f"{path}: has no data set {name!r}, but {', '.join(found) or 'nothing'}")
        return _File(path, arrays["X"], _for_task(path, arrays["y"], asked.task), arrays.get("weight"), scratch)


def data_sets(f: Any) -> dict[str, Any]:
    """The arrays at the root of an open HDF5 file, by name: no groups, null dataspaces or broken links."""
    import h5py

    entries = {name: f.get(name) for name in f}
    return {name: data for name, data in entries.items() if isinstance(data, h5py.Dataset) and data.shape is not None}


def _hdf5_array(path: Path, data: Any, scratch: Path) -> Array:
    """A data set of HDF5: mapped in place if it is contiguous in the file, else decoded to ``scratch``."""
    if data.dtype.hasobject or data.dtype.kind not in "biuf":
        raise DataFileError(f"{path}: {data.name} of dtype {data.dtype} is not numeric: store numbers")
    if data.size == 0:
        return np.empty(data.shape, data.dtype)
    offset = data.id.get_offset() if data.chunks is None and not data.external else None
    if offset is not None and offset + data.nbytes <= os.path.getsize(path):
        return np.memmap(path, data.dtype, "r", offset, data.shape)
    _demand_room(path, data.nbytes, scratch.parent)
    rows = max(1, ROWS * data.shape[0] // max(data.size, 1))
    with open(scratch, "wb") as out:
        for start in range(0, data.shape[0], rows):
            out.write(np.ascontiguousarray(data[start : start + rows]).tobytes())
    return np.memmap(scratch, data.dtype, "r", 0, data.shape)


# Tables ---------------------------------------------------------------------------------------------------------------


def _parquet(path: Path, asked: Asked) -> Dataset:
    with tables.open_parquet(path) as table:
        return _table(table, asked)


def _csv(path: Path, asked: Asked) -> Dataset:
    with open(path, "rb") as f:
        head = tables.header(path, f)
        target = tables.targets(path, head.names, asked)
        used = tables.features(path, head.names, target, asked)
        return _table(tables.open_csv(path, f, head, tables.csv_types(head.names, target, used, asked)), asked)


def _table(table: tables.Table, asked: Asked) -> Dataset:
    with scratch_folder() as scratch:
        arrays, columns = tables.decode(table, asked, scratch)
        return _File(table.path, arrays["X"], arrays["y"], arrays.get("weight"), scratch, columns)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder to decode a file into, deleted if that fails."""
    folder = Path(tempfile.mkdtemp(prefix="tinynet-"))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


_READERS = {".npy": _npy, ".npz": _npz, ".h5": _hdf5, ".hdf5": _hdf5, ".parquet": _parquet, ".csv": _csv}
KINDS = tuple(_READERS)
_TABLES = (".csv", ".parquet")  # whose columns have names


# Several sources ------------------------------------------------------------------------------------------------------


class Concatenated(Dataset):
    """Data sets of the same shape and kind of target, concatenated."""

    def __init__(self, parts: Sequence[Dataset]) -> None:
        if not parts:
            raise ValueError("no shards: give at least one")
        first = parts[0]
        for part in parts[1:]:
            if part.shape != first.shape or (part.classes is None) != (first.classes is None):
                raise ValueError(f"{part!r} does not continue {first!r}: shapes or kinds of target differ")
            if _class_names(part) != _class_names(first):
                raise ValueError(f"{part!r} does not continue {first!r}: the classes that their targets name differ")
            if part.outputs != first.outputs:
                raise ValueError(f"{part!r} does not continue {first!r}: numbers of outputs differ")
        self.parts = list(parts)
        self.shape, self.outputs, self.columns = first.shape, first.outputs, first.columns
        self.classes = max(part.classes or 0 for part in parts) or None
        self.ordered, self.stored = any(p.ordered for p in parts), any(p.stored for p in parts)
        self.on_host = all(p.on_host for p in parts)
        self.ends = np.cumsum([part.n for part in parts], dtype=np.int64)
        self.n = int(self.ends[-1])

    def __repr__(self) -> str:
        return f"Concatenated({self.parts!r})"

    def fingerprint(self) -> str:
        return f"Concatenated({', '.join(part.fingerprint() for part in self.parts)})"

    def rows(self, index: Index, ops: Backend, dtype: str) -> Batch:
        xp = ops.xp
        if isinstance(index, range):
            pieces, back = [], None
            for part, end in zip(self.parts, self.ends.tolist(), strict=True):
                start, stop = max(index.start, end - part.n), min(index.stop, end)
                if start < stop:
                    pieces.append(part.rows(range(start - end + part.n, stop - end + part.n), ops, dtype))
        else:
            which = np.searchsorted(self.ends, index, side="right")
            order = np.argsort(which, kind="stable")
            back = ops.asarray(np.argsort(order, kind="stable"))
            pieces = []
            for i in np.unique(which).tolist():
                part, end = self.parts[i], int(self.ends[i])
                pieces.append(part.rows(index[which == i] - (end - part.n), ops, dtype))
        if not pieces:
            return self.parts[0].rows(range(0), ops, dtype)

        def join(arrays: list[Array]) -> Array:
            whole = arrays[0] if len(arrays) == 1 else xp.concat(arrays, axis=0)
            return whole if back is None else xp.take(whole, back, axis=0)

        weights = [
            xp.ones((p.x.shape[0],), dtype=p.x.dtype, device=ops.device) if p.weight is None else p.weight
            for p in pieces
        ]
        weighted = any(p.weight is not None for p in pieces)
        return Batch(join([p.x for p in pieces]), join([p.y for p in pieces]), join(weights) if weighted else None)

    def check(self, check: Any, ops: Backend) -> None:
        for part in self.parts:
            part.check(check, ops)


def _class_names(data: Dataset) -> tuple[str, ...] | None:
    return data.columns.classes if data.columns else None


class Batches:
    """Batches (x, y) or (x, y, weight) from an iterator, or from an iterable such as a list or a data loader.

    ``steps`` is the number of batches per epoch; it may be omitted if ``source`` has a length. An iterator continues in
    the next epoch; any other iterable starts anew. Batches come in order, so such a run cannot be resumed or shuffled:
    give a data set or a path for that.

    Examples
    --------
    >>> batches = tn.data.Batches([([[0.0], [1.0]], [0, 1]), ([[2.0], [3.0]], [1, 1])])
    >>> len(batches)
    2
    """

    def __init__(self, source: Iterable[Any], *, steps: int | None = None) -> None:
        try:
            self._again = iter(source) is not source
        except TypeError:
            text = checks.shown(source)
            raise TypeError(f"batches {text} cannot be gone through: give a list or an iterator of (x, y)") from None
        if steps is None:
            if not (self._again and hasattr(source, "__len__")):
                raise ValueError("an iterator has no length: say how many steps an epoch has, Batches(source, steps=…)")
            steps = len(source)  # type: ignore[arg-type]
        self.steps_per_epoch = checks.positive("Batches steps", steps)
        self._source, self._iterator, self._next = source, iter(source), 0
        self._first: Arrays | None = self._take()
        self.data: Dataset = self._first
        self.batch_size = self.data.n

    def __len__(self) -> int:
        """Steps per epoch."""
        return self.steps_per_epoch

    def __repr__(self) -> str:
        return f"Batches({type(self._source).__name__}, steps={self.steps_per_epoch})"

    def fingerprint(self) -> str:
        return f"Batches of {self.data.fingerprint()}"

    def _take(self) -> Arrays:
        try:
            batch = next(self._iterator)
        except StopIteration:
            if self._next == 0:
                raise ValueError("the source of batches is empty: give at least one") from None
            raise ValueError(
                f"the source of batches ended after {self._next}, and an epoch has {self.steps_per_epoch}: "
                "say how many with steps=…"
            ) from None
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            raise TypeError(f"a batch is (x, y) or (x, y, weight), not {type(batch).__name__}")
        return Arrays(*(_host(a) for a in batch))

    def batch(self, step: int, ops: Backend, dtype: str) -> Batch:
        if step != self._next:
            raise ValueError(
                f"batches that are handed in cannot go to step {step} (the next is {self._next}): "
                "give a data set or a path, which can"
            )
        if self._first is not None:
            data, self._first = self._first, None
        else:
            if self._again and step % self.steps_per_epoch == 0:
                self._iterator = iter(self._source)
            data = self._take()
        if data.shape != self.data.shape or data.outputs != self.data.outputs:
            raise ValueError(f"batch {step} is {data!r}, and the first was {self.data!r}: shapes or targets differ")
        self._next += 1
        return data.rows(range(data.n), ops, dtype)


def _host(a: Any) -> Any:
    """CPU arrays of other libraries, such as a data loader's tensors, as NumPy arrays."""
    if isinstance(a, np.ndarray) or not hasattr(a, "__dlpack__"):
        return a
    return np.asarray(a)
