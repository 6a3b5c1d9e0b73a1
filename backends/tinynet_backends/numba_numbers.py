"""Random numbers, orders and samples on numba: kernels that make them by counter."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from tinynet_backends import exact, permutation, philox
from tinynet_backends.backend import Array, Formula
from tinynet_backends.capture import StandIn
from tinynet_backends.compiled import build, counters
from tinynet_backends.compiled.program import Kernel
from tinynet_backends.numba_calls import GRAIN, NumbaCalls, dense, ready, rows_of
from tinynet_backends.philox import Counter, Key
from tinynet_backends.rowwise import traced as traced_rows

TILE = 2048  # random words that are made and used at a time
_SMALL = 2**19  # bytes up to which NumPy gathers faster than a kernel can be called: all is in a core's cache
_F8, _U8, _I8, _BOOL = (np.dtype(kind) for kind in (np.float64, np.uint64, np.int64, np.bool_))


class NumbaNumbers(NumbaCalls):
    """Random words and what is made of them, shuffles, the samples of virtual data sets, and rows by number."""

    def words(self, key: Key, counter: Counter, start: int, n: int) -> Array:
        out = self.empty((n,), _U8)
        place, skip = philox.block_of(counter, start)
        self._run(counters.words, _F8, self._parts(n, GRAIN // 4), n, *key, *place, skip, out)
        return out

    def words_at(self, key: Key, counter: Counter, index: Array, width: int) -> Array:
        out = self.empty((index.size, width), _U8)
        index = np.ascontiguousarray(index, np.int64)
        parts = self._parts(out.size, GRAIN // 4)
        self._run(counters.words_at, _F8, parts, index.size, *key, *counter, width, index, out)
        return out

    def normal(self, words: Array) -> Array:
        (rows, columns, stride), words = _rows(words)
        out = self.empty(words.shape, _F8)
        parts = min(self._parts(out.size), max(rows, 1))
        self._run(
            counters.normal, _F8, parts, rows, columns, words, stride, exact.normal_lines(self.xp, words.device), out
        )
        return out

    def halves(self, words: Array) -> Array:
        (rows, columns, stride), words = _rows(words)
        out = self.empty((*words.shape[:-1], 2 * words.shape[-1]), _F8)
        self._run(counters.halves, _F8, self._parts(out.size), rows, columns, words, stride, out)
        return out

    def dropout(self, x: Array, rate: float, key: Key, counter: Counter) -> tuple[Array, Array]:
        if not ready(x, x.dtype):
            return super().dropout(x, rate, key, counter)
        return self._dropped(x, rate, key, counter, many=False)

    def dropouts(self, x: Array, rate: float, keys: Sequence[Key], counter: Counter) -> tuple[Array, Array]:
        if not x.size or not ready(x, x.dtype):
            return super().dropouts(x, rate, keys, counter)
        return self._dropped(x, rate, keys, counter, many=True)

    def _dropped(self, x: Array, rate: float, keys: Any, counter: Counter, many: bool) -> tuple[Array, Array]:
        """`dropout` of one network, by its key, or `dropouts` of many, by theirs."""
        y, keep = self.empty(x.shape, x.dtype), self.empty(x.shape, _BOOL)
        words = x.size // len(x) if many else x.size, x, float(rate), np.array(keys, _U8), *counter, y, keep
        self._run_each_if(many, counters.dropout, x.dtype, self._parts(x.size), *words)
        return y, keep

    def dropout_grad(self, dy: Array, keep: Array, rate: float) -> Array:
        if not ready(dy, dy.dtype) or not dense(keep) or keep.dtype != np.bool_ or keep.shape != dy.shape:
            return super().dropout_grad(dy, keep, rate)
        dx = self.empty(dy.shape, dy.dtype)
        words = dy.size, dy, keep, float(rate), dx
        self._run(counters.dropout_grad, dy.dtype, self._parts(dy.size), *words, rows=rows_of(dy))
        return dx

    def permute(self, index: Any, n: int, keys: tuple[int, ...]) -> Array:
        return self.permutes(index, n, [keys])[0, ...]

    def permutes(self, index: Any, n: int, keys: Sequence[tuple[int, ...]]) -> Array:
        n = permutation.check_inside(np, index, n)
        a, b = permutation.sides(n)
        used = np.array([permutation.used_keys(each, n) for each in keys], _U8)
        count, m, (listed, start) = len(keys), len(index), _listed(index)
        if count > 1 and isinstance(listed, np.ndarray):
            listed = np.broadcast_to(listed, (count, m))
        out, parts = self.empty((count, m), _I8), self._parts(count * m, GRAIN // 8)
        tiles = self.empty((max(count, parts), counters.TILE), _U8)  # one for each permutation, or part of the only one
        words = m, listed, out, n, a, b, used.shape[1], used, tiles, start
        self._run_each_if(count > 1, counters.permute, _F8, parts, *words)
        return out

    def asarray(self, x: Any, dtype: str | None = None) -> Array:
        if not isinstance(x, StandIn) or x.dtype != np.int64 or dtype not in ("float32", "float64") or not dense(x):
            return super().asarray(x, dtype)
        out = self.empty(x.shape, np.dtype(dtype))  # in a step, whose program a call of NumPy's would divide
        self._run(counters.from_integers, out.dtype, self._parts(x.size), x.size, x, out, rows=rows_of(x))
        return out

    def reads(self, x: Array) -> bool:
        return isinstance(x, np.ndarray) and dense(x) and not x.dtype.hasobject

    def gather(self, arrays: Sequence[Array], index: Array, inside: bool = False) -> list[Array]:
        plain = isinstance(index, (np.ndarray, StandIn)) and index.dtype == np.int64 and index.ndim < 3 and index.size
        usual = plain and all(x.size and len(x) == len(arrays[0]) and self.reads(x) for x in arrays)
        sizes = [x.nbytes // len(x) for x in arrays] if usual else []
        recorded = self._running.tape is not None  # then no Python looks at what the kernel says of indices
        large = usual and min(len(arrays[0]), index.size) * sum(sizes) >= _SMALL
        if not usual or not (inside and dense(index) if recorded else large):
            return super().gather(arrays, index, inside)
        out = [self.empty((*index.shape, *x.shape[1:]), x.dtype) for x in arrays]
        parts = self._parts(index.size * sum(1 + size // 64 for size in sizes), GRAIN // 8)
        each = [word for words in zip(sizes, arrays, out, strict=True) for word in words]
        listed = index if recorded else np.ascontiguousarray(index)
        largest: Any = 0 if recorded else self.empty((parts,), _U8)
        words = index.size, len(arrays[0]), listed, largest, len(arrays), *each
        self._run(counters.gather, _F8, parts, *words, rows=rows_of(index))
        if recorded or largest.max() < len(arrays[0]):
            return out
        return super().gather(arrays, index)  # negative ones count from the end

    def samples(
        self, formula: Formula, key: Key, counter: Counter, index: Any, width: int,
        tables: Sequence[Array], dtype: str, out: Sequence[Array] | None = None,
    ) -> tuple[Array, Array]:  # fmt: skip
        kind = np.dtype(dtype)
        found = _rows_kernel(formula, width, tuple(t.shape for t in tables), kind)
        if found is None or not all(ready(t, _F8) for t in tables):
            return super().samples(formula, key, counter, index, width, tables, dtype)
        (address, normal, scratch, each), k, o, work = found
        n, stream = len(index), self._stream(key, counter, index, width)
        x = self.empty((n, k or 0), kind)
        y = self.empty((n,), _I8) if o is None else self.empty((n, o), kind)
        kernel = Kernel(address, max(1, min(self._parts(n * work, GRAIN // 4), n)))
        tile = max(1, min(TILE // max(width, 1), n))
        before = counters.ROOM + (tile * width + counters.SPARE) * (2 if normal else 1)
        room = self.empty((kernel.parts, before + scratch + tile * each), _F8)
        self._do(kernel, n, tile, x, y, room, room.shape[1], before, *self._exact[1], *stream, *tables)
        return x, y

    @cached_property
    def _exact(self) -> tuple[list[Array], list[int]]:
        """What formulas of samples read normal numbers, sines, cosines and angles from, and the addresses."""
        exacts = exact.normal_lines(np, "cpu"), *exact.circle_table(np, "cpu"), exact.arctan_table(np, "cpu")
        return [*exacts], [a.ctypes.data for a in exacts]

    def _stream(self, key: Key, counter: Counter, index: Any, width: int) -> tuple[Any, ...]:
        """What `counters.drawn` is told."""
        if isinstance(index, range):
            place, skip = philox.block_of(counter, width * index.start)
            return build.written(counters.words, _F8), width, 0, *key, *place, skip
        numbers = np.ascontiguousarray(self.asarray(index), np.int64)
        return build.written(counters.words_at, _F8), width, numbers, *key, *counter, 0, 0


@lru_cache(maxsize=64)
def _rows_kernel(
    formula: Formula, width: int, shapes: tuple[tuple[int, ...], ...], dtype: Any
) -> tuple[tuple[int, bool, int, int], int | None, int | None, int] | None:
    """What `build.rows` says, the widths of features and target and the work of a sample; None for an untraceable formula.

    Kept by the formula: a trace is a long key, and after a step all that Python does it does with cold caches.
    """
    trace = traced_rows(formula, width, shapes)
    if trace is None:
        return None
    k, o = (trace.instructions[ref.number].width for ref in (trace.features, trace.target))
    return build.rows(trace, dtype), k, o, max(width, len(trace.instructions))


def _listed(index: Any) -> tuple[Any, int]:
    """Numbers as a kernel takes them: an array of them, or 0 and the first of a range."""
    return (0, index.start) if isinstance(index, range) else (np.ascontiguousarray(index, np.int64), 0)


def _rows(words: Array) -> tuple[tuple[int, int, int], Array]:
    """`philox.rows_of` of words of any shape, copied if need be."""
    rows = philox.rows_of(words)
    return ((words.size, 1, 1), np.ascontiguousarray(words)) if rows is None else (rows, words)
