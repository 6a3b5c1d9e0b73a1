"""exp, expm1 and tanh without a branch or a call, so that a loop over them becomes vector instructions.

Accurate to one, two and three units in the last place; infinities, NaN and denormal numbers as in the C library.
``exp(x) = 2**n exp(r)`` with n the integer nearest to ``x / log 2``; the rest, ``|r| < 0.35``, by Taylor's series.
"""

from __future__ import annotations

import math
from math import factorial
from typing import Any

import numpy as np
from numba import float32, float64, int32, int64, njit
from numba.extending import overload
from tinynet_backends import exact
from tinynet_backends.compiled.intrinsics import bits

# Numba compiles a function once in a process, with the options of its first caller unless it has its own: after a softmax,
# whose sums may be reordered, all kernels would have got another exp, and kept it on disk.
plain = njit(fastmath=False)


def exp(x: Any) -> Any:
    """``e**x``, in compiled code."""
    raise NotImplementedError


def expm1(x: Any) -> Any:
    """``e**x - 1``, in compiled code."""
    raise NotImplementedError


def tanh(x: Any) -> Any:
    """Hyperbolic tangent, in compiled code."""
    raise NotImplementedError


def _made(real: Any, word: Any, digits: int, log2: tuple[float, float], terms: int, ends: tuple[float, ...]) -> Any:
    """exp, expm1 and tanh of ``real``, which is stored as a ``word`` with a fraction of so many ``digits``.

    ``log2`` is log 2 in two parts, the first with so few bits that its products with integers are exact; ``terms`` are those
    of the series. The ``ends`` are numbers below which exp is 0 and expm1 -1, and one above which both are infinite.
    """
    high, low, log2e, zero, half, one, two = map(real, (*log2, 1.4426950408889634, 0.0, 0.5, 1.0, 2.0))
    series = tuple(real(1 / factorial(n)) for n in range(terms - 1, 1, -1))
    least, lowest, largest = map(real, ends)
    bias = 2 ** (real.bitwidth - digits - 2) - 1

    @plain
    def reduced(x):
        """n, and ``exp(r) - 1``."""
        n = np.floor(x * log2e + half)
        n = n if n == n else zero
        r = x - n * high - n * low
        s = series[0]
        for i in range(1, len(series)):
            s = s * r + series[i]
        return int64(n), s * r * r + r

    @plain
    def power(n):
        return bits(real, word((n + bias) << digits))

    @plain
    def exp(x):
        x = least if x < least else x
        x = largest if x > largest else x
        n, s = reduced(x)
        first = n >> 1  # 2**n in two steps: it may be too large, or too small, for one
        return (one + s) * power(first) * power(n - first)

    @plain
    def expm1(x):
        x = lowest if x < lowest else x
        x = largest if x > largest else x
        n, s = reduced(x)
        first = n >> 1
        return (s + (one - power(-n + int64(n == bias + 1)))) * power(first) * power(n - first)

    @plain
    def tanh(x):
        e = expm1(-two * abs(x))
        return math.copysign(e / (two + e), x)

    return exp, expm1, tanh


_MADE = {
    float32: _made(float32, int32, 23, (0.693359375, -2.1219444005469058e-04), 8, (-104.0, -30.0, 89.0)),
    float64: _made(float64, int64, 52, (exact.LOG2_HIGH, exact.LOG2_LOW), 14, (-746.0, -50.0, 710.0)),
}


def _chosen(place: int) -> Any:
    """Says, of the functions at ``place``, which one is for numbers like x."""

    def choose(x):
        made = _MADE[x][place]
        return lambda x: made(x)

    return choose


for _place, _function in enumerate((exp, expm1, tanh)):
    overload(_function)(_chosen(_place))
