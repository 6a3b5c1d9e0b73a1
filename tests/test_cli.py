"""The command: what it leaves behind, and one line with exit code 2 for whatever is wrong."""

import json
import os
import tomllib

import pytest

import tinynet as tn
from tinynet.cli import main
from tinynet.config import Config, parse

SMALL = ["--samples", "2_000", "--validation", "500", "--batch-size", "100", "--hidden", "8", "--backend", "numpy"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TINYNET_BACKEND", raising=False)


def mistake(capsys, *argv):
    """The one line that a mistaken command says."""
    assert main(list(argv)) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("tinynet: error: ")
    return err.removeprefix("tinynet: error: ").rstrip()


def test_a_run_leaves_config_history_model_and_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    assert main(["train", *SMALL, "--out", "r", "--epochs", "2"]) == 0
    assert sorted(os.listdir("r")) == ["config.toml", "history.jsonl", "model.safetensors", "training.png"]
    assert (tmp_path / "r/training.png").read_bytes().startswith(b"\x89PNG\r\n")
    rows = [json.loads(line) for line in (tmp_path / "r/history.jsonl").read_text().splitlines()]
    epochs = [row for row in rows if "epoch" in row]
    assert [row["step"] for row in epochs] == [20, 40]
    assert all(row["loss"] > 0 for row in rows)
    out, err = capsys.readouterr()
    assert f"val_accuracy {epochs[-1]['val_accuracy']:.4f}" in out
    assert "the noise allows an accuracy of" in out
    assert err.count("\n") == 2  # no terminal: a line an epoch
    data = Config().change(tomllib.loads((tmp_path / "r/config.toml").read_text())).make_data()
    model = tn.load("r/model.safetensors")
    assert model.evaluate(data.split(2000)[1])["accuracy"] == pytest.approx(epochs[-1]["val_accuracy"])


def test_a_config_that_a_run_wrote_trains_the_same_again(tmp_path):
    assert main(["train", *SMALL, "--set", "noise=0.2", "--dropout", "0.1", "--out", "a", "--quiet"]) == 0
    assert main(["train", "a/config.toml", "--out", "b", "--quiet"]) == 0
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_quiet_is_silent_and_runs_get_folders_of_their_own(capsys):
    for _ in range(2):
        assert main(["train", *SMALL, "--quiet", "--data", "teacher", "--norm", "batch", "--optimizer", "sgd"]) == 0
    assert capsys.readouterr().err == ""
    assert len(os.listdir("runs")) == 2


def test_ctrl_c_leaves_the_model_of_the_last_finished_step(monkeypatch, capsys):
    batch, calls = tn.Loader.batch, []

    def interrupted(self, step, ops, dtype):
        calls.append(step)
        if step == 7:
            raise KeyboardInterrupt
        return batch(self, step, ops, dtype)

    monkeypatch.setattr(tn.Loader, "batch", interrupted)
    assert main(["train", *SMALL, "--out", "r", "--quiet"]) == 130
    assert calls[-1] == 7
    assert tn.load("r/model.safetensors").loss == tn.CrossEntropy()
    assert "interrupted" in capsys.readouterr().err


def test_a_run_that_diverges_says_so_and_exits_1(capsys):
    assert (
        main(["train", *SMALL, "--data", "teacher", "--optimizer", "sgd", "--lr", "1e30", "--out", "r", "--quiet"]) == 1
    )
    assert "try a lower learning rate" in capsys.readouterr().err
    assert os.listdir("r") == ["config.toml"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--data", "spiral"], f"unknown data 'spiral': choose from {', '.join(tn.data.DATASETS)}"),
        (["--samples", "many"], "option samples = 'many' is not understood: expected int"),
        (["--samples", "0"], "option samples = 0 is out of range: give at least 1"),
        (["--hidden", "64,x"], "option hidden = '64,x' is not understood: expected list"),
        (["--hidden", "0"], "Dense width 0 is not a positive whole number"),
        (["--backend", "nunpy"], "unknown backend 'nunpy': choose from auto, numpy, cupy, strict, torch, dpnp"),
        (["--dtype", "float16"], "unknown dtype 'float16': choose from float32, float64"),
        (["--set", "nose=1"], "data set spirals has no option 'nose': choose from n_classes, noise, turns"),
        (["--set", "noise=loud"], "option noise = 'loud' is not understood: expected a number, true or false"),
        (["--set", "noise"], "option 'noise' is not understood: expected name=value"),
        (["--set", "noise=-1"], "Spirals noise -1 is out of range: give a standard deviation of at least 0"),
        (["--seed", "-1"], "seed -1 is out of range: give one in [0, 2**64)"),
        (["--dropout", "1"], "Dropout rate 1.0 is out of range: give the fraction dropped, in [0, 1)"),
        (["--lr", "nan"], "Cosine rate nan is out of range: give a finite number of at least 0"),
        (["missing.toml"], "missing.toml: No such file or directory"),
        (["--out", "file/in/it"], "file/in/it: Not a directory"),
        (["--out", "full"], "run folder full is not empty: give another with --out"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(argv, said, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thing").write_text("")
    assert mistake(capsys, "train", *argv) == said
    assert not (tmp_path / "runs").exists()
    assert os.listdir("full") == ["thing"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("samples = 'x'", "option samples = 'x' is a str: expected int"),
        ("sample = 1", "unknown option 'sample': choose from accumulate, "),
        ("samples = ", "c.toml: not a TOML file: "),
        ("hidden = ['a']", "option hidden = ['a'] is no list of widths: expected whole numbers"),
        ("[options]\nnoise = 'x'", "data set spirals: "),
    ],
)
def test_a_mistake_in_a_config_is_one_line(text, said, tmp_path, capsys):
    (tmp_path / "c.toml").write_text(text)
    assert mistake(capsys, "train", "c.toml").startswith(said)


def test_no_backend_in_place_of_one_that_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    tn.get_backend.__globals__["_load"].cache_clear()
    assert "extras cuda12 and cuda13" in mistake(capsys, "train", "--backend", "cupy")


def test_without_matplotlib_there_is_no_picture_and_it_says_so(monkeypatch, capsys):
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    assert main(["train", *SMALL, "--out", "r", "--quiet"]) == 0
    assert capsys.readouterr().err == "no picture: it needs matplotlib, from the extra plot\n"
    assert "training.png" not in os.listdir("r")


def test_info_lists_every_backend_and_why_one_is_not_there(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert tn.__version__ in out
    assert "numpy   NumPy" in out
    assert all(f"  {name}" in out for name in ("cupy", "strict", "torch", "dpnp"))


def test_usage_mistakes_exit_2_too(capsys):
    with pytest.raises(SystemExit) as e:
        main(["train", "--no-such-option"])
    assert e.value.code == 2


@pytest.mark.parametrize(("text", "value"), [("5_000_000", 5_000_000), ("1e6", 1_000_000), ("12", 12)])
def test_whole_numbers_as_people_write_them(text, value):
    assert parse("samples", text) == value
