"""Work in pieces, on several threads: NumPy's functions let other threads run while they compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from tinynet_backends import blas

T = TypeVar("T")


def for_each(pieces: Sequence[T], do: Callable[[T], None]) -> None:
    """``do(piece)`` for each, in any order, on as many threads as BLAS may use, which takes a few hundred microseconds to begin.

    The threads have the caller's context: the backend in force, and what `numpy.errstate` ignores.
    """
    count, context = min(blas.threads(), len(pieces)), copy_context()
    if count < 2:
        for piece in pieces:
            do(piece)
        return
    with ThreadPoolExecutor(count, thread_name_prefix="tinynet-pieces") as pool:
        for _ in pool.map(lambda piece: context.copy().run(do, piece), pieces):
            pass  # an error is raised here
