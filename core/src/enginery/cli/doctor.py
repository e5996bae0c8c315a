"""``enginery doctor``: whether this machine can keep the promises, and what to do where it cannot."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import resource
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import click

from enginery.engine.catalog import Catalog
from enginery.engine.listeners import listener_is_ours
from enginery.engine.memory import LocalMemory
from enginery.engine.preflight import ask_program, startable
from enginery.engine.process import EngineProcess
from enginery.errors import EngineryError
from enginery.plugins import PluginRegistry, PluginState
from enginery.settings import ServerSettings, Settings, load_settings
from enginery.values import Command, Variant

__all__ = ["doctor"]

ENOUGH_FILES = 4096
"""A proxied stream takes two descriptors; a thousand streams, and room for the rest."""

_MARKS = {"ok": ("ok", "green"), "warning": ("warn", "yellow"), "failed": ("FAIL", "red")}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: Literal["ok", "warning", "failed"]
    detail: str


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--config", "config_path", type=click.Path(dir_okay=False), help="Settings file.")
def doctor(*, as_json: bool, config_path: str | None) -> None:
    """Check this machine: processes, limits, ports, memory, settings and plugins.

    Each configured engine's program is looked for, and where its plugin can, asked for its version. No model is
    loaded. Leaves with 1 when something fails that engines need.
    """
    findings = [*_machine(), asyncio.run(_guardian()), _files(), _ports(), _reaper(), *_memory()]
    findings += _settings(config_path)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            mark, colour = _MARKS[finding.state]
            line = f"{mark:4}  {finding.name.ljust(width)}  {finding.detail}"
            click.echo(click.style(line, fg=None if finding.state == "ok" else colour))
    if any(finding.state == "failed" for finding in findings):
        sys.exit(1)


def _machine() -> Iterator[Finding]:
    system = platform.system()
    if system == "Linux":
        yield Finding("platform", "ok", f"Linux {platform.release()}")
    elif system == "Darwin":
        yield Finding("platform", "warning", "macOS: engines are stopped by process group only")
    else:
        yield Finding("platform", "failed", f"{system} is not supported; on Windows use WSL2")
    try:
        os.close(os.pidfd_open(os.getpid()))
        yield Finding("pidfd", "ok", "the end of the manager is seen whatever holds its sockets")
    except (AttributeError, OSError) as error:
        advice = "Linux 5.3 or newer has it; a container's seccomp profile may forbid it"
        yield Finding("pidfd", "warning", f"not available ({error}): {advice}")


async def _guardian() -> Finding:
    """The real thing: an engine that escapes into a session of its own, stopped."""
    escaped = "import os, time; os.fork() or (os.setsid(), time.sleep(60)); time.sleep(60)"
    process = EngineProcess(sys.executable, ["-I", "-S", "-c", escaped], name="doctor")
    began = time.perf_counter()
    try:
        await process.start()
        started = 1000 * (time.perf_counter() - began)
        await process.stop(2.0)
    except EngineryError as error:
        return Finding("guardian", "failed", error.message)
    total = 1000 * (time.perf_counter() - began)
    detail = (
        f"a process starts in {started:.0f} ms; stopped, nothing of it was left ({total:.0f} ms)"
    )
    return Finding("guardian", "ok", detail)


def _files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= ENOUGH_FILES:
        return Finding("open files", "ok", f"{soft} (hard limit {hard})")
    advice = f"raise it: `ulimit -n {min(hard, 65536)}`, or LimitNOFILE= in a systemd unit"
    return Finding("open files", "warning", f"the limit is {soft}; {advice}")


def _ports() -> Finding:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            probe.listen()
            ours = listener_is_ours(os.getpid(), probe.getsockname()[1])
    except OSError as error:
        return Finding("ports", "failed", f"cannot listen on 127.0.0.1: {error}")
    if ours:
        return Finding(
            "ports", "ok", "engines can listen, and their listeners can be proven theirs"
        )
    return Finding("ports", "warning", "whose a listener is cannot be told on this machine")


def _reaper() -> Finding:
    """Orphans of orphans end up with PID 1; some containers run one that never looks."""
    dead = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        dead += state == "Z" and parent == "1"
    if dead > 10:
        advice = "in a container use `--init` or tini"
        return Finding("PID 1", "warning", f"{dead} dead processes are not reaped; {advice}")
    return Finding("PID 1", "ok", "reaps")


def _memory() -> Iterator[Finding]:
    free = LocalMemory().free()
    sizes = ", ".join(f"{device} {size / 2**30:.1f} GiB free" for device, size in free.items())
    gpus = any(device.startswith("gpu") for device in free)
    note = (
        ""
        if gpus
        else "; no NVIDIA device is visible (`pip install enginery[gpu]` to measure them)"
    )
    yield Finding(
        "memory", "ok" if free else "warning", (sizes or "nothing can be measured") + note
    )


def _settings(path: str | None) -> Iterator[Finding]:
    try:
        settings = load_settings(path)
        yield Finding("settings", "ok", str(settings.file or "no file; the defaults hold"))
    except EngineryError as error:
        settings = Settings()
        yield Finding("settings", "failed", error.message.replace("\n", "; "))
    yield _exposure(settings.server)
    registry = PluginRegistry(settings.plugins.allow, settings.plugins.deny)
    for row in registry.rows():
        name = f"engine {row.engine_type}"
        if row.state is PluginState.READY:
            yield Finding(name, "ok", f"{row.distribution} {row.version}")
        else:
            blocked = row.state is PluginState.BLOCKED
            detail = f"{row.distribution} {row.version} is {row.state}: {row.reason}"
            yield Finding(name, "warning" if blocked else "failed", detail)
    if settings.models:
        catalog = Catalog(settings, registry)
        try:
            catalog.check_all()
            yield Finding("models", "ok", f"{len(settings.models)} configured")
        except EngineryError as error:
            yield Finding("models", "failed", error.message.replace("\n", "; "))
        yield from _programs(catalog.variants().values(), registry)


def _programs(variants: Iterable[Variant], registry: PluginRegistry) -> Iterator[Finding]:
    """What stands in the way of starting these; a program that several of them run is asked once."""
    asked: dict[tuple[str, ...], tuple[Command, list[Variant]]] = {}
    for variant in variants:
        if variant.attached:
            continue
        try:
            command = startable(registry.hooks(variant.engine_type), variant)
        except EngineryError as error:
            why = error.message.removeprefix(f"{variant.id}: ").replace("\n", "; ")
            yield Finding(f"model {variant.id}", "failed", why)
            continue
        if command.check_argv:
            asked.setdefault(tuple(command.check_argv), (command, []))[1].append(variant)
    for command, users in asked.values():
        name = f"program of {users[0].engine_type}"
        try:
            said = ask_program(command)
            yield Finding(name, "ok", f"{command.check_argv[0]}: {said}")
        except EngineryError as error:
            whose = ", ".join(variant.id for variant in users)
            yield Finding(name, "failed", f"{error.message} (for {whose})")


def _exposure(server: ServerSettings) -> Finding:
    """Whether other machines reach a gateway that asks nobody for a key."""
    name = "exposed-without-key"
    if server.local_only:
        return Finding(name, "ok", f"{server.host}: only this machine reaches the gateway")
    if server.api_keys:
        return Finding(name, "ok", f"{server.host}: other machines need one of the api_keys")
    if server.allow_unauthenticated:
        detail = f"whoever reaches {server.host} may use every model: allow_unauthenticated is set"
        return Finding(name, "warning", detail)
    advice = "set `server.api_keys`, or `server.host: 127.0.0.1`"
    return Finding(name, "failed", f"server.host is {server.host}, and there is no key; {advice}")
