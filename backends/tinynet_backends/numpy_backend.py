"""NumPy on the CPU: the portable operations, with memory that stays and blocks that fit the cache."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from tinynet_backends import exact
from tinynet_backends.arena import Arena
from tinynet_backends.backend import Array, Backend, F, Formula
from tinynet_backends.passes import Passes, write_passes
from tinynet_backends.tracing import traced

_SIGN = np.uint64(2**63)
BLOCK = 32768  # elements: a handful of float32 temporaries of this length fit a 1 MiB second-level cache


class NumpyBackend(Backend):
    block = 2 * BLOCK  # random words at a time, which pass through fewer hands

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
        dw = np.matmul(x.T, dy, out=self._gradient(w.shape, w.dtype))
        db = np.add.reduce(dy, 0, out=self._gradient((dy.shape[1],), dy.dtype)) if bias else None
        return dx, dw, db

    def _gradient(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """A buffer for what `pack` will be asked to put in its place."""
        arena: Arena | None = getattr(self._running, "arena", None)
        return np.empty(shape, dtype) if arena is None else arena.take_gradient(shape, dtype)

    def elementwise(self, formula: Formula, *arrays: Array) -> Array:
        trace = traced(formula, len(arrays))
        if trace is None or not _alike(arrays):
            return formula(np, *arrays)
        out = self.empty(arrays[0].shape, arrays[0].dtype)
        self._in_blocks(write_passes(trace), [a.reshape(-1) for a in arrays], [out.reshape(-1)])
        return out

    def elementwise_loss(self, formula: Formula, y: Array, target: Array, scale: Array) -> tuple[Array, Array]:
        trace = traced(formula, 2)
        if trace is None or y.ndim != 2 or y.shape != target.shape or not _alike((y, target)):
            return super().elementwise_loss(formula, y, target, scale)
        value, slope = self.empty(y.shape, y.dtype), self.empty(y.shape, y.dtype)
        self._in_blocks(
            write_passes(trace), [y.reshape(-1), target.reshape(-1)], [value.reshape(-1), slope.reshape(-1)]
        )
        rows = scale[:, None]
        value *= rows
        slope *= rows
        return np.sum(value), slope

    def _in_blocks(self, passes: Passes, inputs: list[Array], outputs: list[Array]) -> None:
        size = outputs[0].size
        if size <= BLOCK:
            passes.run(inputs, outputs, *self._scratch(passes, size, outputs[0].dtype))
            return
        for start in range(0, size, BLOCK):
            block = slice(start, start + BLOCK)
            out = [a[block] for a in outputs]
            scratch = self._scratch(passes, out[0].size, out[0].dtype)
            passes.run([a[block] for a in inputs], out, *scratch)

    def _scratch(self, passes: Passes, size: int, dtype: Any, more: int = 0) -> tuple[list[Array], list[Array]]:
        """Blocks that passes write what is in between to, this thread's own, and as ``more`` for their results."""
        kept = self._running.__dict__.setdefault("scratch", {})
        arrays, masks = kept.setdefault(dtype, []), kept.setdefault("masks", [])
        while len(arrays) < passes.scratch + more:
            arrays.append(np.empty(BLOCK, dtype))
        while len(masks) < passes.masks:
            masks.append(np.empty(BLOCK, np.bool_))
        return [a[:size] for a in arrays[: passes.scratch + more]], [m[:size] for m in masks[: passes.masks]]

    def update(self, formula: Formula, arrays: Sequence[Array], inputs: Sequence[Array], *scalars: float) -> None:
        trace = traced(formula, len(arrays) + len(inputs), len(scalars))
        values = [*arrays, *inputs]
        results: list[Array] = []
        scratch: list[Array] = []
        masks: list[Array] = []
        run = None
        if trace is not None and _alike(values):
            passes = write_passes(trace)
            blocks, masks = self._scratch(passes, min(BLOCK, arrays[0].size), arrays[0].dtype, len(arrays))
            results, scratch, run = blocks[: len(arrays)], blocks[len(arrays) :], passes.run
        size = arrays[0].size
        start, new, interrupt = 0, None, None
        while start < size:
            block = slice(start, start + BLOCK)
            try:
                if new is None:
                    parts = values if size <= BLOCK else [a[block] for a in values]
                    if run is None:
                        new = formula(np, *parts, *scalars)
                    else:
                        if size - start < BLOCK < size:
                            results, scratch, masks = (
                                [a[: size - start] for a in b] for b in (results, scratch, masks)
                            )
                        run([*parts, *scalars], results, scratch, masks)
                        new = results
                for a, value in zip(arrays, new, strict=True):
                    a[block] = value
                start, new = block.stop, None  # two stores, between which Python looks at no signal
            except KeyboardInterrupt as e:
                interrupt = e
        if interrupt is not None:
            raise interrupt

    def pack(self, parts: Sequence[Array], out: Array) -> Array:
        """As it is specified; and what came from this step's arena is from the next step on written in its place."""
        arena: Arena | None = getattr(self._running, "arena", None)
        kept = {} if arena is None else arena.packed
        key = id(out), *[part.shape for part in parts]
        if key not in kept:
            starts = accumulate((part.size for part in parts), initial=0)
            kept[key] = (
                out,
                [out[n : n + part.size].reshape(part.shape) for n, part in zip(starts, parts, strict=False)],
            )
        moves = [(part, place) for part, place in zip(parts, kept[key][1], strict=True) if part is not place]
        copies = [part.copy() if np.may_share_memory(part, out) else part for part, _ in moves]
        for copy, (part, place) in zip(copies, moves, strict=True):
            place[...] = copy
            # where gradients come in another order than last time, two may not end up in one place
            if arena is not None and not any(np.may_share_memory(place, other) for other in arena.gradients):
                arena.move(part, place)
        return out

    def softmax_cross_entropy(
        self, z: Array, target: Array, scale: Array, smoothing: float = 0.0, class_weight: Array | None = None
    ) -> tuple[Array, Array]:
        n, k = z.shape
        plain = target.ndim == 1 and n > 0 and smoothing == 0.0 and class_weight is None
        if not plain or np.min(target) < 0 or np.max(target) >= k:
            return super().softmax_cross_entropy(z, target, scale, smoothing, class_weight)
        dz = np.subtract(z, np.max(z, axis=1, keepdims=True), out=self.empty(z.shape, z.dtype))
        labels = np.arange(0, n * k, k)
        labels += target
        chosen = np.take(dz, labels)
        np.exp(dz, out=dz)
        total = np.add.reduce(dz, 1)
        loss = np.log(total)
        loss -= chosen
        loss *= scale
        np.divide(scale, total, out=total)
        dz *= total[:, None]
        dz.reshape(-1)[labels] -= scale
        return np.add.reduce(loss), dz

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


def _alike(arrays: Sequence[Array]) -> bool:
    """Whether all are of one shape and floating dtype and lie in C order."""
    first = arrays[0]
    return first.dtype.kind == "f" and all(
        a.shape == first.shape and a.dtype == first.dtype and a.flags.c_contiguous for a in arrays
    )


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
