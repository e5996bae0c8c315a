"""The engine_type that the framework ships itself: any OpenAI-compatible server.

A variant brings everything: ``binary`` and ``args`` start the server, or ``url`` names a running
one. Every hook is the default, so this module has nothing to say.
"""

from enginery.hookspecs import API_VERSION as SPEC_VERSION

__all__ = ["API_VERSION", "plugin"]

API_VERSION = SPEC_VERSION


class _OpenAICompatible:
    """An engine_type without hooks of its own."""

    API_VERSION = SPEC_VERSION


plugin = _OpenAICompatible()
