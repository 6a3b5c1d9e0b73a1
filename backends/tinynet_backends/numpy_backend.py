"""NumPy on the CPU: the portable operations in memory that is reused, and in blocks that fit the cache."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
from tinynet_backends import exact
from tinynet_backends.arena import Arena, aligned, cuts
from tinynet_backends.backend import Array, Formula, R
from tinynet_backends.capture import Call, StandIn, Tape, real, run
from tinynet_backends.in_place import in_place
from tinynet_backends.numpy_numbers import BLOCK, NumpyNumbers
from tinynet_backends.passes import INTEGER, OnNumbers, Passes, write_passes
from tinynet_backends.philox import Counter, Key
from tinynet_backends.replay import Compiled, Replay
from tinynet_backends.tracing import traced

_BOOL = np.dtype(np.bool_)
_FEW_CLASSES = 32


class ThreadState(threading.local):
    """What a thread is running, and what it keeps."""

    def __init__(self) -> None:
        self.arena: Arena | None = None  # of the compiled step that runs
        self.tape: Tape | None = None  # on which that step is being recorded
        self.refusal = ""  # why that step must not be recorded
        self.scratch: dict[Any, list[Array]] = {}


class NumpyBackend(NumpyNumbers):
    """NumPy's arrays, a step as a list of calls, and passes over blocks; what it cannot take is left to the portable operations."""

    on_host = True

    def __init__(self, name: str = "numpy") -> None:
        super().__init__(name, np)
        self._running = ThreadState()
        _keep_pages()

    def owns(self, x: Any) -> bool:
        return isinstance(x, (np.ndarray, StandIn))

    def asarray(self, x: Any, dtype: str | None = None) -> Array:
        made, tape = super().asarray(x, dtype), self._running.tape
        if tape is None or isinstance(made, StandIn):
            return made
        tape.give(made)
        return tape.array(made)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        running = self._running
        value = aligned(shape, dtype) if running.arena is None else running.arena.take(shape, dtype)
        return value if running.tape is None else running.tape.array(value)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        zeros = self.empty(shape, dtype)
        zeros[...] = 0
        return zeros

    def constant(self, shape: tuple[int, ...], value: float | tuple[float, ...], dtype: Any) -> Array:
        full = _full(shape, value, dtype)
        return self.asarray(full) if isinstance(value, tuple) else full  # the array that `elementwise_loss` recognizes

    def compile(self, step: Callable[..., R], *fixed: Any) -> Callable[..., R]:
        """``step(*fixed, …)`` with memory of its own: the second call with arguments of a kind is captured, later ones
        are replayed (`tinynet_backends.capture`).

        Floating-point warnings are off inside: a loss that is not finite says the same.
        """
        return Compiled(self, step, fixed)

    def as_written(self, reason: str) -> None:
        self._running.refusal = reason
        if self._running.tape is not None:
            self._running.tape.stop(reason)

    def _lower(self, calls: Sequence[Call], replay: Replay) -> None:
        """Add the calls of a tape to ``replay``."""
        for f, args in in_place(calls, replay.passing):
            # a scalar may also be computed in the step, such as a norm
            of_numbers = isinstance(f, OnNumbers) and not any(isinstance(a, StandIn) for a in args)
            add = replay.add_of_numbers if of_numbers else replay.add
            add(f, args)

    def _give(self, *arrays: Array) -> None:
        """Note those of a user's arrays that do not come from the step."""
        if self._running.tape is not None:
            self._running.tape.give(*arrays)

    def _do(self, f: Callable[..., None], *args: Any) -> None:
        """Call ``f(*args)``, whose results go to arrays among the arguments, and record it if there is a tape."""
        tape = self._running.tape
        if tape is None:
            f(*args)
        else:
            tape.do(f, *args)

    def _do_all(self, calls: Sequence[Call]) -> None:
        """The same for several calls of functions in C, with no Ctrl-C between them."""
        tape = self._running.tape
        if tape is None:
            with np.errstate(over="ignore"):  # on the way to what is finite: 1 / (1 + inf)
                run([(f, *args) for f, args in calls])
        else:
            tape.do_all(calls)

    def _writes(self) -> None:
        """Note that what follows changes arrays that outlive the step."""
        if self._running.tape is not None:
            self._running.tape.wrote = True

    def affine(self, x: Array, w: Array, b: Array | None = None) -> Array:
        if x.ndim < 2 or x.shape[:-2] != w.shape[:-2]:
            return super().affine(x, w, b)
        y = self.empty((*x.shape[:-1], w.shape[-1]), x.dtype)
        self._product(x, w, y)
        if b is not None:
            self._do(np.add, y, b[..., None, :], y)
        return y

    def affine_grad(
        self, dy: Array, x: Array, w: Array, bias: bool, need_dx: bool = True
    ) -> tuple[Array | None, Array, Array | None]:
        if x.ndim < 2 or not dy.shape[:-2] == x.shape[:-2] == w.shape[:-2]:
            return super().affine_grad(dy, x, w, bias, need_dx)
        return self._gradients(self._product, dy, x, w, bias, need_dx)

    def _gradients(
        self, multiply: Callable[[Array, Array, Array], None], dy: Array, x: Array, w: Array, bias: bool, need_dx: bool
    ) -> tuple[Array | None, Array, Array | None]:
        """`affine_grad` by ``multiply(a, b, out)``, which sets ``out`` to ``a @ b``."""
        dx = db = None
        if need_dx:
            dx = self.empty(x.shape, x.dtype)
            multiply(dy, w.mT, dx)
        dw = self._gradient(w.shape, w.dtype)
        multiply(x.mT, dy, dw)
        if bias:
            db = self._gradient((*dy.shape[:-2], dy.shape[-1]), dy.dtype)
            self._sum_rows(dy, db)
        return dx, dw, db

    def _product(self, a: Array, b: Array, out: Array) -> None:
        """``out = a @ b``: `numpy.dot` costs half of what matmul does where matrices are small."""
        alike = a.ndim <= 2 and a.dtype == b.dtype == out.dtype and out.flags.c_contiguous
        self._do(np.dot if alike else np.matmul, a, b, out)

    def _sum_rows(self, x: Array, out: Array) -> None:
        """``out = sum of x's rows``: for one matrix a product with ones, in which BLAS adds up all columns at once."""
        if x.ndim == 2 and x.dtype == out.dtype and out.flags.c_contiguous:
            self._do(np.dot, _ones(len(x), x.dtype), x, out)
        else:
            self._do(np.add.reduce, x, -2, None, out)

    def _gradient(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """A buffer for a gradient, which `pack` puts in its place."""
        running = self._running
        value = aligned(shape, dtype) if running.arena is None else running.arena.take_gradient(shape, dtype)
        return value if running.tape is None else running.tape.array(value)

    def elementwise(self, formula: Formula, *arrays: Array) -> Array:
        self._give(*arrays)
        trace = traced(formula, len(arrays))
        if trace is None or not _alike(arrays):
            return formula(np, *arrays)
        out = self.empty(arrays[0].shape, arrays[0].dtype)
        self._in_blocks(write_passes(trace), arrays, [out])
        return out

    def elementwise_loss(self, formula: Formula, y: Array, target: Array, scale: Array) -> tuple[Array, Array]:
        trace = traced(formula, 2)
        if trace is None or y.ndim < 2 or y.shape != target.shape or not _alike((y, target)):
            return super().elementwise_loss(formula, y, target, scale)
        lead = y.shape[:-2]
        value, slope, loss = (self.empty(shape, y.dtype) for shape in (y.shape, y.shape, lead))
        self._in_blocks(write_passes(trace), (y, target), (value, slope))
        rows = scale[..., None]
        if scale is not _full(scale.shape, 1.0, y.dtype):
            self._do(np.multiply, slope, rows, slope)
        if lead:
            self._do(np.multiply, value, rows, value)
            self._do(np.add.reduce, value.reshape((*lead, y.shape[-2] * y.shape[-1])), -1, None, loss)
        elif y.shape[-1] == 1:
            self._product(scale, value[:, 0], loss)
        else:
            columns = self.empty(y.shape[-1:], y.dtype)
            self._product(scale, value, columns)
            self._product(columns, _ones(y.shape[-1], y.dtype), loss)
        return loss, slope

    def _in_blocks(
        self, passes: Passes, inputs: Sequence[Array], outputs: Sequence[Array] = (), scalars: Sequence[float] = ()
    ) -> None:
        """Passes over arrays of one shape, in blocks that fit the cache."""
        inputs, outputs = ([a if a.ndim == 1 else a.reshape(-1) for a in arrays] for arrays in (inputs, outputs))
        size, dtype = inputs[0].size, inputs[0].dtype
        numbers = [np.empty((), dtype) for _ in range(passes.slots)]
        if numbers:
            self._do(passes.numbers, *scalars, *numbers)
        scratch = self._scratch(passes, min(size, BLOCK), dtype)
        calls: list[Call] = []
        for start in range(0, size, BLOCK):
            length = min(BLOCK, size - start)
            if size > BLOCK:
                block = slice(start, start + length)
                places = {"a": [a[block] for a in inputs], "o": [a[block] for a in outputs]}
                scratch = {kind: [a[:length] for a in arrays] for kind, arrays in scratch.items()}
            else:
                places = {"a": inputs, "o": outputs}
            calls += passes.calls(dtype, length, {**places, **scratch, "n": numbers})
        self._do_all(calls)

    def _scratch(self, passes: Passes, size: int, dtype: Any) -> dict[str, list[Array]]:
        """Blocks of this thread for the intermediate results of passes, by kind."""
        found: dict[str, list[Array]] = {}
        for kind, count in passes.scratch.items():
            of = {"t": dtype, "m": _BOOL, "i": INTEGER[dtype.itemsize]}[kind]
            kept = self._running.scratch.setdefault(of, [])
            while len(kept) < count:
                kept.append(np.empty(BLOCK, of))
            found[kind] = [a[:size] for a in kept[:count]]
        return found

    def update(self, formula: Formula, arrays: Sequence[Array], inputs: Sequence[Array], *scalars: float) -> None:
        values = [*arrays, *inputs]
        trace = traced(formula, len(values), len(scalars))
        self._writes()
        if trace is None or not _alike(values) or not apart(values, len(arrays)):
            self._do(partial(self._update_as_written, formula, len(arrays), len(values)), *values, *scalars)
        else:
            self._in_blocks(write_passes(trace, in_place=True), values, scalars=scalars)

    def _update_as_written(self, formula: Formula, count: int, first: int, *args: Any) -> None:
        """``count`` arrays, inputs, and scalars from ``first`` on."""
        super().update(formula, args[:count], args[count:first], *args[first:])

    def standardize(self, x: Array, mean: Array, scale: Array) -> Array:
        if not x.dtype == mean.dtype == scale.dtype:
            return super().standardize(x, mean, scale)
        y = self.empty(x.shape, x.dtype)
        self._do(np.subtract, x, mean[..., None, :], y)
        self._do(np.multiply, y, scale[..., None, :], y)
        return y

    def pack(self, parts: Sequence[Array], out: Array) -> Array:
        """As specified. From the next step on, gradients that came from this step's arena are written to their place directly."""
        arena, vector = self._running.arena, real(out)
        shapes = [part.shape for part in parts]
        places = cuts(vector, shapes) if arena is None else arena.places(vector, shapes)
        moves = [(part, place) for part, place in zip(parts, places, strict=True) if real(part) is not place]
        copies = [part.copy() if np.may_share_memory(real(part), vector) else part for part, _ in moves]
        for copy, (part, place) in zip(copies, moves, strict=True):
            self._do(np.copyto, place, copy)
            # if gradients come in another order than last time, two must not get one place
            if arena is not None and not any(np.shares_memory(place, other) for other in arena.gradients):
                arena.move(real(part), place)
        return out

    def softmax_cross_entropy(
        self, z: Array, target: Array, scale: Array, smoothing: float = 0.0, class_weight: Array | None = None
    ) -> tuple[Array, Array]:
        if target.ndim == z.ndim or target.size == 0 or smoothing != 0.0 or class_weight is not None:
            return super().softmax_cross_entropy(z, target, scale, smoothing, class_weight)
        loss, dz = self.empty(z.shape[:-2], z.dtype), self.empty(z.shape, z.dtype)
        self._cross_entropy(z.reshape((-1, z.shape[-1])), target.reshape(-1), scale.reshape(-1), loss, dz)
        return loss, dz

    def _cross_entropy(self, z: Array, target: Array, scale: Array, loss: Array, dz: Array) -> None:
        """For one matrix of logits (n, k). If classes are few it is transposed, so that NumPy's loops are over samples.

        A label that is no class costs nothing, as specified.
        """
        (n, k), do, transposed = z.shape, self._do, z.shape[1] <= _FEW_CLASSES
        low, total, chosen, weight = np.empty((4, n), z.dtype)
        label, wrong = np.empty(n, np.int64), np.empty(n, np.bool_)
        nothing, first = np.zeros((), z.dtype), np.zeros((), np.int64)  # twice as fast as Python's 0
        dz = dz.reshape((n, k))
        work, axis = (np.empty((k, n), z.dtype), 0) if transposed else (dz, 1)
        flat = work.reshape(-1)
        do(np.copyto, label, target)
        do(np.greater_equal, label.view(np.uint64), np.array(k, np.uint64), wrong)
        do(np.copyto, weight, scale)
        do(np.copyto, weight, nothing, "same_kind", wrong)
        do(np.copyto, label, first, "same_kind", wrong)
        if transposed:
            do(np.multiply, label, np.array(n), label)
        do(np.add, label, np.arange(n) if transposed else np.arange(0, n * k, k), label)
        if transposed:
            do(np.copyto, work, z.T)
            z = work
        do(np.maximum.reduce, z, axis, None, low)
        do(np.subtract, z, np.expand_dims(low, axis), work)
        do(np.ndarray.take, flat, label, None, chosen, "clip")
        do(np.copyto, chosen, nothing, "same_kind", wrong)
        do(np.exp, work, work)
        do(np.dot, *((_ones(k, z.dtype), work) if transposed else (work, _ones(k, z.dtype))), total)
        do(np.log, total, low)
        do(np.subtract, low, chosen, chosen)
        do(np.divide, weight, total, total)
        do(np.multiply, work, np.expand_dims(total, axis), work)
        do(np.ndarray.take, flat, label, None, low, "clip")
        do(np.subtract, low, weight, low)
        do(np.ndarray.put, flat, label, low, "clip")
        if transposed:
            do(np.copyto, dz, work.T)
        if loss.ndim:
            do(np.multiply, chosen, weight, chosen)
            do(np.add.reduce, chosen.reshape((*loss.shape, n // loss.size)), -1, None, loss)
        else:
            do(np.dot, chosen, weight, loss)

    def dropout(self, x: Array, rate: float, key: Key, counter: Counter) -> tuple[Array, Array]:
        y, keep = self.empty(x.shape, x.dtype), self.empty(x.shape, _BOOL)
        self._do(self._dropout, x, rate, *key, *counter, y, keep)
        return y, keep

    def _dropout(
        self, x: Array, rate: float, k0: int, k1: int, c0: int, c1: int, c2: int, y: Array, keep: Array
    ) -> None:
        # not a subclass's: this whole function is one call of a captured step, which may not contain another
        words = NumpyNumbers.words(self, (k0, k1), (c0, c1, c2), 0, (x.size + 1) // 2)
        u = exact.uniform32(np, words)
        np.greater_equal(u[: x.size].reshape(x.shape), rate, out=keep)
        np.multiply(x, 1.0 / (1.0 - rate), out=y)
        y[~keep] = 0.0  # not a product with the mask: infinity times 0 is NaN

    def versions(self) -> str:
        return f"NumPy {np.__version__}"


@lru_cache(maxsize=64)
def _full(shape: tuple[int, ...], value: float, dtype: Any) -> Array:
    full = np.full(shape, value, dtype)
    full.flags.writeable = False
    return full


def _ones(n: int, dtype: Any) -> Array:
    return _full((n,), 1.0, dtype)


def _alike(arrays: Sequence[Array]) -> bool:
    """Whether all have one shape and floating dtype and are in C order."""
    first = arrays[0]
    return first.dtype.kind == "f" and all(
        a.shape == first.shape and a.dtype == first.dtype and a.flags.c_contiguous for a in arrays
    )


def apart(arrays: Sequence[Array], count: int) -> bool:
    """Whether no part of the first ``count`` of these arrays of one shape is another part of one of them."""
    places = [(a.__array_interface__["data"][0], a) for a in map(real, arrays)]
    near = [(a, b) for p, a in places[:count] for q, b in places if 0 < abs(p - q) < _extent(a)]
    return not any(np.shares_memory(a, b) for a, b in near)


def _extent(a: Array) -> int:
    """Bytes from the beginning of an array to its end."""
    return int(a.nbytes if a.flags.c_contiguous else len(a) * a.strides[0])


def _keep_pages() -> None:
    """Let glibc, if it is the C library, keep freed memory for the next temporary.

    It maps blocks above a threshold anew each time; freeing one raises the threshold to its size, up to 32 MiB. The pages of
    this one are never touched.
    """
    np.empty(2**25 - 2**13, np.uint8)


def make(device: str | None) -> NumpyBackend:
    if device is not None:
        raise ValueError(f"backend 'numpy' has no devices, not {device!r}: write 'numpy'")
    return NumpyBackend()
