"""Time to accuracy: how long until it has been learned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.clock import elapsed
from benchmarks.comparison import Comparison
from benchmarks.learners import LEARNERS
from benchmarks.runner import Order, Runner
from benchmarks.samples import SAMPLES

# samples, accuracy to reach, hidden widths, batch
GOALS: tuple[tuple[str, float, tuple[int, ...], int], ...] = (
    ("digits", 0.97, (100,), 32),
    ("spirals", 0.80, (64, 64), 256),
)
EPOCHS = 200


def measure(name: str, samples: str, goal: float, hidden: list[int], batch: int) -> dict[str, Any]:
    """In the child: seconds of training until the held-out accuracy is reached.

    Evaluating it is not counted, nor is what happens once, such as compiling.
    """
    x, y, x_held, y_held = SAMPLES[samples]()
    kind, options = LEARNERS[name]
    classes = int(y.max()) + 1
    first = elapsed(kind(x[: 2 * batch], y[: 2 * batch], classes, tuple(hidden), batch, **options).epoch)
    learner = kind(x, y, classes, tuple(hidden), batch, **options)
    seconds = 0.0
    for epoch in range(1, EPOCHS + 1):
        seconds += elapsed(learner.epoch)
        accuracy = float(np.mean(learner.predict(x_held) == y_held))
        if accuracy >= goal:
            return {"seconds": seconds, "notes": {"epochs": epoch, "accuracy": accuracy, "first epoch, s": first}}
    raise RuntimeError(f"accuracy {accuracy:.3f} after {EPOCHS} epochs")


def run(runner: Runner) -> Iterator[Comparison]:
    """Seconds of training to an accuracy on held-out samples"""
    for samples, goal, hidden, batch in GOALS:
        what = {"samples": samples, "goal": goal, "hidden": hidden, "batch": batch}
        names = runner.options.chosen(list(LEARNERS))
        orders = {name: Order("benchmarks.sections.accuracy:measure", {"name": name} | what) for name in names}
        yield runner.compare(f"{samples} to {goal}", orders)
