"""The learning-rate range test, held to a problem whose largest rate is known."""

from __future__ import annotations

import numpy as np
import pytest

import tinynet as tn
from tinynet.data import Arrays

SPIRALS = tn.data.Spirals(n=2000, n_classes=3, seed=4)


def spirals_model(**options):
    net = tn.Sequential(tn.Dense(32), tn.BatchNorm(), tn.ReLU(), tn.Dropout(0.2), tn.Dense(3))
    return tn.Model(net, 2, **options)


def test_it_ends_where_ten_losses_are_on_average_four_times_the_least():
    test = tn.find_rate(spirals_model(), SPIRALS, high=1e4)
    recent = np.convolve(test.losses, np.ones(10) / 10, "valid")
    assert list(np.nonzero(recent > 4 * np.minimum.accumulate(recent))[0]) == [len(recent) - 1]


@pytest.mark.parametrize("seed", range(4))
def test_a_batch_of_a_large_loss_does_not_end_it(seed):
    """Few samples with squares in their targets: batches have losses from 0.5 to 7, and rates of 1e-8 were suggested."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(200, 3))
    model = tn.Model(tn.Sequential(tn.Dense(32), tn.ReLU(), tn.Dense(2)), 3, seed=seed)
    test = tn.find_rate(model, (x, np.stack([x[:, 0] ** 2, x[:, 1]], axis=1)), batch_size=20)
    assert 1e-3 < test.suggestion < 0.3


@pytest.mark.parametrize(("scale", "seed"), [(0.1, 0), (1.0, 1), (10.0, 2)])
def test_least_squares_breaks_out_beyond_two_over_the_curvature(seed, scale):
    """Gradient descent on mean (x w - t)**2 converges for rates below 2 / lambda, lambda the largest eigenvalue of the
    Hessian 2 X'X / n."""
    generator = np.random.default_rng(seed)
    x = scale * generator.normal(size=(256, 4))
    data = Arrays(x, x @ generator.normal(size=(4, 1)))
    largest = 2.0 / np.linalg.eigvalsh(2.0 * x.T @ x / len(x)).max()
    model = tn.Model(tn.Dense(1, bias=False), 4, seed=seed, dtype="float64")
    test = tn.find_rate(
        model, data, optimizer=tn.SGD(1.0), batch_size=256, low=1e-4 * largest, high=100 * largest, steps=200
    )
    assert largest / 1000 < test.suggestion < largest
    assert test.rates[-1] > largest
    assert test.losses[-1] > 4 * min(test.losses)
    model.fit(data, optimizer=tn.SGD(test.suggestion), batch_size=256, epochs=30)
    assert model.history["loss"][-1] < 0.9 * model.history["loss"][0]


@pytest.mark.double
@pytest.mark.long
def test_the_model_is_as_it_was(ops):
    model = spirals_model(backend=ops)
    model.fit(SPIRALS.take(200))
    before = [ops.to_numpy(a).copy() for a in (model.theta, model.state)]
    loss, history = model.loss, model.history
    tn.find_rate(model, SPIRALS, steps=12)
    assert all(np.array_equal(ops.to_numpy(a), b) for a, b in zip((model.theta, model.state), before, strict=True))
    assert model.loss is loss
    assert model.history is history


def test_data_are_taken_as_fit_takes_them(tmp_path):
    """A table in another order than that of the model was tested by another, and a batch size beside a loader ignored."""
    pytest.importorskip("pyarrow", reason="tables need it")
    (tmp_path / "a.csv").write_text("p,q,y\n" + "".join(f"{n},{n * n},{3 * n}.5\n" for n in range(20)))
    (tmp_path / "b.csv").write_text("q,p,y\n" + "".join(f"{n * n},{n},{3 * n}.5\n" for n in range(20)))
    model = tn.Model(tn.Dense(1), 2)
    model.fit(tmp_path / "a.csv", epochs=1, optimizer=tn.SGD(1e-6))
    first, second = (tn.find_rate(model, tmp_path / name, steps=10).losses for name in ("a.csv", "b.csv"))
    assert first == second
    with pytest.raises(TypeError, match="does not take batch_size"):
        tn.find_rate(model, tn.Loader(tmp_path / "a.csv", 10), batch_size=5)


def test_what_comes_after_is_what_would_have_come():
    plain, tested = spirals_model(), spirals_model()
    tn.find_rate(tested, SPIRALS, steps=20)
    plain.fit(SPIRALS)
    tested.fit(SPIRALS)
    assert np.array_equal(plain.ops.to_numpy(plain.theta), tested.ops.to_numpy(tested.theta))


def test_rates_grow_evenly_and_the_losses_are_those_of_training():
    test = tn.find_rate(spirals_model(), SPIRALS, low=1e-5, high=1e-1, steps=41)
    assert np.allclose(test.rates, np.geomspace(1e-5, 1e-1, 41)[: len(test.rates)])
    assert len(test.rates) == len(test.losses) == len(test.smoothed)
    model = spirals_model()
    loader = tn.Loader(SPIRALS, 32)
    optimizer = tn.Adam(lambda step: 1e-5 * 10 ** (step / 10))
    reports = tn.train(model, loader, tn.CrossEntropy(), optimizer, steps=len(test.losses))
    seen = [float(report.loss) for report in reports]
    assert np.allclose(seen, test.losses, rtol=1e-4)
    kernel = np.ones(5) / 5
    assert np.allclose(test.smoothed[2:-2], np.convolve(test.losses, kernel, "valid"))


def test_a_standardizer_is_set_on_the_copy_alone():
    data = Arrays(np.asarray(SPIRALS[:].x) * 500 + 3000, np.asarray(SPIRALS[:].y))
    model = tn.Model(tn.Sequential(tn.Standardize(), tn.Dense(16), tn.Tanh(), tn.Dense(3)), 2)
    test = tn.find_rate(model, data)
    assert test.losses[0] < 3
    assert np.all(model.ops.to_numpy(model.weights()["0.mean"]) == 0)


def test_a_loss_that_never_falls_has_no_suggestion():
    data = Arrays(np.zeros((64, 1)), np.zeros((64, 1)))
    test = tn.find_rate(tn.Model(tn.Dense(1), 1), data, steps=20)
    assert test.suggestion is None
    pytest.importorskip("matplotlib", reason="pictures need matplotlib, from the extra plot")
    test.plot().canvas.draw()


def test_its_picture():
    pytest.importorskip("matplotlib", reason="pictures need matplotlib, from the extra plot")
    test = tn.find_rate(spirals_model(), SPIRALS)
    axes = test.plot().axes[0]
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.get_legend().get_texts()][-1] == f"suggested: {test.suggestion:.2g}"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"low": 0.0}, "rates from 0.0 to 10.0 are out of range: give two positive numbers, the lower first"),
        (
            {"high": float("inf")},
            "rates from 1e-07 to inf are out of range: give two positive numbers, the lower first",
        ),
        (
            {"low": 2.0, "high": 1.0},
            "rates from 2.0 to 1.0 are out of range: give two positive numbers, the lower first",
        ),
        ({"steps": 9}, "steps 9 is too few to see a curve: give a whole number of at least 10"),
    ],
)
def test_bad_options(options, said):
    with pytest.raises(ValueError) as e:
        tn.find_rate(spirals_model(), SPIRALS, **options)
    assert str(e.value) == said


def test_inputs_that_overflow_at_once():
    data = Arrays(np.full((64, 2), 1e30), np.full((64, 1), 1e30))
    with pytest.raises(
        ValueError, match="^the loss of the first step, at rate 1e-07, is not finite: scale the inputs$"
    ):
        tn.find_rate(tn.Model(tn.Dense(1), 2), data)
