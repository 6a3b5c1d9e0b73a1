"""The batches of a run in the order of its steps, one by one or those of several steps together."""

from __future__ import annotations

from tinynet_backends import Backend

from tinynet.data.dataset import Batch
from tinynet.data.loader import BatchSource, Chunk, Loader, has_chunks
from tinynet.data.prefetch import Chunks, chunks
from tinynet.data.stacked import StackedLoader


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


def supply_of(loader: BatchSource | StackedLoader, first: int, ops: Backend, dtype: str) -> Supply:
    """The batches of a run from step ``first`` on."""
    if not isinstance(loader, StackedLoader) and not has_chunks(loader):
        return _OneByOne(loader, ops, dtype)
    if isinstance(loader, Loader) and not loader.made_on_host(ops):
        return _OnDevice(loader, ops, dtype)

    def make(step: int) -> Chunk:
        return loader.chunk(step, ops, dtype)

    if isinstance(loader, StackedLoader):
        return _Stacked(chunks(make, first, prefetch=False), ops)
    return _Cut(chunks(make, first, loader.prefetch), ops, loader)


class _OneByOne(Supply):
    """Batches of a loader that has no chunks: it is asked for each."""

    def __init__(self, loader: BatchSource, ops: Backend, dtype: str) -> None:
        self.loader, self.ops, self.dtype = loader, ops, dtype

    def batch(self, step: int) -> Batch:
        return self.loader.batch(step, self.ops, self.dtype)


class _OnDevice(Supply):
    """Batches that a device makes, where it can always in the same arrays: a compiled step may read them where they are."""

    def __init__(self, loader: Loader, ops: Backend, dtype: str) -> None:
        self.loader, self.ops, self.dtype = loader, ops, dtype
        self._last: dict[int, tuple[Batch, Batch]] = {}  # by the number of samples: as made, and as given out

    def batch(self, step: int) -> Batch:
        return self.several(step, 1)

    def several(self, step: int, count: int) -> Batch:
        """Of one step, which may be short, as (n, …)."""
        loader, each = self.loader, self.loader.batch_size
        samples = min(count * each, loader.data.n - step % loader.steps_per_epoch * each)
        last, given = self._last.get(samples, (None, None))
        made = loader.make(step, count, self.ops, self.dtype, last)
        if last is None or given is None or any(a is not b for a, b in zip(made, last, strict=True)):
            given = _divided(made, each, self.ops) if count > 1 else made
        self._last[samples] = made, given
        return given


class _InChunks(Supply):
    """Batches that are made a chunk at a time."""

    def __init__(self, coming: Chunks, ops: Backend) -> None:
        self.ops, self._coming = ops, coming
        self._latest: tuple[Chunk, bool] = (0, 0, Batch(None, None, None)), False

    def _find(self, step: int) -> tuple[Batch, int, bool]:
        """The batches of the chunk that ``step`` belongs to, its number among them, and whether a thread made them."""
        (first, steps, batches), ahead = self._latest
        while step >= first + steps:
            (first, steps, batches), ahead = self._latest = next(self._coming)
        return batches, step - first, ahead

    def close(self) -> None:
        self._coming.close()


class _Cut(_InChunks):
    """Batches of the host's, one after another in a chunk: (n, …)."""

    def __init__(self, coming: Chunks, ops: Backend, loader: Loader) -> None:
        super().__init__(coming, ops)
        self.loader = loader
        self._put = None if ops.on_host else ops.feed()

    def batch(self, step: int) -> Batch:
        batches, number, ahead = self._find(step)
        return self.loader.cut(batches, number, self.ops, self._put if ahead else None)

    def several(self, step: int, count: int) -> Batch:
        batches, number, _ = self._find(step)
        return _divided(batches, self.loader.batch_size, self.ops).map(lambda a: a[number : number + count, ...])


class _Stacked(_InChunks):
    """Batches of many networks, with an axis of steps in a chunk: (steps, …)."""

    def batch(self, step: int) -> Batch:
        batches, number, _ = self._find(step)
        return batches.map(lambda a: self.ops.asarray(a[number, ...]))

    def several(self, step: int, count: int) -> Batch:
        batches, number, _ = self._find(step)
        return batches.map(lambda a: a[number : number + count, ...])


def _divided(batches: Batch, size: int, ops: Backend) -> Batch:
    """(n, …) -> (n // size, size, …): without the rest."""
    count = batches.x.shape[0] // size
    return batches.map(lambda a: ops.xp.reshape(a[: count * size, ...], (count, size, *a.shape[1:])))
