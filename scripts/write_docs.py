#!/usr/bin/env python3
"""Writes the parts of docs/ that can drift from the code, or checks that they have not.

python scripts/write_docs.py          writes docs/hooks.md, settings.md, errors.md, cli.md,
                                      vllm-differences.md and the table of states in operations.md
python scripts/write_docs.py --check  changes nothing; exits with 1 and names what differs
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import click
from differences_page import differences_page
from error_page import error_page
from pydantic import BaseModel

from enginery.cli import cli
from enginery.hookspecs import API_VERSION, EngineSpec
from enginery.lifecycle import STATES, TRANSITIONS
from enginery.plugins.checks import HOOK_NAMES
from enginery.settings import Settings

DOCS = Path(__file__).parent.parent / "docs"
NOTE = "<!-- Written by scripts/write_docs.py from the code; edit the docstrings instead. -->\n"
BEGIN, END = "<!-- {}: begin -->", "<!-- {}: end -->"


def hooks() -> str:
    """One heading per hook, spelled as its signature."""
    out = [
        "# Hooks\n",
        NOTE,
        (
            f"Plugin API {API_VERSION[0]}.{API_VERSION[1]}. Every hook but one has a default: a plugin needs "
            "`build_command` or `create_backend`. An implementation may take fewer of the parameters, as "
            "plain ones, under the same names. How to write one: [write-an-engine.md](write-an-engine.md).\n"
        ),
    ]
    for name in HOOK_NAMES:
        function = getattr(EngineSpec, name)
        if name == "check_health":
            out.append(
                "---\n\nFrom here on hooks do I/O: each may be `async def`, or plain and run in a "
                "thread, and runs under a deadline. An awaited `None` is the default's turn.\n"
            )
        parameters = [
            p for p in inspect.signature(function).parameters.values() if p.name != "self"
        ]
        names = ", ".join(p.name for p in parameters)
        out.append(f"## {name}({names})\n")
        types = [f"`{p.name}: {p.annotation}`" for p in parameters]
        returns = inspect.signature(function).return_annotation
        out.append(" · ".join([*types, f"returns `{returns}`"]) + "\n")
        out.append(_markdown(inspect.getdoc(function) or "") + "\n")
    return "\n".join(out)


def settings() -> str:
    """Every key with its type, default and meaning."""
    out = [
        "# Settings\n",
        NOTE,
        (
            "Flags > `ENGINERY_…` variables (nested by `__`) > file > defaults. The file is the first of "
            "`--config`, `$ENGINERY_CONFIG`, `./enginery.yaml`, the user's config directory and "
            "`/etc/enginery/enginery.yaml`. Durations are seconds or `250ms`, `15m`, `1h30m`. "
            "`${env.NAME}` inside a text is filled in and must be set; a secret may be `file:PATH`. "
            "`enginery config check` names every mistake with file, line and column.\n"
        ),
    ]
    out += _section(Settings, "")
    return "\n".join(out)


def _section(model: type[BaseModel], path: str) -> Iterator[str]:
    rows, below = [], []
    for name, field in model.model_fields.items():
        key = f"{path}{name}"
        inner = _inner_model(field.annotation)
        if inner is not None:
            mapping = _holds_mapping(field.annotation)
            below.append((inner, f"{key}.<name>." if mapping else f"{key}."))
            continue
        default = (
            "required"
            if field.is_required()
            else _default(field.get_default(call_default_factory=True))
        )
        rows.append(f"| `{name}` | {default} | {field.description or ''} |")
    title = path.rstrip(".")
    if title:
        yield f"## {title}\n"
        yield (_markdown(inspect.getdoc(model) or "")) + "\n"
    if rows:
        yield "| key | default | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    for inner, inner_path in below:
        yield from _section(inner, inner_path)


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _inner_model(argument)
        if found is not None:
            return found
    return None


def _holds_mapping(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if isinstance(origin, type) and issubclass(origin, dict):
        return True
    return any(_holds_mapping(argument) for argument in get_args(annotation))


def _default(value: Any) -> str:
    if value is None or value in ((), [], {}):
        return "none"
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{value}`"


def commands() -> str:
    """``--help`` of every command."""
    out = [
        "# Command line\n",
        NOTE,
        (
            "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no gateway at `--url`. Results go to stdout, the rest "
            "to stderr. `--json` is for programs. Colours are for terminals, and not where `NO_COLOR` is set.\n"
        ),
        (
            "`models`, `ps`, `load`, `unload`, `logs`, `config plan` and `config reload` ask a running gateway: "
            "`--url` or `ENGINERY_URL`, `--api-key` or `ENGINERY_API_KEY`. `run` does where one answers there.\n"
        ),
        (
            'Completion: `eval "$(_ENGINERY_COMPLETE=bash_source enginery)"` in `~/.bashrc`; in `~/.zshrc` with '
            "`zsh_source`; for fish, `_ENGINERY_COMPLETE=fish_source enginery > "
            "~/.config/fish/completions/enginery.fish`.\n"
        ),
    ]
    for path, command in _walk(cli, "enginery"):
        context = click.Context(
            command,
            info_name=path,
            max_content_width=88,
            terminal_width=88,
            help_option_names=["-h", "--help"],
        )
        out.append(f"## {path}\n\n```\n{command.get_help(context)}\n```\n")
    return "\n".join(out)


def _walk(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from _walk(below, f"{path} {name}")


def operations() -> str:
    """docs/operations.md with its tables and its diagram renewed."""
    text = (DOCS / "operations.md").read_text()
    return _between(_between(text, "states", _states()), "recovery", _recovery())


def differences() -> str:
    """Where our servers answer otherwise than vLLM."""
    note = NOTE.replace("the docstrings", "vllm-differences.jsonl")
    record = DOCS.parent / "tests" / "vllm" / "data" / "vllm-0.32.json"
    return differences_page(note, DOCS / "vllm-differences.jsonl", record)


def _between(text: str, name: str, new: str) -> str:
    begin, end = BEGIN.format(name), END.format(name)
    return text[: text.index(begin)] + f"{begin}\n{new}\n{end}" + text[text.index(end) + len(end) :]


def _states() -> str:
    rows = [
        f"| {state} | {info.means} | {info.models} | {info.process} |"
        for state, info in STATES.items()
    ]
    arrows = [
        f"    {before} --> {after}: {trigger}" for (before, trigger), after in TRANSITIONS.items()
    ]
    heads = "| state | means | in /v1/models | get_status |\n|---|---|---|---|"
    diagram = ["\n```mermaid\nstateDiagram-v2\n    [*] --> stopped", *arrows, "```"]
    return "\n".join([heads, *rows, *diagram])


def _recovery() -> str:
    """From what `make recovery` measured."""
    lines = (DOCS / "recovery.jsonl").read_text().splitlines()
    rows = [
        f"| {row['failure']} | {row['behaviour']} | {row['ms']} |" for row in map(json.loads, lines)
    ]
    return "\n".join(["| failure | behaviour | ms |\n|---|---|---|", *rows])


def _markdown(docstring: str) -> str:
    """A docstring's double backticks as Markdown's single ones."""
    return docstring.replace("``", "`")


PAGES = {
    "hooks.md": hooks,
    "settings.md": settings,
    "errors.md": lambda: error_page(NOTE),
    "cli.md": commands,
    "operations.md": operations,
    "vllm-differences.md": differences,
}


def main(arguments: list[str]) -> int:
    """Write, or with ``--check`` compare; 1 when a page differs."""
    stale = []
    for name, page in PAGES.items():
        path, text = DOCS / name, page().rstrip() + "\n"
        if "--check" not in arguments:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(name)
    if stale:
        print(f"docs out of date: {', '.join(stale)}; run `make docs`")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
