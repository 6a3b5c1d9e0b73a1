"""How much of a device's memory there is for us, and what is said when it is not enough."""

from __future__ import annotations

import os
import re
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
        raise ValueError(f"{VARIABLE} {text!r} is no amount of memory: write for instance 8GiB, 8000MB or 90%")
    return size


def shown(size: int) -> str:
    """Bytes for people: "1.5 GiB"."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


class Room:
    """The memory of one device, divided between the pool that steps run in as they are written and those of graphs.

    ``main`` is that pool, with CuPy's own limit if there is one; $TINYNET_GPU_MEMORY goes before it. Together they take
    no more than the limit.
    """

    def __init__(self, main: Any, total: int) -> None:
        self.main = main
        text = os.environ.get(VARIABLE)
        self.limit = limit_from(text, total) if text else main.get_limit() or total
        self._graphs: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self.share()

    @property
    def used(self) -> int:
        """Bytes that arrays and graphs take."""
        return int(self.main.used_bytes()) + self._of_graphs()

    def _of_graphs(self) -> int:
        pools = [ref() for ref in self._graphs.valuerefs()]  # at once: other threads make graphs meanwhile
        return sum(int(pool.total_bytes()) for pool in pools if pool is not None)

    def share(self) -> None:
        """Leave the main pool what graphs do not have."""
        self.main.set_limit(size=max(1, self.limit - self._of_graphs()))

    def add(self, pool: Any) -> None:
        """A pool for a graph: it may take what is free."""
        self.main.free_all_blocks()
        pool.set_limit(size=max(1, self.limit - int(self.main.total_bytes()) - self._of_graphs()))
        self._graphs[id(pool)] = pool
        weakref.finalize(pool, self.share).atexit = False

    def admit(self, needed: int, what: str) -> None:
        """MemoryError if ``needed`` bytes more than are used would be too many for ``what``."""
        self.share()
        free = self.limit - self.used
        if needed > free:
            raise MemoryError(
                f"{what} takes about {shown(needed)}, and of {shown(self.limit)} on the device {shown(max(0, free))} "
                f"are free: {REMEDY}"
            )

    def exhausted(self) -> MemoryError:
        """What to say where an allocation failed; what nobody uses has been given back by then."""
        self.main.free_all_blocks()
        return MemoryError(
            f"the device has no more memory: {shown(self.used)} of {shown(self.limit)} are in use: {REMEDY}"
        )
