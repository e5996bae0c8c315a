"""`EngineHooks`: one plugin's hooks with names and types; nothing above this file sees pluggy.

Knows: how to call a hook, when the defaults answer, deadlines for hooks that do I/O. Does not know:
where plugins come from. This is the one boundary at which a plugin's own exceptions are translated:
the framework's errors pass, anything else becomes a `PluginError` that names plugin and hook.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pluggy

from enginery.defaults import EngineDefaults
from enginery.enginecore.backend import Backend
from enginery.errors import EngineryError, EngineTimeout, PluginError, UnsupportedOperation
from enginery.hookspecs import PROJECT, EngineSpec
from enginery.plugins.checks import check_plugin
from enginery.plugins.transforms import CheckedTransform
from enginery.threads import in_daemon_thread
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

__all__ = ["EngineHooks"]

T = TypeVar("T")
HEALTH_TIMEOUT = 5.0
COUNT_TIMEOUT = 10.0
SLEEP_TIMEOUT = 120.0


class EngineHooks:
    """The hooks of one engine_type, each with the name and types of the contract.

    Args:
        plugin: the module or object that implements hooks.
        engine_type: what it is called.
        distribution: where it comes from, for error messages.
        command_required: False only for the framework's own engine_type.
        allow: the distributions that were allowed when it was found: a child that finds it again is told.
        deny: the same for those that were not.

    Raises:
        PluginError: something is wrong with the plugin.
    """

    def __init__(
        self,
        plugin: object,
        engine_type: str,
        distribution: str = "(none)",
        *,
        command_required: bool = True,
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
    ) -> None:
        self.engine_type = engine_type
        self.distribution = distribution
        self.allow = tuple(allow)
        self.deny = tuple(deny)
        self.plugin = plugin
        self.implemented = check_plugin(plugin, command_required=command_required)
        """The hooks that the plugin answers itself; the others are never asked through pluggy."""
        self.transforms_requests = self.implements("transform_request")
        self.transforms_responses = self.implements("transform_response")
        self.may_prefer_streams = self.implements("prefers_stream")
        """These three are looked at for each request."""
        self._in_threads: set[tuple[str, str]] = set()
        self._defaults = EngineDefaults()
        self._chains: dict[str, Sequence[tuple[Callable[..., Any], Sequence[str]]]] = {}
        self._pm = pluggy.PluginManager(PROJECT)
        self._pm.add_hookspecs(EngineSpec)
        self._pm.register(self._defaults)
        self._pm.register(plugin)
        self._pm.check_pending()
        self._transform_request = self._asker("transform_request")
        self._transform_response = self._asker("transform_response")
        self._prefers_stream = self._asker("prefers_stream")

    def implements(self, hook: str) -> bool:
        """True when the plugin itself answers ``hook``: callers skip work for those it does not."""
        return hook in self.implemented

    # -- pure hooks ----------------------------------------------------------------------------

    def build_command(self, variant: Variant, endpoint: Endpoint) -> Command | None:
        """See the hook. None also when the plugin does not implement it."""
        return self._call("build_command", Command, variant=variant, endpoint=endpoint)

    def create_backend(self, variant: Variant) -> Backend:
        """See the hook.

        Raises:
            UnsupportedOperation: the plugin has no backend.
        """
        backend = self._call("create_backend", object, variant=variant)
        if backend is None:
            raise UnsupportedOperation(
                f"engine {self.engine_type!r} has no backend to run in Python"
            )
        return cast("Backend", backend)

    def get_supported_endpoints(self, variant: Variant) -> Sequence[str]:
        """See the hook."""
        found = self._call("get_supported_endpoints", Sequence, variant=variant)
        if found is None or isinstance(found, str):  # a sequence, of letters
            raise self._wrong("get_supported_endpoints", found)
        return found

    def estimate_tokens(self, request: EngineRequest, variant: Variant) -> TokenEstimate:
        """See the hook; an int, which is exact, comes back as equal bounds."""
        found: TokenEstimate | int | None = self._call(
            "estimate_tokens", (TokenEstimate, int), request=request, variant=variant
        )
        if isinstance(found, TokenEstimate):
            return found
        if found is None or found < 0:
            raise PluginError(f"{self._who()}: estimate_tokens returned {found}")
        return TokenEstimate(found, found)

    def transform_request(self, request: EngineRequest, variant: Variant) -> JSONObject | None:
        """See the hook."""
        found = self._transform_request(request, variant)
        if found is None or type(found) is dict:
            return cast("JSONObject | None", found)
        return self._checked("transform_request", dict, found)

    def transform_response(
        self, request: EngineRequest, variant: Variant
    ) -> ResponseTransform | None:
        """See the hook. What the transform itself raises is translated too."""
        found = self._transform_response(request, variant)
        if found is None:
            return None
        found = self._checked("transform_response", object, found)
        return CheckedTransform(cast("ResponseTransform", found), self._who())

    def prefers_stream(self, request: EngineRequest, variant: Variant) -> bool:
        """See the hook."""
        found = self._prefers_stream(request, variant)
        return bool(found if type(found) is bool else self._checked("prefers_stream", bool, found))

    def parse_error(self, status: int, body: bytes) -> EngineryError | None:
        """See the hook."""
        return self._call("parse_error", EngineryError, status=status, body=body)

    def variant_options(self) -> type[pydantic.BaseModel] | None:
        """See the hook; None when the plugin takes any mapping."""
        return cast("type[pydantic.BaseModel] | None", self._call("variant_options", type))

    def estimate_memory(self, variant: Variant) -> Memory | None:
        """See the hook."""
        return self._call("estimate_memory", Memory, variant=variant)

    def sleep_levels(self, variant: Variant) -> Sequence[int]:
        """See the hook."""
        return self._call("sleep_levels", Sequence, variant=variant) or ()

    def variant_from_path(self, path: str) -> Mapping[str, Any] | None:
        """See the hook."""
        return self._call("variant_from_path", Mapping, path=path)

    def demo_variant(self) -> Mapping[str, Any] | None:
        """See the hook."""
        return self._call("demo_variant", Mapping)

    # -- I/O hooks -----------------------------------------------------------------------------

    async def check_health(self, engine: RunningEngine, timeout: float = HEALTH_TIMEOUT) -> Health:
        """See the hook. A check that takes longer than ``timeout`` seconds is an `EngineTimeout`."""
        found = await self._await("check_health", Health, timeout, engine=engine)
        assert found is not None  # the default always answers
        return found

    async def count_tokens(
        self, request: EngineRequest, engine: RunningEngine, timeout: float = COUNT_TIMEOUT
    ) -> int | None:
        """See the hook; None when the engine cannot say."""
        return await self._await("count_tokens", int, timeout, request=request, engine=engine)

    async def sleep(
        self, engine: RunningEngine, level: int, timeout: float = SLEEP_TIMEOUT
    ) -> None:
        """See the hook.

        Raises:
            UnsupportedOperation: the engine does not have this level.
        """
        levels = self.sleep_levels(engine.variant)
        if level not in levels:
            has = f"it has {list(levels)}" if levels else "it cannot sleep"
            raise UnsupportedOperation(f"{engine.variant.id} has no sleep level {level}: {has}")
        if self.implements("sleep") or not self.implements("create_backend"):
            await self._await("sleep", object, timeout, engine=engine, level=level)
        else:
            await self._by_server(self._defaults.sleep_served(engine, level), timeout)

    async def wake_up(self, engine: RunningEngine, timeout: float = SLEEP_TIMEOUT) -> None:
        """See the hook."""
        if self.implements("wake_up") or not self.implements("create_backend"):
            await self._await("wake_up", object, timeout, engine=engine)
        else:
            await self._by_server(self._defaults.wake_served(engine), timeout)

    # -- calling -------------------------------------------------------------------------------

    async def _by_server(self, call: Awaitable[None], timeout: float) -> None:
        """What the core server does for a plugin that brings a backend and no hook for this."""
        try:
            async with asyncio.timeout(timeout):
                await call
        except EngineryError:
            raise
        except TimeoutError as error:
            raise EngineTimeout(f"{self._who()}: no answer within {timeout:g} s") from error

    def _call(self, name: str, kind: type[T] | tuple[type, ...], **kwargs: Any) -> T | None:
        """One pure hook; None when neither the plugin nor the defaults answered."""
        try:
            found = None
            for implementation, arguments in self._chain(name):
                found = implementation(*[kwargs[argument] for argument in arguments])
                if found is not None:
                    break
        except EngineryError:
            raise
        except (Exception, SystemExit) as error:
            raise self._failed(name, error) from error
        return self._checked(name, kind, found)

    def _asker(self, name: str) -> Callable[[EngineRequest, Variant], Any]:
        """One of the hooks that are asked of each request, as one function.

        As `_call`, but for the check of what they return.
        """
        ask = _first_found(self._chain(name))

        def asker(request: EngineRequest, variant: Variant) -> Any:
            try:
                return ask(request, variant)
            except EngineryError:
                raise
            except (Exception, SystemExit) as error:
                raise self._failed(name, error) from error

        return asker

    def _checked(self, name: str, kind: type[T] | tuple[type, ...], found: Any) -> T | None:
        """What a pure hook returned, where it may."""
        if found is None or (isinstance(found, kind) and not inspect.iscoroutine(found)):
            return cast("T | None", found)
        if inspect.iscoroutine(found):
            found.close()
            raise PluginError(f"{self._who()}: {name} does no I/O and must not be `async def`")
        raise self._wrong(name, found)

    def _chain(self, name: str) -> Sequence[tuple[Callable[..., Any], Sequence[str]]]:
        """Who answers a pure hook, the plugin first, and the arguments that each takes.

        pluggy's own call does the same and costs 3 µs more, which a request pays for each of its hooks. Only
        wrappers need it.
        """
        chain = self._chains.get(name)
        if chain is None:
            hook = getattr(self._pm.hook, name)
            found = hook.get_hookimpls()[::-1]
            if any(one.wrapper or one.hookwrapper for one in found):
                names = tuple(self._pm.hook.__dict__[name].spec.argnames)
                chain = [(lambda *args: hook(**dict(zip(names, args, strict=True))), names)]
            else:
                chain = [(one.function, one.argnames) for one in found]
            self._chains[name] = chain
        return chain

    async def _await(self, name: str, kind: type[T], timeout: float, **kwargs: Any) -> T | None:
        """One I/O hook under a deadline: a coroutine is awaited, a plain function gets a thread.

        A thread cannot be stopped: a plain hook that outlives its deadline runs on, unheard.
        """
        hook: Callable[..., Any] = getattr(self._pm.hook, name)
        own = getattr(self.plugin, name, None)
        try:
            async with asyncio.timeout(timeout) as deadline:
                if own is None or inspect.iscoroutinefunction(own):
                    found = hook(**kwargs)
                else:
                    found = await self._threaded(name, lambda: hook(**kwargs), kwargs["engine"])
                if inspect.isawaitable(found):
                    found = await found
                if found is None and hasattr(self._defaults, name):
                    found = await getattr(self._defaults, name)(**kwargs)
        except EngineryError:
            raise
        except (Exception, SystemExit) as error:
            if isinstance(error, TimeoutError) and deadline.expired():
                late = f"{self._who()}: {name} took more than {timeout:g} s"
                raise EngineTimeout(late) from error
            raise self._failed(name, error) from error
        if found is not None and not isinstance(found, kind):
            raise self._wrong(name, found)
        return found

    def _threaded(
        self, name: str, call: Callable[[], Any], engine: RunningEngine
    ) -> asyncio.Future[Any]:
        """A plain hook's thread; none while its last one for the same engine has not come back."""
        key = (name, engine.endpoint.base_url)
        if key in self._in_threads:
            raise EngineTimeout(f"{self._who()}: an earlier {name} has not returned yet")
        self._in_threads.add(key)

        def run() -> Any:
            try:
                return call()
            finally:
                self._in_threads.discard(key)

        return in_daemon_thread(run, f"{self.engine_type} {name}")

    def _wrong(self, name: str, found: object) -> PluginError:
        return PluginError(
            f"{self._who()}: {name} returned {type(found).__name__}, which the hook does not allow"
        )

    def _who(self) -> str:
        return f"plugin {self.distribution} (engine {self.engine_type!r})"

    def _failed(self, name: str, error: BaseException) -> PluginError:
        return PluginError(f"{self._who()}: {name} raised {type(error).__name__}: {error}")


def _first_found(
    chain: Sequence[tuple[Callable[..., Any], Sequence[str]]],
) -> Callable[[EngineRequest, Variant], Any]:
    """A chain of hooks of a request and a variant as one function; of one hook with both, that itself."""
    parts = [_positional(function, tuple(names)) for function, names in chain]
    if len(parts) == 1:
        return parts[0]

    def first_found(request: EngineRequest, variant: Variant) -> Any:
        for part in parts:
            found = part(request, variant)
            if found is not None:
                return found
        return None

    return first_found


def _positional(
    function: Callable[..., Any], names: tuple[str, ...]
) -> Callable[[EngineRequest, Variant], Any]:
    match names:
        case ("request", "variant"):
            return function
        case ("variant", "request"):
            return lambda request, variant: function(variant, request)
        case ("request",):
            return lambda request, _: function(request)
        case ("variant",):
            return lambda _, variant: function(variant)
        case _:
            return lambda _request, _variant: function()
