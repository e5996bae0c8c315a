"""Secrets: read from files, and kept out of whatever is shown.

Knows: which settings are secret, ``file:PATH``, and how a text is shown without the secrets in it. Does not
know: who may use a key, or where texts go.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from enginery.settings.places import Layer, Loc, Mark, Problem
from enginery.settings.schema import Settings

__all__ = ["HIDDEN", "Redactor", "looks_secret", "read_secret_files", "secrets_of", "shown"]

HIDDEN = "***"
"""Stands where a secret was."""

SHORTEST = 4
"""Characters: a shorter secret cannot be hidden without hiding half of every text."""

LARGEST_FILE = 64 * 1024

_FILE = "file:"
_SECRET_NAME = re.compile(
    r"(?:^|[^a-z])(?:api[-_]?keys?|keys?|token|secrets?|passwords?|passwd|credentials?)(?:$|[^a-z])",
    re.IGNORECASE,
)
"""Names of variables and flags whose values are secrets: HF_TOKEN, --api-key; not max_tokens."""


def looks_secret(name: str) -> bool:
    """Whether a variable or flag of this name usually holds a secret."""
    return _SECRET_NAME.search(name) is not None


class Redactor:
    """Replaces secrets in texts. More can be added at any time.

    Args:
        secrets: those known so far; ones shorter than `SHORTEST` are ignored.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        """From now on these are hidden too."""
        self._secrets |= {secret for secret in secrets if len(secret) >= SHORTEST}
        if self._secrets:
            longest_first = sorted(self._secrets, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def __call__(self, text: str) -> str:
        """``text`` with `HIDDEN` for each secret."""
        return text if self._pattern is None else self._pattern.sub(HIDDEN, text)


# -- reading -----------------------------------------------------------------------------------


def read_secret_files(layer: Layer) -> None:
    """Replace each ``file:PATH`` of a secret setting by what the file holds, less line ends at its end.

    A relative PATH is the process's. The mark keeps what was written, so that no error and no page
    shows more.
    """
    for loc, text, put in _written_secrets(layer.values):
        if not text.startswith(_FILE):
            continue
        mark = layer.marks.get(loc, Mark())
        layer.marks[loc] = Mark(mark.key, mark.value, mark.written or text)
        path = Path(text.removeprefix(_FILE))
        try:
            put(_content(path))
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            layer.problems.append(Problem(loc, f"the secret's file {path} cannot be read: {why}"))


def _content(path: Path) -> str:
    with path.open("rb") as file:
        raw = file.read(LARGEST_FILE + 1)
    if len(raw) > LARGEST_FILE:
        raise ValueError(f"it has more than {LARGEST_FILE} bytes")
    text = raw.decode("utf-8").rstrip("\r\n")
    if not text:
        raise ValueError("it is empty")
    return text


def _written_secrets(
    values: Mapping[str, Any],
) -> Iterator[tuple[Loc, str, Callable[[str], None]]]:
    """Every secret that is a text: where it is, what it says, and how it is replaced."""
    server = values.get("server")
    if isinstance(server, dict):
        for name in ("api_keys", "admin_keys"):
            keys = server.get(name)
            for index, key in enumerate(keys if isinstance(keys, list) else ()):
                loc: Loc = ("server", name, index)
                yield from _one(keys, index, loc)
                if isinstance(key, dict):
                    yield from _one(key, "key", (*loc, "key"))
    models = values.get("models")
    for name, model in models.items() if isinstance(models, dict) else ():
        if not isinstance(model, dict):
            continue
        yield from _one(model, "api_key", ("models", name, "api_key"))
        variants = model.get("variants")
        for variant, given in variants.items() if isinstance(variants, dict) else ():
            if isinstance(given, dict):
                yield from _one(given, "api_key", ("models", name, "variants", variant, "api_key"))


def _one(holder: Any, key: Any, loc: Loc) -> Iterator[tuple[Loc, str, Callable[[str], None]]]:
    found = holder[key] if isinstance(holder, list) else holder.get(key)
    if isinstance(found, str):
        yield loc, found, lambda text: holder.__setitem__(key, text)


# -- showing -----------------------------------------------------------------------------------


def secrets_of(settings: Settings) -> set[str]:
    """Every secret in the settings: keys, and values of engines' variables that look like one."""
    server = settings.server
    found = {key.key.get_secret_value() for key in (*server.api_keys, *server.admin_keys)}
    for model in settings.models.values():
        for variant in model.variant_settings().values():
            if variant.api_key is not None:
                found.add(variant.api_key.get_secret_value())
            found |= {value for name, value in variant.env.items() if looks_secret(name)}
            found |= {value for _, value in _secret_args(variant.args)}
    return found


def shown(settings: Settings) -> dict[str, Any]:
    """The settings for people: secrets are hidden; what came from a variable or a file is as it was written."""
    values: dict[str, Any] = settings.model_dump(mode="json", exclude_none=True)
    written = {loc: mark.written for loc, mark in settings.marks.items() if mark.written}
    hidden: dict[str, Any] = _shown(values, (), written)
    return hidden


def _shown(value: Any, loc: Loc, written: Mapping[Loc, str]) -> Any:
    if loc in written:
        return written[loc]
    if isinstance(value, dict):
        found = {name: _shown(inner, (*loc, name), written) for name, inner in value.items()}
        for name, inner in found.items():
            at = (*loc, name)
            if _is_secret(at) and at not in written and isinstance(inner, str):
                found[name] = HIDDEN
        return found
    if isinstance(value, list):
        items = [_shown(inner, (*loc, index), written) for index, inner in enumerate(value)]
        if loc and loc[-1] == "args":
            for index, _ in _secret_args(value):
                if (*loc, index) not in written:
                    flag, equals, _ = value[index].partition("=")
                    items[index] = f"{flag}={HIDDEN}" if equals and flag[:1] == "-" else HIDDEN
        return items
    return value


def _is_secret(loc: Loc) -> bool:
    match loc:
        case ("server", "api_keys" | "admin_keys", _, "key"):
            return True
        case ("models", _, "api_key") | ("models", _, "variants", _, "api_key"):
            return True
        case ("models", _, "env", name) | ("models", _, "variants", _, "env", name):
            return looks_secret(str(name))
        case ("models", _, "options", *_, name) | ("models", _, "variants", _, "options", *_, name):
            return looks_secret(str(name))
    return False


def _secret_args(args: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Where in a command line secrets stand, and which: ``--api-key X`` and ``--api-key=X``."""
    before = ""
    for index, arg in enumerate(args):
        flag, _, value = arg.partition("=")
        if arg.startswith("-") and value and looks_secret(flag):
            yield index, value
        elif before.startswith("-") and "=" not in before and looks_secret(before):
            yield index, arg
        before = arg
