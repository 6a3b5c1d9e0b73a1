"""``tinynet completion``: completion scripts for shells, generated from the parser."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tinynet.cli.common import Commands, command, suggest

EXAMPLES = """
source <(tinynet completion bash)    in this shell; for all, in ~/.bashrc
source <(tinynet completion zsh)     in this shell; for all, in ~/.zshrc
tinynet completion fish > ~/.config/fish/completions/tinynet.fish
"""


class Argument(NamedTuple):
    """An option, or a positional argument (no flags), with the values offered for it."""

    flags: tuple[str, ...]
    takes_value: bool
    several: bool  # values in a row
    values: tuple[str, ...]
    files: bool
    help: str


class Command(NamedTuple):
    name: str
    help: str
    arguments: list[Argument]


def add(commands: Commands) -> None:
    parser = command(commands, "completion", "write a completion script for a shell", run, EXAMPLES)
    suggest(parser.add_argument("shell", metavar="SHELL", help=", ".join(SHELLS)), SHELLS)


def run(args: argparse.Namespace) -> int:
    from tinynet.cli import parser

    if args.shell not in SHELLS:
        raise ValueError(f"unknown shell {args.shell!r}: choose from {', '.join(SHELLS)}")
    print("\n".join(SHELLS[args.shell](list(tables(parser())))))
    return 0


def tables(parser: argparse.ArgumentParser) -> Iterator[Command]:
    """The commands of a parser, read from attributes private to argparse that have not changed for years."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {a.dest: a.help or "" for a in action._choices_actions}
            for name, sub in action.choices.items():
                yield Command(name, helps[name], [_argument(a) for a in sub._actions])


def _argument(action: argparse.Action) -> Argument:
    values = tuple(getattr(action, "suggested", ()))
    takes_value = action.nargs != 0
    files = takes_value and getattr(action, "files", not values)
    several = action.nargs == "+"
    return Argument(tuple(action.option_strings), takes_value, several, values, files, action.help or "")


# Shells ---------------------------------------------------------------------------------------------------------------


def bash(commands: list[Command]) -> Iterator[str]:
    """Offer values, or options to a word that begins with a dash; if none matches, files (``-o default``)."""
    yield "_tinynet() {"
    yield '    local current=${COMP_WORDS[COMP_CWORD]} words=""'
    yield '    case "$COMP_CWORD ${COMP_WORDS[1]} ${COMP_WORDS[COMP_CWORD-1]}" in'
    yield f'        "1 "*) words="{" ".join(c.name for c in commands)} --help --version" ;;'
    for c in commands:
        for a in c.arguments:
            if a.flags and a.takes_value:
                pattern = "|".join(f'*" {c.name} {flag}"' for flag in a.flags)
                yield f'        {pattern}) words="{" ".join(a.values)}" ;;'
        flags = [flag for a in c.arguments for flag in a.flags]
        values = [value for a in c.arguments if not a.flags for value in a.values]
        yield f'        *" {c.name} "*) words="{" ".join(values)}"'
        yield f'            [[ $current == -* ]] && words="{" ".join(flags)}" ;;'
    yield "    esac"
    yield '    COMPREPLY=($(compgen -W "$words" -- "$current"))'
    yield "}"
    yield "complete -o default -F _tinynet tinynet"


def zsh(commands: list[Command]) -> Iterator[str]:
    yield "#compdef tinynet"
    yield "_tinynet() {"
    yield "    local -a commands=("
    yield from (f"        {_quoted(f'{c.name}:{c.help}')}" for c in commands)
    yield "    )"
    yield "    if (( CURRENT == 2 )); then _describe command commands; return; fi"
    yield "    shift words; (( CURRENT-- ))"
    yield "    case $words[1] in"
    for c in commands:
        yield f"        {c.name}) _arguments \\"
        # further values of an option are completed like arguments, so that options after them are completed, too
        rest = "*" if any(a.several for a in c.arguments) else ""
        arguments, specs = sorted(c.arguments, key=lambda a: not a.flags), []
        for a in arguments:
            help = re.sub(r"[][:]", r"\\\g<0>", a.help)
            what = ("_default" if a.files else "") if not a.values else f"({' '.join(a.values)})"
            if a.values and a.files:
                what = f'{{_alternative "values\\:value\\:({" ".join(a.values)})" "files\\:file\\:_files"}}'
            for flag in a.flags or ("",):
                spec = f"*{flag}[{help}]" if flag else rest if a is arguments[-1] else ""
                spec += f":{flag.strip('-') or 'argument'}:{what}" if a.takes_value else ""
                specs.append(f"            {_quoted(spec)}")
        yield " \\\n".join(specs) + " ;;"
    yield "    esac"
    yield "}"
    yield 'if [[ $funcstack[1] == _tinynet ]]; then _tinynet "$@"; else compdef _tinynet tinynet; fi'


def fish(commands: list[Command]) -> Iterator[str]:
    yield "complete -c tinynet -f"
    for c in commands:
        yield f"complete -c tinynet -n __fish_use_subcommand -a {c.name} -d {_quoted(c.help)}"
        for a in c.arguments:
            line = f"complete -c tinynet -n '__fish_seen_subcommand_from {c.name}'"
            line += "".join(f" -l {f[2:]}" if f.startswith("--") else f" -s {f[1:]}" for f in a.flags)
            line += (" -r -F" if a.files else " -x") if a.takes_value and a.flags else " -F" if a.files else ""
            line += f" -a {_quoted(' '.join(a.values))}" if a.values else ""
            yield f"{line} -d {_quoted(a.help.split(':')[0].split(' (')[0])}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "’") + "'"


SHELLS: dict[str, Callable[[list[Command]], Iterator[str]]] = {"bash": bash, "zsh": zsh, "fish": fish}
