"""As much of CuPy as `cuda.runtime` asks for: two devices, of which one is the current one, and a clock that work moves on."""

import weakref
from contextlib import contextmanager
from types import SimpleNamespace

import fake_cuda


class Event:
    def __init__(self, cuda, disable_timing=False):
        self.cuda, self.at = cuda, 0.0

    def record(self, stream=None):
        self.at = self.cuda.now

    def synchronize(self):
        pass


class Graph:
    def __init__(self, cuda, work):
        self.cuda, self.work = cuda, work

    def launch(self):
        self.cuda.now += self.cuda.launch
        for seconds in self.work:
            self.cuda.now += seconds


class Cuda:
    """``cupy.cuda``. Seconds pass by `do`: those of the host's launch, and those of the device's work."""

    def __init__(self):
        self.current, self.now, self.launch, self.work = 0, 0.0, 1e-4, None
        self.pools = [fake_cuda.MemoryPool(limit=1000 * (n + 1)) for n in range(2)]
        self.asked = []  # of which device
        self.runtime = SimpleNamespace()
        here = self

        class Device:
            compute_capability = "90"

            def __init__(self, number):
                self.id, self.mem_info, self.before = number, (900, 5000), []
                self.attributes = {"MaxSharedMemoryPerBlockOptin": 232448}

            def __enter__(self):
                self.before.append(here.current)
                here.current = self.id

            def __exit__(self, *args):
                here.current = self.before.pop()

        class MemoryPool:
            """With an allocator of its own, one that gives its free blocks back before it says that there is no memory."""

            def __init__(self, allocator=None):
                self.allocator, self.free = allocator, []

            def __getattr__(self, name):
                here.asked.append(here.current)
                return getattr(here.pools[here.current], name)

            def set_limit(self, size):
                here.asked.append(here.current)
                if self.allocator is None:
                    here.pools[here.current].set_limit(size)
                else:
                    assert size == 0

            def malloc(self, size):
                block = next((block for block in self.free if block.size == size), None)
                if block is not None:
                    self.free.remove(block)
                else:
                    try:
                        block = self.allocator(size).mem
                    except RuntimeError:
                        self.free.clear()
                        block = self.allocator(size).mem
                pointer = MemoryPointer(block, 0)
                weakref.finalize(pointer, self.free.append, block)
                return pointer

        class Memory:
            def __init__(self, size):
                if here.taken + size > here.memory:
                    raise RuntimeError("cudaErrorMemoryAllocation: out of memory")
                self.size, self.ptr = size, 4096
                here.taken += size
                weakref.finalize(self, here.give_back, size)

        class MemoryPointer:
            def __init__(self, mem, offset):
                self.mem, self.ptr = mem, mem.ptr + offset

        self.Memory, self.MemoryPointer = Memory, MemoryPointer
        self.UnownedMemory = lambda ptr, size, owner, device: SimpleNamespace(ptr=ptr, size=size, owner=owner)
        self.memory, self.taken = 1000, 0  # of the device, in bytes

        class Stream:
            ptr = 7

            def __init__(self, non_blocking=True):
                pass

            def __enter__(self):
                return self

            def __exit__(self, *args):
                pass

            def begin_capture(self):
                here.work = []

            def end_capture(self):
                work, here.work = here.work, None
                return Graph(here, work)

        self.Device, self.MemoryPool, self.Stream = Device, MemoryPool, Stream

    def give_back(self, size):
        self.taken -= size

    def do(self, seconds):
        """A kernel of so many seconds: queued, which takes the host longer, or captured."""
        if self.work is not None:
            self.work.append(seconds)
        else:
            self.now += max(seconds, self.launch)

    def Event(self, **options):
        return Event(self, **options)

    @contextmanager
    def using_allocator(self, allocate):
        yield

    def get_elapsed_time(self, begin, end):
        return (end.at - begin.at) * 1e3


class Cupy:
    def __init__(self):
        self.cuda = Cuda()
        self.main = self.cuda.MemoryPool()

    def get_default_memory_pool(self):
        return self.main
