"""The article's network: its arithmetic, its table, and one step worked out by hand."""

import runpy
from math import exp
from pathlib import Path

import numpy as np
import pytest

import tinynet as tn

EXAMPLE = Path(__file__).parents[1] / "examples" / "first_network.py"
example = runpy.run_path(str(EXAMPLE))
X, Y = np.array(example["X"]), np.array(example["Y"])


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def article(w1, w2, steps):
    """Feed forward, propagate the error back by the chain rule, add the gradient of the article to the weights."""
    for _ in range(steps):
        hidden = sigmoid(X @ w1)
        out = sigmoid(hidden @ w2)
        error = 2 * (Y - out) * out * (1 - out)
        d2, d1 = hidden.T @ error, X.T @ (error @ w2.T * hidden * (1 - hidden))
        w1, w2 = w1 + d1, w2 + d2
    return w1, w2


@pytest.mark.parametrize(("backend", "steps"), [("numpy", 1500), ("strict:device1", 30)])
def test_the_weights_are_the_article_s(backend, steps):
    start = example["first_network"](steps=1)  # a model needs a step; its start is drawn again below
    fresh = tn.Model(start.net, 3, dtype="float64")
    w1, w2 = article(*(w.copy() for w in fresh.weights().values()), steps)
    model = example["first_network"](steps=steps, backend=backend)
    mine = [model.ops.to_numpy(w) for w in model.weights().values()]
    np.testing.assert_allclose(mine[0], w1, atol=1e-10)
    np.testing.assert_allclose(mine[1], w2, atol=1e-10)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))])
def test_every_seed_comes_close_to_the_facts(seed):
    assert np.abs(example["first_network"](seed).predict(X) - Y).max() < 0.05


def test_the_example_prints_its_table(capsys):
    example["main"]()
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["prediction", "fact"]
    assert [row.split()[1] for row in rows] == ["0", "1", "1", "0"]
    assert all(abs(float(row.split()[0]) - float(row.split()[1])) < 0.05 for row in rows)


@pytest.mark.double
def test_a_step_by_hand(ops):
    """x = (1, 2), target 1; one hidden sigmoid unit, one linear output; sum of squares; rate 1/2."""
    net = tn.Sequential(tn.Dense(1), tn.Sigmoid(), tn.Dense(1))
    model = tn.Model(net, 2, dtype="float64", backend=ops)
    for name, value in {"0.w": [[0.5], [-0.25]], "0.b": [0.0], "2.w": [[2.0]], "2.b": [-0.5]}.items():
        model.weights()[name][...] = ops.asarray(np.array(value))
    # z = 1 * 0.5 + 2 * -0.25 + 0 = 0          h = sigmoid(0) = 1/2         y = 2 * 1/2 - 0.5 = 1/2
    # loss = (1/2 - 1)**2 = 1/4                dy = 2 (1/2 - 1) = -1
    # dw2 = dy h = -1/2    db2 = dy = -1       dh = dy w2 = -2
    # dz = dh h (1 - h) = -2 * 1/4 = -1/2      dw1 = (1, 2) dz = (-1/2, -1)     db1 = -1/2
    # each weight moves by -rate times its gradient
    assert float(model.predict([[1.0, 2.0]])[0, 0]) == 0.5
    history = model.fit(([[1.0, 2.0]], [[1.0]]), loss=tn.SumSquaredError(), optimizer=tn.SGD(0.5))
    assert history[0]["loss"] == 0.25
    after = {name: ops.to_numpy(w).ravel().tolist() for name, w in model.weights().items()}
    assert after == {"0.w": [0.75, 0.25], "0.b": [0.25], "2.w": [2.25], "2.b": [0.0]}
    # z = 0.75 + 2 * 0.25 + 0.25 = 1.5         y = 2.25 sigmoid(1.5)
    assert float(model.predict([[1.0, 2.0]])[0, 0]) == pytest.approx(2.25 / (1 + exp(-1.5)), rel=1e-15)
