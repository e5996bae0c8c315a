"""Could this machine start a variant's engine? Looked at before anybody asks for it.

Knows: that plugins refuse in `build_command` what is missing, where programs and directories are looked for, and how a
program is asked about itself. Does not know: settings files, or who is told. The engine itself is not started.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from enginery.engine.command import command_for
from enginery.engine.logs import plain
from enginery.errors import EngineStartFailed
from enginery.plugins import EngineHooks
from enginery.values import Command, Endpoint, Variant

__all__ = ["ask_program", "startable"]

CHECK_PATIENCE = 20.0
"""Seconds that `Command.check_argv` may take; a Python needs tenths of one, on a busy machine more."""


def startable(hooks: EngineHooks, variant: Variant) -> Command:
    """The command that would start ``variant`` here, after a look at files alone; takes about a millisecond.

    Args:
        hooks: the plugin of the variant's engine_type.
        variant: one that would be started, not attached to.

    Raises:
        EngineryError: what is missing and the way out, in the plugin's words where it has some.
    """
    socket = "/run/enginery.sock" if variant.listen == "unix" else None
    endpoint = Endpoint("localhost", 0 if socket else 65535, api_key="none", unix_path=socket)
    command = command_for(hooks, variant, endpoint)
    if command.cwd is not None and not Path(command.cwd).is_dir():
        raise EngineStartFailed(
            f"{variant.id}: there is no directory {command.cwd}; correct `work_dir`",
            param="work_dir",
        )
    program = command.argv[0]
    path = command.env.get("PATH", os.environ.get("PATH"))
    # one with a slash is looked for from the engine's own directory
    found = shutil.which(Path(command.cwd or "", program) if "/" in program else program, path=path)
    if found is None:
        raise EngineStartFailed(
            f"{variant.id}: {program} is not there, or may not be run; correct what names it, `binary` or an "
            f"option of engine {variant.engine_type!r}",
            param="binary",
        )
    return command


def ask_program(command: Command, patience: float = CHECK_PATIENCE) -> str:
    """What the program of ``command`` says of itself: the last line of its ``check_argv``. Blocks.

    Args:
        command: one with a ``check_argv``.
        patience: seconds that it may take.

    Raises:
        EngineStartFailed: it says what is missing, says nothing in time, or cannot be run.
    """
    program = command.check_argv[0]
    try:
        done = subprocess.run(
            list(command.check_argv),
            cwd=command.cwd,
            env={**os.environ, **command.env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EngineStartFailed(f"{program} says nothing for {patience:g} s") from None
    except (OSError, ValueError) as error:
        raise EngineStartFailed(f"{program} cannot be run: {error}") from error
    said = [plain(line).strip() for line in done.stdout.decode(errors="replace").splitlines()]
    last = next((line for line in reversed(said) if line), None)
    if done.returncode:
        raise EngineStartFailed(
            f"{program}: {last}" if last else f"{program} ends with status {done.returncode}"
        )
    return last or f"{program} runs"
