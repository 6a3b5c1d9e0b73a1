"""Tables with named columns, CSV and Parquet, read in batches of rows by Apache Arrow."""

from __future__ import annotations

import csv
import io
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
TASKS = ("auto", "classification", "regression")
_INDEX = re.compile(r"(__index_level_\d+__)?")  # of Parquet and, without a name, of CSV: a pandas index
_LONGEST_HEADER = 16 * 2**20
_AHEAD = 2**20  # bytes of a CSV file that tell what its columns are
_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+,\d+\s*")
_CONVERSION = re.compile(r"In CSV column #(\d+): .*?invalid value '(.*)'", re.DOTALL)


class Request(NamedTuple):
    """What to read from a file, and what it must contain."""

    target: Any = None  # the name of its column, or the path of an array
    task: str | None = None  # one of `TASKS`
    columns: Columns | None = None  # which it must have: those of a model, or of the first shard
    of: str = "model"  # whose those are, for an error
    features: tuple[str, ...] | None = None  # the columns that are features, or all others
    exclude: tuple[str, ...] = ()


class Table(NamedTuple):
    """Column names, their Arrow types, and the rows as record batches."""

    path: Path
    names: list[str]
    types: list[Any]
    batches: Iterable[Any]


# Opening --------------------------------------------------------------------------------------------------------------


@contextmanager
def open_parquet(path: Path, columns: Sequence[str] | None = None) -> Iterator[Table]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, page_checksum_verification=True) as f:
        schema = f.schema_arrow
        names = schema.names
        present = None if columns is None else list(set(columns) & set(names))
        yield Table(path, names, schema.types, f.iter_batches(ROWS, columns=present))


class Header(NamedTuple):
    """The first line of a CSV file: column names and the delimiter (comma, semicolon or tab)."""

    names: list[str]
    delimiter: str


def read_header(path: Path, f: BinaryIO) -> Header:
    """Read the first line of ``f`` that is not empty."""
    raw = b"\n"
    while raw and not raw.strip():
        raw = f.readline(_LONGEST_HEADER)
    try:
        line = raw.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        line = "\0"
    if "\0" in line:
        raise DataFileError(f"{path}: is not text in UTF-8: save the file in that encoding")
    if len(raw) == _LONGEST_HEADER:
        raise DataFileError(f"{path}: its first line is longer than 16 MiB: is it a table?")
    if "\r" in line:
        raise DataFileError(f"{path}: its lines end in a carriage return alone: save it with other line ends")
    if line.count('"') % 2:
        raise DataFileError(f"{path}: a name in its first line has a line break: give each column a name of one line")
    delimiter = max(",;\t", key=line.count)
    names = next(csv.reader([line], delimiter=delimiter), [])
    if not names:
        raise DataFileError(f"{path}: is empty: expected a first line with the names of columns")
    check_unique(path, names)
    return Header(names, delimiter)


def open_csv(path: Path, f: BinaryIO, header: Header, types: dict[str, Any]) -> Table:
    """The rows of ``f`` after its header.

    Columns in ``types`` have the Arrow types given there; the types of others are inferred from the first rows. Only
    empty fields are missing values. Where a column of numbers has true and false in the first rows, it is of those.
    """
    import pyarrow as pa

    ahead = _read_ahead(f)
    f = io.BufferedReader(_Rejoined(ahead, f), _AHEAD)
    types = types | _booleans(path, header, types, ahead)
    try:
        reader = _csv_reader(f, header, types)
    except pa.ArrowInvalid as e:
        if "Empty CSV" in str(e):
            raise DataFileError(f"{path}: has no rows") from None
        raise _conversion_error(path, header, types, 0, e) from None

    def batches() -> Iterator[Any]:
        rows = 0
        try:
            for batch in reader:
                yield batch
                rows += batch.num_rows
        except pa.ArrowInvalid as e:
            raise _conversion_error(path, header, types, rows, e) from None

    return Table(path, reader.schema.names, reader.schema.types, batches())


class _Rejoined(io.RawIOBase):
    """What was read ahead of a file, and the rest of the file behind it."""

    def __init__(self, ahead: bytes, rest: BinaryIO) -> None:
        self.ahead, self.rest = io.BytesIO(ahead), rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self.ahead.read(len(buffer)) or self.rest.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


def _read_ahead(f: BinaryIO) -> bytes:
    """About a megabyte from ``f``; of a pipe as much as it has now, but at least a line."""
    if f.seekable():
        return f.read(_AHEAD)
    found = b""
    while b"\n" not in found and (more := f.read1(_AHEAD)):  # type: ignore[attr-defined]
        found += more
    return found


def _booleans(path: Path, header: Header, types: dict[str, Any], ahead: bytes) -> dict[str, Any]:
    """Of the columns that ``types`` has as numbers, those of true and false, by the first rows.

    DataFileError if several have something else there; one alone is reported with its row when that is read, as are
    numbers with a decimal comma, which have a remedy of their own.
    """
    import pyarrow as pa

    names = [name for name, kind in types.items() if kind == pa.float64()]
    lines = ahead[: ahead.rfind(b"\n") + 1] or ahead
    try:
        rows = _csv_reader(io.BytesIO(lines), header, {}, names).read_next_batch()
    except (pa.ArrowInvalid, StopIteration):  # reported when the rows are read
        return {}
    kinds = dict(zip(rows.schema.names, rows.schema.types, strict=True))
    wrong = [name for name, kind in kinds.items() if not _is_numeric(kind) or rows.column(name).null_count]
    commas = any(_DECIMAL_COMMA.fullmatch(str(rows.column(name)[0])) for name in wrong)
    if len(wrong) > 1 and not commas:
        raise DataFileError(
            f"{path}: columns {checks.listed(wrong)} have values that are missing or no numbers: fix or drop those, or "
            "exclude the columns"
        )
    return {name: kind for name, kind in kinds.items() if pa.types.is_boolean(kind)}


def _csv_reader(f: BinaryIO, header: Header, types: dict[str, Any], only: list[str] | None = None) -> Any:
    from pyarrow import csv

    return csv.open_csv(
        f,
        read_options=csv.ReadOptions(column_names=header.names),
        parse_options=csv.ParseOptions(delimiter=header.delimiter),
        convert_options=csv.ConvertOptions(
            column_types=types, null_values=[""], strings_can_be_null=True, include_columns=only
        ),
    )


def _conversion_error(path: Path, header: Header, types: dict[str, Any], rows_read: int, e: Exception) -> Exception:
    """Arrow reports column and value; the row is found by reading the file again, if that is possible."""
    import pyarrow as pa
    import pyarrow.compute as pc

    match = _CONVERSION.match(str(e))
    if match is None:
        return e
    name, value = header.names[int(match[1])], match[2]
    where = f"a row from {rows_read} on"
    with suppress(OSError, pa.ArrowInvalid), open(path, "rb") as f:
        read_header(path, f)
        row = 0
        for batch in _csv_reader(f, header, {name: pa.string()}, [name]):
            place = pc.index(batch.column(0), value).as_py()
            if place >= 0:
                where = f"row {row + place}"
                break
            row += batch.num_rows
    kind = "number" if name in types else "value like those before"
    comma = name in types and _DECIMAL_COMMA.fullmatch(value)
    remedy = "write it with a decimal point" if comma else "fix or drop it, or exclude the column"
    return DataFileError(
        f"{path}: column {name!r} has {checks.short_repr(value)} in {where}, which is no {kind}: {remedy}"
    )


# Which columns --------------------------------------------------------------------------------------------------------


def check_unique(path: Path, names: Sequence[str]) -> None:
    """DataFileError if a name occurs twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataFileError(f"{path}: has two columns {name!r}")
        seen.add(name)


def target_columns(path: Path, names: Sequence[str], request: Request) -> list[str]:
    """The target columns: those asked for, else the model's, else ``y`` or ``target``, or all of ``y0``, ``y1``, …"""
    check_unique(path, names)
    target = request.target
    if target is None and request.columns:
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
    if request.features is not None:
        found = list(request.features)
    elif request.columns:
        found = require(path, names, request.columns.features, request.of)
    else:
        left = {*target, "weight", *request.exclude}
        found = [name for name in names if name not in left and not _INDEX.fullmatch(name)]
    if not found:
        raise DataFileError(f"{path}: has no features beside {', '.join(target)}")
    return found


def require(path: Path, names: Sequence[str], wanted: Sequence[str], of: str = "model") -> list[str]:
    """``wanted``, all of which must be among ``names``."""
    present = set(names)
    for name in wanted:
        if name not in present:
            wants = "the model wants" if of == "model" else f"{of} has"
            raise DataFileError(f"{path}: has no column {name!r}, which {wants}: it has {checks.listed(names)}")
    return list(wanted)


# Reading --------------------------------------------------------------------------------------------------------------


def check_numeric(path: Path, name: str, kind: Any, task: str = "") -> None:
    """DataFileError unless a column of the Arrow type ``kind`` holds numbers."""
    import pyarrow as pa

    if pa.types.is_null(kind):
        raise DataFileError(f"{path}: column {name!r} has no value in any row{'' if task else ': exclude it'}")
    if not _is_numeric(kind):
        remedy = f"it cannot be the target of a {task}" if task else "exclude it, or make it numbers"
        raise DataFileError(f"{path}: column {name!r} of type {kind} is not numeric: {remedy}")


def _is_numeric(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def stack_columns(path: Path, batch: Any, names: Sequence[str], dtype: Any, first: int) -> Array:
    """Columns of a record batch side by side, (n, len(names)), contiguous; its first row is row ``first`` of the file.

    DataFileError if a value is missing, NaN or infinite.
    """
    out = np.empty((batch.num_rows, len(names)), dtype)
    for j, name in enumerate(names):
        column = batch.column(name)
        missing = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
        if missing is None:
            out[:, j] = column.to_numpy(zero_copy_only=False)
            if dtype.kind == "f" and not np.isfinite(out[:, j]).all():
                missing = ~np.isfinite(out[:, j])
        if missing is not None:
            row = first + int(np.argmax(missing))
            raise DataFileError(f"{path}: column {name!r} has no finite number in row {row}: fill or drop it")
    return out
