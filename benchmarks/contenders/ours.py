"""This library, through the public loop."""

from __future__ import annotations

from typing import Any

import tinynet as tn
from benchmarks.contenders import Step
from benchmarks.tasks import Task


class Fixed:
    """A loader whose epoch, of one batch again and again, never ends: the end of an epoch has costs of its own."""

    def __init__(self, task: Task, ops: tn.Backend) -> None:
        self.data, self.batch_size, self.steps_per_epoch = tn.Arrays(*task.data()), task.batch, 2**40
        self.one = self.data.batch(range(task.batch), ops, "float32")

    def batch(self, step: int, ops: tn.Backend, dtype: str) -> tn.data.Batch:
        return self.one


def _steps(task: Task, model: tn.Model, loader: Any) -> Step:
    loss = tn.SumSquaredError() if task.article else tn.CrossEntropy()
    optimizer = tn.SGD(1.0) if task.article else tn.Adam(1e-3)
    reports = tn.train(model, loader, loss, optimizer, steps=2**40)
    return lambda: next(reports).loss


def _model(task: Task, backend: str, precision: str) -> tn.Model:
    return task.model(backend if precision == "float32" else f"{backend}:{precision}")


def make(task: Task, backend: str, precision: str = "float32") -> Step:
    model = _model(task, backend, precision)
    return _steps(task, model, Fixed(task, model.ops))


def fed(task: Task, backend: str, precision: str = "float32") -> Step:
    """The same on a new batch every step, of a virtual set of that shape: made where the model is."""
    data = tn.data.Blobs(2**40, n_features=task.widths[0], n_classes=task.widths[-1])
    return _steps(task, _model(task, backend, precision), tn.Loader(data, task.batch))
