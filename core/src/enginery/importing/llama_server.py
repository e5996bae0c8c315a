"""A llama-server command line as a variant of engine ``llama.cpp``.

Pure. Knows: the flags that have a setting of their own, and those that the framework chooses; every other
word goes on as it is, in ``extra_args``. Does not know: where the words come from, or the plugin: its
options are plain keys here, and `enginery config check` holds them to it.

Source: ``llama-server --help``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import PurePath
from typing import Any

__all__ = ["LlamaServer", "is_llama_server", "read_llama_server"]

_PROGRAM = re.compile(r"llama-server[\w.-]*")
_NUMBER = re.compile(r"[0-9]{1,9}")

_WITH_VALUE = {
    **dict.fromkeys(("-m", "--model"), "model"),
    **dict.fromkeys(("-c", "--ctx-size"), "context"),
    **dict.fromkeys(("-np", "--parallel"), "parallel"),
    **dict.fromkeys(("-ngl", "--gpu-layers", "--n-gpu-layers"), "gpu_layers"),
    **dict.fromkeys(("-t", "--threads"), "threads"),
    **dict.fromkeys(("-a", "--alias"), "alias"),
    "--host": "host",
    "--port": "port",
    **dict.fromkeys(("--api-key", "--api-key-file"), "key"),
    **dict.fromkeys(("--ssl-key-file", "--ssl-cert-file"), "tls"),
    "--api-prefix": "prefix",
}
_ALONE = {
    **dict.fromkeys(("--embedding", "--embeddings"), "embedding"),
    **dict.fromkeys(("--rerank", "--reranking"), "reranking"),
}
_NAMES_MODEL = frozenset({"-hf", "-hfr", "--hf-repo", "-mu", "--model-url", "-dr", "--docker-repo"})

_CHOSEN = {
    "key": "each start gets a key of its own, and the gateway asks clients for `server.api_keys`",
    "tls": "engines are talked to over loopback; TLS belongs in front of the gateway",
    "prefix": "engines are talked to at their own routes",
}
"""Why a flag is left out."""


@dataclass(slots=True)
class LlamaServer:
    """What one command line says."""

    options: dict[str, Any] = field(default_factory=dict)
    context_length: int | None = None
    parallel: int | None = None
    port: str | None = None
    left_out: list[str] = field(default_factory=list)
    """Flags that the framework does not pass on, each with the reason."""


def is_llama_server(program: str) -> bool:
    """True for ``llama-server``, wherever it lies and whatever its name ends with."""
    return _PROGRAM.fullmatch(PurePath(program).name) is not None


def read_llama_server(args: Sequence[str]) -> LlamaServer | None:
    """What ``args`` say; None where that cannot be told in our settings, so that they must stay as they are."""
    given: dict[str, str] = {}
    found, extra = LlamaServer(), list[str]()
    words = iter(args)
    for word in words:
        if word in _ALONE:
            found.options[_ALONE[word]] = True
            continue
        kind = _WITH_VALUE.get(word)
        if kind is None:
            extra.append(word)
            continue
        value = next(words, None)
        if value is None:
            return None
        if kind in _CHOSEN:
            found.left_out.append(f"{word}: {_CHOSEN[kind]}")
        elif kind in {"gpu_layers", "threads"} and not _fits(kind, value):
            extra += [word, value]
        else:
            given[kind] = value
    if found.options.keys() >= {"embedding", "reranking"}:
        return None
    if "model" not in given and _NAMES_MODEL.isdisjoint(extra):
        return None
    return _settings(found, given, extra)


def _fits(kind: str, value: str) -> bool:
    if kind == "gpu_layers":
        return value in {"auto", "all"} or _NUMBER.fullmatch(value) is not None
    return _NUMBER.fullmatch(value) is not None and 1 <= int(value) <= 1024


def _settings(found: LlamaServer, given: dict[str, str], extra: list[str]) -> LlamaServer | None:
    """``found`` with what ``given`` says; None where numbers do not come out even."""
    parallel = given.get("parallel", "1")
    if parallel == "-1":  # llama-server's own choice
        found.left_out.append("-np -1: `parallel` is a number, here 1")
        parallel = "1"
    context = given.get("context", "0")
    if not _NUMBER.fullmatch(parallel) or not _NUMBER.fullmatch(context) or int(parallel) < 1:
        return None
    if int(context) % int(parallel):
        return None
    if "parallel" in given:
        found.parallel = int(parallel)
    if int(context):  # 0: the model's own
        found.context_length = int(context) // int(parallel)
    host = given.get("host")
    if host is not None and not _is_loopback(host):
        found.left_out.append(f"--host {host}: engines listen on loopback, the gateway for them")
    found.port = given.get("port")
    options: dict[str, Any] = {} if "model" not in given else {"model": given["model"]}
    if "gpu_layers" in given:
        layers = given["gpu_layers"]
        options["gpu_layers"] = int(layers) if layers.isdigit() else layers
    if "threads" in given:
        options["threads"] = int(given["threads"])
    found.options = {**options, **found.options, **({"extra_args": extra} if extra else {})}
    return found


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
