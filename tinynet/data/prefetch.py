"""The batches of a run one after another, perhaps made in a background thread while a step runs."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from time import perf_counter

from tinynet_backends import Backend

from tinynet.data.dataset import Batch
from tinynet.data.loader import BatchSource, Loader

_SOON = 1e-3  # seconds for two chunks: about what a thread costs, and reading its batches from another core's cache


def batches(loader: BatchSource, first: int, ops: Backend, dtype: str) -> Generator[Batch]:
    """The batches of steps first, first + 1, … without end, perhaps made in a background thread."""
    step: int = first
    ahead: bool | None = False
    if isinstance(loader, Loader) and loader.made_on_host(ops):
        ahead = loader.prefetch
        if ahead is None:
            ahead, step = yield from _trial(loader, first, ops, dtype)
        if ahead:
            yield from _ahead(loader, step, ops, dtype)
    while True:
        yield loader.batch(step, ops, dtype)
        step += 1


def _trial(loader: Loader, step: int, ops: Backend, dtype: str) -> Generator[Batch, None, tuple[bool, int]]:
    """Batches without a thread, then as many with one, twice.

    Returns whether the thread was faster by more than chance both times, and the next step.
    """
    steps_per_chunk = loader.steps_per_chunk
    for _ in range(2):
        for n in range(step, step + steps_per_chunk):  # slower than others: these do not count
            yield loader.batch(n, ops, dtype)
        began, waited = perf_counter(), 0.0
        steps = range(step + steps_per_chunk, step + 3 * steps_per_chunk)
        for n in steps:
            asked = perf_counter()
            batch = loader.batch(n, ops, dtype)
            waited += perf_counter() - asked
            yield batch
        without, step = perf_counter() - began, steps.stop
        if waited < max(0.02 * without, _SOON):
            return False, step
        with closing(_ahead(loader, step, ops, dtype)) as coming:
            yield next(coming)  # the first chunk is not made in the background
            began = perf_counter()
            for _ in steps:
                yield next(coming)
            within, step = perf_counter() - began, step + 1 + len(steps)
        if within > 0.95 * without:
            return False, step
    return True, step


def _ahead(loader: Loader, step: int, ops: Backend, dtype: str) -> Generator[Batch]:
    """Batches without end: while those of a chunk are used, the next chunk is made in a background thread.

    Use each before asking for the next, which may lie in the same memory.
    """
    put = ops.feed()
    with ThreadPoolExecutor(1, thread_name_prefix="tinynet-loader") as pool:
        first = loader.first_of_chunk(step)
        coming = pool.submit(loader.chunk, first, ops, dtype)
        while True:
            steps, chunk = coming.result()
            coming = pool.submit(loader.chunk, first + steps, ops, dtype)
            for number in range(step - first, steps):
                yield loader.cut(chunk, number, ops, put)
            step = first = first + steps
