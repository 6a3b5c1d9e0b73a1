"""Chunks of batches one after another, perhaps made in a background thread while a step runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from time import perf_counter

from tinynet.data.loader import Chunk

Make = Callable[[int], Chunk]  # the chunk that a step belongs to
Chunks = Generator[tuple[Chunk, bool]]  # each with whether a background thread made it
_SOON = 1e-3  # seconds for two chunks: about what a thread costs, and reading its batches from another core's cache


def chunks(make: Make, step: int, prefetch: bool | None) -> Chunks:
    """Chunks without end from that of ``step`` on; ``prefetch``, whether a thread makes them, is tried if it is None."""
    if prefetch is None:
        prefetch, step = yield from _trial(make, step)
    yield from _ahead(make, step) if prefetch else _in_turn(make, step)


def _in_turn(make: Make, step: int) -> Chunks:
    while True:
        first, steps, _ = chunk = make(step)
        yield chunk, False
        step = first + steps


def _ahead(make: Make, step: int) -> Chunks:
    """While a chunk is used, the next is made in a background thread, or by a forked child itself, which has no such thread."""
    process = os.getpid()
    with ThreadPoolExecutor(1, thread_name_prefix="tinynet-loader") as pool:
        coming = pool.submit(make, step)
        while os.getpid() == process:
            first, steps, _ = chunk = coming.result()
            step = first + steps
            coming = pool.submit(make, step)
            yield chunk, True
    yield from _in_turn(make, step)


def _trial(make: Make, step: int) -> Generator[tuple[Chunk, bool], None, tuple[bool, int]]:
    """Chunks without a thread, then as many with one, twice.

    Returns whether the thread was faster by more than chance both times, and the next step.
    """
    for _ in range(2):
        without, waited, step = yield from _timed(_in_turn(make, step))
        if waited < max(0.02 * without, _SOON):
            return False, step
        with closing(_ahead(make, step)) as coming:
            within, _, step = yield from _timed(coming)
        if within > 0.95 * without:
            return False, step
    return True, step


def _timed(coming: Chunks) -> Generator[tuple[Chunk, bool], None, tuple[float, float, int]]:
    """Three chunks, of which the last two are timed: the first is slower than others, and not made in the background.

    Returns the seconds until these two were used, how many of them were spent waiting for the chunks, and the next step.
    """
    found = next(coming)
    yield found
    began, waited = perf_counter(), 0.0
    for _ in range(2):
        asked = perf_counter()
        found = next(coming)
        waited += perf_counter() - asked
        yield found
    (first, steps, _), _ = found
    return perf_counter() - began, waited, first + steps
