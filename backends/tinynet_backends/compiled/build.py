"""Kernels compiled once per machine: numba keeps them on disk, if their source has a file.

A traced formula becomes the text of a kernel; the text is kept as a module in the user's cache folder, named by its hash.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from time import perf_counter
from typing import Any

import numpy as np
from numba import float32, float64
from tinynet_backends.cache import cache_folder
from tinynet_backends.compiled import kernels, samples
from tinynet_backends.compiled.cached import compiled, unkept
from tinynet_backends.compiled.program import KERNEL
from tinynet_backends.rowwise import RowTrace
from tinynet_backends.tracing import ON_NUMBERS, Trace

_log = logging.getLogger("tinynet")
_REAL = {np.dtype("float32"): float32, np.dtype("float64"): float64}
_HEAD = '''"""A traced formula as a kernel; written by tinynet_backends.compiled.build."""

import math

import numpy as np
from numba import float64, types
from tinynet_backends.compiled.functions import exp, expm1, tanh
from tinynet_backends.compiled.intrinsics import flush, pointer, restore
from tinynet_backends.compiled.kernels import share


def make(real):
    inf, nan = math.inf, math.nan

    def kernel(at, part, parts):
        w, s = pointer(types.int64, at), pointer(float64, at)
'''
_compiled: list[Any] = []  # kept as long as the process lives: tapes have addresses of kernels


def supported(dtype: Any) -> bool:
    """Whether there are kernels for arrays of ``dtype``."""
    return dtype in _REAL


@cache
def written(maker: Callable[[Any], Any], dtype: Any) -> int:
    """The address of one of `kernels` for ``dtype``."""
    return _compile(maker(_REAL[dtype]), maker.__name__, kept=True, reorder=maker in kernels.REORDERED)


@cache
def formula(trace: Trace, dtype: Any, kind: str) -> int:
    """The address of a kernel for a formula.

    "map": [n, inputs, numbers, outputs]; "update": [n, arrays and inputs, numbers]: the first arrays are the outputs, and
    denormal numbers, which moments become where gradients stay 0, count as 0;
    "loss": [n, o, y, target, scale, cost, slope], by rows: ``cost[i] = sum(value[i] * scale[i])``, ``slope * scale``.
    """
    text = _HEAD + "".join(f"        {line}\n" for line in _lines(trace, kind)) + "\n    return kernel\n"
    made, kept = _module(text)
    return _compile(made(_REAL[dtype]), f"a formula ({kind})", kept)


@cache
def rows(trace: RowTrace, dtype: Any) -> tuple[int, bool, int, int]:
    """The address of a kernel for a formula of samples, and what `samples.lines` says about its scratch.

    [n, rows in a tile, features, target, room, words of it a part, those before the scratch, lines of the normal table,
    sines, cosines, angles, the ten words of `counters.drawn`, tables].
    """
    body, normal, scratch, each = samples.lines(trace)
    text = samples.HEAD + "".join(f"        {line}\n" for line in body) + "\n    return kernel\n"
    made, kept = _module(text)
    return _compile(made(_REAL[dtype]), "a formula of samples", kept), normal, scratch, each


def _compile(body: Callable[..., None], name: str, kept: bool, reorder: bool = False) -> int:
    began = perf_counter()
    made = compiled(KERNEL, body, kept, error_model="numpy", fastmath={"reassoc"} if reorder else False)
    seconds = perf_counter() - began
    if not getattr(made, "cache_hits", 0):
        if not unkept and not any(not getattr(other, "cache_hits", 0) for other in _compiled):
            _log.warning("compiling kernels for this machine; they are kept, so only a first run waits for them")
        _log.info("compiled %s in %.2f s", name, seconds)
    _compiled.append(made)
    return made.address or 0


def _module(text: str) -> tuple[Any, bool]:
    """The function `make` of a module with this text, and whether the module has a file."""
    name = f"tinynet_formula_{sha256(text.encode()).hexdigest()[:24]}"
    path, content = cache_folder() / f"{name}.py", text.encode()
    try:
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(f".{os.getpid()}")
            try:
                draft.write_bytes(content)
                os.replace(draft, path)
            except OSError:  # a full disk, for one
                draft.unlink(missing_ok=True)
                raise
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
        sys.modules[name] = module
        spec.loader.exec_module(module)  # type: ignore[union-attr]
        return module.make, True
    except OSError as e:
        _log.info("formulas are compiled anew in every process: %s", e)
        space: dict[str, Any] = {}
        exec(text, space)
        return space["make"], False


_SPELLED = ON_NUMBERS | {
    "abs": "abs({})", "sqrt": "math.sqrt({})", "exp": "exp({})", "expm1": "expm1({})", "log": "math.log({})",
    "log1p": "math.log1p({})", "tanh": "tanh({})", "floor": "np.floor({})",
    "sign": "({0} if {0} != {0} else real({0} > 0) - real({0} < 0))",
    "maximum": "({0} if ({0} >= {1}) | ({0} != {0}) else {1})", "minimum": "({0} if ({0} <= {1}) | ({0} != {0}) else {1})",
    "less": "{} < {}", "less_equal": "{} <= {}", "greater": "{} > {}", "greater_equal": "{} >= {}", "equal": "{} == {}",
    "not_equal": "{} != {}", "logical_and": "{} & {}", "logical_or": "{} | {}", "logical_not": "not {}",
    "where": "({1} if {0} else {2})",
}  # fmt: skip


def _lines(trace: Trace, kind: str) -> list[str]:
    """The body of a kernel."""
    first = 2 if kind == "loss" else 1  # place of the first input among the kernel's words
    made, outputs = trace.assignments(_SPELLED)
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
