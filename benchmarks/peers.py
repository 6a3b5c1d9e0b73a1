"""Which peers are installed: ``benchmarks peers``."""

from __future__ import annotations

from benchmarks import machine


def main() -> None:
    here = machine.versions()
    for name, version in here.items():
        print(f"{name:<14}{version}")
    missing = [name for name in machine.PEERS if name not in here]
    if missing:
        print("not here: " + ", ".join(missing))
