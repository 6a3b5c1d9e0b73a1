"""Results in the place of operands that nobody reads again.

While a step runs, nobody knows what will still be read, so every result gets a buffer of its own. The tape of a step shows what
is read. A pass that writes where it reads takes one array less through memory. With small arrays that gains nothing: they stay in
the cache and, where BLAS has two threads, half of a buffer that is used again comes from the cache of the other core.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence, Set
from functools import partial
from typing import Any

import numpy as np
from tinynet_backends.capture import Array, Call, leaves, real
from tinynet_backends.replay import offset_of, whole_of

# When a call uses which bytes of a buffer: (time, start, stop). An elementwise function of NumPy reads before it writes; any
# other function may read and write in any order.
Use = tuple[int, int, int]
_LARGE = 2**18  # bytes


def in_place(calls: Sequence[Call], passing: Set[int]) -> list[Call]:
    """The calls of a tape, with results in the place of an operand where that makes no difference.

    ``passing`` are the ids of buffers (`whole_of`) whose values nobody needs before the first call or after the last.
    """
    met = [whole_of(a) for _, args in calls for a in map(real, args) if isinstance(a, np.ndarray)]
    uses = _uses(calls, passing & {id(buffer) for buffer in met if buffer.nbytes >= _LARGE})
    home: dict[int, Array] = {}  # by a buffer's id, the buffer that takes its values instead
    tried: set[tuple[int, int]] = set()

    def found(a: Array) -> Array:
        buffer = whole_of(a)
        while id(buffer) in home:
            buffer = home[id(buffer)]
        return buffer

    for f, args in calls:
        operands, result = _elementwise(f, args)
        for operand in operands:
            new, old = found(result), found(operand)
            pair = id(new), id(old)
            if new is old or pair in tried or not uses.keys() >= set(pair) or not _alike(operand, result):
                continue
            tried.add(pair)
            if new.nbytes <= old.nbytes and _before(uses[id(old)], uses[id(new)]):
                home[id(new)] = old
                uses[id(old)] += uses.pop(id(new))

    def moved(value: Any) -> Any:
        a = real(value)
        if not isinstance(a, np.ndarray) or id(whole_of(a)) not in home:
            return value
        return np.ndarray(a.shape, a.dtype, found(a), offset_of(a, whole_of(a)), a.strides)

    def call(f: Any, args: Sequence[Any]) -> Call:
        return partial(f.func, out=moved(f.keywords["out"])) if _names_out(f) else f, tuple(map(moved, args))

    return [call(f, args) for f, args in calls] if home else list(calls)


def _uses(calls: Sequence[Call], passing: Set[int]) -> dict[int, list[Use]]:
    """The uses of each passing buffer, except those that a function holds outside of its arguments: uses of these are unknown."""
    uses: dict[int, list[Use]] = defaultdict(list)
    hidden: set[int] = set()
    if not passing:
        return uses

    def use(time: int, a: Array) -> None:
        if id(whole_of(a)) in passing:
            uses[id(whole_of(a))].append((time, *_span(a)))

    for n, (f, args) in enumerate(calls):
        operands, result = _elementwise(f, args)
        for a in operands:
            use(2 * n, a)
        if result is not None:
            use(2 * n + 1, result)
            continue
        for a in map(real, args):
            if isinstance(a, np.ndarray):
                use(2 * n + 1, a)
            else:
                hidden.update(_buffers(a))
        hidden.update(_buffers([getattr(f, name, None) for name in ("__self__", "args", "keywords")]))
    return {buffer: found for buffer, found in uses.items() if buffer not in hidden}


def _buffers(tree: Any) -> set[int]:
    """The buffers of the arrays in a tree."""
    return {id(whole_of(a)) for a in leaves(tree) if isinstance(a, np.ndarray)}


def _elementwise(f: Any, args: Sequence[Any]) -> tuple[list[Array], Array | None]:
    """The operands and the result of an elementwise function of NumPy; of another one nothing."""
    if _names_out(f):
        f, args = f.func, (*args, f.keywords["out"])
    if not isinstance(f, np.ufunc) or f.signature or f.nout != 1 or len(args) != f.nin + 1:
        return [], None
    *operands, result = map(real, args)
    return [a for a in operands if isinstance(a, np.ndarray)], result


def _names_out(f: Any) -> bool:
    return isinstance(f, partial) and not f.args and f.keywords.keys() == {"out"}


def _alike(a: Array, b: Array) -> bool:
    """Whether two arrays are the same part of their buffers."""
    return a.shape == b.shape and a.strides == b.strides and a.dtype == b.dtype and _span(a) == _span(b)


def _span(a: Array) -> tuple[int, int]:
    """Where an array begins and ends in its buffer, in bytes."""
    start, stop = np.lib.array_utils.byte_bounds(a)
    first = whole_of(a).__array_interface__["data"][0]
    return start - first, stop - first


def _before(old: Sequence[Use], new: Sequence[Use]) -> bool:
    """Whether each byte of the old buffer has been used for the last time before the new one uses it."""
    a, b = np.asarray(old).T, np.asarray(new).T[..., None]
    return not np.any((a[0] >= b[0]) & (a[1] < b[2]) & (b[1] < a[2]))
