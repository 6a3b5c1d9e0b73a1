"""What `Model.fit` costs beside the bare step: batches that are computed, epochs, a history."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from statistics import median
from typing import Any

import tinynet as tn
from benchmarks import tasks
from benchmarks.comparison import Comparison
from benchmarks.feeding import STRETCH, Source, first_of, within_fit
from benchmarks.runner import Failed, Order, Runner
from benchmarks.sections.steps import order

NUMBERS = 2**22  # in an epoch, about
SETS = {"blobs": tn.data.Blobs, "checkerboard": tn.data.Checkerboard}  # normal and uniform numbers


def measure(widths: list[int], batch: int, article: bool, backend: str, seconds: float) -> dict[str, Any]:
    """In the child: seconds of a step within ``fit`` on one batch and on those of each virtual set, epochs in turns."""
    task, found = tasks.Task(tuple(widths), batch), {}
    steps = STRETCH * max(1, min(64, NUMBERS // (batch * widths[0] * STRETCH)))
    rounds = max(5, min(40, int(seconds * 2**38 / (task.flops * steps))))
    with tn.use_backend(backend):
        for name, kind in SETS.items():
            loader = tn.Loader(kind(2**40, n_features=widths[0]), batch)
            turns = within_fit(task.model(backend), Source(loader, first_of(loader), steps), rounds)
            share = turns.share()[1]
            found[name] = {"fixed": median(turns.fixed), "fed": median(turns.fed), "share": share}
    return found


def run(runner: Runner) -> Iterator[Comparison]:
    """Seconds of a step within fit, on data that are computed"""
    for task in tasks.CPU[2:5]:
        names = [f"tinynet {backend}" for backend in runner.options.chosen(["numpy", "numba"])]
        found = runner.compare(task.label, {f"{n} step": order(n, task, runner.options.seconds) for n in names})
        for name in names:
            try:
                _add(found, name, task, runner)
            except Failed as e:
                found.left_out[f"{name} fit"] = str(e)
        yield found


def _add(found: Comparison, name: str, task: tasks.Task, runner: Runner) -> None:
    where = asdict(task) | {"backend": name.removeprefix("tinynet "), "seconds": runner.options.seconds}
    said = [
        runner.run(Order("benchmarks.sections.fit:measure", where))["result"] for _ in range(runner.options.repeats)
    ]
    for kind in SETS:
        shares = [answer[kind]["share"] for answer in said]
        found.times[f"{name} fit, {kind}"] = [answer[kind]["fed"] for answer in said]
        found.notes[f"{name} fit, {kind}"] = {
            "data, %": 100 * median(shares), "least, %": 100 * min(shares), "most, %": 100 * max(shares),
            "over the bare step, %": 100 * (1 / found.ratio(f"{name} step", f"{name} fit, {kind}") - 1),
        }  # fmt: skip
    found.times[f"{name} fit, one batch"] = [median(answer[kind]["fixed"] for kind in SETS) for answer in said]
