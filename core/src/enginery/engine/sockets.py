"""Unix sockets for engines: a private directory for each launcher, and short names in it; folders for engines' own.

Knows: who may look into the directory, how long a socket's path may be, what a manager that was killed
left behind. Does not know: engines. The directory is made for the first socket; a variant's name in it stays
the same over restarts, so that sessions of applications stay usable. A lock on a file in the
directory says that its owner lives; the kernel opens it at the owner's end, however that comes.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import stat
import sys
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

from enginery.errors import EngineStartFailed

__all__ = ["LONGEST_PATH", "SocketDirectory"]

LONGEST_PATH = 107 if sys.platform == "linux" else 103
"""Bytes in a socket's path: unix(7), and what macOS has."""

PREFIX, LOCK = "enginery-sockets-", "lock"
FOLDER = "own-"

ROOM = 1 + 36
"""Bytes that a folder's path leaves to the name of a socket in it: a slash and a UUID."""

log = logging.getLogger("enginery.engine")


class SocketDirectory:
    """Names for sockets, in a directory that only this user can enter (mode 0700).

    Args:
        parent: where it is made; default: the directory for temporary files.
    """

    def __init__(self, parent: str | None = None) -> None:
        self._parent = parent
        self._directory: Path | None = None
        self._cleanup: weakref.finalize[..., SocketDirectory] | None = None

    def reserve(self, name: str) -> str:
        """The path for ``name``, where nothing is: a file that was left there is removed.

        Raises:
            EngineStartFailed: the path is too long, or the directory cannot be made.
        """
        try:
            directory = self._directory or self._make()
            path = directory / f"{hashlib.sha256(name.encode()).hexdigest()[:8]}.sock"
            path.unlink(missing_ok=True)
        except OSError as error:
            raise EngineStartFailed(f"no place for a unix socket: {error}") from error
        size = len(os.fsencode(path))
        if size > LONGEST_PATH:
            raise EngineStartFailed(
                f"{path} has {size} bytes, a unix socket's path at most {LONGEST_PATH}: set TMPDIR to a "
                "shorter directory, or `listen: tcp`"
            )
        return str(path)

    def release(self, path: str) -> None:
        """Its engine is gone: remove the file."""
        Path(path).unlink(missing_ok=True)

    def make_folder(self) -> str | None:
        """A new folder that one engine may fill with sockets and small files of its own.

        None where a socket's path in it would be too long, or the directory cannot be made: an engine that would
        only like to have one takes its own default then.
        """
        try:
            path = tempfile.mkdtemp(prefix=FOLDER, dir=self._directory or self._make())
        except OSError as error:
            log.warning("no folder for an engine's own sockets: %s", error)
            return None
        if len(os.fsencode(path)) + ROOM > LONGEST_PATH:
            Path(path).rmdir()
            return None
        return path

    def remove_folder(self, path: str) -> None:
        """Its engine is gone: remove the folder with all that is in it."""
        shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        """Remove the directory; it is made again when it is needed again.

        Happens by itself when this object is collected, and at the end of the program.
        """
        if self._cleanup is not None:
            self._cleanup()
            self._directory = self._cleanup = None

    def _make(self) -> Path:
        parent = Path(self._parent or tempfile.gettempdir())
        for found in parent.glob(f"{PREFIX}*/{LOCK}"):
            _remove_if_abandoned(found.parent)
        directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        # locked before it has its name: nobody ever sees it unlocked while we live
        fresh = directory / f"{LOCK}.new"
        lock = os.open(fresh, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        fresh.rename(directory / LOCK)
        self._directory = directory
        self._cleanup = weakref.finalize(self, _clean_up, directory, lock, os.getpid())
        return directory


def _clean_up(directory: Path, lock: int, owner: int) -> None:
    """The end of a directory; a forked child that ends has no part in it."""
    if os.getpid() == owner:
        _remove(directory)
        os.close(lock)


def _remove(directory: Path) -> None:
    """The directory and what we put there; what others put there stays, and the directory with it."""
    with suppress(OSError):
        for folder in directory.glob(f"{FOLDER}*"):
            shutil.rmtree(folder, ignore_errors=True)
        for path in (*directory.glob("*.sock"), directory / LOCK):
            path.unlink(missing_ok=True)
        directory.rmdir()


def _remove_if_abandoned(directory: Path) -> None:
    """Remove what a manager of this user left behind, if it lives no more."""
    try:
        info = directory.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
            return
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(directory)
        log.info("removed %s, which a manager that was killed had left", directory)
    except OSError:  # its owner lives
        return
    finally:
        os.close(lock)
