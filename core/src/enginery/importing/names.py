"""Names of models and aliases: what llama-swap allows and we do not, and what is taken.

Knows: which names the imported settings have. Does not know: where they come from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from enginery.importing.remarks import Reading
from enginery.settings import Loc, check_model_name

__all__ = ["Names"]

_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9_.:/@+-]+")


class Names:
    """The names that are taken.

    Args:
        reading: gets the remarks.
        models: llama-swap's models by name.

    Attributes:
        of: what each of ``models`` is called here.
    """

    def __init__(self, reading: Reading, models: Mapping[str, Any]) -> None:
        self._reading = reading
        self._aliases: dict[str, dict[str, Any]] = {}
        self._taken = {name for name in models if _is_name(name)}
        self.of = {name: self._called(name, ("models", name)) for name in models}

    def is_free(self, name: str) -> bool:
        """True where neither a model nor an alias has it."""
        return name not in self._taken

    def new(self, name: str, at: Loc) -> str | None:
        """What a further model ``name`` is called; None, and a remark, where it is taken."""
        if name in self._taken:
            self._reading.note(at, f"not carried over: the name {name} is taken")
            return None
        self.of[name] = self._called(name, at)
        return self.of[name]

    def known(self, name: str, models: Mapping[str, Any]) -> str | None:
        """The model with that name or alias in the configuration; None: there is none."""
        if name in self.of:
            return self.of[name]
        settings = self._aliases.get(name)
        return next((key for key, value in models.items() if value is settings), None)

    def add_alias(self, alias: str, settings: dict[str, Any], at: Loc) -> bool:
        """Give the model of ``settings`` one more name; False, and a remark, where that cannot be."""
        if self._aliases.get(alias) is settings:
            return True
        if not _is_name(alias):
            self._reading.note(at, f"not carried over: {alias!r} cannot be a model's name here")
        elif alias in self._taken:
            self._reading.note(at, f"not carried over: the name {alias} is taken")
        else:
            self._taken.add(alias)
            self._aliases[alias] = settings
            settings.setdefault("aliases", []).append(alias)
            return True
        return False

    def take_aliases(
        self, given: Mapping[str, dict[str, Any]], models: Mapping[str, dict[str, Any]]
    ) -> None:
        """The aliases that each model lists, then those that stand in ``setParamsByID``."""
        for name, model in given.items():
            at: Loc = ("models", name, "aliases")
            for i, alias in enumerate(self._reading.sequence(model.get("aliases"), at)):
                where = (*at, i)
                self.add_alias(self._reading.text(alias, where), models[self.of[name]], where)
        for name, model in given.items():
            filters = model.get("filters")
            by_id = filters.get("setParamsByID") if isinstance(filters, dict) else None
            for alias in by_id if isinstance(by_id, dict) else ():
                if alias != name:
                    at = ("models", name, "filters", "setParamsByID")
                    self.add_alias(alias, models[self.of[name]], at)

    def _called(self, name: str, at: Loc) -> str:
        if _is_name(name):
            self._taken.add(name)
            return name
        stem = _NOT_ALLOWED.sub("-", name).lstrip("_.:/@+-")[:190] or "model"
        number, found = 1, stem
        while found in self._taken:
            number += 1
            found = f"{stem}-{number}"
        self._taken.add(found)
        self._reading.note(
            at,
            f"called {found!r} here: a model's name starts with a letter or digit and holds letters, "
            "digits and _.:/@+-",
            on_key=True,
        )
        return found


def _is_name(name: str) -> bool:
    try:
        check_model_name(name)
    except ValueError:
        return False
    return True
