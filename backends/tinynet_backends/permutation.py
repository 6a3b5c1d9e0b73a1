"""Keyed permutations of ``range(n)`` without memory: the image or preimage of any index on its own.

An additive Feistel network on pairs (l, r) of Z_a x Z_b, with ``a * b`` just above n, and cycle walking back into
``range(n)``: J. Black, P. Rogaway (2002), *Ciphers with arbitrary finite domains*, CT-RSA, doi:10.1007/3-540-45760-7_9
(their cycle walking and generalised Feistel ciphers). It is a shuffle, not a cipher. It uses integers only, so it is the
same on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import isqrt
from typing import Any

Array = Any

KEYS = 24  # numbers that determine a permutation


def permute(xp: Any, index: Array, n: int, keys: Sequence[int]) -> Array:
    """The permutation of ``range(n)`` determined by ``keys``, at each index: (m,) int64 -> (m,) int64, both in [0, n).

    ``keys`` are 24 or more ints in [0, 2**32). Raises `ValueError` for fewer, and unless ``1 <= n <= 2**62``;
    `IndexError` for an index that is not in [0, n).
    """
    return _permuted(xp, index, n, keys, inverse=False)


def unpermute(xp: Any, index: Array, n: int, keys: Sequence[int]) -> Array:
    """The inverse of `permute` with the same n and keys: (m,) int64 -> (m,) int64, both in [0, n)."""
    return _permuted(xp, index, n, keys, inverse=True)


def _permuted(xp: Any, index: Array, n: int, keys: Sequence[int], inverse: bool) -> Array:
    n = check_inside(xp, index, n)
    a, b = sides(n)
    rounds = [*enumerate(used_keys(keys, n))]

    def step(x: Array) -> Array:
        l = x // b
        r = x - l * b
        for j, key in reversed(rounds) if inverse else rounds:
            side, other, size = (r, l, b) if j % 2 else (l, r, a)
            # the minimum is the sum modulo size: a negative number wraps around to a huge one
            if inverse:
                side -= _below(xp, size, other, key)
                side = xp.minimum(side, side + size)
            else:
                side += _below(xp, size, other, key)
                side = xp.minimum(side, side - size)
            l, r = (l, side) if j % 2 else (side, r)
        return l * b + r

    return _walk(xp, step, index, n, a * b)


def _walk(xp: Any, step: Callable[[Array], Array], index: Array, n: int, size: int) -> Array:
    """``step``, a bijection of ``range(size)``, repeated until each index is below n: a bijection of ``range(n)``."""
    y = step(xp.astype(index, xp.uint64))
    if size > n:
        # This ends: an index walks along its cycle of step, which returns to the index itself, and that is below n.
        # Each iteration transfers one bool from the device; a second one is rare, as size - n is small (see `sides`).
        while bool(xp.any(y >= n)):
            y = xp.where(y >= n, step(y), y)
    return xp.astype(y, xp.int64)


def check_inside(xp: Any, index: Array | range, n: int) -> int:
    """n as int; ValueError unless it is in [1, 2**62], IndexError unless every index is in [0, n).

    An index outside might walk forever.
    """
    n = check_kinds(xp, index, n)
    if isinstance(index, range):
        least, most = (index[0], index[-1]) if index else (0, 0)
    else:
        least, most = (int(xp.min(index)), int(xp.max(index))) if index.size else (0, 0)
    if least < 0 or most >= n:
        raise IndexError(f"index {least if least < 0 else most} is out of range: this permutation is of range({n})")
    return n


def check_kinds(xp: Any, index: Array | range, n: int) -> int:
    """The part of `check_inside` that does not read the indices."""
    several = getattr(n, "ndim", None)  # an array of one number has __index__, too
    if isinstance(n, bool) or several or not hasattr(n, "__index__") or not 1 <= n.__index__() <= 2**62:
        text = " ".join(repr(n).split())[:60]
        raise ValueError(f"no permutation of range({text}): expected 1 <= n <= 2**62")
    n = n.__index__()
    if not isinstance(index, range) and not xp.isdtype(index.dtype, "integral"):
        raise IndexError(f"an index of dtype {index.dtype} is not an integer: give int64 in [0, {n})")
    return n


@lru_cache(maxsize=256)
def sides(n: int) -> tuple[int, int]:
    """(a, b), both near the square root of n, with ``a * b >= n`` even and as small as a short search finds.

    If a and b were odd, every round on Z_a x Z_b, and so their composition, would be an even permutation: half of all
    permutations would be impossible.
    """
    root = isqrt(n)
    pairs = ((a, -(-n // a)) for a in range(max(root - min(root // 4, 1024), 1), root + 2))
    even = ((a, b + a * b % 2) for a, b in pairs)
    return min(even, key=lambda pair: (pair[0] * pair[1], abs(pair[0] - pair[1])))


def _rounds(n: int) -> int:
    """24 for small n, 8 for n >= 1000.

    For n = 5 to 8, all n! orders can be counted: 8 and 16 rounds were distinguishable from random, 24 were not in
    600 000 orders. For n >= 1000, ranks, pairs and cycles do not distinguish 8 rounds from random.
    """
    return 24 if n < 1000 else 8


def used_keys(keys: Sequence[int], n: int) -> Sequence[int]:
    """The keys of the rounds that are executed, an even number of them."""
    if len(keys) < KEYS:
        raise ValueError(f"a permutation takes {KEYS} keys, not {len(keys)}")
    return keys[: _rounds(n)]


def tables(xp: Any, n: int, keys: Sequence[Sequence[int]]) -> Array:
    """The rounds of several permutations as tables, (rounds + 2, keys, length) int64.

    Of the pair (l, r), round j changes number ``j % 2``: it adds what its table has for the other. Sums are not reduced; the
    tables repeat, and are long enough for the largest sum. The last two have the terms of the result that l and r contribute.
    """
    a, b = sides(n)
    used = xp.asarray([used_keys(each, n) for each in keys], dtype=xp.uint64).T[:, :, None]
    count = used.shape[0]
    periods = count // 2 + 1  # a number below its side, and as many additions as there are rounds for that side
    found = xp.empty((count + 2, len(keys), periods * max(a, b)), dtype=xp.int64)
    for first, side, other, unit in ((0, a, b, 1), (1, b, a, b)):
        hashes = xp.astype(_below(xp, side, xp.arange(other, dtype=xp.uint64), used[first::2]), xp.int64)
        for start in range(0, periods * other, other):
            place = slice(start, start + other)
            found[first:count:2, :, place] = hashes
            found[count + 1 - first, :, place] = unit * xp.arange(other, dtype=xp.int64)
    return found


def _below(xp: Any, bound: Any, x: Array, key: Any) -> Array:
    """A hash of (x, key) in [0, bound): uint64 holding 32 bits -> uint64. The mixer is lowbias32 (C. Wellons, 2018)."""
    # 32-bit products drop the upper bits by themselves, and a vector holds twice as many numbers
    x = xp.astype(x ^ key, xp.uint32)
    x ^= x >> 16
    x *= 0x7FEB352D
    x ^= x >> 15
    x *= 0x846CA68B
    x ^= x >> 16
    x = xp.astype(x, xp.uint64)
    x *= bound
    x >>= 32
    return x
