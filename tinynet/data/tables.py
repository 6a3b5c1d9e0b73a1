"""Tables with named columns, CSV and Parquet, read in batches of rows by Apache Arrow."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from tinynet import checks
from tinynet.data.columns import Columns
from tinynet.data.dataset import Array
from tinynet.errors import DataFileError

ROWS = 65536  # rows decoded at a time
MOST_CLASSES = 1000  # a target with more distinct values is taken for a mistake
TASKS = ("auto", "classification", "regression")
_EXACT_IN_32 = ("float", "halffloat", "int8", "int16", "uint8", "uint16", "bool")  # Arrow's names
_INDEX = re.compile(r"__index_level_\d+__")  # a pandas index, which pandas does not show as a column either
_CONVERSION = re.compile(r"In CSV column #(\d+): .*?invalid value '(.*)'", re.DOTALL)


class Asked(NamedTuple):
    """What to read from a file.

    Its target (a name, or a path), the task (one of `TASKS`, or None), the columns it must have, of a model or of the
    first shard (``of`` names it), and the columns that are features, or are left out.
    """

    target: Any = None
    task: str | None = None
    columns: Columns | None = None
    of: str = "model"
    features: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()


class Table(NamedTuple):
    """Column names, their Arrow types, and the rows as record batches."""

    path: Path
    names: list[str]
    types: list[Any]
    batches: Iterable[Any]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Inside, any error of a parser becomes a `DataFileError` of one line that names the file."""
    try:
        yield
    except (DataFileError, KeyboardInterrupt):
        raise
    except ImportError as e:
        raise DataFileError(f"{path}: {e.name} is needed for this kind of file: install the extra files") from None
    except Exception as e:  # the parsers of five libraries raise a dozen types
        if isinstance(e, OSError) and e.filename is not None:
            raise
        line = next(iter(str(e).splitlines()), "") or type(e).__name__
        raise DataFileError(f"{path}: cannot be read: {line}") from None


# Opening --------------------------------------------------------------------------------------------------------------


@contextmanager
def open_parquet(path: Path, columns: Sequence[str] | None = None) -> Iterator[Table]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, page_checksum_verification=True) as f:
        schema = f.schema_arrow
        present = None if columns is None else [name for name in columns if name in schema.names]
        yield Table(path, schema.names, schema.types, f.iter_batches(ROWS, columns=present))


class Header(NamedTuple):
    """The first line of a CSV file: column names and the delimiter (comma, semicolon or tab)."""

    names: list[str]
    delimiter: str


def header(path: Path, f: BinaryIO) -> Header:
    """Read the first line of ``f``."""
    raw = f.readline(2**20)
    if b"\0" in raw:
        raise DataFileError(f"{path}: is not text in UTF-8: save the file in that encoding")
    line = raw.decode("utf-8-sig", "replace").rstrip("\r\n")
    if line.count('"') % 2:
        raise DataFileError(f"{path}: a name in its first line has a line break: give each column a name of one line")
    delimiter = max(",;\t", key=line.count)
    names = next(csv.reader([line], delimiter=delimiter), [])
    if not names:
        raise DataFileError(f"{path}: is empty: expected a first line with the names of columns")
    once(path, names)
    return Header(names, delimiter)


def open_csv(path: Path, f: BinaryIO, head: Header, types: dict[str, Any]) -> Table:
    """The rows of ``f`` after its header.

    Columns in ``types`` have the Arrow types given there; the types of others are inferred from the first rows. Only
    empty fields are missing values.
    """
    import pyarrow as pa

    try:
        reader = _csv_reader(f, head, types)
    except pa.ArrowInvalid as e:
        if "Empty CSV" in str(e):
            raise DataFileError(f"{path}: has no rows") from None
        raise _conversion_error(path, head, types, 0, e) from None

    def batches() -> Iterator[Any]:
        rows = 0
        try:
            for batch in reader:
                yield batch
                rows += batch.num_rows
        except pa.ArrowInvalid as e:
            raise _conversion_error(path, head, types, rows, e) from None

    return Table(path, reader.schema.names, reader.schema.types, batches())


def _csv_reader(f: BinaryIO, head: Header, types: dict[str, Any], only: list[str] | None = None) -> Any:
    from pyarrow import csv

    return csv.open_csv(
        f,
        read_options=csv.ReadOptions(column_names=head.names),
        parse_options=csv.ParseOptions(delimiter=head.delimiter),
        convert_options=csv.ConvertOptions(
            column_types=types, null_values=[""], strings_can_be_null=True, include_columns=only
        ),
    )


def _conversion_error(path: Path, head: Header, types: dict[str, Any], rows_read: int, e: Exception) -> Exception:
    """Arrow reports column and value; the row is found by reading the file again, if that is possible."""
    import pyarrow as pa
    import pyarrow.compute as pc

    match = _CONVERSION.match(str(e))
    if match is None:
        return e
    name, value = head.names[int(match[1])], match[2]
    where = f"a row from {rows_read} on"
    with suppress(OSError, pa.ArrowInvalid), open(path, "rb") as f:
        f.readline()
        row = 0
        for batch in _csv_reader(f, head, {name: pa.string()}, [name]):
            place = pc.index(batch.column(0), value).as_py()
            if place >= 0:
                where = f"row {row + place}"
                break
            row += batch.num_rows
    kind = "number" if name in types else "value like those before"
    return DataFileError(
        f"{path}: column {name!r} has {checks.shown(value)} in {where}, which is no {kind}: fix or drop it, or "
        "exclude the column"
    )


# Which columns --------------------------------------------------------------------------------------------------------


def once(path: Path, names: Sequence[str]) -> None:
    """DataFileError if a name occurs twice."""
    duplicate = next((name for n, name in enumerate(names) if name in names[:n]), None)
    if duplicate is not None:
        raise DataFileError(f"{path}: has two columns {duplicate!r}")


def targets(path: Path, names: Sequence[str], asked: Asked) -> list[str]:
    """The target columns: those asked for, else the model's, else ``y`` or ``target``, or all of ``y0``, ``y1``, …"""
    once(path, names)
    target = asked.target
    if target is None and asked.columns:
        return demand(path, names, asked.columns.target, asked.of)
    if target is not None:
        found = [name for name in names if name == str(target)]
    else:
        found = [name for name in ("y", "target") if name in names][:1]
        found = found or [name for name in names if name[:1] == "y" and name[1:].isdecimal()]
    if not found:
        sought = "y or target" if target is None else repr(str(target))
        raise DataFileError(f"{path}: has no column {sought}: name the target, out of {checks.listed(names)}")
    return found


def features(path: Path, names: Sequence[str], target: Sequence[str], asked: Asked) -> list[str]:
    """The feature columns: those asked for, else the model's, else all but target, weight and pandas index."""
    for name in (*(asked.features or ()), *asked.exclude):
        if name not in names:
            raise DataFileError(f"{path}: has no column {name!r} to use or exclude: it has {checks.listed(names)}")
        if name in target:
            raise DataFileError(f"{path}: column {name!r} is the target: name other features, or another target")
    if asked.features is not None:
        found = list(asked.features)
    elif asked.columns:
        found = demand(path, names, asked.columns.features, asked.of)
    else:
        left = (*target, "weight", *asked.exclude)
        found = [name for name in names if name not in left and not _INDEX.fullmatch(name)]
    if not found:
        raise DataFileError(f"{path}: has no features beside {', '.join(target)}")
    return found


def demand(path: Path, names: Sequence[str], wanted: Sequence[str], of: str = "model") -> list[str]:
    """``wanted``, all of which must be among ``names``."""
    for name in wanted:
        if name not in names:
            wants = "the model wants" if of == "model" else f"{of} has"
            raise DataFileError(f"{path}: has no column {name!r}, which {wants}: it has {checks.listed(names)}")
    return list(wanted)


# Decoding -------------------------------------------------------------------------------------------------------------


def csv_types(names: Sequence[str], target: Sequence[str], used: Sequence[str], asked: Asked) -> dict[str, Any]:
    """Arrow types of the columns of a CSV file.

    Features are floating-point, whatever the first rows look like; the type of a target that may be labels is inferred;
    unused columns are read as text, which any value is.
    """
    import pyarrow as pa

    numbers = set(used) | ({"weight"} - set(asked.exclude))
    types = {name: pa.float64() if name in numbers else pa.string() for name in names if name not in target}
    task, classes = asked.task, asked.columns.classes if asked.columns else None
    if task == "regression":
        types |= {name: pa.float64() for name in target}
    elif task == "classification" or (classes and not (all(map(_whole, classes)) or {"false", "true"} >= set(classes))):
        types |= {name: pa.string() for name in target}
    return types


def _whole(name: str) -> bool:
    """Whether ``name`` is an integer as Python writes it."""
    with suppress(ValueError):
        return str(int(name)) == name
    return False


def decode(table: Table, asked: Asked, scratch: Path) -> tuple[dict[str, Array], Columns]:
    """Write the columns to scratch files and map them: X (n, features), y, and weight (n,) if there is one.

    y is (n,) int64 for labels, (n, o) float64 otherwise.
    """
    import pyarrow as pa

    path, names, task, columns = table.path, table.names, asked.task, asked.columns
    target = targets(path, names, asked)
    used = features(path, names, target, asked)
    kinds = dict(zip(names, table.types, strict=True))
    for name in used:
        check_numeric(path, name, kinds[name])
    kind = kinds[target[0]]
    for name in target:
        if pa.types.is_null(kinds[name]):
            raise DataFileError(f"{path}: column {name!r} has no value in any row")
        if pa.types.is_binary(kinds[name]):
            raise DataFileError(f"{path}: column {name!r} is not text in UTF-8: save the file in that encoding")
    text = str(kind) in ("string", "large_string", "string_view") or pa.types.is_dictionary(kind)
    integer = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    known = columns.classes if columns else None
    named = len(target) == 1 and task != "regression"  # whether labels are the indices of class names
    named = named and (known is not None or text or task == "classification" or (task == "auto" and integer))
    for name in target:
        if not named:
            check_numeric(path, name, kinds[name], "regression" if task == "regression" else "")
    labels = named or (len(target) == 1 and integer and task != "regression")
    exact = all(str(kinds[name]) in _EXACT_IN_32 for name in used)
    x_dtype = np.dtype(np.float32 if exact else np.float64)
    parts = {"X": (used, x_dtype), "y": (target, np.dtype(np.int64) if labels else np.dtype(np.float64))}
    if "weight" in names and "weight" not in (*target, *used, *asked.exclude):
        parts["weight"] = ["weight"], np.dtype(np.float64)
    classes = _Classes(path, target[0], known, mixed=task == "classification")
    n = 0
    files = {name: open(scratch / name, "wb") for name in parts}  # noqa: SIM115 - several, closed below
    try:
        for batch in table.batches:
            for name, (of, dtype) in parts.items():
                if name == "y" and named:
                    files[name].write(classes.labels(batch.column(target[0]), n).tobytes())
                else:
                    files[name].write(side_by_side(path, batch, of, dtype, n).tobytes())
            n += batch.num_rows
    finally:
        for f in files.values():
            f.close()
    if n == 0:
        raise DataFileError(f"{path}: has no rows")
    arrays = {}
    for name, (of, dtype) in parts.items():
        shape = (n,) if name == "weight" or (name == "y" and labels) else (n, len(of))
        arrays[name] = np.memmap(scratch / name, dtype, "r+" if name == "y" and named else "r", 0, shape)
    if named and known is None:
        classes.sort(arrays["y"])
    return arrays, Columns(tuple(used), tuple(target), tuple(classes.numbers) if named else None)


def check_numeric(path: Path, name: str, kind: Any, task: str = "") -> None:
    """DataFileError unless a column of the Arrow type ``kind`` holds numbers."""
    import pyarrow as pa

    if pa.types.is_null(kind):
        raise DataFileError(f"{path}: column {name!r} has no value in any row")
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        remedy = f"it cannot be the target of a {task}" if task else "exclude it, or make it numbers"
        raise DataFileError(f"{path}: column {name!r} of type {kind} is not numeric: {remedy}")


class _Classes:
    """The values of a target column as labels, numbered in order of appearance, or as a model numbers them."""

    def __init__(self, path: Path, name: str, known: tuple[str, ...] | None, mixed: bool) -> None:
        self.path, self.name, self.known, self.mixed = path, name, known, mixed
        self.numbers = {} if known is None else {value: label for label, value in enumerate(known)}

    def labels(self, column: Any, first: int) -> Array:
        """Labels (n,) int64 of a column of a record batch whose first row is row ``first`` of the file."""
        import pyarrow as pa

        column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        if column.null_count:
            gap = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0]
            raise DataFileError(
                f"{self.path}: column {self.name!r} has no value in row {first + int(gap)}: fill or drop it"
            )
        coded = column.cast(pa.string()).dictionary_encode()
        places = coded.indices.to_numpy(zero_copy_only=False)
        values = coded.dictionary.to_pylist()
        for place, value in enumerate(values):
            if value not in self.numbers:
                if self.known is not None:
                    row = first + int(np.argmax(places == place))
                    raise DataFileError(
                        f"{self.path}: column {self.name!r} has the class {checks.shown(value)} in row {row}, which the "
                        f"model has not seen: it knows {checks.listed(self.known)}"
                    )
                self.numbers[value] = len(self.numbers)
        if self.known is None and len(self.numbers) > MOST_CLASSES:
            raise DataFileError(
                f"{self.path}: column {self.name!r} has more than {MOST_CLASSES} different values, too many for "
                "classes: if they are numbers, the task is regression"
            )
        return np.asarray([self.numbers[value] for value in values], np.int64)[places]

    def sort(self, y: Array) -> None:
        """Renumber the classes in the order of their names, or of their values if they are integers; y in place."""
        names = in_order(self.path, self.name, list(self.numbers), self.mixed)
        recode(y, list(self.numbers), names)
        self.numbers = {name: label for label, name in enumerate(names)}


def in_order(path: Path, column: str, names: Sequence[str], mixed: bool) -> list[str]:
    """Class names in the order of their labels; ``mixed`` allows numbers beside text."""
    numbers = [name for name in names if _number(name)]
    if numbers and len(numbers) < len(names) and not mixed:
        text = next(name for name in names if name not in numbers)
        raise DataFileError(
            f"{path}: column {column!r} mixes numbers and text, as {numbers[0]!r} and {text!r}: fix it, or "
            "say that the task is classification"
        )
    return sorted(names, key=(lambda name: (int(name), name)) if all(map(_whole, names)) else None)


def recode(y: Array, names: Sequence[str], new: Sequence[str]) -> None:
    """Map labels y (n,), indices into ``names``, to indices into ``new``, in place; ``new`` contains all names."""
    labels = {name: label for label, name in enumerate(new)}
    table = np.asarray([labels[name] for name in names], np.int64)
    for start in range(0, len(y), 2**20):
        y[start : start + 2**20] = table[y[start : start + 2**20]]


def _number(text: str) -> bool:
    with suppress(ValueError):
        float(text)
        return True
    return False


def side_by_side(path: Path, batch: Any, names: Sequence[str], dtype: Any, first: int) -> Array:
    """Columns of a record batch side by side, (n, len(names)), without gaps; its first row is row ``first``."""
    out = np.empty((batch.num_rows, len(names)), dtype)
    for j, name in enumerate(names):
        column = batch.column(name)
        gap = column.null_count and np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0]
        if not column.null_count:
            out[:, j] = column.to_numpy(zero_copy_only=False)
            if dtype.kind == "f" and not np.isfinite(out[:, j]).all():
                gap = np.flatnonzero(~np.isfinite(out[:, j]))[0]
            else:
                continue
        raise DataFileError(f"{path}: column {name!r} has no finite number in row {first + int(gap)}: fill or drop it")
    return out
