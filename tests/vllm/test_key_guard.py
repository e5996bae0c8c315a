"""`enginery_vllm.serving.key_guard`: who may ask a vLLM that we started for what."""

from __future__ import annotations

import json

import pytest

from enginery_vllm.serving.key_guard import PROOF, KeyGuard, proof_of

KEY = "the-key"


class Asked:
    """One request, through the guard to a server that remembers what reached it."""

    def __init__(self) -> None:
        self.reached: list[dict] = []
        self.sent: list[dict] = []

    async def __call__(self, scope, receive, send) -> None:
        self.reached.append(scope)

    @property
    def status(self) -> int:
        return 200 if self.reached else self.sent[0]["status"]


async def ask(path, *, key=KEY, query="", kind="http", guard_key=KEY) -> Asked:
    asked = Asked()
    headers = [] if key is None else [(b"authorization", f"Bearer {key}".encode())]
    scope = {"type": kind, "path": path, "query_string": query.encode(), "headers": headers}

    async def send(message) -> None:
        asked.sent.append(message)

    await KeyGuard(asked, guard_key)(scope, None, send)
    return asked


@pytest.mark.parametrize(
    "path", ["/v1/completions", "/health", "/invocations", "/tokenize", "/sleep"]
)
@pytest.mark.parametrize("key", [None, "", "another", KEY + "x"])
async def test_without_the_key_nothing_is_reached(path, key) -> None:
    asked = await ask(path, key=key)
    assert asked.status == 401
    start, body = asked.sent
    error = json.loads(body["body"])["error"]
    assert error["type"] == "authentication_error"
    assert dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode()


@pytest.mark.parametrize(
    "path", ["/v1/completions", "/v1/models", "/v2/embed", "/health", "/metrics", "/is_sleeping"]
)
async def test_with_the_key_what_serves_is_reached(path) -> None:
    assert (await ask(path, query="a=1")).reached[0]["query_string"] == b"a=1"


@pytest.mark.parametrize(
    "path",
    [
        "/sleep",
        "/wake_up",
        "/collective_rpc",
        "/pause",
        "/update_weights",
        "/v1",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/new_in_0_33",
        "/",
    ],
)
async def test_commands_want_more_than_the_key_which_the_gateway_lends(path) -> None:
    assert (await ask(path)).status == 403
    assert (await ask(path, query=f"{PROOF}=wrong")).status == 403
    assert (await ask(path, query=f"{PROOF}={KEY}")).status == 403
    assert (await ask(path, query=f"{PROOF}={proof_of(KEY)}", key=None)).status == 401
    assert (await ask(path, query=f"{PROOF}={proof_of(KEY)}")).status == 200


async def test_the_proof_is_not_passed_on_to_the_log() -> None:
    query = f"level=1&{PROOF}={proof_of(KEY)}&tags=weights&tags="
    asked = await ask("/sleep", query=query)
    assert asked.reached[0]["query_string"] == b"level=1&tags=weights&tags="
    asked = await ask("/sleep", query=f"{PROOF}=%FF%C3&{PROOF}={proof_of(KEY)}")
    assert asked.status == 403


def test_the_proof_tells_nothing_of_the_key() -> None:
    assert KEY not in proof_of(KEY)
    assert proof_of(KEY) != proof_of("another")


async def test_websockets_are_closed_and_other_events_pass() -> None:
    refused = await ask("/v1/realtime", key=None, kind="websocket")
    assert refused.sent[0]["type"] == "websocket.close"
    assert not refused.reached
    assert (await ask("/v1/realtime", kind="websocket")).reached
    asked = Asked()
    await KeyGuard(asked, KEY)({"type": "lifespan"}, None, None)
    assert asked.reached


async def test_the_key_is_read_where_vllm_reads_it(monkeypatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "from-there")
    assert (await ask("/health", guard_key=None)).status == 401
    assert (await ask("/health", key="from-there", guard_key=None)).status == 200
    monkeypatch.delenv("VLLM_API_KEY")
    assert (await ask("/sleep", key=None, guard_key=None)).status == 200
