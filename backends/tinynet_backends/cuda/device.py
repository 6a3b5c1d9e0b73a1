"""A backend on a CUDA device: products by cublasLt, steps as graphs, bounded memory."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import accumulate, groupby
from typing import Any, TypeVar

import numpy as np
from tinynet_backends.arena import Arena
from tinynet_backends.backend import Array, Backend, DenseLayer, Formula, Gradients
from tinynet_backends.cuda import graph, strategies
from tinynet_backends.cuda.copies import Copies
from tinynet_backends.cuda.joined import Launch, joined
from tinynet_backends.cuda.operations import THREADS
from tinynet_backends.cuda.plan import ALIGNED, STORED
from tinynet_backends.cuda.products import Products
from tinynet_backends.cuda.source import Source
from tinynet_backends.cuda.staging import Staging
from tinynet_backends.philox import Counter, Key
from tinynet_backends.tracing import traced

R = TypeVar("R")
_log = logging.getLogger("tinynet")
_CONSTANTS = 64  # cached per step, at most


class CudaDevice(Backend):
    """Precedes the class with the other operations in the MRO; ``_attach`` supplies the device.

    A captured step passes `graph.Number` to `update` and `dropout`, which here becomes its place in device memory.
    """

    launches = True

    _runtime: Any
    _products: Products

    def _attach(self, runtime: Any, products: Products) -> None:
        self._runtime, self._products = runtime, products
        self._running = graph.ThreadState()
        self._strategies = strategies.Strategies(products.choices)

    def _address(self, a: Array) -> int:
        return int(self._runtime.address(a))

    def _here(self) -> AbstractContextManager[Any]:
        """A context in which the device is the current one."""
        raise NotImplementedError

    def active(self) -> AbstractContextManager[Any]:
        return self._here()

    def compile(self, step: Callable[..., R], *fixed: Any) -> Callable[..., R]:
        """``step(*fixed, …)``: captured as a CUDA graph at its second call with arguments of one kind (`cuda.graph`)."""
        own, running = _Own(self.empty), self._running

        def begun(*args: Any) -> R:
            copies = self._copies(fixed) if running.copies is None and running.undisturbed else running.copies
            with self._within(own.arena.rewind(), own.constants, copies):
                return step(*args)

        return _Step(self, graph.Compiled(self._runtime, self._running, begun, fixed, self._joined))

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        running = self._running
        before, running.undisturbed = running.undisturbed, True
        try:
            yield
        finally:
            running.undisturbed, running.latest = before, None

    def _copies(self, fixed: Sequence[Any]) -> Copies:
        """Copies of the vectors among a step's ``fixed`` arrays: one for all steps of a graph."""
        recording = self._running.recording
        if recording is not None and recording.copies is not None:
            return recording.copies
        before = None if recording is None else recording.before

        def made(vector: Array) -> Array:
            copy = self.empty(vector.shape, np.dtype(STORED["bfloat16"]))
            make = partial(self._products.rounded, vector[None, :], copy[None, :])
            if before is None:
                make()
            else:
                before.append(make)  # which keeps the copy alive
            return copy

        vectors = [a for a in fixed if self._runtime.owns(a) and a.ndim == 1 and a.dtype.name == "float32"]
        copies = Copies([a for a in vectors if a.flags.c_contiguous], self._address, made)
        if recording is not None:
            recording.copies = copies
        return copies

    def operand_of(self, w: Array) -> Array | None:
        """Weights in bfloat16, if the step has a copy of them (`cuda.copies`)."""
        copies = self._running.copies
        return None if copies is None else copies.operand(w)

    def copy_of(self, a: Array) -> Array | None:
        copies = self._running.copies
        return None if copies is None else copies.changed(a)

    def changing(self, arrays: Sequence[Array]) -> None:
        if any(self.copy_of(a) is not None for a in arrays):
            self.as_written("an update that has no kernel")
            self._running.copies = None

    def _launch(self, source: Source, kernel: str, blocks: int, row: int, *args: Any, shared: int = 0) -> None:
        if self._running.recording is not None:
            places = tuple(self._address(a) if _is_array(a) else a for a in args)
            self._running.recording.launches.append(Launch(source, kernel, blocks, row, places, shared))
        self._run(source, kernel, blocks, row, *args, shared=shared)

    def _run(self, source: Source, kernel: str, blocks: int, row: int, *args: Any, shared: int = 0) -> None:
        """`_launch`, on the device."""
        raise NotImplementedError

    def _joined(self, whole: Any, recording: graph.Recording, pool: Any) -> Any:
        """A graph of one launch that does what ``whole`` does, if that is launches of one block each; else ``whole``."""
        launches, runtime = recording.launches, self._runtime
        small = len(launches) > 1 and all(launch.blocks == 1 for launch in launches)
        if not small or runtime.nodes(whole) != len(launches):  # it copies, too, or there are kernels of CuPy's
            return whole
        source, words = joined(launches)
        shared = max(launch.shared for launch in launches)
        try:
            table = runtime.array(words, pool)
            run = partial(self._run, source, "joined", 1, THREADS, shared=shared)
            run(np.int64(0), table)  # compiles it, and does nothing
            with runtime.capture(pool) as made:
                run(np.int64(len(launches)), table)
        except (RuntimeError, MemoryError) as e:
            _log.warning("launches of one block each are not joined: %s", e)
            return whole
        recording.kept.append(table)
        return made[0]

    def as_written(self, reason: str) -> None:
        running = self._running
        if running.recording is not None:
            running.recording.stop(reason)
        if running.arena is not None:  # such a step may keep an array, which the next one must not write to
            running.arena.gradients.clear()
            running.arena = None

    def admit(self, needed: int, what: str) -> None:
        self._runtime.device_memory.admit(needed, what)

    def assign(self, to: Array, what: Array) -> None:
        with self._here():
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
            return strategies.through(self, x, layers, need_dx)

    def outside_step(self) -> AbstractContextManager[None]:
        """A context for work that is not part of a step: it gets memory of its own."""
        return self._within(None, None, None)

    @contextmanager
    def _within(self, arena: Arena | None, constants: dict[Any, Array] | None, copies: Copies | None) -> Iterator[None]:
        """A context in which these are what the running step has."""
        running = self._running
        before = running.arena, running.constants, running.copies
        running.arena, running.constants, running.copies = arena, constants, copies
        try:
            yield
        finally:
            running.arena, running.constants, running.copies = before

    def constant(self, shape: tuple[int, ...], value: float | tuple[float, ...], dtype: Any) -> Array:
        """In a step, one array for all of its calls, made in the first: in a graph, CuPy copies nothing from the host."""
        cache, key = self._running.constants, (shape, value, dtype)
        if cache is not None and key in cache:
            return cache[key]
        array = super().constant(shape, value, dtype)
        if cache is not None and len(cache) < _CONSTANTS and not self._runtime.capturing():
            cache[key] = array
        return array

    def gradient(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Memory for a gradient; from a step's second call on, the place where `pack` will want it."""
        running = self._running
        if running.arena is None:
            return self.empty(shape, dtype)
        buffer = running.arena.take_gradient(shape, dtype)
        if running.recording is not None:  # a call with other arguments may replace it by one of another shape
            running.recording.kept.append(buffer)
        return buffer

    def pack(self, parts: Sequence[Array], out: Array) -> Array:
        arena = self._running.arena
        if arena is None or out.ndim != 1:
            return super().pack(parts, out)
        places = arena.places(out, [part.shape for part in parts])
        pairs = [*zip(parts, places, strict=True)]
        in_place = [self._lies_at(part, place) for part, place in pairs]
        astray = [not at and self.xp.may_share_memory(part, out) for at, (part, _) in zip(in_place, pairs, strict=True)]
        parts = [self._copy(part) if away else part for part, away in zip(parts, astray, strict=True)]
        start = 0
        for at, group in groupby(zip(in_place, parts, strict=True), lambda pair: pair[0]):
            run = [part for _, part in group]
            stop = start + sum(part.size for part in run)
            if not at:
                super().pack(run, out[start:stop])
            start = stop
        if not any(astray):  # otherwise gradients came in another order, and two would share a place
            self._move(arena, parts, out)
        return out

    def _lies_at(self, part: Array, place: Array) -> bool:
        alike = part.dtype == place.dtype and part.flags.c_contiguous
        return bool(alike and self._address(part) == self._address(place))

    def _move(self, arena: Arena, parts: Sequence[Array], out: Array) -> None:
        """From the next call on, give the packed gradients the places of their parts in ``out``."""
        starts = [*accumulate((part.size for part in parts), initial=0)]
        firsts = {self._address(part): n for n, part in reversed([*enumerate(parts)])}
        for buffer in [*arena.gradients]:
            first = firsts.get(self._address(buffer))
            if first is None or buffer.dtype != out.dtype or not self._divided(buffer, parts[first:]):
                continue
            place = out[starts[first] : starts[first] + buffer.size].reshape(buffer.shape)
            # an unaligned result, unless a single number, would be computed differently and have other bits
            if not self._lies_at(buffer, place) and (self._address(place) % ALIGNED == 0 or not buffer.ndim):
                arena.move(buffer, place)

    def _divided(self, buffer: Array, parts: Sequence[Array]) -> bool:
        """Whether ``parts`` begin with those of ``buffer``, one after the other."""
        size = 0
        for part in parts:
            if not self._lies_at(part, buffer.reshape(-1)[size : size + part.size]):
                return False
            size += part.size
            if size >= buffer.size:
                return bool(size == buffer.size)
        return False

    def _copy(self, a: Array) -> Array:
        copy = self.empty(a.shape, a.dtype)
        self.assign(copy, a)
        return copy

    def update(self, formula: Formula, arrays: Sequence[Array], inputs: Sequence[Array], *scalars: float) -> None:
        if any(isinstance(s, graph.Number) for s in scalars):
            if traced(formula, len(arrays) + len(inputs), len(scalars)) is None:
                self.as_written("an update by a formula that has no kernel")
            scalars = tuple(map(graph.real, scalars))
        super().update(formula, arrays, inputs, *scalars)

    def dropout(self, x: Array, rate: float, key: Key, counter: Counter) -> tuple[Array, Array]:
        first, second, third = map(graph.whole, counter)
        return super().dropout(x, rate, key, (first, second, third))


def _is_array(arg: Any) -> bool:
    """Whether a kernel's argument is an array, not a number, a struct or None."""
    return arg is not None and not isinstance(arg, np.generic) and not arg.dtype.names


class _Own(threading.local):
    """The arrays of a compiled step that outlast its calls. Every thread has its own, as it has its own graphs."""

    def __init__(self, empty: Callable[[tuple[int, ...], Any], Array]) -> None:
        self.arena, self.constants = Arena(empty), dict[Any, Array]()


class _Step:
    """A compiled step on its device, whose MemoryError names the remedy."""

    def __init__(self, backend: CudaDevice, compiled: graph.Compiled) -> None:
        self._here, self._device_memory = backend._here, backend._runtime.device_memory
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
                raise self._device_memory.exhausted() from e
