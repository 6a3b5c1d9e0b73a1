"""Training: one path on every backend, going on as if it had never stopped, and what happens when it goes wrong."""

import contextlib

import numpy as np
import pytest
from tinynet_backends.numpy_backend import NumpyBackend

import tinynet as tn
from tinynet import schedules, training
from tinynet.epochs import Tally
from tinynet.grouping import CHECK_EVERY
from tinynet.training import check_finite

DATA = tn.data.Moons(300, seed=1)


def net(random=True):
    middle = (tn.BatchNorm(), tn.Dropout(0.2)) if random else ()
    # no bias before batch norm: its gradient is 0 but for rounding, and Adam would blow that up
    return tn.Sequential(tn.Dense(6, bias=not random), *middle, tn.Tanh(), tn.Dense(2))


def start(backend="numpy", random=True, dtype="float64", seed=3):
    return tn.Model(net(random), 2, backend=backend, dtype=dtype, seed=seed)


def options():
    return {"optimizer": tn.AdamW(schedules.Warmup(5, schedules.Cosine(0.05, 40))), "loss": tn.CrossEntropy(0.1)}


def numbers(model):
    return model.ops.to_numpy(model.theta).copy(), model.ops.to_numpy(model.state).copy()


@pytest.mark.double
def test_one_path_on_every_backend(ops):
    results = []
    for backend in ("numpy", ops):
        model = start(backend)
        model.fit(DATA, batch_size=64, epochs=2, clip=0.5, ema=0.9, shuffle=True, validation=DATA.take(50), **options())
        results.append((*numbers(model), np.array([list(row.values())[:3] for row in model.history.rows])))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-10, atol=1e-12)  # sums in another order, ten steps long


STEPS = CHECK_EVERY + 9


def trained(*parts):
    """A model trained for so many steps, then for so many more, and the run at its end."""
    model, run = start(), None
    args = tn.Loader(DATA, 32, shuffle=True, seed=5), options()["loss"], options()["optimizer"]
    for steps in parts:
        for report in tn.train(model, *args, steps=steps, run=run, ema=0.9, clip=1.0, accumulate=2):
            run = report.run
    return model, run


@pytest.fixture(scope="module")
def never_stopped():
    return trained(STEPS)


@pytest.mark.parametrize(
    "k", [0, 10, CHECK_EVERY, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 9, 11, 25, CHECK_EVERY + 1))]
)
def test_a_run_goes_on_as_if_it_had_never_stopped(k, never_stopped):
    (whole, last), (parts, run) = never_stopped, trained(k, STEPS - k)
    assert run.step == last.step == STEPS
    for a, b in zip(numbers(whole), numbers(parts), strict=True):
        assert a.tobytes() == b.tobytes()
    assert run.average.tobytes() == last.average.tobytes()
    assert [run.slots[name].tobytes() for name in "mv"] == [last.slots[name].tobytes() for name in "mv"]


def test_a_repeated_run_has_the_same_bits():
    a, b = start(dtype="float32"), start(dtype="float32")
    for model in (a, b):
        model.fit(DATA, batch_size=32, epochs=2, shuffle=True)
    assert a.theta.tobytes() == b.theta.tobytes()
    assert a.history["loss"] == b.history["loss"]


@pytest.mark.parametrize("loss", [tn.CrossEntropy(class_weight=(0.3, 2.0)), tn.CrossEntropy(0.1)], ids=repr)
@pytest.mark.parametrize("accumulate", [2, 3, 50])
def test_parts_of_a_batch_make_the_same_step(accumulate, loss):
    rng = np.random.default_rng(0)
    data = (rng.standard_normal((40, 2)), rng.integers(0, 2, 40), rng.uniform(0.1, 2, 40))
    whole, parts = start(random=False), start(random=False)
    whole.fit(data, loss=loss, batch_size=20, epochs=3)
    parts.fit(data, loss=loss, batch_size=20, epochs=3, accumulate=accumulate)
    np.testing.assert_allclose(parts.theta, whole.theta, rtol=1e-9)
    np.testing.assert_allclose(parts.history["loss"], whole.history["loss"], rtol=1e-12)


def test_reports_say_what_happened():
    loader = tn.Loader(DATA, 64)
    reports = list(tn.train(start(), loader, tn.CrossEntropy(), tn.Adam(), steps=12))
    assert [r.step for r in reports] == list(range(1, 13))
    assert [r.epoch for r in reports] == [0] * 5 + [1] * 5 + [2] * 2
    assert [r.last_of_epoch for r in reports] == ([False] * 4 + [True]) * 2 + [False] * 2
    assert [len(r.recent) for r in reports if r.recent] == [5, 5, 2]
    assert [float(r.loss) for r in reports] == [loss for r in reports for loss in r.recent]


def test_the_loss_in_the_history_is_the_mean_over_the_epoch():
    model, other = start(), start()
    history = model.fit(DATA, batch_size=2, epochs=1)
    losses = [
        float(r.loss) for r in tn.train(other, tn.Loader(DATA, 2, seed=3), tn.CrossEntropy(), tn.Adam(), steps=150)
    ]
    assert history[0]["loss"] == pytest.approx(np.mean(losses), rel=1e-12)
    assert history.curve[-1][0] == 150
    assert history.curve[0][1] == pytest.approx(np.mean(losses[:8]), rel=1e-12)


def test_every_step_draws_masks_of_its_own():
    seen = []

    class Spy(tn.Identity):
        def forward(self, params, x, ctx):
            ctx.ops.as_written("it looks on")
            seen.append((ctx.step, ctx.train, ctx.seed, ctx.masks[1]))
            return super().forward(params, x, ctx)

    model = tn.Model(tn.Sequential(tn.Dense(2), Spy()), 2, seed=8)
    model.fit(DATA, batch_size=100, epochs=2, accumulate=2)
    assert seen == [(step, True, 8, (step, 2, part << 32)) for step in range(6) for part in range(2)]


def test_a_long_curve_stays_short():
    history = tn.History()
    for step in range(64, 64 * 4001, 64):
        history.record(step, (1.0,) * 64)
    assert len(history.curve) <= 4000
    steps = [step for step, _ in history.curve]
    assert steps == sorted(set(steps))
    assert {loss for _, loss in history.curve} == {1.0}


def test_a_long_curve_of_short_epochs_has_the_mean_of_each():
    """The ninth loss of an epoch, an entry of its own, counted as much as the eight before it."""
    history = tn.History()
    for epoch in range(1, 2001):
        history.record(9 * epoch, (1.0,) * 8 + (10.0,), end=True)
    assert history.curve == [(9 * epoch, pytest.approx(2.0)) for epoch in range(1, 2001)]


@pytest.mark.long
def test_training_learns(ops):
    model = tn.Model(tn.Sequential(tn.Dense(16), tn.ReLU(), tn.Dense(2)), 2, backend=ops)
    data, held_out = tn.data.Moons(2000), tn.data.Moons(500, seed=9)
    history = model.fit(data, batch_size=100, epochs=3, optimizer=tn.Adam(0.05), validation=held_out)
    assert history[-1]["val_accuracy"] > 0.95
    assert [row["epoch"] for row in history[1:]] == [2, 3]
    assert history["loss"][-1] < history["loss"][0] / 2


def test_regression_learns():
    data, held_out = tn.data.Teacher(6000, n_features=5, hidden=4, seed=2).split(5000)
    model = tn.Model(tn.Sequential(tn.Dense(32), tn.ReLU(), tn.Dense(1)), 5)
    history = model.fit(
        data, batch_size=50, epochs=5, optimizer=tn.Adam(0.01), validation=held_out, metrics=["r2", "rmse"]
    )
    assert history[-1]["val_r2"] > 0.95
    assert history[-1]["val_rmse"] == pytest.approx(history[-1]["val_loss"] ** 0.5)


# Stopping ---------------------------------------------------------------------------------------------------------


def test_early_stopping_keeps_the_best_weights():
    rng = np.random.default_rng(0)
    data = (rng.standard_normal((60, 2)), rng.integers(0, 2, 60))  # noise: it can only be learned by heart
    held_out = (rng.standard_normal((60, 2)), rng.integers(0, 2, 60))
    model = tn.Model(tn.Sequential(tn.Dense(64), tn.Tanh(), tn.Dense(2)), 2)
    history = model.fit(data, epochs=200, optimizer=tn.Adam(0.05), validation=held_out, early_stopping=3)
    best = int(np.argmin(history["val_loss"]))
    assert len(history) == best + 4 < 200
    assert history.best_epoch == best + 1
    assert history.stopped == "val_loss has not improved for 3 epochs"
    assert model.evaluate(held_out)["loss"] == pytest.approx(history["val_loss"][best], rel=1e-6)


def test_early_stopping_knows_which_way_is_better():
    model = start()
    watch = tn.EarlyStopping(2, "val_accuracy")
    history = model.fit(DATA, epochs=30, batch_size=50, optimizer=tn.Adam(0.02), validation=DATA, early_stopping=watch)
    assert history[history.best_epoch - 1]["val_accuracy"] == max(history["val_accuracy"])


def test_a_callback_sees_every_epoch_and_may_stop():
    seen = []

    def callback(model, row):
        seen.append((row["epoch"], model))
        if row["epoch"] == 3:
            raise tn.StopTraining("enough")

    model = start()
    history = model.fit(DATA, epochs=9, callbacks=[callback])
    assert [epoch for epoch, _ in seen] == [1, 2, 3]
    assert all(m is model for _, m in seen)
    assert history.stopped == "enough"


def test_a_callback_that_changes_a_hyperparameter_is_told_that_it_cannot():
    """The step was recorded with the old one, and went on with it."""

    class Weighted(tn.losses.Loss):
        factor = 1.0

        def formula(self, xp, y, target):
            return self.factor * (y - target) ** 2, 2.0 * self.factor * (y - target)

    loss = Weighted()

    def anneal(model, row):
        loss.factor = 0.5

    model = tn.Model(tn.Dense(1), 2)
    with pytest.raises(
        ValueError, match=r"^a callback has made Weighted\(factor=0.5\) of Weighted\(\), and a step keeps"
    ):
        model.fit((np.ones((8, 2)), np.ones((8, 1))), loss=loss, callbacks=[anneal])


def test_a_callback_that_changes_averaged_weights_is_told_that_it_cannot(ops):
    """They came back as they were, in silence; at a step they are those of training."""
    data = np.ones((8, 2), "float32"), np.ones((8, 1), "float32")

    def prune(model, row=None):
        model.theta[...] = model.theta * 0.5

    for ema in (None, 0.5):
        told = pytest.raises(ValueError, match="^a callback has changed the weights .*: change them in at_step$")
        with contextlib.nullcontext() if ema is None else told:
            tn.Model(tn.Dense(1), 2, backend=ops).fit(data, callbacks=[prune], ema=ema)

    class Steps:
        def __call__(self, model, row):
            pass

        def at_step(self, model, step):
            prune(model)

    assert tn.Model(tn.Dense(1), 2, backend=ops).fit(data, callbacks=[Steps()], ema=0.5, epochs=2)


@pytest.mark.parametrize("at", [0, 3, 6, 8])
def test_a_callback_may_stop_at_a_step(at, tmp_path):
    """In the middle of an epoch of 6 steps, and for good: a resumed run has ended, too."""
    told = []

    class Steps:
        def __call__(self, model, row):
            told.append("epoch")

        def at_step(self, model, step):
            told.append(step)
            if step == at:
                raise tn.StopTraining

    model, same = start(), start()
    options = {"batch_size": 50, "epochs": 4, "ema": 0.5, "checkpoint": tmp_path}
    history = model.fit(DATA, callbacks=[Steps()], **options)
    assert history.stopped == "a callback asked for it"
    order = [*range(7), "epoch", 7, 8]
    assert told == order[: order.index(at) + (2 if at == 6 else 1)]
    loop = tn.train(same, tn.Loader(DATA, 50), tn.CrossEntropy(), tn.Adam(), steps=at, ema=0.5)
    average = [report.run.average for report in loop][-1] if at else same.theta
    np.testing.assert_array_equal(model.theta, average)
    again = start()
    if at:
        assert again.fit(DATA, resume=True, **options).stopped == history.stopped
        np.testing.assert_array_equal(again.theta, model.theta)


@pytest.mark.parametrize("where", ["loader", "callback"])
def test_ctrl_c_leaves_the_last_finished_step(where, monkeypatch):
    model, same = start(random=False), start(random=False)

    def interrupt(*args):
        raise KeyboardInterrupt

    if where == "loader":
        cut, steps = tn.Loader.cut, iter(range(100))
        monkeypatch.setattr(tn.Loader, "cut", lambda *args: interrupt() if next(steps) == 14 else cut(*args))
    with pytest.raises(KeyboardInterrupt):
        model.fit(DATA, epochs=5, callbacks=[interrupt] if where == "callback" else [])
    monkeypatch.undo()
    steps = 14 if where == "loader" else 10
    for _ in tn.train(same, tn.Loader(DATA, 32, seed=3), tn.CrossEntropy(), tn.Adam(), steps=steps):
        pass
    assert model.theta.tobytes() == same.theta.tobytes()
    assert len(model.history) == 1


def test_the_average_of_the_weights_is_what_is_left():
    model, other = start(random=False), start(random=False)
    history = model.fit(DATA, batch_size=50, epochs=2, ema=0.8, validation=DATA)
    average = other.theta.copy()
    for _ in tn.train(other, tn.Loader(DATA, 50, seed=3), tn.CrossEntropy(), tn.Adam(), steps=12):
        average = 0.8 * average + 0.2 * other.theta
    np.testing.assert_allclose(model.theta, average, rtol=1e-12)
    assert model.evaluate(DATA)["loss"] == pytest.approx(history[-1]["val_loss"])


def test_divergence_ends_the_run_with_the_last_good_weights(ops):
    model = tn.Model(tn.Sequential(tn.Dense(4), tn.Dense(1)), 1, backend=ops)
    x = np.linspace(-1, 1, 32).reshape(-1, 1)
    before = ops.to_numpy(model.theta).copy()
    with pytest.raises(tn.DivergedError, match=r"the model is back at step 0$") as e:
        model.fit((x, 3 * x), optimizer=tn.SGD(1e6), epochs=100, batch_size=1)
    assert "try a lower learning rate, clip=1.0 or scaled inputs" in str(e.value)
    np.testing.assert_array_equal(ops.to_numpy(model.theta), before)


def test_divergence_goes_back_to_the_last_look():
    model, same = (tn.Model(tn.Dense(1), 1, dtype="float64") for _ in range(2))
    x = np.ones((10, 1))
    rate = lambda t: 0.01 if t < 25 else 1e200  # noqa: E731
    with pytest.raises(tn.DivergedError, match="the model is back at step 20"):
        model.fit((x, x), optimizer=tn.SGD(rate), batch_size=1, epochs=10)
    same.fit((x, x), optimizer=tn.SGD(0.01), batch_size=1, epochs=2)
    assert model.theta.tobytes() == same.theta.tobytes()
    assert len(model.history) == 2


@pytest.mark.parametrize("which", ["theta", "state"])
def test_losses_may_be_finite_where_a_weight_is_not(which):
    """A run may end with the step that makes it infinite."""
    model = tn.Model(tn.Sequential(tn.Dense(2), tn.BatchNorm(), tn.Dense(1)), 1)
    good = [model.theta.copy(), model.state.copy()]
    wanted = [a.tobytes() for a in good]
    getattr(model, which)[-1] = np.inf
    with pytest.raises(tn.DivergedError, match=r"^a weight is not finite: .*the model is back at step 5$"):
        check_finite(model, np.zeros(3, "float32"), good, 5)
    assert [a.tobytes() for a in good] == wanted == [model.theta.tobytes(), model.state.tobytes()]


# The rest ---------------------------------------------------------------------------------------------------------


def test_nobody_s_arrays_are_changed():
    rng = np.random.default_rng(0)
    arrays = rng.standard_normal((50, 2)), rng.integers(0, 2, 50), rng.uniform(0.1, 1, 50)
    copies = [a.copy() for a in arrays]
    for a in arrays:
        a.setflags(write=False)
    for dtype in ("float32", "float64"):
        model = start(dtype=dtype)
        model.fit(arrays, epochs=2, validation=arrays, batch_size=7)
        model.predict(arrays[0])
    for a, b in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(a, b)


def test_lists_and_single_samples_will_do():
    model = tn.Model(tn.Dense(2), 2)
    model.fit(([[0.0, 1.0], [1.0, 0.0], [1, 1]], [0, 1, 1]), epochs=2, batch_size=2, drop_last=True)
    model.fit(([[0, 1]], [1]))
    assert model.history[0]["step"] == 1


class StopAt:
    """A callback that ends the run after a step."""

    def __init__(self, step):
        self.step = step

    def at_step(self, model, step):
        if step == self.step:
            raise tn.StopTraining("enough")

    def __call__(self, model, row):
        pass


@pytest.mark.double
@pytest.mark.long
def test_a_run_that_ends_within_an_epoch_has_its_losses(ops):
    """Those since the last check were in no curve."""
    ended, whole = start(ops, random=False), start(ops, random=False)
    history = ended.fit(DATA, batch_size=10, callbacks=[StopAt(21)])
    losses = [
        float(report.loss)
        for report in tn.train(whole, tn.Loader(DATA, 10, seed=whole.seed), tn.CrossEntropy(), tn.Adam(), steps=21)
    ]
    assert [step for step, _ in history.curve] == [8, 16, 21]
    assert [mean for _, mean in history.curve] == [
        pytest.approx(np.mean(losses[a:b])) for a, b in ((0, 8), (8, 16), (16, 21))
    ]
    np.testing.assert_array_equal(ops.to_numpy(ended.theta), ops.to_numpy(whole.theta))


def test_a_run_that_ends_where_its_losses_were_checked_has_them_too(tmp_path):
    """Those since the curve's last entry were left for an epoch's end, which never came."""
    history = start().fit(DATA, batch_size=10, callbacks=[StopAt(20)], checkpoint=tn.Checkpoints(tmp_path, every=20))
    assert [step for step, _ in history.curve] == [8, 16, 20]
    assert history.pending == []


def test_no_report_is_given_out_while_a_device_is_the_current_one(monkeypatch):
    model, inside = start(), []

    @contextlib.contextmanager
    def active():
        inside.append(1)
        yield
        inside.pop()

    monkeypatch.setattr(model.ops, "active", active)
    reports = tn.train(model, tn.Loader(DATA, 10), tn.CrossEntropy(), tn.Adam(), steps=9)
    assert next(reports).step == 1
    assert not inside
    assert len(reports.send(True).recent) == 1
    assert not inside


def test_a_run_that_ends_within_an_epoch_is_finite(tmp_path):
    """It left NaN, in a checkpoint too, which was then said to be damaged."""
    model, data = tn.Model(tn.Dense(1), 1), (np.ones((50, 1)), np.zeros((50, 1)))
    with pytest.raises(tn.DivergedError, match="the model is back at step 0$"):
        model.fit(data, optimizer=tn.SGD(1e30), batch_size=5, callbacks=[StopAt(5)], checkpoint=tmp_path)
    assert np.isfinite(model.theta).all()
    assert not list(tmp_path.iterdir())


def test_on_a_device_without_float64():
    """As most accelerators other than CUDA's are."""
    ops, rng = tn.get_backend("strict:no_float64"), np.random.default_rng(0)
    x, labels = rng.standard_normal((20, 3)).astype("float32"), rng.integers(0, 2, 20)
    for y, loss in ((x, tn.MeanSquaredError()), (labels, tn.CrossEntropy(class_weight=(1, 2, 3)))):
        theirs, ours = (
            tn.Model(tn.Sequential(tn.Dense(4), tn.Tanh(), tn.Dense(3)), 3, backend=backend).fit(
                (x, y), loss=loss, validation=(x, y), batch_size=5
            )
            for backend in (ops, "numpy")
        )
        for name in ("loss", "val_loss", "val_r2" if y is x else "val_accuracy"):
            assert theirs[0][name] == pytest.approx(ours[0][name], rel=1e-4)


def test_progress_is_a_line_an_epoch_where_there_is_no_terminal(capsys):
    start().fit(DATA, epochs=2, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split("  ")[0] for line in err.splitlines()] == ["epoch 1", "epoch 2"]
    assert err.splitlines()[0].endswith("/s")
    start().fit(DATA, epochs=2)
    assert capsys.readouterr() == ("", "")


def test_a_bar_where_there_is_one(monkeypatch, capsys):
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    start().fit(DATA, epochs=2, progress=True)
    err = capsys.readouterr().err
    assert "training" in err
    assert "20/20" in err
    assert err.count("epoch ") == 2


def test_history_as_json_lines():
    import json

    history = start().fit(DATA, epochs=2, validation=DATA)
    rows = [json.loads(line) for line in history.json_lines().splitlines()]
    assert rows == history.rows
    assert history["val_loss"] == [row["val_loss"] for row in rows]
    with pytest.raises(KeyError, match="history has no 'lose': choose from epoch, step, loss, "):
        history["lose"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"data": tn.Loader(DATA, 10), "shuffle": True},
         "a Loader draws in an order of its own and does not take shuffle: set that where it is made"),
        ({"data": tn.Loader(DATA, 10), "batch_size": 20},
         "a Loader draws in an order of its own and does not take batch_size: set that where it is made"),
        ({"data": tn.data.Batches([([[0.0, 0.0]], [0])]), "shuffle": True},
         "a Batches draws in an order of its own and does not take shuffle: set that where its batches are made"),
        ({"epochs": 0}, "epochs 0 is not a positive whole number"),
        ({"batch_size": 0}, "batch_size 0 is not a positive whole number"),
        ({"batch_size": 999, "drop_last": True},
         "batch_size 999 is larger than 300 samples and drop_last leaves none: choose a smaller one"),
        ({"loss": tn.CrossEntropy}, f"loss {tn.CrossEntropy!r} is not a loss: give one, such as CrossEntropy()"),
        ({"optimizer": "adam"}, "optimizer 'adam' is not an optimizer: give one, such as Adam(1e-3)"),
        ({"loss": tn.MeanSquaredError()}, "MeanSquaredError does not take labels: use CrossEntropy, or other data"),
        ({"metrics": ["acuracy"]}, "unknown metric 'acuracy': choose from accuracy, top_k, log_loss, f1, r2, mae, rmse"),
        ({"early_stopping": 3}, "early stopping cannot watch 'val_loss': give validation=, or monitor='loss'"),
        ({"early_stopping": 0}, "EarlyStopping patience 0 is not a positive whole number"),
        ({"early_stopping": True}, "EarlyStopping patience True is not a positive whole number"),
        ({"metrics": "f1"}, "metrics 'f1' is a single metric: give a list, ['f1']"),
        ({"callbacks": [tn.CSVLog]}, "callback CSVLog is a class: make one of it, as CSVLog(…)"),
        ({"callbacks": print}, "callbacks <built-in function print> is a single callback: give a list"),
        ({"clip": "1"}, "clip '1' is out of range: give a positive norm, or None"),
        ({"clip": -1.0}, "clip -1.0 is out of range: give a positive norm, or None"),
        ({"ema": 1.0}, "ema 1.0 is out of range: give the weight of the old average, in [0, 1)"),
        ({"accumulate": 0}, "accumulate 0 is not a positive whole number"),
        ({"validation": tn.data.Blobs(9, n_features=3)}, "samples of shape (3,) do not fit the model: expected (2,)"),
        ({"validation": tn.data.Spirals(9, n_classes=4)}, "4 classes do not fit outputs (n, 2): expected outputs (n, 4)"),
    ],
)  # fmt: skip
def test_options_that_cannot_be(wrong, said):
    model = start()
    before = model.theta.copy()
    with pytest.raises((ValueError, TypeError)) as e:
        model.fit(**{"data": DATA, **wrong})
    assert str(e.value) == said
    np.testing.assert_array_equal(model.theta, before)


@pytest.mark.parametrize("wrong", [{"clip": "1"}, {"clip": [1.0]}, {"clip": True}, {"ema": "0.5"}])
def test_options_that_cannot_be_are_no_others_with_a_checkpoint(wrong, tmp_path):
    """A clip of "1" was taken there, and that of a list had an error of Python's."""
    said = []
    for checkpoint in (None, tmp_path / "run"):
        with pytest.raises(ValueError, match="is out of range: give") as e:
            start().fit(DATA, checkpoint=checkpoint, **wrong)
        said.append(str(e.value))
    assert said[0] == said[1]


@pytest.mark.parametrize("data", [DATA, (np.ones((3, 2)), [0, 1, 1])])
def test_train_takes_a_loader(data):
    with pytest.raises(TypeError, match=r"^data .* are not a loader: give one, such as Loader\(data, batch_size=32\)$"):
        next(tn.train(start(), data, tn.CrossEntropy(), tn.Adam(), steps=1))


@pytest.mark.long
def test_numbers_may_be_numpy_s(ops):
    one = np.int64(1)
    model, same = (
        tn.Model(tn.Sequential(tn.Dense(width), tn.Tanh(), tn.Dense(2)), n, backend=ops)
        for width, n in ((3 * one, 2 * one), (3, 2))
    )
    assert model.net == same.net
    half, tenth = np.float32(0.5), np.float32(0.1)
    model.fit(
        DATA, epochs=one, batch_size=50 * one, clip=half, ema=half, optimizer=tn.SGD(lambda t: tenth, momentum=half)
    )
    same.fit(DATA, epochs=1, batch_size=50, clip=0.5, ema=0.5, optimizer=tn.SGD(float(tenth), momentum=0.5))
    np.testing.assert_array_equal(ops.to_numpy(model.theta), ops.to_numpy(same.theta))


FRIEDMAN = tn.data.Friedman1(9, n_features=7, noise=1.0)  # as in test_data.py: numba compiles the formula once


@pytest.mark.parametrize(
    ("data", "loss", "said"),
    [
        (tn.data.Moons(9), tn.CrossEntropy(class_weight=(1, 2, 3)), "class_weight has 3 numbers for 2 classes"),
        (FRIEDMAN, tn.BinaryCrossEntropy(), "BinaryCrossEntropy: targets must be in [0, 1]; row 0 is"),
        (FRIEDMAN, tn.CrossEntropy(), "CrossEntropy of a single output is always 0: use"),
        (tn.data.Linear(9, n_features=1).take(5), tn.Poisson(), "Poisson: counts must not be negative; row 3 is"),
    ],
)
def test_computed_targets_are_checked_too(data, loss, said, ops):
    model = tn.Model(tn.Dense(data.classes or 1), data.shape, backend=ops)
    for use in (lambda: model.fit(data, loss=loss), lambda: model.evaluate(data, loss=loss)):
        with pytest.raises(ValueError) as e:
            use()
        assert str(e.value).startswith(said)


@pytest.mark.parametrize(
    "options",
    [
        {"clip": -1.0}, {"accumulate": 0}, {"ema": 1.0}, {"epochs": 0}, {"batch_size": 0}, {"metrics": ["mean"]},
        {"data": ([[1.0, 2.0]], [2])}, {"data": ([[1.0]], [0])}, {"loss": tn.Hinge()}, {"optimizer": "adam"},
        {"validation": ([[1.0]], [0])}, {"early_stopping": tn.EarlyStopping(1, "val_loss")}, {"callbacks": print},
        {"weights": [1.0]}, {"resume": True},
    ],
)  # fmt: skip
def test_a_fit_that_is_refused_changes_nothing(options):
    model = tn.Model(tn.Sequential(tn.Standardize(), tn.Dense(2)), 2)
    model.fit(DATA, loss=tn.CrossEntropy(0.1))
    model.state = [0.0, 0.0, 1.0, 1.0]  # as if it had seen no data
    before = model.theta.copy(), model.state.copy(), model.loss, model.metrics, model.history
    with pytest.raises((ValueError, TypeError)):
        model.fit(**{"data": ([[1.0, 2.0], [5.0, 7.0]], [0, 1])} | options)
    after = model.theta, model.state, model.loss, model.metrics, model.history
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_array_equal(after[1], before[1])
    assert after[2:] == before[2:]


def test_a_method_that_training_does_not_call_is_refused():
    """An optimizer's step, a data set's batch and a cross-entropy's formula had no effect if a subclass wrote them."""

    class Own(tn.SGD):
        def step(self, theta, g, state, t, ops):
            theta[...] = 0.0

    class Augmented(tn.Arrays):
        def batch(self, index, ops, dtype):
            return super().batch(index, ops, dtype)

    class Focal(tn.CrossEntropy):
        def formula(self, xp, y, target):
            return y, target

    class Brier(tn.MeanSquaredError):
        labels = True

    with pytest.raises(
        TypeError, match=r"^Focal.formula is not used: CrossEntropy is not elementwise, write a __call__$"
    ):
        start().fit(DATA, loss=Focal())
    with pytest.raises(
        TypeError, match=r"^Brier takes labels, and a formula is of numbers \(n, o\): write a __call__$"
    ):  # it was given labels, which broadcast where a batch has as many samples as there are classes
        start().fit(DATA, loss=Brier())
    with pytest.raises(TypeError, match=r"^Own.step is not what training calls: write it as a rule\(xp, theta, …\)$"):
        start().fit(DATA, optimizer=Own(0.1))
    with pytest.raises(
        TypeError, match=r"^Augmented.batch is not what training calls: write it as rows\(index, ops, dtype\)$"
    ):
        start().fit(Augmented([[0.0, 1.0]], [1]))


def test_the_generator_complains_before_its_first_step():
    with pytest.raises(ValueError, match=r"^steps -1 is not a whole number of at least 0$"):
        tn.train(start(), tn.Loader(DATA, 8), tn.CrossEntropy(), tn.Adam(), steps=-1)
    with pytest.raises(ValueError, match=r"^4 classes do not fit outputs \(n, 2\): expected outputs \(n, 4\)$"):
        tn.train(start(), tn.Loader(tn.data.Spirals(9, n_classes=4), 8), tn.CrossEntropy(), tn.Adam(), steps=1)
    with pytest.raises(
        ValueError, match=r"^run has no 'm' for \d+ parameters: it belongs to another model or optimizer$"
    ):
        tn.train(start(), tn.Loader(DATA, 8), tn.CrossEntropy(), tn.Adam(), steps=1, run=tn.Run({"m": np.zeros(3)}))
    with pytest.raises(TypeError, match=r"^loss 'mse' is not a loss: give one, such as CrossEntropy\(\)$"):
        tn.train(start(), tn.Loader(DATA, 8), "mse", tn.Adam(), steps=1)
    with pytest.raises(TypeError, match=r"^optimizer 'adam' is not an optimizer: give one, such as Adam\(1e-3\)$"):
        tn.train(start(), tn.Loader(DATA, 8), tn.CrossEntropy(), "adam", steps=1)
    assert not list(tn.train(start(), tn.Loader(DATA, 8), tn.CrossEntropy(), tn.Adam(), steps=0))


@pytest.mark.parametrize(
    ("batch_size", "drop_last", "samples"), [(4000, False, 5.0), (4000, True, 4.0), (9000, False, 5.0)]
)
def test_samples_a_second_are_those_of_the_epoch(batch_size, drop_last, samples):
    """A smaller last batch counted as a full one."""
    loader = tn.Loader(tn.data.Moons(5000), batch_size, drop_last=drop_last)
    row = Tally(1.0, 1, 1000.0).row(tn.Report(1, 0, True, 1.0, tn.Run({})), loader)
    assert row["samples_per_second"] == samples


def test_a_loader_of_one_s_own():
    class Again:
        """One batch, again and again."""

        data, batch_size, steps_per_epoch = tn.Arrays([[0.0], [1.0]], [[1.0], [3.0]]), 2, 5

        def batch(self, step, ops, dtype):
            return self.data.batch(range(2), ops, dtype)

    history = tn.Model(tn.Dense(1), 1).fit(Again(), epochs=2)
    assert history["step"] == [5, 10]


def test_samples_a_second_take_few_letters():
    from tinynet.progress import line

    row = {"epoch": 100, "step": 123456, "loss": 10.5, "seconds": 9.0, "samples_per_second": 1_234_567.8}
    assert line(row).endswith("  1.23M/s")
    assert line(row | {"samples_per_second": 87.0}).endswith("  87/s")
    assert line(row | {"samples_per_second": 12_345.0}).endswith("  12.3k/s")
    usual = row | {"epoch": 50, "step": 39200, "loss": 0.5, "val_loss": 0.5, "val_accuracy": 0.9}
    assert len(line(usual)) <= 80


# Several steps in one launch


@pytest.fixture
def launching(monkeypatch):
    """NumPy as a device that makes its batches itself and wants several steps at a time."""
    monkeypatch.setattr(tn.Loader, "made_on_host", lambda self, ops: False)
    return lambda yes: monkeypatch.setattr(NumpyBackend, "launches", yes)


def curve(**options):
    net = tn.Sequential(tn.Dense(8), tn.ReLU(), tn.Dropout(0.2), tn.BatchNorm(), tn.Dense(3))
    model = tn.Model(net, 2, seed=1, backend="numpy")
    history = model.fit(tn.data.Spirals(1200), batch_size=32, epochs=2, **options)
    return model.theta.tobytes(), model.state.tobytes(), [row["loss"] for row in history.rows], history.curve


@pytest.mark.parametrize(
    ("optimizer", "accumulate"),
    [
        (tn.NAdam(), 3),
        pytest.param(tn.Adam(1e-2), 1, marks=pytest.mark.slow),
        (tn.SGD(tn.schedules.Cosine(0.1, 200), momentum=0.9), 1),
    ],
    ids=repr,
)
def test_steps_together_are_the_steps_one_by_one(optimizer, accumulate, launching):
    options = {"optimizer": optimizer, "accumulate": accumulate, "clip": 1.0, "ema": 0.9}
    launching(False)
    wanted = curve(**options)
    launching(True)
    assert curve(**options) == wanted


def test_steps_together_stop_where_something_is_due(launching, tmp_path):
    launching(False)
    wanted = curve()
    launching(True)
    assert curve(checkpoint=tn.Checkpoints(tmp_path / "often", every=7)) == wanted
    told = []
    steps = type(
        "Steps", (), {"at_step": lambda self, model, step: told.append(step), "__call__": lambda *args: None}
    )()
    assert curve(callbacks=[steps]) == wanted
    assert told == list(range(2 * 38 + 1))


@pytest.mark.parametrize("options", [{"seeds": [1, 2, 3], "shuffle": True}, {"lr": [0.01, 0.1]}], ids=str)
def test_steps_of_many_networks_together_are_the_steps_one_by_one(options, launching, monkeypatch):
    """In launches of 16, 4 and 1; some networks have samples of their own, some share them."""
    monkeypatch.setattr("tinynet.data.loader.LARGEST_ON_DEVICE", 16 * 32 * 2)
    net, found, counts, several = tn.Sequential(tn.Dense(8), tn.ReLU(), tn.Dense(3)), [], [], training.Step.several
    monkeypatch.setattr(
        training.Step, "several", lambda self, *args: counts.append(len(args[-1])) or several(self, *args)
    )
    for launches in (False, True):
        launching(launches)
        networks = tn.fit_many(tn.Model(net, 2, backend="numpy"), tn.data.Spirals(800), epochs=2, **options)
        found.append((networks.theta.tobytes(), [history.curve for history in networks.histories]))
    assert found[0] == found[1]
    assert counts == [16, 4, 4] * 2


def test_reports_stand_for_several_steps_only_where_that_was_asked_for(launching):
    launching(True)
    for batch_size, together, wanted in (
        (32, True, [64, 128, 144, 148, 149]),
        (32, False, [*range(1, 150)]),
        (33, True, [*range(1, 150)]),
    ):
        model = tn.Model(tn.Dense(3), 2, backend="numpy")
        loader = tn.Loader(tn.data.Spirals(10_000), batch_size)
        reports = [*tn.train(model, loader, tn.CrossEntropy(), tn.Adam(), steps=149, together=together)]
        assert [r.step for r in reports] == wanted
        assert [len(r.recent) for r in reports if r.recent] == ([149] if len(wanted) < 149 else [64, 64, 21])
        assert all(float(r.loss) in r.recent for r in reports if r.recent)


def test_few_steps_of_a_large_network_are_launched_together(launching, monkeypatch):
    """Each of them may have gradients of its own."""
    launching(True)
    monkeypatch.setattr("tinynet.grouping._LAUNCHED", 9 * 20)  # the network has 9 parameters
    model = tn.Model(tn.Dense(3), 2, backend="numpy")
    loader = tn.Loader(tn.data.Spirals(10_000), 32)
    reports = tn.train(model, loader, tn.CrossEntropy(), tn.Adam(), steps=85, together=True)
    assert [r.step for r in reports] == [16, 32, 48, 64, 80, 84, 85]


def test_single_steps_of_a_large_network_are_reported_together(launching, monkeypatch):
    """Nothing happens between them, so a device may keep what it has made of the weights."""
    launching(True)
    monkeypatch.setattr("tinynet.grouping._LAUNCHED", 9)  # the network has 9 parameters
    within = []
    monkeypatch.setattr(NumpyBackend, "undisturbed", lambda self: within.append(self) or contextlib.nullcontext())
    wanted = [64, 69, 70, 134, 139, 140, 204, 205]  # the last batch of an epoch is smaller
    for largest in (2**23, 32 * 2):  # 64 steps in a chunk, and one
        monkeypatch.setattr("tinynet.data.loader.LARGEST_ON_DEVICE", largest)
        model = tn.Model(tn.Dense(3), 2, backend="numpy")
        loader = tn.Loader(tn.data.Spirals(32 * 70 - 5), 32)
        reports = [*tn.train(model, loader, tn.CrossEntropy(), tn.Adam(), steps=205, together=True)]
        assert [r.step for r in reports] == wanted
        assert all(float(r.loss) in r.recent for r in reports if r.recent)
    reports = tn.train(model, loader, tn.CrossEntropy(), tn.Adam(), steps=9, together=True, due=lambda step: step == 4)
    assert [r.step for r in reports] == [4, 9]
    assert len(within) == 2 * 5 + 2  # not around a single step: nothing follows it
    list(tn.train(model, loader, tn.CrossEntropy(), tn.Adam(), steps=9))
    assert len(within) == 2 * 5 + 2  # not around a single step: nothing follows it


def test_single_steps_that_are_reported_together_end_when_a_step_is_due(launching, monkeypatch):
    """A signal that asks the run to stop was heeded after up to 64 steps of a large network."""
    launching(True)
    monkeypatch.setattr("tinynet.grouping._LAUNCHED", 9)  # the network has 9 parameters
    asked = []

    class Signalled(tn.Adam):
        def numbers(self, state, t):
            if t == 9:
                asked.append(t)
            return super().numbers(state, t)

    model, loader = tn.Model(tn.Dense(3), 2, backend="numpy"), tn.Loader(tn.data.Spirals(32 * 70), 32)
    reports = tn.train(
        model, loader, tn.CrossEntropy(), Signalled(), steps=70, together=True, due=lambda step: bool(asked)
    )
    report = next(reports)
    assert (report.step, len(report.recent), float(report.loss)) == (10, 10, report.recent[-1])


def test_a_device_is_not_left_unchecked_for_long(launching, monkeypatch):
    launching(True)
    for unchecked, wanted in ((0, [64, 64, 21]), (130, [128, 21])):
        monkeypatch.setattr("tinynet.grouping._QUEUED", unchecked * 9 * 32)
        model, loader = tn.Model(tn.Dense(3), 2, backend="numpy"), tn.Loader(tn.data.Spirals(10_000), 32)
        reports = [*tn.train(model, loader, tn.CrossEntropy(), tn.Adam(), steps=149, together=True)]
        assert [len(r.recent) for r in reports if r.recent] == wanted
