"""YAML text to plain values, with the line and column of each.

Knows: YAML's nodes, ``${env.NAME}``, which settings are text. Does not know: files, or what a
setting may be. Nothing is ever built from a tag: the values are those of JSON.

A plain scalar is ``null`` (also ``~`` and nothing), ``true``, ``false`` or a number as in JSON; all
else is text. So the traps of YAML 1.1 are not there: ``on``, ``no``, ``12:30``, ``0755``, ``1_000``
and ``2024-01-01`` stay as they are written. Where a setting is text anyway, numbers do too
(``args: [--port, 8080, --version, 1.10]``), and so does every key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from enginery.settings.places import Layer, Loc, Mark, Place, Problem

__all__ = ["TEXT_FIELDS", "plain_value", "read_document", "takes_text"]

TEXT_FIELDS = frozenset(
    {"aliases", "args", "binary", "engine", "env", "features", "stop_argv", "url", "work_dir"}
)
"""Fields of a model or a variant that hold text, alone, in a list or in a mapping."""

_SERVER_TEXT = frozenset({"admin_keys", "allowed_hosts", "allowed_origins", "api_keys", "host"})

MAX_VALUES = 100_000
"""A file of nested aliases grows without bound when it is read; no real one comes near this."""

_TAG = "tag:yaml.org,2002:"
_NULL, _BOOL, _INT, _FLOAT = (_TAG + name for name in ("null", "bool", "int", "float"))
_STR, _SEQ, _MAP, _MERGE = (_TAG + name for name in ("str", "seq", "map", "merge"))
_ENV = re.compile(r"(\$?)\$\{env\.([A-Za-z_][A-Za-z0-9_]*)\}")


class _Loader(yaml.SafeLoader):
    """PyYAML's parser with JSON's scalars in place of YAML 1.1's."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    (_NULL, r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    (_BOOL, r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    (_INT, r"-?(0|[1-9][0-9]*)", list("-0123456789")),
    (_FLOAT, r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?", list("-0123456789")),
    (_MERGE, r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), _first)


def takes_text(loc: Loc) -> bool:
    """True where a setting is text whatever it looks like; False below ``options``."""
    match loc:
        case ("plugins", *_) | ("defaults", "engine"):
            return True
        case ("server", field, *_):
            return field in _SERVER_TEXT
        case ("models", _, "variants", _, field, *_) | ("models", _, field, *_):
            return field in TEXT_FIELDS
    return False


def plain_value(text: str) -> Any:
    """``text`` as a plain scalar means it: None, a bool, a number, or the text itself."""
    resolver = _Loader("")
    tag = resolver.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]  # not in the stubs
    return _convert(tag, text)


def read_document(
    text: str,
    source: str,
    environ: Mapping[str, str] | None = None,
    *,
    at: Loc = (),
    place: Place | None = None,
) -> Layer:
    """The values of one YAML document, with marks and everything that is wrong with its form.

    Args:
        text: the document.
        source: the name for places, usually the file's as it was given.
        environ: what ``${env.NAME}`` is filled in from; None leaves it as it is. ``$${env.NAME}`` is
            a literal ``${env.NAME}``.
        at: where the document's top belongs; the layer's values are nested so.
        place: for all marks, where lines mean nothing (an environment variable).
    """
    reader = _Reader(source, environ, place)
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is None:
            return reader.layer
        found = reader.value(node, at)
    except yaml.YAMLError as error:
        reader.not_yaml(error, text, at)
    except RecursionError:
        reader.problem(at, "nested too deep", place or Place(source))
    else:
        for part in reversed(at):
            found = {part: found}
        if isinstance(found, dict):
            reader.layer.values = found
        elif found is not None:
            reader.problem(at, "needs keys such as `models:` at the top", reader.place(node))
    return reader.layer


class _Reader:
    """Walks one document's nodes and fills a `Layer`."""

    def __init__(self, source: str, environ: Mapping[str, str] | None, place: Place | None) -> None:
        self.layer = Layer()
        self._source = source
        self._environ = environ
        self._place = place
        self._open: set[int] = set()
        self._count = 0

    def place(self, node: yaml.Node) -> Place:
        """Where ``node`` begins."""
        mark = node.start_mark
        return self._place or Place(self._source, mark.line + 1, mark.column + 1)

    def problem(self, loc: Loc, text: str, place: Place, *, on_key: bool = False) -> None:
        """Note what is wrong with the document's form."""
        self.layer.problems.append(Problem(loc, text, on_key, place))

    def not_yaml(self, error: yaml.YAMLError, text: str, at: Loc) -> None:
        """Note what the parser says; it stops at the first error."""
        place, what, line = self._place or Place(self._source), str(error), ""
        if isinstance(error, yaml.MarkedYAMLError):
            mark = error.problem_mark or error.context_mark
            what = error.problem or error.context or what
            if mark:
                place = self._place or Place(self._source, mark.line + 1, mark.column + 1)
                line = "".join(text.splitlines()[mark.line : mark.line + 1])
        hint = ""
        if "${" in line:
            hint = "; inside { } and [ ], put ${...} in quotes"
        elif "\\t" in what:
            hint = "; indent with spaces"
        self.problem(at, f"not YAML: {what.splitlines()[0]}{hint}", place)

    def value(self, node: yaml.Node, loc: Loc, key: Place | None = None) -> Any:
        """The value of ``node``, which belongs at ``loc``; ``key`` is where its key stands."""
        self._spend()
        self.layer.marks[loc] = Mark(key or self.place(node), self.place(node))
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, loc)
        if node.tag not in {_SEQ, _MAP}:
            self.problem(loc, f"tag {node.tag!r} is not known here", self.place(node))
            return None
        if id(node) in self._open:
            self.problem(loc, "refers to itself", self.place(node))
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.value(child, (*loc, i)) for i, child in enumerate(node.value)]
            return self._mapping(node, loc)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.Node, loc: Loc) -> dict[str, Any]:
        found: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key, child in self._pairs(node, loc):
            name = key.value
            if name in first:
                again = f"given twice, first in line {first[name]}"
                self.problem((*loc, name), again, self.place(key), on_key=True)
                continue
            first[name] = key.start_mark.line + 1
            found[name] = self.value(child, (*loc, name), self.place(key))
        for key, child in self._merged(node, loc):
            if key.value not in found:
                found[key.value] = self.value(child, (*loc, key.value), self.place(key))
        return found

    def _spend(self) -> None:
        self._count += 1
        if self._count > MAX_VALUES:
            raise yaml.YAMLError(f"more than {MAX_VALUES} values, aliases included")

    def _pairs(self, node: yaml.Node, loc: Loc) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        for key, child in node.value:
            self._spend()
            if not isinstance(key, yaml.ScalarNode):
                self.problem(loc, "a key must be plain text", self.place(key))
            elif key.tag != _MERGE:
                yield key, child

    def _merged(self, node: yaml.Node, loc: Loc) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        """What ``<<: *other`` brings, nearest first; the mapping's own keys win."""
        for key, child in node.value:
            if key.tag != _MERGE:
                continue
            others = child.value if isinstance(child, yaml.SequenceNode) else [child]
            for other in others:
                if not isinstance(other, yaml.MappingNode) or id(other) in self._open:
                    self.problem(loc, "<< needs another mapping", self.place(key))
                    continue
                self._open.add(id(other))
                yield from self._pairs(other, loc)
                yield from self._merged(other, loc)
                self._open.discard(id(other))

    def _scalar(self, node: yaml.ScalarNode, loc: Loc) -> Any:
        if node.tag not in {_NULL, _BOOL, _INT, _FLOAT, _STR, _MERGE}:
            self.problem(loc, f"tag {node.tag!r} is not known here", self.place(node))
            return None
        text: str = node.value
        if self._environ is not None and "${env." in text:
            return self._filled(node, text, loc)
        if node.tag != _NULL and takes_text(loc):
            return text
        try:
            return _convert(node.tag, text)
        except ValueError:  # an explicit tag, such as `!!int x`, or thousands of digits
            self.problem(loc, f"not a number: {text[:60]!r}", self.place(node))
            return None

    def _filled(self, node: yaml.ScalarNode, text: str, loc: Loc) -> str:
        """``text`` with its ``${env.NAME}`` replaced, always as text."""
        environ = self._environ or {}
        for dollar, name in _ENV.findall(text):
            if not dollar and name not in environ:
                self.problem(loc, f"environment variable {name} is not set", self.place(node))
        mark = self.layer.marks[loc]
        self.layer.marks[loc] = Mark(mark.key, mark.value, written=text)
        return _ENV.sub(
            lambda found: found[0][1:] if found[1] else environ.get(found[2], found[0]), text
        )


def _convert(tag: str | None, text: str) -> Any:
    if tag == _NULL:
        return None
    if tag == _BOOL:
        return text.lower() == "true"
    if tag == _INT:
        return int(text)
    if tag == _FLOAT:
        return float(text)
    return text
