"""The mock's HTTP routes.

Knows: paths, status codes, who may ask. Does not know: the process around it (`server`), what replies
say (`replies`) or how they are paced (`sending`). Errors have OpenAI's shape, except the two whose
shape llama.cpp made known: loading, and a prompt that is too long.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from enginery import (
    AuthenticationFailed,
    BodyTooLarge,
    ContextLengthExceeded,
    EndpointNotSupported,
    EngineryError,
    InvalidRequest,
    MethodNotAllowed,
)
from enginery.api import anthropic
from enginery.api.body import DecodedBody, decode_body
from enginery.api.openai import error_body, error_headers, model_card, models_list
from enginery_mock.conversations import (
    CHAT_PATH,
    COMPLETIONS_PATH,
    MESSAGES_PATH,
    RESPONSES_PATH,
)
from enginery_mock.devices import Ledger
from enginery_mock.faults import TokensToCrash
from enginery_mock.flags import ServerConfig
from enginery_mock.generation import check_room, generate, read_generation
from enginery_mock.halting import Halts, Work
from enginery_mock.printing import say
from enginery_mock.sending import Pace, send_stream, send_whole
from enginery_mock.sleeping import MODES, PARTS, Sleeper
from enginery_mock.slots import Slots
from enginery_mock.tokens import pieces, request_tokens, token_id
from enginery_mock.vectors import (
    EMBEDDINGS_PATH,
    RERANK_PATH,
    embedding_reply,
    read_vectors,
    rerank_reply,
)

__all__ = ["MockApp"]

BODY_LIMIT = 64 * 1024 * 1024
OPEN_PATHS = frozenset({"/health", "/mock/requests"})
"""No key needed: a health check proves nothing, and the counts hold no text of any request."""

GENERATION_PATHS = (CHAT_PATH, COMPLETIONS_PATH, RESPONSES_PATH, MESSAGES_PATH)

LOADING = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

JOURNAL_VARIABLE = "ENGINERY_MOCK_JOURNAL"
"""Names a file that gets a line for each generation request that any mock receives: its ``x-request-id``, else
its ``user``, else the reply's id."""


class MockApp:
    """The routes of one mock engine. ``ready`` is False while it loads."""

    def __init__(self, config: ServerConfig, ledger: Ledger) -> None:
        self.ready = False
        self._config = config
        self._slots = Slots(
            config.slots, config.max_queue, journal=os.environ.get(JOURNAL_VARIABLE)
        )
        self._halts = Halts()
        self._sleeper = Sleeper(config, self._slots, self._halts, ledger)
        tokens = config.crash_after_tokens
        self._pace = Pace(
            config.ttft_ms / 1000,
            config.itl_ms / 1000,
            config.die_at_frame,
            None if tokens is None else TokensToCrash(tokens),
        )
        self._begun = 0
        self._created = int(time.time())

    def application(self) -> web.Application:
        """The aiohttp application; its handlers must be cancelled when a client leaves."""
        app = web.Application(middlewares=[self._guard], client_max_size=BODY_LIMIT)
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/v1/models", self._models),
                *(web.post(path, self._generate) for path in GENERATION_PATHS),
                *(web.post(path, self._vectors) for path in (EMBEDDINGS_PATH, RERANK_PATH)),
                web.post(f"{CHAT_PATH}/input_tokens", self._input_tokens),
                web.post(f"{MESSAGES_PATH}/count_tokens", self._count_tokens),
                web.post("/tokenize", self._tokenize),
                web.post("/abort_requests", self._abort_requests),
                web.get("/mock/requests", self._requests),
            ]
        )
        if self._config.sleep_levels:
            app.add_routes(
                [
                    web.post("/sleep", self._sleep),
                    web.post("/wake_up", self._wake_up),
                    web.get("/is_sleeping", self._is_sleeping),
                    web.post("/pause", self._pause),
                    web.post("/resume", self._resume),
                    web.get("/is_paused", self._is_paused),
                ]
            )
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Loading first, then the key, then the route; every error leaves as JSON."""
        lies = self._config.lie_on_health == "loading" and request.path == "/health"
        if not self.ready and not lies:
            return web.json_response(LOADING, status=503)
        try:
            self._check_key(request)
            return await handler(request)
        except EngineryError as error:
            return error_response(error, request.path)
        except web.HTTPException as error:
            return error_response(_translated(error, request), request.path)

    def _check_key(self, request: web.Request) -> None:
        key = self._config.api_key
        if key is None or request.path in OPEN_PATHS:
            return
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        given = bearer if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
        if not hmac.compare_digest(_bytes(given), _bytes(key)):
            raise AuthenticationFailed("this mock engine needs its API key")

    # -- routes --------------------------------------------------------------------------------

    async def _health(self, request: web.Request) -> web.Response:  # noqa: ARG002  # aiohttp's signature
        return web.json_response({"status": "ok"})

    async def _models(self, request: web.Request) -> web.Response:  # noqa: ARG002  # aiohttp's signature
        card = model_card(
            self._config.model,
            created=self._created,
            owned_by="enginery-mock",
            context_length=self._config.context_length,
            max_model_len=self._config.context_length,  # vLLM's name for it
        )
        return web.json_response(models_list([card]))

    async def _requests(self, request: web.Request) -> web.Response:  # noqa: ARG002  # aiohttp's signature
        return web.json_response(self._slots.report())

    async def _input_tokens(self, request: web.Request) -> web.Response:
        body = await _body(request)
        tokens = request_tokens(CHAT_PATH, body.object)
        return web.json_response({"input_tokens": tokens, "object": "response.input_tokens"})

    async def _count_tokens(self, request: web.Request) -> web.Response:
        body = await _body(request)
        return web.json_response(anthropic.token_count(request_tokens(MESSAGES_PATH, body.object)))

    async def _tokenize(self, request: web.Request) -> web.Response:
        """llama.cpp's, by ``content``; with ``prompt``, vLLM's."""
        body = await _body(request)
        if "prompt" in body.object:
            return web.json_response(self._tokens_of_prompt(body))
        content = body.get("content", "")
        if not isinstance(content, str):
            raise InvalidRequest("content must be a string", param="content")
        found = pieces(content)
        tokens: list[Any] = [token_id(piece) for piece in found]
        if body.get("with_pieces") is True:
            tokens = [{"id": token_id(piece), "piece": piece} for piece in found]
        return web.json_response({"tokens": tokens})

    def _tokens_of_prompt(self, body: DecodedBody) -> dict[str, Any]:
        prompt = body.get("prompt")
        if not isinstance(prompt, str):
            raise InvalidRequest("prompt must be a string", param="prompt")
        found = pieces(prompt)
        return {
            "count": len(found),
            "max_model_len": self._config.context_length,
            "tokens": list(map(token_id, found)),
            "token_strs": found if body.get("return_token_strs") is True else None,
        }

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        wanted = read_generation(request.path, await _body(request))
        reply = generate(wanted, seed=self._config.seed, context_length=self._config.context_length)
        send = send_stream if wanted.stream else send_whole
        name = request.headers.get("x-request-id") or wanted.user or reply.id
        async with self._working(name, wanted.prompt_tokens):
            with Work(self._halts, reply.id) as work:
                return await send(request, wanted, reply, self._config.model, self._pace, work)

    async def _vectors(self, request: web.Request) -> web.Response:
        wanted = read_vectors(request.path, await _body(request))
        check_room(wanted.longest, self._config.context_length)
        name = request.headers.get("x-request-id") or wanted.user or request.path
        make = embedding_reply if request.path == EMBEDDINGS_PATH else rerank_reply
        async with self._working(name, wanted.prompt_tokens):
            await asyncio.sleep(self._pace.ttft)
            reply = make(wanted, model=self._config.model, seed=self._config.seed)
            return web.json_response(reply)

    @asynccontextmanager
    async def _working(self, name: str, prompt_tokens: int) -> AsyncIterator[None]:
        """In a slot; for ever where `lie_on_health` says so."""
        if self._config.flood_log is not None:
            say(f"request {name}: {prompt_tokens} prompt tokens")
        async with self._slots.hold(name):
            self._begun += 1
            stuck = self._config.lie_on_health == "stuck"
            if stuck and self._begun > self._config.stuck_after_requests:
                await asyncio.Event().wait()
            yield

    async def _abort_requests(self, request: web.Request) -> web.Response:
        """vLLM's: ``{"request_ids": [...]}``, the ids of replies; none is all. Those in line are not ended."""
        ids = (await _body(request)).get("request_ids") or None
        if ids is not None and not (isinstance(ids, list) and all(isinstance(i, str) for i in ids)):
            raise InvalidRequest("request_ids must be a list of strings", param="request_ids")
        known = None if ids is None else frozenset(re.split("[-_]", name)[-1] for name in ids)
        told = self._halts.end_all(known)
        return web.json_response({"status": "aborted", "aborted": told})

    # -- sleep and pause, as vLLM has them -----------------------------------------------------

    async def _sleep(self, request: web.Request) -> web.Response:
        level = request.query.get("level", "1")
        if level not in map(str, self._config.sleep_levels):
            raise InvalidRequest(f"level must be one of {self._config.sleep_levels}", param="level")
        await self._sleeper.sleep(int(level), _mode(request))
        return web.json_response({"status": "sleeping", "level": int(level)})

    async def _wake_up(self, request: web.Request) -> web.Response:
        tags = request.query.getall("tags", [])
        if not PARTS.issuperset(tags):
            raise InvalidRequest(f"tags must be among {sorted(PARTS)}", param="tags")
        await self._sleeper.wake_up(tags or PARTS)
        status = "sleeping" if self._sleeper.is_sleeping else "awake"
        return web.json_response({"status": status, "tags": tags or None})

    async def _is_sleeping(self, request: web.Request) -> web.Response:  # noqa: ARG002  # aiohttp's signature
        return web.json_response({"is_sleeping": self._sleeper.is_sleeping})

    async def _pause(self, request: web.Request) -> web.Response:
        await self._sleeper.pause(_mode(request))
        return web.json_response({"status": "paused"})

    async def _resume(self, request: web.Request) -> web.Response:  # noqa: ARG002  # aiohttp's signature
        await self._sleeper.resume()
        return web.json_response({"status": "resumed"})

    async def _is_paused(self, request: web.Request) -> web.Response:  # noqa: ARG002  # aiohttp's signature
        return web.json_response({"is_paused": self._sleeper.is_sleeping})


def _mode(request: web.Request) -> str:
    mode = request.query.get("mode", "abort")
    if mode not in MODES:
        raise InvalidRequest(f"mode must be one of {sorted(MODES)}", param="mode")
    return mode


async def _body(request: web.Request) -> DecodedBody:
    return decode_body(await request.read())


def error_response(error: EngineryError, path: str) -> web.Response:
    """``error`` as an engine tells it on ``path``."""
    if isinstance(error, ContextLengthExceeded):
        overflow = {
            "code": 400,
            "message": error.message,
            "type": "exceed_context_size_error",
            "n_prompt_tokens": error.prompt_tokens,
            "n_ctx": error.context_length,
        }
        return web.json_response({"error": overflow}, status=400)
    shape = anthropic.error_body if path.startswith(MESSAGES_PATH) else error_body
    body = shape(error, "engine")
    return web.json_response(body, status=error.status, headers=error_headers(error))


def _translated(error: web.HTTPException, request: web.Request) -> EngineryError:
    """What aiohttp refuses by itself, as text, in our words."""
    if error.status == 404:
        return EndpointNotSupported(f"the mock engine has no route {request.path}")
    if error.status == 405:
        return MethodNotAllowed(f"{request.path} does not take {request.method}")
    if error.status == 413:
        return BodyTooLarge(f"the body is over {BODY_LIMIT} bytes")
    return InvalidRequest(error.reason)


def _bytes(key: str) -> bytes:
    """Header values may hold any byte; `compare_digest` refuses strings that are not ASCII."""
    return key.encode("utf-8", "surrogateescape")
