"""The loader: step t -> batch, a pure function."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from math import prod
from time import perf_counter
from typing import Any, Protocol

from tinynet_backends import Backend, get_backend

from tinynet import checks, streams
from tinynet.data.dataset import Batch, Dataset, Index
from tinynet.data.sampling import Balanced, Order, Sequential, Shuffled, Weighted
from tinynet.data.sources import as_dataset


class BatchSource(Protocol):
    """What training asks of a loader."""

    data: Dataset
    steps_per_epoch: int
    batch_size: int

    def batch(self, step: int, ops: Backend, dtype: str) -> Batch: ...


class Loader:
    """Step t -> batch, a pure function of (seed, t).

    The samples are gone through epoch by epoch, in memory that does not grow with their number; ``shuffle`` (by default
    where neighbours may resemble each other: stored arrays) takes each epoch in an order of its own. The last batch of
    an epoch is smaller, or left out with ``drop_last``.

    Two ways to draw other than each sample once an epoch, an epoch still being as many draws as there are samples:
    ``weights``, a not negative number for each sample, draws with replacement in proportion to them; ``balance`` deals
    the classes out in turn, so that each is drawn equally often, and goes through each class in an order of its own.
    Both keep a number for each sample in memory.

    ``prefetch`` gets the next batch in a background thread while a step runs; None tries whether that is faster, where
    batches come from the host's memory, from files or from the host's arithmetic. They are the same either way.

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
        self._largest = LARGEST_CHUNK // (batch_size * prod(self.data.shape))
        self._kept: tuple[int, int, str, Batch] | None = None  # the chunk that was made last: from step to step

    def __repr__(self) -> str:
        return f"Loader({self.data!r}, {self.batch_size}, seed={self.seed}, {self.order!r})"

    def fingerprint(self) -> str:
        """Text that differs where the batches do."""
        left_out = self.data.n - self.steps_per_epoch * self.batch_size > 0
        last = ", drop_last=True" if left_out else ""
        order = self.order.fingerprint()
        return f"Loader({self.data.fingerprint()}, {self.batch_size}, seed={self.seed}, {order}{last})"

    def __len__(self) -> int:
        """Steps in an epoch."""
        return self.steps_per_epoch

    def index(self, step: int, ops: Backend | None = None) -> Index:
        """Numbers of the samples of a step: a range, or int64 on the host."""
        epoch, start, stop = self._places(step, 1)
        return self.order.draws(epoch, start, stop, host_of(ops or get_backend()))

    def _places(self, step: int, steps: int) -> tuple[int, int, int]:
        """The epoch of a step, and the places in it of that step and those after it, ``steps`` in all."""
        epoch, number = divmod(_check_step(step), self.steps_per_epoch)
        start = number * self.batch_size
        return epoch, start, min(start + steps * self.batch_size, self.data.n)

    def batch(self, step: int, ops: Backend, dtype: str) -> Batch:
        """The batch of a step on ``ops``."""
        if not self.made_on_host(ops):
            return self.data.rows(self.order.draws(*self._places(step, 1), self._orders(ops)), ops, dtype)
        kept = self._kept
        if kept is None or not isinstance(step, int) or not kept[0] <= step < kept[1] or kept[2] != dtype:
            first, steps, chunk = self.chunk(_check_step(step), ops, dtype)
            kept = self._kept = first, first + steps, dtype, chunk
        return self.cut(kept[3], step - kept[0], ops)

    # The batches of several steps, a chunk of them, are made together on the host: the cost of calls and of a cold cache is
    # spread over them.

    def made_on_host(self, ops: Backend) -> bool:
        """Whether batches for ``ops`` are made by the host."""
        return self.data.on_host or (not self.data.stored and ops.generator.on_host)

    def steps_per_chunk(self, ops: Backend) -> int:
        """How many steps a chunk for ``ops`` has, but for the last of an epoch."""
        return power_of_two(min(self._largest, _MOST if self.made_on_host(ops) else LAUNCHED))

    def chunk(self, step: int, ops: Backend, dtype: str) -> Chunk:
        """The chunk that ``step`` belongs to; none crosses the end of an epoch.

        Batches lie on the host of ``ops`` or, where that does not make them, on ``ops``.
        """
        most = self.steps_per_chunk(ops)
        first = step - step % self.steps_per_epoch % most
        steps = min(most, self.steps_per_epoch - first % self.steps_per_epoch)
        epoch, start, stop = self._places(first, steps)
        draws = self.order.draws(epoch, start, stop, self._orders(ops))
        return first, steps, self.data.rows(draws, host_of(ops) if self.made_on_host(ops) else ops, dtype)

    def _orders(self, ops: Backend) -> Backend:
        """Who finds out which samples make a batch for ``ops``: itself, if it can and the numbers may stay there."""
        there = isinstance(self.order, Shuffled) and self.data.computed and not self.made_on_host(ops)
        return ops if there and ops.generator is ops else host_of(ops)

    def cut(self, chunk: Batch, number: int, ops: Backend, put: Feed | None = None) -> Batch:
        """The batch of the ``number``-th step of a chunk, on ``ops``; ``put`` there by `Backend.feed`, if given."""
        rows = slice(number * self.batch_size, (number + 1) * self.batch_size)
        parts = [None if a is None else a[rows] for a in chunk]
        if not ops.on_host:
            parts = put(parts) if put else [None if a is None else ops.asarray(a) for a in parts]
        return Batch(*parts)


def _check_step(step: int) -> int:
    number = checks.as_int(step)
    if number is None or not 0 <= number < 2**63:
        raise IndexError(f"step {checks.short_repr(step)} is out of range: give a whole number in [0, 2**63)")
    return number


def host_of(ops: Backend) -> Backend:
    """Who makes on the host what ``ops`` is fed."""
    return ops if ops.on_host else get_backend("numpy")


Feed = Callable[[Sequence[Any]], list[Any]]
Chunk = tuple[int, int, Batch]  # its first step, how many steps it has, and the batches of all, one after another
LARGEST_CHUNK = 2**21  # numbers in a chunk, at most
LAUNCHED = 16  # steps of a chunk that a device makes, at most
_MOST = 64  # and the host: a chunk costs it some 150 us, whatever is in it
_SOON = 1e-3  # seconds for two chunks: what a thread, and its batches from another core's cache, come to


def power_of_two(most: int) -> int:
    """The largest of 1, 2, …, 64 up to ``most``: they divide the steps between two checks of the loss."""
    return next((n for n in (64, 32, 16, 8, 4, 2) if n <= most), 1)


class Supply:
    """The batches of a run from step ``first`` on, in order, singly or a chunk at a time.

    Chunks of the host are perhaps got ready in a background thread. Each batch is to be used before the next is asked for,
    which may lie where an earlier one did.
    """

    def __init__(self, loader: BatchSource, first: int, ops: Backend, dtype: str) -> None:
        self.loader: Any = loader
        self.ops, self.dtype = ops, dtype
        self._chunks = None
        if isinstance(loader, Loader) and loader.made_on_host(ops):
            self._chunks = _chunks(loader, first, ops, dtype)
            self._put = None if ops.on_host else ops.feed()
        self._latest: Chunk = first, 0, Batch(None, None, None)

    def batch(self, step: int) -> Batch:
        if self._chunks is None:
            found: Batch = self.loader.batch(step, self.ops, self.dtype)
        else:
            first, _, chunk = self.chunk(step)
            put = self._put if isinstance(self._latest, _Ahead) else None
            found = self.loader.cut(chunk, step - first, self.ops, put)
        return found

    def chunk(self, step: int) -> Chunk:
        """The chunk that ``step`` belongs to."""
        if self._chunks is None:
            self._latest = self.loader.chunk(step, self.ops, self.dtype)
        else:
            while step >= self._latest[0] + self._latest[1]:
                self._latest = next(self._chunks)
        return self._latest

    def several(self, step: int, count: int) -> Batch:
        """The batches of ``count`` steps of a chunk, all of them full: (count, …)."""
        first, _, chunk = self.chunk(step)
        if isinstance(self.loader, Loader):  # chunks for many networks are (steps, …) already
            size, xp = self.loader.batch_size, self.ops.xp
            chunk = Batch(*(None if a is None else _divided(xp, a, size) for a in chunk))
        return Batch(*(None if a is None else a[step - first : step - first + count, ...] for a in chunk))

    def close(self) -> None:
        """Wait for the background thread, if there is one, and end it."""
        if self._chunks is not None:
            self._chunks.close()


def _divided(xp: Any, a: Any, size: int) -> Any:
    """(n, …) -> (n // size, size, …): without the rest."""
    whole = a.shape[0] // size
    return xp.reshape(a[: whole * size, ...], (whole, size, *a.shape[1:]))


def _chunks(loader: Loader, step: int, ops: Backend, dtype: str) -> Generator[Chunk]:
    """Chunks without end from that of ``step`` on, with or without a thread."""
    ahead = loader.prefetch
    if ahead is None:
        ahead, step = yield from _trial(loader, step, ops, dtype)
    if ahead:
        yield from _ahead(loader, step, ops, dtype)
    while True:
        chunk = loader.chunk(step, ops, dtype)
        yield chunk
        step = chunk[0] + chunk[1]


def _trial(loader: Loader, step: int, ops: Backend, dtype: str) -> Generator[Chunk, None, tuple[bool, int]]:
    """Chunks without a thread, then as many with one, twice.

    Returns whether the thread was faster by more than chance both times, and the next step.
    """
    for _ in range(2):
        began = waited = 0.0
        for n in range(3):
            if n == 1:  # the first is slower than others and does not count
                began, waited = perf_counter(), 0.0
            asked = perf_counter()
            first, steps, _ = chunk = loader.chunk(step, ops, dtype)
            waited += perf_counter() - asked
            yield chunk
            step = first + steps
        without = perf_counter() - began
        if waited < max(0.02 * without, _SOON):
            return False, step
        with closing(_ahead(loader, step, ops, dtype)) as coming:
            for n in range(3):
                if n == 1:  # the first is not made in the background
                    began = perf_counter()
                first, steps, _ = chunk = next(coming)
                yield chunk
                step = first + steps
            within = perf_counter() - began
        if within > 0.95 * without:
            return False, step
    return True, step


class _Ahead(Chunk):
    """A chunk that a background thread made: its batches may be copied to a device while that computes."""


def _ahead(loader: Loader, step: int, ops: Backend, dtype: str) -> Generator[Chunk]:
    """Chunks without end: while one is used, the next is made in a background thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="tinynet-loader") as pool:
        coming = pool.submit(loader.chunk, step, ops, dtype)
        while True:
            first, steps, _ = chunk = coming.result()
            coming = pool.submit(loader.chunk, first + steps, ops, dtype)
            yield _Ahead(chunk)
