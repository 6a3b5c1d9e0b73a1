"""Programs of kernels: records in one array of words, run one after another without Python, their parts on all cores.

A kernel is a compiled function ``kernel(args, part, parts)``: the address of its arguments, 64-bit words, and the part,
of so many, that it does. A record is ``[length, kernel, parts, *arguments]``. The parts of a record depend on sizes
alone, never on the threads at hand, and so neither do results.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
import weakref
from collections.abc import Callable, Container, Iterator, Sequence, Set
from functools import cache
from time import perf_counter
from typing import Any

import numpy as np
from numba import types
from tinynet_backends import blas
from tinynet_backends.capture import Call, Number, StandIn, is_input, real
from tinynet_backends.compiled import loop
from tinynet_backends.compiled.cached import compiled
from tinynet_backends.compiled.tiles import available
from tinynet_backends.replay import Replay, offset_of, whole_of

KERNEL = types.void(*[types.int64] * 3)
_SHARE = 2**18  # bytes that a part of a chain goes through, about: its arrays then stay in a second-level cache
TURNS = 4  # parts of a chain for each core: one that is slower, or has something else to do, does fewer of them
_EARLY, _EVERY = 16, 2048  # steps from the first trial to the second; then twice as many each time, up to the latter
_TRIED = 6  # steps of a trial with helpers, and then as many without
_UNUSED = 2  # steps at the beginning of either that are not timed: data are still in the caches of other cores
_LONG = 2e-3  # seconds of a program that are worth helpers anyway
_SPINS = 20_000  # turns of about 40 ns that a worker waits for another program before it goes to sleep


class Kernel:
    """A compiled kernel by its address, with its parts: ``kernel(*args)`` runs it at once, on arrays and numbers.

    ``rows`` is the length of its arrays' first axis if it treats the entries along that axis separately, else 0. If the number of
    parts divides ``rows``, a part reads and writes only its own share of the arrays that have this axis.
    """

    __slots__ = ("address", "parts", "rows")

    def __init__(self, address: int, parts: int = 1, rows: int = 0) -> None:
        self.address, self.parts, self.rows = address, parts, rows

    def __call__(self, *args: Any) -> None:
        words = np.array([3 + len(args), self.address, self.parts, *map(_word, args)], np.int64)
        run(words, self.parts > 1)


def _word(value: Any) -> int:
    """An argument as a word: an array's address, the bits of a float64, an integer."""
    if type(value) is not int:  # most are, and after a step every line of Python is slow
        if isinstance(value, np.ndarray):
            return int(value.__array_interface__["data"][0])
        if isinstance(value, float):
            return int(struct.unpack("q", struct.pack("d", value))[0])
    number = int(value)
    return number - 2**64 if number >= 2**63 else number


def _words(numbers: list[Any]) -> Any:
    """Numbers of one type as words."""
    return np.array(numbers, np.float64).view(np.int64) if isinstance(numbers[0], float) else [*map(_word, numbers)]


def lower(calls: Sequence[Call], replay: Replay) -> None:
    """Give ``replay`` the calls of a tape, adjacent ones of kernels as one program.

    Kernels with the same rows, such as many networks, are chained: a core takes a few rows through all of them, then the next
    few, and cores do not wait for one another from kernel to kernel. If the whole tape is one chain, what nobody reads
    afterwards has the same place for all rows of a part, and stays in a cache; and several steps are one run, in which a core
    takes a few rows through all steps. If the whole tape is one program without chains, several steps are one run of its
    records, once for each step.
    """
    records, chains = _Records(), list(_chains(calls))
    for chain in chains:
        shares = _division(chain)
        if shares > 1:
            records.begin_chain(chain, shares, replay if len(chains) == 1 else None)
        for f, args in chain:
            if isinstance(f, Kernel):
                records.add(f, args)
            else:
                records.close(replay)
                records = _Records()
                replay.add(f, args)
    if not records.chained and all(isinstance(f, Kernel) for f, _ in calls):
        records.changes = _changes(calls, replay.returned)
    records.close(replay)


class _Records:
    """The words of a program that is being written, and where inputs stand among them."""

    def __init__(self) -> None:
        self.words: list[int] = []
        self.places: list[tuple[int, StandIn | Number]] = []
        self.kept: list[Any] = []
        self.parts = 1
        self.chained = False
        self.changes: list[int] = []  # if all of the tape is here: places of words that differ from step to step

    def begin_chain(self, chain: Sequence[Call], shares: int, replay: Replay | None) -> None:
        """The head of a chain, whose records follow; with ``replay`` if they are all of its calls."""
        self.chained = True
        shared, size = min(shares, TURNS * machine().cores), sum(3 + len(args) for _, args in chain)
        moves = _moves(chain, shares, replay.passing) if replay else []
        self.changes = _changes(chain, replay.returned) if replay else []
        room = np.empty(shared * size, np.int64)
        self.words += [3 + loop.HEAD + len(moves) + len(self.changes) + size, machine().chain, shared]
        self.words += [shares, _word(room), len(moves) // 2, len(self.changes), size, 0, 0, *moves, *self.changes]
        self.kept.append(room)
        self.parts = max(self.parts, shared)

    def add(self, f: Kernel, args: Sequence[Any]) -> None:
        self.words += [3 + len(args), f.address, f.parts]
        for a in args:
            value = real(a)
            if is_input(a):
                self.places.append((len(self.words), a))
            else:
                self.kept.append(value)
            self.words.append(_word(value))
        self.parts = max(self.parts, f.parts)

    def close(self, replay: Replay) -> None:
        """Give the program, if there is one, to ``replay``."""
        if self.words:
            array = np.array(self.words, np.int64)
            inputs: dict[int, list[tuple[int, int]]] = {}
            for position, a in self.places:
                offset = offset_of(a.value, a.source.value) if isinstance(a, StandIn) else 0
                inputs.setdefault(a.source.number, []).append((position, offset))
            for number, positions in inputs.items():
                replay.places[number].append(_placing(array, positions))
            running = (AdaptiveProgram if self.parts > 1 else Program)(machine(), array, self.kept)
            replay.add(running)
            if self.changes:
                sources = [a.source.number for _, a in self.places]
                replay.several = (_Chained if self.chained else _Repeated)(array, self.changes, sources, running)


class _Several:
    """Several steps of a program that is all of a tape, as one run.

    ``changes`` are places among its words: for inputs, whose numbers are ``sources``, then for the result.
    """

    def __init__(self, words: Any, changes: Sequence[int], sources: Sequence[int], running: Program) -> None:
        self.words, self.changes, self.sources, self.running = words, np.array(changes), sources, running

    def __call__(self, replay: Replay, inputs: Sequence[Any], out: Any) -> bool:
        """`Replay.scan`."""
        alike = all(len(set(map(type, a))) == 1 for a in inputs if isinstance(a, list))
        if not alike or not replay.takes([None if a is None else a[0] for a in inputs]):
            return False
        given = [inputs[number] for number in self.sources]
        results = len(self.changes) - len(given)
        first = self.words[self.changes]  # of the first step
        first[len(given) :] += _word(out) - _word(replay.result)
        apart = [0 if isinstance(a, list) else a.strides[0] for a in given] + [out.strides[0]] * results
        table = first + np.arange(len(out))[:, None] * np.array(apart)
        for column, a in enumerate(given):
            if isinstance(a, list):
                table[:, column] = _words(a)
        self.run(table)
        return True

    def run(self, table: Any) -> None:
        """Run the program for each row of ``table``, the words at the places that change."""
        raise NotImplementedError


class _Chained(_Several):
    """A program that is one chain, in which each share of it goes through all steps: places are those in its records."""

    def __init__(self, words: Any, changes: Sequence[int], sources: Sequence[int], running: Program) -> None:
        super().__init__(words, changes, sources, running)
        self.head = words[3 : 3 + loop.HEAD]
        self.changes += len(words) - self.head[loop.SIZE]

    def run(self, table: Any) -> None:
        self.head[loop.STEPS], self.head[loop.TABLE] = len(table), _word(table)
        try:
            run(self.words, True)
        finally:
            self.head[loop.STEPS] = 0


class _Repeated(_Several):
    """Any other program: its records once for each step, one after another."""

    rows = np.empty((0, 0), np.int64)

    def run(self, table: Any) -> None:
        if len(self.rows) < len(table):
            self.rows = np.tile(self.words, (len(table), 1))
        rows = self.rows[: len(table)]
        rows[:, self.changes] = table
        self.running(rows)


def _chains(calls: Sequence[Call]) -> Iterator[list[Call]]:
    """The calls in lists: each part of the rows can go through all calls of a list without waiting for the other parts."""
    chain: list[Call] = []
    cuts: dict[int, int] = {}
    for call in calls:
        f, args = call
        rows = f.rows if isinstance(f, Kernel) else 0
        if chain and (rows != chain[0][0].rows or not _agree(cuts, args, rows)):  # type: ignore[attr-defined]
            yield chain
            chain = []
        if not chain:
            cuts = {}
            if rows < 2 or not _agree(cuts, args, rows):
                yield [call]
                continue
        chain.append(call)
    if chain:
        yield chain


def _agree(cuts: dict[int, int], args: Sequence[Any], rows: int) -> bool:
    """Whether these and earlier arguments divide each piece of memory into rows at the same places.

    ``cuts`` has the bytes from row to row, by the memory's id; 0 for an array without the axis of rows, which is only read: that
    is safe as long as no call divides its memory.
    """
    for a in args:
        array = real(a)
        if not isinstance(array, np.ndarray) or is_input(a):
            continue  # inputs are read by all and written by none
        whole, cut = whole_of(array), 0
        taken = [step for n, step in zip(array.shape, array.strides, strict=True) if n > 1]
        if array.ndim and len(array) == rows and min(taken) > 0:
            end = array[0].size and sum((n - 1) * s for n, s in zip(array.shape[1:], array.strides[1:], strict=True))
            offset = offset_of(array, whole)
            cut = array.strides[0] if offset >= 0 and offset + end + array.itemsize <= array.strides[0] else 0
        if cuts.setdefault(id(whole), cut) != cut:
            return False
    return True


def _division(chain: Sequence[Call]) -> int:
    """The number of parts of a chain; 1 if it cannot be, or need not be, divided."""
    if len(chain) < 2:
        return 1
    rows: int = chain[0][0].rows  # type: ignore[attr-defined]
    touched = sum(a.nbytes for _, args in chain for a in map(real, args) if isinstance(a, np.ndarray))
    wanted = min(rows, touched // _SHARE)
    return next(n for n in range(max(wanted, 1), rows + 1) if not rows % n)


def _arguments(chain: Sequence[Call]) -> Iterator[tuple[int, Any]]:
    """The arguments in a chain's records, with their places among its words."""
    place = 0
    for _, args in chain:
        yield from enumerate(args, start=place + 3)
        place += 3 + len(args)


def _moves(chain: Sequence[Call], shares: int, passing: Set[int]) -> list[int]:
    """Places among a chain's words that have addresses in buffers among ``passing``, each with the bytes of a share."""
    moves, rows = [], chain[0][0].rows  # type: ignore[attr-defined]
    for place, argument in _arguments(chain):
        a = real(argument)
        if isinstance(a, np.ndarray) and a.shape[:1] == (rows,) and id(whole_of(a)) in passing:
            moves += [place, a.strides[0] * (rows // shares)]
    return moves


def _changes(chain: Sequence[Call], returned: Container[int]) -> list[int]:
    """Places among a chain's words that change from step to step: inputs, then results.

    The memory of results is that of buffers among ``returned``.
    """
    inputs, results = [], []
    for place, a in _arguments(chain):
        value = real(a)
        if is_input(a):
            inputs.append(place)
        elif isinstance(value, np.ndarray) and id(whole_of(value)) in returned:
            results.append(place)
    return inputs + results


def _placing(array: Any, positions: list[tuple[int, int]]) -> Callable[[Any], None]:
    def put(new: Any) -> None:
        word = _word(new)  # of an array it takes a microsecond
        for position, offset in positions:
            array[position] = word + offset

    return put


class Program:
    """Records to be run repeatedly: those of ``words`` or, in their place, ``rows``, the same for several steps."""

    def __init__(self, machine: Any, words: Any, kept: Any = None) -> None:
        self.machine, self.span = machine, _span(words)
        self.kept = words, kept  # what the words point to lives as long as they do

    def __call__(self, rows: Any = None) -> None:
        self.machine.run(*(self.span if rows is None else _span(rows)), 0)


class AdaptiveProgram(Program):
    """A program with helpers, unless it was faster without them when both were last tried.

    On a shared machine, passing data between two cores may for a while take longer than doing the work on one. It begins
    with a trial, as a short training is soon over, and others follow close on that, since one may mislead. Results do not
    depend on which thread does a part.
    """

    def __init__(self, machine: Any, words: Any, kept: Any = None) -> None:
        super().__init__(machine, words, kept)
        self.pause, self.left = _EARLY, 0  # steps until the next trial: from the last one, and from now
        self.helped = True
        self._begin_trial()

    def _begin_trial(self) -> None:
        self.took: tuple[list[float], list[float]] = [], []  # seconds of steps without helpers, and with
        self._try(helped=True)

    def _try(self, helped: bool) -> None:
        self.trying, self.steps = helped, 0

    def __call__(self, rows: Any = None) -> None:
        (first, last), steps = (self.span, 1) if rows is None else (_span(rows), len(rows))
        size = (last - first) // steps
        while self.left <= 0 and first < last:  # steps of a trial are run singly
            self._time(first, first + size)
            first += size
        if first < last:
            self.left -= (last - first) // size
            self.machine.together(first, last, self.helped)

    def _time(self, first: int, last: int) -> None:
        """A step of a trial, and what the trial says if it is the last one."""
        began = perf_counter()
        self.machine.together(first, last, self.trying)
        if self.steps >= _UNUSED:
            self.took[self.trying].append(perf_counter() - began)
        self.steps += 1
        if self.steps < _TRIED:
            return
        alone, helped = self.took
        if self.trying and _median(helped) <= _LONG:
            self._try(helped=False)
            return
        # by the median, since with helpers a run may be fast once in a while on a machine where most are slow
        self.helped = not alone or _median(helped) <= _median(alone)
        self.left, self.pause = self.pause, min(2 * self.pause, _EVERY)
        self._begin_trial()


def _median(seconds: Sequence[float]) -> float:
    return sorted(seconds)[len(seconds) // 2]


def _span(words: Any) -> tuple[int, int]:
    """The addresses where words begin and end."""
    first = _word(words)
    return first, first + words.nbytes


def run(words: Any, parallel: bool) -> None:
    """Run the records in ``words`` once."""
    if parallel:
        machine().together(*_span(words))
    else:
        machine().run(*_span(words), 0)


class Machine:
    """The compiled loop over records, and the threads that help with their parts.

    Work is divided for ``cores`` threads. Matrix products are our own if there are ``tiles``; for the others kernels call
    ``blas``, whose number of threads is our limit.
    """

    def __init__(self) -> None:
        self._compiled = [compiled(KERNEL, body) for body in (loop.run, loop.assist, loop.chain, loop.each)]
        run, assist, self.chain, self.each = (int(made.address or 0) for made in self._compiled)
        function = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)
        self.run, self._help = function(run), function(assist)
        self.tiles = available()
        self.blas = blas.find()
        self.cores = blas.threads()
        self._fresh()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._fresh)

    def _fresh(self) -> None:
        """No helpers: a child process has none of its parent's threads."""
        self._pool = np.zeros(loop.pool_size(self.cores), np.int64)
        self._pool[loop.THREADS] = self.cores
        self._address = self._pool.ctypes.data
        # the first is reentrant: a call that Ctrl-C ended may have left it locked by this thread
        self._busy, self._wake, self._counting = threading.RLock(), threading.Semaphore(0), threading.Lock()
        self._helpers = self._asleep = 0

    def together(self, first: int, last: int, helped: bool = True) -> None:
        """Run records, with the help of other threads if wanted, free and allowed."""
        if self.blas is None:
            self._shared(first, last, self.cores if helped else 1)
            return
        with self.blas.alone() as allowed:
            self._shared(first, last, allowed if helped else 1)

    def _shared(self, first: int, last: int, allowed: int) -> None:
        if allowed < 2 or self.cores < 2 or not self._busy.acquire(blocking=False):
            self.run(first, last, 0)
            return
        try:
            while self._helpers < self.cores - 1:
                self._helpers += 1
                args = weakref.ref(self), self._helpers
                threading.Thread(target=_helper, args=args, name="tinynet-helper", daemon=True).start()
            self._pool[loop.RUNNING] = 1  # before the sleeping are counted: a helper looks at it before it falls asleep
            with self._counting:
                woken = min(self._asleep, allowed - 1)
                if woken:
                    self._wake.release(woken)
                    self._asleep -= woken  # if Ctrl-C comes before this, they are woken twice, not never
            self.run(first, last, self._address)
        finally:
            self._pool[loop.RUNNING] = 0  # as `run` does, which Ctrl-C may come before: helpers would never sleep
            self._busy.release()


def _helper(machine: weakref.ref[Machine], number: int) -> None:
    helped = machine()
    if helped is None:
        return
    pool, wake, work = helped._pool, helped._wake, helped._help  # this process's, whatever a child of it does
    while True:
        work(pool.ctypes.data, number, _SPINS)
        with helped._counting:
            if pool[loop.RUNNING]:
                continue
            helped._asleep += 1
        wake.acquire()


@cache
def machine() -> Machine:
    """The one of this process."""
    return Machine()
