"""``tinynet verify`` says "held" where all is well, and says what is not where it is broken on purpose."""

import numpy as np
import pytest
from tinynet_backends import exact, get_backend, permutation, philox, portable_operations
from tinynet_backends.numpy_backend import NumpyBackend

import tinynet as tn
from tinynet import losses, verify
from tinynet.cli import main
from tinynet.operands import operands


def report(backend):
    lines = []
    held = verify.verify([backend], lines.append)
    return held, "\n".join(lines)


@pytest.fixture(scope="module")
def on_numpy():
    return report(get_backend("numpy"))


@pytest.mark.parametrize(
    "ops",
    [
        "numpy",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("numba", "strict:device1", "torch")),
        pytest.param("cupy", marks=pytest.mark.gpu),
    ],
    indirect=True,
)
def test_all_holds(ops, request):
    held, said = request.getfixturevalue("on_numpy") if ops.name == "numpy" else report(ops)
    assert held, said
    assert said.count("held ") == len(verify.CHECKS)
    assert "fingerprint of a short run: " in said


@pytest.mark.parametrize("name", portable_operations())
def test_every_operation_that_can_be_replaced_is_tried(name):
    ops = get_backend("numpy")
    cases = operands(name, ops, 4, 8, "float32")
    assert cases
    for case in cases:
        getattr(ops, name)(*case)


def test_there_is_a_golden_value_for_every_set():
    assert set(verify.GOLDEN) == set(tn.data.DATASETS)


def test_the_command(capsys, on_numpy, monkeypatch):
    monkeypatch.setattr(verify, "CHECKS", verify.CHECKS[2:3])  # all of them ran above
    assert main(["verify", "--backend", "numpy", "--backend", "strict:no_float64"]) == 0
    out = capsys.readouterr().out
    assert "numpy: NumPy" in out
    assert on_numpy[1].splitlines()[-1] in out  # the fingerprint is the same each time
    assert "not tried: there is no float64" in out
    assert out.endswith("all held\n")


def broken_affine(self, x, w, b=None):
    return x @ w * 1.001 if b is None else x @ w * 1.001 + b


def wrong_update(self, formula, arrays, inputs, *scalars):
    for a, value in zip(arrays, formula(np, *arrays, *inputs, *scalars), strict=True):
        a[...] = value
        a[-1] += 1e-3


def broken_check(ops):
    """what never holds"""
    yield "it says why"


BROKEN = [
    (NumpyBackend, "affine", broken_affine, "affine in float32 is off by"),
    (NumpyBackend, "update", wrong_update, "update in float64 is off by"),
    (NumpyBackend, "halves", lambda self, w: exact.halves(np, w) + 2.0**-33, "halves in float64 is off by"),
    (NumpyBackend, "normal", lambda self, w: exact.normal(np, w) * (1 + 2.0**-52), "normal in float32 is off by"),
    (tn.Tanh, "derivative", None, "Tanh() is off by"),
    (losses.Huber, "formula", lambda self, xp, y, t: ((y - t) ** 2, y - t), "Huber(delta=1.0) is off by"),
    (philox, "WEYL", (1, 2), "data set spirals has other bits"),
    (permutation, "_rounds", lambda n: 22, "the order of an epoch has other bits"),
    (tn.Checkpoints, "save", None, "the weights have other bits"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("owner", "name", "change", "said"),
    [
        (verify, "CHECKS", (broken_check,), "it says why"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in BROKEN),
    ],
)
def test_what_is_broken_is_found(owner, name, change, said, monkeypatch, capsys):
    if owner is tn.Tanh:
        original = tn.Tanh.forward

        def change(self, params, x, ctx):
            y, backprop = original(self, params, x, ctx)
            return y, lambda dy: (backprop(dy)[0] * 1.01, {})

        name = "forward"
    if owner is tn.Checkpoints:
        original = tn.Checkpoints.save

        def change(self, snapshot):
            snapshot.run.average[0] += 1e-3  # not what the run goes on with
            original(self, snapshot)
            snapshot.run.average[0] -= 1e-3

    if owner is philox:  # the portable stream, which strict runs on
        monkeypatch.setattr(owner, name, change)
        monkeypatch.setattr(verify, "CHECKS", (verify._golden,))  # the others are slow there
        backend = "strict:device1"
    else:
        monkeypatch.setattr(owner, name, change)
        backend = "numpy"
    exact.normal_table.cache_clear()
    assert main(["verify", "--backend", backend]) == 1
    out = capsys.readouterr().out
    assert "FAILED" in out
    assert said in out
    assert out.endswith("NOT all held\n")
