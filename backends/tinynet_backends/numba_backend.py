"""NumPy's arrays with compiled kernels: one pass where NumPy takes several, on all cores, and a step as one program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache, partial
from math import prod
from typing import Any

import numpy as np
from tinynet_backends import exact, permutation, philox
from tinynet_backends.arena import PAGE, aligned
from tinynet_backends.backend import Array, Formula
from tinynet_backends.capture import Call, StandIn, real
from tinynet_backends.errors import BackendUnavailable
from tinynet_backends.numpy_backend import NumpyBackend
from tinynet_backends.replay import Compiled, Replay, offset_of, whole_of
from tinynet_backends.rowwise import traced as traced_rows
from tinynet_backends.tracing import traced

try:
    import numba
    from tinynet_backends.compiled import build, kernels, products, program
    from tinynet_backends.compiled.program import Kernel
    from tinynet_backends.compiled.tiles import ROWS
except ImportError as e:
    raise BackendUnavailable(f"backend 'numba' cannot be imported ({e}): install the extra fast") from e

GRAIN = 16384  # elements that are worth another thread
TILE = 2048  # random words that are made and used at a time
_FLOPS = 2**18  # multiplications of a product that are worth another thread
_FEW = 8  # rows or columns: up to so many, NumPy's BLAS is faster than tiles and panels
_SMALL = 2**19  # bytes that NumPy gathers faster than a kernel is called, or gathers from: they lie in a core's cache


class NumbaBackend(NumpyBackend):
    """NumPy's operations as compiled kernels; dtypes, layouts and operations without one are left to `NumpyBackend`."""

    def __init__(self) -> None:
        super().__init__("numba")
        self._cores = program.cores()

    def _lower(self, calls: Sequence[Call], replay: Replay) -> None:
        program.lower(calls, replay)

    def scan(self, step: Callable[..., Array]) -> Callable[[Sequence[Any], Array], None] | None:
        return step.here.scan() if isinstance(step, Compiled) else None

    def asarray(self, x: Any, dtype: str | None = None) -> Array:
        if not isinstance(x, StandIn) or x.dtype != np.int64 or dtype not in ("float32", "float64") or not _dense(x):
            return super().asarray(x, dtype)
        out = self.empty(x.shape, np.dtype(dtype))  # in a step, whose program a call of NumPy's would divide
        self._run(kernels.from_integers, out.dtype, self._parts(x.size), x.size, x, out, rows=_rows_of(x))
        return out

    def reads(self, x: Array) -> bool:
        return isinstance(x, np.ndarray) and _dense(x) and not x.dtype.hasobject

    def _parts(self, work: int, grain: int = GRAIN) -> int:
        return max(1, min(self._cores, work // grain))

    def _run(self, maker: Any, dtype: Any, parts: int, *args: Any, rows: int = 0) -> None:
        self._do(Kernel(build.written(maker, dtype), parts, rows), *args)

    def _run_each_if(self, many: bool, maker: Any, dtype: Any, parts: int, *args: Any) -> None:
        """A kernel for each network where there are many, else for the one."""
        if many:
            self._run_each(build.written(maker, dtype), parts, *args)
        else:
            self._run(maker, dtype, parts, *args)

    def _run_each(self, kernel: int, parts: int, *args: Any) -> None:
        """A kernel for each network: the arrays among its arguments have an axis of networks first."""
        count = next(len(a) for a in args if hasattr(a, "strides"))
        room = self.empty((count, len(args)), np.dtype(np.int64))
        made, words = program.of_each(kernel, min(parts, count), count, args, room)
        self._do(made, *words)

    # Dense layers --------------------------------------------------------------------------------------------------

    def affine(self, x: Array, w: Array, b: Array | None = None) -> Array:
        if _stacks(x, w) and x.shape[2] == w.shape[1] and (b is None or _rows_ready(b, w)):
            y = self.empty((*x.shape[:2], w.shape[2]), x.dtype)
            self._products(x, w, y, b)
            return y
        usual = _matrices(x, w) and x.shape[1] == w.shape[0]
        if not usual or (b is not None and (b.shape != w.shape[1:] or not _ready(b, x.dtype))):
            return super().affine(x, w, b)
        y = self.empty((x.shape[0], w.shape[1]), x.dtype)
        self._products(x, w, y, b)
        return y

    def affine_grad(
        self, dy: Array, x: Array, w: Array, bias: bool, need_dx: bool = True
    ) -> tuple[Array | None, Array, Array | None]:
        many = dy.ndim == 3
        taken = _stacks(dy, x, w) and _dense(dy) if many else _matrices(dy, x, w)
        if not taken or not _conform(dy, x, w):
            return super().affine_grad(dy, x, w, bias, need_dx)
        dx = db = None
        if need_dx:
            dx = self.empty(x.shape, x.dtype)
            self._products(dy, w.mT, dx)
        dw = self._gradient(w.shape, w.dtype)
        self._products(x.mT, dy, dw)
        if bias:
            db = self._gradient((*dy.shape[:-2], dy.shape[-1]), dy.dtype)
            self._sum_rows(dy, db)
        return dx, dw, db

    def _sum_rows(self, x: Array, out: Array) -> None:
        """``out[...] = x.sum(-2)``, of one network or of many."""
        (*many, n, o), parts = x.shape, self._parts(x.size)
        if len(many) == 1 and _dense(x):
            words = *x.shape, x, out, out.strides[0]
            self._run(kernels.columns_of_each, x.dtype, min(parts, len(x)), *words, rows=len(x))
        elif not many and _dense(x):
            count, depth = products.blocks(n)
            if x.size >= 2 * GRAIN and count > 1:  # a core adds up the rows that it wrote; sizes alone decide
                sums, whole = self.empty((count, o), x.dtype), n // depth
                self._sum_rows(x[: whole * depth, :].reshape(whole, depth, o), sums[:whole, :])
                if whole < count:
                    self._sum_rows(x[whole * depth :, :], sums[whole, :])
                x, n, parts = sums, count, 1
            self._run(kernels.column_sums, x.dtype, min(parts, max(1, o // 16)), n, o, x, out)
        else:
            self._do(np.add.reduce, x, -2, None, out)

    def _products(self, a: Array, b: Array, c: Array, bias: Array | None = None) -> None:
        """``c[...] = a @ b + bias``, one product or one for each of many networks."""
        (m, k), n, blas = a.shape[-2:], b.shape[-1], program.library()
        vector = c.ndim == 2 and min(m, n) == 1 and m * n * k > _FLOPS // 4  # BLAS has a product for matrix and vector
        if vector and blas is not None:
            self._by_vector(blas.gemv[c.dtype], *((a, b, c) if n == 1 else (b.mT, a.mT, c.mT)), bias, int(n > 1))
        elif vector or not a.size or not b.size or (blas is None and not program.tiles()):
            self._do(np.matmul, a, b, c)
            if bias is not None:
                self._do(np.add, c, bias[..., None, :], c)
        elif c.ndim == 3 or not self._apart(a, b, c, bias):
            self._by_library_or_tiles(a, b, c, bias, networks=c.ndim == 3)

    def _apart(self, a: Array, b: Array, c: Array, bias: Array | None) -> bool:
        """A product whose terms are added up in blocks apart, if that pays: see `products.apart`."""
        (m, k), n, turned = a.shape, b.shape[1], _dense(a.mT)
        dense = (turned or _dense(a)) and _dense(b) and _dense(c)
        alike = not _by_library(c)  # with our own products, one core has the same bits without
        if not dense or (alike and self._cores < 2) or not products.apart(m, n, k, turned):
            return False
        count, depth = products.blocks(k)
        sums, whole = self.empty((count, m, n), c.dtype), k // depth
        first, rest = slice(whole * depth), slice(whole * depth, None)
        multiply = partial(self._by_library_or_tiles, bias=None, networks=False)
        lie = a.mT[first, :] if turned else a[:, first]
        terms = lie.reshape(whole, depth, m).mT if turned else lie.reshape(m, whole, depth).swapaxes(0, 1)
        multiply(terms, b[first, :].reshape(whole, depth, n), sums[:whole, ...])
        if whole < count:
            multiply(a[:, rest], b[rest, :], sums[whole, ...])
        self._run(
            kernels.add_up, c.dtype, min(self._parts(sums.size), m), *sums.shape, sums, c, 0 if bias is None else bias
        )
        return True

    def _by_library_or_tiles(self, a: Array, b: Array, c: Array, bias: Array | None, networks: bool) -> None:
        """``c[...] = a @ b + bias``, one product or several, ``networks``' or blocks of terms."""
        blas = program.library()
        if blas is not None and _by_library(c):
            self._by_blas(blas.gemm[c.dtype], a, b, c, bias, networks)
        else:
            self._by_tiles(a, b, c, bias, networks)

    def _by_tiles(self, a: Array, b: Array, c: Array, bias: Array | None, networks: bool) -> None:
        (m, k), n, size, count = a.shape[-2:], b.shape[-1], c.itemsize, len(c) if c.ndim == 3 else 1
        rows = len(c) if networks else 0
        (layout, ldb), shape = _layout(b), products.panels(n, size)
        apart = [array.strides[0] if array is not None and count > 1 else 0 for array in (a, b, c, bias)]
        grid, lanes = products.grid(count, m, n, k, size, self._cores, networks), products.lanes(size)
        down, right, ldc = (stride // size for stride in (*a.strides[-2:], c.strides[-2]))
        strip = ROWS * down
        pack = partial(self._packed, count, k, networks)
        if layout == kernels.TRANSPOSED or products.pays(m, ldb * size):
            maker = products.pack_turned if layout == kernels.TRANSPOSED else products.pack
            b, apart[1], ldb = *pack(maker, b, apart[1], n, ldb, lanes, shape), 0
        if down == 1 and products.pays(n, right * size):
            strips = products.strips(m)
            a, apart[0] = pack(products.pack_strips, a, apart[0], m, right, ROWS, (strips, strips))
            strip, right = ROWS * k, ROWS
        words = count, *apart, m, n, k, a, strip, down, right, b, ldb, c, ldc, 0 if bias is None else bias
        self._run(products.product, c.dtype, prod(grid), *words, *shape, *grid[1:], rows=rows)

    def _packed(
        self, count: int, k: int, networks: bool, maker: Callable[[Any], Any], b: Array, apart: int, n: int, ldb: int,
        lanes: int, shape: tuple[int, int],
    ) -> tuple[Array, int]:  # fmt: skip
        """What ``maker``, a kernel that packs, makes of an operand, and how many bytes apart those of its matrices are."""
        room, rows = shape[0] * lanes * k, count if networks else 0
        name = "strips" if maker is products.pack_strips else "panels"
        out = self.empty((count, room), b.dtype) if networks else self._room(name, count * room, b.dtype)
        groups = shape[1] if maker is products.pack_turned else products.groups(k)
        parts = min(self._parts(count * k * n), count * groups)
        self._run(maker, b.dtype, parts, count, apart, k, n, b, ldb, out, *shape, rows=rows)
        return out, room * b.itemsize

    def _room(self, name: str, size: int, dtype: Any) -> Array:
        """Memory of this thread's own for an operand, which is free again after the product that asked for it."""
        kept = self._running.scratch.setdefault((name, dtype), [])
        if not kept or kept[0].size < size:
            kept[:] = [aligned((max(size, PAGE),), dtype)]  # so large that it starts at a cache line
        return kept[0]

    def _by_vector(self, gemv: int, a: Array, x: Array, y: Array, bias: Array | None, step: int) -> None:
        """``y[...] = a @ x + bias``, x (k, 1) and y (m, 1); ``bias`` has a number for all or, with ``step`` 1, for each of y.

        Sizes alone decide the parts, since they change how sums are made. There are at least two: BLAS then has one thread, and
        how many it has would change that too. Parts of columns are wide, or their pieces of each row would be short.
        """
        (m, k), (kind, lda), (_, incx), (_, incy) = a.shape, _layout(a), _layout(x), _layout(y)
        stored, least = ((m, k), 32) if kind == kernels.AS_STORED else ((k, m), 256)
        words = gemv, kind, *stored, a, lda, x, incx, y, incy, 0 if bias is None else bias, step
        parts = max(2, min(m // least, m * k // (_FLOPS // 2)))
        self._run(kernels.product_with_vector, y.dtype, parts, *words)

    def _by_blas(self, gemm: int, a: Array, b: Array, c: Array, bias: Array | None, networks: bool) -> None:
        (m, k), n = a.shape[-2:], b.shape[-1]
        (ta, lda), (tb, ldb), (_, ldc) = _layout(a), _layout(b), _layout(c)
        words = gemm, ta, tb, m, n, k, a, lda, b, ldb, c, ldc, 0 if bias is None else bias
        if c.ndim == 2:
            self._run(kernels.product, c.dtype, self._parts(m * n * k, _FLOPS), *words)
            return
        apart = [0 if array is None else array.strides[0] for array in (a, b, c, bias)]
        parts = min(self._parts(c.size * k, _FLOPS), len(c))
        self._run(kernels.products, c.dtype, parts, len(c), *apart, *words, rows=len(c) if networks else 0)

    # Elementwise ---------------------------------------------------------------------------------------------------

    def elementwise(self, formula: Formula, *arrays: Array) -> Array:
        trace = traced(formula, len(arrays))
        if trace is None or not _alike(arrays):
            return super().elementwise(formula, *arrays)
        out = self.empty(arrays[0].shape, arrays[0].dtype)
        kernel = Kernel(build.formula(trace, out.dtype, "map"), self._parts(out.size), _rows_of(out))
        self._do(kernel, out.size, *arrays, out)
        return out

    def elementwise_loss(self, formula: Formula, y: Array, target: Array, scale: Array) -> tuple[Array, Array]:
        trace = traced(formula, 2)
        usual = y.ndim > 1 and scale.shape == y.shape[:-1] and _alike((y, target)) and _ready(scale, y.dtype)
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
        usual = _alike(values) or _networks(values)
        if trace is None or not usual or not floats or len(trace.outputs) != len(arrays):
            super().update(formula, arrays, inputs, *scalars)
            return
        self._writes()
        size, address = arrays[0].size, build.formula(trace, arrays[0].dtype, "update")
        if not _alike(values):  # views into the vectors of many networks
            self._run_each(address, self._parts(size, GRAIN // 4), arrays[0].shape[1], *values, *scalars)
            return
        starts = self._layers(inputs) if arrays[0].ndim == 1 else [0]
        for start, stop in zip(starts, [*starts[1:], len(arrays[0])], strict=True):
            pieces = [a[start:stop, ...] for a in values] if len(starts) > 1 else values
            kernel = Kernel(address, self._parts(pieces[0].size, GRAIN // 4), _rows_of(arrays[0]))
            self._do(kernel, pieces[0].size, *pieces, *scalars)

    def _layers(self, vectors: Sequence[Array]) -> list[int]:
        """Where the gradients of large layers begin in these vectors: a core then updates what it made the gradient of."""
        starts, gradients = {0}, self._running.arena.gradients if self._running.arena else []
        for vector in map(real, vectors):
            own = [g for g in gradients if g.size >= GRAIN and whole_of(g) is whole_of(vector)]
            starts |= {offset_of(g, vector) // g.itemsize for g in own}
        return sorted(starts)

    def clip_norm(self, g: Array, max_norm: float) -> Array:
        if not g.size or not _ready(g, g.dtype) or g.ndim > 2:
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
        if not x.size or not _ready(x, x.dtype):
            return super().softmax(x)
        y, k = self.empty(x.shape, x.dtype), x.shape[-1]
        self._run(kernels.softmax, x.dtype, self._parts(x.size, GRAIN // 8), x.size // k, k, x, y, rows=_rows_of(x))
        return y

    def softmax_grad(self, dy: Array, y: Array) -> Array:
        if not y.size or not _alike((dy, y)):
            return super().softmax_grad(dy, y)
        dx, k = self.empty(y.shape, y.dtype), y.shape[-1]
        self._run(kernels.softmax_grad, y.dtype, self._parts(y.size), y.size // k, k, dy, y, dx, rows=_rows_of(y))
        return dx

    def standardize(self, x: Array, mean: Array, scale: Array) -> Array:
        many = x.ndim == 3 and mean.shape == scale.shape == (len(x), x.shape[2]) and _networks((mean, scale), x.dtype)
        single = x.ndim == 2 and all(a.shape == x.shape[1:] and _ready(a, x.dtype) for a in (mean, scale))
        if not (many or single) or not _ready(x, x.dtype):
            return super().standardize(x, mean, scale)
        y, parts = self.empty(x.shape, x.dtype), self._parts(x.size)
        words = *x.shape[-2:], x, mean, scale, y
        self._run_each_if(many, kernels.standardize, x.dtype, parts, *words)
        return y

    def normalize(
        self, x: Array, gamma: Array, beta: Array, axis: int, eps: float
    ) -> tuple[Array, Array, Array, Array, Array]:
        single = x.ndim == 2 and all(a.shape == x.shape[1:] and _ready(a, x.dtype) for a in (gamma, beta))
        many = x.ndim == 3 and gamma.shape == (len(x), x.shape[2]) and _networks((gamma, beta), x.dtype)
        if not (single or many) or not x.size or axis not in (-1, -2) or not _ready(x, x.dtype):
            return super().normalize(x, gamma, beta, axis, eps)
        *lead, n, i = x.shape
        y, normed = self.empty(x.shape, x.dtype), self.empty(x.shape, x.dtype)
        rstd, mean, var = (self.empty((*lead, n, 1) if axis == -1 else (*lead, 1, i), x.dtype) for _ in range(3))
        maker = kernels.normalize_rows if axis == -1 else kernels.normalize_columns
        words = n, i, x, gamma, beta, float(eps), y, normed, rstd, mean, var
        self._run_each_if(many, maker, x.dtype, self._parts(x.size), *words)
        return y, normed, rstd, mean, var

    def normalize_grad(
        self, dy: Array, normed: Array, rstd: Array, gamma: Array, axis: int
    ) -> tuple[Array, Array, Array]:
        single = dy.ndim == 2 and gamma.shape == dy.shape[1:] and _ready(gamma, dy.dtype)
        many = dy.ndim == 3 and gamma.shape == (len(dy), dy.shape[2]) and _networks((gamma,), dy.dtype)
        usual = (single or many) and dy.size and axis in (-1, -2) and _alike((dy, normed)) and _ready(rstd, dy.dtype)
        *lead, n, i = dy.shape
        if not usual or rstd.shape != ((*lead, n, 1) if axis == -1 else (*lead, 1, i)):
            return super().normalize_grad(dy, normed, rstd, gamma, axis)
        parts = self._parts(dy.size)
        dx, dgamma, dbeta = self.empty(dy.shape, dy.dtype), *(self._gradient((*lead, i), dy.dtype) for _ in range(2))
        run = partial(self._run_each_if, many)
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
        labels = target.shape == z.shape[:-1] and target.dtype == np.int64 and _dense(target)
        usual = labels or (target.shape == z.shape and _ready(target, z.dtype))
        weighed = class_weight is None or (class_weight.shape == z.shape[-1:] and _ready(class_weight, z.dtype))
        fits = scale.shape == z.shape[:-1] and _ready(scale, z.dtype) and _ready(z, z.dtype) and z.size
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
        ready = all(a is None or _ready(a, like.dtype) for a in (weight, class_weight)) and of.size
        of_classes: tuple[Any, ...] = 0, 0, 0
        if label is not None and class_weight is not None:
            ready = ready and label.dtype == np.int64 and _dense(label) and label.shape == of.shape
            of_classes = label, class_weight.size, class_weight
        if not ready:
            return super().total_weight(weight, label, class_weight)
        total = self.empty(of.shape[:-1], like.dtype)
        words = total.size, of.shape[-1], 0 if weight is None else weight, *of_classes, total
        self._run(kernels.total_weight, like.dtype, 1, *words, rows=total.size)
        return total

    def share_weight(self, weight: Array | None, total: Array, like: Array, parts: int = 1) -> Array:
        lead, dtype = like.shape[:-1], like.dtype
        array = isinstance(total, (np.ndarray, StandIn)) and total.dtype in (dtype, _F8) and _dense(total)
        usual = array and total.shape == lead[:-1] and build.supported(dtype)
        if not usual or not (weight is None or (weight.shape == lead and _ready(weight, dtype))):
            return super().share_weight(weight, total, like, parts)
        share = self.empty(lead, dtype)
        words = total.size, lead[-1], 0 if weight is None else weight, total, int(total.dtype == _F8), parts, share
        self._run(kernels.share_weight, dtype, 1, *words, rows=total.size)
        return share

    # Numbers by counter --------------------------------------------------------------------------------------------

    def words(self, key: tuple[int, int], counter: tuple[int, int, int], start: int, n: int) -> Array:
        out = self.empty((n,), _U8)
        place, skip = philox.block_of(counter, start)
        self._run(kernels.words, _F8, self._parts(n, GRAIN // 4), n, *key, *place, skip, out)
        return out

    def words_at(self, key: tuple[int, int], counter: tuple[int, int, int], index: Array, width: int) -> Array:
        out = self.empty((index.size, width), _U8)
        index = np.ascontiguousarray(index, np.int64)
        parts = self._parts(out.size, GRAIN // 4)
        self._run(kernels.words_at, _F8, parts, index.size, *key, *counter, width, index, out)
        return out

    def normal(self, words: Array) -> Array:
        (rows, columns, stride), words = _rows(words)
        out = self.empty(words.shape, _F8)
        parts = min(self._parts(out.size), max(rows, 1))
        self._run(
            kernels.normal, _F8, parts, rows, columns, words, stride, exact.normal_lines(self.xp, words.device), out
        )
        return out

    def halves(self, words: Array) -> Array:
        (rows, columns, stride), words = _rows(words)
        out = self.empty((*words.shape[:-1], 2 * words.shape[-1]), _F8)
        self._run(kernels.halves, _F8, self._parts(out.size), rows, columns, words, stride, out)
        return out

    def dropout(
        self, x: Array, rate: float, key: tuple[int, int], counter: tuple[int, int, int]
    ) -> tuple[Array, Array]:
        if not _ready(x, x.dtype):
            return super().dropout(x, rate, key, counter)
        y, keep = self.empty(x.shape, x.dtype), self.empty(x.shape, np.dtype(np.bool_))
        pair = np.array(key, _U8)
        self._run(kernels.dropout, x.dtype, self._parts(x.size), x.size, x, float(rate), pair, *counter, y, keep)
        return y, keep

    def dropouts(
        self, x: Array, rate: float, keys: Sequence[tuple[int, int]], counter: tuple[int, int, int]
    ) -> tuple[Array, Array]:
        if not x.size or not _ready(x, x.dtype):
            return super().dropouts(x, rate, keys, counter)
        y, keep = self.empty(x.shape, x.dtype), self.empty(x.shape, np.dtype(np.bool_))
        words = x.size // len(x), x, float(rate), np.array(keys, _U8), *counter, y, keep
        self._run_each(build.written(kernels.dropout, x.dtype), self._parts(x.size), *words)
        return y, keep

    def dropout_grad(self, dy: Array, keep: Array, rate: float) -> Array:
        if not _ready(dy, dy.dtype) or not _dense(keep) or keep.dtype != np.bool_ or keep.shape != dy.shape:
            return super().dropout_grad(dy, keep, rate)
        dx = self.empty(dy.shape, dy.dtype)
        words = dy.size, dy, keep, float(rate), dx
        self._run(kernels.dropout_grad, dy.dtype, self._parts(dy.size), *words, rows=_rows_of(dy))
        return dx

    def permute(self, index: Any, n: int, keys: tuple[int, ...]) -> Array:
        n = permutation.check_inside(np, index, n)
        a, b = permutation.sides(n)
        used = np.asarray(permutation.used_keys(keys, n), np.uint64)
        listed, start = _listed(index)
        out, parts = self.empty((len(index),), np.dtype(np.int64)), self._parts(len(index), GRAIN // 8)
        tiles = self.empty((parts, kernels.TILE), _U8)
        self._run(kernels.permute, _F8, parts, out.size, listed, out, n, a, b, used.size, used, tiles, start)
        return out

    def permutes(self, index: Any, n: int, keys: Sequence[tuple[int, ...]]) -> Array:
        n = permutation.check_inside(np, index, n)
        a, b = permutation.sides(n)
        used = np.array([permutation.used_keys(each, n) for each in keys], np.uint64)
        shape, (listed, start) = (len(keys), len(index)), _listed(index)
        listed = np.broadcast_to(listed, shape) if isinstance(listed, np.ndarray) else listed
        out, tiles = self.empty(shape, np.dtype(np.int64)), self.empty((len(keys), kernels.TILE), _U8)
        parts = self._parts(out.size, GRAIN // 8)
        words = shape[1], listed, out, n, a, b, used.shape[1], used, tiles, start
        self._run_each(build.written(kernels.permute, _F8), parts, *words)
        return out

    def gather(self, arrays: Sequence[Array], index: Array, inside: bool = False) -> list[Array]:
        plain = isinstance(index, (np.ndarray, StandIn)) and index.dtype == np.int64 and index.ndim < 3 and index.size
        usual = plain and all(x.size and len(x) == len(arrays[0]) and self.reads(x) for x in arrays)
        sizes = [x.nbytes // len(x) for x in arrays] if usual else []
        recorded = self._running.tape is not None  # then no Python looks at what the kernel says of indices
        large = usual and min(len(arrays[0]), index.size) * sum(sizes) >= _SMALL
        if not usual or not (inside and _dense(index) if recorded else large):
            return super().gather(arrays, index, inside)
        out = [self.empty((*index.shape, *x.shape[1:]), x.dtype) for x in arrays]
        parts = self._parts(index.size * sum(1 + size // 64 for size in sizes), GRAIN // 8)
        each = [word for words in zip(sizes, arrays, out, strict=True) for word in words]
        listed = index if recorded else np.ascontiguousarray(index)
        largest: Any = 0 if recorded else self.empty((parts,), _U8)
        words = index.size, len(arrays[0]), listed, largest, len(arrays), *each
        self._run(kernels.gather, _F8, parts, *words, rows=_rows_of(index))
        if recorded or largest.max() < len(arrays[0]):
            return out
        return super().gather(arrays, index)  # negative ones count from the end

    def samples(
        self, formula: Formula, key: tuple[int, int], counter: tuple[int, int, int], index: Any, width: int,
        tables: Sequence[Array], dtype: str, out: Sequence[Array] | None = None,
    ) -> tuple[Array, Array]:  # fmt: skip
        kind = np.dtype(dtype)
        found = _rows_kernel(formula, width, tuple(t.shape for t in tables), kind)
        if found is None or not all(_ready(t, _F8) for t in tables):
            return super().samples(formula, key, counter, index, width, tables, dtype)
        (address, normal, scratch, each), k, o, work = found
        n, stream = len(index), self._stream(key, counter, index, width)
        x = self.empty((n, k or 0), kind)
        y = self.empty((n,), np.dtype(np.int64)) if o is None else self.empty((n, o), kind)
        kernel = Kernel(address, max(1, min(self._parts(n * work, GRAIN // 4), n)))
        tile = max(1, min(TILE // max(width, 1), n))
        before = kernels.ROOM + (tile * width + kernels.SPARE) * (2 if normal else 1)
        room = self.empty((kernel.parts, before + scratch + tile * each), _F8)
        self._do(kernel, n, tile, x, y, room, room.shape[1], before, *self._exact[1], *stream, *tables)
        return x, y

    @cached_property
    def _exact(self) -> tuple[list[Array], list[int]]:
        """What formulas of samples read normal numbers, sines, cosines and angles from, and the addresses."""
        exacts = exact.normal_lines(np, "cpu"), *exact._circle(np, "cpu"), exact._arctangents(np, "cpu")
        return [*exacts], [a.ctypes.data for a in exacts]

    def _stream(self, key: tuple[int, int], counter: tuple[int, int, int], index: Any, width: int) -> tuple[Any, ...]:
        """What `kernels.drawn` is told."""
        if isinstance(index, range):
            place, skip = philox.block_of(counter, width * index.start)
            return build.written(kernels.words, _F8), width, 0, *key, *place, skip
        numbers = np.ascontiguousarray(self.asarray(index), np.int64)
        return build.written(kernels.words_at, _F8), width, numbers, *key, *counter, 0, 0

    def versions(self) -> str:
        blas = program.library()
        kernels = f"OpenBLAS for {blas.kernels}, " if blas else ""
        if program.tiles():
            kernels = "products of its own for AVX-512, "
        return f"NumPy {np.__version__}, numba {numba.__version__}, {kernels}{self._cores} threads"


@lru_cache(maxsize=64)
def _rows_kernel(
    formula: Formula, width: int, shapes: tuple[tuple[int, ...], ...], dtype: Any
) -> tuple[tuple[int, bool, int, int], int | None, int | None, int] | None:
    """What `build.rows` says, the widths of features and target and the work of a sample; None for an untraceable formula.

    Kept by the formula: a trace is a long key, and after a step all that Python does it does with cold caches.
    """
    trace = traced_rows(formula, width, shapes)
    if trace is None:
        return None
    k, o = (trace.instructions[ref.number].width for ref in (trace.features, trace.target))
    return build.rows(trace, dtype), k, o, max(width, len(trace.instructions))


_F8, _U8 = np.dtype(np.float64), np.dtype(np.uint64)


def _listed(index: Any) -> tuple[Any, int]:
    """Numbers as a kernel takes them: an array of them, or 0 and the first of a range."""
    return (0, index.start) if isinstance(index, range) else (np.ascontiguousarray(index, np.int64), 0)


def _networks(arrays: Sequence[Array], dtype: Any = None) -> bool:
    """Whether all are of one shape (networks, p) and dtype, each network's numbers without gaps."""
    first = arrays[0]
    return build.supported(first.dtype if dtype is None else dtype) and all(
        a.ndim == 2
        and a.size
        and a.shape == first.shape
        and a.dtype == (dtype or first.dtype)
        and a.strides[1] == a.itemsize
        and a.strides[0] >= a.itemsize * a.shape[1]
        and a.flags.aligned
        for a in arrays
    )


def _rows_of(a: Array) -> int:
    """Entries of the first axis of an array that has more than one."""
    return int(a.shape[0]) if a.ndim > 1 else 0


def _dense(a: Array) -> bool:
    return bool(a.flags.c_contiguous and a.flags.aligned)


def _ready(a: Array, dtype: Any) -> bool:
    """Whether a kernel can take ``a`` as an array of ``dtype``."""
    return a.dtype == dtype and build.supported(a.dtype) and _dense(a)


def _alike(arrays: Sequence[Array]) -> bool:
    """Whether all are of one shape and dtype, and ready."""
    first = arrays[0]
    return all(a.shape == first.shape and _ready(a, first.dtype) for a in arrays)


def _matrices(*arrays: Array) -> bool:
    """Whether BLAS can take all of them."""
    first = arrays[0].dtype
    return build.supported(first) and all(a.ndim == 2 and a.dtype == first and _layout(a)[0] for a in arrays)


def _by_library(c: Array) -> bool:
    """Whether a product ``c`` is one of NumPy's BLAS, rather than of our own."""
    return program.library() is not None and (min(c.shape[-2:]) <= _FEW or not program.tiles())


def _stacks(*arrays: Array) -> bool:
    """Whether all are matrices of as many networks that BLAS can take."""
    first = arrays[0]
    return (
        first.ndim == 3
        and build.supported(first.dtype)
        and all(a.ndim == 3 and len(a) == len(first) and a.dtype == first.dtype and _layout(a)[0] for a in arrays)
    )


def _conform(dy: Array, x: Array, w: Array) -> bool:
    """Whether dy (..., n, o) and x (..., n, i) are those of w (..., i, o)."""
    return bool(dy.shape[-2:] == (x.shape[-2], w.shape[-1]) and x.shape[-1] == w.shape[-2])


def _rows_ready(b: Array, w: Array) -> bool:
    """Whether b (n, o) goes with the matrices w (n, i, o), each of its rows without gaps."""
    return bool(
        b.dtype == w.dtype and b.shape == (len(w), w.shape[2]) and b.strides[1] == b.itemsize and b.flags.aligned
    )


def _layout(a: Array) -> tuple[int, int]:
    """How matrices lie for BLAS, and the distance of their rows or columns in elements; 0 if it cannot take them."""
    size, (rows, columns), (down, right) = a.itemsize, a.shape[-2:], a.strides[-2:]
    # the step along an axis of one is never taken, and is whatever NumPy left there: 0, if the array was broadcast
    if columns == 1:
        right = size
    if rows == 1:
        down = size * columns if right == size else size
    if right == size and down % size == 0 and down >= size * columns and a.flags.aligned:
        return kernels.AS_STORED, max(down // size, columns, 1)
    if down == size and right % size == 0 and right >= size * rows and a.flags.aligned:
        return kernels.TRANSPOSED, max(right // size, rows, 1)
    return 0, 0


def _rows(words: Array) -> tuple[tuple[int, int, int], Array]:
    """`philox.rows_of` of words of any shape, copied if need be."""
    rows = philox.rows_of(words)
    return ((words.size, 1, 1), np.ascontiguousarray(words)) if rows is None else (rows, words)


def make(device: str | None) -> NumbaBackend:
    if device is not None:
        raise ValueError(f"backend 'numba' has no devices, not {device!r}: write 'numba'")
    return NumbaBackend()
