"""Devices, and the memory that CuPy takes from them: in pools, one for each device and stream.

Free memory is all ones, NaN as floating-point numbers: what is read after it was freed, or before it was written, is noticed.
"""

import ctypes
import threading
import weakref
from bisect import bisect_right, insort
from collections import defaultdict, deque
from contextlib import contextmanager

import numpy as np

from rehearsal import streams
from rehearsal.state import DEVICES, CUDARuntimeError, thread

TOTAL = 1 << 33  # bytes of a device
BLOCK = 512  # bytes, to a multiple of which pools round
POISON = 0xFF

taken = [0] * DEVICES  # bytes of each device
_starts, _ends = [], {}  # of what is allocated
_lock = threading.RLock()  # one of all pools: a finalizer may run anywhere, in one pool for the sake of another
_freed = deque(maxlen=64)  # still mapped: whoever has only an address reads poison, and does not crash


class Device:
    compute_capability = "90"
    attributes = property(lambda self: {"MaxSharedMemoryPerBlockOptin": 227 << 10})
    __hash__ = None

    def __init__(self, device=None):
        self.id = thread.device if device is None else int(getattr(device, "id", device))

    @property
    def mem_info(self):
        return TOTAL - taken[self.id], TOTAL

    def __eq__(self, other):
        return isinstance(other, Device) and other.id == self.id

    def __repr__(self):
        return f"<CUDA Device {self.id}>"

    def __enter__(self):
        thread.entered.append(thread.device)
        thread.device = self.id
        return self

    def __exit__(self, *exception):
        thread.device = thread.entered.pop()

    def use(self):
        thread.device = self.id

    def synchronize(self):
        streams.wait("Device.synchronize")


def allocated(address, size):
    """Whether all of these bytes belong to one allocation."""
    with _lock:
        n = bisect_right(_starts, address) - 1
        return n >= 0 and address + size <= _ends[_starts[n]]


def _free(raw, address, size, number):
    with _lock:
        taken[number] -= size
        _starts.remove(address)
        del _ends[address]
        raw.fill(POISON)
        _freed.append(raw)


class Memory:
    """An allocation on the current device."""

    def __init__(self, size):
        self.size, self.device_id = size, thread.device
        with _lock:
            if taken[self.device_id] + size > TOTAL:
                raise CUDARuntimeError("cudaErrorMemoryAllocation: out of memory")
            raw = np.full(size + BLOCK, POISON, "uint8")
            self.ptr = -(-raw.ctypes.data // BLOCK) * BLOCK
            taken[self.device_id] += size
            insort(_starts, self.ptr)
            _ends[self.ptr] = self.ptr + size
        weakref.finalize(self, _free, raw, self.ptr, size, self.device_id).atexit = False

    @property
    def device(self):
        return Device(self.device_id)


class UnownedMemory:
    def __init__(self, ptr, size, owner, device_id=-1):
        self.ptr, self.size, self.device_id, self._owner = ptr, size, device_id, owner

    device = Memory.device


class MemoryPointer:
    def __init__(self, mem, offset):
        self.mem, self.ptr = mem, mem.ptr + offset

    @property
    def device(self):
        return self.mem.device

    def copy_from_host_async(self, mem, size, stream=None):
        if (stream or streams.get_current_stream()).is_capturing():
            raise RuntimeError("the current stream is capturing, so H2D transfers are disallowed")
        assert allocated(self.ptr, size)
        ctypes.memmove(self.ptr, mem, size)


class OutOfMemoryError(MemoryError):
    def __init__(self, size, total, limit):
        super().__init__(f"Out of memory allocating {size} bytes (allocated so far: {total} bytes, limit: {limit})")


class PooledMemory:
    """Part of a pool, which gets it back when nothing has it any more."""

    def __init__(self, pool, block, place):
        self.ptr, self.size, self.device_id = block.ptr, block.mem.size, block.mem.device_id
        weakref.finalize(self, pool.take_back, block, place).atexit = False

    device = Memory.device


class _OfDevice:
    """What a pool has on one device."""

    def __init__(self, allocator):
        self.allocator, self.limit, self.total, self.used = allocator, 0, 0, 0
        self.free = defaultdict(list)

    def take_back(self, block, place):
        with _lock:
            self.used -= place[1]
            ctypes.memset(block.ptr, POISON, block.mem.size)
            self.free[place].append(block)

    def malloc(self, size):
        if not size:
            return MemoryPointer(UnownedMemory(0, 0, None, thread.device), 0)
        size = -(-size // BLOCK) * BLOCK
        place = streams.get_current_stream().ptr, size
        with _lock:
            block = self.free[place].pop() if self.free[place] else self._more(size)
            self.used += size
            return MemoryPointer(PooledMemory(self, block, place), 0)

    def _more(self, size):
        for again in (True, False):
            try:
                if not self.limit or self.total + size <= self.limit:
                    block = self.allocator(size)
                    self.total += size
                    return block
            except CUDARuntimeError:
                pass
            if again:
                self.free_all_blocks()
        raise OutOfMemoryError(size, self.total, self.limit)

    def free_all_blocks(self):
        with _lock:
            self.total -= sum(size * len(blocks) for (_, size), blocks in self.free.items())
            self.free.clear()


class MemoryPool:
    """Asked about the current device, as CuPy's is."""

    def __init__(self, allocator=None):
        self._devices = [_OfDevice(allocator or (lambda size: MemoryPointer(Memory(size), 0))) for _ in range(DEVICES)]

    @property
    def _here(self):
        return self._devices[thread.device]

    def malloc(self, size):
        return self._here.malloc(size)

    def free_all_blocks(self, stream=None):
        self._here.free_all_blocks()

    def used_bytes(self):
        return self._here.used

    def total_bytes(self):
        return self._here.total

    def get_limit(self):
        return self._here.limit

    def set_limit(self, size=None, fraction=None):
        self._here.limit = size if fraction is None else int(fraction * TOTAL)


main = MemoryPool()


def get_default_memory_pool():
    return main


def alloc(size):
    return (thread.allocator or main.malloc)(size)


@contextmanager
def using_allocator(allocator=None):
    before, thread.allocator = thread.allocator, allocator
    try:
        yield
    finally:
        thread.allocator = before
