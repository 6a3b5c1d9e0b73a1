"""Sample formulas as lists of instructions that turn the words of one row into its features and target.

`tracing` records elementwise formulas; here a value is one number per row, or a vector of ``width`` numbers. A formula is
run on symbols for one row instead of arrays of all rows, with a stand-in for the backend that has the operations of
sample formulas; a backend can then make samples in one pass over the rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

from tinynet_backends.tracing import COMPARISONS, PLAIN, REFLECTED, Ref, Untraceable, set_operators

_log = logging.getLogger("tinynet")

_OF_BOOLS = *COMPARISONS, "bitwise_and", "bitwise_or", "bitwise_xor"
_OF_FLOATS = "divide", "sqrt", "log", "sine", "cosine", "arctan"
# What a Python number beside a value of some kind may be.
_NUMBERS: dict[str, Any] = {"bool": (), "uint64": (int,), "int64": (int,), "float64": (int, float)}
LONGEST = 2000  # instructions at most: longer formulas are not worth compiling


class Table(NamedTuple):
    """A view of a formula's float64 table ``number``: offset, shape and strides, in elements."""

    number: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Instruction(NamedTuple):
    """``op`` on values, tables and constants (text); ``places`` are indices into vectors.

    The result is of ``kind`` 'uint64', 'int64', 'float64' or 'bool': a number if ``width`` is None, else a vector.
    """

    op: str
    args: tuple[Ref | Table | str, ...]
    places: tuple[int, ...]
    kind: str
    width: int | None


class RowTrace(NamedTuple):
    """A traced formula: value n is the result of instruction n, value 0 the row's words; two are features and target."""

    instructions: tuple[Instruction, ...]
    features: Ref
    target: Ref


def trace(formula: Callable[..., Any], width: int, shapes: Sequence[tuple[int, ...]] = ()) -> RowTrace:
    """``formula(ops, words, *tables)`` as instructions on a row of ``width`` words; `Untraceable` if that is impossible."""
    ops = RowOps()
    words = ops.do("words", (), "uint64", width)
    x, y = formula(ops, words, *[_Table(ops, n, shape) for n, shape in enumerate(shapes)])
    if not (isinstance(x, Row) and x.width is not None and x.kind == "float64" and isinstance(y, Row)):
        raise Untraceable("a result that is not the features and the target of a row")
    if (y.kind, y.width is None) not in (("int64", True), ("float64", False)):
        raise Untraceable(f"a target of {y.kind}")
    return RowTrace(tuple(ops.instructions), x.ref, y.ref)


@lru_cache(maxsize=64)
def traced(formula: Callable[..., Any], width: int, shapes: tuple[tuple[int, ...], ...]) -> RowTrace | None:
    """`trace`, cached; None for a formula that cannot be traced."""
    try:
        return trace(formula, width, shapes)
    except (TypeError, AttributeError) as e:
        _log.debug("%r is computed as it stands: %s", formula, e)
        return None


class RowOps:
    """Stands for the backend and its array API namespace while a sample formula is traced."""

    float64, int64, uint64 = "float64", "int64", "uint64"

    def __init__(self) -> None:
        self.instructions: dict[Instruction, int] = {}  # with the number of the result: none is computed twice
        self.xp = self

    def do(self, op: str, args: Sequence[Any], kind: str, width: int | None, *places: int) -> Row:
        operands = tuple(a.ref if isinstance(a, Row) else a.view if isinstance(a, _Table) else a for a in args)
        instruction = Instruction(op, operands, places, kind, width)
        number = self.instructions.setdefault(instruction, len(self.instructions))
        if number >= LONGEST:
            raise Untraceable(f"more than {LONGEST} instructions")
        return Row(self, Ref(number), kind, width)

    def elementwise(self, op: str, *args: Any) -> Row:
        """``op`` on each number of rows, tables and Python numbers."""
        kinds = {a.kind for a in args if isinstance(a, (Row, _Table))} - ({"bool"} if op == "where" else set())
        if len(kinds) != 1:
            raise Untraceable(f"{op} of {' and '.join(sorted(kinds)) or 'numbers'}")
        (kind,) = kinds
        if (kind == "bool" and op not in _OF_BOOLS) or (kind != "float64" and op in _OF_FLOATS):
            raise Untraceable(f"{op} of {kind}")  # whose result NumPy gives another kind
        width = _common([a.width for a in args if isinstance(a, (Row, _Table))], op)
        values = [a if isinstance(a, (Row, _Table)) else _text(a, kind) for a in args]
        return self.do(op, values, "bool" if op in COMPARISONS else kind, width)

    # Elementwise functions

    def astype(self, x: Row, kind: str) -> Row:
        return x if x.kind == kind else self.do("astype", [x], kind, x.width)

    def where(self, condition: Row, x: Any, y: Any) -> Row:
        return self.elementwise("where", condition, x, y)

    def zeros_like(self, x: Row, dtype: str | None = None) -> Row:
        return self.do("constant", [_text(0, dtype or x.kind)], dtype or x.kind, x.width)

    def sincos(self, turns: Row) -> tuple[Row, Row]:
        return self.elementwise("sine", turns), self.elementwise("cosine", turns)

    def arctan(self, y: Row, x: Row) -> Row:
        return self.elementwise("arctan", y, x)

    def normal(self, words: Row) -> Row:
        return self.do("normal", [words], "float64", words.width)

    # Functions of vectors

    def halves(self, words: Row) -> Row:
        if words.width is None:
            raise Untraceable("halves of a number")
        return self.do("halves", [words], "float64", 2 * words.width)

    def stack(self, values: Sequence[Row], axis: int) -> Row:
        if axis != 1 or any(v.width is not None or v.kind != "float64" for v in values):
            raise Untraceable("a stack of anything but numbers along axis 1")
        return self.do("stack", values, "float64", len(values))

    def take(self, table: _Table, index: Row, axis: int = 0) -> Row:
        if axis != 0 or index.width is not None or not isinstance(table, _Table) or len(table.shape) > 2:
            raise Untraceable("a take of anything but a table's rows")
        return self.do("take", [table, index], "float64", table.shape[1] if len(table.shape) == 2 else None)

    def argmax(self, x: Row, axis: int) -> Row:
        if axis != 1 or x.width is None:
            raise Untraceable("argmax of something that is not a vector")
        return self.do("argmax", [x], "int64", None)

    def sum_in_order(self, x: Row) -> Row:
        if x.width is None or x.kind == "bool":
            raise Untraceable("a sum of something that is not a vector of numbers")
        return self.do("sum", [x], x.kind, None)

    def affine_in_order(self, x: Row, w: _Table, b: _Table | None = None, scale: float = 1.0) -> Row:
        if x.width != w.shape[0]:
            raise Untraceable(f"a product of {x.width} numbers with a table of shape {w.shape}")
        bias = [] if b is None else [b[0, :]]
        return self.do("affine", [x, w, *bias, _text(scale, "float64")], "float64", w.shape[1])


def _common(widths: Sequence[int | None], op: str) -> int | None:
    """The width of the broadcast result; -1 is a number of a table, which broadcasts with anything."""
    fixed = {w for w in widths if w != -1}
    if None in fixed and len(fixed) > 1:
        raise Untraceable(f"{op} of numbers and vectors")
    wide = fixed - {1, None}
    if len(wide) > 1:
        raise Untraceable(f"{op} of vectors of {sorted(wide)} numbers")  # type: ignore[type-var]
    return wide.pop() if wide else 1 if 1 in fixed else None


def _text(value: Any, kind: str) -> str:
    if isinstance(value, bool) or not isinstance(value, _NUMBERS[kind]):
        raise Untraceable(f"{value!r} beside {kind}")
    return repr(float(value)) if kind == "float64" else f"{kind}({value})"


class _Operators:
    """Python's operators, passed to `RowOps`."""

    ops: RowOps
    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise Untraceable("a branch on values")


_OF_INTEGERS = {
    "mod": "remainder", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor", "lshift": "left_shift",
    "rshift": "right_shift",
}  # fmt: skip
set_operators(_Operators, lambda self, *call: self.ops.elementwise(*call), REFLECTED | _OF_INTEGERS, PLAIN)
for _name in ("abs", "floor", "sqrt", "log", "maximum", "minimum"):
    setattr(RowOps, _name, (lambda op: lambda self, *args: self.elementwise(op, *args))(_name))


class Row(_Operators):
    """A number of each row, (n,), or a vector of ``width`` numbers, (n, width)."""

    def __init__(self, ops: RowOps, ref: Ref, kind: str, width: int | None) -> None:
        self.ops, self.ref, self.kind, self.width = ops, ref, kind, width

    def __getitem__(self, key: Any) -> Row:
        if not isinstance(key, tuple) or len(key) != 2 or key[0] != slice(None):
            raise Untraceable(f"the index {key!r}")
        part = key[1]
        if part is None and self.width is None:
            return self.ops.do("column", [self], self.kind, 1)
        if self.width is None:
            raise Untraceable(f"the index {key!r} of a number")
        if isinstance(part, int) and -self.width <= part < self.width:
            return self.ops.do("element", [self], self.kind, None, part % self.width)
        if isinstance(part, slice):
            start, stop, step = part.indices(self.width)
            if step == 1:
                width = max(stop - start, 0)
                return self if width == self.width else self.ops.do("part", [self], self.kind, width, start)
        raise Untraceable(f"the index {key!r}")


class _Table(_Operators):
    """A table of the formula's constants, or a part of it."""

    kind = "float64"

    def __init__(self, ops: RowOps, number: int, shape: tuple[int, ...], view: Table | None = None) -> None:
        strides = tuple(prod(shape[n + 1 :]) for n in range(len(shape)))
        self.ops, self.view = ops, view or Table(number, 0, shape, strides)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.view.shape

    @property
    def width(self) -> int:
        """The width as an operand beside rows: of one row for all, or -1 for a number."""
        if (len(self.shape) == 2 and self.shape[0] != 1) or len(self.shape) > 2:
            raise Untraceable(f"a table of shape {self.shape} beside rows")
        return self.shape[-1] if self.shape else -1

    def __getitem__(self, key: Any) -> _Table:
        number, offset, shape, strides = self.view
        keys = key if isinstance(key, tuple) else (key,)
        keys = (*keys, *[slice(None)] * (len(shape) - len(keys)))
        if len(keys) != len(shape):
            raise Untraceable(f"the index {key!r} of a table of shape {shape}")
        kept = []
        for k, size, stride in zip(keys, shape, strides, strict=True):
            if isinstance(k, slice):
                start, stop, step = k.indices(size)
                offset += start * stride
                kept.append((len(range(start, stop, step)), step * stride))
            elif isinstance(k, int) and -size <= k < size:
                offset += k % size * stride
            else:
                raise Untraceable(f"the index {key!r} of a table")
        view = Table(number, offset, tuple(n for n, _ in kept), tuple(s for _, s in kept))
        return _Table(self.ops, number, (), view)
