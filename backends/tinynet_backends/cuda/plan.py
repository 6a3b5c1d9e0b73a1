"""Matrix products as cublasLt descriptors, for arrays in either order, copied only if necessary.

cublasLt computes ``D = epilogue(op(A) @ op(B))`` on matrices in column-major memory. Memory that holds a row-major matrix
holds its transpose in column-major order, so ``out = x @ w`` with a row-major ``out`` is ``D = W' X'`` there: A is w, B is
x, and rows of D are columns of ``out``: features, on which cublasLt's epilogues act.

Everything here is arithmetic on shapes and strides (NVIDIA, *cuBLAS Library*, chapter "Using the cuBLASLt API").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntFlag
from itertools import pairwise
from math import prod
from typing import Any

ALIGNED = 16  # bytes: the alignment of columns for the widest loads and for tensor cores
SIZES = {"float32": 4, "float64": 8, "bfloat16": 2}  # bytes of an element
STORED = {"bfloat16": "uint16"}  # NumPy lacks this type: it is stored in 16-bit words
OPERANDS = {
    "float32": "float32", "bf16x3": "bfloat16", "tf32": "float32", "bf16": "bfloat16", "float64": "float64",
}  # by precision  # fmt: skip
PIECES = 3  # with precision bf16x3: see kernels/round.cu


def padded(k: int, dtype: str = "bfloat16") -> int:
    """The width to which rows of k numbers are padded, so that each begins at an aligned address."""
    return k + -k % (ALIGNED // SIZES[dtype])


class Epilogue(IntFlag):
    """What is done to the product before it is stored; the values of cublasLtEpilogue_t."""

    NONE = 1
    RELU = 2
    BIAS = 4  # add a vector, one number for each feature
    SUM_A = 256  # sums of A along the contraction: the bias gradient, along with that of the weights

    @property
    def has_bias(self) -> bool:
        """Whether it reads a vector (BIAS) or writes one (SUM_A)."""
        return bool(self & (Epilogue.BIAS | Epilogue.SUM_A))


@dataclass(frozen=True)
class Layout:
    """Column-major matrices in memory: element (i, j) of matrix n is at ``n * stride + j * ld + i``."""

    dtype: str
    rows: int
    cols: int
    ld: int
    stride: int = 0

    def padded(self, dtype: str) -> Layout:
        """The layout of a copy: matrices one after another, every column aligned."""
        ld = padded(self.rows, dtype)
        return replace(self, dtype=dtype, ld=ld, stride=ld * self.cols if self.stride else 0)

    @property
    def is_aligned(self) -> bool:
        size = SIZES[self.dtype]
        return self.ld * size % ALIGNED == 0 and self.stride * size % ALIGNED == 0


@dataclass(frozen=True)
class Array:
    """What a plan needs to know about an array: strides in elements, alignment in bytes. 16-bit words are bfloat16."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    alignment: int = ALIGNED

    @classmethod
    def of(cls, a: Any, address: int) -> Array:
        size = a.dtype.itemsize
        strides = tuple(s // size if s % size == 0 else -1 for s in a.strides)
        kind = "bfloat16" if a.dtype.name == STORED["bfloat16"] else a.dtype.name
        # Capped at `ALIGNED`: more is of no use, and a result may lie in its own memory or in a larger array, on which
        # the plan, and so the bits, must not depend.
        return cls(tuple(a.shape), strides, kind, min(ALIGNED, address & -address or ALIGNED))


@dataclass(frozen=True)
class Plan:
    """A product for cublasLt.

    ``copied`` names those of "a", "b", "d" that are copies with the layout given here: operands are copied before the
    product, d after it. If there are ``pieces``, operands become that many matrices one after another along the contraction,
    each padded with zeros.
    """

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
    alignments: tuple[int, int, int]
    copied: str = ""
    pieces: int = 1


def plan(x: Array, w: Array, out: Array, precision: str = "float32", epilogue: int = Epilogue.NONE) -> Plan | None:
    """The plan for ``out = epilogue(x @ w)``: (..., n, k), (..., k, m) -> (..., n, m).

    ``out`` is row-major, with any distance between rows. Operands may be in either order, views, or broadcast along
    leading axes; those that no descriptor fits are copied. None if there is nothing to compute (an empty array) or no plan
    (leading axes without a common stride).
    """
    epilogue = Epilogue(epilogue)
    (n, k), m = x.shape[-2:], w.shape[-1]
    if min(n, k, m) < 1 or prod(out.shape) == 0:
        return None
    kind = OPERANDS[precision]
    count = prod(out.shape[:-2])
    operands = [_stored(w, out.shape[:-2], kind), _stored(x, out.shape[:-2], kind)]
    d = _stored(out, out.shape[:-2], out.dtype)
    if None in operands or d is None or d[1] or d[2]:
        return None
    (a, transpose_a, copy_a), (b, transpose_b, copy_b) = operands  # type: ignore[misc]
    pieces = PIECES if precision == "bf16x3" and x.dtype != kind else 1
    if pieces > 1:
        if epilogue & Epilogue.SUM_A:
            return None  # hi would be counted twice
        k = pieces * padded(k, kind)
        a, b = _longer(a, k, transpose_a), _longer(b, k, not transpose_b)
    alignments = tuple(
        ALIGNED if copy else _alignment(operand, layout)
        for operand, layout, copy in ((w, a, copy_a), (x, b, copy_b), (out, d[0], False))
    )
    copied = "a" * copy_a + "b" * copy_b
    return Plan(m, n, k, count, a, b, d[0], transpose_a, transpose_b, precision, epilogue, alignments, copied, pieces)  # type: ignore[arg-type]


def variants(plan: Plan) -> list[Plan]:
    """The plan, and if tensor cores would meet unaligned matrices, the same with padded copies."""
    plans = [plan]
    if plan.precision in ("bf16x3", "tf32", "bf16"):
        operands = "".join(
            name
            for name, layout, alignment in zip("ab", (plan.a, plan.b), plan.alignments, strict=False)
            if name in plan.copied or not layout.is_aligned or alignment < ALIGNED
        )
        inner = with_copies(plan, operands)
        outer = inner if plan.d.is_aligned and plan.alignments[2] >= ALIGNED else with_copies(plan, operands + "d")
        plans += [inner, outer]
    return list(dict.fromkeys(plans))


def with_copies(plan: Plan, copied: str) -> Plan:
    """The plan with padded copies of those of "a", "b", "d" that ``copied`` names."""
    layouts = {name: getattr(plan, name) for name in "abd"}
    for name in copied:
        layouts[name] = layouts[name].padded(layouts[name].dtype)
    alignments = tuple(ALIGNED if name in copied else old for name, old in zip("abd", plan.alignments, strict=True))
    return replace(plan, **layouts, alignments=alignments, copied=copied)  # type: ignore[arg-type]


def _stored(array: Array, axes: tuple[int, ...], kind: str) -> tuple[Layout, bool, bool] | None:
    """The layout of an operand broadcast to ``axes``, with elements of ``kind``, and two bools.

    The first says whether the memory holds the matrix itself, not its transpose, in column-major order; the second,
    whether the layout is that of a copy.
    """
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


def _longer(layout: Layout, k: int, down: bool) -> Layout:
    """The layout of a copy with ``k`` rows if ``down``, else columns."""
    return (replace(layout, rows=k) if down else replace(layout, cols=k)).padded(layout.dtype)


def _even(shape: Sequence[int], strides: Sequence[int], axes: Sequence[int]) -> int | None:
    """The stride that steps through all ``axes`` of an array with leading ``shape``, broadcast; None if there is none."""
    missing = len(axes) - len(shape)
    steps = [0] * missing + [0 if n == 1 else s for n, s in zip(shape, strides, strict=True)]
    far = [(n, s) for n, s in zip(axes, steps, strict=True) if n > 1]
    if any(outer != n * inner for (_, outer), (n, inner) in pairwise(far)):
        return None
    return far[-1][1] if far else 0


def _alignment(array: Array, layout: Layout) -> int:
    step = layout.stride * SIZES[layout.dtype]
    return min(array.alignment, step & -step or ALIGNED)
