"""The server's command line.

Knows: the flags and their defaults. Does not know: pydantic, which would double the time to start; so
the defaults stand here and in `options` and a test holds them equal. The API key comes from the
environment, because a command line can be read by every user of the machine; so does the directory of
pretended devices, because it belongs to a machine, not to a model.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["API_KEY_VARIABLE", "DEVICES_VARIABLE", "ServerConfig", "parse", "write"]

API_KEY_VARIABLE = "ENGINERY_MOCK_API_KEY"
DEVICES_VARIABLE = "ENGINERY_MOCK_DEVICES"


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """All that one mock server was told. Options as in `options.MockOptions`; sizes in bytes."""

    host: str = "127.0.0.1"
    port: int = 8081
    uds: str | None = None
    model: str = "mock"
    slots: int = 1
    context_length: int = 8192
    api_key: str | None = field(default=None, repr=False)
    devices: str | None = None
    seed: int = 0
    ttft_ms: float = 0.0
    itl_ms: float = 0.0
    max_queue: int | None = None
    load_ms: float = 0.0
    load_exit_code: int | None = None
    hang_in_load: bool = False
    ignore_sigterm: bool = False
    never_die: bool = False
    die_at_frame: int | None = None
    crash_after_tokens: int | None = None
    flood_log: int | Literal["max"] | None = None
    fork_grandchild: Literal["pipes", "setsid"] | None = None
    lie_on_health: Literal["loading", "stuck"] | None = None
    stuck_after_requests: int = 0
    hold_port: float = 0.0
    memory: Mapping[str, int] | None = None
    memory_asleep: Mapping[str, int] | None = None
    memory_late_ms: float = 0.0
    sleep_levels: tuple[int, ...] = ()
    sleep_ms: float = 0.0
    wake_ms: float = 0.0


def write(value: object) -> str:
    """The word after a flag from which `parse` reads ``value``."""
    if isinstance(value, Mapping):
        return ",".join(f"{device}={size:d}" for device, size in value.items())
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value)


def parse(argv: Sequence[str] | None = None, env: Mapping[str, str] | None = None) -> ServerConfig:
    """Read flags; None means the process's own. Prints and exits for ``--help`` and mistakes."""
    default = ServerConfig()
    parser = argparse.ArgumentParser(
        prog="enginery-mock",
        description="A deterministic mock LLM engine with OpenAI's API: no GPU, no model.",
        epilog=f"Environment: with {API_KEY_VARIABLE}, requests need that key; {DEVICES_VARIABLE} is "
        "the directory in which mocks write down the memory that they pretend to use.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )

    def flag(name: str, type: Callable[[str], object] | None, help: str) -> None:
        value = getattr(default, name.replace("-", "_"))
        if type is None:
            parser.add_argument(f"--{name}", action="store_true", help=help)
        else:
            parser.add_argument(f"--{name}", type=type, default=value, help=help)

    flag("host", str, "address to listen on")
    flag("port", _at_least(0), "port to listen on; 0 takes a free one and prints it")
    flag("uds", str, "unix socket to listen on instead, which must not exist yet")
    flag("model", str, "name of the model")
    flag("slots", _at_least(1), "requests worked on at once")
    flag("context-length", _at_least(2), "tokens per request, prompt and reply together")
    flag("seed", _at_least(0), "chooses the replies")
    flag("ttft-ms", _time, "time to first token, in milliseconds")
    flag("itl-ms", _time, "pause before each further token, in milliseconds")
    flag("max-queue", _at_least(0), "requests that may wait for a slot; None: any number")
    flag("load-ms", _time, "how long it loads before it is ready, in milliseconds")
    flag("load-exit-code", _at_least(0), "fail to load, with this exit code")
    flag("hang-in-load", None, "never become ready, and say nothing more")
    flag("ignore-sigterm", None, "go on after SIGTERM")
    flag("never-die", None, "ignore every signal that can be ignored")
    flag("die-at-frame", _at_least(1), "die in the first stream that has had this many frames")
    flag("crash-after-tokens", _at_least(1), "die of SIGSEGV after this many tokens in all")
    flag("flood-log", _rate, "bytes of log output each second, or max")
    flag("fork-grandchild", _one_of("pipes", "setsid"), "leave a child: pipes or setsid")
    flag("lie-on-health", _one_of("loading", "stuck"), "/health says ok: loading or stuck")
    flag("stuck-after-requests", _at_least(0), "with stuck: requests answered before it hangs")
    flag("hold-port", _time, "seconds for which the port stays taken after the end")
    flag("memory", _sizes, "pretended memory in bytes, gpu0=8589934592,ram=1048576")
    flag("memory-asleep", _sizes, "the same while it sleeps; None: nothing")
    flag("memory-late-ms", _time, "memory stays in use so long after the end, in milliseconds")
    flag("sleep-levels", _levels, "levels that /sleep takes, 1,2; none: there is no /sleep")
    flag("sleep-ms", _time, "how long it takes to fall asleep, in milliseconds")
    flag("wake-ms", _time, "how long it takes to wake up, in milliseconds")
    found = parser.parse_args(argv)
    given = os.environ if env is None else env
    return ServerConfig(
        **vars(found),
        api_key=given.get(API_KEY_VARIABLE) or None,
        devices=given.get(DEVICES_VARIABLE) or None,
    )


def _at_least(least: int) -> Callable[[str], int]:
    def read(word: str) -> int:
        value = int(word)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
        return value

    read.__name__ = "integer"  # argparse says "invalid integer value"
    return read


def _time(word: str) -> float:
    value = float(word)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a time of at least 0, got {word}")
    return value


def _rate(word: str) -> int | str:
    return word if word == "max" else _at_least(1)(word)


def _one_of(*words: str) -> Callable[[str], str]:
    def read(word: str) -> str:
        if word not in words:
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(words)}, got {word}")
        return word

    return read


def _sizes(words: str) -> dict[str, int]:
    pairs = (word.partition("=") for word in words.split(",") if word)
    return {device: _at_least(0)(size) for device, _, size in pairs}


def _levels(words: str) -> tuple[int, ...]:
    return tuple(_at_least(0)(word) for word in words.split(",") if word)
