"""A process of its own for every measurement: ``python -m benchmarks.child ORDER`` with the order as JSON.

The order names a function, "module:function", and its arguments. The last line of what the child prints is its answer:
{"result": …} or {"error": why}, with the threads it had and the memory it took. Without an ORDER the child stays: it reads
orders, a line each, and answers each with a line.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

from benchmarks import machine


def find(target: str) -> Any:
    module, _, function = target.partition(":")
    return getattr(importlib.import_module(module), function)


def answer(target: str, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": find(target)(**arguments)}
    except Exception as e:  # whatever it is, it is the reason why this contender is left out
        return {"error": f"{type(e).__name__}: {str(e).strip().partition(chr(10))[0]}"}


def stay() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), file=answers, flush=True)


def main() -> None:
    if len(sys.argv) == 1:
        stay()
        return
    order = json.loads(sys.argv[1])
    machine.pin(order["threads"])
    said = answer(order["target"], order["arguments"])
    print(json.dumps(said | {"threads": machine.threads_in_use(), "peak_mb": machine.peak_mb()}))


if __name__ == "__main__":
    main()
