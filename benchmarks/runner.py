"""The contenders in turns, each in a process of its own, with a control among them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.comparison import Comparison

ROOT = Path(__file__).parents[1]
TOLERANCE = (
    1e-3  # relative, of a float32 loss after five steps: orders of summation differ, and one contender has float64
)


@dataclass(frozen=True)
class Options:
    """How long to measure, how often, and what."""

    seconds: float = 0.5
    repeats: int = 3
    threads: int | None = None
    only: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()
    precisions: tuple[str, ...] = ()
    device: str = "gpu"  # or "cpu", to try ``benchmarks gpu`` itself
    limit: float = 90.0  # seconds for a contender on a device to get ready
    budget: float = inf  # and for a whole section there

    def chosen(self, names: list[str]) -> list[str]:
        return [name for name in names if not self.only or name in self.only]


@dataclass(frozen=True)
class Order:
    """A function for a child to call, "module:function", which returns its time under "seconds"."""

    target: str
    arguments: dict[str, Any] = field(default_factory=dict)


CONTROL = Order("benchmarks.control:measure")


class Failed(Exception):
    """The reason why a child could not follow an order."""


class Runner:
    """Runs children, and collects the threads of the whole run.

    ``cache`` is a folder for what they compile. In a comparison each contender has an empty one to begin with, so that its
    first repeat is cold, whatever was compared before.
    """

    def __init__(self, options: Options, cache: str) -> None:
        self.options, self.cache = options, cache
        self.threads: dict[str, dict[str, int]] = {}

    def run(self, order: Order, cache: str | None = None) -> dict[str, Any]:
        """The answer of a fresh child, which finds in ``cache`` what others have compiled; `Failed` with its reason."""
        sent = {"target": order.target, "arguments": order.arguments, "threads": self.options.threads}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.child", json.dumps(sent)],
            capture_output=True, text=True, cwd=ROOT,
            env=machine.environment(self.options.threads, cache or self.cache),
        )  # fmt: skip
        if done.returncode:
            raise Failed(f"its process ended with {done.returncode}: {done.stderr.strip().rpartition(chr(10))[2]}")
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        if "error" in said:
            raise Failed(said["error"])
        return said

    def compare(self, label: str, orders: Mapping[str, Order]) -> Comparison:
        """Each order once per repeat, in turns. Each repeat begins with the control and then with another contender.

        Losses that are returned are compared before times are accepted. Notes are those of the first repeat, when
        nothing was compiled yet.
        """
        found = Comparison(label, {name: [] for name in orders})
        with tempfile.TemporaryDirectory(dir=self.cache, ignore_cleanup_errors=True) as cold:
            for repeat in range(self.options.repeats):
                found.control.append(self.run(CONTROL)["result"]["seconds"])
                said = self._turn(found, orders, repeat, cold)
                check({name: answer["result"].get("losses", []) for name, answer in said.items()})
                for name, answer in said.items():
                    found.times[name].append(answer["result"]["seconds"])
                    peak = {"peak, MB": answer["peak_mb"]}
                    found.notes.setdefault(name, peak | answer["result"].get("notes", {}))
                    self.threads[name] = answer["threads"]
        return found

    def _turn(
        self, found: Comparison, orders: Mapping[str, Order], repeat: int, cold: str
    ) -> dict[str, dict[str, Any]]:
        names = list(found.times)
        turned = names[repeat % len(names) :] + names[: repeat % len(names)] if names else []
        said = {}
        for name in turned:
            own = str(Path(cold, name.replace(" ", "-")))  # g++, which PyTorch calls, does not take a space
            try:
                said[name] = self.run(orders[name], own)
            except Failed as e:
                found.left_out[name] = str(e)
                del found.times[name]
                found.notes.pop(name, None)
        return {name: said[name] for name in names if name in said}


def check(losses: dict[str, list[float]]) -> None:
    """SystemExit unless all contenders computed the same losses."""
    compared = {name: values for name, values in losses.items() if values}
    if not compared:
        return
    first, *others = compared
    for other in others:
        for a, b in zip(compared[first], compared[other], strict=True):
            if not abs(a - b) <= TOLERANCE * abs(a):
                raise SystemExit(f"{first} has the loss {a} where {other} has {b}: they do not compute the same")
