"""Where bounds do not decide, a running engine's tokenizer does; and only there."""

from __future__ import annotations

import pytest

from enginery import (
    Command,
    ContextLengthExceeded,
    EngineError,
    EngineHooks,
    EngineManager,
    EngineRequest,
    Health,
    Settings,
    TokenEstimate,
    hookimpl,
)
from support.fake_engines import FakeLauncher, FakeRegistry

HELLO = EngineRequest("/v1/chat/completions", {"messages": [], "max_tokens": 10})
SHORT = EngineRequest("/v1/chat/completions", {"messages": [], "max_tokens": 1, "user": "short"})


class Tokenizer:
    """An engine of which every request has 20 to 200 tokens by bounds; ``exact`` is the truth."""

    def __init__(self, exact: int | None = 50) -> None:
        self.exact = exact
        self.asked: list[str] = []

    @hookimpl
    def build_command(self, variant):
        return Command([variant.model])

    @hookimpl
    async def check_health(self, engine):
        return Health("ready")

    @hookimpl
    def estimate_tokens(self, request):
        return TokenEstimate(1, 2) if "user" in request.body else TokenEstimate(20, 200)

    @hookimpl
    async def count_tokens(self, request, engine):
        self.asked.append(engine.variant.name)
        if self.exact is None:
            raise EngineError("no tokenizer today")
        return self.exact


@pytest.fixture
def launcher() -> FakeLauncher:
    return FakeLauncher()


def managing(launcher: FakeLauncher, tokenizer: Tokenizer) -> EngineManager:
    registry = FakeRegistry(launcher)
    registry._fake = EngineHooks(tokenizer, "fake")
    sizes = {"small": 64, "middle": 128, "large": 512}
    variants = {name: {"context_length": size} for name, size in sizes.items()}
    settings = Settings(
        models={"m": {"engine": "fake", "variants": variants}}, defaults={"min_residency": 0}
    )
    return EngineManager(settings, launchers=[launcher], registry=registry)


async def serve(manager: EngineManager, request: EngineRequest = HELLO) -> str:
    """The variant that got it."""
    async with await manager.acquire(request, "m") as lease:
        return lease.client.variant.name


async def test_a_count_of_the_small_variant_that_runs_saves_the_swap_to_the_large_one(launcher):
    tokenizer = Tokenizer(exact=50)
    async with managing(launcher, tokenizer) as manager:
        assert await serve(manager, SHORT) == "small"
        assert tokenizer.asked == [], "its bounds decided"
        assert await serve(manager) == "small"
        assert tokenizer.asked == ["small"]
        assert launcher.launched == ["m"]


async def test_a_count_may_lead_to_a_variant_in_between(launcher):
    tokenizer = Tokenizer(exact=100)
    async with managing(launcher, tokenizer) as manager:
        await serve(manager, SHORT)
        assert await serve(manager) == "middle"
        assert await serve(manager, SHORT) == "middle", "it is there, and large enough"


async def test_nobody_is_asked_while_nothing_runs_or_while_the_large_one_does(launcher):
    tokenizer = Tokenizer(exact=50)
    async with managing(launcher, tokenizer) as manager:
        assert await serve(manager) == "large"
        assert await serve(manager) == "large"
    assert tokenizer.asked == []


async def test_an_engine_that_cannot_count_changes_nothing(launcher):
    tokenizer = Tokenizer(exact=None)
    async with managing(launcher, tokenizer) as manager:
        await serve(manager, SHORT)
        assert await serve(manager) == "large"
    assert tokenizer.asked == ["small"]


async def test_a_count_that_fits_nowhere_is_refused_with_the_exact_number(launcher):
    async with managing(launcher, Tokenizer(exact=600)) as manager:
        await serve(manager, SHORT)
        with pytest.raises(ContextLengthExceeded) as caught:
            await serve(manager)
        assert caught.value.prompt_tokens == 600
        assert [row.variant for row in manager.status()] == ["small"], "nothing was loaded for it"
