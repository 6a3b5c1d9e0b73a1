"""Checkpoints: a run that is killed anywhere and resumed has the bytes of one that never stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import tinynet as tn
from tinynet import schedules
from tinynet.files import LARGEST_HEADER, read_sealed, read_tensors, write_sealed

ROOT = Path(__file__).parents[1]
EVERY = 3


class Kill(BaseException):
    """What no handler expects."""


@dataclass(frozen=True, repr=False)
class Bomb(tn.Identity):
    """Passes everything through and, at a call that is set from outside, kills the run."""

    def forward(self, params, x, ctx):
        ctx.ops.as_written("it counts its calls")
        Bomb.calls += 1
        if Bomb.calls == Bomb.fuse:
            raise Kill
        return super().forward(params, x, ctx)


def make(backend="numpy", dtype="float64"):
    Bomb.calls, Bomb.fuse = 0, None
    net = tn.Sequential(tn.Dense(6, bias=False), tn.BatchNorm(), tn.Tanh(), tn.Dropout(0.3), Bomb(), tn.Dense(2))
    return tn.Model(net, 2, seed=3, backend=backend, dtype=dtype)


def data():
    """Noise: the validation loss soon gets worse, so that early stopping counts."""
    rng = np.random.default_rng(5)
    whole = tn.Arrays(rng.standard_normal((60, 2)), rng.integers(0, 2, 60))
    return whole.split(37)


def fit(model, folder, epochs=8, resume=False, **more):
    train, held_out = data()
    options = {
        "optimizer": tn.NAdam(schedules.Warmup(4, schedules.Cosine(0.5, 30))), "batch_size": 10, "accumulate": 2, "clip": 1.0,
        "ema": 0.8, "early_stopping": 2, "validation": held_out, "loss": tn.CrossEntropy(0.1),
    }  # fmt: skip
    if not isinstance(folder, tn.Checkpoints):
        folder = tn.Checkpoints(folder, every=EVERY, keep=2)
    return model.fit(train, epochs=epochs, checkpoint=folder, resume=resume, **(options | more))


def timeless(rows):
    return [{k: v for k, v in row.items() if k not in ("seconds", "samples_per_second")} for row in rows]


def remains(model, folder):
    """Everything that a run leaves, times left out."""
    out = {"theta": model.theta.tobytes(), "state": model.state.tobytes()}
    h = model.history
    out["history"] = json.dumps([timeless(h.rows), h.stopped, h.best_epoch, h.curve, h.stride, h.pending])
    for name in sorted(os.listdir(folder)):
        about, arrays = (read_sealed if name.startswith("step") else read_tensors)(folder / name)
        out[name] = {k: a.tobytes() for k, a in arrays.items()}
        if "history" in about:
            about["history"][0], about["tally"][2] = timeless(about["history"][0]), None
        out[name, "about"] = json.dumps(about, sort_keys=True)
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    model = make()
    fit(model, folder)
    assert model.history.stopped == "val_loss has not improved for 2 epochs"
    assert 3 <= len(model.history) < 8
    return remains(model, folder), Bomb.calls


def test_kept_are_the_last_and_the_best(whole):
    names = [name for name in whole[0] if isinstance(name, str) and name.endswith("safetensors")]
    steps = [int(name[5:17]) for name in names if name.startswith("step")]
    assert "best.safetensors" in names
    last = json.loads(whole[0]["history"])[0][-1]["step"]
    assert steps == [EVERY * ((last - 1) // EVERY), last]


@pytest.mark.parametrize("stride", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_every_point_and_resumed(stride, whole, tmp_path, monkeypatch):
    """In each part of each batch of each step, and in each batch of each validation; by default at every ninth of these."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # the machine is not switched off
    wanted, calls = whole
    for fuse in range(1, calls + 1, stride):
        folder = tmp_path / str(fuse)
        model = make()
        Bomb.fuse = fuse
        with pytest.raises(Kill):
            fit(model, folder)
        model = make()
        fit(model, folder, resume=True)
        assert remains(model, folder) == wanted, fuse


@pytest.mark.parametrize("between", [1, 2, 5])
def test_stopped_again_and_again_at_a_step(between, whole, tmp_path):
    """As by a signal: the step is finished, all is saved, and the next process goes on."""
    stops = 0
    while True:
        model, folder = make(), tn.Checkpoints(tmp_path, every=1000, keep=2)
        first = (folder.steps() or [0])[0]
        folder.due = lambda step, folder=folder, first=first: (
            folder.stop("enough") if step == first + between else None, tn.Checkpoints.due(folder, step)
        )[1]  # fmt: skip
        fit(model, folder, resume=True)
        if model.history.stopped != "enough":
            break
        stops += 1
    assert stops == (json.loads(whole[0]["history"])[0][-1]["step"] - 1) // between
    wanted = {k: v for k, v in whole[0].items() if k in ("theta", "state", "history")}
    assert {k: v for k, v in remains(model, tmp_path).items() if k in wanted} == wanted


def test_a_stop_at_any_moment(whole, tmp_path):
    """A signal comes between the check of a step's losses and the checkpoint, too: the epoch's losses were incomplete."""

    class Stop:
        def __init__(self, folder, step):
            self.folder, self.step = folder, step

        def __call__(self, model, row):
            pass

        def at_step(self, model, step):
            if step == self.step:
                self.folder.stop("enough")

    wanted = {k: v for k, v in whole[0].items() if k in ("theta", "state", "history")}
    for step in (1, EVERY + 1):
        folder = tn.Checkpoints(tmp_path / str(step), every=EVERY)
        fit(make(), folder, callbacks=[Stop(folder, step)])
        model = make()
        fit(model, folder, resume=True)
        assert {k: v for k, v in remains(model, folder.folder).items() if k in wanted} == wanted, step


def test_a_stopped_run_goes_on_with_the_same_checkpoints(tmp_path):
    folder = tn.Checkpoints(tmp_path)
    folder.stop("enough")
    stopped = [fit(make(), folder, resume=True).stopped for _ in range(2)]
    assert stopped[0] == "enough"
    assert stopped[1] != "enough"


def test_a_finished_run_that_is_resumed_is_as_it_was(whole, tmp_path):
    for resume in (False, True, True):
        model = make()
        fit(model, tmp_path, resume=resume)
        assert remains(model, tmp_path) == whole[0]


def test_more_epochs_later(tmp_path):
    a, b = make(), make()
    fit(a, tmp_path / "a", epochs=3, early_stopping=None)
    fit(b, tmp_path / "b", epochs=1, early_stopping=None)
    b = make()
    numbers = {"accumulate": np.int64(2), "clip": np.float64(1.0), "ema": np.float64(0.8)}  # as before, though NumPy's
    fit(b, tmp_path / "b", epochs=3, early_stopping=None, resume=True, **numbers)
    assert remains(a, tmp_path / "a") == remains(b, tmp_path / "b")


class Shrink:
    """A callback that changes the weights at each step."""

    def __call__(self, model, row):
        pass

    def at_step(self, model, step):
        model.theta *= 0.99


def test_what_a_callback_does_at_a_step_is_done_once(tmp_path):
    """Not again when the run is resumed at that step, or resumed after its end."""
    options = {"early_stopping": None, "callbacks": [Shrink()]}
    a = make()
    fit(a, tmp_path / "a", epochs=2, **options)
    for epochs in (1, 2, 2):
        b = make()
        fit(b, tmp_path / "b", epochs=epochs, resume=True, **options)
    assert remains(a, tmp_path / "a") == remains(b, tmp_path / "b")


def test_the_best_file_is_the_model_of_the_best_epoch(tmp_path):
    model = make()
    folder = tn.Checkpoints(tmp_path)
    model = tn.Model(tn.Sequential(tn.Dense(64), tn.Tanh(), tn.Dense(2)), 2)
    train, held_out = data()
    history = model.fit(train, epochs=30, optimizer=tn.Adam(0.05), validation=held_out, checkpoint=folder)
    best = tn.load(tmp_path / "best.safetensors")
    assert best.evaluate(held_out)["loss"] == pytest.approx(min(history["val_loss"]), rel=1e-6)
    assert min(history["val_loss"]) < history["val_loss"][-1]
    assert len(folder.steps()) == 3


def test_the_best_file_of_a_second_run_is_its_own(tmp_path):
    """Where the folder was deleted, the least loss of the run before was still the one to beat: there was no best file."""
    folder = tn.Checkpoints(tmp_path / "run")
    for rate in (0.1, 0.0):
        shutil.rmtree(folder.folder, ignore_errors=True)
        model = tn.Model(tn.Dense(1), 1)
        model.fit(([[0.0], [1.0]], [[1.0], [3.0]]), optimizer=tn.SGD(rate), epochs=3, checkpoint=folder)
    assert (tn.load(folder.folder / "best.safetensors").theta == model.theta).all()


@pytest.mark.double
def test_a_run_moves_between_backends(ops, tmp_path):
    """Same data, order and masks: only rounding differs."""
    a = make()
    fit(a, tmp_path / "a", early_stopping=None, epochs=4)
    fit(make(), tmp_path / "b", early_stopping=None, epochs=2)
    b = make(ops)
    fit(b, tmp_path / "b", early_stopping=None, epochs=4, resume=True)
    np.testing.assert_allclose(ops.to_numpy(b.theta), a.theta, rtol=1e-9, atol=1e-12)  # eight steps in another order
    assert b.history["epoch"] == [1, 2, 3, 4]


# Bad input and faults ---------------------------------------------------------------------------------------------


def test_damaged_newest_checkpoints_are_reported_and_the_one_before_is_used(whole, tmp_path):
    model = make()
    Bomb.fuse = whole[1]
    with pytest.raises(Kill):
        fit(model, tmp_path)
    newest, _ = (tn.Checkpoints(tmp_path).path(s) for s in tn.Checkpoints(tmp_path).steps())
    content = bytearray(newest.read_bytes())
    newest.write_bytes(content[:200])
    model = make()
    with pytest.warns(
        UserWarning, match=r"step-.*: not a model file, or one that was cut short; going back to the one before"
    ):
        fit(model, tmp_path, resume=True)
    damaged = newest.with_suffix(".damaged")
    assert damaged.exists()
    damaged.unlink()
    assert remains(model, tmp_path) == whole[0]
    for step in tn.Checkpoints(tmp_path).steps():
        tn.Checkpoints(tmp_path).path(step).write_bytes(b"")
    again = [lambda: fit(make(), tmp_path, resume=True)] * 2  # the second began anew, in silence
    for what in (tn.Checkpoints(tmp_path).read_fingerprint, *again):
        with (
            pytest.warns(UserWarning, match="cut short"),
            pytest.raises(tn.ModelFileError, match="none of its 2 checkpoints is whole: begin in another folder"),
        ):
            what()


@pytest.mark.parametrize(
    "change",
    [
        lambda about, arrays: arrays.pop("theta"),
        lambda about, arrays: arrays.update(more=np.zeros(1)),
        lambda about, arrays: arrays.update(theta=arrays["theta"][1:]),
        lambda about, arrays: arrays.update(theta=arrays["theta"].astype(np.float32)),
        lambda about, arrays: arrays["theta"].fill(np.nan),
        lambda about, arrays: about.pop("step"),
        lambda about, arrays: about.update(step=-1),
        lambda about, arrays: about.update(step="x"),
        lambda about, arrays: about.update(best=[1]),
        lambda about, arrays: about.update(tally=None),
        lambda about, arrays: about.update(history=[[], "", [1], 8, []]),
        lambda about, arrays: about.update(scalars={"x": 1.0}),
        lambda about, arrays: about.update(fingerprint=3),
        lambda about, arrays: about.update(kind="else"),
        lambda about, arrays: about.update(format=99),
    ],
)
def test_a_checkpoint_that_is_none_changes_nothing(change, tmp_path):
    fit(make(), tmp_path, epochs=1)
    (step, *_) = tn.Checkpoints(tmp_path).steps()
    path = tn.Checkpoints(tmp_path).path(step)
    for other in tn.Checkpoints(tmp_path).steps()[1:]:
        tn.Checkpoints(tmp_path).path(other).unlink()
    about, arrays = read_sealed(path)
    arrays = {k: a.copy() for k, a in arrays.items()}
    change(about, arrays)
    write_sealed(path, arrays, about)
    model = make()
    before = model.theta.copy()
    with pytest.warns(UserWarning, match="going back"), pytest.raises(tn.ModelFileError):
        fit(model, tmp_path, resume=True)
    np.testing.assert_array_equal(model.theta, before)


def test_a_checkpoint_of_another_version_is_left_alone(tmp_path):
    fit(make(), tmp_path, epochs=1)
    path = max(tmp_path.glob("step-*"))
    about, arrays = read_sealed(path)
    del about["contents"]
    write_sealed(path, arrays, about)
    with pytest.raises(ValueError, match="written by another version of tinynet"):
        fit(make(), tmp_path, resume=True)
    assert path.exists()


def test_a_run_of_many_epochs_goes_on(tmp_path):
    """Its history may be longer than a header of the file format can be."""
    fit(make(), tmp_path, epochs=1)
    path = max(tmp_path.glob("step-*"))
    about, arrays = read_sealed(path)
    row, text = about["history"][0][0], "x" * (LARGEST_HEADER // 100)
    about["history"][0] = [row | {"note": text}] * 101
    write_sealed(path, arrays, about)
    assert len(fit(make(), tmp_path, epochs=2, resume=True)) > 101


def test_a_flipped_bit_anywhere_is_damage(tmp_path):
    """Also where the number that it makes is a fine one, or the text that it makes another loss's name."""
    fit(make(), tmp_path, epochs=2)
    newest, before = (tn.Checkpoints(tmp_path).path(s) for s in tn.Checkpoints(tmp_path).steps()[:2])
    content, rng = newest.read_bytes(), np.random.default_rng(0)
    start = 8 + int.from_bytes(content[:8], "little")
    text = content.index(b"smoothing") + 11
    for place in [text, start, len(content) - 1, *rng.integers(0, len(content), 12)]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(0, 8))
        newest.write_bytes(damaged)
        with pytest.warns(UserWarning, match=f"{newest.stem}.*; going back to the one before"):
            fit(make(), tmp_path, epochs=2, resume=True)
        assert before.exists()
        newest.with_suffix(".damaged").unlink()


def test_another_model_or_data_set_is_an_error_that_shows_both(tmp_path):
    fit(make(), tmp_path, epochs=1)
    (step, *_) = tn.Checkpoints(tmp_path).steps()
    path = tn.Checkpoints(tmp_path).path(step)
    other = tn.Model(tn.Dense(2), 2, seed=3, dtype="float64")
    mine, held_out = make(), tn.Arrays(np.ones((2, 2)), [0, 1])
    for model, change, name, there, here in (
        (other, {}, "model", f"{mine.net!r}, (2,), seed=3, float64", f"{other.net!r}, (2,), seed=3, float64"),
        (make(), {"optimizer": tn.Adam(0.5)}, "optimizer", "NAdam(", repr(tn.Adam(0.5))),
        (make(), {"clip": 2.0}, "clip", "1.0", "2.0"),
        (make(), {"validation": held_out}, "validation set", "'Arrays(", repr(held_out.fingerprint())),
    ):
        with pytest.raises(ValueError) as e:
            fit(model, tmp_path, resume=True, **change)
        said = str(e.value)
        assert said.startswith(f"{path} was written for another {name}: {there}")
        assert said.endswith(f" there, {here} here: resume with what is there, or begin in another folder")
        assert "\n" not in said
    with pytest.raises(
        ValueError, match=r"another data set or loader: Loader\(.* there, Loader\(Moons\(n=37, seed=0, "
    ):
        make().fit(tn.data.Moons(37), checkpoint=tmp_path, resume=True)
    with pytest.raises(
        ValueError, match=r"another data set or loader: Loader\(.*\[0:37\], 10, .* there, .*\[0:37\], 9, "
    ):
        fit(make(), tmp_path, resume=True, batch_size=9)


def test_what_is_of_one_s_own_is_known_by_its_numbers(tmp_path):
    """Where it is no dataclass it had the text of any other of its kind, and the run went on with that."""

    class Scaled(tn.losses.Loss):
        def __init__(self, by):
            self.by = by

        def formula(self, xp, y, target):
            return self.by * (y - target) ** 2, 2.0 * self.by * (y - target)

    class Times(tn.Identity):
        def __init__(self, by):
            self.by = by

    class Ramp(tn.Dataset):
        n, shape, classes, outputs = 4, (1,), None, 1

        def __init__(self, by):
            self.by = by

        def rows(self, index, ops, dtype):
            x = self.by * np.asarray(index, dtype)[:, None]
            return tn.data.Batch(x, x, None)

    def run(loss, layer, data=(1.0,)):
        model = tn.Model(tn.Sequential(layer, tn.Dense(1)), 1)
        model.fit(Ramp(*data), loss=loss, checkpoint=tmp_path, resume=True)

    run(Scaled(1.0), Times(2))
    run(Scaled(1.0), Times(2))
    with pytest.raises(
        ValueError, match=r"another data set or loader: Loader\(Ramp\(by=1.0\), .* Loader\(Ramp\(by=3.0\)"
    ):
        run(Scaled(1.0), Times(2), (3.0,))
    with pytest.raises(ValueError, match=r"another loss: Scaled\(by=1.0\) there, Scaled\(by=2.0\) here: "):
        run(Scaled(2.0), Times(2))
    with pytest.raises(
        ValueError, match=r"another model: Sequential\(Times\(by=2\), .* there, Sequential\(Times\(by=3\)"
    ):
        run(Scaled(1.0), Times(3))


@pytest.mark.parametrize(
    ("make_it", "said"),
    [
        (lambda p: fit(make(), p / "full"), "{p}/full has checkpoints already: give resume=True, or another folder"),
        (lambda p: make().fit(tn.data.Moons(9), resume=True),
         "resume continues from a checkpoint: give its folder, checkpoint='folder'"),
        (lambda p: make().fit(tn.data.Moons(9), checkpoint=""),
         "checkpoint folder '' is not a path: give the name of a folder"),
        (lambda p: tn.Checkpoints(3), "checkpoint folder 3 is not a path: give the name of a folder"),
        (lambda p: tn.Checkpoints(p, every=0), "Checkpoints every 0 is not a positive whole number"),
        (lambda p: tn.Checkpoints(p, keep=1.5), "Checkpoints keep 1.5 is not a positive whole number"),
        (lambda p: tn.load(tn.Checkpoints(p / "full").path(4)),
         ("{p}/full/step-000000000004.safetensors: a checkpoint, not a model: "
          "fit(…, checkpoint=folder, resume=True) continues from it")),
    ],
)  # fmt: skip
def test_mistakes(make_it, said, tmp_path):
    fit(make(), tmp_path / "full", epochs=1)
    with pytest.raises(ValueError) as e:
        make_it(tmp_path)
    assert str(e.value) == said.format(p=tmp_path)


def test_what_a_killed_writer_left_is_cleared_away_when_it_is_old(tmp_path):
    for name, age in ((".step-000000000003.safetensors.abc.tmp", 7200), (".step-000000000006.safetensors.x.tmp", 60)):
        (tmp_path / name).write_bytes(b"part")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    fit(make(), tmp_path, epochs=1)
    assert sorted(n for n in os.listdir(tmp_path) if n.endswith("tmp")) == [".step-000000000006.safetensors.x.tmp"]


SAVER = """
import os, sys
sys.path[:0] = {paths!r}
import numpy as np, tinynet as tn
from tinynet.files import write_tensors
ops = tn.get_backend("numpy")
for number in map(int, sys.stdin):
    writer = os.fork()  # imports take far longer than a life of a writer
    if not writer:
        print(os.getpid(), flush=True)
    while not writer:
        number += 1
        write_tensors(sys.argv[1], {{"a": np.full(200_000, float(number))}}, {{"format": 1, "number": number}}, ops)
        os.write(1, b"%d\\n" % number)  # at once: where output is not buffered, print writes the line in two pieces
    os.waitpid(writer, 0)
    print("killed", flush=True)
""".format(paths=[str(ROOT), str(ROOT / "backends")])


def saver(path):
    """A process whose children write the file again and again, each until it is killed."""
    if not hasattr(os, "fork"):
        pytest.skip("the system has no fork")
    command = [sys.executable, "-c", SAVER, str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def begin(saver, number):
    """The process of a writer that says each number, after this one, as it has written it."""
    print(number, file=saver.stdin, flush=True)
    return int(saver.stdout.readline())


def kill(saver, writer):
    """All that the writer has said, and was not yet read."""
    os.kill(writer, signal.SIGKILL)
    return [int(said) for said in iter(saver.stdout.readline, "killed\n")]


def whole_number(path):
    about, arrays = read_tensors(path)
    assert (arrays["a"] == about["number"]).all()
    return about["number"]


@pytest.mark.slow
def test_killed_200_times_while_saving_the_last_file_is_whole(tmp_path):
    path = tmp_path / "a.safetensors"
    rng, number = np.random.default_rng(0), 0
    with saver(path) as process:
        for _ in range(200):
            writer = begin(process, number)
            first = int(process.stdout.readline())
            time.sleep(rng.uniform(0, 0.02))  # a write takes about a millisecond
            said = [first, *kill(process, writer)]
            number = whole_number(path)
            assert number >= said[-1]  # what was said to be written is there, or what came after


@pytest.mark.slow
def test_two_writers_both_complete_and_one_of_them_wins(tmp_path):
    path = tmp_path / "a.safetensors"
    with saver(path) as one, saver(path) as other:
        writers = [(one, begin(one, 0)), (other, begin(other, 10**6))]
        for process, _ in writers:
            process.stdout.readline()
        for _ in range(200):
            whole_number(path)
        assert min(len(kill(*writer)) for writer in writers) > 1


def test_a_full_disk_is_reported_with_the_file_s_name_and_leaves_the_old_file_and_no_litter(tmp_path):
    pytest.importorskip("resource", reason="a full disk is played by a limit of POSIX")
    code = f"""
import sys, resource, signal
sys.path[:0] = {[str(ROOT), str(ROOT / "backends")]!r}
import tinynet as tn
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
model = tn.Model(tn.Dense(2), 2)
model.save(sys.argv[1])
big = tn.Model(tn.Sequential(tn.Dense(300), tn.Dense(300)), 2)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    big.save(sys.argv[1])
except OSError as e:
    print(e.strerror)
try:
    big.fit(tn.data.Moons(9).take(9), checkpoint=sys.argv[2], loss=tn.CrossEntropy())
except OSError as e:
    print(e.strerror)
try:
    tn.JSONLines(sys.argv[3])(big, {{"epoch": 1}})
except OSError as e:
    print(e.strerror, e.filename == sys.argv[3])
print(tn.load(sys.argv[1]).net)
"""
    (tmp_path / "log").write_text("{}\n" * 40_000)
    done = subprocess.run(
        [sys.executable, "-c", code, *(str(tmp_path / name) for name in ("m.safetensors", "run", "log"))],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["File too large", "File too large", "File too large True", "Dense(width=2)"]
    assert sorted(os.listdir(tmp_path)) == ["log", "m.safetensors", "run"]
    assert os.listdir(tmp_path / "run") == []
