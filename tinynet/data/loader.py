"""The loader: step t -> batch, a pure function."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter
from typing import Any, Protocol

from tinynet_backends import Backend, get_backend

from tinynet import streams
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
    data come from the host's memory or from files. The batches are the same either way.
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
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(f"batch_size {batch_size!r} is not a positive whole number")
        self.batch_size = batch_size
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

    def index(self, step: int) -> Index:
        """Numbers of the samples of a step: a range, or int64 on the host."""
        epoch, place = divmod(step, self.steps_per_epoch)
        start = place * self.batch_size
        return self.order.draws(epoch, start, min(start + self.batch_size, self.data.n))

    def batch(self, step: int, ops: Backend, dtype: str) -> Batch:
        """The batch of a step on ``ops``."""
        return self.data.rows(self.index(step), ops, dtype)


TRIAL = 16  # steps in which it is found out whether a background thread pays


def batches(loader: BatchSource, first: int, ops: Backend, dtype: str) -> Generator[Batch]:
    """The batches of steps first, first + 1, … without end, perhaps got ready in a background thread."""
    step = first
    if isinstance(loader, Loader) and loader.data.stored and loader.data.on_host and loader.prefetch is not False:
        threaded = True
        if loader.prefetch is None:
            began, waited = perf_counter(), 0.0
            for step in range(first, first + 2 * TRIAL):
                if step == first + TRIAL:  # the first steps are slower than others: they do not count
                    began, waited = perf_counter(), 0.0
                asked = perf_counter()
                batch = loader.batch(step, ops, dtype)
                waited += perf_counter() - asked
                yield batch
            step += 1
            without = perf_counter() - began
            threaded = waited > 0.02 * without
            if threaded:
                began = perf_counter()
                yield from _ahead(loader, step, ops, dtype, TRIAL)
                step += TRIAL
                threaded = perf_counter() - began < without
        if threaded:
            yield from _ahead(loader, step, ops, dtype, None)
    while True:
        yield loader.batch(step, ops, dtype)
        step += 1


def _ahead(loader: Loader, first: int, ops: Backend, dtype: str, count: int | None) -> Generator[Batch]:
    """``count`` batches (None: without end), each fetched on the host while the step before it runs."""
    host = get_backend("numpy")

    def fetch(step: int) -> Batch:
        return loader.data.rows(loader.index(step), host, dtype)

    with ThreadPoolExecutor(1, thread_name_prefix="tinynet-loader") as pool:
        step, stop = first, None if count is None else first + count
        coming: Future[Batch] | None = pool.submit(fetch, step)
        while coming is not None:
            x, y, weight = coming.result()
            step += 1
            coming = pool.submit(fetch, step) if stop is None or step < stop else None
            yield Batch(ops.asarray(x), ops.asarray(y), None if weight is None else ops.asarray(weight))
