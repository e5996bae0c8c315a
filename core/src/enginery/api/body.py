"""The one strict decoder of request bodies.

Knows: JSON, and where in the bytes each top-level field lies. Does not know: which fields a route
has, beyond `model` and `stream`, which routing needs.

We route on what we decode and forward the bytes that came, so an engine with another JSON parser must
not be able to read another model out of the same bytes. Therefore whatever parsers disagree on is
refused: bytes that are not UTF-8, a byte order mark, NaN, numbers out of range, half surrogate pairs,
and a top-level key that is repeated or written with escapes.

The technique: msgspec checks the syntax and gives each top-level value as raw bytes. One walk over the
buffer, member by member, then expects exactly those bytes at each place. msgspec keeps the last of
repeated keys, so a repetition makes the walk fail. The walk costs one comparison of memory and one
step per top-level field, whatever is inside them, and leaves the span of every value.

Most bodies need no walk: a repetition, an escape and white space each make a body longer than its keys
and values need, so one of exactly the length of its compact form has none of them. Clients write that form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec

from enginery.errors import EngineryError, InvalidRequest
from enginery.values import JSONObject

__all__ = ["MAX_DEPTH", "MAX_FIELDS", "DecodedBody", "decode_body"]

MAX_DEPTH = 128
"""Levels of objects and arrays, the body itself being the first. Parsers differ in how deep they go
before they give up or crash; all that we know of manage this."""

MAX_FIELDS = 1024
"""Top-level fields. The walk takes one step in Python for each, so their number needs a bound."""

Span = tuple[int, int]

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_VALUE = msgspec.json.Decoder(Any)
_WHOLE = msgspec.json.Decoder(dict[str, Any])
_OBJECT_START = re.compile(rb"[ \t\n\r]*\{[ \t\n\r]*")
_KEY = re.compile(rb'"([^"\\]*)("[ \t\n\r]*:[ \t\n\r]*|\\)')
_BETWEEN = re.compile(rb"[ \t\n\r]*(?:,[ \t\n\r]*|(\}))")
_HALF_PAIR = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]"
)


class DecodedBody:
    """A request body that passed every check: its bytes, its object and where its fields lie.

    Made by `decode_body`. ``object`` belongs to the body: readers must not change it.
    """

    __slots__ = ("_found", "object", "raw")

    def __init__(
        self, raw: bytes, object: JSONObject, spans: Mapping[str, Span] | None = None
    ) -> None:
        self.raw = raw
        self.object = object
        self._found = spans

    @property
    def _spans(self) -> Mapping[str, Span]:
        """Where each value lies; looked for at the first use."""
        if self._found is None:
            self._found = _walk(self.raw, _FIELDS.decode(self.raw))
        return self._found

    def get(self, name: str, default: Any = None) -> Any:
        """One top-level field's value, ``default`` when it is absent."""
        return self.object.get(name, default)

    @property
    def model(self) -> str:
        """The model asked for.

        Raises:
            InvalidRequest: missing, not a string, or empty; ``param`` is ``"model"``.
        """
        model = self.object.get("model")
        if type(model) is str and model:
            return model
        if model is None:
            raise InvalidRequest("the field 'model' is missing", param="model")
        if not isinstance(model, str):
            raise InvalidRequest(
                f"the field 'model' must be a string, got {_kind(model)}", param="model"
            )
        if not model:
            raise InvalidRequest("the field 'model' is empty", param="model")
        return model

    @property
    def stream(self) -> bool:
        """True when the reply is wanted as a stream; null and absent count as False.

        Raises:
            InvalidRequest: neither true, false nor null; ``param`` is ``"stream"``.
        """
        stream = self.object.get("stream")
        if stream is None:
            return False
        if not isinstance(stream, bool):
            raise InvalidRequest(
                f"the field 'stream' must be true or false, got {_kind(stream)}", param="stream"
            )
        return stream

    def splice_model(self, new: str) -> bytes:
        """The same bytes with ``new`` as the model: put in place of the old one, else added in front.

        The result is read again and compared before anybody sends it.

        Raises:
            EngineryError: the result says something else than this body with another model: a bug.
        """
        value = msgspec.json.encode(new)
        if span := self._spans.get("model"):
            spliced = self.raw[: span[0]] + value + self.raw[span[1] :]
        else:
            head = _match(_OBJECT_START, self.raw, 0).end()
            comma = b"," if self._spans else b""
            spliced = self.raw[:head] + b'"model":' + value + comma + self.raw[head:]
        self._check_splice(spliced, value)
        return spliced

    def _check_splice(self, spliced: bytes, value: bytes) -> None:
        expected = {name: memoryview(self.raw)[a:b] for name, (a, b) in self._spans.items()}
        expected["model"] = memoryview(value)
        _, spans = _read_fields(spliced)
        same = expected.keys() == spans.keys() and all(
            spliced.startswith(content, spans[name][0])
            and spans[name][1] - spans[name][0] == len(content)
            for name, content in expected.items()
        )
        if not same:
            raise EngineryError("filling in the model changed another field; please report this")


def decode_body(raw: bytes) -> DecodedBody:
    """Decode and check one request body.

    Raises:
        InvalidRequest: what is wrong, with the byte where it is; ``param`` names the top-level field
            where there is one.
    """
    if not raw.strip(b" \t\n\r"):
        raise InvalidRequest("the body is empty; a JSON object is needed")
    if not raw.isascii():
        _check_utf8(raw)
    spans: Mapping[str, Span] | None = None
    try:
        fields = _FIELDS.decode(raw)
        values = _WHOLE.decode(raw)
        if not _is_compact(raw, fields):
            spans = _walk(raw, fields)
    except (msgspec.MsgspecError, RecursionError):
        values, spans = _decode_by_field(raw)
    # Fewer brackets than levels cannot be too deep; only long bodies are walked.
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH:
        for name, value in values.items():
            if _deeper_than(value, MAX_DEPTH - 1):
                _refuse(RecursionError(), raw, param=name)
    return DecodedBody(raw, values, spans)


def _is_compact(raw: bytes, fields: Mapping[str, msgspec.Raw]) -> bool:
    """True when ``raw`` is as long as its keys and values need: see the module's text."""
    if len(fields) > MAX_FIELDS:
        return False
    names = "".join(fields)
    size = len(names) if names.isascii() else len(names.encode())
    # {, a comma or } behind each value, two quotes and a colon around each key
    return len(raw) == 1 + 4 * len(fields) + size + sum(map(len, fields.values()))


def _decode_by_field(raw: bytes) -> tuple[JSONObject, Mapping[str, Span]]:
    """What is wrong, with the field where it is."""
    fields, spans = _read_fields(raw)
    values: JSONObject = {}
    for name, value in fields.items():
        try:
            values[name] = _VALUE.decode(value)
        except (msgspec.MsgspecError, RecursionError) as error:
            _refuse(error, raw, param=name, start=spans[name][0])
    return values, spans


def _check_utf8(raw: bytes) -> None:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"the body is not UTF-8: {error.reason} (byte {error.start})"
        ) from None


def _read_fields(raw: bytes) -> tuple[dict[str, msgspec.Raw], dict[str, Span]]:
    """The top-level fields as raw bytes and where each value lies.

    Raises:
        InvalidRequest: bad syntax, not an object, or a key that is repeated or escaped.
    """
    try:
        fields = _FIELDS.decode(raw)
    except (msgspec.MsgspecError, RecursionError) as error:
        _refuse(error, raw)
    return fields, _walk(raw, fields)


def _walk(raw: bytes, fields: Mapping[str, msgspec.Raw]) -> dict[str, Span]:
    """Where each value lies, its key being the only one of its name.

    Raises:
        InvalidRequest: a key that is repeated or escaped, or too many of them.
    """
    if len(fields) > MAX_FIELDS:
        raise InvalidRequest(f"the body has more than {MAX_FIELDS} top-level fields")
    spans: dict[str, Span] = {}
    position = _match(_OBJECT_START, raw, 0).end()
    closed = raw[position] == ord("}")
    while not closed:
        key = _match(_KEY, raw, position)
        if key[2] == b"\\":
            raise InvalidRequest(
                f"a top-level key is written with an escape (byte {key.end() - 1}); write it plainly"
            )
        name, start = key[1].decode(), key.end()
        value = fields[name]
        if name in spans or not raw.startswith(value, start):
            _repeated(name)
        # The value's own bytes end where it ends, except for `1` before `12`: then no separator follows.
        after = _BETWEEN.match(raw, start + len(memoryview(value)))
        if after is None:
            _repeated(name)
        spans[name] = start, start + len(memoryview(value))
        position, closed = after.end(), after[1] is not None
    return spans


def _match(pattern: re.Pattern[bytes], raw: bytes, position: int) -> re.Match[bytes]:
    found = pattern.match(raw, position)
    if found is None:  # msgspec has checked the syntax, so this is ours
        raise EngineryError(
            f"lost the way in a request body at byte {position}; please report this"
        )
    return found


def _repeated(name: str) -> NoReturn:
    raise InvalidRequest(f"the field {name!r} is there more than once", param=name)


def _deeper_than(value: Any, levels: int) -> bool:
    """True when ``value`` has more than ``levels`` levels of objects and arrays. No recursion."""
    layer = [value] if isinstance(value, (dict, list)) else []
    for _ in range(levels):
        layer = [
            inner
            for outer in layer
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not layer:
            return False
    return bool(layer)


def _refuse(
    error: Exception, raw: bytes, *, param: str | None = None, start: int | None = None
) -> NoReturn:
    """Say in our words what msgspec found. ``start`` is the byte at which it began to read."""
    where = "the body" if param is None else f"the field {param!r}"
    if isinstance(error, RecursionError):
        raise InvalidRequest(
            f"{where} is nested too deeply: the limit is {MAX_DEPTH} levels", param=param
        ) from None
    reason = str(error).removeprefix("JSON is malformed: ")
    half = _HALF_PAIR.search(raw)
    if "surrogate" in reason or ("truncated" in reason and half):
        at = f" (byte {half.start()})" if half else ""
        reason = f"half of a surrogate pair{at}"
    elif "truncated" in reason:
        reason = f"it ends too early (byte {len(raw)})"
    elif "Expected `object`" in reason:
        got = reason.rpartition("got ")[2].strip("`")
        raise InvalidRequest(f"the body must be a JSON object, got {got}") from None
    elif "out of range" in reason:
        reason = f"a number is out of range (after byte {start or 0})"
    raise InvalidRequest(f"{where} is not valid JSON: {reason}", param=param) from None


def _kind(value: Any) -> str:
    """What JSON calls a decoded value."""
    if isinstance(value, bool):
        return "a boolean"
    names = {
        str: "a string",
        int: "a number",
        float: "a number",
        list: "an array",
        dict: "an object",
    }
    return names.get(type(value), "null")
