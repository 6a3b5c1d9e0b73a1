"""The launches of a step as one, if each of them has a single block: one block then does one after another.

A launch costs time, and in a network this small each of them has little to do. No result depends on the grid, and every kernel
runs in one block here, so the bits are the same.
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
_INDICES = {
    "threadIdx": "(Place{threadIdx.x % ROW, threadIdx.x / ROW})",
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


class _Body(NamedTuple):
    """What launches have in common that differ only in sizes and addresses."""

    source: Source
    kernel: str
    row: int
    kinds: tuple[str, ...]  # C++ types of the arguments, "" for null
    sizes: tuple[int, ...]  # of the arguments, in words

    @classmethod
    def of(cls, launch: Launch) -> _Body:
        sizes = tuple(len(_words(arg)) for arg in launch.args)
        return cls(launch.source, launch.kernel, launch.row, tuple(map(_kind, launch.args)), sizes)

    def text(self, space: str) -> str:
        """Its source, to be called as a function by the threads of one block."""
        body = self.source.body.replace("KERNEL ", "DEVICE void ")
        body = re.sub(r"const __grid_constant__ (\w+) ", r"const \1& ", body)
        body = body.replace("__restrict__ ", "")  # what another function wrote must not be read as if it were constant
        macros = [f"#undef {name}\n" for name in ("ROW", *dict.fromkeys(re.findall(r"^#define (\w+)", body, re.M)))]
        return f"#define ROW {self.row}\nnamespace {space} {{\n{self.source.head}{body}}}\n{''.join(macros)}"

    def call(self, space: str) -> str:
        values, at = [], 1
        for kind, size in zip(self.kinds, self.sizes, strict=True):
            if kind == "struct":
                (name,) = re.findall(rf"^KERNEL {self.kernel}\([^)]*__grid_constant__ (\w+) ", self.source.body, re.M)
                kind = f"{space}::{name}"
            values.append(f"*({kind} const*)(words + {at})" if kind else "nullptr")
            at += size
        return f"{space}::{self.kernel}({', '.join(values)});"


def _kind(arg: Any) -> str:
    if arg is None:
        return ""
    if arg.dtype.names:
        return "struct"
    return _TYPES[arg.dtype.name] + "*" * (not isinstance(arg, np.generic))


def _words(arg: Any, address: Callable[[Any], int] = id) -> list[int]:
    """An argument in words of 8 bytes; of an array, its address."""
    if arg is None:
        return []
    if isinstance(arg, np.generic) or arg.dtype.names:
        data = arg.tobytes()
        return np.frombuffer(data + bytes(-len(data) % 8), np.uint64).tolist()  # type: ignore[no-any-return]
    return [address(arg)]


def joined(launches: Sequence[Launch], address: Callable[[Any], int]) -> tuple[Source, Any]:
    """The source of a kernel ``joined``, and its table of words: for each launch, a row with its number and its arguments."""
    bodies = [_Body.of(launch) for launch in launches]
    numbers = {body: n for n, body in enumerate(dict.fromkeys(bodies))}
    table = np.zeros((len(launches), _width(bodies)), np.uint64)
    for row, launch, body in zip(table, launches, bodies, strict=True):
        words = [numbers[body], *(word for arg in launch.args for word in _words(arg, address))]
        row[: len(words)] = words
    return _source(tuple(numbers)), table


def _width(bodies: Sequence[_Body]) -> int:
    return 1 + max(sum(body.sizes) for body in bodies)


@lru_cache(maxsize=64)
def _source(bodies: tuple[_Body, ...]) -> Source:
    lines = [
        "struct Place { u32 x, y; };",
        *[f"#define {name} {value}" for name, value in _INDICES.items()],
        *[body.text(f"k{n}") for n, body in enumerate(bodies)],
        *[f"#undef {name}" for name in _INDICES],
        f"#define WIDTH {_width(bodies)}",
        "KERNEL joined(i64 count, const u64* table) {",
        "    static_assert(WIDTH <= THREADS);",
        "    __shared__ u64 words[WIDTH];",
        "    const u64* next = table + threadIdx.x;",
        "    const bool mine = threadIdx.x < WIDTH;",
        "    u64 word = mine && count > 0 ? *next : 0;  // read while the launch before runs",
        "    for (i64 n = 0; n < count; ++n) {",
        "        __syncthreads();  // all see what the last one wrote, and it has read its words",
        "        if (mine) words[threadIdx.x] = word;",
        "        __syncthreads();",
        "        next += WIDTH;",
        "        if (mine && n + 1 < count) word = *next;",
        "        switch (words[0]) {",
        *[f"            case {n}: {body.call(f'k{n}')} break;" for n, body in enumerate(bodies)],
        "        }",
        "    }",
        "}",
        "#undef WIDTH",
        "",
    ]
    return Source("launches of one block each", "", "\n".join(lines))
