"""A process of its own for every measurement: ``python -m benchmarks.child ORDER`` with the order as JSON.

The order names a function, "module:function", and its arguments. The last line of what the child prints is its answer:
{"result": …} or {"error": why}, with the threads it had and the memory it took.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

from benchmarks import machine


def answer(target: str, arguments: dict[str, Any]) -> dict[str, Any]:
    module, _, function = target.partition(":")
    try:
        return {"result": getattr(importlib.import_module(module), function)(**arguments)}
    except Exception as e:  # whatever it is, it is the reason why this contender is left out
        return {"error": f"{type(e).__name__}: {str(e).strip().partition(chr(10))[0]}"}


def main() -> None:
    order = json.loads(sys.argv[1])
    machine.pin(order["threads"])
    said = answer(order["target"], order["arguments"])
    print(json.dumps(said | {"threads": machine.threads_in_use(), "peak_mb": machine.peak_mb()}))


if __name__ == "__main__":
    main()
