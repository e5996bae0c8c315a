"""llama-swap's command lines: one text to words, and a server's port to a placeholder.

Pure. Knows: how the text is cut. Does not know: what a program's flags mean (`llama_server`).

Source: llama-swap, ``internal/config/commands.go``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

__all__ = ["PORT", "own_placeholders", "with_placeholders", "without_comments", "words_of"]

PORT = "${PORT}"
"""Stands for the port that the framework chooses; ``{port}`` in our settings."""

_OURS = re.compile(r"\{(?:host|port|model|socket)\}")


def without_comments(text: str) -> str:
    """``text`` without the lines that begin with ``#``: macros in them are not filled in."""
    return "\n".join(line for line in text.split("\n") if not line.strip().startswith("#"))


def words_of(text: str) -> list[str]:
    """The words of a command, cut as a POSIX shell cuts them; nothing is expanded.

    Raises:
        ValueError: a quote has no end.
    """
    lines = without_comments(text).split("\n")
    return shlex.split("\n".join(_joined(line) for line in lines))


def _joined(line: str) -> str:
    """A backslash at a line's end goes on with the next one, also where a space follows it."""
    return f"{line.strip()[:-1]} " if line.strip().endswith("\\") else line


def own_placeholders(words: Sequence[str]) -> list[str]:
    """What our settings would fill in, although llama-swap leaves it as it is."""
    return sorted({found for word in words for found in _OURS.findall(word)})


def with_placeholders(words: Sequence[str]) -> list[str]:
    """``${PORT}`` as our settings write it."""
    return [word.replace(PORT, "{port}") for word in words]
