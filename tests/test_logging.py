"""Logs: what was measured can be read back by others, whatever happened to the process or to the file."""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import tinynet as tn
from tinynet.logs import CSVLog, JSONLines, TensorBoard

ROOT = Path(__file__).parents[1]
ROW = {"epoch": 1, "step": 10, "loss": 0.1 + 0.2, "val_loss": 1e-300}


def trained(*callbacks, epochs=3, **options):
    model = tn.Model(tn.Sequential(tn.Dense(8), tn.ReLU(), tn.Dense(3)), 2)
    data = tn.data.Spirals(n=300, seed=1)
    return model, model.fit(data, epochs=epochs, validation=data, callbacks=callbacks, **options)


def test_json_lines_are_the_history(tmp_path):
    _, history = trained(JSONLines(tmp_path / "log.jsonl"))
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == history.rows


def test_csv_is_the_history_to_the_last_bit(tmp_path):
    pandas = pytest.importorskip("pandas", reason="the oracle is pandas' reader")
    _, history = trained(CSVLog(tmp_path / "log.csv"))
    table = pandas.read_csv(tmp_path / "log.csv", dtype=str)
    assert [{name: float(text) for name, text in row.items()} for row in table.to_dict("records")] == history.rows


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite(tmp_path, value):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    row = ROW | {"loss": value}
    JSONLines(tmp_path / "log.jsonl")(None, row)
    CSVLog(tmp_path / "log.csv")(None, row)
    said = json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=refuse)
    assert said == row | {"loss": None}
    there = float((tmp_path / "log.csv").read_text().splitlines()[1].split(",")[2])
    assert there == value or (math.isnan(there) and math.isnan(value))
    history = tn.History(rows=[row])
    assert json.loads(history.json_lines(), parse_constant=refuse)["loss"] is None


def test_what_a_callback_adds_to_a_row(tmp_path):
    """Numbers of NumPy's become Python's, which JSON knows; text stays text, and is no curve of TensorBoard's."""
    pytest.importorskip("tensorboardX", reason="it writes the event files")

    def add(model, row):
        row |= {"size": abs(model.theta).max(), "count": np.int64(3), "note": "a callback's"}

    logs = JSONLines(tmp_path / "log.jsonl"), CSVLog(tmp_path / "log.csv"), TensorBoard(tmp_path / "events")
    _, history = trained(add, *logs, epochs=1, checkpoint=tmp_path)
    _, resumed = trained(add, *logs, epochs=2, checkpoint=tmp_path, resume=True)
    logs[-1].close()
    assert [type(history[0][name]) for name in ("size", "count", "note")] == [float, int, str]
    assert resumed[0] == history[0] == json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert [json.loads(line) for line in resumed.json_lines().splitlines()] == resumed.rows


def test_what_a_run_gives_is_shown_in_a_line():
    """At a prompt, fit without an assignment showed every loss of its curve."""
    model, data = tn.Model(tn.Dense(3), n_in=2), tn.data.Spirals(1000)
    history = model.fit(data, epochs=2, validation=data.take(100))
    last = ", ".join(f"{name} {history[-1][name]:.4g}" for name in ("loss", "val_loss", "val_accuracy"))
    assert repr(history) == f"<2 epochs, the last with {last}>"
    assert (
        repr(tn.History([{"epoch": 1, "loss": 0.5}], stopped="enough")) == "<1 epoch, the last with loss 0.5; enough>"
    )
    assert repr(tn.History()) == "<0 epochs>"
    row = {"epoch": 1, "loss": 0.5, "note": "a callback's"}
    assert repr(tn.History([row])) == "<1 epoch, the last with loss 0.5>"
    (report,) = tn.train(model, tn.Loader(data, 100), tn.CrossEntropy(), tn.Adam(), steps=1)
    assert repr(report.run) == "Run(step=1)"
    assert len(repr(tn.find_rate(model, data, batch_size=100))) < 80


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_history_is_a_data_frame(library):
    frames = pytest.importorskip(library, reason="its data frame")
    history = tn.History([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}])
    frame = frames.DataFrame(history)
    assert {name: list(frame[name]) for name in frame.columns} == {"epoch": [1, 2], "loss": [0.5, 0.25]}


@pytest.mark.parametrize("kind", [JSONLines, CSVLog])
def test_a_second_log_goes_on(tmp_path, kind):
    kind(tmp_path / "log")(None, ROW)
    once = (tmp_path / "log").read_text()
    log = kind(tmp_path / "log")
    log(None, ROW)
    log(None, ROW)
    line = once.splitlines(keepends=True)[-1]
    assert (tmp_path / "log").read_text() == once + line + line
    (tmp_path / "log").unlink()  # and so does one whose file was deleted, with a header
    log(None, ROW)
    assert (tmp_path / "log").read_text() == once


@pytest.mark.parametrize("kind", [JSONLines, CSVLog])
def test_a_line_that_was_cut_off_anywhere_is_taken_out(tmp_path, kind):
    for count in (1, 2):
        path = tmp_path / f"whole{count}"
        for _ in range(count):
            kind(path)(None, ROW)
    one, two = ((tmp_path / f"whole{count}").read_bytes() for count in (1, 2))
    for size in range(len(two) + 1):
        path = tmp_path / "cut"
        path.write_bytes(two[:size])
        kind(path)(None, ROW)
        assert path.read_bytes() == (two + two[len(one) :] if size == len(two) else two if size >= len(one) else one)


@pytest.mark.parametrize(
    ("kind", "content", "said"),
    [
        (JSONLines, "my notes", "does not hold JSON lines: give another path, or move it away"),
        (JSONLines, '{"epoch": 1}\nmy notes\n', "does not hold JSON lines: give another path, or move it away"),
        (JSONLines, '{"epoch": 1}\nmy notes', "does not hold JSON lines: give another path, or move it away"),
        (JSONLines, "[1]\n", "does not hold JSON lines: give another path, or move it away"),
        (JSONLines, "\n", "does not hold JSON lines: give another path, or move it away"),
        (CSVLog, "my notes", "has other columns than epoch, step, loss, val_loss: give another path, or move it away"),
        (CSVLog, "epoch,step\n1,2\n", "has other columns than epoch, step, loss, val_loss: give another path, or move it away"),
        (CSVLog, "\n\n", "has other columns than epoch, step, loss, val_loss: give another path, or move it away"),
    ],
)  # fmt: skip
def test_another_file_is_left_alone(tmp_path, kind, content, said):
    path = tmp_path / "log"
    path.write_text(content)
    with pytest.raises(tn.DataFileError) as e:
        kind(path)(None, ROW)
    assert str(e.value) == f"{path} {said}"
    assert path.read_text() == content


def test_a_row_with_other_columns_is_no_line(tmp_path):
    log = CSVLog(tmp_path / "log.csv")
    log(None, ROW)
    before = (tmp_path / "log.csv").read_text()
    with pytest.raises(
        tn.DataFileError, match="has columns epoch, step, loss, val_loss, and this row epoch: give another path$"
    ):
        log(None, {"epoch": 2})
    assert (tmp_path / "log.csv").read_text() == before


@pytest.mark.parametrize("kind", [JSONLines, CSVLog])
def test_a_folder_that_is_not_there_is_said_before_training(tmp_path, kind):
    with pytest.raises(FileNotFoundError, match="No such file or directory"):
        kind(tmp_path / "nowhere" / "log")


@pytest.mark.parametrize("kind", [CSVLog, JSONLines])
def test_what_is_no_file_is_said_before_training(tmp_path, kind):
    for path in (tmp_path, os.devnull):
        with pytest.raises(tn.DataFileError, match="not a regular file: give another path"):
            kind(path)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="SIGKILL is POSIX")
def test_a_killed_run_leaves_whole_lines(tmp_path):
    code = f"""
    import sys; sys.path[:0] = {[str(ROOT), str(ROOT / "backends")]!r}
    from tinynet.logs import CSVLog, JSONLines
    logs = CSVLog({str(tmp_path / "log.csv")!r}), JSONLines({str(tmp_path / "log.jsonl")!r})
    for epoch in range(10**9):
        for log in logs:
            log(None, {{"epoch": epoch, "loss": 1 / (epoch + 1)}})
        if epoch == 50:
            print("go", flush=True)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE)
    with process:
        assert process.stdout.readline() == b"go\n"
        os.kill(process.pid, signal.SIGKILL)
    text = (tmp_path / "log.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["epoch"] for row in rows] == list(range(len(rows)))
    assert len(rows) > 50
    lines = (tmp_path / "log.csv").read_text()
    assert text.endswith("\n")
    assert lines.endswith("\n")
    assert all(line.count(",") == 1 for line in lines.splitlines())


class TestTensorBoard:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("tensorboardX", reason="TensorBoard files need tensorboardX, from the extra tensorboard")

    def events(self, *files):
        """Scalars (tag, step) -> value and tags of histograms, out of the files' records, as TensorBoard shows them."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import masked_crc32c

        scalars, histograms = {}, set()
        for path in sorted(files, key=lambda path: path.stat().st_mtime_ns):
            content, place = path.read_bytes(), 0
            while place < len(content):
                head, size = content[place : place + 8], int.from_bytes(content[place : place + 8], "little")
                body = content[place + 12 : place + 12 + size]
                assert content[place + 8 : place + 12] == masked_crc32c(head).to_bytes(4, "little")
                assert content[place + 12 + size : place + 16 + size] == masked_crc32c(body).to_bytes(4, "little")
                place += 16 + size
                event = Event.FromString(body)
                if event.session_log.status == SessionLog.START:  # later steps of older files are over
                    scalars = {(tag, step): value for (tag, step), value in scalars.items() if step < event.step}
                for value in event.summary.value:
                    if value.HasField("histo"):
                        histograms.add((value.tag, event.step, value.histo.num))
                    else:
                        assert (value.tag, event.step) not in scalars  # each number is written once
                        scalars[value.tag, event.step] = value.simple_value
        return scalars, histograms

    def test_events_are_the_history(self, tmp_path):
        log = TensorBoard(tmp_path, weights=True)
        model, history = trained(log)
        log.close()
        scalars, histograms = self.events(*tmp_path.iterdir())
        for row in history.rows:
            for name in ("loss", "val_loss", "val_accuracy", "samples_per_second"):
                assert scalars[name, row["step"]] == pytest.approx(row[name], rel=1e-6)  # float32
        curve = {step: value for (name, step), value in scalars.items() if name == "loss_of_steps"}
        assert curve == pytest.approx(dict(history.curve), rel=1e-6)
        assert {name for name, _ in scalars} == {*history[-1], "loss_of_steps"} - {"epoch", "step"}
        sizes = {name: a.size for name, a in model.weights().items()}
        assert histograms == {(name, row["step"], size) for name, size in sizes.items() for row in history.rows}
        log.close()  # a second time is nothing

    def test_what_is_not_finite_is_written_as_it_is(self, tmp_path):
        log = TensorBoard(tmp_path)
        model = tn.Model(tn.Dense(1), 1)
        for step, value in enumerate([math.nan, math.inf, -math.inf]):
            log(model, {"epoch": 1, "step": step, "loss": value})
        log.close()
        scalars, _ = self.events(*tmp_path.iterdir())
        assert math.isnan(scalars["loss", 0])
        assert (scalars["loss", 1], scalars["loss", 2]) == (math.inf, -math.inf)

    @pytest.mark.slow
    def test_a_process_that_ends_writes_all(self, tmp_path):
        code = f"""
        import sys; sys.path[:0] = {[str(ROOT), str(ROOT / "backends")]!r}
        import tinynet as tn
        from tinynet.logs import TensorBoard
        log, model = TensorBoard({str(tmp_path)!r}), tn.Model(tn.Dense(1), 1)
        for step in range(500):
            log(model, {{"epoch": 1, "step": step, "loss": 1.0}})
        """
        subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)
        scalars, _ = self.events(*tmp_path.iterdir())
        assert sorted(scalars) == [("loss", step) for step in range(500)]

    def test_a_resumed_run_is_one_curve(self, tmp_path):
        """Epochs that are trained again replace those of the first file; nothing else is written again."""
        data, folder = tn.data.Blobs(320, seed=1), tmp_path / "events"

        def train(*callbacks, resume=False):
            log, saver = TensorBoard(folder), tn.Checkpoints(tmp_path / "run", every=16)
            model = tn.Model(tn.Dense(3), 2)
            try:
                return model.fit(data, epochs=4, checkpoint=saver, resume=resume, callbacks=[log, *callbacks])
            finally:
                log.close()

        def end(model, row):
            if row["epoch"] == 3:  # the newest checkpoint is that of step 16, in the second epoch
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(end)
        history = train(resume=True)
        scalars, _ = self.events(*folder.iterdir())
        curve = {step: value for (name, step), value in scalars.items() if name == "loss_of_steps"}
        assert curve == pytest.approx(dict(history.curve), rel=1e-6)
        assert [step for name, step in scalars if name == "loss"] == history["step"]

    def test_one_log_of_two_runs_has_both_curves(self, tmp_path):
        log, data, model = TensorBoard(tmp_path), tn.data.Blobs(320, seed=1), tn.Model(tn.Dense(3), 2)
        for _ in range(2):  # in one second, by which tensorboardX names a file
            model.fit(data, epochs=2, callbacks=[log])
            log.close()
        files = [*tmp_path.iterdir()]
        assert len(files) == 2
        for path in files:
            scalars, _ = self.events(path)
            assert [step for name, step in scalars if name == "loss_of_steps"] == [8, 10, 18, 20]

    def test_a_copy_writes_to_a_file_of_its_own(self, tmp_path):
        """Estimators with this callback are cloned and pickled."""
        log, model = TensorBoard(tmp_path), tn.Model(tn.Dense(1), 1)
        log(model, {"epoch": 1, "step": 1, "loss": 1.0})
        copies = copy.deepcopy(log), pickle.loads(pickle.dumps(log))  # while the file is open
        for step, one in enumerate(copies, start=2):
            one(model, {"epoch": 1, "step": step, "loss": 1.0})
        for one in (log, *copies):
            one.close()
        scalars, _ = self.events(*tmp_path.iterdir())
        assert sorted(scalars) == [("loss", step) for step in (1, 2, 3)]

    def test_a_run_that_never_starts_leaves_no_file(self, tmp_path):
        TensorBoard(tmp_path / "events").close()
        assert list(tmp_path.iterdir()) == []


def test_without_tensorboardx_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match="^TensorBoard needs tensorboardX: install the extra tensorboard$"):
        TensorBoard(tmp_path)
