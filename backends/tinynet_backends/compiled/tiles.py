"""The vectors of AVX-512, for what a compiler does not find by itself: tiles of a product, transposition.

They are LLVM instructions, which become those of this processor.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from tinynet_backends.compiled.intrinsics import emitted, has, intrinsic, llvm, splat

# a vector; rows of a tile and vectors side by side: sums and operands fill the 32 registers
BITS, ROWS, PANEL = 512, 8, 3
_AHEAD = 8  # terms ahead of which rows of b are fetched: a panel does not fit into the first-level cache
_WORD, _INT, _VOID = ir.IntType(64), ir.IntType(32), ir.VoidType()
_FLOATS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}


def available() -> bool:
    """Whether the processor that numba compiles for has them."""
    return has("avx512f")


class _Vectors:
    """Instructions on vectors of a kind of number, as long as the registers or of as many ``lanes``."""

    def __init__(self, builder: ir.IRBuilder, kind: Any, lanes: int = 0) -> None:
        self.builder, self.size, self.lanes = builder, kind.bitwidth // 8, lanes or BITS // kind.bitwidth
        self.real, self.name = _FLOATS[kind], f"v{self.lanes}f{kind.bitwidth}"
        self.type, self._numbers = ir.VectorType(self.real, self.lanes), ir.VectorType(_INT, self.lanes)
        self.zero = ir.Constant(self.type, [0.0] * self.lanes)

    def first(self, n: Any) -> Any:
        """A mask: the first ``n`` lanes."""
        lane = ir.Constant(self._numbers, list(range(self.lanes)))
        many = splat(self.builder, self.builder.trunc(n, _INT), self._numbers)
        return self.builder.icmp_signed("<", lane, many)

    def load(self, address: Any, offset: int = 0, mask: Any = None) -> Any:
        """The vector ``offset`` vectors from an address; without a mask's lanes, which are not touched."""
        place = self._place(address, offset)
        if mask is not None:
            name = f"masked.load.{self.name}.p0"
            return llvm(self.builder, name, self.type, place, _INT(self.size), mask, self.zero)
        value = self.builder.load(place)
        value.align = self.size
        return value

    def store(self, value: Any, address: Any, offset: int = 0, mask: Any = None) -> None:
        place = self._place(address, offset)
        if mask is not None:
            llvm(self.builder, f"masked.store.{self.name}.p0", _VOID, value, place, _INT(self.size), mask)
        else:
            instruction: Any = self.builder.store(value, place)
            instruction.align = self.size

    def prefetch(self, address: Any, offset: int = 0) -> None:
        """Bring a vector into the first-level cache; there may be nothing at the address."""
        place = self._place(address, offset)
        llvm(self.builder, "prefetch.p0", _VOID, place, _INT(0), _INT(3), _INT(1))

    def spread(self, address: Any) -> Any:
        """The number at an address in all lanes."""
        number = self.builder.load(self.builder.inttoptr(address, self.real.as_pointer()))
        number.align = self.size
        return splat(self.builder, number, self.type)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return llvm(self.builder, f"fma.{self.name}", self.type, a, b, c)

    def in_turns(self, a: Any, b: Any) -> tuple[Any, Any]:
        """The lanes of two in turns: those of their lower halves, and of their upper ones."""
        turns = [lane + of for lane in range(self.lanes) for of in (0, self.lanes)]
        lower, upper = (ir.Constant(self._numbers, half) for half in (turns[: self.lanes], turns[self.lanes :]))
        return self.builder.shuffle_vector(a, b, lower), self.builder.shuffle_vector(a, b, upper)

    def _place(self, address: Any, offset: int) -> Any:
        address = self.builder.add(address, _WORD(offset * self.lanes * self.size))
        return self.builder.inttoptr(address, self.type.as_pointer())


@intrinsic
def tile(
    context: Any, real: Any, vectors: Any, k: Any, a: Any, down: Any, right: Any, b: Any, ldb: Any, c: Any, ldc: Any,
    rows: Any, columns: Any, bias: Any, more: Any,
) -> Any:  # fmt: skip
    """``c = a @ b``, plus ``bias`` unless it is 0, plus what is in c if ``more``: a tile of a product.

    c is rows x columns, at most `ROWS` by ``vectors`` (at most `PANEL`) vectors. Rows of a lie ``down``
    bytes apart and its columns ``right``; rows of b and c are without gaps, ``ldb`` and ``ldc`` bytes apart. k is at least 1.
    """

    def emit(builder: Any, _: Any, vectors: Any, *rest: Any) -> None:
        v, end = _Vectors(builder, real.instance_type), builder.append_basic_block("end")
        choice = builder.switch(vectors, end)
        for width in range(1, PANEL + 1):
            block = builder.append_basic_block("tile")
            choice.add_case(_WORD(width), block)
            builder.position_at_end(block)
            _tile(builder, v, width, end, *rest)
        builder.position_at_end(end)

    return emitted(types.void(real, *[types.int64] * 13), emit)


def _tile(
    builder: Any, v: _Vectors, width: int, end: Any, k: Any, a: Any, down: Any, right: Any, b: Any, ldb: Any,
    c: Any, ldc: Any, rows: Any, columns: Any, bias: Any, more: Any,
) -> None:  # fmt: skip
    """A `tile` of ``width`` vectors; then on to ``end``."""
    ragged = builder.sub(columns, _WORD((width - 1) * v.lanes))  # columns of the last vector, if it is not full
    last = v.first(ragged)
    ahead, starts = builder.mul(ldb, _WORD(_AHEAD)), [_WORD(0)]
    for row in range(1, ROWS):  # a missing row repeats the one before
        there = builder.icmp_signed("<", _WORD(row), rows)
        starts.append(builder.select(there, builder.mul(down, _WORD(row)), starts[-1]))

    def masks(masked: bool) -> list[Any]:
        return [last if masked and column == width - 1 else None for column in range(width)]

    def add_up(masked: bool) -> list[Any]:
        before, loop, after = builder.block, builder.append_basic_block("sums"), builder.append_basic_block("summed")
        builder.branch(loop)
        builder.position_at_end(loop)
        step, at_a, at_b = (builder.phi(_WORD) for _ in range(3))
        sums = [builder.phi(v.type) for _ in range(ROWS * width)]
        for column in range(width):
            v.prefetch(builder.add(at_b, ahead), column)
        vectors = [v.load(at_b, column, mask) for column, mask in enumerate(masks(masked))]
        new = []
        for row, start in enumerate(starts):
            x = v.spread(builder.add(at_a, start))
            new += [v.fma(x, y, sums[row * width + column]) for column, y in enumerate(vectors)]
        next_step = builder.add(step, _WORD(1))
        changes = [(step, _WORD(0), next_step), (at_a, a, builder.add(at_a, right)), (at_b, b, builder.add(at_b, ldb))]
        for variable, at_first, then in changes + [(s, v.zero, n) for s, n in zip(sums, new, strict=True)]:
            variable.add_incoming(at_first, before)
            variable.add_incoming(then, loop)
        builder.cbranch(builder.icmp_signed("<", next_step, k), loop, after)
        builder.position_at_end(after)
        return new

    def either(condition: Any, one: Any, other: Any) -> list[Any]:
        """The vectors that ``one()`` gives, or else those of ``other()``."""
        with builder.if_else(condition) as (then, otherwise):
            with then:
                values, here = one(), builder.block
            with otherwise:
                others, there = other(), builder.block
        merged = [builder.phi(v.type) for _ in values]
        for variable, value, instead in zip(merged, values, others, strict=True):
            variable.add_incoming(value, here)
            variable.add_incoming(instead, there)
        return merged

    def row_at(address: Any, masked: bool) -> list[Any]:
        return [v.load(address, column, mask) for column, mask in enumerate(masks(masked))]

    def zeros() -> list[Any]:
        return [v.zero] * width

    def put_rows(values: list[Any], masked: bool) -> None:
        """Store a tile that has all its rows."""
        place = c
        for row in range(ROWS):
            for column, mask in enumerate(masks(masked)):
                v.store(values[row * width + column], place, column, mask)
            place = builder.add(place, ldc)

    def finish(masked: bool) -> None:
        sums = add_up(masked)
        usual, other = builder.append_basic_block("usual"), builder.append_basic_block("other")
        whole, first = builder.icmp_signed("==", rows, _WORD(ROWS)), builder.icmp_signed("==", more, _WORD(0))
        builder.cbranch(builder.and_(whole, first), usual, other)  # a branch a row takes longer than a sum of few terms
        builder.position_at_end(usual)
        with builder.if_else(builder.icmp_signed("!=", bias, _WORD(0))) as (then, otherwise):
            with then:
                shift = row_at(bias, masked)
                put_rows([builder.fadd(value, shift[n % width]) for n, value in enumerate(sums)], masked)
            with otherwise:
                put_rows(sums, masked)
        builder.branch(end)
        builder.position_at_end(other)
        shift = either(builder.icmp_signed("!=", bias, _WORD(0)), partial(row_at, bias, masked), zeros)
        adding, place = builder.icmp_signed("!=", more, _WORD(0)), c
        for row in range(ROWS):
            block = builder.append_basic_block("row")
            builder.cbranch(builder.icmp_signed("<", _WORD(row), rows), block, end)
            builder.position_at_end(block)
            old = either(adding, partial(row_at, place, masked), zeros)
            for column, mask in enumerate(masks(masked)):
                value = builder.fadd(builder.fadd(old[column], sums[row * width + column]), shift[column])
                v.store(value, place, column, mask)
            place = builder.add(place, ldc)
        builder.branch(end)

    full, part = builder.append_basic_block("full"), builder.append_basic_block("part")
    builder.cbranch(builder.icmp_signed("<", ragged, _WORD(v.lanes)), part, full)
    for block, masked in ((full, False), (part, True)):
        builder.position_at_end(block)
        finish(masked)


@intrinsic
def transpose(
    context: Any, real: Any, source: Any, apart: Any, target: Any, there: Any, rows: Any, columns: Any
) -> Any:
    """Rows of ``source``, ``apart`` bytes from one another, become columns of ``target``, whose rows are ``there`` bytes apart.

    As many of both as a vector has lanes, or fewer; rows of the target are written in full, with anything.
    """

    def emit(builder: Any, _: Any, source: Any, apart: Any, target: Any, there: Any, rows: Any, columns: Any) -> None:
        v, vectors = _Vectors(builder, real.instance_type), []
        mask = v.first(columns)
        for row in range(v.lanes):
            vectors.append(v.load(source, 0, mask))
            more = builder.icmp_signed("<", _WORD(row + 1), rows)
            source = builder.select(more, builder.add(source, apart), source)
        half = v.lanes // 2
        for _ in range(v.lanes.bit_length() - 1):
            pairs = zip(vectors[:half], vectors[half:], strict=True)
            vectors = [vector for a, b in pairs for vector in v.in_turns(a, b)]
        end = builder.append_basic_block("end")
        for row, vector in enumerate(vectors):
            block = builder.append_basic_block("row")
            builder.cbranch(builder.icmp_signed("<", _WORD(row), columns), block, end)
            builder.position_at_end(block)
            v.store(vector, target)
            target = builder.add(target, there)
        builder.branch(end)
        builder.position_at_end(end)

    return emitted(types.void(real, *[types.int64] * 6), emit)


def _copy(lanes: int = 0) -> Any:
    @intrinsic
    def copy(context: Any, real: Any, source: Any, target: Any, columns: Any) -> Any:
        def emit(builder: Any, _: Any, source: Any, target: Any, columns: Any) -> None:
            v = _Vectors(builder, real.instance_type, lanes)
            v.store(v.load(source, 0, v.first(columns)), target)

        return emitted(types.void(real, *[types.int64] * 3), emit)

    return copy


# Copy a vector, or as many numbers as a tile has rows: ``copy(real, source, target, columns)``. Those from ``columns`` on
# are not there and become 0.
copy_vector, copy_strip = _copy(), _copy(ROWS)
