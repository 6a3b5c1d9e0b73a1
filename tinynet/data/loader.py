"""The loader: step t -> batch, a pure function."""

from __future__ import annotations

from copy import copy
from math import prod
from typing import Any, Protocol, Self

from tinynet_backends import Backend, get_backend

from tinynet import checks, streams
from tinynet.data.dataset import Batch, Dataset, Index, SampleIndices
from tinynet.data.sampling import Balanced, Order, Sequential, Shuffled, Weighted
from tinynet.data.sources import as_dataset

Chunk = tuple[int, int, Batch]  # its first step, how many steps it has, and the batches of all, one after another
LARGEST_CHUNK = 2**22  # numbers in a chunk, at most, on the host
LARGEST_ON_DEVICE = 2**23  # of one that a device makes, larger, so that the host has time to queue the steps


class BatchSource(Protocol):
    """What training asks of a loader."""

    data: Dataset
    steps_per_epoch: int
    batch_size: int

    def batch(self, step: int, ops: Backend, dtype: str) -> Batch: ...


class Loader:
    """The mini-batches of a data set: the batch of step t is a pure function of (seed, t).

    - ``data``: a data set, or what `as_dataset` makes one of. In an epoch each sample is used once.
    - ``shuffle``: give each epoch a random order of its own, computed index by index, without a list. By default stored data
      and sets that are joined are shuffled; virtual sets, whose samples are independent, are not.
    - ``drop_last``: leave out the last batch of an epoch if it has fewer than ``batch_size`` samples.
    - ``weights`` (n,), at least 0: draw samples with replacement, with probabilities in proportion to these numbers.
    - ``balance``: draw the classes in turn, each equally often, and within a class its samples in random order.
    - ``prefetch``: whether a background thread makes the next batch while a step runs. By default this is tried where the
      host makes the batches, and kept if it is faster. It does not change the batches.

    With ``weights`` or ``balance`` an epoch has as many draws as there are samples, and memory holds a number for each
    sample. ``len(loader)`` is the number of steps in an epoch. TypeError or ValueError for options that are out of range
    or exclude each other.

    Examples
    --------
    >>> loader = tn.Loader(tn.data.Spirals(10**12), batch_size=4, shuffle=True, seed=1)
    >>> len(loader)
    250000000000
    >>> loader.index(step=10**9).tolist()
    [535292344818, 418191604719, 727870214170, 727230501973]
    """

    def __init__(
        self,
        data: Any,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool | None = None,
        drop_last: bool = False,
        weights: Any = None,
        balance: bool = False,
        prefetch: bool | None = None,
    ) -> None:
        self.data = as_dataset(data)
        self.batch_size = batch_size = checks.positive("batch_size", batch_size)
        flags = {"shuffle": shuffle, "drop_last": drop_last, "balance": balance, "prefetch": prefetch}
        for name, flag in flags.items():
            if checks.as_bool(flag) is None and (flag is not None or name in ("drop_last", "balance")):
                raise TypeError(f"Loader {name} {checks.short_repr(flag)} is not True or False: give one of them")
        self.seed = streams.check_seed(seed)
        self.prefetch = prefetch
        n = self.data.n
        self.steps_per_epoch = n // batch_size if drop_last else -(-n // batch_size)
        if not self.steps_per_epoch:
            raise ValueError(
                f"batch_size {batch_size} is larger than {n} samples and drop_last leaves none: choose a smaller one"
            )
        if weights is not None and balance:
            raise ValueError("weights and balance are two ways to draw: give one of them")
        if (weights is not None or balance) and shuffle is False:
            raise ValueError("weights and balance draw in an order of their own: leave shuffle out")
        self.order: Order
        if weights is not None:
            self.order = Weighted(weights, n, self.seed)
        elif balance:
            self.order = Balanced(self.data, self.seed)
        elif (self.data.ordered if shuffle is None else shuffle) and n > 1:
            self.order = Shuffled(n, self.seed)
        else:
            self.order = Sequential(n)
        self._kept: tuple[int, int, str, Batch] | None = None  # the last chunk's first step, end, dtype, batches

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.data!r}, {self.batch_size}, seed={self.seed}, {self.order!r})"

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_kept": None}

    def fingerprint(self) -> str:
        """Text that differs where the batches do."""
        left_out = self.data.n - self.steps_per_epoch * self.batch_size > 0
        last = ", drop_last=True" if left_out else ""
        order = self.order.fingerprint()
        return f"{type(self).__name__}({self.data.fingerprint()}, {self.batch_size}, seed={self.seed}, {order}{last})"

    def __len__(self) -> int:
        """Steps in an epoch."""
        return self.steps_per_epoch

    def index(self, step: int, ops: Backend | None = None) -> Index:
        """The indices of the samples of a step, counted from 0 over all epochs: a range, or (m,) int64 on the host."""
        epoch, start, stop = self.span(step, 1)
        return self.order.draws(epoch, start, stop, host_of(ops or get_backend()))

    def span(self, step: int, steps: int) -> tuple[int, int, int]:
        """The epoch of a step, and the places in it of that step and those after it, ``steps`` in all."""
        epoch, number = divmod(_check_step(step), self.steps_per_epoch)
        start = number * self.batch_size
        return epoch, start, min(start + steps * self.batch_size, self.data.n)

    def batch(self, step: int, ops: Backend, dtype: str) -> Batch:
        """The `Batch` of a step, as arrays of ``ops``; ``dtype`` is "float32" or "float64"."""
        if type(self).index is not Loader.index:  # a subclass chooses
            return self.data.batch(self.index(step, ops), ops, dtype)
        if not self.made_on_host(ops):
            with ops.active():
                return self.make(step, 1, ops, dtype)
        kept = self._kept
        if kept is None or not isinstance(step, int) or not kept[0] <= step < kept[1] or kept[2] != dtype:
            first, steps, chunk = self.chunk(_check_step(step), ops, dtype)
            kept = self._kept = first, first + steps, dtype, chunk
        part = self.cut(kept[3], step - kept[0])
        return part if ops.on_host else part.map(ops.asarray)

    # On the host the batches of several steps, a chunk of them, are made together, so that the cost of calls and of a cold
    # cache is spread over them. A `StackedLoader` does the same.

    def made_on_host(self, ops: Backend) -> bool:
        """Whether batches for ``ops`` are made by the host."""
        return self.data.on_host or (not self.data.stored and ops.generator.on_host)

    @property
    def gathers(self) -> bool:
        """Whether samples are gathered in an order that the library draws, and not by a thread ahead of time."""
        return not self.prefetch and type(self.order) in (Shuffled, Weighted, Balanced)

    def as_indices(self) -> Self:
        """This loader, with batches of `SampleIndices`."""
        found = copy(self)
        found.data, found.prefetch = SampleIndices(self.data), False  # indices alone are not worth a thread
        found._kept = None  # it has samples
        return found

    def steps_per_chunk(self, ops: Backend) -> int:
        """How many steps a chunk for ``ops`` has; the last of an epoch may have fewer."""
        largest = LARGEST_CHUNK if self.made_on_host(ops) else LARGEST_ON_DEVICE
        return power_of_two(largest // (self.batch_size * sample_size(self.data)))

    def chunk(self, step: int, ops: Backend, dtype: str) -> Chunk:
        """The chunk that ``step`` belongs to; none crosses the end of an epoch.

        Batches lie on the host of ``ops`` or, where that does not make them, on ``ops``.
        """
        most = self.steps_per_chunk(ops)
        first = step - step % self.steps_per_epoch % most
        steps = min(most, self.steps_per_epoch - first % self.steps_per_epoch)
        return first, steps, self.make(first, steps, host_of(ops) if self.made_on_host(ops) else ops, dtype)

    def make(self, step: int, steps: int, ops: Backend, dtype: str, last: Batch | None = None) -> Batch:
        """The batches of ``steps`` steps of an epoch, one after another, made by ``ops``: see `Dataset.rows_into`."""
        data, index = self.data.locate(self.order.draws(*self.span(step, steps), self._order_backend(ops)))
        return data.rows_into(index, ops, dtype, last)

    def _order_backend(self, ops: Backend) -> Backend:
        """The backend that computes the order of samples for ``ops``: ``ops`` itself if it can, and computes the samples too."""
        there = isinstance(self.order, Shuffled) and self.data.computed and not self.made_on_host(ops)
        return ops if there and ops.generator is ops else host_of(ops)

    def cut(self, batches: Batch, number: int) -> Batch:
        """The batch of step ``number`` of a chunk, from the batches of all."""
        rows = slice(number * self.batch_size, (number + 1) * self.batch_size)
        return batches.map(lambda a: a[rows])

    def divided(self, batches: Batch, ops: Backend) -> Batch:
        """The batches of a chunk on ``ops`` with an axis of steps, without a smaller last one: (n, …) -> (steps, batch_size, …)."""
        size = self.batch_size
        count = batches.x.shape[0] // size
        return batches.map(lambda a: ops.xp.reshape(a[: count * size, ...], (count, size, *a.shape[1:])))


def _check_step(step: int) -> int:
    number = checks.as_int(step)
    if number is None or not 0 <= number < 2**63:
        raise IndexError(f"step {checks.short_repr(step)} is out of range: give a whole number in [0, 2**63)")
    return number


def host_of(ops: Backend) -> Backend:
    """The backend that makes batches for ``ops`` on the host."""
    return ops if ops.on_host else get_backend("numpy")


def sample_size(data: Dataset) -> int:
    """How many numbers a sample has, features and targets; a label is not counted."""
    return prod(data.shape) + (data.outputs or 0)


def power_of_two(most: int) -> int:
    """The largest of 1, 2, …, 64 up to ``most``: they divide the steps between two checks of the loss.

    A chunk costs some 150 us, whatever is in it: of 64 steps that is little.
    """
    return next((n for n in (64, 32, 16, 8, 4, 2) if n <= most), 1)
