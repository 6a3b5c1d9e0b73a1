"""The benchmark for a device, on the host: processes that stay, taking turns, and what it says of them."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from datetime import date
from math import inf
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import tinynet as tn
from benchmarks import __main__ as command
from benchmarks import child, clock, gpu, gpu_report, hurried, machine, table, tasks, tolerance
from benchmarks.comparison import Comparison
from benchmarks.runner import Failed, Options, Runner
from benchmarks.worker import Worker

ROWS = (tasks.Task((3, 4, 1), 4, article=True), tasks.Task((5, 8, 8, 2), 16), tasks.Task((5, 8, 8, 3), 16))
NAMES = {
    "tinynet numpy": (gpu.OURS, {"backend": "numpy"}),
    "steady": ("stand_ins:steady", {}),
    "also": ("stand_ins:steady", {}),
}


@pytest.fixture(autouse=True)
def _children_find_what_we_find(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


@pytest.fixture
def worker(tmp_path):
    worker = Worker(machine.environment(None, str(tmp_path)), tmp_path / "log")
    yield worker
    worker.close()


def test_a_worker_stays(worker):
    assert worker.ask(60, "os:getpid", {}) == worker.ask(60, "os:getpid", {}) != os.getpid()
    with pytest.raises(Failed, match="^ZeroDivisionError: "):
        worker.ask(60, "stand_ins:divide", {"by": 0})
    assert worker.ask(60, "stand_ins:talk", {"text": "{}"}) == "{}"  # what is printed is no answer


def test_a_worker_that_ends_or_hangs_says_so_and_starts_again(worker):
    first = worker.ask(60, "os:getpid", {})
    with pytest.raises(Failed, match="^it took longer than 0.2 s$"):
        worker.ask(0.2, "stand_ins:sleep", {"seconds": 60})
    second = worker.ask(60, "os:getpid", {})
    with pytest.raises(Failed, match="^its process ended with 3: $"):
        worker.ask(60, "os:_exit", {"status": 3})
    third = worker.ask(60, "os:getpid", {})
    worker._process.kill()  # nobody asked it anything
    worker._process.wait()
    assert len({first, second, third, worker.ask(60, "os:getpid", {})}) == 4


def run(tmp_path, names, numbers, **options):
    runner = Runner(Options(0.001, 2, device="cpu", **options), str(tmp_path))
    return [found for _, found in gpu.rows(runner, names, [(n, ROWS[n - 1]) for n in numbers])]


@pytest.mark.slow  # starts several processes
def test_all_take_turns_and_whoever_fails_is_left_out(tmp_path, monkeypatch):
    # contenders of one module share a process: the one that ends it is in a module of its own
    (tmp_path / "apart.py").write_text("from stand_ins import tired")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    names = NAMES | {"other": ("stand_ins:other", {}), "tired": ("apart:tired", {}), "absent": ("nowhere:make", {})}
    first, second = run(tmp_path, names, (1, 2))
    for found in first, second:
        assert {name: len(times) for name, times in found.times.items()} == dict.fromkeys(NAMES, 2)
        assert all(t > 0 for times in found.times.values() for t in times)
        assert found.left_out["absent"] == "ModuleNotFoundError: No module named 'nowhere'"
        assert found.left_out["tired"].startswith(
            "its process ended with 7" if found is first else "RuntimeError: its process ended in an"
        )
        assert "are usual" in found.left_out["other"]
    assert [first.label, second.label] == ["3-4-1 × 4, float32", "5-8-8-2 × 16, float32"]


@pytest.mark.slow  # starts several processes
def test_precisions(tmp_path):
    found = run(tmp_path, NAMES, (3,), precisions=("float32", "bf16"), only=("steady", "tinynet numpy"))
    assert [c.label for c in found] == ["5-8-8-3 × 16, float32", "5-8-8-3 × 16, bf16"]
    assert [list(c.times) for c in found] == [["tinynet numpy", "steady"], ["steady"]]
    assert found[1].left_out["tinynet numpy"].startswith("ValueError: backend 'numpy' has no")


def test_losses_may_part_as_far_as_the_precision_goes():
    losses = {"a": [2.0, 0.1], "b": [2.0, 0.1], "c": [2.0, 0.105], "torch.matmul": [5.0, 5.0]}
    for tolerance_, out in ((1e-3, ["c"]), (1e-2, [])):
        found = Comparison("", {name: [] for name in losses})
        gpu._drop_outliers(found, losses, tolerance_)
        assert list(found.left_out) == out
        assert set(found.times) == losses.keys() - out
    found = Comparison("", {"a": [], "b": [], "c": []})
    gpu._drop_outliers(found, {"a": [1.0], "b": [float("nan")], "c": [1.0]}, 1e-2)
    assert list(found.left_out) == ["b"]


def test_steps_and_data_beside_the_ceiling(tmp_path, monkeypatch):
    names = {"tinynet numpy": NAMES["tinynet numpy"], gpu.CEILING: ("stand_ins:steady", {"n": 100})}
    monkeypatch.setitem(gpu.STEPS, "cpu", names)
    runner = Runner(Options(0.001, 2, device="cpu", precisions=("float32",)), str(tmp_path))

    def timed(runner, names, table, same=True):
        for _, task in table:
            times = {name: [1.0, 2.0] if name == "tinynet numpy" else [2.0, 4.0] for name in names}
            yield task, Comparison(task.label, times)

    monkeypatch.setattr(gpu, "rows", timed)
    found = list(gpu.steps(runner, ROWS))[2]
    flops = 16 * (6 * (40 + 64 + 24) - 2 * 40)
    assert ROWS[2].flops == flops
    assert found.notes["tinynet numpy"] == pytest.approx(
        {"TFLOP/s": flops / 1.5 * 1e-12, "share of the ceiling": flops / 1 / (2 * 100**3 / 2)}
    )
    assert found.notes[gpu.CEILING] == pytest.approx({"TFLOP/s": 2 * 100**3 / 3 * 1e-12})
    assert next(gpu.data(runner, ROWS)).notes == {"tinynet numpy, in fit, new batches": {"share of data": 0.0}}


def test_new_batches_every_step():
    from benchmarks.contenders import ours

    for make, same in ((ours.in_fit, True), (ours.fed, False)):
        loader, ops = make(ROWS[1], "strict").loader, tn.get_backend("strict")
        one, two = (loader.batch(t, ops, "float32") for t in (0, 1))
        assert one.x.shape == two.x.shape == (16, 5)
        assert set(ops.to_numpy(two.y).tolist()) == {0, 1}
        assert bool(ops.xp.all(one.x == two.x)) == same
        assert (one.x is two.x) == same  # a step may read it in place
        many = loader.chunk(64, ops, "float32")[2].x
        assert many.shape == (64 * 16, 5)
        assert bool(ops.xp.all(many[:16, ...] == many[-16:, ...])) == same


def test_a_lap_is_as_long_as_it_is_to_be():
    calls = []
    seconds = clock.lap(lambda: calls.append(1) or 0.0, 0.02)
    assert len(calls) > 1000 * clock.SHORTEST
    assert 0 < seconds < 1e-3
    calls.clear()
    clock.lap(lambda: calls.append(1) or 0.0, 0.0)
    assert len(calls) == clock.SHORTEST


def test_a_lap_counts_steps_where_a_call_stands_for_several(monkeypatch):
    class Several:
        done = 5  # before the lap

        def __call__(self):
            self.done += 64
            return 0.0

    monkeypatch.setattr(clock, "elapsed", lambda action: action() or 1.92)
    assert clock.lap(Several(), 1.0) == pytest.approx(1.92 / (3 * 64))


def test_no_device_is_one_line(monkeypatch, capsys):
    def missing(name):
        raise tn.BackendUnavailable("backend 'cupy' finds no CUDA device")

    monkeypatch.setattr(tn, "get_backend", missing)
    command.main(["gpu"])
    assert capsys.readouterr().out == "Nothing to time on a GPU: backend 'cupy' finds no CUDA device\n"


def test_what_is_measured_is_kept_as_it_comes(tmp_path, capsys):
    def section(runner):
        """A title"""
        yield Comparison("one", {"tinynet": [1.0]})
        kept = json.loads(path.read_text("utf-8"))
        assert [row["label"] for row in kept["sections"]["A title"]] == ["one"]
        yield Comparison("two", {"tinynet": [1.0]}, left_out={"b": "ValueError: b"})

    path = tmp_path / "new" / f"gpu-{date.today().isoformat()}-nvidia-h200.json"
    device = "CuPy 14.2, CUDA 13000, NVIDIA H200"
    results = command.measure("gpu", [section], Options(), device, path.parent)
    assert results == json.loads(path.read_text("utf-8"))
    assert results["machine"]["device"] == device
    capsys.readouterr()
    command.main(["table", str(path)])
    said = capsys.readouterr().out
    assert "; CuPy 14.2, CUDA 13000, NVIDIA H200.\n" in said
    assert "b is left out" in said


def test_a_run_in_pieces_is_one_of_its_day(tmp_path):
    def rows(*labels, seconds=(1.0,)):
        def section(runner):
            """A title"""
            for label in labels:
                yield Comparison(label, {"tinynet": list(seconds)})

        return section

    for labels, seconds in ((("one", "two"), [1.0, 1.0, 1.0]), (("three", "one"), [2.0])):
        command.measure("gpu", [rows(*labels, seconds=seconds)], Options(), "a device", tmp_path)
    (path,) = tmp_path.iterdir()
    saved = json.loads(path.read_text("utf-8"))
    assert table.repeats(saved) == "1 to 3"
    kept = saved["sections"]["A title"]
    assert [(row["label"], row["times"]["tinynet"]) for row in kept] == [
        ("two", [1.0, 1.0, 1.0]),
        ("three", [2.0]),
        ("one", [2.0]),
    ]
    for label in ("four", "five"):  # in another setting, of which one table could not tell
        command.measure("gpu", [rows(label)], Options(threads=1), "a device", tmp_path)
    assert json.loads(path.read_text("utf-8")) == saved
    other = json.loads(path.with_stem(f"{path.stem}-2").read_text("utf-8"))
    assert [row["label"] for row in other["sections"]["A title"]] == ["four", "five"]
    assert other["threads"] == 1


def test_how_near_runs_are():
    exact, near = tolerance.lines([("numpy", "float64"), ("numpy", "float32"), ("cupy:9", "float32")], steps=10)
    assert exact == "numpy, float64: weights and losses after step 1: 0.0e+00, 0.0e+00; 10: 0.0e+00, 0.0e+00"
    step = near.split("; 10: ")[1]
    assert all(1e-9 < float(value) < 1e-5 for value in step.split(", "))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of other libraries' own making
@pytest.mark.parametrize("precision", gpu.TOLERANCES)
@pytest.mark.parametrize("name", ["torch", "torch compiled", "jax"])
def test_peers_compute_the_same_in_every_precision(name, precision):
    if importlib.util.find_spec(name.split()[0]) is None:
        pytest.skip(f"{name} is not installed")
    task = tasks.Task((64, 128, 128, 10), 128)
    target, options = gpu.STEPS["cpu"][name]
    losses = clock.first_steps(child.find(target)(task, **options, precision=precision))[0]
    exact = clock.first_steps(child.find(gpu.OURS)(task, "numpy"))[0]
    np.testing.assert_allclose(losses, exact, rtol=0, atol=gpu.TOLERANCES[precision] * exact[0])
    if precision == "bf16":
        assert np.abs(np.subtract(losses, exact)).max() > 1e-5  # it is not float32 under another name


def test_the_report_keeps_times_and_says_them(tmp_path, monkeypatch, capsys):
    def section(runner):
        """A title"""
        notes = {"tinynet cupy": {"share of the ceiling": 0.8}}
        yield Comparison("one", {"tinynet cupy": [1e-6, 2e-6], "torch": [4e-6, 4e-6]}, [], notes, {"jax": "Error: x"})

    assert list(gpu_report.times(tmp_path, "CuPy 1, a device", section, Options())) == [
        "A title:",
        "  one: tinynet cupy 1.5 µs, torch 4.0 µs; best peer / tinynet cupy 3.00; tinynet cupy share of the ceiling 0.8",
        "  jax is left out: Error: x",
    ]
    (kept,) = tmp_path.iterdir()
    assert kept.name.endswith("-a-device.json")


def test_a_part_writes_line_by_line(tmp_path, monkeypatch):
    def one(ops):
        """One"""
        yield "fine"
        assert path.read_text("utf-8") == "before\n- fine\n"
        raise gpu_report.Wrong(f"not {ops}")

    monkeypatch.setattr(gpu_report, "PARTS", (one, gpu_report.golden))
    monkeypatch.setattr(tn, "get_backend", lambda name: name)
    path = tmp_path / "report.md"
    path.write_text("before\n")
    assert not gpu_report.write("one", str(path))
    assert path.read_text("utf-8") == "before\n- fine\n- FAILED: Wrong: not cupy\n"


@pytest.fixture
def reported(tmp_path, monkeypatch, capsys):
    """What a report of these parts says on the terminal, which is what stands in the file."""
    monkeypatch.setattr(gpu_report, "FOUND", "stand_ins:device")
    monkeypatch.setattr(gpu_report, "WRITE", "stand_ins:write")

    def run(*parts, status):
        path = tmp_path / "report.md"
        assert gpu_report.main([str(path), *parts]) == status
        said = path.read_text("utf-8")
        assert capsys.readouterr().out == said
        return said

    return run


@pytest.mark.slow
def test_what_hangs_or_ends_is_no_other_part_s_end(reported, monkeypatch):
    monkeypatch.setitem(gpu_report.LIMITS, "products", 0.5)
    said = reported("waiting", "captured", "training", "golden", "products", "launches", status=1)
    found = re.findall(r"^- (?:(\w+) (\d+)|FAILED: (.*))$", said, re.M)
    names, processes, failures = zip(*found, strict=True)
    assert names == ("waiting", "captured", "", "training", "golden", "", "launches")
    assert [failure for failure in failures if failure] == ["its process ended with 3: ", "it took longer than 0.5 s"]
    first, second, _, third, fourth, _, fifth = processes
    assert first == second
    assert len({second, third, fourth, fifth}) == 4  # after what failed there is another


class Here:
    """A worker that is this process."""

    def __init__(self, env, log):
        pass

    def ask(self, limit, target, arguments, end=inf):
        said = child.answer(target, arguments)
        if "error" in said:
            raise Failed(said["error"])
        return said["result"]

    def close(self):
        pass


def test_times_are_a_part_like_others(reported, monkeypatch):
    monkeypatch.setattr(gpu_report, "Worker", Here)
    asked = []
    monkeypatch.setattr(gpu_report, "times", lambda folder, *rest: asked.append(rest) or iter(["fast"]))
    said = reported("data", "steps", "--precisions", "bf16", "--rows", "1,2", "--repeats", "2", status=0)
    assert said.count("- fast\n") == 2
    options = Options(gpu.SECONDS, 2, rows=(1, 2), precisions=("bf16",))
    assert [(device, section, replace(o, budget=inf)) for device, section, o in asked] == [
        ("CuPy 1, a device", section, options) for section in (gpu.data, gpu.steps)
    ]
    assert [o.budget for *_, o in asked] == [gpu_report.LIMITS[name] for name in ("data", "steps")]
    said = reported("data", "--seconds", "0", status=0)
    assert said.endswith("\ndata: no time was left for it\n")


def test_parts_that_are_named_share_the_time(reported, monkeypatch):
    """None uses up that of the last; by default the first have all that they may take."""
    monkeypatch.setattr(gpu_report, "Worker", Here)
    now, limits = [0.0], []

    def smoke(worker, limit):
        """Every kind of kernel"""
        limits.append(limit)
        now[0] += limit - 10.0
        yield "fine"

    monkeypatch.setattr(gpu_report, "monotonic", lambda: now[0])
    monkeypatch.setattr(gpu_report, "smoke", smoke)

    def tests(log, limit):
        """Tests"""
        return smoke(None, limit)

    monkeypatch.setattr(gpu_report, "tests", tests)
    monkeypatch.setattr(gpu_report, "LIMITS", {"smoke": 100, "tests": 300})
    reported("smoke", "tests", "--seconds", "200", status=0)
    reported("--seconds", "200", status=0)
    assert limits == [50.0, 160.0, 100.0, 110.0]


def _runs(number):
    """Whether a process runs, as Linux says it."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_tests_that_are_late_end_with_all_their_processes(tmp_path, monkeypatch):
    script, child = tmp_path / "python", tmp_path / "child"
    script.write_text(f"#!/bin/sh\nsleep 60 &\necho $! > {child}\nwait\n")
    script.chmod(0o755)
    monkeypatch.setattr(gpu_report.sys, "executable", str(script))
    lines = []
    assert not gpu_report.report(gpu_report.tests(tmp_path / "log", 0.5), lines.append)
    assert lines[-1] == "- FAILED: Wrong: the exit status is none after 0 s: see log"
    until = time.monotonic() + 5  # when the system has ended it
    while _runs(child.read_text().strip()):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_report_without_a_device(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="^unknown part two: choose from smoke, steps, data, "):
        gpu_report.main([str(tmp_path / "report.md"), "two"])
    monkeypatch.setattr(gpu_report, "Worker", Here)
    monkeypatch.setattr(gpu_report, "FOUND", "stand_ins:no_device")
    assert gpu_report.main([str(tmp_path / "report.md")]) == 2
    assert capsys.readouterr().out == "no report: backend 'cupy' finds no CUDA device\n"
    assert not (tmp_path / "report.md").exists()


def test_a_check_that_fails_stops_no_other():
    asked = []

    class Checks(Here):
        def ask(self, limit, target, arguments, end=inf):
            asked.append(f"{target} {arguments.get('name', '')}")
            if arguments.get("name") == "two":
                raise Failed("its process ended with 139: Segmentation fault")
            return "fine" if arguments else ["one", "two", "three"]

        def close(self):
            asked.append("another process")

    lines = []
    assert not gpu_report.report(gpu_report.smoke(Checks(None, None), 60), lines.append)
    assert lines == [
        "- one: fine",
        "- FAILED two: its process ended with 139: Segmentation fault",
        "- three: fine",
        "- FAILED: Wrong: 1 of 3 fail: two",
    ]
    checks = [f"benchmarks.gpu_smoke:check {name}" for name in ("one", "two", "three")]
    assert asked == ["benchmarks.gpu_smoke:names ", *checks[:2], "another process", checks[2]]


def test_smoke_is_a_part_like_others(reported, monkeypatch):
    def smoke(worker, limit):
        """Every kind of kernel"""
        yield f"{type(worker).__name__} {limit:.0f}"

    monkeypatch.setattr(gpu_report, "Worker", Here)
    monkeypatch.setattr(gpu_report, "smoke", smoke)
    assert reported("smoke", status=0).endswith(f"- Here {gpu_report.LIMITS['smoke']}\n")


@pytest.fixture
def sanitized(tmp_path, monkeypatch):
    """The lines of the part sanitizer, where the tool is this script."""

    def run(script):
        tool = tmp_path / "compute-sanitizer"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        lines = []
        return gpu_report.report(gpu_report.sanitizer(4.0), lines.append), lines

    return run


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_what_the_sanitizer_finds_is_said(sanitized):
    ends = """echo "float32, captured: fine"; echo "========= ERROR SUMMARY: 0 errors" """
    assert sanitized(f'test "$8" = benchmarks.gpu_smoke -a $# -gt 10 && {ends}') == (
        True, [f"- {kind}: exit status 0; ERROR SUMMARY: 0 errors" for kind in ("racecheck", "memcheck")],
    )  # fmt: skip
    race = (
        "if [ $2 = memcheck ]; then exit 0; fi; echo '========= Race at 0x10'; echo '========='; echo gone >&2; exit 9"
    )
    assert sanitized(race) == (
        False,
        [
            "- racecheck: exit status 9; Race at 0x10", "-   Race at 0x10", "-   gone", "- memcheck: exit status 0; no output",
            "- FAILED: Wrong: racecheck did not end well",
        ],
    )  # fmt: skip


def test_without_a_sanitizer_there_is_nothing_to_find(monkeypatch):
    monkeypatch.setattr(gpu_report.shutil, "which", lambda name, path: None)
    assert list(gpu_report.sanitizer(1.0)) == ["compute-sanitizer is not installed"]


def test_every_part_has_a_limit_and_a_title():
    known = {
        part.__name__: part.__doc__
        for part in (*gpu_report.PARTS, gpu_report.smoke, gpu_report.tests, gpu_report.sanitizer)
    } | gpu_report.TITLES
    assert known.keys() == gpu_report.LIMITS.keys()
    assert all(known.values())


@pytest.mark.slow
def test_the_largest_rows_get_ready_after_the_others(tmp_path, monkeypatch):
    """Each group has its own processes, and the slowest to compile one for each row."""
    monkeypatch.setattr(gpu, "AT_ONCE", 2)
    monkeypatch.setattr(gpu, "SLOW", ("stand_ins:steady",))
    names = {"slow": ("stand_ins:steady", {}), "other": ("stand_ins:other", {})}
    runner = Runner(Options(0.001, 1, device="cpu", budget=9e6, precisions=("float32",)), str(tmp_path))
    found, budgets = [], []
    begin = gpu.Workers.__init__

    def begun(self, options, folder):
        budgets.append(options.budget)
        begin(self, options, folder)

    monkeypatch.setattr(gpu.Workers, "__init__", begun)
    for task, comparison in gpu.rows(runner, names, enumerate(ROWS, start=1), same=False):
        assert not comparison.left_out
        found.append((task, len(budgets)))
    assert found == [(ROWS[0], 1), (ROWS[1], 1), (ROWS[2], 2)]
    assert budgets == pytest.approx([5e6, 9e6], abs=1e5)  # the second has what the first left, too
    kept = {path.stem for path in tmp_path.glob("*.log")}
    assert kept == {
        "stand_ins-float32",
        *(f"stand_ins.steady-float32-{'-'.join(map(str, t.widths))}-{t.batch}" for t in ROWS),
    }


def test_no_budget_no_times(tmp_path):
    names = {"tinynet numpy": NAMES["tinynet numpy"]}
    runner = Runner(Options(0.001, 2, device="cpu", budget=-1.0), str(tmp_path))
    ((_, found),) = gpu.rows(runner, names, [(1, ROWS[0])])
    assert (found.times, found.left_out) == ({}, {"tinynet numpy": "no time was left for it"})
    assert found.to_json()["medians"] == {}


@pytest.mark.slow
def test_a_captured_step_begins_where_it_was(monkeypatch):
    torch = pytest.importorskip("torch")
    from benchmarks.contenders.pytorch_compiled import _captured

    class Graph:
        def replay(self):
            step()

    class Stream:
        def wait_stream(self, other):
            pass

    for name, fake in {
        "Stream": Stream, "CUDAGraph": Graph, "current_stream": Stream, "stream": lambda s: nullcontext(),
        "graph": lambda g: nullcontext(),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, fake)
    numbers = torch.zeros(2)

    def step():
        return seen().add_(1).sum()

    seen = weakref.ref(numbers)
    launch = _captured(step, [numbers])
    assert float(numbers.sum()) == 0
    del numbers
    launch()
    assert float(seen().sum()) == 2  # its memory is still there


@pytest.mark.slow
def test_a_product_is_in_its_precision():
    pytest.importorskip("torch")
    from benchmarks.contenders import pytorch

    for precision in gpu.TOLERANCES:
        corner = pytorch.product(ROWS[0], 8, "cpu", precision)()
        assert str(corner.dtype) == ("torch.bfloat16" if precision == "bf16" else "torch.float32")


@pytest.mark.parametrize("each", [64, 8, 1])
def test_steps_as_in_fit_are_those_of_a_loop_with_a_report_each(each, monkeypatch):
    """On a device that launches: a chunk of 64 or 8 in a launch, or each by itself and several to a report."""
    from benchmarks.contenders import ours

    pytest.importorskip("torch", reason="arrays of a library that computes elsewhere")
    row, ops, runs = ROWS[1], tn.get_backend("torch"), []
    monkeypatch.setattr(ops, "launches", True)
    monkeypatch.setattr("tinynet.data.loader.LARGEST_ON_DEVICE", each * row.batch * row.widths[0])
    monkeypatch.setattr(ours, "REPORTED", 20 * row.flops)
    reports = ours._reports
    monkeypatch.setattr(ours, "_reports", lambda *args, **options: listened(reports(*args, **options)))

    def listened(reports):
        for report in reports:
            runs.append(report.step)
            yield report

    one, several = ours.make(row, "torch"), ours.in_fit(row, "torch")
    wanted = [float(one()) for _ in range(700)]
    runs.clear()
    assert runs == []  # nothing is done before the first call
    losses = [float(several()) for _ in range(clock.WARM)]
    assert losses == wanted[: clock.WARM]
    assert several.done == clock.WARM
    assert len(runs) == max(each, clock.WARM) + (ours.LAUNCHES if each > 1 else 2)  # and all that is slow in that
    done = [several.done]
    for _ in range(3):
        loss = several()
        done.append(several.done)
        assert float(loss) == pytest.approx(wanted[runs[-1] - 1], rel=1e-6)
    assert np.diff(done).tolist() == [each if each > 1 else 20] * 3


def test_who_has_the_device_next():
    turns, order = gpu.Turns(), []

    def wait(rank):
        with turns.taken(rank):
            order.append(rank)

    with ThreadPoolExecutor(4) as pool, turns.taken(0):
        for rank in (3, 1, 2, 1):
            pool.submit(wait, rank)
        while len(turns._waiting) < 4:
            time.sleep(1e-3)
        assert order == []
    assert order == [1, 1, 2, 3]


def test_why_tests_failed_is_known_before_the_run_ends(capsys):
    registered = []
    here = SimpleNamespace(pluginmanager=SimpleNamespace(register=registered.append))
    hurried.pytest_configure(SimpleNamespace(workerinput={}))  # one of xdist's processes
    hurried.pytest_configure(here)
    (printed,) = registered
    for failed in (False, True):
        printed.pytest_runtest_logreport(SimpleNamespace(failed=failed, nodeid="a::b", longreprtext="this\nand that"))
    output = capsys.readouterr().out.splitlines()
    assert [*hurried.failures([*output, "more"])] == [("a::b", ["this", "and that"])]
    assert [*hurried.failures(output[:-1])] == [("a::b", ["this", "and that"])]  # the run was ended meanwhile


def test_what_is_least_known_runs_first():
    names = ["test_a.py::a", "test_gpu.py::a", "test_a.py::b", f"{hurried.FIRST[0]}a", "test_gpu.py::b"]
    items = [SimpleNamespace(nodeid=f"tests/{name}") for name in names]
    hurried.pytest_collection_modifyitems(items)
    assert [item.nodeid.removeprefix("tests/") for item in items] == [names[n] for n in (3, 1, 4, 0, 2)]
    path = Path(__file__).with_name("test_gpu.py")
    assert f"def {hurried.FIRST[0].rpartition('::')[2]}" in path.read_text("utf-8")


@pytest.mark.slow
def test_why_tests_failed_is_known_with_several_processes(tmp_path):
    (tmp_path / "test_two.py").write_text(
        "def test_one():\n    a = 1\n    assert a == 2\n\n\ndef test_two():\n    pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "benchmarks.hurried", "-p", "no:cacheprovider", "-n", "1", "-q"]
    run = subprocess.run([*command, "test_two.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    ((name, why),) = hurried.failures(run.stdout.splitlines())
    assert name == "test_two.py::test_one"
    assert "E       assert 1 == 2" in why


def test_the_report_has_all_that_tests_say_of_their_failures(tmp_path, monkeypatch):
    def run(command, stdout, **options):
        print(f"\n{hurried._BEGIN}a::b\nthis\n{hurried._END}a::b\nx PASSED y\n1 failed", file=stdout, flush=True)
        return SimpleNamespace(wait=lambda limit: 1, returncode=1)

    monkeypatch.setattr(gpu_report.subprocess, "Popen", run)
    lines = []
    assert not gpu_report.report(gpu_report.tests(tmp_path / "log", 9.0), lines.append)
    assert lines == [
        "- FAILED a::b\n```\nthis\n```", "- 1 passed; 1 failed", "- FAILED: Wrong: the exit status is 1: see log",
    ]  # fmt: skip
