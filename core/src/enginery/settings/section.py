"""What every mapping of settings has in common: no unknown keys, frozen, and nothing means absent.

Knows: how a mapping with known keys is read. Does not know: any setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

__all__ = ["Section", "empty_if_null", "without_nulls"]


def without_nulls(cls: type[BaseModel], value: Any) -> Any:
    """A key with nothing behind it, ``args:``, counts as not given; unknown keys stay to be found."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return {k: v for k, v in value.items() if v is not None or k not in cls.model_fields}
    return value


def empty_if_null(value: Any) -> Any:
    """For mappings of free keys: ``options:`` is ``options: {}``."""
    return {} if value is None else value


class Section(BaseModel):
    """A mapping of known keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        return without_nulls(cls, value)
