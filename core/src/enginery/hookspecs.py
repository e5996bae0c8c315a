"""The plugin contract: every hook, with what it is given, what it returns and what None means.

Knows: the hooks' names, parameters and types. Does not know: who implements them (`defaults`
answers for plugins that do not) or how they are found and called (`plugins`).

All hooks are called by keyword and stop at the first answer that is not None: the plugin's, else
the framework's own. An implementation may declare fewer parameters than the hook has, but only
plain ones: a keyword-only or defaulted parameter is refused when the plugin is loaded.

Hooks up to ``demo_variant`` are pure: values in, values out, no I/O, called on the event loop. The
rest do I/O: each may be ``async def`` or plain (then it runs in a thread), and runs under a deadline.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

from enginery.enginecore.backend import Backend
from enginery.errors import EngineryError
from enginery.values import (
    Command,
    Endpoint,
    EngineRequest,
    Health,
    JSONObject,
    Memory,
    ResponseTransform,
    RunningEngine,
    TokenEstimate,
    Variant,
)

if TYPE_CHECKING:
    import pydantic

__all__ = ["API_VERSION", "PROJECT", "EngineSpec", "hookimpl", "hookspec"]

API_VERSION = (1, 0)
"""Version of this contract. A plugin with the same major and no higher minor is accepted."""

PROJECT = "enginery"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class EngineSpec:
    """The hooks of one engine_type. A plugin needs `build_command` or `create_backend`."""

    # -- pure ----------------------------------------------------------------------------------

    @hookspec(firstresult=True)
    def build_command(self, variant: Variant, endpoint: Endpoint) -> Command | None:
        """How to start a server for ``variant`` that listens on ``endpoint``.

        That is its host and port or, where it has one, its ``unix_path``; a command whose ``argv`` does
        not hold that says that the engine offers no unix sockets.

        Not implemented, or None: the framework serves what `create_backend` returns. Raise
        `EngineStartFailed` with the way out when something on this machine is missing: ``enginery doctor``
        and ``config check`` ask, too, and say so. A look at files will do; what only the program can tell
        is for `Command.check_argv`, which the doctor runs.
        """

    @hookspec(firstresult=True)
    def create_backend(self, variant: Variant) -> Backend:  # type: ignore[empty-body]  # a spec
        """A Python object that runs the model, for engines that are libraries, not servers.

        Called in a process of its own, which the framework starts and serves behind OpenAI's routes. Usually
        a `GeneratorBackend`; anything with the methods of `Backend` will do.
        """

    @hookspec(firstresult=True)
    def get_supported_endpoints(self, variant: Variant) -> Sequence[str]:  # type: ignore[empty-body]  # a spec
        """The routes that the engine serves. Default: chat completions, completions, models."""

    @hookspec(firstresult=True)
    def estimate_tokens(self, request: EngineRequest, variant: Variant) -> TokenEstimate | int:  # type: ignore[empty-body]  # a spec
        """Bounds on the prompt's tokens, without asking the engine; an int is exact.

        Default: bounds from bytes that hold for byte-level tokenizers, ``high`` None for what is
        not text. Routing trusts them, so they must be sound: too wide is slow, too narrow is wrong.
        """

    @hookspec(firstresult=True)
    def transform_request(self, request: EngineRequest, variant: Variant) -> JSONObject | None:
        """The body to send instead. None: the client's own bytes go out, with ``model`` filled in.

        Must not change ``request.body``. Raise `InvalidRequest` with ``param`` for what the engine
        would answer badly.
        """

    @hookspec(firstresult=True)
    def transform_response(
        self, request: EngineRequest, variant: Variant
    ) -> ResponseTransform | None:
        """An object that rewrites this request's reply. None: bytes are relayed as they come."""

    @hookspec(firstresult=True)
    def prefers_stream(self, request: EngineRequest, variant: Variant) -> bool:  # type: ignore[empty-body]  # a spec
        """True: send this non-stream request as a stream and fold the answer back into one reply.

        For engines that notice a client's leaving only while they stream. Default: False.
        """

    @hookspec(firstresult=True)
    def parse_error(self, status: int, body: bytes) -> EngineryError | None:
        """What an engine's error reply means: overflow with its numbers, loading, busy.

        None: nothing more than its status says.
        """

    @hookspec(firstresult=True)
    def variant_options(self) -> type[pydantic.BaseModel]:  # type: ignore[empty-body]  # a spec
        """The pydantic model of the plugin's options. Default: any mapping is accepted."""

    @hookspec(firstresult=True)
    def estimate_memory(self, variant: Variant) -> Memory | None:
        """Bytes per device. None: unknown, so the engine runs alone."""

    @hookspec(firstresult=True)
    def sleep_levels(self, variant: Variant) -> Sequence[int]:  # type: ignore[empty-body]  # a spec
        """The levels that `sleep` understands.

        Default: none, the engine cannot sleep; with `create_backend`, those of the backend's capabilities,
        known once it has run.
        """

    @hookspec(firstresult=True)
    def variant_from_path(self, path: str) -> Mapping[str, Any] | None:
        """For ``enginery run PATH``: "this file is mine, run it with these options", or None.

        The mapping is what a variant is in the settings file, ``{"options": {...}, ...}``.
        """

    @hookspec(firstresult=True)
    def demo_variant(self) -> Mapping[str, Any] | None:
        """What ``make demo`` runs, in the settings file's form; None: nothing to show."""

    # -- I/O -----------------------------------------------------------------------------------

    @hookspec(firstresult=True)
    def check_health(self, engine: RunningEngine) -> Awaitable[Health | None] | Health:  # type: ignore[empty-body]  # a spec
        """How the engine is. Default: asks `Command.health_path`, then ``/v1/models``."""

    @hookspec(firstresult=True)
    def count_tokens(
        self, request: EngineRequest, engine: RunningEngine
    ) -> Awaitable[int | None] | int | None:
        """Exact prompt tokens, from the running engine. Default: None, the engine cannot say."""

    @hookspec(firstresult=True)
    def sleep(self, engine: RunningEngine, level: int) -> Awaitable[None] | None:
        """Give memory back, keep the process. Called only with one of `sleep_levels`.

        Default, with `create_backend`: the core server does it.
        """

    @hookspec(firstresult=True)
    def wake_up(self, engine: RunningEngine) -> Awaitable[None] | None:
        """Undo `sleep`; returns when the engine can serve. Default as for `sleep`."""
