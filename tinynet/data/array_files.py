"""Files of arrays: .npy, .npz and HDF5."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from tinynet.checks import listed
from tinynet.data.dataset import Array
from tinynet.data.mapped import MappedFile, check_disk_space, check_regular_file, file_errors, scratch_folder
from tinynet.data.tables import Request
from tinynet.errors import DataFileError
from tinynet.pieces import split_range

_BLOCK = 2**20  # numbers of HDF5 decoded at a time, or those of a chunk if it has more


def _for_task(path: Path, y: Array, task: str | None) -> Array:
    """Targets in the form that ``task`` needs: integer labels (n,), or numbers (n, o)."""
    if task == "classification" and y.shape[1:] == (1,):
        y = y[:, 0]
    if task == "classification" and y.ndim == 1 and y.dtype.kind == "f":
        y = _labels(path, y)
    integer = y.dtype.kind in "biu"
    if task == "classification" and not (integer and y.ndim == 1):
        raise DataFileError(
            f"{path}: y {y.dtype} {y.shape} is not a target for classification: give whole numbers (n,)"
        )
    return y.reshape(-1, 1) if y.ndim == 1 and (task == "regression" or not integer) else y


def _labels(path: Path, y: Array) -> Array:
    """Labels y (n,) of a floating-point type as int64."""
    with np.errstate(invalid="ignore"):  # NaN and infinities, which are no labels either
        labels = y.astype(np.int64)
    wrong = np.flatnonzero(labels != y)
    if len(wrong):
        raise DataFileError(f"{path}: y is {y[wrong[0]]} in row {wrong[0]}, which is not a label: give whole numbers")
    return labels


def npy_array(path: str | PathLike[str]) -> Array:
    """The array in an .npy file, mapped."""
    with open(path, "rb") as f:
        if f.read(6) != b"\x93NUMPY":
            raise DataFileError(f"{path}: not an .npy file")
    with np.errstate(over="ignore"):  # a header may name any size
        return np.load(path, mmap_mode="r", allow_pickle=False)


def write_npy_header(f: Any, dtype: Any, shape: tuple[int, ...]) -> None:
    """Write the header of an .npy file, which has one length for any number of rows, so that it can be overwritten later."""
    about = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(f, about)


def read_npy(path: Path, request: Request) -> MappedFile:
    table = npy_array(path)
    if request.target is not None:
        check_regular_file(Path(request.target))
        with file_errors(Path(request.target)):
            y = npy_array(request.target)
        return MappedFile(path, table, _for_task(path, y, request.task))
    if table.ndim != 2 or table.shape[1] < 2:
        remedy = "give two columns" + ", or target='y.npy'" * (table.ndim > 1)
        raise DataFileError(f"{path}: {table.shape} is not a table with a target: {remedy}")
    return MappedFile(path, table[:, :-1], _for_task(path, table[:, -1], request.task))


def read_npz(path: Path, request: Request) -> MappedFile:
    with scratch_folder() as scratch:
        with zipfile.ZipFile(path) as z:
            arrays = npz_arrays(path, z, scratch, ("X", "y"), ("weight",))
        y = _for_task(path, arrays["y"], request.task)
        return MappedFile(path, arrays["X"], y, arrays.get("weight"), scratch)


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
            there = ", ".join(sorted(member.removesuffix(".npy") for member in members)) or "nothing"
            raise DataFileError(f"{path}: has no array {name!r}, but {there}: store it under that name")
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
            check_disk_space(path, size, scratch.parent)
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


def read_hdf5(path: Path, request: Request) -> MappedFile:
    import h5py

    with scratch_folder() as scratch:
        with h5py.File(path, "r") as f:
            found, arrays = data_sets(f), {}
            for name, spellings in (("X", ("X", "x")), ("y", ("y",)), ("weight", ("weight",))):
                data = next((found[s] for s in spellings if s in found), None)
                if data is not None:
                    arrays[name] = hdf5_array(path, data, scratch / f"{name}.bin")
            for name in ("X", "y"):
                if name not in arrays:
                    raise DataFileError(
                        f"{path}: has no data set {name!r}, but {names_in(f)}: store X and y, or give its data sets as "
                        "arrays, (file['a'], file['b'])"
                    )
        return MappedFile(path, arrays["X"], _for_task(path, arrays["y"], request.task), arrays.get("weight"), scratch)


def data_sets(f: Any) -> dict[str, Any]:
    """The arrays at the root of an open HDF5 file, by name: no groups, null dataspaces or broken links."""
    import h5py

    entries = {name: f.get(name) for name in f}
    return {name: data for name, data in entries.items() if isinstance(data, h5py.Dataset) and data.shape is not None}


def names_in(f: Any) -> str:
    """The names of the data sets of an open HDF5 file, also of those in groups, for an error."""
    names = list(data_sets(f))
    f.visititems(lambda name, item: names.append(name) if "/" in name and hasattr(item, "dtype") else None)
    return listed(names) or "nothing"


def hdf5_array(path: Path, data: Any, scratch: Path) -> Array:
    """A data set of HDF5: mapped in place if it is contiguous in the file as NumPy has it, else decoded to ``scratch``."""
    import h5py

    if data.dtype.hasobject or data.dtype.kind not in "biuf":
        raise DataFileError(f"{path}: {data.name} of dtype {data.dtype} is not numeric: store numbers")
    if data.size == 0:
        return np.empty(data.shape, data.dtype)
    # it is not with bfloat16, or with 12 bits in 16
    as_is = data.id.get_type() == h5py.h5t.py_create(data.dtype, logical=True)
    offset = data.id.get_offset() if as_is and data.chunks is None and not data.external else None
    file = data.file.filename  # another file if the link is external
    if offset is not None and offset + data.nbytes <= os.path.getsize(file):
        return np.memmap(file, data.dtype, "r", offset, data.shape)
    check_disk_space(path, data.nbytes, scratch.parent)
    with open(scratch, "wb") as out:
        if hasattr(os, "posix_fallocate"):  # writing to a map on a full disk kills the process
            os.posix_fallocate(out.fileno(), 0, data.nbytes)
        else:
            out.truncate(data.nbytes)
    for rows, *others in _blocks(data):
        start = rows.start * (data.nbytes // data.shape[0])
        piece = np.memmap(scratch, data.dtype, "r+", start, (rows.stop - rows.start, *data.shape[1:]))
        piece[:, *others] = data[rows, *others]
    return np.memmap(scratch, data.dtype, "r", 0, data.shape)


def _blocks(data: Any) -> Iterator[tuple[slice, ...]]:
    """Blocks of whole chunks that cover a data set of HDF5: a part of a chunk takes as long to decode as all of it."""
    block = [min(sizes) for sizes in zip(data.chunks or (1,) * data.ndim, data.shape, strict=True)]
    for axis in reversed(range(data.ndim)):
        block[axis] = min(block[axis] * max(1, _BLOCK // prod(block)), data.shape[axis])
    for ranges in product(*map(split_range, map(range, data.shape), block)):
        yield tuple(slice(r.start, r.stop) for r in ranges)
