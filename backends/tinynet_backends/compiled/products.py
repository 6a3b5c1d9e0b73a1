"""Matrix products of our own: tiles that fill the registers, of operands as they lie or of panels laid out for them.

A product is added up in the order of its sum, in blocks of as many terms, with one rounding for a multiplication and an
addition, and then block to block: its bits do not depend on how it is divided.
(Tiles, panels and blocks for a cache are those of Goto and van de Geijn, Anatomy of high-performance matrix multiplication, 2008.)
"""

from __future__ import annotations

from typing import Any

from numba import njit, types
from numba.extending import register_jitable
from tinynet_backends.compiled.intrinsics import pointer
from tinynet_backends.compiled.kernels import Body, share
from tinynet_backends.compiled.tiles import BITS, PANEL, ROWS, copy_strip, copy_vector, tile, transpose

DEPTH = 512  # terms that are added up in registers, at most
_TOGETHER = 8  # rows that are packed together
_BLOCK = 3  # panels whose rows stay in a core's cache together
_FLOPS = 2**19  # multiplications that are worth a part: about 10 us, since a core must fetch what another wrote
_MOVED = 2**16  # numbers, written or fetched from another core, that take about as long


@register_jitable
def blocks(k: int) -> tuple[int, int]:
    """The number of blocks of k terms, and the terms of each but the last, which may have fewer."""
    count = -(-k // DEPTH)
    return count, -(-k // max(count, 1))


def split_k_pays(m: int, n: int, k: int, transposed: bool) -> bool:
    """Whether to keep the sums of blocks of terms, (blocks, m, n), and add them up afterwards, on several cores.

    A core then needs the terms of its blocks only, which it has mostly written itself: rows whose gradients are added up,
    where a is ``transposed``, or the weights b of a wide layer. Else it needs the others' too, and takes from them the cache lines
    of its own whenever it writes there again. That pays if what is not fetched is more than the sums.
    """
    spared = k * (m + n) // 2 if transposed else k * n * (m <= n)
    count: int = blocks(k)[0]
    return count > 1 and max(count * m * n, _MOVED) <= spared


def lanes(size: int) -> int:
    """The numbers of ``size`` bytes in a vector."""
    return BITS // 8 // size


def panels(n: int, size: int) -> tuple[int, int]:
    """The number of vectors in a row of n numbers of ``size`` bytes, and of the panels that they make."""
    vectors = -(-n // lanes(size))
    return vectors, -(-vectors // PANEL)


def strips(m: int) -> int:
    """The number of strips of m rows: as many rows as a tile has, or fewer."""
    return -(-m // ROWS)


@register_jitable
def groups(k: int) -> int:
    """In how many groups k rows are packed."""
    return -(-k // _TOGETHER)


def pays(m: int, step: int) -> bool:
    """Whether to pack rows, ``step`` bytes apart, that are multiplied by m rows or columns.

    A block of terms would have more pages than a core's first-level TLB, and rows a power of two apart few places in a cache.
    """
    return step >= 2048 and m >= 256


def grid(count: int, m: int, n: int, k: int, size: int, cores: int, whole: bool) -> tuple[int, int, int]:
    """Into how many groups ``count`` products are divided, and each of them down and across; it follows from sizes and cores.

    Several stay ``whole`` if they are those of networks. Else a core has some rows and, one part after another, all columns:
    what comes next finds its rows where they were written. Columns are divided too if there are many, so that those of b
    that a part needs are fetched for many rows; and for the sake of other cores if there are few rows.
    """
    vectors, columns = panels(n, size)
    multiplications, numbers = count * m * k * vectors * lanes(size), count * m * n
    wanted = min(4 * cores, max(multiplications // _FLOPS, numbers // _MOVED))
    groups = max(1, min(count, wanted))
    if wanted < 2 or (count > 1 and whole):
        return groups, 1, 1
    if count > 1:
        return groups, min(strips(m), -(-wanted // groups)), 1
    across = max(1, min(columns // _BLOCK, -(-wanted // cores)))
    down = min(strips(m), -(-wanted // (across * cores)) * cores)
    return 1, down, min(columns, max(across, -(-min(wanted, cores) // down)))


@njit(inline="always")
def _start(panel, least, more):
    """At which vector a panel begins: all have ``least`` vectors, and the first ``more`` of them one more."""
    return panel * least + min(panel, more)


def _pack(real: Any, lanes: int, copy: Any) -> Body:
    size = real.bitwidth // 8

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        k, n, ldb, vectors, panels = w[2], w[3], size * w[5], w[7], w[8]
        least, more = vectors // panels, vectors % panels
        each = groups(k)
        low, high = share(w[0] * each, part, parts, 1)
        for item in range(low, high):
            first = item % each * _TOGETHER
            b, out = w[4] + item // each * w[1], w[6] + item // each * vectors * lanes * size * k
            for panel in range(panels):
                left, right = _start(panel, least, more), _start(panel + 1, least, more)
                place = out + (left * k + first * (right - left)) * lanes * size
                for i in range(first, min(first + _TOGETHER, k)):
                    for v in range(left, right):
                        copy(real, b + i * ldb + v * lanes * size, place, n - v * lanes)
                        place += lanes * size

    return kernel


def pack(real: Any) -> Body:
    """[count, step, k, n, b, ldb, out, vectors, panels]: panels of each b (k, n), one after another.

    Some rows at a time: of a page, a row of one panel has only a few cache lines.
    """
    return _pack(real, BITS // real.bitwidth, copy_vector)


def pack_strips(real: Any) -> Body:
    """[count, step, k, m, a, lda, out, strips, strips]: strips, as tiles have rows, of each a.T, where a is (k, m)."""
    return _pack(real, ROWS, copy_strip)


def pack_transposed(real: Any) -> Body:
    """[count, step, k, n, b, ldb, out, vectors, panels]: panels of each b.T, where b is (n, k), one after another."""
    size, lanes = real.bitwidth // 8, BITS // real.bitwidth

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        k, n, ldb, vectors, panels = w[2], w[3], size * w[5], w[7], w[8]
        least, more = vectors // panels, vectors % panels
        low, high = share(w[0] * panels, part, parts, 1)
        for item in range(low, high):
            b, panel = w[4] + item // panels * w[1], item % panels
            first, last = _start(panel, least, more), _start(panel + 1, least, more)
            step = (last - first) * lanes * size
            out = w[6] + (item // panels * vectors + first) * lanes * size * k
            for v in range(first, last):
                for i in range(0, k, lanes):
                    source = b + v * lanes * ldb + i * size
                    transpose(real, source, ldb, out + i * step, step, min(lanes, n - v * lanes), min(lanes, k - i))
                out += lanes * size

    return kernel


def product(real: Any) -> Body:
    """[count, sa, sb, sc, sbias, m, n, k, a, strip, down, right, b, ldb, c, ldc, bias, vectors, panels, parts down, across].

    ``c = a @ b + bias`` of so many matrices, so many bytes apart. Rows and columns of a lie ``down`` and ``right`` numbers
    apart, strips of `ROWS` rows ``strip``, rows of b ``ldb``; if that is 0, b was packed.
    """
    size, lanes = real.bitwidth // 8, BITS // real.bitwidth

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        m, n, k, strip, down, right = w[5], w[6], w[7], size * w[9], size * w[10], size * w[11]
        ldb, ldc, vectors, panels, tall, wide = size * w[13], size * w[15], w[17], w[18], w[19], w[20]
        least, more = vectors // panels, vectors % panels
        group, down_and_across, each = part, 0, tall * wide
        if each > 1:
            group, down_and_across = part // each, part % each
        first, last = share(w[0], group, parts // each, 1)
        top, bottom = share(m, down_and_across // wide, tall, ROWS)
        left, end = share(panels, down_and_across % wide, wide, 1)
        _, most = blocks(k)
        blocks_across = -(-(end - left) // _BLOCK)
        for number in range(first, last):
            a, b, c = w[8] + number * w[1], w[12] + number * w[2], w[14] + number * w[3]
            for begin in range(0, k, most):
                depth = min(most, k - begin)
                bias = w[16] + number * w[4] if (w[16] != 0) & (begin + depth == k) else 0
                for block in range(blocks_across):
                    start, stop = share(end - left, block, blocks_across, 1)
                    for row in range(top, bottom, ROWS):
                        rows = a + row // ROWS * strip + begin * right
                        for panel in range(left + start, left + stop):
                            v = _start(panel, least, more)
                            width, column = least + (panel < more), v * lanes * size
                            step = ldb if ldb != 0 else width * lanes * size
                            place = b + begin * step + (column if ldb != 0 else column * k)
                            tile(
                                real, width, depth, rows, down, right, place, step,
                                c + row * ldc + column, ldc, min(ROWS, bottom - row), n - v * lanes,
                                bias + column if bias != 0 else 0, begin,
                            )  # fmt: skip

    return kernel
