"""How the numba backend calls kernels: their parts, those for many networks, and the arrays that they can take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
from tinynet_backends.backend import Array
from tinynet_backends.capture import Call
from tinynet_backends.compiled import build, program
from tinynet_backends.compiled.program import Kernel
from tinynet_backends.numpy_backend import NumpyBackend
from tinynet_backends.replay import Compiled, Replay

GRAIN = 16384  # elements that are worth another thread


class NumbaCalls(NumpyBackend):
    """NumPy's arrays, a call of a kernel, and a step as a program of such calls."""

    def __init__(self) -> None:
        super().__init__("numba")
        self._cores = program.machine().cores

    def _lower(self, calls: Sequence[Call], replay: Replay) -> None:
        program.lower(calls, replay)

    def scan(self, step: Callable[..., Array]) -> Callable[[Sequence[Any], Array], None] | None:
        return step.here.scan() if isinstance(step, Compiled) else None

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
        steps = [a.strides[0] if hasattr(a, "strides") else 0 for a in args]
        each = Kernel(program.machine().each, min(parts, count), count)
        self._do(each, count, kernel, len(args), room, *steps, *args)

    def versions(self) -> str:
        machine = program.machine()
        kernels = f"OpenBLAS for {machine.blas.kernels}, " if machine.blas else ""
        if machine.tiles:
            kernels = "products of its own for AVX-512, "
        return f"NumPy {np.__version__}, numba {numba.__version__}, {kernels}{self._cores} threads"


def rows_of(a: Array) -> int:
    """The length of the first of several axes; 0 for an array with fewer than two."""
    return int(a.shape[0]) if a.ndim > 1 else 0


def dense(a: Array) -> bool:
    return bool(a.flags.c_contiguous and a.flags.aligned)


def ready(a: Array, dtype: Any) -> bool:
    """Whether a kernel can take ``a`` as an array of ``dtype``. One number may be a scalar of NumPy's, without an address."""
    return a.ndim > 0 and a.dtype == dtype and build.supported(a.dtype) and dense(a)


def alike(arrays: Sequence[Array]) -> bool:
    """Whether all are of one shape and dtype, and ready."""
    first = arrays[0]
    return all(a.shape == first.shape and ready(a, first.dtype) for a in arrays)


def with_vectors(x: Array, *vectors: Array) -> bool:
    """Whether a kernel can take x (n, i) with vectors (i,), or x (networks, n, i) with vectors (networks, i)."""
    fits = x.ndim in (2, 3) and ready(x, x.dtype)
    fits = fits and all(v.dtype == x.dtype and v.shape == (*x.shape[:-2], x.shape[-1]) for v in vectors)
    return fits and (networks(vectors) if x.ndim == 3 else all(map(dense, vectors)))


def networks(arrays: Sequence[Array]) -> bool:
    """Whether all are of one shape (networks, p) and dtype, each network's numbers without gaps."""
    first = arrays[0]
    return build.supported(first.dtype) and all(
        a.ndim == 2
        and a.size
        and a.shape == first.shape
        and a.dtype == first.dtype
        and a.strides[1] == a.itemsize
        and a.strides[0] >= a.itemsize * a.shape[1]
        and a.flags.aligned
        for a in arrays
    )
