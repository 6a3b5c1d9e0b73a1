"""The command on a user's own files: training, predicting, evaluating, exporting, and a line for whatever is wrong."""

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import tomllib
from pathlib import Path

import numpy as np
import pytest

import tinynet as tn
from tinynet import config
from tinynet.cli import bench, main
from tinynet.data import Columns, arrow, csv_table, inputs, outputs, tables, writing
from tinynet.metrics import METRICS

pytest.importorskip("pyarrow", reason="CSV and Parquet need it")

KINDS = ("ash", "birch", "oak, red")  # the last has a comma in it
HOST = tn.get_backend("numpy")


def table(path, n=120, seed=0, names=KINDS, delimiter=","):
    """A table of two features, a third that does not matter, and a class that the features tell; also its rows."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(names), n)
    x = np.column_stack(
        [100 * labels + rng.normal(0, 5, n), rng.normal(0, 1e-3, n) + 1e-2 * labels, rng.normal(0, 1, n)]
    )
    rows = [[f"{a:.17g}" for a in row] + [f'"{names[k]}"'] for row, k in zip(x, labels, strict=True)]
    path.write_text("\n".join(delimiter.join(row) for row in [["wide", "thin", "noise", "kind"], *rows]) + "\n")
    return x, labels


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on such a table."""
    folder = tmp_path_factory.mktemp("run")
    table(folder / "trees.csv")
    argv = [
        "--data",
        str(folder / "trees.csv"),
        "--target",
        "kind",
        "--epochs",
        "30",
        "--lr",
        "0.03",
        "--hidden",
        "16",
        "--quiet",
    ]
    assert main(["train", *argv, "--backend", "numpy", "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch, no_picture):
    monkeypatch.chdir(tmp_path)


def mistake(capsys, *argv):
    """The one line that a mistaken command says, and nothing else."""
    assert main(list(map(str, argv))) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("tinynet: error: ")
    return err.removeprefix("tinynet: error: ").rstrip()


# Training -------------------------------------------------------------------------------------------------------------


def test_a_table_is_learned_and_the_model_knows_its_names(run):
    model = tn.load(run / "model.safetensors")
    assert model.columns == tn.data.Columns(("wide", "thin", "noise"), ("kind",), KINDS)
    assert repr(model.net).startswith("Sequential(Standardize(), ")
    assert "val_accuracy" in (run / "history.jsonl").read_text()
    data = tn.data.read(run.parent / "trees.csv", target="kind")
    assert model.evaluate(data)["accuracy"] > 0.95
    assert model.to("strict").columns == model.columns


def test_what_is_learned_by_heart_is_not_kept(tmp_path, capsys, picture):
    """Labels are noise: the loss of what is held out soon grows, and the model is that of the best epoch."""
    rng = np.random.default_rng(0)
    t = np.column_stack([rng.normal(size=(80, 5)), rng.integers(0, 2, 80)])
    np.savetxt("t.csv", t, "%.6g", ",", header="a,b,c,d,e,y", comments="")
    some = ["--backend", "numpy", "--task", "classification", "--data", "t.csv"]
    assert main(["train", *some, "--out", "r", "--quiet"]) == 0
    rows = [json.loads(line) for line in Path("r/history.jsonl").read_text().splitlines() if "epoch" in line]
    best = min(rows, key=lambda row: row["val_loss"])
    assert len(rows) == best["epoch"] + 10 < 50
    out = capsys.readouterr().out
    assert (
        f"the weights are those of epoch {best['epoch']}, the best by val_loss\nval_loss {best['val_loss']:.4f}\n"
        in out
    )
    assert Path("r/model.safetensors").read_bytes() == Path("r/checkpoints/best.safetensors").read_bytes()
    assert main(["plot", "r", "--out", "again.png"]) == 0
    assert Path("again.png").read_bytes() == Path("r/training.png").read_bytes()


def test_a_run_that_was_killed_has_no_model_yet(run, capsys):
    shutil.copytree(run, "r")
    Path("r/model.safetensors").unlink()
    for argv in (["predict", "r", "x.csv"], ["evaluate", "r"], ["info", "r"], ["plot", "r"]):
        said = mistake(capsys, *argv)
        assert said == "r: the run is not finished and has no model yet: tinynet train --resume r"


def test_the_config_of_a_run_on_a_file_trains_it_again_from_anywhere(run, tmp_path, monkeypatch, picture):
    text = (run / "config.toml").read_text()
    assert "samples" not in text
    assert f'data = "{run.parent / "trees.csv"}"' in text
    assert main(["train", str(run / "config.toml"), "--out", "again", "--quiet"]) == 0
    assert (tmp_path / "again/model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    assert (tmp_path / "again/training.png").read_bytes() == (run / "training.png").read_bytes()


def test_the_targets_of_an_npy_file_are_found_from_anywhere(tmp_path, monkeypatch):
    np.save("x.npy", np.arange(20.0).reshape(10, 2))
    np.save("y.npy", np.arange(10) % 2)
    argv = ["--epochs", "1", "--quiet", "--backend", "numpy", "--out", "r"]
    assert main(["train", "--data", "x.npy", "--target", "y.npy", *argv]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert main(["evaluate", "../r", "--backend", "numpy"]) == 0


def test_a_run_on_a_file_goes_on_and_notices_that_the_file_is_another(tmp_path, capsys):
    table(tmp_path / "t.csv", 60)
    some = ["--data", "t.csv", "--target", "kind", "--quiet", "--backend", "numpy", "--schedule", "constant"]
    assert main(["train", *some, "--epochs", "4", "--out", "a"]) == 0
    assert main(["train", *some, "--epochs", "2", "--out", "b"]) == 0
    assert main(["train", "--resume", "b", "--epochs", "4", "--quiet"]) == 0
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    capsys.readouterr()
    table(tmp_path / "t.csv", 60, seed=1)
    assert main(["train", "--resume", "b", "--epochs", "5", "--quiet"]) == 2
    assert "was written for another data set" in capsys.readouterr().err


def test_rows_added_since_a_run_do_not_pass_for_what_it_held_out(tmp_path, capsys):
    table(tmp_path / "t.csv", 60)
    assert main(["train", "--data", "t.csv", "--target", "kind", "--epochs", "1", "--out", "a", "--quiet"]) == 0
    capsys.readouterr()
    for argv in (["evaluate", "a"], ["plot", "a"]):
        assert main(argv) == 0
    with open("t.csv", "a") as f:
        f.write("1,2,3,ash\n")
    for argv in (["evaluate", "a"], ["plot", "a"]):
        capsys.readouterr()
        assert mistake(capsys, *argv) == (
            "a: its data or config are not those that it was trained on, so what it held out is unknown: restore them, "
            "evaluate it on other data, or train again"
        )
    assert main(["evaluate", "a", "--data", "t.csv"]) == 0
    shutil.rmtree("a/checkpoints")  # then nothing tells
    assert main(["evaluate", "a"]) == 0


SGD = ["--optimizer", "sgd", "--lr", "0.05", "--clip", "1"]


@pytest.mark.parametrize(("scale", "optimizer"), [(1e-6, []), (1e-6, SGD), (1e9, []), (1e9, SGD)])
def test_numbers_of_any_scale_are_learned(scale, optimizer, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (200, 2))
    y = scale * (x @ [1.0, -2.0] + 50)
    np.savetxt(tmp_path / "n.csv", np.column_stack([x, y]), delimiter=",", header="a,b,price", comments="")
    assert (
        main(
            ["train", "--data", "n.csv", "--target", "price", "--out", "r", "--quiet", "--backend", "numpy", *optimizer]
        )
        == 0
    )
    row = [json.loads(line) for line in (tmp_path / "r/history.jsonl").read_text().splitlines()][-1]
    assert row["val_r2"] > 0.98
    assert main(["predict", "r", "n.csv", "--out", "p.npy", "--backend", "numpy"]) == 0
    assert np.abs(np.load(tmp_path / "p.npy") - y).mean() < 0.2 * scale
    data = tn.data.read("n.csv", target="price")
    assert tn.load("r/model.safetensors").evaluate(data)["r2"] > 0.98


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        (("3", "10", "5"), "auto", ("3", "5", "10")),
        (("true", "false"), "auto", ("false", "true")),
        (("-1", "1"), "auto", ("-1", "1")),
        (("b", "a"), "auto", ("a", "b")),
        (("0.5", "1.5"), "auto", None),
        (("0.5", "1.5"), "classification", ("0.5", "1.5")),
        (("1", "x"), "classification", ("1", "x")),
        (("3", "10"), "regression", None),
    ],
)
def test_what_a_target_is(values, task, classes, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROWS", 3)
    (tmp_path / "t.csv").write_text("a,y\n" + "".join(f"{i},{values[(i + i // 4) % len(values)]}\n" for i in range(11)))
    data = tn.data.read("t.csv", task=task)
    y = data.batch(range(11), HOST, "float64").y
    assert data.columns.classes == classes
    truth = [values[(i + i // 4) % len(values)] for i in range(11)]
    if classes:
        assert (data.classes, y.dtype) == (len(classes), np.int64)
        assert [classes[label] for label in y] == truth
        again = tn.data.read("t.csv", columns=data.columns)
        assert again.batch(range(11), HOST, "float64").y.tolist() == y.tolist()
    else:
        assert y[:, 0].tolist() == list(map(float, truth))


def test_parquet_has_classes_too(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    words = ["b", "a", "c", "a", "b", "b"]
    for kind in (pa.array(words), pa.array(words).dictionary_encode(), pa.array(words, pa.large_string())):
        pq.write_table(pa.table({"a": np.arange(6.0), "y": kind}), "t.parquet", row_group_size=2)
        data = tn.data.read("t.parquet")
        assert data.columns == tn.data.Columns(("a",), ("y",), ("a", "b", "c"))
        assert data.batch(range(6), HOST, "float32").y.tolist() == [1, 0, 2, 0, 1, 1]


def test_shards_name_their_classes_together(tmp_path):
    for name, words in (("a", "xy"), ("b", "yx"), ("c", "xz")):
        (tmp_path / f"{name}.csv").write_text("a,y\n" + "".join(f"1,{w}\n" for w in words))
    data = tn.data.read(["a.csv", "b.csv"])
    assert data.columns.classes == ("x", "y")
    assert data.batch(range(4), HOST, "float32").y.tolist() == [0, 1, 1, 0]
    data = tn.data.read(["a.csv", "c.csv", "b.csv"])
    assert (data.columns.classes, data.classes) == (("x", "y", "z"), 3)
    assert data.batch(range(6), HOST, "float32").y.tolist() == [0, 1, 0, 2, 1, 0]
    (tmp_path / "numbers.csv").write_text("a,y\n1,9\n1,10\n")
    (tmp_path / "more.csv").write_text("y,a\n2,5\n")
    data = tn.data.read(["numbers.csv", "more.csv"], task="auto")
    assert data.columns.classes == ("2", "9", "10")
    assert data.batch(range(3), HOST, "float32").y.tolist() == [1, 2, 0]
    assert data.batch(range(3), HOST, "float32").x.tolist() == [[1], [1], [5]]
    with pytest.raises(tn.DataFileError, match=r"a.csv: column 'y' mixes numbers and text, as '9' and 'x'"):
        tn.data.read(["a.csv", "numbers.csv"], task="auto")
    known = tn.data.Columns(("a",), ("y",), ("x", "y"))
    with pytest.raises(tn.DataFileError, match="c.csv: column 'y' has the class 'z' in row 1"):
        tn.data.read(["a.csv", "c.csv"], columns=known)


def test_columns_that_are_used(tmp_path):
    text = "id,a,b,weight,y\nk-1,1,2,3,0\nk-2,4,5,6,1\n"
    (tmp_path / "t.csv").write_text(text)
    from pyarrow import csv, parquet

    parquet.write_table(csv.read_csv("t.csv"), "t.parquet")
    parquet.write_table(csv.read_csv("t.csv").rename_columns(["weight", "a", "b", "c", "y"]), "text.parquet")
    ids = csv.read_csv("t.csv").drop_columns(["weight"])
    parquet.write_table(ids.append_column("weight", ids["id"]), "two.parquet")
    for path in ("t.csv", "t.parquet"):
        for options, names, x, weighted in (
            ({"exclude": ["id"]}, ("a", "b"), [[1, 2], [4, 5]], True),
            ({"exclude": ["id", "a", "weight"]}, ("b",), [[2], [5]], False),
            ({"features": ["b", "a"]}, ("b", "a"), [[2, 1], [5, 4]], True),
            ({"features": ["weight", "a"]}, ("weight", "a"), [[3, 1], [6, 4]], False),
        ):
            data = tn.data.read(path, **options)
            batch = data.batch(range(2), HOST, "float64")
            assert (data.columns.features, batch.x.tolist(), batch.weight is not None) == (names, x, weighted)
    data = tn.data.read(["t.csv", "t.parquet"], exclude=["id", "b", "weight"])
    batch = data.batch(range(4), HOST, "float64")
    assert (batch.x.tolist(), batch.weight) == ([[1], [4], [1], [4]], None)
    put("c.csv", "a,b,c,y\n7,8,9,0\n")
    parts = tn.data.read(["t.csv", "c.csv"], features=["b", "a"])
    assert parts.batch(range(3), HOST, "float64").x.tolist() == [[2, 1], [5, 4], [8, 7]]
    assert tn.data.read("t.csv", columns=data.columns).batch(range(1), HOST, "float64").x.tolist() == [[1]]
    put("d.csv", "a,b,y\n1,2,0\n")
    np.save("t.npy", np.ones((3, 3)))
    for path, options, said in (
        ("t.csv", {"exclude": ["none"]}, "t.csv: has no column 'none' to use or exclude: it has id, a, b, weight, y"),
        ("t.csv", {"features": ["y"]}, "t.csv: column 'y' is the target: name other features, or another target"),
        ("t.csv", {"exclude": ["id", "a", "b"]}, "t.csv: has no features beside y"),
        ("t.csv", {}, "t.csv: column 'id' has 'k-1' in row 0, which is no number: fix or drop it, or exclude the column"),
        ("t.parquet", {}, "t.parquet: column 'id' of type string is not numeric: exclude it, or make it numbers"),
        ("text.parquet", {}, "text.parquet: column 'weight' of type string is not numeric: exclude it, or make it numbers"),
        ("two.parquet", {}, "two.parquet: columns id, weight are not numeric: exclude them, or make them numbers"),
        ("t.npy", {"exclude": ["a"]}, "t.npy: its columns have no names: features and exclude are for .csv, .tsv, .parquet"),
        # what the first has not was left out in silence
        (["t.csv", "c.csv"], {"features": ["weight"]}, "c.csv: has no column 'weight' to use or exclude: it has a, b, c, y"),
        (["d.csv", "c.csv"], {}, "c.csv: has a column 'c', which d.csv has not: drop it, or list the features"),
        ("t.csv", {"exclude": ["id"], "features": ["a"]},
         "features and exclude are two ways to say which columns are used: give one of them"),
    ):  # fmt: skip
        with pytest.raises(ValueError) as e:
            tn.data.read(path, **options)
        assert str(e.value) == said
    with pytest.raises(TypeError, match="exclude 'id' is one name: give a list of names"):
        tn.data.read("t.csv", exclude="id")
    with pytest.raises(TypeError, match="columns 'a' are not Columns: give those of a model"):
        tn.data.read("t.csv", columns="a")


def test_a_column_that_may_be_a_weight_or_a_feature(capsys):
    put("d.csv", "a,weight,y\n" + "".join(f"{number},{70 + number},{number / 7}\n" for number in range(20)))
    for out, options in (("w", []), ("f", ["--features", "a,weight"])):
        argv = ["train", "--data", "d.csv", "--epochs", "1", "--quiet", "--backend", "numpy", "--out", out, *options]
        assert main(argv) == 0
        said = "; 'weight' has sample weights, or a feature if --features names it\n"
        assert (said in capsys.readouterr().out) == (out == "w")


def test_columns_that_are_not_used_may_be_in_any_encoding(capsys):
    names = [("Zoë", "Paul")[row % 2] for row in range(20)]
    rows = "".join(f"{row},{name},{row % 2}\n" for row, name in enumerate(names))
    Path("d.csv").write_bytes(f"a,name,y\n{rows}".encode("latin-1"))
    short = ["--epochs", "1", "--quiet", "--backend", "numpy"]
    assert main(["train", "--data", "d.csv", "--exclude", "name", "--out", "run", *short]) == 0
    assert main(["predict", "run", "d.csv"]) == 0
    capsys.readouterr()
    argv = ["train", "--data", "d.csv", "--exclude", "y", "--target", "name", "--task", "classification"]
    assert mistake(capsys, *argv).endswith("d.csv: is not text in UTF-8: save the file in that encoding")


def test_parts_of_a_table(tmp_path, capsys):
    """Several files, or a pattern, with columns left out; the config that is written trains the same again."""
    for n in range(3):
        table(tmp_path / f"part-{n}.csv", 60, seed=n, names=KINDS[: 2 + (n > 0)])
    short = [
        "--target",
        "kind",
        "--epochs",
        "3",
        "--hidden",
        "8",
        "--exclude",
        "noise",
        "--quiet",
        "--backend",
        "numpy",
    ]
    names = [str(tmp_path / f"part-{n}.csv") for n in range(3)]
    for out, given in (("a", names), ("b", ["part-*.csv"])):
        assert main(["train", "--data", *given, *short, "--out", out]) == 0
    assert "3 classes" in capsys.readouterr().out
    config = tomllib.loads(Path("b/config.toml").read_text())
    assert (config["data"], config["exclude"], config["features"]) == (names, ["noise"], [])
    assert main(["train", "b/config.toml", "--out", "c"]) == 0
    assert main(["train", "--out", "d", "--data", *names, "a/config.toml"]) == 0  # a config behind the files
    models = [tn.load(f"{run}/model.safetensors") for run in "abcd"]
    assert all((model.theta == models[0].theta).all() for model in models)
    assert models[0].columns == tn.data.Columns(("wide", "thin"), ("kind",), KINDS)
    for argv in (["--data", "part-[12].csv"], ["--data", "part-1.csv", "--data", "part-2.csv"], []):
        capsys.readouterr()
        assert main(["evaluate", "a", *argv]) == 0
        assert "accuracy" in capsys.readouterr().out
    for argv, said in (
        (["train", "--data", "none-*.csv"], "no file matches 'none-*.csv'"),
        (["train", "--data", "part-*.csv", "./part-1.csv"],
         f"{names[1]} is given twice: some of its samples would be both trained on and held out"),
        (["train", "--data", "part-0.csv", "moons"], "unknown data 'moons': each of several is a file ("),
        (["train", "--data", "part-0.csv", "--target", "kind", "--exclude", "nois"],
         f"{names[0]}: has no column 'nois' to use or exclude: it has wide, thin, noise, kind"),
        (["train", "--exclude", "noise"], "option exclude is for data in a file: data 'spirals' has no such option"),
    ):  # fmt: skip
        assert main(argv) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"tinynet: error: {said}")
        assert line.count("\n") == 1
    assert not Path("runs").exists()


def test_weights_in_a_part_of_a_table_are_mentioned(capsys):
    put("1.csv", "a,y\n" + "".join(f"{n},{n / 7}\n" for n in range(9)))
    put("2.csv", "a,y,weight\n" + "".join(f"{n},{n / 7},2\n" for n in range(9)))
    assert main(["train", "--data", "1.csv", "2.csv", "--epochs", "1", "--quiet", "--backend", "numpy"]) == 0
    assert "; 'weight' has sample weights" in capsys.readouterr().out


def test_names_of_columns_with_commas():
    assert config.parse("exclude", 'id, "size, in m",b') == ["id", "size, in m", "b"]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters(delimiter, tmp_path):
    x, labels = table(tmp_path / "t.csv", 20, delimiter=delimiter)
    data = tn.data.read("t.csv", target="kind")
    got = data.batch(range(20), HOST, "float64")
    np.testing.assert_array_equal(got.x, x)
    assert got.y.tolist() == labels.tolist()


@pytest.mark.parametrize("n", [20, 1000])
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_a_split_is_stratified_drawn_and_whole(n, fraction):
    rng = np.random.default_rng(n)
    y = rng.choice(3, n, p=(0.8, 0.15, 0.05))
    data = tn.Arrays(np.arange(n, dtype=np.float64)[:, None], y)
    parts = tn.data.stratified(data, fraction, seed=3)
    train, held_out = (part.batch(range(part.n), HOST, "float64") for part in parts)
    assert sorted([*train.x[:, 0], *held_out.x[:, 0]]) == list(range(n))
    for k in range(3):
        count = int((y == k).sum())
        assert abs(int((held_out.y == k).sum()) - fraction * count) <= 0.5
        assert (train.y == k).any() or not count
    np.testing.assert_array_equal(y[held_out.x[:, 0].astype(int)], held_out.y)
    chosen = np.array([n // 3, 0, 1, 1])
    np.testing.assert_array_equal(parts[0].batch(chosen, HOST, "float64").x, train.x[chosen])
    again, other = tn.data.stratified(data, fraction, seed=3), tn.data.stratified(data, fraction, seed=4)
    assert again[1].index.tolist() == parts[1].index.tolist()
    assert again[0].fingerprint() == parts[0].fingerprint()
    assert n == 20 or other[1].index.tolist() != parts[1].index.tolist()
    numbers = tn.Arrays(np.zeros((n, 1)), np.zeros((n, 2)))
    assert tn.data.stratified(numbers, fraction, seed=0)[1].n == int(fraction * n + 0.5)


def test_classes_are_drawn_from_apart():
    data = tn.Arrays(np.zeros((200, 1)), np.arange(200) % 2)
    index = tn.data.stratified(data, 0.25, seed=0)[1].index
    assert (index[index % 2 == 0] // 2).tolist() != (index[index % 2 == 1] // 2).tolist()


# Predicting and evaluating --------------------------------------------------------------------------------------------


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """Further rows in every format, read in pieces of a few; also what they are."""
    import h5py
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setattr(tables, "ROWS", 7)
    monkeypatch.setattr(inputs, "_PIECE", 21)
    x, labels = table(tmp_path / "t.csv", 50, seed=5)
    np.save("t.npy", x)
    np.save("fortran.npy", np.asfortranarray(x))
    np.savez("t.npz", X=x)
    np.savez_compressed("c.npz", X=x)
    with h5py.File("t.h5", "w") as f:
        f["X"] = x
    columns = {"noise": x[:, 2], "more": ["?"] * 50, "thin": x[:, 1], "wide": x[:, 0]}  # in another order
    pq.write_table(pa.table(columns), "t.parquet")
    return x, labels


FILES = ["t.csv", "t.npy", "fortran.npy", "t.npz", "c.npz", "t.h5", "t.parquet"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("out", ["p.csv", "p.parquet", "p.npy", "-"])
def test_predictions_are_the_model_s(file, out, rows, run, capsysbinary):
    import pyarrow.csv
    import pyarrow.parquet

    model = tn.load(run / "model.safetensors", backend="numpy")
    said = [KINDS[label] for label in model.predict_labels(rows[0])]
    p = HOST.softmax(model.predict(rows[0]))
    assert said == [KINDS[label] for label in rows[1]]
    argv = ["predict", str(run), file, "--backend", "numpy", "--proba", "--out", out]
    assert main(argv) == 0
    stdout, err = capsysbinary.readouterr()
    assert (stdout == b"", b"50 rows" in err) == ((out != "-",) * 2)
    if out == "p.npy":
        np.testing.assert_array_equal(np.load(out), p)
        assert main([*argv[:-3], "--out", out]) == 0
        assert np.load(out).tolist() == said
        return
    if out == "-":
        Path("p.csv").write_bytes(stdout)
    read = pyarrow.parquet.read_table(out) if out == "p.parquet" else pyarrow.csv.read_csv("p.csv")
    assert read.column_names == ["prediction", *(f"p_{kind}" for kind in KINDS)]
    assert read["prediction"].to_pylist() == said
    got = np.column_stack([read[f"p_{kind}"].to_numpy() for kind in KINDS])
    np.testing.assert_array_equal(got.astype(np.float32), p)


@pytest.mark.parametrize("file", ["t.npz", "c.npz"])
def test_rows_of_an_archive_leave_no_scratch_files(file, rows, run, monkeypatch, tmp_path_factory):
    scratch = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    pieces = inputs.read_inputs(file, (3,))
    next(pieces)
    assert [f.name for f in scratch.rglob("*.bin")] == ["X.bin"] * (file == "c.npz")
    next(pieces)
    del pieces  # not read to its end
    assert os.listdir(scratch) == []
    assert main(["predict", str(run), file, "--backend", "numpy", "--out", "p.csv"]) == 0
    assert os.listdir(scratch) == []


def test_csv_on_a_pipe(rows, run, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path("t.csv").read_bytes())))
    assert main(["predict", str(run), "-", "--backend", "numpy"]) == 0
    piped = capsys.readouterr().out
    assert main(["predict", str(run), "t.csv", "--backend", "numpy"]) == 0
    assert capsys.readouterr().out == piped
    assert piped.splitlines()[0] == "prediction"
    assert len(piped.splitlines()) == 51


@pytest.mark.parametrize(
    ("loss", "width", "names"),
    [
        (tn.BinaryCrossEntropy(), 1, ["prediction", "p_0", "p_1"]),
        (tn.CrossEntropy(), 2, ["prediction", "p_0", "p_1"]),
        (tn.MeanSquaredError(), 1, ["prediction"]),
        (tn.MeanSquaredError(), 2, ["prediction0", "prediction1"]),
    ],
)
def test_models_without_names(loss, width, names, tmp_path, capsys):
    model = tn.Model(tn.Sequential(tn.Dense(width)), 2, seed=1)
    model.loss = loss
    model.save("m.safetensors")
    x = np.random.default_rng(0).normal(size=(9, 2))
    columns = np.column_stack([np.arange(9), x, np.zeros(9)])  # the first is a pandas index
    np.savetxt("x.csv", columns, delimiter=",", header=",u,v,y", comments="")
    proba = ["--proba"] if len(names) == 3 else []
    assert main(["predict", "m.safetensors", "x.csv", *proba, "--backend", "numpy"]) == 0
    lines = [line.split(",") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == names
    got, z = np.array(lines[1:], np.float64), model.predict(x)
    if not proba:
        np.testing.assert_array_equal(got.astype(np.float32), z)
        return
    p = HOST.softmax(z)[:, 1] if width == 2 else 1 / (1 + np.exp(-z[:, 0]))
    np.testing.assert_allclose(got[:, 2], p, rtol=1e-6)
    np.testing.assert_allclose(got[:, 1] + got[:, 2], 1, rtol=1e-6)
    assert got[:, 0].tolist() == (p > 0.5).tolist() == model.predict_labels(x).tolist()


@pytest.mark.parametrize(
    "classes", [("-1", "7"), ("false", "true"), ("01", "1"), ("5", "1" + 20 * "0")], ids=["int", "bool", "text", "long"]
)
def test_predicted_classes_are_of_the_type_that_the_table_has(classes):
    """As text, none would equal the table's own."""
    import pyarrow.parquet

    model = tn.Model(tn.Dense(2), 2, seed=1)
    model.loss, model.columns = tn.CrossEntropy(), Columns(("u", "v"), ("y",), classes)
    model.save("m.safetensors")
    x = np.random.default_rng(0).normal(size=(9, 2))
    np.save("x.npy", x)
    known = {"-1": -1, "7": 7, "false": False, "true": True}
    said = [known.get(classes[label], classes[label]) for label in model.predict_labels(x)]
    for out in ("p.parquet", "p.npy", "p.csv"):
        assert main(["predict", "m.safetensors", "x.npy", "--out", out, "--backend", "numpy"]) == 0
    assert pyarrow.parquet.read_table("p.parquet")["prediction"].to_pylist() == said
    assert np.load("p.npy").tolist() == said
    assert Path("p.csv").read_text().split() == ["prediction", *map(str, said)]
    assert main(["predict", "m.safetensors", "x.npy", "--proba", "--out", "p.csv", "--backend", "numpy"]) == 0
    header = [f"p_{known.get(name, name)}" for name in classes]  # so that a prediction finds its column
    assert Path("p.csv").read_text().split()[0] == ",".join(["prediction", *header])


def test_probabilities_of_several_outputs(capsys):
    """Each has its own, under the name of its target."""
    x = np.random.default_rng(0).normal(size=(9, 2))
    model = tn.Model(tn.Dense(3), 2)
    model.loss = tn.BinaryCrossEntropy()
    np.save("x.npy", x)
    for columns, names in ((None, "012"), (Columns(("u", "v"), ("a", "b", "c")), "abc")):
        model.columns = columns
        model.save("m.safetensors")
        argv = ["predict", "m.safetensors", "x.npy", "--proba", "--backend", "numpy"]
        assert main(argv) == 0
        lines = [line.split(",") for line in capsys.readouterr().out.splitlines()]
        assert lines[0] == ["prediction0", "prediction1", "prediction2", *(f"p_{name}" for name in names)]
        both = np.column_stack([model.predict(x), model.predict_proba(x)])
        np.testing.assert_array_equal(np.array(lines[1:], np.float32), both)
        assert main([*argv, "--out", "p.npy"]) == 0
        np.testing.assert_array_equal(np.load("p.npy"), model.predict_proba(x))
        capsys.readouterr()
    tn.Model(tn.Dense(3), 2).save("m.safetensors")
    said = "the model has no loss yet, by which outputs are probabilities: fit it, or set model.loss"
    assert mistake(capsys, *argv) == said


def test_evaluate(rows, run, capsys):
    assert main(["evaluate", str(run), "--backend", "numpy"]) == 0
    said = dict(line.split() for line in capsys.readouterr().out.splitlines())
    last = json.loads((run / "history.jsonl").read_text().splitlines()[-1])
    assert float(said["loss"]) == pytest.approx(last["val_loss"], rel=1e-4)
    assert float(said["accuracy"]) == pytest.approx(last["val_accuracy"], rel=1e-5)
    assert main(["evaluate", str(run / "model.safetensors"), "--data", "t.csv", "--metrics", "f1, accuracy"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["loss", "f1", "accuracy"]


def test_evaluate_a_single_logit_on_labels_or_numbers(capsys):
    """Zeros and ones may be either, with the same loss; a logit is no estimate of a number, and has no metric of those."""
    put("z.csv", "a,b,y\n" + "".join(f"{k % 7},{k % 5},{k % 2}\n" for k in range(40)))
    for task, names in (("classification", ["loss", "accuracy"]), ("regression", ["loss"])):
        data, model = tn.data.read("z.csv", task=task), tn.Model(tn.Dense(1), 2)
        model.fit(data, loss=tn.BinaryCrossEntropy())
        model.save("m.safetensors")
        wanted = model.evaluate(data)
        assert main(["evaluate", "m.safetensors", "--data", "z.csv", "--backend", "numpy"]) == 0
        assert capsys.readouterr().out == "".join(f"{name} {wanted[name]:.6g}\n" for name in names)


def test_evaluate_on_labels_of_a_floating_type(capsys):
    """An .npy table has one type; no option of evaluate could have said that its targets are labels."""
    np.save("d.npy", np.column_stack([np.random.default_rng(0).normal(size=(20, 2)), np.arange(20) % 3]))
    argv = ["--epochs", "1", "--quiet", "--backend", "numpy", "--out", "r"]
    assert main(["train", "--data", "d.npy", "--task", "classification", *argv]) == 0
    capsys.readouterr()
    assert main(["evaluate", "r", "--data", "d.npy", "--backend", "numpy"]) == 0
    wanted = tn.load("r/model.safetensors").evaluate(tn.data.read("d.npy", task="classification"))
    assert capsys.readouterr().out == f"loss {wanted['loss']:.6g}\naccuracy {wanted['accuracy']:.6g}\n"


def test_evaluate_on_computed_data(tmp_path, capsys):
    model = tn.Model(tn.Sequential(tn.Dense(8), tn.ReLU(), tn.Dense(3)), 2)
    model.fit(tn.data.Blobs(500), batch_size=50)
    model.save("m.safetensors")
    argv = ["--data", "blobs", "--samples", "300", "--seed", "0", "--set", "noise=2.0", "--backend", "numpy"]
    assert main(["evaluate", "m.safetensors", *argv]) == 0
    wanted = model.evaluate(tn.data.Blobs(300, noise=2.0))
    assert capsys.readouterr().out == f"loss {wanted['loss']:.6g}\naccuracy {wanted['accuracy']:.6g}\n"


# Export, plot, info, bench --------------------------------------------------------------------------------------------


def test_export(run, rows, tmp_path, capsys):
    onnx = pytest.importorskip("onnx", reason="the format needs it")
    for name, f in tn.export.FORMATS.items():
        assert main(["export", str(run), "--to", name, "--out", f"m{f.suffix}"]) == 0
    names = {entry.key: json.loads(entry.value) for entry in onnx.load("m.onnx").metadata_props}
    assert names == {"classes": list(KINDS), "features": ["wide", "thin", "noise"]}
    model = tn.load(run / "model.safetensors")
    before, other = model.predict(rows[0]), tn.Model(model.net, 3, seed=9)
    tn.export.from_torch_state(other, "m.safetensors")
    np.testing.assert_array_equal(other.predict(rows[0]), before)


def test_plot_draws_the_same_picture_again(run, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    assert main(["plot", str(run), "--out", "p.png"]) == 0
    assert capsys.readouterr().out == "p.png\n"
    assert (tmp_path / "p.png").read_bytes() == (run / "training.png").read_bytes()


def test_info_says_what_a_model_is(run, capsys):
    assert main(["info", str(run)]) == 0
    out = capsys.readouterr().out
    assert "Sequential(Standardize(), Dense(width=16)" in out
    for line in ("inputs      (n, 3) float32", "features    wide, thin, noise", "classes     ash, birch, oak, red"):
        assert line in out


def test_bench_measures_each_backend_on_each_network(monkeypatch, capsys):
    monkeypatch.setattr(bench, "TASKS", bench.TASKS[:1])
    assert main(["bench", "--backend", "numpy", "--seconds", "0.05"]) == 0
    out = capsys.readouterr().out
    assert "20 - 32 - 2, 32 samples per step\n  numpy " in out
    least, most = (float(out.rpartition(mark)[2].split()[0].strip("()").replace(",", "")) for mark in ("(", "– "))
    assert 0 < least <= most


# Mistakes -------------------------------------------------------------------------------------------------------------


def put(name, text):
    Path(name).write_text(text)
    return name


GOOD = "wide,thin,noise\n1,2,3\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "d.csv: is empty: expected a first line with the names of columns"),
        ("wide,thin,noise\n", "d.csv: has no rows"),
        ("wide,noise\n1,2\n", "d.csv: has no column 'thin', which the model wants: it has wide, noise"),
        (GOOD + "1,,3\n", "d.csv: column 'thin' has no finite number in row 1: fill or drop it"),
        (
            GOOD + "1,red,3\n",
            "d.csv: column 'thin' has 'red' in row 1, which is no number: fix or drop it",
        ),
        (GOOD + "1,inf,3\n", "d.csv: column 'thin' has no finite number in row 1: fill or drop it"),
        ("wide,thin,wide\n1,2,3\n", "d.csv: has two columns 'wide': rename one"),
        (
            'wide,thin,"no\nise"\n1,2,3\n',
            "d.csv: a name in its first line has a line break: give each column a name of one line",
        ),
        ("w\0i\0d\0e\0,\0\n1,2,3\n", "d.csv: is not text in UTF-8: save the file in that encoding"),
    ],
)
@pytest.mark.parametrize("out", ["-", "p.parquet", "p.npy"])
def test_bad_rows_to_predict(text, said, out, run, capsys):
    put("d.csv", text)
    assert mistake(capsys, "predict", run, "d.csv", "--backend", "numpy", "--out", out) == said
    assert os.listdir() == ["d.csv"]


def test_a_row_far_down_a_file_and_on_a_pipe(run, capsys, monkeypatch):
    text = "wide,thin,noise\n" + "1,2,3\n" * 400_000 + "1,2,x\n"
    put("d.csv", text)
    argv = ["predict", str(run), "d.csv", "--backend", "numpy", "--out", "p.npy"]
    said = "column 'noise' has 'x' in {}, which is no number: fix or drop it"
    assert mistake(capsys, *argv) == f"d.csv: {said.format('row 400000')}"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    argv[2] = "-"
    assert mistake(capsys, *argv) == f"standard input: {said.format('row 400000')}"
    assert os.listdir() == ["d.csv"]


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("wide.npy", "wide.npy: X (2, 4) does not fit the model: expected (n, 3)"),
        ("flat.npy", "flat.npy: X (3,) does not fit the model: expected (n, 3)"),
        ("none.npy", "none.npy: has no rows"),
        ("nan.npy", "nan.npy: X has a value that is NaN or infinite in row 1: fill or drop it"),
        ("large.npy", "large.npy: X has a value that is too large for float32 in row 1: scale it"),
        ("text.npy", "text.npy: X of dtype <U1 is not numeric: store numbers"),
        ("noX.npz", "noX.npz: has no array 'X', but Z: store it under that name"),
        ("no.npy", "no.npy: No such file or directory"),
        ("d.txt", "d.txt: unknown kind of file: choose from .npy, .npz, .h5, .hdf5, .parquet, .csv, .tsv, or - for CSV on a pipe"),
        ("folder.csv", "folder.csv: not a regular file"),
    ],
)  # fmt: skip
def test_bad_arrays_to_predict(file, said, run, capsys):
    np.save("wide.npy", np.zeros((2, 4)))
    np.save("flat.npy", np.zeros(3))
    np.save("none.npy", np.zeros((0, 3)))
    np.save("nan.npy", [[1, 2, 3.0], [1, np.nan, 2]])
    np.save("large.npy", [[1, 2, 3.0], [1, 1e39, 2]])
    np.save("text.npy", np.array([["a", "b", "c"]]))
    np.savez("noX.npz", Z=np.zeros(3))
    os.mkdir("folder.csv")
    put("d.txt", "")
    if file == "folder.csv":
        assert "folder.csv" in mistake(capsys, "predict", run, file)
    else:
        assert mistake(capsys, "predict", run, file) == said


@pytest.mark.parametrize(
    ("text", "argv", "said"),
    [
        ("a,b\n1,2\n3,4\n", [], "has no column y or target: name the target, out of a, b"),
        ("a,y\n1,x\n2,x\n", [], "the target is the same in every row: there is nothing to learn"),
        # the rest of the file was one class
        (
            'a,y\n1,x\n2,"z\n3,x\n',
            [],
            "has a quote that is not closed, at '\"z\\n3,x\\n': close or remove it",
        ),
        ('a,y\n1,x\n2,"', [], "has a quote that is not closed, at '\"': close or remove it"),
        (
            "a,y\n1,x\n2,z\n",
            ["--task", "regression"],
            "column 'y' has 'x' in row 0, which is no number: fix or drop it",
        ),
    ],
)
def test_bad_tables_to_train_on(text, argv, said, capsys):
    put("d.csv", text)
    assert mistake(capsys, "train", "--data", "d.csv", *argv) == f"{os.path.abspath('d.csv')}: {said}"
    assert os.listdir() == ["d.csv"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--samples", "5"], "option samples is for data that are computed: data 'd.csv' has no such option"),
        (["--set", "noise=1"], "option options is for data that are computed: data 'd.csv' has no such option"),
        (["--held-out", "1"], "held_out 1.0 is out of range: give a fraction in (0, 1)"),
        (["--held-out", "0.1"],
         ("held_out 0.1 is none of 2 samples in 2 classes: give a larger fraction or, if the classes are numbers, say that "
         "the task is regression")),
        (["--task", "ranking"], "unknown task 'ranking': choose from auto, classification, regression"),
        (["--dtype", "f4"], "unknown dtype 'f4': choose from float32, float64"),  # rows are read before there is a model
        (["--data", "moons"], "option target is for data in a file: data 'moons' has no such option"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_a_file(argv, said, capsys):
    put("d.csv", "a,y\n1,x\n2,z\n")
    assert mistake(capsys, "train", "--data", "d.csv", "--target", "y", *argv) == said


def test_images_become_rows():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 60)
    np.savez("d.npz", X=rng.normal(size=(60, 3, 4)) + y[:, None, None], y=y)
    assert main(["train", "--data", "d.npz", "--out", "r", "--quiet", "--epochs", "1", "--hidden", "4"]) == 0
    assert tn.load("r/model.safetensors").in_shape == (3, 4)
    assert main(["predict", "r", "d.npz", "--out", "p.npy"]) == 0
    assert np.load("p.npy").shape == (60,)


def test_labels_of_an_array_that_are_numbers(capsys):
    """A network with an output for each would be too large; and to look for each among the labels takes for ever."""
    x, y = np.zeros((9, 2)), 2**40 + np.arange(9)
    np.savez("d.npz", X=x, y=y)
    assert mistake(capsys, "train", "--data", "d.npz") == (
        f"{os.path.abspath('d.npz')}: labels up to {2**40 + 8} are more than 1000 classes, too many: if they are numbers, "
        "the task is regression"
    )
    assert [part.n for part in tn.data.stratified(tn.Arrays(x, np.repeat(y[:3], 3)), 0.3, seed=0)] == [6, 3]


def test_true_and_false_are_numbers(capsys, monkeypatch):
    """As pandas writes them after `get_dummies`; in a table to predict for, and on a pipe that brings a line at a time."""
    rows = [f"{a},{b},{k % 9}.5\n" for k in range(40) for a, b in (("True", "false"), ("False", "TRUE"))]
    put("d.csv", "red,late,y\n" + "".join(rows))
    data = tn.data.read("d.csv")
    assert data[:3].x.tolist() == [[1, 0], [0, 1], [1, 0]]
    assert main(["train", "--data", "d.csv", "--epochs", "1", "--out", "r", "--quiet", "--backend", "numpy"]) == 0
    assert main(["predict", "r", "d.csv", "--out", "p.csv", "--backend", "numpy"]) == 0
    capsys.readouterr()

    class Pipe(io.BytesIO):
        def seekable(self):
            return False

        def read1(self, size=-1):
            return self.readline()

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Pipe(Path("d.csv").read_bytes())))
    assert main(["predict", "r", "-", "--backend", "numpy"]) == 0
    assert capsys.readouterr().out == Path("p.csv").read_text()

    put("d.csv", "red,late,y\n" + "".join(rows[:2]) + "True,maybe,1\n")  # it said that True, in row 0, is no number
    said = "d.csv: column 'late' has 'maybe' in row 2, which is no value like those before: fix or drop it"
    assert mistake(capsys, "predict", "r", "d.csv") == said


def test_columns_that_are_no_numbers_are_named_at_once(capsys):
    put("d.csv", "a,b,c,d,y\n1,x,2024-01-31,4,0\n2,z,2024-02-01,,1\n")
    said = "columns b, c, d have values that are missing or no numbers: fix or drop those, or exclude the columns"
    assert mistake(capsys, "train", "--data", "d.csv") == f"{os.path.abspath('d.csv')}: {said}"
    assert mistake(capsys, "train", "--data", "d.csv", "--exclude", "b, c").endswith(
        "column 'd' has no finite number in row 1: fill or drop it"
    )
    put("d.csv", 'a,b,y\n"1,5","2,000",0\n"-1,5","3,000.5",1\n')  # these have another remedy
    assert mistake(capsys, "train", "--data", "d.csv").endswith(
        "column 'a' has '1,5' in row 0, which is no number: write it with a decimal point, and nothing between thousands"
    )
    for number in ("1.234,5", "1.234.567", "-1 234", "1'234,50", "1\u202f234"):
        put("d.csv", f"a;b;y\n{number};{number};0\n2;3;1\n")
        assert mistake(capsys, "train", "--data", "d.csv").endswith("decimal point, and nothing between thousands")
    put("d.csv", "a;b;y\n01.02.2024;2;0\n02.02.2024;3;1\n")
    assert mistake(capsys, "train", "--data", "d.csv").endswith("no number: fix or drop it, or exclude the column")


@pytest.mark.parametrize("delimiter", ",;\t|")
@pytest.mark.parametrize("decimal", ".,")
def test_delimiters_and_decimal_signs(delimiter, decimal):
    """As pandas reads them; between other delimiters than semicolons a comma is no decimal sign."""
    name = '"a;b;c;d"' if delimiter == "," else '"a,b,c,d"'  # what is in quotes does not count
    rows = [[name, "b", "y"], ["1", "true", "0.5"], ["-2.25", "false", "3"], ["1e3", "true", "12.75"]]
    lines = [delimiter.join(cell.replace(".", decimal) for cell in row) for row in rows]
    put("d.csv", "\n".join(lines))
    if decimal == "," and delimiter != ";":
        with pytest.raises(tn.DataFileError):
            tn.data.read("d.csv", task="regression")
        return
    wanted = pytest.importorskip("pandas").read_csv("d.csv", sep=delimiter, decimal=decimal).astype(float).to_numpy()
    data = tn.data.read("d.csv")
    assert np.array_equal(data.x, wanted[:, :2])
    assert np.array_equal(data.y, wanted[:, 2:])


def test_semicolons_with_commas_that_are_not_decimal():
    """A text with a comma in it is no number, and points are read as points beside it."""
    put("d.csv", "a;b;note;y\n1.5;2;one, two;0\n2.5;3;three;1\n")
    assert tn.data.read("d.csv", exclude=["note"]).x.tolist() == [[1.5, 2.0], [2.5, 3.0]]
    put("d.csv", "a;y\n1,5;0\n2.5;1\n")
    with pytest.raises(tn.DataFileError, match=r"column 'a' has '1,5' in row 0, which is no number"):
        tn.data.read("d.csv")


def test_one_thread_reads_a_csv_file():
    """A thread of Arrow's that let go of a Python file while the interpreter exited aborted the process."""
    threads = set()

    class Watched(io.BytesIO):
        def read(self, *args):
            threads.add(threading.get_ident())
            return super().read(*args)

    f = Watched(b"a,y\n" + b"1.5,2\n" * 500_000)
    path = Path("d.csv")
    header = csv_table.read_header(path, f)
    assert sum(batch.num_rows for batch in csv_table.open_csv(path, f, header, {}).batches([])) == 500_000
    assert threads == {threading.get_ident()}


def test_a_row_group_is_not_read_as_a_whole():
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    numbers = np.random.default_rng(0).normal(size=2**21)
    parquet.write_table(pa.table({"a": numbers}), "d.parquet", row_group_size=len(numbers))
    before = pa.total_allocated_bytes()
    with tables.open_parquet(Path("d.parquet")) as table:
        next(iter(table.batches(table.names)))
        assert pa.total_allocated_bytes() - before < numbers.nbytes / 2
    parquet.write_table(pa.table({f"x{j}": numbers[:4096] for j in range(1024)}), "d.parquet")
    with tables.open_parquet(Path("d.parquet")) as table:
        assert [batch.num_rows for batch in table.batches(table.names)] == [2048, 2048]


def test_of_a_parquet_file_only_columns_that_are_used_are_decoded(monkeypatch):
    """Not texts or pictures, of which 65 536 rows may be larger than memory."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(
        pa.table({"a.b": [0.5, 1.5], "a": [2.5, 3.5], "text": ["long", "longer"], "y": [0, 1]}), "d.parquet"
    )
    asked, read = [], parquet.ParquetFile.iter_batches
    monkeypatch.setattr(
        parquet.ParquetFile, "iter_batches", lambda *a, columns: asked.append(columns) or read(*a, columns=columns)
    )
    assert tn.data.read("d.parquet", exclude=["text"]).x.tolist() == [[0.5, 2.5], [1.5, 3.5]]
    assert asked == [["a.b", "a", "y"]]


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view"])
def test_text_is_text_however_arrow_stores_it(kind):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pa.table({"a": [0.0, 1.0], "y": pa.array(["x", "z"], getattr(pa, kind)())})
    try:
        parquet.write_table(table, "d.parquet")
    except pa.ArrowNotImplementedError as e:  # before 21
        pytest.skip(str(e))
    assert tn.data.read("d.parquet").columns.classes == ("x", "z")


def test_dates_as_a_target_may_be_classes(capsys):
    put("d.csv", "a,y\n1,2024-01-31\n2,2024-02-01\n3,2024-01-31\n")
    said = "column 'y' of type date32[day] is not numeric: make it numbers, or say that the task is classification"
    assert mistake(capsys, "train", "--data", "d.csv") == f"{os.path.abspath('d.csv')}: {said}"
    assert tn.data.read("d.csv", task="classification").columns.classes == ("2024-01-31", "2024-02-01")


def test_a_model_wants_all_its_features_in_parquet_too(run, capsys):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for text, said in (("wide",), "column 'wide' of type string is"), (("wide", "thin"), "columns wide, thin are"):
        columns = {name: ["x"] if name in text else [1.0] for name in ("wide", "thin", "noise")}
        parquet.write_table(pa.table(columns), "d.parquet")
        remedy = "make it numbers" if len(text) == 1 else "make them numbers"  # and predict has no --exclude
        assert mistake(capsys, "predict", run, "d.parquet") == f"d.parquet: {said} not numeric: {remedy}"


def test_what_is_no_class_in_a_parquet_file():
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    said = {
        "1": "column 'y' has no value in row 1: fill or drop it",
        "2": "is not numeric: make it numbers, or text, which names classes",
    }
    for number, y in (("1", [0.0, float("nan")]), ("2", [[0.0], [1.0]])):
        parquet.write_table(pa.table({"a": [0.0, 1.0], "y": y}), "d.parquet")
        with pytest.raises(tn.DataFileError, match=f"{said[number]}$"):
            tn.data.read("d.parquet", task="classification")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_several_targets_are_numbers(suffix, capsys):
    """Asked for classes, a Parquet file was trained on numbers, in silence."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import csv, parquet

    table = pa.table({name: np.arange(9) % k for k, name in enumerate(("a", "y0", "y1"), 2)})
    {"csv": csv.write_csv, "parquet": parquet.write_table}[suffix](table, f"d.{suffix}")
    argv = ["train", "--data", f"d.{suffix}", "--backend", "numpy", "--quiet"]
    assert mistake(capsys, *argv, "--task", "classification") == (
        f"{os.path.abspath(f'd.{suffix}')}: classes have one column, and the targets are y0, y1: name one"
    )
    assert main([*argv, "--epochs", "1"]) == 0
    assert "target: numbers, with errors in units of their standard deviation; 7 train" in capsys.readouterr().out
    assert main([*argv, "--epochs", "1", "--standardize", "false"]) == 0
    assert "target: numbers; 7 train" in capsys.readouterr().out


def test_labels_beyond_int64_in_a_parquet_file():
    """They became negative."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"a": [0.0, 1.0], "y": pa.array([1, 2**63], pa.uint64())}), "d.parquet")
    with pytest.raises(
        tn.DataFileError, match=r"^d.parquet: cannot be read: Integer value 9223372036854775808 not in range"
    ):
        tn.data.read("d.parquet")
    assert tn.data.read("d.parquet", task="classification").columns.classes == ("1", str(2**63))


def test_a_target_that_is_not_what_its_first_rows_are():
    whole = "a,y\n" + "1,2\n" * 300_000
    for last in ("1.5", "x"):
        put("d.csv", f"{whole}1,{last}\n")
        with pytest.raises(tn.DataFileError) as e:
            tn.data.read("d.csv")
        assert str(e.value) == (
            f"d.csv: column 'y' has {last!r} in row 300000, which is no value like those before: fix or drop it, or say "
            "what the task is"
        )


def test_an_index_of_pandas_is_no_feature():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": range(9), "y": [0, 1, 2] * 3})
    frame[frame.a != 1].to_parquet("d.parquet")
    frame.to_csv("d.csv")
    assert Path("d.csv").read_text().startswith(",a,y\n0,")
    again = pandas.read_csv("d.csv")
    again.to_csv("again.csv", index=False)
    assert Path("again.csv").read_text().startswith("Unnamed: 0,a,y\n0,")
    for name in ("d.parquet", "d.csv", "again.csv"):
        assert tn.data.read(name).columns.features == ("a",)


def test_a_class_that_the_model_has_not_seen(run, tmp_path, capsys):
    table(tmp_path / "t.csv", names=("ash", "birch", "elm"))
    said = mistake(capsys, "evaluate", run, "--data", "t.csv")
    row = [line.rpartition(",")[2] for line in Path("t.csv").read_text().splitlines()[1:]].index('"elm"')
    assert said == (
        f"t.csv: column 'kind' has the class 'elm' in row {row}, which the model has not seen: it knows {', '.join(KINDS)}"
    )


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["predict", "no.safetensors", "x.csv"], "no.safetensors: No such file or directory"),
        (["predict", "x.csv", "x.csv"], "x.csv: not a model file, or one that was cut short"),
        (["predict", "RUN", "x.csv", "--out", "p.txt"],
         "p.txt: unknown kind of file: choose from .csv, .parquet, .npy, or - for CSV on a pipe"),
        (["predict", "RUN", "x.csv", "--out", "no/p.csv"], "no: No such file or directory"),
        (["evaluate", "RUN/model.safetensors"],
         "RUN/model.safetensors is not a run folder, which would have its own data: give --data"),
        (["evaluate", "RUN", "--target", "kind"],
         "--target is for data in a file, and these are data that the run held out: leave it out"),
        (["evaluate", "RUN", "--data", "x.csv", "--seed", "0"],
         "--seed is for data that are computed, and these are data in a file: leave it out"),
        (["evaluate", "RUN", "--set", "noise=2"],
         "--set is for data that are computed, and these are data that the run held out: leave it out"),
        (["evaluate", "RUN", "--data", "blobs", "--target", "y"],
         "--target is for data in a file, and these are data that are computed: leave it out"),
        (["evaluate", "RUN", "--metrics", "good"], f"unknown metric 'good': choose from {', '.join(METRICS)}"),
        (["predict", "RUN", "x.csv", "--out", "./x.csv"], "./x.csv is read, and would be replaced: give another --out"),
        (["export", "RUN", "--to", "torch", "--out", "RUN/model.safetensors"],
         "RUN/model.safetensors is read, and would be replaced: give another --out"),
        (["evaluate", "RUN", "--data", "x.csv", "--target", "thin"],
         "x.csv: column 'thin' is the target, and a feature of the model: name another target"),
        (["export", "RUN", "--to", "paper", "--out", "m"], f"unknown format 'paper': choose from {', '.join(tn.export.FORMATS)}"),
        (["export", "RUN", "--to", "torch", "--out", "m.pt"], "m.pt: unknown kind of file: choose .safetensors"),
        (["export", "RUN", "--to", "onnx", "--out", "x.csv"], "x.csv: unknown kind of file: choose .onnx"),
        (["plot", "RUN", "--out", "p.bmp"], "p.bmp: unknown kind of file: choose .png"),
        (["plot", "nowhere"], "nowhere/config.toml: No such file or directory"),
        (["bench", "--seconds", "0"], "seconds 0.0 is out of range: give a positive number"),
        (["bench", "--backend", "abacus"], "unknown backend 'abacus': choose from auto, numpy, numba, cupy, strict, torch, dpnp"),
        (["completion", "tcsh"], "unknown shell 'tcsh': choose from bash, zsh, fish"),
        (["data", "x.csv", "--out", "y.csv"], f"unknown data set 'x.csv': choose from {', '.join(tn.data.DATASETS)}"),
    ],
)  # fmt: skip
def test_mistakes_of_other_commands(argv, said, run, capsys):
    put("x.csv", GOOD)
    argv = [a.replace("RUN", str(run)) for a in argv]
    assert mistake(capsys, *argv) == said.replace("RUN", str(run))
    assert os.listdir() == ["x.csv"]


def test_no_probabilities_of_numbers(capsys):
    model = tn.Model(tn.Sequential(tn.Dense(1)), 3)
    model.loss = tn.Huber()
    model.save("m.safetensors")
    put("x.csv", GOOD)
    said = mistake(capsys, "predict", "m.safetensors", "x.csv", "--proba")
    assert said == "a model with loss Huber(delta=1.0) gives no probabilities: train it with a cross-entropy"
    put("y.csv", "a,b\n1,2\n")
    assert mistake(capsys, "predict", "m.safetensors", "y.csv") == "y.csv: has 2 features (a, b), and the model wants 3"


def test_what_cannot_be_exported_says_what_and_why(run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert mistake(capsys, "export", run, "--to", "onnx", "--out", "m.onnx") == (
        "onnx is needed for this export: install the extra onnx"
    )
    assert os.listdir() == []


@pytest.mark.parametrize(
    "damage", [{"features": ["a"]}, {"classes": ["a", "a", "b"]}, {"classes": ["a"]}, {"target": [1]}]
)
def test_damaged_names_in_a_model_file(damage, run, capsys):
    from safetensors.numpy import save_file

    from tinynet.files import read_tensors

    about, arrays = read_tensors(run / "model.safetensors")
    about["columns"] |= damage
    save_file(arrays, "m.safetensors", metadata={"tinynet": json.dumps(about)})
    assert mistake(capsys, "info", "m.safetensors").startswith("m.safetensors: damaged model file: ")


DENIED = """
import json, os, shutil, sys
sys.path[:0] = json.loads(sys.argv[1])
from tinynet.cli import main
run, table = sys.argv[2:]
os.mkdir("shut")
shutil.copy(table, "shut.csv")
shutil.copytree(run, "unread")
shutil.copy(run + "/model.safetensors", "shut.safetensors")
for name, mode in (("shut", 0o555), ("shut.csv", 0), ("unread", 0), ("shut.safetensors", 0)):
    os.chmod(name, mode)
try:
    for argv in json.load(sys.stdin):
        print(main(argv), flush=True)
finally:
    os.chmod("unread", 0o755)
    os.chmod("shut", 0o755)
"""


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_permission_denied(run):
    """As somebody who may not do everything: root gives up the right to pass over modes first."""
    plain = ["--backend", "numpy"]
    cases = {
        "shut.csv": ["train", "--data", "shut.csv", "--target", "kind", "--out", "new", *plain],
        "shut/new": ["train", "--data", "trees.csv", "--target", "kind", "--out", "shut/new", *plain],
        "shut.safetensors": ["predict", "shut.safetensors", "trees.csv", *plain],
        "unread/model.safetensors": ["predict", "unread", "trees.csv", *plain],
        "shut/p.csv": ["predict", str(run), "trees.csv", "--out", "shut/p.csv", *plain],
        "shut/p.npy": ["predict", str(run), "trees.csv", "--out", "shut/p.npy", *plain],
        "unread/config.toml": ["plot", "unread"],
        "shut/m.safetensors": ["export", str(run), "--to", "torch", "--out", "shut/m.safetensors"],
        "shut/d.npz": ["data", "spirals", "--samples", "10", "--out", "shut/d.npz"],
    }
    table(Path("trees.csv"))
    argv = [sys.executable, "-c", DENIED, json.dumps(sys.path), str(run), "trees.csv"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            pytest.skip("root may do everything, and there is no setpriv to give that up")
        argv = [setpriv, "--bounding-set=-dac_override,-dac_read_search", *argv]
    done = subprocess.run(argv, input=json.dumps(list(cases.values())), capture_output=True, text=True)
    if done.stderr.startswith("setpriv:"):
        pytest.skip(f"root may not give up anything here: {done.stderr}")
    assert done.stdout.split() == ["2"] * len(cases), done.stderr
    said = [line.removeprefix("tinynet: error: ") for line in done.stderr.splitlines()]
    for name, line in zip(cases, said, strict=True):
        assert line in (f"{name}: Permission denied", f"{Path(name).absolute()}: Permission denied")
    assert os.listdir("shut") == []
    assert not os.path.exists("new")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs are POSIX")
def test_what_is_no_file_keeps_its_place(run, capsys):
    put("d.csv", GOOD)
    os.mkfifo("p.csv")
    assert mistake(capsys, "predict", run, "d.csv", "--out", "p.csv", "--backend", "numpy") == (
        "p.csv: Not a regular file"
    )
    assert Path("p.csv").is_fifo()


def test_a_disk_without_room(capsys, monkeypatch):
    for name in ("s.npz", "s.npy", "s.csv"):
        with monkeypatch.context() as m:
            m.setattr(writing, "_pieces", full)
            assert mistake(capsys, "data", "spirals", "--samples", "10", "--out", name) == (
                f"{name}: No space left on device"
            )
    pytest.importorskip("h5py")
    monkeypatch.setattr(writing, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 21, 79))
    monkeypatch.setattr(writing, "_pieces", lambda *args: None)  # said before anything is written
    for name in ("s.h5", "s.npy", "s.npz"):
        assert (
            mistake(capsys, "data", "spirals", "--samples", "10", "--out", name) == f"{name}: No space left on device"
        )
    assert os.listdir() == []


def full(*args):
    raise OSError(errno.ENOSPC, "No space left on device")


ENDS = [("SIGINT", "interrupted", 130), ("SIGTERM", "terminated", 143)]
if hasattr(signal, "SIGHUP"):
    ENDS.append(("SIGHUP", "hung up", 129))


@pytest.mark.parametrize(("number", "word", "code"), ENDS)
@pytest.mark.parametrize("argv", [["predict", "RUN", "d.csv", "--out", "p.csv"], ["train", "--data", "d.csv"]])
def test_a_signal_leaves_nothing_half_written(
    argv, number, word, code, run, capsys, monkeypatch, tmp_path_factory, heard
):
    put("d.csv", "wide,thin,noise,y\n" + "1,2,3,4.5\n" * 9)
    scratch = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    stack_columns, seen = arrow.stack_columns, []

    def signalled(*args):
        seen.extend([*os.listdir(), *os.listdir(scratch)])
        signal.raise_signal(signal.Signals[number])
        return stack_columns(*args)

    monkeypatch.setattr(arrow, "stack_columns", signalled)
    before = signal.getsignal(signal.SIGTERM)
    assert main([a.replace("RUN", str(run)) for a in argv]) == code
    assert capsys.readouterr().err == f"tinynet: {word}\n"
    assert len(seen) == 2  # the table and what is in the making
    assert os.listdir() == ["d.csv"]
    assert os.listdir(scratch) == []
    assert signal.getsignal(signal.SIGTERM) is before


# Pipes ----------------------------------------------------------------------------------------------------------------


def test_a_closed_pipe_ends_quietly(run, tmp_path):
    """What a shell does with ``tinynet predict … | head -1``."""
    put("d.csv", "wide,thin,noise\n" + "1,2,3\n" * 300_000)
    code = f"import sys; sys.path[:0] = {sys.path!r}; from tinynet.cli import main; sys.exit(main(sys.argv[1:]))"
    argv = [sys.executable, "-c", code, "predict", str(run), "d.csv", "--backend", "numpy"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"prediction\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 141


def test_letters_that_the_terminal_lacks(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    os.mkdir("Größe")
    model = tn.Model(tn.Dense(1), 2)
    model.columns = tn.data.Columns(("Länge", "✓"), ("y",), None)
    model.save("Größe/model.safetensors")
    assert main(["info", "Größe"]) == 0
    assert rb"L\xe4nge, \u2713" in written.getvalue()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_file_name_that_no_config_holds(capsys):
    name = os.fsdecode(b"\xff.csv")
    put(name, GOOD)
    assert mistake(capsys, "train", "--data", name, "--target", "kind", "--out", "r") == (
        f"{os.path.abspath(name)!r}: a name that is not in UTF-8, which a config cannot hold: rename it"
    )
    assert os.listdir() == [name]


def test_a_line_break_in_a_file_name_breaks_no_line(capsys):
    assert mistake(capsys, "predict", "no\nmodel", "x.csv") == "no model: No such file or directory"


def test_a_closed_standard_error_is_not_written_to(monkeypatch):
    """Progress was, and the command failed."""
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["data", "moons", "--samples", "10", "--out", "m.npy"]) == 0
    assert main(["data", "suns", "--out", "m.npy"]) == 2
    sys.stderr.close()


def test_a_pipe_that_is_closed_before_the_end_of_a_short_answer(monkeypatch):
    """What fits into the buffer meets the closed pipe at the last flush."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(["info"]) == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize("argv", [["info"], ["--help"], ["completion", "bash"]])
def test_an_output_without_room(argv, capsys, monkeypatch):
    with open("/dev/full", "w") as disk:
        monkeypatch.setattr(sys, "stdout", disk)
        assert main(argv) == 2
        monkeypatch.undo()
    assert capsys.readouterr().err == "tinynet: error: No space left on device\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_standard_error_without_room(monkeypatch):
    """It ended in a traceback, with the code of a run that diverged."""
    disk = io.TextIOWrapper(io.FileIO("/dev/full", "w"), write_through=True)
    with disk, monkeypatch.context() as m:
        m.setattr(sys, "stderr", disk)
        assert main(["info", "none"]) == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_run_that_cannot_say_that_it_begins_leaves_no_folder(capsys, monkeypatch):
    """With PYTHONUNBUFFERED the first line fails: the folder was left, with a config alone."""
    put("d.csv", "a,y\n" + "".join(f"{number},{number % 2}\n" for number in range(20)))
    disk = io.TextIOWrapper(io.FileIO("/dev/full", "w"), write_through=True)
    with disk, monkeypatch.context() as m:
        m.setattr(sys, "stdout", disk)
        assert main(["train", "--data", "d.csv", "--out", "r", "--quiet", "--backend", "numpy"]) == 2
    assert capsys.readouterr().err == "tinynet: error: No space left on device\n"
    assert os.listdir() == ["d.csv"]


def test_an_output_that_takes_a_part_gets_the_rest(run, monkeypatch):
    """As an unbuffered one does where the disk is full."""

    class Raw(io.RawIOBase):
        written = b""

        def writable(self):
            return True

        def write(self, data):
            self.written += bytes(data[:7])
            return min(7, len(data))

    raw = Raw()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, write_through=True))
    put("d.csv", GOOD)
    assert main(["predict", str(run), "d.csv"]) == 0
    assert raw.written.startswith(b"prediction\n")
    assert raw.written.count(b"\n") == GOOD.count("\n")


def test_an_output_that_was_closed(run, capsys, monkeypatch):
    put("d.csv", GOOD)
    monkeypatch.setattr(sys, "stdout", None)  # as Python has it then
    for argv in (["--help"], ["info"], ["predict", str(run), "d.csv"]):
        assert main(argv) == 2
        assert capsys.readouterr().err == "tinynet: error: standard output: is closed\n"


def test_memory_does_not_grow_with_the_file(run, monkeypatch):
    """The pieces that are read are of one size, and one is let go before the next but one is read."""
    import weakref

    monkeypatch.setattr(inputs, "_PIECE", 3 * 1000)
    np.save("x.npy", np.ones((20_000, 3), np.float32))
    alive = []
    for x in inputs.read_inputs("x.npy", (3,)):
        assert x.shape == (1000, 3)
        alive = [r for r in alive if r() is not None]
        assert len(alive) <= 1
        alive.append(weakref.ref(x))
    written = []
    with outputs.output_writer("y.npy", ["prediction"]) as write:
        for start in range(0, 20_000, 1000):
            write([np.arange(start, start + 1000)])
            written.append(start)
    assert np.load("y.npy").tolist() == list(range(20_000))


def test_where_nothing_can_be_read_or_written(run, monkeypatch, capsys):
    put("d.csv", GOOD)
    os.mkdir("out.csv")
    assert (
        mistake(capsys, "predict", run, "d.csv", "--out", "out.csv", "--backend", "numpy") == "out.csv: Is a directory"
    )
    assert os.listdir("out.csv") == []
    monkeypatch.setattr(sys, "stdin", None)  # as Python has it where it was closed
    assert mistake(capsys, "predict", run, "-", "--backend", "numpy") == "standard input: is closed"


def test_classes_weigh_the_same_and_metrics_are_shown(capsys):
    weights = pytest.importorskip("sklearn.utils.class_weight").compute_class_weight
    labels = ["ok"] * 30 + ["rare"] * 10
    put("d.csv", "a,y\n" + "".join(f"{number},{label}\n" for number, label in enumerate(labels)))
    argv = ["train", "--data", "d.csv", "--backend", "numpy", "--epochs", "1", "--out"]
    assert main([*argv, "r", "--class-weight", "balanced", "--metrics", "f1, accuracy"]) == 0
    wanted = weights("balanced", classes=np.array(["ok", "rare"]), y=labels)  # the split keeps their ratio
    assert tn.load("r/model.safetensors").loss.class_weight == pytest.approx(tuple(wanted))
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("val_")]
    assert shown == ["val_loss", "val_f1", "val_accuracy"]
    assert main(["evaluate", "r"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["loss", "f1", "accuracy"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--metrics", "r2"], "metric 'r2' does not take labels: choose from accuracy, top_k, log_loss, f1"),
        (["--metrics", "auc"], "unknown metric 'auc': choose from accuracy, top_k, log_loss, f1, r2, mae, rmse"),
        (["--class-weight", "equal"], "unknown class_weight 'equal': choose from none, balanced"),
        (
            ["--class-weight", "balanced", "--task", "regression"],
            "option class_weight is for classes, and the target has numbers: leave it out, or say that the task is classification",
        ),
        (
            ["--task", "regression", "--metrics", "mae,accuracy"],
            "metric 'accuracy' is for classes, and the target has numbers: choose from r2, mae, rmse",
        ),
    ],
)
def test_mistakes_in_weights_and_metrics_leave_no_folder(argv, said, capsys):
    put("d.csv", "a,y\n" + "".join(f"{number},{number % 2}\n" for number in range(20)))
    assert mistake(capsys, "train", "--data", "d.csv", "--out", "r", *argv) == said
    assert os.listdir() == ["d.csv"]


def test_metrics_of_classes_are_not_evaluated_on_numbers(capsys):
    """The accuracy was 1: it compared signs."""
    put("d.csv", "a,price\n" + "".join(f"{number},{number + 1000.5}\n" for number in range(20)))
    argv = ["--target", "price", "--epochs", "1", "--backend", "numpy", "--quiet", "--out", "r"]
    assert main(["train", "--data", "d.csv", *argv]) == 0
    capsys.readouterr()
    said = "metric 'accuracy' is for classes, and the target has numbers: choose from r2, mae, rmse"
    assert mistake(capsys, "evaluate", "r", "--metrics", "accuracy") == said


def test_a_mistake_found_late_leaves_no_folder(capsys):
    put("d.csv", "a,weight,y\n" + "".join(f"{number},{number // 19},{number % 2}\n" for number in range(20)))
    assert main(["train", "--data", "d.csv", "--out", "r", "--seed", "3", "--quiet"]) == 2  # the last one is held out
    said = capsys.readouterr().err
    assert said == "tinynet: error: all 16 samples have weight 0: give at least one a positive weight\n"
    assert os.listdir() == ["d.csv"]


@pytest.mark.parametrize(("large", "task"), [("a", "classification"), ("a", "regression"), ("y", "regression")])
def test_numbers_too_large_for_the_dtype(large, task, capsys):
    """Features became infinite, and the loss with them; targets made a model that could not be loaded."""
    cell = {"a": "1", "y": "1", large: "1e39"}
    put("d.csv", "a,y\n" + "".join(f"{cell['a']},{number % 2 * float(cell['y']):g}\n" for number in range(20)))
    argv = ["train", "--data", "d.csv", "--task", task, "--out", "r", "--quiet", "--epochs", "1", "--backend", "numpy"]
    said = mistake(capsys, *argv).removeprefix(os.path.abspath("d.csv"))
    what, row = ("X", 0) if large == "a" else ("y", 1)
    assert said == f": {what} has a value too large for float32, first in row {row}: scale it, or take dtype='float64'"
    assert os.listdir() == ["d.csv"]
    assert main([*argv, "--dtype", "float64"]) == 0
    assert main(["predict", "r", "d.csv"]) == 0


def test_targets_that_float32_rounds_away(capsys):
    """The run showed an r2 of 0.98 in its own units; all predictions were one number, with an r2 of -79."""
    put("d.csv", "a,time\n" + "".join(f"{number},{1.6e9 + 20 * number:.1f}\n" for number in range(20)))
    argv = ["train", "--data", "d.csv", "--target", "time", "--task", "regression", "--out", "r", "--quiet"]
    said = "target 'time' varies so little around its mean that float32 rounds most of that away: subtract the mean from it "
    assert mistake(capsys, *argv, "--backend", "numpy") == said + "before, or compute in float64"
    assert os.listdir() == ["d.csv"]
    assert main([*argv, "--dtype", "float64", "--epochs", "1", "--backend", "numpy"]) == 0
    put("e.csv", "a,y\n" + "".join(f"{number},0.1\n" for number in range(37)))  # whose mean is rounded
    assert main(["train", "--data", "e.csv", "--out", "e", "--epochs", "1", "--backend", "numpy", "--quiet"]) == 0


def test_whole_numbers_may_be_classes_or_numbers(capsys):
    put("d.csv", "a,y\n" + "".join(f"{number},{number % 2}\n" for number in range(20)))
    for task, said in {
        "auto": "2 classes (0, 1), or numbers with --task regression",
        "regression": "numbers, with",
    }.items():
        argv = [
            "train",
            "--data",
            "d.csv",
            "--backend",
            "numpy",
            "--epochs",
            "1",
            "--quiet",
            "--out",
            task,
            "--task",
            task,
        ]
        assert main(argv) == 0
        assert f"target: {said}" in capsys.readouterr().out


def test_a_table_in_parts_is_predicted(run, capsys):
    """A pattern stands for the files that match it, by name."""
    rows = ["1,2,3\n", "30,20,10\n", "-5,0,7\n"]
    for number, row in enumerate(rows):
        put(f"part-{number}.csv", "wide,thin,noise\n" + row)
    put("whole.csv", "wide,thin,noise\n" + "".join(rows))
    said = []
    for given in (["whole.csv"], ["part-*.csv"], ["part-0.csv", "part-1.csv", "part-2.csv"]):
        assert main(["predict", str(run), *given, "--backend", "numpy", "--proba"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] == said[2]
    assert said[0].count("\n") == 4
