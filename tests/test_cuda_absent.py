"""Missing or incomplete CUDA: the message, and that everything else works."""

import ctypes
import sys
import types

import pytest
from tinynet_backends import BackendUnavailable, get_backend, switch
from tinynet_backends.cuda import lt

import tinynet as tn
from tinynet.cli import main

LONG = """libnvrtc.so.13: cannot open shared object file

================================================================
CuPy is installed, followed by a long explanation.
"""


class FakeCupy(types.ModuleType):
    """CuPy, up to the point where it fails."""

    def __init__(self, devices=1, count=None, compiles=None, version="14.2.0", capability="90"):
        super().__init__("cupy")
        self.__version__ = version

        def get_device_count():
            if count is not None:
                raise count
            return devices

        class Device:
            compute_capability = capability

            def __init__(self, number):
                self.id = number
                self.mem_info = 900, 1000

            def __enter__(self):
                return self

            def __exit__(self, *args):
                return None

        def arange(n):
            if compiles is not None:
                raise compiles
            return n

        runtime = types.SimpleNamespace(getDeviceCount=get_device_count, getDevice=lambda: 0)
        self.cuda = types.SimpleNamespace(runtime=runtime, Device=Device)
        self.arange = arange


@pytest.fixture
def cupy(monkeypatch):
    """Puts a CuPy, or None, in the place of an installed one."""

    def put(fake):
        monkeypatch.setitem(sys.modules, "cupy", fake)
        monkeypatch.setitem(sys.modules, "array_api_compat.cupy", fake)
        monkeypatch.delattr(sys.modules["array_api_compat"], "cupy", raising=False)

    import array_api_compat

    assert array_api_compat
    switch._load.cache_clear()
    yield put
    switch._load.cache_clear()


NO_DRIVER = RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version")
INSTALL = "install one of the extras cuda12 and cuda13, whichever fits the driver"
CASES = {
    "no CuPy": (None, f"backend 'cupy' cannot be imported (import of cupy halted; None in sys.modules): {INSTALL}"),
    "no driver": (
        FakeCupy(count=NO_DRIVER),
        f"backend 'cupy' finds no CUDA device ({NO_DRIVER}): check the driver, or use 'numpy'",
    ),
    "no device": (FakeCupy(devices=0), "backend 'cupy' finds no CUDA device: check the driver, or use 'numpy'"),
    "an old CuPy": (FakeCupy(version="13.6.0"), f"backend 'cupy' needs CuPy 14 or later, not 13.6.0: {INSTALL}"),
    "an old device": (
        FakeCupy(capability="61"),
        "backend 'cupy' needs a device of compute capability 7.0, and this one has 6.1: use 'numpy'",
    ),
    "no toolkit": (
        FakeCupy(compiles=RuntimeError(LONG)),
        f"backend 'cupy' cannot use its device (libnvrtc.so.13: cannot open shared object file): {INSTALL}",
    ),
    "no headers": (
        FakeCupy(compiles=ImportError("cuda_fp16.h is missing")),
        f"backend 'cupy' cannot use its device (cuda_fp16.h is missing): {INSTALL}",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_missing_is_said_in_one_line(case, cupy, capsys):
    fake, said = CASES[case]
    cupy(fake)
    with pytest.raises(BackendUnavailable) as e:
        get_backend("cupy")
    assert str(e.value) == said
    assert get_backend("auto").name in ("numba", "numpy")
    assert main(["info"]) == 0
    out = capsys.readouterr()
    assert f"  cupy    not here: {said}\n" in out.out
    assert out.err == ""


def test_a_cupy_that_cannot_load_its_libraries(cupy, monkeypatch):
    cupy(FakeCupy())
    monkeypatch.setitem(sys.modules, "array_api_compat.cupy", None)
    with pytest.raises(BackendUnavailable, match="backend 'cupy' cannot be imported .*: install one of the extras"):
        get_backend("cupy")


def test_a_device_that_does_not_exist(cupy):
    cupy(FakeCupy(devices=2))
    with pytest.raises(BackendUnavailable) as e:
        get_backend("cupy:2:tf32")
    assert str(e.value) == "backend 'cupy:2' does not exist: devices are 0 to 1"


OR = ", or a precision: float32, bf16x3, tf32, bf16"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cupy:gpu", "backend 'cupy' takes a device number, not 'gpu': write 'cupy:0'" + OR),
        ("cupy:0:fp8", "backend 'cupy' has no precision 'fp8': choose from float32, bf16x3, tf32, bf16"),
        ("cupy:tf32:1", "backend 'cupy' takes a device number, not 'tf32': write 'cupy:0'" + OR),
        ("cupy:-1", "backend 'cupy' takes a device number, not '-1': write 'cupy:0'" + OR),
    ],
)
def test_invalid_names(name, said, cupy):
    cupy(FakeCupy())
    with pytest.raises(ValueError) as e:
        get_backend(name)
    assert str(e.value) == said


@pytest.mark.parametrize("precision", ["bf16x3", "tf32", "bf16"])
def test_a_device_without_that_precision(precision, cupy):
    cupy(FakeCupy(devices=2, capability="75"))
    with pytest.raises(BackendUnavailable) as e:
        get_backend(f"cupy:1:{precision}")
    said = f"backend 'cupy:1:{precision}' needs a device of compute capability 8.0, and this one has 7.5: use 'cupy:1'"
    assert str(e.value) == said


def test_without_cublaslt(cupy, monkeypatch):
    def missing(name, *args, **options):
        raise OSError(f"{name}: cannot open shared object file\nand so on")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", None)
    monkeypatch.setattr(lt, "library", lt.library.__wrapped__)
    cupy(FakeCupy())
    with pytest.raises(BackendUnavailable) as e:
        tn.get_backend("cupy")
    last = lt._names()[-1]
    assert str(e.value) == (
        f"backend 'cupy' cannot use its device (cublasLt cannot be loaded ({last}: cannot open shared object file)): {INSTALL}"
    )


def test_new_arrays_are_on_the_backend_s_device():
    """array_api_compat makes CuPy's on the current one."""
    from tinynet_backends.cupy_backend import CupyBackend

    current = [0]

    class Device:
        id = 1

        def __enter__(self):
            current.append(1)

        def __exit__(self, *args):
            current.pop()

    def make(*args, dtype=None, device=None):
        return current[-1]

    backend = CupyBackend.__new__(CupyBackend)
    backend.xp = types.SimpleNamespace(empty=make, zeros=make, full=make, arange=make, asarray=make, int64=None)
    backend.device, backend._running = Device(), types.SimpleNamespace(constants=None)
    runtime = types.SimpleNamespace(getDevice=lambda: current[-1])
    backend._cp = types.SimpleNamespace(cuda=types.SimpleNamespace(runtime=runtime))
    made = backend.empty((1,), None), backend.zeros((1,), None), backend.arange(0, 1)
    assert (*made, backend.constant((1,), 0.0, None), backend.constant((1,), (0.0,), None)) == (1,) * 5
    with backend.active():
        assert backend.empty((1,), None) == 1
        assert current == [0, 1]  # it is not entered again
    assert current == [0]
