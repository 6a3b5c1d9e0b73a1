"""Kernels compiled once per machine: numba keeps them on disk, if their source has a file.

The text of a traced formula's kernel therefore becomes a module in the user's cache folder, named by its hash.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from time import perf_counter
from typing import Any

import numpy as np
from numba import float32, float64
from tinynet_backends.cache import cache_folder, replace_file
from tinynet_backends.compiled import emit, kernels, samples
from tinynet_backends.compiled.cached import compiled, unkept
from tinynet_backends.compiled.program import KERNEL
from tinynet_backends.rowwise import RowTrace
from tinynet_backends.tracing import Trace

_log = logging.getLogger("tinynet")
_REAL = {np.dtype("float32"): float32, np.dtype("float64"): float64}
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
    made, kept = _module(emit.module(emit.elementwise(trace, kind)))
    return _compile(made(_REAL[dtype]), f"a formula ({kind})", kept)


@cache
def rows(trace: RowTrace, dtype: Any) -> tuple[int, bool, int, int]:
    """The address of a kernel for a formula of samples, and what `samples.lines` says about its scratch.

    [n, rows in a tile, features, target, room, words of it a part, those before the scratch, lines of the normal table,
    sines, cosines, angles, the ten words of `counters.drawn`, tables].
    """
    body, normal, scratch, each = samples.lines(trace)
    made, kept = _module(emit.module(body))
    return _compile(made(_REAL[dtype]), "a formula of samples", kept), normal, scratch, each


def _compile(body: Callable[..., None], name: str, kept: bool, reorder: bool = False) -> int:
    began = perf_counter()
    made = compiled(KERNEL, body, kept, error_model="numpy", fastmath={"reassoc"} if reorder else False)
    seconds = perf_counter() - began
    if not getattr(made, "cache_hits", 0):
        if not unkept and all(getattr(other, "cache_hits", 0) for other in _compiled):
            _log.warning("compiling kernels for this machine; they are kept, so only a first run waits for them")
        _log.info("compiled %s in %.2f s", name, seconds)
    _compiled.append(made)
    return made.address or 0


def _module(text: str) -> tuple[Any, bool]:
    """The function `make` of a module with this text, and whether the module has a file."""
    content = text.encode()
    name = f"tinynet_formula_{sha256(content).hexdigest()[:24]}"
    path = cache_folder() / f"{name}.py"
    try:
        if not path.exists() or path.read_bytes() != content:
            replace_file(path, content)
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
