"""Traced formulas as kernels: one pass over memory, 16 bytes at a time if arrays are aligned.

The numbers of a formula, such as a rate or a correction, are pairs (value, place): float64 by value, or read from device
memory, so that a launch recorded in a CUDA graph reads those of the step that it is replayed for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tinynet_backends.cuda.source import Source, whole
from tinynet_backends.tracing import ON_NUMBERS, Trace

SPELLED = ON_NUMBERS | {
    "abs": "fabs({})", "sqrt": "sqrt({})", "exp": "exp({})", "expm1": "expm1({})", "log": "log({})", "log1p": "log1p({})",
    "tanh": "tanh({})", "floor": "floor({})", "sign": "{0} != {0} ? {0} : (real)({0} > 0) - (real)({0} < 0)",
    "maximum": "{0} >= {1} || {0} != {0} ? {0} : {1}", "minimum": "{0} <= {1} || {0} != {0} ? {0} : {1}",
    "less": "{} < {}", "less_equal": "{} <= {}", "greater": "{} > {}", "greater_equal": "{} >= {}", "equal": "{} == {}",
    "not_equal": "{} != {}", "logical_and": "{} && {}", "logical_or": "{} || {}", "logical_not": "!{}",
    "where": "{0} ? {1} : {2}",
}  # fmt: skip
_TYPES = {"number": "double", "bool": "bool", "array": "real"}


@lru_cache(maxsize=1024)
def kernel(trace: Trace, dtype: Any, kind: str, rounded: tuple[int, ...] = ()) -> Source:
    """A kernel called ``formula``, for arrays of ``dtype``. Its arguments, by ``kind``:

    "map": elements, arrays, numbers, outputs. "update": elements, arrays, numbers; the first arrays are the outputs, and those
    with the indices ``rounded`` are also written in bfloat16, to further arguments. "loss": o, elements, elements per chunk,
    chunks, y and target (n, o), scale (n,), and three results: ``slope * scale``, then the parts of the sum of ``value * scale``
    if there is more than one chunk, else the sum.
    """
    body = _loss(trace) if kind == "loss" else _elementwise(trace, kind, rounded)
    return whole(f"a formula ({kind})", "\n".join([*_element(trace), *body, ""]), dtype)


def _names(letter: str, numbers: range) -> list[str]:
    return [f"{letter}{n}" for n in numbers]


def _arrays(trace: Trace) -> list[str]:
    return _names("a", range(trace.arrays))


def _numbers(trace: Trace) -> list[str]:
    return _names("s", range(trace.arrays, trace.inputs))


def _results(trace: Trace) -> list[str]:
    return _names("r", range(len(trace.outputs)))


def literal(text: str) -> str:
    """A float in Python's notation, in C's."""
    return text.replace("inf", "INF").replace("nan", "NOT_A_NUMBER")


def _element(trace: Trace, name: str = "element") -> list[str]:
    """The formula as a function of one element."""
    made, outputs = trace.assignments(SPELLED, literal)
    lines = [f"    const {_TYPES[kind]} {name} = {value};" for kind, name, value in made]
    lines += [f"    r{n} = {name};" for n, name in enumerate(outputs)]
    arguments = [f"double {s}" for s in _numbers(trace)]
    arguments += [f"real {a}" for a in _arrays(trace)] + [f"real& {r}" for r in _results(trace)]
    return [f"DEVICE void {name}({', '.join(arguments)}) {{", *lines, "}"]


def activations(pairs: Sequence[tuple[Trace, Trace]]) -> str:
    """``value(f, x)`` and ``slope(f, dy, x, y)`` for formulas, numbered from 1, and their derivatives; f 0 is the identity."""
    lines, values, slopes = [], [], []
    for n, (f, df) in enumerate(pairs, start=1):
        lines += [*_element(f, f"f{n}"), *_element(df, f"df{n}")]
        values.append(f"        case {n}: f{n}(x, r); break;")
        slopes.append(f"        case {n}: df{n}(dy, x, y, r); break;")
    for head, r, cases in (
        ("value(int f, real x)", "x", values),
        ("slope(int f, real dy, real x, real y)", "dy", slopes),
    ):
        lines += [
            f"DEVICE real {head} {{",
            f"    real r = {r};",
            "    switch (f) {",
            *cases,
            "    }",
            "    return r;",
            "}",
        ]
    return "\n".join([*lines, ""])


def _call(trace: Trace, array: str, result: str) -> str:
    """The call of ``element``; ``array`` and ``result`` are patterns for its arrays and results."""
    arrays, results = map(array.format, _arrays(trace)), map(result.format, _results(trace))
    return f"element({', '.join([*_numbers(trace), *arrays, *results])});"


def _elementwise(trace: Trace, kind: str, rounded: Sequence[int]) -> list[str]:
    arrays, numbers, results = _arrays(trace), _numbers(trace), _results(trace)
    halves = {f"h{n}": f"r{n}" for n in rounded}
    if kind == "map":
        out, source, target = _names("o", range(len(results))), "const real* __restrict__ {}", "real* __restrict__ {}"
        pointers = [*map(source.format, arrays), *map(target.format, out)]
    else:  # an array that is changed in place may be passed twice: no __restrict__
        out, pointers = arrays[: len(results)], [f"real* {a}" for a in arrays]
    pairs = [f"double {s}, const double* {s}_place" for s in numbers]
    head = ["i64 n", *pointers[: len(arrays)], *pairs, *pointers[len(arrays) :]]
    head += [f"u16* __restrict__ {h}" for h in halves]
    addresses = dict.fromkeys([*arrays, *out, *halves])
    return [
        f"KERNEL formula({', '.join(head)}) {{",
        *[f"    {s} = number({s}, {s}_place);" for s in numbers],
        f"    const i64 packs = aligned({' | '.join(f'(u64){p}' for p in addresses)}) ? n / LANES : 0;",
        "    for (i64 i = thread(); i < packs; i += threads()) {",
        *[f"        const Pack p_{a} = ((const Pack*){a})[i];" for a in arrays],
        *[f"        Pack p_{r};" for r in results],
        "#pragma unroll",
        f"        for (int j = 0; j < LANES; ++j) {_call(trace, 'p_{}.v[j]', 'p_{}.v[j]')}",
        *[f"        ((Pack*){o})[i] = p_{r};" for o, r in zip(out, results, strict=True)],
        *[f"        ((Rounded*){h})[i] = bfloat16(p_{r});" for h, r in halves.items()],
        "    }",
        "    for (i64 i = packs * LANES + thread(); i < n; i += threads()) {",
        f"        real {', '.join(results)};",
        f"        {_call(trace, '{}[i]', '{}')}",
        *[f"        {o}[i] = {r};" for o, r in zip(out, results, strict=True)],
        *[f"        {h}[i] = bfloat16((float){r});" for h, r in halves.items()],
        "    }",
        "}",
    ]


def _loss(trace: Trace) -> list[str]:
    return f"""\
KERNEL formula(
    i64 o, i64 n, i64 size, i64 chunks, const real* __restrict__ a0, const real* __restrict__ a1,
    const real* __restrict__ scale, real* __restrict__ slope, double* __restrict__ parts, real* __restrict__ loss
) {{
    for (i64 chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {{
        const i64 end = (chunk + 1) * size < n ? (chunk + 1) * size : n;
        double cost = 0.0;
        for (i64 i = chunk * size + threadIdx.x; i < end; i += THREADS) {{
            const real factor = scale[quotient(i, o)];
            real r0, r1;
            {_call(trace, "{}[i]", "{}")}
            cost += (double)(r0 * factor);
            slope[i] = r1 * factor;
        }}
        put_sum(cost, chunk, chunks, parts, loss, end - chunk * size);
    }}
}}""".splitlines()
