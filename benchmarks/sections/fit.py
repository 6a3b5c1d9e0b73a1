"""What `Model.fit` costs beside the bare step: batches that are computed, epochs, a history."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from statistics import median

import tinynet as tn
from benchmarks import tasks
from benchmarks.comparison import Comparison
from benchmarks.runner import Order, Runner
from benchmarks.sections.steps import order

EPOCHS = 3
NUMBERS = 2**24  # in an epoch; no more than 1024 steps, and no fewer than 32


def measure(widths: list[int], batch: int, article: bool, backend: str) -> dict[str, float]:
    """In the child: seconds of a step within ``fit`` on blobs, the first epoch left out."""
    steps = max(32, min(1024, NUMBERS // (batch * widths[0])))
    data = tn.data.Blobs(batch * steps, n_features=widths[0], n_classes=widths[-1])
    model = tasks.Task(tuple(widths), batch).model(backend)
    history = model.fit(data, optimizer=tn.Adam(1e-3), batch_size=batch, epochs=EPOCHS)
    return {"seconds": median(row["seconds"] for row in history.rows[1:]) / steps}


def run(runner: Runner) -> Iterator[Comparison]:
    """Seconds of a step within fit, on data that are computed"""
    for task in tasks.CPU[2:5]:
        orders = {}
        for backend in runner.options.chosen(["numpy", "numba"]):
            name = f"tinynet {backend}"
            orders[f"{name} step"] = order(name, task, runner.options.seconds)
            orders[f"{name} fit"] = Order("benchmarks.sections.fit:measure", asdict(task) | {"backend": backend})
        found = runner.compare(task.label, orders)
        for name in list(found.times):
            step = name.replace(" fit", " step")
            if name != step and step in found.times:
                found.notes[name]["overhead, %"] = 100 * (1 / found.ratio(step, name) - 1)
        yield found
