"""Who may ask: rows of headers and what becomes of them. No sockets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginery.errors import AccessDenied, AuthenticationFailed, ConfigError, EngineryError
from enginery.gateway.access import Access, Asked, check_exposure, own_addresses
from enginery.settings import ServerSettings

CHAT, ADMIN = "/v1/chat/completions", "/api/engines"
HERE = "127.0.0.1:8080"
RULES: dict[str, Any] = {
    "allowed_hosts": ("gateway.example.org", "10.0.0.5:9000", "[fd00::1]"),
    "allowed_origins": ("https://chat.example.org", "http://localhost:3000"),
}
KEYS: dict[str, Any] = {
    "api_keys": ("plain-key", {"key": "narrow-key", "models": ["small", "alias"]}, "clé-ключ"),
    "admin_keys": ("admin-key",),
}


def verdict(access: Access, asked: Asked) -> str:
    """What becomes of it, as one word."""
    try:
        visitor = access.admit(asked)
    except EngineryError as error:
        return error.code if error.status in {401, 403} else f"status {error.status}"
    return "admin" if visitor.admin else "ok"


HOSTS = [
    ("localhost", "ok"),
    ("localhost:8080", "ok"),
    ("LOCALHOST:8080", "ok"),
    ("127.0.0.1", "ok"),
    ("127.0.0.1:1", "ok"),
    ("[::1]", "ok"),
    ("[::1]:8080", "ok"),
    ("[0:0:0:0:0:0:0:1]:8080", "ok"),
    ("gateway.example.org", "ok"),
    ("gateway.example.org:443", "ok"),
    ("10.0.0.5:9000", "ok"),
    ("[fd00::1]:8080", "ok"),
    ("192.168.1.7:8080", "ok"),  # its own address
    (None, "forbidden_host"),
    ("", "forbidden_host"),
    (":8080", "forbidden_host"),
    ("localhost:", "forbidden_host"),
    ("localhost.", "forbidden_host"),
    ("localhost:0", "forbidden_host"),
    ("localhost:99999", "forbidden_host"),
    ("localhost:8080:8080", "forbidden_host"),
    ("localhost.evil.example", "forbidden_host"),
    ("evil-localhost", "forbidden_host"),
    ("user@localhost", "forbidden_host"),
    ("localhost/evil", "forbidden_host"),
    ("localhost evil", "forbidden_host"),
    ("127.1", "forbidden_host"),
    ("0x7f.1", "forbidden_host"),
    ("2130706433", "forbidden_host"),
    ("0.0.0.0:8080", "forbidden_host"),
    ("127.0.0.1.evil.example", "forbidden_host"),
    ("10.0.0.5", "forbidden_host"),  # allowed with its port alone
    ("10.0.0.5:8080", "forbidden_host"),
    ("sub.gateway.example.org", "forbidden_host"),
    ("::1", "forbidden_host"),
    ("[::1", "forbidden_host"),
    ("[::2]", "forbidden_host"),
    ("evil.example:8080", "forbidden_host"),
    ("loc\udcc3\udca4lhost", "forbidden_host"),
]


@pytest.mark.parametrize(("host", "wanted"), HOSTS)
def test_a_host_is_one_of_ours_to_the_letter(host: str | None, wanted: str) -> None:
    access = Access(ServerSettings(**RULES), ["192.168.1.7"])
    assert verdict(access, Asked(CHAT, host)) == wanted
    if host is not None and host.isascii():  # the short way knows no more and no less
        assert access.admits({b"host": host.encode()}) == (wanted == "ok")
        assert access.admits({b"host": host.encode()}) == (wanted == "ok")


@pytest.mark.parametrize(
    ("origin", "host", "wanted"),
    [
        (None, HERE, "ok"),
        ("http://127.0.0.1:8080", HERE, "ok"),
        ("https://gateway.example.org", "gateway.example.org", "ok"),  # TLS ends before us
        ("http://gateway.example.org:80", "gateway.example.org", "ok"),
        ("https://chat.example.org", HERE, "ok"),
        ("https://CHAT.example.org:443", HERE, "ok"),
        ("http://localhost:3000", HERE, "ok"),
        ("null", HERE, "forbidden_origin"),
        ("", HERE, "forbidden_origin"),
        ("*", HERE, "forbidden_origin"),
        ("http://localhost:8080", HERE, "forbidden_origin"),  # another name is another origin
        ("http://127.0.0.1:8081", HERE, "forbidden_origin"),
        ("http://127.0.0.1", HERE, "forbidden_origin"),
        ("http://chat.example.org", HERE, "forbidden_origin"),
        ("https://chat.example.org.evil.example", HERE, "forbidden_origin"),
        ("https://chat.example.org@evil.example", HERE, "forbidden_origin"),
        ("file://", HERE, "forbidden_origin"),
        ("chrome-extension://abcdef", HERE, "forbidden_origin"),
        ("https://evil.example", HERE, "forbidden_origin"),
        ("http://evil.example", "evil.example", "forbidden_host"),  # rebound
    ],
)
def test_a_page_asks_only_from_here_or_from_where_it_is_allowed(origin, host, wanted) -> None:
    assert verdict(Access(ServerSettings(**RULES)), Asked(CHAT, host, origin)) == wanted


@pytest.mark.parametrize(
    ("keys", "path", "sent", "local", "wanted"),
    [
        # nobody is asked for a key: only /api minds who comes
        ({}, CHAT, None, False, "ok"),
        ({}, ADMIN, None, True, "admin"),
        ({}, ADMIN, None, False, "admin_required"),
        # keys for all
        (KEYS, CHAT, None, True, "invalid_api_key"),
        (KEYS, CHAT, "plain-key", False, "ok"),
        (KEYS, CHAT, "narrow-key", False, "ok"),
        (KEYS, CHAT, "admin-key", False, "admin"),
        (KEYS, CHAT, "clé-ключ", False, "ok"),
        (KEYS, CHAT, "plain-ke", False, "invalid_api_key"),
        (KEYS, CHAT, "plain-key2", False, "invalid_api_key"),
        (KEYS, CHAT, "Plain-Key", False, "invalid_api_key"),
        (KEYS, CHAT, "ключ", False, "invalid_api_key"),
        (KEYS, CHAT, "\udcff\udcfe", False, "invalid_api_key"),
        (KEYS, ADMIN, None, True, "invalid_api_key"),
        (KEYS, ADMIN, "plain-key", True, "admin_required"),
        (KEYS, ADMIN, "wrong", True, "invalid_api_key"),
        (KEYS, ADMIN, "admin-key", False, "admin"),
        (KEYS, "/metrics", None, True, "invalid_api_key"),
        (KEYS, "/metrics", "plain-key", False, "ok"),
        (KEYS, "/", None, False, "ok"),
        (KEYS, "//", None, False, "invalid_api_key"),
        (KEYS, "/health", None, False, "ok"),
        (KEYS, "/readyz", "wrong", False, "ok"),
        # no admin's key: this machine, with a key for all models
        ({"api_keys": KEYS["api_keys"]}, ADMIN, "plain-key", True, "admin"),
        ({"api_keys": KEYS["api_keys"]}, ADMIN, "plain-key", False, "admin_required"),
        ({"api_keys": KEYS["api_keys"]}, ADMIN, "narrow-key", True, "admin_required"),
        ({"api_keys": KEYS["api_keys"]}, ADMIN, None, True, "invalid_api_key"),
        # an admin's key alone guards /api alone
        ({"admin_keys": ("admin-key",)}, CHAT, None, False, "ok"),
        ({"admin_keys": ("admin-key",)}, ADMIN, None, True, "invalid_api_key"),
        ({"admin_keys": ("admin-key",)}, ADMIN, "admin-key", False, "admin"),
    ],
)
@pytest.mark.parametrize("header", ["authorization", "x_api_key"])
def test_a_key_opens_what_it_is_for(keys, path, sent, local, wanted, header) -> None:
    access = Access(ServerSettings(**keys))
    value = f"Bearer {sent}" if header == "authorization" else sent
    headers = {} if sent is None else {header: value}
    asked = Asked(path, HERE, local=local, **headers)
    assert verdict(access, asked) == wanted
    if path == CHAT:
        fields = {b"host": HERE.encode()}
        if sent is not None:
            raw = str(value).encode("utf-8", "surrogateescape")
            fields[header.replace("_", "-").encode()] = raw
        # a key for some models is looked at more closely
        assert access.admits(fields) == (wanted in {"ok", "admin"} and sent != "narrow-key")


@pytest.mark.parametrize(
    ("authorization", "wanted"),
    [
        ("Bearer plain-key", "ok"),
        ("bearer plain-key", "ok"),
        ("BEARER   plain-key ", "ok"),
        ("Basic plain-key", "invalid_api_key"),
        ("plain-key", "invalid_api_key"),
        ("Bearer", "invalid_api_key"),
        ("Bearer ", "invalid_api_key"),
        ("Bearer plain-key,admin-key", "invalid_api_key"),
        ("", "invalid_api_key"),
    ],
)
def test_a_bearer_token_is_spelled_as_the_rfc_says(authorization: str, wanted: str) -> None:
    access = Access(ServerSettings(**KEYS))
    assert verdict(access, Asked(CHAT, HERE, authorization=authorization)) == wanted
    fields = {b"host": HERE.encode(), b"authorization": authorization.encode()}
    assert not access.admits(fields) or wanted == "ok"


def test_a_key_that_is_wrong_does_not_hide_one_that_is_right() -> None:
    access = Access(ServerSettings(**KEYS))
    asked = Asked(CHAT, HERE, authorization="Bearer of-somebody-else", x_api_key="plain-key")
    assert verdict(access, asked) == "ok"


def test_a_key_may_be_for_some_models() -> None:
    access = Access(ServerSettings(**KEYS))
    visitor = access.admit(Asked(CHAT, HERE, x_api_key="narrow-key"))
    assert visitor.may_use("small")
    assert visitor.may_use("large", ["alias"])
    assert not visitor.may_use("large", ["other"])
    assert access.admit(Asked(CHAT, HERE, x_api_key="plain-key")).may_use("large")


def test_an_allowed_page_may_read_the_reply_and_our_own_needs_no_permission() -> None:
    access = Access(ServerSettings(**RULES))
    assert access.check_page(HERE, "https://chat.example.org") == "https://chat.example.org"
    assert access.check_page(HERE, "http://127.0.0.1:8080") is None
    assert access.check_page(HERE, None) is None


@settings(max_examples=150, deadline=None)
@given(st.none() | st.text(), st.none() | st.text(), st.none() | st.text(), st.none() | st.text())
def test_no_header_whatever_it_holds_is_a_defect(host, origin, authorization, key) -> None:
    access = Access(ServerSettings(**RULES, **KEYS))
    try:
        access.admit(Asked(CHAT, host, origin, authorization, key))
    except (AccessDenied, AuthenticationFailed):
        return
    assert host
    assert authorization or key


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([HERE, "evil.example", "", "localhost:8080"]).map(str.encode) | st.binary(),
    st.none() | st.sampled_from([b"Bearer plain-key", b"Bearer narrow-key"]) | st.binary(),
    st.none() | st.sampled_from([b"plain-key", b"wrong"]) | st.binary(),
)
def test_what_the_short_way_lets_in_the_long_way_lets_in_too(host, authorization, key) -> None:
    access = Access(ServerSettings(**RULES, **KEYS))
    fields = {b"host": host}
    if authorization is not None:
        fields[b"authorization"] = authorization
    if key is not None:
        fields[b"x-api-key"] = key
    if access.admits(fields):
        told = [
            None if raw is None else raw.decode("utf-8", "surrogateescape")
            for raw in (authorization, key)
        ]
        visitor = access.admit(Asked(CHAT, host.decode("latin-1"), None, *told))
        assert visitor.models is None


def test_the_short_way_remembers_a_bounded_number_of_spellings() -> None:
    access = Access(ServerSettings())
    for port in range(1, 1000):
        access.admits({b"host": b"localhost:%d" % port})
    assert len(access._seen_hosts) <= 64


@pytest.mark.parametrize(
    ("server", "refused"),
    [
        ({}, False),
        ({"host": "localhost"}, False),
        ({"host": "::1"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "::"}, True),
        ({"host": "gateway.example.org"}, True),
        ({"host": "0.0.0.0", "api_keys": ("a-key",)}, False),
        ({"host": "0.0.0.0", "admin_keys": ("a-key",)}, True),  # models would be open to all
        ({"host": "0.0.0.0", "allow_unauthenticated": True}, False),
    ],
)
def test_nobody_is_open_to_all_by_oversight(server: dict[str, Any], refused: bool) -> None:
    if not refused:
        check_exposure(ServerSettings(**server))
        return
    with pytest.raises(ConfigError, match=r"server\.api_keys"):
        check_exposure(ServerSettings(**server))


def test_who_listens_everywhere_is_asked_by_each_of_its_addresses() -> None:
    assert "127.0.0.1" in own_addresses("0.0.0.0")
    assert own_addresses("10.0.0.5") == ["10.0.0.5"]
    assert own_addresses("gateway.example.org") == ["gateway.example.org"]
