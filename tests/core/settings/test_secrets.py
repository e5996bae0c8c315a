"""Secrets: from files, and out of what is shown."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from enginery.cli.log_secrets import SecretFilter
from enginery.errors import ConfigError
from enginery.settings import load_settings
from enginery.settings.secrets import HIDDEN, Redactor, looks_secret, secrets_of, shown

CANARY = "canary-5f1d9c"


def write(directory: Path, text: str) -> Path:
    file = directory / "enginery.yaml"
    file.write_text(text)
    return file


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_text(f"{CANARY}\r\n")
    return file


def test_every_secret_may_come_from_a_file(tmp_path: Path, secret: Path) -> None:
    file = write(
        tmp_path,
        f"""
server:
  api_keys: ["file:{secret}", {{key: "file:{secret}", models: [m]}}]
  admin_keys: ["file:{secret}"]
models:
  m: {{engine: openai, url: "http://127.0.0.1:1", api_key: "file:{secret}"}}
  n:
    engine: openai
    variants: {{v: {{url: "http://127.0.0.1:1", api_key: "file:${{env.WHERE}}/secret"}}}}
""",
    )
    settings = load_settings(file, environ={"WHERE": str(tmp_path)})
    keys = [*settings.server.api_keys, *settings.server.admin_keys]
    found = [key.key.get_secret_value() for key in keys]
    for model in settings.models.values():
        for variant in model.variant_settings().values():
            assert variant.api_key is not None
            found.append(variant.api_key.get_secret_value())
    assert found == [CANARY] * 5
    assert settings.server.api_keys[1].models == ("m",)
    assert CANARY not in json.dumps(shown(settings))
    assert f"file:{secret}" in json.dumps(shown(settings))


def test_variables_and_flags_may_name_files_too(secret: Path) -> None:
    environ = {"ENGINERY_SERVER__API_KEYS": f'["file:{secret}"]'}
    flags = {"server": {"admin_keys": [f"file:{secret}"]}}
    settings = load_settings(overrides=flags, environ=environ)
    assert settings.server.api_keys[0].key.get_secret_value() == CANARY
    assert settings.server.admin_keys[0].key.get_secret_value() == CANARY
    assert flags["server"]["admin_keys"] == [f"file:{secret}"]  # the caller's own is left alone


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        (b"", "it is empty"),
        (b"\n", "it is empty"),
        (b"\xff\xfe", "utf-8"),
        (b"x" * 70_000, "more than"),
    ],
)
def test_a_file_that_holds_no_secret_is_named_with_its_place(tmp_path, content, why) -> None:
    secret = tmp_path / "secret"
    if content is not None:
        secret.write_bytes(content)
    file = write(tmp_path, f'server:\n  api_keys:\n    - "file:{secret}"\n')
    with pytest.raises(ConfigError, match=why) as raised:
        load_settings(file, environ={})
    assert f"{file}:3:7: server.api_keys[0]" in raised.value.message
    assert f"the secret's file {secret} cannot be read" in raised.value.message
    assert "xxx" not in raised.value.message


@pytest.mark.parametrize(
    "server",
    [
        "{{api_keys: {{key: '{}'}}}}",
        "{{api_keys: '{}'}}",
        "{{api_keys: [{{key: '{}', modles: [m]}}]}}",
        "{{api_keys: [{{key: '{}', models: 3}}]}}",
        "{{api_keys: [['{}']]}}",
        "{{admin_keys: [{{kye: '{}'}}]}}",
    ],
)
def test_a_mistake_beside_a_secret_does_not_show_it(tmp_path: Path, server: str) -> None:
    file = write(tmp_path, f"server: {server.format(CANARY)}\n")
    with pytest.raises(ConfigError) as raised:
        load_settings(file, environ={})
    assert CANARY not in raised.value.message
    assert "server." in raised.value.message


def test_what_is_shown_has_no_secret(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        f"""
server: {{api_keys: [{CANARY}-1, {{key: {CANARY}-2, models: [m]}}], admin_keys: ["${{env.ADMIN}}"]}}
models:
  m: {{engine: openai, url: "http://127.0.0.1:1", api_key: {CANARY}-3}}
  n:
    engine: openai
    binary: server
    args: [--port, "1", --api-key, {CANARY}-4, "--hf-token={CANARY}-5", --model, fine]
    env: {{HF_TOKEN: {CANARY}-6, THREADS: "2"}}
    options: {{auth_token: {CANARY}-7, max_tokens: "5"}}
""",
    )
    settings = load_settings(file, environ={"ADMIN": f"{CANARY}-0"})
    page = json.dumps(shown(settings))
    assert CANARY not in page
    assert "${env.ADMIN}" in page
    model = shown(settings)["models"]["n"]
    assert model["args"] == [
        *("--port", "1", "--api-key", HIDDEN, f"--hf-token={HIDDEN}", "--model", "fine"),
    ]
    assert model["env"] == {"HF_TOKEN": HIDDEN, "THREADS": "2"}
    assert model["options"] == {"auth_token": HIDDEN, "max_tokens": "5"}
    hidden = Redactor(secrets_of(settings))
    told = " ".join(f"{CANARY}-{n}" for n in range(7))
    assert hidden(told) == " ".join([HIDDEN] * 7)


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("HF_TOKEN", True),
        ("--api-key", True),
        ("OPENAI_API_KEY", True),
        ("password", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("max_tokens", False),
        ("--tokenizer", False),
        ("keyboard", False),
        ("monkey", False),
    ],
)
def test_names_tell_what_is_secret(name: str, secret: bool) -> None:
    assert looks_secret(name) is secret


def test_a_longer_secret_goes_before_one_that_it_begins_with() -> None:
    hide = Redactor(["abcd", "abcdef"])
    assert hide("x abcdef abcd abc") == f"x {HIDDEN} {HIDDEN} abc"
    hide.add(["later", "no"])
    assert hide("later, no") == f"{HIDDEN}, no"  # too short to be hidden without harm


def test_a_log_has_no_secret_in_message_arguments_or_traceback() -> None:
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    logger = logging.getLogger("a-test-of-secrets.child")
    handler = Kept()
    handler.addFilter(SecretFilter(Redactor([CANARY])))
    logging.getLogger("a-test-of-secrets").addHandler(handler)
    logger.propagate = True
    logger.warning("the key %s is %r", CANARY, {"key": CANARY})
    try:
        raise ValueError(CANARY)
    except ValueError:
        logger.exception("it failed", stack_info=True)
    assert CANARY not in "\n".join(lines)
    assert "ValueError" in lines[1]
