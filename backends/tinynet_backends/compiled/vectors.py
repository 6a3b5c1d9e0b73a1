"""Random words and normal numbers, several at once as vectors: what a compiler does not find in loops over them."""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from tinynet_backends import exact, philox
from tinynet_backends.compiled.intrinsics import intrinsic

BLOCKS = 16  # of Philox at once: one alone waits for its own products, and more do not fit into the registers
NORMALS = 8
# Products of 32-bit halves, several an instruction, beat the processor's own of 64 bits from AVX2 on.
WIDE = bool(llvm.get_host_cpu_features().get("avx2"))

_WORD, _PLACE = ir.IntType(64), ir.IntType(32)
_LOW32 = 0xFFFFFFFF


def _all(kind: ir.VectorType, value: Any) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


def _spread(builder: Any, kind: ir.VectorType, value: Any) -> Any:
    """A number in every place of a vector."""
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, _PLACE(0))
    return _chosen(builder, one, one, [0] * kind.count)


def _chosen(builder: Any, a: Any, b: Any, places: list[int]) -> Any:
    """The numbers of a, followed by b, at ``places``."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_PLACE, len(places)), places))


def _pairs(builder: Any, a: Any, b: Any) -> Any:
    """a0, b0, a1, b1, …"""
    n = a.type.count
    return _chosen(builder, a, b, [place for j in range(n) for place in (j, n + j)])


def _product(builder: Any, m: int, x: Any) -> tuple[Any, Any]:
    """High and low halves of ``m * x``: `tinynet_backends.philox.multiply`."""
    low, half = _all(x.type, _LOW32), _all(x.type, 32)
    m0, m1 = _all(x.type, m & _LOW32), _all(x.type, m >> 32)
    x0, x1 = builder.and_(x, low), builder.lshr(x, half)
    first = builder.mul(x0, m0)
    middle = builder.add(builder.mul(x1, m0), builder.lshr(first, half))
    carry = builder.add(builder.mul(x0, m1), builder.and_(middle, low))
    high = builder.add(builder.mul(x1, m1), builder.lshr(middle, half))
    lower = builder.or_(builder.shl(carry, half), builder.and_(first, low))
    return builder.add(high, builder.lshr(carry, half)), lower


@intrinsic
def put_blocks(context: Any, c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any, out: Any) -> Any:
    """The words of BLOCKS blocks, from the one at the counter (c0, c1, c2, c3) on, to the address ``out``."""
    kind = ir.VectorType(_WORD, BLOCKS)

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        *counter, k0, k1, out = args
        v0, v1, v2, v3 = (_spread(builder, kind, c) for c in counter)
        first, v0 = v0, builder.add(v0, ir.Constant(kind, list(range(BLOCKS))))
        v1 = builder.add(v1, builder.zext(builder.icmp_unsigned("<", v0, first), kind))
        for turn in range(10):
            high0, low0 = _product(builder, philox._MULTIPLIER[0], v0)
            high1, low1 = _product(builder, philox._MULTIPLIER[1], v2)
            v0 = builder.xor(builder.xor(high1, v1), _spread(builder, kind, k0))
            v2 = builder.xor(builder.xor(high0, v3), _spread(builder, kind, k1))
            v1, v3 = low1, low0
            if turn < 9:
                k0, k1 = (builder.add(k, _WORD(w)) for k, w in zip((k0, k1), philox._WEYL, strict=True))
        even, odd = _pairs(builder, v0, v1), _pairs(builder, v2, v3)
        places = [place for j in range(BLOCKS) for place in (2 * j, 2 * j + 1, 2 * (BLOCKS + j), 2 * (BLOCKS + j) + 1)]
        words = _chosen(builder, even, odd, places)
        builder.store(words, builder.inttoptr(out, words.type.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(*[types.uint64] * 6, types.int64), write


@intrinsic
def put_normals(context: Any, words: Any, lines: Any, out: Any) -> Any:
    """NORMALS normal numbers, float64, of words, by the table `exact.normal_lines`; all three are addresses."""
    kind, real = ir.VectorType(_WORD, NORMALS), ir.VectorType(ir.DoubleType(), NORMALS)
    line = ir.VectorType(ir.DoubleType(), 2).as_pointer()

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        words, lines, out = args
        w = builder.load(builder.inttoptr(words, kind.as_pointer()), align=8)
        bits = builder.or_(builder.lshr(w, _all(kind, 11)), _all(kind, exact.WORD_EXPONENT))
        g = builder.fsub(builder.bitcast(bits, real), _all(real, exact.WORD_OFFSET))
        cells, table = builder.lshr(builder.bitcast(g, kind), _all(kind, 42)), builder.inttoptr(lines, line)
        found = [
            builder.load(builder.gep(table, [builder.extract_element(cells, _PLACE(j))]), align=8)
            for j in range(NORMALS)
        ]
        while len(found) > 1:
            size = 2 * found[0].type.count
            found = [_chosen(builder, a, b, list(range(size))) for a, b in zip(found[::2], found[1::2], strict=True)]
        a, b = (_chosen(builder, found[0], found[0], list(range(n, 2 * NORMALS, 2))) for n in range(2))
        z = builder.bitcast(builder.fadd(a, builder.fmul(b, g)), kind)
        z = builder.xor(z, builder.and_(w, _all(kind, 1 << 63)))
        builder.store(z, builder.inttoptr(out, kind.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), write
