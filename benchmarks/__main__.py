"""``python -m benchmarks [steps] [--seconds S]``: time a step in this library and in PyTorch, in turns, and print the
ratios; ``python -m benchmarks data``: what data cost.

Each contender runs in a process of its own with as many threads as there are cores; the processes take turns, several
times, so that a busy machine is busy for all. Losses of the first steps are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
from time import perf_counter

from benchmarks.steps import CONTENDERS, SHAPES

ROUNDS = 5


def child(name: str, row: int, seconds: float) -> None:
    """Print losses of the first steps and the median time of a step, as JSON."""
    step = CONTENDERS[name](*SHAPES[row])
    losses = [step() for _ in range(5)]
    times: list[float] = []
    end = perf_counter() + seconds
    while perf_counter() < end:
        began = perf_counter()
        step()
        times.append(perf_counter() - began)
    print(json.dumps({"losses": losses, "median": statistics.median(times)}))


def run(name: str, row: int, seconds: float) -> dict[str, object]:
    command = [sys.executable, "-m", "benchmarks", "--child", name, str(row), "--seconds", str(seconds)]
    out: dict[str, object] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return out


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks", description=__doc__)
    parser.add_argument("what", nargs="?", default="steps", choices=("steps", "data"))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each measurement")
    args = parser.parse_args()
    if args.child:
        child(args.child[0], int(args.child[1]), args.seconds)
        return
    if args.what == "data":
        from benchmarks import data

        data.main()
        return
    names = [name for name in CONTENDERS if name == "tinynet" or importlib.util.find_spec(name)]
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores; median of {ROUNDS} rounds in turns; µs a step")
    print(f"{'network × batch':<28}" + "".join(f"{name:>12}" for name in names) + f"{'ratio':>10}")
    for row, (widths, batch) in enumerate(SHAPES):
        rounds = [{name: run(name, row, args.seconds) for name in names} for _ in range(ROUNDS)]
        losses = [rounds[0][name]["losses"] for name in names]
        for other in losses[1:]:
            worst = max(abs(a - b) / abs(a) for a, b in zip(losses[0], other, strict=True))
            if worst > 1e-3:
                raise SystemExit(f"losses differ by {worst:.1e}: the contenders do not compute the same")
        medians = [statistics.median(r[name]["median"] for r in rounds) for name in names]
        ratios = [r["torch"]["median"] / r["tinynet"]["median"] for r in rounds] if "torch" in names else []
        ratio = f"{statistics.median(ratios):>10.2f}" if ratios else ""
        label = "-".join(map(str, widths)) + f" × {batch}"
        print(f"{label:<28}" + "".join(f"{1e6 * m:>12.0f}" for m in medians) + ratio, flush=True)


if __name__ == "__main__":
    main()
