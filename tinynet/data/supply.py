"""The batches of a run in the order of its steps, one by one or those of several steps together."""

from __future__ import annotations

from typing import Any

from tinynet_backends import Backend

from tinynet.data.dataset import Batch, Dataset
from tinynet.data.loader import BatchSource, Chunk, Loader
from tinynet.data.prefetch import chunks
from tinynet.data.stacked import StackedLoader, has_chunks


class Supply:
    """The batches of a run, for steps in order. Use each before asking for the next, which may lie in the same memory."""

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        raise NotImplementedError

    def several(self, step: int, count: int) -> Batch:
        """The batches of ``count`` steps of a chunk, all of them full: (count, …)."""
        raise NotImplementedError

    def close(self) -> None:
        """Wait for the background thread, if there is one, and end it."""


def supply_of(loader: Any, first: int, ops: Backend, dtype: str) -> Supply:
    """The batches of a run from step ``first`` on; ``loader`` is any `BatchSource`, or a `StackedLoader`."""
    if not has_chunks(loader):
        return _OneByOne(loader, ops, dtype)
    if isinstance(loader, Loader) and not loader.made_on_host(ops):
        return _OnDevice(loader, ops, dtype)
    return _InChunks(loader, first, ops, dtype)


def read_in_step(loader: Any, ops: Backend, dtype: str) -> tuple[Any, Dataset | None]:
    """The loader of a run and, if its steps are to read the samples themselves, the data set that they read; else None.

    A step had better gather its samples right before it uses them: the loader then gives indices of that data set. But
    batches in sequence are views, which cost nothing, and no compiled step checks the indices of a user's order.
    """
    if not has_chunks(loader) or not loader.gathers:
        return loader, None
    source, _ = loader.data.locate(range(1))
    return (loader.as_indices(), source) if source.in_step(ops, dtype) else (loader, None)


class _OneByOne(Supply):
    """Batches of a loader that has no chunks: it is asked for each."""

    def __init__(self, loader: BatchSource, ops: Backend, dtype: str) -> None:
        self.loader, self.ops, self.dtype = loader, ops, dtype

    def batch(self, step: int) -> Batch:
        return self.loader.batch(step, self.ops, self.dtype)


class _OnDevice(Supply):
    """Batches that a device makes, in the same arrays each time if it can: a compiled step then reads them in place."""

    def __init__(self, loader: Loader, ops: Backend, dtype: str) -> None:
        self.loader, self.ops, self.dtype = loader, ops, dtype
        self._last: dict[int, tuple[Batch, Batch]] = {}  # by the number of samples: as made, and as given out

    def batch(self, step: int) -> Batch:
        return self.several(step, 1)

    def several(self, step: int, count: int) -> Batch:
        """As in the base class; a single batch, which may be smaller, is (n, …)."""
        loader, each = self.loader, self.loader.batch_size
        samples = min(count * each, loader.data.n - step % loader.steps_per_epoch * each)
        last, given = self._last.get(samples, (None, None))
        made = loader.make(step, count, self.ops, self.dtype, last)
        if last is None or given is None or any(a is not b for a, b in zip(made, last, strict=True)):
            given = loader.divided(made, self.ops) if count > 1 else made
        self._last[samples] = made, given
        return given


class _InChunks(Supply):
    """Batches that are made a chunk at a time, on the host or, for many networks, perhaps on the device."""

    def __init__(self, loader: Loader | StackedLoader, first: int, ops: Backend, dtype: str) -> None:
        self.loader, self.ops = loader, ops
        self._coming = chunks(lambda step: loader.chunk(step, ops, dtype), first, loader.prefetch)
        self._latest: tuple[Chunk, bool] = (0, 0, Batch(None, None, None)), False
        self._feed = None if ops.on_host else ops.feed()

    def batch(self, step: int) -> Batch:
        batches, number, ahead = self._find(step)
        part = self.loader.cut(batches, number)
        if self._feed is None:
            return part
        return Batch(*self._feed(part)) if ahead else part.map(self.ops.asarray)

    def several(self, step: int, count: int) -> Batch:
        batches, number, _ = self._find(step)
        return self.loader.divided(batches, self.ops).map(lambda a: a[number : number + count, ...])

    def _find(self, step: int) -> tuple[Batch, int, bool]:
        """The batches of the chunk that ``step`` belongs to, its number among them, and whether a thread made them."""
        (first, steps, batches), ahead = self._latest
        while step >= first + steps:
            (first, steps, batches), ahead = self._latest = next(self._coming)
        return batches, step - first, ahead

    def close(self) -> None:
        self._coming.close()
