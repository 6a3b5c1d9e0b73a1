"""Formulas of samples as the text of kernels for numba."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from tinynet_backends.compiled.emit import SPELLED
from tinynet_backends.rowtext import FEW, KEPT, Writer, tables
from tinynet_backends.rowwise import Instruction, RowTrace, Table
from tinynet_backends.tracing import Ref

_SETUP = [  # from the kernel's words
    "x, y, room = pointer(real, w[2]), w[3], w[4] + 8 * part * w[5]",
    "scratch = room + 8 * w[6]",
    "float64s, uint64s, int64s = pointer(float64, scratch), pointer(uint64, scratch), pointer(int64, scratch)",
    "table, sines, cosines, angles = w[7], pointer(float64, w[8]), pointer(float64, w[9]), pointer(float64, w[10])",
    "lines, stream = pointer(float64, table), at + 8 * 11",
]
_FIRST_TABLE = 21  # the word behind those
_SHORT = 32  # numbers in a row: a loop over no more is unrolled by the compiler, and then not made of vectors


class Numba:
    """Python as numba takes it; vectors are kept in a scratch row of each part."""

    spelled = SPELLED | {
        "remainder": "{} % {}", "bitwise_and": "{} & {}", "bitwise_or": "{} | {}", "bitwise_xor": "{} ^ {}",
        "left_shift": "{} << {}", "right_shift": "{} >> {}", "log": "log({})", "sine": "sine({}, sines, cosines)",
        "cosine": "cosine({}, sines, cosines)", "arctan": "arctan({}, {}, angles)", "normal": "normal({}, lines)",
        "constant": "{}",
    }  # fmt: skip

    def __init__(self, width: int | None) -> None:
        self.scratch, self.width = 0, width

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

    def buffer(self, number: int, kind: str, width: int) -> tuple[list[str], str]:
        place, self.scratch = self.scratch, self.scratch + width
        return [], f"{kind}s[{place} + {{}}]"

    def constant(self, text: str) -> str:
        return text

    def word(self, place: str) -> str:
        return f"words[(row - first) * {self.width} + {place}]"

    def cast(self, kind: str, value: str) -> str:
        return f"{kind}({value})"


class _Rows(Writer):
    """Values made of words alone are computed for a whole tile, or read in place."""

    language: Numba

    def __init__(self, trace: RowTrace, language: Numba) -> None:
        self.long: list[str] = []  # loops over the rows of a tile as one, before those over a row
        self.made: dict[int, int] = {}  # vectors that they leave, and how many numbers of a row come before
        super().__init__(trace, language)

    def expression(self, made: Instruction, place: str = "0") -> str:
        first = self.place(made.args[0]) if made.op in ("normal", "halves") else None
        if first is None:
            return super().expression(made, place)
        row = f"(row - first) * {self.language.width}"
        if made.op == "halves":
            return f"(float64(half_words[2 * ({row} + {first}) + {place}]) * {2.0**-32})"
        return f"normal_words[{row} + {first} + {place}]" if self.tiled else super().expression(made, place)

    def _instruction(self, n: int) -> None:
        made = self.trace.instructions[n]
        if made.op != "normal" or (made.width or 0) <= FEW or not self.tiled or self.place(made.args[0]) is None:
            super()._instruction(n)  # otherwise it is already kept

    def _features(self, width: int) -> None:
        if not self.even(self.trace.features):
            super()._features(width)
            return
        value = self.language.cast("real", self.read(self.trace.features, "j"))
        self._long(width, f"x[row * {width} + j]", value)

    def _sum(self, n: int, made: Instruction) -> None:
        x: Any = made.args[0]
        source = self.trace.instructions[x.number]
        if source.kind in KEPT and self.even(x):
            width, value = source.width or 0, self.read(x, "j")
            self.made[x.number] = sum(self.trace.instructions[m].width or 0 for m in self.made)
            self.kept[x.number] = f"made{x.number}[(row - first) * {width} + {{}}]"
            self._long(width, f"made{x.number}[j]", f"{source.kind}({value})")
        super()._sum(n, made)

    def _long(self, width: int, target: str, value: str) -> None:
        self.long += [f"for j in range({width} * (last - first)):", f"    {target} = {value}"]

    def even(self, value: Ref | Table | str) -> bool:
        """Whether a vector is made of all words of its row, each number of one word and in their order: the vectors of all rows in
        a tile are then one long vector, and a loop over that is faster than a short loop over each row."""
        if not isinstance(value, Ref):
            return isinstance(value, str)
        made = self.trace.instructions[value.number]
        if not FEW < (made.width or 0) <= _SHORT or value.number in self.kept:
            return False
        if made.op in ("halves", "normal", "part"):
            source: Any = made.args[0]
            size = self.trace.instructions[source.number].width
            if made.op == "part":
                return made.places[0] == 0 and made.width == size and self.even(source)
            return self.place(source) == 0 and size == self.language.width and (made.op == "halves" or self.tiled)
        return (made.op == "astype" or made.op in self.language.spelled) and all(map(self.even, made.args))

    def place(self, value: Ref | Table | str) -> int | None:
        """Where in the row's words a number or a vector is, if it is a part of them."""
        made = self.trace.instructions[value.number] if isinstance(value, Ref) else None
        if made is None or made.op not in ("words", "part", "element"):
            return None
        before = 0 if made.op == "words" else self.place(made.args[0])
        return None if before is None else before + sum(made.places)

    @cached_property
    def tiled(self) -> bool:
        """Whether so many words become normal numbers that all of them do."""
        made = [i for i in self.trace.instructions if i.op == "normal" and self.place(i.args[0]) is not None]
        return 2 * sum(i.width or 1 for i in made) >= (self.language.width or 1)


def lines(trace: RowTrace) -> tuple[list[str], bool, int, int]:
    """The body of a kernel; whether it keeps a normal number for each word of a tile; and how many other numbers it keeps,
    for one row at a time and for each row of a tile."""
    language = Numba(trace.instructions[0].width)
    written = _Rows(trace, language)
    named, width = trace.instructions[trace.target.number].width is None, language.width
    normal = [f"    normals(first_word, table, tile, {width} * (last - first))"] if written.tiled else []
    made = [(n, trace.instructions[n], before) for n, before in written.made.items()]
    return [
        *_SETUP, "labels = pointer(int64, y)" if named else "targets = pointer(real, y)",
        *[f"t{n} = pointer(float64, w[{_FIRST_TABLE + n}])" for n in tables(trace)],
        *[f"made{n} = pointer({i.kind}, scratch + 8 * ({language.scratch} + {before} * w[1]))" for n, i, before in made],
        f"tile = room + 8 * (ROOM + {width} * w[1] + SPARE)", "normal_words = pointer(float64, tile)",
        "low, high = share(w[0], part, parts, 1)", "for first in range(low, high, w[1]):",
        "    last = min(first + w[1], high)", "    first_word = drawn(stream, first, last - first, room)", *normal,
        "    words, half_words = pointer(uint64, first_word), pointer(uint32, first_word)",
        "    row = first", *[f"    {line}" for line in written.long],
        "    for row in range(first, last):", *[f"        {line}" for line in written.text],
    ], written.tiled, language.scratch, sum(i.width or 0 for _, i, _ in made)  # fmt: skip
