"""The launches of a step as one, if each of them has a single block: one block then does one after another.

A launch costs time, and in a network this small each of them has little to do. No result depends on the grid, and every kernel
runs in one block here, so the bits are the same.

What is left is latency, so kernels are compiled for the sizes of the step: loops over a few layers, rows or columns become
straight code without what does not apply. Addresses, and numbers that are not sizes, are in a table: text is the same, and
compiled once, for all steps of the same sizes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from tinynet_backends.cuda.source import Source

_TYPES = {
    "float32": "float", "float64": "double", "int32": "int", "int64": "i64", "uint16": "u16", "uint64": "u64", "bool": "bool",
}  # fmt: skip
_BODIES = 32  # at most, of kernels for certain sizes: compiling each takes time
_INDICES = {
    "threadIdx": "(Place{threadIdx.x % ROW, threadIdx.x / ROW % (THREADS / ROW)})",  # so their range is known
    "blockDim": "(Place{ROW, THREADS / ROW})",
    "blockIdx": "(Place{0, 0})",
    "gridDim": "(Place{1, 1})",
}


class Launch(NamedTuple):
    """What `CudaOperations._launch` is called with."""

    source: Source
    kernel: str
    blocks: int
    row: int
    args: tuple[Any, ...]
    room: int


class _Code(NamedTuple):
    """What the text of kernels depends on."""

    source: Source
    row: int
    count: int  # of a struct's elements that are used, or 0 if that is not known


class _Body(NamedTuple):
    """What launches have in common that differ in words of the table."""

    code: _Code
    kernel: str
    args: str  # in C++, as `_argument` has them


def _text(code: _Code, space: str) -> str:
    """Its kernels, to be called as functions by the threads of one block."""
    source, given = code.source, {"ROW": code.row} | ({"COUNT": code.count} if code.count else {})
    body = source.body.replace("KERNEL ", "DEVICE void ")
    body = re.sub(r"const __grid_constant__ (\w+) ", r"const \1& ", body)
    body = body.replace("__restrict__ ", "")  # what another function wrote must not be read as if it were constant
    macros = [f"#undef {name}\n" for name in dict.fromkeys([*given, *re.findall(r"^#define (\w+)", body, re.M)])]
    head = "".join(f"#define {name} {value}\n" for name, value in given.items())
    return f"{head}namespace {space} {{\n{source.head}{body}}}\n{''.join(macros)}"


class _Row:
    """The words of a launch: its body's number comes first."""

    def __init__(self, launch: Launch, address: Callable[[Any], int], sized: bool) -> None:
        self.words: list[int] = [0]
        self.address, self.sized = address, sized
        args = ", ".join(map(self._argument, launch.args))
        counts = [int(arg["count"]) for arg in launch.args if arg is not None and "count" in (arg.dtype.names or ())]
        code = _Code(launch.source, launch.row, counts[0] if counts and sized else 0)
        self.body = _Body(code, launch.kernel, args)

    def _argument(self, arg: Any) -> str:
        """An argument in C++: sizes by value, all else by its place among the words."""
        if arg is None:
            return "nullptr"
        if arg.dtype.names:
            return f"{{{', '.join(self._member(arg[name]) for name in arg.dtype.names)}}}"
        return self._scalar(arg) if isinstance(arg, np.generic) else self._pointer(self.address(arg))

    def _member(self, a: Any) -> str:
        """A number of a struct, or an array of them; uint64 are addresses."""
        one = self._pointer if a.dtype == np.uint64 else self._scalar
        return f"{{{', '.join(map(one, a))}}}" if a.ndim else one(a[()])

    def _scalar(self, number: Any) -> str:
        if self.sized and isinstance(number, np.signedinteger):
            return f"{number}LL" if number.itemsize == 8 else f"{number}"
        data = number.tobytes()
        self.words.append(int.from_bytes(data, "little"))
        return f"*({_TYPES[number.dtype.name]} const*)(words + {len(self.words) - 1})"

    def _pointer(self, address: int) -> str:
        if not address:
            return "nullptr"
        self.words.append(int(address))
        return f"Address<{16 if address % 16 == 0 else 1}>{{words[{len(self.words) - 1}]}}"


def joined(launches: Sequence[Launch], address: Callable[[Any], int]) -> tuple[Source, Any]:
    """The source of a kernel ``joined``, and its table of words: for each launch, a row with its number and its arguments."""
    rows = [_Row(launch, address, True) for launch in launches]
    if len({row.body for row in rows}) > _BODIES:
        rows = [_Row(launch, address, False) for launch in launches]
    numbers = {body: n for n, body in enumerate(dict.fromkeys(row.body for row in rows))}
    table = np.zeros((len(rows), max(len(row.words) for row in rows)), np.uint64)
    for words, row in zip(table, rows, strict=True):
        words[: len(row.words)] = [numbers[row.body], *row.words[1:]]
    return _source(tuple(numbers), table.shape[1]), table


@lru_cache(maxsize=64)
def _source(bodies: tuple[_Body, ...], width: int) -> Source:
    spaces = {code: f"k{n}" for n, code in enumerate(dict.fromkeys(body.code for body in bodies))}
    lines = [
        "struct Place { u32 x, y; };",
        *[f"#define {name} {value}" for name, value in _INDICES.items()],
        *[_text(code, space) for code, space in spaces.items()],
        *[f"#undef {name}" for name in _INDICES],
        _KERNEL.format(
            width=width,
            cases="\n".join(
                f"            case {n}: {spaces[body.code]}::{body.kernel}({body.args}); break;"
                for n, body in enumerate(bodies)
            ),
        ),
    ]
    return Source("launches of one block each", "", "\n".join(lines))


_KERNEL = """\
// An address in device memory, a multiple of UNIT.
template <int UNIT> struct Address {{
    u64 word;
    template <class T> MEMBER operator T*() const {{
        return (T*)__builtin_assume_aligned(__cvta_global_to_generic(word), UNIT);
    }}
}};

KERNEL joined(i64 count, const u64* table) {{
    const u32 width = {width};
    static_assert(width <= THREADS);
    __shared__ u64 rows[2][width];  // of the table: one is read while the next one comes
    const bool mine = threadIdx.x < width;
    if (mine && count > 0) rows[0][threadIdx.x] = table[threadIdx.x];
    for (i64 n = 0; n < count; ++n) {{
        __syncthreads();  // all see what the last one wrote
        const u64* words = rows[n % 2];
        table += width;
        const u64 next = mine && n + 1 < count ? table[threadIdx.x] : 0;
        switch (words[0]) {{
{cases}
        }}
        if (mine) rows[(n + 1) % 2][threadIdx.x] = next;
    }}
}}
"""
