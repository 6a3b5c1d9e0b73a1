"""What data cost in a step: the same run, in the same memory, on one batch again and again and on a loader's, in turns.

On one batch a step is a call of its own, as the steps are that we compare with peers'. With data, steps are run as `fit`
does: on numba those of a whole chunk of batches at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import quantiles
from time import perf_counter
from typing import Any

import numpy as np

import tinynet as tn
from tinynet.data.loader import Chunk

STRETCH = 64  # steps of either kind before the other's turn: as many batches as are made at once, or some times as many


class Source(tn.Loader):
    """Batches of its own where ``fed``, else one and the same; ``waited`` counts the seconds until they were there.

    Two runs would differ by where their memory lies, and that alone has moved a step by a tenth. What the fixed batch has,
    and a new one can not, is that caches still hold it: that remains a cost of data.
    """

    def __init__(self, data: Any, batch_size: int, steps_per_epoch: int | None = None) -> None:
        super().__init__(data, batch_size, prefetch=False)
        self.fixed = first_of(tn.Loader(data, batch_size))
        self.steps_per_epoch = steps_per_epoch or self.data.n // batch_size // STRETCH * STRETCH
        self.fed, self.waited = False, 0.0
        self.switch = self  # its copies obey it, too: a run may have one that gives indices

    def steps_per_chunk(self, ops: tn.Backend) -> int:
        return super().steps_per_chunk(ops) if self.switch.fed else 1

    def chunk(self, step: int, ops: tn.Backend, dtype: str) -> Chunk:
        if not self.switch.fed:
            return step, 1, self.fixed
        began = perf_counter()
        found = super().chunk(step, ops, dtype)
        self.switch.waited += perf_counter() - began
        return found

    def cut(self, batches: tn.data.Batch, number: int) -> tn.data.Batch:
        return super().cut(batches, number) if self.switch.fed else self.fixed


class Foreign:
    """The same for batches that others make."""

    def __init__(self, batches: Any, fixed: tn.data.Batch) -> None:
        self.data, self.batch_size, self.steps_per_epoch = batches.data, batches.batch_size, 2**40
        self.batches, self.fixed, self.step = batches, fixed, -1
        self.fed, self.waited = False, 0.0

    def batch(self, step: int, ops: tn.Backend, dtype: str) -> tn.data.Batch:
        if not self.fed:
            return self.fixed
        began = perf_counter()
        self.step += 1  # they come one after another
        found = self.batches.batch(self.step, ops, dtype)
        self.waited += perf_counter() - began
        return found


def first_of(loader: Any) -> tn.data.Batch:
    """A batch in memory of its own."""
    found: tn.data.Batch = loader.batch(0, tn.get_backend(), "float32")
    return found.map(np.array)


class Turns:
    """Seconds of a step on the fixed batch and on data, in rounds that each have both."""

    def __init__(self) -> None:
        self.fixed: list[float] = []
        self.fed: list[float] = []

    def share(self) -> tuple[float, float, float]:
        """What data cost as a part of the step on the fixed batch: lower quartile, median and upper quartile of rounds."""
        low, middle, high = quantiles([b / a - 1 for a, b in zip(self.fixed, self.fed, strict=True)], n=4)
        return low, middle, high


def take_turns(reports: Iterator[tn.Report], source: Source | Foreign, rounds: int) -> tuple[Turns, float]:
    """Rounds of a stretch of each, and the seconds a step in which the loader had the word."""
    turns, kinds, done = Turns(), (False, True), 0

    def advance(steps: int) -> float:
        nonlocal done
        began, stop = perf_counter(), done + steps
        while done < stop:
            done = next(reports).step  # which may stand for several
        return (perf_counter() - began) / steps

    for source.fed in kinds:
        advance(4 * STRETCH)
    source.waited = 0.0
    for turn in range(rounds):
        for source.fed in kinds if turn % 2 else kinds[::-1]:
            (turns.fed if source.fed else turns.fixed).append(advance(STRETCH))
    return turns, source.waited / (rounds * STRETCH)


def within_fit(model: tn.Model, source: Source, rounds: int) -> Turns:
    """The same within ``fit``, an epoch of each; the first two do not count."""
    turns = Turns()

    def next_epoch(_: tn.Model, row: dict[str, float]) -> None:
        (turns.fed if source.fed else turns.fixed).append(row["seconds"] / source.steps_per_epoch)
        source.fed = not source.fed

    model.fit(source, optimizer=tn.Adam(1e-3), epochs=2 * rounds + 2, callbacks=[next_epoch])
    del turns.fixed[0], turns.fed[0]
    return turns
