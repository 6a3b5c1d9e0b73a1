"""Streams, events, captures and graphs. Work is done when it is queued; in a capture it is recorded, and done at each launch."""

from itertools import count

import numpy as np

from rehearsal import memory
from rehearsal.state import BYTE, KERNEL, LAUNCH, CUDARuntimeError, clock, thread, waits

_numbers = count(100)


class Capture:
    """The work of a graph to be, and the streams that its own stream has yet to wait for."""

    def __init__(self, stream):
        self.stream, self.work, self.apart, self.open = stream, [], set(), True

    def add(self, stream, *work):
        self.work.append(work)
        if stream is not self.stream:
            self.apart.add(stream)


class Stream:
    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        self.ptr, self.device_id, self._capture = 0 if null else next(_numbers), thread.device, None

    def __enter__(self):
        thread.streams.append(self)
        return self

    def __exit__(self, *exception):
        thread.streams.pop()

    @property
    def capture(self):
        """The open capture that this stream is in."""
        return self._capture if self._capture is not None and self._capture.open else None

    def is_capturing(self):
        return self.capture is not None

    def begin_capture(self, mode=None):
        if not self.ptr or self.is_capturing():
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: the default stream, or one that is capturing")
        self._capture = Capture(self)

    def end_capture(self):
        capture, self._capture = self.capture, None
        capture.open = False
        if capture.apart:
            raise CUDARuntimeError("cudaErrorStreamCaptureUnjoined: work of another stream is not waited for")
        return Graph.of(capture.work)

    def synchronize(self):
        wait("Stream.synchronize", self)

    @property
    def done(self):
        return True

    def record(self, event=None):
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event):
        capture = event.stream.capture if event.stream else None
        if capture is None:
            return
        if self is capture.stream:
            capture.apart.discard(event.stream)
        else:
            self._capture = capture


Stream.null = Stream(null=True)


def get_current_stream(device_id=-1):
    return thread.streams[-1] if thread.streams else Stream.null


class Event:
    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.stream, self.at, self.timing = None, None, not disable_timing

    def record(self, stream=None):
        self.stream, self.at = stream or get_current_stream(), clock.now

    def _known(self):
        if self.stream is not None and self.stream.is_capturing():
            raise CUDARuntimeError("cudaErrorCapturedEvent: an event of a capture")

    @property
    def done(self):
        self._known()
        return True

    def synchronize(self):
        self._known()
        wait("Event.synchronize")


def get_elapsed_time(begin, end):
    """In milliseconds."""
    if not (begin.timing and end.timing):
        raise CUDARuntimeError("cudaErrorInvalidResourceHandle: an event without timing")
    return (end.at - begin.at) * 1e3


class Graph:
    def __init__(self):
        raise NotImplementedError("a graph is what a capture ends with")

    @staticmethod
    def of(work):
        graph = object.__new__(Graph)
        graph.work = work
        graph.graph = id(graph)
        return graph

    def launch(self, stream=None):
        if get_current_stream().is_capturing():
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: a graph is launched in a capture")
        clock.now += LAUNCH
        for what, touched, seconds in self.work:
            for address, size in touched:
                if not memory.allocated(address, size):
                    raise CUDARuntimeError("cudaErrorIllegalAddress: a graph uses memory that was freed")
            what()
            clock.now += seconds


def wait(what, stream=None):
    """The host waits for the device."""
    if (stream or get_current_stream()).is_capturing():
        raise RuntimeError(f"the current stream is capturing, so synchronous API calls are disallowed: {what}")
    waits[what] += 1
    if not thread.may_wait:
        raise RuntimeError(f"synchronize detected: {what}")


def capturing():
    return get_current_stream().is_capturing()


def do(what, *arrays, seconds=0.0):
    """Do, on the current stream, what takes a device so many seconds, and touches these arrays of the host."""
    stream = get_current_stream()
    seconds += KERNEL + BYTE * sum(a.nbytes for a in arrays)
    if stream.capture is None:
        what()
        clock.now += max(seconds, LAUNCH)
        return
    bounds = [np.lib.array_utils.byte_bounds(a) for a in arrays if a.size]
    stream.capture.add(stream, what, [(low, high - low) for low, high in bounds], seconds)
