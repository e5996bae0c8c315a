"""Secrets stay out of what commands log, whoever logs it and however it got there.

Knows: a log record's message, arguments and traceback. Does not know: which secrets there are. It sits on handlers:
a filter of a logger would not see what its children log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from enginery.settings.secrets import Redactor

__all__ = ["SecretFilter", "hide_in_logs"]


class SecretFilter(logging.Filter):
    """Lets every record pass, without its secrets.

    Args:
        hide: takes the secrets out of a text.
    """

    def __init__(self, hide: Callable[[str], str]) -> None:
        super().__init__()
        self._hide = hide
        self._formatter = logging.Formatter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Called by a handler for each record, before it is formatted."""
        record.msg, record.args = self._hide(record.getMessage()), None
        if record.exc_info and not record.exc_text:
            record.exc_text = self._formatter.formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = self._hide(record.exc_text)
        if record.stack_info:
            record.stack_info = self._hide(record.stack_info)
        return True


def hide_in_logs(secrets: Iterable[str], logger: logging.Logger | None = None) -> None:
    """From now on every handler of ``logger`` (default: the root) leaves these out."""
    found = SecretFilter(Redactor(secrets))
    for handler in (logger or logging.getLogger()).handlers:
        handler.addFilter(found)
