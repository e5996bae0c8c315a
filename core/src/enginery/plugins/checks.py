"""What is wrong with a plugin, in words its author can act on.

Knows: how an implementation may look. Does not know: where it was found. pluggy itself drops
defaulted parameters in silence and never sees an unmarked function, so both are looked for here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from enginery.errors import PluginError
from enginery.hookspecs import API_VERSION, PROJECT, EngineSpec

__all__ = ["HOOK_NAMES", "IncompatibleAPI", "check_api_version", "check_plugin"]

HOOK_NAMES: tuple[str, ...] = tuple(
    name
    for name, value in vars(EngineSpec).items()
    if inspect.isfunction(value) and hasattr(value, PROJECT + "_spec")
)
ONE_OF = ("build_command", "create_backend")


class IncompatibleAPI(PluginError):
    """The plugin was written for another version of the contract."""


def check_api_version(plugin: object, module: object) -> tuple[int, int]:
    """The plugin's API version; one that does not say counts as (1, 0).

    Raises:
        IncompatibleAPI: another major version, or a minor that we do not have yet.
    """
    found: Any = getattr(plugin, "API_VERSION", None) or getattr(module, "API_VERSION", (1, 0))
    try:
        major, minor = (int(part) for part in found)
    except (TypeError, ValueError):
        raise IncompatibleAPI(f"API_VERSION must be two integers, got {found!r}") from None
    if major != API_VERSION[0] or minor > API_VERSION[1]:
        ours = ".".join(map(str, API_VERSION))
        raise IncompatibleAPI(
            f"written for plugin API {major}.{minor}, this enginery has {ours}: "
            f"install a release of the plugin for API {API_VERSION[0]}"
        )
    return major, minor


def check_plugin(plugin: object, *, command_required: bool = True) -> tuple[str, ...]:
    """The hooks that ``plugin`` implements, in the contract's order.

    Args:
        plugin: the module or object that holds the hooks.
        command_required: False only for the framework's own engine_type.

    Raises:
        PluginError: what is wrong, naming the function and the way out.
    """
    implemented = []
    for name, function in _functions(plugin):
        marked = getattr(function, PROJECT + "_impl", None) is not None
        if not marked and inspect.ismodule(plugin) and function.__module__ != plugin.__name__:
            continue  # imported into the module, `from time import sleep` say
        if marked and name not in HOOK_NAMES:
            near = get_close_matches(name, HOOK_NAMES, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; hooks: {', '.join(HOOK_NAMES)}"
            raise PluginError(f"{name} is marked with @hookimpl but is no hook{hint}")
        if name in HOOK_NAMES:
            if not marked:
                raise PluginError(
                    f"{name} is named like a hook but not marked: put @hookimpl above it"
                )
            _check_parameters(name, function)
            implemented.append(name)
    if command_required and not set(ONE_OF) & set(implemented):
        raise PluginError(f"implements neither of {' and '.join(ONE_OF)}: it needs one")
    return tuple(name for name in HOOK_NAMES if name in implemented)


def _functions(plugin: object) -> list[tuple[str, Callable[..., Any]]]:
    """Functions and methods of a plugin, without running properties."""
    found: list[tuple[str, Callable[..., Any]]] = []
    for name in dir(plugin):
        if name.startswith("_"):
            continue
        static = inspect.getattr_static(plugin, name, None)
        if isinstance(static, property):
            continue
        value = getattr(plugin, name, None)
        if inspect.isroutine(value):
            found.append((name, value))
    return found


def _check_parameters(name: str, function: Callable[..., Any]) -> None:
    allowed = [p for p in inspect.signature(getattr(EngineSpec, name)).parameters if p != "self"]
    signature = f"{name}({', '.join(allowed)})"
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            reason = "is keyword-only"
        elif parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            reason = "takes any number of values"
        elif parameter.default is not parameter.empty:
            reason = "has a default, and would never be passed"
        elif parameter.name not in allowed:
            reason = "is not one of the hook's"
        else:
            continue
        raise PluginError(
            f"{name}: parameter {parameter.name!r} {reason}; declare plain parameters of {signature}"
        )
