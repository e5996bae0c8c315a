"""Asks one server all questions, and keeps the shapes of its answers.

Knows: HTTP, streams, and how to know that a request is under way. Does not know: what is asked (`scenarios`), or what
the answers should be. Nothing is timed: each step waits for what it needs, `PATIENCE` seconds at most.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self

from support.oracle.scenarios import (
    ENDLESS,
    TEXT,
    Ask,
    Begin,
    End,
    Fill,
    Hold,
    Leave,
    Scenario,
    Step,
)
from support.oracle.shapes import shape_of, stream_shape

__all__ = ["PATIENCE", "Server", "answers_of"]

PATIENCE = 60.0
"""Seconds: a busy machine is no failure."""

DONE = b"data: [DONE]"


@dataclass
class Server:
    """One that runs.

    Args:
        address: host and port.
        load: how many requests it has, running or waiting. Asked of the server itself.
        headers: sent with each request.
        proof: a parameter of every query; vLLM behind our guard wants one for what commands it.
        fill: endless streams that it takes before it refuses: how many run, and how many wait.
    """

    address: str
    load: Callable[[Server], int]
    headers: dict[str, str] = field(default_factory=dict)
    proof: str = ""
    fill: tuple[int, int] = (1, 0)

    def text(self, path: str) -> str:
        """The body of a GET."""
        with _Exchange(self, Ask("", path, method="GET")) as exchange:
            return exchange.read().decode()

    def value(self, path: str) -> Any:
        """The same, decoded."""
        return json.loads(self.text(path))


class _Exchange:
    """One request and its answer, on a connection of its own."""

    def __init__(self, server: Server, ask: Ask, stop: str | None = None) -> None:
        self._link = http.client.HTTPConnection(server.address, timeout=PATIENCE)
        body = ask.body
        if stop is not None:
            body = {**body, "stop": [stop]}
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **server.headers}
        path = ask.path
        if server.proof:
            path += f"{'&' if '?' in path else '?'}{server.proof}"
        self._link.request(ask.method, path, data, headers)
        self._reply: http.client.HTTPResponse | None = None
        self._begun = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._link.close()

    def read(self) -> bytes:
        reply = self._head()
        return self._begun + reply.read()

    def first_token(self) -> None:
        reply = self._head()
        assert reply.status == 200, reply.read()
        while not self._token_seen():
            line = reply.readline()
            assert line, f"it ended without a token: {self._begun!r}"
            self._begun += line

    def answer(self) -> tuple[Any, bytes]:
        """The answer's shape, and its bytes."""
        raw = self.read()
        reply = self._head()
        kind = reply.headers.get_content_type() if raw else None
        told: dict[str, Any] = {"status": reply.status}
        if kind == "text/event-stream":
            told["frames"] = stream_shape(list(_frames(raw)))
        elif kind == "application/json":
            told["body"] = shape_of(json.loads(raw))
        else:
            told["body"] = kind
        return told, raw

    def _head(self) -> http.client.HTTPResponse:
        if self._reply is None:
            self._reply = self._link.getresponse()
        return self._reply

    def _token_seen(self) -> bool:
        texts = (
            choice.get("text") or choice.get("delta", {}).get("content")
            for frame in _frames(self._begun)
            if isinstance(frame, dict)
            for choice in frame["choices"]
        )
        return any(texts)


def _frames(raw: bytes) -> Iterable[Any]:
    """The events that are whole; the last one is a string, as it is no JSON."""
    for event in raw.split(b"\n\n")[:-1]:
        for line in event.split(b"\n"):
            if line == DONE:
                yield {"object": "[DONE]"}
            elif line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))
            elif line.strip():
                yield {"object": line.partition(b":")[0].decode() + " line"}


def answers_of(server: Server, scenario: Scenario) -> dict[str, Any]:
    """The shape of each answer by its name."""
    with ExitStack() as open_ones:
        run = _Run(server, open_ones)
        for step in scenario.steps:
            run.take(step)
    _eventually(lambda: server.load(server) == 0)
    return run.answers


class _Run:
    def __init__(self, server: Server, open_ones: ExitStack) -> None:
        self.answers: dict[str, Any] = {}
        self._server = server
        self._open = open_ones
        self._under_way: dict[str, _Exchange] = {}
        self._texts: dict[str, str] = {}

    def take(self, step: Step) -> None:
        match step:
            case Ask():
                self._keep(step.name, self._begun(step))
            case Begin(ask):
                self._under_way[ask.name] = exchange = self._begun(ask)
                exchange.first_token()
            case Hold(ask):
                before = self._load()
                self._under_way[ask.name] = self._begun(ask)
                _eventually(lambda: self._load() > before)
            case Fill():
                self._fill()
            case End(name):
                self._keep(name, self._under_way[name])
            case Leave():
                self._open.close()
                _eventually(lambda: self._load() == 0)

    def _begun(self, ask: Ask) -> _Exchange:
        stop = None
        if ask.stop_in is not None:
            text = self._texts[ask.stop_in]
            stop = text[len(text) * 3 // 4 :][:4]
        return self._open.enter_context(_Exchange(self._server, ask, stop))

    def _fill(self) -> None:
        running, waiting = self._server.fill
        for _ in range(running):
            self._begun(Ask("", TEXT, {**ENDLESS, "stream": True})).first_token()
        for number in range(waiting):
            self._begun(Ask("", TEXT, {**ENDLESS, "stream": True}))
            _eventually(lambda now=running + number + 1: self._load() == now)

    def _keep(self, name: str, exchange: _Exchange) -> None:
        self.answers[name], raw = exchange.answer()
        with_text = self.answers[name]["status"] == 200 and raw.startswith(b'{"id"')
        if with_text and "text" in (choice := json.loads(raw)["choices"][0]):
            self._texts[name] = choice["text"]

    def _load(self) -> int:
        return self._server.load(self._server)


def _eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)  # between two looks at another process
