"""What is sent to a client that leaves at the worst moment."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from enginery.api.body import decode_body
from enginery_mock.generation import generate, read_generation
from enginery_mock.halting import Halts, Work
from enginery_mock.sending import Pace, send_stream

CHAT = "/v1/chat/completions"
BODY = b'{"messages": [{"role": "user", "content": "go"}], "stream": true, "max_tokens": 5}'


class Closing(Work):
    """The connection closes as a token comes; aiohttp learns of it in a later turn of the loop."""

    def __init__(self, transport: asyncio.BaseTransport) -> None:
        super().__init__(Halts(), "a")
        self._transport = transport

    async def rest(self, seconds: float) -> bool:
        self._transport.close()
        return self.over


async def test_a_connection_that_closes_before_the_stream_is_no_error_of_the_mock() -> None:
    outcome: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    async def handle(request: web.Request) -> web.StreamResponse:
        wanted = read_generation(CHAT, decode_body(BODY))
        reply = generate(wanted, seed=1, context_length=512)
        assert request.transport is not None
        try:
            response = await send_stream(
                request, wanted, reply, "m", Pace(), Closing(request.transport)
            )
        except Exception as error:
            outcome.set_result(error)
            raise
        outcome.set_result(response)
        return response

    app = web.Application()
    app.router.add_post(CHAT, handle)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.post(server.make_url(CHAT), data=BODY)
        assert isinstance(await asyncio.wait_for(outcome, 30), web.StreamResponse)
