"""A backend on a CUDA device: its products through cublasLt, its steps as graphs, its memory bounded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import groupby
from typing import Any, TypeVar

from tinynet_backends.arena import Arena
from tinynet_backends.backend import Array, Backend, DenseLayer, Formula, Gradients
from tinynet_backends.cuda import chain, graph
from tinynet_backends.cuda.plan import ALIGNED
from tinynet_backends.cuda.products import Products
from tinynet_backends.cuda.staging import Staging
from tinynet_backends.tracing import traced

R = TypeVar("R")


class CudaDevice(Backend):
    """Stands before the class that has the other operations; ``_attach`` gives it the device.

    A captured step hands `graph.Number` to `update` and `dropout`, which are told where it lies.
    """

    launches = True

    _runtime: Any
    _products: Products

    def _attach(self, runtime: Any, products: Products) -> None:
        self._runtime, self._products = runtime, products
        self._running = graph.Running()

    def _here(self) -> AbstractContextManager[Any]:
        """The device is the current one inside."""
        raise NotImplementedError

    def active(self) -> AbstractContextManager[Any]:
        return self._here()

    def compile(self, step: Callable[..., R], *fixed: Any) -> Callable[..., R]:
        """``step(*fixed, …)``: the second call with arguments alike is captured as a CUDA graph, those after it launch
        it (`cuda.graph`)."""
        arena = Arena(self.empty)

        def begun(*args: Any) -> R:
            before, self._running.arena = self._running.arena, arena.rewind()
            try:
                return step(*args)
            finally:
                self._running.arena = before

        return _Step(self, graph.Compiled(self._runtime, self._running, begun, fixed))

    def as_written(self, reason: str) -> None:
        if self._running.recording is not None:
            self._running.recording.stop(reason)

    def admit(self, needed: int, what: str) -> None:
        self._runtime.room.admit(needed, what)

    def assign(self, to: Array, what: Array) -> None:
        self._runtime.copy(to, what)

    def feed(self) -> Callable[[Sequence[Any]], list[Any]]:
        with self._here():
            staging = Staging(self._runtime)

        def put(arrays: Sequence[Any]) -> list[Any]:
            with self._here():
                return staging.put(arrays)

        return put

    def affine(self, x: Array, w: Array, b: Array | None = None) -> Array:
        with self._here():
            y = self._products.affine(x, w, b)
            return super().affine(x, w, b) if y is None else y

    def affine_grad(
        self, dy: Array, x: Array, w: Array, bias: bool, need_dx: bool = True
    ) -> tuple[Array | None, Array, Array | None]:
        with self._here():
            weights = self._products.weight_gradient(x, dy, bias, self.gradient)
            dx = self._products.input_gradient(dy, w) if need_dx else None
            if weights is None or (need_dx and dx is None):
                return super().affine_grad(dy, x, w, bias, need_dx)
            return dx, *weights

    def dense(
        self, x: Array, layers: Sequence[DenseLayer], need_dx: bool
    ) -> tuple[Array, Callable[[Array], Gradients]] | None:
        with self._here():
            return chain.through(self, x, layers, need_dx)

    def gradient(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Room for what `pack` will be asked to put in its place: that place, from a step's second call on."""
        arena = self._running.arena
        return self.empty(shape, dtype) if arena is None else arena.take_gradient(shape, dtype)

    def pack(self, parts: Sequence[Array], out: Array) -> Array:
        arena = self._running.arena
        if arena is None or out.ndim != 1:
            return super().pack(parts, out)
        places = arena.places(out, [part.shape for part in parts])
        astray = [p is not place and self.xp.may_share_memory(p, out) for p, place in zip(parts, places, strict=True)]
        parts = [self._copy(p) if away else p for p, away in zip(parts, astray, strict=True)]
        start = 0
        for there, run in groupby(zip(parts, places, strict=True), lambda pair: pair[0] is pair[1]):
            moved = list(run)
            stop = start + sum(part.size for part, _ in moved)
            if not there:
                super().pack([part for part, _ in moved], out[start:stop])
            if not there and not any(astray):  # else gradients came in another order, and two would get one place
                for part, place in moved:
                    # a result that is not aligned would be computed in another way, with other bits
                    if self._runtime.address(place) % ALIGNED == 0 and part.dtype == out.dtype:
                        arena.move(part, place)
            start = stop
        return out

    def _copy(self, a: Array) -> Array:
        copy = self.empty(a.shape, a.dtype)
        self.assign(copy, a)
        return copy

    def update(self, formula: Formula, arrays: Sequence[Array], inputs: Sequence[Array], *scalars: float) -> None:
        if any(isinstance(s, graph.Number) for s in scalars):
            if traced(formula, len(arrays) + len(inputs), len(scalars)) is None:
                self.as_written("an update by a formula that no kernel can be made of")
            scalars = tuple(map(graph.real, scalars))
        super().update(formula, arrays, inputs, *scalars)

    def dropout(
        self, x: Array, rate: float, key: tuple[int, int], counter: tuple[int, int, int]
    ) -> tuple[Array, Array]:
        first, second, third = map(graph.whole, counter)
        return super().dropout(x, rate, key, (first, second, third))


class _Step:
    """A compiled step on its device; where memory runs out, what to do about it."""

    def __init__(self, backend: CudaDevice, compiled: graph.Compiled) -> None:
        self._here, self._room = backend._here, backend._runtime.room
        self._compiled = compiled

    def __call__(self, *args: Any) -> Any:
        return self._guarded(partial(self._compiled, *args))

    def several(self, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The results of several calls, in one launch."""
        return self._guarded(partial(self._compiled.several, calls))  # type: ignore[no-any-return]

    def _guarded(self, run: Callable[[], Any]) -> Any:
        with self._here():
            try:
                return run()
            except MemoryError as e:
                raise self._room.exhausted() from e
