"""In a worker: steps that are ready to be timed, by the names of their contenders."""

from __future__ import annotations

from typing import Any

from benchmarks import child, clock
from benchmarks.contenders import Step
from benchmarks.tasks import Task

_steps: dict[str, Step] = {}


def make(name: str, target: str, options: dict[str, Any], widths: list[int], batch: int, article: bool) -> None:
    _steps[name] = child.find(target)(Task(tuple(widths), batch, article), **options)


def begin(name: str) -> list[float]:
    """The losses of the first steps, in which what is not compiled yet is compiled."""
    return clock.first_steps(_steps[name])[0]


def lap(name: str, seconds: float) -> float:
    """Seconds of a step."""
    if name not in _steps:
        raise RuntimeError("its process ended in an earlier row")
    return clock.lap(_steps[name], seconds)
