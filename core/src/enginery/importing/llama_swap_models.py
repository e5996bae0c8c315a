"""One model of llama-swap, or one of its peers, as a model of ours.

Pure. Knows: a model's fields, and how its command becomes an engine with options or a ``binary`` with
``args``. Does not know: names and what refers to them (`names`, `llama_swap`).

Source: llama-swap, ``internal/config/model_config.go`` and ``peer.go``.
"""

from __future__ import annotations

import re
from typing import Any

from enginery.importing.command_lines import PORT, own_placeholders, with_placeholders, words_of
from enginery.importing.llama_server import LlamaServer, is_llama_server, read_llama_server
from enginery.importing.remarks import OF_A_MODEL, Reading
from enginery.settings import Loc
from enginery.values import Endpoint

__all__ = ["model_settings", "peer_settings"]

AT_ONCE = 10
"""Requests that llama-swap lets through to one model at once, where it says nothing else."""

_CARRIED = frozenset(
    {
        *("aliases", "checkEndpoint", "cmd", "cmdStop", "concurrencyLimit", "env", "filters"),
        *("proxy", "timeouts", "ttl", "unloadTimeout", "useModelName"),
    }
)
_OF_A_PEER = frozenset({"apiKey", "filters", "models", "proxy", "timeouts"})
_OF_FILTERS = {
    "stripParams": "requests go on with the fields that they come with",
    "strip_params": "requests go on with the fields that they come with",
    "setParams": "give the engine these as flags where it has them; no request is changed",
    "setParamsByID": "the names are aliases; no request is changed for them",
}
_OWN_PORT = re.compile(r"https?://(?:localhost|127\.0\.0\.1|\[::1\]):\$\{PORT\}/?")
_ENVIRONMENT_NAME = re.compile(r"[^=\0]+")


def model_settings(reading: Reading, name: str, given: dict[str, Any], at: Loc) -> dict[str, Any]:
    """What the model ``name`` is here; ``given`` has its macros filled in."""
    reading.without_counterpart(given, OF_A_MODEL, at)
    reading.unknown(given, _CARRIED | OF_A_MODEL.keys(), at)
    found = _engine(reading, given, at)
    if "binary" in found or "options" in found:
        _environment(reading, given, found, at)
        _stop(reading, name, given, found, at)
    if upstream := reading.text(given.get("useModelName"), (*at, "useModelName")):
        found["upstream_model"] = upstream
    ttl = given.get("ttl")
    if ttl not in (None, -1) and (ttl := reading.number(ttl, (*at, "ttl"))) is not None:
        found["ttl"] = ttl
    if stop := reading.number(given.get("unloadTimeout"), (*at, "unloadTimeout")):
        found["stop_timeout"] = stop
    _at_once(reading, given, found, at)
    _timeouts(reading, given, found, at)
    _filters(reading, given, at)
    return found


def peer_settings(reading: Reading, given: dict[str, Any], at: Loc) -> dict[str, Any] | None:
    """What every model of a peer has in common; None, and a remark, where it cannot be reached."""
    reading.unknown(given, _OF_A_PEER, at)
    url = reading.text(given.get("proxy"), (*at, "proxy"))
    if not _is_url(url):
        reading.note((*at, "proxy"), f"not carried over: {url!r} names no server")
        return None
    found: dict[str, Any] = {"engine": "openai", "url": url, "parallel": AT_ONCE}
    if key := reading.text(given.get("apiKey"), (*at, "apiKey")):
        found["api_key"] = key
    _timeouts(reading, given, found, at)
    _filters(reading, given, at)
    return found


# -- the command ------------------------------------------------------------------------------------


def _engine(reading: Reading, given: dict[str, Any], at: Loc) -> dict[str, Any]:
    """Engine, and how it is started or reached."""
    command = reading.text(given.get("cmd"), (*at, "cmd"))
    proxy = reading.text(given.get("proxy"), (*at, "proxy"))
    try:
        words = words_of(command)
    except ValueError as error:
        reading.note((*at, "cmd"), f"cannot be cut into words ({error}): write `args` by hand")
        words = command.split()
    words = [word.replace("\0", "") for word in words]
    if not words or not words[0]:
        if _is_url(proxy):
            return {"engine": "openai", "url": proxy.rstrip("/")}
        reading.note(
            (*at, "cmd"), "there is no command: `enginery` is put in its place", on_key=True
        )
        words = ["enginery"]
    binary, args = words[0], words[1:]
    for name in (match for word in args for match in _whole_variables(word)):
        reading.note((*at, "cmd"), f"${{env.{name}}} stays one word, whatever spaces it has")
    if is_llama_server(binary):
        server = read_llama_server(args)
        if server is not None:
            return _llama_cpp(reading, binary, server, proxy, at)
    engine = "llama.cpp" if is_llama_server(binary) else "openai"
    found: dict[str, Any] = {"engine": engine, "binary": binary}
    if args:
        found["args"] = with_placeholders(args)
    if braces := own_placeholders(args):
        reading.note((*at, "cmd"), f"{', '.join(braces)} is filled in here; llama-swap leaves it")
    if engine == "openai":
        reading.note(
            (*at, "cmd"),
            "served at /v1/chat/completions and /v1/completions; its other routes are at /upstream/",
        )
        _health(reading, given, at)
    if PORT in command:
        _proxy_of_a_free_port(reading, proxy, at)
    else:
        _fixed_port(reading, proxy, found, at)
    return found


def _llama_cpp(
    reading: Reading, binary: str, server: LlamaServer, proxy: str, at: Loc
) -> dict[str, Any]:
    for reason in server.left_out:
        reading.note((*at, "cmd"), f"not carried over: {reason}")
    if server.port not in (None, PORT):
        reading.note(
            (*at, "cmd"), f"--port {server.port}: each start gets a port that is free then"
        )
    elif proxy:
        _proxy_of_a_free_port(reading, proxy, at)
    found: dict[str, Any] = {"engine": "llama.cpp", "binary": binary}
    if server.context_length is not None:
        found["context_length"] = server.context_length
    if server.parallel is not None:
        found["parallel"] = server.parallel
    found["options"] = server.options
    return found


def _proxy_of_a_free_port(reading: Reading, proxy: str, at: Loc) -> None:
    if proxy and not _OWN_PORT.fullmatch(proxy):
        text = "not carried over: the engine is asked where it was told to listen, without a path"
        reading.note((*at, "proxy"), text)


def _fixed_port(reading: Reading, proxy: str, found: dict[str, Any], at: Loc) -> None:
    """The command chooses its port itself: `url` says where it answers."""
    if not proxy or PORT in proxy:
        text = "the command is not told its port: write {port} into `args`, or `url` beside them"
        reading.note((*at, "cmd"), text)
    elif _is_plain_url(proxy):
        found["url"] = proxy.rstrip("/")
    else:
        text = (
            "not carried over: an engine that is started answers at http://HOST:PORT; write `url`"
        )
        reading.note((*at, "proxy"), text)


def _health(reading: Reading, given: dict[str, Any], at: Loc) -> None:
    path = reading.text(given.get("checkEndpoint"), (*at, "checkEndpoint"))
    if path not in {"", "/health", "/v1/models"}:
        text = (
            "not carried over: it is ready when /health says so, or /v1/models where there is none"
        )
        reading.note((*at, "checkEndpoint"), text)


def _stop(
    reading: Reading, name: str, given: dict[str, Any], found: dict[str, Any], at: Loc
) -> None:
    """``cmdStop``; it runs in addition to the signals, where llama-swap runs it instead."""
    text, where = reading.text(given.get("cmdStop"), (*at, "cmdStop")), (*at, "cmdStop")
    if "${PID}" in text:
        reading.note(where, "not carried over: the engine gets SIGTERM, then SIGKILL, by itself")
        return
    try:
        words = words_of(text)
    except ValueError as error:
        reading.note(where, f"not carried over: cannot be cut into words ({error})")
        return
    if words:
        found["stop_argv"] = [word.replace("\0", "") for word in with_placeholders(words)]
    elif found["binary"].rpartition("/")[2] in {"docker", "podman"}:
        reading.note(
            (*at, "cmd"),
            "a container outlives the command that started it: name it, and write "
            f"`stop_argv: [{found['binary']}, stop, NAME]`; {name} is not believed to be ours otherwise",
        )


def _environment(reading: Reading, given: dict[str, Any], found: dict[str, Any], at: Loc) -> None:
    env: dict[str, str] = {}
    for i, item in enumerate(reading.sequence(given.get("env"), (*at, "env"))):
        where = (*at, "env", i)
        key, equals, value = reading.text(item, where).partition("=")
        if not equals or not _ENVIRONMENT_NAME.fullmatch(key) or "\0" in value:
            reading.note(where, "not carried over: needs the form NAME=value")
        elif PORT in value:
            reading.note(where, "not carried over: the port is not known here; give it in `args`")
        else:
            env[key] = value
    if env:
        found["env"] = env


# -- the rest ---------------------------------------------------------------------------------------


def _at_once(reading: Reading, given: dict[str, Any], found: dict[str, Any], at: Loc) -> None:
    """Requests at once: llama.cpp has slots, of other servers only llama-swap's limit is known."""
    where = (*at, "concurrencyLimit")
    limit = reading.number(given.get("concurrencyLimit"), where)
    if found["engine"] == "openai":
        found["parallel"] = limit or AT_ONCE
    elif limit and limit != found.get("parallel", 1):
        text = "not carried over: `parallel` (-np) counts; more requests wait, up to `max_queue`"
        reading.note(where, text)


def _timeouts(reading: Reading, given: dict[str, Any], found: dict[str, Any], at: Loc) -> None:
    where = (*at, "timeouts")
    for key, value in reading.mapping(given.get("timeouts"), where).items():
        if key != "responseHeader":
            text = "not carried over: how connections to engines are kept is not to be set"
            reading.note((*where, key), text, on_key=True)
        elif seconds := reading.number(value, (*where, key)):
            found["first_byte"] = seconds


def _filters(reading: Reading, given: dict[str, Any], at: Loc) -> None:
    where = (*at, "filters")
    filters = reading.mapping(given.get("filters"), where)
    reading.unknown(filters, frozenset(_OF_FILTERS), where)
    for key, why in _OF_FILTERS.items():
        if filters.get(key):
            reading.note((*where, key), f"not carried over: {why}", on_key=True)


def _whole_variables(word: str) -> list[str]:
    return re.findall(r"\A\$\{env\.(\w+)\}\Z", word)


def _is_url(text: str) -> bool:
    try:
        Endpoint.from_url(text)
    except ValueError:
        return False
    return True


def _is_plain_url(text: str) -> bool:
    """True for ``http://HOST:PORT``."""
    try:
        at = Endpoint.from_url(text)
    except ValueError:
        return False
    return at.scheme == "http" and not at.prefix and at.unix_path is None
