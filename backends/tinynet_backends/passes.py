"""A traced formula written out for NumPy: the fewest passes, every result in a buffer that is used again.

A formula as it stands asks for an array at every operator. Here each operator writes into a scratch block whose last
reader is behind it, and the last ones straight into the results, so that all of a block stays in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import inf, nan
from typing import Any

import numpy as np
from tinynet_backends.tracing import ON_NUMBERS, Ref, Trace

Array = Any


@dataclass(frozen=True)
class Passes:
    """``run(*inputs, *outputs, *scratch, *masks)``: flat inputs and then numbers, outputs, and as many flat ``scratch``
    arrays (of the inputs' dtype) and ``masks`` (of bools) as it takes, all of one length. Outputs must not lie where
    inputs do.
    """

    run: Callable[..., None]
    scratch: int
    masks: int


@lru_cache(maxsize=1024)
def write_passes(trace: Trace) -> Passes:
    """The passes that a trace comes down to, compiled from their text."""
    free: dict[str, list[str]] = {"t": [], "m": []}  # buffers by their letter: t for numbers, m for masks
    made = {"t": 0, "m": 0}
    names = {n: f"a{n}" for n in range(trace.inputs)}
    outputs = {ref.number: f"o{n}" for n, ref in enumerate(trace.outputs) if ref.number >= trace.inputs}
    last, lines = trace.last_uses(), []

    def take(letter: str) -> str:
        if free[letter]:
            return free[letter].pop()
        made[letter] += 1
        return f"{letter}{made[letter] - 1}"

    def release(buffers: set[str]) -> None:
        for name in buffers:
            free[name[0]].append(name)

    for n, (op, args, kind) in enumerate(trace.instructions):
        number = trace.inputs + n
        values = [names[a.number] if isinstance(a, Ref) else a for a in args]
        if kind == "number":
            names[number] = f"s{n}"
            lines.append(f"s{n} = {f' {ON_NUMBERS[op]} '.join(values) if len(values) == 2 else '-' + values[0]}")
            continue
        letter = "m" if kind == "truth" else "t"
        refs = {a.number for a in args if isinstance(a, Ref)}
        dead = {names[r] for r in refs if last[r] == n and names[r][0] in free}
        if op == "where":  # it reads its operands more than once: it writes elsewhere
            own = outputs.get(number) or take(letter)
            release(dead)
            lines.append(f"select({', '.join(values)}, {own})")
        else:
            release(dead)
            own = outputs.get(number) or take(letter)
            lines.append(f"np.{op}({', '.join(values)}, out={own})")
        names[number] = own
    for n, ref in enumerate(trace.outputs):
        if names[ref.number] != f"o{n}":
            lines.append(f"o{n}[...] = {names[ref.number]}")
    names_in_order = {"a": trace.inputs, "o": len(trace.outputs), **made}
    head = ", ".join(f"{letter}{n}" for letter, count in names_in_order.items() for n in range(count))
    space: dict[str, Any] = {"np": np, "select": select, "inf": inf, "nan": nan}
    exec(f"def run({head}):\n    " + "\n    ".join(lines or ["pass"]), space)
    return Passes(space["run"], made["t"], made["m"])


_FEW = 512  # elements that are chosen one by one sooner than by the bits
_INTEGER = {2: np.dtype(np.int16), 4: np.dtype(np.int32), 8: np.dtype(np.int64)}


def select(condition: Array, x: Any, y: Any, out: Array) -> None:
    """``out = x where condition else y``, by the bits: a branch at every element takes several times as long."""
    if out.size <= _FEW:
        np.copyto(out, y)
        np.copyto(out, x, where=condition)
        return
    kind: Any = _INTEGER[out.dtype.itemsize]
    mask = np.negative(condition.view(np.int8), dtype=kind)
    xs, ys = (v.view(kind) if isinstance(v, np.ndarray) else out.dtype.type(v).view(kind) for v in (x, y))
    bits = out.view(kind)
    if not isinstance(y, np.ndarray) and ys == 0:
        np.bitwise_and(xs, mask, out=bits)
        return
    np.bitwise_xor(xs, ys, out=bits)
    np.bitwise_and(bits, mask, out=bits)
    np.bitwise_xor(bits, ys, out=bits)
