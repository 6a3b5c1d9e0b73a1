"""CSV as a table: names and delimiter from the first line, rows in blocks, which Apache Arrow parses."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tinynet_backends.errors import first_line

from tinynet import checks
from tinynet.data.tables import Table, check_unique, is_numeric
from tinynet.errors import DataFileError

_LONGEST_LINE = 16 * 2**20
_BLOCK = 2**20  # bytes of a CSV file that are read at a time; those of the first tell what its columns are
# Numbers with commas, or with another sign between groups of three digits.
_WITH_SIGNS = re.compile(r"\s*[-+]?(\d+(,\d+)+\.?\d*|\d{1,3}([ .'\xa0\u202f]\d{3})+(,\d*)?)\s*")
_CONVERSION = re.compile(r"In CSV column #(\d+): Row #(\d+): .*?invalid value '(.*)'", re.DOTALL)
_COUNT = re.compile(r"CSV parse error: Row #(\d+): Expected (\d+) columns, got (\d+)")


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
    sign = max(signs, key=lambda sign: sum(map(is_numeric, tables[sign].schema.types)))  # a point if they tie
    rows = tables[sign].select(numbers)
    kinds = dict(zip(numbers, rows.schema.types, strict=True))
    wrong = [name for name, kind in kinds.items() if not is_numeric(kind) or rows.column(name).null_count]
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
