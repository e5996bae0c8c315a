"""From a variant and its plugin to the command line that is run.

Pure. Knows: how ``binary``, ``args``, ``env`` and ``work_dir`` of a variant change what the plugin
says, and ``stop_argv``. Does not know: processes. Stop plan, ready hint and health path always come from
the plugin; its ``check_argv`` knows nothing of a command line that is wholly the variant's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from enginery.enginecore.served import Served
from enginery.errors import EngineStartFailed, PluginError
from enginery.plugins import EngineHooks
from enginery.values import Command, Endpoint, Variant

__all__ = ["command_for", "fill"]

_PLACEHOLDER = re.compile(r"\{(?:host|port|model|socket)\}")


def fill(args: Sequence[str], endpoint: Endpoint, model: str) -> list[str]:
    """``args`` with ``{host}``, ``{port}`` and ``{model}`` filled in, each argument for itself.

    With a unix socket ``{socket}`` is its path. Nothing else is touched: other braces (JSON, say) stay as they are.
    """
    values = {"{host}": endpoint.host, "{port}": str(endpoint.port), "{model}": model}
    if endpoint.unix_path is not None:
        values["{socket}"] = endpoint.unix_path
    return [_PLACEHOLDER.sub(lambda match: values.get(match[0], match[0]), word) for word in args]


def command_for(hooks: EngineHooks, variant: Variant, endpoint: Endpoint) -> Command:
    """What to run for ``variant`` on ``endpoint``.

    Raises:
        EngineStartFailed: neither the plugin nor the variant has a command or a backend, or it does not
            say where the unix socket is.
    """
    command = hooks.build_command(variant, endpoint)
    if command is not None and (isinstance(command.argv, str) or not command.argv):
        raise PluginError(
            f"engine {variant.engine_type!r}: Command.argv must be a list of words, got {command.argv!r}"
        )
    own = fill(variant.args, endpoint, variant.model)
    if command is None:
        command = _without_command(hooks, variant, endpoint, own)
    elif variant.binary is not None and variant.args:
        command = replace(command, argv=[variant.binary, *own], check_argv=())
    elif variant.binary is not None:
        command = replace(
            command,
            argv=[variant.binary, *command.argv[1:]],
            check_argv=[variant.binary, *command.check_argv[1:]] if command.check_argv else (),
        )
    else:
        command = replace(command, argv=[*command.argv, *own])
    if endpoint.unix_path is not None and not any(endpoint.unix_path in w for w in command.argv):
        raise EngineStartFailed(
            f"{variant.id}: engine {variant.engine_type!r} offers no unix socket: set `listen: tcp`, or "
            "write {socket} where it belongs in `args`",
            param="listen",
        )
    return replace(
        command,
        env={**command.env, **variant.env},
        cwd=variant.work_dir or command.cwd,
        stop_argv=fill(variant.stop_argv, endpoint, variant.model) or command.stop_argv,
    )


def _without_command(
    hooks: EngineHooks, variant: Variant, endpoint: Endpoint, own: Sequence[str]
) -> Command:
    """The variant's own command, else a core server around the plugin's backend.

    Raises:
        EngineStartFailed: neither is there, or there are arguments that nobody reads.
    """
    if variant.binary is not None:
        return Command([variant.binary, *own])
    if not hooks.implements("create_backend"):
        raise EngineStartFailed(
            f"{variant.id}: engine {variant.engine_type!r} gives no command to start; "
            "set `binary` and `args`"
        )
    if own:
        raise EngineStartFailed(
            f"{variant.id}: engine {variant.engine_type!r} runs in Python and takes no `args`; "
            "what it can be told stands in its options",
            param="args",
        )
    return Served.of(variant, hooks.allow, hooks.deny).command(endpoint)
