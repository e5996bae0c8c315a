"""Addresses, with real sockets."""

from __future__ import annotations

import socket

import pytest

from enginery.engine.endpoints import endpoint_of_url, free_endpoint, unix_endpoint
from enginery.errors import ConfigError
from enginery.values import Endpoint

pytestmark = pytest.mark.both_loops


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_free_endpoint_can_be_listened_on(host) -> None:
    endpoint = free_endpoint(host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, endpoint.port), family=family):
        assert endpoint.host == host


def test_each_endpoint_has_a_key_of_its_own_that_is_not_shown() -> None:
    keys = {free_endpoint().api_key for _ in range(20)}
    assert len(keys) == 20
    assert all(key is not None and len(key) >= 32 for key in keys)
    endpoint = free_endpoint()
    assert endpoint.api_key not in repr(endpoint)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8081", Endpoint("127.0.0.1", 8081)),
        ("http://127.0.0.1:8081/", Endpoint("127.0.0.1", 8081)),
        ("http://gpu-box", Endpoint("gpu-box", 80)),
        ("http://[::1]:9", Endpoint("::1", 9)),
        ("https://gpu-box", Endpoint("gpu-box", 443, scheme="https")),
        ("https://a:8/openai/v1/", Endpoint("a", 8, scheme="https", prefix="/openai")),
        ("http://a/v1", Endpoint("a", 80)),
        ("http+unix://%2Ftmp%2Fa%3Ab.sock", Endpoint("localhost", 0, unix_path="/tmp/a:b.sock")),
    ],
)
def test_a_url_names_an_endpoint(url, expected) -> None:
    assert endpoint_of_url(url) == expected
    assert endpoint_of_url(endpoint_of_url(url).base_url) == expected


@pytest.mark.parametrize(
    "url",
    [
        *("", "127.0.0.1:8081", "ftp://a", "http://", "http://a:b", "http://:80", "http://a b"),
        *("http://a:0", "http://a:70000", "http://a?x=1", "http://a#b", "https://"),
        *("http://user:secret@a", "http://[::1", "http://a:-1"),
        *("http+unix://relative.sock", "http+unix:///tmp/a.sock", "http+unix://%2Fa%00"),
    ],
)
def test_what_is_no_address_of_a_server_is_refused(url) -> None:
    with pytest.raises(ConfigError, match="must look like") as caught:
        endpoint_of_url(url)
    assert caught.value.param == "url"


def test_a_unix_socket_has_a_key_too_and_its_url_is_no_address_of_tcp() -> None:
    one, other = unix_endpoint("/tmp/a b.sock"), unix_endpoint("/tmp/a b.sock")
    assert one.api_key != other.api_key
    assert one.base_url == "http+unix://%2Ftmp%2Fa%20b.sock"
    assert (one.request_url, one.authority) == ("http://localhost", "localhost")
    assert one.address == "/tmp/a b.sock"


def test_a_prefix_stands_before_every_route_and_a_default_port_is_not_named_to_the_server() -> None:
    endpoint = endpoint_of_url("https://api.example.org/openai/v1")
    assert endpoint.request_url == "https://api.example.org:443/openai"
    assert endpoint.authority == "api.example.org"
    assert endpoint_of_url("http://[::1]:81").authority == "[::1]:81"
