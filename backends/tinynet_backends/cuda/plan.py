"""Matrix products as cublasLt wants them: from arrays in either order to descriptors, without a copy where none is needed.

cublasLt computes ``D = epilogue(op(A) @ op(B))`` on matrices in column-major memory. Memory that holds a row-major matrix
holds its transpose in column-major order, so ``out = x @ w`` with a row-major ``out`` is ``D = W' X'`` there: A is w, B is
x, and rows of D are columns of ``out``, that is features, which is what its epilogues act on.

Everything here is arithmetic on shapes and strides (NVIDIA, *cuBLAS Library*, chapter "Using the cuBLASLt API").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntFlag
from itertools import pairwise
from math import prod
from typing import Any

ALIGNED = 16  # bytes: where a column has to begin for the widest loads and for tensor cores
SIZES = {"float32": 4, "float64": 8, "bfloat16": 2}  # bytes of an element
STORED = {"bfloat16": "uint16"}  # NumPy has no such numbers: they lie in words of 16 bits
OPERANDS = {"float32": "float32", "tf32": "float32", "bf16": "bfloat16", "float64": "float64"}  # by precision


class Epilogue(IntFlag):
    """What is done to the product before it is stored; the values are cublasLtEpilogue_t's."""

    NONE = 1
    RELU = 2
    BIAS = 4  # add a vector, one number for each feature
    DRELU = 8 | 128  # the gradient of ReLU, from the mask of RELU_AUX
    BIAS_GRADIENT = 16  # beside DRELU or DGELU: sums of the result over the samples
    GELU = 32  # its tanh form
    DGELU = 64 | 128  # the gradient of GELU, from what GELU_AUX kept
    KEEP = 128  # beside RELU or GELU: keep what the gradient needs
    SUM_A = 256  # sums of A along the contraction: the bias gradient, beside the weights'

    RELU_KEEP = RELU | KEEP
    GELU_KEEP = GELU | KEEP

    @property
    def writes_bias(self) -> bool:
        return bool(self & (Epilogue.BIAS_GRADIENT | Epilogue.SUM_A))

    @property
    def has_bias(self) -> bool:
        return bool(self & Epilogue.BIAS) or self.writes_bias

    @property
    def has_aux(self) -> bool:
        return bool(self & Epilogue.KEEP)

    @property
    def of_relu(self) -> bool:
        """Whether its auxiliary matrix is a mask of bits."""
        return bool(self & 10)


@dataclass(frozen=True)
class Layout:
    """Column-major matrices in memory: element (i, j) of matrix n is ``n * stride + j * ld + i`` elements from the
    first."""

    dtype: str
    rows: int
    cols: int
    ld: int
    stride: int = 0

    @property
    def extent(self) -> int:
        """Elements from the first to the last of one matrix, and one."""
        return (self.cols - 1) * self.ld + self.rows

    def padded(self, dtype: str) -> Layout:
        """One matrix after the other, every column beginning at an aligned place: the layout of a copy."""
        ld = _up(self.rows, ALIGNED // SIZES[dtype])
        return replace(self, dtype=dtype, ld=ld, stride=ld * self.cols if self.stride else 0)

    @property
    def is_aligned(self) -> bool:
        size = SIZES[self.dtype]
        return self.ld * size % ALIGNED == 0 and self.stride * size % ALIGNED == 0


@dataclass(frozen=True)
class Array:
    """What a plan has to know of a row-major or transposed array: strides in elements, the address's alignment in
    bytes. Words of 16 bits are bfloat16."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    alignment: int = ALIGNED

    @classmethod
    def of(cls, a: Any, address: int) -> Array:
        size = a.dtype.itemsize
        strides = tuple(s // size if s % size == 0 else -1 for s in a.strides)
        kind = "bfloat16" if a.dtype.name == STORED["bfloat16"] else a.dtype.name
        # More than `ALIGNED` is of no use, and results may lie now in memory of their own, now in a larger array: the
        # plan, and with it the bits, must not depend on that.
        return cls(tuple(a.shape), strides, kind, min(ALIGNED, address & -address or ALIGNED))


@dataclass(frozen=True)
class Plan:
    """A product as cublasLt is told of it. ``copied`` names those of "a", "b", "d" that are other memory than the
    caller's, with the layout given: operands are copied there before, d from there after the product."""

    m: int
    n: int
    k: int
    batch: int
    a: Layout
    b: Layout
    d: Layout
    transpose_a: bool
    transpose_b: bool
    precision: str
    epilogue: Epilogue
    aux_ld: int
    alignments: tuple[int, int, int]
    copied: str = ""

    @property
    def aux_stride(self) -> int:
        """Elements, for a mask bits, from one auxiliary matrix to the next."""
        return self.aux_ld * self.n if self.batch > 1 else 0

    @property
    def aux_bytes(self) -> int:
        bits = self.aux_ld * self.n * self.batch
        return bits // 8 if self.epilogue.of_relu else bits * SIZES[self.d.dtype]

    def plain(self) -> Plan:
        """The product alone."""
        return replace(self, epilogue=Epilogue.NONE, aux_ld=0)


def plan(x: Array, w: Array, out: Array, precision: str = "float32", epilogue: int = Epilogue.NONE) -> Plan | None:
    """How ``out = epilogue(x @ w)`` is computed: (..., n, k), (..., k, m) -> (..., n, m).

    ``out`` is row-major, its rows perhaps further apart than they are long. Operands lie in either order, are views, or
    are repeated along leading axes; one whose memory no descriptor fits is copied. None if there is nothing to compute
    (an empty array) or no plan for it (leading axes that do not follow one another evenly).
    """
    epilogue = Epilogue(epilogue)
    (n, k), m = x.shape[-2:], w.shape[-1]
    if min(n, k, m) < 1 or prod(out.shape) == 0:
        return None
    kind = OPERANDS[precision]
    count = prod(out.shape[:-2])
    found = [_stored(w, out.shape[:-2], kind), _stored(x, out.shape[:-2], kind)]
    d = _stored(out, out.shape[:-2], out.dtype)
    if None in found or d is None or d[1] or d[2]:
        return None
    (a, transpose_a, copy_a), (b, transpose_b, copy_b) = found  # type: ignore[misc]
    aux_ld = 0
    if epilogue.has_aux:
        aux_ld = _up(m, 128 if epilogue.of_relu else 8)
    alignments = tuple(
        ALIGNED if copy else _alignment(operand, layout)
        for operand, layout, copy in ((w, a, copy_a), (x, b, copy_b), (out, d[0], False))
    )
    copied = "a" * copy_a + "b" * copy_b
    return Plan(m, n, k, count, a, b, d[0], transpose_a, transpose_b, precision, epilogue, aux_ld, alignments, copied)  # type: ignore[arg-type]


def variants(plan: Plan) -> list[Plan]:
    """The plan, and where tensor cores would have to work on odd widths, the same with copies that are padded."""
    found = [plan]
    if plan.precision in ("tf32", "bf16"):
        operands = "".join(
            name
            for name, layout, alignment in zip("ab", (plan.a, plan.b), plan.alignments, strict=False)
            if name in plan.copied or not layout.is_aligned or alignment < ALIGNED
        )
        inner = with_copies(plan, operands)
        whole = inner if plan.d.is_aligned and plan.alignments[2] >= ALIGNED else with_copies(plan, operands + "d")
        found += [p for p in (inner, whole) if p not in found]
    return list(dict.fromkeys(found))


def with_copies(plan: Plan, copied: str) -> Plan:
    """The plan with padded copies for those of "a", "b", "d"."""
    layouts = {name: getattr(plan, name) for name in "abd"}
    for name in copied:
        layouts[name] = layouts[name].padded(layouts[name].dtype)
    alignments = tuple(ALIGNED if name in copied else old for name, old in zip("abd", plan.alignments, strict=True))
    return replace(plan, **layouts, alignments=alignments, copied=copied)  # type: ignore[arg-type]


def _stored(array: Array, axes: tuple[int, ...], kind: str) -> tuple[Layout, bool, bool] | None:
    """The layout of an operand, repeated along ``axes``, as elements of ``kind``; whether it is the matrix itself and
    not its transpose that lies there in column-major order; and whether a copy lies there."""
    r, c = array.shape[-2:]
    down, right = array.strides[-2:]
    stride = _even(array.shape[:-2], array.strides[:-2], axes)
    if stride is None:
        return None
    by_rows = (c == 1 or right == 1) and (r == 1 or down >= c)
    by_columns = (r == 1 or down == 1) and (c == 1 or right >= r)
    if by_columns and not by_rows:
        layout = Layout(array.dtype, r, c, right if c > 1 else r, stride)
    else:
        layout = Layout(array.dtype, c, r, down if by_rows and r > 1 else c, stride)
    if array.dtype == kind and (by_rows or by_columns) and stride >= 0:
        return layout, by_columns and not by_rows, False
    return layout.padded(kind), by_columns and not by_rows, True


def _even(shape: Sequence[int], strides: Sequence[int], axes: Sequence[int]) -> int | None:
    """The one stride by which ``axes``, over which an array of leading ``shape`` is repeated, can be gone through."""
    missing = len(axes) - len(shape)
    steps = [0] * missing + [0 if n == 1 else s for n, s in zip(shape, strides, strict=True)]
    far = [(n, s) for n, s in zip(axes, steps, strict=True) if n > 1]
    if any(outer != n * inner for (_, outer), (n, inner) in pairwise(far)):
        return None
    return far[-1][1] if far else 0


def _alignment(array: Array, layout: Layout) -> int:
    step = layout.stride * SIZES[layout.dtype]
    return min(array.alignment, step & -step or ALIGNED)


def _up(n: int, to: int) -> int:
    return -(-n // to) * to
