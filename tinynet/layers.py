"""Layers: hyperparameters that build shapes, run forward, and return their own backward pass.

A layer holds no arrays. ``build`` takes the shape of one sample and says which parameters the layer needs and which
shape comes out; ``forward`` returns the output and a function from its gradient to those of the input and parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from tinynet_backends import Backend

from tinynet import checks, streams
from tinynet.initializers import Initializer, Shape, check_initializer

Array = Any
Params = Mapping[str, Any]  # name -> array, or the Params of an inner layer
Backprop = Callable[[Array], tuple[Array, dict[str, Any]]]
Formula = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Context:
    """Everything that a pass through a layer depends on besides its parameters and its input.

    ``ops`` is the backend. ``train`` says whether this is a training pass, and ``step`` how many steps were done before it.
    ``seed`` is that of the model, or a tuple of seeds if several networks run as one: every array then has a leading axis
    of networks. ``path`` is the layer's position in the network, one digit in base 4096 for each level of nesting. If
    ``need_dx`` is False, the gradient with respect to the layer's input is not used and may be None. ``part`` is the
    number of the part, from 0, of a batch that is computed in parts.
    """

    ops: Backend
    train: bool = False
    seed: int | tuple[int, ...] = 0
    step: int = 0
    path: int = 0
    need_dx: bool = True
    part: int = 0

    def child(self, number: int) -> Context:
        """The context of inner layer ``number``, from 0. Layer 0 needs ``dx`` only if this layer does, the others always."""
        path, need_dx = self.path * 4096 + number + 1, self.need_dx or number > 0
        return Context(self.ops, self.train, self.seed, self.step, path, need_dx, self.part)

    @property
    def axes(self) -> int:
        """The number of axes before those of a sample: 1, or 2 with many networks."""
        return 2 if isinstance(self.seed, tuple) else 1

    def each(self) -> list[Context]:
        """One context per network, each with a single seed."""
        seeds = self.seed if isinstance(self.seed, tuple) else (self.seed,)
        return [replace(self, seed=seed) for seed in seeds]

    @property
    def masks(self) -> tuple[streams.Key, streams.Counter]:
        """Key and counter of the random stream for this layer's masks at this step, for this part of the batch.

        They are distinct for up to eight levels of nesting with 4095 layers each. TypeError for several networks.
        """
        if isinstance(self.seed, tuple):
            raise TypeError("each of many networks has its own masks: take them from the contexts in ctx.each()")
        low, high = self.path & 2**64 - 1, self.path >> 64 & 2**32 - 1
        return (self.seed, streams.MASKS), (self.step, low, high | self.part << 32)


@dataclass(frozen=True)
class Param:
    """A request for one array of ``shape``, whose initial values ``init`` draws."""

    shape: Shape
    init: Initializer

    def __post_init__(self) -> None:
        _coerce_shape(self)
        check_initializer("Param init", self.init)


@dataclass(frozen=True)
class Spec:
    """What `Layer.build` returns: the ``shape`` of an output sample, and the arrays that the layer needs.

    ``params`` are trained; ``state`` is kept beside them, such as running statistics. Both map names to `Param` or, for an
    inner layer, to a mapping of the same kind.
    """

    shape: Shape
    params: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _coerce_shape(self)
        for name, value in (*self.params.items(), *self.state.items()):
            if not isinstance(value, (Param, Mapping)):
                raise TypeError(f"Spec has {checks.short_repr(value)} as {name!r}: give a Param(shape, init)")


def _coerce_shape(owner: Param | Spec) -> None:
    """Make the shape a tuple; TypeError if it is none."""
    shape = owner.shape
    if not isinstance(shape, (tuple, list)):
        kind, text = type(owner).__name__, checks.short_repr(shape)
        raise TypeError(f"{kind} shape {text} is not a shape: give a tuple, such as ({checks.as_int(shape) or 8},)")
    checks.set_fields(owner, shape=tuple(shape))


class Layer:
    """The base class of layers. A layer is a frozen dataclass of hyperparameters, without arrays.

    Override `build` if the layer has parameters or changes the shape of a sample, and `forward` in any case. ``forward``
    must be a pure function: a backend may record its operations in the first steps and repeat them without calling it.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True, repr=False)
    ... class Scale(tn.Layer):
    ...     factor: float = 2.0
    ...     def forward(self, params, x, ctx):
    ...         return self.factor * x, lambda dy: (self.factor * dy, {})
    >>> tn.Model(Scale(), n_in=1).predict([[3.0]]).tolist()
    [[6.0]]
    """

    @property
    def formulas(self) -> tuple[Formula, Formula] | None:
        """``f(xp, x)`` and its derivative ``df(xp, dy, x, y)``, if `forward` is this elementwise formula and nothing
        else, so that a backend may fuse it with the layer before; otherwise None."""
        return None

    def build(self, shape: Shape) -> Spec:
        """The arrays and the output shape of the layer for samples of ``shape``; ValueError for a shape that it does not take."""
        return Spec(shape)

    def forward(self, params: Params, x: Array, ctx: Context) -> tuple[Array, Backprop]:
        """``y, backprop``: the output, (n, *shape) -> (n, *out shape), and a function for the backward pass.

        ``dx, dparams = backprop(dy)`` takes the gradient of the loss with respect to ``y`` and returns those with respect to
        ``x`` and, under the names in `Spec.params`, the parameters. ``params`` has parameters and state by name.

        In `fit_many` every array has a leading axis of networks besides: the samples are axis ``ctx.axes - 1``.
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward: write one")

    def __repr__(self) -> str:
        known: tuple[Any, ...] = fields(self) if is_dataclass(self) else ()
        shown = [f"{f.name}={getattr(self, f.name)!r}" for f in known if getattr(self, f.name) != f.default]
        shown += checks.attributes(self, {f.name for f in known})
        return f"{type(self).__name__}({', '.join(shown)})"


def check_vectors(layer: Layer, shape: Shape) -> None:
    """ValueError unless samples of ``shape`` are vectors."""
    if len(shape) != 1:
        raise ValueError(f"{type(layer).__name__} takes vectors, not samples of shape {shape}: put Flatten() before it")


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings, in order, each with its dotted name."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def merge(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Two nested dicts as one."""
    out = dict(a)
    for name, value in b.items():
        out[name] = merge(out[name], value) if isinstance(out.get(name), dict) else value
    return out


def checked_build(layer: Layer, shape: Shape) -> Spec:
    """``layer.build(shape)``; TypeError unless that is a `Spec`."""
    spec = layer.build(shape)
    if not isinstance(spec, Spec):
        raise TypeError(f"{type(layer).__name__}.build gives {checks.short_repr(spec)}: return a Spec")
    return spec


def checked_pass(layer: Layer, params: Params, x: Array, ctx: Context) -> tuple[Array, Backprop]:
    """``layer.forward``; TypeError or ValueError, here and in the backward pass, for results that are not what they should be."""
    y, backprop = checks.pair(layer.forward(params, x, ctx), layer, "forward", "(y, backprop)")
    name, wanted = type(layer).__name__, tuple(x.shape)
    if not hasattr(y, "shape"):
        raise TypeError(f"{name}.forward gives {checks.short_repr(y)} as outputs: return an array")

    def checked(dy: Array) -> tuple[Array, dict[str, Any]]:
        dx, dparams = checks.pair(backprop(dy), layer, "backprop", "(dx, gradients)")
        if ctx.need_dx and getattr(dx, "shape", None) != wanted:
            found = checks.short_repr(dx) if getattr(dx, "shape", None) is None else tuple(dx.shape)
            raise ValueError(f"{name}.backprop gives dx {found}: expected {wanted}, the shape of the inputs")
        return dx, dparams

    return y, checked


def checked_forward(net: Layer, shape: Shape, params: Params, x: Array, ctx: Context) -> tuple[Array, Backprop]:
    """``net.forward``; ValueError unless its output has the ``shape`` that `build` says: another could broadcast unnoticed."""
    y, backprop = checked_pass(net, params, x, ctx)
    wanted = *x.shape[: ctx.axes], *shape
    if tuple(y.shape) != wanted:
        raise ValueError(
            f"{type(net).__name__} gives {tuple(y.shape)} in forward and says {wanted} in build: make them equal"
        )
    return y, backprop


def checked_gradients(names: Iterable[str], dparams: Mapping[str, Any], params: Params) -> list[Array]:
    """The gradients of the named parameters; ValueError unless all are there, each in its parameter's shape."""
    found, wanted = dict(leaves(dparams)), dict(leaves(params))
    for name in names:
        if name not in found:
            raise ValueError(f"backprop gives no gradient of {name!r}: it gives {', '.join(found) or 'none'}")
        shape, own = tuple(found[name].shape), tuple(wanted[name].shape)
        if shape != own:
            raise ValueError(f"the gradient of {name!r} is {shape}: expected {own}, the shape of the parameter")
    return [found[name] for name in names]
