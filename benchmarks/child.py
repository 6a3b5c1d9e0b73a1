"""A process of its own for every measurement: ``python -m benchmarks.child ORDER`` with the order as JSON.

The order names a function, "module:function", and its arguments. The last line that the child prints is its answer:
{"result": …} or {"error": why}, with the threads that it had and the memory that it took. Without an ORDER the child
serves: it reads orders from standard input, one on a line, and answers each with a line.
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
    except Exception as e:  # of any kind: it is the reason why this contender is left out
        return {"error": f"{type(e).__name__}: {str(e).strip().partition(chr(10))[0]}"}


def serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to standard error
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), file=answers, flush=True)


def main() -> None:
    if len(sys.argv) == 1:
        serve()
        return
    order = json.loads(sys.argv[1])
    machine.pin(order["threads"])
    said = answer(order["target"], order["arguments"])
    print(json.dumps(said | {"threads": machine.threads_in_use(), "peak_mb": machine.peak_mb()}))


if __name__ == "__main__":
    main()
