"""How much of the files that are mapped into memory is resident: a process that reads all of one must not fill the machine."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FAULT = 2**21  # bytes that reading one row may make resident: Linux maps its surroundings too, up to a huge page


def _memory() -> int:
    """Bytes of physical memory; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # as on Windows
        return 0


def _resident() -> int | None:
    """Bytes of files that are resident in this process; None where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[2]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


# Bytes of mapped files that may become resident before they are released. A page that was takes a microsecond to read again.
RELEASE = max(2**28, _memory() // 8)


class Maps:
    """The maps of files that some arrays are views of, if there are any."""

    def __init__(self, arrays: Iterable[Any]) -> None:
        self._maps = [m for a in arrays if (m := _mapping(a)) is not None]
        self._size, self._touched = sum(map(len, self._maps)), 0
        self._before = _resident() if self._maps else None  # bytes that were resident before anything was read

    @property
    def large(self) -> bool:
        """Whether so much may become resident that who reads has to tell: see `touch`."""
        return self._size > RELEASE

    def touch(self, size: int) -> None:
        """Release what became resident, beyond `RELEASE`; the system still caches it. ``size`` bytes may have become so."""
        self._touched += size
        resident = _resident()
        more = self._touched if resident is None or self._before is None else resident - self._before
        if more > RELEASE and hasattr(mmap, "MADV_DONTNEED"):
            for m in self._maps:
                m.madvise(mmap.MADV_DONTNEED)
            self._touched = 0


def _mapping(a: Any) -> Any:
    """The file map behind ``a``, if its pages can be released without loss: not one with private changes."""
    while a is not None and not isinstance(getattr(a, "_mmap", None), mmap.mmap):
        a = getattr(a, "base", None)
    return a._mmap if a is not None and a.mode != "c" else None
