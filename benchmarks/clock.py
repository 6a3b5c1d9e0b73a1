"""The clock: the first step by itself, then the median over laps of many steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

WARM = 5  # steps before the clock starts, by whose losses the contenders are compared
LAP = 64  # steps of a lap, at most; the loss at its end waits for the device
LAPS = 3  # at least
SHORTEST = 3  # steps of a lap, if they take longer than the time that it should have


def elapsed(action: Callable[[], object]) -> float:
    began = perf_counter()
    action()
    return perf_counter() - began


def first_steps(step: Callable[[], Any]) -> tuple[list[float], float]:
    """The losses of the first steps, and the seconds of the very first one, which may compile."""
    losses: list[float] = []
    first = elapsed(lambda: losses.append(float(step())))
    return losses + [float(step()) for _ in range(WARM - 1)], first


def lap(step: Callable[[], Any], seconds: float) -> float:
    """Seconds of a step, over as many as take about ``seconds``; the last loss on the host ends them.

    A call is a step, unless ``step.done`` counts more.
    """
    count, began = SHORTEST, getattr(step, "done", 0)
    while (took := elapsed(partial(_run, step, count))) < seconds / 2:
        count *= min(int(seconds / took), 64)
        began = getattr(step, "done", 0)
    return took / (getattr(step, "done", count) - began)


def _run(step: Callable[[], Any], count: int) -> None:
    for _ in range(count):
        loss = step()
    float(loss)


def time_steps(step: Callable[[], Any], seconds: float) -> dict[str, Any]:
    """The losses of the first steps, the seconds of the very first one, which may compile, and of a step from then on.

    A lap is 64 steps, or fewer if they are slow, and ends with its loss on the host, for every contender alike.
    """
    losses, first = first_steps(step)
    length = min(LAP, 1 + int(seconds / 8 / elapsed(lambda: float(step()))))
    laps: list[float] = []
    while sum(laps) < seconds or len(laps) < LAPS:
        laps.append(elapsed(partial(_run, step, length)))
    return {"seconds": median(laps) / length, "losses": losses, "notes": {"first step, s": first}}
