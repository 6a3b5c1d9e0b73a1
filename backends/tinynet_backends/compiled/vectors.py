"""Random words, normal numbers and permutations, several at once as vectors: what a compiler does not find in loops."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from tinynet_backends import exact, philox
from tinynet_backends.compiled.intrinsics import has, instructions, llvm, splat, wide_product

# Blocks that Philox makes at once: two vectors, since one alone waits for its own products, and with AVX-512 a few scalars
# beside them, whose products are made by a unit of the processor that vectors do not use.
LANES, VECTORS, SINGLE = 8, 2, 4 if has("avx512f") else 0
BLOCKS = VECTORS * LANES + SINGLE
NORMALS = 8
PAIRS = 16  # of numbers of 32 bits, in a round of a Feistel network
# Products of 32-bit halves, several an instruction, beat the processor's own of 64 bits from AVX2 on.
WIDE = has("avx2")
# Products of 52 bits that are added to a sum, and the lower halves of those of 64 bits.
_FUSED = has("avx512ifma") and has("avx512dq")

_WORD, _PLACE = ir.IntType(64), ir.IntType(32)
_VECTOR = ir.VectorType(_WORD, LANES)
_LOW32 = 0xFFFFFFFF


def _all(kind: ir.VectorType, value: Any) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


def _chosen(builder: Any, a: Any, b: Any, places: list[int]) -> Any:
    """The numbers of a, followed by b, at ``places``."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_PLACE, len(places)), places))


def _product(builder: Any, m: int, x: Any) -> tuple[Any, Any]:
    """High and low halves of ``m * x``: `tinynet_backends.philox.multiply`."""
    if x.type == _WORD:
        return wide_product(builder, x, _WORD(m))
    if _FUSED:
        return _fused_product(builder, m, x)
    low, half = _all(_VECTOR, _LOW32), _all(_VECTOR, 32)
    m0, m1 = _all(_VECTOR, m & _LOW32), _all(_VECTOR, m >> 32)
    x0, x1 = builder.and_(x, low), builder.lshr(x, half)
    first = builder.mul(x0, m0)
    middle = builder.add(builder.mul(x1, m0), builder.lshr(first, half))
    carry = builder.add(builder.mul(x0, m1), builder.and_(middle, low))
    high = builder.add(builder.mul(x1, m1), builder.lshr(middle, half))
    lower = builder.or_(builder.shl(carry, half), builder.and_(first, low))
    return builder.add(high, builder.lshr(carry, half)), lower


def _fused_product(builder: Any, m: int, x: Any) -> tuple[Any, Any]:
    """The same with AVX-512 IFMA, which adds the lower or the upper 52 bits of a product of 52 bits each to a sum.

    With ``x = x1 * 2**52 + x0`` and ``m = m1 * 2**12 + m0``, all that is below 2**52 in ``m * x / 2**12`` matters by what
    it carries alone, and ``m0 * 2**40`` has 52 bits.
    """

    def add(half: str, total: Any, a: Any, b: Any) -> Any:
        return llvm(builder, f"x86.avx512.vpmadd52{half}.uq.512", _VECTOR, total, a, b)

    m1, m0, x1 = _all(_VECTOR, m >> 12), _all(_VECTOR, (m & 0xFFF) << 40), builder.lshr(x, _all(_VECTOR, 52))
    carry = add("l", add("h", add("l", _all(_VECTOR, 0), x, m1), x, m0), x1, m0)
    high = add("h", add("h", builder.mul(x1, m1), x, m1), x1, m0)
    return builder.add(high, builder.lshr(carry, _all(_VECTOR, 52))), builder.mul(x, _all(_VECTOR, m))


def _mixed(builder: Any, a: Any, b: Any, key: Any) -> Any:
    """``a ^ b ^ key``, a scalar if a and b are: ``key`` is one, and is combined with scalars first."""
    if a.type == _WORD:
        a, b = b, a
    if b.type == _WORD:
        key, b = builder.xor(key, b), None
    if a.type == _WORD:
        return builder.xor(a, key)
    mixed = builder.xor(a, splat(builder, key, _VECTOR))
    return mixed if b is None else builder.xor(mixed, b)


@instructions(types.void(*[types.uint64] * 6, types.int64))
def put_blocks(builder: Any, c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any, out: Any) -> None:
    """The words of BLOCKS blocks, from the one at the counter (c0, c1, c2, c3) on, to the address ``out``.

    No counter's first word may overflow: what is equal for all blocks then costs next to nothing in two rounds of ten.
    """
    first, counter = splat(builder, c0, _VECTOR), (c1, c2, c3)
    lanes = (ir.Constant(_VECTOR, [*range(n, n + LANES)]) for n in range(0, VECTORS * LANES, LANES))
    states = [(builder.add(first, lane), *counter) for lane in lanes]
    states += [(builder.add(c0, _WORD(n)), *counter) for n in range(VECTORS * LANES, BLOCKS)]
    for _ in range(10):
        for n, (v0, v1, v2, v3) in enumerate(states):  # interleaved: while one waits for a product, others go on
            high0, low0 = _product(builder, philox.MULTIPLIER[0], v0)
            high1, low1 = _product(builder, philox.MULTIPLIER[1], v2)
            states[n] = _mixed(builder, high1, v1, k0), low1, _mixed(builder, high0, v3, k1), low0
        k0, k1 = (builder.add(k, _WORD(w)) for k, w in zip((k0, k1), philox.WEYL, strict=True))
    place = 0
    for state in states:
        for part in _in_order(builder, state):
            builder.store(part, builder.inttoptr(builder.add(out, _WORD(place)), part.type.as_pointer()), align=8)
            place += 8 * getattr(part.type, "count", 1)


def _in_order(builder: Any, state: Any) -> list[Any]:
    """The words of LANES blocks, their words 0, their words 1, …, block after block; of one block its words."""
    if state[0].type == _WORD:
        return list(state)
    blocks: list[Any] = [None] * LANES
    for odd in range(2):  # words 0 and 1 of blocks 0, 2, …, or 1, 3, …, in pairs, as processors have an instruction for
        pairs = [place for j in range(odd, LANES, 2) for place in (j, LANES + j)]
        front, back = (_chosen(builder, state[j], state[j + 1], pairs) for j in (0, 2))
        for j in range(0, LANES, 2):
            blocks[j + odd] = _chosen(builder, front, back, [j, j + 1, LANES + j, LANES + j + 1])
    return blocks


@instructions(types.void(*[types.int64] * 3))
def put_normals(builder: Any, words: Any, lines: Any, out: Any) -> None:
    """NORMALS normal numbers, float64, of words, by the table `exact.normal_lines`; all three are addresses."""
    kind, real = ir.VectorType(_WORD, NORMALS), ir.VectorType(ir.DoubleType(), NORMALS)
    line = ir.VectorType(ir.DoubleType(), 2).as_pointer()
    w = builder.load(builder.inttoptr(words, kind.as_pointer()), align=8)
    bits = builder.or_(builder.lshr(w, _all(kind, 11)), _all(kind, exact.WORD_EXPONENT))
    g = builder.fsub(builder.bitcast(bits, real), _all(real, exact.WORD_OFFSET))
    cells, table = builder.lshr(builder.bitcast(g, kind), _all(kind, 42)), builder.inttoptr(lines, line)
    found = [
        builder.load(builder.gep(table, [builder.extract_element(cells, _PLACE(j))]), align=8) for j in range(NORMALS)
    ]
    while len(found) > 1:
        size = 2 * found[0].type.count
        found = [_chosen(builder, a, b, list(range(size))) for a, b in zip(found[::2], found[1::2], strict=True)]
    a, b = (_chosen(builder, found[0], found[0], list(range(n, 2 * NORMALS, 2))) for n in range(2))
    z = builder.bitcast(builder.fadd(a, builder.fmul(b, g)), kind)
    z = builder.xor(z, builder.and_(w, _all(kind, 1 << 63)))
    builder.store(z, builder.inttoptr(out, kind.as_pointer()), align=8)


@instructions(types.void(*[types.int64] * 2, *[types.uint64] * 2))
def feistel_round(builder: Any, x: Any, y: Any, bound: Any, key: Any) -> None:
    """A round of `permutation.permute` on `PAIRS` pairs of uint32: ``x = (x + hash(y, key)) % bound``, with x below ``bound``.

    x and y are addresses, and the hash is `permutation._below`.
    """
    kind = ir.VectorType(_PLACE, PAIRS)
    pairs = ir.VectorType(_WORD, PAIRS // 2)
    x_at, y_at = (builder.inttoptr(a, kind.as_pointer()) for a in (x, y))
    bound, key = (splat(builder, builder.trunc(a, _PLACE), kind) for a in (bound, key))
    h = builder.xor(builder.load(y_at, align=4), key)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        h = builder.mul(builder.xor(h, builder.lshr(h, _all(kind, shift))), _all(kind, factor))
    h = builder.bitcast(builder.xor(h, builder.lshr(h, _all(kind, 16))), pairs)
    wide = builder.and_(builder.bitcast(bound, pairs), _all(pairs, _LOW32))
    even = builder.mul(builder.and_(h, _all(pairs, _LOW32)), wide)
    odd = builder.mul(builder.lshr(h, _all(pairs, 32)), wide)
    upper = builder.and_(odd, _all(pairs, _LOW32 << 32))
    h = builder.bitcast(builder.or_(builder.lshr(even, _all(pairs, 32)), upper), kind)
    x, rest = builder.load(x_at, align=4), builder.sub(bound, h)  # x + h may have 33 bits
    left = builder.sub(x, rest)
    builder.store(builder.select(builder.icmp_unsigned(">=", x, rest), left, builder.add(x, h)), x_at, align=4)
