from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from enginery.api.body import MAX_DEPTH, MAX_FIELDS, DecodedBody, decode_body
from enginery.errors import EngineryError, InvalidRequest

patient = settings(deadline=None)  # the machine that runs this may be busy

CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXT = st.text(CHARACTERS, max_size=12)
PLAIN_KEYS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"\\'), max_size=8
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
SPACE = st.text(" \t\r\n", max_size=2)


@st.composite
def written(draw: st.DrawFn, members: st.SearchStrategy[list[tuple[str, Any]]]) -> bytes:
    """An object whose keys are written as given, with any white space that JSON allows."""
    parts = []
    for key, value in draw(members):
        content = json.dumps(value, ensure_ascii=draw(st.booleans()))
        parts.append(f'{draw(SPACE)}"{key}"{draw(SPACE)}:{draw(SPACE)}{content}{draw(SPACE)}')
    return f"{draw(SPACE)}{{{','.join(parts) or draw(SPACE)}}}{draw(SPACE)}".encode()


PLAIN_OBJECTS = written(
    st.dictionaries(st.just("model") | PLAIN_KEYS, VALUES, max_size=5).map(
        lambda d: list(d.items())
    )
)
TRICKY_OBJECTS = written(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["model", "mode\\u006c", "\\u006dodel", "m", "stream", 'model\\"', "Model"]
            ),
            st.sampled_from([1, 12, 123, "a", "ab", None, [], {}, {"model": "b"}, '"model":"c"']),
        ),
        max_size=4,
    )
)


def refused(raw: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        decode_body(raw)
    return caught.value


@patient
@given(PLAIN_OBJECTS)
@example(b"{}")
def test_a_plain_object_decodes_as_the_standard_library_decodes_it(raw: bytes) -> None:
    assert decode_body(raw).object == json.loads(raw)


@patient
@given(PLAIN_OBJECTS, TEXT)
@example(b"{}", "m")
@example(b' {"model" : "x" , "stream":true}', "y")
def test_a_splice_changes_the_model_and_nothing_else(raw: bytes, new: str) -> None:
    spliced = decode_body(raw).splice_model(new)
    assert json.loads(spliced) == {**json.loads(raw), "model": new}


@patient
@given(PLAIN_OBJECTS)
def test_a_splice_keeps_the_bytes_of_every_other_field(raw: bytes) -> None:
    before = decode_body(raw)
    after = decode_body(before.splice_model("other"))
    kept = {name: raw[slice(*span)] for name, span in before._spans.items() if name != "model"}
    assert kept == {
        name: after.raw[slice(*span)] for name, span in after._spans.items() if name != "model"
    }


@patient
@given(TRICKY_OBJECTS)
@example(b'{"model":1,"model":12}')
@example(b'{"model":12,"model":1}')
@example(b'{"model":"a","model":"a"}')
@example(b'{"model":"a","mode\\u006c":"b"}')
def test_what_we_say_the_model_is_no_other_parser_can_read_otherwise(raw: bytes) -> None:
    try:
        body = decode_body(raw)
    except InvalidRequest:
        return
    last_wins = json.loads(raw)
    first_wins = dict(reversed(json.loads(raw, object_pairs_hook=list)))
    assert body.get("model") == last_wins.get("model")
    assert last_wins.keys() == first_wins.keys() == body.object.keys()
    assert len(json.loads(raw, object_pairs_hook=list)) == len(body.object)


@patient
@given(
    st.binary(max_size=40)
    | st.text('{}[]":,\\u0d8model1e9.-NatrufslI ', max_size=24).map(str.encode)
)
def test_any_bytes_are_refused_or_decode_as_the_standard_library_decodes_them(raw: bytes) -> None:
    try:
        body = decode_body(raw)
    except InvalidRequest:
        return
    assert body.object == json.loads(raw)


@pytest.mark.parametrize(
    ("raw", "says", "param"),
    [
        (b"", "empty", None),
        (b" \r\n\t", "empty", None),
        (b"[1]", "must be a JSON object, got array", None),
        (b"null", "must be a JSON object, got null", None),
        (b'"{}"', "must be a JSON object, got str", None),
        (b'{"a":"\xff"}', "not UTF-8: invalid start byte (byte 6)", None),
        (b'{"a":"\xed\xa0\x80"}', "not UTF-8", None),
        ('{"a":1}'.encode("utf-16"), "not UTF-8", None),
        (b"\xef\xbb\xbf{}", "invalid character (byte 0)", None),
        (b'{"a":1', "ends too early (byte 6)", None),
        (b'{"a":1}x', "trailing characters", None),
        (b"{'a':1}", "(byte 1)", None),
        (b'{"a":NaN}', "(byte 5)", None),
        (b'{"a":-Infinity}', "(byte 6)", None),
        (b'{"a":[1e999]}', "out of range", "a"),
        (b'{"ok":1,"a":' + b"9" * 5000 + b"}", "out of range", "a"),
        (b'{"a":"\\ud800"}', "half of a surrogate pair (byte 6)", None),
        (b'{"a":"x\\udc00"}', "half of a surrogate pair (byte 7)", None),
        (b'{"a":"\\ud800\\u0041"}', "half of a surrogate pair", None),
        (b'{"a":1,"b":2,"a":3}', "'a' is there more than once", "a"),
        (b'{"a":1,"a":1}', "'a' is there more than once", "a"),
        (b'{"\\u0061":1}', "written with an escape (byte 2)", None),
        (b'{"a\\"b":1}', "written with an escape (byte 3)", None),
    ],
)
def test_a_refusal_says_what_is_wrong_and_where(raw: bytes, says: str, param: str | None) -> None:
    error = refused(raw)
    assert says in error.message
    assert error.param == param
    assert error.status == 400


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"x":', b"}")])
def test_the_depth_limit_is_the_same_for_every_way_to_nest(opening: bytes, closing: bytes) -> None:
    def nested(levels: int) -> bytes:
        inside = levels - 1
        return b'{"a":' + opening * inside + b"1" + closing * inside + b"}"

    assert decode_body(nested(MAX_DEPTH)).get("a")
    for levels in (MAX_DEPTH + 1, 500, 100_000):
        error = refused(nested(levels))
        assert "nested too deeply: the limit is 128 levels" in error.message


def test_brackets_in_strings_and_side_by_side_are_not_depth() -> None:
    many = {"a": "[{" * 1000, "b": [[]] * 1000, "c": [{"role": "user"}] * 500}
    assert decode_body(json.dumps(many).encode()).object == many


def test_the_number_of_top_level_fields_has_a_limit() -> None:
    fields = {f"f{number}": number for number in range(MAX_FIELDS)}
    assert len(decode_body(json.dumps(fields).encode()).object) == MAX_FIELDS
    error = refused(json.dumps({**fields, "one more": 1}).encode())
    assert "more than 1024" in error.message


def test_repeated_keys_inside_a_field_are_left_to_the_engine() -> None:
    assert decode_body(b'{"a":{"b":1,"b":2}}').object == {"a": {"b": 2}}


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"{}", "missing"),
        (b'{"model":null}', "missing"),
        (b'{"model":""}', "empty"),
        (b'{"model":7}', "must be a string, got a number"),
        (b'{"model":["m"]}', "must be a string, got an array"),
    ],
)
def test_a_model_that_is_none_is_refused_by_name(raw: bytes, says: str) -> None:
    body = decode_body(raw)
    with pytest.raises(InvalidRequest, match=says) as caught:
        _ = body.model
    assert caught.value.param == "model"


@pytest.mark.parametrize(
    ("raw", "stream"),
    [
        (b"{}", False),
        (b'{"stream":null}', False),
        (b'{"stream":false}', False),
        (b'{"stream":true}', True),
    ],
)
def test_stream_is_false_unless_it_is_true(raw: bytes, stream: bool) -> None:
    assert decode_body(raw).stream is stream


@pytest.mark.parametrize("value", [b"1", b"0", b'"true"', b"[]", b"{}"])
def test_a_stream_that_is_neither_true_nor_false_is_refused(value: bytes) -> None:
    body = decode_body(b'{"stream":' + value + b"}")
    with pytest.raises(InvalidRequest) as caught:
        _ = body.stream
    assert caught.value.param == "stream"


def test_a_splice_that_went_wrong_is_never_handed_out() -> None:
    whole = decode_body(b'{"model":"a","user":"b"}')
    astray = DecodedBody(whole.raw, whole.object, {"model": whole._spans["user"]})
    with pytest.raises(EngineryError) as caught:
        astray.splice_model("c")
    assert caught.value.status == 500
