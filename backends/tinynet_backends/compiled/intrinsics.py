"""What kernels need of the machine: memory by address, calls by address, atomic words."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic as _intrinsic

intrinsic: Any = _intrinsic
_WORD, _INT, _VOID = ir.IntType(64), ir.IntType(32), ir.VoidType()
_ROW_MAJOR = _INT(101)  # CBLAS's code of an order


def has(feature: str) -> bool:
    """Whether the processor that numba compiles for has a feature, such as "avx512f"."""
    target: Any = cpu_target.target_context
    return f"+{feature}" in target.codegen().magic_tuple()[2].split(",")


@intrinsic
def pointer(context: Any, kind: Any, address: Any) -> Any:
    """The memory at ``address`` as numbers of ``kind``, a numba type."""

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[1], context.get_value_type(signature.return_type))

    return types.CPointer(kind.instance_type)(kind, types.int64), write


def _call(builder: Any, address: Any, *values: Any) -> None:
    """Call the C function of these arguments at ``address``, which returns nothing."""
    function = ir.FunctionType(_VOID, [value.type for value in values])
    builder.call(builder.inttoptr(address, function.as_pointer()), values)


@intrinsic
def call(context: Any, kernel: Any, args: Any, part: Any, parts: Any) -> Any:
    """``kernel(args, part, parts)``, given its address."""

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _call(builder, *args)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), write


def _cblas(codes: int, *kinds: Any) -> Any:
    """A call of a row-major CBLAS function: its address, ``codes`` codes of matrices, and arguments of ``kinds``."""

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function, *values = args
        values[:codes] = [builder.trunc(code, _INT) for code in values[:codes]]
        _call(builder, function, _ROW_MAJOR, *values)
        return context.get_dummy_value()

    return types.void(types.int64, *[types.int64] * codes, *kinds), write


@intrinsic
def gemm(
    context: Any, function: Any, ta: Any, tb: Any, m: Any, n: Any, k: Any, one: Any, a: Any, lda: Any, b: Any, ldb: Any,
    zero: Any, c: Any, ldc: Any,
) -> Any:  # fmt: skip
    """``c = op(a) @ op(b)`` by a CBLAS ``function`` with 64-bit sizes; all but ``one`` and ``zero`` are words."""
    words = [types.int64] * 4
    return _cblas(2, *words[:3], one, *words, one, *words[:2])


@intrinsic
def gemv(
    context: Any, function: Any, ta: Any, m: Any, n: Any, one: Any, a: Any, lda: Any, x: Any, incx: Any, zero: Any,
    y: Any, incy: Any,
) -> Any:  # fmt: skip
    """``y = op(a) @ x``, a (m, n) as it is stored: as `gemm`, for a vector."""
    words = [types.int64] * 4
    return _cblas(1, *words[:2], one, *words, one, *words[:2])


@intrinsic
def fetch_add(context: Any, address: Any, value: Any) -> Any:
    """Add to the word at ``address`` atomically; returns the word before."""

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", builder.inttoptr(args[0], _WORD.as_pointer()), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), write


@intrinsic
def load(context: Any, address: Any) -> Any:
    """The word at ``address``, atomically."""

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(builder.inttoptr(args[0], _WORD.as_pointer()), "seq_cst", 8)

    return types.int64(types.int64), write


@intrinsic
def store(context: Any, address: Any, value: Any) -> Any:
    """Set the word at ``address``, atomically."""

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], builder.inttoptr(args[0], _WORD.as_pointer()), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), write


_X86 = platform.machine() in ("x86_64", "AMD64")


@intrinsic
def pause(context: Any) -> Any:
    """Tell the processor that this loop waits."""

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if _X86:
            function = ir.FunctionType(_VOID, [])
            builder.call(cgutils.get_or_insert_function(builder.module, function, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), write


_FLUSHING = 0x8040  # bits of the control word: denormal results, and denormal operands, count as 0


def _control_word(builder: Any) -> tuple[Any, Callable[[str], None]]:
    """Memory for the word that says how floats are computed, and a way to write an instruction on it, by its name."""
    place = cgutils.alloca_once(builder, _INT)
    address = builder.bitcast(place, ir.IntType(8).as_pointer())

    def write(name: str) -> None:
        function = ir.FunctionType(_VOID, [address.type])
        builder.call(cgutils.get_or_insert_function(builder.module, function, f"llvm.x86.sse.{name}"), [address])

    return place, write


@intrinsic
def flush(context: Any) -> Any:
    """From now on denormal floats count as 0 in this thread; returns the control word before.

    Dividing one, or taking its root, takes some processors a hundred times as long.
    """

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not _X86:
            return _INT(0)
        place, instruct = _control_word(builder)
        instruct("stmxcsr")
        before = builder.load(place)
        builder.store(builder.or_(before, _INT(_FLUSHING)), place)
        instruct("ldmxcsr")
        return before

    return types.int32(), write


@intrinsic
def restore(context: Any, before: Any) -> Any:
    """Put back the control word that `flush` returned."""

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if _X86:
            place, instruct = _control_word(builder)
            builder.store(args[0], place)
            instruct("ldmxcsr")
        return context.get_dummy_value()

    return types.void(types.int32), write


@intrinsic
def bits(context: Any, kind: Any, value: Any) -> Any:
    """``value`` read as another ``kind`` of number of the same size."""

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[1], context.get_value_type(signature.return_type))

    return kind.instance_type(kind, value), write


@intrinsic
def multiply(context: Any, a: Any, b: Any) -> Any:
    """The upper and the lower 64 bits of the product of two unsigned words."""

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        halves = [builder.trunc(builder.lshr(product, wide(64)), _WORD), builder.trunc(product, _WORD)]
        return context.make_tuple(builder, signature.return_type, halves)

    return types.UniTuple(types.uint64, 2)(types.uint64, types.uint64), write


@intrinsic
def copy(context: Any, target: Any, source: Any, size: Any) -> Any:
    """Copy ``size`` bytes from one address to another; they do not overlap."""

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        to, from_ = (builder.inttoptr(a, byte) for a in args[:2])
        cgutils.raw_memcpy(builder, to, from_, args[2], 1)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), write


@intrinsic
def prefetch(context: Any, address: Any) -> Any:
    """Prefetch the memory at ``address``, which may be invalid."""

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = ir.FunctionType(_VOID, [byte, word, word, word])
        ask = cgutils.get_or_insert_function(builder.module, function, f"llvm.prefetch.{byte.intrinsic_name}")
        builder.call(ask, [builder.inttoptr(args[0], byte), word(0), word(2), word(1)])
        return context.get_dummy_value()

    return types.void(types.int64), write
