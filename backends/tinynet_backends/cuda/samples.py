"""Sample formulas as kernels: from a row's words to its features and its target.

A thread makes a row. If features depend only on their own words and a few numbers, several threads share a wide row: each
computes these numbers and makes 32 features.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tinynet_backends import exact
from tinynet_backends.cuda.emit import SPELLED, literal
from tinynet_backends.cuda.source import Source, read, whole
from tinynet_backends.rowtext import FEW, Writer, tables
from tinynet_backends.rowwise import RowTrace

EACH = 32  # features that a thread makes at a time, as in kernels/exact.cuh
_TYPES = {"float64": "double", "int64": "i64", "uint64": "u64", "bool": "bool", "real": "real"}
_DEFINED = {
    "POINTS": exact.POINTS, "NODES": float(exact.NODES), "QUARTER": 0.5 * exact.PI,
    "SINE0": exact.SINE[-2], "SINE1": exact.SINE[-1], "COSINE0": exact.COSINE[-3], "COSINE1": exact.COSINE[-2],
    "COSINE2": exact.COSINE[-1], "LOG2_HIGH": exact.LOG2_HIGH, "LOG2_LOW": exact.LOG2_LOW,
}  # fmt: skip


class Cuda:
    """CUDA C++; vectors are stored in local arrays."""

    spelled = SPELLED | {
        "remainder": "remainder_of({}, {})", "bitwise_and": "{} & {}", "bitwise_or": "{} | {}", "bitwise_xor": "{} ^ {}",
        "left_shift": "{} << {}", "right_shift": "{} >> {}", "abs": "magnitude({})", "log": "logarithm({})",
        "sine": "sine({}, sines, cosines)", "cosine": "cosine({}, sines, cosines)", "arctan": "arctan({}, {}, angles)",
        "normal": "normal({}, lines)", "constant": "{}",
    }  # fmt: skip

    def __init__(self) -> None:
        self.short = True  # whether there is little work beside the features

    def let(self, name: str, kind: str, value: str) -> str:
        return f"{_TYPES[kind]} {name} = {value};"

    def put(self, target: str, value: str) -> str:
        return f"{target} = {value};"

    def loop(self, name: str, first: int, end: int, lines: Sequence[str]) -> list[str]:
        self.short = False
        return [f"for (i64 {name} = {first}; {name} < {end}; ++{name}) {{", *[f"    {line}" for line in lines], "}"]

    def features(self, name: str, width: int, value: str) -> list[str]:
        return [
            f"for (i64 begin = part * EACH; begin < {width}; begin += parts * EACH)",
            f"    for (i64 at = begin; at < begin + EACH && at < {width}; at += LANES) {{",
            "        Pack pack;",
            "#pragma unroll",
            "        for (int l = 0; l < LANES; ++l) {",
            f"            const i64 {name} = at + l;",
            f"            if ({name} < {width}) pack.v[l] = {value};",
            "        }",
            f"        put_features(x + row * {width} + at, {width} - at, pack);",
            "    }",
        ]

    def when(self, condition: str, lines: Sequence[str]) -> list[str]:
        return [f"if ({condition}) {{", *[f"    {line}" for line in lines], "}"]

    def buffer(self, number: int, kind: str, width: int) -> tuple[list[str], str]:
        self.short = False
        return [f"{_TYPES[kind]} k{number}[{width}];"], f"k{number}[{{}}]"

    def constant(self, text: str) -> str:
        if "(" in text:
            kind, _, value = text[:-1].partition("(")
            return f"({_TYPES[kind]}){value}" + ("ull" if kind == "uint64" else "ll")
        text = literal(text)
        return f"({text})" if text[0] == "-" else text

    def word(self, place: str) -> str:
        return f"word(words, {place})"

    def cast(self, kind: str, value: str) -> str:
        return f"(({_TYPES[kind]})({value}))"


def parts(trace: RowTrace) -> int:
    """Threads per row."""
    return _written(trace)[1]


@lru_cache(maxsize=256)
def _written(trace: RowTrace) -> tuple[list[str], int]:
    language = Cuda()
    text = Writer(trace, language).text
    width = trace.instructions[trace.features.number].width or 0
    return text, -(-width // EACH) if language.short and width > FEW else 1


@lru_cache(maxsize=256)
def kernel(trace: RowTrace, dtype: Any) -> Source:
    """A kernel called ``samples``.

    Its arguments: rows, key and counter, the index of the first sample, the indices of all or null, features, labels or
    targets, the tables of `exact` (normal lines, sines, cosines, angles), and the formula's own tables in order.
    """
    target = trace.instructions[trace.target.number].width
    own = [f"const double* __restrict__ t{n}" for n in tables(trace)]
    shared = [f"const double* __restrict__ {name}" for name in ("lines", "sines", "cosines", "angles")]
    result = "i64* __restrict__ labels" if target is None else "real* __restrict__ targets"
    stream = ["u64 k0", "u64 k1", "u64 c0", "u64 c1", "u64 c2", "i64 first", "const i64* __restrict__ index"]
    arguments = ["i64 n", *stream, "real* __restrict__ x", result, *shared, *own]
    lines = [
        *[f"#define {name} {value!r}" for name, value in _DEFINED.items()],
        f"#define SERIES {{{', '.join(map(repr, exact.LOG_SERIES))}}}",
        read("philox.cuh"),
        read("exact.cuh"),
        f"KERNEL samples({', '.join(arguments)}) {{",
        f"    const i64 parts = {parts(trace)};",
        "    for (i64 item = thread(); item < n * parts; item += threads()) {",
        "        const i64 row = quotient(item, parts), part = item - row * parts;",
        "        const i64 number = index ? index[row] : first + row;",
        f"        SampleWords words = words_of(k0, k1, c0, c1, c2, number, {trace.instructions[0].width});",
        *[f"        {line}" for line in _written(trace)[0]],
        "    }",
        "}",
        *[f"#undef {name}" for name in (*_DEFINED, "SERIES")],
        "",
    ]
    return whole("a formula of samples", "\n".join(lines), dtype)
