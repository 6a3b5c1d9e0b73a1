"""Weights exported under the names that PyTorch's `nn.Sequential` gives them, and imported.

An `nn.Sequential` of the same layers in the same order uses the same numbers: "0.weight", "0.bias", "3.running_mean", …
Layers without weights (activations, `Flatten`, `Dropout`) are counted too. An inner `Sequential` nests in the same way;
layers that PyTorch lacks take a few lines:

    class Residual(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    class Standardize(nn.Module):
        def __init__(self, *shape):
            super().__init__()
            self.register_buffer("mean", torch.zeros(shape))
            self.register_buffer("scale", torch.ones(shape))

        def forward(self, x):
            return (x - self.mean) * self.scale
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from tinynet_backends import get_backend

from tinynet.dense import Dense
from tinynet.errors import ModelFileError
from tinynet.files import is_finite, opened, write_host
from tinynet.frozen import Frozen
from tinynet.layers import Array, Layer, Params, leaves
from tinynet.model import Model
from tinynet.parameters import on_its_device
from tinynet.regularization import BatchNorm, LayerNorm
from tinynet.sequential import Sequential
from tinynet.standardize import Standardize

# For each type of layer, the names of its arrays and those of its PyTorch module. Add layers of your own here.
STATE_NAMES: dict[type[Layer], dict[str, str]] = {
    Dense: {"w": "weight", "b": "bias"},
    LayerNorm: {"gamma": "weight", "beta": "bias"},
    BatchNorm: {"gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"},
    Standardize: {"mean": "mean", "scale": "scale"},
}


class _Entry(NamedTuple):
    """One array of a state: its name in PyTorch, the model's view of it, and whether that is transposed.

    ``array`` is None for the number of batches that a batch norm has seen, which the model does not have.
    """

    name: str
    array: Array
    transposed: bool = False

    @property
    def kept(self) -> bool:
        return self.array is not None

    @property
    def shape(self) -> tuple[int, ...]:
        shape = tuple(self.array.shape)
        return shape[::-1] if self.transposed else shape


def to_torch_state(model: Model) -> dict[str, Array]:
    """Copies of the weights on the host, named as in PyTorch's ``state_dict``: "0.weight" (o, i), "0.bias" (o,), …

    Batch norms have ``running_mean``, ``running_var`` and a ``num_batches_tracked`` of 0, which PyTorch reads only if
    its momentum is None. TypeError for a layer with weights whose names are unknown (`STATE_NAMES`), ValueError for
    weights that are not finite.

    Examples
    --------
    >>> state = tn.export.to_torch_state(tn.Model(tn.Sequential(tn.Dense(8), tn.ReLU(), tn.Dense(3)), n_in=2))
    >>> {name: a.shape for name, a in state.items()}
    {'0.weight': (8, 2), '0.bias': (8,), '2.weight': (3, 8), '2.bias': (3,)}
    """
    host = get_backend("numpy")
    state = {}
    for entry in _entries(model.net, model.params):
        a = model.ops.to_numpy(entry.array) if entry.kept else host.zeros((), host.dtype("int64"))
        if not is_finite(a):
            raise ValueError(f"{entry.name!r} has a value that is NaN or infinite: the model cannot be exported")
        state[entry.name] = (a.T if entry.transposed else a).copy(order="C")
    return state


def save_torch_state(model: Model, path: str | PathLike[str]) -> None:
    """Write `to_torch_state` to a safetensors file, completely or not at all.

    In PyTorch: ``net.load_state_dict(safetensors.torch.load_file(path))``.
    """
    write_host(path, to_torch_state(model), {"format": "pt"})


@on_its_device
def from_torch_state(model: Model, state: Mapping[str, Any] | str | PathLike[str]) -> None:
    """Set the weights of ``model``, in place, to a PyTorch ``state_dict``, or to one in a safetensors file.

    The values of a mapping are tensors on any device, or host arrays. Everything is checked first: names are exactly
    those of `to_torch_state` (``num_batches_tracked``, which is not used, may be missing), shapes and dtype are the
    model's, and every number is finite. Otherwise the model stays unchanged: ValueError (for a file `ModelFileError`,
    which names it), TypeError for a value that is not an array.
    """
    if hasattr(state, "state_dict"):
        raise TypeError(f"state is a {type(state).__name__}, not its weights: give its state_dict()")
    entries = list(_entries(model.net, model.params))
    wanted = (entries, model.dtype)
    found = _checked(state, *wanted) if isinstance(state, Mapping) else _read(Path(state), *wanted)
    for entry in entries:
        if entry.kept:
            a = found[entry.name]
            entry.array[...] = model.ops.asarray((a.T if entry.transposed else a).copy(order="C"))


def _read(path: Path, entries: list[_Entry], dtype: str) -> dict[str, Array]:
    from zipfile import is_zipfile

    if path.is_file() and is_zipfile(path):  # is_file: opening a pipe would wait for it
        raise ModelFileError(
            f"{path}: what torch.save wrote, not a safetensors file: "
            "safetensors.torch.save_file(net.state_dict(), path) writes one"
        )
    with opened(path) as f:
        try:
            return _checked({name: _Stored(f, name) for name in f.keys()}, entries, dtype)  # noqa: SIM118 - no mapping
        except ValueError as e:
            raise ModelFileError(f"{path}: {e}") from None


class _Stored:
    """An array in a safetensors file, read only after its dtype was checked: NumPy lacks some dtypes."""

    def __init__(self, file: Any, name: str) -> None:
        about = file.get_slice(name)
        code = about.get_dtype()  # F32, BF16, I64, …
        kind = code.rstrip("0123456789")
        self.dtype = {"F": "float", "BF": "bfloat", "I": "int", "U": "uint"}.get(kind, kind) + code[len(kind) :]
        self.shape = about.get_shape()
        self.read: Callable[[], Array] = lambda: file.get_tensor(name)


def _checked(state: Mapping[str, Any], entries: list[_Entry], dtype: str) -> dict[str, Array]:
    """The arrays of ``state`` on the host; ValueError or TypeError unless they match the entries."""
    wanted = {e.name: e for e in entries}
    missing = [name for name, e in wanted.items() if e.kept and name not in state]
    unknown = sorted((name for name in state if name not in wanted), key=str)
    if missing or unknown:
        faults = ((missing, "missing"), (unknown, "not part of it"))
        text = ", ".join(f"{_few(names)} {fault}" for names, fault in faults if names)
        raise ValueError(f"the state does not fit the network: {text}: give the names of to_torch_state(model)")
    found = {}
    for name, entry in wanted.items():
        if name not in state:
            continue
        a = state[name]
        if not hasattr(a, "dtype") or not hasattr(a, "shape"):
            raise TypeError(f"{name!r} is of type {type(a).__name__}: expected an array or a tensor")
        kind, shape = str(a.dtype).rpartition(".")[2], tuple(a.shape)  # PyTorch writes torch.float32
        expected = (dtype, entry.shape) if entry.kept else ("int64", ())
        if (kind, shape) != expected:
            text = f"{name!r} is {kind} {shape}: expected {expected[0]} {expected[1]}"
            other = entry.kept and shape == entry.shape
            raise ValueError(text + f": give net.to(torch.{dtype}).state_dict()" * other)
        found[name] = _on_host(a)
        if not is_finite(found[name]):
            raise ValueError(f"{name!r} has a value that is NaN or infinite")
    return found


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 1} more are" if len(names) > 1 else " is"
    return f"{names[0]!r}{more}"


def _on_host(a: Any) -> Array:
    if isinstance(a, _Stored):
        return a.read()
    if hasattr(a, "detach"):  # a tensor, which may be on another device or require gradients
        a = a.detach().cpu()
    return get_backend("numpy").to_numpy(a)


def _entries(layer: Layer, params: Params, prefix: str = "") -> Iterator[_Entry]:
    if isinstance(layer, Frozen):
        yield from _entries(layer.layer, params, prefix)
        return
    params, names = dict(params), STATE_NAMES.get(type(layer), {})
    if isinstance(layer, Sequential):
        for number, inner in enumerate(layer.layers):
            yield from _entries(inner, params.pop(str(number), {}), f"{prefix}{number}.")
    for own, array in leaves(params):  # a subclass of `Sequential` may have some beside its layers
        if own not in names:
            place, kind = f"layer {prefix[:-1]}" if prefix else "the network", type(layer).__name__
            raise TypeError(
                f"{place}, {layer!r}, cannot be exported: nobody knows what its {own!r} is called in PyTorch: "
                f"tinynet.export.STATE_NAMES[{kind}] = {{{own!r}: …}} adds it"
            )
        yield _Entry(f"{prefix}{names[own]}", array, isinstance(layer, Dense) and own == "w")
    if isinstance(layer, BatchNorm):
        yield _Entry(f"{prefix}num_batches_tracked", None)
