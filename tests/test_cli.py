"""The command: what it leaves behind, and one line with exit code 2 for whatever is wrong."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from functools import partial
from pathlib import Path

import pytest

import tinynet as tn
from tinynet.cli import COMMANDS, main, parser, train
from tinynet.config import Config, parse

SMALL = ["--samples", "2_000", "--validation", "500", "--batch-size", "100", "--hidden", "8", "--backend", "numpy"]

CHOICE = f"choose from {', '.join(tn.data.DATASETS)}, or give a file (.npy, .npz, .h5, .hdf5, .parquet, .csv, .tsv)"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch, no_picture):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TINYNET_BACKEND", raising=False)


def mistake(capsys, *argv):
    """The one line that a mistaken command says."""
    assert main(list(argv)) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("tinynet: error: ")
    return err.removeprefix("tinynet: error: ").rstrip()


def test_a_run_leaves_config_history_model_and_picture(tmp_path, capsys, picture):
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    assert main(["train", *SMALL, "--out", "r", "--epochs", "2"]) == 0
    assert sorted(os.listdir("r")) == [
        "checkpoints",
        "config.toml",
        "history.jsonl",
        "model.safetensors",
        "training.png",
    ]
    assert (tmp_path / "r/training.png").read_bytes().startswith(b"\x89PNG\r\n")
    rows = [json.loads(line) for line in (tmp_path / "r/history.jsonl").read_text().splitlines()]
    epochs = [row for row in rows if "epoch" in row]
    assert [row["step"] for row in epochs] == [20, 40]
    assert all(row["loss"] > 0 for row in rows)
    out, err = capsys.readouterr()
    assert f"val_accuracy {epochs[-1]['val_accuracy']:.4f}" in out
    assert "the best possible accuracy is" in out
    assert err.count("\n") == 2  # no terminal: a line per epoch
    data = Config().change(tomllib.loads((tmp_path / "r/config.toml").read_text())).make_data()
    model = tn.load("r/model.safetensors")
    assert model.evaluate(data.split(2000)[1])["accuracy"] == pytest.approx(epochs[-1]["val_accuracy"])


def test_a_config_that_a_run_wrote_trains_the_same_again(tmp_path):
    assert main(["train", *SMALL, "--set", "noise=0.2", "--dropout", "0.1", "--out", "a", "--quiet"]) == 0
    assert main(["train", "a/config.toml", "--out", "b", "--quiet"]) == 0
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_whole_numbers_of_a_config_may_have_an_exponent():
    assert Config().change({"samples": 1e6}).samples == 10**6
    assert type(Config().change({"samples": 1e6}).samples) is int


def test_another_config_cannot_go_on_with_a_run_and_leaves_it_as_it_was(tmp_path, capsys):
    assert main(["train", *SMALL, "--out", "r", "--quiet"]) == 0
    before = (tmp_path / "r/config.toml").read_text()
    said = mistake(capsys, "train", "--resume", "r", "--hidden", "9")
    assert "was written for another model: Sequential(Dense(width=8)" in said
    assert "there, Sequential(Dense(width=9)" in said
    assert (tmp_path / "r/config.toml").read_text() == before


def test_standardized_inputs(tmp_path):
    assert main(["train", *SMALL, "--standardize", "true", "--data", "friedman2", "--out", "r", "--quiet"]) == 0
    model = tn.load("r/model.safetensors")
    assert repr(model.net).startswith("Sequential(Standardize(), Dense(width=8)")
    assert (model.params["0"]["mean"][:2] > 10).all()


def test_quiet_is_silent_and_runs_get_folders_of_their_own(capsys):
    for _ in range(2):
        assert main(["train", *SMALL, "--quiet", "--data", "teacher", "--norm", "batch", "--optimizer", "sgd"]) == 0
    assert capsys.readouterr().err == ""
    assert len(os.listdir("runs")) == 2


LONG = [
    "--samples", "4_000", "--batch-size", "100", "--epochs", "2", "--dropout", "0.2", "--norm", "batch", "--ema", "0.9",
]  # 80 steps  # fmt: skip
INTERRUPTED, TERMINATED = (signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "terminated", 143)
HUNG_UP = (signal.SIGHUP, "hung up", 129) if hasattr(signal, "SIGHUP") else TERMINATED


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert main(["train", *SMALL, *LONG, "--out", str(folder), "--quiet"]) == 0
    return folder


@pytest.mark.parametrize(
    ("at", "number", "word", "code"), [(1, *INTERRUPTED), (40, *TERMINATED), (57, *HUNG_UP), (80, *TERMINATED)]
)
def test_a_signal_ends_the_step_and_resume_goes_on_bit_for_bit(
    at, number, word, code, uninterrupted, monkeypatch, tmp_path, capsys, heard
):
    numbers = tn.Adam.numbers

    def signalled(self, state, t):
        if t == at - 1:
            signal.raise_signal(number)
        return numbers(self, state, t)

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(tn.Adam, "numbers", signalled)
        done = main(["train", *SMALL, *LONG, "--out", "r", "--quiet"])
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    if at == 80:  # the last step: there is nothing left to resume
        assert done == 0
    else:
        assert done == code
        assert capsys.readouterr().err == f"{word} after step {at}: resume with tinynet train --resume r\n"
        assert main(["train", "--resume", "r", "--quiet"]) == 0
    runs = tmp_path / "r", uninterrupted
    for file in ("model.safetensors", "checkpoints/best.safetensors"):
        resumed, whole = ((run / file).read_bytes() for run in runs)
        assert resumed == whole
    resumed, whole = (
        [line for line in (run / "history.jsonl").read_text().splitlines() if "epoch" not in line] for run in runs
    )
    assert resumed == whole


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_a_signal_that_is_ignored_stays_so(monkeypatch, request):
    """As SIGHUP is under nohup, and Ctrl-C in what a script runs in the background."""
    for number in (signal.SIGHUP, signal.SIGINT):
        request.addfinalizer(partial(signal.signal, number, signal.signal(number, signal.SIG_IGN)))
    init = tn.Adam.init

    def signalled(*args):
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGINT)
        return init(*args)

    monkeypatch.setattr(tn.Adam, "init", signalled)
    assert main(["train", *SMALL, "--out", "r", "--quiet"]) == 0


@pytest.mark.skipif(os.name != "posix", reason="elsewhere no process gets a signal from another")
def test_a_second_signal_ends_the_process_at_once(tmp_path):
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "import time, tinynet as tn\nfrom tinynet.cli import main\nnumbers = tn.Adam.numbers\n"
        "def slow(*args):\n    print('step', flush=True)\n    time.sleep(60)\n    return numbers(*args)\n"
        f"tn.Adam.numbers = slow\nmain({['train', *SMALL, '--out', 'r']!r})"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert "step\n" in iter(process.stdout.readline, "")
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None  # the step goes on
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM


def test_a_finished_run_may_be_resumed_for_more_epochs(tmp_path, monkeypatch, capsys):
    some = [*SMALL, "--quiet", "--schedule", "constant"]
    assert main(["train", *some, "--epochs", "2", "--out", "a"]) == 0
    assert main(["train", *some, "--out", "b"]) == 0
    assert main(["train", "--resume", "b", "--epochs", "2", "--quiet"]) == 0
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    assert "epochs = 2" in (tmp_path / "b/config.toml").read_text()
    monkeypatch.chdir("b")
    assert main(["train", "--resume", "", "--epochs", "3", "--quiet"]) == 0  # it began another run by that config
    assert "epochs = 3" in (tmp_path / "b/config.toml").read_text()
    assert not (tmp_path / "b/runs").exists()
    monkeypatch.chdir(tmp_path)
    # its config then said 1, and did not train the same again
    said = mistake(capsys, "train", "--resume", "b", "--epochs", "1")
    assert said == "b: has 3 epochs already: give as many, or more"
    assert "epochs = 3" in (tmp_path / "b/config.toml").read_text()


def test_a_schedule_ends_with_its_epochs(capsys):
    """The default is one, and the message was about Adam."""
    assert main(["train", *SMALL, "--quiet", "--epochs", "2", "--out", "a"]) == 0
    assert mistake(capsys, "train", "--resume", "a", "--epochs", "3") == (
        "a: its schedule cosine ends with 2 epochs, so it cannot have 3: "
        "train anew, with --schedule constant if the number may change"
    )
    assert main(["train", "--resume", "a", "--epochs", "2", "--quiet"]) == 0


def test_a_damaged_checkpoint_is_a_line_and_the_one_before_is_used(tmp_path, capsys):
    assert main(["train", *SMALL, "--out", "r", "--quiet", "--checkpoint", "7"]) == 0
    model = (tmp_path / "r/model.safetensors").read_bytes()
    folder = tmp_path / "r/checkpoints"
    names = sorted(name for name in os.listdir(folder) if name.startswith("step"))
    assert [int(name[5:17]) for name in names] == [7, 14, 20]
    (folder / names[-1]).write_bytes(b"no")
    capsys.readouterr()
    said = f"tinynet: r/checkpoints/{names[-1]}: not a model file, or one that was cut short; going back to the one before\n"
    assert main(["evaluate", "r"]) == 0
    assert capsys.readouterr().err == said
    assert main(["train", "--resume", "r", "--quiet"]) == 0
    assert capsys.readouterr().err == said
    assert (tmp_path / "r/model.safetensors").read_bytes() == model


def test_a_run_that_diverges_says_so_and_exits_1(capsys):
    assert (
        main(["train", *SMALL, "--data", "teacher", "--optimizer", "sgd", "--lr", "1e30", "--out", "r", "--quiet"]) == 1
    )
    assert "try a lower learning rate" in capsys.readouterr().err
    assert sorted(os.listdir("r")) == ["checkpoints", "config.toml"]
    assert os.listdir("r/checkpoints") == []


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--data", "spiral"], f"unknown data 'spiral': {CHOICE}"),
        (["iris.csv"], "iris.csv is data, and no config: give it as --data iris.csv"),
        (["moons"], "moons is data, and no config: give it as --data moons"),
        (["--hidden", "64", "64"], "64 is no config, a .toml file: several values are joined by commas, as --hidden 64,64"),
        (["--data", "iris.txt"],
         "iris.txt: unknown kind of file: choose from .npy, .npz, .h5, .hdf5, .parquet, .csv, .tsv"),
        (["--data", "file"], "file: unknown kind of file: choose from .npy, .npz, .h5, .hdf5, .parquet, .csv, .tsv"),
        (["--samples", "many"], "option samples = 'many' is not understood: expected a whole number"),
        (["--samples", "0"], "option samples = 0 is out of range: give at least 1"),
        (["--samples", "1e400"], "option samples = '1e400' is not understood: expected a whole number"),
        (["--hidden", "64,x"], "option hidden = '64,x' is not understood: expected a list with commas, as 64,64"),
        (["--hidden", "0"], "Dense width 0 is not a positive whole number"),
        (["--backend", "nunpy"], "unknown backend 'nunpy': choose from auto, numpy, numba, cupy, strict, torch, dpnp"),
        (["--dtype", "float16"], "unknown dtype 'float16': choose from float32, float64"),
        (["--set", "nose=1"], "data set spirals has no option 'nose': choose from n_classes, noise, turns"),
        (["--set", "noise=loud"], "option noise = 'loud' is not understood: expected a number, true or false"),
        (["--set", "noise"], "option 'noise' is not understood: expected name=value"),
        (["--set", "noise=-1"], "Spirals noise -1 is out of range: give a standard deviation in [0, 1e30]"),
        (["--seed", "-1"], "seed -1 is out of range: give one in [0, 2**64)"),
        (["--dropout", "1"], "option dropout = 1.0 is out of range: give a number in [0, 1)"),
        (["--lr", "nan"], "option lr = nan is out of range: give a finite number of at least 0"),
        (["--standardize", "perhaps"], "option standardize = 'perhaps' is not understood: expected true or false"),
        (["--checkpoint", "-1"], "option checkpoint = -1 is out of range: give at least 0"),
        (["--accumulate", "0"], "option accumulate = 0 is out of range: give at least 1"),
        (["--ema", "1"], "option ema = 1.0 is out of range: give a number in [0, 1)"),
        (["--data", "a.csv", "moons"],
         "unknown data 'moons': each of several is a file (.npy, .npz, .h5, .hdf5, .parquet, .csv, .tsv)"),
        (["--resume", "full"], "full/config.toml: No such file or directory"),
        (["x.toml", "--resume", "full"], "x.toml and --resume full are two configs: give one of them"),
        (["missing.toml"], "missing.toml: No such file or directory"),
        (["--resume", ""], "config.toml: No such file or directory"),  # a shell's variable that is not set
        ([""], ".: Is a directory"),
        (["--resume", "full", "--out", "r"], "--out r and --resume full are two run folders: give one of them"),
        (["--out", "file/in/it"], "file/in/it: Not a directory"),
        (["--out", "full"], "run folder full is not empty: give another with --out"),
    ],
)  # fmt: skip
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
        ("samples = 'x'", "option samples = 'x' is of type str: expected a whole number"),
        ("samples = 1.5", "option samples = 1.5 is of type float: expected a whole number"),
        ("hidden = 64", "option hidden = 64 is of type int: expected a list in brackets"),
        ("sample = 1", "unknown option 'sample': choose from accumulate, "),
        (
            "samples = ",
            "c.toml: not a TOML file: Invalid value (at end of document): give each name once, text in quotes",
        ),
        ("\ufeffsamples = 'x'", "option samples = 'x' is of type str: expected a whole number"),
        ("hidden = ['a']", "option hidden = ['a'] is not a list of widths: expected whole numbers"),
        ("[options]\nnoise = 'x'", "Spirals noise 'x' is out of range: give a standard deviation in [0, 1e30]"),
    ],
)
def test_a_mistake_in_a_config_is_one_line(text, said, tmp_path, capsys):
    (tmp_path / "c.toml").write_text(text, "utf-8")
    assert mistake(capsys, "train", "c.toml").startswith(said)


def test_the_environment_s_backend_counts_where_none_is_named(monkeypatch, capsys):
    monkeypatch.setenv("TINYNET_BACKEND", "strict")
    assert main(["train", *SMALL[:-2], "--samples", "200", "--validation", "50", "--out", "r", "--quiet"]) == 0
    assert "float32 on strict" in capsys.readouterr().out
    assert tomllib.loads(Path("r/config.toml").read_text())["backend"] == "strict"
    monkeypatch.setenv("TINYNET_BACKEND", "abacus")
    assert main(["evaluate", "r", "--backend", "numpy"]) == 0
    capsys.readouterr()
    for argv in (["train"], ["evaluate", "r"], ["predict", "r", "x.npy"]):
        assert mistake(capsys, *argv).startswith("unknown backend 'abacus': choose from auto, numpy, ")


def test_too_little_memory_is_a_mistake_too(monkeypatch, capsys):
    def much(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(train, "Model", much)
    assert mistake(capsys, "train") == "out of memory"
    assert not os.path.exists("runs")


def test_no_backend_in_place_of_one_that_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    tn.get_backend.__globals__["_load"].cache_clear()
    assert "extras cuda12 and cuda13" in mistake(capsys, "train", "--backend", "cupy")


def test_without_matplotlib_there_is_no_picture_and_it_says_so(monkeypatch, capsys, picture):
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    assert main(["train", *SMALL, "--out", "r", "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.err == "no picture: it needs matplotlib, from the extra plot\n"
    assert said.out.endswith("\nconfig, history, checkpoints and model are in r\n")
    assert "training.png" not in os.listdir("r")


def test_data_writes_what_the_set_is(tmp_path, capsys):
    assert main(["data", "blobs", "--samples", "1e3", "--seed", "4", "--set", "n_features=3", "--out", "b.npz"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(
        "Blobs(n=1000, seed=4, n_classes=3, n_features=3, noise=1.0, box=10.0)\nb.npz: 1,000 samples, "
    )
    read, made = tn.data.read("b.npz"), tn.data.Blobs(1000, seed=4, n_features=3)
    ops = tn.get_backend("numpy")
    for a, b in zip(read.batch(range(1000), ops, "float32"), made.batch(range(1000), ops, "float32"), strict=True):
        assert (a is None and b is None) or (a == b).all()


def test_data_shows_a_bar_where_there_is_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert main(["data", "moons", "--samples", "100", "--out", "m.npy"]) == 0
    err = capsys.readouterr().err
    assert "writing" in err
    assert "100%" in err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["moon", "--out", "x.npz"], f"unknown data set 'moon': choose from {', '.join(tn.data.DATASETS)}"),
        (
            ["moons", "--out", "x.txt"],
            "x.txt: unknown kind of file: choose from .npy, .npz, .h5, .hdf5, .parquet, .csv",
        ),
        (["moons", "--samples", "0", "--out", "x.npz"], "option samples = 0 is out of range: give at least 1"),
        (["moons", "--out", "no/x.npz"], "no: No such file or directory"),
        (["moons", "--seed", "-1", "--out", "x.npz"], "seed -1 is out of range: give one in [0, 2**64)"),
    ],
)
def test_mistakes_with_data_are_one_line_and_leave_nothing(argv, said, capsys):
    assert mistake(capsys, "data", *argv) == said
    assert os.listdir() == []


def test_info_lists_every_backend_and_why_one_is_not_there(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert tn.__version__ in out
    assert "numpy   NumPy" in out
    assert all(f"  {name}" in out for name in ("cupy", "strict", "torch", "dpnp"))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "the following arguments are required: COMMAND: see tinynet --help"),
        (["train", "--no-such"], "unrecognized arguments: --no-such: see tinynet train --help"),
        (["export", "m"], "the following arguments are required: --to, --out: see tinynet export --help"),
    ],
)
def test_usage_mistakes_are_one_line_and_exit_2_too(argv, said, capsys):
    with pytest.raises(SystemExit) as e:
        main(argv)
    assert e.value.code == 2
    assert capsys.readouterr().err == f"tinynet: error: {said}\n"


@pytest.mark.parametrize("name", ["", *(c.__name__.rpartition(".")[2] for c in COMMANDS)])
def test_every_command_has_help_with_examples(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as e:
        main([*name.split(), "--help"])
    assert e.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) < 80
    examples = [line for line in text.partition("\nexample")[2].splitlines()[1:] if "--help" not in line]
    assert examples
    for line in examples:  # each is a command that this version takes
        argv = shlex.split(line.partition("tinynet ")[2].partition("   ")[0].split("|")[0].split(">")[0].rstrip(")"))
        assert parser().parse_args(argv).run


@pytest.mark.parametrize(("text", "value"), [("5_000_000", 5_000_000), ("1e6", 1_000_000), ("12", 12)])
def test_whole_numbers_as_people_write_them(text, value):
    assert parse("samples", text) == value
