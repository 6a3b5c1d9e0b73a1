"""Sample formulas written out as loops over rows, in any language that has numbers, assignments and loops.

Short vectors become one variable per number; longer ones are computed where they are read, or stored if read twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from tinynet_backends.rowwise import Instruction, RowTrace, Table
from tinynet_backends.tracing import Ref

FEW = 8  # the length up to which a vector gets one variable per number
_VIEWS = {"words", "part", "column", "halves", "take", "constant"}  # recomputed rather than stored
KEPT = {"float64", "uint64", "int64"}  # kinds of numbers that buffers hold


class Language(Protocol):
    """The syntax of a language. Values and places are expressions, statements are lists of lines."""

    spelled: dict[str, str]  # operations on numbers, with {} for each operand

    def let(self, name: str, kind: str, value: str) -> str:
        """A new variable."""
        ...

    def put(self, target: str, value: str) -> str:
        """An assignment."""
        ...

    def loop(self, name: str, first: int, end: int, lines: Sequence[str]) -> list[str]: ...

    def features(self, name: str, width: int, value: str) -> list[str]:
        """The row of ``x``: ``value`` at each place, in any order."""
        ...

    def when(self, condition: str, lines: Sequence[str]) -> list[str]: ...

    def buffer(self, number: int, kind: str, width: int) -> tuple[list[str], str]:
        """The statements that allocate vector ``number``, and the name of its elements, with {} for the place."""
        ...

    def word(self, place: str) -> str:
        """One of the row's words."""
        ...

    def constant(self, text: str) -> str: ...

    def cast(self, kind: str, value: str) -> str:
        """A value as another kind; 'real' is the dtype of the samples."""
        ...


class Writer:
    """The statements that make one row, in ``text``. Results go to ``x``, and to ``labels`` or ``targets``."""

    def __init__(self, trace: RowTrace, language: Language) -> None:
        self.trace, self.language, self.text = trace, language, list[str]()
        self.kept: dict[int, str] = {}  # stored vectors, and the names of their elements
        self.uses = Counter([trace.features.number, trace.target.number])
        for n, made in reversed(list(enumerate(trace.instructions))):  # a read of a view is a read of its base
            reads = self.uses[n] if made.op in _VIEWS else min(self.uses[n], 1)
            self.uses.update({a.number: reads for a in made.args if isinstance(a, Ref)})
        for n in range(len(trace.instructions)):
            if self.uses[n]:
                self._instruction(n)
        width = trace.instructions[trace.features.number].width or 0
        if width > FEW:
            self._features(width)
        else:
            self._result("x", trace.features)
        self._result("labels" if trace.instructions[trace.target.number].width is None else "targets", trace.target)

    def _features(self, width: int) -> None:
        value = self.language.cast("real", self.read(self.trace.features, "j"))
        self.text += self.language.features("j", width, value)

    def _result(self, name: str, ref: Ref) -> None:
        width, language = self.trace.instructions[ref.number].width, self.language
        if width is None:
            self.text.append(language.put(f"{name}[row]", self.read(ref)))
            return
        self.text += self._each(
            width, lambda j: language.put(f"{name}[row * {width} + {j}]", language.cast("real", self.read(ref, j)))
        )

    def _each(self, count: int, line: Callable[[str], str], name: str = "j") -> list[str]:
        """``line`` for each place of a vector."""
        if count <= FEW:
            return [line(str(j)) for j in range(count)]
        return self.language.loop(name, 0, count, [line(name)])

    # Values --------------------------------------------------------------------------------------------------------

    def read(self, value: Ref | Table | str, place: str = "0") -> str:
        """A value at a place of its vector, or the value itself if it is a number."""
        if isinstance(value, str):
            return self.language.constant(value)
        if isinstance(value, Table):
            return _entry(value, [place] if len(value.shape) == 1 else ["0", place] if value.shape else [])
        n = value.number
        made = self.trace.instructions[n]
        if made.width is None:
            return f"v{n}"
        place = "0" if made.width == 1 else place
        if n in self.kept:
            return self.kept[n].format(place)
        named = made.width <= FEW and place.isdigit()
        return f"v{n}_{place}" if named else self.expression(made, place)

    def expression(self, made: Instruction, place: str = "0") -> str:
        args = made.args
        if made.op == "words":
            return self.language.word(place)
        if made.op in ("element", "part"):
            first = made.places[0]
            inside = f"({first} + {place})" if made.op == "part" else str(first)
            return self.read(args[0], str(first + int(place)) if place.isdigit() else inside)
        if made.op == "column":
            return self.read(args[0])
        if made.op == "halves":
            word, upper = ((f"({place} >> 1)", f"({place} & 1)") if not place.isdigit() else
                           (str(int(place) // 2), str(int(place) % 2)))  # fmt: skip
            return f"half({self.read(args[0], word)}, {upper})"
        if made.op == "take":
            table, index = args
            assert isinstance(table, Table)
            i, spelled = self.read(index), self.language.spelled
            inside = spelled["logical_and"].format(f"({i} >= 0)", f"({i} < {table.shape[0]})")
            entry = _entry(table, [i, place][: len(table.shape)])
            # a row that is not there, which is NumPy's error, must not be what lies beside the table
            return "(" + spelled["where"].format(f"({inside})", entry, self.language.constant("nan")) + ")"
        if made.op == "astype":
            return self.language.cast(made.kind, self.read(args[0], place))
        return "(" + self.language.spelled[made.op].format(*[self.read(a, place) for a in args]) + ")"

    # Instructions --------------------------------------------------------------------------------------------------

    def _instruction(self, n: int) -> None:
        made, language = self.trace.instructions[n], self.language
        special = {"sum": self._sum, "argmax": self._argmax, "affine": self._affine, "stack": self._stack}.get(made.op)
        if special:
            special(n, made)
        elif made.width is None:
            self.text.append(language.let(f"v{n}", made.kind, self.expression(made)))
        elif made.width <= FEW:
            self._names(n, made, [self.expression(made, str(j)) for j in range(made.width)])
        elif self.uses[n] > 1 and made.op not in _VIEWS and made.kind in KEPT:
            place = self._keep(n, made)
            self.text += self._each(made.width, lambda j: language.put(place.format(j), self.expression(made, j)))

    def _names(self, n: int, made: Instruction, values: Sequence[str]) -> None:
        self.text += [self.language.let(f"v{n}_{j}", made.kind, value) for j, value in enumerate(values)]

    def _keep(self, n: int, made: Instruction) -> str:
        lines, self.kept[n] = self.language.buffer(n, made.kind, made.width or 1)
        self.text += lines
        return self.kept[n]

    def _stack(self, n: int, made: Instruction) -> None:
        values = [self.read(a) for a in made.args]
        if len(values) <= FEW:
            self._names(n, made, values)
            return
        place = self._keep(n, made)
        self.text += [self.language.put(place.format(j), value) for j, value in enumerate(values)]

    def _sum(self, n: int, made: Instruction) -> None:
        (x,) = made.args
        self.text.append(self.language.let(f"v{n}", made.kind, self.read(x)))
        self._rest(x, lambda j: [self.language.put(f"v{n}", f"v{n} + {self.read(x, j)}")])

    def _argmax(self, n: int, made: Instruction) -> None:
        (x,), language = made.args, self.language
        self.text += [language.let(f"v{n}", "int64", "0"), language.let(f"top{n}", "float64", self.read(x))]
        self.text.append(language.let(f"new{n}", "float64", f"top{n}"))
        either, both = language.spelled["logical_or"], language.spelled["logical_and"]
        first_nan = both.format(f"(new{n} != new{n})", f"(top{n} == top{n})")
        condition = either.format(f"(new{n} > top{n})", f"({first_nan})")

        def step(j: str) -> list[str]:
            larger = [language.put(f"v{n}", j), language.put(f"top{n}", f"new{n}")]
            return [language.put(f"new{n}", self.read(x, j)), *language.when(condition, larger)]

        self._rest(x, step)

    def _affine(self, n: int, made: Instruction) -> None:
        x, w, *bias, scale = made.args
        assert isinstance(w, Table)
        outputs, put = made.width or 0, self.language.put

        def each(value: Callable[[str], str]) -> list[str]:
            return self._each(outputs, lambda o: put(place.format(o), value(o)), "o")

        def first(o: str) -> str:
            return f"{self.read(x)} * {_entry(w, ['0', o])}"

        def step(i: str) -> list[str]:
            sums = each(lambda o: f"{place.format(o)} + z{n} * {_entry(w, [i, o])}")
            return [put(f"z{n}", self.read(x, i)), *sums]

        if outputs <= FEW:
            place = f"v{n}_{{}}"
            self._names(n, made, [first(str(o)) for o in range(outputs)])
        else:
            place = self._keep(n, made)
            self.text += each(first)
        self.text.append(self.language.let(f"z{n}", "float64", "0.0"))
        self._rest(x, step)
        if scale != "1.0":
            self.text += each(lambda o: f"{self.read(scale)} * {place.format(o)}")
        if bias:
            self.text += each(lambda o: f"{place.format(o)} + {self.read(bias[0], o)}")

    def _rest(self, x: Ref | Table | str, step: Callable[[str], Sequence[str]]) -> None:
        """``step`` for each place of a vector after the first."""
        assert isinstance(x, Ref)
        count = self.trace.instructions[x.number].width or 0
        if count <= FEW:
            self.text += [line for j in range(1, count) for line in step(str(j))]
        else:
            self.text += self.language.loop("i", 1, count, step("i"))


def tables(trace: RowTrace) -> list[int]:
    """The indices of the tables that a formula reads."""
    return sorted({a.number for i in trace.instructions for a in i.args if isinstance(a, Table)})


def _entry(table: Table, places: Sequence[str]) -> str:
    """The entry of a table at these indices."""
    terms = [str(table.offset), *[f"{p} * {s}" for p, s in zip(places, table.strides, strict=True)]]
    return f"t{table.number}[{' + '.join(terms)}]"
