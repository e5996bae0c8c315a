"""The routes of a core server: inference, tokens, health, models and metrics.

Knows: paths, status codes, who may ask, and what is said while the model loads. Does not know: the process around it
(`__main__`), what frames hold (`replies`) or how tokens travel (`delivery`). Errors have OpenAI's shape.
"""

from __future__ import annotations

import contextlib
import hmac
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import HttpVersion11, web

from enginery.api.body import DecodedBody, decode_body
from enginery.api.openai import error_body, error_headers, model_card, models_list
from enginery.coreserver.controls import Controls
from enginery.coreserver.delivery import Delivery, StreamReply, WholeReply
from enginery.coreserver.replies import Frames, error_of
from enginery.coreserver.wanted import CHAT_PATH, COMPLETIONS_PATH, Wanted, read_wanted
from enginery.enginecore.async_mp import AsyncMPClient
from enginery.enginecore.served import SERVER_NAME
from enginery.errors import (
    AuthenticationFailed,
    BodyTooLarge,
    EndpointNotSupported,
    EngineLoading,
    EngineryError,
    InvalidRequest,
    MethodNotAllowed,
)

__all__ = ["CoreApp"]

BODY_LIMIT = 64 * 1024 * 1024
LOADING_RETRY = 1.0  # seconds

STREAM_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class CoreApp:
    """The routes around one core. ``ready`` is False while its model loads.

    Args:
        client: the core's; belongs to the caller.
        model: the name that requests and replies have.
        api_key: who has it may ask; None, everybody.
    """

    def __init__(self, client: AsyncMPClient, model: str, api_key: str | None = None) -> None:
        self.ready = False
        self.delivery = Delivery(client)
        self._client = client
        self._controls = Controls(client, self.delivery)
        self._model = model
        self._key = None if api_key is None else api_key.encode()
        self._created = int(time.time())

    def application(self) -> web.Application:
        """The aiohttp application; its handlers must be cancelled when a client leaves."""
        app = web.Application(middlewares=[self._guard], client_max_size=BODY_LIMIT)
        app.on_response_prepare.append(_sign)
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/v1/models", self._models),
                web.get("/metrics", self._metrics),
                web.post(CHAT_PATH, self._generate),
                web.post(COMPLETIONS_PATH, self._generate),
                web.post("/tokenize", self._tokenize),
                web.post("/detokenize", self._detokenize),
                *self._controls.routes(),
            ]
        )
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The key first, then loading, then the route; every error leaves as JSON."""
        try:
            if request.path != "/health":
                self._check_key(request)
            if not self.ready:
                raise EngineLoading("the model is loading", retry_after=LOADING_RETRY)
            return await handler(request)
        except EngineryError as error:
            told = error
        except web.HTTPException as error:
            told = _translated(error, request)
        return web.json_response(
            error_body(told, "engine"), status=told.status, headers=error_headers(told)
        )

    def _check_key(self, request: web.Request) -> None:
        if self._key is None:
            return
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        given = bearer if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
        if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._key):
            raise AuthenticationFailed("this engine needs its API key")

    # -- inference -----------------------------------------------------------------------------

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = decode_body(await request.read())
        wanted = read_wanted(request.path, body, self._model, self._client.capabilities)
        frames = Frames(wanted, self._model)
        send = self._stream if wanted.stream else self._whole
        try:
            return await send(request, wanted, frames)
        finally:  # a client that left cancels us
            await self.delivery.end(wanted.request)

    async def _whole(
        self,
        request: web.Request,  # noqa: ARG002  # the same signature as `_stream`
        wanted: Wanted,
        frames: Frames,
    ) -> web.StreamResponse:
        reply = WholeReply()
        await self.delivery.begin(wanted.request, reply)
        await reply.over
        return _json(frames.whole(reply.total))

    async def _stream(
        self, request: web.Request, wanted: Wanted, frames: Frames
    ) -> web.StreamResponse:
        reply = StreamReply(frames)
        await self.delivery.begin(wanted.request, reply)
        await reply.begun
        last = reply.total.last
        if last is not None and last.error is not None and not reply.total.tokens:
            raise error_of(last)  # nothing was said yet: an error with its status
        response = web.StreamResponse(headers=STREAM_HEADERS)
        chunked = request.version >= HttpVersion11
        if chunked:
            response.enable_chunked_encoding()
        # a connection that closes refuses what is written, a moment before aiohttp cancels us
        with contextlib.suppress(ConnectionResetError):
            await response.prepare(request)
            await response.write(frames.first() + reply.taken())
            transport = request.transport
            if transport is not None and not reply.over.done():
                reply.attach(transport, chunked=chunked)
            await reply.over
            await response.write(reply.taken() + frames.end(reply.total))
            await response.write_eof()
        return response

    # -- tokens --------------------------------------------------------------------------------

    async def _tokenize(self, request: web.Request) -> web.Response:
        """vLLM's: ``{"prompt"}`` or ``{"messages"}``; with ``return_token_strs`` each token's text too."""
        body = decode_body(await request.read())
        args = {name: body.get(name) for name in ("prompt", "messages") if body.get(name)}
        if len(args) != 1:
            raise InvalidRequest("one of prompt and messages is needed", param="prompt")
        tokens = await self._client.call_utility_async("tokenize", args)
        strings = None
        if body.get("return_token_strs") is True:
            ask = self._client.call_utility_async
            strings = [await ask("detokenize", {"tokens": [token]}) for token in tokens]
        length = self._client.capabilities.max_model_len
        return _json(
            {"count": len(tokens), "max_model_len": length, "tokens": tokens, "token_strs": strings}
        )

    async def _detokenize(self, request: web.Request) -> web.Response:
        tokens = _tokens(decode_body(await request.read()))
        text = await self._client.call_utility_async("detokenize", {"tokens": tokens})
        return _json({"prompt": text})

    # -- what it is and how it is --------------------------------------------------------------

    async def _health(self, request: web.Request) -> web.Response:  # noqa: ARG002  # aiohttp's signature
        """Never asks the core, which may be in the middle of a long step; its death ends this process."""
        return _json(
            {
                "status": "ok",
                "is_sleeping": self._controls.is_sleeping,
                "sleep_levels": list(self._client.capabilities.sleep_levels),
            }
        )

    async def _models(self, request: web.Request) -> web.Response:  # noqa: ARG002  # aiohttp's signature
        able = self._client.capabilities
        card = model_card(
            self._model,
            created=self._created,
            owned_by="enginery",
            max_model_len=able.max_model_len,
        )
        return _json(models_list([card]))

    async def _metrics(self, request: web.Request) -> web.Response:  # noqa: ARG002  # aiohttp's signature
        """The core's numbers, as Prometheus reads them. The library for that costs a start 60 ms."""
        stats = await self._client.get_stats_async()
        lines = [
            f"# TYPE enginery_core_{name} untyped\nenginery_core_{name} {value}"
            for name, value in sorted(stats.items())
            if math.isfinite(value)
        ]
        return web.Response(text="\n".join([*lines, ""]), content_type="text/plain")


async def _sign(request: web.Request, response: web.StreamResponse) -> None:  # noqa: ARG001  # aiohttp's signature
    response.headers["Server"] = SERVER_NAME


def _json(value: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def _tokens(body: DecodedBody) -> list[int]:
    tokens = body.get("tokens")
    if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
        raise InvalidRequest("tokens must be a list of token ids", param="tokens")
    return tokens


def _translated(error: web.HTTPException, request: web.Request) -> EngineryError:
    """What aiohttp refuses by itself, as text, in our words."""
    if error.status == 404:
        return EndpointNotSupported(f"this engine has no route {request.path}")
    if error.status == 405:
        return MethodNotAllowed(f"{request.path} does not take {request.method}")
    if error.status == 413:
        return BodyTooLarge(f"the body is over {BODY_LIMIT} bytes")
    return InvalidRequest(error.reason)
