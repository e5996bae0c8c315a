"""A llama-swap configuration as settings of ours, and what could not be carried over.

Pure. Knows: llama-swap's top level and which of it has a counterpart. Does not know: files, or a single
model (`llama_swap_models`). What is told is told once, at the place where it stands; what means the same
here is not told.

Source: llama-swap, ``config.example.yaml`` and ``internal/config`` (August 2026).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from enginery.importing.command_lines import without_comments
from enginery.importing.llama_swap_models import model_settings, peer_settings
from enginery.importing.macros import fill_macros, scope_of, unknown_macros
from enginery.importing.names import Names
from enginery.importing.remarks import EVERYWHERE, Reading
from enginery.settings import Loc, Problem

__all__ = ["Imported", "import_llama_swap"]

HEALTH_TIMEOUT = 120
LEAST_HEALTH_TIMEOUT = 15
UNLOAD_TIMEOUT = 10
"""llama-swap's defaults, in seconds."""

OUR_LOAD_CAP = 1800
LARGEST = 2**31

_CARRIED = frozenset(
    {
        *("apiKeys", "globalTTL", "groups", "healthCheckTimeout", "hooks", "macros", "matrix"),
        *("models", "peers", "routing", "selectors", "unloadTimeout"),
    }
)


@dataclass(frozen=True, slots=True)
class Imported:
    """The settings, as a file of ours says them, and the remarks: where, and what is not as it was."""

    settings: dict[str, Any]
    remarks: list[Problem]


def import_llama_swap(config: dict[str, Any]) -> Imported:
    """``config`` as settings; ``${env.NAME}`` stays, and is filled in when the settings are read.

    Never raises: what cannot be understood is a remark.
    """
    reading = Reading()
    macros = reading.mapping(config.get("macros"), ("macros",))
    top = {
        key: value if key in {"macros", "models"} else fill_macros(value, macros)
        for key, value in config.items()
    }
    reading.without_counterpart(top, EVERYWHERE, ())
    reading.unknown(top, _CARRIED | EVERYWHERE.keys(), ())
    given = {
        name: _filled(reading, name, model, macros)
        for name, model in reading.mapping(top.get("models"), ("models",)).items()
    }
    names = Names(reading, given)
    models = {
        names.of[name]: model_settings(reading, names.of[name], model, ("models", name))
        for name, model in given.items()
    }
    names.take_aliases(given, models)
    _peers(reading, names, top, models)
    _selectors(reading, names, top, models)
    _preloads(reading, names, top, models)
    _routing(reading, names, top, models)
    settings: dict[str, Any] = {}
    keys = [reading.text(key, ("apiKeys", i)) for i, key in enumerate(_keys(reading, top))]
    if any(keys):
        settings["server"] = {"api_keys": [key for key in keys if key]}
    settings["defaults"] = _defaults(reading, top)
    settings["models"] = models
    return Imported(settings, reading.remarks)


def _filled(reading: Reading, name: str, model: Any, macros: dict[str, Any]) -> dict[str, Any]:
    """One model with its macros filled in."""
    at: Loc = ("models", name)
    given = dict(reading.mapping(model, at))
    own = reading.mapping(given.pop("macros", None), (*at, "macros"))
    for key in ("cmd", "cmdStop"):
        if isinstance(given.get(key), str):
            given[key] = without_comments(given[key])
    scope = scope_of(name, macros, own)
    filled: dict[str, Any] = fill_macros(given, scope)
    filters = filled.get("filters")
    if isinstance(filters, dict) and isinstance(filters.get("setParamsByID"), dict):
        by_id = filters["setParamsByID"]
        filters["setParamsByID"] = {str(fill_macros(key, scope)): by_id[key] for key in by_id}
    for key, value in filled.items():
        for macro in dict.fromkeys(unknown_macros(value)):
            reading.note((*at, key), f"no macro {macro!r} is defined; it stays as it is written")
    return filled


def _keys(reading: Reading, top: dict[str, Any]) -> list[Any]:
    return reading.sequence(top.get("apiKeys"), ("apiKeys",))


def _defaults(reading: Reading, top: dict[str, Any]) -> dict[str, Any]:
    patience = reading.number(top.get("healthCheckTimeout"), ("healthCheckTimeout",))
    patience = HEALTH_TIMEOUT if patience is None else max(LEAST_HEALTH_TIMEOUT, patience)
    ttl = reading.number(top.get("globalTTL"), ("globalTTL",)) or 0
    stop = reading.number(top.get("unloadTimeout"), ("unloadTimeout",)) or UNLOAD_TIMEOUT
    found: dict[str, Any] = {"ttl": ttl, "stop_timeout": stop, "load_stall": patience}
    if patience > OUR_LOAD_CAP:
        found["load_cap"] = patience
    return found


def _peers(
    reading: Reading, names: Names, top: dict[str, Any], models: dict[str, dict[str, Any]]
) -> None:
    """Every model of a peer, called ``PEER/MODEL``, and its plain name where only one peer has it."""
    plain: dict[str, list[str]] = {}
    for peer, value in reading.mapping(top.get("peers"), ("peers",)).items():
        at: Loc = ("peers", peer)
        given = reading.mapping(value, at)
        listed = reading.sequence(given.get("models"), (*at, "models"))
        shared = peer_settings(reading, given, at)
        for i, item in enumerate(listed):
            where = (*at, "models", i)
            model = reading.text(item, where)
            if shared is None or not model:
                continue
            name = names.new(f"{peer}/{model}", where)
            if name is not None:
                models[name] = {**shared, "upstream_model": model}
                plain.setdefault(model, []).append(name)
    for model, found in plain.items():
        if len(found) == 1 and names.is_free(model):
            names.add_alias(model, models[found[0]], ("peers",))


def _selectors(
    reading: Reading, names: Names, top: dict[str, Any], models: dict[str, dict[str, Any]]
) -> None:
    """A selector's name becomes an alias of its first target."""
    for selector, value in reading.mapping(top.get("selectors"), ("selectors",)).items():
        at: Loc = ("selectors", selector)
        given = reading.mapping(value, at)
        targets = reading.sequence(given.get("targets"), (*at, "targets"))
        first = (
            names.known(reading.text(targets[0], (*at, "targets", 0)), models) if targets else None
        )
        if first is None:
            reading.note(at, "not carried over: its first target is no model here", on_key=True)
        elif names.add_alias(selector, models[first], at) and given.get("strategy") != "pin":
            reading.note(
                (*at, "strategy"),
                f"{selector} is an alias of {first}; other targets are not chosen by what is loaded",
            )


def _preloads(
    reading: Reading, names: Names, top: dict[str, Any], models: dict[str, dict[str, Any]]
) -> None:
    hooks = reading.mapping(top.get("hooks"), ("hooks",))
    reading.unknown(hooks, frozenset({"on_startup"}), ("hooks",))
    at: Loc = ("hooks", "on_startup")
    startup = reading.mapping(hooks.get("on_startup"), at)
    reading.unknown(startup, frozenset({"preload"}), at)
    for i, item in enumerate(reading.sequence(startup.get("preload"), (*at, "preload"))):
        where = (*at, "preload", i)
        name = names.known(reading.text(item, where).strip(), models)
        if name is None:
            reading.note(where, f"not carried over: there is no model {item!r}")
        else:
            models[name]["preload"] = True


_TOGETHER = (
    "not carried over: which engines run beside each other follows from `budget` and their sizes; "
    "without it one runs at a time"
)


def _routing(
    reading: Reading, names: Names, top: dict[str, Any], models: dict[str, dict[str, Any]]
) -> None:
    """Priorities are carried over; of groups only what holds anyway: one engine at a time."""
    routing = reading.mapping(top.get("routing"), ("routing",))
    router = reading.mapping(routing.get("router"), ("routing", "router"))
    settings = reading.mapping(router.get("settings"), ("routing", "router", "settings"))
    matrix = router.get("use") == "matrix"
    places: list[tuple[Loc, dict[str, Any]]] = [
        (("routing", "router", "settings"), settings),
        ((), top),
    ]
    for at, place in places:
        if place.get("matrix") is not None and (matrix or not at):
            reading.note((*at, "matrix"), _TOGETHER, on_key=True)
        if matrix and at:
            continue
        groups = reading.mapping(place.get("groups"), (*at, "groups"))
        for name, value in groups.items():
            _group(reading, reading.mapping(value, (*at, "groups", name)), (*at, "groups", name))
    _priorities(reading, names, routing, models)


def _priorities(
    reading: Reading, names: Names, routing: dict[str, Any], models: dict[str, dict[str, Any]]
) -> None:
    at: Loc = ("routing", "scheduler", "settings", "fifo", "priority")
    found = routing
    for depth, key in enumerate(at[1:], 2):
        found = reading.mapping(found.get(str(key)), at[:depth])
    for model, value in found.items():
        name, priority = (
            names.known(model, models),
            reading.number(value, (*at, model), least=-LARGEST),
        )
        if name is None:
            reading.note((*at, model), f"not carried over: there is no model {model!r}")
        elif priority is not None:
            models[name]["priority"] = priority


def _group(reading: Reading, group: dict[str, Any], at: Loc) -> None:
    if group.get("persistent") is True:
        text = "not carried over: with `budget`, `pin: true` of a model keeps it loaded"
        reading.note((*at, "persistent"), text, on_key=True)
    elif group.get("swap") is False or group.get("exclusive") is False:
        reading.note(at, _TOGETHER, on_key=True)
