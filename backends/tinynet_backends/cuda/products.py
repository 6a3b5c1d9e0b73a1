"""The products of dense layers by cublasLt: planned, tuned once per shape, and queued on the current stream."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from tinynet_backends.backend import Array
from tinynet_backends.cuda import plan as plans
from tinynet_backends.cuda.lt import Algorithm
from tinynet_backends.cuda.plan import Epilogue, Layout, Plan
from tinynet_backends.cuda.tune import Choices, fastest

_log = logging.getLogger("tinynet")
_LONG = 1e11  # multiplications and additions, from which on a product is timed under load
KINDS = ("float32", "float64", plans.STORED["bfloat16"])


class _Ready(NamedTuple):
    """How a plan is executed from now on."""

    plan: Plan  # one of its variants
    problem: Any
    algorithm: Algorithm


class Products:
    """Products of a device's arrays in one precision.

    ``runtime`` allocates, copies and times (`cuda.runtime`); ``problem(plan)`` makes the descriptors of a plan (`cuda.lt`).
    ``precision`` applies to float32 arrays: "float32", "bf16x3", "tf32" or "bf16"; float64 products stay float64.
    ``rounded(x, out)`` rounds float32 to bfloat16: (..., n, k) in any strides, padded with 0 to (..., high, wide).
    ``split(arrays, out, lo)`` makes three bfloat16 matrices of each (`CudaOperations.split`).
    """

    def __init__(
        self, runtime: Any, problem: Callable[[Plan], Any], handle: Any, choices: Choices, precision: str,
        rounded: Callable[[Array, Array], None],
        split: Callable[[Sequence[Array], Sequence[Array], Sequence[int]], None],
    ) -> None:  # fmt: skip
        self.runtime, self.problem, self.handle, self.choices = runtime, problem, handle, choices
        self.precision, self.rounded, self.split = precision, rounded, split
        self._ready: dict[Plan, _Ready | None] = {}
        self._lock = threading.Lock()

    def affine(self, x: Array, w: Array, b: Array | None) -> Array | None:
        """``x @ w + b`` as a new array: (..., n, i), (..., i, o), (..., o) -> (..., n, o); None if cublasLt cannot."""
        y = None if b is None else self.product(x, w, Epilogue.BIAS, b)
        if y is None:
            y = self.product(x, w)
            if y is not None and b is not None:
                y += b[..., None, :]
        return y

    def weight_gradient(
        self, x: Array, dy: Array, bias: bool, allocate: Callable[..., Array] | None = None,
    ) -> tuple[Array, Array | None] | None:  # fmt: skip
        """``x.T @ dy`` and, if ``bias``, dy's sum over the samples: (..., n, i), (..., n, o) -> (..., i, o), (..., o).

        The results are arrays made by ``allocate(shape, dtype)``; None if cublasLt cannot.
        """
        make: Callable[..., Array] = allocate or self.runtime.empty
        xt, axes = _transposed(x), _axes(x, dy)
        out = make((*axes, x.shape[-1], dy.shape[-1]), dy.dtype)
        db = make((*dy.shape[:-2], dy.shape[-1]), dy.dtype) if bias else None
        if db is not None and self.product(xt, dy, Epilogue.SUM_A, db, out=out) is not None:
            return out, db
        if self.product(xt, dy, out=out) is None:
            return None
        if db is not None:
            dy.sum(axis=-2, out=db)
        return out, db

    def input_gradient(self, dy: Array, w: Array) -> Array | None:
        """``dy @ w.T``: (..., n, o), (..., i, o) -> (..., n, i); None if cublasLt cannot."""
        return self.product(dy, _transposed(w))

    def product(
        self, x: Array, w: Array, epilogue: int = Epilogue.NONE, bias: Array | None = None,
        out: Array | None = None,
    ) -> Array | None:  # fmt: skip
        """``epilogue(x @ w)``: (..., n, k), (..., k, m) -> (..., n, m); None if cublasLt cannot.

        The result is ``out`` or a new array of the operands' dtype. ``bias`` (..., m) is read with the epilogue BIAS,
        written with SUM_A. At precision bf16, the operands, or out together with the bias, may be bfloat16; at bf16x3, operands
        that are bfloat16 are pieces already, one after another along the contraction.
        """
        if x.dtype != w.dtype or x.dtype.name not in KINDS:
            return None
        kind = x.dtype if out is None else out.dtype
        if bias is not None and (bias.dtype != kind or bias.shape != (*_axes(x, w), w.shape[-1])):
            return None
        planned = self.planned(x, w, epilogue, out)
        if planned is None:
            return None
        if bias is not None and not self._is_aligned(bias):
            bias = None if planned.epilogue & Epilogue.SUM_A else bias.copy()
            if bias is None or not self._is_aligned(bias):
                return None
        if out is None:
            out = self.runtime.empty((*_axes(x, w), x.shape[-2], w.shape[-1]), kind)
        ready = self._how(planned, x, w, out, bias)
        if ready is None:
            return None
        self._execute(ready, x, w, out, bias)
        return out

    def _is_aligned(self, bias: Array) -> bool:
        """Whether each row is aligned: kernels may access a bias 16 bytes at a time, and cublasLt cannot be asked for others."""
        rows = bias.shape[-1] * bias.itemsize if bias.ndim > 1 else 0
        return bool(bias.flags.c_contiguous and (self.runtime.address(bias) | rows) % plans.ALIGNED == 0)

    def planned(self, x: Array, w: Array, epilogue: int = Epilogue.NONE, out: Array | None = None) -> Plan | None:
        """The plan for a product into ``out``, or into a new array."""
        if min(x.ndim, w.ndim) < 2 or x.shape[-1] != w.shape[-2]:
            return None
        precision = "float64" if x.dtype.name == "float64" else self.precision
        first, second = (plans.Array.of(a, self.runtime.address(a)) for a in (x, w))
        shape = (*_axes(x, w), x.shape[-2], w.shape[-1])
        strides = tuple(prod(shape[n + 1 :]) for n in range(len(shape)))
        third = plans.Array(shape, strides, first.dtype)
        if out is not None:
            third = plans.Array.of(out, self.runtime.address(out))
        return plans.plan(first, second, third, precision, epilogue)

    def _how(self, planned: Plan, *arrays: Array) -> _Ready | None:
        if planned in self._ready:
            return self._ready[planned]
        with self._lock:
            variants = {v.copied: (v, self.problem(v)) for v in plans.variants(planned)}
            copied, code = self.choices.find(planned) or ("", "")
            if code and copied in variants:
                variant, problem = variants[copied]
                algorithm = problem.checked(self.handle, bytes.fromhex(code))
                if algorithm is not None:
                    self._ready[planned] = _Ready(variant, problem, algorithm)
                    return self._ready[planned]
            candidates = [
                _Ready(variant, problem, algorithm)
                for variant, problem in variants.values()
                for algorithm in problem.candidates(self.handle)
            ]
            if self.runtime.capturing():  # nothing can be timed now
                return candidates[0] if candidates else None
            runs = [self._run(ready, *arrays) for ready in candidates]
            long = 2.0 * planned.batch * planned.m * planned.n * planned.k >= _LONG
            best, certain = fastest(runs, self.runtime.seconds_under_load if long else self.runtime.seconds)
            if best is None:
                if planned.epilogue == Epilogue.NONE:  # with one, a plain product and a pass take its place
                    size = f"({planned.n}, {planned.k}) x ({planned.k}, {planned.m})"
                    unable = "cublasLt cannot compute %s in %s: CuPy does, which no graph can contain"
                    _log.warning(unable, size, planned.precision)
                self._ready[planned] = None
                return None
            ready = candidates[best]
            if certain:
                self.choices.keep(planned, (ready.plan.copied, ready.algorithm.code.hex()))
            self._ready[planned] = ready
            return ready

    def _run(self, ready: _Ready, *arrays: Array) -> Callable[[], None]:
        return lambda: self._execute(ready, *arrays)

    def _execute(self, ready: _Ready, x: Array, w: Array, out: Array, bias: Array | None) -> None:
        how, address = ready.plan, self.runtime.address
        a = self._copied("a", w, how) if "a" in how.copied else w
        b = self._copied("b", x, how) if "b" in how.copied else x
        d = self._buffer(how.d, how.batch) if "d" in how.copied else out
        # allocated and freed in stream order: later work may reuse it
        workspace = self.runtime.empty((ready.algorithm.workspace,), "uint8") if ready.algorithm.workspace else None
        ready.problem.run(
            self.handle, ready.algorithm, address(a), address(b), address(d),
            0 if bias is None else address(bias), 0 if workspace is None else address(workspace), self.runtime.stream(),
        )  # fmt: skip
        if d is not out:
            out[...] = d[:, :, : how.m].reshape(out.shape)

    def _buffer(self, layout: Layout, batch: int) -> Array:
        count = batch if layout.stride else 1
        return self.runtime.empty((count, layout.cols, layout.ld), plans.STORED.get(layout.dtype, layout.dtype))

    def _copied(self, name: str, array: Array, how: Plan) -> Array:
        """A copy of operand "a" or "b" as planned. Columns of its layout are rows of the array, or columns if transposed."""
        layout, itself = (how.a, how.transpose_a) if name == "a" else (how.b, how.transpose_b)
        buffer = self._buffer(layout, how.batch)
        columns = _transposed(array) if itself else array
        if not layout.stride:
            columns = columns[(0,) * (array.ndim - 2)]
        columns = columns.reshape((len(buffer), *columns.shape[-2:]))
        if how.pieces > 1:
            beside = itself == (name == "a")  # one another, in each column: that is where the contraction is
            shape = (layout.cols, how.pieces, -1) if beside else (how.pieces, -1, layout.ld)
            pieces = buffer.reshape((len(buffer), *shape))
            self.split([*columns], [*(pieces.swapaxes(1, 2) if beside else pieces)], [int(name == "a")] * len(buffer))
        elif buffer.dtype == array.dtype:
            buffer[:, :, : layout.rows] = columns
        else:
            self.rounded(columns, buffer)
        return buffer


def _axes(x: Array, w: Array) -> tuple[int, ...]:
    """Leading axes of a product."""
    return np.broadcast_shapes(x.shape[:-2], w.shape[:-2])


def _transposed(a: Array) -> Array:
    return a.swapaxes(-1, -2)
