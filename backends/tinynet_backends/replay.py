"""A compiled step: which calls run as written, which one is captured, and how its tape is replayed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from tinynet_backends.arena import Arena, aligned
from tinynet_backends.capture import Array, Number, Source, StandIn, Tape, is_input, leaves, real, run

_log = logging.getLogger("tinynet")
# Tapes that a step keeps, each with arrays of its own: a further kind of arguments takes the place of the one that was
# used least recently.
KINDS = 16


class Replay:
    """A tape to be replayed: ``run()``, once `takes` has accepted arrays and numbers like those it was captured with.

    ``calls`` are those of the tape, or what a backend made of them; ``places[n]`` are functions that put a new n-th
    input where the calls read it. Of the step's buffers, ``passing`` has the ids of memory (`whole_of`) that nobody reads after
    the last call, ``returned`` those of the rest, with the bytes in use. ``several``, if a backend has set it, does what `scan`
    says.
    """

    def __init__(self, result: Any, inputs: Sequence[Any], buffers: Sequence[Array]) -> None:
        self.result = real(result)
        used = {id(whole_of(a)): a.nbytes for a in buffers}
        results = {id(whole_of(a)) for a in leaves(self.result) if isinstance(a, np.ndarray)}
        self.returned = {whole: used[whole] for whole in used.keys() & results}
        self.passing = used.keys() - results
        self.several: Callable[[Replay, Sequence[Any], Array], bool] | None = None
        self.inputs = list(inputs)
        self.settled = True  # whether all inputs are where the calls read them, and no Ctrl-C came in between
        self.calls: list[tuple[Any, ...]] = []
        self.places: list[list[Callable[[Any], None]]] = [[] for _ in inputs]
        self.due: dict[int, list[Any]] = {}  # calls of numbers, by their ids, that have changed since they ran

    def add(self, f: Callable[..., Any], args: Sequence[Any] = ()) -> None:
        values = [f, *map(real, args)]
        for n, a in enumerate(args):
            if is_input(a):
                put = partial(_put, self.calls, len(self.calls), values, n + 1, view_of(a))
                self.places[a.source.number].append(put)
        self.calls.append(tuple(values))

    def add_of_numbers(self, f: Callable[..., Any], args: Sequence[Any]) -> None:
        """Add a call that writes to arrays of its own and reads nothing but numbers: it runs again when one is new."""
        values = [f, *map(real, args)]
        for n, a in enumerate(args):
            if isinstance(a, Number):
                self.places[a.source.number].append(partial(_put_number, self.due, values, n + 1))

    def takes(self, inputs: Sequence[Any]) -> bool:
        """Put ``inputs`` where the calls read them, if they are like those before."""
        known, settled = self.inputs, self.settled
        if len(inputs) != len(known):
            return False
        self.settled = False
        for n, new in enumerate(inputs):
            if new is (old := known[n]) and settled:
                continue
            if type(new) is not type(old) or (
                isinstance(new, np.ndarray)
                and not (new.shape == old.shape and new.dtype == old.dtype and new.flags.c_contiguous)
            ):
                self.settled = settled
                return False
            known[n] = new
            for put in self.places[n]:
                put(new)
        self.settled = True
        return True

    def run(self) -> Any:
        if self.due:
            run(self.due.values())
            self.due.clear()
        run(self.calls)
        return self.result

    def scan(self, inputs: Sequence[Any], out: Array) -> bool:
        """`Backend.scan` in one run; False, and nothing is done, if that cannot be."""
        whole = whole_of(self.result) if isinstance(self.result, np.ndarray) else None
        # all of it is written to ``out``, so there must be room for all
        own = whole is not None and self.returned.get(id(whole)) == self.result.nbytes
        fits = own and out.shape[1:] == self.result.shape and out.dtype == self.result.dtype
        contiguous = fits and out.flags.c_contiguous and self.result.flags.c_contiguous
        return bool(self.several and contiguous and self.several(self, inputs, out))


def _put(
    calls: list[tuple[Any, ...]], call: int, values: list[Any], place: int, part: Callable[[Any], Any] | None, new: Any
) -> None:
    values[place] = new if part is None else part(new)
    calls[call] = tuple(values)


def _put_number(due: dict[int, list[Any]], values: list[Any], place: int, new: float) -> None:
    values[place] = new
    due[id(values)] = values


def view_of(a: StandIn | Number) -> Callable[[Any], Any] | None:
    """How to take the same view of another source; None if it is the source itself."""
    view = a.value
    if isinstance(a, Number) or view is a.source.value:
        return None
    shape, dtype, offset, strides = view.shape, view.dtype, offset_of(view, a.source.value), view.strides
    return lambda new: np.ndarray(shape, dtype, new, offset, strides)


def offset_of(a: Array, whole: Array) -> int:
    """Bytes from the beginning of an array to that of a view of it."""
    first, start = (x.__array_interface__["data"][0] for x in (a, whole))
    return int(first - start)


def whole_of(a: Array) -> Array:
    """The array that has the memory of ``a``."""
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a


class Compiled(threading.local):
    """A compiled step: a compilation for each thread that calls it."""

    def __init__(self, ops: Any, step: Callable[..., Any], fixed: tuple[Any, ...]) -> None:
        self.here = Compilation(ops, step, fixed)  # Python does this again in every thread

    def __call__(self, *args: Any) -> Any:
        return self.here(args)


class Compilation:
    """A step of one thread, its arena, and a replay for each kind of arguments.

    Of each kind the first call runs as written, the second is captured, and later ones are replayed. If the step uses
    arrays or numbers made outside of it, the third is captured, too: it is replayed if they are still the same.
    """

    def __init__(self, ops: Any, step: Callable[..., Any], fixed: tuple[Any, ...]) -> None:
        self.ops, self.step, self.fixed = ops, step, fixed
        self.arena = Arena(aligned)
        # by kind: its replay; or why there is none; or, before that is known, "" and then what the first capture was given
        self.replays: dict[Any, Replay | str | list[Any]] = {}
        self.latest: Replay | None = None
        self.quiet = copy_context()  # with floating-point warnings off: entering it is faster than np.errstate
        self.quiet.run(np.seterr, all="ignore")

    def __call__(self, args: tuple[Any, ...]) -> Any:
        running = self.ops._running
        if running.tape is not None:  # within another step that is being captured: a part of it
            return self.step(*running.tape.arrays(self.fixed), *args)
        if self.latest is None or not self.latest.takes(args):
            args = tuple(map(_contiguous, args))
            kind, replay = self._find(args)
            if not isinstance(replay, Replay):
                with np.errstate(all="ignore"):
                    return self._first_calls(kind, replay, args)
            self.latest = replay
            replay.takes(args)
        return self.quiet.run(self.latest.run)

    def scan(self) -> Callable[[Sequence[Any], Array], None] | None:
        """`Backend.scan`."""
        several = any(isinstance(replay, Replay) and replay.several for replay in self.replays.values())
        return self._scan if several and self.ops._running.tape is None else None

    def _scan(self, inputs: Sequence[Any], out: Array) -> None:
        calls = zip(*([None] * len(out) if a is None else a for a in inputs), strict=True)
        first = next(calls)
        _, replay = self._find(first)
        if not isinstance(replay, Replay) or not self.quiet.run(replay.scan, inputs, out):
            for place, args in enumerate(chain([first], calls)):
                out[place, ...] = self(args)

    def _find(self, args: tuple[Any, ...]) -> tuple[Any, Replay | str | list[Any] | None]:
        """The kind of arguments, and what there is for it, which becomes the latest."""
        kind = tuple([(a.shape, a.dtype, type(a)) if isinstance(a, np.ndarray) else type(a) for a in args])
        replay = self.replays.pop(kind, None)
        if replay is not None:
            self.replays[kind] = replay
        return kind, replay

    def _first_calls(self, kind: Any, reason: str | list[Any] | None, args: tuple[Any, ...]) -> Any:
        """Run the first calls of a kind, and all that cannot be replayed."""
        running = self.ops._running
        outer, refusal = running.arena, running.refusal
        running.arena, running.refusal = self.arena.rewind(), ""
        try:
            if reason is None:
                while len(self.replays) >= KINDS:
                    del self.replays[next(iter(self.replays))]
                usual = all(isinstance(a, _CAPTURABLE) for a in args)
                self.replays[kind] = "" if usual else "arguments that are neither arrays nor numbers"
            if reason == "" or isinstance(reason, list):
                return self._capture(kind, args)
            result = self.step(*self.fixed, *args)
            if reason is None and running.refusal:  # what such a step keeps must not be a stand-in
                self.replays[kind] = _not_captured(running.refusal)
            return result
        finally:
            if running.refusal:  # such a step may keep an array, which the next one must not write to
                self.arena = Arena(aligned)
            running.arena, running.refusal = outer, refusal or running.refusal

    def _capture(self, kind: Any, args: tuple[Any, ...]) -> Any:
        """Run a call on stand-ins, and keep what becomes of its tape."""
        tape, result, failed = Tape(), None, False
        sources = [Source(n, a) for n, a in enumerate(args)]
        try:
            self.ops._running.tape = tape
            result = self.step(*tape.arrays(self.fixed), *[_stand(tape, source) for source in sources])
            if any(map(is_input, leaves(result))):
                tape.stop("an input that is returned")
            if tape.has_input_in_list():
                tape.stop("a list with an input in it")
        except Exception as e:
            if tape.wrote:
                e.add_note("while a compiled step was being captured: what cannot be should call ops.as_written first")
                raise
            tape.stop(f"{type(e).__name__}: {e}")
            failed = True
        finally:
            self.ops._running.tape, tape.ended = None, True
            # with stand-ins, that have the tape: data would stay until garbage is collected
            calls, tape.calls = tape.calls, []
        reason, before = tape.broken, self.replays[kind]
        if tape.given and not reason:
            if not isinstance(before, list):
                self.replays[kind] = tape.given
                return real(result)
            if tape.given != before:
                reason = "an array or a number made outside of it, another one in every call"
        if not reason:
            replay = self.replays[kind] = Replay(result, args, self.arena.taken())
            self.ops._lower(calls, replay)
            return replay.result
        self.replays[kind] = _not_captured(reason)
        if failed:
            self.arena.rewind()
            return self.step(*self.fixed, *args)
        return real(result)


def _not_captured(reason: str) -> str:
    _log.info("a step is not captured, and runs call by call: %s", reason)
    return reason


def _contiguous(a: Any) -> Any:
    return a if not isinstance(a, np.ndarray) or a.flags.c_contiguous else a.copy()


_CAPTURABLE = (np.ndarray, int, float, type(None))


def _stand(tape: Tape, source: Source) -> Any:
    if source.value is None:
        return None
    return StandIn(tape, source.value, source) if isinstance(source.value, np.ndarray) else Number(tape, source)
