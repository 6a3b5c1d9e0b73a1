"""Data sets that are computed and never stored: sample i is a pure function of (seed, i)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import wraps
from typing import Any, ClassVar

from tinynet_backends import Backend

from tinynet import checks, streams
from tinynet.data.dataset import Array, Batch, Dataset, Index, Shape

LARGEST = 2**62

# The second word of a stream's counter is its purpose; the first counts up from the sample's index.
SAMPLES, CONSTANTS = 0, 1


@dataclass(frozen=True)
class Virtual(Dataset):
    """The base class of data sets that are computed and never stored: ``n`` samples, up to 2**62, from ``seed``.

    Sample i is computed from the words ``i * width`` to ``(i + 1) * width - 1`` of one random stream. Its bits are the same on
    every backend and machine and in every batch, because only integers and ``+ - * / sqrt`` in a fixed order are used, in
    float64; float32 samples are these, rounded once. A subclass says how many words a sample takes and what is computed
    from them.
    """

    n: int
    _: KW_ONLY
    seed: int = 0
    shape: Shape = field(init=False, repr=False, default=())
    classes: int | None = field(init=False, repr=False, default=None)
    outputs: int | None = field(init=False, repr=False, default=None)
    cache: dict[Any, Any] = field(init=False, repr=False, compare=False, default_factory=dict)

    ordered: ClassVar[bool] = False  # type: ignore[misc]
    computed: ClassVar[bool] = True  # type: ignore[misc]
    stored: ClassVar[bool] = False  # type: ignore[misc]
    on_host: ClassVar[bool] = False  # type: ignore[misc]

    def __post_init__(self) -> None:
        self._set(seed=streams.check_seed(self.seed))
        check_whole(self, "n", 1, LARGEST, "a whole number in [1, 2**62]")
        self._validate()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "cache": {}}  # recomputed on demand

    def _validate(self) -> None:
        """Check the hyperparameters, and set ``shape`` and either ``classes`` or ``outputs``, with ``self._set(…)``."""
        raise NotImplementedError

    def _width(self) -> int:
        """The number of 64-bit words that a sample takes."""
        raise NotImplementedError

    def _tables(self, ops: Backend) -> tuple[Array, ...]:
        """Arrays, float64, that all samples depend on, such as the centres of classes; by default none."""
        return ()

    def _samples(self, ops: Backend, words: Array, *tables: Array) -> tuple[Array, Array]:
        """Features and targets from words: (n, width) uint64 -> (n, i) float64, and labels (n,) int64 or numbers (n, o) float64.

        Each row must follow from its own words, and from `_tables`, alone; several threads may ask at once. See `Backend.samples`.
        """
        raise NotImplementedError

    def rows(self, index: Index, ops: Backend, dtype: str) -> Batch:
        return self._made(index, ops, dtype, None)

    def rows_into(self, index: Index, ops: Backend, dtype: str, last: Batch | None) -> Batch:
        own = type(self).rows is not Virtual.rows  # of a subclass: it may have kept what it returned
        return self.rows(index, ops, dtype) if own else self._made(index, ops, dtype, last)

    def _made(self, index: Index, ops: Backend, dtype: str, last: Batch | None) -> Batch:
        host, out = ops.generator, None if last is None else last[:2]
        key, counter = _stream(self.seed, SAMPLES, 0, host)
        x, y = host.samples(self._samples, key, counter, index, self._width(), self._tables(host), dtype, out)
        return self._as_batch(x, y, None, ops, dtype)

    def _constants(self, count: int, ops: Backend) -> Array:
        """Words for the constants of the set, (count,) uint64."""
        return ops.words(streams.key(self.seed, streams.DATA), (0, CONSTANTS, 0), 0, count)


def draw(seed: int, purpose: int, depth: int, index: Index, width: int, host: Backend) -> Array:
    """The words of each sample of ``index``: (n, width) uint64."""
    return host.draw(*_stream(seed, purpose, depth, host), index, width)


def _stream(seed: int, purpose: int, depth: int, host: Backend) -> tuple[tuple[int, int], tuple[int, int, int]]:
    """Key and counter of the stream of samples; ``seed`` was checked when the set was made."""
    streams.need_float64(host, "samples")
    return (seed, streams.DATA), (0, purpose, depth)


class ClassFirst(Virtual):
    """A virtual set whose class is drawn first, from the upper half of word 0, and the features given the class."""

    def _samples(self, ops: Backend, words: Array, *tables: Array) -> tuple[Array, Array]:
        label = integers(ops.xp, words[:, 0], self.classes or 1)
        return self._points(ops, label, words, *tables), label

    def _points(self, ops: Backend, label: Array, words: Array, *tables: Array) -> Array:
        """Features (n, k) float64 of samples of the classes ``label``; the lower half of word 0 is unused so far."""
        raise NotImplementedError

    def features_given(self, label: Array, index: Index, host: Backend) -> Array:
        """The features that the samples of ``index`` would have, were their classes ``label``."""
        words = draw(self.seed, SAMPLES, 0, index, self._width(), host)
        return self._points(host, label, words, *self._tables(host))


def cached_per_backend(method: Callable[[Any, Backend], Array]) -> Callable[[Any, Backend], Array]:
    """``method(self, ops)``, computed once for each backend."""

    @wraps(method)
    def cached(self: Any, ops: Backend) -> Array:
        key = method.__name__, ops
        if key not in self.cache:
            self.cache[key] = method(self, ops)
        return self.cache[key]

    return cached


def integers(xp: Any, words: Array, n: int) -> Array:
    """Integers in [0, n) from words, int64: upper half of the upper 32 bits times n (bias below n / 2**32)."""
    return xp.astype(((words >> 32) * n) >> 32, xp.int64)


def digitize(xp: Any, x: Array, bounds: Sequence[float]) -> Array:
    """How many of ``bounds``, which rise, each x reaches, int64."""
    count = xp.zeros_like(x, dtype=xp.int64)
    for bound in bounds:
        count = count + xp.astype(x >= bound, xp.int64)
    return count


def low_uniform(xp: Any, words: Array) -> Array:
    """A uniform number in [0, 1) from the lower half of each row's first word, whose upper half drew the class."""
    return xp.astype(words[:, 0] & 0xFFFFFFFF, xp.float64) * 2.0**-32


def uniforms(words: Array, count: int, ops: Backend) -> Array:
    """Uniform numbers in [0, 1) of 32 bits, two from each word: (n, width) -> (n, count) float64."""
    return ops.halves(words[:, : (count + 1) // 2])[:, :count]


# Hyperparameters, checked and converted to Python's own numbers -------------------------------------------------------

LARGE = 1e30  # hyperparameters up to this keep every sample finite in float32


def check_whole(owner: object, name: str, least: int = 1, most: int = 2**16 - 1, wanted: str = "") -> None:
    _coerce(owner, name, checks.as_int, least, most, wanted or f"a whole number in [{least}, {most + 1})")


def check_classes(owner: object) -> None:
    check_whole(owner, "n_classes", 2)


def check_real(owner: object, name: str, least: float, most: float, wanted: str) -> None:
    _coerce(owner, name, checks.as_float, least, most, wanted)


def _coerce(owner: object, name: str, number_of: Callable[[Any], Any], least: float, most: float, wanted: str) -> None:
    value = getattr(owner, name)
    number = number_of(value)
    if number is None or not least <= number <= most:
        raise ValueError(f"{type(owner).__name__} {name} {checks.short_repr(value)} is out of range: give {wanted}")
    checks.set_fields(owner, **{name: number})


def check_noise(owner: object, name: str = "noise") -> None:
    check_real(owner, name, 0.0, LARGE, "a standard deviation in [0, 1e30]")


def check_scale(owner: object, name: str) -> None:
    check_real(owner, name, -LARGE, LARGE, "a number in [-1e30, 1e30]")


def check_turns(owner: object, name: str) -> None:
    """A larger number of turns would leave too few digits for the fraction of a turn: see `exact.sincos`."""
    check_real(owner, name, -(2.0**20), 2.0**20, "a number in [-2**20, 2**20]")
