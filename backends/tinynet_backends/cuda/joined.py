"""The launches of a step as one, if each of them has a single block: one block then does one after another.

A launch costs time, and in a network this small each of them has little to do. No result depends on the grid, and every kernel
runs in one block here, so the bits are the same.

What is left is latency, so kernels are compiled for their sizes: loops over layers, rows or columns become straight code, without
what does not apply. Addresses, and numbers that are not sizes, are in a table, so steps of the same sizes have the same text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from tinynet_backends.cuda.source import Source, read

_BODIES = 32  # at most, of kernels compiled for their sizes, which takes time
_UNROLLED = 4  # layers at most: straight code for more would be fetched for longer than it runs
_INDICES = {
    "threadIdx": "(Place{threadIdx.x % ROW, threadIdx.x / ROW % (THREADS / ROW)})",  # so that its range is known
    "blockDim": "(Place{ROW, THREADS / ROW})",
    "blockIdx": "(Place{0, 0})",
    "gridDim": "(Place{1, 1})",
}


class Launch(NamedTuple):
    """The arguments of a call of `CudaOperations._launch`, with addresses in the place of arrays.

    While a graph is captured, memory is used again as soon as nobody has the array in it: arrays kept here would need more.
    """

    source: Source
    kernel: str
    blocks: int
    row: int
    args: tuple[Any, ...]
    shared: int


class _Code(NamedTuple):
    """What the text of kernels depends on."""

    source: Source
    row: int
    used: int  # elements of a struct, known if not 0

    def text(self, space: str) -> str:
        """The kernels, to be called as functions by the threads of one block."""
        body = self.source.body.replace("KERNEL ", "DEVICE void ")
        body = re.sub(r"const __grid_constant__ (\w+) ", r"const \1& ", body)
        body = body.replace("__restrict__ ", "")  # what another function wrote must not be read as if it were constant
        given = {"ROW": self.row} | ({"USED": self.used} if self.used else {})
        before = "".join(f"#define {name} {value}\n" for name, value in given.items())
        macros = dict.fromkeys([*given, *re.findall(r"^#define (\w+)", body, re.M)])
        after = "".join(f"#undef {name}\n" for name in macros)
        return f"{before}namespace {space} {{\n{self.source.head}{body}}}\n{after}"


class _Body(NamedTuple):
    """What launches share that differ in words of the table alone."""

    code: _Code
    kernel: str
    args: str  # in C++


class _Row:
    """A launch: its body, and its words in the table after the body's number."""

    def __init__(self, launch: Launch, sized: bool) -> None:
        self.sized = sized
        self.words: list[int] = []
        args = ", ".join(map(self._argument, launch.args))
        used = sum(int(arg["count"]) for arg in launch.args if sized and _unrolled(arg))
        self.body = _Body(_Code(launch.source, launch.row, used), launch.kernel, args)

    def _argument(self, arg: Any) -> str:
        """In C++: a size by its value, all else by its place among the words."""
        if arg is None:
            return "nullptr"
        if isinstance(arg, int):
            return self._pointer(arg)
        if isinstance(arg, np.generic):
            known = self.sized and isinstance(arg, np.signedinteger)
            return str(arg) if known else f"Word{{{self._placed(arg.tobytes())}}}"
        if self.sized and _unrolled(arg):
            return f"{{{', '.join(self._member(arg[name]) for name in arg.dtype.names)}}}"
        return f"Word{{{self._placed(arg.tobytes())}}}"

    def _member(self, a: Any) -> str:
        """Of a struct: a size, or an array of sizes or of addresses."""
        if not a.ndim:
            return str(a)
        return f"{{{', '.join(map(self._pointer if a.dtype == np.uint64 else str, np.trim_zeros(a, 'b')))}}}"

    def _pointer(self, address: Any) -> str:
        if not address:
            return "nullptr"
        return f"Address{{{self._placed(np.uint64(address).tobytes())}}}"

    def _placed(self, data: bytes) -> str:
        """``data`` in words of 8 bytes, and where they begin."""
        place = f"words + {1 + len(self.words)}"
        self.words += np.frombuffer(data + bytes(-len(data) % 8), np.uint64).tolist()
        return place


def _unrolled(arg: Any) -> bool:
    """Whether it is a struct that says how many elements of its arrays are used, and loops over so few are unrolled."""
    return isinstance(arg, np.ndarray) and "count" in (arg.dtype.names or ()) and int(arg["count"]) <= _UNROLLED


def joined(launches: Sequence[Launch]) -> tuple[Source, Any]:
    """The source of a kernel ``joined``, and its table of words: for each launch, a row with its number and its arguments."""
    rows = [_Row(launch, sized=True) for launch in launches]
    if len({row.body for row in rows}) > _BODIES:
        rows = [_Row(launch, sized=False) for launch in launches]
    numbers = {body: n for n, body in enumerate(dict.fromkeys(row.body for row in rows))}
    table = np.zeros((len(rows), 1 + max(len(row.words) for row in rows)), np.uint64)
    for words, row in zip(table, rows, strict=True):
        words[: 1 + len(row.words)] = [numbers[row.body], *row.words]
    bodies = [body._replace(args=_aligned(body.args, table[table[:, 0] == n])) for body, n in numbers.items()]
    return _source(tuple(bodies), table.shape[1]), table


def _aligned(args: str, rows: Any) -> str:
    """Arguments with those addresses marked that are multiples of 16 in all these rows of the table."""
    for place in np.flatnonzero(np.bitwise_or.reduce(rows) % 16 == 0):
        args = args.replace(f"Address{{words + {place}}}", f"Aligned{{words + {place}}}")
    return args


@lru_cache(maxsize=64)
def _source(bodies: tuple[_Body, ...], width: int) -> Source:
    """`kernels/joined.cuh` with these calls and so many words in a row of the table."""
    spaces = {code: f"k{n}" for n, code in enumerate(dict.fromkeys(body.code for body in bodies))}
    calls = [f"{spaces[body.code]}::{body.kernel}({body.args});" for body in bodies]
    lines = [
        "struct Place { u32 x, y; };",
        *[f"#define {name} {value}" for name, value in _INDICES.items()],
        *[code.text(space) for code, space in spaces.items()],
        *[f"#undef {name}" for name in _INDICES],
        f"#define WIDTH {width}",
        "#define CASES \\",
        *[f"    case {n}: {call} break; \\" for n, call in enumerate(calls)],
        "",
        read("joined.cuh"),
        "#undef WIDTH",
        "#undef CASES",
        "",
    ]
    return Source("launches of one block each", "", "\n".join(lines))
