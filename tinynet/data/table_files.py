"""Tables decoded into scratch files, which are mapped: .csv and .parquet."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinynet import checks
from tinynet.data import arrow, csv_table, tables
from tinynet.data.class_labels import ClassLabels, is_integer
from tinynet.data.columns import Columns
from tinynet.data.dataset import Array
from tinynet.data.mapped import MappedFile, scratch_folder
from tinynet.data.tables import Request, Table
from tinynet.errors import DataFileError

_EXACT_IN_32 = ("float", "halffloat", "int8", "int16", "uint8", "uint16", "bool")  # Arrow's names


def read_parquet(path: Path, request: Request) -> MappedFile:
    with tables.open_parquet(path) as table:
        return _decoded(table, request)


def read_csv(path: Path, request: Request) -> MappedFile:
    with open(path, "rb") as f:
        header = csv_table.read_header(path, f)
        target = tables.target_columns(path, header.names, request)
        used = tables.feature_columns(path, header.names, target, request)
        if request.may_exclude:
            header = header._replace(optional=frozenset(header.names).difference(target))
        return _decoded(csv_table.open_csv(path, f, header, _csv_types(header.names, target, used, request)), request)


def _csv_types(names: Sequence[str], target: Sequence[str], used: Sequence[str], request: Request) -> dict[str, Any]:
    """Arrow types of the columns of a CSV file.

    Features are floating-point, whatever the first rows look like; the type of a target that may be labels is inferred;
    unused columns are read as bytes, which any value is.
    """
    import pyarrow as pa

    numbers = set(used) | ({"weight"} - set(request.exclude))
    types = {name: pa.float64() if name in numbers else pa.binary() for name in names if name not in target}
    task, classes = request.task, request.classes
    if task == "regression":
        types |= {name: pa.float64() for name in target}
    elif task == "classification" or (
        classes and not (all(map(is_integer, classes)) or {"false", "true"} >= set(classes))
    ):
        types |= {name: pa.string() for name in target}
    return types


class _Layout(NamedTuple):
    """Which columns become which array, (n, columns) of the dtype."""

    used: list[str]
    x_dtype: Any
    target: list[str]
    y_dtype: Any  # of labels int64, and y is (n,)
    coded: bool  # whether labels are the indices of class names
    weight: list[str]  # none, or one

    @property
    def arrays(self) -> dict[str, tuple[list[str], Any]]:
        found = {"X": (self.used, self.x_dtype), "y": (self.target, self.y_dtype)}
        return found | ({"weight": (self.weight, np.dtype(np.float64))} if self.weight else {})


def _layout(table: Table, request: Request) -> _Layout:
    """Which columns become which array; DataFileError if one is not what it is used as."""
    import pyarrow as pa

    path, task = table.path, request.task
    target = tables.target_columns(path, table.names, request)
    used = tables.feature_columns(path, table.names, target, request)
    kinds = dict(zip(table.names, table.types, strict=True))
    weight = ["weight"] if "weight" in set(kinds) - {*target, *used, *request.exclude} else []
    tables.check_all_numeric(path, {name: kinds[name] for name in (*used, *weight)}, request.may_exclude)
    for name in target:
        if pa.types.is_null(kinds[name]):
            raise DataFileError(f"{path}: column {name!r} has no value in any row")
        if pa.types.is_binary(kinds[name]):
            raise DataFileError(f"{path}: column {name!r} is not text in UTF-8: save the file in that encoding")
    if task == "classification" and len(target) > 1:
        raise DataFileError(f"{path}: classes have one column, and the targets are {checks.listed(target)}: name one")
    kind = kinds[target[0]]
    text = str(kind) in ("string", "large_string", "string_view") or pa.types.is_dictionary(kind)
    integer = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    may_be_labels = len(target) == 1 and task != "regression"
    named = request.classes is not None or text or task == "classification" or (task == "auto" and integer)
    coded = may_be_labels and named
    if not coded or pa.types.is_nested(kind):
        any_task = may_be_labels and request.may_exclude and not pa.types.is_nested(kind)
        use = "target of a regression" if task == "regression" else "target of any task" if any_task else "target"
        for name in target:
            tables.check_numeric(path, name, kinds[name], use)
    exact = all(str(kinds[name]) in _EXACT_IN_32 for name in used)
    labels = coded or (may_be_labels and integer)
    return _Layout(
        used, np.dtype(np.float32 if exact else np.float64), target, np.dtype(np.int64 if labels else np.float64),
        coded, weight,
    )  # fmt: skip


def _decoded(table: Table, request: Request) -> MappedFile:
    """The table as a data set: X (n, features), y (n,) int64 for labels, else (n, o) float64."""
    with scratch_folder() as scratch:
        layout = _layout(table, request)
        classes = ClassLabels(table.path, layout.target[0], request.classes, mixed=request.task == "classification")
        n = _write(table, layout, classes, scratch)
        if n == 0:
            raise DataFileError(f"{table.path}: has no rows")
        arrays = {}
        for name, (columns, dtype) in layout.arrays.items():
            flat = name == "weight" or (name == "y" and dtype.kind == "i")
            mode: Any = "r+" if name == "y" and layout.coded else "r"  # labels may be renumbered
            arrays[name] = np.memmap(scratch / name, dtype, mode, 0, (n,) if flat else (n, len(columns)))
        if layout.coded and request.classes is None:
            classes.sort(arrays["y"])
        names = Columns(tuple(layout.used), tuple(layout.target), tuple(classes.numbers) if layout.coded else None)
        return MappedFile(table.path, arrays["X"], arrays["y"], arrays.get("weight"), scratch, names)


def _write(table: Table, layout: _Layout, classes: ClassLabels, scratch: Path) -> int:
    """Write each array to the file of its name in ``scratch``, row after row; the number of rows."""
    n = 0
    with ExitStack() as stack:
        files = {name: stack.enter_context(open(scratch / name, "wb")) for name in layout.arrays}
        for batch in table.batches([*layout.used, *layout.target, *layout.weight]):
            for name, (columns, dtype) in layout.arrays.items():
                if name == "y" and layout.coded:
                    piece: Array = classes.labels(batch.column(columns[0]), n)
                else:
                    piece = arrow.stack_columns(table.path, batch, columns, dtype, n)
                files[name].write(piece.tobytes())
            n += batch.num_rows
    return n
