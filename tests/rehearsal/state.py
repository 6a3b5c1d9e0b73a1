"""What CuPy keeps for each thread, and what is counted for all of them."""

import threading
from collections import Counter

DEVICES = 2
LAUNCH = 1e-4  # seconds that the host takes to launch a kernel or a graph
KERNEL, BYTE, OPERATION = 2e-6, 1e-8, 1e-8  # seconds that the device takes: what is long for it is long here


class Thread(threading.local):
    def __init__(self):
        self.device, self.entered = 0, []
        self.streams = []  # entered
        self.allocator = None
        self.may_wait = True


thread = Thread()
waits = Counter()  # how often the host waited for the device, by what made it wait


class Clock:
    """Passes by what is done, so that timings are the same in every run."""

    def __init__(self):
        self.now = 0.0


clock = Clock()


class CUDARuntimeError(RuntimeError):
    """CuPy's, for what the driver refuses."""
