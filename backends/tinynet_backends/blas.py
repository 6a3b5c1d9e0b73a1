"""NumPy's own matrix product, called by address."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np


class Blas:
    """The OpenBLAS inside a NumPy wheel: the addresses of its matrix products by dtype, and its number of threads.

    Within `alone` that number is one, because the work is then divided into parts. The number before is what
    OMP_NUM_THREADS or threadpoolctl asked for, and limits our threads as well.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self.gemm, self.gemv = (
            {
                np.dtype(name): _address(getattr(library, f"scipy_cblas_{letter}{product}64_"))
                for name, letter in {"float32": "s", "float64": "d"}.items()
            }
            for product in ("gemm", "gemv")
        )
        self._get, self._set = library.scipy_openblas_get_num_threads64_, library.scipy_openblas_set_num_threads64_
        corename = library.scipy_openblas_get_corename64_
        corename.restype = ctypes.c_char_p
        self.kernels = corename().decode()  # the processor whose kernels it uses; $OPENBLAS_CORETYPE overrides it
        self._lock, self._users, self._before = threading.Lock(), set[object](), 1
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        """Forget the threads within `alone`, which a forked child does not have."""
        if self._users:
            self._set(self._before)
        self._lock, self._users = threading.Lock(), set()

    def threads(self) -> int:
        """How many threads it may use outside of `alone`."""
        return int(self._get()) if not self._users else self._before

    @contextmanager
    def alone(self) -> Iterator[int]:
        """A context in which each product runs on the calling thread; it yields the number of threads that are allowed."""
        user, interrupt = object(), None
        try:
            with self._lock:
                if not self._users:
                    self._before = int(self._get())
                self._users.add(user)
                if self._before > 1:
                    self._set(1)
            yield self._before
        finally:
            while user in self._users:
                try:
                    with self._lock:
                        if len(self._users) == 1 and self._before > 1:
                            self._set(self._before)
                        self._users.remove(user)
                except KeyboardInterrupt as e:  # later, or BLAS would keep its one thread
                    interrupt = e
            if interrupt is not None:
                raise interrupt


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


@cache
def find() -> Blas | None:
    """The library inside the NumPy package, or None if NumPy was built with another one."""
    package = Path(np.__file__).parent
    folders = package.with_name("numpy.libs"), package / ".dylibs"
    for path in (path for folder in folders for path in sorted(folder.glob("*openblas64*"))):
        try:
            return Blas(ctypes.CDLL(str(path)))
        except (OSError, AttributeError):
            continue
    return None


def threads() -> int:
    """How many threads may work at once: as many as BLAS may use or, if it is not NumPy's own, as this process has cores."""
    library = find()
    return cores() if library is None else library.threads()


def cores() -> int:
    """The cores that this process has, whatever number of threads it is allowed."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
