"""The ways to compute dense layers in a row, and which of them is taken: by sizes if they suffice, else by timing."""

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
from tinynet_backends.cuda.tune import Choice, Choices, fastest, timed

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
    """The first layers another way, the last ones fused: nothing else is fast for a narrow last product."""

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


class Way(NamedTuple):
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


class Ways:
    """Which way is taken for which layers; decisions are kept here and on disk."""

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self._known: dict[Work, Way] = {}
        self._lock = threading.Lock()

    def find(self, ops: Any, work: Work, x: Array, layers: Sequence[DenseLayer]) -> Way:
        """Chosen by sizes if they suffice, else by timing. If fused layers fail, the log says why and products are used."""
        if work in self._known:
            return self._known[work]
        ways = _candidates(ops, work, x, layers)
        *_, first = [way for way in ways if way.tile and not way.beside and work.n >= _ENOUGH * way.tile] or ways[:1]
        sure = len(ways) == 1 or (first.front == 0 and work.behind(0, first.tile).each <= _SURE)
        with self._lock:
            kept = None if sure else self.choices.find(work)
            if kept is not None and kept.variant < len(ways):
                first, sure = ways[kept.variant], True
            if ops._runtime.capturing():  # nothing can be tried or timed now
                return first
            if sure:
                way = first if not first.tile or _works(first, ops, work, x, layers) else Way(len(layers), 0)
                return self._known.setdefault(work, way)
            with ops.apart():
                best = fastest(_runs(ways, ops, work, x, layers), ops._runtime.seconds)
            way = Way(len(layers), 0) if best is None else ways[best]
            self.choices.keep(work, Choice(ways.index(way), b""))
            return self._known.setdefault(work, way)

    def timed(self, ops: Any, work: Work, x: Array, layers: Sequence[DenseLayer]) -> dict[Way, float]:
        """Seconds of the forward and backward pass, for every candidate."""
        ways = _candidates(ops, work, x, layers)
        with ops.apart():
            times = timed(_runs(ways, ops, work, x, layers), ops._runtime.seconds)
            return {ways[n]: seconds for n, seconds in times.items()}


def _candidates(ops: Any, work: Work, x: Array, layers: Sequence[DenseLayer]) -> list[Way]:
    """The ways to choose from.

    As many fused layers as possible, for each size of a tile; then none; then those with several unfused layers again, with
    gradients computed concurrently.
    """
    ways: list[Way] = []
    for front in range(max(0, len(layers) - MOST), len(layers)):
        behind = [work.behind(front, tile) for tile in work.behind(front, 16).tiles]
        fitting = [one.tile for one in behind if max(one.room(False), one.room(True)) <= ops._runtime.shared_memory]
        if ways := [Way(front, tile) for tile in dict.fromkeys(fitting)]:
            break
    ways.append(Way(len(layers), 0))
    chains = [way for way in ways if way.front > 1 and chain.fits(x, layers[: way.front])]
    return [*ways, *(way._replace(beside=True) for way in chains)]


def _runs(ways: Sequence[Way], *args: Any) -> list[Callable[[], None]]:
    return [partial(_forward_and_back, way, *args) for way in ways]


def _forward_and_back(way: Way, ops: Any, work: Work, x: Array, layers: Sequence[DenseLayer]) -> None:
    run = way.of(ops, work, x, layers)
    y = run.forward(x)
    if y is None:
        raise RuntimeError("cublasLt has no algorithm for one of the layers")
    run.backward(y)


def _works(way: Way, ops: Any, work: Work, x: Array, layers: Sequence[DenseLayer]) -> bool:
    """Whether the device runs the kernels of ``way``, which it may refuse to load or to launch."""
    try:
        with ops.apart():
            _forward_and_back(way, ops, work, x, layers)
    except RuntimeError as e:
        _log.warning("dense layers are computed by products, because fused ones fail: %s", e)
        return False
    return True


def through(
    ops: Any, x: Array, layers: Sequence[DenseLayer], need_dx: bool
) -> tuple[Array, Callable[[Array], Gradients]] | None:
    """`Backend.dense`."""
    work = Work.of(x, layers, ops._products.precision, need_dx)
    way = None if work is None else ops._ways.find(ops, work, x, layers)
    if work is None or way is None or (way.front == len(layers) and not chain.fits(x, layers)):
        return None
    run = way.of(ops, work, x, layers)
    y = run.forward(x)
    return None if y is None else (y, run.backward)
