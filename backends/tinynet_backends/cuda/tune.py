"""Which way is fastest, for a product or for layers together: timed once for a shape, and kept on disk for this GPU and these
versions."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from hashlib import sha256
from typing import Any, NamedTuple

from tinynet_backends.cache import cache_folder
from tinynet_backends.cuda.plan import Plan

_log = logging.getLogger("tinynet")
_FORMAT = 1


class Choice(NamedTuple):
    """Which variant of a plan, and which algorithm for it, as cublasLt's bytes; or which way, and no bytes."""

    variant: int
    code: bytes


def key(work: Any) -> str:
    """Text that two plans share if and only if they are the same work; other work has a key of its own."""
    return json.dumps(asdict(work), separators=(",", ":")) if isinstance(work, Plan) else str(work.key)


class Choices:
    """What was found fastest on one GPU, by `key`. ``machine`` is all that a finding depends on: GPU, driver, cublasLt.

    It is kept in one file a machine; a file that is damaged, or another machine's, is as good as none.
    """

    def __init__(self, machine: dict[str, Any]) -> None:
        self.machine = machine
        name = sha256(json.dumps(machine, sort_keys=True).encode()).hexdigest()[:16]
        self.path = cache_folder() / f"products-{name}.json"
        self._lock = threading.Lock()
        self._known = self._read()

    def find(self, work: Any) -> Choice | None:
        return self._known.get(key(work))

    def keep(self, work: Any, choice: Choice) -> None:
        """Remember, here and on disk, beside what other processes have found meanwhile."""
        with self._lock:
            self._known[key(work)] = choice
            self._known = self._read() | self._known
            try:
                self._write()
            except OSError as e:
                _log.info("what is fastest is found out anew in every process: %s", e)

    def _read(self) -> dict[str, Choice]:
        try:
            whole = json.loads(self.path.read_text("utf-8"))
            found = whole["choices"]
            if whole["format"] != _FORMAT or whole["machine"] != self.machine or whole["sum"] != _sum(found):
                raise ValueError("it is not what was written")
            return {k: Choice(int(variant), _code(code)) for k, (variant, code) in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
            _log.info("%s is left aside, all is timed again: %s", self.path, e)
            return {}

    def _write(self) -> None:
        found = {k: [choice.variant, choice.code.hex()] for k, choice in sorted(self._known.items())}
        whole = {"format": _FORMAT, "machine": self.machine, "sum": _sum(found), "choices": found}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(f".{os.getpid()}")
        try:
            draft.write_text(json.dumps(whole, indent=0), "utf-8")
            os.replace(draft, self.path)
        finally:
            draft.unlink(missing_ok=True)


def _code(text: str) -> bytes:
    code = bytes.fromhex(text)
    if len(code) not in (0, 64):
        raise ValueError("an algorithm has 64 bytes")
    return code


def _sum(found: Any) -> str:
    return sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def timed(runs: Sequence[Callable[[], None]], seconds: Callable[[Callable[[], None]], float]) -> dict[int, float]:
    """The seconds of each of ``runs`` that does not fail."""
    times: dict[int, float] = {}
    for n, run in enumerate(runs):
        try:
            times[n] = seconds(run)
        except (RuntimeError, MemoryError) as e:  # an algorithm that was proposed and cannot, or has no room
            _log.debug("a candidate fails: %s", e)
    return times


def fastest(runs: Sequence[Callable[[], None]], seconds: Callable[[Callable[[], None]], float]) -> int | None:
    """Which of ``runs`` takes the fewest seconds; None if all fail."""
    times = timed(runs, seconds)
    return min(times, key=times.__getitem__) if times else None
