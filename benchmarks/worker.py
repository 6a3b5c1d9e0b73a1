"""A process that stays: what is slow to start and to compile is prepared once and called many times."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from math import inf
from pathlib import Path
from threading import Event, Lock, Timer
from time import monotonic
from typing import Any

from benchmarks.runner import ROOT, Failed


class Worker:
    """Runs one order at a time in its own process, which starts with the first order and again after it has ended.

    What the process writes to stderr goes to the file ``log``.
    """

    def __init__(self, env: dict[str, str], log: Path) -> None:
        self._env, self._log = env, log
        self._process: subprocess.Popen[str] | None = None
        self._one = Lock()

    def ask(self, limit: float, target: str, arguments: Mapping[str, Any], end: float = inf) -> Any:
        """What the function "module:function" returns; `Failed` with the reason.

        A process that takes longer than ``limit`` seconds, or until ``end`` by the monotonic clock, is killed.
        """
        with self._one:
            limit = min(limit, end - monotonic())
            if limit <= 0:
                raise Failed("no time was left for it")
            process, late = self._running(), Event()
            timer = Timer(limit, lambda: (late.set(), process.kill()))
            timer.start()
            try:
                print(json.dumps({"target": target, "arguments": arguments}), file=process.stdin, flush=True)
                line = process.stdout.readline()  # type: ignore[union-attr]
            except BrokenPipeError:
                line = ""
            finally:
                timer.cancel()
            if not line:
                self.close()
                raise Failed(f"it took longer than {limit:.3g} s" if late.is_set() else self._end(process))
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise Failed(said["error"])
        return said["result"]

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            with self._log.open("w") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "benchmarks.child"],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT, env=self._env,
                )  # fmt: skip
        return self._process

    def _end(self, process: subprocess.Popen[str]) -> str:
        last = self._log.read_text(errors="replace").strip().rpartition("\n")[2]
        return f"its process ended with {process.returncode}: {last}"

    def close(self) -> None:
        """End the process: it has nothing to lose."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
