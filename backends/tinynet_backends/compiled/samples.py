"""Formulas of samples as the text of kernels, a row after the other.

Vectors of a few numbers become as many names; longer ones are computed where they are read, or kept in a scratch row if they
are read twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from tinynet_backends.rowwise import Instruction, RowTrace, Table
from tinynet_backends.tracing import Ref

HEAD = '''"""A formula of samples as a kernel; written by tinynet_backends.compiled.samples, version 1."""

import math

import numpy as np
from numba import float64, int64, types, uint64
from tinynet_backends.compiled.exactly import arctan, cosine, half, log, normal, sine
from tinynet_backends.compiled.intrinsics import pointer
from tinynet_backends.compiled.kernels import share


def make(real):
    inf, nan = math.inf, math.nan

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        words, stride, x, y = pointer(uint64, w[1]), w[2], pointer(real, w[3]), w[4]
        floats = pointer(float64, w[5] + 8 * part * w[6])
        uint64s, int64s = pointer(uint64, w[5] + 8 * part * w[6]), pointer(int64, w[5] + 8 * part * w[6])
        a, b, sines = pointer(float64, w[7]), pointer(float64, w[8]), pointer(float64, w[9])
        cosines, angles = pointer(float64, w[10]), pointer(float64, w[11])
'''
FIRST_TABLE = 12  # the word behind those
_FEW = 8  # numbers of a vector that get a name each

_SPELLED = {
    "add": "{} + {}", "subtract": "{} - {}", "multiply": "{} * {}", "divide": "{} / {}", "remainder": "{} % {}",
    "bitwise_and": "{} & {}", "bitwise_or": "{} | {}", "bitwise_xor": "{} ^ {}", "left_shift": "{} << {}",
    "right_shift": "{} >> {}", "negative": "-{}", "abs": "abs({})", "floor": "np.floor({})", "sqrt": "math.sqrt({})",
    "maximum": "({0} if ({0} >= {1}) | ({0} != {0}) else {1})", "minimum": "({0} if ({0} <= {1}) | ({0} != {0}) else {1})",
    "less": "{} < {}", "less_equal": "{} <= {}", "greater": "{} > {}", "greater_equal": "{} >= {}", "equal": "{} == {}",
    "not_equal": "{} != {}", "where": "({1} if {0} else {2})", "constant": "{}", "log": "log({})",
    "sine": "sine({}, sines, cosines)", "cosine": "cosine({}, sines, cosines)", "arctan": "arctan({}, {}, angles)",
    "normal": "normal({}, a, b)",
}  # fmt: skip
_VIEWS = {"words", "part", "column", "halves", "take", "constant"}  # read again rather than kept
_SCRATCH = {"float64": "floats", "uint64": "uint64s", "int64": "int64s"}


def width(trace: RowTrace, ref: Ref) -> int | None:
    return trace.instructions[ref.number].width


def lines(trace: RowTrace) -> tuple[list[str], int]:
    """The body of a kernel, and the numbers of scratch that a part needs."""
    writer = _Writer(trace)
    for number in range(len(trace.instructions)):
        writer.instruction(number)
    features, target = (width(trace, ref) for ref in (trace.features, trace.target))
    writer.each(features or 0, lambda j: f"x[row * {features} + {j}] = real({writer.read(trace.features, j)})")
    if target is None:
        writer.say(f"labels[row] = {writer.read(trace.target)}")
    else:
        writer.each(target, lambda j: f"targets[row * {target} + {j}] = real({writer.read(trace.target, j)})")
    tables = sorted({a.number for i in trace.instructions for a in i.args if isinstance(a, Table)})
    return [
        "labels = pointer(int64, y)" if target is None else "targets = pointer(real, y)",
        *[f"t{n} = pointer(float64, w[{FIRST_TABLE + n}])" for n in tables],
        "low, high = share(w[0], part, parts, 1)", "for row in range(low, high):",
        *[f"    {line}" for line in writer.text],
    ], writer.scratch  # fmt: skip


class _Writer:
    def __init__(self, trace: RowTrace) -> None:
        self.trace, self.text, self.scratch = trace, list[str](), 0
        self.kept: dict[int, int] = {}  # where a vector begins in the scratch row
        self.uses = Counter([trace.features.number, trace.target.number])
        for n, made in reversed(list(enumerate(trace.instructions))):  # reading a view is reading what it is a view of
            often = self.uses[n] if made.op in _VIEWS else min(self.uses[n], 1)
            self.uses.update({a.number: often for a in made.args if isinstance(a, Ref)})

    def say(self, line: str) -> None:
        self.text.append(line)

    def each(self, count: int, line: Callable[[str], str], name: str = "j") -> None:
        if count <= _FEW:
            self.text += [line(str(j)) for j in range(count)]
        else:
            self.text += [f"for {name} in range({count}):", f"    {line(name)}"]

    # Values --------------------------------------------------------------------------------------------------------

    def read(self, value: Ref | Table | str, place: str = "0") -> str:
        """The number of a value at a place of its vector, or the value, if it is a number."""
        if isinstance(value, str):
            return value
        if isinstance(value, Table):
            return _entry(value, [place] if len(value.shape) == 1 else ["0", place] if value.shape else [])
        n = value.number
        made = self.trace.instructions[n]
        if made.width is None:
            return f"v{n}"
        place = "0" if made.width == 1 else place
        if n in self.kept:
            return f"{_SCRATCH[made.kind]}[{self.kept[n]} + {place}]"
        named = made.width <= _FEW and place.isdigit()
        return f"v{n}_{place}" if named else self.expression(made, place)

    def expression(self, made: Instruction, place: str = "0") -> str:
        args = made.args
        if made.op == "words":
            return f"words[row * stride + {place}]"
        if made.op in ("element", "part"):
            first = made.places[0]
            inside = f"{first} + {place}" if made.op == "part" else str(first)
            return self.read(args[0], str(first + int(place)) if place.isdigit() else f"({inside})")
        if made.op == "column":
            return self.read(args[0])
        if made.op == "halves":
            word = str(int(place) // 2) if place.isdigit() else f"({place} >> 1)"
            return f"half({self.read(args[0], word)}, {int(place) % 2 if place.isdigit() else f'({place} & 1)'})"
        if made.op == "take":
            table, index = args
            assert isinstance(table, Table)
            return _entry(table, [self.read(index), place][: len(table.shape)])
        if made.op == "astype":
            return f"{made.kind}({self.read(args[0], place)})"
        return "(" + _SPELLED[made.op].format(*[self.read(a, place) for a in args]) + ")"

    # Instructions --------------------------------------------------------------------------------------------------

    def instruction(self, n: int) -> None:
        made = self.trace.instructions[n]
        if not self.uses[n]:
            return
        if special := {"sum": self._sum, "argmax": self._argmax, "affine": self._affine, "stack": self._stack}.get(
            made.op
        ):
            special(n, made)
        elif made.width is None:
            self.say(f"v{n} = {self.expression(made)}")
        elif made.width <= _FEW:
            self.text += [f"v{n}_{j} = {self.expression(made, str(j))}" for j in range(made.width)]
        elif self.uses[n] > 1 and made.op not in _VIEWS and made.kind in _SCRATCH:
            place = self._keep(n, made)
            self.each(made.width, lambda j: f"{place}{j}] = {self.expression(made, j)}")

    def _keep(self, n: int, made: Instruction) -> str:
        """Room for a vector in the scratch row, to be followed by a place and a bracket."""
        place, self.scratch = self.scratch, self.scratch + (made.width or 1)
        self.text.append(f"# value {n} is kept at {place}")
        self.kept[n] = place
        return f"{_SCRATCH[made.kind]}[{place} + "

    def _stack(self, n: int, made: Instruction) -> None:
        if (made.width or 0) <= _FEW:
            self.text += [f"v{n}_{j} = {self.read(a)}" for j, a in enumerate(made.args)]
            return
        place = self._keep(n, made)
        self.text += [f"{place}{j}] = {self.read(a)}" for j, a in enumerate(made.args)]

    def _sum(self, n: int, made: Instruction) -> None:
        (x,) = made.args
        self.say(f"v{n} = {self.read(x)}")
        self._rest(x, lambda j: [f"v{n} = v{n} + {self.read(x, j)}"])

    def _argmax(self, n: int, made: Instruction) -> None:
        (x,) = made.args
        self.say(f"v{n}, top{n} = int64(0), {self.read(x)}")
        self._rest(
            x,
            lambda j: [
                f"new{n} = {self.read(x, j)}",
                f"if (new{n} > top{n}) | ((new{n} != new{n}) & (top{n} == top{n})):",
                f"    v{n}, top{n} = int64({j}), new{n}",
            ],
        )

    def _affine(self, n: int, made: Instruction) -> None:
        x, w, *more, scale = made.args
        assert isinstance(w, Table)
        outputs = made.width or 0
        place = "" if outputs <= _FEW else self._keep(n, made)

        def into(o: str) -> str:
            return f"{place}{o}]" if place else f"v{n}_{o}"

        self.each(outputs, lambda o: f"{into(o)} = {self.read(x)} * {_entry(w, ['0', o])}", "o")

        def add(i: str, o: str) -> str:
            return f"{into(o)} = {into(o)} + z{n} * {_entry(w, [i, o])}"

        def turn(i: str) -> list[str]:
            many = [f"for o in range({outputs}):", f"    {add(i, 'o')}"]
            return [f"z{n} = {self.read(x, i)}", *(many if place else [add(i, str(o)) for o in range(outputs)])]

        self._rest(x, turn)
        if scale != "1.0":
            self.each(outputs, lambda o: f"{into(o)} = {scale} * {into(o)}", "o")
        if more:
            self.each(outputs, lambda o: f"{into(o)} = {into(o)} + {self.read(more[0], o)}", "o")

    def _rest(self, x: Ref | Table | str, turn: Callable[[str], Sequence[str]]) -> None:
        """``turn`` for each place of a vector behind the first."""
        assert isinstance(x, Ref)
        count = self.trace.instructions[x.number].width or 0
        if count <= _FEW:
            self.text += [line for j in range(1, count) for line in turn(str(j))]
        else:
            self.text += [f"for i in range(1, {count}):", *[f"    {line}" for line in turn("i")]]


def _entry(table: Table, places: Sequence[str]) -> str:
    """An entry of a table by its place."""
    terms = [str(table.offset), *[f"{p} * {s}" for p, s in zip(places, table.strides, strict=True)]]
    return f"t{table.number}[{' + '.join(terms)}]"
