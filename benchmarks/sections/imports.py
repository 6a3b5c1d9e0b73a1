"""What it costs to have the library at all: the time and memory of its import, and its size on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from statistics import median

from benchmarks.clock import elapsed
from benchmarks.comparison import Comparison
from benchmarks.runner import ROOT, Runner

TURNS = 7
DISTRIBUTIONS = {"jax": ("jax", "jaxlib")}  # all that compiles and computes is in the second
PACKAGES = (ROOT / "tinynet", ROOT / "backends" / "tinynet_backends")
PROGRAMS = {
    "python": "import sys",
    "numpy": "import numpy",
    "tinynet": "import tinynet",
    "torch": "import torch",
    "jax": "import jax",
}
MEMORY = "; import json; from benchmarks.machine import peak_mb; print(json.dumps(peak_mb()))"


def _import(program: str) -> tuple[float, float]:
    """Seconds of a whole process that imports, and its peak memory in MB."""
    said: list[str] = []
    # an installed package has its bytecode beside it; a checkout that may not write it would be compiled each time
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def action() -> None:
        command = [sys.executable, "-c", program + MEMORY]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment)
        said.append(done.stdout)

    return elapsed(action), json.loads(said[0])


def installed_mb(name: str) -> float:
    """Size of a library's own files, without those it depends on; ours are counted in the checkout."""
    if name == "tinynet":
        files = [f for folder in PACKAGES for f in folder.rglob("*") if f.is_file() and f.suffix != ".pyc"]
    else:
        parts = [f for part in DISTRIBUTIONS.get(name, (name,)) for f in metadata.files(part) or []]
        files = [Path(str(f.locate())) for f in parts if f.suffix != ".pyc"]
    return sum(f.stat().st_size for f in files if f.exists()) / 2**20


def run(runner: Runner) -> Iterator[Comparison]:
    """Seconds of a process that imports and ends"""
    found = Comparison("import", {name: [] for name in PROGRAMS})
    peaks: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(TURNS):
        for name in list(found.times):
            try:
                seconds, peak = _import(PROGRAMS[name])
            except subprocess.CalledProcessError as e:
                found.left_out[name] = e.stderr.strip().rpartition("\n")[2]
                del found.times[name]
                continue
            found.times[name].append(seconds)
            peaks[name].append(peak)
    for name in found.times:
        found.notes[name] = {"peak, MB": median(peaks[name])}
        if name != "python":
            found.notes[name]["installed, MB"] = installed_mb(name)
    if {"numpy", "tinynet"} <= set(found.times):
        found.notes["tinynet"]["NumPy's times"] = 1 / found.ratio("numpy", "tinynet")
        found.notes["tinynet"]["MB over NumPy"] = median(peaks["tinynet"]) - median(peaks["numpy"])
    yield found
