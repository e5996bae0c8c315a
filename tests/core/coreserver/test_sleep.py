"""Sleep, wake and reset: the states and the JSON that vLLM 0.32 has (measured there)."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from support.core_servers import eventually

LONG: dict[str, Any] = {"prompt": "Hello", "max_tokens": 900, "ignore_eos": True}
SHORTER = {**LONG, "max_tokens": 300}
"""Is waited for, and still long enough to be met while it runs: three seconds."""


class Asked(threading.Thread):
    """A completion in the background; `reply` is its body."""

    def __init__(self, server, **body: Any) -> None:
        super().__init__()
        self._server, self._body = server, body
        self.reply: Any = None
        self.start()

    def run(self) -> None:
        _, self.reply, _ = self._server.ask("POST", "/v1/completions", self._body)

    def result(self) -> Any:
        self.join(30)
        return self.reply


def asleep(server) -> bool:
    return server.ask("GET", "/is_sleeping")[1]["is_sleeping"]


def test_it_sleeps_and_wakes_in_parts(start) -> None:
    server = start()
    assert server.ask("POST", "/sleep?level=1")[:2] == (200, {"status": "sleeping", "level": 1})
    assert server.ask("GET", "/is_sleeping")[:2] == (200, {"is_sleeping": True})
    assert server.ask("GET", "/health")[1]["is_sleeping"] is True
    part = server.ask("POST", "/wake_up?tags=weights")
    assert part[:2] == (200, {"status": "sleeping", "tags": ["weights"]})
    rest = server.ask("POST", "/wake_up?tags=kv_cache")
    assert rest[:2] == (200, {"status": "awake", "tags": ["kv_cache"]})
    assert not asleep(server)
    assert server.ask("POST", "/wake_up")[:2] == (200, {"status": "awake", "tags": None})


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/sleep?level=7", "level"),
        ("/sleep?level=x", "level"),
        ("/sleep?mode=bogus", "mode"),
        ("/wake_up?tags=everything", "tags"),
        ("/reset_prefix_cache?reset_running_requests=perhaps", "reset_running_requests"),
    ],
)
def test_a_wrong_parameter_is_a_400(path, param, server) -> None:
    status, said, _ = server.ask("POST", path)
    assert (status, said["error"]["param"]) == (400, param)


def test_a_request_sent_while_it_sleeps_waits_and_is_answered_after_waking(start) -> None:
    server = start()
    server.ask("POST", "/sleep?level=2")
    asked = Asked(server, prompt="Hello", max_tokens=5)
    eventually(lambda: server.metric("held") == 1)
    assert asked.reply is None
    server.ask("POST", "/wake_up")
    assert asked.result()["choices"][0]["finish_reason"] == "length"


def test_sleeping_ends_what_runs_unless_it_is_told_to_wait(start) -> None:
    server = start(itl_ms=10)
    asked = Asked(server, **LONG)
    eventually(lambda: server.metric("unfinished") == 1)
    server.ask("POST", "/sleep?level=1")
    assert asked.result()["choices"][0]["finish_reason"] == "abort"
    server.ask("POST", "/wake_up")

    asked = Asked(server, **SHORTER)
    eventually(lambda: server.metric("unfinished") == 1)
    assert server.ask("POST", "/sleep?level=1&mode=wait")[0] == 200
    assert asked.result()["choices"][0]["finish_reason"] == "length"
    assert asleep(server)


def test_a_stream_that_sleep_ends_says_abort_and_done(start) -> None:
    server = start(itl_ms=10)
    chunks = server.client().completions.create(
        model="tiny", prompt="Hello", max_tokens=900, stream=True
    )
    next(iter(chunks))
    server.ask("POST", "/sleep?level=1")
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "abort"


def test_cached_prefixes_are_not_forgotten_under_a_running_request_unless_told(start) -> None:
    server = start(itl_ms=10)
    assert server.ask("POST", "/reset_prefix_cache")[:2] == (200, {"success": True})
    asked = Asked(server, **SHORTER)
    eventually(lambda: server.metric("unfinished") == 1)
    assert server.ask("POST", "/reset_prefix_cache")[:2] == (200, {"success": False})
    forced = server.ask("POST", "/reset_prefix_cache?reset_running_requests=true")
    assert forced[:2] == (200, {"success": True})
    assert asked.result()["usage"]["completion_tokens"] == 300
    assert json.dumps(asked.reply)


def test_paused_it_holds_what_comes_and_resumed_it_answers(start) -> None:
    server = start()
    assert server.ask("POST", "/pause")[:2] == (200, {"status": "paused"})
    assert server.ask("GET", "/is_paused")[:2] == (200, {"is_paused": True})
    assert server.ask("GET", "/health")[1]["is_sleeping"] is True
    asked = Asked(server, prompt="Hello", max_tokens=5)
    eventually(lambda: server.metric("held") == 1)
    assert server.ask("POST", "/resume")[:2] == (200, {"status": "resumed"})
    assert asked.result()["choices"][0]["finish_reason"] == "length"
    assert server.ask("GET", "/is_paused")[1] == {"is_paused": False}


def test_one_request_is_aborted_by_the_id_of_its_reply_and_all_by_none(start) -> None:
    server = start(itl_ms=20)
    ask = server.client().completions.create
    one, other = (ask(model="tiny", prompt="Hello", max_tokens=900, stream=True) for _ in range(2))
    name = next(iter(one)).id
    next(iter(other))
    told = server.ask("POST", "/abort_requests", {"request_ids": [name, "unknown"]})
    assert told[:2] == (200, {"status": "aborted", "aborted": 1})
    assert [chunk.choices[0].finish_reason for chunk in one][-1] == "abort"
    assert server.ask("POST", "/abort_requests", {})[1]["aborted"] == 1
    assert [chunk.choices[0].finish_reason for chunk in other][-1] == "abort"
    assert server.ask("POST", "/abort_requests", {"request_ids": [1]})[0] == 400
