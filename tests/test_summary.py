"""Summaries: shapes are those that come out, sums those of the model, FLOPs those that PyTorch counts."""

from __future__ import annotations

from itertools import pairwise
from math import prod

import pytest

import tinynet as tn

NETS = {
    "empty": (tn.Sequential(), (3,)),
    "one layer": (tn.Dense(5), (3,)),
    "plain": (tn.Sequential(tn.Dense(64), tn.ReLU(), tn.Dense(3, bias=False)), (2,)),
    "norms": (tn.Sequential(tn.Flatten(), tn.Standardize(), tn.Dense(6), tn.BatchNorm(), tn.LayerNorm()), (4, 2)),
    "frozen": (tn.Sequential(tn.Frozen(tn.Dense(6)), tn.Tanh(), tn.Dense(2)), (3,)),
    "nested": (tn.Sequential(tn.Sequential(tn.Dense(4), tn.Sequential(tn.Tanh(), tn.Dense(2)))), (7,)),
    "residual": (
        tn.Sequential(
            tn.Dense(8), tn.Residual(tn.Dense(16), tn.ReLU(), tn.Residual(tn.Tanh()), tn.Dense(8)), tn.GELU()
        ),
        (3,),
    ),
}


class Scaled(tn.Sequential):
    """A layer of layers that does more than they do."""

    def build(self, shape):
        inner = super().build(shape)
        gain = tn.layers.Param((1,), tn.initializers.Constant(2.0))
        return tn.layers.Spec(inner.shape, {**inner.params, "gain": gain}, inner.state)

    def forward(self, params, x, ctx):
        y, backprop = super().forward(params, x, ctx)
        return params["gain"] * y, backprop


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETS)
def test_sums_are_those_of_the_model(name, dtype):
    net, shape = NETS[name]
    model = tn.Model(net, shape, dtype=dtype)
    summary = model.summary()
    assert summary.parameters == model.theta.shape[0]
    assert summary.bytes == model.theta.nbytes + model.state.nbytes
    if summary.rows:
        assert summary.rows[-1].shape == model.out_shape


@pytest.mark.parametrize("name", NETS)
def test_places_are_those_of_the_weights(name):
    net, shape = NETS[name]
    model = tn.Model(net, shape)
    taken = {key.rpartition(".")[0] for key in model.weights()}
    assert taken == {row.place for row in model.summary().rows if row.bytes}


def test_flops_by_the_formula():
    """Two a multiply-add: 2 i o for each matrix (i, o)."""
    flops = [row.flops for row in tn.Model(NETS["residual"][0], 3).summary().rows]
    assert flops == [2 * 3 * 8, 2 * 8 * 16, 0, 0, 2 * 16 * 8, 0]


def test_frozen_matrices_are_products_and_moments_are_none():
    frozen = tn.Frozen(tn.Sequential(tn.Dense(5), tn.Residual(tn.Frozen(tn.Dense(5)))))
    model = tn.Model(tn.Sequential(tn.Standardize(), tn.Flatten(), frozen, tn.Dense(2)), (3, 4))
    assert [row.flops for row in model.summary().rows] == [0, 0, 2 * (12 * 5 + 5 * 5), 2 * 5 * 2]


@pytest.mark.slow
def test_flops_are_those_that_torch_counts():
    torch = pytest.importorskip("torch", reason="the oracle is PyTorch's FlopCounterMode")
    from torch.utils.flop_counter import FlopCounterMode

    widths = (5, 17, 9, 3)
    net = tn.Sequential(*(layer for width in widths[1:] for layer in (tn.Dense(width), tn.ReLU())))
    pairs = pairwise(widths)
    other = torch.nn.Sequential(*(m for i, o in pairs for m in (torch.nn.Linear(i, o), torch.nn.ReLU())))
    with FlopCounterMode(display=False) as counter:
        other(torch.zeros(1, widths[0]))
    assert tn.Model(net, widths[0]).summary().flops == counter.get_total_flops()


def test_a_layer_of_layers_that_does_more_is_one_row():
    model = tn.Model(tn.Sequential(Scaled(tn.Dense(4)), tn.Dense(2)), 3)
    rows = model.summary().rows
    assert [(row.place, row.parameters, row.flops) for row in rows] == [("0", 17, 2 * 12), ("1", 10, 2 * 8)]
    assert model.summary().parameters == model.theta.shape[0]


def test_the_table():
    table = str(tn.Model(NETS["plain"][0], 2).summary())
    assert table.splitlines() == [
        "   layer                       output  parameters  bytes  FLOPs",
        "─" * 63,
        "0  Dense(width=64)                 64         192    768    256",
        "1  ReLU()                          64           0      0      0",
        "2  Dense(width=3, bias=False)       3         192    768    384",
        "─" * 63,
        "                                total         384  1,536    640",
    ]


def test_the_drawing():
    model = tn.Model(NETS["residual"][0], 3, backend="numpy")
    assert str(model).splitlines() == [
        "Model, 312 parameters, float32 on numpy",
        "",
        "3",
        "│  Dense(width=8)      32",
        "8",
        "├─╮",
        "│ │  Dense(width=16)  144",
        "│ 16",
        "│ │  ReLU()",
        "│ ├─╮",
        "│ │ │  Tanh()",
        "│ +─╯",
        "│ │  Dense(width=8)   136",
        "│ 8",
        "+─╯",
        "│  GELU()",
    ]


@pytest.mark.parametrize("name", NETS)
def test_every_parameter_is_in_the_drawing(name):
    net, shape = NETS[name]
    model = tn.Model(net, shape)
    lines = str(model).splitlines()[2:]
    counts = [
        int(line.rpartition("  ")[2].replace(",", ""))
        for line in lines
        if line.endswith(tuple("0123456789")) and "│  " in line
    ]
    assert sum(counts) == model.theta.shape[0]
    assert lines[0] == " × ".join(map(str, shape))
    assert max(map(len, lines)) < 80
    assert prod(model.out_shape) > 0


def test_a_table_fits_a_terminal():
    net = tn.Sequential(tn.Residual(tn.Dense(999, init=tn.initializers.Uniform(-0.123456789, 0.123456789))))
    table = str(tn.Model(net, 999).summary()).splitlines()
    assert max(map(len, table)) <= 80
    assert table[2].startswith("0.0  Dense(width=999, init=Uniform(l…  ")
