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


def measure(widths: list[int], batch: int, article: bool, backend: str = "numpy") -> dict[str, float]:
    """In the child: seconds of a step within ``fit`` on blobs, the first epoch left out."""
    steps = max(32, min(1024, NUMBERS // (batch * widths[0])))
    data = tn.data.Blobs(batch * steps, n_features=widths[0], n_classes=widths[-1])
    model = tasks.Task(tuple(widths), batch).model(backend)
    history = model.fit(data, optimizer=tn.Adam(1e-3), batch_size=batch, epochs=EPOCHS)
    return {"seconds": median(row["seconds"] for row in history.rows[1:]) / steps}


def run(runner: Runner) -> Iterator[Comparison]:
    """Seconds of a step within fit, on data that are computed"""
    for task in tasks.CPU[2:5]:
        found = runner.compare(task.label, {
            "tinynet step": order("tinynet numpy", task, runner.options.seconds),
            "tinynet fit": Order("benchmarks.sections.fit:measure", asdict(task)),
        })  # fmt: skip
        if found.left_out:
            raise SystemExit(f"fit: {found.left_out}")
        found.notes["tinynet fit"]["overhead, %"] = 100 * (1 / found.ratio("tinynet step", "tinynet fit") - 1)
        yield found
