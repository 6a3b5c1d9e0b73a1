"""The picture in docs/architecture.md, proven: tinynet/ knows no array library, backends/ knows no network."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARIES = {"numpy", "cupy", "torch", "jax", "dpnp", "numba", "array_api_strict"}
ON_THE_HOST = {"files.py", "plot.py"}  # files and pictures are made on the host, of NumPy arrays


def modules(source):
    """Top-level names of all that ``source`` imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def spelled(source):
    """Names and attributes in ``source``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Name, ast.Attribute)):
            yield node.id if isinstance(node, ast.Name) else node.attr


@pytest.mark.parametrize("path", sorted((ROOT / "tinynet").rglob("*.py")), ids=lambda path: path.name)
def test_the_network_knows_no_array_library(path):
    allowed = {"numpy"} if path.name in ON_THE_HOST else set()
    assert not (LIBRARIES - allowed) & set(modules(path.read_text()))
    assert not (LIBRARIES - allowed) & set(spelled(path.read_text()))


@pytest.mark.parametrize("path", sorted((ROOT / "backends").rglob("*.py")), ids=lambda path: path.name)
def test_a_backend_knows_no_network(path):
    assert "tinynet" not in set(modules(path.read_text()))


def test_the_check_can_fail():
    assert set(modules("def f():\n    import cupy.cuda\n    from torch import nn")) == {"cupy", "torch"}
    assert "cupy" in set(spelled("x = tn.cupy.zeros(3)"))


def test_importing_tinynet_imports_nothing_heavy():
    heavy = {"cupy", "torch", "numba", "sklearn", "matplotlib", "array_api_strict", "rich", "safetensors"}
    code = f"import sys, tinynet; print(sorted({heavy!r} & set(sys.modules)))"
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'backends'}", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
