"""The numba backend's machinery: parts and threads, the caller's limits, what is kept on disk. Its operations are held to
the portable ones in test_ops.py and its steps to themselves in test_capture.py."""

import errno
import importlib.util
import inspect
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from interrupts import interrupt
from test_losses import EPS
from tinynet_backends import get_backend

import tinynet as tn
from tinynet import training
from tinynet.data.dataset import SampleIndices
from tinynet.data.sampling import Shuffled
from tinynet.data.stacked import StackedLoader

pytest.importorskip("numba", reason="the backend needs numba")
import numba
from numba import float64, njit
from numba.core import caching
from tinynet_backends import BackendUnavailable, blas, numba_backend, numba_numbers
from tinynet_backends.compiled import build, cached, functions, intrinsics, kernels, loop, program
from tinynet_backends.numba_backend import NumbaBackend
from tinynet_backends.numba_dense import _layout
from tinynet_backends.tracing import trace

RNG = np.random.default_rng(0)
DTYPES = pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])  # compiled anew
DATA = tn.data.Blobs(2000, n_features=30, n_classes=4, seed=1)


def trained(epochs=2, seed=3, backend="numba"):
    """Large enough that products and passes have several parts."""
    net = tn.Sequential(
        tn.Dense(200), tn.ReLU(), tn.Dropout(0.1), tn.Dense(200), tn.Tanh(), tn.LayerNorm(), tn.Dense(4)
    )
    model = tn.Model(net, 30, backend=backend, seed=seed)
    model.fit(DATA, batch_size=256, epochs=epochs, clip=1.0)
    return model.theta.tobytes()


@pytest.fixture(scope="module")
def wanted():
    return trained()


def test_work_is_shared_out(monkeypatch):
    """Each part once, whoever does it, many times over."""
    machine = program.Machine()
    machine.cores = 4  # more helpers than there may be cores
    machine._fresh()
    monkeypatch.setattr(program, "machine", lambda: machine)
    x, g = np.arange(1e5), np.ones(1)
    for parts in (1, 2, 3, 7, 64):
        kernel = program.Kernel(build.formula(trace(lambda xp, x: x + 1.0, 1), x.dtype, "update"), parts)
        for _ in range(50):
            kernel(x.size, x)
    np.testing.assert_array_equal(x, np.arange(1e5) + 250)
    program.Kernel(build.written(kernels.squares, g.dtype), 5)(1, np.full(1, 3.0), g)
    assert g[0] == 9.0


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_a_thread_has_the_same_share_of_every_record(threads):
    """The parts of a thread lie side by side, so what it wrote in one record is what it reads in the next."""
    pool = np.zeros(loop.pool_size(threads), np.int64)
    pool[loop.THREADS] = threads
    for parts in (1, 2, 3, 8, 16, 17, 64):
        loop._share_out(pool.ctypes.data, 1, 2, parts)
        tickets = pool[loop._TICKETS :: loop._LINE][: min(threads, parts)]
        ends, firsts = tickets >> 32, tickets & 0xFFFFFFFF
        assert [*firsts, parts] == [0, *ends]
        assert set(ends - firsts) <= {parts // threads, parts // threads + 1}
        assert sorted(ends - firsts, reverse=True) == list(ends - firsts)


def test_threads_of_the_caller(wanted):
    """Runs side by side in threads: the same bits, whoever has the helpers."""
    results = []
    threads = [threading.Thread(target=lambda: results.append(trained())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [wanted] * 4


def products_with_vectors():
    """Of a matrix so large that BLAS would have its threads divide it, as it lies and turned."""
    ops, rng = get_backend("numba"), np.random.default_rng(0)
    x, v = (rng.standard_normal(shape, "float32") for shape in ((1025, 784), (1025, 1)))
    return [ops.affine(*pair).tobytes() for pair in ((x, v[:784]), (x.T, v), (v.T, x))]


def test_the_callers_limit_is_kept_and_changes_no_bit(wanted):
    library = blas.find()
    if library is None:
        pytest.skip("NumPy's BLAS is not the OpenBLAS of its wheels")
    before, others = library.threads(), []
    try:
        for limit in (1, 2):
            library._set(limit)
            assert trained() == wanted
            others.append(products_with_vectors())
            assert library.threads() == limit
    finally:
        library._set(before)
    assert others[0] == others[1]


def test_threadpoolctl():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    machine = program.machine()
    if machine.blas is None:
        pytest.skip("NumPy's BLAS is not the OpenBLAS of its wheels")
    with threadpoolctl.threadpool_limits(1), machine.blas.alone() as allowed:
        assert allowed == 1


def test_blas_is_alone_while_any_program_runs():
    library = blas.find()
    if library is None or library.threads() < 2:
        pytest.skip("NumPy's BLAS has one thread")
    before = library.threads()
    with library.alone() as first:
        with library.alone() as second:
            assert int(library._get()) == 1
            assert library.threads() == before
        assert int(library._get()) == 1
    assert first == second == int(library._get()) == before
    with pytest.raises(ValueError), library.alone():
        raise ValueError
    assert int(library._get()) == before


def test_ctrl_c_does_not_leave_blas_with_one_thread():
    library = blas.find()
    if library is None or library.threads() < 2:
        pytest.skip("NumPy's BLAS has one thread")
    before = library.threads()

    def often():
        for _ in range(40):
            with library.alone():
                pass

    def whole():
        assert (library._users, int(library._get())) == (set(), before)

    interrupt(often, whole, [1e-5 + 1e-7 * n for n in range(97)], times=300)


def test_ctrl_c_before_a_program_lets_helpers_sleep(monkeypatch):
    machine, x = program.machine(), np.ones(9)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(machine, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        program.Kernel(build.written(kernels.squares, x.dtype), 2)(x.size, x, np.ones(1))
    assert machine._pool[loop.RUNNING] == 0


def _child(queue):
    queue.put(trained())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*fork.*:RuntimeWarning")  # of JAX, where another test has imported it
def test_a_forked_process_goes_on(wanted):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == wanted
    child.join()
    assert trained() == wanted


@pytest.mark.parametrize("absent", [{"tiles": False}, {"tiles": False, "blas": None}])
def test_products_of_numpys(monkeypatch, wanted, absent):
    for name, value in absent.items():
        monkeypatch.setattr(program.machine(), name, value)
    theta = np.frombuffer(trained(), "float32")
    np.testing.assert_allclose(theta, np.frombuffer(wanted, "float32"), rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(blas.find() is None, reason="this NumPy has no OpenBLAS whose threads are counted")
@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", pytest.param("OPENBLAS_NUM_THREADS", marks=pytest.mark.slow)])
def test_one_thread_from_the_environment(name):
    code = "import tinynet as tn; print(tn.get_backend('numba').versions())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {name: "1"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith(", 1 threads")


def test_exp_is_the_same_whoever_calls_it_first():
    """It was compiled with the options of its first caller: runs ended with other bits if a softmax had come before."""
    spec = importlib.util.spec_from_file_location("functions_of_its_own", functions.__file__)
    own = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(own)
    njit(fastmath={"reassoc"})(lambda x: own.exp(x))(1.0)
    exp = own._MADE[float64][0]
    reduced = inspect.getclosurevars(exp.py_func).nonlocals["reduced"]
    texts = [text for f in (exp, reduced) for text in f.inspect_llvm().values()]
    assert len(texts) == 2
    assert not any("reassoc" in text for text in texts)


# What is kept on disk


def formula(xp, x):
    return x * 3.0 + 0.25


def test_a_formula_has_a_file_that_later_processes_find(monkeypatch, tmp_path):
    monkeypatch.setenv("TINYNET_CACHE", str(tmp_path / "new"))
    traced = trace(formula, 1)
    build.formula.__wrapped__(traced, np.dtype("float32"), "map")
    (path,) = (tmp_path / "new").glob("*.py")
    text = path.read_text()
    build.formula.__wrapped__(traced, np.dtype("float32"), "map")
    assert build._compiled[-1].cache_hits == 1
    # a damaged file is not believed
    path.write_bytes(b"\xff")
    x, y = np.ones(3), np.empty(3)
    program.Kernel(build.formula.__wrapped__(traced, np.dtype("float64"), "map"))(3, x, y)
    assert y.tolist() == [3.25] * 3
    assert path.read_text() == text


def test_what_is_on_disk_was_compiled_from_these_sources(monkeypatch, tmp_path):
    """Numba looks at a function's own file: what it calls is in others."""
    monkeypatch.setenv("TINYNET_CACHE", str(tmp_path))
    formula, dtype, read = trace(lambda xp, x: x + 2.0, 1), np.dtype("float32"), Path.read_bytes

    def hits():
        build.formula.__wrapped__(formula, dtype, "map")
        return build._compiled[-1].cache_hits

    monkeypatch.setattr(cached, "digest", cached.digest.__wrapped__)
    hits()
    assert hits() == 1
    for changed in ("exact.py", "functions.py"):
        monkeypatch.setattr(Path, "read_bytes", lambda path, name=changed: read(path) + b" " * (path.name == name))
        assert [hits(), hits()] == [0, 1]


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TINYNET_CACHE", str(tmp_path / "file" / "folder"))
    x, y = np.ones(3), np.empty(3)
    with caplog.at_level(logging.INFO, logger="tinynet"):
        program.Kernel(build.formula.__wrapped__(trace(formula, 1), np.dtype("float64"), "map"))(3, x, y)
    assert y.tolist() == [3.25] * 3
    assert "formulas are compiled anew in every process" in caplog.text


def kept(real=numba.float64):
    def nothing(at, part, parts):
        real(0.0)

    return cached.compiled(program.KERNEL, nothing)


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_a_file_of_numba_s_that_was_damaged_is_made_anew(suffix, monkeypatch, tmp_path):
    """By a power cut, for one: it then has no bytes."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    kept()
    (path,) = tmp_path.rglob(f"*{suffix}")
    path.write_bytes(b"")
    assert [kept().cache_hits, kept().cache_hits] == [0, 1]


@pytest.mark.parametrize(
    ("what", "error"),
    [
        (caching.IndexDataCacheFile, OSError(errno.ENOSPC, "No space left on device")),
        (caching.FunctionCache, RuntimeError("cannot cache function: no locator available")),
    ],
)
def test_kernels_that_cannot_be_kept_run_all_the_same(what, error, monkeypatch, tmp_path, caplog):
    def fail(self, *args):
        raise error

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cached, "unkept", [])
    monkeypatch.setattr(what, "save" if what is caching.IndexDataCacheFile else "__init__", fail)
    assert kept().address
    assert kept().address
    assert caplog.text.count("set NUMBA_CACHE_DIR to another folder") == 1


def test_kernels_for_two_dtypes_are_kept_under_two_names(monkeypatch, tmp_path):
    """Numba numbers the files of one name; of two processes that begin at once, both might give out the same number."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    for real in (numba.float32, numba.float64):
        kept(real)
    assert len([*tmp_path.rglob("*.nbi")]) == 2


def test_without_a_compiler_the_backend_is_not_there(monkeypatch):
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    with pytest.raises(BackendUnavailable, match="NUMBA_DISABLE_JIT is set: unset"):
        numba_backend.make(None)


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_where_formulas_are_kept(system, monkeypatch, tmp_path):
    for name in ("TINYNET_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", system)
    folder = build.cache_folder()
    assert folder.name == "tinynet"
    assert folder.is_relative_to(os.path.expanduser("~"))


@pytest.mark.skipif(not intrinsics._X86, reason="other processors are left as they are")
def test_an_update_takes_what_is_too_small_to_be_normal_for_zero():
    ops, tiny = get_backend("numba"), np.full(40, 1e-40, "float32")
    x, y = tiny.copy(), np.ones(40, "float32")
    ops.update(lambda xp, x, y, s: (x * 2.0 + y * s, y), [x, y], [], 1e-42)
    assert (x == 0.0).all()
    np.testing.assert_array_equal(ops.elementwise(lambda xp, x: x * 2.0, tiny), tiny * 2.0)
    assert (tiny * np.float32(2.0) > 0).all(), "the thread goes on as it was"


@DTYPES
def test_layouts_that_blas_takes_and_does_not(dtype):
    ops = get_backend("numba")
    rng, near = np.random.default_rng(0), {"rtol": 100 * EPS[dtype], "atol": 100 * EPS[dtype]}
    big = rng.standard_normal((40, 60), dtype)
    for x in (big[:20, :30], big[::2, :30], big.T[:20, :30], big[:20, 1:61:2], big[:20, ::-1][:, :30], big[:1, :30], big[:20, :1],
              np.broadcast_to(big[:1, :30], (20, 30)), np.broadcast_to(big[:20, :1], (20, 30))):  # fmt: skip
        w, b = rng.standard_normal((x.shape[1], 7), dtype), rng.standard_normal(7, dtype)
        np.testing.assert_allclose(ops.affine(x, w, b), x @ w + b, **near)
        dy = rng.standard_normal((x.shape[0], 7), dtype)
        for got, want in zip(ops.affine_grad(dy, x, w, True), (dy @ w.T, x.T @ dy, dy.sum(0)), strict=True):
            np.testing.assert_allclose(got, want, **near)


def together(ops, network, count):
    """Networks that were trained as one."""
    model = tn.Model(network, 5, backend=ops)
    data = np.ones((30, 5)), np.arange(30) % 3
    options = {"epochs": 2, "clip": 1.0, "batch_size": 12}  # products are BLAS's and our own
    return tn.fit_many(model, data, seeds=range(count), **options)


def test_large_layers_are_updated_where_their_gradients_were_made(monkeypatch, wanted):
    found, layers = [], NumbaBackend._layers
    monkeypatch.setattr(NumbaBackend, "_layers", lambda self, g: found.append(layers(self, g)) or found[-1])
    assert trained() == wanted
    assert [0, 30 * 200 + 200] in found  # the second layer is large
    monkeypatch.setattr(NumbaBackend, "_layers", lambda self, g: [0])
    assert trained() == wanted


@pytest.mark.parametrize("count", [2, 6, 7])
def test_chains_change_no_bit(count, monkeypatch):
    """However many shares the networks are cut into, and however many threads take them, and without chains."""
    ops, network = (
        get_backend("numba"),
        tn.Sequential(tn.Dense(20), tn.LayerNorm(), tn.Tanh(), tn.Dropout(0.2), tn.Dense(9), tn.ReLU(), tn.Dense(3)),
    )
    chains, division = [], program._division

    def noted(chain):
        chains.append(division(chain))
        return chains[-1]

    monkeypatch.setattr(program, "_division", lambda chain: 1)
    wanted = together(ops, network, count).theta.tobytes()
    monkeypatch.setattr(program, "_division", noted)
    for share in (2**40, 2**10, 1):
        monkeypatch.setattr(program, "_SHARE", share)
        chains.clear()
        assert together(ops, network, count).theta.tobytes() == wanted
        whole_and_smaller_batch = [1 if share == 2**40 else count] * 2  # a step is one chain
        assert chains == whole_and_smaller_batch


@pytest.mark.parametrize("batch_size", [1, 12])
def test_a_step_is_one_chain(batch_size, monkeypatch):
    """Of one sample, too, whose array has a step of 0 bytes once it was broadcast."""
    found, chains = [], program._chains
    monkeypatch.setattr(program, "_chains", lambda calls: found.append([*chains(calls)]) or iter(found[-1]))
    data = np.ones((24, 5), "float32"), np.arange(24) % 3
    network = tn.Sequential(tn.Dense(9), tn.ReLU(), tn.Dense(3))
    tn.fit_many(tn.Model(network, 5, backend="numba"), data, seeds=range(2), batch_size=batch_size, epochs=2)
    assert [len(chain) for chain in found] == [1]


def test_matrices_that_blas_can_take():
    """(code, distance of rows or columns) of single rows and columns, in whatever they were cut from."""
    a = np.zeros((6, 4))
    stored, turned, one = kernels.AS_STORED, kernels.TRANSPOSED, np.broadcast_to(a[:1, :], (1, 4))
    assert [*map(_layout, (a, a.T, a[:, :1], a[:, :1].T))] == [(stored, 4), (turned, 4)] * 2
    assert [*map(_layout, (a[:1, :], a[:1, :].T, one, one.T))] == [(stored, 4), (stored, 1)] * 2
    assert _layout(np.zeros((6, 1))) == (stored, 1)
    assert [*map(_layout, (a[:, ::2], np.broadcast_to(a[:1, :], (6, 4))))] == [(0, 0)] * 2


@pytest.mark.parametrize("count", [2, 7])
def test_several_steps_at_once_have_the_bits_of_single_ones(count, monkeypatch):
    """A core takes a network through several steps before the next: full batches, a smaller last one, and two orders."""
    ops, scan, ran = get_backend("numba"), NumbaBackend.scan, []
    data = RNG.standard_normal((330, 5)).astype("float32"), np.arange(330) % 3
    network = tn.Sequential(tn.Dense(12), tn.Tanh(), tn.Dropout(0.2), tn.Dense(9), tn.ReLU(), tn.Dense(3))

    def trained(**options):
        model = tn.Model(network, 5, backend=ops)
        networks = tn.fit_many(model, data, seeds=range(count), epochs=2, batch_size=12, **options)
        losses = [(history["loss"], history.curve) for history in networks.histories]
        return networks.theta.tobytes(), losses

    def noted(self, step):
        run = scan(self, step)
        return run and (lambda inputs, out: (ran.append(len(out)), run(inputs, out)))

    monkeypatch.setattr(program, "_SHARE", 1)
    rates = [0.01 * (1 + n) for n in range(count)]
    schedules = [tn.schedules.Step(rate, every=9) for rate in rates]
    for options in ({}, {"shuffle": False}, {"lr": rates, "optimizer": tn.NAdam()}, {"lr": schedules}):
        size = 1 if "shuffle" not in options else 5  # of a sample's number, or of a sample
        monkeypatch.setattr("tinynet.data.stacked.LARGEST_CHUNK", 16 * count * 12 * size)  # 16 steps
        monkeypatch.setattr(NumbaBackend, "scan", lambda self, step: None)
        wanted = trained(**options)
        monkeypatch.setattr(NumbaBackend, "scan", noted)
        ran.clear()
        assert trained(**options) == wanted
        # 27 full batches an epoch
        assert ran == ([] if options.get("lr") is schedules else [14, 11, 16, 11])


def test_several_steps_of_one_network_have_the_bits_of_single_ones(monkeypatch, tmp_path):
    """Those of a chunk in one run of records: full batches, up to where a checkpoint is due, at several rates."""
    ops, ran = get_backend("numba"), []
    data = RNG.standard_normal((330, 5)).astype("float32"), np.arange(330) % 3
    network = tn.Sequential(tn.Dense(12), tn.Tanh(), tn.Dropout(0.2), tn.BatchNorm(), tn.Dense(9), tn.Dense(3))

    def trained(**options):
        model = tn.Model(network, 5, backend=ops)
        history = model.fit(data, epochs=2, batch_size=12, ema=0.9, clip=1.0, **options)
        return model.theta.tobytes(), model.state.tobytes(), [row["loss"] for row in history.rows], history.curve

    def noted(self, table):
        ran.append(len(table))
        run(self, table)

    run = program._Repeated.run
    monkeypatch.setattr(program._Repeated, "run", noted)
    steps = type("Steps", (), {"at_step": lambda *args: None, "__call__": lambda *args: None})()
    for options, wanted in (
        ({}, [25, 27]),
        ({"shuffle": False, "optimizer": tn.NAdam(tn.schedules.Cosine(0.1, 56))}, [25, 27]),
        ({"checkpoint": tn.Checkpoints(tmp_path, every=10)}, [8, 10, 7, 2, 10, 10, 5]),
    ):
        ran.clear()
        one_by_one = trained(**options | {"callbacks": [steps], "checkpoint": None})
        assert not ran
        assert trained(**options) == one_by_one
        assert ran == wanted
    monkeypatch.setattr("tinynet.grouping._SHORT", 1)  # what takes longer lets Ctrl-C and callbacks in
    ran.clear()
    trained()
    assert not ran


@pytest.fixture
def divided(monkeypatch):
    """The backend, with each network a share of its own."""
    monkeypatch.setattr(program, "_SHARE", 1)
    return get_backend("numba")


def test_a_scan_is_call_after_call(divided):
    """Where it is one run, and where it cannot be: with other kinds of arguments, layouts, or dtypes of results."""
    ops, theta = divided, np.zeros((6, 4))

    def step(theta, x, none, by):
        assert none is None
        ops.update(lambda xp, a, x, by: (a + x * by,), [theta], [x], by)
        doubled = ops.elementwise(lambda xp, a: a * 2.0, theta)
        return ops.elementwise(lambda xp, a: a + 1.0, doubled)

    compiled = ops.compile(step, theta)
    assert ops.scan(step) is None
    for n in range(3):
        assert (ops.scan(compiled) is None) == (n < 2)
        compiled(np.zeros((6, 4)), None, 0.5)
    x = RNG.standard_normal((5, 6, 4))
    numbers = [0.5, -1.0, 2.0, 0.25, 3.0]
    cases = [
        (x, numbers, "float64"), (x[:1], numbers[:1], "float64"), (x[::-1], numbers, "float64"),
        (x[:, ::-1], numbers, "float64"), (x, numbers, "float32"), (x, [1, 2, 3, 4, 5], "float64"),
        (x, [0.5, 1, 2.0, 3, -4], "float64"), (x, numbers, "float64"),
    ]  # fmt: skip
    for x, numbers, dtype in cases:
        theta[...] = 0.0
        out, wanted = np.zeros((len(x), 6, 4), dtype), np.zeros((6, 4))
        ops.scan(compiled)([x, None, numbers], out)
        for got, more, by in zip(out, x, numbers, strict=True):
            wanted += more * by
            np.testing.assert_array_equal(got, (2.0 * wanted + 1.0).astype(dtype))
        np.testing.assert_array_equal(theta, wanted)
        theta[...] = 1.0
        np.testing.assert_array_equal(compiled(x[0], None, 0.0), np.full((6, 4), 3.0))  # single calls go on as before


def test_a_scan_returns_what_outlives_a_step(divided):
    ops, theta, x = divided, np.zeros((6, 4)), RNG.standard_normal((5, 6, 4))

    def moved(theta, x):
        ops.update(lambda xp, a, x: (a + x,), [theta], [ops.elementwise(lambda xp, x: 2.0 * x, x)])
        return theta

    compiled = ops.compile(moved, theta)
    for _ in range(3):
        compiled(x[0])
    out = np.zeros_like(x)
    ops.scan(compiled)([x], out)
    np.testing.assert_allclose(out, 6 * x[0] + 2 * np.cumsum(x, axis=0), rtol=1e-12)


def test_a_scan_returns_a_part_of_a_result(divided):
    ops, x = divided, RNG.standard_normal((5, 6, 4))

    def half(x):
        doubled = ops.elementwise(lambda xp, x: 2.0 * x, x)
        return ops.elementwise(lambda xp, x: x + 1.0, doubled)[:3, :]

    compiled, room = ops.compile(half), np.zeros((len(x) + 1, 3, 4))
    for _ in range(3):
        compiled(x[0])
    ops.scan(compiled)([x], room[:-1])
    np.testing.assert_array_equal(room[:-1], 2.0 * x[:, :3] + 1.0)
    assert not room[-1].any()  # the other half of a result has no place there


def test_what_nobody_reads_afterwards_stays_in_the_cache(monkeypatch):
    """Each part has all networks' numbers between two kernels at one place; what is returned has a place for each."""
    monkeypatch.setattr(program, "_SHARE", 1)
    parts = program.TURNS * program.machine().cores
    ops, x, seen = get_backend("numba"), np.arange(12.0 * parts).reshape(3 * parts, 4), []

    def step(x):
        seen.append(ops.elementwise(lambda xp, x: x * 2.0, x))
        return ops.elementwise(lambda xp, x: x + 1.0, seen[-1])

    played = ops.compile(step)
    for _ in range(2):
        played(x)
    between = seen[0]
    between[...] = -1.0
    np.testing.assert_array_equal(played(x), 2.0 * x + 1.0)
    assert (between == -1.0).all(axis=1).sum() == 2 * parts


def test_what_is_not_cut_alike_is_no_chain():
    """A kernel that reads all of what the one before writes by rows waits for the whole of it."""
    x, y, z, w = (np.zeros((4, 4)) for _ in range(4))
    row, all_ = program.Kernel(0, 1, 4), program.Kernel(0, 1, 0)

    def lengths(calls):
        return [len(chain) for chain in program._chains(calls)]

    assert lengths([(row, (x, y)), (row, (y, z)), (row, (z, w))]) == [3]
    assert lengths([(row, (x, y)), (all_, (y, z)), (row, (z, w)), (row, (w, x))]) == [1, 1, 2]
    assert lengths([(row, (x, y)), (program.Kernel(0, 1, 2), (y[:2], z))]) == [1, 1]
    for view in (y.T, y[::-1], np.broadcast_to(y[0], (4, 4)), y[0], y.reshape(2, 8), np.zeros(0)):
        apart = view.size == 0
        assert lengths([(row, (x, y)), (row, (view, z))]) == ([2] if apart else [1, 1])
    assert lengths([(row, (x, y[:, :2])), (row, (y[:, 2:], z))]) == [2]  # weights and biases in one vector
    wide = np.zeros((6, 4))
    assert lengths([(row, (x, wide[:4])), (row, (wide[2:], z))]) == [1, 1]


def test_rows_of_many_networks_are_gathered(ops):
    x, index = np.arange(60.0).reshape(20, 3), np.array([[3, 0, 19, 7], [5, 5, 2, 1]])
    found = ops.gather([ops.asarray(x), ops.asarray(x[:, 0])], ops.asarray(index))
    for a, wanted in zip(found, (x[index], x[index, 0]), strict=True):
        np.testing.assert_array_equal(ops.to_numpy(a), wanted)


@pytest.mark.parametrize("shape", [(300,), (300, 5)])
def test_a_gather_of_many_rows_checks_their_numbers(shape, monkeypatch):
    """A kernel reads at the address that a number says: one outside is NumPy's business."""
    monkeypatch.setattr(numba_numbers, "_SMALL", 0)
    ops, x, index = tn.get_backend("numba"), np.arange(np.prod(shape)).reshape(shape), np.arange(70_000) % 300
    np.testing.assert_array_equal(ops.gather([x], index)[0], x[index])
    for place in (0, 69_999):  # of either part
        index[place] = -1
        np.testing.assert_array_equal(ops.gather([x], index)[0], x[index])
    for wrong in (300, -301, 2**62):
        index[35_001] = wrong
        with pytest.raises(IndexError):
            ops.gather([x], index)


ELSEWHERE = """
import numpy as np, tinynet as tn
from tinynet_backends.compiled import vectors
ops, host = tn.get_backend("numba"), tn.get_backend("numpy")
for start, n in ((0, 9), (3, 700), (2**64 - 8, 8), (2**66 - 59, 300), (2**40 + 1, 4099)):
    a, b = (lib.words((5, 6), (1, 2, 3), start, n) for lib in (ops, host))
    assert a.tobytes() == b.tobytes(), (start, n)
for data in (tn.data.Blobs(500, n_features=20), tn.data.Spirals(500), tn.data.Checkerboard(500, n_features=9)):
    for mine, theirs in zip(data.batch(range(3, 490), ops, "float32")[:2], data.batch(range(3, 490), host, "float32")[:2]):
        assert mine.tobytes() == theirs.tobytes(), data
for n in (7, 1009, 2**62):
    a, b = (lib.permute(range(min(n, 700)), n, tuple(range(2**32 - 24, 2**32))) for lib in (ops, host))
    assert a.tobytes() == b.tobytes(), n
print(vectors.WIDE, vectors._FUSED, vectors.BLOCKS)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "features", "said"),
    [
        ("skylake-avx512", "+avx512f,+avx512dq,+avx512bw,+avx512vl,+avx2,+avx,+bmi2", "True False 20"),
        ("haswell", "+avx2,+avx,+bmi2", "True False 16"),
        ("nehalem", "+sse4.2", "False False 16"),
    ],
)
def test_words_and_samples_are_the_same_on_lesser_processors(name, features, said, tmp_path):
    """Compiled without the instructions that this processor has beyond another's."""
    if not all(intrinsics.has(feature[1:]) for feature in features.split(",")):
        pytest.skip(f"this processor cannot run what is compiled for {name}")
    env = os.environ | {
        "NUMBA_CPU_NAME": name,
        "NUMBA_CPU_FEATURES": features,
        "NUMBA_CACHE_DIR": str(tmp_path),
        "TINYNET_CACHE": str(tmp_path),
    }
    done = subprocess.run([sys.executable, "-c", ELSEWHERE], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == said, done.stderr[-2000:]


@pytest.mark.parametrize(("without", "wanted"), [(7, False), (10, True), (13, True)])
def test_helpers_help_where_they_do(without, wanted, monkeypatch):
    """With a clock of ours: a program takes 10 ticks with helpers. Without them it takes longer again after a second trial."""
    now, ran = [0.0], []

    class Machine:
        def together(self, first, last, helped):
            ran.append(helped)
            now[0] += 1e-6 * (10 if helped else without)
            now[0] += {program._TRIED - 1: -9e-6, program._TRIED: 1.0}.get(len(ran), 0.0)  # luck, and something between

    monkeypatch.setattr(program, "perf_counter", lambda: now[0])
    adaptive = program.AdaptiveProgram(Machine(), np.zeros(1, np.int64))
    early, tried = program._EARLY, program._TRIED
    pauses = [early, 2 * early, 4 * early]
    for pause in pauses:
        for _ in range(2 * tried + pause):
            adaptive()
    for pause in pauses:
        trial = [ran.pop(0) for _ in range(2 * tried + pause)]
        assert trial == [True] * tried + [False] * tried + [wanted] * pause
    without = 13  # a verdict stands until the next trial
    while adaptive.left < program._EVERY:
        adaptive()
    for _ in range(program._EVERY):
        adaptive()
    assert all(ran[-program._EVERY :])
    for _ in range(2 * tried):
        adaptive()
    assert adaptive.left == program._EVERY


def test_a_trial_among_several_steps_takes_a_few_of_them(monkeypatch):
    """The slower way is not taken for longer because many steps come at once."""
    now, ran = [0.0], []

    class Machine:
        def together(self, first, last, helped):
            steps = (last - first) // 8
            now[0] += 1e-6 * steps * (2 if helped else 1)
            ran.append((steps, helped))

    tried, many = program._TRIED, 100
    monkeypatch.setattr(program, "perf_counter", lambda: now[0])
    adaptive, rows = program.AdaptiveProgram(Machine(), np.zeros(1, np.int64)), np.zeros((many, 1), np.int64)
    for _ in range(2):
        adaptive(rows)
    trial = [(1, True)] * tried + [(1, False)] * tried
    assert ran == 2 * [*trial, (many - 2 * tried, False)]
    adaptive.left = 2 * many
    adaptive(rows)
    assert ran[-1] == (many, False)
    assert adaptive.left == many


def test_what_takes_long_has_helpers(monkeypatch):
    now, ran = [0.0], []

    class Machine:
        def together(self, first, last, helped):
            ran.append(helped)
            now[0] += 1e-2 if helped else 1e-3

    monkeypatch.setattr(program, "perf_counter", lambda: now[0])
    adaptive = program.AdaptiveProgram(Machine(), np.zeros(1, np.int64))
    for _ in range(2 * program._EVERY):
        adaptive()
    assert all(ran)


class Doubled(tn.Arrays):
    def rows(self, index, ops, dtype):
        x, y, weight = super().rows(index, ops, dtype)
        return tn.data.Batch(x * 2, y, weight)


class Shifted(tn.data.Part):
    def rows(self, index, ops, dtype):
        x, y, weight = super().rows(index, ops, dtype)
        return tn.data.Batch(x + 1, y, weight)


X, LABELS = RNG.standard_normal((1000, 20)).astype(np.float32), RNG.integers(0, 3, 1000)
WEIGHT, TARGETS = RNG.uniform(0, 2, 1000).astype(np.float32), RNG.standard_normal((1000, 2)).astype(np.float32)
SOURCES = {  # data, the loader's options, and whether a step reads them itself
    "labels": (lambda _: (X, LABELS), {}, True),
    "targets and weights": (lambda _: (X, TARGETS, WEIGHT), {}, True),
    "one column": (lambda _: (X[:, :1].copy(), TARGETS[:, :1].copy()), {}, True),
    "a part of a subset of a part": (
        lambda _: tn.data.Part(tn.data.Subset(tn.Arrays(X, LABELS).split(0.9)[1], range(99, 0, -1)), 3, 90), {}, True
    ),
    "balanced": (lambda _: (X, LABELS), {"balance": True}, True),
    "drawn by weight": (lambda _: (X, LABELS), {"weights": WEIGHT}, True),
    "a file": (lambda path: written(path / "x.npy"), {}, True),
    "in order": (lambda _: (X, LABELS), {"shuffle": False}, False),
    "in a thread": (lambda _: (X, LABELS), {"prefetch": True}, False),
    "other numbers": (lambda _: (X.astype(np.float64), LABELS), {}, False),
    "other labels": (lambda _: (X, LABELS.astype(np.int8)), {}, False),
    "other weights": (lambda _: (X, LABELS, WEIGHT.astype(np.float64)), {}, False),
    "other order": (lambda _: (np.asfortranarray(X), LABELS), {}, False),
    "computed": (lambda _: tn.data.Moons(1000), {"shuffle": True}, False),
    "own rows": (lambda _: Doubled(X, LABELS), {}, False),
    "own part": (lambda _: Shifted(tn.Arrays(X, LABELS), 0, 900), {}, False),
}  # fmt: skip


def written(path):
    np.save(path, X)
    return np.load(path, mmap_mode="r"), LABELS


@pytest.mark.parametrize("kind", SOURCES)
def test_a_step_that_reads_its_samples_has_the_bits_of_batches_made_beforehand(kind, tmp_path, monkeypatch):
    """Single steps and many as one, over a smaller last batch and several epochs."""
    make, options, reads = SOURCES[kind]
    data = make(tmp_path)
    chunk, scan, indices, joined = tn.Loader.chunk, program._Repeated.__call__, [], []

    def noted(self, *args):
        indices.append(isinstance(self.data, SampleIndices))
        return chunk(self, *args)

    def scanned(*args):
        joined.append(scan(*args))
        return joined[-1]

    monkeypatch.setattr(tn.Loader, "chunk", noted)
    monkeypatch.setattr(program._Repeated, "__call__", scanned)
    order = {} if {"weights", "balance"} & set(options) else {"shuffle": True}

    def run():
        loader = tn.Loader(data, 32, seed=4, **order | options)
        out = loader.data.classes or loader.data.outputs
        net = tn.Sequential(tn.Dense(40), tn.ReLU(), tn.Dropout(0.2), tn.Dense(out))
        model = tn.Model(net, loader.data.shape[0], backend="numba")
        loss, losses = tn.CrossEntropy() if loader.data.classes else tn.MeanSquaredError(), []
        for together in (False, True):
            reports = tn.train(model, loader, loss, tn.Adam(0.01), steps=40, together=together)
            losses += [value for report in reports for value in report.recent]
        return model.theta.tobytes(), losses

    found = run()
    assert set(indices) == {reads}
    as_one = any(joined)
    joined.clear()
    monkeypatch.setattr(training, "read_in_step", lambda loader, *_: (loader, None))
    assert run() == found
    assert any(joined) == as_one


def test_many_networks_that_read_their_samples_have_the_bits_of_batches_made_beforehand(monkeypatch):
    """Of a part of a data set, with weights; the last batch is smaller."""
    data = tn.Arrays(X, X[:, :2].copy(), X[:, 0] ** 2).shard(1, 3)
    model, indices, chunk = tn.Model(tn.Dense(2), X.shape[1], backend="numba"), [], StackedLoader.chunk

    def noted(self, *args):
        indices.append(isinstance(self.data, SampleIndices))
        return chunk(self, *args)

    def run(**options):
        indices.clear()
        return tn.fit_many(model, data, seeds=range(3), batch_size=32, epochs=3, **options).theta.tobytes()

    monkeypatch.setattr(StackedLoader, "chunk", noted)
    assert run(shuffle=False)
    assert set(indices) == {False}  # all have the same samples
    found = run()
    assert set(indices) == {True}
    monkeypatch.setattr("tinynet.many.read_in_step", lambda loader, *_: (loader, None))
    assert run() == found
    assert set(indices) == {False}


class Beyond(Shuffled):
    """An order of one's own, with a mistake in its second epoch."""

    def draws(self, epoch, start, stop, host):
        return super().draws(epoch, start, stop, host) + 2000 * (epoch == 1)


def test_what_an_order_of_one_s_own_draws_is_checked_at_every_step():
    """A step that reads its samples would take those of an earlier step instead."""
    loader = tn.Loader((X, LABELS), 100, shuffle=True)
    loader.order = Beyond(loader.data.n, 0)
    with pytest.raises(IndexError, match="out of bounds"):
        tn.Model(tn.Dense(3), X.shape[1], backend="numba").fit(loader, epochs=2)


def test_a_file_too_large_to_keep_in_memory_is_not_read_in_a_step(tmp_path, monkeypatch):
    """Its pages are released now and then, by Python."""
    data, ops = tn.Arrays(*written(tmp_path / "x.npy")), tn.get_backend("numba")
    assert data.in_step(ops, "float32")
    monkeypatch.setattr("tinynet.data.resident.RELEASE", X.nbytes)  # the header is mapped, too
    assert not data.in_step(ops, "float32")
    assert not tn.Arrays(X, LABELS).in_step(tn.get_backend("numpy"), "float32")


def test_a_compiled_gather_checks_indices_that_may_be_anything():
    ops, x = tn.get_backend("numba"), np.arange(60.0).reshape(20, 3)
    step = ops.compile(lambda index: ops.gather([x, x[:, 0]], index)[0])
    for _ in range(4):
        np.testing.assert_array_equal(step(np.array([3, -1, 19])), x[[3, -1, 19]])
    for wrong in (20, -21, 2**62):
        with pytest.raises(IndexError):
            step(np.array([3, 0, wrong]))
    np.testing.assert_array_equal(step(np.array([1, 2, 3])), x[1:4])
    known = ops.compile(lambda index: ops.gather([x], index, inside=True)[0])
    for index in ([3, 1, 19], [0, 0, 2], [5, 4, 3], [1, 1, 1]):
        np.testing.assert_array_equal(known(np.array(index)), x[index])
    known(np.array([2**62, 2**62, 2**62]))  # somebody was wrong: what comes is not theirs, but nothing else is read


@DTYPES
@pytest.mark.parametrize(
    ("loss", "target", "weighted"),
    [
        (tn.CrossEntropy(), LABELS, True), (tn.CrossEntropy(class_weight=(1.0, 0.0, 2.0)), LABELS, False),
        (tn.CrossEntropy(0.1, (1.0, 0.5, 2.0)), LABELS, True), (tn.CrossEntropy(0.1), np.abs(X[:, :3]), False),
        (tn.MeanSquaredError(), X[:, :3], True), (tn.MeanSquaredError(), LABELS[:, None] == np.arange(3), False),
        (tn.SumSquaredError(), LABELS[:, None] * np.ones(3, np.int64), False),
        (tn.BinaryCrossEntropy((1.0, 3.0)), LABELS // 2, False),
    ],
)  # fmt: skip
def test_steps_of_any_loss_are_one_program(loss, target, weighted, dtype, monkeypatch):
    """A single call of NumPy's in a step divides its program, and between steps there is Python again."""
    scanned, scan = [], program._Repeated.__call__
    monkeypatch.setattr(program._Repeated, "__call__", lambda *args: scanned.append(scan(*args)) or scanned[-1])
    thetas = []
    for backend in ("numba", "numpy"):
        width = 1 if isinstance(loss, tn.BinaryCrossEntropy) else 3
        model = tn.Model(tn.Sequential(tn.Dense(16), tn.Tanh(), tn.Dense(width)), 20, backend=backend, dtype=dtype)
        data = (X.astype(dtype), target, *[WEIGHT.astype(dtype)] * weighted)
        for _ in tn.train(model, tn.Loader(data, 50, shuffle=True), loss, tn.SGD(0.01), steps=40, together=True):
            pass
        thetas.append(model.theta)
    assert scanned
    assert all(scanned)
    few = 80 * EPS[dtype]  # two roundings of numbers near 1 in each of forty steps
    np.testing.assert_allclose(*thetas, rtol=few, atol=few)
