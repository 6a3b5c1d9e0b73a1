"""Elementary functions with the same bits on every device: only integers and ``+ - * / sqrt``, in a fixed order.

The sines and logarithms of two libraries differ in the last place; data that is recomputed wherever it is used must not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from math import factorial
from typing import Any

Array = Any


def uniform64(xp: Any, w: Array) -> Array:
    """uint64 words -> float64 in [0, 1), of any shape: the upper 53 bits, as NumPy's ``Generator.random``."""
    return xp.astype(w >> 11, xp.float64) * 2.0**-53


def fraction32(xp: Any, w: Array) -> Array:
    """uint64 words -> float32 in [0, 1), of any shape: the upper 24 bits, without float64."""
    return xp.astype(w >> 40, xp.float32) * 2.0**-24


def halves(xp: Any, w: Array) -> Array:
    """uint64 words (..., n) -> float64 (..., 2n) in [0, 1): the lower 32 bits of each, then its upper 32."""
    return xp.astype(_words32(xp, w), xp.float64) * 2.0**-32


def uniform32(xp: Any, w: Array) -> Array:
    """uint64 words (n,) -> float32 (2n,) in [0, 1): 24 bits of each lower half, then upper half, as in NumPy."""
    return xp.astype(_words32(xp, w) >> 8, xp.float32) * 2.0**-24


def _words32(xp: Any, w: Array) -> Array:
    """The lower, then the upper 32 bits of each word: (..., n) -> (..., 2n), still uint64."""
    both = xp.stack([w & 0xFFFFFFFF, w >> 32], axis=-1)
    return xp.reshape(both, (*w.shape[:-1], 2 * w.shape[-1]))


def polynomial(x: Array, coefficients: tuple[float, ...]) -> Array:
    """Horner's scheme; coefficients from the highest power down."""
    y = coefficients[0] * x + coefficients[1]
    for c in coefficients[2:]:
        y = y * x + c
    return y


LOG2_HIGH, LOG2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # the former ends in 21 zero bits
LOG_SERIES = tuple(2.0 / k for k in range(21, 2, -2))


def log(xp: Any, x: Array) -> Array:
    """Natural logarithm of float64 in [2**-1022, 2**64), of any shape, to 1e-15 relative; undefined elsewhere.

    The exponent is removed by exact multiplications; the rest is ``2 atanh(s)`` with ``s = (m - 1) / (m + 1)``, m in
    [0.7, 1.42).
    """
    exponent = xp.zeros_like(x)
    for power in (512, 256, 128, 64, 32, 16, 8, 4, 2, 1):
        small = x < 2.0 ** (1 - power)
        x = xp.where(small, x * 2.0**power, x)
        exponent = xp.where(small, exponent - power, exponent)
        if power <= 32:
            large = x >= 2.0**power
            x = xp.where(large, x * 2.0**-power, x)
            exponent = xp.where(large, exponent + power, exponent)
    large = x >= 1.4142135623730951
    x = xp.where(large, x * 0.5, x)
    exponent = xp.where(large, exponent + 1.0, exponent)
    s = (x - 1.0) / (x + 1.0)
    square = s * s
    rest = 2.0 * s + s * square * polynomial(square, LOG_SERIES)
    return exponent * LOG2_HIGH + (exponent * LOG2_LOW + rest)


# M. J. Wichura, "Algorithm AS 241: The percentage points of the normal distribution", Appl. Stat. 37 (1988), 477-484.
_A = (
    2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4, 4.5921953931549871457e4,
    1.3731693765509461125e4, 1.9715909503065514427e3, 1.3314166789178437745e2, 3.3871328727963666080e0,
)  # fmt: skip
_B = (
    5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4, 2.1213794301586595867e4,
    5.3941960214247511077e3, 6.8718700749205790830e2, 4.2313330701600911252e1, 1.0,
)  # fmt: skip
_C = (
    7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1, 1.27045825245236838258e0,
    3.64784832476320460504e0, 5.76949722146069140550e0, 4.63033784615654529590e0, 1.42343711074968357734e0,
)  # fmt: skip
_D = (
    1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
    6.89767334985100004550e-1, 1.67638483018380384940e0, 2.05319162663775882187e0, 1.0,
)  # fmt: skip
_E = (
    2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3, 2.65321895265761230930e-2,
    2.96560571828504891230e-1, 1.78482653991729133580e0, 5.46378491116411436990e0, 6.65790464350110377720e0,
)  # fmt: skip
_F = (
    2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5, 7.86869131145613259100e-4,
    1.48753612908506148525e-2, 1.36929880922735805310e-1, 5.99832206555887937690e-1, 1.0,
)  # fmt: skip


def quantile(xp: Any, p: Array) -> Array:
    """The number that a standard normal exceeds with probability ``p``: float64 in (0, 1/2], of any shape, to 1e-15.

    Wichura's AS 241 with our own logarithm.
    """
    q = 0.5 - p
    r = 0.180625 - q * q
    centre = q * (polynomial(r, _A) / polynomial(r, _B))
    r = xp.sqrt(-log(xp, p))
    near, far = r - 1.6, r - 5.0
    tail = xp.where(r <= 5.0, polynomial(near, _C) / polynomial(near, _D), polynomial(far, _E) / polynomial(far, _F))
    return xp.where(q <= 0.425, centre, tail)


def _cached_per_device(make: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """``make(xp, device)``, called once for each. Devices are keyed by name: CuPy's have no hash."""
    tables: dict[tuple[Any, str], Any] = {}

    @wraps(make)
    def cached(xp: Any, device: Any) -> Any:
        key = xp, repr(device)
        if key not in tables:
            tables[key] = make(xp, device)
        return tables[key]

    cached.cache_clear = tables.clear  # type: ignore[attr-defined]
    return cached


CELLS = 1024  # line segments in each octave of the tail's probability: `normal` is off by at most 6e-8
_OCTAVES = 53


@_cached_per_device
def normal_table(xp: Any, device: Any) -> tuple[Array, Array]:
    """(a, b), float64 (53 * 1024,) each: the quantile is ``a + b * g`` in each cell of g, see `normal`."""
    edge = 1.0 + xp.arange(CELLS, dtype=xp.float64, device=device) / CELLS
    octave = [2.0**e * edge for e in range(_OCTAVES)]
    g = xp.concat([*octave, xp.full((1,), 2.0**_OCTAVES, dtype=xp.float64, device=device)])
    z = quantile(xp, g * 2.0 ** -(_OCTAVES + 1))
    b = (z[1:] - z[:-1]) / (g[1:] - g[:-1])
    return z[:-1] - b * g[:-1], b


def normal(xp: Any, w: Array) -> Array:
    """uint64 words -> standard normal float64 of any shape, one per word, in [-8.29, 8.29].

    The word's top bit is the sign. Of the others, 52 make an odd number g below 2**53, and ``g / 2**54`` is the
    probability of the tail. Its quantile is interpolated linearly between 1024 points in each octave of g, so that the
    far tail is as fine as the centre.
    """
    a, b = normal_table(xp, w.device)
    g = xp.astype(((w << 1) >> 11) | 1, xp.float64)
    x, octave = g, xp.zeros_like(g)
    for power in (32, 16, 8, 4, 2, 1):
        large = x >= 2.0**power
        x = xp.where(large, x * 2.0**-power, x)
        octave = xp.where(large, octave + power, octave)
    cell = xp.reshape(xp.astype(octave * CELLS + xp.floor((x - 1.0) * CELLS), xp.int64), (-1,))
    z = xp.reshape(xp.take(a, cell), g.shape) + xp.reshape(xp.take(b, cell), g.shape) * g
    return xp.where((w >> 63) == 1, -z, z)


# The same for code that can read the bits of a float64. With the exponent WORD_EXPONENT, whose last bit absorbs the
# word's sign, the word's bits are a number from which subtracting WORD_OFFSET leaves ``g * 2**-1021``, exactly; and that
# number's upper 22 bits are its row in `normal_lines`.
WORD_EXPONENT = 55 << 52
WORD_OFFSET = (2.0**52 - 0.5) * 2.0**-1020


@_cached_per_device
def normal_lines(xp: Any, device: Any) -> Array:
    """`normal_table` in rows (a, b * 2**1021), after 2 * 1024 rows that no word maps to: (55 * 1024, 2) float64."""
    a, b = normal_table(xp, device)
    rows = xp.stack([a, b * 2.0**1021], axis=1)
    return xp.concat([xp.zeros((2 * CELLS, 2), dtype=xp.float64, device=device), rows], axis=0)


PI = 3.141592653589793


def _taylor(first: int, terms: int) -> tuple[float, ...]:
    """Coefficients of sin(2 pi t) / t (``first`` 1) or cos(2 pi t) (0) in t**2, from the highest power down."""
    # pi to 50 digits: a quotient of whole numbers is rounded only once, however large they are
    pi, unit = 314159265358979323846264338327950288419716939937511, 10**50
    powers = range(first, first + 2 * terms, 2)
    return tuple((-1) ** (n // 2) * (2 * pi) ** n / (unit**n * factorial(n)) for n in powers)[::-1]


SINE, COSINE = _taylor(1, 9), _taylor(0, 9)


POINTS = 4096


@_cached_per_device
def circle_table(xp: Any, device: Any) -> tuple[Array, Array]:
    """Sines and cosines of k / 4096 turns, (4096,) each, by Taylor's series, to about half a unit in the last place."""
    turns = xp.arange(POINTS, dtype=xp.float64, device=device) / POINTS
    quarter = xp.round(4.0 * turns)
    t = turns - 0.25 * quarter  # in [-1/8, 1/8], exact
    square = t * t
    sine, cosine = t * polynomial(square, SINE), polynomial(square, COSINE)
    odd = (quarter == 1.0) | (quarter == 3.0)
    s, c = xp.where(odd, cosine, sine), xp.where(odd, sine, cosine)
    s = xp.where((quarter == 2.0) | (quarter == 3.0), -s, s)
    return s, xp.where((quarter == 1.0) | (quarter == 2.0), -c, c)


def sincos(xp: Any, turns: Array) -> tuple[Array, Array]:
    """Sine and cosine of ``2 pi turns``, float64 (n,) or of any shape with ``|turns| < 2**40``, to 1e-15 absolute.

    From the nearest of 4096 points on the circle, by the angle sum formulas.
    """
    near = xp.round(turns * POINTS)
    t = turns - near * (1.0 / POINTS)  # at most 1/8192, exact
    square = t * t
    s, c = t * polynomial(square, SINE[-2:]), polynomial(square, COSINE[-3:])
    k = xp.reshape(xp.astype(near, xp.int64) & (POINTS - 1), (-1,))
    sine, cosine = (xp.reshape(xp.take(table, k), turns.shape) for table in circle_table(xp, turns.device))
    return sine * c + cosine * s, cosine * c - sine * s


NODES = 1024
_ARCTAN = tuple((-1) ** n / (2 * n + 1) for n in range(30, 0, -1))


@_cached_per_device
def arctan_table(xp: Any, device: Any) -> Array:
    """Arc tangents of k / 1024, (1025,), by Taylor's series below tan(pi / 8), from pi / 4 above."""
    t = xp.arange(NODES + 1, dtype=xp.float64, device=device) / NODES
    large = t > 0.41421356237309503
    t = xp.where(large, (t - 1.0) / (t + 1.0), t)
    square = t * t
    angle = t + t * square * polynomial(square, _ARCTAN)
    return xp.where(large, angle + 0.25 * PI, angle)


def arctan(xp: Any, y: Array, x: Array) -> Array:
    """Arc tangent of ``y / x`` in radians for float64 (n,) y and ``x >= 0``, not both 0, to 1e-15.

    The ratio of the smaller to the larger is compared with the nearest of 1025 tangents, by the formula for the
    difference of two arc tangents.
    """
    a = xp.abs(y)
    t = xp.minimum(a, x) / xp.maximum(a, x)
    k = xp.round(t * NODES)
    node = k * (1.0 / NODES)
    u = (t - node) / (1.0 + t * node)  # at most 1/2048: the next term of the series would be 6e-18
    rest = u - u * u * u * (1.0 / 3.0)
    angle = xp.take(arctan_table(xp, y.device), xp.astype(k, xp.int64)) + rest
    angle = xp.where(a > x, 0.5 * PI - angle, angle)
    return xp.copysign(angle, y)
