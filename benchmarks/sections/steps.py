"""A training step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import contenders, tasks
from benchmarks.clock import time_steps
from benchmarks.comparison import Comparison
from benchmarks.runner import Order, Runner


def measure(name: str, widths: list[int], batch: int, article: bool, seconds: float) -> dict[str, Any]:
    """In the child: the losses and times of one contender."""
    task = tasks.Task(tuple(widths), batch, article)
    return time_steps(contenders.make(name, task), seconds)


def order(name: str, task: tasks.Task, seconds: float) -> Order:
    where = {"widths": task.widths, "batch": task.batch, "article": task.article}
    return Order("benchmarks.sections.steps:measure", {"name": name, "seconds": seconds} | where)


def rows(runner: Runner, table: Sequence[tasks.Task], names: dict[str, Any]) -> Iterator[Comparison]:
    """A comparison for every row of a table that was asked for."""
    for number, task in enumerate(table, start=1):
        if not runner.options.rows or number in runner.options.rows:
            entered = runner.options.chosen(contenders.entered(names, task))
            yield runner.compare(task.label, {name: order(name, task, runner.options.seconds) for name in entered})


def run(runner: Runner) -> Iterator[Comparison]:
    """Seconds of a training step"""
    return rows(runner, tasks.CPU, contenders.CPU)
