"""What data cost within `Model.fit`: computed batches beside bare steps on one repeated batch in the same run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from statistics import median
from typing import Any

import tinynet as tn
from benchmarks import tasks
from benchmarks.comparison import Comparison
from benchmarks.feeding import Source, within_fit
from benchmarks.runner import CONTROL, Failed, Order, Runner

NUMBERS = 2**22  # of an epoch, roughly, which has a multiple of so many steps:
MULTIPLE = 16
SETS = {"blobs": tn.data.Blobs, "checkerboard": tn.data.Checkerboard}  # normal and uniform numbers


def measure(widths: list[int], batch: int, article: bool, backend: str, seconds: float) -> dict[str, Any]:
    """In the child: seconds of a bare step on one batch and of one in ``fit`` on each virtual set, epochs in turns."""
    task, found = tasks.Task(tuple(widths), batch), {}
    steps = MULTIPLE * max(1, min(64, NUMBERS // (batch * widths[0] * MULTIPLE)))
    rounds = max(5, min(40, int(seconds * 2**38 / (task.flops * steps))))
    with tn.use_backend(backend):
        for name, kind in SETS.items():
            source = Source(kind(2**40, n_features=widths[0]), batch, steps)
            turns = within_fit(task.model(backend), source, rounds)
            found[name] = {"fixed": median(turns.fixed), "fed": median(turns.fed), "share": turns.share()[1]}
    return found


def run(runner: Runner) -> Iterator[Comparison]:
    """Seconds of a step within fit, on data that are computed"""
    for number, task in enumerate(tasks.CPU[2:5], start=3):
        if runner.options.rows and number not in runner.options.rows:
            continue
        found = Comparison(task.label, {})
        found.control = [runner.run(CONTROL)["result"]["seconds"]]
        for backend in ("numpy", "numba"):
            if runner.options.chosen([f"tinynet {backend}"]):
                _add(found, runner, task, backend)
        yield found


def _add(found: Comparison, runner: Runner, task: tasks.Task, backend: str) -> None:
    name, where = f"tinynet {backend}", asdict(task) | {"backend": backend, "seconds": runner.options.seconds}
    asked = Order("benchmarks.sections.fit:measure", where)
    try:
        said = [runner.run(asked)["result"] for _ in range(runner.options.repeats)]
    except Failed as e:
        found.left_out[name] = str(e)
        return
    found.times[f"{name}, one batch"] = [median(answer[kind]["fixed"] for kind in SETS) for answer in said]
    for kind in SETS:
        shares = [100 * answer[kind]["share"] for answer in said]
        found.times[f"{name}, {kind}"] = [answer[kind]["fed"] for answer in said]
        found.notes[f"{name}, {kind}"] = {"data, %": median(shares), "least": min(shares), "most": max(shares)}
