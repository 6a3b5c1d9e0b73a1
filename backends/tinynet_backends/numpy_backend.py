"""NumPy on the CPU: the portable operations, with memory that stays and blocks that fit the cache."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from tinynet_backends import exact
from tinynet_backends.arena import Arena
from tinynet_backends.backend import Array, Backend, F, Formula

_SIGN = np.uint64(2**63)
BLOCK = 16384  # elements: a handful of float32 temporaries of this length fit a 1 MiB second-level cache


class NumpyBackend(Backend):
    block = 4 * BLOCK  # random words at a time, which pass through fewer hands

    def __init__(self, name: str = "numpy") -> None:
        super().__init__(name, np)
        self._running = threading.local()
        _keep_pages()

    def owns(self, x: Any) -> bool:
        return isinstance(x, np.ndarray)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        arena: Arena | None = getattr(self._running, "arena", None)
        return np.empty(shape, dtype) if arena is None else arena.take(shape, dtype)

    def compile(self, step: F) -> F:
        """``step`` with an arena of its own: its n-th buffer is the n-th buffer of its last call.

        Floating-point warnings are off inside: what they would say, a loss that is not finite says.
        """
        arena = Arena(np.empty)
        running = self._running

        def compiled(*args: Any) -> Any:
            outer = getattr(running, "arena", None)
            running.arena = arena.rewind()
            try:
                with np.errstate(all="ignore"):
                    return step(*args)
            finally:
                running.arena = outer

        return compiled  # type: ignore[return-value]

    def affine(self, x: Array, w: Array, b: Array | None = None) -> Array:
        if x.ndim != 2 or w.ndim != 2:
            return super().affine(x, w, b)
        y = np.matmul(x, w, out=self.empty((x.shape[0], w.shape[1]), x.dtype))
        if b is not None:
            y += b
        return y

    def affine_grad(
        self, dy: Array, x: Array, w: Array, bias: bool, need_dx: bool = True
    ) -> tuple[Array | None, Array, Array | None]:
        if x.ndim != 2 or w.ndim != 2:
            return super().affine_grad(dy, x, w, bias, need_dx)
        dx = np.matmul(dy, w.T, out=self.empty(x.shape, x.dtype)) if need_dx else None
        dw = np.matmul(x.T, dy, out=self.empty(w.shape, w.dtype))
        return dx, dw, np.add.reduce(dy, 0) if bias else None

    def elementwise(self, formula: Formula, *arrays: Array) -> Array:
        x = arrays[0]
        size = x.size
        if size <= BLOCK or not all(a.flags.c_contiguous for a in arrays):
            return formula(np, *arrays)
        flat = [a.reshape(-1) for a in arrays]
        out = self.empty(x.shape, x.dtype)
        y = out.reshape(-1)
        for start in range(0, size, BLOCK):
            block = slice(start, start + BLOCK)
            y[block] = formula(np, *[a[block] for a in flat])
        return out

    def update(self, formula: Formula, arrays: Sequence[Array], inputs: Sequence[Array], *scalars: float) -> None:
        size = arrays[0].size
        start, new, interrupt = 0, None, None
        while start < size:
            block = slice(start, start + BLOCK)
            try:
                if new is None:
                    new = formula(np, *[a[block] for a in arrays], *[a[block] for a in inputs], *scalars)
                for a, value in zip(arrays, new, strict=True):
                    a[block] = value
                start, new = block.stop, None  # two stores, between which Python looks at no signal
            except KeyboardInterrupt as e:
                interrupt = e
        if interrupt is not None:
            raise interrupt

    def words(self, key: tuple[int, int], counter: tuple[int, int, int], start: int, n: int) -> Array:
        first, skip = divmod(start, 4)
        above, first = divmod(first, 2**64)
        place = first, (counter[0] + above) % 2**64, *counter[1:]
        bits = getattr(self._running, "philox", None)
        if bits is None:
            bits = self._running.philox = np.random.Philox(0)
            self._running.place = bits.state  # setting a state takes a tenth of the time that a new generator takes
        state = self._running.place
        state["state"]["counter"][:], state["state"]["key"][:] = (
            np.asarray(place, np.uint64),
            np.asarray(key, np.uint64),
        )
        bits.state = state
        return bits.random_raw(skip + n)[skip:]

    def normal(self, words: Array) -> Array:
        # The bits of a float64 are its octave and its place in the octave: one shift gives the table's cell.
        a, b = exact.normal_table(self.xp, words.device)
        flat = words.reshape(-1)  # of one column of many it is a view, read where it lies
        z = np.empty(flat.shape)
        size = min(BLOCK, flat.size)
        integers, cells, lines = np.empty(size, np.uint64), np.empty(size, np.int64), np.empty(size)
        one = 1023 * exact.CELLS  # the cell of g = 1, by its bits
        for start in range(0, flat.size, BLOCK):
            w, g = flat[start : start + BLOCK], z[start : start + BLOCK]
            k, cell, line = integers[: w.size], cells[: w.size], lines[: w.size]
            np.left_shift(w, 1, out=k)
            np.right_shift(k, 11, out=k)
            np.bitwise_or(k, 1, out=k)
            np.copyto(g, k.view(np.int64), casting="same_kind")
            np.right_shift(g.view(np.int64), 42, out=cell)
            np.subtract(cell, one, out=cell)
            np.take(b, cell, out=line, mode="clip")
            np.multiply(g, line, out=g)
            np.take(a, cell, out=line, mode="clip")
            np.add(g, line, out=g)
            np.bitwise_and(w, _SIGN, out=k)
            bits = g.view(np.uint64)
            np.bitwise_xor(bits, k, out=bits)
        return z.reshape(words.shape)

    def halves(self, words: Array) -> Array:
        w = np.ascontiguousarray(words).astype("<u8", copy=False).view("<u4")
        return np.multiply(w, 2.0**-32)

    def dropout(
        self, x: Array, rate: float, key: tuple[int, int], counter: tuple[int, int, int]
    ) -> tuple[Array, Array]:
        size = x.size
        u = exact.uniform32(np, self.words(key, counter, 0, (size + 1) // 2))
        keep = (u[:size] >= rate).reshape(x.shape)
        y = np.multiply(x, 1.0 / (1.0 - rate), out=self.empty(x.shape, x.dtype))
        y[~keep] = 0.0  # not a product with the mask: infinity times 0 is NaN
        return y, keep

    def versions(self) -> str:
        return f"NumPy {np.__version__}"


def _keep_pages() -> None:
    """Have the C library keep freed memory for the next temporary, where it is glibc.

    Blocks above a threshold come from the system, page by page, and go back to it; freeing one raises the threshold to
    its size, up to 32 MiB. The pages of this one are never touched.
    """
    np.empty(2**25 - 2**13, np.uint8)


def make(device: str | None) -> NumpyBackend:
    if device is not None:
        raise ValueError(f"backend 'numpy' has no devices, not {device!r}: write 'numpy'")
    return NumpyBackend()
