"""Tables with named columns, CSV and Parquet, read in batches of rows by Apache Arrow."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from tinynet_backends.errors import first_line

from tinynet import checks
from tinynet.data.columns import Columns
from tinynet.data.dataset import Array
from tinynet.errors import DataFileError

# Rows of Parquet decoded at a time: of a wide table those that have so many numbers, but no fewer than the least, because
# each column takes time in each batch.
ROWS, _NUMBERS, _LEAST_ROWS = 65536, 2**21, 1024
TASKS = ("auto", "classification", "regression")
_BUFFER = 65536  # bytes of a column read at a time
# A pandas index in Parquet and, without a name, in CSV; and the name that pandas gives the latter when it reads it.
_INDEX = re.compile(r"(__index_level_\d+__|Unnamed: \d+)?")
_LONGEST_LINE = 16 * 2**20
_BLOCK = 2**20  # bytes of a CSV file that are read at a time; those of the first tell what its columns are
# Numbers with commas, or with another sign between groups of three digits.
_WITH_SIGNS = re.compile(r"\s*[-+]?(\d+(,\d+)+\.?\d*|\d{1,3}([ .'\xa0\u202f]\d{3})+(,\d*)?)\s*")
_CONVERSION = re.compile(r"In CSV column #(\d+): Row #(\d+): .*?invalid value '(.*)'", re.DOTALL)
_COUNT = re.compile(r"CSV parse error: Row #(\d+): Expected (\d+) columns, got (\d+)")


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


# Opening --------------------------------------------------------------------------------------------------------------


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


class Header(NamedTuple):
    """The first line of a CSV file: column names and the delimiter (comma, semicolon, tab or bar)."""

    names: list[str]
    delimiter: str
    optional: frozenset[str] = frozenset()  # the columns that may be excluded, for an error


def read_header(path: Path, f: BinaryIO) -> Header:
    """Read the first line of ``f`` that is not empty."""
    raw = b"\n"
    while raw and not raw.strip():
        raw = f.readline(_LONGEST_LINE)
    try:
        line = raw.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        line = "\0"
    if "\0" in line:
        raise DataFileError(f"{path}: is not text in UTF-8: save the file in that encoding")
    if len(raw) == _LONGEST_LINE:
        raise DataFileError(f"{path}: its first line is longer than 16 MiB: is it a table?")
    if "\r" in line:
        raise DataFileError(f"{path}: its lines end in a carriage return alone: save it with other line ends")
    if line.count('"') % 2:
        raise DataFileError(f"{path}: a name in its first line has a line break: give each column a name of one line")
    delimiter = max(",;\t|", key=re.sub('"[^"]*"', "", line).count)
    names = next(csv.reader([line], delimiter=delimiter), [])
    if not names:
        raise DataFileError(f"{path}: is empty: expected a first line with the names of columns")
    check_unique(path, names)
    return Header(names, delimiter)


def open_csv(path: Path, f: BinaryIO, header: Header, types: dict[str, Any]) -> Table:
    """The rows of ``f`` after its header.

    Columns in ``types`` have the Arrow types given there; the types of others are inferred from the first rows. Only
    empty fields are missing values. Where a column of numbers has true and false in the first rows, it is of those.
    Between semicolons, numbers may have a decimal comma.
    """
    blocks = _blocks(path, f, header)
    block = next(blocks, None)
    if block is None:
        raise DataFileError(f"{path}: has no rows")
    booleans, decimal = _first_rows(path, header, types, block)
    first = _Parser(path, header, types | booleans, decimal)(block, 0)
    names, kinds = first.schema.names, first.schema.types

    def batches(columns: Sequence[str]) -> Iterator[Any]:
        yield from first.to_batches()
        rows, parse = first.num_rows, _Parser(path, header, dict(zip(names, kinds, strict=True)), decimal)
        for block in blocks:
            table = parse(block, rows)
            yield from table.to_batches()
            rows += table.num_rows

    return Table(path, names, kinds, batches)


def _blocks(path: Path, f: BinaryIO, header: Header) -> Iterator[bytes]:
    """The rest of ``f`` in blocks of whole rows, about a megabyte or 64 rows each; of a pipe as much as it has now.

    Arrow would read ``f`` in a thread of its own, which aborts the process if it releases ``f`` while the interpreter exits.
    """
    delimiter, read = header.delimiter, f.read if f.seekable() else f.read1  # type: ignore[attr-defined]
    size = min(max(_BLOCK, 64 * 8 * len(header.names)), _LONGEST_LINE)  # each column takes time in each block
    parts: list[bytes] = []
    while more := read(size):
        end = more.rfind(b"\n") + 1
        block = b"".join([*parts, more[:end]]) if end else b""
        if end and not _open_quote(block, delimiter):
            parts = [more[end:]]
            if block.strip():
                yield block
            continue
        parts.append(more)
        if sum(map(len, parts)) > _LONGEST_LINE:
            raise DataFileError(f"{path}: has a row longer than 16 MiB: is it a table, with each quote closed?")
    block = b"".join(parts)
    if begun := _open_quote(block, delimiter):  # the rest of the file would be one value
        text = checks.short_repr(begun[:100].decode(errors="replace"))
        raise DataFileError(f"{path}: has a quote that is not closed, at {text}: close or remove it")
    if block.strip():
        yield block


def _open_quote(block: bytes, delimiter: str) -> bytes:
    """The last value of ``block``, which begins with a row, if its quote is not closed in it; else nothing."""
    before = rb"[^\n%b]" % re.escape(delimiter.encode())  # after one of these a quote is an ordinary character
    whole = rb'(?:[^"]++|(?<!%b)"(?:[^"]++|"")*+"|(?<=%b)")*+' % (before, before)
    closed: Any = re.match(whole, block)  # never None, since it may have no length
    return block[closed.end() :]


def _first_rows(path: Path, header: Header, types: dict[str, Any], block: bytes) -> tuple[dict[str, Any], str]:
    """What the first rows tell: which of the columns that ``types`` has as numbers are of true and false; the decimal sign.

    Between semicolons the sign may be a comma: it is if more columns are then numeric. DataFileError if several columns
    of numbers have something else; one alone is reported with its row when that is read, as are numbers with commas, which
    have a remedy of their own.
    """
    import pyarrow as pa

    numbers = [name for name, kind in types.items() if kind == pa.float64()]
    sought = [*numbers, *(name for name in header.names if name not in types)]
    signs = ".," if header.delimiter == ";" else "."
    tables = {sign: _Parser(path, header, {}, sign, sought)(block, 0) for sign in signs}
    sign = max(signs, key=lambda sign: sum(map(_is_numeric, tables[sign].schema.types)))  # a point if they tie
    rows = tables[sign].select(numbers)
    kinds = dict(zip(numbers, rows.schema.types, strict=True))
    wrong = [name for name, kind in kinds.items() if not _is_numeric(kind) or rows.column(name).null_count]
    odd = {name: str(rows.column(name)[0]) for name in wrong}
    signs_alone = any(map(_WITH_SIGNS.fullmatch, odd.values()))
    if len(wrong) > 1 and not signs_alone:
        remedy = "fix or drop those" + ", or exclude the columns" * header.optional.issuperset(wrong)
        raise DataFileError(
            f"{path}: columns {checks.listed(wrong)} have values that are missing or no numbers: {remedy}"
        )
    booleans = {name for name, value in odd.items() if value.lower() in ("true", "false")}  # and something else later
    booleans |= {name for name, kind in kinds.items() if pa.types.is_boolean(kind)}
    return dict.fromkeys(booleans, pa.bool_()), sign


class _Parser:
    """Blocks of lines as Arrow tables, with columns of ``types``, inferred where there is none; or ``only`` some columns."""

    def __init__(
        self, path: Path, header: Header, types: dict[str, Any], decimal: str, only: list[str] | None = None
    ) -> None:
        from pyarrow import csv

        self.path, self.header, self.types = path, header, types
        self.read = csv.ReadOptions(use_threads=False, column_names=header.names)  # one thread counts rows for errors
        self.parse = csv.ParseOptions(delimiter=header.delimiter)
        self.convert = csv.ConvertOptions(
            column_types=types, null_values=[""], strings_can_be_null=True, include_columns=only, decimal_point=decimal
        )

    def __call__(self, block: bytes, rows: int) -> Any:
        """The table of a block that has ``rows`` rows before it."""
        import pyarrow as pa
        from pyarrow import csv

        copy = pa.BufferOutputStream()  # Arrow's own memory: none of its threads has to let go of ours
        copy.write(block)
        self.read.block_size = len(block)
        try:
            return csv.read_csv(pa.BufferReader(copy.getvalue()), self.read, self.parse, self.convert)
        except pa.ArrowInvalid as e:
            raise self._error(e, rows) from None

    def _error(self, e: Exception, rows: int) -> DataFileError:
        """What Arrow says, with the row's number in the file."""
        import pyarrow as pa

        if match := _CONVERSION.match(str(e)):
            name, row, value = self.header.names[int(match[1])], rows + int(match[2]) - 1, match[3]
            number = self.types[name] == pa.float64()
            kind = "number" if number else "value like those before"
            if number and _WITH_SIGNS.fullmatch(value):
                remedy = "write it with a decimal point, and nothing between thousands"
            elif pa.types.is_integer(self.types[name]):  # a target, of the type that the first rows have
                remedy = "fix or drop it, or say what the task is"
            else:
                remedy = "fix or drop it" + ", or exclude the column" * (name in self.header.optional)
            claim = f"column {name!r} has {checks.short_repr(value)} in row {row}, which is no {kind}: {remedy}"
        elif match := _COUNT.match(str(e)):
            row, wanted, found = (int(number) for number in match.groups())
            remedy = f"fix it, and put a value that contains {self.header.delimiter!r} in quotes"
            claim = f"row {rows + row - 1} has {found} values for {wanted} columns: {remedy}"
        elif "invalid UTF8" in str(e):
            claim = "is not text in UTF-8: save the file in that encoding"
        else:
            claim = f"cannot be read: {first_line(e)}"
        return DataFileError(f"{self.path}: {claim}")


# Which columns --------------------------------------------------------------------------------------------------------


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


# Reading --------------------------------------------------------------------------------------------------------------


def check_numeric(path: Path, name: str, kind: Any, use: str = "feature") -> None:
    """DataFileError unless a column of the Arrow type ``kind`` holds numbers; ``use`` is one of `_REMEDIES`."""
    import pyarrow as pa

    if pa.types.is_null(kind):
        raise DataFileError(f"{path}: column {name!r} has no value in any row{': exclude it' * (use == 'feature')}")
    if not _is_numeric(kind):
        raise DataFileError(f"{path}: column {name!r} of type {kind} is not numeric: {_REMEDIES[use]}")


def check_all_numeric(path: Path, kinds: Mapping[str, Any], may_exclude: bool) -> None:
    """DataFileError unless the features, of these Arrow types, hold numbers; it names all that do not."""
    others = [name for name, kind in kinds.items() if not _is_numeric(kind)]
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


def _is_numeric(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind))


def stack_columns(path: Path, batch: Any, names: Sequence[str], dtype: Any, first: int) -> Array:
    """Columns of a record batch side by side, (n, len(names)), contiguous; its first row is row ``first`` of the file.

    DataFileError if a value is missing, NaN or infinite.
    """
    out = np.empty((batch.num_rows, len(names)), dtype)
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    for j, name in enumerate(names):
        column = columns[name]
        if dtype.kind == "i":  # labels: large unsigned ones must not become negative
            column = column.cast("int64")
        if column.null_count:
            raise _not_finite(path, name, to_numpy(column.is_null()), first)
        out[:, j] = to_numpy(column)
    finite = np.isfinite(out)
    if not finite.all():
        j = int(np.argmin(finite.all(axis=0)))
        raise _not_finite(path, names[j], ~finite[:, j], first)
    return out


def to_numpy(column: Any) -> Array:
    """An Arrow array of numbers as one of NumPy's, with 1 for true and 0 for false; none of them may be missing.

    Arrow's `to_numpy`, like its `array`, imports pandas, where that is installed, for half a second, and what a signal raises
    there is lost.
    """
    import pyarrow as pa

    if pa.types.is_boolean(column.type):
        column = column.cast("uint8")
    if pa.types.is_decimal(column.type):
        column = column.cast("string").cast("float64")  # a cast to numbers directly is not always to the nearest
    return np.from_dlpack(column)


def to_arrow(column: Array) -> Any:
    """A vector of NumPy's numbers, bools or text as an Arrow array."""
    import pyarrow as pa

    if column.dtype.kind == "b":
        return to_arrow(column.view(np.uint8)).cast(pa.bool_())
    if column.dtype.kind == "U":
        text = [value.encode() for value in column.tolist()]
        ends, kind = np.cumsum([0, *map(len, text)], dtype=np.int32), pa.string()
        buffers = [pa.py_buffer(ends), pa.py_buffer(b"".join(text))]
    else:
        kind, buffers = pa.from_numpy_dtype(column.dtype), [pa.py_buffer(np.ascontiguousarray(column))]
    return pa.Array.from_buffers(kind, len(column), [None, *buffers])


def _not_finite(path: Path, name: str, missing: Array, first: int) -> DataFileError:
    row = first + int(np.argmax(missing))
    return DataFileError(f"{path}: column {name!r} has no finite number in row {row}: fill or drop it")
