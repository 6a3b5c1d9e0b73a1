"""Dense layers on numba: matrix products by tiles or by NumPy's BLAS, of one network or of many."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np
from tinynet_backends import blas
from tinynet_backends.arena import PAGE, aligned
from tinynet_backends.backend import Array
from tinynet_backends.compiled import build, kernels, products, program
from tinynet_backends.compiled.tiles import ROWS
from tinynet_backends.numba_calls import GRAIN, NumbaCalls, dense

_FLOPS = 2**18  # multiplications of a product that are worth another thread
_FEW = 8  # rows or columns: up to so many, NumPy's BLAS is faster than tiles and panels
_CORES = blas.cores()  # not the threads that are allowed: how a product is divided changes what BLAS rounds
_SHORT = 2**19  # multiplications: below, it is for sums over rows, as a tile is soon done and then takes long to write


class _Packing(NamedTuple):
    """How an operand is laid out for tiles: by ``kernel``, in so many ``groups``, rows of vectors of ``lanes`` numbers."""

    kernel: Callable[[Any], Any]
    groups: int
    lanes: int
    vectors: int  # in a row
    panels: int  # that the vectors make


class NumbaDense(NumbaCalls):
    """`affine` and its gradients; a product that no kernel takes is left to NumPy."""

    def affine(self, x: Array, w: Array, b: Array | None = None) -> Array:
        if not _matrices(x, w) or x.shape[-1] != w.shape[-2] or not (b is None or _fits(b, w)):
            return super().affine(x, w, b)
        y = self.empty((*x.shape[:-1], w.shape[-1]), x.dtype)
        self._products(x, w, y, b)
        return y

    def affine_grad(
        self, dy: Array, x: Array, w: Array, bias: bool, need_dx: bool = True
    ) -> tuple[Array | None, Array, Array | None]:
        if not _matrices(dy, x, w) or not _conform(dy, x, w) or (dy.ndim == 3 and not dense(dy)):
            return super().affine_grad(dy, x, w, bias, need_dx)
        return self._gradients(self._products, dy, x, w, bias, need_dx)

    def _sum_rows(self, x: Array, out: Array) -> None:
        """``out[...] = x.sum(-2)``, of one network or of many."""
        (*many, n, o), parts = x.shape, self._parts(x.size)
        if len(many) == 1 and dense(x):
            words = *x.shape, x, out, out.strides[0]
            self._run(kernels.columns_of_each, x.dtype, min(parts, len(x)), *words, rows=len(x))
        elif not many and dense(x):
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
        (m, k), n, blas = a.shape[-2:], b.shape[-1], program.machine().blas
        vector = c.ndim == 2 and min(m, n) == 1 and m * n * k > _FLOPS // 4  # BLAS has a product for matrix and vector
        if vector and blas is not None:
            self._by_vector(blas.gemv[c.dtype], *((a, b, c) if n == 1 else (b.mT, a.mT, c.mT)), bias, int(n > 1))
        elif vector or not a.size or not b.size or (blas is None and not program.machine().tiles):
            self._do(np.matmul, a, b, c)
            if bias is not None:
                self._do(np.add, c, bias[..., None, :], c)
        elif c.ndim == 3 or not self._split_k(a, b, c, bias):
            self._algorithm(a, b)(a, b, c, bias, c.ndim == 3)

    def _split_k(self, a: Array, b: Array, c: Array, bias: Array | None) -> bool:
        """A product as the sum of those of blocks of its terms, if that pays: see `products.split_k_pays`."""
        (m, k), n, transposed = a.shape, b.shape[1], dense(a.mT)
        solid = (transposed or dense(a)) and dense(b) and dense(c)
        algorithm = self._algorithm(a, b)  # for blocks, too: with our own products, one core has the same bits without
        alone = algorithm == self._by_tiles and self._cores < 2
        if not solid or alone or not products.split_k_pays(m, n, k, transposed):
            return False
        count, depth = products.blocks(k)
        sums, whole = self.empty((count, m, n), c.dtype), k // depth
        first, rest = slice(whole * depth), slice(whole * depth, None)
        multiply = partial(algorithm, bias=None, networks=False)
        lie = a.mT[first, :] if transposed else a[:, first]
        terms = lie.reshape(whole, depth, m).mT if transposed else lie.reshape(m, whole, depth).swapaxes(0, 1)
        multiply(terms, b[first, :].reshape(whole, depth, n), sums[:whole, ...])
        if whole < count:
            multiply(a[:, rest], b[rest, :], sums[whole, ...])
        self._run(
            kernels.add_up, c.dtype, min(self._parts(sums.size), m), *sums.shape, sums, c, 0 if bias is None else bias
        )
        return True

    def _algorithm(self, a: Array, b: Array) -> Callable[..., None]:
        """What computes ``c[...] = a @ b + bias``, one product or several, ``networks``' or blocks of terms."""
        (m, k), n, blas = a.shape[-2:], b.shape[-1], program.machine().blas
        short = _layout(a)[0] == kernels.TRANSPOSED and m * n * k < _SHORT
        if blas is not None and (short or min(m, n) <= _FEW or not program.machine().tiles):
            return partial(self._by_blas, blas.gemm[b.dtype])
        return self._by_tiles

    def _by_tiles(self, a: Array, b: Array, c: Array, bias: Array | None, networks: bool) -> None:
        (m, k), n, size, count = a.shape[-2:], b.shape[-1], c.itemsize, len(c) if c.ndim == 3 else 1
        (layout, ldb), lanes, shape = _layout(b), products.lanes(size), products.panels(n, size)
        step_a, step_b, step_c, step_bias = _steps(count, a, b, c, bias)
        down, right, ldc = (stride // size for stride in (*a.strides[-2:], c.strides[-2]))
        strip, groups = ROWS * down, products.groups(k)
        if layout == kernels.TRANSPOSED:
            packing = _Packing(products.pack_transposed, shape[1], lanes, *shape)
            b, step_b, ldb = *self._packed("panels", packing, b, networks), 0
        elif products.pays(m, ldb * size):
            b, step_b, ldb = *self._packed("panels", _Packing(products.pack, groups, lanes, *shape), b, networks), 0
        if down == 1 and products.pays(n, right * size):
            strips = products.strips(m)
            packing = _Packing(products.pack_strips, groups, ROWS, strips, strips)
            a, step_a = self._packed("strips", packing, a.mT, networks)
            strip, right = ROWS * k, ROWS
        grid = products.grid(count, m, n, k, size, self._cores, networks)
        words = m, n, k, a, strip, down, right, b, ldb, c, ldc, 0 if bias is None else bias, *shape, *grid[1:]
        steps, rows = (step_a, step_b, step_c, step_bias), count if networks else 0
        self._run(products.product, c.dtype, prod(grid), count, *steps, *words, rows=rows)

    def _packed(self, name: str, packing: _Packing, b: Array, networks: bool) -> tuple[Array, int]:
        """An operand (..., k, n) in panels, and the distance of its matrices in bytes; ``name`` is that of its workspace."""
        (k, n), count = b.shape[-2:], len(b) if b.ndim == 3 else 1
        numbers = packing.vectors * packing.lanes * k
        out = self.empty((count, numbers), b.dtype) if networks else self._workspace(name, count * numbers, b.dtype)
        parts = min(self._parts(count * k * n), count * packing.groups)
        words = count, *_steps(count, b), k, n, b, _layout(b)[1], out, packing.vectors, packing.panels
        self._run(packing.kernel, b.dtype, parts, *words, rows=count if networks else 0)
        return out, numbers * b.itemsize

    def _workspace(self, name: str, size: int, dtype: Any) -> Array:
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
        if c.ndim == 3 and len(c) == 1:  # one part, which BLAS would divide among as many threads as it may use
            a, b, c, bias = (one if one is None else one[0, ...] for one in (a, b, c, bias))
        (m, k), n = a.shape[-2:], b.shape[-1]
        (ta, lda), (tb, ldb), (_, ldc) = _layout(a), _layout(b), _layout(c)
        words = gemm, ta, tb, m, n, k, a, lda, b, ldb, c, ldc, 0 if bias is None else bias
        parts = max(1, min(_CORES, c.size * k // _FLOPS))
        if c.ndim == 2:
            self._run(kernels.product, c.dtype, parts, *words)
            return
        steps, rows = _steps(len(c), a, b, c, bias), len(c) if networks else 0
        self._run(kernels.products, c.dtype, min(parts, len(c)), len(c), *steps, *words, rows=rows)


def _steps(count: int, *arrays: Array | None) -> list[int]:
    """Bytes from one of ``count`` matrices, or biases, to the next in each array; 0 if there is one."""
    return [0 if a is None or count == 1 else a.strides[0] for a in arrays]


def _matrices(*arrays: Array) -> bool:
    """Whether all are matrices that BLAS can take, of one network or of as many networks."""
    first = arrays[0]
    return (
        first.ndim in (2, 3)
        and build.supported(first.dtype)
        and all(a.ndim == first.ndim and a.shape[:-2] == first.shape[:-2] for a in arrays)
        and all(a.dtype == first.dtype and _layout(a)[0] for a in arrays)
    )


def _conform(dy: Array, x: Array, w: Array) -> bool:
    """Whether dy (..., n, o) and x (..., n, i) are those of w (..., i, o)."""
    return bool(dy.shape[-2:] == (x.shape[-2], w.shape[-1]) and x.shape[-1] == w.shape[-2])


def _fits(b: Array, w: Array) -> bool:
    """Whether b (..., o), each of its rows without gaps, goes with w (..., i, o)."""
    shape = *w.shape[:-2], w.shape[-1]
    return bool(b.dtype == w.dtype and b.shape == shape and b.strides[-1] == b.itemsize and b.flags.aligned)


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
