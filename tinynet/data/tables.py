"""Tables with named columns, read in batches of rows by Apache Arrow; which of the columns are features and targets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tinynet import checks
from tinynet.data.columns import Columns
from tinynet.errors import DataFileError

# Rows of Parquet decoded at a time: of a wide table those that have so many numbers, but no fewer than the least, because
# each column takes time in each batch.
ROWS, _NUMBERS, _LEAST_ROWS = 65536, 2**21, 1024
TASKS = ("auto", "classification", "regression")
_BUFFER = 65536  # bytes of a column read at a time
# A pandas index in Parquet and, without a name, in CSV; and the name that pandas gives the latter when it reads it.
_INDEX = re.compile(r"(__index_level_\d+__|Unnamed: \d+)?")


class Request(NamedTuple):
    """What to read from a file, and what it must contain."""

    target: Any = None  # the name of its column, or the path of an array
    task: str | None = None  # one of `TASKS`
    columns: Columns | None = None  # which it must have: those of a model, or of the first shard
    of: str = "model"  # whose those are, for an error
    features: tuple[str, ...] | None = None  # the columns that are features, or all others
    exclude: tuple[str, ...] = ()

    @property
    def may_exclude(self) -> bool:
        """Whether a feature may be left out: a model wants all that it has."""
        return self.columns is None or self.of != "model"

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The classes that the target may have, if they are known."""
        return self.columns.classes if self.columns else None


class Table(NamedTuple):
    """Column names, their Arrow types, and the rows as record batches, which have at least the columns asked for."""

    path: Path
    names: list[str]
    types: list[Any]
    batches: Callable[[Sequence[str]], Iterable[Any]]


@contextmanager
def open_parquet(path: Path) -> Iterator[Table]:
    import pyarrow.parquet as pq

    # by pages: else whole row groups are in memory, and a file may be a single one
    paged: dict[str, Any] = {"pre_buffer": False, "buffer_size": _BUFFER}
    with pq.ParquetFile(path, page_checksum_verification=True, **paged) as f:
        schema = f.schema_arrow

        def batches(columns: Sequence[str]) -> Iterator[Any]:
            rows = min(ROWS, max(_LEAST_ROWS, _NUMBERS // len(columns)))
            yield from f.iter_batches(rows, columns=columns)

        yield Table(path, schema.names, schema.types, batches)


def check_unique(path: Path, names: Sequence[str]) -> None:
    """DataFileError if a name occurs twice; columns without a name are left out."""
    name = checks.repeated([name for name in names if name])
    if name is not None:
        raise DataFileError(f"{path}: has two columns {name!r}: rename one")


def target_columns(path: Path, names: Sequence[str], request: Request) -> list[str]:
    """The target columns: those asked for, else the model's, else ``y`` or ``target``, or all of ``y0``, ``y1``, …"""
    check_unique(path, names)
    target = request.target
    if target is None and request.columns and request.columns.target:
        return require(path, names, request.columns.target, request.of)
    if target is not None:
        found = [name for name in names if name == str(target)]
    else:
        found = [name for name in ("y", "target") if name in names][:1]
        found = found or [name for name in names if name[:1] == "y" and name[1:].isdecimal()]
    if not found:
        sought = "y or target" if target is None else repr(str(target))
        raise DataFileError(f"{path}: has no column {sought}: name the target, out of {checks.listed(names)}")
    return found


def feature_columns(path: Path, names: Sequence[str], target: Sequence[str], request: Request) -> list[str]:
    """The feature columns: those asked for, else the model's, else all but target, weight and pandas index."""
    present = set(names)
    for name in (*(request.features or ()), *request.exclude):
        if name not in present:
            raise DataFileError(f"{path}: has no column {name!r} to use or exclude: it has {checks.listed(names)}")
        if name in target:
            raise DataFileError(f"{path}: column {name!r} is the target: name other features, or another target")
    left_out = {*target, *request.exclude}
    free = [name for name in names if name not in left_out and is_feature(name)]
    if request.features is not None:
        found = list(request.features)
    elif request.columns:
        found = require(path, names, request.columns.features, request.of)
        if both := [name for name in target if name in found]:
            raise DataFileError(
                f"{path}: column {both[0]!r} is the target, and a feature of the {request.of}: name another target"
            )
        known = set(found)
        if request.of != "model" and (more := [name for name in free if name not in known]):
            raise DataFileError(
                f"{path}: has a column {more[0]!r}, which {request.of} has not: drop it, or list the features"
            )
    else:
        found = free
    if not found:
        raise DataFileError(f"{path}: has no features beside {', '.join(target) or checks.listed(names)}")
    return found


def is_feature(name: str) -> bool:
    """Whether a column of this name is a feature unless it is said to be something else: no weight or pandas index."""
    return name != "weight" and not _INDEX.fullmatch(name)


def require(path: Path, names: Sequence[str], wanted: Sequence[str], of: str = "model") -> list[str]:
    """``wanted``, all of which must be among ``names``."""
    present = set(names)
    for name in wanted:
        if name not in present:
            wants = "the model wants" if of == "model" else f"{of} has"
            raise DataFileError(f"{path}: has no column {name!r}, which {wants}: it has {checks.listed(names)}")
    return list(wanted)


def check_numeric(path: Path, name: str, kind: Any, use: str = "feature") -> None:
    """DataFileError unless a column of the Arrow type ``kind`` holds numbers; ``use`` is one of `_REMEDIES`."""
    import pyarrow as pa

    if pa.types.is_null(kind):
        raise DataFileError(f"{path}: column {name!r} has no value in any row{': exclude it' * (use == 'feature')}")
    if not is_numeric(kind):
        raise DataFileError(f"{path}: column {name!r} of type {kind} is not numeric: {_REMEDIES[use]}")


def check_all_numeric(path: Path, kinds: Mapping[str, Any], may_exclude: bool) -> None:
    """DataFileError unless the features, of these Arrow types, hold numbers; it names all that do not."""
    others = [name for name, kind in kinds.items() if not is_numeric(kind)]
    if len(others) > 1:
        remedy = "exclude them, or " * may_exclude + "make them numbers"
        raise DataFileError(f"{path}: columns {checks.listed(others)} are not numeric: {remedy}")
    for name in others:
        check_numeric(path, name, kinds[name], "feature" if may_exclude else "feature of a model")


_REMEDIES = {
    "feature": "exclude it, or make it numbers",
    "feature of a model": "make it numbers",
    "target": "make it numbers, or text, which names classes",
    "target of any task": "make it numbers, or say that the task is classification",
    "target of a regression": "it cannot be the target of a regression",
}


def is_numeric(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind))
