"""The strategies for dense layers in a row, and which of them is used: by sizes if they suffice, else by timing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from tinynet_backends.backend import Array, DenseLayer, Gradients
from tinynet_backends.cuda import chain
from tinynet_backends.cuda.fused import MOST, Fused, Work
from tinynet_backends.cuda.operations import Sum
from tinynet_backends.cuda.tune import Choices, fastest, timed

_log = logging.getLogger("tinynet")
_ENOUGH = 128  # tiles that occupy the whole device
_SURE = 1 << 18  # parameters times rows of one block, up to which fusion is used without timing


class OneByOne(chain.Pass):
    """Separate products and elementwise passes, as without `Backend.dense`."""

    def __init__(self, ops: Any, layers: Sequence[DenseLayer], need_dx: bool) -> None:
        self.ops, self.layers, self.need_dx = ops, layers, need_dx

    def forward(self, x: Array) -> Array:
        self.steps: list[tuple[Array, Array, Array]] = []
        for w, b, f, _ in self.layers:
            z = self.ops.affine(x, w, b)
            y = z if f is None else self.ops.elementwise(f, z)
            self.steps.append((x, z, y))
            x = y
        return x

    def back(self, dy: Array, sums: list[Sum]) -> Gradients:
        gradients: list[tuple[Array, Array | None]] = []
        for k in reversed(range(len(self.layers))):
            (w, b, _, df), (x, z, y) = self.layers[k], self.steps[k]
            dz = dy if df is None else self.ops.elementwise(df, dy, z, y)
            dy, dw, db = self.ops.affine_grad(dz, x, w, b is not None, self.need_dx or k > 0)
            gradients.append((dw, db))
        return dy, gradients[::-1]


class Halves(chain.Pass):
    """The first layers by another strategy, the last ones fused: nothing else is fast for a narrow last product."""

    def __init__(self, front: chain.Pass, behind: Fused) -> None:
        self.ops, self.front, self.behind = front.ops, front, behind

    def forward(self, x: Array) -> Array | None:
        y = self.front.forward(x)
        return None if y is None else self.behind.forward(y)

    def back(self, dy: Array, sums: list[Sum]) -> Gradients:
        between, last = self.behind.back(dy, sums)
        dx, first = self.front.back(between, sums)
        if self.behind.before is not None:
            first[-1] = first[-1][0], self.behind.before
        return dx, [*first, *last]


class Strategy(NamedTuple):
    """How layers are computed: the first ``front`` unfused, the others fused in tiles of ``tile`` rows.

    With ``beside``, the gradients of the first layers' weights are computed concurrently with the rest of the backward pass.
    """

    front: int
    tile: int
    beside: bool = False

    def of(self, ops: Any, work: Work, x: Array, layers: Sequence[DenseLayer]) -> chain.Pass:
        """The pass through these layers."""
        first, last = layers[: self.front], layers[self.front :]
        behind = Fused(ops, work.behind(self.front, self.tile), last) if last else None
        if behind is not None and not first:
            return behind
        through = behind is not None and behind.work.before > 0
        fits = chain.fits(x, first)
        make = partial(chain.Chain, through=through, beside=self.beside) if fits else OneByOne
        front = make(ops, first, work.need_dx)
        return front if behind is None else Halves(front, behind)


class Strategies:
    """Which strategy is used for which layers; decisions are kept here and on disk."""

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self._known: dict[Work, Strategy] = {}
        self._lock = threading.Lock()

    def find(self, ops: Any, work: Work, x: Array, layers: Sequence[DenseLayer]) -> Strategy:
        """Chosen by sizes if they suffice, else by timing. If fused layers fail, the log says why and products are used."""
        if work in self._known:
            return self._known[work]
        strategies = _candidates(ops, work, x, layers)
        filling = [one for one in strategies if one.tile and not one.beside and work.n >= _ENOUGH * one.tile]
        *_, first = filling or strategies[:1]
        sure = len(strategies) == 1 or (first.front == 0 and work.behind(0, first.tile).each <= _SURE)
        with self._lock:
            kept = None if sure else self.choices.find(work)
            if kept is not None and (known := Strategy(*kept)) in strategies:
                first, sure = known, True
            if ops._runtime.capturing():  # nothing can be tried or timed now
                return first
            if sure:
                strategy = first if not first.tile or _works(first, ops, work, x, layers) else Strategy(len(layers), 0)
                return self._known.setdefault(work, strategy)
            with ops.outside_step():
                best, certain = fastest(_runs(strategies, ops, work, x, layers), ops._runtime.seconds)
            strategy = Strategy(len(layers), 0) if best is None else strategies[best]
            if certain:
                self.choices.keep(work, strategy)
            return self._known.setdefault(work, strategy)

    def timed(self, ops: Any, work: Work, x: Array, layers: Sequence[DenseLayer]) -> dict[Strategy, float]:
        """Seconds of the forward and backward pass, for every candidate."""
        strategies = _candidates(ops, work, x, layers)
        with ops.outside_step():
            times = timed(_runs(strategies, ops, work, x, layers), ops._runtime.seconds)
            return {strategies[n]: seconds for n, seconds in times.items()}


def _candidates(ops: Any, work: Work, x: Array, layers: Sequence[DenseLayer]) -> list[Strategy]:
    """The strategies to choose from.

    As many fused layers as possible, for each size of a tile; then none; then those with several unfused layers again, with
    gradients computed concurrently.
    """
    strategies: list[Strategy] = []
    for front in range(max(0, len(layers) - MOST), len(layers)):
        behind = [work.behind(front, tile) for tile in work.behind(front, 16).tiles]
        fitting = [
            one.tile for one in behind if max(map(one.shared_memory, (False, True))) <= ops._runtime.shared_memory
        ]
        if strategies := [Strategy(front, tile) for tile in dict.fromkeys(fitting)]:
            break
    strategies.append(Strategy(len(layers), 0))
    chains = [one for one in strategies if one.front > 1 and chain.fits(x, layers[: one.front])]
    return [*strategies, *(one._replace(beside=True) for one in chains)]


def _runs(strategies: Sequence[Strategy], *args: Any) -> list[Callable[[], None]]:
    return [partial(_forward_and_back, strategy, *args) for strategy in strategies]


def _forward_and_back(strategy: Strategy, ops: Any, work: Work, x: Array, layers: Sequence[DenseLayer]) -> None:
    run = strategy.of(ops, work, x, layers)
    y = run.forward(x)
    if y is None:
        raise RuntimeError("cublasLt has no algorithm for one of the layers")
    run.backward(y)


def _works(strategy: Strategy, ops: Any, work: Work, x: Array, layers: Sequence[DenseLayer]) -> bool:
    """Whether the device runs the kernels of ``strategy``, which it may refuse to load or to launch."""
    try:
        with ops.outside_step():
            _forward_and_back(strategy, ops, work, x, layers)
    except RuntimeError as e:
        _log.warning("dense layers are computed by products, because fused ones fail: %s", e)
        return False
    return True


def through(
    ops: Any, x: Array, layers: Sequence[DenseLayer], need_dx: bool
) -> tuple[Array, Callable[[Array], Gradients]] | None:
    """`Backend.dense`."""
    work = Work.of(x, layers, ops._products.precision, need_dx)
    strategy = None if work is None else ops._strategies.find(ops, work, x, layers)
    if work is None or strategy is None or (strategy.front == len(layers) and not chain.fits(x, layers)):
        return None
    run = strategy.of(ops, work, x, layers)
    y = run.forward(x)
    return None if y is None else (y, run.backward)
