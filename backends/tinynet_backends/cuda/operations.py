"""Portable operations as kernel launches: how the work is divided, and the arguments.

A launch is a call of ``self._launch``, so the same code runs on a CUDA device and, in the tests, on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from tinynet_backends import exact, permutation, philox
from tinynet_backends.backend import Array, Backend, Formula
from tinynet_backends.cuda import emit
from tinynet_backends.cuda import samples as rows
from tinynet_backends.cuda.source import REAL, Source, load
from tinynet_backends.philox import Counter, Key
from tinynet_backends.rowtext import tables as tables_of
from tinynet_backends.rowwise import traced as traced_rows
from tinynet_backends.tracing import traced

THREADS = 256  # in every block, as in kernels/device.cuh
_BLOCKS = 4096  # in a grid, at most; kernels have grid-stride loops
_PARTS = 1024  # partial sums of a vector, at most
_CHUNK = 8192  # elements of each, at least
_ROWS, _DEEP = 64, 128  # rows of a chunk of columns, at least, and chunks, at most
_TOGETHER = 64  # parts that one launch packs, as in kernels/pack.cu
_TILE = 32  # columns per block, as in kernels/norms.cu
_HELD = 8  # packs of a row that a thread holds, at most, as in kernels/rows.cu
_AHEAD = 4  # rows that a thread with one pack of each reads together, as in kernels/rows.cu
_ENOUGH = 256  # blocks that fill a device
_WIDE = 64  # threads that share a row in the backward pass, at most
_ACROSS = 8  # sums that a block computes side by side, as in kernels/reduce.cu
_SUMS = 16  # sums per launch, as in kernels/reduce.cu
_LINES = 4  # rows of which a thread rounds one line each, as in kernels/round.cu
_ROUNDED = 32  # arrays that one launch rounds, as in kernels/round.cu


def _struct(count: int, addresses: Sequence[str], sizes: Sequence[str]) -> np.dtype[np.void]:
    """The dtype of a kernel's struct of arrays with ``count`` elements each."""
    kinds = dict.fromkeys(addresses, np.uint64) | dict.fromkeys(sizes, np.int64)
    return np.dtype([(name, kind, (count,)) for name, kind in kinds.items()])


_PARTS_ARGUMENT = _struct(_TOGETHER, ["from"], ["size"])
_SUMS_ARGUMENT = _struct(_SUMS, ["parts", "g"], ["p", "stride", "chunks"])
_ARRAYS_ARGUMENT = _struct(_ROUNDED, ["from", "to"], ["n", "k", "high", "wide", "pieces"])
_MATRICES_ARGUMENT = _struct(
    _ROUNDED, ["from", "to"], ["n", "k", "down", "right", "high", "wide", "stride", "pitch", "lo", "pieces"]
)
_KEYS = np.dtype([("of", np.uint32, (permutation.KEYS,))])
_F8, _U8, _I8 = np.dtype(np.float64), np.dtype(np.uint64), np.dtype(np.int64)


class Sum(NamedTuple):
    """A pending sum: ``g`` (p,) is the sum of the first p numbers of each row of ``parts``."""

    parts: Array
    g: Array


class CudaOperations(Backend):
    """Dtypes, layouts and operations without a kernel are left to the portable operations."""

    def _launch(self, source: Source, kernel: str, blocks: int, row: int, *args: Any, shared: int = 0) -> None:
        """Run ``kernel`` of ``source``.

        Each of ``blocks`` blocks has `THREADS` threads, ``row`` of them per threadIdx.y, and ``shared`` bytes of dynamic shared
        memory. Arguments are arrays, None for no array, and NumPy scalars (one structured) of the kernel's types.
        """
        raise NotImplementedError

    def _address(self, a: Array) -> int:
        """The address of ``a`` for kernels."""
        raise NotImplementedError

    def gradient(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Memory for a gradient that `pack` will be called with."""
        return self.empty(shape, dtype)

    # Elementwise ---------------------------------------------------------------------------------------------------

    def elementwise(self, formula: Formula, *arrays: Array) -> Array:
        trace = traced(formula, len(arrays))
        if trace is None or len(trace.outputs) != 1 or not _alike(arrays):
            return super().elementwise(formula, *arrays)
        first = arrays[0]
        out = self.empty(first.shape, first.dtype)
        if first.size:
            self._launch(emit.kernel(trace, first.dtype, "map"), "formula", *_over(first), *arrays, out)
        return out

    def update(self, formula: Formula, arrays: Sequence[Array], inputs: Sequence[Array], *scalars: float) -> None:
        """A scalar may also be a () float64 array, which is read when the kernel runs."""
        values = [*arrays, *inputs]
        trace = traced(formula, len(values), len(scalars))
        starts = [self._address(a) for a in values]
        apart = not any(0 < abs(p - q) < arrays[0].nbytes for p in starts[: len(arrays)] for q in starts)
        if trace is None or not _alike(values) or not apart or len(trace.outputs) != len(arrays):
            self.changing(arrays)
            super().update(formula, arrays, inputs, *scalars)
        elif values[0].size:
            numbers = [x for scalar in scalars for x in _number(scalar, np.float64)]
            copies = {n: copy for n, a in enumerate(arrays) if (copy := self.copy_of(a)) is not None}
            source = emit.kernel(trace, values[0].dtype, "update", (*copies,))
            self._launch(source, "formula", *_over(values[0]), *values, *numbers, *copies.values())

    def copy_of(self, a: Array) -> Array | None:
        """Where a kernel that updates ``a`` also writes it in bfloat16, if it does."""
        return None

    def changing(self, arrays: Sequence[Array]) -> None:
        """``arrays`` are about to be updated without such a kernel."""

    def rounded(self, x: Array, out: Array) -> None:
        """float32 as bfloat16, ties to even, in 16-bit words, padded with 0.

        ``x`` (..., n, k) has any strides, ``out`` (..., high, wide) is in C order.
        """
        if x.ndim > 2:
            for a, b in zip(x, out, strict=True):
                self.rounded(a, b)
            return
        sizes = (np.int64(n) for n in (*x.shape, *(s // 4 for s in x.strides), *out.shape))
        self._launch(load("round", x.dtype), "round_rows", *_threads(_lines(*out.shape)), *sizes, x, out)

    def rounded_together(self, pairs: Sequence[tuple[Array, Array]]) -> None:
        """`rounded` of pairs of vectors or matrices in C order, up to 32 per launch."""
        for first in range(0, len(pairs), _ROUNDED):
            argument = np.zeros((), _ARRAYS_ARGUMENT)
            for n, (x, y) in enumerate(pairs[first : first + _ROUNDED]):
                argument["from"][n], argument["to"][n] = self._address(x), self._address(y)
                argument["n"][n], argument["k"][n] = (1, *x.shape)[-2:]
                argument["high"][n], argument["wide"][n] = (1, *y.shape)[-2:]
                argument["pieces"][n] = -(-_lines(*(1, *y.shape)[-2:]) // THREADS)
            pieces, source = argument["pieces"].sum(), load("round", pairs[0][0].dtype)
            self._launch(source, "round_arrays", min(int(pieces), _BLOCKS), THREADS, pieces, argument)

    def split(self, arrays: Sequence[Array], out: Sequence[Array], lo: Sequence[int]) -> None:
        """float32 matrices as sums of two of bfloat16, hi + lo, in 16-bit words.

        Each of ``arrays`` (n, k) has any strides, and becomes three matrices in ``out`` (3, high, wide), with rows in C order
        and padded with 0: (lo, hi, hi) where ``lo`` is 0, (hi, lo, hi) where it is 1. What is not finite is only in the last.
        """
        for first in range(0, len(arrays), _ROUNDED):
            argument, batch = np.zeros((), _MATRICES_ARGUMENT), slice(first, first + _ROUNDED)
            for n, (x, y, place) in enumerate(zip(arrays[batch], out[batch], lo[batch], strict=True)):
                argument["from"][n], argument["to"][n], argument["lo"][n] = self._address(x), self._address(y), place
                argument["n"][n], argument["k"][n] = x.shape
                argument["down"][n], argument["right"][n] = (s // x.itemsize for s in x.strides)
                argument["high"][n], argument["wide"][n] = y.shape[1:]
                argument["stride"][n], argument["pitch"][n] = (s // y.itemsize for s in y.strides[:2])
                argument["pieces"][n] = -(-_lines(*y.shape[1:]) // THREADS)
            pieces, source = argument["pieces"].sum(), load("round", arrays[0].dtype)
            self._launch(source, "split_arrays", min(int(pieces), _BLOCKS), THREADS, pieces, argument)

    def unpadded(self, x: Array, b: Array | None, relu: bool, y: Array) -> None:
        """``y = x[:, :k] + b``, or without b; with ``relu``, not below 0.

        ``x`` (n, wide), ``b`` (k,) and ``y`` (n, k) are in C order.
        """
        if not y.size:
            return
        sizes = (np.int64(number) for number in (*y.shape, x.shape[1], relu))
        self._launch(load("round", y.dtype), "unpad", *_over(y)[:2], *sizes, x, b, y)

    def back(self, k: int, dy: Array, y: Array | None, dz: Array | None, db: Array | None) -> Sum | None:
        """The gradient of a product (n, k): ``dz = where(y > 0, dy, 0)``, or dy without y, and ``db`` (k,), its sum by column.

        All are of one dtype, or dz is bfloat16, or all but db are. They may have more columns than k, which in dz become 0.
        dz may be dy; dz or db may be None. A result other than None is the sum still pending for db.
        """
        kind = "back" if dz is None or dz.dtype == dy.dtype else "back_to_half"
        if dy.dtype == np.uint16:
            kind = "back_in_half"
        n, wide, real = len(dy), k if dz is None else dz.shape[1], np.dtype(np.float32) if kind != "back" else dy.dtype
        lanes = 16 // (real.itemsize if kind == "back" else 2)
        row = min(1 << (-(-wide // lanes) - 1).bit_length(), _WIDE)
        tiles = -(-wide // (row * lanes))
        # a thread has as many rows as it loads together; what has few columns, and so many parts, is spread over more blocks
        size, chunks = _chunks(n, 16 // lanes * THREADS // row, max(1, min(_PARTS // 2, _PARTS // tiles)))
        pitches = (0 if a is None else a.strides[0] // a.itemsize for a in (dy, y, dz))
        sizes = (np.int64(number) for number in (n, k, wide, size, chunks, *pitches))
        parts = self.empty((chunks, k), real) if db is not None and chunks > 1 else None
        self._launch(load("relu", real), kind, min(chunks * tiles, _BLOCKS), row, *sizes, dy, y, dz, parts, db)
        return None if parts is None or db is None else Sum(parts, db)

    def add_up(self, sums: Sequence[Sum]) -> None:
        """Compute sums, several per launch: parts are added in float64, in an order that follows from their number."""
        for first in range(0, len(sums), _SUMS):
            argument, batch = np.zeros((), _SUMS_ARGUMENT), sums[first : first + _SUMS]
            for n, (parts, g) in enumerate(batch):
                argument["parts"][n], argument["g"][n] = self._address(parts), self._address(g)
                argument["p"][n], (argument["chunks"][n], argument["stride"][n]) = g.size, parts.shape
            pieces = sum(-(-g.size // _ACROSS) for _, g in batch)
            source = load("reduce", batch[0].g.dtype)
            self._launch(source, "add_up", min(pieces, _BLOCKS), _ACROSS, np.int64(pieces), argument)

    def pack(self, parts: Sequence[Array], out: Array) -> Array:
        fits = out.ndim == 1 and _ready(out, out.dtype) and all(part.dtype == out.dtype for part in parts)
        fits = fits and sum(part.size for part in parts) <= out.size
        if not fits or any(self.xp.may_share_memory(part, out) for part in parts):
            return super().pack(parts, out)
        stop, dense = 0, [self._dense(part, out.dtype) for part in parts if part.size]
        for first in range(0, len(dense), _TOGETHER):
            batch, argument = dense[first : first + _TOGETHER], np.zeros((), _PARTS_ARGUMENT)
            argument["from"][: len(batch)] = [self._address(part) for part in batch]
            argument["size"][: len(batch)] = [part.size for part in batch]
            start, stop = stop, stop + int(argument["size"].sum())
            blocks = _over(max(batch, key=lambda part: part.size))[:2]
            self._launch(load("pack", out.dtype), "pack", *blocks, np.int64(len(batch)), argument, out[start:stop])
        return out

    def clip_norm(self, g: Array, max_norm: float) -> Array:
        if not _ready(g, g.dtype) or g.ndim != 1 or not g.size:
            return super().clip_norm(g, max_norm)
        source, (size, chunks) = load("reduce", g.dtype), _chunks(g.size, _CHUNK, _PARTS)
        norm, parts = self.empty((), g.dtype), self.empty((chunks,), _F8)
        self._launch(source, "squares", chunks, THREADS, np.int64(g.size), np.int64(size), np.int64(chunks), g, parts)
        self._launch(source, "clip", *_over(g), np.int64(chunks), parts, np.float64(max_norm), g, norm)
        return norm

    # Rows ----------------------------------------------------------------------------------------------------------

    def softmax(self, x: Array) -> Array:
        if not x.size or not _ready(x, x.dtype):
            return super().softmax(x)
        y, k = self.empty(x.shape, x.dtype), x.shape[-1]
        self._launch(load("rows", x.dtype), "softmax", *_rows(x.size // k, k, _holders(k, x.itemsize)), x, y)
        return y

    def softmax_grad(self, dy: Array, y: Array) -> Array:
        if not y.size or not _alike((dy, y)):
            return super().softmax_grad(dy, y)
        dx, k = self.empty(y.shape, y.dtype), y.shape[-1]
        self._launch(load("rows", y.dtype), "softmax_grad", *_rows(y.size // k, k, _holders(k, y.itemsize)), dy, y, dx)
        return dx

    def standardize(self, x: Array, mean: Array, scale: Array) -> Array:
        if not _with_vectors(x, mean, scale):
            return super().standardize(x, mean, scale)
        y = self.empty(x.shape, x.dtype)
        self._launch(load("norms", x.dtype), "standardize", *_rows(*x.shape), x, mean, scale, y)
        return y

    def normalize(
        self, x: Array, gamma: Array, beta: Array, axis: int, eps: float
    ) -> tuple[Array, Array, Array, Array, Array]:
        if not _with_vectors(x, gamma, beta) or axis not in (-1, -2):
            return super().normalize(x, gamma, beta, axis, eps)
        source, (n, i) = load("norms", x.dtype), x.shape
        y, normed = self.empty(x.shape, x.dtype), self.empty(x.shape, x.dtype)
        rstd, mean, var = (self.empty((n, 1) if axis == -1 else (1, i), x.dtype) for _ in range(3))
        inputs, results = (x, gamma, beta, np.float64(eps)), (y, normed, rstd, mean, var)
        if axis == -1:
            self._launch(source, "normalize_rows", *_rows(n, i), *inputs, *results)
            return results
        columns, parts = self._columns(n, i)
        self._launch(source, "column_moments", *columns, x, *parts)
        self._launch(source, "normalize_columns", *columns, *inputs, *parts, *results)
        return results

    def normalize_grad(
        self, dy: Array, normed: Array, rstd: Array, gamma: Array, axis: int
    ) -> tuple[Array, Array, Array]:
        fits = _with_vectors(dy, gamma) and _alike((dy, normed)) and _ready(rstd, dy.dtype) and axis in (-1, -2)
        if not fits or rstd.shape != ((len(dy), 1) if axis == -1 else (1, *gamma.shape)):
            return super().normalize_grad(dy, normed, rstd, gamma, axis)
        source, (n, i) = load("norms", dy.dtype), dy.shape
        dx, dgamma, dbeta = (self.empty(shape, dy.dtype) for shape in (dy.shape, (i,), (i,)))
        columns, parts = self._columns(n, i)
        self._launch(source, "column_products", *columns, dy, normed, *parts)
        if axis == -1:
            self._launch(source, "normalize_rows_grad", *_rows(n, i), dy, normed, rstd, gamma, dx)
            chunks = np.int64(parts[0].shape[0])
            self._launch(source, "column_totals", *_threads(i), np.int64(i), chunks, *parts, dgamma, dbeta)
        else:
            self._launch(source, "normalize_columns_grad", *columns, dy, normed, rstd, gamma, *parts, dx, dgamma, dbeta)
        return dx, dgamma, dbeta

    def _columns(self, n: int, i: int) -> tuple[tuple[Any, ...], tuple[Array, Array]]:
        """A launch over the columns of (n, i) in chunks of rows, its sizes, and memory for two sums of each chunk."""
        size, chunks = _chunks(n, _ROWS, _DEEP)
        sizes = (np.int64(number) for number in (n, i, size, chunks))
        blocks = min(chunks * -(-i // _TILE), _BLOCKS)
        return (blocks, _TILE, *sizes), (self.empty((chunks, i), _F8), self.empty((chunks, i), _F8))

    # Losses --------------------------------------------------------------------------------------------------------

    def elementwise_loss(self, formula: Formula, y: Array, target: Array, scale: Array) -> tuple[Array, Array]:
        trace = traced(formula, 2)
        fits = trace is not None and len(trace.outputs) == 2 and y.ndim == 2 and y.size
        fits = fits and _ready(scale, y.dtype) and scale.shape == y.shape[:1]
        if trace is None or not fits or not _alike((y, target)):
            return super().elementwise_loss(formula, y, target, scale)
        size, chunks = _chunks(y.size, _CHUNK, _PARTS)
        sizes = (np.int64(number) for number in (y.shape[1], y.size, size, chunks))
        slope = self.empty(y.shape, y.dtype)
        source = emit.kernel(trace, y.dtype, "loss")
        return self._sum(source, "formula", chunks, THREADS, *sizes, y, target, scale, slope), slope

    def softmax_cross_entropy(
        self, z: Array, target: Array, scale: Array, smoothing: float = 0.0, class_weight: Array | None = None
    ) -> tuple[Array, Array]:
        fits = z.ndim == 2 and z.size and _ready(z, z.dtype) and _ready(scale, z.dtype) and scale.shape == z.shape[:1]
        if class_weight is not None:
            fits = fits and _ready(class_weight, z.dtype) and class_weight.shape == z.shape[1:]
        labels = target.dtype.kind in "iu" and target.shape == z.shape[:1]
        if not fits or not (labels or _alike((z, target))):
            return super().softmax_cross_entropy(z, target, scale, smoothing, class_weight)
        n, k = z.shape
        row = _holders(k, z.itemsize)
        kernel, ahead = ("cross_entropy", _AHEAD) if k * z.itemsize <= 16 * row else ("cross_entropy_wide", 1)
        rows = THREADS // row  # at once, of a block
        times = -(-n // rows)
        if times > ahead:  # else one block does all, in one launch instead of two
            times = min(ahead, -(-times // _ENOUGH))
        size, chunks = _chunks(n, times * rows, _PARTS)
        label, target = (self._dense(target, _I8), None) if labels else (None, target)
        sizes = (np.int64(number) for number in (n, k, size, chunks))
        share = np.float64(1.0 - smoothing), np.float64(smoothing / k)
        dz, source = self.empty(z.shape, z.dtype), load("rows", z.dtype)
        inputs = z, label, target, class_weight, scale, *share
        return self._sum(source, kernel, chunks, row, *sizes, *inputs, dz), dz

    def _sum(self, source: Source, kernel: str, chunks: int, row: int, *args: Any) -> Array:
        """A sum () over chunks, of arrays with the dtype of the last argument."""
        result, parts = self.gradient((), args[-1].dtype), self.empty((chunks,), _F8)
        self._launch(source, kernel, chunks, row, *args, parts, result)
        if chunks > 1:
            self._launch(load("reduce", result.dtype), "total", 1, THREADS, np.int64(chunks), parts, result)
        return result

    # Numbers by counter --------------------------------------------------------------------------------------------

    def words(self, key: Key, counter: Counter, start: int, n: int) -> Array:
        place, skip = philox.block_of(counter, start)
        out = self.empty((n,), _U8)
        if n:
            numbers = (np.uint64(number) for number in (*key, *place))
            self._launch(_INTEGERS, "words", *_threads(n // 4 + 1), np.int64(n), *numbers, np.int64(skip), out)
        return out

    def words_at(self, key: Key, counter: Counter, index: Array, width: int) -> Array:
        (n,) = index.shape
        out = self.empty((n, width), _U8)
        if out.size:
            reach = ({0: 0, 2: 2}.get(width % 4, 3) + width + 3) // 4  # blocks of a row, at most
            sizes, numbers = (np.int64(number) for number in (n, width, reach)), map(np.uint64, (*key, *counter))
            blocks = _threads(n * reach)
            self._launch(_INTEGERS, "words_at", *blocks, *sizes, *numbers, self._dense(index, _I8), out)
        return out

    def normal(self, words: Array) -> Array:
        out = self.empty(words.shape, _F8)
        if out.size:
            sizes, words = self._strided(words)
            self._launch(
                _INTEGERS, "normal", *_threads(out.size), *sizes, words, exact.normal_lines(self.xp, words.device), out
            )
        return out

    def halves(self, words: Array) -> Array:
        out = self.empty((*words.shape[:-1], 2 * words.shape[-1]), _F8)
        if out.size:
            sizes, words = self._strided(words)
            self._launch(_INTEGERS, "halves", *_threads(words.size), *sizes, words, out)
        return out

    def dropout(self, x: Array, rate: float, key: Key, counter: Counter) -> tuple[Array, Array]:
        """As specified; a number of the counter may also be a () uint64 array, which is read when the kernel runs."""
        if not _ready(x, x.dtype):
            return super().dropout(x, rate, key, counter)
        y, keep = self.empty(x.shape, x.dtype), self.empty(x.shape, np.dtype(np.bool_))
        if x.size:
            # n / 2**24, with n of 24 bits, is compared with the rate as float32: as integers, without rounding
            least, scale = np.int32(ceil(float(np.float32(rate)) * 2**24)), np.float64(1.0 / (1.0 - rate))
            numbers = *map(np.uint64, key), *(x for number in counter for x in _number(number, np.uint64))
            blocks = _threads(-(-x.size // 8))
            self._launch(
                load("philox", x.dtype), "dropout", *blocks, np.int64(x.size), x, least, scale, *numbers, y, keep
            )
        return y, keep

    def dropout_grad(self, dy: Array, keep: Array, rate: float) -> Array:
        fits = _ready(dy, dy.dtype) and keep.flags.c_contiguous and keep.dtype == np.bool_ and keep.shape == dy.shape
        if not fits or not dy.size:
            return super().dropout_grad(dy, keep, rate)
        dx, scale = self.empty(dy.shape, dy.dtype), np.float64(1.0 / (1.0 - rate))
        blocks = _threads(dy.size)
        self._launch(load("philox", dy.dtype), "dropout_grad", *blocks, np.int64(dy.size), dy, keep, scale, dx)
        return dx

    def permute(self, index: Any, n: int, keys: tuple[int, ...]) -> Array:
        """As specified, except that an index on the device outside [0, n) gives -1: an error would have to wait for it.

        Indices on the host are checked there.
        """
        if isinstance(index, range):
            permutation.check_inside(np, index, n)
            index = self.arange(index.start, index.stop)
        elif not self.owns(index):
            permutation.check_inside(np, np.asarray(index), n)
            index = self.asarray(np.asarray(index))
        n = permutation.check_kinds(self.xp, index, n)
        sides, used = permutation.sides(n), permutation.used_keys(keys, n)
        rounds, argument = np.int64(len(used)), np.zeros((), _KEYS)
        argument["of"][: len(used)] = used
        out = self.empty(index.shape, _I8)
        if out.size:
            sizes = (np.uint64(number) for number in (n, *sides))
            index = self._dense(index, _I8)
            blocks = _threads(out.size)
            self._launch(_PERMUTE, "permute", *blocks, np.int64(out.size), index, *sizes, rounds, argument, out)
        return out

    def permutes(self, index: Any, n: int, keys: Sequence[tuple[int, ...]]) -> Array:
        return self.xp.stack([self.permute(index, n, each) for each in keys])

    # Samples -------------------------------------------------------------------------------------------------------

    def samples(
        self, formula: Formula, key: Key, counter: Counter, index: Any, width: int,
        tables: Sequence[Array], dtype: str, out: Sequence[Array] | None = None,
    ) -> tuple[Array, Array]:  # fmt: skip
        n, trace = len(index), traced_rows(formula, width, tuple(t.shape for t in tables))
        if trace is None or not n or not all(_ready(t, _F8) for t in tables):
            return super().samples(formula, key, counter, index, width, tables, dtype)
        k, o = (trace.instructions[ref.number].width for ref in (trace.features, trace.target))
        kind = np.dtype(dtype)
        if out is None:
            out = self.empty((n, k or 0), kind), self.empty((n,), _I8) if o is None else self.empty((n, o), kind)
        x, y = out
        ours = exact.normal_lines(self.xp, x.device), *exact.circle_table(self.xp, x.device)
        constants = *ours, exact.arctan_table(self.xp, x.device), *[tables[number] for number in tables_of(trace)]
        first, numbers = (index.start, None) if isinstance(index, range) else (0, self._dense(self.asarray(index), _I8))
        place = *map(np.uint64, (*key, *counter)), np.int64(first), numbers
        blocks = _threads(n * rows.parts(trace))
        self._launch(rows.kernel(trace, kind), "samples", *blocks, np.int64(n), *place, x, y, *constants)
        return x, y

    # Arguments of kernels ------------------------------------------------------------------------------------------

    def _dense(self, a: Array, dtype: Any) -> Array:
        """``a`` in C order and of ``dtype``; copied only if necessary."""
        if a.dtype == dtype and a.flags.c_contiguous:
            return a
        copy = self.empty(a.shape, dtype)
        copy[...] = a
        return copy

    def _strided(self, words: Array) -> tuple[tuple[Any, Any, Any], Array]:
        """`philox.rows_of` of words of any shape, copied if need be."""
        sizes = philox.rows_of(words)
        if sizes is None:
            sizes, words = (words.size, 1, 1), self._dense(words, _U8)
        rows, columns, stride = map(np.int64, sizes)
        return (rows, columns, stride), words


_INTEGERS, _PERMUTE = load("philox", _F8), load("permute", _F8)


def _ready(a: Array, dtype: Any) -> bool:
    """Whether a kernel can take ``a`` as an array of ``dtype``."""
    return a.dtype == dtype and a.dtype in REAL and bool(a.flags.c_contiguous)


def _alike(arrays: Sequence[Array]) -> bool:
    """Whether all have one shape and dtype, and are ready."""
    first = arrays[0]
    return all(a.shape == first.shape and _ready(a, first.dtype) for a in arrays)


def _with_vectors(x: Array, *vectors: Array) -> bool:
    """Whether kernels can take x (n, i), which is not empty, with vectors (i,)."""
    fits = x.ndim == 2 and x.size and _ready(x, x.dtype)
    return bool(fits and all(_ready(v, x.dtype) and v.shape == x.shape[1:] for v in vectors))


def _number(number: Any, kind: Any) -> tuple[Any, Any]:
    """A number as a pair of kernel arguments: its value, or its place, an array of ``kind``."""
    if isinstance(number, (int, float, np.generic)):
        return kind(number), None
    if number.shape != ():
        raise TypeError(f"a number on the device is a {number.shape} array: expected ()")
    return kind(0), number.astype(kind, copy=False)


def _lines(high: int, wide: int) -> int:
    """Items of work in a (high, wide) matrix of bfloat16: 8 bytes of each of `_LINES` rows, as in kernels/round.cu."""
    return -(-high // _LINES) * -(-wide // 4)


def _threads(items: int) -> tuple[int, int]:
    """A launch with one thread per item."""
    return min(-(-items // THREADS), _BLOCKS), THREADS


def _over(a: Array) -> tuple[int, int, Any]:
    """A launch over ``a`` with 16 bytes per thread, and its size."""
    return *_threads(-(-a.nbytes // 16)), np.int64(a.size)


def _team(k: int) -> int:
    """Threads that share a row of k numbers: a few for a short one, a block for a long one."""
    return THREADS if k > 1024 else min(1 << (k - 1).bit_length(), 32)


def _holders(k: int, itemsize: int) -> int:
    """Threads that share a row of k numbers, with 16 bytes each, if a warp can hold all of it with up to `_HELD` times that."""
    packs = -(-k * itemsize // 16)
    return THREADS if packs > 32 * _HELD else min(1 << (packs - 1).bit_length(), 32)


def _rows(n: int, k: int, row: int = 0) -> tuple[int, int, Any, Any]:
    """A launch over n rows of k numbers, ``row`` threads each, and these sizes."""
    row = row or _team(k)
    return min(-(-n * row // THREADS), _BLOCKS), row, np.int64(n), np.int64(k)


def _chunks(n: int, least: int, most: int) -> tuple[int, int]:
    """Size (a multiple of 4) and number of chunks, from n alone: at most ``most``, of at least ``least`` items."""
    size = max(least, -(-n // most))
    size += -size % 4
    return size, -(-n // size)
