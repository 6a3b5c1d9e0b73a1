"""Fused dense layers: one kernel forward and one back, if their weights fit into a block's shared memory.

A block takes a tile of rows through all layers, so a step of a small network is a few launches instead of a few per layer.
The backward pass needs one array per layer, its output or its activation's input, which the forward pass writes: from some
twenty features on, recomputing it from the layer before would take longer than writing and reading it.

Gradients of weights are summed over chunks of rows, whose number follows from sizes: a block writes a chunk's sums, and if
there are several chunks, a second kernel adds them up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from hashlib import sha256
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from tinynet_backends.arena import cuts
from tinynet_backends.backend import Array, DenseLayer, Gradients
from tinynet_backends.cuda import chain, emit
from tinynet_backends.cuda.operations import THREADS, Sum
from tinynet_backends.cuda.plan import padded
from tinynet_backends.cuda.source import REAL, Source, read, whole
from tinynet_backends.tracing import Ref, Trace, traced

MOST = 16  # layers, as in kernels/layers.cuh
_CHUNKS = 256  # chunks of rows, and so blocks, at most
_ALONE = 128  # the same if a block has a multiprocessor for itself
_TILES = (16, 32, 64)  # rows of a tile
_REGISTERS = 200  # of a thread, for what `kernels/warps.cuh` holds in them
_WORTH = 1 << 20  # parameters times rows, from which on kernels are compiled for sizes
_MACROS = (  # that other sources may have left
    "COUNT", "THROUGH", "TILE", "WIDTHS", "FORMULAS", "OF_INPUTS", "TILE_ROWS", "LAYERS", "UNROLLED", "KNOWN", "LARGE", "HELD",
)  # fmt: skip
_OPERANDS = {"float32": 0, "bf16x3": 0, "tf32": 1, "bf16": 2}  # numbered as in kernels/fused.cuh
_LAYERS = np.dtype(
    [
        *((name, kind, (MOST,)) for name, kind in (("w", np.uint64), ("b", np.uint64), ("kept", np.int64))),
        *((name, np.int32, (size,)) for name, size in (("width", MOST + 1), ("f", MOST), ("of_input", MOST))),
        ("count", np.int32),
    ],
    align=True,
)


@dataclass(frozen=True)
class Work:
    """All that the duration depends on: layers, and the rows that pass through them, ``tile`` at a time."""

    n: int
    widths: tuple[int, ...]
    biases: tuple[bool, ...]
    formulas: tuple[tuple[Trace, Trace] | None, ...]
    dtype: str
    operands: str  # the precision of float32
    need_dx: bool
    tile: int = 0
    before: int = 0  # 1 if x is the output of a ReLU, 2 if of one after a bias: see kernels/fused.cuh

    @classmethod
    def of(cls, x: Array, layers: Sequence[DenseLayer], precision: str, need_dx: bool) -> Work | None:
        """The work of these layers; None if there is no kernel for them."""
        pairs = [None if f is None or df is None else (traced(f, 1), traced(df, 3)) for *_, f, df in layers]
        supported = x.ndim == 2 and x.size > 0 and x.dtype in REAL
        supported = supported and all(w.ndim == 2 and w.dtype == x.dtype and w.flags.c_contiguous for w, *_ in layers)
        supported = supported and all(b is None or (b.dtype == x.dtype and b.flags.c_contiguous) for _, b, *_ in layers)
        if not supported or not all(pair is None or all(map(_single, pair)) for pair in pairs):
            return None
        widths = x.shape[1], *(w.shape[1] for w, *_ in layers)
        if widths[:-1] != tuple(w.shape[0] for w, *_ in layers):
            return None  # and products say what does not fit
        biases = tuple(b is not None for _, b, *_ in layers)
        operands = precision if x.dtype.name == "float32" else "float32"
        return cls(len(x), widths, biases, tuple(pairs), x.dtype.name, operands, need_dx)  # type: ignore[arg-type]

    @property
    def key(self) -> str:
        """Text that is the same if and only if the work is, however it is tiled."""
        rest = asdict(replace(self, formulas=(), tile=0))
        files = "".join(map(read, ("layers.cuh", "fused.cuh", "warps.cuh")))  # a changed kernel takes another time
        return f"{rest | {'formulas': sha256((repr(self.formulas) + files).encode()).hexdigest()}}"

    def behind(self, front: int, tile: int) -> Work:
        """The layers after the first ``front``, in tiles of ``tile`` rows, or fewer if there are fewer."""
        # they also do a chain's last pass over memory; in bfloat16, only if nothing has to be padded
        relu = front > 0 and self.formulas[front - 1] == chain.RELU and set(self.formulas[:front]) <= {None, chain.RELU}
        relu = relu and (self.operands != "bf16" or padded(self.widths[front]) == self.widths[front])
        behind = replace(
            self, widths=self.widths[front:], biases=self.biases[front:], formulas=self.formulas[front:],
            need_dx=self.need_dx or front > 0, tile=tile, before=1 + self.biases[front - 1] if relu else 0,
        )  # fmt: skip
        return behind if behind.in_registers else replace(behind, tile=min(tile, _up(self.n)))

    @cached_property
    def pairs(self) -> tuple[tuple[Trace, Trace], ...]:
        """The different formulas and their derivatives, which kernels number from 1."""
        return tuple(dict.fromkeys(pair for pair in self.formulas if pair is not None))

    @cached_property
    def numbers(self) -> list[int]:
        """For each layer, the number of its formula, 0 for none."""
        return [0 if pair is None else 1 + self.pairs.index(pair) for pair in self.formulas]

    @cached_property
    def blocks(self) -> tuple[int, ...]:
        """The widths in blocks of 16."""
        return tuple(-(-width // 16) for width in self.widths)

    @cached_property
    def areas(self) -> list[int]:
        """For each layer, the blocks of its weights."""
        return [i * o for i, o in pairwise(self.blocks)]

    @property
    def parts(self) -> int:
        """Words of 16 bytes in a lane's part of a block."""
        return 2 if self.operands == "tf32" else 1

    @cached_property
    def in_registers(self) -> bool:
        """Whether `kernels/warps.cuh` has kernels for it."""
        sums = sum(8 * -(-area // 8) for area in self.areas)
        held = sums + max(self.blocks) * (8 + 12 * self.parts)
        return _OPERANDS[self.operands] > 0 and not self.before and held <= _REGISTERS

    @property
    def tiles(self) -> tuple[int, ...]:
        """Rows of a tile, to choose from."""
        return (*_TILES, 128) if self.in_registers or self.large else _TILES

    @property
    def large(self) -> bool:
        """Whether `kernels/fused.cuh` has kernels for large tiles, which hold the gradients of weights in registers."""
        numbers = [_up(i) * _up(o) for i, o in pairwise(self.widths)]
        exact = self.dtype == "float32" and _OPERANDS[self.operands] == 0  # no rounding, nor twice the registers
        square = max(self.widths) <= 64 and max(numbers) == 16 * THREADS
        return exact and square and sum(numbers) <= 80 * THREADS and self.n >= _CHUNKS * 128

    @property
    def alone(self) -> bool:
        """Whether tiles are large, so that forward, too, a block has a multiprocessor for itself."""
        return self.tile > max(_TILES) and not self.in_registers

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of the gradients: those of the bias before these layers, and of each layer's weights and bias."""
        each = zip(pairwise(self.widths), self.biases, strict=True)
        before = [(self.widths[0],)] if self.before == 2 else []
        return [*before, *(shape for (i, o), bias in each for shape in ((i, o), (o,))[: 1 + bias])]

    @cached_property
    def p(self) -> int:
        """Numbers in all gradients."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    @property
    def size(self) -> int:
        """Rows per chunk."""
        return self.tile * self.tiles_each(back=True)

    def tiles_each(self, back: bool) -> int:
        """Tiles of each block."""
        alone = self.alone or (back and self.in_registers)
        tiles = -(-self.n // self.tile)
        return -(-tiles // (min(_CHUNKS, _ALONE) if alone else _CHUNKS))

    @property
    def chunks(self) -> int:
        return -(-self.n // self.size)

    @property
    def each(self) -> int:
        """Parameters times rows of one block."""
        return self.size * self.p

    @property
    def stride(self) -> int:
        """Distance in numbers between the sums of two chunks."""
        return self.p if self.chunks == 1 else _up(self.p)

    @cached_property
    def of_input(self) -> list[bool]:
        """For each layer, whether the derivative reads the activation's input."""
        return [pair is not None and _reads(pair[1], Ref(1)) for pair in self.formulas]

    @cached_property
    def kept(self) -> tuple[list[int], int]:
        """For each layer, where its numbers begin in the array kept for the backward pass, or -1; and that array's size."""
        sizes = [
            _up(self.n * o) if k < len(self.biases) - 1 or self.formulas[k] is not None else 0
            for k, o in enumerate(self.widths[1:])
        ]
        starts = [*accumulate(sizes, initial=0)]
        if self.in_registers:  # whole blocks of the operands, x among them
            blocks = sum(self.blocks[: None if self.formulas[-1] else -1])
            starts[-1] = -(-self.n // 16) * blocks * 128 * self.parts
        return [start if size else -1 for start, size in zip(starts, sizes, strict=False)], starts[-1]

    def shared_memory(self, back: bool) -> int:
        """Bytes of shared memory that a kernel needs."""
        if self.in_registers:
            columns = 16 * sum(self.blocks[1:])
            if not back:
                return 512 * self.parts * sum(self.areas) + 4 * columns
            weights = 512 * self.parts * sum(self.areas[0 if self.need_dx else 1 :])
            row = 4 * (16 * max(self.blocks) + 8) * 2 * self.parts
            return weights + self.tile * row + self.tile // 16 * 4 * columns
        each, first = [*pairwise(self.widths)], _pitch(self.widths[0])
        widest = max(map(_pitch, self.widths[0 if back and self.before else 1 :]))
        if back:
            again = _OPERANDS[self.operands] > 0 or any(self.of_input[:-1])
            weights = sum(_up(o) * _pitch(i) for i, o in each[0 if self.need_dx else 1 :])
            inputs = [*map(_pitch, self.widths[:-1])]
            row = (2 * max(inputs) if self.alone else sum(inputs)) + (2 + again) * widest
        else:
            weights = sum((_up(i) + 1) * _pitch(o) for i, o in each)
            row = first + 2 * widest
        return (weights + self.tile * row) * np.dtype(self.dtype).itemsize


def _single(trace: Trace | None) -> bool:
    return trace is not None and len(trace.outputs) == 1


def _reads(trace: Trace, value: Ref) -> bool:
    return value in trace.outputs or any(value in instruction.args for instruction in trace.instructions)


def _up(n: int) -> int:
    return n + -n % 4


def _pitch(width: int) -> int:
    return 4 * (-(-width // 4) | 1)


@lru_cache(maxsize=1024)
def kernels(pairs: tuple[tuple[Trace, Trace], ...], dtype: str, operands: str) -> Source:
    """``forward`` and ``backward`` of `kernels/fused.cuh` with these activations, numbered from 1."""
    return _source("fused.cuh", pairs, dtype, operands)


def _source(name: str, pairs: Sequence[tuple[Trace, Trace]], dtype: str, operands: str, sizes: str = "") -> Source:
    others = "".join(f"#undef {name}\n" for name in _MACROS)
    head = f"{others}#undef OPERANDS\n#define OPERANDS {_OPERANDS[operands]}\n{emit.activations(pairs)}{read('layers.cuh')}"
    return whole(name, f"{head}{sizes}{read(name)}", np.dtype(dtype))


@lru_cache(maxsize=1024)
def for_sizes(work: Work) -> Source:
    """The same for layers of these sizes only, whose rows stay in registers if they can (`kernels/warps.cuh`)."""
    numbers = {"COUNT": len(work.biases), "THROUGH": int(work.need_dx), "TILE": work.tile}
    tables = {
        "WIDTH": work.widths,
        "FORMULA": work.numbers,
        "OF_INPUT": map(int, work.of_input),
        "BIASED": map(int, work.biases),
    }
    if work.in_registers:
        del numbers["TILE"]  # they do not depend on it
    lines = [f"#define {name} {number}" for name, number in numbers.items()]
    lines += [f"constexpr int {name}[] = {{{', '.join(map(str, table))}}};" for name, table in tables.items()]
    name = "warps.cuh" if work.in_registers else "fused.cuh"
    return _source(name, work.pairs, work.dtype, work.operands, "\n".join([*lines, ""]))


class Fused(chain.Pass):
    """One kernel forward and one back."""

    def __init__(self, ops: Any, work: Work, layers: Sequence[DenseLayer]) -> None:
        self.ops, self.work = ops, work
        worth = work.in_registers or work.alone or work.n * work.p >= _WORTH
        self.source = for_sizes(work) if worth else kernels(work.pairs, work.dtype, work.operands)
        argument = np.zeros((), _LAYERS)
        tables: dict[str, Sequence[int]] = {
            "w": [ops._address(w) for w, *_ in layers],
            "b": [0 if b is None else ops._address(b) for _, b, *_ in layers],
            "f": work.numbers,
            "kept": work.kept[0],
            "of_input": work.of_input,
            "width": work.widths,
        }
        for name, values in tables.items():
            argument[name][: len(values)] = values
        argument["count"] = len(layers)
        self.argument = argument

    def forward(self, x: Array) -> Array:
        work = self.work
        self.x = self.ops._dense(x, x.dtype)
        self.kept = self.ops.empty((work.kept[1],), x.dtype)
        y = self.ops.empty((work.n, work.widths[-1]), x.dtype)
        blocks = -(-work.n // (work.tile * work.tiles_each(back=False)))
        args = np.int64(work.n), np.int32(work.tile), self.argument, self.x, self.kept, y
        self.ops._launch(self.source, "forward", blocks, THREADS, *args, shared=work.shared_memory(False))
        return y

    def back(self, dy: Array, sums: list[Sum]) -> Gradients:
        work, real = self.work, self.x.dtype
        gradient = self.ops.gradient((work.p,), real)
        parts = gradient if work.chunks == 1 else self.ops.empty((work.chunks, work.stride), real)
        half = work.before > 0 and work.operands == "bf16"
        dx = self.ops.empty(self.x.shape, np.dtype(np.uint16) if half else real) if work.need_dx else None
        sizes = (np.int64(number) for number in (work.size, work.chunks, work.p, work.stride))
        dx_as = (None, dx) if half else (dx, None)
        arrays = self.x, self.kept, self.ops._dense(dy, real), *dx_as, parts
        args = np.int64(work.n), np.int32(work.tile), *sizes, np.int32(work.before), self.argument, *arrays
        self.ops._launch(self.source, "backward", work.chunks, THREADS, *args, shared=work.shared_memory(True))
        if work.chunks > 1:
            sums.append(Sum(parts, gradient))
        gradients = iter(cuts(gradient, work.shapes))
        self.before = next(gradients) if work.before == 2 else None
        return dx, [(next(gradients), next(gradients) if bias else None) for bias in work.biases]
