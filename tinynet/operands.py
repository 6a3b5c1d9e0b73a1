"""Arguments for each operation that a backend may replace, of any size: `verify` compares on them, ``benchmarks ops`` times."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from tinynet_backends import Backend

from tinynet.layers import Array
from tinynet.losses import MeanSquaredError
from tinynet.optim import Adam
from tinynet.streams import Stream

KEY, COUNTER = (7, 5), (1, 2, 3)


def operands(name: str, ops: Backend, n: int, k: int, dtype: str) -> list[tuple[Any, ...]]:
    """Arguments of the operation ``name`` for ``n`` samples of width ``k``: a list of cases, the usual one first."""
    stream, xp, adam = Stream(1, purpose=5), ops.xp, Adam()

    def real(*shape: int, dtype: str = dtype) -> Array:
        return xp.reshape(stream.normal(range(prod(shape)), dtype, ops), shape)

    def double(*shape: int) -> Array:
        return real(*shape, dtype="float64")

    def words() -> Array:
        return stream.words(range(n * k), ops)

    labels = stream.integers(range(n), k, ops)
    cases: dict[str, Callable[[], list[tuple[Any, ...]]]] = {
        "affine": lambda: [(real(n, k), real(k, k), real(k)), (real(n, k), real(k, k))],
        "affine_grad": lambda: [
            (real(n, k), real(n, k), real(k, k), True), (real(n, k), real(n, k), real(k, k), False, False),
        ],
        "elementwise": lambda: [(_swish, real(n, k))],
        "update": lambda: [
            (adam.rule, [real(k * k), real(k * k), abs(real(k * k))], [real(k * k)], 1e-3, *adam.scalars({}, 9)),
        ],
        "pack": lambda: [([real(k, k), real(k), real(k, k), real(k)], real(2 * k * k + 2 * k))],
        "clip_norm": lambda: [(real(k * k), 1e9), (real(k * k), 0.5)],
        "softmax": lambda: [(real(n, k),)],
        "softmax_grad": lambda: [(real(n, k), real(n, k))],
        "standardize": lambda: [(real(n, k), real(k), real(k))],
        "normalize": lambda: [(real(n, k), real(k), real(k), axis, 1e-5) for axis in (-1, -2)],
        "normalize_grad": lambda: [(real(n, k), real(n, k), real(n, 1), real(k), -1)],
        "elementwise_loss": lambda: [(MeanSquaredError().formula, real(n, k), real(n, k), real(n))],
        "softmax_cross_entropy": lambda: [
            (real(n, k), labels, real(n)), (real(n, k), labels, real(n), 0.1, abs(real(k))),
        ],
        "total_weight": lambda: [(abs(real(n)),), (abs(real(n)), labels, abs(real(k)))],
        "share_weight": lambda: [(abs(real(n)), abs(real(1))[0, ...], real(n, k), k)],
        "words": lambda: [(KEY, COUNTER, 3, n * k)],
        "words_at": lambda: [(KEY, COUNTER, labels, k)],
        "normal": lambda: [(words(),)],
        "halves": lambda: [(words(),)],
        "dropout": lambda: [(real(n, k), 0.3, KEY, COUNTER)],
        "dropout_grad": lambda: [(real(n, k), real(n, k) > 0, 0.3)],
        "permute": lambda: [(labels, 10**6, tuple(range(24)))],
        "sincos": lambda: [(double(n * k),)],
        "arctan": lambda: [(double(n * k), abs(double(n * k)))],
        "log": lambda: [(abs(double(n * k)),)],
        "sum_in_order": lambda: [(double(n, k),)],
        "affine_in_order": lambda: [(double(n, k), double(k, 8), double(1, 8), 0.3)],
        "gather": lambda: [([real(100 * n, k)], stream.integers(range(n), 100 * n, ops))],
        "samples": lambda: [(_sample, KEY, COUNTER, range(7, 7 + n), k, (), dtype)],
    }  # fmt: skip
    return cases[name]()


def _swish(xp: Any, x: Array) -> Array:
    return x / (1.0 + xp.exp(-1.702 * x))


def _sample(ops: Backend, words: Array) -> tuple[Array, Array]:
    """A formula for `Backend.samples`: normal features, and a point on a circle as the target."""
    sine, cosine = ops.sincos(ops.halves(words)[:, 0])
    return ops.normal(words), ops.xp.stack([sine, cosine], axis=1)
