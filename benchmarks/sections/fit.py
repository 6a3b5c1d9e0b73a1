"""What `Model.fit` costs beside the bare step: data that are computed, a history, evaluation left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from statistics import median
from typing import Any

import tinynet as tn
from benchmarks import tasks
from benchmarks.comparison import Comparison
from benchmarks.runner import Order, Runner
from benchmarks.sections import steps

EPOCHS, STEPS = 4, 32


def measure(widths: list[int], batch: int, article: bool, backend: str = "numpy") -> dict[str, float]:
    """In the child: seconds of a step within ``fit`` on blobs, the first epoch left out."""
    data = tn.data.Blobs(batch * STEPS, n_features=widths[0], n_classes=widths[-1])
    model = tasks.Task(tuple(widths), batch).model(backend)
    history = model.fit(data, optimizer=tn.Adam(1e-3), batch_size=batch, epochs=EPOCHS)
    return {"seconds": median(row["seconds"] for row in history.rows[1:]) / STEPS}


def run(runner: Runner) -> Iterator[Comparison]:
    """Seconds of a step within fit, on data that are computed"""
    for task in tasks.CPU[2:5]:
        bare: dict[str, Any] = {"tinynet numpy": steps.order("tinynet numpy", task, runner.options.seconds)}
        yield runner.compare(task.label, bare | {"fit": Order("benchmarks.sections.fit:measure", asdict(task))})
