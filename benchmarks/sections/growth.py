"""How the time of a step grows with batch, width and depth."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.comparison import Comparison
from benchmarks.runner import Runner
from benchmarks.sections import steps
from benchmarks.tasks import Task

NAMES = ("tinynet numpy", "tinynet numba", "torch")
POINTS = {
    **{f"batch {n}": Task((64, 128, 128, 10), n) for n in (16, 256, 4096)},
    **{f"width {n}": Task((64, n, n, 10), 128) for n in (16, 128, 1024)},
    **{f"depth {n}": Task((64, *[128] * n, 10), 128) for n in (1, 4, 16)},
}


def run(runner: Runner) -> Iterator[Comparison]:
    """Seconds of a step over batch (64-128-128-10), width (64-w-w-10 × 128) and depth (64-128-…-10 × 128)"""
    for label, task in POINTS.items():
        names = runner.options.chosen(list(NAMES))
        yield runner.compare(label, {name: steps.order(name, task, runner.options.seconds / 2) for name in names})
