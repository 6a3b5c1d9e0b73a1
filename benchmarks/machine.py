"""The machine, its threads and its memory. It imports no library of a contender, so that the parent stays small."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path

PEERS = ("numpy", "torch", "jax", "scikit-learn", "numba", "cupy-cuda12x", "cupy-cuda13x")
POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def versions() -> dict[str, str]:
    """The contenders' libraries that are installed, with their versions."""
    found = {"python": platform.python_version()}
    for name in PEERS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def describe() -> dict[str, str | int]:
    chosen = os.environ.get("OPENBLAS_CORETYPE")
    cpu = _cpu() + (f", OPENBLAS_CORETYPE={chosen}" if chosen else "")
    return {"cpu": cpu, "cores": cores(), "os": f"{platform.system()} {platform.release()} {platform.machine()}"}


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(threads: int | None, cache: str) -> dict[str, str]:
    """A child's environment. Compiled code is kept in ``cache``, so that a run begins cold, whatever ran before."""
    env = os.environ | {"TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor", "NUMBA_CACHE_DIR": f"{cache}/numba"}
    env["TINYNET_CACHE"] = f"{cache}/tinynet"
    if threads is not None:
        env |= dict.fromkeys(POOLS, str(threads))
        env["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
    return env


def pin(threads: int | None) -> None:
    """Restrict this process to ``threads`` cores, if the system can: XLA counts cores and heeds no variable."""
    if threads is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def threads_in_use() -> dict[str, int]:
    """The threads of every pool in this process, according to the libraries that are loaded."""
    found: dict[str, int] = {"cores": cores()}
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        pass
    else:
        found |= {pool["internal_api"]: pool["num_threads"] for pool in threadpool_info()}
    for name in ("torch", "numba"):
        if name in sys.modules:
            found[name] = sys.modules[name].get_num_threads()
    return found


def peak_mb() -> float:
    """The peak of resident memory, in MB.

    On Linux getrusage keeps its figure over exec, so a child would report its parent's; VmHWM begins anew.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB elsewhere
