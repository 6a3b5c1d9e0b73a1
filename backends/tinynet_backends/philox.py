"""Philox4x64-10, the counter-based generator behind every random number: NumPy's own words on any array library.

J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw (2011), *Parallel random numbers: as easy as 1, 2, 3*, SC '11,
doi:10.1145/2063384.2063405. A word is a pure function of a key and a 256-bit counter, so any part of a stream can be
computed without the parts before it. Only uint64 ``+ * & ^ >>`` are used: the bits are the same on every device.
"""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any

Array = Any
Key = tuple[int, int]  # the seed and the purpose of a stream
Counter = tuple[int, int, int]  # the upper three words of the counters of its blocks

MULTIPLIER = 0xD2E7470EE14C6C93, 0xCA5A826395121157
WEYL = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
_LOW32 = 0xFFFFFFFF
_LOW64 = 0xFFFFFFFFFFFFFFFF


def words(xp: Any, key: Key, counter: Counter, start: int, n: int, device: Any = None) -> Array:
    """Words ``start .. start + n`` of the stream (key, counter): (n,) uint64; ``0 <= start < 2**80``.

    The stream is that of ``np.random.Philox(key=key, counter=[0, *counter]).random_raw``.
    """
    (first, c1, c2, c3), skip = block_of(counter, start)
    count = (skip + n + 3) // 4
    if first + count > 2**64:  # the counter's first word overflows midway: rare, so computed in two parts
        n0 = 4 * (2**64 - first) - skip
        parts = words(xp, key, counter, start, n0, device), words(xp, key, counter, start + n0, n - n0, device)
        return xp.concat(parts)
    index = xp.arange(count, dtype=xp.uint64, device=device) + constant(xp, first, device)
    block = blocks(xp, index, c1, c2, c3, key)
    return xp.reshape(xp.stack(block, axis=1), (-1,))[skip : skip + n]


def block_of(counter: Counter, start: int) -> tuple[tuple[int, int, int, int], int]:
    """The counter of the block that word ``start`` of a stream is in, and how many words of that block are before it."""
    first, skip = divmod(start, 4)
    above, first = divmod(first + 1, 2**64)  # NumPy increments before it makes a block: block 0 has counter 1
    return (first, (counter[0] + above) & _LOW64, *counter[1:]), skip


def rows_of(words: Array) -> tuple[int, int, int] | None:
    """(rows, columns, distance of rows in words) of NumPy's or CuPy's uint64 words; None if they do not lie like that."""
    if words.ndim == 2 and words.strides[1] == 8 and words.strides[0] >= 0 and words.strides[0] % 8 == 0:
        return *words.shape, words.strides[0] // 8
    if words.ndim == 1 and words.strides[0] > 8 and words.strides[0] % 8 == 0:
        return words.size, 1, words.strides[0] // 8
    return (words.size, 1, 1) if words.flags.c_contiguous else None


def words_at(xp: Any, key: Key, counter: Counter, index: Array, width: int) -> Array:
    """Row ``r`` is words ``width * index[r] .. + width`` of the stream (key, counter): (n,) int64 -> (n, width) uint64.

    ``0 <= width * index < 2**80``: the index of a block may exceed 64 bits and carries into the counter's next word.
    """
    index = xp.astype(index, xp.uint64)
    high, low = multiply(width, index)
    skip = low & 3
    first = (low >> 2) | (high << 62)
    device = index.device
    above = (high >> 2) + constant(xp, counter[0], device)
    columns: list[Array] = []
    latest = {0: 0, 2: 2}.get(width % 4, 3)  # the last place in its first block where a row can begin
    for b in range(1, (latest + width + 3) // 4 + 1):  # NumPy's block 0 has counter 1
        c0 = first + b
        c1 = xp.where(c0 < first, above + 1, above)
        columns += blocks(xp, c0, c1, *counter[1:], key)
    row = xp.stack(columns, axis=1)
    if width % 4 == 0:
        return row
    place = xp.astype(skip, xp.int64)[:, None] + xp.arange(width, dtype=xp.int64, device=device)[None, :]
    return xp.take_along_axis(row, place, axis=1)


def blocks(
    xp: Any, c0: Array, c1: Array | int, c2: Array | int, c3: Array | int, key: Key
) -> tuple[Array, Array, Array, Array]:
    """The four words of the block at each counter: uint64 ``c0``, and uint64 or int ``c1 c2 c3`` -> four like ``c0``.

    The counter is (c0, c1, c2, c3), least significant word first; ints are in [0, 2**64).
    """
    if c0.ndim == 0:
        # NumPy turns () results into scalars, and scalars warn on overflow where arrays wrap around.
        c0, c1, c2, c3 = (c if isinstance(c, int) else xp.reshape(c, (1,)) for c in (c0, c1, c2, c3))
        w0, w1, w2, w3 = (xp.reshape(w, ()) for w in blocks(xp, c0, c1, c2, c3, key))
        return w0, w1, w2, w3
    k0, k1 = key
    device = c0.device

    def xor(*words: Array | int) -> Array | int:
        """Exclusive or of arrays and ints."""
        number = reduce(operator.xor, [w for w in words if isinstance(w, int)])
        arrays = [w for w in words if not isinstance(w, int)]
        return reduce(operator.xor, arrays, constant(xp, number, device)) if arrays else number

    for _ in range(10):
        high0, low0 = multiply(MULTIPLIER[0], c0)
        high1, low1 = multiply(MULTIPLIER[1], c2)
        c0, c1, c2, c3 = xor(high1, c1, k0), low1, xor(high0, c3, k1), low0
        k0, k1 = (k0 + WEYL[0]) & _LOW64, (k1 + WEYL[1]) & _LOW64
    return c0, c1, c2, c3


def constant(xp: Any, number: int, device: Any) -> Array:
    """An int as () uint64: beside an array, CuPy accepts no int from 2**63 up."""
    return xp.asarray(number, dtype=xp.uint64, device=device)


def multiply(m: int, x: Array | int) -> tuple[Array | int, Array | int]:
    """High and low 64 bits of ``m * x``, from products of 32-bit halves; no sum in the high word overflows."""
    if isinstance(x, int):  # counter words shared by all blocks cost nothing until they are combined with an array
        return (m * x) >> 64, (m * x) & _LOW64
    m0, m1 = m & _LOW32, m >> 32
    x0, x1 = x & _LOW32, x >> 32
    middle = x1 * m0 + ((x0 * m0) >> 32)
    carry = x0 * m1 + (middle & _LOW32)
    return x1 * m1 + (middle >> 32) + (carry >> 32), x * m0 + ((x * m1) << 32)
