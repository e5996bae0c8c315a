"""A backend behind OpenAI's routes: ``python -m enginery.coreserver``, what a plugin with `create_backend` is run by.

The process holds an `AsyncMPClient`; the backend runs in its child. Nothing of it is imported from elsewhere.
"""

__all__: list[str] = []
