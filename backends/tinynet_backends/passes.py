"""A traced formula written out for NumPy: the fewest passes, every result in a buffer that is used again.

A formula as it stands asks for an array at every operator, and for a new one of each of its numbers. Here each operator
writes into a scratch block whose last reader is behind it, and the last ones straight into the results, so that all of a
block stays in the cache; and a pass is one call of a C function on arrays, with no Python in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import inf, nan
from typing import Any, NamedTuple

import numpy as np
from tinynet_backends.capture import Call, real
from tinynet_backends.tracing import ON_NUMBERS, Ref, Trace

Array = Any

_FEW = 512  # elements that are chosen one by one sooner than by the bits
INTEGER = {2: np.dtype(np.int16), 4: np.dtype(np.int32), 8: np.dtype(np.int64)}
_COMPARES = ("maximum", "minimum")  # they want their result named, and beside one number take three times as long


class Slot(NamedTuple):
    """Where an operand is: ``kind`` a, an input; o, an output; t, m, i, scratch of the formula's dtype, of bools, of integers
    as wide; n, a number (); or c, the constant whose text is ``which``."""

    kind: str
    which: Any


class Pass(NamedTuple):
    """One operation on whole arrays."""

    op: str
    args: tuple[Slot, ...]
    out: Slot


@dataclass(frozen=True)
class Passes:
    """``numbers(*numbers, *slots)`` writes what the passes read as () arrays, as many as ``slots``; ``scratch`` says how
    many arrays of each kind they need. Outputs must not lie where inputs do, but those that were asked for there.
    """

    passes: tuple[Pass, ...]
    numbers: Callable[..., None]
    slots: int
    scratch: Counter[str]

    def calls(self, dtype: Any, size: int, places: dict[str, Sequence[Array]]) -> list[Call]:
        """The passes on flat arrays of one length, by their kind."""
        made: list[Call] = []

        for op, args, out in self.passes:
            filled = size if op in _COMPARES else None
            values = [_constant(a.which, dtype, filled) if a.kind == "c" else places[a.kind][a.which] for a in args]
            result = places[out.kind][out.which]
            if op == "where":
                condition, x, y = values
                made += _select(size, dtype, condition, x, y, result, places["i"][0], args[2] == Slot("c", "0.0"))
            elif op == "store":
                made.append((np.copyto, (result, *values)))
            elif op == "multiply" and values[0] is values[1]:
                made.append((np.square, (values[0], result)))
            elif op in _COMPARES:
                made.append((partial(getattr(np, op), out=real(result)), tuple(values)))
            else:
                made.append((getattr(np, op), (*values, result)))
        return made


@lru_cache(maxsize=1024)
def write_passes(trace: Trace, in_place: bool = False) -> Passes:
    """The passes that a trace comes down to; ``in_place`` those that write the n-th output where the n-th input is."""
    free: dict[str, list[Slot]] = {"t": [], "m": []}
    made: Counter[str] = Counter()
    last, found, lines = trace.last_uses(), list[Pass](), list[str]()
    place = {n: Slot("a", n) for n in range(trace.arrays)}
    numbers = {trace.arrays + n: f"s{n}" for n in range(trace.numbers)}  # their names in the text of ``numbers``
    slots: dict[str, Slot] = {}  # of these, those that a pass reads
    results = {ref.number: n for n, ref in enumerate(trace.outputs) if ref.number >= trace.inputs}

    def take(kind: str) -> Slot:
        if free[kind]:
            return free[kind].pop()
        made[kind] += 1
        return Slot(kind, made[kind] - 1)

    def slot(arg: Ref | str) -> Slot:
        if isinstance(arg, str):
            return Slot("c", arg)
        if arg.number in place:
            return place[arg.number]
        return slots.setdefault(numbers[arg.number], Slot("n", len(slots)))

    for n, (op, args, kind) in enumerate(trace.instructions):
        number = trace.inputs + n
        if kind == "number":
            values = [numbers[a.number] if isinstance(a, Ref) else a for a in args]
            numbers[number] = f"v{n}"
            lines.append(f"v{n} = {f' {ON_NUMBERS[op]} '.join(values) if len(values) == 2 else '-' + values[0]}")
            continue
        operands = tuple(slot(a) for a in args)
        dead = {place[a.number] for a in args if isinstance(a, Ref) and a.number in place and last[a.number] == n}
        spare = [s for s in dead if s.kind in free]
        if op != "where":  # which reads its operands more than once, and so writes elsewhere
            for s in spare:
                free[s.kind].append(s)
        own = None
        if number in results:
            output = results[number]
            own = Slot("o", output)
            if in_place:
                read = last.get(output, -1)
                own = Slot("a", output) if read < n or (read == n and op != "where") else None
        own = own or take("m" if kind == "truth" else "t")
        if op == "where":
            made["i"] = 1
            for s in spare:
                free[s.kind].append(s)
        found.append(Pass(op, operands, own))
        place[number] = own
    found += _stores(trace, place, take, "a" if in_place else "o")
    text = [*lines, *(f"c{s.which}[...] = {name}" for name, s in slots.items())] or ["pass"]
    head = [*(f"s{n}" for n in range(trace.numbers)), *(f"c{n}" for n in range(len(slots)))]
    space: dict[str, Any] = {"inf": inf, "nan": nan}
    exec(f"def numbers({', '.join(head)}):\n    " + "\n    ".join(text), space)
    return Passes(tuple(found), space["numbers"], len(slots), made)


def _stores(trace: Trace, place: dict[int, Slot], take: Callable[[str], Slot], kind: str) -> list[Pass]:
    """Of outputs that are not yet where they belong: inputs, which another may be about to replace, by way of scratch."""
    aside, stores = list[Pass](), list[Pass]()
    for n, ref in enumerate(trace.outputs):
        source, target = place[ref.number], Slot(kind, n)
        if source == target:
            continue
        if source.kind == kind == "a":
            aside.append(Pass("store", (source,), take("t")))
            source = aside[-1].out
        stores.append(Pass("store", (source,), target))
    return aside + stores


@lru_cache(maxsize=4096)
def _constant(text: str, dtype: Any, size: int | None) -> Array:
    value = np.full(() if size is None else size, float(text), dtype)
    value.flags.writeable = False
    return value


def _select(
    size: int, dtype: Any, condition: Array, x: Array, y: Array, out: Array, mask: Array, else_nothing: bool
) -> list[Call]:
    """``out = x where condition else y``, by the bits: a branch at every element takes several times as long."""
    if size <= _FEW:
        return [(np.copyto, (out, y)), (np.copyto, (out, x, "same_kind", condition))]
    xs, ys, bits = (a.view(INTEGER[dtype.itemsize]) for a in (x, y, out))
    as_number: Call = np.copyto, (mask, condition)  # 1 or 0
    if else_nothing:
        return [as_number, (np.multiply, (xs, mask, bits))]
    return [
        as_number,
        (np.negative, (mask, mask)),
        (np.bitwise_xor, (xs, ys, bits)),
        (np.bitwise_and, (bits, mask, bits)),
        (np.bitwise_xor, (bits, ys, bits)),
    ]
