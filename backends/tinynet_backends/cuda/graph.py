"""Compiled steps as CUDA graphs: a step is captured once for each kind of arguments, and launched from then on.

A capture executes nothing: it records kernels with the addresses and numbers that were passed to them. So what is new at
every call has to lie where it lay during the capture. Arrays are copied to inputs that belong to the graph, unless they
are the same at every call; numbers go to an array on the device, and the step gets a `Number` that kernels read there.
A step must not write to its arguments.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tinynet_backends import capture
from tinynet_backends.arena import Arena
from tinynet_backends.backend import Array
from tinynet_backends.cuda.copies import Copies
from tinynet_backends.cuda.joined import Launch
from tinynet_backends.cuda.plan import ALIGNED
from tinynet_backends.errors import first_line

_log = logging.getLogger("tinynet")
# Graphs that a step keeps: one for a further kind of arguments replaces the least recently used.
KINDS = 16
_NUMBERS = (int, float)


class Uncapturable(Exception):
    """The step does something that cannot be captured; the message says what."""


class Recording:
    """A capture in progress.

    ``kept`` has what the graph uses beside its own pool, to keep it alive; ``launches`` all launches of kernels of ours;
    ``before`` what has to be done before a launch of the graph, except after another one in `Backend.undisturbed`.
    """

    def __init__(self) -> None:
        self.broken = ""
        self.kept: list[Array] = []
        self.launches: list[Launch] = []
        self.before: list[Callable[[], None]] = []
        self.copies: Copies | None = None

    def stop(self, reason: str) -> None:
        """Abandon the capture: the step runs as written. Nothing that was captured has been executed."""
        self.broken = self.broken or reason
        raise Uncapturable(reason)


class Number(capture.Number):
    """A number that changes from launch to launch, on the device: ``real`` () float64, ``whole`` () uint64 for an int.

    It can only be passed to a kernel: Python arithmetic on it ends the capture.
    """

    def __init__(self, recording: Recording, value: float, real: Array, whole: Array | None) -> None:
        self.tape = recording  # type: ignore[assignment]
        self.value, self.real, self.whole = value, real, whole
        self.source: Any = None


def real(value: Any) -> Any:
    """The kernel argument for a floating-point number: of a `Number`, its place on the device."""
    return value.real if isinstance(value, Number) else value


def whole(value: Any) -> Any:
    """The kernel argument for a word: of an integer `Number`, its place on the device."""
    if not isinstance(value, Number):
        return value
    return value if value.whole is None else value.whole


class _Seen(NamedTuple):
    """The arrays of a kind's first call, as long as others have them, and copies of them, on which it ran."""

    arrays: list[weakref.ref[Any]]
    inputs: list[Array]


class _Captured(NamedTuple):
    """A graph, and all that it reads and writes except the step's fixed arrays, to keep it alive.

    It reads the caller's arrays where they are if they are its ``inputs``, else copies of them there.
    """

    graph: Any
    pool: Any
    inputs: list[Array]
    in_place: bool
    numbers: Array | None
    results: list[Any]
    kept: list[Array]
    before: list[Callable[[], None]]


class ThreadState(threading.local):
    """What a thread is currently doing."""

    def __init__(self) -> None:
        self.recording: Recording | None = None
        self.arena: Arena | None = None  # of the compiled step
        self.constants: dict[Any, Array] | None = None  # that step's arrays filled with one number
        self.copies: Copies | None = None  # of what that step holds fixed
        self.undisturbed = False
        self.latest: Any = None  # the graph that was launched last, if no other step has run since, undisturbed


Join = Callable[[Any, Recording, Any], Any]


class Compiled(threading.local):
    """``step(*fixed, …)`` on a device: ``compiled(*args)``, or several calls in one launch.

    ``join(graph, recording, pool)`` may make a shorter graph that does the same. Every thread has its own graphs. All of
    them, and their memory, are freed with this object.
    """

    def __init__(
        self, runtime: Any, running: ThreadState, step: Callable[..., Any], fixed: tuple[Any, ...],
        join: Join = lambda graph, *_: graph,
    ) -> None:  # fmt: skip
        self._here = _Compilation(runtime, running, step, fixed, join)  # Python does this again in every thread

    def __call__(self, *args: Any) -> Any:
        return self.several([args])[0]

    def several(self, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The results of several calls, executed one after another in one launch."""
        return self._here(calls)


class _Compilation:
    """The graphs of one thread, by kind of arguments.

    The first calls of a kind run as written, which compiles kernels and times products; the second are captured and
    launched, later ones only launched. The first already find their arrays where the graph will: how products are
    computed depends on alignment, and the first call of a resumed run is a later call of the original one.

    A graph reads copies of the calls' arrays, unless the second call has the same ones as the first: then it reads these,
    until a call comes with others.
    """

    def __init__(
        self, runtime: Any, running: ThreadState, step: Callable[..., Any], fixed: tuple[Any, ...], join: Join
    ) -> None:
        self.runtime, self.running, self.step, self.fixed, self.join = runtime, running, step, fixed, join
        self.logged: set[str] = set()
        # the graph; the first call, if it is still to be captured; or why there is none
        self.kinds: dict[Any, _Captured | _Seen | str] = {}

    def __call__(self, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        if self.runtime.capturing():
            return self._as_written(calls)  # a part of the graph that is being captured
        try:
            kind, arrays, numbers = self._sorted(calls)
        except Uncapturable as e:
            if str(e) not in self.logged:
                self.logged.add(_not_captured(str(e)))
            return self._as_written(calls)
        known = self.kinds.pop(kind, None)
        if known is None:
            while len(self.kinds) >= KINDS:
                del self.kinds[next(iter(self.kinds))]
            seen = _Seen([*map(weakref.ref, arrays)], self._copies(arrays))
            places = iter(seen.inputs)
            results = self._as_written([[next(places) if self.runtime.owns(a) else a for a in args] for args in calls])
            self.kinds[kind] = seen  # not if it fails: it would leave kernels to compile and products to time
            return results
        if isinstance(known, _Captured) and known.in_place and not _same(arrays, known.inputs):
            known = _Seen([], self._copies(arrays))  # captured again
        self.kinds[kind] = known  # the most recently used is last
        if isinstance(known, _Seen):
            in_place = _same(arrays, [there() for there in known.arrays]) and all(map(self._aligned, arrays))
            inputs = arrays if in_place else known.inputs
            known = self.kinds[kind] = self._captured_and_launched(calls, inputs, in_place, arrays, numbers)
        elif isinstance(known, _Captured):
            self._launch(known, arrays, numbers)
        return self._as_written(calls) if isinstance(known, str) else known.results

    def _as_written(self, calls: Sequence[Sequence[Any]]) -> list[Any]:
        self.running.latest = None
        return [self.step(*self.fixed, *args) for args in calls]

    def _sorted(self, calls: Sequence[tuple[Any, ...]]) -> tuple[Any, list[Array], list[float]]:
        """The kind of these arguments, and the arrays and the numbers among them."""
        arrays: list[Array] = []
        numbers: list[float] = []
        kinds: list[Any] = []
        for args in calls:
            kinds.append(len(args))
            for a in args:
                kind = type(a)
                if kind in _NUMBERS:
                    numbers.append(a)
                    kinds.append(kind)
                elif a is None or kind is bool:
                    kinds.append(a)
                elif self.runtime.owns(a):
                    arrays.append(a)
                    kinds.append((a.shape, a.dtype))
                else:
                    raise Uncapturable(
                        f"an argument that is neither an array of the device nor a number: {kind.__name__}"
                    )
        return tuple(kinds), arrays, numbers

    def _copies(self, arrays: list[Array]) -> list[Array]:
        inputs = [self.runtime.empty(a.shape, a.dtype) for a in arrays]
        self._fill(inputs, arrays)
        return inputs

    def _fill(self, inputs: list[Array], arrays: list[Array]) -> None:
        for to, a in zip(inputs, arrays, strict=True):
            if to is not a:
                self.runtime.copy(to, a)

    def _aligned(self, a: Array) -> bool:
        return bool(a.flags.c_contiguous and self.runtime.address(a) % ALIGNED == 0)

    def _captured_and_launched(
        self, calls: Sequence[tuple[Any, ...]], inputs: list[Array], in_place: bool, arrays: list[Array],
        numbers: list[float],
    ) -> _Captured | str:  # fmt: skip
        """The graph of these calls, launched for the first time; or why the device cannot have it, which the log says."""
        captured = self._capture(calls, inputs, in_place)
        if isinstance(captured, _Captured):
            try:
                self._launch(captured, arrays, numbers)
            except RuntimeError as e:  # nothing was executed
                return _not_captured(f"{type(e).__name__}: {first_line(e)}", logging.WARNING)
        return captured

    def _capture(self, calls: Sequence[tuple[Any, ...]], inputs: list[Array], in_place: bool) -> _Captured | str:
        """The graph of these calls, not yet launched; or why there is none, which the log says."""
        rt, recording = self.runtime, Recording()
        flat = [a for args in calls for a in args]
        count = sum(type(a) in _NUMBERS for a in flat)
        results: list[Any] = []
        try:
            pool = rt.new_pool()
            numbers = rt.empty((2, count), "uint64", pool) if count else None
            self.running.recording = recording
            with rt.capture(pool) as made:
                arrays, places = iter(inputs), iter(range(count))
                for args in calls:
                    stand_ins = [self._stand_in(a, recording, arrays, numbers, places) for a in args]
                    result = self.step(*self.fixed, *stand_ins)
                    if any(isinstance(value, Number) for value in capture.leaves(result)):
                        raise Uncapturable("a number that is returned")
                    results.append(result)
            if recording.broken:  # the step caught the exception
                raise Uncapturable(recording.broken)
        except Uncapturable as e:
            return _not_captured(str(e))
        except Exception as e:  # an error of the step itself recurs when the step runs as written
            return _not_captured(f"{type(e).__name__}: {first_line(e)}", logging.WARNING)
        finally:
            self.running.recording = None
        whole = self.join(made[0], recording, pool)
        return _Captured(whole, pool, inputs, in_place, numbers, results, recording.kept, recording.before)

    def _stand_in(self, a: Any, recording: Recording, arrays: Any, numbers: Array, places: Any) -> Any:
        if self.runtime.owns(a):
            return next(arrays)
        if type(a) not in _NUMBERS:
            return a
        n = next(places)
        return Number(recording, a, numbers[0, n, ...].view("float64"), numbers[1, n, ...] if type(a) is int else None)

    def _launch(self, captured: _Captured, arrays: list[Array], numbers: list[float]) -> None:
        self._fill(captured.inputs, arrays)
        if numbers:
            self.runtime.send(captured.numbers, numbers)
        if self.running.latest is not captured:
            for do in captured.before:
                do()
        self.runtime.launch(captured.graph)
        self.running.latest = captured if self.running.undisturbed else None


def _same(some: list[Array], others: list[Array]) -> bool:
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))


def _not_captured(reason: str, level: int = logging.INFO) -> str:
    _log.log(level, "a step is not captured, and runs call by call: %s", reason)
    return reason
