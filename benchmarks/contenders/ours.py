"""This library, through the public loop."""

from __future__ import annotations

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


def make(task: Task, backend: str) -> Step:
    model = task.model(backend)
    loss = tn.SumSquaredError() if task.article else tn.CrossEntropy()
    optimizer = tn.SGD(1.0) if task.article else tn.Adam(1e-3)
    reports = tn.train(model, Fixed(task, model.ops), loss, optimizer, steps=2**40)
    return lambda: next(reports).loss
