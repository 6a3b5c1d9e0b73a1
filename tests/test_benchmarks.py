"""What the benchmarks say follows from what they measured, and they measure the same work."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import tinynet as tn
from benchmarks import __main__ as command
from benchmarks import child, contenders, machine, plot, runner, table, tasks
from benchmarks.clock import WARM, time_steps
from benchmarks.comparison import Comparison
from benchmarks.contenders.ours import Fixed
from benchmarks.sections import accuracy, classifier, imports

TIMES = {
    "tinynet numpy": [1.0, 10.0, 2.0],
    "torch": [3.0, 20.0, 10.0],
    "jax": [4.0, 15.0, 12.0],
    "numpy": [0.5, 5.0, 1.0],
}


def saved(*comparisons):
    return {
        "what": "cpu", "date": "2026-01-02", "machine": {"cpu": "a CPU", "cores": 2, "os": "an OS"},
        "versions": {"numpy": "2.4"}, "threads": 1, "repeats": 3,
        "sections": {"Seconds of a step": [c.to_json() for c in comparisons]},
    }  # fmt: skip


def made_up():
    c = Comparison("2-3 × 4", {k: [1e-3 * t for t in v] for k, v in TIMES.items()})
    c.control = [0.05, 0.06]
    c.notes["torch"] = {"peak, MB": 300.0}
    c.left_out["tinynet numba"] = "ValueError: unknown backend"
    return [c, Comparison("5-6 × 7", {"tinynet numpy": [2e-6], "torch": [1e-6]}, control=[0.04])]


def test_ratios_are_medians_of_pairs():
    c = Comparison("", TIMES)
    assert c.peers == ["torch", "jax"]  # numpy is nobody's peer
    assert c.ours == ["tinynet numpy"]
    assert c.ratio("torch", "tinynet numpy") == 3.0  # of 3, 2, 5; the ratio of the medians would be 5
    assert c.ratio("jax", "tinynet numpy") == 4.0  # of 4, 1.5, 6
    assert c.against_best("tinynet numpy") == 3.0  # of 3, 1.5, 5: the best of each turn
    assert c.median("torch") == 10.0
    assert c.spread("torch") == (3.0, 20.0)


def test_without_a_peer_there_is_no_ratio():
    assert Comparison("", {"tinynet numpy": [1.0], "numpy": [1.0]}).against_best("tinynet numpy") is None


def test_a_comparison_comes_back_from_json():
    for c in made_up():
        assert Comparison.from_json(json.loads(json.dumps(c.to_json()))) == c


def losses(name, task):
    step = contenders.make(name, task)
    return [float(step()) for _ in range(5)]


SMALL, LARGER = tasks.CPU[:2]
ENTERED = [("numpy", SMALL), ("numpy", LARGER)]
SLOW = [("torch", SMALL), ("torch", LARGER), ("torch compiled", SMALL), ("jax", SMALL), ("jax", LARGER)]


@pytest.mark.filterwarnings("ignore")  # of other libraries' own making
@pytest.mark.parametrize(
    ("name", "task"),
    [*ENTERED, *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW)],
    ids=lambda value: getattr(value, "label", value),
)
def test_contenders_compute_the_same(name, task):
    if name != "numpy" and importlib.util.find_spec(name.split()[0]) is None:
        pytest.skip(f"{name} is not installed")
    mine = losses("tinynet numpy", task)
    np.testing.assert_allclose(losses(name, task), mine, rtol=1e-5)
    runner.check({"a": mine, "b": losses(name, task)})
    assert mine[4] < mine[0]


@pytest.mark.slow
def test_peers_are_as_fast_as_their_users_have_them(monkeypatch):
    """JAX is not waited for at every step, and PyTorch's optimizer is one pass over the weights."""
    jax, torch = (pytest.importorskip(name, reason="it is the peer") for name in ("jax", "torch"))
    found = []
    monkeypatch.setattr(jax, "block_until_ready", lambda value: pytest.fail("it waits"))
    assert float(contenders.make("jax", SMALL)()) > 0
    for name, task in (("SGD", SMALL), ("Adam", LARGER)):
        kind = getattr(torch.optim, name)
        monkeypatch.setattr(
            torch.optim, name, lambda *args, kind=kind, **how: found.append(kind(*args, **how)) or found[-1]
        )
        contenders.make("torch", task)
    assert [optimizer.defaults["fused"] for optimizer in found] == [True, True]


@pytest.mark.slow
def test_ours_and_theirs_are_fitted_once_before_the_clock_starts(monkeypatch):
    pytest.importorskip("sklearn", reason="theirs are scikit-learn's")
    monkeypatch.setitem(classifier.EPOCHS, "digits", 1)
    for found in (classifier.ours("digits", "numpy"), classifier.theirs("digits")):
        assert found["notes"].keys() == {"accuracy", "first fit, s"}
    assert accuracy.measure("tinynet numpy", "digits", 0.1, [8], 64)["notes"]["first epoch, s"] > 0


def test_the_size_of_jax_is_that_of_all_that_computes():
    if importlib.util.find_spec("jaxlib") is None:
        pytest.skip("jax is not installed")
    assert imports.installed_mb("jax") > imports.installed_mb("jaxlib") > 0


def test_the_article_s_class_computes_the_same():
    np.testing.assert_allclose(losses("article", tasks.CPU[0]), losses("tinynet numpy", tasks.CPU[0]), rtol=1e-5)
    assert "article" not in contenders.entered(contenders.CPU, tasks.CPU[1])


def test_contenders_that_disagree_are_not_compared():
    runner.check({"a": [1.0, 0.5], "b": [1.0, 0.5004], "c": []})
    for other in (0.501, float("nan")):
        with pytest.raises(SystemExit, match="they do not compute the same"):
            runner.check({"a": [1.0, 0.5], "b": [1.0, other]})


def test_the_clock_sets_the_first_steps_apart():
    calls = []
    found = time_steps(lambda: calls.append(1) or len(calls), seconds=0.01)
    assert found["losses"] == [1.0, 2.0, 3.0, 4.0, 5.0][:WARM]
    assert found["seconds"] > 0
    assert found["notes"]["first step, s"] > 0


def test_our_step_does_not_end_an_epoch():
    model = tasks.CPU[0].model()
    reports = tn.train(model, Fixed(tasks.CPU[0], model.ops), tn.SumSquaredError(), tn.SGD(1.0), steps=10)
    assert not any(report.last_of_epoch or (report.recent and report.step < 10) for report in reports)


def test_a_child_answers_or_says_why_not():
    assert child.answer("math:sqrt", {})["error"].startswith("TypeError: ")
    assert child.answer("benchmarks.table:duration", {"seconds": 0.002}) == {"result": "2 ms"}
    assert child.answer("no_such_module:f", {}) == {"error": "ModuleNotFoundError: No module named 'no_such_module'"}


def test_a_child_is_a_process_with_the_threads_it_was_given():
    order = {"target": "benchmarks.table:duration", "arguments": {"seconds": 1}, "threads": 1}
    command = [sys.executable, "-m", "benchmarks.child", json.dumps(order)]
    env = machine.environment(1, "cache") | {"PYTHONPATH": os.pathsep.join(sys.path)}
    said = json.loads(subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout)
    assert said["result"] == "1 s"
    assert 1 < said["peak_mb"] < 1000
    if hasattr(os, "sched_setaffinity"):
        assert said["threads"]["cores"] == 1
    assert env["OMP_NUM_THREADS"] == env["NUMBA_NUM_THREADS"] == "1"


class Scripted(runner.Runner):
    """A runner whose children answer at once."""

    def run(self, order, cache=None):
        self.order = [*getattr(self, "order", []), order.target]
        self.caches = {**getattr(self, "caches", {}), order.target: cache}
        if order.target == "broken" or (order.target == "late" and self.order.count("late") > 1):
            raise runner.Failed("it is broken")
        return {"result": {"seconds": len(self.order), "losses": [1.0]}, "threads": {"cores": 1}, "peak_mb": 5.0}


def test_contenders_take_turns_and_whoever_fails_is_left_out(tmp_path):
    fake = Scripted(runner.Options(repeats=2), tmp_path)
    c = fake.compare("x", {name: runner.Order(name) for name in ("a", "b", "broken")})
    control = runner.CONTROL.target
    assert fake.order == [control, "a", "b", "broken", control, "b", "a"]
    assert c.times == {"a": [2, 7], "b": [3, 6]}
    assert c.left_out == {"broken": "it is broken"}
    assert c.control == [1, 5]
    assert c.notes["a"] == {"peak, MB": 5.0}
    late = fake.compare("y", {"late": runner.Order("late")})
    assert late.times == late.notes == {}
    assert late.left_out == {"late": "it is broken"}


def test_in_a_comparison_nobody_finds_what_others_compiled(tmp_path):
    fake, found = Scripted(runner.Options(repeats=2), tmp_path), set()
    for label in ("x", "y"):
        fake.compare(label, {"a": runner.Order("a"), "a compiled": runner.Order("b")})
        found |= {fake.caches["a"], fake.caches["b"]}
    assert len(found) == 4
    assert not any(" " in folder for folder in found)  # which the compiler that PyTorch calls does not take
    assert not [*tmp_path.iterdir()]


def test_files_and_parts_of_a_run_are_not_mixed_up(capsys):
    for wrong in (["table"], ["plot", "a.json"], ["cpu", "steps"]):
        with pytest.raises(SystemExit):
            command.main(wrong)
        assert "table FILE and plot FILE OUT.png; parts of a run are chosen by --sections" in capsys.readouterr().err


def test_the_table(tmp_path, capsys):
    path = tmp_path / "saved.json"
    path.write_text(json.dumps(saved(*made_up())), "utf-8")
    command.main(["table", str(path)])
    said = capsys.readouterr().out
    assert "cpu, 2026-01-02: a CPU, 2 cores, an OS; numpy 2.4." in said
    assert "Control: 50 ms (40 ms to 60 ms)." in said
    assert "| 2-3 × 4 | 2 ms (1 ms to 10 ms) | 10 ms (3 ms to 20 ms) |" in said
    assert "| 3.00 | 4.00 | **3.00** |" in said
    assert "| 2 µs (2 µs to 2 µs) | 1 µs (1 µs to 1 µs) |  |  | 0.50 |  | **0.50** |" in said
    assert "tinynet numba is left out: ValueError: unknown backend" in said
    widths = [line.count("|") for line in said.splitlines() if line.startswith("|")]
    assert widths == [9] * 4 + [4] * 3


def test_figures_have_three_digits():
    assert [table.duration(s) for s in (2.345e-6, 999.6e-6, 0.0, 1234.5)] == ["2.35 µs", "1000 µs", "0 µs", "1234 s"]
    c = Comparison("a", {"torch": [1.0]}, notes={"torch": {"peak, MB": 12345.6, "MB": -0.12345}})
    assert "| a | torch | 12346 | -0.123 |" in table.notes([c])


def test_the_picture(tmp_path):
    pytest.importorskip("matplotlib")
    path, picture = tmp_path / "saved.json", tmp_path / "out.png"
    path.write_text(json.dumps(saved(*made_up())), "utf-8")
    command.main(["plot", str(path), str(picture)])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("names", "panels"),
    [
        (("tinynet numpy", "torch"), 2),
        pytest.param([f"tinynet {n} networks" for n in range(6)], 1, marks=pytest.mark.slow),
    ],
)
def test_a_picture_has_all_its_words(names, panels, tmp_path, monkeypatch):
    """Title and legend lie within it, and there are no ratios where there are no peers."""
    figures = []
    monkeypatch.setattr(
        pytest.importorskip("matplotlib.figure").Figure, "savefig", lambda figure, path: figures.append(figure)
    )
    rows = [Comparison(f"{n}-64-64-2, float32", {name: [1.0, 2.0] for name in names}) for n in range(3)]
    title = "Seconds of networks, as one and one after another, with a title of some length"
    plot.draw({**saved(*made_up()), "sections": {title: [row.to_json() for row in rows]}}, tmp_path / "p.png")
    (figure,) = figures
    figure.canvas.draw()
    assert len(figure.axes) == panels
    for text in (figure._suptitle, *figure.legends):
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
