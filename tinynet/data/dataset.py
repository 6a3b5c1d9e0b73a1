"""The interface of data sets: samples by index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

from tinynet_backends import Backend, get_backend

from tinynet import checks
from tinynet.data.columns import Columns
from tinynet.pieces import split_range

Array = Any
Shape = tuple[int, ...]
Index = Any  # a range of step 1, or an int64 array on the host
_PIECE = 2**20  # numbers read at a time


class Batch(NamedTuple):
    """A mini-batch: inputs ``x`` (n, *shape), targets ``y`` (n,) or (n, o), and sample weights ``weight`` (n,) or None."""

    x: Array
    y: Array
    weight: Array | None

    def map(self, f: Callable[[Array], Array]) -> Batch:
        """``f`` of each array, as a batch."""
        return Batch(*[None if a is None else f(a) for a in self])


class Dataset:
    """The base class of data sets: ``n`` samples, accessed by index.

    ``shape`` is that of the inputs of one sample. Targets are labels 0, …, ``classes`` - 1, or ``outputs`` numbers per
    sample; the other of the two is None. A subclass sets these four attributes and implements `rows`. Callers use `batch`,
    or index the data set.
    """

    n: int
    shape: Shape
    classes: int | None
    outputs: int | None
    columns: Columns | None = None  # their names in a table
    ordered: bool = True  # whether neighbouring samples may be alike, so that shuffling pays
    computed: bool = False  # whether samples are functions of their indices alone, on any device
    stored: bool = True  # whether the data come from outside, so that targets must be checked
    depth: int = 0  # of nested wrappers, each of which has a stream of its own
    on_host: bool = True  # whether batches come from host memory or files, so that prefetching may pay

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(checks.attributes(self))})"

    def _set(self, **attributes: Any) -> None:
        """Set attributes, also those of a frozen dataclass."""
        checks.set_fields(self, **attributes)

    def _describe_like(self, other: Dataset) -> None:
        """Copy from ``other`` everything that describes a sample and where samples come from."""
        names = ("shape", "classes", "outputs", "columns", "ordered", "stored", "depth", "on_host")
        self._set(**{name: getattr(other, name) for name in names})

    def rows(self, index: Index, ops: Backend, dtype: str) -> Batch:
        """The samples ``index``, as arrays of ``ops``: labels as int64, all other arrays in ``dtype``.

        ``index`` is a range of step 1, or (m,) int64 on the host, and has been checked: a subclass need not do so again.
        """
        raise NotImplementedError(f"{type(self).__name__} has no rows: write them")

    def _as_batch(self, x: Array, y: Array, weight: Array | None, ops: Backend, dtype: str) -> Batch:
        """Arrays of any dtype, of the host or of ``ops``, as what `rows` returns."""
        y = ops.asarray(y, "int64" if self.classes else dtype)
        return Batch(ops.asarray(x, dtype), y, None if weight is None else ops.asarray(weight, dtype))

    def rows_into(self, index: Index, ops: Backend, dtype: str, last: Batch | None) -> Batch:
        """`rows`, perhaps written into ``last``, an earlier result for as many samples, which is then returned."""
        return self.rows(index, ops, dtype)

    def locate(self, index: Index) -> tuple[Dataset, Index]:
        """The data set that the samples ``index`` of this one come from, and their indices there."""
        return self, index

    def in_step(self, ops: Backend, dtype: str) -> bool:
        """Whether `rows`, for indices in an array, is nothing but operations of ``ops``, so that a compiled step may do it."""
        return False

    def batch(self, index: Index, ops: Backend, dtype: str) -> Batch:
        """The samples ``index``, a range or (m,) whole numbers on the host, as arrays of ``ops``.

        ``dtype`` is "float32" or "float64". IndexError for an index that is out of range or not a whole number.
        """
        if isinstance(index, range) and index.step == 1:
            self._check_range(*_extremes(index))
        else:
            index = self._indices(index)
        with ops.active():
            return self.rows(index, ops, dtype)

    def _check_range(self, least: int, most: int) -> None:
        """IndexError unless both are numbers of samples."""
        if least < 0 or most >= self.n:
            wrong = checks.short_repr(least if least < 0 else most)
            raise IndexError(f"sample {wrong} is out of range: there are {self.n}, numbered from 0")

    def __getitem__(self, index: Any) -> Batch:
        """``data[5]``, ``data[10:20]``, ``data[[3, 1]]``: a `Batch` of samples, in float32 on the current backend.

        IndexError for an index that is out of range or not a whole number.

        Examples
        --------
        >>> data = tn.data.Moons(10**12)
        >>> data[10**11].x.shape, data[5:8].y.tolist(), len(data[[7, 3]].y)
        ((1, 2), [0, 0, 1], 2)
        """
        if isinstance(index, slice):
            ends = (index.start, index.stop, index.step)
            if any(end is not None and checks.as_int(end) is None for end in ends) or index.step == 0:
                raise IndexError(
                    f"samples {checks.short_repr(index)} do not exist: give whole numbers, and a step that is not 0"
                )
            start, stop, step = index.indices(self.n)
            index = range(start, stop, step)
        elif (number := checks.as_int(index)) is not None:
            if not -self.n <= number < self.n:
                self._check_range(number, number)
            number %= self.n
            index = range(number, number + 1)
        return self.batch(index, get_backend(), "float32")

    def _indices(self, index: Any) -> Array:
        """Numbers of samples, in a list, a range or an array, as (m,) int64 on the host; IndexError for anything else."""
        xp = get_backend("numpy").xp
        try:
            index = xp.asarray(index)
        except (TypeError, ValueError):
            raise IndexError(f"samples {checks.short_repr(index)} do not exist: give whole numbers in a list") from None
        if index.ndim != 1 or not (index.size == 0 or xp.isdtype(index.dtype, "integral")):
            if index.ndim == 1 and all(checks.as_int(i) is not None for i in index):
                self._check_range(min(index), max(index))  # integers too large for an array
            raise IndexError(
                f"samples are chosen by whole numbers in a list or a range, not {index.dtype} {index.shape}"
            )
        self._check_range(*_extremes(index))  # before 2**63 becomes negative
        return xp.astype(index, xp.int64)  # a copy, which a `Subset` keeps

    def split(self, first: float | int) -> tuple[Dataset, Dataset]:
        """The first samples and the rest, as two data sets: ``first`` is a fraction in (0, 1) or a number of samples.

        The order is kept, so a file that is sorted by class should be split by `stratified`. ValueError if either part would
        be empty.

        Examples
        --------
        >>> train, test = tn.data.Moons(1000).split(0.9)
        >>> len(train), len(test)
        (900, 100)
        """
        n, part = checks.as_int(first), checks.as_float(first)
        if n is None and part is not None and 0 < part < 1:
            n = round(self.n * part)
        if n is None or not 0 < n < self.n:
            text = checks.short_repr(first)
            raise ValueError(
                f"split at {text} leaves nothing on one side of {self.n} samples: choose a point in between"
            )
        return Part(self, 0, n), Part(self, n, self.n)

    def take(self, n: int) -> Dataset:
        """The first ``n`` samples, as a data set. ValueError unless there are that many.

        Examples
        --------
        >>> tn.data.Moons(1000).take(10).n
        10
        """
        count = checks.as_int(n)
        if count is None or not 0 < count <= self.n:
            raise ValueError(f"take({checks.short_repr(n)}) is out of range: there are {self.n} samples")
        return Part(self, 0, count)

    def shard(self, rank: int, size: int) -> Dataset:
        """The samples of worker ``rank``, from 0, of ``size`` workers, as a data set.

        They are consecutive, and the numbers of samples of two workers differ by at most 1. ValueError for an empty share.

        Examples
        --------
        >>> [tn.data.Moons(1000).shard(rank, 3).n for rank in range(3)]
        [333, 333, 334]
        """
        number, count = checks.as_int(rank), checks.as_int(size)
        if number is None or count is None or not 0 <= number < count:
            text = f"shard {checks.short_repr(rank)} of {checks.short_repr(size)}"
            raise ValueError(f"{text} does not exist: ranks are 0 to size - 1")
        start, stop = self.n * number // count, self.n * (number + 1) // count
        if start == stop:
            raise ValueError(f"shard {number} of {checks.short_repr(count)} is empty: there are {self.n} samples")
        return Part(self, start, stop)

    def check(self, check: Callable[[Array, Backend], None], ops: Backend, dtype: str) -> None:
        """Run ``check(targets, ops)`` on targets: on all that are stored, where they lie, else on the first 64, in ``dtype``.

        The latter come from `rows`, which a user may have written: TypeError or ValueError unless it gives what it should.
        They are in the dtype of the training because a backend may compile what makes them, for each dtype anew.
        """
        ops, count, kind = ops.generator, min(self.n, 64), type(self).__name__
        batch = self.rows(range(count), ops, dtype)
        if not isinstance(batch, Batch):
            raise TypeError(f"{kind}.rows gives a {type(batch).__name__}: return a Batch(x, y, weight)")
        shapes = [tuple(getattr(a, "shape", ())) for a in batch if a is not None]
        if shapes[0] != (count, *self.shape) or any(shape[:1] != (count,) for shape in shapes):
            raise ValueError(
                f"{kind}.rows gives arrays {', '.join(map(str, shapes))} for {count} samples: "
                f"expected x {(count, *self.shape)}, and as many in the others"
            )
        if batch.x.dtype not in (ops.dtype("float32"), ops.dtype("float64")):
            raise TypeError(f"{kind}.rows gives x of dtype {batch.x.dtype}: return it in the dtype that is asked for")
        check(batch.y, ops)

    def check_dtype(self, dtype: str) -> None:
        """ValueError if a number that is stored is infinite in ``dtype``; computed ones are not."""

    def fingerprint(self) -> str:
        """A text that differs if the samples differ, which a checkpoint compares."""
        return repr(self)


def label_pieces(data: Dataset) -> Iterator[Array]:
    """The labels of ``data`` in order, on the host, in pieces so small that reading their features takes little memory."""
    host = get_backend("numpy")
    for rows in split_range(range(data.n), max(1, _PIECE // prod(data.shape))):
        yield data.rows(rows, host, "float64").y  # in float64 any feature is finite


def spaced_indices(n: int, count: int) -> Array:
    """``count`` of the indices 0, …, n - 1, one from each of as many equal parts: (count,) int64 on the host.

    Its place in the part is the next multiple of the golden ratio's inverse, modulo 1: at equal distances, samples whose
    classes alternate could all be of one class.
    """
    places, place = [], 0  # in units of 2**-32; Python's integers, because products may exceed 64 bits
    for start, stop in pairwise(number * n // count for number in range(count + 1)):
        places.append(start + ((stop - start) * place >> 32))
        place = (place + 2654435769) % 2**32  # 2**32 divided by the golden ratio
    return get_backend("numpy").asarray(places, "int64")


def _extremes(index: Index) -> tuple[int, int]:
    if len(index) == 0:
        return 0, -1
    if isinstance(index, range):
        return index[0], index[-1]
    return int(index.min()), int(index.max())


class Selection(Dataset):
    """Samples of another data set, ``whole``; a subclass says by `_in_whole` which."""

    whole: Dataset

    def _in_whole(self, index: Index) -> Index:
        """The indices that the samples ``index`` have in ``whole``."""
        raise NotImplementedError

    def rows(self, index: Index, ops: Backend, dtype: str) -> Batch:
        return self.whole.rows(self._in_whole(index), ops, dtype)

    def locate(self, index: Index) -> tuple[Dataset, Index]:
        own = type(self).rows is not Selection.rows  # of a subclass: it does more than select
        return (self, index) if own else self.whole.locate(self._in_whole(index))

    def check(self, check: Callable[[Array, Backend], None], ops: Backend, dtype: str) -> None:
        self.whole.check(check, ops, dtype)

    def check_dtype(self, dtype: str) -> None:
        self.whole.check_dtype(dtype)


class SampleIndices(Dataset):
    """Where the samples of ``data`` are: indices (n,) int64 of the data set that `locate` names, and no targets."""

    shape, classes, outputs = (), None, None

    def __init__(self, data: Dataset) -> None:
        self.data, self.n = data, data.n

    def rows(self, index: Index, ops: Backend, dtype: str) -> Batch:
        return Batch(self.data.locate(index)[1], None, None)


class Part(Selection):
    """Samples ``start`` to ``stop - 1`` of another data set."""

    def __init__(self, whole: Dataset, start: int, stop: int) -> None:
        first, end = checks.as_int(start), checks.as_int(stop)
        if first is None or end is None or not 0 <= first < end <= whole.n:
            text = f"samples {checks.short_repr(start)} to {checks.short_repr(stop)}"
            raise ValueError(f"{text} are not a part of {whole.n}: give 0 <= start < stop <= {whole.n}")
        self._describe_like(whole)
        self.whole, self.start, self.stop, self.n = whole, first, end, end - first
        self.computed = whole.computed

    def __repr__(self) -> str:
        return f"{self.whole!r}[{self.start}:{self.stop}]"

    def _in_whole(self, index: Index) -> Index:
        if isinstance(index, range):
            return range(index.start + self.start, index.stop + self.start)
        return index + self.start

    def fingerprint(self) -> str:
        return f"{self.whole.fingerprint()}[{self.start}:{self.stop}]"
