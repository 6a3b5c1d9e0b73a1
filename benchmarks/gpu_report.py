"""The first run on a GPU, most valuable results first.

``python -m benchmarks.gpu_report [FILE [PART …]] [--seconds 540] [--rows 1,2] [--precisions bf16] [--repeats 2]``, PART being the
name of one of the functions below, by default all: every kind of kernel on small arrays; times beside peers, also saved as JSON
next to the report; the tests for a GPU; times on batches made on the device; small networks against float64; captured training
against training as written; every strategy for the layers of a step; products under capture; whether anything waits; golden
bits; products and their epilogues against float64; what the device can do; several steps in one launch; races and wrong addresses
by compute-sanitizer; what CuPy's calls take the host; the same run on the host.

One report in Markdown, which grows line by line: a run may be cut short anywhere. Every part has its own time limit; if a part
reaches it or fails, its process ends, and the next part runs in another. The exit code is 1 if a part failed, 2 if there is no
device.

Without a PART the most valuable ones come first, and the others have what time they leave; those that are named share the time,
so that the first cannot use up that of the last. Who has a device for a quarter of an hour, ten minutes at a time, gets most from
two runs, whose times go to one JSON file: ``FILE smoke tests steps data --seconds 575`` and, in the minutes that are left,
``FILE2 calls training small strategies --seconds 200``.
Times are of float32 and bf16 unless ``--precisions`` says otherwise: for all there would not be time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from cProfile import Profile
from dataclasses import replace
from datetime import date
from functools import partial
from io import StringIO
from math import inf
from pathlib import Path
from pstats import Stats
from statistics import median
from time import monotonic, perf_counter
from typing import Any

import numpy as np

import tinynet as tn
from benchmarks import gpu, machine, tasks, tolerance
from benchmarks.__main__ import measure, names
from benchmarks.comparison import Comparison
from benchmarks.hurried import failures
from benchmarks.runner import ROOT, Failed, Options
from benchmarks.tasks import Task
from benchmarks.worker import Worker
from tinynet import verify

# Relative error of a product in the norm, at most
PRECISIONS = {"float32": 1e-5, "bf16x3": 2e-5, "tf32": 3e-3, "bf16": 2e-2}
LAYERS = [
    (784, 512, 1024),
    (784, 1024, 8192),
    (1024, 2048, 8192),
    (4096, 1000, 16384),
    (64, 64, 262144),
    (64, 10, 1024),
]
Lines = Iterator[str]


class Wrong(Exception):
    """A result that differs from its reference."""


def backend(precision: str) -> Any:
    return tn.get_backend("cupy" if precision == "float32" else f"cupy:{precision}")


def backends() -> Iterator[tuple[str, Any, float]]:
    """The precisions that the device has, with the backend and the largest relative error of a product."""
    for precision, limit in PRECISIONS.items():
        try:
            one = backend(precision)
        except tn.BackendUnavailable:
            continue
        yield precision, one, limit


def seconds(ops: Any, run: Callable[[], object], repeats: int = 20) -> float:
    """Median seconds on the device."""
    cuda = ops._cp.cuda
    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        begin, end = cuda.Event(), cuda.Event()
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(cuda.get_elapsed_time(begin, end) / 1e3)
    return median(times)


def error(got: Any, wanted: Any) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def held(name: str, value: float, limit: float) -> str:
    if not value <= limit:
        raise Wrong(f"{name}: {value:.2e}, where {limit:.0e} is allowed")
    return f"{name}: {value:.2e}"


def draw(ops: Any, *shape: int) -> Any:
    return ops.asarray(np.random.default_rng().standard_normal(shape).astype("float32"))


def ceilings(ops: Any) -> Lines:
    """What the device can do"""
    cp = ops._cp
    source = draw(ops, 1 << 28)
    target = cp.empty_like(source)
    rate = 2 * source.nbytes / seconds(ops, partial(cp.copyto, target, source))
    yield f"copies, read and written: {rate / 1e12:.2f} TB/s"
    del source, target
    n = 8192
    x, w = draw(ops, n, n), draw(ops, n, n)
    for precision, one, _ in backends():
        took = seconds(one, partial(one.affine, x, w))
        yield f"products of {n} x {n}, {precision}, operands converted each time: {2 * n**3 / took / 1e12:.1f} TFLOP/s"


def products(ops: Any) -> Lines:
    """Products against float64, and which epilogues have an algorithm"""
    from tinynet_backends.cuda.plan import Epilogue

    for precision, one, limit in backends():
        for i, o, n in LAYERS:
            n = min(n, 4096)
            x, w, b, dy = draw(one, n, i), draw(one, i, o), draw(one, o), draw(one, n, o)
            exact = [one.to_numpy(a).astype("float64") for a in (x, w, b, dy)]
            wanted = exact[0] @ exact[1] + exact[2], exact[3] @ exact[1].T, exact[0].T @ exact[3], exact[3].sum(axis=0)
            got = one.affine(x, w, b), *one.affine_grad(dy, x, w, True)
            worst = max(error(one.to_numpy(a), c) for a, c in zip(got, wanted, strict=True))
            yield held(f"{precision} {n} x {i} x {o}", worst, limit)
            refused = []
            for epilogue in (Epilogue.NONE, Epilogue.BIAS, Epilogue.RELU | Epilogue.BIAS, Epilogue.SUM_A):
                plan = one._products.planned(x, w, epilogue)
                if plan is None or not one._products.problem(plan).candidates(one._products.handle):
                    refused.append(epilogue.name)
            yield f"  epilogues without an algorithm: {', '.join(map(str, refused)) or 'none'}"


def captured(ops: Any) -> Lines:
    """Products under capture, launched again into poisoned results"""
    for precision, one, _ in backends():
        x, w, b = draw(one, 512, 784), draw(one, 784, 10), draw(one, 10)
        step = one.compile(lambda w, b, x, one=one: one.affine(x, w, b), w, b)
        wanted = one.to_numpy(step(x)).copy()
        for _ in range(3):
            result = step(x)
            if not np.array_equal(one.to_numpy(result), wanted):
                raise Wrong(f"{precision}: a launch differs from the call as written")
            result[...] = one.xp.nan
        yield f"{precision}: three launches have the bits of the call as written"


def golden(ops: Any) -> Lines:
    """What is promised: tinynet verify"""
    lines: list[str] = []
    whole = verify.verify([ops.name], lines.append)
    yield from lines
    if not whole:
        raise Wrong("a promise does not hold")


def run_of(task: Any, ops: Any, steps: int) -> tuple[list[float], Any]:
    from benchmarks.contenders.ours import Fixed

    model = task.model(ops)
    reports = tn.train(model, Fixed(task, ops), tn.CrossEntropy(), tn.Adam(1e-3), steps=steps)
    return [float(report.loss) for report in reports], ops.to_numpy(model.theta)


def same_bits(ops: Any, task: Task, steps: int) -> str:
    """A captured training and one as written."""
    from tinynet_backends.cuda import graph

    launch = graph._Compilation.__call__
    losses, theta = run_of(task, ops, steps)
    graph._Compilation.__call__ = lambda self, calls: self._as_written(calls)  # type: ignore[method-assign]
    try:
        wanted, other = run_of(task, ops, steps)
    finally:
        graph._Compilation.__call__ = launch  # type: ignore[method-assign]
    if losses != wanted or not np.array_equal(theta, other):
        raise Wrong(f"{ops.name} {task.label}: the weights differ by {error(theta, other):.1e}")
    return f"{steps} steps, the same bits; loss {losses[0]:.4f} to {losses[-1]:.4f}"


def training(ops: Any) -> Lines:
    """Captured training against training as written"""
    for precision, one, _ in backends():
        for task in tasks.GPU[1:3]:
            yield f"{precision} {task.label}: {same_bits(one, task, 50)}"


def launches(ops: Any) -> Lines:
    """Several steps in one launch"""
    theta, g = ops.zeros((235_000,), ops.dtype("float32")), draw(ops, 235_000)
    step = ops.compile(lambda t, g, r: ops.update(lambda xp, a, g, r: (a - r * g,), [t], [g], r), theta)
    for k in (1, 8, 32):
        took = seconds(ops, lambda k=k: step.several([(g, 0.1)] * k))
        yield f"{k} updates of 235 000 numbers in one launch: {took / k * 1e6:.1f} µs each"


def calls(ops: Any) -> Lines:
    """What the calls of CuPy that a single step makes take the host"""
    cp, runtime = ops._cp, ops._runtime
    to, row = ops.zeros((2, 3), ops.dtype("float64")), runtime.pinned((2, 3), np.float64)
    x, losses, event = ops.zeros((), ops.dtype("float32")), ops.zeros((64,), ops.dtype("float32")), runtime.event()
    update = partial(ops.update, _negative, [losses], [])
    update()  # compiles it
    pool = runtime.new_pool()
    with runtime.capture(pool) as graphs:
        update()

    def current() -> None:
        with ops.active():
            pass

    stream, place = cp.cuda.get_current_stream(), losses[3, ...]
    each: dict[str, Callable[[], object]] = {
        "the device made current": current,
        "the current stream": runtime.stream,
        "whether a graph is captured": runtime.capturing,
        "whether an array is of the device": partial(runtime.owns, x),
        "an event asked": lambda: event.done,
        "an event recorded": partial(runtime.record, event),
        "numbers copied there": lambda: to.data.copy_from_host_async(row.ctypes.data, row.nbytes),
        "numbers sent": partial(runtime.send, to.view("uint64"), [1, 0.1, 0.2]),
        "a graph of one kernel launched": graphs[0].launch,
        "a kernel launched": update,
        "a view": lambda: losses[3, ...],
        "a number copied": partial(runtime.copy, place, x),
    }
    for name, call in each.items():
        took = []
        for _ in range(20):
            stream.synchronize()
            began = perf_counter()
            for _ in range(50):  # fewer than the device queues
                call()
            took.append((perf_counter() - began) / 50)
        yield f"{name}: {median(took) * 1e6:.2f} µs"
    step = _single(ops)
    for _ in range(200):
        step()
    profile = Profile()
    profile.runcall(lambda: [step() for _ in range(2000)])
    text = StringIO()
    Stats(profile, stream=text).strip_dirs().sort_stats("tottime").print_stats(25)
    yield "2000 single steps under cProfile, which takes time itself:"
    yield from (f"  {line}" for line in text.getvalue().splitlines() if line.strip())


def _single(ops: Any) -> Callable[[], object]:
    from benchmarks.contenders.ours import make

    return make(tasks.GPU[0], ops.name)


def _negative(xp: Any, a: Any) -> tuple[Any]:
    return (-a,)


def waiting(ops: Any) -> Lines:
    """Whether anything waits for the device between two checks of the loss"""
    import cupyx

    from benchmarks.contenders.ours import Fixed
    from benchmarks.tasks import GPU

    task = GPU[1]
    reports = tn.train(task.model(ops), Fixed(task, ops), tn.CrossEntropy(), tn.Adam(1e-3), steps=64)
    for _ in range(5):
        next(reports)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with cupyx.allow_synchronize(False):
            for _ in range(40):
                next(reports)
    yield "40 steps: nothing waits"


def nearness(ops: Any) -> Lines:
    """The same run on the host in float64: relative distance of weights, in the norm, and losses from it"""
    return tolerance.lines((("numpy", "float32"), *tolerance.DEVICE))


def small(ops: Any) -> Lines:
    """Small networks, fused, against float64 on the host"""
    for precision, one, limit in backends():
        for task in SMALL:
            net, rng = task.network(), np.random.default_rng(0)
            model = tn.Model(net, task.widths[0], backend=one)
            x, dy = (
                rng.standard_normal((task.batch, task.widths[0])),
                rng.standard_normal((task.batch, task.widths[-1])),
            )
            wanted = _passed(net, tn.Model(net, task.widths[0], dtype="float64"), x, dy)
            got = _passed(net, model, x.astype("float32"), dy.astype("float32"))
            worst = max(error(a, c) for a, c in zip(got, wanted, strict=True))
            if any(a.tobytes() != b.tobytes() for a, b in zip(got, _passed(net, model, x, dy), strict=True)):
                raise Wrong(f"{precision} {task.label}: a second pass has other bits")
            known, sizes = one._strategies._known, (task.batch, task.widths)
            found = {strategy for work, strategy in known.items() if (work.n, work.widths) == sizes}
            yield f"{held(f'{precision} {task.label}', worst, 10 * limit)}; {', '.join(map(str, found)) or 'not fused'}"


def _passed(net: Any, model: tn.Model, x: Any, dy: Any) -> list[Any]:
    """The output and all gradients, on the host."""
    ops = model.ops
    y, back = net.forward(model.params, ops.asarray(x, model.dtype), tn.Context(ops, train=True))
    dx, gradients = back(ops.asarray(dy, model.dtype))
    return [ops.to_numpy(a) for a in (y, dx, *dict(sorted(tn.layers.leaves(gradients))).values())]


SMALL = (
    Task((3, 4, 1), 4, article=True),
    Task((20, 64, 64, 2), 1024),
    Task((20, 64, 64, 2), 1001),
    Task((784, 512, 10), 1024),
    Task((64, 64, 64, 64, 64, 16), 40000),
)


def layers_of(ops: Any, task: Task, dtype: str = "float32") -> tuple[list[Any], Any]:
    """A task's dense layers with their activations, and its input, on the device."""
    from tinynet_backends.backend import DenseLayer

    inner: tn.Layer = tn.Sigmoid() if task.article else tn.ReLU()
    layers = [
        DenseLayer(ops.asarray(w, dtype), None if b is None else ops.asarray(b, dtype), inner.f, inner.df)
        for w, b in task.start()
    ]
    layers[-1] = layers[-1] if task.article else layers[-1]._replace(f=None, df=None)
    return layers, ops.asarray(task.data()[0], dtype)


def strategies(ops: Any) -> Lines:
    """The layers of a step, forward and back, by every possible strategy"""
    from tinynet_backends.cuda.fused import Work

    for n, task in enumerate(tasks.GPU, start=1):
        for precision, one, _ in backends():
            if n <= 2 and precision != "float32":
                continue
            with one.active():
                layers, x = layers_of(one, task)
                work = Work.of(x, layers, precision, False)
                took = one._strategies.timed(one, work, x, layers)
                chosen = one._strategies.find(one, work, x, layers)
            every = ", ".join(f"{tuple(strategy)} {seconds * 1e6:.1f} µs" for strategy, seconds in took.items())
            yield f"{precision} {task.label}: {every}; taken: {tuple(chosen)}"


def smoke(worker: Worker, limit: float) -> Lines:
    """Every kind of kernel on small arrays: whether it launches, and agrees with NumPy"""
    end, failed = monotonic() + limit, []
    names = worker.ask(limit, f"{SMOKE}:names", {})
    for name in names:
        try:
            yield f"{name}: {worker.ask(EACH, f'{SMOKE}:check', {'name': name}, end)}"
        except Failed as e:
            failed.append(name)
            yield f"FAILED {name}: {e}"
            worker.close()  # a fault may have ended its use of the device
    if failed:
        raise Wrong(f"{len(failed)} of {len(names)} fail: {'; '.join(failed)}")


def times(folder: Path, device: str, section: Any, options: Options) -> Lines:
    results = measure("gpu", [section], options, device, folder)
    for title, saved in results["sections"].items():
        yield f"{title}:"
        for c in map(Comparison.from_json, saved):
            took = ", ".join(f"{name} {c.median(name) * 1e6:.1f} µs" for name in c.times)
            best = [f"best peer / {name} {r:.2f}" for name in c.ours if (r := c.against_best(name))]
            notes = [f"{name} {kind} {value:.3g}" for name in c.ours for kind, value in c.notes.get(name, {}).items()]
            yield f"  {c.label}: {'; '.join([took, *best, *notes])}"
            for name, why in c.left_out.items():
                yield f"  {name} is left out: {why}"


def tests(log: Path, limit: float) -> Lines:
    """The tests that ask for a GPU"""
    plugins = ["-p", "no:benchmark", "-p", "benchmarks.hurried"]
    command = [sys.executable, "-m", "pytest", *plugins, "-m", "gpu", "-v", "-rfE", "--tb", "long"]
    command += ["-n", "12", "--dist", "load", "tests"]  # the tests of a file are otherwise for one process
    with log.open("w") as file:
        run = subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT, start_new_session=True)
        try:
            status = str(run.wait(limit))
        except subprocess.TimeoutExpired:
            status = f"none after {limit:.0f} s"
        finally:
            if run.returncode is None:  # with the processes of xdist, which would work on beside the next part
                os.killpg(run.pid, signal.SIGKILL)
                run.wait()
    output = log.read_text("utf-8", "replace").splitlines()
    for name, why in failures(output):
        yield "\n".join([f"FAILED {name}", "```", *why, "```"])
    yield f"{sum(' PASSED ' in line for line in output)} passed; {output[-1] if output else 'no output'}"
    if status != "0":
        raise Wrong(f"the exit status is {status}: see {log.name}")


def sanitizer(limit: float) -> Lines:
    """Races between threads and wrong addresses, as compute-sanitizer finds them"""
    tool = shutil.which("compute-sanitizer", path=f"{os.environ.get('PATH', '')}:/usr/local/cuda/bin")
    if tool is None:
        yield "compute-sanitizer is not installed"
        return
    wrong = []
    for kind in ("racecheck", "memcheck"):
        checks = [sys.executable, "-m", "benchmarks.gpu_smoke", *SANITIZED]
        try:
            done = subprocess.run(
                [tool, "--tool", kind, "--error-exitcode", "9", "--report-api-errors", "no", *checks],
                capture_output=True, text=True, cwd=ROOT, timeout=limit / 2,
            )  # fmt: skip
            said, status = f"{done.stdout}{done.stderr}".splitlines(), str(done.returncode)
        except subprocess.TimeoutExpired:
            said, status = [], f"none after {limit / 2:.0f} s"
        found = [line.strip("= ") for line in said if line.startswith("=========") and line.strip("= ")]
        rest = [line for line in said if line.strip() and not line.startswith("=========")]
        yield f"{kind}: exit status {status}; {(found or rest or ['no output'])[-1]}"
        if status != "0":
            yield from (f"  {line}" for line in [*found[:20], *rest[-3:]])
            wrong.append(kind)
    if wrong:
        raise Wrong(f"{' and '.join(wrong)} did not end well")


PARTS = (small, captured, training, strategies, waiting, golden, products, ceilings, launches, calls, nearness)
# Calls in the process that has the device
FOUND, WRITE, SMOKE = "benchmarks.gpu:found", "benchmarks.gpu_report:write", "benchmarks.gpu_smoke"
EACH = 30.0  # seconds of a check
# Checks without products, whose kernels are not ours
SANITIZED = (
    "float32, captured", "bf16, captured", "float32, a step in one launch", "steps in one launch", "softmax", "normalize",
    "normalize_grad", "softmax_cross_entropy",
)  # fmt: skip
# Seconds that each part may take, the most valuable first
LIMITS = {
    "smoke": 90, "steps": 360, "data": 100, "calls": 30, "tests": 200, "small": 60, "training": 60, "strategies": 100,
    "captured": 40, "waiting": 30, "golden": 60, "products": 60, "ceilings": 30, "launches": 30, "sanitizer": 100, "nearness": 100,
}  # fmt: skip
TITLES = {
    "steps": "Times beside peers: PyTorch as written and compiled with graphs, JAX",
    "data": "Times on batches that are made on the device",
}


def report(lines: Lines, say: Callable[[str], object]) -> bool:
    """Say each line as it comes; whether there was no failure."""
    try:
        for line in lines:
            say(f"- {line}")
    except (Exception, SystemExit) as e:  # SystemExit if contenders disagree; the next part may tell why
        say(f"- FAILED: {type(e).__name__}: {e}")
        if not isinstance(e, Wrong):
            say(f"```\n{traceback.format_exc()}```")
        return False
    return True


def write(name: str, file: str) -> bool:
    """Append a part to the report, in a process that has the device; whether it succeeded."""
    (part,) = (part for part in PARTS if part.__name__ == name)
    with open(file, "a", encoding="utf-8") as out:
        return report(part(tn.get_backend("cupy")), lambda line: print(line, file=out, flush=True))


class Report:
    """A file that grows, and is shown on the terminal."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_text("", "utf-8")
        self._shown = 0

    def say(self, line: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            print(line, file=file)
        self.show()

    def show(self) -> None:
        """Print what is new in the file, whichever process wrote it."""
        new = self.path.read_bytes()[self._shown :]
        self._shown += len(new)
        print(new.decode("utf-8", "replace"), end="", flush=True)

    def part(self, worker: Worker, name: str, limit: float, lines: Lines | None) -> bool:
        """Run one part within its limit; whether it succeeded."""
        titles = TITLES | {part.__name__: part.__doc__ for part in (*PARTS, smoke, tests, sanitizer)}
        self.say(f"\n## {titles[name]}\n")
        if lines is not None:
            return report(lines, self.say)
        try:
            whole = bool(worker.ask(limit, WRITE, {"name": name, "file": str(self.path)}))
        except Failed as e:
            self.say(f"- FAILED: {e}")
            whole = False
        self.show()
        if not whole:
            worker.close()  # so that its state does not affect the next part
        return whole


def main(arguments: list[str]) -> int:
    today = Path(__file__).parent / "results" / f"gpu-{date.today().isoformat()}.md"
    parser = argparse.ArgumentParser("benchmarks.gpu_report", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=today)
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--seconds", type=float, default=inf, help="for all parts together")
    parser.add_argument("--rows", type=names, default=[], metavar="1,2", help="of the table of steps")
    parser.add_argument(
        "--precisions", type=names, default=["float32", "bf16"], metavar="NAME,NAME", help=", ".join(PRECISIONS)
    )
    parser.add_argument("--repeats", type=int, default=3, help="turns that each contender takes")
    args = parser.parse_intermixed_args(arguments)
    if unknown := set(args.parts) - set(LIMITS):
        raise SystemExit(f"unknown part {', '.join(sorted(unknown))}: choose from {', '.join(LIMITS)}")
    path = args.file.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    options = Options(gpu.SECONDS, args.repeats, rows=tuple(map(int, args.rows)), precisions=tuple(args.precisions))
    log = path.with_suffix(".log")  # of the process that has the device
    with closing(Worker(dict(os.environ), log)) as worker:
        status = whole(worker, path, args.parts, args.seconds, options)
    if status != 1:
        log.unlink(missing_ok=True)
    return status


def whole(worker: Worker, path: Path, parts: list[str], seconds: float, options: Options) -> int:
    """Run these parts, which share the ``seconds``, or as many as there is time for; the exit status."""
    end, named = monotonic() + seconds, bool(parts)
    parts = parts or list(LIMITS)
    try:
        device = worker.ask(LIMITS["smoke"], FOUND, {"device": "gpu"})
    except Failed as e:
        print(f"no report: {str(e).removeprefix('BackendUnavailable: ')}")
        return 2
    one, status = Report(path), 0
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions().items())
    one.say(f"# {device}\n\n{date.today().isoformat()}, tinynet {tn.__version__}, {versions}")
    for n, name in enumerate(parts):
        share = LIMITS[name] / sum(LIMITS[part] for part in parts[n:]) if named else 1.0
        limit = min(LIMITS[name], share * (end - monotonic()))
        if limit <= 0:
            one.say(f"\n{name}: no time was left for it")
            continue
        lines: Lines | None = None
        if name == "smoke":
            lines = smoke(worker, limit)
        elif name == "tests":
            lines = tests(path.with_suffix(".tests.log"), limit)
        elif name == "sanitizer":
            lines = sanitizer(limit)
        elif name in gpu.SECTIONS:
            lines = times(path.parent, device, gpu.SECTIONS[name], replace(options, budget=limit))
        status = status if one.part(worker, name, limit, lines) else 1
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
