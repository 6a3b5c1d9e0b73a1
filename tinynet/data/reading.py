"""How files are read: which reader reads what.

Whatever its format, a file becomes arrays that are mapped into memory, so that a global shuffle costs the same for all:
in place if the format stores numbers contiguously, else decoded once, in pieces, to a scratch file that lives as long
as the data set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from tinynet import checks
from tinynet.data.array_files import read_hdf5, read_npy, read_npz
from tinynet.data.class_labels import recode, sorted_names
from tinynet.data.columns import Columns
from tinynet.data.concatenated import Concatenated, class_names
from tinynet.data.dataset import Dataset
from tinynet.data.mapped import MappedFile, check_regular_file, file_errors
from tinynet.data.table_files import read_csv, read_parquet
from tinynet.data.tables import TASKS, Request
from tinynet.errors import DataFileError

_READERS = {
    ".npy": read_npy, ".npz": read_npz, ".h5": read_hdf5, ".hdf5": read_hdf5,
    ".parquet": read_parquet, ".csv": read_csv, ".tsv": read_csv,
}  # fmt: skip
TABLES = (".csv", ".tsv", ".parquet")  # whose columns have names
KINDS = tuple(_READERS)


def read_files(
    path: Any,
    target: str | PathLike[str] | None,
    task: str | None,
    columns: Columns | None,
    features: Sequence[str] | None,
    exclude: Sequence[str],
) -> Dataset:
    """What `sources.read` promises."""
    if task is not None and task not in TASKS:
        raise ValueError(f"unknown task {task!r}: choose from {', '.join(TASKS)}")
    for name, given in (("features", features), ("exclude", exclude)):
        if isinstance(given, str):
            raise TypeError(f"{name} {given!r} is one name: give a list of names")
    if not isinstance(columns, Columns | None):
        raise TypeError(f"columns {checks.short_repr(columns)} are not Columns: give those of a model, model.columns")
    if features is not None and exclude:
        raise ValueError("features and exclude are two ways to say which columns are used: give one of them")
    chosen = None if features is None else tuple(dict.fromkeys(features))
    request = Request(target, task, columns, "model", chosen, tuple(exclude))
    paths = [path] if isinstance(path, (str, PathLike)) else path
    if not isinstance(paths, (list, tuple)) or not paths or not all(isinstance(p, (str, PathLike)) for p in paths):
        raise TypeError(f"path {checks.short_repr(path)} is not a path: give one, or a list of the paths of shards")
    return _shards([*map(Path, paths)], request)


def _shards(paths: list[Path], request: Request) -> Dataset:
    """Files, concatenated; the classes of tables are those of all of them together."""
    if len(paths) == 1:
        return _read(paths[0], request)
    if request.target is not None and any(path.suffix.lower() == ".npy" for path in paths):
        raise DataFileError(
            f"{request.target}: one file of targets for {len(paths)} files: store X and y of each as .npz"
        )
    parts = [_read(paths[0], request)]
    known = parts[0].columns
    if known is not None and request.columns is None:  # the same columns in the same order
        request = request._replace(columns=replace(known, classes=None), of=str(paths[0]))
    parts += [_read(path, request) for path in paths[1:]]
    names = dict.fromkeys(name for part in parts for name in class_names(part) or ())
    if known is not None and all(map(class_names, parts)):
        of_all = sorted_names(paths[0], known.target[0], list(names), request.task == "classification")
        for part in parts:
            own = class_names(part)
            if part.columns and own and list(own) != of_all:
                recode(part.y, own, of_all)
                part.columns, part.classes = replace(part.columns, classes=tuple(of_all)), len(of_all)
    return Concatenated(parts)


def _read(path: Path, request: Request) -> MappedFile:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataFileError(f"{path}: unknown kind of file: choose from {', '.join(_READERS)}")
    check_regular_file(path)
    if (request.features is not None or request.exclude) and path.suffix.lower() not in TABLES:
        raise DataFileError(f"{path}: its columns have no names: features and exclude are for {checks.listed(TABLES)}")
    if request.target is not None and path.suffix.lower() in (".npz", ".h5", ".hdf5"):
        raise DataFileError(f"{path}: its target is the array named y: leave out target {str(request.target)!r}")
    with file_errors(path):
        data: MappedFile = reader(path, request)
    data.request = request
    return data


def read_again(path: Path, request: Request, fingerprint: str) -> MappedFile:
    """What `read` made of a file; DataFileError if its contents are no longer those that had this fingerprint."""
    data = _read(path, request)
    if data.fingerprint() != fingerprint:
        raise DataFileError(f"{path}: has changed since the data set was pickled: read it again")
    return data
