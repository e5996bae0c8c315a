"""All that is wrong with settings, in one go: what is wrong is set aside, and the rest is looked at again.

Knows: that some rules are only asked once all values are what they should be (names that are taken twice, fields beside
`variants`, plugins' options), and that what was set aside makes other things look wrong that are not. Does not know:
plugins. Only for showing: nothing runs with settings that were mended so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from enginery.settings.loading import read_layers
from enginery.settings.places import Loc, Mark, Problem, WrongSettings
from enginery.settings.schema import Defaults, ModelSettings, Settings

__all__ = ["Survey", "survey"]

_SAY_HOW_IT_RUNS = frozenset(
    {"api_key", "args", "binary", "env", "listen", "stop_argv", "url", "work_dir"}
)


@dataclass(frozen=True, slots=True)
class Survey:
    """What there is and what is wrong with it.

    Args:
        settings: what is left without that; None: too little to go on with.
        problems: what is wrong.
        marks: where everything stands.
        aside: what was set aside.
    """

    settings: Settings | None
    problems: tuple[Problem, ...] = ()
    marks: Mapping[Loc, Mark] = field(default_factory=dict)
    aside: frozenset[Loc] = frozenset()

    @property
    def knows_plugins(self) -> bool:
        """False where nobody can tell which plugins may be loaded."""
        return not any(loc[:1] == ("plugins",) for loc in self.aside)

    def is_certain(self, problem: Problem) -> bool:
        """Whether what was found in a model of `settings` is wrong with what was written, too."""
        if _touches(problem.loc, self.aside):
            return False
        name = problem.loc[1]
        lost = {f for loc in self.aside if loc[:2] == ("models", name) for f in _fields(loc[2:])}
        unknown = lost - ModelSettings.model_fields.keys()
        if "variants" in lost or not self._knows_engine(str(name), bool(unknown), lost):
            return False
        if "options" in problem.loc[2:]:  # an unknown key may be the one that is missing there
            return not unknown or problem.loc in self.marks
        return not unknown and not lost & _SAY_HOW_IT_RUNS

    def _knows_engine(self, name: str, unknown: bool, lost: Collection[str]) -> bool:
        assert self.settings is not None
        if self.settings.models[name].engine is not None:
            return True
        if unknown or "engine" in lost:
            return False
        if ("defaults", "engine") in self.marks:
            return not _touches(("defaults", "engine"), self.aside)
        defaults = {str(loc[1]) for loc in self.aside if loc[:1] == ("defaults",) and loc[1:]}
        return ("defaults",) not in self.aside and defaults <= Defaults.model_fields.keys()


def survey(path: str | Path | None = None, environ: Mapping[str, str] | None = None) -> Survey:
    """As `load_settings`, but for what is wrong.

    Raises:
        ConfigError: the named file cannot be read at all.
    """
    layers, file = read_layers(path, None, environ)
    found: list[Problem] = []
    marks: Mapping[Loc, Mark] = {}
    aside: set[Loc] = set()
    while True:
        try:
            settings = Settings(_read=layers, _file=file)
        except WrongSettings as error:
            marks = marks or error.marks
            found += [problem for problem in error.problems if not _touches(problem.loc, aside)]
            form = {problem for layer in layers for problem in layer.problems}
            wrong = _to_set_aside(error.problems, form, [layer.values for layer in layers])
        else:
            return Survey(settings, tuple(found), marks or settings.marks, frozenset(aside))
        if not wrong and not form:
            return Survey(None, tuple(found), marks, frozenset(aside))
        if any(not problem.loc for problem in form):  # no YAML: there is nothing to go on with
            return Survey(None, tuple(found), marks)
        aside |= wrong
        layers = [replace(one, values=_without(one.values, wrong), problems=[]) for one in layers]


def _to_set_aside(
    problems: Iterable[Problem], form: Collection[Problem], values: Sequence[Mapping[str, Any]]
) -> set[Loc]:
    """The values at fault; of a list all of it, so that the others' numbers stay."""
    found: set[Loc] = set()
    for problem in problems:
        loc = _of_mappings(problem.loc)
        there = [value for layer in values for value in _at(layer, loc)]
        if problem in form and any(isinstance(value, Mapping) for value in there):
            continue  # it is about the document (a key given twice, say), and the value can be looked at
        while loc and not there:  # something is missing from the one above
            loc = loc[:-1]
            there = [value for layer in values for value in _at(layer, loc)]
        if loc:
            found.add(loc)
    return found


def _of_mappings(loc: Loc) -> Loc:
    numbers = [place for place, part in enumerate(loc) if isinstance(part, int)]
    return loc[: numbers[0]] if numbers else loc


def _at(values: Any, loc: Loc) -> list[Any]:
    """The value at ``loc``, if there is one."""
    for part in loc:
        if not isinstance(values, Mapping) or part not in values:
            return []
        values = values[part]
    return [values]


def _without(values: Mapping[str, Any], locs: Collection[Loc], at: Loc = ()) -> dict[str, Any]:
    return {
        key: _without(value, locs, (*at, key)) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if (*at, key) not in locs
    }


def _touches(loc: Loc, aside: Collection[Loc]) -> bool:
    """Whether it is one of ``aside``, within one, or around one."""
    return any(one[: len(loc)] == loc or loc[: len(one)] == one for one in aside)


def _fields(inside: Loc) -> list[str]:
    """The field of a model or of a variant that a loc inside the model is in; none: a whole variant."""
    if inside[:1] == ("variants",) and len(inside) > 1:
        return [str(part) for part in inside[2:3]]
    return [str(part) for part in inside[:1]]
