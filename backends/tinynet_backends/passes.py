"""A traced formula as NumPy calls: as few passes as possible, every result in a reused buffer.

Evaluated as written, a formula allocates an array for every operator. Here each operator writes into a scratch block whose
last reader has run, and the last ones straight into the results, so that a block stays in the cache; and a pass is one
call of a C function on arrays, with no Python in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from math import inf, nan
from typing import Any, NamedTuple

import numpy as np
from tinynet_backends.capture import Array, Call, real
from tinynet_backends.tracing import ON_NUMBERS, Ref, Trace

_FEW = 512  # up to so many elements, selecting by a mask is faster than by bits
INTEGER = {2: np.dtype(np.int16), 4: np.dtype(np.int32), 8: np.dtype(np.int64)}
# These take their result by name; with a () array as an operand they are three times as slow as with a full one.
_COMPARES = ("maximum", "minimum")


class Slot(NamedTuple):
    """Where an operand is. ``kind``: a, an input; o, an output; t, m, i, scratch of the formula's dtype, of bools, of
    integers as wide; n, a number in a () array; c, the constant whose text is ``which``."""

    kind: str
    which: Any


class Pass(NamedTuple):
    """One operation on whole arrays."""

    op: str
    args: tuple[Slot, ...]
    out: Slot


class OnNumbers:
    """``f(*numbers, *slots)`` fills () arrays with what a formula computes from plain numbers."""

    def __init__(self, f: Callable[..., None]) -> None:
        self.f = f

    def __call__(self, *args: Any) -> None:
        self.f(*args)


class Passes(NamedTuple):
    """A formula's passes. ``numbers`` fills the () arrays that they read, ``slots`` of them; ``scratch`` counts the
    arrays of each kind that they need. Outputs must not overlap inputs, except in place.
    """

    passes: tuple[Pass, ...]
    numbers: OnNumbers
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
            elif op == "divide" and args[0] == Slot("c", "1.0"):
                made.append((np.reciprocal, (values[1], result)))
            elif op in _COMPARES:
                made.append((partial(getattr(np, op), out=real(result)), tuple(values)))
            else:
                made.append((getattr(np, op), (*values, result)))
        return made


class _Scratch:
    """Blocks for intermediate results, by kind; a block is used again once its last reader has run."""

    def __init__(self) -> None:
        self.free: dict[str, list[Slot]] = {"t": [], "m": []}
        self.made: Counter[str] = Counter()

    def take(self, kind: str) -> Slot:
        if self.free[kind]:
            return self.free[kind].pop()
        self.made[kind] += 1
        return Slot(kind, self.made[kind] - 1)

    def release(self, slots: Iterable[Slot]) -> None:
        """Take back those of ``slots`` that are scratch."""
        for slot in slots:
            if slot.kind in self.free:
                self.free[slot.kind].append(slot)


@lru_cache(maxsize=1024)
def write_passes(trace: Trace, in_place: bool = False) -> Passes:
    """The passes of a trace; with ``in_place`` its n-th output is written where its n-th input is."""
    scratch, last, found = _Scratch(), trace.last_uses(), list[Pass]()
    place = {n: Slot("a", n) for n in range(trace.arrays)}
    numbers: dict[int, Slot] = {}  # those that a pass reads
    outputs = {ref.number: n for n, ref in enumerate(trace.outputs) if ref.number >= trace.inputs}

    def slot(arg: Ref | str) -> Slot:
        if isinstance(arg, str):
            return Slot("c", arg)
        if arg.number in place:
            return place[arg.number]
        return numbers.setdefault(arg.number, Slot("n", len(numbers)))

    def own_place(number: int, n: int, selects: bool) -> Slot | None:
        """Where the n-th instruction may write an output at once."""
        if number not in outputs:
            return None
        output = outputs[number]
        if not in_place:
            return Slot("o", output)
        read = last.get(output, -1)  # the input that lies there
        return Slot("a", output) if read < n or (read == n and not selects) else None

    for n, (op, args, kind) in enumerate(trace.instructions):
        number, selects = trace.inputs + n, op == "where"
        if kind == "number":
            continue
        operands = tuple(slot(a) for a in args)
        dead = {place[a.number] for a in args if isinstance(a, Ref) and a.number in place and last[a.number] == n}
        if not selects:
            scratch.release(dead)
        target = own_place(number, n, selects) or scratch.take("m" if kind == "bool" else "t")
        if selects:  # reads its operands more than once, and so must not write where they are
            scratch.made["i"] = 1
            scratch.release(dead)
        found.append(Pass(op, operands, target))
        place[number] = target
    found += _stores(trace, place, scratch.take, "a" if in_place else "o")
    return Passes(tuple(found), _on_numbers(trace, [*numbers]), len(numbers), scratch.made)


def _on_numbers(trace: Trace, read: Sequence[int]) -> OnNumbers:
    """What a formula does with plain numbers, to fill a () array with each of those that passes ``read``."""
    lines = []
    for n, (op, args, kind) in enumerate(trace.instructions, start=trace.inputs):
        if kind == "number":
            values = [f"s{a.number}" if isinstance(a, Ref) else a for a in args]
            lines.append(f"s{n} = {ON_NUMBERS[op].format(*values)}")
    lines += [f"c{n}[...] = s{n}" for n in read] or ["pass"]
    head = [*(f"s{n}" for n in range(trace.arrays, trace.inputs)), *(f"c{n}" for n in read)]
    space: dict[str, Any] = {"inf": inf, "nan": nan}
    exec(f"def numbers({', '.join(head)}):\n    " + "\n    ".join(lines), space)
    return OnNumbers(space["numbers"])


def _stores(trace: Trace, place: dict[int, Slot], take: Callable[[str], Slot], kind: str) -> list[Pass]:
    """Copies for outputs that are elsewhere; of inputs by way of scratch, since another output may replace them."""
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
    """``out = x where condition else y`` by bit operations: a branch at every element takes several times as long."""
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
