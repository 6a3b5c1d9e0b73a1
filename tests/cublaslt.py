"""An interpreter of cublasLt's descriptors in NumPy, written from its header: the counterpart of `cuda.plan` in tests.

A buffer is a one-dimensional array of elements. A descriptor that cublasLt would refuse, or that reads or writes beyond a
buffer, is an error.
"""

import numpy as np
from tinynet_backends.cuda.plan import OPERANDS, SIZES

DROPPED = {"bf16": 16, "tf32": 13}  # bits of a float32 that the operands of a product lose


def rounded(x, precision):
    """float32 numbers rounded as operands of a product: to nearest, ties to even."""
    if precision not in DROPPED:
        return x
    drop = DROPPED[precision]
    bits = np.ascontiguousarray(x, "float32").view("uint32").astype("uint64")
    bits = (bits + (1 << (drop - 1)) - 1 + (bits >> drop & 1)) >> drop << drop
    return bits.astype("uint32").view("float32").reshape(x.shape)


def words(x):
    """Numbers as bfloat16, in 16-bit words."""
    return (rounded(np.asarray(x, "float32"), "bf16").view("uint32") >> 16).astype("uint16")


def numbers(x):
    """The numbers in memory, with bfloat16 as float32."""
    return (x.astype("uint32") << 16).view("float32") if x.dtype == "uint16" else x


def extent(layout):
    """Elements that one matrix spans."""
    return (layout.cols - 1) * layout.ld + layout.rows


def matrices(buffer, layout, batch):
    """The column-major matrices that a layout describes in a buffer: (batch, rows, cols), a view."""
    assert layout.ld >= layout.rows, "the leading dimension is smaller than a column"
    assert layout.stride >= 0
    last = (batch - 1) * layout.stride + extent(layout)
    assert last <= buffer.size, f"{last} elements of {buffer.size}"
    size = buffer.itemsize
    return np.lib.stride_tricks.as_strided(
        buffer, (batch, layout.rows, layout.cols), (layout.stride * size, size, layout.ld * size)
    )


def matmul(plan, a, b, d, bias=None):
    """``D = epilogue(op(A) op(B))`` into ``d``; the epilogue reads or writes ``bias``."""
    e = int(plan.epilogue)
    for layout, alignment in zip((plan.a, plan.b, plan.d), plan.alignments, strict=True):
        assert layout.dtype in SIZES
        assert alignment & (alignment - 1) == 0, "an alignment is a power of two"
    assert plan.a.dtype == plan.b.dtype == OPERANDS[plan.precision]
    assert plan.batch == 1 or plan.d.stride >= extent(plan.d), "results of a batch overlap"
    mats = [matrices(x, layout, plan.batch) for x, layout in ((a, plan.a), (b, plan.b), (d, plan.d))]
    A = rounded(numbers(mats[0].swapaxes(1, 2) if plan.transpose_a else mats[0]), plan.precision)
    B = rounded(numbers(mats[1].swapaxes(1, 2) if plan.transpose_b else mats[1]), plan.precision)
    assert A.shape[1:] == (plan.m, plan.k)
    assert B.shape[1:] == (plan.k, plan.n)
    assert mats[2].shape[1:] == (plan.m, plan.n)
    y = A @ B
    vectors = None
    if e & (4 | 256):
        assert bias.size >= plan.batch * plan.m
        vectors = bias.reshape(-1)[: plan.batch * plan.m].reshape(plan.batch, plan.m)
    if e & 4:
        y = y + numbers(vectors)[:, :, None]
    if e & 2:
        y = np.maximum(y, 0)
    if e & 256:
        vectors[...] = stored(A.sum(axis=2), vectors)
    mats[2][...] = stored(y, mats[2])


def stored(x, memory):
    return words(x) if memory.dtype == "uint16" else x
