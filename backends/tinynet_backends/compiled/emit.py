"""Traced formulas as the text of kernels for numba: a map, an update in place, a loss with its gradient."""

from __future__ import annotations

from collections.abc import Sequence

from tinynet_backends.tracing import ON_NUMBERS, Trace

SPELLED = ON_NUMBERS | {
    "abs": "abs({})", "sqrt": "math.sqrt({})", "exp": "exp({})", "expm1": "expm1({})", "log": "math.log({})",
    "log1p": "math.log1p({})", "tanh": "tanh({})", "floor": "np.floor({})",
    "sign": "{0} if {0} != {0} else real({0} > 0) - real({0} < 0)",
    "maximum": "{0} if ({0} >= {1}) | ({0} != {0}) else {1}", "minimum": "{0} if ({0} <= {1}) | ({0} != {0}) else {1}",
    "less": "{} < {}", "less_equal": "{} <= {}", "greater": "{} > {}", "greater_equal": "{} >= {}", "equal": "{} == {}",
    "not_equal": "{} != {}", "logical_and": "{} & {}", "logical_or": "{} | {}", "logical_not": "not {}",
    "where": "{1} if {0} else {2}",
}  # fmt: skip
_MODULE = '''"""A traced formula as a kernel; written by tinynet_backends.compiled."""

import math

import numpy as np
from numba import float64, int64, types, uint32, uint64
from tinynet_backends.compiled.counters import ROOM, SPARE, drawn
from tinynet_backends.compiled.exactly import arctan, cosine, half, log, normal, normals, sine
from tinynet_backends.compiled.functions import exp, expm1, tanh
from tinynet_backends.compiled.intrinsics import flush, pointer, restore
from tinynet_backends.compiled.kernels import share


def make(real):
    inf, nan = math.inf, math.nan

    def kernel(at, part, parts):
        w, s = pointer(types.int64, at), pointer(float64, at)
{}
    return kernel
'''


def module(body: Sequence[str]) -> str:
    """The text of a module whose ``make(real)`` is a kernel of these lines; its arguments are the words w, as float64 s."""
    return _MODULE.format("".join(f"        {line}\n" for line in body))


def elementwise(trace: Trace, kind: str) -> list[str]:
    """The lines of a kernel ``kind``, "map", "update" or "loss", as `build.formula` says."""
    first = 2 if kind == "loss" else 1  # place of the first input among the kernel's words
    made, outputs = trace.assignments(SPELLED)
    before = [f"p{n} = pointer(real, w[{first + n}])" for n in range(trace.arrays)]
    before += [f"s{n} = s[{first + n}]" for n in range(trace.arrays, trace.inputs)]
    before += [f"{name} = {value}" for result, name, value in made if result == "number"]
    inside = [f"a{n} = p{n}[i]" for n in range(trace.arrays)]
    inside += [f"{name} = {value}" for result, name, value in made if result != "number"]
    inside += [f"r{n} = {name}" for n, name in enumerate(outputs)]
    if kind == "loss":
        return [
            *before, "scale, cost, slope = pointer(real, w[4]), pointer(real, w[5]), pointer(real, w[6])",
            "low, high = share(w[0], part, parts, 1)", "for row in range(low, high):", "    c, factor = real(0.0), scale[row]",
            "    for i in range(row * w[1], (row + 1) * w[1]):",
            *[f"        {line}" for line in (*inside, "c += r0 * factor", "slope[i] = r1 * factor")], "    cost[row] = c",
        ]  # fmt: skip
    for n in range(len(trace.outputs)):
        if kind == "map":
            before.append(f"o{n} = pointer(real, w[{first + trace.inputs + n}])")
        inside.append(f"{'p' if kind == 'update' else 'o'}{n}[i] = r{n}")
    loop = [
        "low, high = share(w[0], part, parts, 1)",
        "for i in range(low, high):",
        *[f"    {line}" for line in inside],
    ]
    if kind == "update":
        loop = ["usual = flush()", *loop, "restore(usual)"]
    return [*before, *loop]
