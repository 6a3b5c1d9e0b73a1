"""The binding of cublasLt, on the real library if it is installed: all but the handle works without a driver."""

import ctypes
import gc
import re
from pathlib import Path

import pytest
from tinynet_backends.cuda import lt
from tinynet_backends.cuda.plan import Array, Epilogue, plan, variants


@pytest.fixture(scope="module")
def library():
    try:
        return lt.library()
    except OSError as e:
        pytest.skip(f"{e}: pip install nvidia-cublas")


def arrays(batch, *shapes):
    """Row-major arrays, with a leading axis if there is a batch."""
    axes = (batch,) if batch else ()
    return [Array((*axes, r, c), (r * c, c, 1)[-len(axes) - 2 :], "float32") for r, c in shapes]


EPILOGUES = [1, 2, 4, 6, 256]


@pytest.mark.parametrize("precision", ["float32", "bf16x3", "tf32", "bf16"])
@pytest.mark.parametrize("batch", [0, 3])
def test_the_library_takes_every_descriptor(library, precision, batch):
    for epilogue in EPILOGUES:
        made = plan(*arrays(batch, (64, 784), (784, 10), (64, 10)), precision, epilogue)
        if precision == "bf16x3" and epilogue == Epilogue.SUM_A:
            assert made is None
            continue
        for variant in variants(made):
            problem = lt.Problem(library, variant)
            assert problem.get("epilogue", ctypes.c_uint32) == epilogue
            assert problem.get("transa", ctypes.c_int32) == 0
            assert problem.get("transb", ctypes.c_int32) == 0
            if variant.epilogue.has_bias:
                assert problem.get("bias", ctypes.c_void_p)
                assert problem.get("bias_stride", ctypes.c_int64) == (10 if batch else 0)
    del problem
    gc.collect()


def test_transposed_operands_say_so(library):
    x, w, out = arrays(0, (64, 784), (784, 10), (64, 10))
    transposed = Array((784, 10), (1, 784), "float32")
    problem = lt.Problem(library, plan(x, transposed, out))
    assert problem.get("transa", ctypes.c_int32) == 1
    problem = lt.Problem(library, plan(Array((64, 784), (1, 64), "float32"), w, out))
    assert problem.get("transb", ctypes.c_int32) == 1


def test_what_it_refuses_is_said(library):
    with pytest.raises(lt.LtError) as e:
        library.call("cublasLtMatmulDescCreate", None, 68, 0)
    assert str(e.value) == "cublasLtMatmulDescCreate of cublasLt failed with CUBLAS_STATUS_INVALID_VALUE (7)"
    assert library.version >= 120000


@pytest.mark.parametrize(("status", "said"), [(lt.NO_ALGORITHM, False), (8, True)])
def test_a_library_that_cannot_propose_is_one_without_algorithms(status, said, caplog):
    error = lt.LtError("cublasLtMatmulAlgoGetHeuristic", status, "CUBLAS_STATUS_ARCH_MISMATCH")

    class Refusing:
        def call(self, name, *args):
            raise error

    problem = lt.Problem.__new__(lt.Problem)
    problem.library = Refusing()
    problem._desc = problem._a = problem._b = problem._d = problem._preference = None
    assert problem.candidates(None) == []
    assert [r.getMessage() for r in caplog.records] == [str(error)] * said


def test_some_of_the_algorithms_need_no_workspace():
    asked = []

    class Proposing:
        def call(self, name, *args):
            if name == "cublasLtMatmulPreferenceSetAttribute":
                asked.append(ctypes.cast(args[2], ctypes.POINTER(ctypes.c_uint64))[0])
                return
            most, proposed, count = args[-3].value, args[-2], args[-1]._obj
            answer = {lt.WORKSPACE: [(1, 1 << 20), (2, 0), (3, 64)], 0: [(2, 0), (4, 0), (5, 0)]}[asked[-1]]
            assert len(proposed) == most
            count.value = len(answer)
            for place, (code, workspace) in zip(proposed, answer, strict=False):
                place.algo[0], place.workspace, place.state = code, workspace, 7 * (code == 5)  # which is none

    problem = lt.Problem.__new__(lt.Problem)
    problem.library = Proposing()
    problem._desc = problem._a = problem._b = problem._d = problem._preference = None
    found = problem.candidates(None)
    assert [(code[0], len(code), workspace) for code, workspace in found] == [
        (1, 64, 1 << 20), (2, 64, 0), (3, 64, 64), (4, 64, 0)
    ]  # fmt: skip
    assert asked == [lt.WORKSPACE, 0]


def test_our_numbers_are_the_header_s(library):
    header = Path(library._library._name).parents[1] / "include" / "cublasLt.h"
    if not header.exists():
        pytest.skip("the wheel brought no header")
    text = header.read_text("utf-8") + header.with_name("cublas_api.h").read_text("utf-8")
    values = dict(re.findall(r"(CUBLAS\w+)\s*=\s*([^,/\n]+)", text))

    def number(name):
        return eval(re.sub(r"CUBLAS\w+", lambda m: str(number(m[0])), values[name]))

    desc = {"transa": "TRANSA", "transb": "TRANSB", "epilogue": "EPILOGUE", "bias": "BIAS_POINTER",
            "bias_stride": "BIAS_BATCH_STRIDE", "bias_type": "BIAS_DATA_TYPE"}  # fmt: skip
    assert {k: number(f"CUBLASLT_MATMUL_DESC_{v}") for k, v in desc.items()} == lt.DESC
    layout = {"batch": "BATCH_COUNT", "stride": "STRIDED_BATCH_OFFSET"}
    assert {k: number(f"CUBLASLT_MATRIX_LAYOUT_{v}") for k, v in layout.items()} == lt.LAYOUT
    preference = {"workspace": "MAX_WORKSPACE_BYTES"} | {k: f"MIN_ALIGNMENT_{k.upper()}_BYTES" for k in "abcd"}
    assert {k: number(f"CUBLASLT_MATMUL_PREF_{v}") for k, v in preference.items()} == lt.PREFERENCE
    compute = {"float32": "32F", "bf16x3": "32F", "bf16": "32F", "tf32": "32F_FAST_TF32", "float64": "64F"}
    assert {k: number(f"CUBLAS_COMPUTE_{v}") for k, v in compute.items()} == lt.COMPUTE
    assert number("CUBLAS_STATUS_NOT_SUPPORTED") == lt.NO_ALGORITHM
    names = {
        "DEFAULT": Epilogue.NONE, "RELU": Epilogue.RELU, "BIAS": Epilogue.BIAS, "RELU_BIAS": Epilogue.RELU | Epilogue.BIAS,
        "BGRADA": Epilogue.SUM_A,
    }  # fmt: skip
    assert {name: number(f"CUBLASLT_EPILOGUE_{name}") for name in names} == {k: int(v) for k, v in names.items()}
