"""What is asked of each server, and in which order: data.

Knows: routes, bodies, and what has to be under way before the next question. Does not know: servers, or how they
answer. Every server has the model ``tiny``, `LIMIT` tokens of context, and takes a while for a token: a long reply lasts
until it is ended, and no answer depends on who was quicker. A scenario leaves the server as it found it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["LIMIT", "SCENARIOS", "Ask", "Begin", "End", "Fill", "Hold", "Leave", "Scenario", "Step"]

LIMIT = 4096
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"

HELLO: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "List objects are"}],
}
LIST: dict[str, Any] = {"model": "tiny", "prompt": "List objects are"}
SHORT: dict[str, Any] = {"max_tokens": 4, "ignore_eos": True, "temperature": 0}
USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
ENDLESS: dict[str, Any] = {**LIST, "max_tokens": LIMIT - 96, "ignore_eos": True}
LONG_TEXT = "0123456789 " * LIMIT


@dataclass(frozen=True, slots=True)
class Ask:
    """One question; the answer is kept as ``name``. Bytes go out as they are, other bodies as JSON.

    ``stop_in`` names an earlier answer, from whose text a stop string is taken.
    """

    name: str
    path: str
    body: Any = None
    method: str = "POST"
    stop_in: str | None = None


@dataclass(frozen=True, slots=True)
class Begin:
    """Ask in the background; the next step comes when the first token has come."""

    ask: Ask


@dataclass(frozen=True, slots=True)
class Hold:
    """Ask in the background what has to wait; the next step comes when the server has it."""

    ask: Ask


@dataclass(frozen=True, slots=True)
class Fill:
    """As many endless streams as the server takes, where it has a limit, else one."""


@dataclass(frozen=True, slots=True)
class End:
    """Wait for the answer to what was begun or held as ``name``."""

    name: str


@dataclass(frozen=True, slots=True)
class Leave:
    """Close all connections of this scenario; the next step comes when the server has nothing to do."""


Step = Ask | Begin | Hold | Fill | End | Leave


@dataclass(frozen=True, slots=True)
class Scenario:
    """Steps under a name."""

    name: str
    steps: tuple[Step, ...]


def _look(name: str, path: str) -> Ask:
    return Ask(name, path, method="GET")


def _stream(name: str = "stream", chat: bool = False, **more: Any) -> Begin:
    body = {**ENDLESS, **(HELLO if chat else {}), "stream": True, **more}
    if chat:
        del body["prompt"]
    return Begin(Ask(name, CHAT if chat else TEXT, body))


def _refused(name: str, path: str, **bodies: Any) -> Scenario:
    return Scenario(name, tuple(Ask(kind, path, body) for kind, body in bodies.items()))


SCENARIOS = (
    Scenario("health", (_look("health", "/health"),)),
    Scenario("models", (_look("models", "/v1/models"),)),
    Scenario("no such route", (_look("route", "/nothing"), _look("method", TEXT))),
    # -- replies -----------------------------------------------------------------------------------
    Scenario("chat", (Ask("reply", CHAT, HELLO | SHORT),)),
    Scenario("chat, streamed", (Ask("reply", CHAT, HELLO | SHORT | {"stream": True}),)),
    Scenario("chat, streamed with usage", (Ask("reply", CHAT, HELLO | SHORT | USAGE),)),
    Scenario("completion", (Ask("reply", TEXT, LIST | SHORT),)),
    Scenario("completion, streamed", (Ask("reply", TEXT, LIST | SHORT | {"stream": True}),)),
    Scenario("completion, streamed with usage", (Ask("reply", TEXT, LIST | SHORT | USAGE),)),
    Scenario(
        "completion of token ids", (Ask("reply", TEXT, LIST | SHORT | {"prompt": [5, 6, 7]}),)
    ),
    Scenario(
        "stop string",
        (
            Ask("without", TEXT, LIST | SHORT | {"max_tokens": 12}),
            Ask("with", TEXT, LIST | SHORT | {"max_tokens": 12}, stop_in="without"),
            Ask("streamed", TEXT, LIST | SHORT | {"max_tokens": 12, "stream": True}, stop_in="without"),
        ),
    ),
    # -- refusals ----------------------------------------------------------------------------------
    _refused("unknown model", CHAT, whole=HELLO | {"model": "large"}, stream=HELLO | {"model": "large", "stream": True}),
    _refused("bad JSON", CHAT, cut=b'{"model": "tiny", ', array=b"[]", empty=b"", bytes=b"\xff\xfe"),
    _refused(
        "wrong types",
        CHAT,
        messages=HELLO | {"messages": "hello"},
        no_messages=HELLO | {"messages": []},
        nothing={"model": "tiny"},
        max_tokens=HELLO | {"max_tokens": "many"},
        no_tokens=HELLO | {"max_tokens": 0},
        temperature=HELLO | SHORT | {"temperature": -1},
        stop=HELLO | SHORT | {"stop": 7},
        stream=HELLO | SHORT | {"stream": "perhaps"},
        stream_options=HELLO | SHORT | {"stream_options": {"include_usage": True}},
    ),
    _refused("wrong prompts", TEXT, number=LIST | {"prompt": 7}, none={"model": "tiny"}),
    _refused(
        "max_tokens too large",
        TEXT,
        reply=LIST | SHORT | {"prompt": [5] * (LIMIT - 6), "max_tokens": 10 * LIMIT},
    ),
    _refused(
        "overflow",
        TEXT,
        whole=LIST | {"prompt": LONG_TEXT, "max_tokens": 1},
        stream=LIST | {"prompt": LONG_TEXT, "max_tokens": 1, "stream": True},
        ids=LIST | {"prompt": [5] * (LIMIT + 1), "max_tokens": 1},
    ),
    Scenario("overload", (Fill(), Ask("refused", TEXT, LIST | SHORT), Leave())),
    # -- tokens ------------------------------------------------------------------------------------
    _refused(
        "tokenize",
        "/tokenize",
        prompt=LIST,
        messages=HELLO,
        strings=LIST | {"return_token_strs": True},
        neither={"model": "tiny"},
        number=LIST | {"prompt": 7},
    ),
    _refused(
        "detokenize",
        "/detokenize",
        tokens={"model": "tiny", "tokens": [5, 6, 7]},
        words={"model": "tiny", "tokens": ["a"]},
        none={"model": "tiny"},
    ),
    # -- leaving -----------------------------------------------------------------------------------
    Scenario(
        "a client leaves its stream",
        (_stream(chat=True), Leave(), Ask("next", TEXT, LIST | SHORT)),
    ),
    # -- sleep -------------------------------------------------------------------------------------
    Scenario(
        "sleep, levels and parts",
        (
            _look("awake", "/is_sleeping"),
            Ask("sleep 0", "/sleep?level=0"),
            _look("asleep at 0", "/is_sleeping"),
            Ask("wake up", "/wake_up"),
            Ask("sleep", "/sleep"),
            Ask("sleep again", "/sleep"),
            _look("asleep", "/is_sleeping"),
            _look("health", "/health"),
            Ask("weights", "/wake_up?tags=weights"),
            _look("half", "/is_sleeping"),
            Ask("kv_cache", "/wake_up?tags=kv_cache"),
            _look("whole", "/is_sleeping"),
            Ask("sleep 2", "/sleep?level=2"),
            Ask("wake up from 2", "/wake_up"),
            Ask("wake up again", "/wake_up"),
            Ask("next", TEXT, LIST | SHORT),
        ),
    ),
    Scenario(
        "sleep, wrong words",
        (
            Ask("level", "/sleep?level=7"),
            Ask("no level", "/sleep?level=deep"),
            Ask("mode", "/sleep?mode=bogus"),
            Ask("tag", "/wake_up?tags=everything"),
            _look("awake", "/is_sleeping"),
        ),
    ),
    Scenario(
        "sleep ends what runs",
        (_stream(), Ask("sleep", "/sleep?level=1"), End("stream"), Ask("wake up", "/wake_up")),
    ),
    Scenario(
        "sleep waits for what runs",
        (
            _stream(max_tokens=10),
            Ask("sleep", "/sleep?level=1&mode=wait"),
            End("stream"),
            Ask("wake up", "/wake_up"),
        ),
    ),
    Scenario(
        "a request while asleep",
        (
            Ask("sleep", "/sleep?level=1"),
            Hold(Ask("reply", TEXT, LIST | SHORT)),
            Ask("wake up", "/wake_up"),
            End("reply"),
        ),
    ),
    # -- pause, reset, abort -----------------------------------------------------------------------
    Scenario(
        "pause and resume",
        (
            _look("running", "/is_paused"),
            Ask("pause", "/pause"),
            _look("paused", "/is_paused"),
            _look("is that sleep", "/is_sleeping"),
            Hold(Ask("reply", TEXT, LIST | SHORT)),
            Ask("resume", "/resume"),
            End("reply"),
            _look("resumed", "/is_paused"),
            Ask("resume again", "/resume"),
            Ask("mode", "/pause?mode=bogus"),
        ),
    ),
    Scenario(
        "pause ends what runs",
        (_stream(), Ask("pause", "/pause?mode=abort"), End("stream"), Ask("resume", "/resume")),
    ),
    Scenario(
        "pause waits for what runs",
        (
            _stream(max_tokens=10),
            Ask("pause", "/pause?mode=wait"),
            End("stream"),
            Ask("resume", "/resume"),
        ),
    ),
    Scenario(
        "pause keeps what runs",
        (
            _stream(max_tokens=10),
            Ask("pause", "/pause?mode=keep"),
            Ask("resume", "/resume"),
            End("stream"),
        ),
    ),
    Scenario(
        "reset of the prefix cache",
        (
            Ask("idle", "/reset_prefix_cache"),
            _stream(),
            Ask("running", "/reset_prefix_cache"),
            Ask("forced", "/reset_prefix_cache?reset_running_requests=true"),
            Ask("word", "/reset_prefix_cache?reset_running_requests=perhaps"),
            Leave(),
        ),
    ),
    Scenario(
        "abort of all requests",
        (
            Ask("idle", "/abort_requests", {}),
            _stream(),
            Ask("abort", "/abort_requests", {}),
            End("stream"),
            Ask("bad JSON", "/abort_requests", b"{"),
            Ask("array", "/abort_requests", []),
            Ask("next", TEXT, LIST | SHORT),
        ),
    ),
)  # fmt: skip
