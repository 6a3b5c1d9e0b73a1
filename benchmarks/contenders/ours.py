"""This library, through the public loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tinynet as tn
from benchmarks.contenders import Step
from benchmarks.tasks import Task
from tinynet.training import CHECK_EVERY, check_finite

CAPTURED = 400  # steps: two launches each of 1, 4, 16 and 64


class Fixed:
    """A loader that repeats one batch in an epoch without end: the end of an epoch has costs of its own."""

    def __init__(self, task: Task, ops: tn.Backend) -> None:
        self.data, self.batch_size, self.steps_per_epoch = tn.Arrays(*task.data()), task.batch, 2**40
        self.one = self.data.batch(range(task.batch), ops, "float32")

    def batch(self, step: int, ops: tn.Backend, dtype: str) -> tn.data.Batch:
        return self.one


def _reports(task: Task, model: tn.Model, loader: Any, steps: int = 2**40, **options: Any) -> Iterator[tn.Report]:
    loss = tn.SumSquaredError() if task.article else tn.CrossEntropy()
    optimizer = tn.SGD(1.0) if task.article else tn.Adam(1e-3)
    return tn.train(model, loader, loss, optimizer, steps=steps, **options)


def _checked(model: tn.Model) -> tn.Model:
    """The model, after a check of losses and weights: at its first, in the midst of a lap, kernels would be compiled."""
    ops, xp = model.ops, model.ops.xp
    with ops.active():
        good = [xp.asarray(a, copy=True) for a in (model.theta, model.state)]
        check_finite(model, ops.zeros((CHECK_EVERY,), model.theta.dtype), good, 0)
    return model


def _steps(task: Task, model: tn.Model, loader: Any) -> Step:
    reports = _reports(task, _checked(model), loader)
    return lambda: next(reports).loss


def _model(task: Task, backend: str, precision: str) -> tn.Model:
    return task.model(backend if precision == "float32" else f"{backend}:{precision}")


def make(task: Task, backend: str, precision: str = "float32") -> Step:
    model = _model(task, backend, precision)
    return _steps(task, model, Fixed(task, model.ops))


def _one_by_one(reports: Iterator[tn.Report], at: int = 0) -> Step:
    """Single steps from reports that may stand for several, whose loss is that of the last one."""
    left, loss = 0, None

    def step() -> Any:
        nonlocal left, at, loss
        if not left:
            report = next(reports)
            left, at, loss = report.step - at, report.step, report.loss
        left -= 1
        return loss

    return step


def _launched(reports: Iterator[tn.Report]) -> Step:
    """`_one_by_one`, after so many steps that each number of them that is launched together has its graph."""
    at = next(report.step for report in reports if report.step >= CAPTURED)
    return _one_by_one(reports, at)


def together(task: Task, backend: str, precision: str = "float32") -> Step:
    """The same batch as in `fit` with data on the device: after the first few steps, up to 64 in one launch."""
    model = _model(task, backend, precision)
    ops = model.ops
    tiles = 64 * max(1, min(64, (1 << 28) // (64 * task.batch * task.widths[0])))
    x, y = (ops.xp.tile(ops.asarray(a), (tiles, *(1,) * (a.ndim - 1))) for a in task.data())
    with tn.use_backend(ops):
        loader = tn.Loader(tn.Arrays(x, y), task.batch, shuffle=False)
    first = [*_reports(task, model, loader, steps=8)]
    losses = [float(report.loss) for report in first]
    rest = _launched(_reports(task, _checked(model), loader, run=first[-1].run, together=True))
    return lambda: losses.pop(0) if losses else rest()


def fed(task: Task, backend: str, precision: str = "float32", together: bool = False) -> Step:
    """The same with a new batch at every step, made where the model is from a virtual set of that shape."""
    data = tn.data.Blobs(2**40, n_features=task.widths[0], n_classes=task.widths[-1])
    loader = tn.Loader(data, task.batch)
    reports = _reports(task, _checked(_model(task, backend, precision)), loader, together=together)
    return _launched(reports) if together else _one_by_one(reports)
