"""Which backend: the argument, else the `use_backend` block, else `set_backend`, else $TINYNET_BACKEND, else numpy."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

from tinynet_backends.backend import Backend
from tinynet_backends.errors import BackendUnavailable
from tinynet_backends.generic_backend import NAMESPACES

NAMES = ("numpy", "numba", "cupy", "strict", *NAMESPACES)
AUTO = ("cupy", "numba", "numpy")  # the first that is there

_log = logging.getLogger("tinynet")
_block: ContextVar[str | Backend | None] = ContextVar("tinynet_backend", default=None)
_process: list[str | Backend | None] = [None]


@cache
def _load(name: str) -> Backend:
    if name == "auto":
        for candidate in AUTO:
            try:
                backend = _load(candidate)
            except BackendUnavailable as e:
                _log.debug("auto passes over %s: %s", candidate, e)
                continue
            _log.info("backend auto is %s", backend.name)
            return backend
    library, _, device = name.partition(":")
    if library in NAMESPACES:
        from tinynet_backends import generic_backend

        return generic_backend.make(library, device or None)
    if library not in NAMES:
        raise ValueError(f"unknown backend {name!r}: choose from auto, {', '.join(NAMES)}")
    made: Backend = importlib.import_module(f"tinynet_backends.{library}_backend").make(device or None)
    return made


def get_backend(backend: str | Backend | None = None) -> Backend:
    """The backend of that name, or the one in force where None: 'numpy', 'cupy', 'cupy:1', 'auto', ….

    Raises ValueError for an unknown name and `BackendUnavailable` for one that cannot run here; never another in its
    place.
    """
    chosen = backend or _block.get() or _process[0] or os.environ.get("TINYNET_BACKEND") or "numpy"
    if isinstance(chosen, Backend):
        return chosen
    if not isinstance(chosen, str):
        raise TypeError(f"backend {chosen!r} is no name: choose from auto, {', '.join(NAMES)}")
    return _load(chosen.strip().lower() if ":" not in chosen else chosen.strip())


def set_backend(backend: str | Backend | None) -> None:
    """Make ``backend`` the default of the process, in every thread; None takes the choice back."""
    if backend is not None:
        backend = get_backend(backend)
    _process[0] = backend


@contextmanager
def use_backend(backend: str | Backend) -> Iterator[Backend]:
    """Within the ``with`` block, in this thread or task, ``backend`` is the one in force."""
    made = get_backend(backend)
    token = _block.set(made)
    try:
        yield made
    finally:
        _block.reset(token)


def available_backends() -> dict[str, str]:
    """Every backend by name, with what it is made of, or with the reason why it is not there ("not here: …")."""
    found = {}
    for name in NAMES:
        try:
            found[name] = get_backend(name).versions()
        except BackendUnavailable as e:
            found[name] = f"not here: {e}"
    return found
