"""Formulas of samples as the text of kernels for numba."""

from __future__ import annotations

from collections.abc import Sequence

from tinynet_backends.compiled.vectors import NORMALS
from tinynet_backends.rowtext import FEW, Writer, tables
from tinynet_backends.rowwise import RowTrace, Table
from tinynet_backends.tracing import Ref

HEAD = '''"""A formula of samples as a kernel; written by tinynet_backends.compiled.samples, version 4."""

import math

import numpy as np
from numba import float64, int64, types, uint64
from tinynet_backends.compiled.exactly import arctan, cosine, half, log, normal, normals, sine
from tinynet_backends.compiled.intrinsics import pointer
from tinynet_backends.compiled.kernels import drawn, share


def make(real):
    inf, nan = math.inf, math.nan

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        x, y, room = pointer(real, w[2]), w[3], w[4] + 8 * part * w[5]
        scratch = room + 8 * w[6]
        float64s, uint64s, int64s = pointer(float64, scratch), pointer(uint64, scratch), pointer(int64, scratch)
        table, sines, cosines, angles = w[7], pointer(float64, w[8]), pointer(float64, w[9]), pointer(float64, w[10])
        lines, stream = pointer(float64, table), at + 8 * 11
'''
_FIRST_TABLE = 21  # the word behind those


class Numba:
    """Python as numba takes it; vectors are kept in a scratch row of each part."""

    def __init__(self, width: int | None) -> None:
        self.scratch, self.width = 0, width
        self.spelled = {
            "add": "{} + {}", "subtract": "{} - {}", "multiply": "{} * {}", "divide": "{} / {}", "remainder": "{} % {}",
            "bitwise_and": "{} & {}", "bitwise_or": "{} | {}", "bitwise_xor": "{} ^ {}", "left_shift": "{} << {}",
            "right_shift": "{} >> {}", "negative": "-{}", "abs": "abs({})", "floor": "np.floor({})",
            "sqrt": "math.sqrt({})", "maximum": "{0} if ({0} >= {1}) | ({0} != {0}) else {1}",
            "minimum": "{0} if ({0} <= {1}) | ({0} != {0}) else {1}", "less": "{} < {}", "less_equal": "{} <= {}",
            "greater": "{} > {}", "greater_equal": "{} >= {}", "equal": "{} == {}", "not_equal": "{} != {}",
            "where": "{1} if {0} else {2}", "constant": "{}", "log": "log({})", "sine": "sine({}, sines, cosines)",
            "cosine": "cosine({}, sines, cosines)", "arctan": "arctan({}, {}, angles)", "normal": "normal({}, lines)",
        }  # fmt: skip

    def let(self, name: str, kind: str, value: str) -> str:
        return f"{name} = {kind}({value})" if kind == "int64" else f"{name} = {value}"

    def put(self, target: str, value: str) -> str:
        return f"{target} = {value}"

    def loop(self, name: str, first: int, end: int, lines: Sequence[str]) -> list[str]:
        return [f"for {name} in range({first}, {end}):", *[f"    {line}" for line in lines]]

    def features(self, name: str, width: int, value: str) -> list[str]:
        return self.loop(name, 0, width, [self.put(f"x[row * {width} + {name}]", value)])

    def when(self, condition: str, lines: Sequence[str]) -> list[str]:
        return [f"if {condition}:", *[f"    {line}" for line in lines]]

    def room(self, number: int, kind: str, width: int) -> tuple[list[str], str]:
        place, self.scratch = self.scratch, self.scratch + width
        return [], f"{kind}s[{place} + {{}}]"

    def constant(self, text: str) -> str:
        return text

    def word(self, place: str) -> str:
        return f"words[(row - first) * {self.width} + {place}]"

    def cast(self, kind: str, value: str) -> str:
        return f"{kind}({value})"

    def either(self, a: str, b: str) -> str:
        return f"({a}) | ({b})"

    def both(self, a: str, b: str) -> str:
        return f"({a}) & ({b})"


class _Rows(Writer):
    """Many normal numbers of a row are made together."""

    language: Numba

    def _instruction(self, n: int) -> None:
        made = self.trace.instructions[n]
        first = self._place(made.args[0]) if made.op == "normal" and (made.width or 0) > FEW else None
        if first is None:
            super()._instruction(n)
            return
        room = -(-(made.width or 0) // NORMALS) * NORMALS
        target = f"scratch + {8 * self.language.scratch}"
        _, self.kept[n] = self.language.room(n, "float64", room)
        source = f"first_word + 8 * ((row - first) * {self.language.width} + {first})"
        self.text.append(f"normals({source}, table, {target}, {room})")

    def _place(self, value: Ref | Table | str) -> int | None:
        """Where in the row's words a vector begins, if it is a part of them."""
        made = self.trace.instructions[value.number] if isinstance(value, Ref) else None
        if made is None or made.op not in ("words", "part"):
            return None
        before = 0 if made.op == "words" else self._place(made.args[0])
        return None if before is None else before + sum(made.places)


def lines(trace: RowTrace) -> tuple[list[str], int]:
    """The body of a kernel, and the numbers of scratch that a part needs."""
    language = Numba(trace.instructions[0].width)
    row = _Rows(trace, language).text
    named = trace.instructions[trace.target.number].width is None
    return [
        "labels = pointer(int64, y)" if named else "targets = pointer(real, y)",
        *[f"t{n} = pointer(float64, w[{_FIRST_TABLE + n}])" for n in tables(trace)],
        "low, high = share(w[0], part, parts, 1)", "for first in range(low, high, w[1]):",
        "    last = min(first + w[1], high)", "    first_word = drawn(stream, first, last - first, room)",
        "    words = pointer(uint64, first_word)", "    for row in range(first, last):",
        *[f"        {line}" for line in row],
    ], language.scratch  # fmt: skip
