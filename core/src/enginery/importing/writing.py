"""Settings as YAML text that reads back as what they were.

Knows: which texts need quotes for our own reader, whose plain scalars are JSON's and not YAML 1.1's. Does
not know: what a setting means.
"""

from __future__ import annotations

from typing import Any

import yaml

from enginery.settings.document import plain_value

__all__ = ["as_yaml"]


class _Dumper(yaml.SafeDumper):
    """Quotes whatever a plain scalar would turn into something else; writes no anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # PyYAML's name
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    plain = plain_value(value)
    style = None if isinstance(plain, str) and "{" not in value else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def as_yaml(settings: dict[str, Any]) -> str:
    """The text of a settings file; keys keep their order."""
    return yaml.dump(
        settings, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100, indent=2
    )
