"""Completion, tried in the shells themselves."""

import shutil
import subprocess

import pytest

from tinynet.cli import COMMANDS, main

TRIES = [
    (["pre"], {"predict"}),
    (["train", "--op"], {"--optimizer"}),
    (["train", "--optimizer", "adam"], {"adam", "adamw"}),
    (["train", "--data", "moo"], {"moons"}),
    (["data", "friedman"], {"friedman1", "friedman2", "friedman3"}),
    (["completion", ""], {"bash", "zsh", "fish"}),
]


@pytest.fixture
def script(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there are no files to offer

    def write(shell):
        if shutil.which(shell) is None:
            pytest.skip(f"{shell} is not installed")
        assert main(["completion", shell]) == 0
        (tmp_path / "script").write_text(capsys.readouterr().out)

    return write


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_takes_it(shell, script):
    script(shell)
    done = subprocess.run([shell, "-n", "script"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_bash(script):
    script("bash")
    lines = ["source ./script"]
    for words, _ in TRIES:
        quoted = " ".join(f"'{w}'" for w in ["tinynet", *words])
        lines.append(f"COMP_WORDS=({quoted}); COMP_CWORD={len(words)}; _tinynet; echo ${{COMPREPLY[*]}}")
    done = subprocess.run(["bash", "--norc", "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert [set(line.split()) for line in done.stdout.splitlines()] == [wanted for _, wanted in TRIES]


def test_fish(script):
    script("fish")
    lines = ["source ./script"]
    for words, _ in TRIES:
        lines += [f"complete -C 'tinynet {' '.join(words)}'", "echo --------"]
    done = subprocess.run(["fish", "--no-config", "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    found = [
        {line.split("\t")[0] for line in part.split("\n") if line} for part in done.stdout.split("--------\n")[:-1]
    ]
    assert [f - {"script"} for f in found] == [wanted for _, wanted in TRIES]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_and_option_is_in_it(shell, capsys):
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert command.__name__.rpartition(".")[2] in text
    for option in ("held-out", "batch-size", "proba", "metrics", "seconds"):
        assert option in text


def test_zsh_completes_every_file_of_several_and_shows_help_as_it_is(capsys):
    assert main(["completion", "zsh"]) == 0
    text = capsys.readouterr().out
    _, *parts = text.split("_arguments")
    of = {command.__name__.rpartition(".")[2]: part for command, part in zip(COMMANDS, parts, strict=True)}
    assert [name for name in of if "'*:argument:_default'" in of[name]] == ["train", "predict"]  # --data and DATA
    assert r"in \[0, 1) (default 0.0)]:dropout" in of["train"]  # no bracket ends the help
