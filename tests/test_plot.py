"""Pictures: what they show is what scikit-learn reckons, and they are drawn for every model, with nothing cut off."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinynet as tn
from tinynet.data import Arrays
from tinynet.plot import curves, run
from tinynet.plot.style import new_figure
from tinynet.terminal import curve

pytest.importorskip("matplotlib", reason="pictures need matplotlib, from the extra plot")

SPIRALS = tn.data.Spirals(n=1200, n_classes=3, noise=0.1, seed=2)


@pytest.fixture(scope="module")
def trained():
    model = tn.Model(tn.Sequential(tn.Dense(32), tn.ReLU(), tn.Dense(3)), 2, backend="numpy")
    model.fit(SPIRALS, epochs=6, optimizer=tn.Adam(1e-2), validation=SPIRALS, metrics=["accuracy", "f1"])
    return model


def binary(seed=0):
    """One output column, and labels 0 and 1."""
    x = np.random.default_rng(seed).normal(size=(700, 2))
    data = Arrays(x, (x[:, :1] + 0.7 * np.random.default_rng(seed + 1).normal(size=(700, 1)) > 0.2).astype(np.float64))
    model = tn.Model(tn.Sequential(tn.Dense(8), tn.Tanh(), tn.Dense(1)), 2, seed=seed, backend="numpy")
    model.fit(data, loss=tn.BinaryCrossEntropy(), epochs=5, metrics=["accuracy"])
    return model, data


def whole(figure):
    """Every text of the figure lies on its sheet, and none of two neighbours on the other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    sheet = figure.bbox
    for axes in figure.axes:
        shown = [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high and t.label1.get_visible()]
            shown += ticks
        for text in shown:
            if text.get_text() and text.get_visible():
                box = text.get_window_extent(canvas.get_renderer())
                assert box.x0 >= sheet.x0 - 1, text.get_text()
                assert box.x1 <= sheet.x1 + 1, text.get_text()
                assert box.y0 >= sheet.y0 - 1, text.get_text()
                assert box.y1 <= sheet.y1 + 1, text.get_text()
    return np.asarray(canvas.buffer_rgba())


def test_confusion_is_that_of_sklearn(trained):
    metrics = pytest.importorskip("sklearn.metrics", reason="the oracle is scikit-learn")
    true, said = np.asarray(SPIRALS[:].y), np.asarray(trained.predict_labels(SPIRALS))
    assert np.array_equal(tn.plot.confusion_matrix(trained, SPIRALS), metrics.confusion_matrix(true, said))
    model, data = binary()
    want = metrics.confusion_matrix(np.asarray(data[:].y)[:, 0], np.asarray(model.predict_labels(data)))
    assert np.array_equal(tn.plot.confusion_matrix(model, data), want)


def test_a_class_that_is_never_said_or_never_there_has_its_row(trained):
    data = Arrays(np.asarray(SPIRALS[:50].x), np.zeros(50, np.int64))
    counts = tn.plot.confusion_matrix(trained, data)
    assert counts.shape == (3, 3)
    assert counts[0].sum() == counts.sum() == 50
    whole(tn.plot.confusion(trained, data))


@pytest.mark.parametrize("bins", [1, 4, 10, 33])
def test_calibration_is_that_of_sklearn(trained, bins):
    calibration = pytest.importorskip("sklearn.calibration", reason="the oracle is scikit-learn")
    special = pytest.importorskip("scipy.special", reason="the oracle is SciPy's softmax")
    y = special.softmax(np.asarray(trained.predict(SPIRALS), np.float64), axis=1)
    right = y.argmax(axis=1) == np.asarray(SPIRALS[:].y)
    hit, p = calibration.calibration_curve(right, y.max(axis=1), n_bins=bins)
    ours = tn.plot.calibration_curve(trained, SPIRALS, bins=bins)
    assert np.allclose(ours[0], p, rtol=1e-12)
    assert np.allclose(ours[1], hit, rtol=1e-12)
    assert ours[2].sum() == SPIRALS.n

    model, data = binary()
    hit, p = calibration.calibration_curve(
        np.asarray(data[:].y)[:, 0], special.expit(np.asarray(model.predict(data), np.float64)[:, 0]), n_bins=bins
    )
    ours = tn.plot.calibration_curve(model, data, bins=bins)
    assert np.allclose(ours[0], p, rtol=1e-12)
    assert np.allclose(ours[1], hit, rtol=1e-12)


def test_probabilities_are_taken_as_they_are():
    """A network that ends in Sigmoid or Softmax says probabilities; another one logits."""
    for last, out in ((tn.Sigmoid(), 1), (tn.Softmax(), 3)):
        plain = tn.Model(tn.Sequential(tn.Dense(out)), 2, backend="numpy")
        ended = tn.Model(tn.Sequential(tn.Dense(out), tn.Sequential(tn.Frozen(last))), 2, backend="numpy")
        data = Arrays(np.asarray(SPIRALS[:300].x), np.eye(3)[np.arange(300) % 3, :out])
        for a, b in zip(tn.plot.calibration_curve(plain, data), tn.plot.calibration_curve(ended, data), strict=True):
            assert np.allclose(a, b, rtol=1e-5)
        np.testing.assert_array_equal(*(tn.plot.confusion_matrix(model, data) for model in (plain, ended)))
        (a,), (b,) = (tn.plot.decision_regions(model, data, grid=9).axes[0].collections[:1] for model in (plain, ended))
        assert np.array_equal(a.get_array(), b.get_array())


def test_probabilities_are_those_of_the_loss():
    """Margins were drawn as if they were logits, and the sigmoids of several outputs as a softmax."""
    rows = np.asarray(SPIRALS[:300].x)
    targets = np.eye(3)[np.arange(300) % 3]
    model = tn.Model(tn.Dense(3), 2, backend="numpy")
    model.fit((rows, targets), loss=tn.BinaryCrossEntropy(), batch_size=300)
    p, hit, count = tn.plot.calibration_curve(model, (rows, targets))
    assert np.isclose(np.sum(p * count) / 300, model.predict_proba(rows).max(axis=1).mean(), rtol=1e-5)
    assert np.isclose(np.sum(hit * count) / 300, (model.predict(rows).argmax(axis=1) == np.arange(300) % 3).mean())
    for width, loss in ((1, tn.Hinge()), (3, tn.Hinge()), (3, tn.MeanSquaredError())):
        margins = tn.Model(tn.Dense(width), 2, backend="numpy")
        data = rows, 2 * targets[:, :width] - 1
        margins.fit(data, loss=loss, batch_size=300)
        with pytest.raises(TypeError, match=r"gives no probabilities: train it with a cross-entropy$"):
            tn.plot.calibration(margins, data)
        assert tn.plot.confusion_matrix(margins, data).sum() == 300


def test_logits_that_are_large_are_probabilities_of_one():
    three = tn.Model(tn.Dense(3), 2, backend="numpy")
    for model, data in (binary(), (three, SPIRALS)):
        model.theta[...] = 1e6 * model.theta
        p, _, count = tn.plot.calibration_curve(model, data)
        assert np.all((p >= 0) & (p <= 1))
        assert count.sum() == data.n


@pytest.mark.parametrize(
    "name",
    [
        *("regions", "confusion", "calibration", "gradients"),
        # those of other models are whole by default, below
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("history", "weights")),
    ],
)
def test_pictures_are_whole(trained, name):
    figure = {
        "history": lambda: trained.history.plot(),
        "regions": lambda: tn.plot.decision_regions(trained, SPIRALS, points=300, grid=60),
        "confusion": lambda: tn.plot.confusion(
            trained, SPIRALS, names=["a short one", "another", "the longest of all"]
        ),
        "calibration": lambda: tn.plot.calibration(trained, SPIRALS),
        "weights": lambda: tn.plot.weights(trained),
        "gradients": lambda: tn.plot.gradients(trained, SPIRALS),
    }[name]()
    pixels = whole(figure)
    assert len(np.unique(pixels.view(np.uint32))) > 10  # colours
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_regions_are_the_labels_of_the_model(trained):
    """The colour of a place is that of the class which the model says there."""
    figure = tn.plot.decision_regions(trained, SPIRALS, grid=40)
    axes = figure.axes[0]
    mesh = axes.collections[0]
    xs, ys = (np.linspace(*limits, 40) for limits in _limits(mesh))
    places = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    assert np.array_equal(np.asarray(mesh.get_array()).reshape(-1), np.asarray(trained.predict_labels(places)))
    drawn = sum(len(c.get_offsets()) for c in axes.collections if c.get_label() in "012")
    assert drawn == 1200


def test_samples_are_spread_over_any_number_of_them(trained):
    """Products of indices and the number of samples were beyond 64 bits."""
    figure = tn.plot.decision_regions(trained, tn.data.Spirals(2**61, seed=2), points=20, grid=4)
    assert sum(len(c.get_offsets()) for c in figure.axes[0].collections if c.get_label() in "012") == 20


def _limits(mesh):
    """First and last centre of the cells, in x and in y."""
    edges = mesh.get_coordinates()
    xs, ys = edges[0, :, 0], edges[:, 0, 1]
    return ((xs[0] + xs[1]) / 2, (xs[-1] + xs[-2]) / 2), ((ys[0] + ys[1]) / 2, (ys[-1] + ys[-2]) / 2)


def test_regions_of_one_class_of_one_place_and_of_one_output():
    model, data = binary()
    whole(tn.plot.decision_regions(model, data, grid=30))
    same = Arrays(np.ones((4, 2)), np.array([[0.0], [1.0], [0.0], [1.0]]))
    whole(tn.plot.decision_regions(model, same, grid=30))


def test_pictures_in_axes_of_ones_own(trained):
    from matplotlib.figure import Figure

    sheet = Figure()
    left, right = sheet.subplots(1, 2)
    assert tn.plot.decision_regions(trained, SPIRALS, axes=left, grid=30) is sheet
    assert tn.plot.confusion(trained, SPIRALS, axes=right) is sheet


@pytest.mark.slow  # `test_cli` draws one by default
def test_the_picture_of_a_command(trained):
    png = tn.plot.training_png(trained, SPIRALS, trained.history, "spirals")
    assert png.startswith(b"\x89PNG\r\n\x1a\n")


def test_the_picture_of_a_command_shows_what_was_held_out(monkeypatch):
    """Of more features than two: the losses and the metrics, with the epoch whose weights were kept."""
    rows = [{"epoch": e, "step": 10 * e, "loss": 1 / e, "val_loss": 1 + (e - 2) ** 2, "val_r2": 0.5} for e in (1, 2, 3)]
    sheets, whole_sheet = [], curves.new_figure
    monkeypatch.setattr(curves, "new_figure", lambda *size: sheets.append(whole_sheet(*size)) or sheets[-1])
    history = tn.History(rows, best_epoch=2, curve=[(10, 1.0), (30, 0.5)])
    tn.plot.training_png(tn.Model(tn.Dense(1), 3), tn.data.Friedman2(9), history, "t.csv")
    left, right = sheets[0].axes
    assert [line.get_label() for line in left.lines] == ["training", "validation", "best: epoch 2"]
    assert left.lines[1].get_ydata().tolist() == [2, 1, 2]
    assert right.get_title(loc="left") == "Validation r2"


def test_the_picture_of_a_run_of_a_step_from_a_file_of_any_name(trained, monkeypatch):
    sheets = []
    monkeypatch.setattr(run, "new_figure", lambda *size: sheets.append(new_figure(*size)) or sheets[-1])
    tn.plot.training_png(trained, SPIRALS, tn.History(curve=[(2, 0.7)]), "a$x_{$.csv")
    assert sheets[0].axes[0].lines[0].get_marker() == "o"
    assert sheets[0].get_suptitle() == r"a\$x_{\$.csv"


@pytest.mark.parametrize("value", [0.0, -1e30])
def test_one_number_is_a_histogram_too(value):
    model = tn.Model(tn.Dense(3), 2, backend="numpy")
    model.theta[...] = value
    whole(tn.plot.weights(model))


def test_gradients_leave_the_model_as_it_is():
    model = tn.Model(tn.Sequential(tn.Dense(4), tn.BatchNorm(), tn.ReLU(), tn.Dense(3)), 2, backend="numpy")
    before = model.theta.copy(), model.state.copy()
    tn.plot.gradients(model, SPIRALS, loss=tn.CrossEntropy())
    assert np.array_equal(model.theta, before[0])
    assert np.array_equal(model.state, before[1])


def test_what_is_not_finite_is_counted():
    model = tn.Model(tn.Dense(3), 2, backend="numpy")
    model.weights()["w"][0, :2] = np.nan
    figure = tn.plot.weights(model)
    assert figure.axes[0].get_title(loc="right").endswith("\n2 not finite")  # a line of its own, beside a long name
    model.theta[...] = np.nan
    whole(tn.plot.weights(model))


@pytest.mark.parametrize("epochs", [pytest.param(1, marks=pytest.mark.slow), 60])
def test_history_of_any_length(epochs):
    rows = [{"epoch": e + 1, "step": 100 * (e + 1), "loss": 10.0**-e, "val_loss": 2 * 10.0**-e} for e in range(epochs)]
    figure = tn.History(rows=rows).plot()
    assert figure.axes[0].get_yscale() == ("log" if epochs > 1 else "linear")
    whole(figure)


def test_history_of_a_run_that_was_resumed_with_other_metrics():
    """It was a KeyError, as was the column."""
    rows = [
        {"epoch": 1, "step": 9, "loss": 99.0, "val_accuracy": 0.5},
        {"epoch": 2, "step": 18, "loss": 1.0, "val_loss": 1.0, "val_f1": 0.7},
    ]
    history = tn.History(rows)
    assert history["val_accuracy"][0] == 0.5
    assert np.isnan(history["val_accuracy"][1])
    losses, *panels = history.plot().axes
    assert [axes.get_title(loc="left") for axes in panels] == ["Validation accuracy", "Validation f1"]
    assert losses.get_yscale() == "log"
    assert [line.get_label() for line in losses.lines] == ["training, mean of an epoch", "validation"]


def test_history_after_one_step():
    model, data = binary()
    whole(model.fit(data, batch_size=700, loss=tn.BinaryCrossEntropy()).plot())


def _numbers():
    return Arrays(np.ones((5, 2)), np.linspace(0, 1, 5))


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda m: tn.History().plot(), "the history is empty: train before you plot it"),
        (lambda m: tn.plot.decision_regions(tn.Model(tn.Dense(3), 5), Arrays(np.ones((4, 5)), np.arange(4))),
         "decision regions are a picture of two features and at most 8 classes: these samples have shape (5,) and 4 classes"),
        (lambda m: tn.plot.decision_regions(m, _numbers()),
         "the targets are numbers, not labels: this picture is of classes"),
        (lambda m: tn.plot.confusion(m, _numbers()), "the targets are numbers, not labels: this picture is of classes"),
        (lambda m: tn.plot.calibration(m, Arrays(np.ones((2, 2)), np.asarray([1, -1]))),
         "label -1 is negative: number classes from 0"),
        *[(lambda m, draw=draw: draw(m, Arrays(np.ones((3, 2)), np.asarray([1, 2, 3]))),
           "label 3 is not among the model's 3 classes: number classes from 0")
          for draw in (tn.plot.confusion, tn.plot.calibration, tn.plot.decision_regions)],
        (lambda m: tn.plot.confusion(m, SPIRALS, names="ab"), "2 names do not fit 3 classes: give one each"),
        (lambda m: tn.plot.calibration(m, SPIRALS, bins=0), "bins 0 is not a positive whole number"),
        (lambda m: tn.plot.weights(m, bins=0), "bins 0 is not a positive whole number"),
        (lambda m: tn.plot.gradients(m, SPIRALS, samples=0), "samples 0 is not a positive whole number"),
        (lambda m: tn.plot.gradients(m, SPIRALS, bins=-1), "bins -1 is not a positive whole number"),
        (lambda m: tn.plot.decision_regions(m, SPIRALS, points=0), "points 0 is not a positive whole number"),
        (lambda m: tn.plot.decision_regions(m, SPIRALS, grid=0.5), "grid 0.5 is not a positive whole number"),
        (lambda m: tn.plot.weights(tn.Model(tn.ReLU(), 2)), "the model has no parameters: there is nothing to draw"),
        (lambda m: tn.plot.gradients(tn.Model(tn.Dense(3), 2), SPIRALS),
         "the model has no loss yet: fit it, or give gradients(loss=…)"),
        (lambda m: tn.plot.gradients(m, (np.ones((4, 5)), np.arange(4))),
         "samples of shape (5,) do not fit the model: expected (2,)"),
    ],
)  # fmt: skip
def test_errors(trained, draw, said):
    with pytest.raises(ValueError) as e:
        draw(trained)
    assert str(e.value) == said


def test_without_matplotlib_the_extra_is_named(monkeypatch, trained):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="^pictures need matplotlib: install the extra plot$"):
        trained.history.plot()


def test_a_noisy_range_test_is_in_its_picture_until_it_diverges():
    losses = 0.3, 0.4, 0.5, 0.2, 90.0  # of a model that has learned: the first is by chance among the least
    axes = tn.plot.rates(tn.RateTest((1e-4, 1e-3, 1e-2, 0.1, 1.0), losses, losses, 0.01)).axes[0]
    low, high = axes.get_ylim()
    assert low < 0.2
    assert 0.5 < high < 1.0


def test_no_pyplot_and_no_screen():
    root = Path(__file__).parents[1]
    code = (
        f"import sys; sys.path[:0] = {[str(root), str(root / 'backends')]!r}\nimport tinynet as tn\n"
        "tn.plot.weights(tn.Model(tn.Dense(2), 2)).canvas.draw(); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={"PATH": ""})
    assert (done.stdout, done.stderr) == ("False\n", "")


# Curves in a terminal ------------------------------------------------------------------------------------------------


def dots(line):
    return [ord(c) - 0x2800 for c in line if 0x2800 <= ord(c) < 0x2900]


@pytest.mark.parametrize("width", [20, 37, 100])
@pytest.mark.parametrize("height", [3, 8])
def test_a_curve_fills_its_place(width, height):
    lines = curve([(t, (t - 50) ** 2 + 1) for t in range(101)], width, height, right=101)
    assert len(lines) == height
    assert all(len(line) <= width for line in lines)
    assert any(dots(lines[0]))
    assert any(dots(lines[-2]))
    columns = np.array([dots(line) for line in lines[:-1]])
    assert np.all(columns.max(axis=0)[:-1] > 0)  # no gap before the last point


def test_a_straight_line_is_a_diagonal():
    lines = curve([(t, float(t)) for t in range(16)], 20, 5)
    assert [line[12:] for line in lines[:-1]] == ["⠀⠀⠀⠀⠀⠀⡠⠊", "⠀⠀⠀⠀⡠⠊⠀⠀", "⠀⠀⡠⠊⠀⠀⠀⠀", "⡠⠊⠀⠀⠀⠀⠀⠀"]
    assert lines[0].startswith("     15.00 ┤")
    assert lines[-2].startswith("     0.000 ┤")


def test_a_jump_is_a_line_from_top_to_bottom():
    """Eight columns of dots above, eight below, and between them all sixteen rows."""
    lines = curve([(t, float(t < 8)) for t in range(16)], 20, 5)
    assert sum(bits.bit_count() for line in lines for bits in dots(line)) == 8 + 8 + 14


def test_a_curve_that_goes_on_leaves_room_at_the_right():
    lines = curve([(t, float(t)) for t in range(50)], 60, 5, right=100)
    ink = np.array([dots(line) for line in lines[:-1]]).max(axis=0)
    assert ink[:23].all()
    assert not ink[26:].any()
    assert lines[-1].endswith(" 100")


def test_many_powers_of_ten_are_a_logarithm():
    lines = curve([(t, 10.0**-t) for t in range(9)], 40, 9)
    middle = [index for index, line in enumerate(lines[:-1]) if dots(line)[13] or dots(line)[14]]
    assert middle
    assert abs(middle[0] - 4) <= 1


@pytest.mark.parametrize("points", [[], [(1, float("nan"))], [(1, float("inf")), (2, float("nan"))]])
def test_nothing_to_draw(points):
    assert curve(points, 80, 8) == []


def test_what_is_not_finite_is_left_out():
    assert curve([(0, 1.0), (1, float("nan")), (2, 2.0)], 40, 5) == curve([(0, 1.0), (2, 2.0)], 40, 5)


def test_a_terminal_has_the_curve_and_a_small_one_has_not(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "90")
    for lines, there in (("30", True), ("10", False)):
        monkeypatch.setenv("LINES", lines)
        tn.Model(tn.Dense(3), 2).fit(SPIRALS, epochs=3, progress=True)
        assert ("┤" in capsys.readouterr().err) == there


def test_names_of_a_table_are_on_its_pictures():
    """As they are written: a dollar sign is no formula."""
    model = tn.Model(tn.Dense(2), 2)
    model.columns = tn.data.Columns(("in $a$", "b_c"), ("y",), ("1 $", "x^2"))
    data = np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 2
    axes = tn.plot.decision_regions(model, data).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == (r"in \$a\$", "b_c")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [r"1 \$", "x^2"]
    axes = tn.plot.confusion(model, data).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == [r"1 \$", "x^2"]
    for draw in (tn.plot.decision_regions, tn.plot.confusion):
        draw(model, data).canvas.draw()


def test_long_names_leave_room_for_the_picture():
    model = tn.Model(tn.Dense(3), 2)
    names = "agree", "neither agree nor disagree with what was asked for", "m" * 80
    model.columns = tn.data.Columns(("x" * 90, "y" * 90), ("answer",), names)
    data = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 3
    for draw in (tn.plot.decision_regions, tn.plot.confusion):
        figure = draw(model, data)
        whole(figure)
        assert figure.axes[0].get_window_extent().width > 0.2 * figure.bbox.width
    shown = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert shown == ["agree", "neither agre…s asked for", "m" * 12 + "…" + "m" * 11]


def test_a_model_that_says_nothing_has_no_picture():
    model = tn.Model(tn.Dense(2), 2)
    model.theta[...] = float("nan")
    data = np.zeros((3, 2)), np.asarray([0, 1, 1])
    for draw in (tn.plot.decision_regions, tn.plot.confusion, tn.plot.calibration):
        with pytest.raises(ValueError, match=r"outputs that are NaN or infinite: look at plot.weights\(model\)"):
            draw(model, data)


def test_features_of_unlike_scale_fill_the_picture():
    x = np.random.default_rng(0).normal(size=(50, 2)) * [1e6, 1e-6]
    for scaled, aspect in ((x, "auto"), (x * [1e-6, 1e6], 1.0)):
        axes = tn.plot.decision_regions(tn.Model(tn.Dense(2), 2), (scaled, np.arange(50) % 2)).axes[0]
        assert axes.get_aspect() == aspect
