"""Launches of one block each as one launch: when, and with the same bits."""

import logging
import re
import weakref

import fake_cuda
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


def trained(ops, run=ARTICLES, dtype="float32", x=X, **options):
    net, y, loss, optimizer = run
    model = tn.Model(net, x.shape[1], backend=ops, dtype=dtype, seed=2)
    loader = tn.Loader(tn.Arrays(x, y), len(x) // 2, shuffle=False, prefetch=False)
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
    if dtype == "float32" and not nvrtc.missing():
        assert nvrtc.compiled(ops.sources["joined"].text, "sm_90").startswith(b"\x7fELF")


def launch(kernel, *args):
    return joined.Launch(load("reduce", np.dtype("float32")), kernel, 1, 256, args, 0)


def calls(launches):
    """The calls in the text of the joined kernel, and its table."""
    source, table = joined.joined(launches)
    return re.findall(r"case \d+: (.*); break;", source.text), table.tolist()


def test_sizes_are_compiled_and_all_else_is_in_the_table():
    numbers = np.float64(0.5), np.uint64(7), np.bool_(1)
    (call,), table = calls([launch("f", np.int64(-3), np.int32(5), 4112, *numbers, None, 4096)])
    words = ["Aligned{words + 1}", *(f"Word{{words + {n}}}" for n in (2, 3, 4)), "nullptr", "Aligned{words + 5}"]
    assert call == f"k0::f(-3, 5, {', '.join(words)})"
    assert table == [[0, 4112, 0x3FE0000000000000, 7, 1, 4096]]


def test_steps_of_the_same_sizes_have_the_same_text():
    def text(size, steps, at):
        return joined.joined([launch("f", np.int64(size), at), launch("g", None)] * steps)[0]

    assert text(3, 1, 64) == text(3, 16, 4096)
    assert text(3, 1, 64) != text(4, 1, 64)


def test_an_address_is_aligned_if_it_is_in_every_launch():
    for unit, first in ((16, "Aligned"), (8, "Address")):
        launches = [launch("f", np.int64(3), 4096 + unit * n, 4096 + unit * 2 * n) for n in range(4)]
        assert calls(launches)[0] == [f"k0::f(3, {first}{{words + 1}}, Aligned{{words + 2}})"]


def test_a_struct_that_says_how_much_of_it_is_used_is_compiled():
    kind = [("w", np.uint64, (4,)), ("kept", np.int64, (4,)), ("width", np.int32, (5,)), ("count", np.int32)]
    layers, parts = np.zeros((), kind), np.zeros((), kind[:2])
    layers["w"][:3], layers["kept"][:2], layers["width"][:3], layers["count"] = (48, 0, 56), (0, -1), (3, 4, 1), 2
    parts["kept"][3] = 9
    (call,), ((_, *words),) = calls([launch("f", layers, parts)])
    assert call == "k0::f({{Aligned{words + 1}, nullptr, Address{words + 2}}, {0, -1}, {3, 4, 1}, 2}, Word{words + 3})"
    assert words == [48, 56, *np.frombuffer(parts.tobytes(), np.uint64)]
    assert "#define USED 2\n" in joined.joined([launch("f", layers)])[0].text
    layers["count"] = 5  # straight code would be long
    assert calls([launch("f", np.int64(3), layers)])[0] == ["k0::f(3, Word{words + 1})"]


def test_of_too_many_sizes_none_is_compiled():
    few, many = ([launch("f", np.int64(n), 4096 + 16 * n) for n in range(count)] for count in (32, 33))
    assert calls(few)[0] == [f"k0::f({n}, Aligned{{words + 1}})" for n in range(32)]
    found, table = calls(many)
    assert found == ["k0::f(Word{words + 1}, Aligned{words + 2})"]
    assert table[5:7] == [[0, 5, 4096 + 80], [0, 6, 4096 + 96]]


SIZES = {
    "a depth in two parts": (7, 7, 6, [tn.Dense(8), tn.GELU(), tn.Dense(6)]),
    "in four": (16, 13, 9, [tn.Dense(16), tn.Tanh(), tn.Dense(3), tn.Sigmoid(), tn.Dense(9)]),
    "more squares": (15, 5, 24, [tn.Dense(24), tn.ReLU(), tn.Dense(24)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [True, False], ids=["sizes", "words"])
@pytest.mark.parametrize("sizes", SIZES)
def test_products_of_any_sizes_have_the_bits_of_the_kernels_one_by_one(sizes, compiled, machine, monkeypatch):
    (n, i, o, layers), rng = SIZES[sizes], np.random.default_rng(5)
    x, y = (rng.standard_normal((2 * n, width)).astype("float32") for width in (i, o))
    ops, run = shim.ShimBackend(machine), (tn.Sequential(*layers), y, tn.MeanSquaredError(), tn.SGD(0.1))
    if not compiled:
        monkeypatch.setattr(joined, "_BODIES", 0)
    machine.launched.clear()
    found = trained(ops, run, x=x)
    assert machine.launched[-1] == "joined"
    assert found == as_written(monkeypatch, ops, run, x=x)


def test_sixteen_steps_have_one_body_and_each_its_number(machine):
    ops = Listening(machine)
    theta, x = np.zeros(5, "float32"), np.ones(5, "float32")

    def step(theta, x, rate):
        ops.update(lambda xp, a, b, rate: (a + rate * b,), [theta], [x], rate)

    compiled = ops.compile(step, theta)
    for _ in range(3):
        machine.launched.clear()
        compiled.several([(x, 2.0**n) for n in range(16)])
    assert machine.launched == ["joined"]
    assert re.findall(r"case (\d+):", ops.sources["joined"].text) == ["0"]
    assert theta.tolist() == [3 * (2.0**16 - 1)] * 5


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


def test_a_graph_does_not_keep_what_its_step_has_dropped(machine):
    """Of several steps, only one needs its memory at a time."""
    ops, made = shim.ShimBackend(machine), []
    ops._run = lambda *args, **options: None

    def step(x):
        for _ in range(3):
            y = ops.elementwise(lambda xp, a: a + 1.0, x)
            made.append(weakref.ref(y))
            del y
        if ops._runtime.capturing():
            assert [there() is None for there in made[-3:]] == [True] * 3

    compiled = ops.compile(step)
    for _ in range(2):
        compiled(np.ones(5, "float32"))
    assert len(made) == 6


def test_what_they_share_is_enough_for_each_of_them(machine):
    """And their arguments stay as long as the graph."""
    ops, recording, asked = shim.ShimBackend(machine), graph.Recording(), []
    ops._run = lambda *args, shared: asked.append((args[1], args[-1], shared))
    pack = load("pack", np.dtype("float32"))
    recording.launches += [joined.Launch(pack, "pack", 1, 256, (np.int64(n),), 100 * n) for n in (1, 3, 2)]
    ops._joined(fake_cuda.Graph([None] * 3), recording, None)
    assert [(kernel, shared) for kernel, _, shared in asked] == [("joined", 300)] * 2
    assert [table is asked[0][1] for table in recording.kept] == [True]


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
    left = set(re.findall(r"^#define (\w+)", source.body, re.M)) | {"ROW", "USED"}
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
