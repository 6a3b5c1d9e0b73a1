"""Training steps on a CUDA device: ``benchmarks gpu``. Steps are queued; each lap ends with its loss on the host."""

from __future__ import annotations

from collections.abc import Iterator

import tinynet as tn
from benchmarks import contenders, tasks
from benchmarks.comparison import Comparison
from benchmarks.runner import Failed, Order, Runner
from benchmarks.sections import steps


def probe() -> str:
    """In the child: what the device is; `BackendUnavailable` where there is none."""
    return tn.get_backend("cupy").versions()


def run(runner: Runner) -> Iterator[Comparison]:
    """Seconds of a training step on the device"""
    try:
        print(runner.run(Order("benchmarks.gpu:probe"))["result"])
    except Failed as e:
        print(f"Nothing to time on a GPU: {e}")
        return
    yield from steps.rows(runner, tasks.GPU, contenders.GPU)
