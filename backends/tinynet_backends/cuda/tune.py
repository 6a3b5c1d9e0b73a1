"""The fastest way to compute a product or fused layers: timed once per shape, and kept on disk per GPU and versions."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from hashlib import sha256
from math import inf
from statistics import median
from typing import Any

from tinynet_backends.cache import cache_folder, replace_file
from tinynet_backends.cuda.plan import Plan

_log = logging.getLogger("tinynet")
_FORMAT = 2
_CLOSE, _FINAL, _TURNS = 1.5, 3, 3  # how close the last few are to the fastest, their number, how often each is timed


def key(work: Any) -> str:
    """Text that is the same for two plans if and only if they are equal; other work has a ``key`` attribute."""
    return json.dumps(asdict(work), separators=(",", ":")) if isinstance(work, Plan) else str(work.key)


class Choices:
    """The fastest choices on one GPU, by `key`. ``machine`` is all that they depend on: GPU, driver, cublasLt.

    A choice is a list of numbers and text that says what to do, not which of some candidates: these may be others later.
    There is one file per machine; a file that is damaged, or another machine's, is ignored.
    """

    def __init__(self, machine: dict[str, Any]) -> None:
        self.machine = machine
        name = sha256(json.dumps(machine, sort_keys=True).encode()).hexdigest()[:16]
        self.path = cache_folder() / f"products-{name}.json"
        self._lock = threading.Lock()
        self._known = self._read()

    def find(self, work: Any) -> list[Any] | None:
        return self._known.get(key(work))

    def keep(self, work: Any, choice: Sequence[Any]) -> None:
        """Remember, here and on disk, along with what other processes have found meanwhile."""
        with self._lock:
            self._known[key(work)] = [*choice]
            self._known = self._read() | self._known
            try:
                self._write()
            except OSError as e:
                _log.info("choices cannot be kept, and are timed again in every process: %s", e)

    def _read(self) -> dict[str, list[Any]]:
        try:
            content = json.loads(self.path.read_text("utf-8"))
            choices: dict[str, list[Any]] = content["choices"]
            if content["format"] != _FORMAT or content["machine"] != self.machine or content["sum"] != _sum(choices):
                raise ValueError("it is not what was written")
            return choices
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError) as e:
            _log.info("%s is ignored, and everything is timed again: %s", self.path, e)
            return {}

    def _write(self) -> None:
        choices = dict(sorted(self._known.items()))
        content = {"format": _FORMAT, "machine": self.machine, "sum": _sum(choices), "choices": choices}
        replace_file(self.path, json.dumps(content, indent=0).encode())


def _sum(choices: Any) -> str:
    return sha256(json.dumps(choices, sort_keys=True).encode()).hexdigest()


def timed(runs: Sequence[Callable[[], None]], seconds: Callable[[Callable[[], None]], float]) -> dict[int, float]:
    """The seconds of each of ``runs``, by index, without those that fail; infinite for one that lacks memory.

    MemoryError if those that do not fail all lack memory: later there may be enough.
    """
    times: dict[int, float] = {}
    failed: RuntimeError | None = None
    lacking: MemoryError | None = None
    for n, run in enumerate(runs):
        try:
            times[n] = seconds(run)
        except (RuntimeError, MemoryError) as e:  # a proposed algorithm may fail, or lack memory
            _log.info("a candidate is left out: %s", e)
            if isinstance(e, MemoryError):
                times[n], lacking = inf, e
            else:
                failed = e
    if lacking is not None and min(times.values()) == inf:
        raise lacking
    if failed is not None and not times:
        _log.warning("none of %d candidates runs on this device: %s", len(runs), failed)
    return times


def fastest(
    runs: Sequence[Callable[[], None]], seconds: Callable[[Callable[[], None]], float]
) -> tuple[int | None, bool]:
    """The index of the fastest of ``runs``, None if all fail; and whether none lacked memory, which it may have later.

    The fastest few are timed again in turns: meanwhile the device's clock rises with its load and falls with its heat, and
    other processes come and go.
    """
    times = timed(runs, seconds)
    order = sorted(times, key=times.__getitem__)
    close = [n for n in order if times[n] <= _CLOSE * times[order[0]]][:_FINAL]
    if len(close) > 1:
        turns = [timed([runs[n] for n in close], seconds) for _ in range(_TURNS)]
        order = sorted(close, key=lambda n: median(turn.get(close.index(n), inf) for turn in turns))
    return order[0] if order else None, inf not in times.values()
