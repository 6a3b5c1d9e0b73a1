"""The functions of `tinynet_backends.exact`, number by number: the same bits."""

from __future__ import annotations

import math

import numpy as np
from numba import float64, int64, njit, types, uint64
from tinynet_backends import exact
from tinynet_backends.compiled.intrinsics import bits
from tinynet_backends.compiled.vectors import NORMALS, put_normals

_SINE, _COSINE = exact.SINE[-2:], exact.COSINE[-3:]
_POINTS, _NODES = float(exact.POINTS), float(exact.NODES)
_LAST = exact.POINTS - 1
_SERIES = exact.LOG_SERIES
_HIGH, _LOW = exact.LOG2_HIGH, exact.LOG2_LOW
_EXPONENT, _OFFSET = uint64(exact.WORD_EXPONENT), exact.WORD_OFFSET


@njit
def normal(word, lines):
    """A standard normal number, by the table `exact.normal_lines`."""
    g = bits(types.float64, (word >> uint64(11)) | _EXPONENT) - _OFFSET
    cell = types.int64(bits(types.uint64, g) >> uint64(42))
    z = bits(types.uint64, lines[2 * cell] + lines[2 * cell + 1] * g) ^ (word & (uint64(1) << uint64(63)))
    return bits(types.float64, z)


@njit
def normals(words, lines, out, count):
    """``count`` of them, rounded up to a multiple of NORMALS, from address to address."""
    for place in range(0, 8 * count, 8 * NORMALS):
        put_normals(words + place, lines, out + place)


@njit
def half(word, upper):
    """A uniform number in [0, 1) from the lower or the upper 32 bits."""
    return float64(types.int64((word >> (uint64(32) * uint64(upper))) & uint64(0xFFFFFFFF))) * 2.0**-32


@njit
def _near(turns):
    near = np.rint(turns * _POINTS)
    t = turns - near * (1.0 / _POINTS)
    square = t * t
    s = t * (_SINE[0] * square + _SINE[1])
    c = (_COSINE[0] * square + _COSINE[1]) * square + _COSINE[2]
    return int64(near) & _LAST, s, c


@njit
def sine(turns, sines, cosines):
    k, s, c = _near(turns)
    return sines[k] * c + cosines[k] * s


@njit
def cosine(turns, sines, cosines):
    k, s, c = _near(turns)
    return cosines[k] * c - sines[k] * s


@njit
def arctan(y, x, angles):
    a = abs(y)
    t = min(a, x) / max(a, x)
    k = np.rint(t * _NODES)
    node = k * (1.0 / _NODES)
    u = (t - node) / (1.0 + t * node)
    angle = angles[int64(k)] + (u - u * u * u * (1.0 / 3.0))
    angle = 0.5 * exact.PI - angle if a > x else angle
    return math.copysign(angle, y)


@njit
def log(x):
    """Of a normal positive number: the exponent is read, not divided out."""
    raw = bits(types.uint64, x)
    exponent = float64(types.int64(raw >> uint64(52)) - 1023)
    m = bits(types.float64, (raw & uint64(0xFFFFFFFFFFFFF)) | (uint64(1023) << uint64(52)))
    large = m >= 1.4142135623730951
    m = m * 0.5 if large else m
    exponent = exponent + 1.0 if large else exponent
    s = (m - 1.0) / (m + 1.0)
    square = s * s
    c = _SERIES
    p = c[0] * square + c[1]
    for n in range(2, len(c)):
        p = p * square + c[n]
    return exponent * _HIGH + (exponent * _LOW + (2.0 * s + s * square * p))
