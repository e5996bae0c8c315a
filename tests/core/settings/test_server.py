"""Where the gateway listens, and whom it asks for a key."""

import pytest
from pydantic import SecretStr

from enginery.errors import ConfigError
from enginery.settings import KeySettings, ServerSettings, Settings, load_settings


def load(tmp_path, text, environ=None):
    (tmp_path / "enginery.yaml").write_text(text)
    return load_settings(tmp_path / "enginery.yaml", environ=environ or {}).server


def test_a_gateway_listens_on_this_machine_only_unless_told_otherwise():
    server = Settings().server
    assert (server.host, server.port, server.local_only) == ("127.0.0.1", 8080, True)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.2", True),
        ("::1", True),
        ("[::1]", True),
        ("LocalHost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.7", False),
        ("localhost.example.org", False),
    ],
)
def test_only_loopback_is_this_machine(host, local):
    assert ServerSettings(host=host).local_only is local


def test_a_key_is_text_or_says_for_which_models(tmp_path):
    server = load(
        tmp_path,
        "server:\n  api_keys: ['${env.K}', 12345, {key: other, models: [m]}]\n  admin_keys: [boss]\n",
        {"K": "sesame"},
    )
    assert server.api_keys == (
        KeySettings(key=SecretStr("sesame")),
        KeySettings(key=SecretStr("12345")),
        KeySettings(key=SecretStr("other"), models=("m",)),
    )
    assert server.admin_keys[0].key.get_secret_value() == "boss"


def test_the_environment_may_say_all_of_it(tmp_path):
    environ = {
        "ENGINERY_SERVER__PORT": "9000",
        "ENGINERY_SERVER__BODY_LIMIT": "1MiB",
        "ENGINERY_SERVER__API_KEYS": "[sesame]",
        "ENGINERY_SERVER__HOST": "localhost",
    }
    server = load(tmp_path, "server: {port: 1}\n", environ)
    assert (server.port, server.body_limit, server.host) == (9000, 2**20, "localhost")
    assert len(server.api_keys) == 1


def test_keys_are_never_shown(tmp_path):
    assert "sesame" not in repr(ServerSettings(api_keys=("sesame", {"key": "sesame"})))
    text = "server:\n  api_keys: [{key: sesame, model: [m]}, [sesame], {key: {sesame: 1}}]\n"
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert "did you mean models?" in str(caught.value)
    assert "'sesame" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "server: {api_keys: sesame}")
    assert str(caught.value).endswith("server.api_keys: needs a list")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("server: {port: 65536}", "server.port: must be at most 65535, got 65536"),
        ("server: {port: -1}", "server.port: must be at least 0, got -1"),
        ("server: {host: ''}", "server.host: must not be empty"),
        ("server: {body_limit: 0}", "server.body_limit: must be more than 0, got 0"),
        ("server: {api_keys: ['']}", "server.api_keys[0]: must not be empty"),
    ],
)
def test_what_cannot_be_is_told(tmp_path, text, line):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert str(caught.value).endswith(line)
