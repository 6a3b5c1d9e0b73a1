"""The limit on a device's memory, and the message when it is reached."""

from __future__ import annotations

import os
import re
import threading
import weakref
from typing import Any

VARIABLE = "TINYNET_GPU_MEMORY"
REMEDY = "take a smaller batch_size, or accumulate=… to go through each batch in parts"
_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?)\s*(%|[kmg]i?b)?\s*", re.IGNORECASE)


def limit_from(text: str, total: int) -> int:
    """Bytes from "8GiB", "8000MB", "90%" of ``total``, or a plain number of bytes."""
    match = _SIZE.fullmatch(text)
    unit = (match[2] or "").lower() if match else ""
    number = float(match[1]) if match else 0.0
    size = int(number * (total / 100 if unit == "%" else _UNITS[unit]))
    if size < 1 or (unit == "%" and number > 100):
        raise ValueError(f"{VARIABLE} {text!r} is not a memory size: write for instance 8GiB, 8000MB or 90%")
    return size


def shown(size: int) -> str:
    """Bytes in a readable unit: "1.5 GiB"."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


class DeviceMemory:
    """The memory of one device, divided between the main pool and the pools of graphs, under one limit.

    The limit is $TINYNET_GPU_MEMORY, else that of ``main``, CuPy's pool, as it was or as others set it later, else all of
    the memory. ``device.mem_info`` has its free bytes, which other processes may take, and all of them.
    """

    def __init__(self, main: Any, device: Any) -> None:
        self.main, self.device, self.total = main, device, int(device.mem_info[1])
        text = os.environ.get(VARIABLE)
        self.limit = limit_from(text, self.total) if text else main.get_limit() or self.total
        self._given = None if text else int(main.get_limit())  # the limit of ``main`` that is known to us
        self._sharing = threading.Lock()
        self._graphs: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self.share()

    @property
    def used(self) -> int:
        """Bytes that arrays and graphs occupy."""
        return int(self.main.used_bytes()) + self._of_graphs()

    def _of_graphs(self) -> int:
        pools = [ref() for ref in self._graphs.valuerefs()]  # a copy: other threads may add graphs meanwhile
        return sum(int(pool.total_bytes()) for pool in pools if pool is not None)

    def share(self) -> None:
        """Limit the main pool to what graphs do not occupy."""
        if not self._sharing.acquire(blocking=False):
            return  # another thread is at it; or this one, in which the garbage collector has ended a graph meanwhile
        try:
            now = int(self.main.get_limit())
            if self._given is not None and now != self._given:
                self.limit = now or self.total
            size = max(1, self.limit - self._of_graphs())
            self.main.set_limit(size=size)
            self._given = None if self._given is None else size
        finally:
            self._sharing.release()

    def add(self, pool: Any) -> None:
        """Register a graph's pool, which may take what is free."""
        self.main.free_all_blocks()
        self.bound(pool)
        self._graphs[id(pool)] = pool
        weakref.finalize(pool, self.share).atexit = False

    def bound(self, pool: Any) -> None:
        """Limit a pool to what no other has taken."""
        pool.set_limit(size=max(1, self.limit - int(self.main.total_bytes()) - self._of_graphs()))

    def admit(self, needed: int, what: str) -> None:
        """MemoryError unless the ``needed`` bytes for ``what`` are free."""
        self.share()
        unused = int(self.main.total_bytes()) - int(self.main.used_bytes())
        free = min(self.limit - self.used, int(self.device.mem_info[0]) + unused)
        if needed > free:
            raise MemoryError(
                f"{what} takes about {shown(needed)}, but only {shown(max(0, free))} of {shown(self.limit)} on the device "
                f"are free: {REMEDY}"
            )

    def exhausted(self) -> MemoryError:
        """The error for a failed allocation; unused memory is returned to the device first."""
        self.main.free_all_blocks()
        return MemoryError(
            f"the device is out of memory: {shown(self.used)} of {shown(self.limit)} are in use: {REMEDY}"
        )
