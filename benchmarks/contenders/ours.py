"""This library, through the public loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import tinynet as tn
from benchmarks.clock import WARM
from benchmarks.contenders import Step
from benchmarks.tasks import Task
from tinynet.data.dataset import Dataset
from tinynet.grouping import CHECK_EVERY
from tinynet.training import check_finite

LAUNCHES = 4  # of several steps before the clock starts: one as written, one captured, two as all others
REPORTED = 2**45  # operations of the steps of one report, at most: a second of a device's slowest products


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


class Again(Dataset):
    """One batch over and over, where the model is: arrays that steps may read in place."""

    def __init__(self, task: Task, ops: tn.Backend) -> None:
        self.whole = tn.Arrays(*task.data())
        self._describe_like(self.whole)
        self.n, self.ordered, self.on_host = 2**40 * task.batch, False, False
        self.one, self._batches = self.whole.batch(range(task.batch), ops, "float32"), dict[int, tn.data.Batch]()

    def rows(self, index: Any, ops: tn.Backend, dtype: str) -> tn.data.Batch:
        times = len(index) // self.whole.n
        if times not in self._batches:
            self._batches[times] = self.one
            if times > 1:
                self._batches[times] = self.one.map(lambda a: ops.xp.tile(a, (times, *(1,) * (a.ndim - 1))))
        return self._batches[times]

    def check(self, check: Callable[[Any, tn.Backend], None], ops: tn.Backend, dtype: str) -> None:
        self.whole.check(check, ops, dtype)


class Several:
    """Calls that stand for one report and all of its steps each; ``done`` counts steps.

    The first few are single steps. All that is slow, once, is done in the first call: before it, others may use the device.
    """

    def __init__(self, task: Task, model: tn.Model, loader: tn.Loader) -> None:
        self.task, self.model, self.loader, self.done = task, model, loader, 0
        self._calls = self._all()

    def __call__(self) -> Any:
        loss, steps = next(self._calls)
        self.done += steps
        return loss

    def _all(self) -> Iterator[tuple[Any, int]]:
        chunk = self.loader.steps_per_chunk(self.model.ops)
        # up to where a chunk begins: the steps of a part of it would have another graph
        single = [*_reports(self.task, _checked(self.model), self.loader, max(WARM, chunk))]
        options: dict[str, Any] = {"run": single[-1].run, "together": True}
        if chunk == 1:  # steps that are launched one by one, many to a report
            each = max(1, min(CHECK_EVERY, REPORTED // self.task.flops))
            options["due"] = lambda step: step % each == 0
        reports = _reports(self.task, self.model, self.loader, **options)
        at = [next(reports).step for _ in range(LAUNCHES if chunk > 1 else 2)][-1]
        yield from ((report.loss, 1) for report in single[:WARM])
        for report in reports:
            yield report.loss, report.step - at
            at = report.step


def in_fit(task: Task, backend: str, precision: str = "float32") -> Step:
    """The same batch as `fit` steps through one that the device has made: without a report after each step.

    Then a launch has up to 64 steps, or each is launched by itself, and weights may be rounded by whoever updates them.
    """
    model = _model(task, backend, precision)
    return Several(task, model, tn.Loader(Again(task, model.ops), task.batch))


def fed(task: Task, backend: str, precision: str = "float32") -> Step:
    """The same with a new batch at every step, made where the model is from a virtual set of that shape."""
    data = tn.data.Blobs(2**40, n_features=task.widths[0], n_classes=task.widths[-1])
    return Several(task, _model(task, backend, precision), tn.Loader(data, task.batch))
