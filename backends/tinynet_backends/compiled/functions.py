"""exp, expm1 and tanh without a branch or a call, so that a loop over them becomes vector instructions.

Accurate to one, two and three units in the last place; infinities, NaN and denormal numbers as in the C library.
``exp(x) = 2**n exp(r)`` with n the integer nearest to ``x / log 2``; the rest, ``|r| < 0.35``, by Taylor's series.
"""

from __future__ import annotations

import math
from math import factorial
from typing import Any

import numpy as np
from numba import float32, float64, int32, int64, njit, types
from numba.extending import overload
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


# Float32: log 2 in two parts, the first with so few bits that its products with integers are exact; the series.
_HIGH32, _LOW32, _LOG2E32 = np.float32(0.693359375), np.float32(-2.1219444005469058e-04), np.float32(1.4426950408889634)
_C32 = tuple(np.float32(1 / factorial(n)) for n in range(8))


@plain
def _reduced32(x):
    """n, and ``exp(r) - 1``."""
    n = np.floor(x * _LOG2E32 + float32(0.5))
    n = n if n == n else float32(0.0)
    r = x - n * _HIGH32 - n * _LOW32
    c = _C32
    s = ((((c[7] * r + c[6]) * r + c[5]) * r + c[4]) * r + c[3]) * r + c[2]
    return int64(n), s * r * r + r


@plain
def _power32(n):
    return bits(float32, int32((n + 127) << 23))


@plain
def _exp32(x):
    x = float32(-104.0) if x < float32(-104.0) else x
    x = float32(89.0) if x > float32(89.0) else x
    n, s = _reduced32(x)
    half = n >> 1  # 2**n in two steps: it may be too large, or too small, for one
    return (float32(1.0) + s) * _power32(half) * _power32(n - half)


@plain
def _expm132(x):
    x = float32(-30.0) if x < float32(-30.0) else x
    x = float32(89.0) if x > float32(89.0) else x
    n, s = _reduced32(x)
    half = n >> 1
    return (s + (float32(1.0) - _power32(-n + int64(n == 128)))) * _power32(half) * _power32(n - half)


# Float64, the same.
_HIGH64, _LOW64, _LOG2E64 = 6.93147180369123816490e-01, 1.90821492927058770002e-10, 1.4426950408889634
_C64 = tuple(1 / factorial(n) for n in range(14))


@plain
def _reduced64(x):
    n = np.floor(x * _LOG2E64 + 0.5)
    n = n if n == n else 0.0
    r = x - n * _HIGH64 - n * _LOW64
    c = _C64
    s = ((((((((((c[13] * r + c[12]) * r + c[11]) * r + c[10]) * r + c[9]) * r + c[8]) * r + c[7]) * r + c[6]) * r + c[5])
          * r + c[4]) * r + c[3]) * r + c[2]  # fmt: skip
    return int64(n), s * r * r + r


@plain
def _power64(n):
    return bits(float64, (n + 1023) << 52)


@plain
def _exp64(x):
    x = -746.0 if x < -746.0 else x
    x = 710.0 if x > 710.0 else x
    n, s = _reduced64(x)
    half = n >> 1
    return (1.0 + s) * _power64(half) * _power64(n - half)


@plain
def _expm164(x):
    x = -50.0 if x < -50.0 else x
    x = 710.0 if x > 710.0 else x
    n, s = _reduced64(x)
    half = n >> 1
    return (s + (1.0 - _power64(-n + int64(n == 1024)))) * _power64(half) * _power64(n - half)


@overload(exp)
def _exp(x):
    return (lambda x: _exp32(x)) if x == types.float32 else (lambda x: _exp64(x))


@overload(expm1)
def _expm1(x):
    return (lambda x: _expm132(x)) if x == types.float32 else (lambda x: _expm164(x))


@plain
def _tanh32(x):
    e = _expm132(float32(-2.0) * abs(x))
    return math.copysign(e / (float32(2.0) + e), x)


@plain
def _tanh64(x):
    e = _expm164(-2.0 * abs(x))
    return math.copysign(e / (2.0 + e), x)


@overload(tanh)
def _tanh(x):
    return (lambda x: _tanh32(x)) if x == types.float32 else (lambda x: _tanh64(x))
