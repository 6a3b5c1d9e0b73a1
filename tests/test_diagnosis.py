"""Diagnosis: every illness is found where it is made, none where there is none, and nothing changes by looking."""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pytest
from test_losses import EPS, usual

import tinynet as tn
from tinynet.data import Arrays
from tinynet.data.dataset import spaced_indices
from tinynet.diagnosis import _norm
from tinynet.probe import probe

MOONS = tn.data.Moons(600, noise=0.1, seed=3)


def network(*widths, activation=tn.ReLU, out=2):
    return tn.Sequential(*(layer for width in widths for layer in (tn.Dense(width), activation())), tn.Dense(out))


def kinds(diagnosis):
    return sorted({finding.kind for finding in diagnosis.findings})


def looked(model, data=MOONS, loss=None):
    diagnosis = tn.Diagnosis(data)
    diagnosis.look(model, loss=loss or tn.CrossEntropy())
    return diagnosis


def test_nothing_is_said_of_what_is_well():
    for seed in range(2):
        diagnosis = tn.Diagnosis(MOONS)
        net = tn.Sequential(
            tn.Dense(32), tn.BatchNorm(), tn.ReLU(), tn.Dropout(0.2), tn.Dense(32), tn.Tanh(), tn.Dense(2)
        )
        tn.Model(net, 2, seed=seed).fit(MOONS, epochs=2, callbacks=[diagnosis])
        assert diagnosis.findings == []
        assert len(diagnosis.losses) > 5


@pytest.mark.parametrize("activation", [tn.ReLU, tn.LeakyReLU, tn.ELU, tn.GELU, tn.SiLU, tn.Softplus, tn.Tanh])
def test_nothing_is_said_of_an_untrained_network(activation):
    assert looked(tn.Model(network(64, 64, 64, activation=activation), 2)).findings == []


def test_dead_units_are_counted(ops):
    model = tn.Model(network(10, 8), 2, backend=ops)
    model.weights()["2.b"][...] = ops.asarray([-100.0] * 5 + [0.5] * 3, "float32")
    (finding,) = looked(model).findings
    assert (finding.kind, finding.place, finding.step) == ("dead", "3", 0)
    assert finding.text == (
        "layer 3 (ReLU()): 5 of 8 units gave 0 for each of 512 samples: lower the rate, use LeakyReLU(), "
        "or put BatchNorm() before it"
    )
    model.weights()["2.b"][...] = ops.asarray([-100.0] * 3 + [0.5] * 5, "float32")
    assert looked(model).findings == []


@pytest.mark.long
@pytest.mark.parametrize("activation", [tn.Sigmoid, tn.Tanh])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_saturated_units_are_dead_too(ops, activation, side):
    model = tn.Model(network(10, activation=activation), 2, backend=ops)
    model.weights()["0.b"][...] = side * ops.asarray([30.0] * 9 + [0.0], "float32")
    found = {finding.kind: finding for finding in looked(model).findings}
    assert found["dead"].text == (
        f"layer 1 ({activation.__name__}()): 9 of 10 units had a slope below 0.001 for each of 512 samples: "
        "lower the rate, scale the inputs or draw smaller weights"
    )


def test_gradients_that_vanish(ops):
    """Eight sigmoids take away more than 4**-8."""
    finding = looked(tn.Model(network(*[32] * 8, activation=tn.Sigmoid), 2, backend=ops)).findings[0]
    assert (finding.kind, finding.place) == ("vanishing", "0")
    first, last = (float(finding.text.split(f" {word} ")[1].split()[0]) for word in ("to", "from"))
    assert first < last * 4.0**-8
    assert finding.text.endswith("use Residual(…), BatchNorm(), or ReLU() where an activation saturates")


def test_gradients_that_explode(ops):
    model = tn.Model(network(*[32] * 5, activation=tn.Identity), 2, backend=ops)
    for name in ("2.w", "4.w", "6.w", "8.w"):
        model.weights()[name][...] = 30.0 * model.weights()[name]
    findings = looked(model).findings
    assert [(f.kind, f.place) for f in findings] == [("exploding", "0")]
    assert findings[0].text.endswith("draw smaller weights, lower the rate or add LayerNorm()")


@pytest.mark.parametrize("activation", [tn.Sigmoid(), tn.ReLU()])
def test_the_remedy_that_is_named_cures(activation):
    """`LayerNorm` does not: each sample's features are scaled, and samples stay as similar as the layers made them."""

    def found(*norm):
        body = (layer for _ in range(24) for layer in (tn.Dense(16), *norm, activation))
        return looked(tn.Model(tn.Sequential(*body, tn.Dense(2)), 2)).findings

    (finding,) = found()
    assert finding.kind == "vanishing"
    assert "BatchNorm()" in finding.text
    assert found(tn.BatchNorm()) == []
    assert found(tn.LayerNorm()) != []


@pytest.mark.parametrize("norm", [tn.BatchNorm(epsilon=1e-12), tn.LayerNorm(epsilon=1e-12)])
def test_small_weights_before_a_normalization_are_well(norm):
    """The outputs are those of large ones; the gradient that comes to them is ten thousand times as large."""
    init = tn.initializers.HeNormal(gain=1e-4)
    body = (layer for _ in range(2) for layer in (tn.Dense(32, init=init), norm, tn.ReLU()))
    assert looked(tn.Model(tn.Sequential(*body, tn.Dense(2)), 2)).findings == []


def test_what_is_not_finite_is_said_without_a_warning(ops):
    model = tn.Model(network(8, 8), 2, backend=ops)
    model.theta[...] = model.theta * 1e30
    assert {"exploding", "rate"} <= set(kinds(looked(model)))


@pytest.mark.parametrize(("scale", "shift"), [(300.0, 0.0), (1.0, 1500.0), (0.01, 0.0), (0.01, 1.0)])
def test_inputs_that_are_not_scaled(scale, shift):
    x, y, _ = MOONS[:500]
    x = np.asarray(x) * scale + shift
    finding = looked(tn.Model(network(8), 2), Arrays(x, np.asarray(y))).findings[0]
    assert (finding.kind, finding.place) == ("inputs", "0")
    j = int(finding.text.split("feature ")[1].split()[0])
    mean, deviation = (
        float(finding.text.split(f"{word} ")[-1].split()[0].rstrip(":")) for word in ("mean", "deviation")
    )
    assert mean == pytest.approx(x[:, j].mean(), rel=1e-3, abs=1e-4)
    assert deviation == pytest.approx(x[:, j].std(), rel=1e-2)
    well = tn.Model(tn.Sequential(tn.Standardize(), *network(8).layers), 2)
    diagnosis = tn.Diagnosis(Arrays(x, np.asarray(y)))
    well.fit(Arrays(x, np.asarray(y)), callbacks=[diagnosis])
    assert "inputs" not in kinds(diagnosis)


def test_targets_that_are_not_scaled(ops):
    """Where outputs have to become as large: not where they are logarithms, or scaled by a last layer."""
    x = np.asarray(MOONS[:500].x)
    y = 400 + 50 * x
    model = tn.Model(network(8), 2, backend=ops)
    (finding,) = looked(model, Arrays(x, y), tn.MeanSquaredError()).findings
    mean, deviation = y.mean(axis=0), y.std(axis=0)
    j = int(np.hypot(mean, deviation).argmax())
    assert (finding.kind, finding.place) == ("targets", "")
    assert finding.text == (
        f"2 of 2 targets are far from mean 0 and deviation 1; target {j} has mean {mean[j]:.4g} and deviation "
        f"{deviation[j]:.4g}: subtract that mean and divide by that deviation"
    )
    assert looked(model, Arrays(x, y), tn.Poisson()).findings == []
    assert looked(model, Arrays(x, (y - mean) / deviation), tn.MeanSquaredError()).findings == []
    begun = tn.Model(network(8), 2, backend=ops)
    begun.weights()["2.b"][...] = ops.asarray([400.0, 400.0], "float32")  # as an estimator begins
    wide, narrow = (Arrays(x, 400 + factor * x) for factor in (50, 5))
    assert [kinds(looked(begun, data, tn.MeanSquaredError())) for data in (wide, narrow)] == [["targets"], []]
    undone = tn.Model(tn.Sequential(*network(8).layers, tn.Standardize()), 2, backend=ops)
    undone.weights()["3.scale"][...] = ops.asarray(deviation, "float32")
    assert "targets" not in kinds(looked(undone, Arrays(x, y), tn.MeanSquaredError()))


@pytest.mark.parametrize("share", [0.02, 0.001, 0.995])
def test_sparse_inputs_and_constants_are_well(share):
    generator = np.random.default_rng(0)
    x = (generator.random((600, 40)) < share).astype(np.float64)
    x[:, 0], x[:, 1], x[:, 2] = share > 0.01, 0.0, 0.3
    assert looked(tn.Model(network(8), 40), Arrays(x, np.arange(600) % 2)).findings == []


@pytest.mark.parametrize("optimizer", [tn.SGD(300.0), tn.Adam(3.0)])
def test_a_rate_that_diverges(optimizer):
    diagnosis = tn.Diagnosis(MOONS)
    model = tn.Model(network(64, 64), 2)
    with suppress(tn.DivergedError):
        model.fit(MOONS, optimizer=optimizer, callbacks=[diagnosis])
    finding = next(f for f in diagnosis.findings if f.kind == "rate")
    assert finding.step <= 64
    assert "lower the rate, to a tenth or what find_rate suggests" in finding.text


def test_a_loss_below_zero_that_moves_is_no_divergence():
    """Poisson's is; four times the least loss would mean nothing."""
    x = np.linspace(-1, 1, 400)[:, None]
    data = Arrays(x, np.exp(3 + x))
    diagnosis = tn.Diagnosis(data)
    tn.Model(network(16, out=1), 1).fit(data, loss=tn.Poisson(), epochs=20, callbacks=[diagnosis])
    assert "rate" not in kinds(diagnosis)
    assert diagnosis.losses[-1][1] < 0


@pytest.mark.parametrize(
    ("losses", "found"),
    [
        ([1.0, 0.5, 1.9], False),  # not four times the least
        ([1.0, 0.5, 2.1], True),
        ([9.0, 0.5, 8.0], False),  # no more than it began with
        ([-1.0, -1.1, -0.9], False),
        ([-1.0, -1.1, 2.5], True),
        ([1.0, 0.5, math.nan], True),
        ([math.nan, math.nan], True),
    ],
)
def test_when_a_loss_has_risen(losses, found):
    diagnosis = tn.Diagnosis(MOONS)
    diagnosis.losses = list(enumerate(losses))
    assert bool(list(diagnosis._rate())) == found


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_a_norm_of_any_size(ops, size):
    """Squares of these overflow or vanish in float32."""
    a = ops.asarray([[3.0 * size, 0.0], [0.0, -4.0 * size]], "float32")
    assert float(ops.to_numpy(_norm(ops.xp, a))) == pytest.approx(5.0 * size, rel=1e-6)
    assert float(ops.to_numpy(_norm(ops.xp, 0.0 * a))) == 0.0


@pytest.mark.long
def test_nothing_changes_by_looking(ops):
    net = tn.Sequential(
        tn.Dense(16), tn.BatchNorm(), tn.ReLU(), tn.Dropout(0.5), tn.Residual(tn.Dense(16)), tn.Dense(2)
    )
    plain, watched = (tn.Model(net, 2, backend=ops) for _ in range(2))
    one = plain.fit(MOONS.take(200))
    two = watched.fit(MOONS.take(200), callbacks=[tn.Diagnosis(MOONS, samples=50, every=3)])
    assert np.array_equal(ops.to_numpy(plain.theta), ops.to_numpy(watched.theta))
    assert np.array_equal(ops.to_numpy(plain.state), ops.to_numpy(watched.state))
    assert one.curve == two.curve


def test_it_looks_early_and_then_every_so_often():
    diagnosis = tn.Diagnosis(MOONS, every=20)
    tn.Model(network(8), 2).fit(MOONS, batch_size=10, callbacks=[diagnosis])
    assert [step for step, _ in diagnosis.losses] == [0, 1, 2, 4, 8, 16, 20, 40, 60]


def test_it_is_said_once_and_logged(caplog):
    model = tn.Model(network(10), 2)
    model.weights()["0.b"][...] = -100.0
    diagnosis = tn.Diagnosis(MOONS)
    with caplog.at_level(logging.WARNING, "tinynet"):
        first = diagnosis.look(model, 7, loss=tn.CrossEntropy())
        again = diagnosis.look(model, 8, loss=tn.CrossEntropy())
    assert again == []
    assert [record.getMessage() for record in caplog.records] == [f"after step 7: {f.text}" for f in first]
    assert diagnosis.findings == first


def test_another_run_is_looked_at_by_itself():
    """The loss of a fresh model had risen from that of the trained one before, and its dead units were known."""
    diagnosis = tn.Diagnosis(MOONS)
    for number, bias in enumerate((-100.0, -100.0, 0.0)):
        model = tn.Model(network(10), 2)
        model.weights()["0.b"][...], model.loss = bias, tn.CrossEntropy()
        diagnosis.at_step(model, 0)
        assert [f.kind for f in diagnosis.findings].count("dead") == min(number + 1, 2)
        diagnosis.losses = [(0, 0.1), (64, 0.01)]
    assert "rate" not in {f.kind for f in diagnosis.findings}


def test_a_probe_sees_what_the_model_does(ops):
    net = tn.Sequential(tn.Dense(6), tn.Residual(tn.Dense(6), tn.Tanh()), tn.Dense(2))
    model = tn.Model(net, 2, backend=ops, dtype=usual(ops))
    batch = MOONS.batch(range(50), ops, usual(ops))
    value, seen = probe(model, batch, tn.CrossEntropy())
    assert [one.place for one in seen] == ["0", "1.0", "1.1", "2"]
    assert np.allclose(ops.to_numpy(seen[-1].y), ops.to_numpy(model.predict(batch.x)))
    wanted = model.evaluate(MOONS.take(50), loss=tn.CrossEntropy())["loss"]
    assert value == pytest.approx(wanted, rel=50 * EPS[usual(ops)])
    found = {name for one in seen for name in one.gradients}
    assert found == set(model.gradient_names)
    assert ops.to_numpy(seen[1].dy).shape == (50, 6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"every": 0}, "Diagnosis every 0 is not a positive whole number"),
        ({"samples": True}, "Diagnosis samples True is not a positive whole number"),
    ],
)
def test_bad_options(options, said):
    with pytest.raises(ValueError) as e:
        tn.Diagnosis(MOONS, **options)
    assert str(e.value) == said


def test_without_a_loss():
    with pytest.raises(ValueError, match="^the model has no loss yet: fit it, or give look"):
        tn.Diagnosis(MOONS).look(tn.Model(network(3), 2))


def test_data_that_do_not_fit():
    other = tn.Diagnosis(tn.data.Blobs(20, n_features=3, n_classes=2))
    with pytest.raises(ValueError, match=r"^samples of shape \(3,\) do not fit the model: expected \(2,\)$"):
        tn.Model(network(2), 2).fit(MOONS, callbacks=[other])
    with pytest.raises(ValueError, match=r"^2 classes do not fit outputs \(n, 1\): expected outputs \(n, 2\)"):
        tn.Diagnosis(MOONS).look(tn.Model(network(out=1), 2), loss=tn.CrossEntropy())


def test_an_error_while_a_layer_is_watched_names_the_layer_alone():
    class Bad(tn.Layer):
        def forward(self, params, x, ctx):
            raise RuntimeError

    with pytest.raises(RuntimeError) as e:
        tn.Diagnosis(MOONS).look(tn.Model(tn.Sequential(tn.Dense(2), Bad()), 2), loss=tn.CrossEntropy())
    assert e.value.__notes__ == ["in layer 1, Bad()"]


# Gradients against differences ---------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Crooked(tn.Dense):
    """A layer whose gradient is wrong in one place."""

    wrong: str = ""
    factor: float = 1.001

    def forward(self, params, x, ctx):
        y, backprop = super().forward(params, x, ctx)

        def bent(dy):
            dx, d = backprop(dy)
            d = {name: self.factor * g if name == self.wrong else g for name, g in d.items()}
            return (self.factor * dx if self.wrong == "inputs" else dx), d

        return y, bent


@pytest.mark.parametrize("wrong", ["inputs", "w", "b"])
def test_a_wrong_gradient_is_named(wrong):
    assert tn.check_gradients(Crooked(3)) < 1e-8
    with pytest.raises(tn.GradientError) as e:
        tn.check_gradients(Crooked(3, wrong=wrong))
    assert str(e.value).startswith(
        f"the gradient of Crooked(width=3, wrong={wrong!r}) is wrong for {wrong}: its relative error is "
    )
    with pytest.raises(tn.GradientError, match=r" is wrong for (inputs|1\.w|1\.b)[:,]"):
        tn.check_gradients(tn.Sequential(tn.Tanh(), Crooked(3, wrong=wrong)), n_in=2)


@pytest.mark.parametrize(("widths", "activation", "seed"), [([50] * 10, tn.Tanh, 4), ([64] * 3, tn.ReLU, 0)])
def test_right_gradients_of_many_weights(widths, activation, seed):
    """All of them move at once, a long way: curvature, or the kink of some unit, was taken for a mistake."""
    assert tn.check_gradients(network(*widths, activation=activation, out=3), seed=seed, backend="numpy") < 1e-6


class Own(tn.Layer):
    """A layer whose passes are ``forward(x)`` and ``backward(dy)``."""

    def __init__(self, forward, backward):
        self.passes = forward, backward

    def forward(self, params, x, ctx):
        forward, backward = self.passes
        return forward(x), lambda dy: (backward(dy), {})


def twice(a):
    a *= 2.0
    return a


def test_arrays_that_a_layer_changes_are_found():
    """Its derivative is right: `forward` would spoil data that are views, `backprop` what another layer needs."""
    with pytest.raises(tn.GradientError, match=r"^Own\(\) changes its inputs in place"):
        tn.check_gradients(Own(twice, lambda dy: 2.0 * dy))
    with pytest.raises(tn.GradientError, match=r"^backprop of Own\(\) changes dy in place"):
        tn.check_gradients(Own(lambda x: 2.0 * x, twice))


def test_a_layer_that_draws_by_itself_is_found():
    rng = np.random.default_rng(0)
    with pytest.raises(tn.GradientError, match=r"^Own\(\) gives other outputs for the same inputs: draw by ctx.seed"):
        tn.check_gradients(Own(lambda x: x + rng.normal(size=x.shape), lambda dy: dy))


def test_a_wrong_loss_is_found():
    class Bent(tn.MeanSquaredError):
        def formula(self, xp, y, target):
            value, slope = super().formula(xp, y, target)
            return value, 1.0001 * slope

    assert tn.check_gradients(tn.MeanSquaredError()) < 1e-8
    with pytest.raises(tn.GradientError, match="is wrong: its relative error is .*, and 1e-06 is allowed$"):
        tn.check_gradients(Bent())


LOSSES = [loss for loss in vars(tn.losses).values() if isinstance(loss, type) and issubclass(loss, tn.losses.Loss)]


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss is not tn.losses.Loss])
def test_every_loss_has_a_target(loss):
    assert tn.check_gradients(loss()) < 1e-7


def test_targets_of_ones_own():
    assert tn.check_gradients(tn.Poisson(), target=[[3.0, 0.0], [1.0, 7.0]]) < 1e-7
    assert tn.check_gradients(tn.CrossEntropy(), target=[4, 0, 1]) < 1e-7
    assert tn.check_gradients(tn.CrossEntropy(class_weight=(1.0, 2.0))) < 1e-7
    with pytest.raises(ValueError, match="Poisson"):
        tn.check_gradients(tn.Poisson(), target=[[-3.0]])
    for target in (3, [], ["cat"]):
        with pytest.raises(ValueError, match=r" is no batch of targets: give numbers \(n,\) or \(n, o\)$"):
            tn.check_gradients(tn.CrossEntropy(), target=target)
    with pytest.raises(TypeError, match="^3 is neither a layer nor a loss: give one, such as "):
        tn.check_gradients(3)


def test_a_nan_is_no_right_gradient():
    class Undefined(tn.Tanh):
        def df(self, xp, dy, x, y):
            return dy * math.nan

    with pytest.raises(tn.GradientError):
        tn.check_gradients(Undefined())
    with pytest.raises(tn.GradientError, match=" is wrong for b: its relative error is nan"):  # and for nothing else
        tn.check_gradients(Crooked(3, wrong="b", factor=math.nan))


def test_samples_are_spread_over_the_largest_set():
    diagnosis = tn.Diagnosis(tn.data.Spirals(2**62), samples=4)
    diagnosis.look(tn.Model(tn.Dense(3), n_in=2), loss=tn.CrossEntropy())
    assert [place // 2**60 for place in spaced_indices(2**62, 4).tolist()] == [0, 1, 2, 3]


@pytest.mark.parametrize("k", [2, 4, 10])
def test_classes_that_alternate_are_all_looked_at(k):
    """Every second sample was of the same class."""
    count = np.bincount(spaced_indices(5120, 512) % k)
    assert len(count) == k
    assert count.max() < 1.1 * count.min()
    assert spaced_indices(k, k).tolist() == list(range(k))
