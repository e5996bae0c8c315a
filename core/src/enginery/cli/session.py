"""What commands that run engines have in common: signals, logging, errors, one event loop.

Only the command line configures logging and signals; the library never does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from types import FrameType
from typing import Any, ParamSpec

import click

from enginery.cli.loops import chosen_loop
from enginery.errors import EngineLeaked, EngineryError

__all__ = ["ask_async", "fail", "run_async", "set_up_logging", "settings_options"]

P = ParamSpec("P")


class Interrupt:
    """What the next SIGINT does instead of ending the command: once, so that a second one ends it all the same."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action
        self.was_used = False


_interrupts: ContextVar[list[Interrupt]] = ContextVar("interrupts")
"""Those of the command that runs, the innermost last."""


@contextmanager
def interruptible(action: Callable[[], object]) -> Iterator[Interrupt]:
    """Inside, the first SIGINT calls ``action`` on the loop; only in a command of `run_async`."""
    interrupts, interrupt = _interrupts.get(), Interrupt(action)
    interrupts.append(interrupt)
    try:
        yield interrupt
    finally:
        interrupts.remove(interrupt)


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that reads settings."""
    config = click.option(
        "--config",
        "config_path",
        type=click.Path(dir_okay=False),
        help="Settings file; default: $ENGINERY_CONFIG, ./enginery.yaml, the user's, /etc/enginery.",
    )
    verbose = click.option(
        "-v", "--verbose", count=True, help="Show states; twice: the engines' own output too."
    )
    return config(verbose(command))


def set_up_logging(verbose: int) -> None:
    """Warnings to stderr; with ``-v`` state changes, with ``-vv`` what engines print.

    Without ``-vv`` an engine's own lines and unusable plugins stay out: an error shows the former, ``enginery
    plugins`` the latter.
    """
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("enginery").setLevel(level)
    if verbose < 2:
        for quiet in ("enginery.engine", "enginery.plugins"):
            logging.getLogger(quiet).setLevel(logging.ERROR)


def fail(error: EngineryError) -> None:
    """Print the error for a person, after the one that it came on top of, and leave with 1."""
    first = error.__context__ if isinstance(error, EngineLeaked) else None
    for told in (first, error):
        if told is error or (
            isinstance(told, EngineryError) and not isinstance(told, EngineLeaked)
        ):
            click.echo(click.style("Error: ", fg="red", bold=True) + told.message, err=True)
    sys.exit(1)


def run_async(command: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a coroutine as a command: the first SIGINT or SIGTERM ends it in order, a second at once.

    Inside `interruptible` the first SIGINT is for what it says. In order means that engines are stopped, which is
    told; at once leaves that to their guardians. What an orderly end leaves behind is an error, and the exit code 1.
    The loop is asyncio's, but for commands with a `loop_option`.
    """
    return _runner(command, "stopped")


def ask_async(command: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """As `run_async`, for a command that only asks a gateway: whoever ends it has stopped nothing else."""
    return _runner(command, None)


# -- inside ------------------------------------------------------------------------------------


def _runner(
    command: Callable[P, Coroutine[Any, Any, None]], farewell: str | None
) -> Callable[P, None]:
    @wraps(command)
    def runner(*args: P.args, **kwargs: P.kwargs) -> None:
        async def main() -> None:
            task = asyncio.current_task()
            assert task is not None
            asked = 0
            interrupts: list[Interrupt] = []
            _interrupts.set(interrupts)

            def on_signal(number: int, _: FrameType | None) -> None:
                nonlocal asked
                if number == signal.SIGINT and interrupts and not interrupts[-1].was_used:
                    interrupts[-1].was_used = True
                    loop.call_soon_threadsafe(interrupts[-1].action)
                    return
                asked += 1
                if asked > 1:
                    os._exit(128 + number)
                if not task.done():
                    loop.call_soon_threadsafe(task.cancel, f"signal {number}")

            loop = asyncio.get_running_loop()
            # not the loop's own: they wait for their turn, behind a hook that never returns
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, on_signal)
            await command(*args, **kwargs)

        try:
            with asyncio.Runner(loop_factory=chosen_loop()) as loops:
                loops.run(main())
        except asyncio.CancelledError:
            if farewell is not None:
                click.echo(farewell, err=True)
            sys.exit(130)
        except EngineryError as error:
            fail(error)

    return runner
