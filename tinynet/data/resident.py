"""Files that are mapped into memory, and how much of them may be resident: all data sets of the process together."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakSet

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


# Bytes of mapped files that may become resident before they are released. To read a released page again takes a microsecond.
RELEASE = max(2**28, _memory() // 8)


class Maps:
    """Maps of files. Each is known as long as somebody uses it."""

    def __init__(self) -> None:
        self._maps: WeakSet[mmap.mmap] = WeakSet()
        self._lock = Lock()
        self._size = 0  # bytes, perhaps of some that are no longer used
        self._before: int | None = None  # bytes of other files that were resident at the last release
        self._touched = 0  # bytes that may have become so since then

    def add(self, new: mmap.mmap) -> None:
        with self._lock:
            if not self._maps:
                self._begin()
            self._maps.add(new)
            self._size = sum(map(len, self._maps))

    @property
    def large(self) -> bool:
        """Whether more than `RELEASE` could become resident."""
        return self._size > RELEASE

    def touch(self, size: int) -> None:
        """Note that ``size`` more bytes may be resident, and release all if they exceed `RELEASE`; the system caches them still."""
        self._touched += size
        resident = _resident()
        more = self._touched if resident is None or self._before is None else resident - self._before
        if more > RELEASE and hasattr(mmap, "MADV_DONTNEED"):
            with self._lock:
                for each in self._maps:
                    each.madvise(mmap.MADV_DONTNEED)
                self._begin()

    def _begin(self) -> None:
        """Begin to count: no part of these maps is resident now, so what is resident belongs to other files."""
        self._before, self._touched = _resident(), 0


MAPS = Maps()


def mapping(a: Any) -> mmap.mmap | None:
    """The file map behind ``a``, if its pages can be released without loss: not one with private changes."""
    while a is not None and not isinstance(getattr(a, "_mmap", None), mmap.mmap):
        a = getattr(a, "base", None)
    return a._mmap if a is not None and a.mode != "c" else None
