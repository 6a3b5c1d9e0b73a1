"""Kernels for data, each made for ``real``: words by counter and what is made of them, permutations, rows by number.

Words and addresses are those of `kernels`, and so are parts.
"""

from __future__ import annotations

from typing import Any

from numba import float64, njit, types, uint8, uint32, uint64
from tinynet_backends.compiled.exactly import half, normals
from tinynet_backends.compiled.exactly import normal as one_normal
from tinynet_backends.compiled.intrinsics import call, copy, multiply, pointer, prefetch
from tinynet_backends.compiled.kernels import Body, share
from tinynet_backends.compiled.vectors import BLOCKS, NORMALS, PAIRS, WIDE, feistel_round, put_blocks
from tinynet_backends.philox import MULTIPLIER, WEYL

_M0, _M1 = map(uint64, MULTIPLIER)
_W0, _W1 = map(uint64, WEYL)
_LOW = uint64(0xFFFFFFFF)


@njit(inline="always")
def _round(c, k0, k1):
    h0, l0 = multiply(_M0, c[0])
    h1, l1 = multiply(_M1, c[2])
    return h1 ^ c[1] ^ k0, l1, h0 ^ c[3] ^ k1, l0


@njit(inline="always")
def philox(c, k0, k1):
    """The four words at a counter of four: `tinynet_backends.philox.blocks`."""
    for _ in range(10):
        c = _round(c, k0, k1)
        k0, k1 = k0 + _W0, k1 + _W1
    return c


@njit(inline="always")
def philox_pair(c, d, k0, k1):
    """`philox` at two counters, taking turns: each alone waits for its own products most of the time."""
    for _ in range(10):
        c, d = _round(c, k0, k1), _round(d, k0, k1)
        k0, k1 = k0 + _W0, k1 + _W1
    return c, d


@njit(inline="always")
def _counter(u, block):
    """The counter of a block from the one at words 3 to 6 on: its first word runs over into the second."""
    c0 = u[3] + uint64(block)
    return c0, (u[4] + uint64(1) if c0 < u[3] else u[4]), u[5], u[6]


def words(real: Any) -> Body:
    """[n, k0, k1, c0, c1, c2, c3, skip, out]: n words from the block at (c0, c1, c2, c3), the first ``skip`` left out."""

    def kernel(at, part, parts):
        w, u = pointer(types.int64, at), pointer(uint64, at)
        n, skip, out = w[0], w[7], pointer(uint64, w[8])
        low, high = share((n + skip + 3) // 4, part, parts, BLOCKS)
        block = low
        while block < high:
            place = 4 * block - skip
            c0, c1, c2, c3 = _counter(u, block)
            inside = place >= 0 and place + 4 * BLOCKS <= n and block + BLOCKS <= high
            if WIDE and inside and c0 + uint64(BLOCKS) > c0:
                put_blocks(c0, c1, c2, c3, u[1], u[2], w[8] + 8 * place)
                block += BLOCKS
            elif place >= 0 and place + 8 <= n and block + 2 <= high:
                c, d = philox_pair((c0, c1, c2, c3), _counter(u, block + 1), u[1], u[2])
                for j in range(4):
                    out[place + j] = c[j]
                    out[place + 4 + j] = d[j]
                block += 2
            else:
                one = philox((c0, c1, c2, c3), u[1], u[2])
                for j in range(4):
                    if 0 <= place + j < n:
                        out[place + j] = one[j]
                block += 1

    return kernel


def words_at(real: Any) -> Body:
    """[n, k0, k1, c0, c1, c2, width, index, out]: rows of ``width`` words, `tinynet_backends.philox.words_at`."""

    def kernel(at, part, parts):
        w, u = pointer(types.int64, at), pointer(uint64, at)
        n, width, index, out = w[0], w[6], pointer(uint64, w[7]), pointer(uint64, w[8])
        low, high = share(n, part, parts, 1)
        for row in range(low, high):
            above, below = multiply(uint64(width), index[row])
            skip = types.int64(below & uint64(3))
            first = (below >> uint64(2)) | (above << uint64(62))
            second = (above >> uint64(2)) + u[3]
            base = row * width - skip
            for block in range((skip + width + 3) // 4):
                c0 = first + uint64(block + 1)
                one = philox((c0, second + uint64(1) if c0 < first else second, u[4], u[5]), u[1], u[2])
                for place in range(4 * block, 4 * block + 4):
                    if skip <= place < skip + width:
                        out[base + place] = one[place - 4 * block]

    return kernel


# Words around those that `drawn` makes: before them the arguments of its kernel, behind them what that makes too many.
ROOM, SPARE = 16, 4 + 4 * BLOCKS


@njit
def drawn(at, first, rows, room):
    """Make the words of ``rows`` samples, from the ``first`` of a batch on, behind ``room``; returns their address.

    ``at`` is the address of [kernel, width, index, k0, k1, c0, c1, c2, c3, skip]: `words_at` and the address of the
    samples' numbers, or `words`, where the first block of the batch is, and how many of its words to leave out.
    """
    w, u = pointer(types.int64, at), pointer(uint64, at)
    ask, asked, out, width = pointer(types.int64, room), pointer(uint64, room), room + 8 * ROOM, w[1]
    asked[1], asked[2], ask[8] = u[3], u[4], out
    if w[2] != 0:
        ask[0], ask[6], ask[7] = rows, width, w[2] + 8 * first
        asked[3], asked[4], asked[5] = u[5], u[6], u[7]
        skip = 0
    else:
        place = w[9] + first * width
        skip = place & 3
        c0 = u[5] + uint64(place >> 2)
        ask[0] = (skip + rows * width + 4 * BLOCKS - 1) // (4 * BLOCKS) * (4 * BLOCKS)
        asked[3], asked[4] = c0, (u[6] + uint64(1) if c0 < u[5] else u[6])
        asked[5], asked[6], ask[7] = u[7], u[8], 0
    call(w[0], room, 0, 1)
    return out + 8 * skip


@njit(inline="always")
def chosen(half, least):
    """Whether a uniform number from 32 bits is at least ``least``: `exact.uniform32`."""
    return types.float32(half >> uint64(8)) * types.float32(2.0**-24) >= least


def dropout(real: Any) -> Body:
    """[n, x, rate, key, c0, c1, c2, y, keep]: `Backend.dropout`, with key (2,)."""

    def kernel(at, part, parts):
        w, u = pointer(types.int64, at), pointer(uint64, at)
        n, x, key, y, keep = w[0], pointer(real, w[1]), pointer(uint64, w[3]), pointer(real, w[7]), pointer(uint8, w[8])
        rate = pointer(float64, at)[2]
        least, scale = types.float32(rate), real(1.0 / (1.0 - rate))
        low, high = share((n + 15) // 16, part, parts, 1)
        for pair in range(low, high):
            c, d = philox_pair(
                (uint64(2 * pair + 1), u[4], u[5], u[6]), (uint64(2 * pair + 2), u[4], u[5], u[6]), key[0], key[1]
            )
            if 16 * pair + 16 <= n:
                for j in range(4):
                    place = 16 * pair + 2 * j
                    keep[place] = chosen(c[j] & _LOW, least)
                    keep[place + 1] = chosen(c[j] >> uint64(32), least)
                    keep[place + 8] = chosen(d[j] & _LOW, least)
                    keep[place + 9] = chosen(d[j] >> uint64(32), least)
            else:
                for j in range(n - 16 * pair):
                    word = c[j // 2] if j < 8 else d[j // 2 - 4]
                    keep[16 * pair + j] = chosen(word >> uint64(32) if j & 1 else word & _LOW, least)
            for i in range(16 * pair, min(16 * pair + 16, n)):
                y[i] = x[i] * scale if keep[i] else real(0.0)

    return kernel


def dropout_grad(real: Any) -> Body:
    """[n, dy, keep, rate, dx]: `Backend.dropout_grad`."""

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        dy, keep, dx = pointer(real, w[1]), pointer(uint8, w[2]), pointer(real, w[4])
        scale = real(1.0 / (1.0 - pointer(float64, at)[3]))
        low, high = share(w[0], part, parts, 1)
        for i in range(low, high):
            d = dy[i] * scale
            dx[i] = d if keep[i] else real(0.0)

    return kernel


def normal(real: Any) -> Body:
    """[rows, columns, words, stride, lines, out]: `exact.normal` of rows of words that lie ``stride`` words apart."""

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        rows, columns, stride, lines = w[0], w[1], w[3], pointer(float64, w[4])
        low, high = share(rows, part, parts, 1)
        source, out, count = w[2] + 8 * low * stride, w[5] + 8 * low * columns, high - low
        if columns == stride:  # without gaps: one long row
            count, columns = 1, count * columns
        whole = columns // NORMALS * NORMALS
        for _ in range(count):
            normals(source, w[4], out, whole)
            for j in range(whole, columns):
                pointer(float64, out)[j] = one_normal(pointer(uint64, source)[j], lines)
            source += 8 * stride
            out += 8 * columns

    return kernel


def halves(real: Any) -> Body:
    """[rows, columns, words, stride, out]: `exact.halves` of rows of words that lie ``stride`` words apart."""

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        rows, columns, source, stride, out = w[0], w[1], pointer(uint64, w[2]), w[3], pointer(float64, w[4])
        low, high = share(rows, part, parts, 1)
        for i in range(low, high):
            for j in range(columns):
                word, place = source[i * stride + j], 2 * (i * columns + j)
                out[place] = half(word, 0)
                out[place + 1] = half(word, 1)

    return kernel


@njit(inline="always")
def _below(bound, x, key):
    """A hash of (x, key) in [0, bound), all uint32: `permutation._below`."""
    x = uint32(x ^ key)
    x = uint32(x ^ (x >> uint32(16)))
    x = uint32(x * uint32(0x7FEB352D))
    x = uint32(x ^ (x >> uint32(15)))
    x = uint32(x * uint32(0x846CA68B))
    x = uint32(x ^ (x >> uint32(16)))
    return uint32((uint64(x) * uint64(bound)) >> uint64(32))


@njit(inline="always")
def _moved(x, by, bound):
    """``(x + by) % bound`` of uint32 below ``bound``, whose sum may have 33 bits."""
    rest = uint32(bound - by)
    return uint32(x - rest) if x >= rest else uint32(x + by)


TILE = 256  # indices that go through the rounds together, as vectors


def permute(real: Any) -> Body:
    """[m, index, out, n, a, b, rounds, keys, scratch, start]: `permutation.permute`; scratch holds a tile for each part.

    Without an index, the address 0, it is start, start + 1, ….
    """

    def kernel(at, part, parts):
        w, u = pointer(types.int64, at), pointer(uint64, at)
        index, out, keys = pointer(uint64, w[1]), pointer(uint64, w[2]), pointer(uint64, w[7])
        n, a, b, rounds = u[3], uint32(u[4]), uint32(u[5]), w[6]
        lefts, rights = w[8] + 8 * TILE * part, w[8] + 8 * TILE * part + 4 * TILE
        l, r = pointer(uint32, lefts), pointer(uint32, rights)
        listed, start = w[1] != 0, w[9]
        side = types.int64(b)
        inverse = 1.0 / float64(side)
        low, high = share(w[0], part, parts, 1)
        for first in range(low, high, TILE):
            size, beyond = min(TILE, high - first), 0
            for i in range(size):  # a division in float64 is off by at most one, and becomes a vector instruction
                x = types.int64(index[first + i]) if listed else start + first + i
                q = types.int64(float64(x) * inverse)
                rest = x - q * side
                q = q - 1 if rest < 0 else q
                rest = rest + side if rest < 0 else rest
                over = rest >= side
                l[i] = uint32(q + 1 if over else q)
                r[i] = uint32(rest - side if over else rest)
            for j in range(0, rounds, 2):
                for i in range(0, 4 * size, 4 * PAIRS):
                    feistel_round(lefts + i, rights + i, u[4], keys[j])
                    feistel_round(rights + i, lefts + i, u[5], keys[j + 1])
            for i in range(size):
                x = uint64(l[i]) * uint64(b) + uint64(r[i])
                out[first + i] = x
                beyond += x >= n
            if beyond == 0:
                continue
            for i in range(first, first + size):
                x = out[i]
                while x >= n:  # rare: walk on
                    left = uint32(x // uint64(b))
                    right = uint32(x - uint64(left) * uint64(b))
                    for j in range(0, rounds, 2):
                        left = _moved(left, _below(a, right, uint32(keys[j])), a)
                        right = _moved(right, _below(b, left, uint32(keys[j + 1])), b)
                    x = uint64(left) * uint64(b) + uint64(right)
                out[i] = x

    return kernel


def from_integers(real: Any) -> Body:
    """[n, x, out]: int64 numbers as real ones."""

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        x, out = pointer(types.int64, w[1]), pointer(real, w[2])
        low, high = share(w[0], part, parts, 1)
        for i in range(low, high):
            out[i] = real(x[i])

    return kernel


_LINE = 64  # bytes that memory is read by
_LINES = 64  # of rows to prefetch before they are copied: they lie anywhere


@njit
def _copy_rows(size, x, out, index, low, high):
    """Rows ``index[low:high]`` of ``size`` bytes of x, to those places of out."""
    ahead = max(1, _LINES // (1 + size // _LINE))
    if size == 8:  # labels, say: numbers are copied faster than bytes
        words, found = pointer(uint64, x), pointer(uint64, out)
        for row in range(low, high):
            if row + ahead < high:
                prefetch(x + index[row + ahead] * 8)
            found[row] = words[index[row]]
        return
    for row in range(low, high):
        if row + ahead < high:
            coming = x + index[row + ahead] * size
            for place in range(coming, coming + size, _LINE):
                prefetch(place)
            prefetch(coming + size - 1)
        copy(out + row * size, x + index[row] * size, size)


def gather(real: Any) -> Body:
    """[m, n, index, largest, arrays, (size, x, out) of each]: rows by index of arrays that have n rows of ``size`` bytes.

    A part writes the largest of its indices, a negative one being huge, unless the address of ``largest`` is 0, and copies
    nothing unless that is below n.
    """

    def kernel(at, part, parts):
        w, index = pointer(types.int64, at), pointer(types.int64, pointer(types.int64, at)[2])
        low, high = share(w[0], part, parts, 1)
        largest = uint64(0)
        for row in range(low, high):
            largest = max(largest, uint64(index[row]))
        if w[3] != 0:
            pointer(uint64, w[3])[part] = largest
        if largest >= uint64(w[1]):
            return
        for number in range(w[4]):
            size, x, out = w[5 + 3 * number], w[6 + 3 * number], w[7 + 3 * number]
            _copy_rows(size, x, out, index, low, high)

    return kernel
