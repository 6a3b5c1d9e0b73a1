"""What kernels need of the machine: memory by address, calls by address, atomic words."""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import partial, wraps
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


def llvm(builder: Any, name: str, result: Any, *values: Any) -> Any:
    """Call LLVM's own function ``name``, whose ``result`` is of this type."""
    function = ir.FunctionType(result, [value.type for value in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, f"llvm.{name}"), values)


def splat(builder: Any, value: Any, kind: Any) -> Any:
    """A number in every place of a vector of this ``kind``."""
    unset = ir.Constant(kind, ir.Undefined)
    one = builder.insert_element(unset, value, _INT(0))
    return builder.shuffle_vector(one, unset, ir.Constant(ir.VectorType(_INT, kind.count), [0] * kind.count))


def emitted(signature: Any, emit: Callable[..., Any]) -> tuple[Any, Callable[..., Any]]:
    """What an intrinsic returns; ``emit(builder, *values)`` writes its instructions and gives its value, None for no value."""

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = emit(builder, *args)
        return context.get_dummy_value() if value is None else value

    return signature, write


def instructions(signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make ``emit``, as in `emitted`, a function of compiled code, whose types are always these."""
    return lambda emit: intrinsic(wraps(emit)(lambda context, *kinds: emitted(signature, emit)))


@intrinsic
def pointer(context: Any, kind: Any, address: Any) -> Any:
    """The memory at ``address`` as numbers of ``kind``, a numba type."""

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[1], context.get_value_type(signature.return_type))

    return types.CPointer(kind.instance_type)(kind, types.int64), write


@intrinsic
def bits(context: Any, kind: Any, value: Any) -> Any:
    """``value`` read as another ``kind`` of number of the same size."""

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[1], context.get_value_type(signature.return_type))

    return kind.instance_type(kind, value), write


def _call(builder: Any, address: Any, *values: Any) -> None:
    """Call the C function of these arguments at ``address``, which returns nothing."""
    function = ir.FunctionType(_VOID, [value.type for value in values])
    builder.call(builder.inttoptr(address, function.as_pointer()), values)


@instructions(types.void(*[types.int64] * 4))
def call(builder: Any, kernel: Any, args: Any, part: Any, parts: Any) -> None:
    """``kernel(args, part, parts)``, given its address."""
    _call(builder, kernel, args, part, parts)


def _cblas(codes: int, builder: Any, function: Any, *values: Any) -> None:
    """Call a row-major CBLAS function at an address; the first ``codes`` of its arguments are codes of matrices."""
    _call(builder, function, _ROW_MAJOR, *(builder.trunc(code, _INT) for code in values[:codes]), *values[codes:])


@intrinsic
def gemm(
    context: Any, function: Any, ta: Any, tb: Any, m: Any, n: Any, k: Any, one: Any, a: Any, lda: Any, b: Any, ldb: Any,
    zero: Any, c: Any, ldc: Any,
) -> Any:  # fmt: skip
    """``c = op(a) @ op(b)`` by a CBLAS ``function`` with 64-bit sizes; all but ``one`` and ``zero`` are words."""
    word = types.int64
    return emitted(types.void(*[word] * 6, one, *[word] * 4, one, *[word] * 2), partial(_cblas, 2))


@intrinsic
def gemv(
    context: Any, function: Any, ta: Any, m: Any, n: Any, one: Any, a: Any, lda: Any, x: Any, incx: Any, zero: Any,
    y: Any, incy: Any,
) -> Any:  # fmt: skip
    """``y = op(a) @ x``, a (m, n) as it is stored: as `gemm`, for a vector."""
    word = types.int64
    return emitted(types.void(*[word] * 4, one, *[word] * 4, one, *[word] * 2), partial(_cblas, 1))


@instructions(types.int64(types.int64, types.int64))
def fetch_add(builder: Any, address: Any, value: Any) -> Any:
    """Add to the word at ``address`` atomically; returns the word before."""
    return builder.atomic_rmw("add", builder.inttoptr(address, _WORD.as_pointer()), value, "seq_cst")


@instructions(types.int64(types.int64))
def load(builder: Any, address: Any) -> Any:
    """The word at ``address``, atomically."""
    return builder.load_atomic(builder.inttoptr(address, _WORD.as_pointer()), "seq_cst", 8)


@instructions(types.void(types.int64, types.int64))
def store(builder: Any, address: Any, value: Any) -> None:
    """Set the word at ``address``, atomically."""
    builder.store_atomic(value, builder.inttoptr(address, _WORD.as_pointer()), "seq_cst", 8)


_X86 = platform.machine() in ("x86_64", "AMD64")


@instructions(types.void())
def pause(builder: Any) -> None:
    """Tell the processor that this loop waits."""
    if _X86:
        llvm(builder, "x86.sse2.pause", _VOID)


_FLUSHING = 0x8040  # bits of the control word: denormal results, and denormal operands, count as 0


def _control_word(builder: Any) -> tuple[Any, Callable[[str], Any]]:
    """Memory for the word that says how floats are computed, and a way to write an instruction on it, by its name."""
    place = cgutils.alloca_once(builder, _INT)
    address = builder.bitcast(place, ir.IntType(8).as_pointer())
    return place, lambda name: llvm(builder, f"x86.sse.{name}", _VOID, address)


@instructions(types.int32())
def flush(builder: Any) -> Any:
    """From now on denormal floats count as 0 in this thread; returns the control word before.

    Dividing one, or taking its root, takes some processors a hundred times as long.
    """
    if not _X86:
        return _INT(0)
    place, instruct = _control_word(builder)
    instruct("stmxcsr")
    before = builder.load(place)
    builder.store(builder.or_(before, _INT(_FLUSHING)), place)
    instruct("ldmxcsr")
    return before


@instructions(types.void(types.int32))
def restore(builder: Any, before: Any) -> None:
    """Put back the control word that `flush` returned."""
    if _X86:
        place, instruct = _control_word(builder)
        builder.store(before, place)
        instruct("ldmxcsr")


def wide_product(builder: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """The upper and the lower 64 bits of the product of two unsigned words."""
    wide = ir.IntType(128)
    product = builder.mul(builder.zext(a, wide), builder.zext(b, wide))
    return builder.trunc(builder.lshr(product, wide(64)), _WORD), builder.trunc(product, _WORD)


@instructions(types.UniTuple(types.uint64, 2)(types.uint64, types.uint64))
def multiply(builder: Any, a: Any, b: Any) -> Any:
    """`wide_product`, as a function of compiled code."""
    return cgutils.pack_array(builder, wide_product(builder, a, b))


@instructions(types.void(*[types.int64] * 3))
def copy(builder: Any, target: Any, source: Any, size: Any) -> None:
    """Copy ``size`` bytes from one address to another; they do not overlap."""
    byte = ir.IntType(8).as_pointer()
    cgutils.raw_memcpy(builder, builder.inttoptr(target, byte), builder.inttoptr(source, byte), size, 1)


@instructions(types.void(types.int64))
def prefetch(builder: Any, address: Any) -> None:
    """Prefetch the memory at ``address``, which may be invalid."""
    place = builder.inttoptr(address, ir.IntType(8).as_pointer())
    llvm(builder, f"prefetch.{place.type.intrinsic_name}", _VOID, place, _INT(0), _INT(2), _INT(1))
