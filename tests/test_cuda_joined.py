"""Launches of one block each as one launch: when, and with the same bits."""

import logging
import re

import numpy as np
import pytest
from cuda_shim import nvrtc, shim
from test_cuda_fused import ARTICLE
from test_cuda_kernels import ARCHITECTURES, FILES, needs_nvrtc
from tinynet_backends.cuda import graph, joined
from tinynet_backends.cuda.source import load

import tinynet as tn

X = np.random.default_rng(3).standard_normal((8, 3)).astype("float32")
Y = np.random.default_rng(4).random((8, 1)).astype("float32")
LAYERS = tn.Sequential(
    tn.Dense(4), tn.BatchNorm(), tn.GELU(), tn.Dropout(0.3), tn.Dense(5), tn.LayerNorm(), tn.Tanh(), tn.Dense(20)
)


@pytest.fixture(scope="module")
def machine(request, tmp_path_factory):
    return shim.at(request, tmp_path_factory)


ARTICLES = ARTICLE, Y, tn.SumSquaredError(), tn.SGD(0.1)


def trained(ops, run=ARTICLES, dtype="float32", **options):
    net, y, loss, optimizer = run
    model = tn.Model(net, 3, backend=ops, dtype=dtype, seed=2)
    loader = tn.Loader(tn.Arrays(X, y), 4, shuffle=False, prefetch=False)
    losses = [float(report.loss) for report in tn.train(model, loader, loss, optimizer, steps=6, **options)]
    return losses, model.theta.tobytes(), model.state.tobytes()


def as_written(monkeypatch, ops, *args, **options):
    with monkeypatch.context() as patch:
        patch.setattr(graph._Compilation, "__call__", lambda self, calls: self._as_written(calls))
        return trained(ops, *args, **options)


class Listening(shim.ShimBackend):
    """It keeps the source of every kernel."""

    def _run(self, source, kernel, *args, **options):
        self.__dict__.setdefault("sources", {})[kernel] = source
        super()._run(source, kernel, *args, **options)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_all_kinds_of_kernels_are_joined(dtype, machine, monkeypatch):
    """Rows by teams of several sizes, columns by tiles, and what sums over a whole vector."""
    ops, run = Listening(machine), (LAYERS, np.arange(8) * 2, tn.CrossEntropy(), tn.Adam(0.01))
    machine.launched.clear()
    found = trained(ops, run, dtype, clip=0.1)
    assert machine.launched[-4:] == ["joined"] * 4
    assert found == as_written(monkeypatch, ops, run, dtype, clip=0.1)
    if not nvrtc.missing():
        assert nvrtc.compiled(ops.sources["joined"].text, "sm_90").startswith(b"\x7fELF")


@pytest.mark.slow
def test_a_graph_that_copies_too_stays_as_it_is(machine):
    ops = shim.ShimBackend(machine)
    theta, kept = (np.zeros(5, "float32") for _ in range(2))

    def step(theta, kept, x, copies):
        for _ in range(2):
            ops.update(lambda xp, a, b: (a + b,), [theta], [x])
        if copies:
            ops.assign(kept, theta)

    for copies, launches in ((True, ["formula"] * 2), (False, ["joined"])):
        compiled = ops.compile(step, theta, kept)
        for _ in range(3):
            machine.launched.clear()
            compiled(np.ones(5, "float32"), copies)
        assert machine.launched == launches
    assert theta.tolist() == [12.0] * 5
    assert kept.tolist() == [6.0] * 5


def test_more_than_one_block_is_not_joined(machine):
    ops = shim.ShimBackend(machine)
    theta = np.zeros(1025, "float32")  # 4 numbers a thread, and one

    def step(theta, x):
        for _ in range(2):
            ops.update(lambda xp, a, b: (a + b,), [theta], [x])

    compiled = ops.compile(step, theta)
    for _ in range(3):
        machine.launched.clear()
        compiled(np.ones(1025, "float32"))
    assert machine.launched == ["formula"] * 2
    assert theta.tolist() == [6.0] * 1025


@pytest.mark.parametrize("when", [pytest.param("compiled", marks=pytest.mark.slow), "captured"])
def test_a_device_that_refuses_gets_the_launches(when, machine, monkeypatch, caplog):
    class Refusing(shim.ShimBackend):
        def _run(self, source, kernel, *args, **options):
            if kernel == "joined" and (when == "compiled" or args[2] > 0):
                raise RuntimeError("too many resources requested for launch")
            super()._run(source, kernel, *args, **options)

    caplog.set_level(logging.WARNING, logger="tinynet")
    ops = Refusing(machine)
    machine.launched.clear()
    found = trained(ops)
    assert machine.launched[-4:] == ["forward", "formula", "backward", "formula"]
    assert found == as_written(monkeypatch, ops)
    (said,) = [r.getMessage() for r in caplog.records]
    assert said == "launches of one block each are not joined: too many resources requested for launch"


@pytest.mark.parametrize("name", FILES)
def test_no_macro_of_a_kernel_reaches_the_next(name):
    source = load(name, np.dtype("float32"))
    *_, after = joined._Code(source, 64, 2).text("k0").partition(f"{source.body[-20:]}}}\n")
    left = set(re.findall(r"^#define (\w+)", source.body, re.M)) | {"ROW", "COUNT"}
    assert {*after.split("\n")} == {f"#undef {macro}" for macro in left} | {""}


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["compute_80", *ARCHITECTURES])
def test_nvrtc_compiles_them_to_loads_that_see_what_was_stored(architecture, machine):
    """PTX's loads ld.global.nc may get what was in memory when the kernel began."""
    ops = Listening(machine)
    trained(ops)
    code = nvrtc.compiled(ops.sources["joined"].text, architecture)
    if architecture != "compute_80":
        assert code.startswith(b"\x7fELF")
        return
    assert b"ld.global.nc" not in code
    assert b"cp.async" in code
