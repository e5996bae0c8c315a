"""Who fits beside whom, over any machine."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from enginery.engine.placement import Resident, place

SIZES = st.dictionaries(st.sampled_from(["gpu0", "gpu1", "ram"]), st.integers(0, 10), max_size=3)
BUDGETS = st.fixed_dictionaries({"gpu0": st.integers(0, 20), "ram": st.integers(0, 20)})


@st.composite
def machines(draw) -> list[Resident]:
    return [
        Resident(
            id=f"m{index}",
            memory=draw(st.none() | SIZES),
            asleep_memory=draw(st.none() | st.just({}) | SIZES),
            leaving=draw(st.booleans()),
            pinned=draw(st.integers(0, 5)) == 0,
            leaked=draw(st.integers(0, 9)) == 0,
            busy=draw(st.booleans()),
            idle_s=draw(st.floats(0, 1000)),
            load_s=draw(st.floats(0, 100)),
        )
        for index in range(draw(st.integers(0, 5)))
    ]


def total(sizes: list[dict[str, int]]) -> dict[str, int]:
    return {
        device: sum(size.get(device, 0) for size in sizes) for device in ("gpu0", "gpu1", "ram")
    }


def within(sizes: list[dict[str, int]], budget: dict[str, int], need: dict[str, int]) -> bool:
    """On each device that ``need`` takes something of."""
    sums = total(sizes)
    return all(sums[device] <= budget.get(device, sums[device]) for device in need if need[device])


@given(SIZES, machines(), BUDGETS)
def test_what_fits_is_within_the_budget_on_every_device_that_it_uses(need, residents, budget):
    found = place(need, residents, budget)
    if found.fits:
        assert (found.stop, found.sleep, found.impossible) == ((), (), "")
        assert all(one.memory is not None for one in residents)
        assert within([need, *(one.memory for one in residents)], budget, need)


@given(SIZES, machines(), BUDGETS)
def test_once_the_victims_are_gone_it_fits(need, residents, budget):
    found = place(need, residents, budget)
    if found.fits or found.impossible:
        return
    left = []
    for one in residents:
        if one.leaving or one.id in found.stop:
            continue
        left.append(replace(one, memory=one.asleep_memory) if one.id in found.sleep else one)
    assert place(need, left, budget).fits


@given(SIZES, machines(), BUDGETS)
def test_no_victim_is_taken_without_need_and_none_that_may_not_go(need, residents, budget):
    found = place(need, residents, budget)
    by_id = {one.id: one for one in residents}
    victims = [by_id[name] for name in (*found.stop, *found.sleep)]
    assert not any(one.pinned or one.leaked or one.leaving for one in victims)
    if found.fits or found.impossible:
        return
    staying = [one for one in residents if not one.leaving]
    for spared in victims:
        left = [one for one in staying if one not in victims or one is spared]
        assert not place(need, left, budget).fits, f"{spared.id} need not go"


@given(machines())
def test_without_a_budget_it_is_alone_but_for_sleepers(residents):
    found = place({"gpu0": 1}, residents, None)
    assert found.fits == (not residents)
    sleepers = [replace(one, asleep=True, leaked=False, pinned=False) for one in residents]
    assert place({"gpu0": 1}, sleepers, None).fits


@given(machines(), BUDGETS)
def test_of_unknown_size_it_is_alone(residents, budget):
    assert place(None, residents, budget).fits == (not residents)


def test_idle_ones_go_before_busy_ones_and_those_lost_most_cheaply_first():
    residents = [
        Resident("busy", {"gpu0": 5}, busy=True, idle_s=0.0),
        Resident("slow to load", {"gpu0": 5}, idle_s=100.0, load_s=100.0),
        Resident("quick to load", {"gpu0": 5}, idle_s=100.0, load_s=1.0),
    ]
    assert place({"gpu0": 5}, residents, {"gpu0": 15}).stop == ("quick to load",)
    assert set(place({"gpu0": 10}, residents, {"gpu0": 15}).stop) == {
        "quick to load",
        "slow to load",
    }


def test_what_was_promised_to_an_earlier_one_is_not_given_away():
    assert not place({"gpu0": 5}, [], {"gpu0": 8}, [{"gpu0": 4}]).fits
    assert place({"gpu0": 4}, [], {"gpu0": 8}, [{"gpu0": 4}]).fits
    assert not place({"gpu0": 1}, [], {"gpu0": 8}, [None]).fits


def test_what_is_short_on_another_device_is_in_nobodys_way():
    budget = {"gpu0": 8, "gpu1": 8}
    crowded = [Resident("a", {"gpu0": 8}, busy=True), Resident("b", {"gpu0": 8}, pinned=True)]
    assert place({"gpu1": 8}, crowded, budget, [{"gpu0": 5}]).fits
    one = Resident("sleepy", {"gpu1": 6}, asleep_memory={"ram": 6})
    need = {"gpu1": 4}
    assert place(need, [one], {**budget, "ram": 6}).sleep == ("sleepy",)
    assert place(need, [one], {**budget, "ram": 5}).stop == ("sleepy",), "its nap has no room"


def test_a_device_without_a_budget_is_not_limited():
    assert place({"gpu7": 10**12}, [], {"gpu0": 1}).fits
