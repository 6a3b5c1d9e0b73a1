"""Model files: what comes back, what a damaged one says, and what a failed write leaves."""

import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import tinynet as tn
from tinynet import initializers
from tinynet.registry import TABLE, describe, rebuild

NET = tn.Sequential(
    tn.Flatten(), tn.Dense(5, init=initializers.Orthogonal(0.5)), tn.BatchNorm(0.2), tn.LeakyReLU(0.3), tn.Dropout(0.1),
    tn.Residual(tn.LayerNorm(), tn.Dense(5, bias=False), tn.GELU(approximate=True)), tn.ELU(0.5), tn.Dense(3),
)  # fmt: skip


# Numba compiles every activation, and these two for other tests too
USUAL = tn.Sequential(
    tn.Flatten(), tn.Dense(5, init=initializers.Orthogonal(0.5)), tn.BatchNorm(0.2), tn.Tanh(), tn.Dropout(0.1),
    tn.Residual(tn.LayerNorm(), tn.Dense(5, bias=False), tn.Sigmoid()), tn.Dense(3),
)  # fmt: skip


def trained(backend="numpy", dtype="float32", net=NET):
    model = tn.Model(net, (2, 3), seed=4, backend=backend, dtype=dtype)
    rng = np.random.default_rng(0)
    data = (rng.standard_normal((40, 2, 3)), rng.integers(0, 3, 40))
    model.fit(data, loss=tn.CrossEntropy(0.1, (1, 2, 3)), metrics=["accuracy", tn.metrics.TopK(2)], epochs=2)
    return model, data


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_saved_comes_back(dtype, ops, tmp_path):
    net = USUAL if ops.name == "numba" else NET
    model, data = trained(ops, dtype, net)
    model.save(tmp_path / "m.safetensors")
    for backend in ("numpy", ops):
        again = tn.load(tmp_path / "m.safetensors", backend=backend)
        for name, a in model.weights().items():
            np.testing.assert_array_equal(again.ops.to_numpy(again.weights()[name]), ops.to_numpy(a), err_msg=name)
        assert (again.net, again.in_shape, again.dtype, again.loss) == (net, (2, 3), dtype, model.loss)
        assert again.metrics == model.metrics
        if backend is ops:
            assert again.evaluate(data) == model.evaluate(data)
    other, path = tmp_path / "other.safetensors", tmp_path / "m.safetensors"
    model.save(other)
    assert other.read_bytes() == path.read_bytes()


def test_a_backend_that_is_none_is_not_the_file_s_fault(tmp_path):
    trained()[0].save(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"^unknown backend 'abacus': choose from auto, numpy"):
        tn.load(tmp_path / "m.safetensors", backend="abacus")


def test_every_kind_is_described_and_rebuilt():
    things = {
        "Dense": tn.Dense(3, False, initializers.Uniform(-1, 1)), "Sequential": NET, "Residual": tn.Residual(tn.Tanh()),
        "Quantile": tn.Quantile(0.1), "BinaryCrossEntropy": tn.BinaryCrossEntropy((1, 2)), "Frozen": tn.Frozen(tn.Dense(2)),
    }  # fmt: skip
    for name, kind in TABLE.items():
        thing = things.get(name) or kind()
        assert rebuild(json.loads(json.dumps(describe(thing)))) == thing


def test_a_layer_of_one_s_own_is_saved_once_it_is_in_the_table(tmp_path, monkeypatch):
    @dataclass(frozen=True, repr=False)
    class Mine(tn.Tanh):
        slope: float

    model = tn.Model(tn.Sequential(tn.Dense(3), Mine(2.0)), n_in=2)
    said = r"Mine is not in the table of layers and losses and cannot be saved: tinynet.registry.TABLE\['Mine'\] = Mine adds"
    with pytest.raises(TypeError, match=said):
        model.save(tmp_path / "m.safetensors")
    monkeypatch.setitem(TABLE, "Mine", Mine)
    model.save(tmp_path / "m.safetensors")
    assert tn.load(tmp_path / "m.safetensors").net == model.net


def test_a_class_that_was_defined_again_is_another(tmp_path, monkeypatch):
    """As in a notebook whose cell was run twice."""

    def define():
        return dataclass(frozen=True, repr=False)(type("Mine", (tn.Tanh,), {}))

    first, second = define(), define()
    model = tn.Model(tn.Sequential(tn.Dense(3), first()), n_in=2)
    monkeypatch.setitem(TABLE, "Mine", second)
    with pytest.raises(TypeError, match=r"has another Mine than this, .*TABLE\['Mine'\] to the type of this one"):
        model.save(tmp_path / "m.safetensors")
    monkeypatch.setitem(TABLE, "Mine", type(model.net.layers[1]))
    model.save(tmp_path / "m.safetensors")


class Times(tn.Sequential):
    def __init__(self, *layers, factor=2.0):
        super().__init__(*layers)
        self.factor = factor


class Block(tn.Sequential):
    def __init__(self, width):
        super().__init__(tn.Dense(width), tn.Tanh())
        self.width = width


def test_a_layer_of_layers_is_saved_with_its_hyperparameters_or_not_at_all(tmp_path, monkeypatch):
    """The factor was that of the default, also for ``==`` and in a checkpoint's fingerprint; no Block could be loaded."""
    for kind in (Times, Block):
        monkeypatch.setitem(TABLE, kind.__name__, kind)
    model = tn.Model(tn.Sequential(Times(tn.Dense(2), factor=3.0)), 2)
    model.save(tmp_path / "m")
    assert repr(tn.load(tmp_path / "m").net) == "Sequential(Times(Dense(width=2), factor=3.0))"
    assert tn.load(tmp_path / "m").net == model.net != tn.Sequential(Times(tn.Dense(2)))
    with pytest.raises(
        TypeError, match=r"^cannot be saved, because it could not be made again: Block: .*: let its constr"
    ):
        tn.Model(Block(3), 2).save(tmp_path / "m")
    assert tn.load(tmp_path / "m").net == model.net
    monkeypatch.delitem(TABLE, "Times")  # as in another program; it said that the file was damaged
    with pytest.raises(tn.ModelFileError) as e:
        tn.load(tmp_path / "m")
    remedy = "if it is your own, tinynet.registry.TABLE['Times'] = Times adds it"
    assert str(e.value) == f"{tmp_path / 'm'}: Times is not in the table of layers and losses: {remedy}"
    monkeypatch.setitem(TABLE, "Times", Times)
    assert tn.load(tmp_path / "m").net == model.net


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (type("Mine", (tn.losses.Loss,), {}), "Mine() cannot be saved: make its class a frozen dataclass"),
        (
            lambda: {"a": 1},
            "{'a': 1} cannot be saved: hyperparameters are Python's numbers, text, layers, or lists of these",
        ),
    ],
)
def test_what_cannot_be_saved_has_a_remedy(make, said):
    with pytest.raises(TypeError) as e:
        describe(make())
    assert str(e.value) == said


@pytest.mark.parametrize(
    "cut",
    [lambda v: v[::-1], lambda v: np.asfortranarray(v.reshape(-1, 1)).ravel(), lambda v: np.repeat(v, 2)[::2]],
    ids=["reversed", "F", "sliced"],
)
def test_arrays_in_any_memory_order_are_written_right(cut, tmp_path, monkeypatch):
    """safetensors 0.8 writes wrong bytes for these if they get to it as they are."""
    model = tn.Model(tn.Dense(3), 4)
    odd = {"w": np.asfortranarray(model.theta[:12].reshape(4, 3)), "b": cut(model.theta[12:].copy())}
    monkeypatch.setattr(type(model), "weights", lambda self: odd)
    model.save(tmp_path / "m")
    monkeypatch.undo()
    for name, a in tn.load(tmp_path / "m").weights().items():
        np.testing.assert_array_equal(a, odd[name])


def test_other_libraries_can_read_it(tmp_path):
    from safetensors.numpy import load_file

    model = trained()[0]
    model.save(tmp_path / "m.safetensors")
    arrays = load_file(tmp_path / "m.safetensors")
    assert set(arrays) == set(model.weights())
    np.testing.assert_array_equal(arrays["1.w"], model.weights()["1.w"])


# Writing ----------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_the_mode_is_that_of_any_new_file(tmp_path, monkeypatch):
    """And the umask, which all threads share, is left alone: of two that set it and put it back, one would keep 0."""
    model = tn.Model(tn.Dense(1), 1)
    for mask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            with monkeypatch.context() as patch:
                patch.delattr(os, "umask")
                model.save(tmp_path / "m")
            assert os.stat(tmp_path / "m").st_mode & 0o777 == mode
        finally:
            os.umask(before)


@pytest.mark.skipif(os.name != "posix", reason="links are POSIX")
def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    model, path = tn.Model(tn.Dense(1), 1), tmp_path / "m"
    path.symlink_to(Path("disk") / "m")
    for _ in range(2):  # first, the link leads nowhere
        model.theta *= 2.0
        model.save(path)
        assert path.is_symlink()
        assert tn.load(tmp_path / "disk" / "m").theta.tobytes() == model.theta.tobytes()
    assert os.listdir(tmp_path / "disk") == ["m"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_litter(fails, tmp_path, monkeypatch):
    old, new = tn.Model(tn.Dense(1), 1, seed=1), tn.Model(tn.Dense(1), 1, seed=2)
    path = tmp_path / "m"
    old.save(path)
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(OSError, match="No space left"):
        new.save(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m"]
    new.save(path)
    assert tn.load(path).theta.tobytes() == new.theta.tobytes()


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        tn.Model(tn.Dense(1), 1).save(tmp_path / "no" / "m")


# Reading ------------------------------------------------------------------------------------------------------------------


def forge(path, change=None, arrays=None):
    """A file like that of a 2 -> 3 Dense, with its description changed, or with other arrays."""
    from safetensors.numpy import save

    model = tn.Model(tn.Dense(3), 2)
    about = {
        "format": 1, "net": describe(model.net), "in_shape": [2], "seed": 0, "dtype": "float32", "loss": None, "metrics": [],
    }  # fmt: skip
    about |= change or {}
    arrays = dict(model.weights()) if arrays is None else arrays
    path.write_bytes(
        save({k: np.ascontiguousarray(v) for k, v in arrays.items()}, metadata={"tinynet": json.dumps(about)})
    )
    return path


def refusal(path):
    with pytest.raises(tn.ModelFileError) as e:
        tn.load(path)
    said = str(e.value)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    return said.removeprefix(f"{path}: ")


def nested(depth):
    net = {"kind": "Tanh"}
    for _ in range(depth):
        net = {"kind": "Sequential", "layers": [net]}
    return net


def test_what_nests_too_deep_to_be_loaded_is_not_saved(tmp_path):
    net = tn.Dense(2)
    for _ in range(15):
        net = tn.Sequential(net)
    tn.Model(net, 2).save(tmp_path / "m")
    assert tn.load(tmp_path / "m").net == net
    with pytest.raises(
        TypeError, match=r"^layers nested so deep cannot be saved: 16 of them may be inside one another$"
    ):
        tn.Model(tn.Sequential(net), 2).save(tmp_path / "m")
    assert tn.load(tmp_path / "m").net == net


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "format 2, which this version does not read: expected 1"),
        ({"net": {"kind": "os.system"}}, "damaged model file: unknown kind 'os.system'"),
        ({"net": {"kind": "Dense", "width": 3, "evil": 1}}, "damaged model file: Dense: "),
        ({"net": {"kind": "Dense", "width": -3}}, "damaged model file: Dense width -3 is not a positive whole number"),
        (
            {"net": {"kind": "Dense", "width": 10**12}},
            "damaged model file: array 'w' is float32 (2, 3): expected float32 ",
        ),
        ({"net": {"kind": "Sequential"}}, "damaged model file: Sequential: "),
        (
            {"net": {"kind": "Sequential", "layers": [3]}},
            "damaged model file: Sequential: Sequential takes layers, not 3",
        ),
        ({"net": nested(50)}, "damaged model file: layers nest deeper than 32"),
        ({"net": 7}, "damaged model file: its architecture is not a layer and a loss"),
        ({"net": {"kind": "Huber"}}, "damaged model file: its architecture is not a layer and a loss"),
        ({"loss": {"kind": "Tanh"}}, "damaged model file: its architecture is not a layer and a loss"),
        ({"in_shape": [10**12]}, "damaged model file: array 'w' is float32 (2, 3): expected float32 "),
        ({"in_shape": [-1]}, "damaged model file: its input shape (-1,) is not one"),
        ({"in_shape": []}, "damaged model file: Dense takes vectors, not samples of shape ()"),
        ({"in_shape": 3}, "damaged model file: "),
        ({"seed": -1}, "damaged model file: seed -1 is out of range"),
        ({"dtype": "float16"}, "damaged model file: "),
        ({"dtype": "os"}, "damaged model file: "),
        ({"metrics": ["none"]}, "damaged model file: 'none'"),
        ({"metrics": [{"kind": "Tanh"}]}, "damaged model file: its metrics are not metrics"),
    ],
)
def test_descriptions_that_lie(change, said, tmp_path):
    assert refusal(forge(tmp_path / "m", change)).startswith(said)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "damaged model file: array 'b' is missing"),
        ({"w": np.zeros((2, 3), "float32")}, "damaged model file: array 'b' is missing"),
        ({"w": np.zeros((2, 3), "f4"), "b": np.zeros(3, "f4"), "../x": np.zeros(1)},
         "damaged model file: array '../x' is not part of the network"),
        ({"w": np.zeros((3, 2), "f4"), "b": np.zeros(3, "f4")},
         "damaged model file: array 'w' is float32 (3, 2): expected float32 (2, 3)"),
        ({"w": np.zeros((2, 3), "f8"), "b": np.zeros(3, "f4")},
         "damaged model file: array 'w' is float64 (2, 3): expected float32 (2, 3)"),
        ({"w": np.full((2, 3), np.nan, "f4"), "b": np.zeros(3, "f4")},
         "damaged model file: array 'w' has a value that is NaN or infinite"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit(arrays, said, tmp_path):
    assert refusal(forge(tmp_path / "m", arrays=arrays)) == said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a model file, or one that was cut short"),
        (b"hello, this is text and no model", "not a model file, or one that was cut short"),
        (struct.pack("<Q", 2**63) + b"{}", "not a model file, or one that was cut short"),
        (struct.pack("<Q", 2**40) + b"{}" * 50, "not a model file, or one that was cut short"),
        (struct.pack("<Q", 2) + b"{}", "not a model of tinynet, though a safetensors file"),
        (struct.pack("<Q", 8) + b"not json", "damaged model file: "),
        (b"\x80\x04\x95" + b"pickle" * 9, "not a model file, or one that was cut short"),
        pytest.param(
            struct.pack("<Q", 2**25) + bytes(2**25),
            "its header has 33554432 bytes, and that of a model at most 16777216",
            id="a header of 32 MiB",
        ),
    ],
)
def test_files_that_are_something_else(content, said, tmp_path):
    (tmp_path / "m").write_bytes(content)
    assert refusal(tmp_path / "m").startswith(said)


def raw(path, header, body):
    header = header.encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + body)
    return path


def test_names_that_come_twice(tmp_path):
    """Neither of two arrays of one name is taken for the other: the file is refused."""
    content = forge(tmp_path / "m").read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + size].decode().rstrip()
    entry = json.dumps({"b": json.loads(header)["b"]})[1:-1]
    said = refusal(raw(tmp_path / "m", f"{header[:-1]}, {entry}}}", content[8 + size :]))
    assert said == "damaged model file: 'b' occurs twice"


def test_three_hundred_thousand_tensors_are_refused_at_once(tmp_path):
    entries = [f'"{i}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{i + 1}]}}' for i in range(300_000)]
    refusal(raw(tmp_path / "m", "{" + ",".join(entries) + "}", bytes(300_000)))


@pytest.mark.skipif(os.name != "posix", reason="links are POSIX")
def test_a_link_to_a_model_is_the_model(tmp_path):
    forge(tmp_path / "m")
    (tmp_path / "link").symlink_to(tmp_path / "m")
    assert tn.load(tmp_path / "link").out_shape == (3,)


@pytest.mark.skipif(os.name != "posix", reason="pipes are POSIX")
def test_what_is_no_file_at_all(tmp_path):
    assert refusal(tmp_path) == "not a regular file"
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe") == "not a regular file"  # and does not wait for a writer
    with pytest.raises(FileNotFoundError):
        tn.load(tmp_path / "nothing")


def test_a_file_that_was_cut_short_anywhere_is_refused(tmp_path):
    content = forge(tmp_path / "m").read_bytes()
    for length in range(len(content)):
        (tmp_path / "m").write_bytes(content[:length])
        refusal(tmp_path / "m")


def test_a_flipped_bit_is_refused_or_leaves_a_model(tmp_path):
    content = bytearray(forge(tmp_path / "m").read_bytes())
    rng = np.random.default_rng(0)
    refused = 0
    for at in rng.integers(0, len(content) * 8, 200).tolist():
        damaged = bytearray(content)
        damaged[at // 8] ^= 1 << at % 8
        (tmp_path / "m").write_bytes(damaged)
        try:
            tn.load(tmp_path / "m")
        except tn.ModelFileError:
            refused += 1
    assert refused > 100
