"""Each operation that a backend replaces, beside the portable original on the same backend: ``benchmarks ops``.

Arguments have three sizes that occur in networks. Both run as they do in a step, captured and in an arena.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import tinynet as tn
from benchmarks.clock import elapsed
from benchmarks.comparison import Comparison
from benchmarks.runner import Failed, Order, Runner
from tinynet.operands import operands

BACKENDS = ("numpy", "numba", "cupy", "torch")
SIZES = ((32, 64), (128, 256), (512, 1024))  # samples, width


def _call(operation: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    return operation(*args)


def _time(action: Callable[[], object], ops: tn.Backend, seconds: float) -> float:
    """The median time of a call, including the wait for the device."""

    def once() -> None:
        action()
        ops.synchronize()

    for _ in range(3):  # the second call is captured
        once()
    count = 1 + int(seconds / 5 / (elapsed(once) + 1e-6))
    laps = [elapsed(lambda: [once() for _ in range(count)]) / count for _ in range(5)]  # type: ignore[func-returns-value]
    return median(laps)


def measure(backend: str, seconds: float) -> dict[str, dict[str, list[float]]]:
    """In the child: for each operation and size, the seconds of the replacement and of the original."""
    ops = tn.get_backend(backend)
    found: dict[str, dict[str, list[float]]] = {}
    for name in tn.overrides(ops):
        for n, k in SIZES:
            args = operands(name, ops, n, k, "float32")[0]
            mine, original = (partial(_call, getattr(where, name)) for where in (ops, tn.Backend))
            # captured, what depends on a counter alone would be a constant; loaders call the first two as they are
            mine = partial(mine, args) if name in ("words", "samples") else ops.compile(mine, args)
            drawn = name in ("words", "samples", "dropout")
            original = partial(original, (ops, *args)) if drawn else ops.compile(original, (ops, *args))
            found[f"{backend}: {name} {n} × {k}"] = {
                "tinynet": [_time(mine, ops, seconds)],
                "portable": [_time(original, ops, seconds)],
            }
    return found


def run(runner: Runner) -> Iterator[Comparison]:
    """Seconds of an operation: the backend's own, and the portable original"""
    seconds = runner.options.seconds / 10
    for backend in runner.options.chosen(list(BACKENDS)):
        try:
            turns = [
                runner.run(Order("benchmarks.ops:measure", {"backend": backend, "seconds": seconds}))["result"]
                for _ in range(runner.options.repeats)
            ]
        except Failed as e:
            print(f"{backend} is left out: {e}")
            continue
        for label in turns[0]:
            yield Comparison(label, {who: [t[label][who][0] for t in turns] for who in turns[0][label]})
