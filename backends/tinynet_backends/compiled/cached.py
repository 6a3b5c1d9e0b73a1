"""Compiled functions that numba keeps on disk, each under a name that says what it was compiled from.

Numba checks whether the file of a function has changed, but not those of the functions that it calls: after an edit of
one of these it would load old code, and nobody would notice.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from numba import cfunc
from tinynet_backends import exact, philox


def compiled(signature: Any, body: Callable[..., Any], keep: bool = True, **options: Any) -> Any:
    """``body`` as a C function, kept on disk if ``keep``; ``options`` are those of `numba.cfunc`."""
    name = body.__qualname__.partition("-")[0]
    body.__qualname__ = f"{name}-{digest()}"
    collects = gc.isenabled()
    gc.disable()  # a compiler makes so many objects that the search for garbage among them takes an eighth of its time
    try:
        return cfunc(signature, cache=keep, **options)(body)
    finally:
        if collects:
            gc.enable()


@cache
def digest() -> str:
    """A digest of the sources in this folder and of the two modules whose constants they compile in."""
    paths = [*sorted(Path(__file__).parent.glob("*.py")), *(Path(m.__file__ or "") for m in (exact, philox))]
    return sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]
