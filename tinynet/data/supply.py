"""The batches of a run in the order of its steps, perhaps made in a background thread while a step runs."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from time import perf_counter
from typing import Any

from tinynet_backends import Backend

from tinynet.data.dataset import Batch
from tinynet.data.loader import BatchSource, Chunk, Loader, has_chunks
from tinynet.data.together import Together

_SOON = 1e-3  # seconds for two chunks: about what a thread costs, and reading its batches from another core's cache


class Supply:
    """The batches of a run from step ``first`` on, in order, singly or a chunk at a time.

    Chunks of the host are perhaps made in a background thread. A device makes the batches of as many steps as it is asked
    for, where it can always in the same arrays: a compiled step may then read them where they are. Use each batch before
    asking for the next, which may lie in the same memory. ``numbered`` ones are those of `Loader.chunk`.
    """

    def __init__(
        self, loader: BatchSource | Together, first: int, ops: Backend, dtype: str, numbered: bool = False
    ) -> None:
        self.loader: Any = loader
        self.ops, self.dtype, self.numbered = ops, dtype, numbered
        self._chunks = None
        if has_chunks(loader) and loader.made_on_host(ops):
            self._chunks = _chunks(loader, first, ops, dtype, numbered)
            self._put = None if ops.on_host else ops.feed()
        self._latest: Chunk = first, 0, Batch(None, None, None)
        self._made: dict[int, tuple[Batch, Batch]] = {}  # on a device, by the number of samples

    def batch(self, step: int) -> Batch:
        if isinstance(self.loader, Together):
            first, _, chunk = self.chunk(step)
            return Batch(*(None if a is None else self.ops.asarray(a[step - first, ...]) for a in chunk))
        if self._chunks is None and has_chunks(self.loader):
            return self._make(step, 1)
        if self._chunks is None:
            found: Batch = self.loader.batch(step, self.ops, self.dtype)
        else:
            first, _, chunk = self.chunk(step)
            put = self._put if isinstance(self._latest, _Ahead) else None
            found = self.loader.cut(chunk, step - first, self.ops, put)
        return found

    def steps_per_chunk(self) -> int:
        """How many steps a chunk has, but for the last of an epoch."""
        asked = (self.ops, True) if self.numbered else (self.ops,)
        most: int = self.loader.steps_per_chunk(*asked)
        return most

    def chunk(self, step: int) -> Chunk:
        """The chunk that ``step`` belongs to."""
        if self._chunks is None:
            if not self._latest[0] <= step < self._latest[0] + self._latest[1]:
                self._latest = self.loader.chunk(step, self.ops, self.dtype, self.numbered)
        else:
            while step >= self._latest[0] + self._latest[1]:
                self._latest = next(self._chunks)
        return self._latest

    def several(self, step: int, count: int) -> Batch:
        """The batches of ``count`` steps of a chunk, all of them full: (count, …)."""
        if self._chunks is None and isinstance(self.loader, Loader):
            return self._make(step, count)
        first, _, chunk = self.chunk(step)
        if isinstance(self.loader, Loader):  # chunks for many networks are (steps, …) already
            chunk = self._divided(chunk, self.loader.batch_size)
        return Batch(*(None if a is None else a[step - first : step - first + count, ...] for a in chunk))

    def _make(self, step: int, count: int) -> Batch:
        """The batches of ``count`` steps, made on the device: (count, …), or that of one step."""
        loader = self.loader
        _, start, stop = loader._places(step, count)
        size = stop - start
        last, divided = self._made.get(size, (None, None))
        made = loader.make(step, count, self.ops, self.dtype, last)
        if last is None or divided is None or any(a is not b for a, b in zip(made, last, strict=True)):
            divided = self._divided(made, loader.batch_size) if count > 1 else made
        self._made[size] = made, divided
        return divided

    def _divided(self, batches: Batch, size: int) -> Batch:
        """(n, …) -> (n // size, size, …): without the rest."""
        xp, count = self.ops.xp, batches.x.shape[0] // size
        shapes = (None if a is None else (a[: count * size, ...], (count, size, *a.shape[1:])) for a in batches)
        return Batch(*(None if a is None else xp.reshape(*a) for a in shapes))

    def close(self) -> None:
        """Wait for the background thread, if there is one, and end it."""
        if self._chunks is not None:
            self._chunks.close()


def _chunks(loader: Loader, step: int, ops: Backend, dtype: str, numbered: bool) -> Generator[Chunk]:
    """Chunks without end from that of ``step`` on, with or without a thread, which numbers alone are not worth."""
    ahead = False if numbered else loader.prefetch
    if ahead is None:
        ahead, step = yield from _trial(loader, step, ops, dtype)
    if ahead:
        yield from _ahead(loader, step, ops, dtype)
    while True:
        chunk = loader.chunk(step, ops, dtype, numbered)
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
