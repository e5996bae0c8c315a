"""`EngineHooks`: who answers, in which thread, until when, and what becomes of exceptions."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pydantic
import pytest

from enginery import (
    Command,
    ContextLengthExceeded,
    Endpoint,
    EngineReply,
    EngineRequest,
    EngineTimeout,
    EngineUnreachable,
    Health,
    InvalidRequest,
    Memory,
    PluginError,
    RunningEngine,
    TokenEstimate,
    UnsupportedOperation,
    Variant,
    hookimpl,
)
from enginery.defaults import DEFAULT_ENDPOINTS
from enginery.plugins import EngineHooks

VARIANT = Variant("m", engine_type="fake")
ENDPOINT = Endpoint("127.0.0.1", 1)
REQUEST = EngineRequest("/v1/completions", {"prompt": "hello"})
WHO = r"plugin enginery-fake \(engine 'fake'\): "


def hooks_of(plugin: object) -> EngineHooks:
    return EngineHooks(plugin, "fake", "enginery-fake", command_required=False)


def plugin_with(function: Any) -> EngineHooks:
    """The hooks of a plugin with this one."""
    return hooks_of(type("Plugin", (), {function.__name__: hookimpl(function)})())


async def answer_200(method, path, body, timeout) -> EngineReply:
    return EngineReply(200, {}, b"")


async def answer_nothing(method, path, body, timeout) -> EngineReply:
    raise EngineUnreachable("nobody there")


ENGINE = RunningEngine(VARIANT, ENDPOINT, None, answer_200)
DEAD = RunningEngine(VARIANT, ENDPOINT, None, answer_nothing)


# -- defaults ----------------------------------------------------------------------------------


async def test_a_plugin_without_hooks_gets_the_frameworks_answers() -> None:
    hooks = hooks_of(object())
    assert hooks.build_command(VARIANT, ENDPOINT) is None
    assert hooks.get_supported_endpoints(VARIANT) == DEFAULT_ENDPOINTS
    assert hooks.estimate_tokens(REQUEST, VARIANT) == TokenEstimate(0, 8)
    assert hooks.transform_request(REQUEST, VARIANT) is None
    assert hooks.transform_response(REQUEST, VARIANT) is None
    assert hooks.prefers_stream(REQUEST, VARIANT) is False
    assert hooks.parse_error(500, b"") is None
    assert hooks.variant_options() is None
    assert hooks.estimate_memory(VARIANT) is None
    assert hooks.sleep_levels(VARIANT) == ()
    assert hooks.variant_from_path("x") is None
    assert hooks.demo_variant() is None
    assert await hooks.check_health(ENGINE) == Health("ready")
    assert await hooks.count_tokens(REQUEST, ENGINE) is None
    with pytest.raises(UnsupportedOperation, match="'fake' has no backend"):
        hooks.create_backend(VARIANT)


async def test_a_plugins_own_answers_come_first() -> None:
    class Options(pydantic.BaseModel):
        seed: int = 0

    class Plugin:
        @hookimpl
        def build_command(self, endpoint):
            return Command(["serve", str(endpoint.port)])

        @hookimpl
        def create_backend(self):
            return self

        @hookimpl
        def get_supported_endpoints(self):
            return ["/x"]

        @hookimpl
        def estimate_tokens(self):
            return 7

        @hookimpl
        def transform_request(self, request):
            return {**request.body, "seed": 1}

        @hookimpl
        def prefers_stream(self):
            return True

        @hookimpl
        def parse_error(self, status):
            return ContextLengthExceeded("too long") if status == 400 else None

        @hookimpl
        def variant_options(self):
            return Options

        @hookimpl
        def estimate_memory(self):
            return Memory({"gpu0": 5})

        @hookimpl
        def variant_from_path(self, path):
            return {"options": {"model": path}}

        @hookimpl
        def demo_variant(self):
            return {}

    plugin = Plugin()
    hooks = hooks_of(plugin)
    assert hooks.build_command(VARIANT, ENDPOINT) == Command(["serve", "1"])
    assert hooks.create_backend(VARIANT) is plugin
    assert hooks.get_supported_endpoints(VARIANT) == ["/x"]
    assert hooks.estimate_tokens(REQUEST, VARIANT) == TokenEstimate(7, 7)
    assert hooks.transform_request(REQUEST, VARIANT) == {"prompt": "hello", "seed": 1}
    assert hooks.prefers_stream(REQUEST, VARIANT) is True
    assert isinstance(hooks.parse_error(400, b""), ContextLengthExceeded)
    assert hooks.parse_error(500, b"") is None
    assert hooks.variant_options() is Options
    assert hooks.estimate_memory(VARIANT) == Memory({"gpu0": 5})
    assert hooks.variant_from_path("a") == {"options": {"model": "a"}}
    assert hooks.demo_variant() == {}
    assert hooks.implements("estimate_tokens")
    assert not hooks.implements("check_health")


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_none_from_a_health_check_is_the_defaults_turn(asynchronous) -> None:
    asked = []

    async def later(self, engine):
        asked.append(engine)

    def check_health(self, engine):
        asked.append(engine)

    later.__name__ = "check_health"
    hooks = plugin_with(later if asynchronous else check_health)
    assert await hooks.check_health(ENGINE) == Health("ready")
    assert (await hooks.check_health(DEAD)).state == "starting"
    assert asked == [ENGINE, DEAD]


# -- threads and deadlines ---------------------------------------------------------------------


async def test_a_plain_io_hook_runs_in_a_thread_and_an_async_one_on_the_loop() -> None:
    def check_health(self, engine):
        return Health("ready", detail=str(threading.get_ident()))

    async def count_tokens(self):
        return threading.get_ident()

    plain = await plugin_with(check_health).check_health(ENGINE)
    assert int(plain.detail) != threading.get_ident()
    assert await plugin_with(count_tokens).count_tokens(REQUEST, ENGINE) == threading.get_ident()


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_an_io_hook_that_takes_too_long_is_a_timeout(asynchronous) -> None:
    over = threading.Event()

    async def later(self):
        await asyncio.sleep(600)

    def count_tokens(self):
        over.wait(60)

    later.__name__ = "count_tokens"
    hooks = plugin_with(later if asynchronous else count_tokens)
    try:
        with pytest.raises(EngineTimeout, match=WHO + r"count_tokens took more than 0.05 s"):
            await hooks.count_tokens(REQUEST, ENGINE, timeout=0.05)
    finally:
        over.set()


async def test_the_deadline_holds_for_the_defaults_answer_too() -> None:
    async def never(method, path, body, timeout):
        await asyncio.sleep(600)

    async def check_health(self):
        return None

    for hooks in (hooks_of(object()), plugin_with(check_health)):
        with pytest.raises(EngineTimeout, match="took more than"):
            await hooks.check_health(RunningEngine(VARIANT, ENDPOINT, None, never), timeout=0.05)


async def test_a_timeout_of_the_plugins_own_is_not_taken_for_the_deadline() -> None:
    async def count_tokens(self):
        raise TimeoutError("my database")

    with pytest.raises(PluginError, match="count_tokens raised TimeoutError: my database"):
        await plugin_with(count_tokens).count_tokens(REQUEST, ENGINE)


async def test_cancelling_a_caller_cancels_an_async_hook() -> None:
    gone = asyncio.Event()

    async def count_tokens(self):
        try:
            await asyncio.sleep(600)
        finally:
            gone.set()

    task = asyncio.create_task(plugin_with(count_tokens).count_tokens(REQUEST, ENGINE))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gone.is_set()


# -- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("build_command", ["serve"]),
        ("get_supported_endpoints", 5),
        ("get_supported_endpoints", "/v1/completions"),
        ("estimate_tokens", "7"),
        ("estimate_tokens", -1),
        ("transform_request", "body"),
        ("prefers_stream", "yes"),
        ("parse_error", ValueError("x")),
        ("variant_options", {"seed": int}),
        ("estimate_memory", {"gpu0": 1}),
        ("sleep_levels", 1),
        ("demo_variant", [1]),
    ],
)
def test_an_answer_of_the_wrong_type_is_the_plugins_fault(name, answer) -> None:
    def hook(self):
        return answer

    hook.__name__ = name
    arguments = {
        "build_command": (VARIANT, ENDPOINT),
        "parse_error": (500, b""),
        "variant_options": (),
        "demo_variant": (),
        "estimate_memory": (VARIANT,),
        "sleep_levels": (VARIANT,),
        "get_supported_endpoints": (VARIANT,),
    }.get(name, (REQUEST, VARIANT))
    with pytest.raises(PluginError, match=WHO + f"{name} returned"):
        getattr(plugin_with(hook), name)(*arguments)


@pytest.mark.parametrize("name", ["create_backend", "transform_response", "estimate_tokens"])
def test_a_pure_hook_must_not_be_async(name) -> None:
    async def hook(self):
        pass

    hook.__name__ = name
    arguments = (VARIANT,) if name == "create_backend" else (REQUEST, VARIANT)
    with pytest.raises(PluginError, match=WHO + f"{name} .*must not be `async def`"):
        getattr(plugin_with(hook), name)(*arguments)


async def test_an_io_hook_with_a_wrong_answer_is_the_plugins_fault() -> None:
    async def check_health(self):
        return "fine"

    with pytest.raises(PluginError, match=WHO + "check_health returned str"):
        await plugin_with(check_health).check_health(ENGINE)


@pytest.mark.parametrize("error", [KeyError("options"), SystemExit(3), RecursionError("deep")])
async def test_a_foreign_exception_names_plugin_and_hook(error) -> None:
    def estimate_memory(self):
        raise error

    async def count_tokens(self):
        raise error

    def check_health(self):
        raise error

    raised = f" raised {type(error).__name__}"
    with pytest.raises(PluginError, match=WHO + "estimate_memory" + raised) as caught:
        plugin_with(estimate_memory).estimate_memory(VARIANT)
    assert caught.value.__cause__ is error
    with pytest.raises(PluginError, match=WHO + "count_tokens" + raised):
        await plugin_with(count_tokens).count_tokens(REQUEST, ENGINE)
    with pytest.raises(PluginError, match=WHO + "check_health" + raised):
        await plugin_with(check_health).check_health(ENGINE)


@pytest.mark.parametrize("error", [InvalidRequest("no", param="n"), EngineTimeout("upstream")])
async def test_the_frameworks_own_errors_pass_as_they_are(error) -> None:
    def transform_request(self):
        raise error

    async def count_tokens(self):
        raise error

    with pytest.raises(type(error)) as caught:
        plugin_with(transform_request).transform_request(REQUEST, VARIANT)
    assert caught.value is error
    with pytest.raises(type(error)) as caught:
        await plugin_with(count_tokens).count_tokens(REQUEST, ENGINE)
    assert caught.value is error


# -- sleep -------------------------------------------------------------------------------------


async def test_only_levels_that_the_engine_has_are_slept_at() -> None:
    slept = []

    class Sleeper:
        @hookimpl
        def sleep_levels(self):
            return (1, 2)

        @hookimpl
        async def sleep(self, level):
            slept.append(level)

        @hookimpl
        def wake_up(self, engine):
            slept.append(0)

    hooks = hooks_of(Sleeper())
    await hooks.sleep(ENGINE, 2)
    await hooks.wake_up(ENGINE)
    assert slept == [2, 0]
    with pytest.raises(
        UnsupportedOperation, match=r"m/default has no sleep level 3: it has \[1, 2\]"
    ):
        await hooks.sleep(ENGINE, 3)
    with pytest.raises(UnsupportedOperation, match="it cannot sleep"):
        await hooks_of(object()).sleep(ENGINE, 1)
    assert slept == [2, 0]


def test_no_plugin_answers_for_another() -> None:
    def parse_error(self):
        return InvalidRequest("mine")

    asked, other = plugin_with(parse_error), hooks_of(object())
    assert asked.parse_error(500, b"") is not None
    assert other.parse_error(500, b"") is None
