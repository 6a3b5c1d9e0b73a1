"""The clock: the first step apart, then the median over laps."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

WARM = 5  # steps before the clock runs; their losses are what the contenders are compared by
LAP = 64  # steps between two looks at the loss, at most: a look waits for the device
LAPS = 3  # at least
SHORTEST = 3  # steps of a lap that is as long as it takes


def elapsed(action: Callable[[], object]) -> float:
    began = perf_counter()
    action()
    return perf_counter() - began


def first_steps(step: Callable[[], Any]) -> tuple[list[float], float]:
    """The losses of the first steps, and the seconds of the very first, which may compile."""
    losses: list[float] = []
    first = elapsed(lambda: losses.append(float(step())))
    return losses + [float(step()) for _ in range(WARM - 1)], first


def lap(step: Callable[[], Any], seconds: float) -> float:
    """Seconds of a step, over as many as take about so long; the last one's loss on the host ends them."""
    count = SHORTEST

    def run() -> None:
        for _ in range(count):
            loss = step()
        float(loss)

    while (took := elapsed(run)) < seconds / 2:
        count *= min(int(seconds / took), 64)
    return took / count


def time_steps(step: Callable[[], Any], seconds: float) -> dict[str, Any]:
    """The losses of the first steps, seconds of the very first, which may compile, and of a step from then on.

    A lap is 64 steps, fewer where they are slow, and ends with its loss on the host, for every contender alike.
    """
    losses, first = first_steps(step)
    length = min(LAP, 1 + int(seconds / 8 / elapsed(lambda: float(step()))))

    def lap() -> None:
        for _ in range(length):
            loss = step()
        float(loss)

    laps: list[float] = []
    while sum(laps) < seconds or len(laps) < LAPS:
        laps.append(elapsed(lap))
    return {"seconds": median(laps) / length, "losses": losses, "notes": {"first step, s": first}}
