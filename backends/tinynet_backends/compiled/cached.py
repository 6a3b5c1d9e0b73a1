"""Compiled functions that numba keeps on disk, each under a name that says what it was compiled from, and for what.

Numba checks whether the file of a function has changed, but not those of the functions that it calls: after an edit of
one of these it would load old code, and nobody would notice. It numbers the files of functions that share a name, such as a
kernel for float32 and for float64: if two processes write these at once, one may be loaded in the place of the other.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from numba import cfunc
from numba.core.caching import FunctionCache
from numba.core.errors import NumbaError
from numba.core.registry import cpu_target
from numba.core.types import Type
from tinynet_backends import exact, philox

_log = logging.getLogger("tinynet")
unkept: list[str] = []  # functions that could not be kept


def compiled(signature: Any, body: Callable[..., Any], keep: bool = True, **options: Any) -> Any:
    """``body`` as a C function, kept on disk if ``keep``; ``options`` are those of `numba.cfunc`."""
    name = body.__qualname__.partition("-")[0]
    held = [cell.cell_contents for cell in body.__closure__ or ()]
    body.__qualname__ = "-".join([name, *(str(value) for value in held if isinstance(value, Type)), digest()])
    collects = gc.isenabled()
    gc.disable()  # a compiler makes so many objects that the search for garbage among them takes an eighth of its time
    try:
        if keep:
            try:
                return _kept(signature, body, options)
            except (OSError, RuntimeError) as e:  # a full disk; no folder that can be written
                if not unkept:
                    _log.warning(
                        "kernels are compiled anew in every process: set NUMBA_CACHE_DIR to another folder: %s", e
                    )
                unkept.append(name)
        return cfunc(signature, **options)(body)
    finally:
        if collects:
            gc.enable()


def _kept(signature: Any, body: Callable[..., Any], options: dict[str, Any]) -> Any:
    try:
        return cfunc(signature, cache=True, **options)(body)
    except (NumbaError, OSError, RuntimeError):
        raise
    except Exception as e:  # a file that was damaged is a pickle, which raises anything
        _log.info("%s is compiled again, since what was kept of it is damaged: %s", body.__qualname__, e)
        FunctionCache(body).flush()
        return cfunc(signature, cache=True, **options)(body)


@cache
def digest() -> str:
    """A digest of the processor, of the sources in this folder and of the two modules whose constants they compile in."""
    paths = [*sorted(Path(__file__).parent.glob("*.py")), *(Path(m.__file__ or "") for m in (exact, philox))]
    target: Any = cpu_target.target_context
    processor = repr(target.codegen().magic_tuple())
    return sha256(b"".join([processor.encode(), *(path.read_bytes() for path in paths)])).hexdigest()[:16]
