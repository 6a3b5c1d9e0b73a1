"""``tinynet info``: list the backends, or describe a model file."""

from __future__ import annotations

import argparse
import platform

from tinynet_backends import available_backends, get_backend

from tinynet import __version__
from tinynet.checks import batch_shape
from tinynet.cli.common import Commands, command, open_model

EXAMPLES = """
tinynet info                versions and backends
tinynet info runs/mine      its network, loss, columns and classes
"""


def add(commands: Commands) -> None:
    parser = command(commands, "info", "list the backends, or describe a model", run, EXAMPLES)
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a model file, or a run folder")


def run(args: argparse.Namespace) -> int:
    if args.model:
        return _model(args.model)
    print(f"tinynet {__version__} · Python {platform.python_version()} · {platform.system()} {platform.machine()}")
    chosen, auto = get_backend().name, get_backend("auto").name
    for name, description in available_backends().items():
        marks = [mark for mark, which in (("in force", chosen), ("auto", auto)) if which == name]
        note = f"  [{','.join(marks)}]" if marks else ""
        print(f"  {name:<8}{description}{note}")
    return 0


def _model(name: str) -> int:
    model = open_model(name, "numpy")
    print(repr(model.net))
    rows: list[tuple[str, object]] = [
        ("inputs", f"{batch_shape(model.in_shape)} {model.dtype}"),
        ("outputs", batch_shape(model.out_shape)),
        ("parameters", f"{model.theta.shape[0]:,}"),
        ("loss", model.loss),
        ("metrics", ", ".join(m.name for m in model.metrics)),
        ("seed", model.seed),
    ]
    if model.columns:
        rows += [("features", ", ".join(model.columns.features)), ("target", ", ".join(model.columns.target))]
        rows += [("classes", ", ".join(model.columns.classes or ()))]
    for name, value in rows:
        if value not in (None, ""):
            print(f"  {name:<11} {value}")
    return 0
