"""Whether an engine fits beside those that run, and who should make room if not. Pure.

Knows: bytes per device, a budget, who may go. Does not know: states, queues or when somebody may be asked to
go. Without a budget, or with an engine whose memory is unknown, the rule is "alone": sizes that nobody knows
cannot be added up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Bytes", "Placement", "Resident", "place"]

Bytes = Mapping[str, int]
"""Device name to bytes."""


@dataclass(frozen=True, slots=True)
class Resident:
    """One engine that holds memory.

    Args:
        id: the instance.
        memory: bytes per device that it holds now; None: unknown.
        asleep_memory: what it would still hold asleep; None: it cannot sleep, or it sleeps already.
        leaving: it is on its way out; its memory comes back without anybody's doing.
        asleep: it sleeps.
        pinned: it never makes room.
        leaked: it would not die; nothing new is put on its devices.
        busy: it has work, or is wanted.
        idle_s: seconds without work.
        load_s: seconds that it took to load.
        note: what else there is to say of it, for errors.
    """

    id: str
    memory: Bytes | None
    asleep_memory: Bytes | None = None
    leaving: bool = False
    asleep: bool = False
    pinned: bool = False
    leaked: bool = False
    busy: bool = False
    idle_s: float = 0.0
    load_s: float = 1.0
    note: str = ""

    @property
    def eviction_order(self) -> tuple[bool, float]:
        """Idle ones first; then the least lost: long idle and quick to load again."""
        return (self.busy, -self.idle_s / max(self.load_s, 0.1))


@dataclass(frozen=True, slots=True)
class Placement:
    """The answer for one engine.

    Args:
        fits: it can start now.
        stop: instances that should stop to make room, the cheapest loss first.
        sleep: instances for which sleeping is enough.
        impossible: why no eviction would help; empty when one would.
    """

    fits: bool = False
    stop: tuple[str, ...] = ()
    sleep: tuple[str, ...] = ()
    impossible: str = ""


def place(
    need: Bytes | None,
    residents: Sequence[Resident],
    budget: Bytes | None,
    reserved: Iterable[Bytes | None] = (),
) -> Placement:
    """Find room for one engine.

    Args:
        need: bytes per device; None: unknown, so it runs alone.
        residents: everybody else who holds memory.
        budget: bytes per device that may be used; devices not named are not limited; None: one engine at a
            time (engines that sleep may stay).
        reserved: what earlier ones in the queue have been promised.
    """
    if budget is None or need is None or None in (promised := list(reserved)):
        return _alone([r for r in residents if not (budget is None and r.asleep)], budget, reserved)
    for device, size in need.items():
        if size > budget.get(device, size):
            return Placement(
                impossible=f"it needs {_size(size)} on {device}, the budget is {_size(budget[device])}"
            )
    for one in residents:
        if one.leaked and (one.memory is None or _meet(one.memory, need)):
            return Placement(impossible=_undead(one))
    # what is short elsewhere is others' affair: they wait for it, and this one does not wait for them
    touched = _devices(need)
    fixed = [one.memory for one in residents if one.pinned or one.leaked]
    if not _fits([need, *fixed], budget, touched):
        names = ", ".join(one.id for one in residents if one.pinned or one.leaked)
        return Placement(impossible=f"it does not fit beside {names}, which never make room")
    if _fits([need, *promised, *(one.memory for one in residents)], budget, touched):
        return Placement(fits=True)
    return _evict([need, *promised], residents, budget, touched)


def _alone(
    against: Sequence[Resident], budget: Bytes | None, reserved: Iterable[Bytes | None]
) -> Placement:
    for one in against:
        if one.leaked:
            return Placement(impossible=_undead(one))
        if one.pinned:
            return Placement(impossible=f"{one.id} is pinned, and there is no room beside it")
    if not against:
        return Placement(fits=not list(reserved))
    going = sorted((one for one in against if not one.leaving), key=lambda r: r.eviction_order)
    # without a budget a sleeper is in nobody's way; with one, nothing may stay beside the unknown
    sleepers = tuple(r.id for r in going if budget is None and r.asleep_memory is not None)
    return Placement(stop=tuple(r.id for r in going if r.id not in sleepers), sleep=sleepers)


def _evict(
    wanted: Sequence[Bytes | None],
    residents: Sequence[Resident],
    budget: Bytes,
    touched: frozenset[str],
) -> Placement:
    staying = [one for one in residents if not one.leaving]
    candidates = sorted(
        (one for one in staying if not one.pinned and not one.leaked),
        key=lambda one: one.eviction_order,
    )
    victims: list[Resident] = []
    for one in candidates:
        if _fits([*wanted, *_left(staying, victims)], budget, touched):
            break
        victims.append(one)
    for one in reversed(victims[:]):  # the dearest first: perhaps the others are enough
        fewer = [victim for victim in victims if victim is not one]
        if _fits([*wanted, *_left(staying, fewer)], budget, touched):
            victims = fewer
    asleep: list[Resident] = []
    for one in victims:
        if one.asleep_memory is not None:
            naps = [other.asleep_memory for other in (*asleep, one)]
            moved = touched.union(*map(_devices, naps))  # a nap may take what being awake did not
            if _fits([*wanted, *_left(staying, victims), *naps], budget, moved):
                asleep.append(one)
    return Placement(
        stop=tuple(one.id for one in victims if one not in asleep),
        sleep=tuple(one.id for one in asleep),
    )


def _left(staying: Sequence[Resident], victims: Sequence[Resident]) -> list[Bytes | None]:
    return [one.memory for one in staying if one not in victims]


def _devices(size: Bytes | None) -> frozenset[str]:
    return frozenset(device for device, count in (size or {}).items() if count)


def _fits(sizes: Iterable[Bytes | None], budget: Bytes, devices: frozenset[str]) -> bool:
    """True when all are known and their sum is within the budget on each of ``devices``."""
    total: dict[str, int] = {}
    for size in sizes:
        if size is None:
            return False
        for device, count in size.items():
            total[device] = total.get(device, 0) + count
    return all(
        total[device] <= budget.get(device, total[device]) for device in devices & total.keys()
    )


def _undead(one: Resident) -> str:
    return f"{one.id} would not die and still holds its memory: {one.note}"


def _meet(one: Bytes, other: Bytes) -> bool:
    return any(one.get(device, 0) and other.get(device, 0) for device in one)


def _size(count: int) -> str:
    """Bytes for a person."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
