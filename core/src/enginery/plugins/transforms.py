"""A plugin's `ResponseTransform` behind the boundary, and JSON of what plugins made.

Knows: that a transform is foreign code, which may raise anything and return anything, and that the framework's
errors pass. Does not know: who gets the reply. `EngineHooks.transform_response` hands out nothing else, so
whoever relays a reply meets no exceptions but ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from enginery.errors import EngineryError, PluginError
from enginery.values import JSONObject, ResponseTransform

__all__ = ["CheckedTransform", "encode_made"]

T = TypeVar("T")


class CheckedTransform:
    """A `ResponseTransform` that raises `EngineryError` only, and returns what it should.

    Args:
        transform: the plugin's.
        who: the plugin, for error messages.
    """

    def __init__(self, transform: ResponseTransform, who: str) -> None:
        self._transform = transform
        self._who = who

    def reply(self, body: JSONObject) -> JSONObject:
        """See `ResponseTransform`. Raises PluginError for what the plugin got wrong, as the others do."""
        return self._checked("reply", dict, lambda: self._transform.reply(body))

    def chunk(self, body: JSONObject) -> list[JSONObject]:
        """See `ResponseTransform`."""
        return self._checked("chunk", list, lambda: self._transform.chunk(body))

    def end(self) -> list[JSONObject]:
        """See `ResponseTransform`."""
        return self._checked("end", list, lambda: self._transform.end())  # noqa: PLW0108  # it may be missing

    def _checked(self, name: str, kind: type[T], call: Callable[[], T]) -> T:
        try:
            made = call()
        except EngineryError:
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"{self._who}: {name} of its transform raised {type(error).__name__}: {error}"
            ) from error
        if not isinstance(made, kind):
            raise PluginError(
                f"{self._who}: {name} of its transform returned {type(made).__name__}, not {kind.__name__}"
            )
        return made


def encode_made(body: JSONObject) -> bytes:
    """A body that a plugin made, as JSON.

    Raises:
        PluginError: it holds what JSON has no form for.
    """
    try:
        return msgspec.json.encode(body)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise PluginError(f"a plugin made a body that is no JSON: {error}") from error
