"""Model files: safetensors with the architecture as JSON in the header.

No pickles, and no name from a file is ever imported.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from tinynet_backends import Backend, get_backend

from tinynet.atomic import write_atomically
from tinynet.data.columns import Columns
from tinynet.errors import ModelFileError
from tinynet.layers import Layer, leaves
from tinynet.losses import Loss
from tinynet.metrics import METRICS, Metric
from tinynet.model import Model, undrawn
from tinynet.registry import TABLE, NotInTable, describe, rebuild

FORMAT = 1
LARGEST_HEADER = 16 * 2**20
_ABOUT = "about"  # the array of a checkpoint that holds its JSON data


def save(model: Model, path: str | PathLike[str]) -> None:
    """Write ``model`` (weights, layer state, architecture, loss, metrics and column names) to ``path``."""
    about: dict[str, Any] = {
        "format": FORMAT,
        "net": describe(model.net),
        "in_shape": list(model.in_shape),
        "seed": model.seed,
        "dtype": model.dtype,
        "loss": describe(model.loss),
        "metrics": [_described(m) for m in model.metrics if type(m) in TABLE.values()],
    }
    if model.columns is not None:
        about["columns"] = asdict(model.columns)
    write_tensors(path, model.weights(), about, model.ops)


def _described(metric: Metric) -> Any:
    """A metric as JSON data: its name, which all versions read, where that says all."""
    return metric.name if METRICS.get(metric.name) == metric else describe(metric)


def write_tensors(path: str | PathLike[str], arrays: dict[str, Any], about: dict[str, Any], ops: Backend) -> None:
    """Write arrays of ``ops`` and JSON data to a safetensors file, completely or not at all."""
    # a single metadata entry: the library does not keep the order of several
    write_host(path, {name: ops.to_numpy(a) for name, a in arrays.items()}, {"tinynet": json.dumps(about)})


def write_sealed(path: str | PathLike[str], arrays: dict[str, Any], about: dict[str, Any]) -> None:
    """Write host arrays and JSON data, with a `checksum` of both, completely or not at all.

    What the header says about the file's format stays there. The rest is an array: a history may be longer than a header.
    """
    head: dict[str, Any] = {name: about[name] for name in ("format", "kind", "contents") if name in about}
    arrays = arrays | {_ABOUT: np.frombuffer(json.dumps(about).encode(), np.uint8)}
    write_host(path, arrays, {"tinynet": json.dumps(head | {"checksum": checksum(head, arrays)})})


def read_sealed(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON data and arrays that `write_sealed` wrote; ModelFileError if the file is damaged, or none of these."""
    about, arrays = read_tensors(path)
    if about.pop("checksum", None) != checksum(about, arrays):
        raise ModelFileError(f"{path}: damaged checkpoint: its checksum does not match")
    if about.get("kind") != "checkpoint":
        raise ModelFileError(f"{path}: not a checkpoint")
    if _ABOUT in arrays:  # not in those of earlier versions
        about = json.loads(arrays.pop(_ABOUT).tobytes())
    return about, arrays


def write_host(path: str | PathLike[str], arrays: dict[str, Any], metadata: dict[str, str]) -> None:
    """Write host arrays to a safetensors file, completely or not at all."""
    from safetensors.numpy import save as to_bytes

    # safetensors 0.8 silently writes wrong bytes for arrays that are not C-contiguous: copy each in that order
    host = {name: np.array(a, order="C", copy=True) for name, a in arrays.items()}
    write_atomically(path, to_bytes(host, metadata=metadata))


def load(path: str | PathLike[str], *, backend: Any = None) -> Model:
    """The model that `Model.save` wrote to ``path``, on ``backend``, by default the current one.

    `ModelFileError`, which names the file and what is wrong with it, for any other content; OSError if the file cannot
    be read.

    Examples
    --------
    >>> tn.Model(tn.Dense(1), n_in=2).save("one.safetensors")
    >>> tn.load("one.safetensors")
    Model(Dense(width=1), 2 -> 1, 3 parameters, float32 on numpy)
    """
    path, ops = Path(path), get_backend(backend)
    about, arrays = read_tensors(path)
    if about.get("kind") == "checkpoint":
        raise ModelFileError(
            f"{path}: a checkpoint, not a model: fit(…, checkpoint=folder, resume=True) continues from it"
        )
    if about.get("kind") == "weights":
        raise ModelFileError(
            f"{path}: weights of a network with layers that are not the library's: safetensors reads them"
        )
    try:
        net, loss = rebuild(about["net"]), rebuild(about["loss"])
        if not isinstance(net, Layer) or not isinstance(loss, Loss | None):
            raise ValueError("its architecture is not a layer and a loss")
        n_in, seed, dtype = tuple(about["in_shape"]), about["seed"], about["dtype"]
        metrics = tuple(METRICS[m] if isinstance(m, str) else rebuild(m) for m in about["metrics"])
        if not all(isinstance(m, Metric) for m in metrics):
            raise ValueError("its metrics are not metrics")
        _check_network(net, n_in, dtype, arrays)
        model = undrawn(net, n_in, seed=seed, backend=ops, dtype=dtype)
        model.columns = _columns(about.get("columns"), model)
    except NotInTable as e:
        raise ModelFileError(f"{path}: {e}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
        raise ModelFileError(f"{path}: damaged model file: {e}") from None
    model.weights().update(arrays)
    model.loss, model.metrics = loss, metrics
    return model


def _columns(about: Any, model: Model) -> Columns | None:
    """The column names in a file; ValueError if their number does not fit the model."""
    if about is None:
        return None
    features, target, classes = about["features"], about["target"], about["classes"]
    columns = Columns(tuple(features), tuple(target), None if classes is None else tuple(classes))
    if (len(features),) != model.in_shape or (classes is not None and len(classes) != max(model.out_shape[-1], 2)):
        raise ValueError("it does not have as many columns as the network")
    return columns


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON data and arrays that `write_tensors` wrote; `ModelFileError` for anything else."""
    with opened(path) as f:
        metadata = f.metadata() or {}
        if "tinynet" not in metadata:
            raise ModelFileError(f"{path}: not a model of tinynet, though a safetensors file")
        about = json.loads(metadata["tinynet"])
        if not isinstance(about, dict):
            raise ValueError("its description is not a JSON object")
        if about.get("format") != FORMAT:
            raise ModelFileError(
                f"{path}: format {about.get('format')!r}, which this version does not read: expected {FORMAT}"
            )
        return about, {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 - not a mapping


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file, open for reading; `ModelFileError` if it is none, or damaged."""
    from safetensors import SafetensorError, safe_open

    if not stat.S_ISREG(path.stat().st_mode):
        raise ModelFileError(f"{path}: not a regular file")
    with open(path, "rb") as f:
        size = int.from_bytes(f.read(8), "little")
        if not 2 <= size <= path.stat().st_size - 8:
            raise ModelFileError(f"{path}: not a model file, or one that was cut short")
        if size > LARGEST_HEADER:
            raise ModelFileError(f"{path}: its header has {size} bytes, and that of a model at most {LARGEST_HEADER}")
        header = f.read(size)
    try:
        json.loads(header, object_pairs_hook=_unique)
        with safe_open(path, framework="numpy") as f:
            yield f
    except (SafetensorError, ValueError, TypeError, KeyError, RecursionError) as e:
        if isinstance(e, ModelFileError):
            raise
        raise ModelFileError(f"{path}: damaged model file: {e}") from None


def checksum(about: dict[str, Any], arrays: dict[str, Any]) -> int:
    """CRC-32 of JSON data and host arrays with their names."""
    crc = crc32(json.dumps(about).encode())
    for name in sorted(arrays):
        crc = crc32(np.ascontiguousarray(arrays[name]).data, crc32(name.encode(), crc))
    return crc


def is_finite(a: Any) -> bool:
    """Whether every number of a host array is finite."""
    return bool(np.isfinite(a).all())


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object without duplicate names, of which safetensors would take the last."""
    unique: dict[str, Any] = {}
    for name, value in pairs:
        if name in unique:
            raise ValueError(f"{name!r} occurs twice")
        unique[name] = value
    return unique


def _check_network(net: Layer, n_in: tuple[int, ...], dtype: str, arrays: dict[str, Any]) -> None:
    """ValueError unless the arrays are exactly the network's. Checked before memory for it is allocated."""
    if any(type(d) is not int or d < 1 for d in n_in):
        raise ValueError(f"its input shape {n_in} is not one")
    spec = net.build(n_in)
    shapes = {name: p.shape for tree in (spec.params, spec.state) for name, p in leaves(tree)}
    check_arrays(arrays, shapes, dtype, "network")


def check_arrays(arrays: dict[str, Any], shapes: dict[str, tuple[int, ...]], dtype: str, owner: str) -> None:
    """ValueError unless the host arrays are those that ``owner`` has, by name, in ``dtype`` and all finite."""
    if set(shapes) != set(arrays):
        first = min(set(shapes) ^ set(arrays))
        raise ValueError(f"array {first!r} is {'missing' if first in shapes else f'not part of the {owner}'}")
    for name, shape in shapes.items():
        a = arrays[name]
        if a.shape != shape or a.dtype != np.dtype(dtype):
            raise ValueError(f"array {name!r} is {a.dtype} {a.shape}: expected {dtype} {shape}")
        if not is_finite(a):
            raise ValueError(f"array {name!r} has a value that is NaN or infinite")
