"""Keyed permutations of ``range(n)`` that need no memory: the image of any index, or its preimage, by itself.

An additive Feistel network on pairs (l, r) of Z_a x Z_b, with ``a * b`` just above n, and cycle walking back into
``range(n)``: J. Black, P. Rogaway (2002), *Ciphers with arbitrary finite domains*, CT-RSA, doi:10.1007/3-540-45760-7_9
(their method of cycle walking, and their generalised Feistel cipher). It shuffles; it is not a cipher. Integers only:
the same on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import isqrt
from typing import Any

Array = Any

KEYS = 24  # numbers that name a permutation


def permute(xp: Any, index: Array, n: int, keys: Sequence[int]) -> Array:
    """Where the permutation of ``range(n)`` that ``keys`` names sends each index: (m,) int64 -> (m,) int64, both in [0,
    n).

    ``keys`` are 24 or more ints in [0, 2**32). Raises `ValueError` for fewer, and unless ``1 <= n <= 2**62``;
    `IndexError` for an index that is not in [0, n).
    """
    n = check_inside(xp, index, n)
    a, b = sides(n)
    used = list(enumerate(used_keys(keys, n)))

    def forward(x: Array) -> Array:
        l = x // b
        r = x - l * b
        for j, key in used:
            # The smaller of y and y - a is y mod a for y < 2 a: a negative difference wraps around to a huge number.
            if j % 2:
                r += _below(xp, b, l, key)
                r = xp.minimum(r, r - b)
            else:
                l += _below(xp, a, r, key)
                l = xp.minimum(l, l - a)
        return l * b + r

    return _walk(xp, forward, index, n, a * b)


def unpermute(xp: Any, index: Array, n: int, keys: Sequence[int]) -> Array:
    """The inverse of `permute` with the same n and keys: (m,) int64 -> (m,) int64, both in [0, n)."""
    n = check_inside(xp, index, n)
    a, b = sides(n)
    used = list(enumerate(used_keys(keys, n)))

    def backward(x: Array) -> Array:
        l = x // b
        r = x - l * b
        for j, key in reversed(used):
            if j % 2:
                r -= _below(xp, b, l, key)
                r = xp.minimum(r, r + b)
            else:
                l -= _below(xp, a, r, key)
                l = xp.minimum(l, l + a)
        return l * b + r

    return _walk(xp, backward, index, n, a * b)


def _walk(xp: Any, step: Callable[[Array], Array], index: Array, n: int, size: int) -> Array:
    """``step``, a bijection of ``range(size)``, repeated on each index until it is below n: a bijection of
    ``range(n)``."""
    y = step(xp.astype(index, xp.uint64))
    if size > n:
        # Ends: every index walks along its cycle of step, which leads back to the index itself, and that is below n. It
        # asks the device for one bool a turn; a second turn is rare, as size - n is small (see `sides`).
        while bool(xp.any(y >= n)):
            y = xp.where(y >= n, step(y), y)
    return xp.astype(y, xp.int64)


def check_inside(xp: Any, index: Array, n: int) -> int:
    """n as int; ValueError unless it is one in [1, 2**62], IndexError unless every index is in [0, n): one outside might
    walk for ever."""
    n = check_kinds(xp, index, n)
    if index.shape[0] == 0:
        return n
    least, most = int(xp.min(index)), int(xp.max(index))
    if least < 0 or most >= n:
        raise IndexError(f"index {least if least < 0 else most} is out of range: this permutation is of range({n})")
    return n


def check_kinds(xp: Any, index: Array, n: int) -> int:
    """What of `check_inside` can be said without a look at the indices."""
    several = getattr(n, "ndim", None)  # an array of one number has an index, too
    if isinstance(n, bool) or several or not hasattr(n, "__index__") or not 1 <= n.__index__() <= 2**62:
        text = " ".join(repr(n).split())[:60]
        raise ValueError(f"no permutation of range({text}): expected 1 <= n <= 2**62")
    n = n.__index__()
    if not xp.isdtype(index.dtype, "integral"):
        raise IndexError(f"an index of dtype {index.dtype} is not whole: give int64 in [0, {n})")
    return n


@lru_cache(maxsize=256)
def sides(n: int) -> tuple[int, int]:
    """(a, b), both near the root of n, with ``a * b >= n`` even and as small as a short search finds.

    Even: on Z_a x Z_b with a and b odd every round, and so the whole, is an even permutation; half of all would never
    come.
    """
    if not 1 <= n <= 2**62:
        raise ValueError(f"no permutation of range({n}): expected 1 <= n <= 2**62")
    root = isqrt(n)
    pairs = ((a, -(-n // a)) for a in range(max(root - min(root // 4, 1024), 1), root + 2))
    even = ((a, b + a * b % 2) for a, b in pairs)
    return min(even, key=lambda pair: (pair[0] * pair[1], abs(pair[0] - pair[1])))


def _rounds(n: int) -> int:
    """24 for small n, where all n! orders can be counted (n = 5 to 8: 8 and 16 rounds are told from random, 24 were not
    in 600 000 orders); 8 for n >= 1000, where ranks, pairs and cycles do not tell them."""
    return 24 if n < 1000 else 8


def used_keys(keys: Sequence[int], n: int) -> Sequence[int]:
    """The keys of the rounds that are made, an even number of them."""
    if len(keys) < KEYS:
        raise ValueError(f"a permutation takes {KEYS} keys, not {len(keys)}")
    return keys[: _rounds(n)]


def _below(xp: Any, bound: int, x: Array, key: int) -> Array:
    """A hash of (x, key) in [0, bound): uint64 holding 32 bits -> uint64. The mixer is lowbias32 (C. Wellons, 2018)."""
    x = xp.astype(x ^ key, xp.uint32)  # whose products drop what is above; and a vector has twice as many of them
    x ^= x >> 16
    x *= 0x7FEB352D
    x ^= x >> 15
    x *= 0x846CA68B
    x ^= x >> 16
    x = xp.astype(x, xp.uint64)
    x *= bound
    x >>= 32
    return x
