"""Initial weights: drawn once, on the host, so that every backend starts from the same bits.

Variances depend on the fans of a weight matrix (i, o): ``fan_in = i``, ``fan_out = o``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, prod, sqrt
from typing import Any, Protocol

from tinynet_backends import Backend, exact

from tinynet import checks
from tinynet.pieces import split_range
from tinynet.streams import Counter, Key

Array = Any
Shape = tuple[int, ...]


class Initializer(Protocol):
    """The protocol of initializers: anything with this method."""

    def draw(self, shape: Shape, key: Key, counter: Counter, host: Backend) -> Array:
        """A float64 array of ``shape`` on ``host``, from its stream ``key``, ``counter``; a pure function of its arguments."""
        ...


def check_initializer(name: str, given: Any) -> None:
    """TypeError, which calls it ``name``, unless ``given`` is an initializer."""
    if isinstance(given, type) or not hasattr(given, "draw"):
        shown = checks.short_repr(given)
        raise TypeError(f"{name} {shown} is not an initializer: give one, such as initializers.HeNormal()")


_BLOCK = 2**15  # weights that are made at a time, in a cache


def _drawn(shape: Shape, key: Key, counter: Counter, host: Backend, f: Callable[[Array], Array]) -> Array:
    """``f(words)`` in ``shape``, with a random word for each weight, block by block."""
    out = host.empty((prod(shape),), host.xp.float64)
    for block in split_range(range(prod(shape)), _BLOCK):
        out[block.start : block.stop] = f(host.words(key, counter, block.start, len(block)))
    return host.xp.reshape(out, shape)


@dataclass(frozen=True)
class Constant:
    """Every weight is ``value``."""

    value: float = 0.0

    def __post_init__(self) -> None:
        checks.coerce_numbers(self, checks.FINITE, "value")

    def draw(self, shape: Shape, key: Key, counter: Counter, host: Backend) -> Array:
        return host.xp.full(shape, float(self.value), dtype=host.xp.float64)


@dataclass(frozen=True)
class Uniform:
    """Uniform in [low, high), both finite."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        checks.coerce_numbers(self, checks.FINITE, "low")
        above = checks.Range(lambda high: self.low <= high < inf, f"a finite number of at least {self.low}")
        checks.coerce_numbers(self, above, "high")

    def draw(self, shape: Shape, key: Key, counter: Counter, host: Backend) -> Array:
        low, width = self.low, self.high - self.low
        return _drawn(shape, key, counter, host, lambda words: low + width * exact.uniform64(host.xp, words))


@dataclass(frozen=True)
class _Scaled:
    """Mean 0 and variance ``gain**2 / fan``."""

    gain: float = 1.0

    def __post_init__(self) -> None:
        checks.coerce_numbers(self, checks.FINITE, "gain")

    def _variance(self, fan_in: int, fan_out: int) -> float:
        raise NotImplementedError

    def _std(self, shape: Shape) -> float:
        fan_in, fan_out = (shape[0], shape[-1]) if len(shape) > 1 else (prod(shape), prod(shape))
        return self.gain * sqrt(self._variance(fan_in, fan_out))


class _Normal(_Scaled):
    def draw(self, shape: Shape, key: Key, counter: Counter, host: Backend) -> Array:
        std = self._std(shape)
        return _drawn(shape, key, counter, host, lambda words: std * host.normal(words))


class _Uniform(_Scaled):
    def draw(self, shape: Shape, key: Key, counter: Counter, host: Backend) -> Array:
        bound = sqrt(3.0) * self._std(shape)  # a uniform in [-b, b) has variance b**2 / 3
        return _drawn(shape, key, counter, host, lambda words: bound * (2.0 * exact.uniform64(host.xp, words) - 1.0))


class _Glorot(_Scaled):
    def _variance(self, fan_in: int, fan_out: int) -> float:
        return 2.0 / (fan_in + fan_out)


class _He(_Scaled):
    def _variance(self, fan_in: int, fan_out: int) -> float:
        return 2.0 / fan_in


class _LeCun(_Scaled):
    def _variance(self, fan_in: int, fan_out: int) -> float:
        return 1.0 / fan_in


class GlorotNormal(_Glorot, _Normal):
    """Normal, variance ``gain**2 * 2 / (fan_in + fan_out)`` (Glorot, Bengio 2010, eq. 12)."""


class GlorotUniform(_Glorot, _Uniform):
    """Uniform, variance ``gain**2 * 2 / (fan_in + fan_out)`` (Glorot, Bengio 2010, eq. 16)."""


class HeNormal(_He, _Normal):
    """Normal, variance ``gain**2 * 2 / fan_in`` (He et al. 2015, eq. 10): for ReLU."""


class HeUniform(_He, _Uniform):
    """Uniform, variance ``gain**2 * 2 / fan_in`` (He et al. 2015)."""


class LeCunNormal(_LeCun, _Normal):
    """Normal, variance ``gain**2 / fan_in`` (LeCun et al. 1998, "Efficient BackProp", eq. 16)."""


class LeCunUniform(_LeCun, _Uniform):
    """Uniform, variance ``gain**2 / fan_in`` (LeCun et al. 1998)."""


@dataclass(frozen=True)
class Orthogonal:
    """``gain`` times a random matrix whose rows or columns, whichever are fewer, are orthonormal (Saxe et al. 2014).

    A normal matrix is orthonormalized by Householder reflections that add in a fixed order, without BLAS, so that the bits
    do not depend on the machine. It takes O(i o min(i, o)) operations and is meant for widths up to about 1000.
    ValueError for an array that does not have two axes.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        checks.coerce_numbers(self, checks.FINITE, "gain")

    def draw(self, shape: Shape, key: Key, counter: Counter, host: Backend) -> Array:
        if len(shape) != 2:
            raise ValueError(f"Orthogonal makes matrices, not shape {shape}: use another initializer")
        xp = host.xp
        rows, columns = max(shape), min(shape)
        a = _drawn((rows, columns), key, counter, host, host.normal)
        reflections, signs = [], []
        for j in range(columns):
            v = xp.asarray(a[j:, j], copy=True)
            norm = xp.sqrt(_pairwise_sum(xp, v * v))
            sign = xp.where(v[0] < 0, -1.0, 1.0)
            v[0] = v[0] + sign * norm
            v = v / xp.sqrt(_pairwise_sum(xp, v * v))
            reflections.append(v)
            signs.append(-sign)  # the sign of R's diagonal: taken out, the result is uniform (Mezzadri 2007)
            a[j:, j:] = a[j:, j:] - 2.0 * v[:, None] * _pairwise_sum(xp, v[:, None] * a[j:, j:])[None, :]
        q = xp.eye(rows, columns, dtype=xp.float64)
        for j in reversed(range(columns)):
            v = reflections[j]
            q[j:, j:] = q[j:, j:] - 2.0 * v[:, None] * _pairwise_sum(xp, v[:, None] * q[j:, j:])[None, :]
        q = self.gain * q * xp.stack(signs)[None, :]
        return q if shape[0] >= shape[1] else xp.matrix_transpose(q)


def _pairwise_sum(xp: Any, x: Array) -> Array:
    """Pairwise sum over the first axis: the same order of additions on every machine."""
    while x.shape[0] > 1:
        half = x.shape[0] // 2
        folded = x[:half] + x[half : 2 * half]
        x = folded if x.shape[0] % 2 == 0 else xp.concat([folded, x[-1:]])
    return x[0]
