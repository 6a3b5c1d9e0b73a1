"""Random streams by purpose: drawing from one never changes another.

A stream is Philox4x64-10 (Salmon et al. 2011) under the key (seed, purpose); its counter identifies the sample, step or
layer that a number belongs to. Nothing else in the library is random.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tinynet_backends import Backend, exact, get_backend, permutation, philox

from tinynet import checks

# The library's own purposes, all below 256. Other numbers below 2**64 are free for purposes of your own.
WEIGHTS, DATA, ORDER, MASKS = 1, 2, 3, 4

Array = Any
Index = Any  # a range of step 1, or (n,) int64 on the host
Key = tuple[int, int]
Counter = tuple[int, int, int]


def check_seed(seed: int) -> int:
    """``seed`` as int; TypeError unless it is an integer, ValueError unless it is in [0, 2**64)."""
    value = checks.as_int(seed)
    if value is None:
        raise TypeError(f"seed {checks.short_repr(seed)} is not a whole number: give one in [0, 2**64)")
    if not 0 <= value < 2**64:
        raise ValueError(f"seed {checks.short_repr(value)} is out of range: give one in [0, 2**64)")
    return value


def key(seed: int, purpose: int) -> Key:
    """The Philox key of a purpose under ``seed``."""
    return check_seed(seed), purpose


def permutation_keys(key: Key, counter: Counter) -> tuple[int, ...]:
    """The numbers in [0, 2**32) that determine a permutation: the halves of a stream's first words, the lower first."""
    words = get_backend("numpy").words(key, counter, 0, permutation.KEYS // 2)
    return tuple(half for w in words.tolist() for half in (w & 0xFFFFFFFF, w >> 32))


@dataclass(frozen=True)
class Stream:
    """Random numbers by index: number i is a pure function of (seed, purpose, counter, i), the same on every backend.

    ``seed``, ``purpose`` and the three numbers of ``counter`` are in [0, 2**64), ``counter[2]`` in [0, 2**32). Streams that
    differ in any of them are independent; purposes below 256 are the library's own. The words are those of
    ``numpy.random.Philox(key=[seed, purpose], counter=[0, *counter])``.

    Every method takes indices, a range or (n,) integers in [0, 2**62), and returns an array (n,) of the backend ``ops``, by
    default the current one. IndexError for other indices; TypeError where float64 is needed and the device lacks it.

    Examples
    --------
    >>> stream = tn.Stream(seed=1)
    >>> stream.integers([5, 1], 6).tolist(), stream.integers(range(6), 6).tolist()
    ([3, 3], [5, 3, 5, 2, 1, 3])
    """

    seed: int = 0
    purpose: int = 256
    counter: Counter = (0, 0, 0)

    def __post_init__(self) -> None:
        if not isinstance(self.counter, (tuple, list)) or len(self.counter) != 3:
            raise ValueError(
                f"Stream counter {checks.short_repr(self.counter)} is not a counter: give three whole numbers"
            )
        names = ("purpose", "counter[0]", "counter[1]", "counter[2]")
        numbers = []
        for name, value, bits in zip(names, (self.purpose, *self.counter), (64, 64, 64, 32), strict=True):
            number = checks.as_int(value)
            if number is None or not 0 <= number < 2**bits:
                text = checks.short_repr(value)
                raise ValueError(f"Stream {name} {text} is out of range: give a whole number in [0, 2**{bits})")
            numbers.append(number)
        checks.set_fields(self, seed=check_seed(self.seed), purpose=numbers[0], counter=tuple(numbers[1:]))

    def words(self, index: Index, ops: Backend | None = None) -> Array:
        """Random words, (n,) uint64."""
        with _drawing(ops) as ops:
            return ops.asarray(self._words(index, ops.generator))

    def uniform(self, index: Index, dtype: str = "float64", ops: Backend | None = None) -> Array:
        """Uniform numbers in [0, 1), (n,): the upper 53 bits of each word in float64, the upper 24 in float32."""
        with _drawing(ops) as ops:
            _check_dtype(dtype)
            host = ops.generator
            words = self._words(index, host)
            if dtype == "float32":
                return ops.asarray(exact.fraction32(host.xp, words))
            need_float64(host, "uniform numbers in float64")
            return ops.asarray(exact.uniform64(host.xp, words), dtype)

    def normal(self, index: Index, dtype: str = "float64", ops: Backend | None = None) -> Array:
        """Standard normal numbers, (n,), as in `tinynet_backends.exact.normal`; in float32, those of float64 rounded.

        Examples
        --------
        >>> tn.Stream(seed=1).normal([10**12]).tolist()
        [-1.029745614486747]
        """
        with _drawing(ops) as ops:
            _check_dtype(dtype)
            need_float64(ops.generator, "normal numbers")
            return ops.asarray(ops.generator.normal(self._words(index, ops.generator)), dtype)

    def integers(self, index: Index, n: int, ops: Backend | None = None) -> Array:
        """Integers in [0, n), (m,) int64 for m indices, all exactly equally likely, for n in [1, 2**63].

        They are the upper halves of ``word * n``. Words that would make some integers more likely are rejected, and
        replaced by the word of the same index in a further stream. D. Lemire (2019), *Fast random integer generation in an
        interval*, ACM TOMACS 29.
        """
        below = checks.as_int(n)
        if below is None or not 1 <= below <= 2**63:
            raise ValueError(
                f"integers below {checks.short_repr(n)} cannot be drawn: give a whole number in [1, 2**63]"
            )
        with _drawing(ops) as ops:
            host = ops.generator
            xp, again = host.xp, 0
            high, low = philox.multiply(below, self._words(index, host))
            surplus = philox.constant(xp, 2**64 % below, host.device)
            while bool(host.to_numpy(xp.any(low < surplus))):
                again += 1
                new_high, new_low = philox.multiply(below, self._words(index, host, again))
                high, low = xp.where(low < surplus, new_high, high), xp.where(low < surplus, new_low, low)
            return ops.asarray(xp.astype(high, xp.int64))

    def bernoulli(self, index: Index, p: float, ops: Backend | None = None) -> Array:
        """True with probability ``p`` in [0, 1], exact to 2**-64: (n,) bool.

        Examples
        --------
        >>> int(tn.Stream(seed=1).bernoulli(range(1000), 0.25).sum())
        240
        """
        chance = checks.as_float(p)
        if chance is None or not 0 <= chance <= 1:
            raise ValueError(f"probability {checks.short_repr(p)} is out of range: give one in [0, 1]")
        with _drawing(ops) as ops:
            host = ops.generator
            words = self._words(index, host)
            if chance == 1:
                return ops.asarray(host.xp.ones_like(words, dtype=host.xp.bool))
            return ops.asarray(words < philox.constant(host.xp, int(chance * 2.0**64), host.device))

    def permute(self, index: Index, n: int, ops: Backend | None = None) -> Array:
        """The place of each index in a shuffle of range(n): (m,) -> (m,) int64, for n in [1, 2**62].

        The stream determines the shuffle, so another epoch needs another counter. Memory is that of the m indices, whatever
        n is: see `tinynet_backends.permutation`.

        Examples
        --------
        >>> stream = tn.Stream(seed=1)
        >>> stream.permute(range(5), 5).tolist(), stream.permute([3], 10**15).tolist()
        ([4, 1, 0, 2, 3], [441265797717591])
        """
        with _drawing(ops) as ops:
            host = ops.generator
            return ops.asarray(host.permute(_places(index, n, host), n, self._permutation_keys()))

    def unpermute(self, index: Index, n: int, ops: Backend | None = None) -> Array:
        """The inverse of `permute`: the index that has each place in the shuffle."""
        with _drawing(ops) as ops:
            host = ops.generator
            return ops.asarray(permutation.unpermute(host.xp, _places(index, n, host), n, self._permutation_keys()))

    def _permutation_keys(self) -> tuple[int, ...]:
        return permutation_keys((self.seed, self.purpose), self.counter)

    def _words(self, index: Index, host: Backend, again: int = 0) -> Array:
        counter = *self.counter[:2], self.counter[2] + again * 2**32
        key = self.seed, self.purpose
        index = _checked(index)
        if isinstance(index, range):
            return host.words(key, counter, index.start, len(index))
        return host.words_at(key, counter, host.asarray(index, "int64"), 1)[:, 0]


@contextmanager
def _drawing(ops: Backend | None) -> Iterator[Backend]:
    """The backend that numbers are drawn on, by default the current one, with its device as the current device."""
    ops = ops or get_backend()
    with ops.active():
        yield ops


def _places(index: Index, n: int, host: Backend) -> Array:
    """``index`` as (m,) int64 on ``host``; IndexError if anything in it is not an integer in [0, n)."""
    index = _checked(index)
    # where NumPy checks them: an error of a device would have to be waited for
    permutation.check_inside(get_backend("numpy").xp, index, n)
    return host.arange(index.start, index.stop) if isinstance(index, range) else host.asarray(index, "int64")


def _checked(index: Index) -> Index:
    """``index`` as a range of step 1 or (n,) int64 on the host; IndexError if anything in it is no integer in [0, 2**62)."""
    if isinstance(index, range) and index.step == 1 and 0 <= index.start <= index.stop <= 2**62:
        return index
    numbers = _whole_numbers(index)
    if numbers is None:
        raise IndexError(f"indices {checks.short_repr(index)} are not valid: give a range or a list in [0, 2**62)")
    return numbers


def _whole_numbers(index: Index) -> Array | None:
    """``index`` as (n,) int64 on the host; None if anything in it is not an integer in [0, 2**62)."""
    xp = get_backend("numpy").xp
    if isinstance(index, range) and index and not 0 <= min(index[0], index[-1]) <= max(index[0], index[-1]) < 2**62:
        return None  # here, since an array of the range could be of any size
    try:
        index = xp.asarray(index)
    except (TypeError, ValueError, OverflowError):
        return None
    if index.ndim != 1 or not (index.size == 0 or xp.isdtype(index.dtype, "integral")):
        return None
    if index.size and not (index.min() >= 0 and index.max() < 2**62):
        return None
    return xp.astype(index, xp.int64)


def _check_dtype(dtype: str) -> None:
    if not isinstance(dtype, str) or dtype not in checks.DTYPES:
        raise ValueError(f"dtype {checks.short_repr(dtype)} is not one of numbers drawn: give 'float32' or 'float64'")


def need_float64(ops: Backend, what: str) -> None:
    """TypeError, which says ``what`` is computed in it, unless ``ops`` has float64."""
    if not ops.has_float64:
        raise TypeError(
            f"{what} are computed in float64, which '{ops.name}' does not have: "
            "words, integers, bernoulli and uniform(dtype='float32') do without"
        )
