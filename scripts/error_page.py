"""docs/errors.md: the tree of errors and what to do about each.

Knows: the classes, whose docstrings say when, and what a person does next, which stands here because
it is advice for readers and nothing that a program needs. A class without advice is an error: the page
is whole or it is not written.
"""

from __future__ import annotations

import inspect
import re

from enginery import errors
from enginery.api.openai import stream_error
from enginery.errors import EngineCrashed, EngineryError

__all__ = ["ADVICE", "CODES", "error_page"]

CODES = {
    "AccessDenied": {
        "forbidden_host": "The `Host` header is none of ours: a web page may have been led here.",
        "forbidden_origin": "A web page of another origin asks.",
        "admin_required": "The key is valid but no admin's, or admin routes are asked from afar.",
    },
    "EngineryError": {"internal_error": "Something went wrong here that has no name of its own."},
    "EngineError": {
        "engine_error": "An engine failed, or refused, in a way that has no name here."
    },
}
"""Where the docstring does not say when: classes with several codes, and parents."""

ADVICE = {
    "admin_required": "Send a key of `server.admin_keys`.",
    "bad_engine_reply": "See what the engine printed: it may be of another version than its plugin expects.",
    "body_too_large": "Send less, or raise `server.body_limit`.",
    "config_error": "Correct the place that the message names; `enginery config check` finds all of them.",
    "context_length_exceeded": "Shorten the prompt, or add a variant with a larger `context_length`.",
    "endpoint_not_supported": "Use one of the routes in the message, or a model that has this one.",
    "engine_busy": "Wait for `Retry-After` seconds and ask again.",
    "engine_crashed": "Ask again: the engine is started anew. If it happens again, its last lines are in the message.",
    "engine_error": "Read the message, which is the engine's own.",
    "engine_evicted": "Ask again: the model is loaded again. `pin: true` or a larger `budget` keeps it.",
    "engine_leaked": "Restart the machine, or reset the device: what the process in the message holds is not free.",
    "engine_loading": "Wait for `Retry-After` seconds and ask again.",
    "engine_quarantined": "Correct the cause, which is in the message, then load the model on purpose (`EngineManager.load`).",
    "engine_start_failed": "Read the last lines of the engine's log, which are in the message.",
    "engine_timeout": "A slow model needs larger `load_stall`, `first_byte` or `stall`; a stuck one is restarted.",
    "engine_unreachable": "See whether the engine runs, and whether `url` is right.",
    "forbidden_host": "Ask by a name in `server.allowed_hosts`, or add this one to it.",
    "forbidden_origin": "Name the page's origin in `server.allowed_origins`, or ask from a program.",
    "internal_error": "Please report it, with the message and the `x-request-id`.",
    "invalid_api_key": "Send a key of `server.api_keys` as `Authorization: Bearer …` or `x-api-key`.",
    "invalid_request_error": "Correct what `param` names; the same request fails again.",
    "method_not_allowed": "Use the method that the message names.",
    "model_not_found": "Use one of the names in the message, or `GET /v1/models`.",
    "plugin_error": "Report it to the plugin's author; `enginery plugins` names the distribution.",
    "queue_full": "Wait for `Retry-After` seconds; for a queue, raise `max_queue`.",
    "request_timeout": "Send it again, faster; a proxy before us may have held it.",
    "shutting_down": "Ask the next instance, or ask again when this one is back.",
    "unsupported_media_type": "Send JSON, uncompressed, as `application/json`.",
    "unsupported_operation": "Use what the message names.",
}
"""By code: what the one who gets the error does next."""

REPLY = """Every reply that is an error has the body

    {"error": {"message": …, "type": …, "param": …, "code": …, "source": "gateway" | "engine"}}

and the header `x-request-id`. `code` is an interface and never changes. `source` says who answers: an engine's own
4xx and 5xx pass with their status.
"""

AGAIN = """## When to ask again

`Retry-After` (seconds, at most 120) stands where waiting helps. `x-should-retry: false` stands once an engine may have
seen the request: nothing is sent to an engine twice, and the official clients then do not do it either. Without it a
request can be repeated safely.
"""

STREAM = """## In the middle of a stream

When a stream has begun, its status is sent. What goes wrong then closes the open event and ends the stream with one
frame, on which the official clients of OpenAI (chat, completions, responses) and Anthropic all raise:

```
{frame}
```

`data: [DONE]` follows for chat and completions only. A reply without streaming that breaks off is a 502.
"""


def error_page(note: str) -> str:
    """The page; ``note`` says who wrote it."""
    rows = [_row(cls, code, when) for cls in _classes() for code, when in _codes(cls).items()]
    tree = re.search(r"\n    EngineryError\n.*?\n\n", errors.__doc__ or "", re.DOTALL)
    assert tree is not None
    table = "| code | status | class | when | what to do |\n|---|---|---|---|---|\n"
    frame = stream_error(EngineCrashed("…"), done=False).decode().strip()
    return "\n".join(
        [
            "# Errors\n",
            note,
            REPLY,
            table + "\n".join(rows) + "\n",
            AGAIN,
            STREAM.format(frame=frame),
            "## In Python\n",
            "The same errors are a tree; all names are in `enginery`:\n",
            "```" + tree.group(0).rstrip() + "\n```\n",
        ]
    )


def _classes() -> list[type[EngineryError]]:
    """Each once, by status and code."""
    found = {
        cls
        for cls in vars(errors).values()
        if inspect.isclass(cls) and issubclass(cls, EngineryError) and "code" in vars(cls)
    }
    return sorted(found, key=lambda cls: (cls.status, cls.code))


def _codes(cls: type[EngineryError]) -> dict[str, str]:
    """When each of the class's codes is used."""
    summary = inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    return CODES.get(cls.__name__, {cls.code: summary.replace("``", "`")})


def _row(cls: type[EngineryError], code: str, when: str) -> str:
    return f"| `{code}` | {cls.status} | `{cls.__name__}` | {when} | {ADVICE[code]} |"
