"""The failures that made other engine managers hang, against the scheduler: thousands of orders of events each.

Every test here plays one story many times in simulated time; what comes when, and how long things take, is drawn
anew each time from a fixed seed. `tests/chaos/test_known_failures.py` plays the same with real processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from enginery.engine.roster import Traits
from enginery.engine.scheduler import SchedulingLimits
from enginery.engine.seam import Action, Grant, Moved, Reject, Start
from enginery.errors import EngineQuarantined, EngineStartFailed, QueueFull
from enginery.lifecycle import State
from enginery.values import Memory
from support.world import MODELS, World

TIMES = 1000
QUICK = SchedulingLimits(max_wait=3.0, min_residency=0.5, drain_timeout=6.0, max_queue=512)


class Serving(World):
    """A world whose requests end by themselves, after ``hold`` seconds."""

    def __init__(
        self,
        random: Random,
        limits: SchedulingLimits = QUICK,
        traits: dict[str, Traits] | None = None,
        hold: tuple[float, float] = (0.01, 1.0),
    ) -> None:
        super().__init__(limits, traits)
        self.random = random
        self.hold = hold
        self.broken: set[str] = set()
        self.load_takes = random.uniform(0.05, 2.0)
        self.stop_takes = random.uniform(0.0, 0.5)

    def carry_out(self, action: Action) -> None:
        super().carry_out(action)
        if isinstance(action, Grant):
            self.at(self.random.uniform(*self.hold), lambda: self.end(action.request.id))

    def loaded(self, instance: str, generation: int, fails: bool) -> None:
        super().loaded(instance, generation, fails or instance.partition("/")[0] in self.broken)

    def end(self, request_id: int) -> None:
        if request_id in self.open:
            self.release(request_id)

    def waited(self, request_id: int) -> float:
        """Seconds until the lease; fails for one that never came."""
        answer = self.answers[request_id]
        assert isinstance(answer, Grant), answer
        return answer.queue_s + answer.swap_s

    def all_served(self, *request_ids: int) -> None:
        for request_id in request_ids:
            assert isinstance(self.answers[request_id], Grant)
            assert request_id not in self.evicted


def plays(story: str, times: int = TIMES) -> Iterator[Random]:
    """A source of chance for each play."""
    for number in range(times):
        yield Random(f"{story} {number}")


def test_a_request_within_50_ms_of_its_engines_idle_end_is_always_served():
    """Elsewhere the timer's decision met the request, and the model was dead for ever (llama-swap #946)."""
    for random in plays("ttl"):
        limit = random.uniform(0.2, 5.0)
        naps = Traits(sleep_level=1, sleep_after=limit, ttl=limit + random.choice([0.0, 0.03, 9.0]))
        world = World(traits={"a": random.choice([Traits(ttl=limit), naps])})
        world.load_takes, world.stop_takes = random.uniform(0.0, 1.0), random.uniform(0.0, 0.1)
        first = world.ask("a")
        world.advance(world.load_takes)
        world.release(first)
        expiry = world.now + limit
        asked = []
        for delay in sorted(random.uniform(-0.05, 0.05) for _ in range(random.randint(1, 5))):
            world.advance(expiry + delay - world.now)
            asked.append(world.ask("a"))
            if random.random() < 0.5 and asked[-1] in world.open:
                world.release(asked[-1])
        world.advance(5.0)
        assert all(isinstance(world.answers[request_id], Grant) for request_id in asked)
        assert not world.evicted


def test_a_victim_that_is_wanted_again_while_it_goes_blocks_neither_the_loader_nor_others():
    """Elsewhere one loop waited for a victim that new requests kept alive: hours without a load (ollama #17408)."""
    sizes = {"a": {"gpu0": 6}, "b": {"gpu0": 6}, "c": {"gpu1": 6}}
    budget = SchedulingLimits(
        max_wait=3.0, min_residency=0.5, drain_timeout=6.0, budget={"gpu0": 10, "gpu1": 10}
    )
    for random in plays("victim", TIMES // 2):
        traits = {model: Traits(memory=Memory(size)) for model, size in sizes.items()}
        world = Serving(random, budget, traits)
        world.bounded = False  # the bound is for one resident
        victim = world.ask("a")
        world.advance(world.load_takes + random.choice([0.0, 2.0]))
        loader = world.ask("b")
        others = []
        until = world.now + 12.0
        elsewhere = 0
        while world.now < until:
            world.advance(random.uniform(0.0, 0.4))
            others.append(world.ask("a"))
            if not elsewhere and random.random() < 0.3:
                elsewhere = world.ask("c")
        elsewhere = elsewhere or world.ask("c")
        world.advance(60.0)
        world.all_served(victim, loader, elsewhere, *others)
        assert world.waited(elsewhere) <= world.load_takes + 1e-6, "it is on another device"
        assert world.waited(loader) <= 3.0 + 0.5 + 6.0 + world.stop_takes + world.load_takes + 1e-6


def test_a_request_that_only_the_other_variant_fits_is_served_although_the_first_is_saturated_for_ever():
    """Elsewhere a busy small variant starved whoever needed the large one (ollama #14407)."""
    for random in plays("saturated", TIMES // 4):
        world = Serving(random, hold=(0.2, 4.0))
        world.ask(
            "a", others="d"
        )  # "a" and "d" are two variants: "d" takes what "a" takes, and more
        needs_the_large_one = 0
        for step in range(120):
            world.advance(random.uniform(0.0, 0.3))
            world.ask("a", others="d")
            if step == 20:
                needs_the_large_one = world.ask("d")
        bound = 3.0 + 0.5 + 6.0 + world.stop_takes + world.load_takes
        assert world.waited(needs_the_large_one) <= bound + 1e-6


def test_two_that_come_together_while_an_idle_engine_is_in_the_way_are_both_served():
    """Elsewhere both chose the same victim, and one waited for ever (llama.cpp #28443)."""
    for random in plays("together"):
        world = Serving(random)
        world.ask("a")
        world.advance(world.load_takes + 5.0)
        asked = []
        for model in random.sample("bcd", random.choice([2, 3])):
            asked.append(world.ask(model))
            world.advance(random.choice([0.0, 0.0, random.uniform(0.0, 0.01)]))
        world.advance(60.0)
        world.all_served(*asked)


def test_a_cold_models_request_is_answered_before_a_later_one_may_evict_it():
    """Elsewhere the model was loaded, and gone again before its own request was sent (llama.cpp #28698)."""
    for random in plays("own request first"):
        world = Serving(random, hold=(0.01, 5.0))
        cold = world.ask("a")
        world.advance(random.uniform(0.0, 0.2))
        later = [world.ask(model) for model in random.sample("bcd", random.randint(1, 3))]
        world.advance(200.0)
        world.all_served(cold, *later)
        granted = next(
            n for n, x in enumerate(world.log) if isinstance(x, Grant) and x.request.id == cold
        )
        leaves = next(
            n
            for n, x in enumerate(world.log)
            if isinstance(x, Moved) and x.variant == MODELS["a"] and x.before is State.READY
        )
        assert granted < leaves


def test_a_broken_model_that_is_polled_costs_one_start_per_back_off_and_others_do_not_notice():
    """Elsewhere every poll started it again, until the machine had no memory left (LocalAI #10719)."""
    for random in plays("broken", TIMES // 20):
        world = Serving(random, hold=(0.01, 0.2))
        world.load_takes = random.uniform(0.05, 0.3)
        world.broken.add("a")
        healthy = []
        while world.now < 40.0:
            world.ask("a")
            if random.random() < 0.1:
                healthy.append(world.ask("b"))
            world.advance(0.1)
        world.advance(1.0)
        starts = [x for x in world.log if isinstance(x, Start) and x.instance == "a/default"]
        assert 2 <= len(starts) <= 5, "after 1 + 2 + 4 + 8 s of back-off it is in quarantine"
        for answer in (world.answers[n] for n in world.answers if n not in healthy):
            assert isinstance(answer, Reject)
            assert isinstance(answer.error, EngineStartFailed | EngineQuarantined)
        world.all_served(*healthy)
        assert max(map(world.waited, healthy)) <= 2 * world.load_takes + world.stop_takes + 1e-6


def test_two_hundred_at_once_wait_and_only_those_over_the_bound_are_refused():
    """Elsewhere the eleventh request got 429 while the engine had slots (llama-swap)."""
    for random in plays("crowd", TIMES // 20):
        bound = random.choice([199, 200, 512])
        limits = SchedulingLimits(max_wait=30.0, max_queue=bound)
        world = Serving(random, limits)
        asked = [world.ask("a") for _ in range(200)]
        world.advance(world.load_takes + 2.0)
        refused = [n for n in asked if isinstance(world.answers[n], Reject)]
        assert len(refused) == max(0, 200 - bound)
        assert all(isinstance(world.answers[n].error, QueueFull) for n in refused)
        world.all_served(*(n for n in asked if n not in refused))


def test_a_small_request_uses_the_large_variant_that_is_there_and_nothing_is_loaded():
    """Elsewhere each change of the wanted context length loaded the model anew (ollama #12783)."""
    for random in plays("small on large", TIMES // 4):
        world = Serving(random)
        world.ask("d")
        world.advance(world.load_takes)
        small = []
        for _ in range(20):
            small.append(world.ask("a", others="d"))
            world.advance(random.uniform(0.0, 0.5))
        world.all_served(*small)
        assert [x.instance for x in world.log if isinstance(x, Start)] == ["d/default"]
