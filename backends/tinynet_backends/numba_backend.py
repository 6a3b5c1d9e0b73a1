"""NumPy's arrays with compiled kernels: one pass where NumPy takes several, on all cores, and a step as one program."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from tinynet_backends.backend import Array, Formula
from tinynet_backends.capture import StandIn, real
from tinynet_backends.errors import BackendUnavailable
from tinynet_backends.numpy_backend import apart
from tinynet_backends.replay import offset_of, whole_of
from tinynet_backends.tracing import traced

try:
    from numba.core import config
    from tinynet_backends.compiled import build, kernels
    from tinynet_backends.compiled.program import Kernel
    from tinynet_backends.numba_calls import GRAIN, alike, dense, networks, ready, rows_of, with_vectors
    from tinynet_backends.numba_dense import NumbaDense
    from tinynet_backends.numba_numbers import NumbaNumbers
except ImportError as e:
    raise BackendUnavailable(f"backend 'numba' cannot be imported ({e}): install the extra fast") from e


class NumbaBackend(NumbaDense, NumbaNumbers):
    """NumPy's operations as compiled kernels; dtypes, layouts and operations without one are left to `NumpyBackend`."""

    # Elementwise ---------------------------------------------------------------------------------------------------

    def elementwise(self, formula: Formula, *arrays: Array) -> Array:
        trace = traced(formula, len(arrays))
        if trace is None or not alike(arrays):
            return super().elementwise(formula, *arrays)
        self._give(*arrays)
        out = self.empty(arrays[0].shape, arrays[0].dtype)
        kernel = Kernel(build.formula(trace, out.dtype, "map"), self._parts(out.size), rows_of(out))
        self._do(kernel, out.size, *arrays, out)
        return out

    def elementwise_loss(self, formula: Formula, y: Array, target: Array, scale: Array) -> tuple[Array, Array]:
        trace = traced(formula, 2)
        usual = y.ndim > 1 and scale.shape == y.shape[:-1] and alike((y, target)) and ready(scale, y.dtype)
        if trace is None or not usual:
            return super().elementwise_loss(formula, y, target, scale)
        n, o = scale.size, y.shape[-1]
        slope, cost, loss = (self.empty(shape, y.dtype) for shape in (y.shape, scale.shape, scale.shape[:-1]))
        kernel = Kernel(build.formula(trace, y.dtype, "loss"), self._parts(n * o), len(y))
        self._do(kernel, n, o, y, target, scale, cost, slope)
        self._run(kernels.total, y.dtype, 1, loss.size, cost.shape[-1], cost, loss, rows=loss.size)
        return loss, slope

    def update(self, formula: Formula, arrays: Sequence[Array], inputs: Sequence[Array], *scalars: float) -> None:
        values = [*arrays, *inputs]
        trace = traced(formula, len(values), len(scalars))
        floats = all(isinstance(real(s), float) for s in scalars)  # a kernel takes them as words, and 1 is not 1.0
        usual = (alike(values) or networks(values)) and apart(values, len(arrays))
        usual = usual and all(a.flags.writeable for a in arrays)  # else NumPy's error
        if trace is None or not usual or not floats or len(trace.outputs) != len(arrays):
            super().update(formula, arrays, inputs, *scalars)
            return
        self._writes()
        size, address = arrays[0].size, build.formula(trace, arrays[0].dtype, "update")
        if not alike(values):  # views into the vectors of many networks
            self._run_each(address, self._parts(size, GRAIN // 4), arrays[0].shape[1], *values, *scalars)
            return
        starts = self._layers(inputs) if arrays[0].ndim == 1 else [0]
        for start, stop in zip(starts, [*starts[1:], len(arrays[0])], strict=True):
            pieces = [a[start:stop, ...] for a in values] if len(starts) > 1 else values
            kernel = Kernel(address, self._parts(pieces[0].size, GRAIN // 4), rows_of(arrays[0]))
            self._do(kernel, pieces[0].size, *pieces, *scalars)

    def _layers(self, vectors: Sequence[Array]) -> list[int]:
        """Where the gradients of large layers begin in these vectors: a core then updates what it made the gradient of."""
        starts, gradients = {0}, self._running.arena.gradients if self._running.arena else []
        for vector in map(real, vectors):
            own = [g for g in gradients if g.size >= GRAIN and whole_of(g) is whole_of(vector)]
            starts |= {offset_of(g, vector) // g.itemsize for g in own}
        return sorted(starts)

    def clip_norm(self, g: Array, max_norm: float) -> Array:
        if not g.size or not ready(g, g.dtype) or not g.flags.writeable or g.ndim > 2:
            return super().clip_norm(g, max_norm)
        norm, parts = self.empty(g.shape[:-1], g.dtype), self._parts(g.size)
        sums = self.empty((*norm.shape, -(-g.shape[-1] // kernels.SQUARES)), np.dtype(np.float64))
        many = g.ndim == 2
        self._run_each_if(many, kernels.squares, g.dtype, parts, g.shape[-1], g, sums)
        self._run_each_if(many, kernels.norm, g.dtype, parts if many else 1, sums.shape[-1], sums, norm)
        self._run_each_if(many, kernels.clip, g.dtype, parts, g.shape[-1], g, norm, float(max_norm))
        return norm

    # Rows ----------------------------------------------------------------------------------------------------------

    def softmax(self, x: Array) -> Array:
        if not x.size or not ready(x, x.dtype):
            return super().softmax(x)
        y, k = self.empty(x.shape, x.dtype), x.shape[-1]
        self._run(kernels.softmax, x.dtype, self._parts(x.size, GRAIN // 8), x.size // k, k, x, y, rows=rows_of(x))
        return y

    def softmax_grad(self, dy: Array, y: Array) -> Array:
        if not y.size or not alike((dy, y)):
            return super().softmax_grad(dy, y)
        dx, k = self.empty(y.shape, y.dtype), y.shape[-1]
        self._run(kernels.softmax_grad, y.dtype, self._parts(y.size), y.size // k, k, dy, y, dx, rows=rows_of(y))
        return dx

    def standardize(self, x: Array, mean: Array, scale: Array) -> Array:
        if not with_vectors(x, mean, scale):
            return super().standardize(x, mean, scale)
        y, words = self.empty(x.shape, x.dtype), (*x.shape[-2:], x, mean, scale)
        self._run_each_if(x.ndim == 3, kernels.standardize, x.dtype, self._parts(x.size), *words, y)
        return y

    def normalize(
        self, x: Array, gamma: Array, beta: Array, axis: int, eps: float
    ) -> tuple[Array, Array, Array, Array, Array]:
        if not with_vectors(x, gamma, beta) or not x.size or axis not in (-1, -2):
            return super().normalize(x, gamma, beta, axis, eps)
        *lead, n, i = x.shape
        y, normed = self.empty(x.shape, x.dtype), self.empty(x.shape, x.dtype)
        rstd, mean, var = (self.empty((*lead, n, 1) if axis == -1 else (*lead, 1, i), x.dtype) for _ in range(3))
        maker = kernels.normalize_rows if axis == -1 else kernels.normalize_columns
        words = n, i, x, gamma, beta, float(eps), y, normed, rstd, mean, var
        self._run_each_if(x.ndim == 3, maker, x.dtype, self._parts(x.size), *words)
        return y, normed, rstd, mean, var

    def normalize_grad(
        self, dy: Array, normed: Array, rstd: Array, gamma: Array, axis: int
    ) -> tuple[Array, Array, Array]:
        usual = with_vectors(dy, gamma) and dy.size and axis in (-1, -2)
        usual = usual and alike((dy, normed)) and ready(rstd, dy.dtype)
        *lead, n, i = dy.shape
        if not usual or rstd.shape != ((*lead, n, 1) if axis == -1 else (*lead, 1, i)):
            return super().normalize_grad(dy, normed, rstd, gamma, axis)
        parts = self._parts(dy.size)
        dx, dgamma, dbeta = self.empty(dy.shape, dy.dtype), *(self._gradient((*lead, i), dy.dtype) for _ in range(2))
        run = partial(self._run_each_if, dy.ndim == 3)
        run(kernels.scale_grad, dy.dtype, parts, n, i, dy, normed, dgamma, dbeta)
        if axis == -1:
            run(kernels.normalize_rows_grad, dy.dtype, parts, n, i, dy, normed, rstd, gamma, dx)
        else:
            run(kernels.normalize_columns_grad, dy.dtype, parts, n, i, dy, normed, rstd, gamma, dgamma, dbeta, dx)
        return dx, dgamma, dbeta

    # Losses --------------------------------------------------------------------------------------------------------

    def softmax_cross_entropy(
        self, z: Array, target: Array, scale: Array, smoothing: float = 0.0, class_weight: Array | None = None
    ) -> tuple[Array, Array]:
        labels = target.shape == z.shape[:-1] and target.dtype == np.int64 and dense(target)
        usual = labels or (target.shape == z.shape and ready(target, z.dtype))
        weighed = class_weight is None or (class_weight.shape == z.shape[-1:] and ready(class_weight, z.dtype))
        fits = scale.shape == z.shape[:-1] and ready(scale, z.dtype) and ready(z, z.dtype) and z.size
        if not usual or not weighed or not fits:
            return super().softmax_cross_entropy(z, target, scale, smoothing, class_weight)
        n, k = scale.size, z.shape[-1]
        loss, cost, dz = (self.empty(shape, z.dtype) for shape in (scale.shape[:-1], scale.shape, z.shape))
        parts = self._parts(n * k, GRAIN // 8)
        if labels and smoothing == 0.0 and class_weight is None:
            self._run(kernels.cross_entropy, z.dtype, parts, n, k, z, target, scale, cost, dz, rows=len(z))
        else:
            asked = (target, 0) if labels else (0, target)
            mix = *asked, scale, float(smoothing), 0 if class_weight is None else class_weight
            self._run(kernels.cross_entropy_of_mix, z.dtype, parts, n, k, z, *mix, cost, dz, rows=len(z))
        self._run(kernels.total, z.dtype, 1, loss.size, cost.shape[-1], cost, loss, rows=loss.size)
        return loss, dz

    def total_weight(
        self, weight: Array | None, label: Array | None = None, class_weight: Array | None = None
    ) -> Array:
        like: Any = class_weight if weight is None else weight
        of: Any = label if weight is None else weight
        usual = all(a is None or ready(a, like.dtype) for a in (weight, class_weight)) and of.size
        of_classes: tuple[Any, ...] = 0, 0, 0
        if label is not None and class_weight is not None:
            usual = usual and label.dtype == np.int64 and dense(label) and label.shape == of.shape
            of_classes = label, class_weight.size, class_weight
        if not usual:
            return super().total_weight(weight, label, class_weight)
        total = self.empty(of.shape[:-1], like.dtype)
        words = total.size, of.shape[-1], 0 if weight is None else weight, *of_classes, total
        self._run(kernels.total_weight, like.dtype, 1, *words, rows=total.size)
        return total

    def share_weight(self, weight: Array | None, total: Array, like: Array, parts: int = 1) -> Array:
        lead, dtype = like.shape[:-1], like.dtype
        array = isinstance(total, (np.ndarray, StandIn)) and total.dtype in (dtype, np.float64) and dense(total)
        usual = array and total.shape == lead[:-1] and build.supported(dtype)
        if not usual or not (weight is None or (weight.shape == lead and ready(weight, dtype))):
            return super().share_weight(weight, total, like, parts)
        share = self.empty(lead, dtype)
        given = 0 if weight is None else weight
        words = total.size, lead[-1], given, total, int(total.dtype == np.float64), parts, share
        self._run(kernels.share_weight, dtype, 1, *words, rows=total.size)
        return share


def make(device: str | None) -> NumbaBackend:
    if device is not None:
        raise ValueError(f"backend 'numba' has no devices, not {device!r}: write 'numba'")
    if getattr(config, "DISABLE_JIT", 0):
        raise BackendUnavailable("backend 'numba' must compile, and NUMBA_DISABLE_JIT is set: unset that variable")
    return NumbaBackend()
