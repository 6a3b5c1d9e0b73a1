"""The picture of the house, proved: `backends/` knows arrays, `tinynet/` knows networks, arrows point down."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePath

import pytest

ROOT = Path(__file__).parents[1]
LIBRARIES = {"numpy", "cupy", "torch", "jax", "numba", "array_api_strict"}
SPELLED = ("cupy", "numba", "torch")  # "numpy" is also the name of the backend that is always there
# These may import NumPy: files and pictures are on the host.
HOST_SIDE = {
    "array_files.py", "arrow.py", "class_labels.py", "files.py", "inputs.py", "outputs.py", "plot", "table_files.py", "writing.py",
}  # fmt: skip
EXPORT = "export"  # its files may spell PyTorch, whose names of weights they write and read, but not import it
LAZY = {
    "cupy", "numba", "torch", "sklearn", "matplotlib", "array_api_strict", "rich", "safetensors", "pyarrow", "h5py", "onnx",
    "onnxruntime", "tensorboardX",
}  # fmt: skip
SLOW = {"hashlib", "zipfile", "tempfile", "shutil", "fractions"}  # a tenth of the time of `import tinynet`, for files


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every absolute import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def spelled(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of every name, attribute, argument and string that is no docstring."""
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name", "value"):
            text = getattr(node, field, None)
            if isinstance(text, str) and id(node) not in statements:
                yield getattr(node, "lineno", 0), text


def breaches(source: str, file: str) -> list[str]:
    """What a file of `tinynet/` may not do, as "line: what"."""
    tree, path = ast.parse(source), PurePath(file)
    forbidden = LIBRARIES - ({"numpy"} if HOST_SIDE & {path.name, path.parent.name} else set())
    unsaid = set(SPELLED) - ({"torch"} if path.parent.name == EXPORT else set())
    found = [(line, f"imports {name}") for line, name in imported(tree) if forbidden & set(name.split(".")[:2])]
    if any(s in source.lower() for s in unsaid):
        found += [(line, f"spells {text!r}") for line, text in spelled(tree) if any(s in text.lower() for s in unsaid)]
    return [f"{line}: {what}" for line, what in sorted(set(found))]


def python_files(folder: str) -> list[Path]:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    return files


def test_tinynet_knows_no_array_library() -> None:
    found = [f"{p.name}:{what}" for p in python_files("tinynet") for what in breaches(p.read_text("utf-8"), str(p))]
    assert found == []


def test_backends_know_nothing_of_tinynet() -> None:
    trees = ((p, ast.parse(p.read_text("utf-8"))) for p in python_files("backends"))
    found = [
        f"{p.name}:{line}" for p, tree in trees for line, name in imported(tree) if name.split(".")[0] == "tinynet"
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import numpy as np", ["1: imports numpy"]),
        ("def f():\n    from jax import numpy", ["2: imports jax.numpy"]),
        ("from array_api_compat import numpy as xp", ["1: imports array_api_compat.numpy"]),
        ("if x.is_cupy: pass", ["1: spells 'is_cupy'"]),
        ("f(torch=1)", ["1: spells 'torch'"]),
        ('"""CuPy is fast."""\nname = "cupy"', ["2: spells 'cupy'"]),
        ('y = f"{x} on CuPy"', ["1: spells ' on CuPy'"]),
        ('"""CuPy and torch."""\nfrom safetensors.torch_free import save', []),
        ('from tinynet.files import load\nops = get_backend("numpy")', []),
    ],
)
def test_the_check_itself(source: str, found: list[str]) -> None:
    assert breaches(source, "layers.py") == found


def test_host_side_files_may_import_numpy_alone() -> None:
    assert breaches("import numpy as np", "files.py") == []
    assert breaches("import torch", "files.py") == ["1: imports torch", "1: spells 'torch'"]


def test_export_may_spell_the_names_that_it_writes() -> None:
    assert breaches("def to_torch_state(): pass", "export/torch_state.py") == []
    assert breaches("import torch; y = x.cupy", "export/torch_state.py") == ["1: imports torch", "1: spells 'cupy'"]


def test_import_is_light() -> None:
    code = (
        "import sys, numpy; before = {*sys.modules}; import tinynet; "
        f"print(sorted({LAZY!r} & {{*sys.modules}} | {SLOW!r} & {{*sys.modules}} - before))"
    )
    path = f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'backends')]!r}; "
    done = subprocess.run([sys.executable, "-c", path + code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")
