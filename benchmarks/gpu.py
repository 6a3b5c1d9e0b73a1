"""Training steps on a CUDA device: ``benchmarks gpu``.

A device may be available for minutes only, and a step takes longer to compile than to time. So contenders have lasting
processes, those that are slow to get ready one for each row and precision: all prepare at once, and then take turns, each alone
on the device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from math import inf, isnan
from pathlib import Path
from statistics import median
from threading import Condition
from time import monotonic
from typing import Any

import tinynet as tn
from benchmarks import machine, tasks
from benchmarks.comparison import REFERENCES, Comparison
from benchmarks.runner import Failed, Options, Runner
from benchmarks.tasks import Task
from benchmarks.worker import Worker

Names = Mapping[str, tuple[str, dict[str, Any]]]
OURS, IN_FIT, FED, TORCH, COMPILED, JAX, PRODUCT = (
    f"benchmarks.contenders.{target}"
    for target in (
        "ours:make",
        "ours:in_fit",
        "ours:fed",
        "pytorch:make",
        "pytorch_compiled:make",
        "xla:make",
        "pytorch:product",
    )
)
Absent = tn.BackendUnavailable
CEILING = "torch.matmul"
FIT = "in fit"
STEPS: dict[str, Names] = {
    "gpu": {
        "tinynet cupy": (OURS, {"backend": "cupy"}),
        f"tinynet cupy, {FIT}": (IN_FIT, {"backend": "cupy"}),
        "torch cuda": (TORCH, {"device": "cuda"}),
        "torch cuda compiled": (COMPILED, {"device": "cuda"}),
        "jax gpu": (JAX, {"device": "gpu"}),
        CEILING: (PRODUCT, {"device": "cuda", "n": 8192}),
    },
    "cpu": {
        "tinynet numpy": (OURS, {"backend": "numpy"}),
        "torch": (TORCH, {}),
        "torch compiled": (COMPILED, {}),
        "jax": (JAX, {}),
        CEILING: (PRODUCT, {"n": 512}),
    },
}
BACKENDS = {"gpu": "cupy", "cpu": "numpy"}
# These time kernels while they prepare, and need the device alone for that, too: the first of those that wait is next
TUNING = (OURS, IN_FIT, FED, JAX)
# These compile or time kernels for so long that their rows get ready side by side; one that is late then ends only itself
SLOW = (COMPILED, *TUNING)
AT_ONCE = 5  # rows up to this one are prepared together, then each by itself: the memory may not be enough for all
START = 3  # rows that take about as long as the start of all processes
READY = 0.7  # share of the time for getting ready: most of it is compiling, and what tunes waits for the device
LONGEST = 30.0  # seconds that anything may take once it is ready
LARGE = 10**11  # operations of a step from which on products dominate

# How far losses may differ in five steps, relative to the largest: operands are rounded to 24, 11, 8 and 16 bits.
TOLERANCES = {"float32": 1e-3, "tf32": 1e-2, "bf16": 3e-2, "bf16x3": 1e-3}
BESIDE = {"bf16x3": "float32"}  # what peers compute in that lack a precision


def found(device: str) -> str:
    """The device and versions that would be timed, in one line; `Absent` if there is no device."""
    return tn.get_backend(BACKENDS[device]).versions()


class Turns:
    """What one can have at a time: of those that wait, the one of the lowest rank is next."""

    def __init__(self) -> None:
        self._changed, self._taken, self._waiting = Condition(), False, list[int]()

    @contextmanager
    def taken(self, rank: int) -> Iterator[None]:
        with self._changed:
            self._waiting.append(rank)
            self._changed.wait_for(lambda: not self._taken and rank == min(self._waiting))
            self._waiting.remove(rank)
            self._taken = True
        try:
            yield
        finally:
            with self._changed:
                self._taken = False
                self._changed.notify_all()


class Workers:
    """The processes of a run, one per module of contenders and precision: settings apply to a whole process.

    Each of `SLOW` has one per row.
    """

    def __init__(self, options: Options, folder: Path) -> None:
        self.options, self._folder = options, folder
        self._env = machine.environment(options.threads, str(folder)) | {
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # the device is shared
            "TORCHINDUCTOR_COMPILE_THREADS": "1",  # and so are the cores
        }
        self._workers: dict[tuple[str, ...], Worker] = {}
        self._device = Turns()
        self._began = monotonic()

    @property
    def over(self) -> bool:
        """Whether the time is used up."""
        return monotonic() > self._began + self.options.budget

    def _worker(self, target: str, task: Task, precision: str) -> Worker:
        row = (*map(str, task.widths), str(task.batch)) if target in SLOW else ()
        key = (target.replace(":", ".") if row else target.partition(":")[0]), precision, *row
        return self._workers.setdefault(key, Worker(self._env, self._folder / f"{'-'.join(key)}.log"))

    def prepare(self, name: str, target: str, options: dict[str, Any], task: Task, precision: str) -> list[float]:
        """The losses of the first steps."""
        end = self._began + READY * self.options.budget
        ask = partial(self._worker(target, task, precision).ask, self.options.limit, end=end)
        name = f"{name}, {task.label}"
        who = {"name": name, "target": target, "options": options | {"precision": precision}}
        ask("benchmarks.held:make", who | {"widths": task.widths, "batch": task.batch, "article": task.article})
        with self._device.taken(TUNING.index(target)) if target in TUNING else nullcontext():
            losses: list[float] = ask("benchmarks.held:begin", {"name": name})
        return losses

    def lap(self, name: str, target: str, task: Task, precision: str) -> float:
        """Seconds of a step."""
        arguments = {"name": f"{name}, {task.label}", "seconds": self.options.seconds}
        return float(self._worker(target, task, precision).ask(LONGEST, "benchmarks.held:lap", arguments))

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()


Row = tuple[Task, str, Names]


def rows(
    runner: Runner, names: Names, table: Iterable[tuple[int, Task]], same: bool = True
) -> Iterator[tuple[Task, Comparison]]:
    """A comparison for every requested row and precision; ``same`` if losses must agree.

    Rows are prepared before the first is timed: compiling takes longest, and can use many cores at once.
    """
    options = runner.options
    groups: dict[int, list[Row]] = {}
    for number, task in table:
        left_out = [CEILING] if task.flops <= LARGE else []
        here = {n: names[n] for n in options.chosen(list(names)) if n not in left_out}
        for p in TOLERANCES:
            wanted = (p == "float32" or number > 2) and (not options.precisions or p in options.precisions)
            if here and wanted and (not options.rows or number in options.rows):
                groups.setdefault(max(number, AT_ONCE), []).append((task, p, here))
    end, left = monotonic() + options.budget, sum(START + len(group) for group in groups.values())
    for group in groups.values():
        part = START + len(group)
        budget, left = (end - monotonic()) * part / left, left - part
        with closing(Workers(replace(options, budget=budget), Path(runner.cache))) as workers:
            for (task, precision, here), (comparison, losses) in _prepared(workers, group):
                if same:
                    _drop_outliers(comparison, losses, TOLERANCES[precision])
                _time(workers, comparison, here, task, precision, options.repeats)
                yield task, comparison


def _prepared(workers: Workers, table: list[Row]) -> list[tuple[Row, tuple[Comparison, dict[str, list[float]]]]]:
    """For each row, an empty comparison of all contenders that are ready, and their losses."""
    with ThreadPoolExecutor(1 + sum(len(names) for *_, names in table)) as pool:
        coming: list[dict[str, Future[list[float]]]] = [
            {name: pool.submit(workers.prepare, name, *entry, task, precision) for name, entry in names.items()}
            for task, precision, names in table
        ]
        prepared = []
        for (task, precision, _), answers in zip(table, coming, strict=True):
            beside = f" (peers: {BESIDE[precision]})" if precision in BESIDE else ""
            comparison, losses = Comparison(f"{task.label}, {precision}{beside}", {}), {}
            for name, answer in answers.items():
                try:
                    losses[name] = answer.result()
                    comparison.times[name] = []
                except Failed as e:
                    comparison.left_out[name] = str(e)
            prepared.append((comparison, losses))
    return [*zip(table, prepared, strict=True)]


def _drop_outliers(comparison: Comparison, losses: dict[str, list[float]], tolerance: float) -> None:
    """Leave out contenders whose losses differ from most others'."""
    compared = {name: values for name, values in losses.items() if name not in REFERENCES}
    usual = [median(inf if isnan(a) else a for a in step) for step in zip(*compared.values(), strict=True)]
    for name, values in compared.items():
        if not all(abs(a - b) <= tolerance * max(usual) for a, b in zip(values, usual, strict=True)):
            del comparison.times[name]
            comparison.left_out[name] = f"its losses are {_text(values)}, where {_text(usual)} are usual"


def _text(losses: list[float]) -> str:
    return ", ".join(f"{loss:.4g}" for loss in losses)


def _time(workers: Workers, comparison: Comparison, names: Names, task: Task, precision: str, repeats: int) -> None:
    """Time each in turn, alone; every repeat begins with the next one. If time runs out, there are fewer repeats."""
    for repeat in range(repeats):
        if workers.over:
            break
        turn = deque(comparison.times)
        turn.rotate(-repeat)
        for name in turn:
            try:
                comparison.times[name].append(workers.lap(name, names[name][0], task, precision))
            except Failed as e:
                del comparison.times[name]
                comparison.left_out[name] = str(e)
    for name in [name for name, times in comparison.times.items() if not times]:
        del comparison.times[name]
        comparison.left_out[name] = "no time was left for it"


def steps(runner: Runner, table: Sequence[Task] = tasks.GPU) -> Iterator[Comparison]:
    """Seconds of a training step on the device; torch.matmul is a product of 8192 × 8192 matrices, not a step"""
    names = STEPS[runner.options.device]
    for task, comparison in rows(runner, names, enumerate(table, start=1)):
        for name in comparison.times:
            notes = comparison.notes.setdefault(name, {})
            if name == CEILING:
                notes["TFLOP/s"] = 2e-12 * names[name][1]["n"] ** 3 / comparison.median(name)
            else:
                notes["TFLOP/s"] = 1e-12 * task.flops / comparison.median(name)
                if CEILING in comparison.times:
                    of_a_step = task.flops / (2 * names[CEILING][1]["n"] ** 3)
                    notes["share of the ceiling"] = of_a_step * comparison.ratio(CEILING, name)
        yield comparison


def data(runner: Runner, table: Sequence[Task] = tasks.GPU) -> Iterator[Comparison]:
    """Seconds of a training step in fit on one batch, and on batches of a virtual set that are made on the device"""
    backend = BACKENDS[runner.options.device]
    fixed, new = (f"tinynet {backend}, {FIT}{how}" for how in ("", ", new batches"))
    names: Names = {fixed: (IN_FIT, {"backend": backend}), new: (FED, {"backend": backend})}
    some = [
        (n, task) for n, task in enumerate(table, start=1) if n not in (1, 6)
    ]  # too small, and too large a step to see it
    for _, comparison in rows(runner, names, some, same=False):
        if comparison.times.keys() >= {fixed, new}:
            comparison.notes[new] = {"share of data": comparison.ratio(new, fixed) - 1}
        yield comparison


SECTIONS = {"steps": steps, "data": data}
SECONDS = 0.15  # of a lap
