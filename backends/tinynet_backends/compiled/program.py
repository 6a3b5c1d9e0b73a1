"""Programs of kernels: records in one array of words, run one after another without Python, their parts on all cores.

A kernel is a compiled function ``kernel(args, part, parts)``: the address of its arguments, 64-bit words, and which of
how many parts of the work is meant. A record is ``[length, kernel, parts, *arguments]``. The parts of a record depend on
sizes alone, and not on who is there to do them, so that results do not either.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numba import cfunc, types
from tinynet_backends.capture import Call, Number, Stand, real
from tinynet_backends.compiled import blas, loop, vectors
from tinynet_backends.replay import Replay, offset_of

KERNEL, _ASSIST = types.void(*[types.int64] * 3), types.void(*[types.int64] * 2)
_SPINS = 20_000  # turns of about 40 ns that a worker waits for more before it goes to sleep


class Kernel:
    """A compiled kernel by its address, with its parts: ``kernel(*args)`` runs it at once, on arrays and numbers."""

    __slots__ = ("address", "parts")

    def __init__(self, address: int, parts: int = 1) -> None:
        self.address, self.parts = address, parts

    def __call__(self, *args: Any) -> None:
        words = np.array([3 + len(args), self.address, self.parts, *map(_word, args)], np.int64)
        run(words, self.parts > 1)


def _word(value: Any) -> int:
    """An argument as a word: an array's address, the bits of a float64, a whole number."""
    if isinstance(value, np.ndarray):
        return int(value.__array_interface__["data"][0])
    if isinstance(value, float):
        return int(struct.unpack("q", struct.pack("d", value))[0])
    number = int(value)
    return number - 2**64 if number >= 2**63 else number


def lower(calls: Sequence[Call], replay: Replay) -> None:
    """Give ``replay`` the calls of a tape, those of kernels that stand together as one program."""
    words: list[int] = []
    places: list[tuple[int, Any]] = []
    kept: list[Any] = []
    parts = 1

    def close() -> None:
        nonlocal words, places, kept, parts
        if not words:
            return
        array = np.array(words, np.int64)
        for position, stand in places:
            offset = offset_of(stand) if isinstance(stand, Stand) else 0
            replay.places[stand.source.number].append(_placing(array, position, offset))
        replay.calls.append((_running(array, parts > 1, kept), []))
        words, places, kept, parts = [], [], [], 1

    for f, args in calls:
        if not isinstance(f, Kernel):
            close()
            replay.add(f, args)
            continue
        words += [3 + len(args), f.address, f.parts]
        for a in args:
            words.append(_word(real(a)))
            if isinstance(a, (Stand, Number)) and a.source is not None:
                places.append((len(words) - 1, a))
            else:
                kept.append(real(a))
        parts = max(parts, f.parts)
    close()


def _placing(array: Any, position: int, offset: int) -> Callable[[Any], None]:
    def put(new: Any) -> None:
        array[position] = _word(new) + offset

    return put


def _running(array: Any, parallel: bool, kept: list[Any]) -> Callable[[], None]:
    machine, first, last = _machine(), array.ctypes.data, array.ctypes.data + array.nbytes
    if not parallel:
        sequential = machine.run

        def alone(kept: Any = (array, kept)) -> None:  # what the words point to lives as long as they do
            sequential(first, last, 0)

        return alone

    def together(kept: Any = (array, kept)) -> None:
        machine.together(first, last)

    return together


def run(words: Any, parallel: bool) -> None:
    """Run the records in ``words`` once."""
    machine, first = _machine(), words.ctypes.data
    if parallel:
        machine.together(first, first + words.nbytes)
    else:
        machine.run(first, first + words.nbytes, 0)


def cores() -> int:
    """Threads that work is divided for."""
    return _machine().cores


def tiles() -> bool:
    """Whether products are our own."""
    return _machine().tiles


def library() -> blas.Blas | None:
    """The BLAS that kernels call for the other products; its number of threads is our limit."""
    return _machine().blas


class Machine:
    """The compiled loop over records, and the threads that help with their parts."""

    def __init__(self) -> None:
        word = ctypes.c_int64
        self._compiled = cfunc(KERNEL, cache=True)(loop.run), cfunc(_ASSIST, cache=True)(loop.assist)
        self.run = ctypes.CFUNCTYPE(None, word, word, word)(self._compiled[0].address or 0)
        self._help = ctypes.CFUNCTYPE(None, word, word)(self._compiled[1].address or 0)
        self.tiles = vectors.available()
        self.blas = blas.find()
        self.cores = self.blas.threads() if self.blas else (os.cpu_count() or 1)
        self._fresh()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._fresh)

    def _fresh(self) -> None:
        """No helpers: a child process has none of its parent's threads."""
        self._pool = np.zeros(loop.POOL, np.int64)
        self._address = self._pool.ctypes.data
        self._busy, self._wake = threading.Lock(), threading.Semaphore(0)
        self._helpers = self._asleep = 0

    def together(self, first: int, last: int) -> None:
        """Run records with the help of other threads, where these are free and as many are allowed."""
        if self.blas is None:
            self._shared(first, last, self.cores)
            return
        with self.blas.alone() as allowed:
            self._shared(first, last, allowed)

    def _shared(self, first: int, last: int, allowed: int) -> None:
        if allowed < 2 or self.cores < 2 or not self._busy.acquire(blocking=False):
            self.run(first, last, 0)
            return
        try:
            while self._helpers < self.cores - 1:
                self._helpers += 1
                threading.Thread(target=_helper, args=(weakref.ref(self),), name="tinynet-helper", daemon=True).start()
            for _ in range(min(self._asleep, allowed - 1)):
                self._wake.release()
            self.run(first, last, self._address)
        finally:
            self._busy.release()


def _helper(machine: weakref.ref[Machine]) -> None:
    own = machine()
    if own is None:
        return
    pool, wake, work = own._pool, own._wake, own._help  # this process's, whatever a child of it does
    while True:
        work(pool.ctypes.data, _SPINS)
        own._asleep += 1
        wake.acquire()
        own._asleep -= 1


@cache
def _machine() -> Machine:
    return Machine()
