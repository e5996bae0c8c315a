"""A plugin's options through the pydantic model that it declares.

Knows: any pydantic model, and that an option which does nothing is a mistake. Does not know: which
plugin, or what the options mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from enginery.settings.explain import explain, unknown_key
from enginery.settings.places import Loc, Mark, Problem

__all__ = ["validate_options"]


def validate_options(
    model: type[BaseModel] | None, options: Any, at: Loc, marks: Mapping[Loc, Mark]
) -> tuple[Any, list[Problem]]:
    """Options as the plugin gets them, and what is wrong with them.

    Args:
        model: what ``variant_options`` returned; None accepts any mapping, which comes back copied.
        options: a mapping, or an instance of ``model``.
        at: where they are.
        marks: of the settings they are in, or of values from code.
    """
    if model is not None and isinstance(options, model):
        return options, []
    if not isinstance(options, Mapping):
        return options, [Problem(at, "needs a mapping of keys to values")]
    if model is None:
        return dict(options), []
    ignored = _ignored(model, options, at)
    try:
        return model.model_validate(dict(options)), ignored
    except ValidationError as error:
        return options, [*explain(error, model, marks, at=at, noun="option"), *ignored]


def _ignored(model: type[BaseModel], options: Mapping[str, Any], at: Loc) -> list[Problem]:
    """Options that the model would drop in silence, which is pydantic's default."""
    if model.model_config.get("extra", "ignore") != "ignore":
        return []
    known = [field.alias or name for name, field in model.model_fields.items()]
    accepted = {*known, *model.model_fields}
    return [
        Problem((*at, key), unknown_key(str(key), known, "option"), on_key=True)
        for key in options
        if key not in accepted
    ]
