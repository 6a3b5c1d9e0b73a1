"""The contenders.

Each module turns a task into a function that makes one training step and returns its loss on the device, where ``float``
waits for it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from benchmarks.tasks import Task

Step = Callable[[], Any]

CPU: dict[str, tuple[str, dict[str, Any]]] = {
    "tinynet numpy": ("ours", {"backend": "numpy"}),
    "tinynet numba": ("ours", {"backend": "numba"}),
    "torch": ("pytorch", {}),
    "torch compiled": ("pytorch_compiled", {}),
    "jax": ("xla", {}),
    "article": ("article", {}),
    "numpy": ("bare", {}),
}


def entered(names: dict[str, Any], task: Task) -> list[str]:
    """Those of ``names`` that can run the task at all: the article's class knows one network."""
    return [name for name in names if name != "article" or task.article]


def make(name: str, task: Task) -> Step:
    """The step of a contender; an exception is the reason why it is left out."""
    module, options = CPU[name]
    step: Step = importlib.import_module(f"benchmarks.contenders.{module}").make(task, **options)
    return step
