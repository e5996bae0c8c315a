"""Discovery: which distributions offer which engine_type, and loading one when it is asked for.

Knows: entry points, allow and deny lists, what went wrong with whom. Does not know: settings (the
lists come as plain values) or how hooks are called. Nothing is imported until its engine_type is
used, so a broken plugin harms nobody and fifty installed ones cost one scan of metadata.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import StrEnum

import importlib_metadata

from enginery.errors import EngineryError, PluginError
from enginery.plugins.checks import IncompatibleAPI, check_api_version
from enginery.plugins.hooks import EngineHooks

__all__ = ["ENTRY_POINT_GROUP", "PluginRegistry", "PluginRow", "PluginState"]

ENTRY_POINT_GROUP = "enginery.engines"
_FRAMEWORK = "enginery"
_FIRST_PARTY = {
    "openai": "enginery",
    "llama.cpp": "enginery-llamacpp",
    "mock": "enginery-mock",
    "vllm": "enginery-vllm",
}
"""engine_types that only one distribution may claim; others go to the first by name."""

log = logging.getLogger("enginery.plugins")


class PluginState(StrEnum):
    """What ``enginery plugins`` says of one entry point."""

    READY = "ready"
    BROKEN = "broken"
    BLOCKED = "blocked"
    INCOMPATIBLE = "incompatible"
    DUPLICATE = "duplicate"
    FOUND = "found"
    """Installed and allowed, not imported yet."""


@dataclass(frozen=True, slots=True)
class PluginRow:
    """One entry point: who offers which engine_type, and whether it can be used."""

    engine_type: str
    distribution: str
    version: str
    state: PluginState = PluginState.FOUND
    reason: str = ""
    api_version: tuple[int, int] | None = None
    hooks: tuple[str, ...] = ()


@dataclass(slots=True)
class _Found:
    row: PluginRow
    entry_point: importlib_metadata.EntryPoint
    hooks: EngineHooks | None = None
    error: BaseException | None = None


class PluginRegistry:
    """The installed engine plugins.

    Args:
        allow: distribution names that may be loaded; empty allows all. The framework itself always
            may.
        deny: distribution names that may not, whatever ``allow`` says.
        path: where to look for distributions; None is ``sys.path``.
    """

    def __init__(
        self,
        allow: Iterable[str] = (),
        deny: Iterable[str] = (),
        *,
        path: Sequence[str] | None = None,
    ) -> None:
        self._allow = {_normalized(name) for name in allow}
        self._deny = {_normalized(name) for name in deny}
        self.on_trouble: Callable[[PluginRow], None] = lambda _: None
        """Called when a plugin that somebody asked for turns out to be unusable."""
        self._found = self._discover(path)

    def engine_types(self) -> list[str]:
        """Names that can be asked for, sorted; blocked and duplicate ones are not among them."""
        return sorted(
            {f.row.engine_type for f in self._found if f.row.state is PluginState.FOUND}
            | {f.row.engine_type for f in self._found if f.row.state is PluginState.READY}
        )

    def hooks(self, engine_type: str) -> EngineHooks:
        """The hooks of ``engine_type``; its plugin is imported at the first call.

        Raises:
            PluginError: no such engine_type, or its plugin is blocked, broken or incompatible.
        """
        rows = [found for found in self._found if found.row.engine_type == engine_type]
        for found in rows:
            if found.row.state in {PluginState.FOUND, PluginState.READY}:
                self._load(found)
                if found.hooks is not None:
                    return found.hooks
        usable = [f for f in rows if f.row.state is not PluginState.DUPLICATE] or rows
        if usable:
            row = usable[0].row
            raise PluginError(
                f"engine {engine_type!r} of {row.distribution} {row.version} "
                f"is {row.state}: {row.reason}"
            ) from usable[0].error
        known = sorted({f.row.engine_type for f in self._found})
        near = get_close_matches(engine_type, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"installed: {', '.join(known)}"
        raise PluginError(f"no plugin for engine {engine_type!r}; {hint}", param="engine")

    def rows(self, *, load: bool = True) -> list[PluginRow]:
        """Every entry point with its state, sorted by engine_type; ``load`` imports those allowed."""
        while load and (waiting := [f for f in self._found if f.row.state is PluginState.FOUND]):
            for found in waiting:
                self._load(found)
        return sorted((f.row for f in self._found), key=lambda r: (r.engine_type, r.distribution))

    # -- finding -------------------------------------------------------------------------------

    def _discover(self, path: Sequence[str] | None) -> list[_Found]:
        found = []
        seen: set[str] = set()
        where = {} if path is None else {"path": list(path)}
        for distribution in importlib_metadata.distributions(**where):
            try:
                name = _normalized(distribution.metadata["Name"])
                if name in seen:  # an earlier entry of sys.path hides this one
                    continue
                seen.add(name)
                points = distribution.entry_points.select(group=ENTRY_POINT_GROUP)
                version = distribution.version
            except Exception as error:  # noqa: BLE001  # a half-removed distribution must not stop the others
                log.debug("unreadable distribution skipped: %s", error)
                continue
            found += [_Found(PluginRow(point.name, name, version), point) for point in points]
        self._settle(found)
        return found

    def _settle(self, found: list[_Found]) -> None:
        """Blocked ones out first, then one owner per engine_type."""
        owner: dict[str, str] = {}
        for item in sorted(found, key=lambda f: f.row.distribution):
            row = item.row
            reason = self._blocked(row.distribution)
            reserved = _FIRST_PARTY.get(row.engine_type, row.distribution)
            if reason:
                item.row = replace(row, state=PluginState.BLOCKED, reason=reason)
            elif reserved != row.distribution:
                item.row = replace(
                    row,
                    state=PluginState.DUPLICATE,
                    reason=f"engine {row.engine_type!r} is reserved for {reserved}",
                )
            elif row.engine_type in owner:
                item.row = replace(
                    row,
                    state=PluginState.DUPLICATE,
                    reason=f"engine {row.engine_type!r} is taken by {owner[row.engine_type]}; "
                    "deny one of the two",
                )
            else:
                owner[row.engine_type] = row.distribution

    def _blocked(self, distribution: str) -> str:
        if distribution == _FRAMEWORK:
            return ""
        if distribution in self._deny:
            return "on the deny list (plugins.deny)"
        if self._allow and distribution not in self._allow:
            return "not on the allow list (plugins.allow)"
        return ""

    # -- loading -------------------------------------------------------------------------------

    def _load(self, found: _Found) -> None:
        if found.hooks is not None:
            return
        row = found.row
        state = PluginState.BROKEN
        try:
            plugin = found.entry_point.load()
            if isinstance(plugin, type):
                plugin = plugin()
            module = sys.modules.get(found.entry_point.module)
            api = check_api_version(plugin, module)
            found.hooks = EngineHooks(
                plugin,
                row.engine_type,
                row.distribution,
                command_required=row.distribution != _FRAMEWORK,
                allow=sorted(self._allow),
                deny=sorted(self._deny),
            )
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  # SystemExit at import is one plugin's fault, not ours
            if isinstance(error, IncompatibleAPI):
                state = PluginState.INCOMPATIBLE
            found.error = error
            found.row = replace(row, state=state, reason=_why(error))
            self._promote_next(row.engine_type)
            self.on_trouble(found.row)
            log.warning("plugin %s is %s: %s", row.distribution, state, found.row.reason)
        else:
            found.row = replace(
                row, state=PluginState.READY, api_version=api, hooks=found.hooks.implemented
            )

    def _promote_next(self, engine_type: str) -> None:
        """A plugin that cannot be used does not keep its engine_type from one that can."""
        for other in sorted(self._found, key=lambda f: f.row.distribution):
            row = other.row
            taken = row.state is PluginState.DUPLICATE and row.engine_type == engine_type
            if taken and engine_type not in _FIRST_PARTY:
                other.row = replace(row, state=PluginState.FOUND, reason="")
                return


def _why(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    first = text[0] if text else ""
    if isinstance(error, EngineryError):
        return first
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _normalized(name: str) -> str:
    """A distribution's name as PyPI compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
