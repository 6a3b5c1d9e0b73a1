"""Random numbers and samples on NumPy: the portable formulas with its generator in C, and in blocks that fit the cache."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from tinynet_backends import exact, permutation
from tinynet_backends.backend import Array, Backend, Formula
from tinynet_backends.philox import Counter, Key, block_of
from tinynet_backends.threads import for_each

BLOCK = 32768  # elements: a handful of float32 temporaries of this length fit a 1 MiB second-level cache
_SIGN = np.uint64(2**63)
_FEW = 8  # columns: to copy rows so short takes NumPy several times as long as column by column


class _Generator(threading.local):
    """Each thread's Philox: to set its state takes a tenth of the time of making a new one."""

    philox: np.random.Philox | None = None
    state: Any = None

    def words(self, key: Sequence[int], counter: Sequence[int], n: int) -> Array:
        if self.philox is None:
            self.philox = np.random.Philox(0)
            self.state = self.philox.state
        self.state["state"]["counter"][:] = np.asarray(counter, np.uint64)
        self.state["state"]["key"][:] = np.asarray(key, np.uint64)
        self.philox.state = self.state
        return self.philox.random_raw(n)


_GENERATOR = _Generator()


class NumpyNumbers(Backend):
    block = 2 * BLOCK  # random words at a time: fewer passes touch them

    def words(self, key: Key, counter: Counter, start: int, n: int) -> Array:
        place, skip = block_of(counter, start - 4)  # the block before: NumPy increments the counter first
        return _GENERATOR.words(key, place, skip + n)[skip:]

    def normal(self, words: Array) -> Array:
        # each cell's a and b side by side, as one complex number: one look-up finds both
        lines = exact.normal_lines(self.xp, words.device).view(np.complex128).reshape(-1)
        flat = _in_order(words).reshape(-1)
        z = np.empty(flat.shape)
        size = min(BLOCK, flat.size)
        integers, found = np.empty(size, np.uint64), np.empty(size, np.complex128)
        for start in range(0, flat.size, BLOCK):
            w, g = flat[start : start + BLOCK], z[start : start + BLOCK]
            k, line = integers[: w.size], found[: w.size]
            cell = k.view(np.int64)
            np.right_shift(w, 11, out=k)
            np.bitwise_or(k, exact.WORD_EXPONENT, out=k)
            np.subtract(k.view(np.float64), exact.WORD_OFFSET, out=g)
            np.right_shift(g.view(np.int64), 42, out=cell)
            lines.take(cell, out=line, mode="wrap")  # of complex numbers faster than "clip"; all are inside
            np.multiply(g, line.imag, out=g)
            np.add(g, line.real, out=g)
            np.bitwise_and(w, _SIGN, out=k)
            bits = g.view(np.uint64)
            np.bitwise_xor(bits, k, out=bits)
        return z.reshape(words.shape)

    def halves(self, words: Array) -> Array:
        w = np.ascontiguousarray(words).astype("<u8", copy=False).view("<u4")
        return np.multiply(w, 2.0**-32)

    def sincos(self, turns: Array) -> tuple[Array, Array]:
        # `exact.sincos` in place
        flat = turns.reshape(-1)
        near = flat * float(exact.POINTS)
        np.rint(near, out=near)
        cell = near.astype(np.int64)
        cell &= exact.POINTS - 1
        near *= 1.0 / exact.POINTS
        t = np.subtract(flat, near, out=near)
        square = t * t
        s, c = square * exact.SINE[-2], square * exact.COSINE[-3]
        s += exact.SINE[-1]
        s *= t
        c += exact.COSINE[-2]
        c *= square
        c += exact.COSINE[-1]
        sine, cosine = (table.take(cell, mode="clip") for table in exact.circle_table(self.xp, turns.device))
        np.multiply(sine, s, out=t)
        np.multiply(cosine, s, out=square)
        sine *= c
        sine += square
        cosine *= c
        cosine -= t
        return sine.reshape(turns.shape), cosine.reshape(turns.shape)

    def arctan(self, y: Array, x: Array) -> Array:
        # `exact.arctan` in place. t + 1.5 * 2**42 is rounded to a multiple of 1/1024: the node, whose number is in the
        # lowest bits.
        angles, coarse = exact.arctan_table(self.xp, y.device), 1.5 * 2.0**42
        angle = np.abs(y)
        swapped = angle > x
        t, u = np.minimum(angle, x), np.maximum(angle, x)
        t /= u
        node = t + coarse
        cell = node.view(np.int64) & 2047
        node -= coarse
        np.multiply(t, node, out=u)
        u += 1.0
        t -= node
        np.divide(t, u, out=u)
        np.multiply(u, u, out=t)
        t *= u
        t *= 1.0 / 3.0
        u -= t
        np.take(angles, cell, out=angle, mode="clip")
        angle += u
        np.subtract(np.multiply(swapped, 0.5 * exact.PI), angle, out=angle)  # the quarter's rest, or the negative
        np.abs(angle, out=angle)
        return np.copysign(angle, y, out=angle)

    def sum_in_order(self, x: Array) -> Array:
        if x.dtype.kind not in "iu":  # the order matters for floats alone
            return super().sum_in_order(x)
        return np.einsum("ij->i", x)  # half the time of reduce where rows are short

    def permute(self, index: Any, n: int, keys: tuple[int, ...]) -> Array:
        return self.permutes(index, n, [keys])[0]

    def permutes(self, index: Any, n: int, keys: Sequence[tuple[int, ...]]) -> Array:
        """As specified. A round hashes a number below one of the `permutation.sides`: for a long range, from a table."""
        n, m = permutation.check_inside(np, index, n), len(index)
        count, side = max(len(keys), 1), max(permutation.sides(n))
        worth = m >= 16 * side and count * side <= BLOCK // 2  # tables that are read often, and fit a cache
        if worth and isinstance(index, range):
            return _looked_up(index, n, keys)
        # tens of passes, each over a few temporaries of up to 8 bytes a number
        permuted, size = super().permutes, max(BLOCK // count, 1)
        blocks = [permuted(index[start : start + size], n, keys) for start in range(0, max(m, 1), size)]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)

    def gather(self, arrays: Sequence[Array], index: Array, inside: bool = False) -> list[Array]:
        """As specified. `numpy.take` first copies all of an array that is strided or, as in an .npz file, not aligned."""
        taken, found = super().gather, []
        for x in arrays:
            strewn = isinstance(x, np.ndarray) and not (x.flags.c_contiguous and x.flags.aligned)
            found += [x[index]] if strewn and isinstance(index, np.ndarray) else taken([x], index, inside)
        return found

    def samples(
        self, formula: Formula, key: Key, counter: Counter, index: Any, width: int,
        tables: Sequence[Array], dtype: str, out: Sequence[Array] | None = None,
    ) -> tuple[Array, Array]:  # fmt: skip
        n, size = len(index), max(1, self.block // max(width, 1))
        if n <= size:
            return super().samples(formula, key, counter, index, width, tables, dtype)

        def made(rows: slice) -> Any:
            return formula(self, self.draw(key, counter, index[rows], width), *tables)

        def put(start: int) -> None:
            rows = slice(start, start + size)
            x[rows], y[rows] = made(rows)  # rounded on their way

        features, target = made(slice(size))
        x = self.empty((n, *features.shape[1:]), np.dtype(dtype))
        y = self.empty((n, *target.shape[1:]), target.dtype if target.dtype.kind == "i" else x.dtype)
        x[:size], y[:size] = features, target
        for_each(range(size, n, size), put)
        return x, y


def _in_order(words: Array) -> Array:
    """``words``, in C order: itself or a copy."""
    if words.flags.c_contiguous or words.ndim != 2 or words.shape[1] > _FEW:
        return np.ascontiguousarray(words)
    copy = np.empty(words.shape, words.dtype)
    for j in range(words.shape[1]):
        copy[:, j] = words[:, j]
    return copy


def _looked_up(places: range, n: int, keys: Sequence[Any]) -> Array:
    """`Backend.permutes`, by the `permutation.tables` of the keys.

    Places in order are a grid with l for its rows and r for its columns: nothing is divided or looked up for the first round.
    """
    b, tables = permutation.sides(n)[1], permutation.tables(np, n, keys)
    steps = tables.reshape(len(tables), -1)
    first = tables.shape[2] * np.arange(len(keys))[:, None, None]  # where those of each permutation begin
    columns, top, bottom = first + np.arange(b), places.start // b, -(-places.stop // b)
    grid, size = np.empty((len(keys), bottom - top, b), np.int64), max(BLOCK // (len(keys) * b), 1)

    def rows(start: int) -> None:
        l = first + np.arange(start, min(start + size, bottom))[:, None] + tables[0, :, None, :b]
        r = columns + steps[1].take(l, mode="clip")
        _through(l, r, steps[2:], out=grid[:, start - top : start - top + size])

    for_each(range(top, bottom, size), rows)
    found = grid.reshape(len(keys), -1)[:, places.start - top * b : places.stop - top * b]
    while (beyond := np.flatnonzero(found >= n)).size:
        k, place = np.divmod(beyond, len(places))
        l, r = np.divmod(found[k, place], b)
        found[k, place] = _through(l + first[k, 0, 0], r + first[k, 0, 0], steps)
    return found


def _through(l: Array, r: Array, steps: Array, out: Array | None = None) -> Array:
    """The rounds ``steps`` of `permutation.permute`, without its walk. All places are in the tables: "clip" is the fastest mode."""
    *rounds, left, right = steps
    found = np.empty_like(l)
    for j, hashes in enumerate(rounds):
        changed, other = (r, l) if j % 2 else (l, r)
        changed += hashes.take(other, out=found, mode="clip")
    return np.add(left.take(l, out=found, mode="clip"), right.take(r, out=l, mode="clip"), out=out)
