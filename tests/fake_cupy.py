"""As much of CuPy as `cuda.runtime` asks for: two devices, of which one is the current one, and a clock that work moves on."""

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
            def __getattr__(self, name):
                here.asked.append(here.current)
                return getattr(here.pools[here.current], name)

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
