"""Batches that the caller makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from tinynet_backends import Backend, get_backend

from tinynet import checks
from tinynet.data.arrays import Arrays
from tinynet.data.columns import check_order
from tinynet.data.dataset import Array, Batch

A = TypeVar("A", bound=Arrays)
_EMPTY = "the source of batches is empty: give at least one"


class _First(Arrays):
    """The first batch. It keeps the check that its targets had to pass, for those of all other batches."""

    target_check: Callable[[Array, Backend], None] | None = None

    def check(self, check: Callable[[Array, Backend], None], ops: Backend, dtype: str) -> None:
        self.target_check = check
        super().check(check, ops, dtype)


class Batches:
    """Mini-batches (x, y) or (x, y, weight) of your own, from a list, a data loader or any other iterable, or an iterator.

    ``steps`` is the number of batches per epoch, by default the length of ``source``. An iterator goes on in the next epoch
    and serves one run only; any other iterable starts again in each epoch. As batches come in order, such a run cannot be
    shuffled or resumed; a data set or a path can. A leading `Standardize` is set from the first batch.

    ValueError for an iterator without ``steps``, for a source that is empty or ends early, and for a batch that is unlike the
    first.

    Examples
    --------
    >>> batches = tn.data.Batches([([[0.0], [1.0]], [0, 1]), ([[2.0], [3.0]], [1, 1])])
    >>> len(batches)
    2
    """

    def __init__(self, source: Iterable[Any], *, steps: int | None = None) -> None:
        try:
            self._again = iter(source) is not source
        except TypeError:
            text = checks.short_repr(source)
            raise TypeError(f"batches {text} cannot be iterated over: give a list or an iterator of (x, y)") from None
        if steps is None:
            if not (self._again and hasattr(source, "__len__")):
                raise ValueError("an iterator has no length: say how many steps an epoch has, Batches(source, steps=…)")
            steps = len(source)  # type: ignore[arg-type]
            if not steps:
                raise ValueError(_EMPTY)
        self.steps_per_epoch = checks.positive("Batches steps", steps)
        self._source, self._iterator, self._next = source, iter(source), 0
        self.data: _First = self._take(_First)
        self._first: Arrays | None = self.data
        self.batch_size = self.data.n

    def __len__(self) -> int:
        """Steps per epoch."""
        return self.steps_per_epoch

    def __repr__(self) -> str:
        return f"Batches({type(self._source).__name__}, steps={self.steps_per_epoch})"

    def fingerprint(self) -> str:
        return f"Batches of {self.data.fingerprint()}"

    def _take(self, kind: type[A]) -> A:
        try:
            batch = next(self._iterator)
        except StopIteration:
            if self._next == 0:
                raise ValueError(_EMPTY) from None
            raise ValueError(
                f"the source of batches ended after {self._next}, and an epoch has {self.steps_per_epoch}: "
                "say how many with steps=…"
            ) from None
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            raise TypeError(f"a batch is (x, y) or (x, y, weight), not {type(batch).__name__}")
        try:
            return kind(*(_host(a) for a in batch))
        except (ValueError, TypeError) as e:
            raise type(e)(f"batch {self._next}: {e}") from None

    def batch(self, step: int, ops: Backend, dtype: str) -> Batch:
        if step == 0 < self._next and self._again:  # another run
            self._next = 0
        if step != self._next:
            raise ValueError(
                f"batches that are handed in cannot go to step {step} (the next is {self._next}): "
                "give a data set or a path, which can"
            )
        if self._first is not None:  # taken when this object was made
            data, self._first = self._first, None
        else:
            if self._again and step % self.steps_per_epoch == 0:
                self._iterator = iter(self._source)
            data = self._take(Arrays)
        if data.shape != self.data.shape or data.outputs != self.data.outputs:
            raise ValueError(f"batch {step} is {data!r}, and the first was {self.data!r}: shapes or targets differ")
        try:
            check_order(data.columns, self.data.columns)
            if self.data.target_check is not None:
                data.check(self.data.target_check, ops, dtype)
        except ValueError as e:
            raise ValueError(f"batch {step}: {e}") from None
        self._next += 1
        return data.rows(range(data.n), ops, dtype)


def _host(a: Any) -> Any:
    """CPU arrays of other libraries, such as a data loader's tensors, as NumPy arrays; anything else as it is."""
    host = get_backend("numpy")
    return host.xp.asarray(a) if hasattr(a, "__dlpack__") and not host.owns(a) else a
