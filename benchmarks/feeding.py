"""What data cost in a step: the same run, in the same memory, on one batch again and again and on a loader's, in turns."""

from __future__ import annotations

from statistics import quantiles
from time import perf_counter
from typing import Any

import numpy as np

import tinynet as tn
from tinynet.data.prefetch import batches

STRETCH = 16  # steps of either kind before the other's turn: as many batches are made at once


class Source:
    """The batches of ``loader`` where ``fed``, else one and the same; ``waited`` counts the seconds until they were there.

    Two runs would differ by where their memory lies, and that alone has moved a step by a tenth. What the fixed batch has,
    and a new one can not, is that caches still hold it: that remains a cost of data.
    """

    def __init__(self, loader: Any, fixed: tn.data.Batch, steps_per_epoch: int) -> None:
        self.data, self.batch_size, self.steps_per_epoch = loader.data, loader.batch_size, steps_per_epoch
        self.loader, self.fixed, self.coming = loader, fixed, None
        self.fed, self.waited = False, 0.0

    def batch(self, step: int, ops: tn.Backend, dtype: str) -> tn.data.Batch:
        if not self.fed:
            return self.fixed
        began = perf_counter()
        if self.coming is None:
            self.coming = batches(self.loader, 0, ops, dtype)
        found = next(self.coming)
        self.waited += perf_counter() - began
        return found


def first_of(loader: Any) -> tn.data.Batch:
    """A batch in memory of its own."""
    found = loader.batch(0, tn.get_backend(), "float32")
    return tn.data.Batch(*(None if a is None else np.array(a) for a in found))


class Turns:
    """Seconds of a step on the fixed batch and on data, in rounds that each have both."""

    def __init__(self) -> None:
        self.fixed: list[float] = []
        self.fed: list[float] = []

    def share(self) -> tuple[float, float, float]:
        """What data cost as a part of the step on the fixed batch: lower quartile, median and upper quartile of rounds."""
        low, middle, high = quantiles([b / a - 1 for a, b in zip(self.fixed, self.fed, strict=True)], n=4)
        return low, middle, high


def take_turns(reports: Any, source: Source, rounds: int) -> tuple[Turns, float]:
    """Rounds of a stretch of each, and the seconds a step in which the loader had the word."""
    turns, kinds = Turns(), (False, True)
    for source.fed in kinds:
        for _ in range(8 * STRETCH):
            next(reports)
    source.waited = 0.0
    for turn in range(rounds):
        for source.fed in kinds if turn % 2 else kinds[::-1]:
            began = perf_counter()
            for _ in range(STRETCH):
                next(reports)
            (turns.fed if source.fed else turns.fixed).append((perf_counter() - began) / STRETCH)
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
