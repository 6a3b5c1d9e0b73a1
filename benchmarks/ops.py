"""Each operation that a backend replaces, beside the portable original on the same backend: ``benchmarks ops``.

Arguments have three sizes that occur in networks. Both run as they do in a step, captured and in an arena.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from statistics import median
from typing import Any

import tinynet as tn
from benchmarks.clock import elapsed
from benchmarks.comparison import Comparison
from benchmarks.runner import Failed, Order, Runner

BACKENDS = ("numpy", "numba", "cupy", "torch")
SIZES = ((32, 64), (128, 256), (512, 1024))  # samples, width
KEY, COUNTER = (7, 5), (1, 2, 3)


def _gelu_like(xp: Any, x: Any) -> Any:
    return x / (1.0 + xp.exp(-1.702 * x))


def _squares(xp: Any, y: Any, target: Any) -> tuple[Any, Any]:
    e = y - target
    return e * e, 2.0 * e


def circle(ops: tn.Backend, words: Any) -> tuple[Any, Any]:
    """A formula for `Backend.samples`: points near a circle."""
    z = ops.normal(words[:, :2])
    sine, cosine = ops.sincos(z[:, 0])
    return ops.xp.stack([sine, cosine], axis=1) + 0.1 * z, z[:, 1:]


def arguments(name: str, ops: tn.Backend, n: int, k: int) -> tuple[Any, ...]:
    """Arguments of an operation for ``n`` samples of width ``k``."""
    xp, stream = ops.xp, tn.Stream(1)

    def real(*shape: int) -> Any:
        return xp.reshape(stream.normal(range(prod(shape)), "float32", ops), shape)

    labels, words = stream.integers(range(n), k, ops), stream.words(range(n * k), ops)
    adam = tn.Adam(1e-3)
    cases: dict[str, Callable[[], tuple[Any, ...]]] = {
        "affine": lambda: (real(n, k), real(k, k), real(k)),
        "affine_grad": lambda: (real(n, k), real(n, k), real(k, k), True),
        "elementwise": lambda: (_gelu_like, real(n, k)),
        "update": lambda: (
            adam.rule, [real(k * k), real(k * k), abs(real(k * k))], [real(k * k)], 1e-3,
            *adam.scalars({}, 9),
        ),
        "pack": lambda: ([real(k, k), real(k), real(k, k), real(k)], real(2 * k * k + 2 * k)),
        "clip_norm": lambda: (real(k * k), 1e9),
        "softmax": lambda: (real(n, k),),
        "softmax_grad": lambda: (real(n, k), real(n, k)),
        "standardize": lambda: (real(n, k), real(k), real(k)),
        "normalize": lambda: (real(n, k), real(k), real(k), -1, 1e-5),
        "normalize_grad": lambda: (real(n, k), real(n, k), real(n, 1), real(k), -1),
        "elementwise_loss": lambda: (_squares, real(n, k), real(n, k), real(n)),
        "softmax_cross_entropy": lambda: (real(n, k), labels, real(n)),
        "words": lambda: (KEY, COUNTER, 3, n * k),
        "words_at": lambda: (KEY, COUNTER, labels, k),
        "normal": lambda: (words,),
        "halves": lambda: (words,),
        "dropout": lambda: (real(n, k), 0.3, KEY, COUNTER),
        "dropout_grad": lambda: (real(n, k), real(n, k) > 0, 0.3),
        "sincos": lambda: (xp.astype(real(n * k), xp.float64),),
        "arctan": lambda: (xp.astype(real(n * k), xp.float64), xp.astype(abs(real(n * k)), xp.float64)),
        "log": lambda: (xp.astype(abs(real(n * k)), xp.float64),),
        "sum_in_order": lambda: (xp.astype(real(n, k), xp.float64),),
        "affine_in_order": lambda: (xp.astype(real(n, k), xp.float64), xp.astype(real(k, 8), xp.float64)),
        "gather": lambda: (real(100_000, k), stream.integers(range(n), 100_000, ops)),
        "samples": lambda: (circle, KEY, COUNTER, range(n), k, [], "float32"),
        "permute": lambda: (labels, 10**6, tuple(range(24))),
    }  # fmt: skip
    return cases[name]()


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
            args = arguments(name, ops, n, k)
            mine, original = (partial(_call, getattr(where, name)) for where in (ops, tn.Backend))
            # what depends on a constant counter alone would be captured as a constant
            drawn = name in ("words", "dropout", "samples")
            original = partial(original, (ops, *args)) if drawn else ops.compile(original, (ops, *args))
            mine = ops.compile(mine, args)
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
