"""`Home`: the event loop on which a source works, whoever calls from wherever.

Knows: which loop that is, and how to get a call onto it. Does not know: what is called. A source that is made or first
used inside a running loop lives there: what its client is bound to does, too. In a program without a loop it gets one
in a thread of its own, which ends with `close` or when the source is dropped.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

from enginery.errors import EngineClosedError

__all__ = ["Home"]

END_PATIENCE = 5.0
"""Seconds that `Home.close` waits for the thread of a private loop."""

TASKS_PATIENCE = 2.0
"""Seconds that its tasks have before they are cancelled."""


class Home:
    """Where a source's tasks run."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a finalizer may run in whichever thread holds it
        self._private: _LoopThread | None = None
        self._loop: asyncio.AbstractEventLoop | None = _running()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Run a function on the loop, soon. Raises `EngineClosedError` after `close`."""
        loop = self._find()
        if loop is _running():
            function(*args)
        else:
            loop.call_soon_threadsafe(function, *args)

    def call_if_alive(self, function: Callable[..., object], *args: Any) -> None:
        """`call` for finalizers: takes no lock, and does nothing where there is no loop any more."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            try:
                loop.call_soon_threadsafe(function, *args)
            except RuntimeError:  # closed in between
                return

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that is not forgotten; only on the loop itself."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @property
    def tasks(self) -> int:
        """Tasks that are not done."""
        return len(self._tasks)

    def leave(self) -> None:
        """On the loop: end it if it is private, once its tasks are done."""
        private = self._private
        if private is not None:
            private.ask_for_end()

    def close(self) -> None:
        """End the private loop, if there is one; its tasks are cancelled. Idempotent."""
        with self._lock:
            self._is_closed = True
            private, self._private = self._private, None
        if private is not None:
            private.end()

    def _find(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._is_closed:
                raise EngineClosedError("the source is closed")
            if self._loop is None or self._loop.is_closed():
                self._loop = _running()
            if self._loop is None:
                self._private = _LoopThread()
                self._loop = self._private.loop
                weakref.finalize(self, self._private.ask_for_end).atexit = False
            return self._loop


class _LoopThread:
    """A loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._thread = threading.Thread(
            target=_run, args=(self.loop, self._end), name="enginery-streaming-loop", daemon=True
        )
        self._thread.start()

    def ask_for_end(self) -> None:
        """From any thread, as often as one likes: an event, for a second `loop.stop` would stop the tidying up."""
        if not self.loop.is_closed():
            try:
                self.loop.call_soon_threadsafe(self._end.set)
            except RuntimeError:  # closed in between
                return

    def end(self) -> None:
        self.ask_for_end()
        if self._thread is not threading.current_thread():
            self._thread.join(END_PATIENCE)


def _run(loop: asyncio.AbstractEventLoop, end: asyncio.Event) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(end.wait())
        if tasks := asyncio.all_tasks(loop):  # that tell engines of the end, most of them
            loop.run_until_complete(asyncio.wait(tasks, timeout=TASKS_PATIENCE))
        for task in (tasks := asyncio.all_tasks(loop)):
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
