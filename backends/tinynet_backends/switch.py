"""Which backend: the argument, else the `use_backend` block, else `set_backend`, else $TINYNET_BACKEND, else numpy."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import ModuleType
from typing import Any

from tinynet_backends import generic_backend
from tinynet_backends.backend import Backend
from tinynet_backends.errors import BackendUnavailable
from tinynet_backends.generic_backend import NAMESPACES, GenericBackend

NAMES = ("numpy", "numba", "cupy", "strict", *NAMESPACES)
# A name here is the first backend of its list that can run.
CHOICES = {"auto": ("cupy", "numba", "numpy"), "host": ("numba", "numpy")}

_log = logging.getLogger("tinynet")
_block: ContextVar[str | Backend | None] = ContextVar("tinynet_backend", default=None)
_process: list[str | Backend | None] = [None]


@cache
def _load(name: str) -> Backend:
    if name in CHOICES:
        for candidate in CHOICES[name]:
            try:
                backend = _load(candidate)
            except BackendUnavailable as e:
                _log.debug("%s passes over %s: %s", name, candidate, e)
                continue
            _log.info("backend %s is %s", name, backend.name)
            return backend
    library, _, device = name.partition(":")
    if library in NAMESPACES:
        return generic_backend.make(library, device or None)
    if library not in NAMES:
        raise ValueError(f"unknown backend {name!r}: choose from auto, {', '.join(NAMES)}")
    made: Backend = importlib.import_module(f"tinynet_backends.{library}_backend").make(device or None)
    return made


def get_backend(backend: str | Backend | None = None, default: str = "numpy") -> Backend:
    """The backend of that name ("numpy", "numba", "cupy", "cupy:1", "cupy:bf16", …), or for None the current one.

    The current backend is that of the innermost `use_backend` block, else that of `set_backend`, else the environment
    variable ``TINYNET_BACKEND``, else ``default``. "auto" is the first of cupy, numba and numpy that can run here, "host"
    the first of numba and numpy. ValueError for an unknown name, `BackendUnavailable` for a backend that cannot run here:
    another one is never taken instead.

    Examples
    --------
    >>> from tinynet_backends import get_backend
    >>> get_backend("numpy")
    <backend numpy>
    >>> get_backend("abacus")
    Traceback (most recent call last):
    ValueError: unknown backend 'abacus': choose from auto, numpy, numba, cupy, strict, torch, dpnp
    """
    chosen = backend or _block.get() or _process[0] or os.environ.get("TINYNET_BACKEND") or default
    if isinstance(chosen, Backend):
        return chosen
    if not isinstance(chosen, str):
        raise TypeError(f"backend {chosen!r} is not a name: choose from auto, {', '.join(NAMES)}")
    return _load(chosen.strip().lower() if ":" not in chosen else chosen.strip())


def backend_of(x: object) -> Backend:
    """The backend of the library and device of ``x``; numpy if ``x`` is not an array of another library.

    The current backend does not matter. Flags of array-api-strict are left as they are.
    """
    import array_api_compat

    if not array_api_compat.is_array_api_obj(x) or array_api_compat.is_numpy_array(x):
        return _load("numpy")
    device = array_api_compat.device(x)
    if array_api_compat.is_cupy_array(x):
        return _load(f"cupy:{device.id}" if device.id else "cupy")
    xp = array_api_compat.array_namespace(x)
    library = xp.__name__.rpartition(".")[2]
    return _wrap(xp, f"{library}:{getattr(device, '_device', device)}", device)


@cache
def _wrap(xp: ModuleType, name: str, device: Any) -> Backend:
    if xp.__name__ == "array_api_strict":
        from tinynet_backends.strict_backend import StrictBackend

        return StrictBackend(name, xp, device)
    return GenericBackend(name, xp, device)


def set_backend(backend: str | Backend | None) -> None:
    """Make ``backend``, a name or a `Backend`, the default of the process, in all threads; None undoes that.

    ValueError and `BackendUnavailable` as in `get_backend`.
    """
    if backend is not None:
        backend = get_backend(backend)
    _process[0] = backend


@contextmanager
def use_backend(backend: str | Backend) -> Iterator[Backend]:
    """A context in which ``backend`` is the current one, in this thread or asyncio task; its value is the `Backend`.

    ValueError and `BackendUnavailable` as in `get_backend`.

    Examples
    --------
    >>> from tinynet_backends import get_backend, use_backend
    >>> with use_backend("numpy") as ops:
    ...     get_backend() is ops
    True
    """
    made = get_backend(backend)
    token = _block.set(made)
    try:
        yield made
    finally:
        _block.reset(token)


def available_backends() -> dict[str, str]:
    """All backends by name, each with the versions it uses, or with the reason why it cannot run here ("not here: …")."""
    found = {name: _attempt(name) for name in NAMES}
    return {name: one.versions() if isinstance(one, Backend) else f"not here: {one}" for name, one in found.items()}


def usable_backends(names: Iterable[str] = NAMES) -> list[str]:
    """Those of the backends of these names that can run here."""
    return [name for name in names if isinstance(_attempt(name), Backend)]


def _attempt(name: str) -> Backend | BackendUnavailable:
    try:
        return get_backend(name)
    except BackendUnavailable as e:
        return e
