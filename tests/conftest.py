"""The backends that the tests run on: array libraries of every kind and, with ``-m gpu``, a CUDA device."""

import gc
import os
import signal

import pytest
from tinynet_backends import BackendUnavailable, get_backend, set_backend

import tinynet.cli.plot
from tinynet.activations import Activation
from tinynet.data.virtual import Virtual
from tinynet.data.wrappers import Wrapper
from tinynet.losses import Loss
from tinynet.optim import Optimizer

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # scikit-learn accepts arrays other than NumPy's only if SciPy does
# Two processes share the cores: a thread of a library that waits for work in a loop takes the core that the other process
# works on. Workers inherit these before they load NumPy.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # a power of two, of clock ticks
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

NAMES = [
    "numpy",
    "numba",
    pytest.param("strict:CPU_DEVICE", marks=pytest.mark.slow),  # the default device, with float64 as its default dtype
    "strict:device2",  # the strictest of them: it is not the default device, and float32 is its default dtype
    pytest.param("torch", marks=pytest.mark.slow),  # a large library
]


@pytest.fixture(params=[*NAMES, pytest.param("cupy", marks=pytest.mark.gpu)])
def ops(request):
    """Every backend; one that cannot run is skipped, with the reason in its own error."""
    try:
        return get_backend(request.param)
    except BackendUnavailable as e:
        pytest.skip(str(e))


def pytest_addoption(parser):
    parser.addoption(
        "--rehearse",
        action="store_true",
        help="with -m gpu: the tests of CUDA on a stand-in for CuPy, see tests/rehearsal/__init__.py",
    )


def pytest_configure(config):
    if config.getoption("rehearse"):
        from rehearsal.plugin import Rehearsal

        config.pluginmanager.register(Rehearsal(config))


FORMULAS = Activation, Loss, Optimizer, Virtual, Wrapper


@pytest.hookimpl(tryfirst=True)  # before slow tests are left out
def pytest_collection_modifyitems(items):
    """On array-api-strict each operation takes a hundred times as long: tests that are `long` are slow there.

    Numba compiles every formula, and anew for float64, which takes most of a test's time.

    So of a table of formulas (activations, losses, optimizers, data sets) numba has the first by default, in float32, and
    all of them if slow tests run. Each instruction of a formula is tested by default, in `test_ops.CASES`.
    """
    first: dict[str, str] = {}
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        if item.get_closest_marker("long") and any(
            isinstance(v, str) and v.startswith("strict") for v in params.values()
        ):
            item.add_marker(pytest.mark.slow)
        if not any(isinstance(v, str) and v == "numba" for v in params.values()):
            continue
        values = (v[0] if isinstance(v, list) and v else v for v in params.values())
        formula = next((repr(v) for v in values if isinstance(v, FORMULAS)), "")
        table = item.nodeid.partition("[")[0]
        double = item.get_closest_marker("double") or (
            isinstance(params.get("dtype"), str) and params["dtype"] == "float64"
        )
        if double or (formula and formula != first.setdefault(table, formula)):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _numpy_by_default(monkeypatch):
    monkeypatch.delenv("TINYNET_BACKEND", raising=False)
    yield
    set_backend(None)


@pytest.fixture
def no_picture(monkeypatch):
    """Commands draw no picture of a run, which takes longer than all else that those of the tests do."""
    monkeypatch.setattr("tinynet.cli.train.picture", lambda *about: b"")


@pytest.fixture
def picture(monkeypatch, no_picture):
    """They draw it all the same."""
    monkeypatch.setattr("tinynet.cli.train.picture", tinynet.cli.plot.picture)


@pytest.fixture
def heard():
    """Signals that nohup, or a script that starts a job in the background, may have set to be ignored."""
    usual = {signal.SIGINT: signal.default_int_handler}
    if hasattr(signal, "SIGHUP"):
        usual[signal.SIGHUP] = signal.SIG_DFL
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


gc.disable()  # until all tests are collected: next to nothing of what that makes is garbage


def pytest_collection_finish():
    """The garbage collector leaves out thousands of tests, and looks for garbage less often."""
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(10_000, 20, 50)


_FIRST_STATES: dict[int, dict] = {}


@pytest.fixture(autouse=True)
def _the_same_numbers_whichever_tests_ran_before(request):
    rng = getattr(request.module, "RNG", None)
    if rng is not None:
        rng.bit_generator.state = _FIRST_STATES.setdefault(id(rng), rng.bit_generator.state)
